use std::time::Duration;

use super::*;
use crate::contract::{Encoding, OnBadSignal};
use crate::exchange::OnStoreError;
use crate::session::{Announcement, Claim, EntryId, Json, Lifetimes, Limits, Patch};

const NOW: Timestamp = Timestamp::from_secs(10_000);
const OLD: SessionId = SessionId::from_bytes([1; 16]);
const NEW: SessionId = SessionId::from_bytes([2; 16]);

fn session_policy() -> SessionPolicy {
    SessionPolicy {
        lifetimes: Lifetimes {
            idle: Duration::from_secs(1000),
            max: Duration::from_secs(100_000),
        },
        limits: Limits {
            max_record_bytes: 65536,
            max_names: 16,
            max_name_bytes: 64,
            max_notifications: 16,
        },
        create: Create::Lazy,
        renew_grace: Duration::ZERO,
        on_store_error: OnStoreError::Fail,
        commit_timeout: Duration::from_secs(2),
        strict: false,
    }
}

fn contract_policy() -> ContractPolicy {
    ContractPolicy {
        encoding: Encoding::Json,
        expose: None,
        inject: Vec::new(),
        capture: Vec::new(),
        signals: true,
        on_bad_signal: OnBadSignal::Fail,
        budget: 4096,
    }
}

/// A session that holds `user`, and a notification that the exchange of token 7 has claimed.
fn session() -> Session {
    let mut session = Session::begin(&OLD, NOW);
    let occasion = Occasion {
        delivered: &[],
        first_entry: 1,
        target: None,
        now: NOW,
    };
    let mut patch = set("user", "alice").patch;
    patch.announce.push(Announcement {
        name: "flash".to_owned(),
        value: Json::string("hello"),
        append: false,
    });
    session = patch.apply(&session, &occasion).unwrap();
    let until = NOW.after(Duration::from_secs(90));
    session
        .notifications
        .claim(&[EntryId(1)], Claim { token: 7, until });
    session
}

fn set(name: &str, value: &str) -> Signals {
    Signals {
        patch: Patch {
            set: vec![(name.to_owned(), Some(Json::string(value)))],
            ..Patch::default()
        },
        ..Signals::default()
    }
}

fn destroy() -> Signals {
    Signals {
        destroy: true,
        ..set("user", "mallory")
    }
}

fn renew(signals: Signals) -> Signals {
    Signals {
        renew: true,
        ..signals
    }
}

/// One exchange to plan for; what is not said is the usual.
struct Case<'a> {
    loaded: Loaded<'a>,
    signals: Signals,
    shown: bool,
    failed: bool,
    claim: Option<u64>,
    cookie_presented: bool,
    create: Create,
    now: Timestamp,
}

impl Default for Case<'_> {
    fn default() -> Self {
        Self {
            loaded: Loaded::NotAsked,
            signals: Signals::default(),
            shown: true,
            failed: false,
            claim: None,
            cookie_presented: true,
            create: Create::Lazy,
            now: NOW,
        }
    }
}

impl Case<'_> {
    fn plan(&self) -> Result<Plan, Refusal> {
        let policy = SessionPolicy {
            create: self.create,
            ..session_policy()
        };
        let carried = Carried {
            entries: self.claim.map(|_| EntryId(1)).into_iter().collect(),
            claim: self.claim,
        };
        let situation = Situation {
            cookie_presented: self.cookie_presented,
            loaded: self.loaded,
            answer: if self.failed {
                Answer::Failed
            } else {
                Answer::Response {
                    signals: &self.signals,
                    shown: self.shown,
                    target: None,
                }
            },
            carried: &carried,
            first_entry: 100,
            now: self.now,
        };
        let rules = Rules {
            session: &policy,
            contract: &contract_policy(),
            names: &Names::default(),
        };
        plan(&situation, &rules, || Ok(NEW))
    }

    /// The plan in words, for tables.
    fn words(&self) -> String {
        let plan = self.plan().unwrap();
        let write = match &plan.write {
            Write::Nothing => "nothing".to_owned(),
            Write::Drop => "drop".to_owned(),
            Write::Create(id, session) => {
                assert_eq!(*id, NEW);
                format!("create {}", text(session))
            }
            Write::Replace(session) => format!("replace {}", text(session)),
            Write::Touch(session) => format!("touch {}", text(session)),
            Write::Renew(id, session) => {
                assert_eq!(*id, NEW);
                format!("renew {}", text(session))
            }
            Write::Destroy => "destroy".to_owned(),
        };
        let cookie = match plan.cookie {
            CookieChange::Keep => "keep",
            CookieChange::Issue { .. } => "issue",
            CookieChange::Expire => "expire",
        };
        format!("{write}, {cookie} the cookie")
    }
}

fn text(session: &Session) -> String {
    String::from_utf8(session.values.as_bytes().to_vec()).unwrap()
}

#[test]
fn every_state_of_the_record_meets_every_kind_of_signal() {
    let session = session();
    let states = [
        ("not asked", Loaded::NotAsked),
        ("missing", Loaded::Missing),
        ("found", Loaded::Found(&session)),
        ("gone", Loaded::Gone),
        ("unavailable", Loaded::Unavailable),
    ];
    let signals: [(&str, Signals); 5] = [
        ("none", Signals::default()),
        ("set", set("a", "1")),
        ("renew", renew(Signals::default())),
        ("renew and set", renew(set("a", "1"))),
        ("destroy", destroy()),
    ];
    let mut table = Vec::new();
    for (state, loaded) in states {
        for (kind, signals) in &signals {
            let case = Case {
                loaded,
                signals: signals.clone(),
                ..Case::default()
            };
            table.push(format!("{state}, {kind}: {}", case.words()));
        }
    }
    assert_eq!(table.len(), 25);
    insta::assert_snapshot!(table.join("\n"), @r#"
not asked, none: nothing, keep the cookie
not asked, set: create {"a":"1"}, issue the cookie
not asked, renew: nothing, keep the cookie
not asked, renew and set: create {"a":"1"}, issue the cookie
not asked, destroy: nothing, expire the cookie
missing, none: nothing, keep the cookie
missing, set: create {"a":"1"}, issue the cookie
missing, renew: nothing, keep the cookie
missing, renew and set: create {"a":"1"}, issue the cookie
missing, destroy: nothing, expire the cookie
found, none: nothing, keep the cookie
found, set: replace {"a":"1","user":"alice"}, keep the cookie
found, renew: renew {"user":"alice"}, issue the cookie
found, renew and set: renew {"a":"1","user":"alice"}, issue the cookie
found, destroy: destroy, expire the cookie
gone, none: nothing, keep the cookie
gone, set: drop, keep the cookie
gone, renew: nothing, keep the cookie
gone, renew and set: create {"a":"1"}, issue the cookie
gone, destroy: nothing, expire the cookie
unavailable, none: nothing, keep the cookie
unavailable, set: drop, keep the cookie
unavailable, renew: drop, keep the cookie
unavailable, renew and set: drop, keep the cookie
unavailable, destroy: drop, keep the cookie
"#);
}

#[test]
fn without_a_cookie_there_is_none_to_expire() {
    let case = Case {
        signals: destroy(),
        cookie_presented: false,
        ..Case::default()
    };
    assert_eq!(case.words(), "nothing, keep the cookie");
}

#[test]
fn the_old_behaviour_begins_a_session_at_the_first_visit() {
    for loaded in [Loaded::NotAsked, Loaded::Missing] {
        let case = Case {
            loaded,
            create: Create::Always,
            ..Case::default()
        };
        assert_eq!(case.words(), "create {}, issue the cookie");
    }
    for loaded in [Loaded::Gone, Loaded::Unavailable] {
        let case = Case {
            loaded,
            create: Create::Always,
            ..Case::default()
        };
        assert_eq!(case.words(), "nothing, keep the cookie");
    }
}

#[test]
fn setting_what_is_deleted_again_begins_no_session() {
    let mut signals = set("a", "1");
    signals.patch.set.push(("a".to_owned(), None));
    let case = Case {
        signals,
        ..Case::default()
    };
    assert_eq!(case.words(), "nothing, keep the cookie");
}

#[test]
fn a_signal_that_repeats_what_is_so_writes_nothing() {
    let session = session();
    let case = Case {
        loaded: Loaded::Found(&session),
        signals: set("user", "alice"),
        ..Case::default()
    };
    assert_eq!(case.words(), "nothing, keep the cookie");
}

#[test]
fn use_is_written_down_only_after_a_tenth_of_the_idle_lifetime() {
    let session = session();
    let words_after = |secs| {
        Case {
            loaded: Loaded::Found(&session),
            now: NOW.after(Duration::from_secs(secs)),
            ..Case::default()
        }
        .words()
    };
    assert_eq!(words_after(99), "nothing, keep the cookie");
    assert_eq!(
        words_after(100),
        r#"touch {"user":"alice"}, keep the cookie"#
    );
}

#[test]
fn what_was_shown_is_gone_and_what_was_not_is_free_again() {
    let session = session();
    let waiting_after = |case: Case<'_>| {
        let Write::Replace(after) = case.plan().unwrap().write else {
            return None;
        };
        Some(after.notifications)
    };
    let carrying = |shown, failed| Case {
        loaded: Loaded::Found(&session),
        claim: Some(7),
        shown,
        failed,
        ..Case::default()
    };
    let shown = waiting_after(carrying(true, false)).unwrap();
    assert!(shown.is_empty());
    for not_shown in [carrying(false, false), carrying(false, true)] {
        let waiting = waiting_after(not_shown).unwrap();
        let due: Vec<_> = waiting.due("/", Duration::ZERO, NOW).collect();
        assert_eq!(due.len(), 1);
        assert!(due[0].claim.is_none());
    }
}

#[test]
fn a_failed_answer_changes_nothing_but_what_it_holds() {
    let session = session();
    let case = Case {
        loaded: Loaded::Found(&session),
        failed: true,
        now: NOW.after(Duration::from_mins(15)),
        ..Case::default()
    };
    assert_eq!(case.words(), "nothing, keep the cookie");
}

#[test]
fn a_choice_about_the_cookie_sends_it_again() {
    let session = session();
    let mut signals = Signals::default();
    signals.patch.persist = Some(false);
    let case = Case {
        loaded: Loaded::Found(&session),
        signals,
        ..Case::default()
    };
    assert_eq!(
        case.plan().unwrap().cookie,
        CookieChange::Issue {
            persist: Some(false)
        }
    );
}

#[test]
fn a_patch_over_a_limit_is_refused_as_a_whole() {
    let session = session();
    let refusal = |signals: Signals| {
        Case {
            loaded: Loaded::Found(&session),
            signals,
            ..Case::default()
        }
        .plan()
        .unwrap_err()
    };
    assert!(matches!(
        refusal(set(&"n".repeat(65), "")),
        Refusal::Limit(LimitExceeded::NameLength { .. })
    ));
    assert!(matches!(
        refusal(set("a", &"x".repeat(65536))),
        Refusal::Limit(LimitExceeded::Record { .. })
    ));
    assert!(matches!(
        refusal(set("a", &"x".repeat(4096))),
        Refusal::Budget(OverBudget { budget: 4096, .. })
    ));
}

#[test]
fn a_session_that_is_over_a_lowered_limit_still_lives_and_may_shrink() {
    let mut session = session();
    let big = set("big", &"x".repeat(5000)).patch;
    let occasion = Occasion {
        delivered: &[],
        first_entry: 0,
        target: None,
        now: NOW,
    };
    session = big.apply(&session, &occasion).unwrap();
    let words = |signals| {
        Case {
            loaded: Loaded::Found(&session),
            signals,
            ..Case::default()
        }
        .words()
    };
    assert_eq!(words(Signals::default()), "nothing, keep the cookie");
    let mut shrink = Signals::default();
    shrink.patch.delete.push("big".to_owned());
    assert_eq!(
        words(shrink),
        r#"replace {"user":"alice"}, keep the cookie"#
    );
}
