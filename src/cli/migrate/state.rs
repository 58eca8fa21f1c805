//! How far a migration has come, in a file, so that another run goes on from there.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::tally::Tally;
use crate::cli::Failure;

const VERSION: u8 = 1;

/// What is remembered. It holds no secret: places within a store are told by cursors and digests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    version: u8,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) options: Options,
    /// Where the rest begins; `None` is the beginning.
    pub(super) position: Option<String>,
    pub(super) finished: bool,
    pub(super) tally: Tally,
}

/// What decides over sessions: half of them by one rule and half by another would be neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    pub(super) lossy: bool,
    pub(super) overwrite: bool,
    pub(super) delete_source: bool,
}

impl State {
    pub(super) fn new(from: &str, to: &str, options: Options) -> Self {
        Self {
            version: VERSION,
            from: from.to_owned(),
            to: to.to_owned(),
            options,
            ..Self::default()
        }
    }

    /// The state in a file, if it is of the same migration; `None` when there is no such file.
    pub(super) fn load(&self, path: &Path) -> Result<Option<Self>, Failure> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(wrong(path, &format!("it can't be read: {error}"))),
        };
        let state: Self = serde_json::from_str(&text)
            .map_err(|error| wrong(path, &format!("it is none of a migration: {error}")))?;
        if state.version != VERSION {
            return Err(wrong(path, "another version of this program wrote it"));
        }
        if (&state.from, &state.to) != (&self.from, &self.to) {
            let (from, to) = (&state.from, &state.to);
            let what = format!("it is of another migration, from {from} to {to}");
            return Err(wrong(path, &what));
        }
        if state.options != self.options {
            return Err(wrong(
                path,
                "it is of a run with other choices of --lossy, --overwrite and --delete-source",
            ));
        }
        Ok(Some(state))
    }

    /// Writes the file so that it is always whole, the old or the new one.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let mut file = File::create(&beside)?;
        file.write_all(&text)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&beside, path)
    }
}

fn wrong(path: &Path, what: &str) -> Failure {
    Failure::Arguments(format!(
        "--state {}: {what}; another file begins anew, which is safe",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_only_for_the_same_migration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let mut state = State::new("a", "b", Options::default());
        assert_eq!(state.load(&path).unwrap(), None);
        state.position = Some("0/0:17 x".to_owned());
        state.save(&path).unwrap();
        state.finished = true;
        state.save(&path).unwrap();
        assert_eq!(state.load(&path).unwrap(), Some(state.clone()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        let refusal = |state: &State| state.load(&path).unwrap_err().to_string();
        let other = State::new("a", "c", Options::default());
        assert!(refusal(&other).contains("it is of another migration, from a to b"));
        let lossy = Options {
            lossy: true,
            ..Options::default()
        };
        assert!(refusal(&State::new("a", "b", lossy)).contains("other choices"));
        fs::write(&path, "{}").unwrap();
        assert!(refusal(&state).contains("it is none of a migration"));
    }
}
