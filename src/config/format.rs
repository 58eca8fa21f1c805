//! `format` of `[storage]`, and the keys that only `format = "pycket"` has.

use super::parse::{self, Wrong};
use super::section::Section;
use super::storage::{EngineName, refuse_engine};
use super::tree::Node;
use super::{NotificationPlace, PycketFormat, PythonMemcached};

/// The formats of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FormatName {
    Native,
    Pycket,
}

use EngineName::{Memcached, Redis};
use FormatName::{Native, Pycket};

/// Keys that have an effect with `format = "pycket"` only, and there with some engines; and what
/// to do about one with `format = "native"`.
const SCOPES: [(&str, &[EngineName], &str); 6] = [
    ("db_sessions", &[Redis], CHOOSE_DATABASE),
    ("db_notifications", &[Redis], CHOOSE_DATABASE),
    ("notification_names", &[Redis, Memcached], CHOOSE_FORMAT),
    ("pickle_protocol", &[Redis, Memcached], CHOOSE_FORMAT),
    ("writable", &[Redis, Memcached], CHOOSE_FORMAT),
    ("python_memcached", &[Memcached], CHOOSE_FORMAT),
];
const CHOOSE_DATABASE: &str = "remove it; `database` chooses the database";
const CHOOSE_FORMAT: &str = "remove it, or set format = \"pycket\"";

/// The format's name. `None` when it is wrong or does not fit the engine, so that nobody blames
/// the other keys for it.
pub(super) fn name(
    section: &mut Section<'_, '_>,
    engine: Option<EngineName>,
) -> Option<FormatName> {
    let Some(node) = section.take("format") else {
        return Some(Native);
    };
    let name = parse::choice(&[("native", Native), ("pycket", Pycket)])(&node);
    match (name, engine) {
        (Ok(Pycket), Some(EngineName::Memory)) => {
            let wrong = Wrong::new(
                "has no effect with engine = \"memory\": no application can share it",
                "set engine = \"redis\" or \"memcached\", whichever the application uses",
            );
            section.wrong("format", &node.origin, wrong);
            None
        }
        (Ok(Pycket), None) => None,
        (Ok(name), _) => Some(name),
        (Err(wrong), _) => {
            section.wrong("format", &node.origin, wrong);
            None
        }
    }
}

/// Refuses the keys of `format = "pycket"` that have no effect.
pub(super) fn refuse(
    section: &mut Section<'_, '_>,
    format: Option<FormatName>,
    engine: Option<EngineName>,
) {
    for (key, engines, instead) in SCOPES {
        match (format, engine) {
            (Some(Native), _) => {
                section.refuse(key, "has no effect with format = \"native\"", instead);
            }
            (Some(Pycket), Some(engine)) if engines.contains(&engine) => {}
            (Some(Pycket), Some(engine)) => refuse_engine(section, key, engine, engines),
            (Some(Pycket) | None, _) => drop(section.take(key)),
        }
    }
}

/// Reads the keys of `format = "pycket"`, with one of its engines: the format, and the number of
/// the sessions' database, which is 0 where there are none.
pub(super) fn pycket(section: &mut Section<'_, '_>, engine: EngineName) -> (PycketFormat, u8) {
    let (notifications, sessions) = match engine {
        Redis => databases(section),
        Memcached | EngineName::Memory => {
            let names = names(section, "memcached keeps them in the session's record");
            (NotificationPlace::SameRecord { names }, 0)
        }
    };
    let writable = section.read("writable", parse::boolean).unwrap_or(true);
    let protocol = section.read("pickle_protocol", parse::integer(0, 5));
    if protocol.is_some() && !writable {
        let wrong = Wrong::new(
            "has no effect with writable = false: there are no new records",
            "remove one of the two",
        );
        section.problem_between(&["pickle_protocol"], wrong);
    }
    let format = PycketFormat {
        notifications,
        protocol: protocol.unwrap_or(2),
        writable,
    };
    (format, sessions)
}

fn databases(section: &mut Section<'_, '_>) -> (NotificationPlace, u8) {
    let number = || parse::integer(0, u8::MAX);
    let sessions = section.read("db_sessions", number()).unwrap_or(0);
    let notifications = section.read("db_notifications", number()).unwrap_or(1);
    if section.is_wrong("db_sessions") || section.is_wrong("db_notifications") {
        // Then it is not known which of the two cases it is.
        drop(section.take("notification_names"));
    } else if sessions == notifications {
        let why = format!(
            "`db_sessions` and `db_notifications` are both {sessions}, so they are in the session's record"
        );
        let names = names(section, &why);
        return (NotificationPlace::SameRecord { names }, sessions);
    } else {
        section.refuse(
            "notification_names",
            &format!(
                "has no effect: notifications are in a database of their own, {notifications}"
            ),
            "remove it",
        );
    }
    let place = NotificationPlace::Database {
        sessions,
        notifications,
    };
    (place, sessions)
}

/// The names of the notifications, where nothing else tells them from values.
fn names(section: &mut Section<'_, '_>, why: &str) -> Vec<String> {
    section
        .list("notification_names", parse::text)
        .unwrap_or_else(|| {
            let wrong = Wrong::new(
                format!(
                    "it is not said which names are notifications: {why}, as if they were values"
                ),
                "notification_names = [\"flash\"], all that the application uses, or [] for none",
            );
            section.problem_between(&["notification_names"], wrong);
            Vec::new()
        })
}

/// The rule that a version of python-memcached follows.
pub(super) fn python_memcached(node: &Node) -> Result<PythonMemcached, Wrong> {
    let text = parse::text(node)?;
    let mut numbers = text.split('.').map(|part| {
        let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse::<u32>().ok().filter(|_| is_number)
    });
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) if numbers.all(|number| number.is_some()) => {
            if (major, minor) >= (1, 60) {
                Ok(PythonMemcached::HashFromZero)
            } else {
                Ok(PythonMemcached::HashFromOne)
            }
        }
        _ => Err(Wrong::new(
            "not a version of python-memcached",
            "as `pip show` says it, like \"1.62\"",
        )),
    }
}
