//! What the pure parts of an exchange cost: `cargo bench --bench codec`.
//!
//! Compare figures of one run on one machine with each other, never with those of another day.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use divan::Bencher;
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use pycket::clock::Timestamp;
use pycket::contract::request::{State, View, apply, scrub};
use pycket::contract::response::extract;
use pycket::contract::{ContractPolicy, Encoding, Names, OnBadSignal};
use pycket::cookie::signed::{Check, Keyring};
use pycket::format::native;
use pycket::session::{Json, Occasion, Patch, Session, SessionId};

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);
const KEY: &[u8] = b"pycket:2c7ae81f-0176-4076-bc2a-7efc4aeb7ac5";
const SIZES: [usize; 3] = [256, 4096, 65536];

fn main() {
    divan::main();
}

fn policy() -> ContractPolicy {
    ContractPolicy {
        encoding: Encoding::Json,
        expose: None,
        inject: Vec::new(),
        capture: Vec::new(),
        signals: true,
        on_bad_signal: OnBadSignal::Fail,
        budget: 1 << 20,
    }
}

/// A session with `size` bytes of values.
fn session(size: usize) -> Session {
    let id = SessionId::from_bytes([7; 16]);
    let patch = Patch {
        set: vec![
            ("user".to_owned(), Some(Json::string("alice"))),
            ("pad".to_owned(), Some(Json::string(&"x".repeat(size)))),
        ],
        ..Patch::default()
    };
    let occasion = Occasion {
        delivered: &[],
        first_entry: 1,
        target: None,
        now: NOW,
    };
    patch
        .apply(&Session::begin(&id, NOW), &occasion)
        .expect("a new session's values can be read")
}

fn signed() -> (Keyring, String) {
    let keyring = Keyring::single(b"0123456789abcdef0123456789abcdef");
    let id = SessionId::from_bytes([7; 16]);
    let cookie = keyring.sign("PYCKET_ID", &id.text(), NOW);
    (keyring, cookie)
}

#[divan::bench]
fn verify_cookie(bencher: Bencher<'_, '_>) {
    let (keyring, cookie) = signed();
    let check = Check {
        name: "PYCKET_ID",
        max_age_days: 31,
        min_version: 1,
    };
    bencher.bench_local(|| keyring.verify(check, black_box(cookie.as_bytes()), NOW));
}

#[divan::bench]
fn strip_cookie(bencher: Bencher<'_, '_>) {
    let line = format!("a=1; PYCKET_ID={}; b=2", signed().1);
    let line = HeaderValue::try_from(line).expect("it is visible ASCII");
    bencher
        .with_inputs(|| HeaderMap::from_iter([(COOKIE, line.clone())]))
        .bench_local_refs(|headers| pycket::cookie::strip(headers, "PYCKET_ID"));
}

#[divan::bench(args = SIZES)]
fn encode_record(bencher: Bencher<'_, '_>, size: usize) {
    let session = session(size);
    bencher.bench_local(|| native::encode(KEY, black_box(&session)));
}

#[divan::bench(args = SIZES)]
fn decode_record(bencher: Bencher<'_, '_>, size: usize) {
    let record: Bytes = native::encode(KEY, &session(size));
    bencher.bench_local(|| native::decode(KEY, black_box(&record), 1 << 20));
}

#[divan::bench(args = SIZES)]
fn write_request_headers(bencher: Bencher<'_, '_>, size: usize) {
    let (session, names, policy) = (session(size), Names::default(), policy());
    let view = View {
        state: State::Active,
        session: Some(&session),
        notifications: None,
    };
    bencher
        .with_inputs(HeaderMap::new)
        .bench_local_refs(|headers| {
            scrub(headers, &names);
            apply(headers, &names, &policy, &view)
        });
}

#[divan::bench]
fn read_a_signal(bencher: Bencher<'_, '_>) {
    let (names, policy) = (Names::default(), policy());
    let line = HeaderValue::from_static(r#"{"counter": 17}"#);
    bencher
        .with_inputs(|| {
            let mut headers = HeaderMap::new();
            headers.insert("x-session-set", line.clone());
            headers
        })
        .bench_local_refs(|headers| extract(headers, &names, &policy));
}

#[divan::bench(args = SIZES)]
fn apply_a_patch(bencher: Bencher<'_, '_>, size: usize) {
    let session = session(size);
    let patch = Patch {
        set: vec![("counter".to_owned(), Some(Json::string("17")))],
        idle_timeout: Some(Duration::from_hours(1)),
        ..Patch::default()
    };
    let occasion = Occasion {
        delivered: &[],
        first_entry: 1,
        target: None,
        now: NOW,
    };
    bencher.bench_local(|| patch.apply(black_box(&session), &occasion));
}
