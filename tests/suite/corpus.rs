//! What fuzzing has found worth keeping goes through the same checks again. `fuzz/README.md` says
//! how the corpora are made.

use std::fs;
use std::path::Path;

#[path = "../../fuzz/targets.rs"]
mod targets;

/// A fuzz target: its name, and what it does with some bytes.
type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 8] = [
    ("cookie", targets::cookie),
    ("signed_value", targets::signed_value),
    ("pickle", targets::pickle),
    ("record", targets::record),
    ("signals", targets::signals),
    ("config", targets::config),
    ("route", targets::route),
    ("proxy_header", targets::proxy_header),
];

#[test]
fn each_input_of_the_corpora_passes_its_target() {
    for (name, check) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(name);
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
        let mut count = 0;
        for file in files {
            let path = file.unwrap().path();
            // A panic says which target; this says which input.
            eprintln!("{}", path.display());
            check(&fs::read(&path).unwrap());
            count += 1;
        }
        assert!(count > 0, "{folder:?} is empty");
    }
}
