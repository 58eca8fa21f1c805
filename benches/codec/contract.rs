//! The header contract: what the application is told, and what it says.

use divan::Bencher;
use http::{HeaderMap, HeaderName, HeaderValue};
use pycket::contract::request::{State, View, apply, scrub};
use pycket::contract::response::extract;
use pycket::contract::{Encoding, Names};

use crate::{SIZES, policy, session};

#[divan::bench(args = SIZES)]
fn apply_json(bencher: Bencher<'_, '_>, size: usize) {
    apply_in(bencher, Encoding::Json, size);
}

#[divan::bench(args = SIZES)]
fn apply_base64(bencher: Bencher<'_, '_>, size: usize) {
    apply_in(bencher, Encoding::Base64, size);
}

#[divan::bench(args = SIZES)]
fn apply_form(bencher: Bencher<'_, '_>, size: usize) {
    apply_in(bencher, Encoding::Form, size);
}

/// Removes what the client sent in our namespace (nothing) and sets the session's headers.
fn apply_in(bencher: Bencher<'_, '_>, encoding: Encoding, size: usize) {
    let (session, names) = (session(size), Names::default());
    let mut policy = policy();
    policy.encoding = encoding;
    let view = View {
        state: State::Active,
        session: Some(&session),
        notifications: None,
    };
    bencher
        .with_inputs(HeaderMap::new)
        .bench_local_refs(|headers| {
            scrub(headers, &names);
            apply(headers, &names, &policy, &view).expect("it is within the budget")
        });
}

#[divan::bench]
fn extract_nothing(bencher: Bencher<'_, '_>) {
    extract_from(bencher, &[]);
}

#[divan::bench]
fn extract_a_json_object(bencher: Bencher<'_, '_>) {
    extract_from(bencher, &[("x-session-set", r#"{"counter": 17}"#)]);
}

#[divan::bench]
fn extract_a_login(bencher: Bencher<'_, '_>) {
    let signals = [
        ("x-session-set", "user=alice"),
        ("x-session-control", "renew, ttl=3600"),
        ("x-notifications-add", "flash=welcome"),
    ];
    extract_from(bencher, &signals);
}

/// Reads these signals from among what every response has.
fn extract_from(bencher: Bencher<'_, '_>, signals: &[(&'static str, &'static str)]) {
    let usual = [
        ("content-type", "text/html; charset=utf-8"),
        ("content-length", "100"),
        ("date", "Tue, 14 Nov 2023 22:13:20 GMT"),
        ("server", "application"),
    ];
    let lines = usual.iter().chain(signals).map(|&(name, value)| {
        let name = HeaderName::from_static(name);
        (name, HeaderValue::from_static(value))
    });
    let headers: HeaderMap = lines.collect();
    let (names, policy) = (Names::default(), policy());
    bencher
        .with_inputs(|| headers.clone())
        .bench_local_refs(|headers| {
            let extracted = extract(headers, &names, &policy);
            extracted.signals.expect("they are well-formed")
        });
}
