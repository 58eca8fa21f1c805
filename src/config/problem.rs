//! What is wrong in a configuration, where, and what would be right.
//!
//! The pieces are kept apart; [`report`] writes them for people. No text here ever holds a
//! secret: [`Excerpt`]s are made by [`super::excerpt`], which hides them.

use std::fmt::{self, Write as _};
use std::ops::Range;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was made.
    pub place: Place,
    /// The key, with its tables: `session.idle_timeout`. `None` when it is not about one key.
    pub key: Option<String>,
    /// What is wrong.
    pub wrong: String,
    /// What would be right.
    pub right: Option<String>,
}

/// Where something in the configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A position in the file.
    File(Excerpt),
    /// The environment variable of this name.
    Variable(String),
    /// The command-line flag of this name, dashes included.
    Flag(&'static str),
    /// Nowhere: something is missing, or a default does not fit.
    Nowhere,
}

/// A position in the file, and its line as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// The file's name as it was given.
    pub path: String,
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// The line's text; secrets are replaced by `…`.
    pub text: String,
    /// The characters of `text` that are meant, counted from 0; never empty.
    pub caret: Range<usize>,
}

/// Something that works, and is probably not what was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub Problem);

/// All mistakes of one configuration; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// The mistakes, or `None` when there is none; ordered by their place.
    pub(super) fn from_vec(mut problems: Vec<Problem>) -> Option<Self> {
        problems.sort_by_key(|problem| problem.place.rank());
        (!problems.is_empty()).then_some(Self(problems))
    }

    /// A single mistake.
    pub(super) fn one(problem: Problem) -> Self {
        Self(vec![problem])
    }

    /// The mistakes, ordered by their place.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Place {
    /// The order in which people look for mistakes: the file from top to bottom, then the rest.
    fn rank(&self) -> (u8, usize, usize) {
        match self {
            Self::File(excerpt) => (0, excerpt.line, excerpt.column),
            Self::Variable(_) => (1, 0, 0),
            Self::Flag(_) => (2, 0, 0),
            Self::Nowhere => (3, 0, 0),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(at) => write!(f, "{}:{}:{}", at.path, at.line, at.column),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Nowhere => f.write_str("configuration"),
        }
    }
}

/// One line, for logs.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.wrong)?;
        match &self.right {
            Some(right) => write!(f, " ({})", right.replace('\n', "; ")),
            None => Ok(()),
        }
    }
}

/// One line, for logs.
impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The whole report, without colours.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&report(self, Colours::Off))
    }
}

impl std::error::Error for Problems {}

/// Whether a report is written with colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// ANSI escape sequences, for a terminal.
    On,
    /// Plain text.
    Off,
}

/// Writes all mistakes for people: what is wrong, the place with its line, and what would be right.
pub fn report(problems: &Problems, colours: Colours) -> String {
    let mut text = String::new();
    for problem in problems {
        entry(&mut text, problem, "error", RED, colours);
    }
    let count = problems.0.len();
    let mistakes = if count == 1 { "mistake" } else { "mistakes" };
    // Writing to a String can't fail, here and below.
    let _infallible = writeln!(text, "{count} {mistakes} in the configuration");
    text
}

/// Writes one warning for people, in the form of [`report`].
pub fn report_warning(warning: &Warning, colours: Colours) -> String {
    let mut text = String::new();
    entry(&mut text, &warning.0, "warning", YELLOW, colours);
    text
}

const RED: &str = "1;31";
const YELLOW: &str = "1;33";
const BLUE: &str = "1;34";
const BOLD: &str = "1";

fn entry(out: &mut String, problem: &Problem, level: &str, colour: &str, colours: Colours) {
    let paint = |code: &str, text: &str| match colours {
        Colours::On => format!("\x1b[{code}m{text}\x1b[0m"),
        Colours::Off => text.to_owned(),
    };
    let subject = match &problem.key {
        Some(key) => format!(": {key}: {}", problem.wrong),
        None => format!(": {}", problem.wrong),
    };
    let level = paint(colour, level);
    let _infallible = writeln!(out, "{level}{}", paint(BOLD, &subject));

    let number = match &problem.place {
        Place::File(at) => at.line.to_string(),
        Place::Variable(_) | Place::Flag(_) | Place::Nowhere => String::new(),
    };
    let margin = " ".repeat(number.len());
    if problem.place != Place::Nowhere {
        let arrow = paint(BLUE, "-->");
        let _infallible = writeln!(out, "{margin} {arrow} {}", problem.place);
    }
    let bar = paint(BLUE, "|");
    if let Place::File(at) = &problem.place {
        let number = paint(BLUE, &number);
        let indent = " ".repeat(at.caret.start);
        let caret = paint(colour, &"^".repeat(at.caret.len().max(1)));
        let _infallible = writeln!(out, "{margin} {bar}");
        let _infallible = writeln!(out, "{number} {bar} {}", at.text);
        let _infallible = writeln!(out, "{margin} {bar} {indent}{caret}");
    }
    if let Some(right) = &problem.right {
        let help = format!("{margin} {} help: ", paint(BLUE, "="));
        let hanging = format!("\n{margin}         ");
        let _infallible = writeln!(out, "{help}{}", right.replace('\n', &hanging));
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem() -> Problem {
        Problem {
            place: Place::File(Excerpt {
                path: "pycket.toml".to_owned(),
                line: 12,
                column: 16,
                text: "idle_timeout = 30".to_owned(),
                caret: 15..17,
            }),
            key: Some("session.idle_timeout".to_owned()),
            wrong: "the unit is missing".to_owned(),
            right: Some("write \"30s\"\nor \"30m\"".to_owned()),
        }
    }

    #[test]
    fn a_report_shows_the_line_and_points_at_the_value() {
        let problems = Problems::from_vec(vec![problem()]).unwrap();
        insta::assert_snapshot!(problems, @r#"
        error: session.idle_timeout: the unit is missing
           --> pycket.toml:12:16
           |
        12 | idle_timeout = 30
           |                ^^
           = help: write "30s"
                   or "30m"

        1 mistake in the configuration
        "#);
    }

    #[test]
    fn a_log_gets_one_line() {
        insta::assert_snapshot!(problem(), @r#"pycket.toml:12:16: session.idle_timeout: the unit is missing (write "30s"; or "30m")"#);
    }

    #[test]
    fn colours_are_escape_sequences_and_nothing_else() {
        let problems = Problems::from_vec(vec![problem()]).unwrap();
        let mut coloured = report(&problems, Colours::On);
        assert!(coloured.contains("\x1b[1;31merror\x1b[0m"));
        for code in [RED, YELLOW, BLUE, BOLD, "0"] {
            coloured = coloured.replace(&format!("\x1b[{code}m"), "");
        }
        assert_eq!(coloured, report(&problems, Colours::Off));
    }

    #[test]
    fn mistakes_of_the_file_come_first_and_in_its_order() {
        let at = |line| {
            let Place::File(excerpt) = problem().place else {
                unreachable!()
            };
            Problem {
                place: Place::File(Excerpt { line, ..excerpt }),
                ..problem()
            }
        };
        let nowhere = Problem {
            place: Place::Nowhere,
            ..problem()
        };
        let problems = Problems::from_vec(vec![nowhere.clone(), at(7), at(3)]).unwrap();
        let sorted: Vec<_> = problems.iter().cloned().collect();
        assert_eq!(sorted, [at(3), at(7), nowhere]);
    }

    #[test]
    fn no_mistake_is_no_report() {
        assert_eq!(Problems::from_vec(Vec::new()), None);
    }
}
