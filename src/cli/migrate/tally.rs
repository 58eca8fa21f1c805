//! What a migration has done, and how that reads.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::plan::Loss;
use crate::cli::cookie::show::{object, printable};
use crate::session::PublicId;

/// At most so many sessions are named, and so many kinds of losses; the rest is counted.
const MOST: usize = 1000;

/// What became of one session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is at the target now.
    Copied {
        /// Something else was there.
        overwrote: bool,
        /// It is no more at the source.
        deleted: bool,
    },
    /// It was at the target already, as it is at the source.
    Same { deleted: bool },
    /// Another session is under its id at the target.
    LeftAlone,
    /// The target can't keep all of it, and so it was not copied.
    Lossy,
    /// It has ended before it could be copied.
    Gone,
    /// Only a way from an id to the next one.
    OldId,
    /// It can't be read, and why.
    Unreadable(String),
    /// It can't be written, and why.
    Failed(String),
}

impl Outcome {
    /// The same, with what has become of the session at the source.
    pub(super) fn with_source(mut self, is_deleted: bool) -> Self {
        if let Self::Copied { deleted, .. } | Self::Same { deleted } = &mut self {
            *deleted = is_deleted;
        }
        self
    }
}

/// The counts, in the words of the report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tally {
    seen: u64,
    copied: u64,
    overwritten: u64,
    already_there: u64,
    left_alone: u64,
    deleted_at_source: u64,
    lossy: u64,
    lossy_not_copied: u64,
    gone_meanwhile: u64,
    old_ids: u64,
    unreadable: u64,
    failed: u64,
    other_keys: u64,
    /// What could not be kept, and in how many sessions.
    losses: BTreeMap<String, u64>,
    /// Sessions that are not at the target, by public id, and why.
    problems: Vec<Trouble>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trouble {
    session: String,
    reason: String,
}

/// A final report.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    pub(super) finished: bool,
    pub(super) dry_run: bool,
    pub(super) from: &'a str,
    pub(super) to: &'a str,
    #[serde(flatten)]
    pub(super) tally: &'a Tally,
}

impl Tally {
    pub(super) fn add_others(&mut self, count: u64) {
        self.other_keys = self.other_keys.saturating_add(count);
    }

    pub(super) fn add<'l>(
        &mut self,
        id: PublicId,
        outcome: Outcome,
        losses: impl IntoIterator<Item = &'l Loss>,
    ) {
        count(&mut self.seen);
        let mut is_lossy = false;
        for loss in losses {
            is_lossy = true;
            self.lose(loss);
        }
        if is_lossy {
            count(&mut self.lossy);
        }
        match outcome {
            Outcome::Copied { overwrote, deleted } => {
                count(&mut self.copied);
                if overwrote {
                    count(&mut self.overwritten);
                }
                if deleted {
                    count(&mut self.deleted_at_source);
                }
            }
            Outcome::Same { deleted } => {
                count(&mut self.already_there);
                if deleted {
                    count(&mut self.deleted_at_source);
                }
            }
            Outcome::LeftAlone => count(&mut self.left_alone),
            Outcome::Lossy => count(&mut self.lossy_not_copied),
            Outcome::Gone => count(&mut self.gone_meanwhile),
            Outcome::OldId => count(&mut self.old_ids),
            Outcome::Unreadable(reason) => {
                count(&mut self.unreadable);
                self.name(id, reason);
            }
            Outcome::Failed(reason) => {
                count(&mut self.failed);
                self.name(id, reason);
            }
        }
    }

    fn lose(&mut self, loss: &Loss) {
        let (part, kind) = (loss.part, loss.kind);
        let name = printable(loss.name.as_bytes());
        let mut what = format!("{part} {name}: {kind}");
        if self.losses.len() >= MOST && !self.losses.contains_key(&what) {
            // Names can be as many as sessions; kinds are few.
            what = format!("{part} of other names: {kind}");
        }
        count(self.losses.entry(what).or_default());
    }

    fn name(&mut self, id: PublicId, reason: String) {
        if self.problems.len() < MOST {
            let session = id.to_string();
            self.problems.push(Trouble { session, reason });
        }
    }

    /// Whether every session that is live is at the target.
    pub(super) fn is_whole(&self) -> bool {
        self.unreadable == 0 && self.failed == 0 && self.lossy_not_copied == 0
    }

    /// What was lost, and which sessions are not at the target.
    fn write_details(&self, text: &mut String) {
        if !self.losses.is_empty() {
            text.push_str("\nwhat the target can't keep, in how many sessions\n");
            for (what, count) in &self.losses {
                let _infallible = writeln!(text, "{count:>9}  {what}");
            }
        }
        if !self.problems.is_empty() {
            text.push_str("\nnot at the target, and why\n");
            for Trouble { session, reason } in &self.problems {
                let _infallible = writeln!(text, "  {session}  {reason}");
            }
            let named = u64::try_from(self.problems.len()).unwrap_or(u64::MAX);
            let rest = self.unreadable.saturating_add(self.failed);
            let rest = rest.saturating_sub(named);
            if rest > 0 {
                let _infallible = writeln!(text, "  and {rest} more");
            }
        }
    }

    /// One line for those who wait.
    pub(super) fn line(&self) -> String {
        let Self {
            seen,
            copied,
            already_there,
            deleted_at_source,
            ..
        } = self;
        let mut line = format!("{seen} sessions seen, {copied} copied");
        let more = [
            (*already_there, "already there"),
            (*deleted_at_source, "deleted at the source"),
            (self.left_alone, "left alone"),
            (self.lossy_not_copied, "lossy and not copied"),
            (self.unreadable, "unreadable"),
            (self.failed, "failed"),
        ];
        for (count, what) in more.iter().filter(|(count, _)| *count > 0) {
            // Writing to a String can't fail, here and below.
            let _infallible = write!(line, ", {count} {what}");
        }
        line
    }
}

impl Report<'_> {
    pub(super) fn json(&self) -> String {
        object(self) + "\n"
    }

    pub(super) fn text(&self) -> String {
        let tally = self.tally;
        let mut text = String::new();
        let title = if self.dry_run {
            "dry run: nothing was written; the counts are what would be done"
        } else if self.finished {
            "finished"
        } else {
            "not finished"
        };
        let _infallible = writeln!(text, "{title}\nfrom  {}\nto    {}\n", self.from, self.to);
        let counts = [
            (tally.seen, "sessions seen", true),
            (tally.copied, "copied", true),
            (
                tally.overwritten,
                "of these, something else was overwritten",
                false,
            ),
            (
                tally.already_there,
                "already there, as they are at the source",
                false,
            ),
            (
                tally.left_alone,
                "left alone: something else is there (see --overwrite)",
                false,
            ),
            (tally.deleted_at_source, "deleted at the source", false),
            (tally.lossy, "hold what the target can't keep", false),
            (
                tally.lossy_not_copied,
                "of these, not copied (see --lossy)",
                false,
            ),
            (
                tally.gone_meanwhile,
                "ended before they could be copied",
                false,
            ),
            (
                tally.old_ids,
                "old ids of renewed sessions, not copied",
                false,
            ),
            (
                tally.unreadable,
                "can't be read, and were left as they are",
                false,
            ),
            (tally.failed, "failed", false),
            (tally.other_keys, "other keys, skipped", false),
        ];
        for (count, what, always) in counts {
            if count > 0 || always {
                let _infallible = writeln!(text, "{count:>9}  {what}");
            }
        }
        tally.write_details(&mut text);
        text
    }
}

fn count(number: &mut u64) {
    *number = number.saturating_add(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_says_what_happened_and_why() {
        let id = PublicId::from_bytes([7; 16]);
        let mut tally = Tally::default();
        let copied = Outcome::Copied {
            overwrote: false,
            deleted: true,
        };
        tally.add(id, copied, []);
        let loss = Loss {
            part: "value",
            name: "when".to_owned(),
            kind: "object",
        };
        tally.add(id, Outcome::Lossy, [&loss]);
        tally.add(id, Outcome::Unreadable("no pickle".to_owned()), []);
        tally.add_others(3);
        assert!(!tally.is_whole());
        insta::assert_snapshot!(tally.line(), @"3 sessions seen, 1 copied, 1 deleted at the source, 1 lossy and not copied, 1 unreadable");
        let report = Report {
            finished: true,
            dry_run: false,
            from: "here",
            to: "there",
            tally: &tally,
        };
        insta::assert_snapshot!(report.text(), @r"
        finished
        from  here
        to    there

                3  sessions seen
                1  copied
                1  deleted at the source
                1  hold what the target can't keep
                1  of these, not copied (see --lossy)
                1  can't be read, and were left as they are
                3  other keys, skipped

        what the target can't keep, in how many sessions
                1  value when: object

        not at the target, and why
          BwcHBwcHBwcHBwcHBwcHBw  no pickle
        ");
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["copied"], 1);
        assert_eq!(json["problems"][0]["reason"], "no pickle");
    }

    #[test]
    fn names_without_end_are_counted_together() {
        let id = PublicId::from_bytes([7; 16]);
        let mut tally = Tally::default();
        for number in 0..2 * MOST {
            let loss = Loss {
                part: "value",
                name: number.to_string(),
                kind: "set",
            };
            tally.add(id, Outcome::Failed(String::new()), [&loss]);
        }
        assert_eq!(tally.losses.len(), MOST + 1);
        assert_eq!(tally.problems.len(), MOST);
        assert_eq!(tally.failed, 2000);
    }
}
