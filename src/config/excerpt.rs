//! Lines of the configuration file as they may be shown: a secret never is.
//!
//! A mistake can stand anywhere, in a line that can't even be parsed too. So what is secret is
//! decided from the plain lines, and in doubt a value is hidden: all that follows the `=` is
//! replaced by `…`.

use std::ops::Range;

use super::problem::Excerpt;

/// The file: its name and its text.
#[derive(Clone)]
pub(super) struct SourceFile {
    /// The name as it was given.
    pub(super) path: String,
    /// The whole text.
    pub(super) text: String,
}

/// Whether the value on a line may be shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    /// Yes, unless the line tells that it is secret.
    Value,
    /// No: nobody knows what stands there (the key is unknown).
    KeyOnly,
}

/// What of a line is secret.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Secrecy {
    /// Nothing.
    Open,
    /// What follows the key.
    Value,
    /// All of it: a part of a value of several lines.
    Whole,
}

/// Stands for what is hidden.
const HIDDEN: char = '…';

impl SourceFile {
    /// The line on which the `span` (in bytes) begins, with the caret under the span.
    pub(super) fn excerpt(&self, span: Range<usize>, show: Show) -> Excerpt {
        let start = self.text.floor_char_boundary(span.start);
        let before = self.text.get(..start).unwrap_or_default();
        let line_index = before.matches('\n').count();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = self.text.lines().nth(line_index).unwrap_or_default();
        let column = before.get(line_start..).unwrap_or_default().chars().count();
        let width = self
            .text
            .get(start..self.text.floor_char_boundary(span.end))
            .and_then(|spanned| spanned.lines().next())
            .map_or(1, |spanned| spanned.chars().count());

        let secrecy = match (self.secrecy(line_index), show) {
            (Secrecy::Open, Show::KeyOnly) => Secrecy::Value,
            (secrecy, _) => secrecy,
        };
        let hidden = secrecy != Secrecy::Open;
        let text = match secrecy {
            Secrecy::Open => line.to_owned(),
            Secrecy::Value => hide_value(line),
            Secrecy::Whole => HIDDEN.to_string(),
        };
        // Control characters of the file must not steer the terminal.
        let text: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let last = text.chars().count();
        let caret_start = column.min(if hidden { last.saturating_sub(1) } else { last });
        let caret_end = (column + width).min(last).max(caret_start + 1);
        Excerpt {
            path: self.path.clone(),
            line: line_index + 1,
            column: column + 1,
            text,
            caret: caret_start..caret_end,
        }
    }

    /// What of the line with this index (from 0) is secret.
    fn secrecy(&self, index: usize) -> Secrecy {
        let mut in_secrets = false;
        let mut secrecy = Secrecy::Open;
        // The quotes that end a secret text of several lines.
        let mut until: Option<&str> = None;
        for line in self.text.lines().take(index + 1) {
            let trimmed = line.trim_start();
            if let Some(quotes) = until {
                secrecy = Secrecy::Whole;
                until = until.filter(|_| !line.contains(quotes));
            } else if trimmed.starts_with('[') && !trimmed.contains('=') {
                in_secrets = names_a_secret(trimmed);
                secrecy = Secrecy::Open;
            } else if in_secrets || names_a_secret(line) {
                secrecy = Secrecy::Value;
                until = ["\"\"\"", "'''"]
                    .into_iter()
                    .find(|quotes| line.matches(quotes).count() % 2 == 1);
            } else if line.contains('=') {
                secrecy = Secrecy::Open;
            } else if secrecy != Secrecy::Open {
                // It goes on with what began above.
                secrecy = Secrecy::Whole;
            }
        }
        secrecy
    }
}

/// Whether a line tells that it holds a secret: by its words, or as a URL with a user in it.
fn names_a_secret(line: &str) -> bool {
    let line = line.to_lowercase();
    let has_user = line
        .split_once("://")
        .is_some_and(|(_, rest)| rest.contains('@'));
    has_user || line.contains("secret") || line.contains("passw")
}

/// Hides all behind the key. Where it is not certain that a key stands there, all is hidden.
fn hide_value(line: &str) -> String {
    match line.split_once('=') {
        Some((key, _)) if key.matches(['"', '\'']).count() % 2 == 0 => format!("{key}= {HIDDEN}"),
        None if line.trim_start().starts_with('[') => line.to_owned(),
        Some(_) | None => HIDDEN.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, needle: &str) -> Excerpt {
        let start = text.find(needle).unwrap();
        let file = SourceFile {
            path: "pycket.toml".to_owned(),
            text: text.to_owned(),
        };
        file.excerpt(start..start + needle.len(), Show::Value)
    }

    #[test]
    fn line_and_column_are_counted_in_characters_from_one() {
        let excerpt = shown("a = 1\nb = \"é\" # c\n", "# c");
        assert_eq!((excerpt.line, excerpt.column), (2, 9));
        assert_eq!(excerpt.text, "b = \"é\" # c");
        assert_eq!(excerpt.caret, 8..11);
    }

    #[test]
    fn a_span_of_several_lines_is_marked_on_its_first() {
        let excerpt = shown("a = [\n1,\n]\n", "[\n1,\n]");
        assert_eq!((excerpt.text.as_str(), excerpt.caret), ("a = [", 4..5));
    }

    #[test]
    fn a_position_behind_the_end_is_the_last_line() {
        let file = SourceFile {
            path: "p".to_owned(),
            text: "a = ".to_owned(),
        };
        let excerpt = file.excerpt(900..901, Show::Value);
        assert_eq!((excerpt.line, excerpt.caret), (1, 4..5));
    }

    #[test]
    fn secrets_are_hidden_wherever_they_stand() {
        let files = [
            "secret = \"hunter2\"",
            "secret = hunter2",
            "password = 'hunter2",
            "storage = { password = \"hunter2\" }",
            "url = \"redis://me:hunter2@host\"",
            "[cookies.secrets]\n1 = \"hunter2\"",
            "secret = \"\"\"\nhunter2",
            "secret = \"\"\"\na = b\nhunter2==\n\"\"\"",
            "secret = [\n\"hunter2\"\n]",
            "secret = [\n\"a secret=hunter2\"\n]",
            "secret = [\n\"hunter2=secret\"\n]",
        ];
        for text in files {
            let excerpt = shown(text, "hunter2");
            assert!(!excerpt.text.contains("hunter2"), "{text}");
            assert!(excerpt.text.contains(HIDDEN), "{text}");
            assert!(excerpt.caret.end <= excerpt.text.chars().count(), "{text}");
        }
    }

    #[test]
    fn what_follows_a_secret_is_shown() {
        let text = "secret = \"\"\"\nhunter2\"\"\"\npath = \"/x\"\n[cookies.secrets]\n[log]\na = 1";
        assert_eq!(shown(text, "path").text, "path = \"/x\"");
        assert_eq!(shown(text, "a = 1").text, "a = 1");
    }

    #[test]
    fn the_value_of_an_unknown_key_is_hidden() {
        let file = SourceFile {
            path: "p".to_owned(),
            text: "secrte = \"hunter2\"".to_owned(),
        };
        let excerpt = file.excerpt(0..6, Show::KeyOnly);
        assert_eq!((excerpt.text.as_str(), excerpt.caret), ("secrte = …", 0..6));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(shown("a = \"\x1b[31m\"", "a").text, "a = \" [31m\"");
    }
}
