//! Records in the native format, and the patches that are applied between reading and writing.

use std::hint::black_box;

use divan::Bencher;
use pycket::format::native;
use pycket::session::{Json, Patch};

use crate::{KEY, OCCASION, SIZES, session};

#[divan::bench(args = SIZES)]
fn encode(bencher: Bencher<'_, '_>, size: usize) {
    let session = session(size);
    bencher.bench_local(|| native::encode(KEY, black_box(&session)));
}

#[divan::bench(args = SIZES)]
fn decode(bencher: Bencher<'_, '_>, size: usize) {
    let record = native::encode(KEY, &session(size));
    bencher
        .bench_local(|| native::decode(KEY, black_box(&record), 1 << 20).expect("it is a record"));
}

#[divan::bench(args = SIZES)]
fn patch_one_value(bencher: Bencher<'_, '_>, size: usize) {
    let session = session(size);
    let patch = Patch {
        set: vec![("counter".to_owned(), Some(Json::string("17")))],
        ..Patch::default()
    };
    bencher.bench_local(|| {
        patch
            .apply(black_box(&session), &OCCASION)
            .expect("it is readable")
    });
}
