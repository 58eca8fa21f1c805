//! What the pure parts of an exchange cost: `cargo bench --bench codec`.
//!
//! Compare figures of one run on one machine with each other, never with those of another day.

mod contract;
mod cookie;
mod head;
mod pickle;
mod plan;
mod record;

use pycket::clock::Timestamp;
use pycket::contract::{ContractPolicy, Encoding, OnBadSignal};
use pycket::session::{Json, Occasion, Patch, Session, SessionId};

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);
const KEY: &[u8] = b"pycket:2c7ae81f-0176-4076-bc2a-7efc4aeb7ac5";

/// Bytes of a session's values: a login, a small shop's cart, and more than one should have.
const SIZES: [usize; 3] = [100, 1024, 16384];

const OCCASION: Occasion<'static> = Occasion {
    delivered: &[],
    first_entry: 1,
    target: None,
    now: NOW,
};

fn main() {
    divan::main();
}

/// The contract as it is by default, but for a budget that takes every size.
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

fn id() -> SessionId {
    SessionId::from_bytes([7; 16])
}

/// Values that take `size` bytes as JSON: some small ones, and articles in a list.
fn values(size: usize) -> Vec<(String, Option<Json>)> {
    let article = r#"{"price":1999,"qty":1,"sku":"sku-0"}"#;
    // The names, the other value and the punctuation take about 60 bytes.
    let articles = vec![article; size.saturating_sub(60) / (article.len() + 1)];
    let cart = format!("[{}]", articles.join(","));
    let cart = Json::parse(cart.as_bytes()).expect("it is JSON");
    vec![
        ("user".to_owned(), Some(Json::string("alice"))),
        ("roles".to_owned(), Some(Json::string("reader"))),
        ("cart".to_owned(), Some(cart)),
    ]
}

/// A session with `size` bytes of values.
fn session(size: usize) -> Session {
    let patch = Patch {
        set: values(size),
        ..Patch::default()
    };
    patch
        .apply(&Session::begin(&id(), NOW), &OCCASION)
        .expect("a new session's values can be read")
}
