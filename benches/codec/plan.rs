//! The plan: what to store and which cookie to set.

use std::hint::black_box;
use std::time::Duration;

use divan::Bencher;
use pycket::contract::Names;
use pycket::contract::response::Signals;
use pycket::exchange::{
    Answer, Bind, Carried, Consume, Create, Loaded, NotificationPolicy, OnStoreError, Rules,
    SessionPolicy, Situation, Visit,
};
use pycket::session::{
    Announcement, Claim, Json, Lifetimes, Limits, Notifications, Patch, Session,
};

use crate::{NOW, OCCASION, SIZES, id, policy, session};

const TOKEN: u64 = 9;

/// The session's rules as they are by default.
fn rules() -> SessionPolicy {
    SessionPolicy {
        lifetimes: Lifetimes {
            idle: Duration::from_hours(24),
            max: Duration::from_hours(30 * 24),
        },
        limits: Limits {
            max_record_bytes: 1 << 20,
            max_names: 128,
            max_name_bytes: 128,
            max_notifications: 64,
        },
        create: Create::Lazy,
        renew_grace: Duration::ZERO,
        on_store_error: OnStoreError::Fail,
        commit_timeout: Duration::from_secs(2),
        strict: false,
    }
}

const DELIVERY: NotificationPolicy = NotificationPolicy {
    consume: Consume::Page,
    bind: Bind::None,
    bind_grace: Duration::from_secs(10),
    claim_timeout: Duration::from_secs(90),
};

/// Plans for a response with these signals that a person sees, this long after the last write.
fn plan(
    bencher: Bencher<'_, '_>,
    loaded: Loaded<'_>,
    signals: &Signals,
    carried: &Carried,
    later: Duration,
) {
    let (session_rules, contract, names) = (rules(), policy(), Names::default());
    let rules = Rules {
        session: &session_rules,
        contract: &contract,
        names: &names,
    };
    let situation = Situation {
        cookie_presented: true,
        loaded,
        answer: Answer::Response {
            signals,
            shown: true,
            target: None,
        },
        carried,
        first_entry: 1,
        now: NOW.after(later),
    };
    bencher.bench_local(|| {
        let plan = pycket::exchange::plan(black_box(&situation), &rules, || Ok(id()));
        plan.expect("it is within the limits")
    });
}

fn set_a_counter() -> Signals {
    Signals {
        patch: Patch {
            set: vec![("counter".to_owned(), Some(Json::string("17")))],
            ..Patch::default()
        },
        ..Signals::default()
    }
}

/// With two notifications that wait.
fn notified(size: usize) -> Session {
    let announcement = |text: &str| Announcement {
        name: "flash".to_owned(),
        value: Json::string(text),
        append: true,
    };
    let patch = Patch {
        announce: vec![announcement("saved"), announcement("sent")],
        ..Patch::default()
    };
    let session = patch.apply(&session(size), &OCCASION);
    session.expect("its values can be read")
}

fn due(notifications: &Notifications) -> Carried {
    let contract = policy();
    Carried::due(
        notifications,
        &DELIVERY,
        &contract,
        Visit::Page,
        "/",
        TOKEN,
        NOW,
    )
}

#[divan::bench(args = SIZES)]
fn nothing(bencher: Bencher<'_, '_>, size: usize) {
    let (session, signals) = (session(size), Signals::default());
    let loaded = Loaded::Found(&session);
    plan(
        bencher,
        loaded,
        &signals,
        &Carried::default(),
        Duration::ZERO,
    );
}

#[divan::bench(args = SIZES)]
fn touch(bencher: Bencher<'_, '_>, size: usize) {
    let (session, signals) = (session(size), Signals::default());
    let loaded = Loaded::Found(&session);
    let later = Duration::from_hours(3);
    plan(bencher, loaded, &signals, &Carried::default(), later);
}

#[divan::bench(args = SIZES)]
fn replace(bencher: Bencher<'_, '_>, size: usize) {
    let (session, signals) = (session(size), set_a_counter());
    let loaded = Loaded::Found(&session);
    plan(
        bencher,
        loaded,
        &signals,
        &Carried::default(),
        Duration::ZERO,
    );
}

#[divan::bench]
fn create(bencher: Bencher<'_, '_>) {
    let signals = set_a_counter();
    let carried = Carried::default();
    plan(
        bencher,
        Loaded::NotAsked,
        &signals,
        &carried,
        Duration::ZERO,
    );
}

/// Before the request goes out: which notifications it carries, and the claim on them.
#[divan::bench(args = SIZES)]
fn claim(bencher: Bencher<'_, '_>, size: usize) {
    let session = notified(size);
    let until = NOW.after(DELIVERY.claim_timeout);
    bencher.bench_local(|| {
        let carried = due(black_box(&session.notifications));
        let mut claimed = session.clone();
        let claim = Claim {
            token: TOKEN,
            until,
        };
        claimed.notifications.claim(&carried.entries, claim);
        (claimed.notifications.text(&carried.entries), claimed)
    });
}

/// After the answer: they were shown, and are gone.
#[divan::bench(args = SIZES)]
fn confirm(bencher: Bencher<'_, '_>, size: usize) {
    let mut session = notified(size);
    let carried = due(&session.notifications);
    let until = NOW.after(DELIVERY.claim_timeout);
    let claim = Claim {
        token: TOKEN,
        until,
    };
    session.notifications.claim(&carried.entries, claim);
    let loaded = Loaded::Found(&session);
    plan(
        bencher,
        loaded,
        &Signals::default(),
        &carried,
        Duration::ZERO,
    );
}
