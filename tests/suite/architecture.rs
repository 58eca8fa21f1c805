//! The crate keeps to its own map: which module may use which, and where I/O may stand.

use std::fs;
use std::path::{Path, PathBuf};

/// A module, and the modules of the crate that it may use beside itself.
const ARROWS: [(&str, &[&str]); 15] = [
    ("clock", &[]),
    ("session", &["clock"]),
    ("format", &["clock", "session"]),
    ("cookie", &["clock", "session"]),
    ("contract", &["clock", "session"]),
    (
        "exchange",
        &["clock", "session", "format", "contract", "cookie"],
    ),
    ("store", &["clock", "config"]),
    (
        "archive",
        &["clock", "session", "format", "store", "config"],
    ),
    (
        "config",
        &["clock", "session", "cookie", "contract", "exchange", "tls"],
    ),
    ("tls", &[]),
    ("tally", &[]),
    ("telemetry", &["clock", "session", "config", "tally"]),
    (
        "proxy",
        &[
            "clock",
            "session",
            "cookie",
            "contract",
            "exchange",
            "archive",
            "store",
            "config",
            "telemetry",
        ],
    ),
    (
        "server",
        &[
            "clock",
            "config",
            "proxy",
            "store",
            "tally",
            "telemetry",
            "tls",
        ],
    ),
    ("demo", &[]),
];

/// Modules that decide and never touch the outside.
const PURE: [&str; 6] = [
    "clock", "session", "format", "cookie", "contract", "exchange",
];

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    walk(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut found,
    );
    assert!(found.len() > 30, "only {} source files found", found.len());
    found
}

/// `src/session/id.rs` belongs to `session`.
fn module_of(path: &Path) -> String {
    let inside = path
        .strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
        .unwrap();
    let first = inside.components().next().unwrap();
    let first = Path::new(first.as_os_str()).with_extension("");
    first.to_str().unwrap().to_owned()
}

/// The modules named after `crate::` in code; comments and tests don't count.
fn used_modules(text: &str) -> Vec<String> {
    let production = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    production
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| {
            rest.chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect()
        })
        .collect()
}

#[test]
fn modules_use_each_other_one_way_only() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let module = module_of(&path);
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == module) else {
            assert!(
                ["lib", "main", "cli"].contains(&module.as_str()),
                "{module} is missing in the map"
            );
            continue;
        };
        for used in used_modules(&text) {
            let known = ARROWS.iter().any(|(name, _)| *name == used);
            if known && used != module && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{} uses {used}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn pure_modules_name_no_io_and_no_clock() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let module = module_of(&path);
        if !PURE.contains(&module.as_str()) {
            continue;
        }
        let production = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for word in [
            "tokio::",
            "hyper::",
            "fred::",
            "memcache::",
            "std::net",
            "std::fs",
            "clock::now",
        ] {
            if production.contains(word) {
                wrong.push(format!("{} names {word}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn secrets_are_never_compared_with_equals() {
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            let compares = line.contains("mac ==") || line.contains("signature ==");
            assert!(!compares, "{}:{}", path.display(), number + 1);
        }
    }
}

/// Floors below which known attacks get through: hyper#4123 (Content-Length beside
/// Transfer-Encoding), floods by small frames in h2, RUSTSEC advisories of httparse.
#[test]
fn the_lock_file_keeps_above_the_security_floors() {
    let lock = include_str!("../../Cargo.lock");
    let floors = [
        ("hyper", (1, 11, 0)),
        ("h2", (0, 4, 18)),
        ("httparse", (1, 10, 1)),
    ];
    for (name, floor) in floors {
        let marker = format!("name = \"{name}\"\nversion = \"");
        let version = lock
            .split(&marker)
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap());
        let found = (
            parts.next().unwrap(),
            parts.next().unwrap(),
            parts.next().unwrap(),
        );
        assert!(found >= floor, "{name} {version} is below {floor:?}");
    }
}
