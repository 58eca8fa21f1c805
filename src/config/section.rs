//! One table of the configuration, read key by key.

use super::parse::{self, Wrong};
use super::reader::{Reader, variable_of};
use super::tree::{Entry, Node, Origin, Table, Value};

/// One table of the configuration.
pub(super) struct Section<'r, 'a> {
    reader: &'r mut Reader<'a>,
    path: String,
    entries: Table,
    /// Whether environment variables mean its keys (those in lists of tables have no names).
    overridable: bool,
    asked: Vec<&'static str>,
    present: Vec<(&'static str, Origin)>,
}

impl<'r, 'a> Section<'r, 'a> {
    /// The table of the whole document.
    pub(super) fn root(reader: &'r mut Reader<'a>, entries: Table) -> Self {
        Self {
            reader,
            path: String::new(),
            entries,
            overridable: true,
            asked: Vec::new(),
            present: Vec::new(),
        }
    }
}

impl<'a> Section<'_, 'a> {
    pub(super) fn reader(&mut self) -> &mut Reader<'a> {
        self.reader
    }

    /// The full name of one of its keys.
    pub(super) fn key(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// The keys that were asked for so far and were there.
    pub(super) fn present(&self) -> Vec<(&'static str, Origin)> {
        self.present.clone()
    }

    /// The value of a key. A flag wins over the environment, and that over the file.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Node> {
        let key = self.key(name);
        self.asked.push(name);
        self.reader.note_known(&key);
        let mut found = self.entries.remove(name).map(|entry| entry.node);
        if self.overridable {
            let variable = variable_of(&key);
            let from_flag = matches!(&found, Some(node) if matches!(node.origin, Origin::Flag(_)));
            // Asked for in any case, so that it counts as known.
            let value = self.reader.variable(&variable);
            if let Some(text) = value.filter(|_| !from_flag) {
                found = Some(Node {
                    origin: Origin::Variable(variable),
                    value: Value::Untyped(text),
                });
            }
        }
        if let Some(node) = &found {
            self.present.push((name, node.origin.clone()));
            self.reader.note_given(&key, &node.origin);
        }
        found
    }

    /// Reads a key. `None` when it is not there, or wrong.
    pub(super) fn read<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&Node) -> Result<T, Wrong>,
    ) -> Option<T> {
        let node = self.take(name)?;
        parse(&node)
            .map_err(|wrong| self.wrong(name, &node.origin, wrong))
            .ok()
    }

    /// Reads each item of a list; mistakes are placed at the items. `None` when it is not there.
    pub(super) fn list<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&Node) -> Result<T, Wrong>,
    ) -> Option<Vec<T>> {
        let node = self.take(name)?;
        let origin = node.origin.clone();
        let items = parse::items(node)
            .map_err(|wrong| self.wrong(name, &origin, wrong))
            .ok()?;
        let mut list = Vec::with_capacity(items.len());
        for item in items {
            match parse(&item) {
                Ok(value) => list.push(value),
                Err(wrong) => self.wrong(name, &item.origin, wrong),
            }
        }
        Some(list)
    }

    /// Adds a mistake about several of its keys together: [`Reader::problem_between`].
    pub(super) fn problem_between(&mut self, names: &[&str], wrong: Wrong) {
        let keys: Vec<String> = names.iter().map(|name| self.key(name)).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        self.reader.problem_between(&keys, wrong);
    }

    /// Whether one of the keys of this very table is given, and has been asked for. For tables in
    /// lists, which share their keys' names.
    pub(super) fn is_present(&self, name: &str) -> bool {
        self.present.iter().any(|(present, _)| *present == name)
    }

    /// Whether one of its keys is given, whatever it says.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.reader.is_given(&self.key(name))
    }

    /// Whether one of its keys is wrong by itself.
    pub(super) fn is_wrong(&self, name: &str) -> bool {
        self.reader.is_wrong(&self.key(name))
    }

    /// Says that a key, if it is there, is out of place.
    pub(super) fn refuse(&mut self, name: &'static str, wrong: &str, right: &str) {
        if let Some(node) = self.take(name) {
            self.wrong(name, &node.origin, Wrong::new(wrong, right));
        }
    }

    /// Says of a key that is none of ours what to write instead, if it is there. It does not count
    /// as known, so that no slip is taken for it.
    pub(super) fn refuse_foreign(&mut self, name: &str, wrong: &str, right: &str) {
        let variable = variable_of(&self.key(name));
        let in_file = self.entries.remove(name).map(|entry| entry.key);
        let origin = if self.overridable && self.reader.has_variable(&variable) {
            // Asked for, so that it is not reported as unknown too.
            let _value = self.reader.variable(&variable);
            Some(Origin::Variable(variable))
        } else {
            in_file
        };
        if let Some(origin) = origin {
            self.wrong(name, &origin, Wrong::new(wrong, right));
        }
    }

    /// Whether there is anything under this name in the file or on the command line.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// A table of keys; the environment can override them one by one if it can those around them.
    pub(super) fn section(&mut self, name: &'static str) -> Section<'_, 'a> {
        self.asked.push(name);
        let path = self.key(name);
        let node = self.entries.remove(name).map(|entry| entry.node);
        let entries = self.table_of(name, node);
        let overridable = self.overridable;
        self.child(path, entries, overridable)
    }

    /// The names and values of a table whose names are free.
    pub(super) fn free_table(&mut self, name: &'static str) -> Vec<(String, Entry)> {
        let node = self.take(name);
        self.table_of(name, node).into_iter().collect()
    }

    /// Runs `read` on each table of a list of tables.
    pub(super) fn tables(
        &mut self,
        name: &'static str,
        mut read: impl FnMut(Section<'_, 'a>, Origin),
    ) {
        let Some(node) = self.take(name) else {
            return;
        };
        let origin = node.origin.clone();
        let items = parse::items(node).unwrap_or_else(|wrong| {
            self.wrong(name, &origin, wrong);
            Vec::new()
        });
        for item in items {
            let origin = item.origin.clone();
            let entries = self.table_of(name, Some(item));
            let path = self.key(name);
            read(self.child(path, entries, false), origin);
        }
    }

    /// A table in the place of a value, such as `{ env = "NAME" }`.
    pub(super) fn inline(&mut self, name: &str, entries: Table) -> Section<'_, 'a> {
        let path = self.key(name);
        self.child(path, entries, false)
    }

    /// Adds a mistake at one of its keys.
    pub(super) fn wrong(&mut self, name: &str, origin: &Origin, wrong: Wrong) {
        let key = self.key(name);
        self.reader.problem(origin, &key, wrong);
    }

    /// Ends the table: the keys that are left are unknown.
    pub(super) fn finish(self) {
        for (name, entry) in self.entries {
            let key = if self.path.is_empty() {
                name
            } else {
                format!("{}.{name}", self.path)
            };
            self.reader.note_unknown(key, entry.key, self.asked.clone());
        }
    }

    fn table_of(&mut self, name: &str, node: Option<Node>) -> Table {
        let Some(node) = node else {
            return Table::new();
        };
        let origin = node.origin.clone();
        parse::table(node).unwrap_or_else(|wrong| {
            self.wrong(name, &origin, wrong);
            Table::new()
        })
    }

    fn child(&mut self, path: String, entries: Table, overridable: bool) -> Section<'_, 'a> {
        Section {
            reader: self.reader,
            path,
            entries,
            overridable,
            asked: Vec::new(),
            present: Vec::new(),
        }
    }
}
