//! The Python library's records: pickled dictionaries.

use std::hint::black_box;

use bytes::Bytes;
use divan::Bencher;
use pycket::format::pickle::{Pickle, Protocol};
use pycket::format::pycket::{Place, Records, Rules};
use pycket::session::{Json, Patch};

use crate::{KEY, NOW, OCCASION, SIZES, id, values};

const RULES: Rules = Rules {
    place: Place::OwnRecord,
    protocol: Protocol::COMMON,
};

fn pickle(size: usize) -> Pickle {
    let mut pickle = Pickle::empty(Protocol::COMMON);
    for (name, value) in values(size) {
        let value = value.expect("none of them deletes");
        pickle.set(&name, &value).expect("it has room");
    }
    pickle
}

fn blob(size: usize) -> Bytes {
    Bytes::from(pickle(size).write().expect("it can be read again"))
}

#[divan::bench(args = SIZES)]
fn read(bencher: Bencher<'_, '_>, size: usize) {
    let blob = blob(size);
    bencher.bench_local(|| Pickle::read(black_box(&blob)).expect("it is a session"));
}

#[divan::bench(args = SIZES)]
fn view(bencher: Bencher<'_, '_>, size: usize) {
    let pickle = pickle(size);
    bencher.bench_local(|| black_box(&pickle).view());
}

#[divan::bench(args = SIZES)]
fn write(bencher: Bencher<'_, '_>, size: usize) {
    let pickle = pickle(size);
    bencher.bench_local(|| black_box(&pickle).write().expect("it can be written"));
}

/// All of a load: what `read` and `view` do, and the session that is made of it.
#[divan::bench(args = SIZES)]
fn session(bencher: Bencher<'_, '_>, size: usize) {
    let (blob, id) = (blob(size), id());
    bencher.bench_local(|| {
        let records = Records::read(Some(black_box(&blob)), None).expect("it is a session");
        records.session(&RULES, &id, NOW)
    });
}

/// What has to be written for one changed value.
#[divan::bench(args = SIZES)]
fn change(bencher: Bencher<'_, '_>, size: usize) {
    let records = Records::read(Some(&blob(size)), None).expect("it is a session");
    let before = records.session(&RULES, &id(), NOW);
    let patch = Patch {
        set: vec![("counter".to_owned(), Some(Json::string("17")))],
        ..Patch::default()
    };
    let after = patch.apply(&before, &OCCASION).expect("it is readable");
    bencher.bench_local(|| {
        let change = records.change(&RULES, (&before, black_box(&after)), KEY, false);
        change.expect("it can be written")
    });
}
