//! `[headers]`: the names, and the session values that have headers of their own.

use std::collections::BTreeMap;

use http::HeaderName;

use super::RoutePolicy;
use super::parse::{self, Wrong};
use super::policy::{contract_overrides, value_name};
use super::section::Section;
use super::tree::{Node, Origin, Value};
use crate::contract::{Capture, Field, Inject, Names, NamesError, TextEncoding};

/// Reads `[headers]`: the policy into `policy`, and the names.
pub(super) fn read(mut section: Section<'_, '_>, policy: &mut RoutePolicy) -> Names {
    contract_overrides(&mut section, policy);
    let mut names = names(&mut section);
    let max_name_bytes = policy.session.limits.max_name_bytes;
    policy.contract.inject = inject(&mut section, &mut names, max_name_bytes);
    policy.contract.capture = capture(&mut section, &mut names, max_name_bytes);
    section.finish();
    names
}

fn names(section: &mut Section<'_, '_>) -> Names {
    let prefix = section
        .read("prefix", parse::text)
        .unwrap_or_else(|| "X-".to_owned());
    let mut table = section.section("names");
    let mut overrides = BTreeMap::new();
    for field in Field::ALL {
        if let Some(header) = table.read(field.key(), parse::header_name) {
            overrides.insert(field, header);
        }
    }
    table.finish();
    Names::new(&prefix, &overrides).unwrap_or_else(|errors| {
        for error in errors {
            let header = match &error {
                NamesError::Forbidden { header } | NamesError::Own { header } => Some(header),
                NamesError::Collision { second, .. } => Some(second),
                NamesError::Prefix | NamesError::Greedy { .. } => None,
            };
            let field = overrides.iter().find(|(_, name)| Some(*name) == header);
            let key = match field {
                Some((field, _)) => format!("headers.names.{}", field.key()),
                None => "headers.prefix".to_owned(),
            };
            section.reader().problem_between(&[&key], unusable(&error));
        }
        Names::default()
    })
}

fn unusable(error: &NamesError) -> Wrong {
    Wrong {
        wrong: error.to_string(),
        right: None,
    }
}

fn inject(section: &mut Section<'_, '_>, names: &mut Names, max_name_bytes: usize) -> Vec<Inject> {
    let mut list: Vec<Inject> = Vec::new();
    for (name, entry) in section.free_table("inject") {
        let key = format!("inject.{name}");
        let taken = list.iter().map(|item| item.header.clone()).collect();
        let header = target(section, &key, &name, &entry.key, taken, names);
        let source = source(section, &key, entry.node, max_name_bytes);
        if let (Some(header), Some((value, encode))) = (header, source) {
            list.push(Inject {
                header,
                value,
                encode,
            });
        }
    }
    list
}

fn capture(
    section: &mut Section<'_, '_>,
    names: &mut Names,
    max_name_bytes: usize,
) -> Vec<Capture> {
    let mut list: Vec<Capture> = Vec::new();
    for (name, entry) in section.free_table("capture") {
        let key = format!("capture.{name}");
        let taken = list.iter().map(|item| item.header.clone()).collect();
        let header = target(section, &key, &name, &entry.key, taken, names);
        let value = parse::text(&entry.node).and_then(|text| value_name(text, max_name_bytes));
        match value {
            Ok(value) => list.extend(header.map(|header| Capture { header, value })),
            Err(wrong) => section.wrong(&key, &entry.node.origin, wrong),
        }
    }
    list
}

/// The header that the name of an entry names; it is ours from then on.
fn target(
    section: &mut Section<'_, '_>,
    key: &str,
    name: &str,
    origin: &Origin,
    mut taken: Vec<HeaderName>,
    names: &mut Names,
) -> Option<HeaderName> {
    let header = parse::parse_header_name(name).and_then(|header| {
        taken.push(header.clone());
        let error = Names::collisions(&taken).pop();
        match error.map_or_else(|| names.reserve(&header), Err) {
            Ok(()) => Ok(header),
            Err(error) => Err(unusable(&error)),
        }
    });
    header
        .map_err(|wrong| section.wrong(key, origin, wrong))
        .ok()
}

/// `"user"` or `{ value = "user", encode = "percent" }`.
fn source(
    section: &mut Section<'_, '_>,
    key: &str,
    node: Node,
    max_name_bytes: usize,
) -> Option<(String, TextEncoding)> {
    let value_text = |node: &Node| value_name(parse::text(node)?, max_name_bytes);
    let origin = node.origin.clone();
    let Value::Table(entries) = node.value else {
        return value_text(&node)
            .map(|value| (value, TextEncoding::Percent))
            .map_err(|wrong| section.wrong(key, &origin, wrong))
            .ok();
    };
    let mut table = section.inline(key, entries);
    let value = table.read("value", value_text);
    let encode = table.read(
        "encode",
        parse::choice(&[
            ("percent", TextEncoding::Percent),
            ("utf-8", TextEncoding::Utf8),
            ("json", TextEncoding::Json),
            ("base64", TextEncoding::Base64),
        ]),
    );
    let has_value = table.present().iter().any(|(name, _)| *name == "value");
    table.finish();
    if !has_value {
        let wrong = Wrong::new("`value` is missing", "{ value = \"user\" }");
        section.wrong(key, &origin, wrong);
    }
    Some((value?, encode.unwrap_or(TextEncoding::Percent)))
}
