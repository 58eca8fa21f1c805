//! Reads a tree of values key by key, and remembers every mistake instead of stopping at one.
//!
//! Which keys exist is said nowhere but in the code that asks for them: what nobody has asked for
//! in the end is unknown, in the file as in the environment, and the keys that were asked for are
//! the ones to suggest.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::excerpt::{Show, SourceFile};
use super::parse::{Wrong, nearest};
use super::problem::{Place, Problem, Warning};
use super::section::Section;
use super::tree::{Origin, Table};

/// What every environment variable that means a key begins with.
const PREFIX: &str = "PYCKET_";

/// Reads files that the configuration names.
pub(super) type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// The state of one reading of the configuration.
pub(super) struct Reader<'a> {
    file: Option<SourceFile>,
    environment: BTreeMap<String, String>,
    used_variables: BTreeSet<String>,
    read_file: ReadFile<'a>,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
    /// Every key that was asked for, whether it was there or not.
    known: BTreeSet<String>,
    /// Where each key stands that was there.
    given: BTreeMap<String, Origin>,
    unknown: Vec<Unknown>,
}

/// A key that nobody asked for.
struct Unknown {
    key: String,
    origin: Origin,
    /// The keys that would have been right there.
    asked: Vec<&'static str>,
}

/// What is left when everything was read.
#[derive(Debug)]
pub(super) struct Findings {
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Warning>,
    /// Every key there is; a test holds the reference against it.
    #[cfg_attr(not(test), expect(dead_code, reason = "the tests' list of keys"))]
    pub(super) known: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        file: Option<SourceFile>,
        environment: BTreeMap<String, String>,
        read_file: ReadFile<'a>,
    ) -> Self {
        Self {
            file,
            environment,
            used_variables: BTreeSet::new(),
            read_file,
            problems: Vec::new(),
            warnings: Vec::new(),
            known: BTreeSet::new(),
            given: BTreeMap::new(),
            unknown: Vec::new(),
        }
    }

    /// The table of the whole document.
    pub(super) fn root(&mut self, entries: Table) -> Section<'_, 'a> {
        Section::root(self, entries)
    }

    /// Notes that a key was asked for.
    pub(super) fn note_known(&mut self, key: &str) {
        self.known.insert(key.to_owned());
    }

    /// Notes where a key stands.
    pub(super) fn note_given(&mut self, key: &str, origin: &Origin) {
        self.given.insert(key.to_owned(), origin.clone());
    }

    /// Notes a key that nobody asked for, and those that were asked for there.
    pub(super) fn note_unknown(&mut self, key: String, origin: Origin, asked: Vec<&'static str>) {
        self.unknown.push(Unknown { key, origin, asked });
    }

    /// Adds a mistake that stands at `origin`.
    pub(super) fn problem(&mut self, origin: &Origin, key: &str, wrong: Wrong) {
        let problem = self.locate(origin, key, Show::Value, wrong);
        self.problems.push(problem);
    }

    /// Adds a mistake about several keys together; it stands at the first of them that is given.
    /// Says nothing when one of them is wrong by itself.
    pub(super) fn problem_between(&mut self, keys: &[&str], wrong: Wrong) {
        if keys.iter().any(|key| self.is_wrong(key)) {
            return;
        }
        let key = keys.iter().find(|key| self.given.contains_key(**key));
        let key = key.or(keys.first()).copied().unwrap_or_default();
        let problem = self.about(key, wrong);
        self.problems.push(problem);
    }

    /// Adds a warning about something at `origin`.
    pub(super) fn warn(&mut self, origin: &Origin, key: &str, wrong: Wrong) {
        let warning = Warning(self.locate(origin, key, Show::Value, wrong));
        self.warnings.push(warning);
    }

    /// Whether a mistake was found at this key.
    pub(super) fn is_wrong(&self, key: &str) -> bool {
        self.problems.iter().any(|p| p.key.as_deref() == Some(key))
    }

    /// Whether the key was there, right or wrong.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.given.contains_key(key)
    }

    /// Whether someone has asked for this environment variable.
    pub(super) fn has_used(&self, variable: &str) -> bool {
        self.used_variables.contains(variable)
    }

    /// Whether there is this environment variable; it does not become a known one by that.
    pub(super) fn has_variable(&self, name: &str) -> bool {
        self.environment.contains_key(name)
    }

    /// The value of any environment variable; from then on it is a known one.
    pub(super) fn variable(&mut self, name: &str) -> Option<String> {
        self.used_variables.insert(name.to_owned());
        self.environment.get(name).cloned()
    }

    /// A path as the one who wrote it means it: what stands in a file counts from its directory.
    pub(super) fn resolve(&self, path: &str, origin: &Origin) -> PathBuf {
        let directory = match (origin, &self.file) {
            (Origin::File(_), Some(file)) => Path::new(&file.path).parent(),
            _ => None,
        };
        directory.unwrap_or(Path::new("")).join(path)
    }

    pub(super) fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        (self.read_file)(path)
    }

    /// Ends the reading: what nobody asked for is wrong.
    pub(super) fn finish(mut self) -> Findings {
        for unknown in std::mem::take(&mut self.unknown) {
            let wrong = Wrong {
                wrong: "unknown key".to_owned(),
                right: self.suggest(&unknown),
            };
            let problem = self.locate(&unknown.origin, &unknown.key, Show::KeyOnly, wrong);
            self.problems.push(problem);
        }
        self.refuse_unknown_variables();
        Findings {
            problems: self.problems,
            warnings: self.warnings,
            known: self.known,
        }
    }

    fn suggest(&self, unknown: &Unknown) -> Option<String> {
        let name = unknown.key.rsplit('.').next().unwrap_or_default();
        if let Some(near) = nearest(name, unknown.asked.iter().copied()) {
            return Some(format!("did you mean `{near}`?"));
        }
        self.known
            .iter()
            .find(|key| key.rsplit('.').next() == Some(name))
            .map(|key| match key.rsplit_once('.') {
                Some((table, name)) => format!("`{name}` belongs under [{table}]"),
                None => format!("`{key}` belongs to the top of the file, before the first table"),
            })
    }

    fn refuse_unknown_variables(&mut self) {
        let unknown: Vec<String> = self
            .environment
            .keys()
            .filter(|name| name.starts_with(PREFIX) && !is_from_kubernetes(name))
            .filter(|name| !self.used_variables.contains(*name))
            .cloned()
            .collect();
        for name in unknown {
            let ours = self.used_variables.iter().map(String::as_str);
            let right = nearest(&name, ours.filter(|used| used.starts_with(PREFIX)));
            self.problems.push(Problem {
                place: Place::Variable(name),
                key: None,
                wrong: "this variable means no key".to_owned(),
                right: Some(match right {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("{PREFIX}, the table, `_`, the key: PYCKET_STORAGE_URL"),
                }),
            });
        }
    }

    fn about(&self, key: &str, wrong: Wrong) -> Problem {
        match self.given.get(key) {
            Some(origin) => self.locate(origin, key, Show::Value, wrong),
            None => Problem {
                place: Place::Nowhere,
                key: Some(key.to_owned()),
                wrong: wrong.wrong,
                right: wrong.right,
            },
        }
    }

    fn locate(&self, origin: &Origin, key: &str, show: Show, wrong: Wrong) -> Problem {
        let place = match (origin, &self.file) {
            (Origin::File(span), Some(file)) => Place::File(file.excerpt(span.clone(), show)),
            (Origin::File(_), None) => Place::Nowhere,
            (Origin::Variable(name), _) => Place::Variable(name.clone()),
            (Origin::Flag(name), _) => Place::Flag(name),
        };
        Problem {
            place,
            key: Some(key.to_owned()),
            wrong: wrong.wrong,
            right: wrong.right,
        }
    }
}

/// Variables that Kubernetes sets in every container when a service is called `pycket`.
fn is_from_kubernetes(name: &str) -> bool {
    name == "PYCKET_PORT" || name.starts_with("PYCKET_PORT_") || name.starts_with("PYCKET_SERVICE_")
}

/// The environment variable that means a key.
pub(super) fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase().replace('.', "_"))
}
