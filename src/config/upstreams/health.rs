//! Reads `[upstreams.NAME.health]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery};

use super::{HealthCheck, Question};
use crate::config::parse::{self, Wrong};
use crate::config::section::Section;
use crate::config::tree::Node;
use crate::config::units::show_duration;

const SECOND: Duration = Duration::from_secs(1);

/// Reads how servers are asked whether they are well; `None` when the table is not there.
pub(super) fn read(group: &mut Section<'_, '_>) -> Option<HealthCheck> {
    let is_there = group.has("health");
    let mut section = group.section("health");
    let tcp = section.read("tcp", parse::boolean).unwrap_or(false);
    let question = if tcp {
        for name in ["path", "host", "status"] {
            let right = "remove it, or `tcp`";
            section.refuse(name, "has no effect with tcp = true", right);
        }
        Question::Tcp
    } else {
        Question::Http {
            path: section.read("path", path).unwrap_or_else(|| "/".to_owned()),
            host: section.read("host", host),
            status: section.read("status", status).unwrap_or(200..=399),
        }
    };
    let span = || parse::duration(SECOND / 10, Duration::from_hours(1));
    let count = || parse::integer(1, 1000);
    let check = HealthCheck {
        question,
        interval: section.read("interval", span()).unwrap_or(5 * SECOND),
        timeout: section.read("timeout", span()).unwrap_or(SECOND),
        healthy: section.read("healthy", count()).unwrap_or(2),
        unhealthy: section.read("unhealthy", count()).unwrap_or(3),
    };
    if check.timeout > check.interval {
        let wrong = format!(
            "an answer may take {}, but the next question comes after {}",
            show_duration(check.timeout),
            show_duration(check.interval)
        );
        let wrong = Wrong::new(wrong, "lower `timeout`, or raise `interval`");
        section.problem_between(&["timeout", "interval"], wrong);
    }
    section.finish();
    is_there.then_some(check)
}

fn path(node: &Node) -> Result<String, Wrong> {
    let text = parse::text(node)?;
    if text.starts_with('/') && text.parse::<PathAndQuery>().is_ok() {
        Ok(text)
    } else {
        let wrong = "not the path of a request";
        Err(Wrong::new(wrong, "it begins with `/`, like \"/healthz\""))
    }
}

fn host(node: &Node) -> Result<String, Wrong> {
    let text = parse::text(node)?;
    match text.parse::<Authority>() {
        Ok(_) if !text.contains('@') => Ok(text),
        Ok(_) | Err(_) => Err(Wrong::new(
            "not a host",
            "a name with or without port, like \"app.example.com\"",
        )),
    }
}

/// One status, or a range of them.
fn status(node: &Node) -> Result<RangeInclusive<u16>, Wrong> {
    let wrong = || Wrong::new("not a range of statuses", "\"200\" or \"200-399\"");
    let text = match parse::as_integer(&node.value) {
        Some(number) => number.to_string(),
        None => parse::text(node)?,
    };
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    let number = |text: &str| {
        let number = text.trim().parse::<u16>().ok();
        number.filter(|number| (100..=599).contains(number))
    };
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => Err(wrong()),
    }
}
