//! What becomes of one session when it moves: the decisions, without the stores.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::session::{Lifetimes, Notifications, Opaque, Session, Values};
use crate::store::Left;

/// What the target can keep of sessions of the source.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) keeps: Keeps,
    /// When a session began and was last used, and the lifetime that the application chose.
    pub(super) keeps_times: bool,
    /// Whether the source keeps these.
    pub(super) has_times: bool,
    /// The only names of notifications, where they are among the values.
    pub(super) declared: Option<BTreeSet<String>>,
    pub(super) lifetimes: Lifetimes,
}

/// How much of what JSON can't say the target can keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeps {
    /// None of it.
    Json,
    /// Values.
    Opaque,
    /// Values and notifications: all is as at the source.
    All,
}

/// What is to be written at the target.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) session: Session,
    /// For how long; zero is not at all any more.
    pub(super) ttl: Duration,
    /// What of the session does not come along.
    pub(super) losses: BTreeSet<Loss>,
}

/// Something that the target can't keep.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Loss {
    /// `value`, `notification` or `setting`.
    pub(super) part: &'static str,
    pub(super) name: String,
    /// What is in the way.
    pub(super) kind: &'static str,
}

/// Decides about a session as it is at `now`, with `left` of its lifetime. `hidden` are its
/// notifications that can't be told.
pub(super) fn plan(
    session: &Session,
    hidden: &BTreeMap<String, &'static str>,
    left: Left,
    target: &Target,
    now: Timestamp,
) -> Plan {
    let mut kept = session.clone();
    let mut losses = BTreeSet::new();
    let mut lose = |part, name: &str, kind| {
        let name = name.to_owned();
        losses.insert(Loss { part, name, kind });
    };
    if target.keeps == Keeps::Json {
        for (name, kind) in &session.opaque.names {
            lose("value", name, kind);
        }
        if session.opaque.unnamed > 0 {
            lose("value", "", "name");
        }
        kept.opaque = Opaque::default();
    }
    if target.keeps != Keeps::All {
        for (name, kind) in hidden {
            lose("notification", name, kind);
        }
        if let Some(names) = &target.declared {
            part_names(&mut kept, names, &mut lose);
        }
    }
    let idle = target.lifetimes.idle;
    let mut ttl = match left {
        Left::For(left) => left,
        Left::Forever => idle,
    };
    if !target.keeps_times {
        if kept.idle_timeout.take().is_some() {
            lose("setting", "ttl", "format");
        }
        if kept.persist.take().is_some() {
            lose("setting", "persist", "format");
        }
    } else if target.has_times {
        let end = kept.created.after(target.lifetimes.max);
        ttl = ttl.min(end.since(now));
    } else {
        // It was last changed when its lifetime began. So the proxy knows when to prolong it.
        let age = u64::try_from(idle.saturating_sub(ttl).as_millis()).unwrap_or(u64::MAX);
        let changed = Timestamp::from_millis(now.as_millis().saturating_sub(age));
        kept.created = changed;
        kept.refreshed = changed;
    }
    Plan {
        session: kept,
        ttl,
        losses,
    }
}

/// Takes away what the names of values and notifications would make something else of.
fn part_names(
    session: &mut Session,
    names: &BTreeSet<String>,
    lose: &mut impl FnMut(&'static str, &str, &'static str),
) {
    let mut entries = session.notifications.entries().to_vec();
    entries.retain(|entry| {
        let fits = names.contains(&entry.name);
        if !fits {
            lose("notification", &entry.name, "undeclared");
        }
        fits
    });
    session.notifications = Notifications::from_entries(entries);
    let mut values = session.values.to_map().unwrap_or_default();
    for name in names {
        let opaque = session.opaque.names.remove(name).is_some();
        if values.remove(name).is_some() || opaque {
            lose("value", name, "declared");
        }
    }
    session.values = Values::from_map(&values);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Entry, EntryId, Json, SessionId};

    const NOW: Timestamp = Timestamp::from_secs(1_000_000);
    const HOUR: Duration = Duration::from_hours(1);

    fn native() -> Target {
        Target {
            keeps: Keeps::Json,
            keeps_times: true,
            has_times: true,
            declared: None,
            lifetimes: Lifetimes {
                idle: 24 * HOUR,
                max: 240 * HOUR,
            },
        }
    }

    fn pycket(names: Option<&[&str]>) -> Target {
        let declared = names.map(|names| names.iter().map(ToString::to_string).collect());
        Target {
            keeps_times: false,
            declared,
            ..native()
        }
    }

    fn session() -> Session {
        let mut session = Session::begin(&SessionId::from_bytes([1; 16]), Timestamp::from_secs(9));
        session.created = NOW;
        session.refreshed = NOW;
        let json = |text: &str| Json::parse(text.as_bytes()).unwrap();
        let values = [("user", r#""alice""#), ("flash", "1")];
        let values = values.map(|(name, value)| (name.to_owned(), json(value)));
        session.values = Values::from_map(&values.into_iter().collect());
        session.notifications = Notifications::from_entries(vec![Entry {
            id: EntryId(1),
            name: "note".to_owned(),
            value: json("2"),
            append: false,
            made: NOW,
            target: None,
            claim: None,
        }]);
        session
    }

    fn told(plan: &Plan) -> Vec<String> {
        let told = |loss: &Loss| format!("{} {}: {}", loss.part, loss.name, loss.kind);
        plan.losses.iter().map(told).collect()
    }

    #[test]
    fn a_session_that_fits_comes_along_as_it_is() {
        let none = BTreeMap::new();
        let plan = plan(&session(), &none, Left::For(HOUR), &native(), NOW);
        assert_eq!(plan.session, session());
        assert_eq!(plan.ttl, HOUR);
        assert!(plan.losses.is_empty());
    }

    #[test]
    fn what_json_can_not_say_is_lost_only_where_it_can_not_be_kept() {
        let mut python = session();
        python.opaque.names.insert("when".to_owned(), "object");
        python.opaque.unnamed = 1;
        let hidden = BTreeMap::from([("shy".to_owned(), "tuple")]);
        let lossy = plan(&python, &hidden, Left::For(HOUR), &native(), NOW);
        let expected = [
            "notification shy: tuple",
            "value : name",
            "value when: object",
        ];
        assert_eq!(told(&lossy), expected);
        assert!(lossy.session.opaque.is_empty());
        let other_place = Target {
            keeps: Keeps::Opaque,
            ..pycket(None)
        };
        let lossy = plan(&python, &hidden, Left::For(HOUR), &other_place, NOW);
        assert_eq!(told(&lossy), ["notification shy: tuple"]);
        assert_eq!(lossy.session.opaque, python.opaque);
        let same = Target {
            keeps: Keeps::All,
            ..other_place
        };
        let whole = plan(&python, &hidden, Left::For(HOUR), &same, NOW);
        assert!(whole.losses.is_empty());
    }

    #[test]
    fn names_that_would_turn_into_something_else_are_lost() {
        let none = BTreeMap::new();
        let target = pycket(Some(&["flash"]));
        let plan = plan(&session(), &none, Left::For(HOUR), &target, NOW);
        let expected = ["notification note: undeclared", "value flash: declared"];
        assert_eq!(told(&plan), expected);
        assert!(plan.session.notifications.is_empty());
        assert_eq!(plan.session.values.as_bytes(), r#"{"user":"alice"}"#);
    }

    #[test]
    fn a_lifetime_that_the_application_chose_is_lost_in_the_librarys_format() {
        let mut chosen = session();
        chosen.idle_timeout = Some(HOUR);
        chosen.persist = Some(true);
        let none = BTreeMap::new();
        let lossy = plan(&chosen, &none, Left::For(HOUR), &pycket(None), NOW);
        assert_eq!(
            told(&lossy),
            ["setting persist: format", "setting ttl: format"]
        );
        let plan = plan(&chosen, &none, Left::For(HOUR), &native(), NOW);
        assert_eq!(plan.session, chosen);
    }

    #[test]
    fn a_session_without_times_began_when_its_lifetime_did() {
        let target = Target {
            has_times: false,
            ..native()
        };
        let none = BTreeMap::new();
        let plan = plan(&session(), &none, Left::For(10 * HOUR), &target, NOW);
        assert_eq!(plan.ttl, 10 * HOUR);
        assert_eq!(plan.session.refreshed.after(14 * HOUR), NOW);
        assert_eq!(plan.session.created, plan.session.refreshed);
        assert!(target.lifetimes.wants_touch(&plan.session, NOW));
    }

    #[test]
    fn no_session_outlives_its_absolute_end_or_lives_for_ever() {
        let none = BTreeMap::new();
        let target = native();
        let later = NOW.after(239 * HOUR);
        let cut = plan(&session(), &none, Left::For(2 * HOUR), &target, later);
        assert_eq!(cut.ttl, HOUR);
        let over = plan(
            &session(),
            &none,
            Left::Forever,
            &target,
            NOW.after(240 * HOUR),
        );
        assert_eq!(over.ttl, Duration::ZERO);
        let endless = plan(&session(), &none, Left::Forever, &target, NOW);
        assert_eq!(endless.ttl, 24 * HOUR);
    }
}
