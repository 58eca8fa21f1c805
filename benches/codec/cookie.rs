//! The session cookie: read, signed, cut out.

use std::hint::black_box;

use divan::Bencher;
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use pycket::cookie::signed::{Check, Keyring};
use pycket::cookie::{CookiePolicy, Expiry, SameSite, Secure, SigningVersion};

use crate::{NOW, id};

const NAME: &str = "PYCKET_ID";

fn keyring() -> Keyring {
    Keyring::single(b"0123456789abcdef0123456789abcdef")
}

fn policy() -> CookiePolicy {
    CookiePolicy {
        forward: false,
        name: NAME.to_owned(),
        keyring: keyring(),
        version: SigningVersion::V2,
        min_version: 1,
        max_age_days: 31,
        path: "/".to_owned(),
        domain: None,
        secure: Secure::Auto,
        http_only: true,
        same_site: Some(SameSite::Lax),
        partitioned: false,
        expiry: Expiry::default(),
    }
}

fn value() -> String {
    keyring().sign(NAME, &id().text(), NOW)
}

/// What a browser sends: ours, between two of the application.
fn headers() -> HeaderMap {
    let line = format!("theme=dark; {NAME}={}; consent=all", value());
    let line = HeaderValue::try_from(line).expect("it is visible ASCII");
    HeaderMap::from_iter([(COOKIE, line)])
}

#[divan::bench]
fn verify(bencher: Bencher<'_, '_>) {
    let (keyring, value) = (keyring(), value());
    let check = Check {
        name: NAME,
        max_age_days: 31,
        min_version: 1,
    };
    bencher.bench_local(|| {
        let verified = keyring.verify(check, black_box(value.as_bytes()), NOW);
        verified.expect("it is signed")
    });
}

#[divan::bench]
fn read(bencher: Bencher<'_, '_>) {
    let (headers, policy) = (headers(), policy());
    bencher.bench_local(|| pycket::cookie::read(black_box(&headers), &policy, NOW));
}

#[divan::bench]
fn issue(bencher: Bencher<'_, '_>) {
    let (policy, id) = (policy(), id());
    bencher.bench_local(|| {
        pycket::cookie::issue(&policy, black_box(&id), None, Some(true), true, NOW)
    });
}

#[divan::bench]
fn strip(bencher: Bencher<'_, '_>) {
    let headers = headers();
    bencher
        .with_inputs(|| headers.clone())
        .bench_local_refs(|headers| pycket::cookie::strip(headers, NAME));
}
