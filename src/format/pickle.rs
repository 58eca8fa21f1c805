//! A session as the Python library keeps it: a pickled dictionary.
//!
//! A pickle is a program for a small stack machine that can import and call anything. Here it is
//! read symbolically: the opcodes run over records of what they would do, and nothing is ever
//! imported, called or built. Bytes flow in, a [`Pickle`] flows out: the names of the session, the
//! values that JSON can say exactly, and for the others what is in the way ([`Kind`]). Names can be
//! set and deleted, and the rest is written as it was: the same objects in the same order, the same
//! sharing, the same classes, in the same protocol, so that whoever wrote it can read it.
//!
//! | Python | JSON |
//! |---|---|
//! | `None`, `True`, `False` | `null`, `true`, `false` |
//! | integer from -2^63 to 2^64 - 1 | number without point and exponent |
//! | finite float | number with a point or an exponent |
//! | `str` of Python 3, `unicode`, `str` of Python 2 in ASCII | string |
//! | list, dictionary with keys of text; of these, not in itself | array, object |
//! | anything else | opaque, with the whole value that it is in |
//!
//! Honest losses: what is set comes back as Python's `json` would read it, so tuples become lists
//! and Python 2's `str` becomes `unicode`, and what it shared with other values is shared no more.
//! Where a pickle sets a name twice, the first spelling of the name and the last value count, as in
//! Python.
//!
//! Protocols 0 to 5 are read, as the picklers of Python 2.7 and 3.6 to 3.13 write them. Refused is
//! what they don't write for a session, and what is beyond the limits: 1 MiB, 200,000 nodes (objects,
//! references and changes), 10,000 open marks. No depth costs stack, and no stated size allocates.
//!
//! This module knows nothing of stores. Whoever writes while the application may write, too, must
//! apply its edits to a fresh read, and replace exactly that.
//!
//! ```
//! use bytes::Bytes;
//! use pycket::format::pickle::Pickle;
//! use pycket::session::Json;
//!
//! let blob = Bytes::from_static(b"(dp0\nVfoo\np1\nVbar\np2\ns.");
//! let mut pickle = Pickle::read(&blob)?;
//! assert_eq!(pickle.view().values["foo"], Json::string("bar"));
//!
//! pickle.set("n", &Json::parse(b"1").unwrap())?;
//! pickle.delete("foo");
//! assert_eq!(pickle.write()?, &b"(dVn\nI1\ns."[..]);
//! # Ok::<(), pycket::format::pickle::PickleError>(())
//! ```

mod arena;
mod cursor;
mod error;
mod global;
mod kind;
mod limits;
mod literal;
mod memo;
mod opcode;
mod reader;
mod value;
mod view;
mod writer;

pub use error::{PickleError, Problem};
pub use global::unwrap_bytes;
pub use kind::Kind;

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use self::arena::{Arena, Form, NodeId, Op, OpId};
use self::view::Viewer;
use crate::session::Json;

/// The version of the pickle format, 0 to 5. Not every Python reads every one: Python 2 stops at 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Protocol(u8);

impl Protocol {
    /// The highest that both Python 2 and Python 3 read: 2.
    pub const COMMON: Self = Self(2);

    /// `None` for a number that no Python knows.
    pub fn new(number: u8) -> Option<Self> {
        (number <= 5).then_some(Self(number))
    }

    /// 0 to 5.
    pub fn number(self) -> u8 {
        self.0
    }
}

/// A session in a pickle. `Debug` hides its content.
#[derive(Clone)]
pub struct Pickle {
    arena: Arena,
    /// The dictionary: its changes are the session's entries.
    root: NodeId,
    protocol: Protocol,
}

/// What a session holds, as far as it can be told. `Debug` hides it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The values that JSON can say exactly. What objects share is repeated.
    pub values: BTreeMap<String, Json>,
    /// The others, and what is in the way.
    pub opaque: BTreeMap<String, Kind>,
    /// How many entries have a name that is not text.
    pub unnamed: usize,
}

impl Pickle {
    /// A session without entries, to be written in a given protocol.
    pub fn empty(protocol: Protocol) -> Self {
        let (arena, root) = Arena::of_empty_dict();
        Self {
            arena,
            root,
            protocol,
        }
    }

    /// Reads a pickled dictionary that fills the whole of `blob`, and keeps the memory.
    ///
    /// # Errors
    ///
    /// [`PickleError::Unreadable`], whether it is damaged, hostile or just not a session. It is never
    /// to be taken for an empty session.
    pub fn read(blob: &Bytes) -> Result<Self, PickleError> {
        let reader::Content {
            arena,
            root,
            protocol,
        } = reader::read(blob)?;
        let plain = matches!(arena.form(root), Form::Dict)
            && arena.ops(root).all(|op| matches!(op, Op::SetItem(..)));
        if !plain {
            let stop = blob.len().saturating_sub(1);
            return Err(reader::unreadable(stop, Problem::NotADictionary));
        }
        Ok(Self {
            arena,
            root,
            protocol,
        })
    }

    /// The protocol in which it is written: the highest that it names or that one of its opcodes
    /// needs. Editing does not change it.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// What the session holds.
    pub fn view(&self) -> View {
        let mut named: BTreeMap<&str, NodeId> = BTreeMap::new();
        let mut view = View::default();
        for op in self.arena.ops(self.root) {
            match self.entry(op) {
                Some((name, value)) => {
                    named.insert(name, value);
                }
                None => view.unnamed += 1,
            }
        }
        let mut viewer = Viewer::new(&self.arena);
        for (name, value) in named {
            match viewer.json(value) {
                Ok(json) => {
                    view.values.insert(name.to_owned(), json);
                }
                Err(kind) => {
                    view.opaque.insert(name.to_owned(), kind);
                }
            }
        }
        view
    }

    /// Sets the value under a name, an opaque one, too. A name that exists keeps its place and its
    /// own spelling: Python 2's `str` stays `str`.
    ///
    /// # Errors
    ///
    /// [`PickleError::Number`] and, if the arena is full, [`PickleError::Excess`]. The session is as
    /// it was.
    pub fn set(&mut self, name: &str, json: &Json) -> Result<(), PickleError> {
        let value = value::add(&mut self.arena, self.protocol, json)?;
        let mut existing = self.entries_of(name).into_iter();
        if let Some((first, key)) = existing.next() {
            self.arena.replace_op(first, Op::SetItem(key, value));
            let doubles: Vec<OpId> = existing.map(|(entry, _)| entry).collect();
            self.arena.remove_ops(self.root, &doubles);
            return Ok(());
        }
        let key = value::add_text(&mut self.arena, self.protocol, name)?;
        self.arena
            .push_op(self.root, Op::SetItem(key, value))
            .map_err(|_full| PickleError::Excess)
    }

    /// Deletes a name with its value, an opaque one, too: nothing of it is written any more, except
    /// what other values share. Says whether it was there.
    pub fn delete(&mut self, name: &str) -> bool {
        let existing = self.entries_of(name).into_iter();
        let entries: Vec<OpId> = existing.map(|(entry, _)| entry).collect();
        self.arena.remove_ops(self.root, &entries);
        !entries.is_empty()
    }

    /// Deletes the entries whose name is not text.
    pub fn delete_unnamed(&mut self) {
        let entries = self.arena.op_ids(self.root);
        let unnamed: Vec<OpId> = entries
            .filter(|&(_, op)| self.entry(op).is_none())
            .map(|(entry, _)| entry)
            .collect();
        self.arena.remove_ops(self.root, &unnamed);
    }

    /// Deletes everything, also what has no name.
    pub fn clear(&mut self) {
        self.arena.clear_ops(self.root);
    }

    /// Writes the session, in its protocol. It need not have changed.
    ///
    /// # Errors
    ///
    /// [`PickleError::Excess`] when the limits would not let it be read again, and
    /// [`PickleError::Entangled`] when it has an object that only Python can write. Trying again is
    /// no use, except after other edits.
    pub fn write(&self) -> Result<Vec<u8>, PickleError> {
        writer::write(&self.arena, self.root, self.protocol)
    }

    /// Name and value of an entry that has a name.
    fn entry(&self, op: Op) -> Option<(&str, NodeId)> {
        match op {
            Op::SetItem(key, value) => Some((self.arena.text_of(key)?, value)),
            Op::Append(_) | Op::Add(_) | Op::Build(_) => None,
        }
    }

    /// Where a name is set, and the objects that say so. More than once is possible: in Python 2,
    /// `'a'` and `u'a'` are the same key.
    fn entries_of(&self, name: &str) -> Vec<(OpId, NodeId)> {
        let entries = self.arena.op_ids(self.root);
        entries
            .filter_map(|(entry, op)| match op {
                Op::SetItem(key, _) => Some((entry, key)),
                Op::Append(_) | Op::Add(_) | Op::Build(_) => None,
            })
            .filter(|&(_, key)| self.arena.text_of(key) == Some(name))
            .collect()
    }
}

impl fmt::Debug for Pickle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.arena.ops(self.root).count();
        let protocol = self.protocol.number();
        write!(f, "Pickle({entries} entries, protocol {protocol})")
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (values, opaque) = (self.values.len(), self.opaque.len());
        let unnamed = self.unnamed;
        write!(
            f,
            "View({values} values, {opaque} opaque, {unnamed} unnamed)"
        )
    }
}

#[cfg(test)]
mod tests;
