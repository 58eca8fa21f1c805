//! Objects as JSON, where JSON can say exactly what they are.

use std::io::Write as _;

use super::Kind;
use super::arena::{Arena, Form, How, Kids, NodeId, Op, OpId, Scalar};
use super::global;
use super::limits::{MAX_DEPTH, MAX_JSON, MAX_WORK};
use super::literal;
use crate::session::Json;

/// Turns objects into JSON, one after the other, until the text of all of them is too much.
pub(super) struct Viewer<'a> {
    arena: &'a Arena,
    /// Bytes that the texts may still have.
    budget: usize,
    /// Bytes that may still be written, and members that may still be looked at, whether or not
    /// they end up in a text: one value that is too much must not hide all that comes after it.
    work: usize,
    text: Vec<u8>,
    open: Vec<Container>,
    /// What is left of the open dictionaries, the innermost last, each in descending order.
    members: Vec<(&'a str, NodeId)>,
}

/// A list or dictionary that is being written.
struct Container {
    node: NodeId,
    rest: Rest,
}

enum Rest {
    /// A list goes on with this change.
    Items(Option<OpId>),
    /// A dictionary has the members above this height.
    Members(usize),
}

impl<'a> Viewer<'a> {
    pub(super) fn new(arena: &'a Arena) -> Self {
        Self {
            arena,
            budget: MAX_JSON,
            work: MAX_WORK,
            text: Vec::new(),
            open: Vec::new(),
            members: Vec::new(),
        }
    }

    /// The canonical JSON of an object, or what keeps it from being JSON.
    pub(super) fn json(&mut self, node: NodeId) -> Result<Json, Kind> {
        self.text.clear();
        self.open.clear();
        self.members.clear();
        let complete = self.write(node);
        self.work = self.work.saturating_sub(self.text.len());
        complete?;
        self.budget = self.budget.saturating_sub(self.text.len());
        Ok(Json::from_canonical(
            str::from_utf8(&self.text).unwrap_or_default(),
        ))
    }

    fn write(&mut self, node: NodeId) -> Result<(), Kind> {
        self.value(node)?;
        while let Some(container) = self.open.last_mut() {
            match container.rest {
                Rest::Items(Some(op)) => {
                    let (op, next) = self.arena.op(op);
                    container.rest = Rest::Items(next);
                    let Op::Append(item) = op else {
                        return Err(Kind::Object);
                    };
                    self.separate();
                    self.value(item)?;
                }
                Rest::Members(height) if self.members.len() > height => {
                    let (key, value) = self.members.pop().ok_or(Kind::Object)?;
                    self.separate();
                    Json::write_string(&mut self.text, key);
                    self.text.push(b':');
                    self.value(value)?;
                }
                Rest::Items(None) => self.close(b']'),
                Rest::Members(_) => self.close(b'}'),
            }
        }
        Ok(())
    }

    /// Writes a comma, except before the first item.
    fn separate(&mut self) {
        if !matches!(self.text.last(), Some(b'[' | b'{')) {
            self.text.push(b',');
        }
    }

    fn close(&mut self, bracket: u8) {
        self.text.push(bracket);
        self.open.pop();
    }

    /// Writes a scalar, or opens a container.
    fn value(&mut self, node: NodeId) -> Result<(), Kind> {
        match self.arena.form(node) {
            Form::Atom { scalar, .. } => self.scalar(scalar)?,
            Form::List => {
                let items = Rest::Items(self.arena.first_op(node));
                self.enter(node, b'[', items)?;
            }
            Form::Dict => {
                let members = Rest::Members(self.members.len());
                self.enter(node, b'{', members)?;
                self.gather(node)?;
            }
            Form::Set => return Err(Kind::Set),
            Form::Built { how, kids } => return Err(self.kind_of(how, kids)),
        }
        if self.text.len() > self.budget.min(self.work) {
            return Err(Kind::Large);
        }
        Ok(())
    }

    fn scalar(&mut self, scalar: Scalar) -> Result<(), Kind> {
        let text = &mut self.text;
        // A Vec takes every write.
        let _never = match scalar {
            Scalar::None => text.write_all(b"null"),
            Scalar::Bool(value) => write!(text, "{value}"),
            Scalar::Int(number) => text.write_all(itoa::Buffer::new().format(number).as_bytes()),
            Scalar::Unsigned(number) => {
                text.write_all(itoa::Buffer::new().format(number).as_bytes())
            }
            Scalar::Float(number) => text.write_all(literal::spell_float(number).as_bytes()),
            Scalar::Text(span) => {
                Json::write_string(text, self.arena.text(span));
                Ok(())
            }
            Scalar::Foreign(kind) => return Err(kind),
        };
        Ok(())
    }

    fn enter(&mut self, node: NodeId, bracket: u8, rest: Rest) -> Result<(), Kind> {
        if self.open.iter().any(|outer| outer.node == node) {
            return Err(Kind::Recursive);
        }
        if self.open.len() == MAX_DEPTH {
            return Err(Kind::Deep);
        }
        self.text.push(bracket);
        self.open.push(Container { node, rest });
        Ok(())
    }

    /// Puts the members of a dictionary on the list, the first by key on top. Of several under the
    /// same key the last counts.
    fn gather(&mut self, dict: NodeId) -> Result<(), Kind> {
        let height = self.members.len();
        for op in self.arena.ops(dict) {
            let Op::SetItem(key, value) = op else {
                return Err(Kind::Object);
            };
            let key = self.arena.text_of(key).ok_or(Kind::Key)?;
            self.members.push((key, value));
            self.work = self.work.checked_sub(1).ok_or(Kind::Large)?;
        }
        // Both steps are stable: the last one set comes first, and stays.
        let mut gathered = self.members.split_off(height);
        gathered.reverse();
        gathered.sort_by(|(one, _), (other, _)| other.cmp(one));
        gathered.dedup_by(|(one, _), (other, _)| one == other);
        self.members.append(&mut gathered);
        Ok(())
    }

    fn kind_of(&self, how: How, kids: Kids) -> Kind {
        match how {
            How::Tuple => Kind::Tuple,
            How::FrozenSet => Kind::Set,
            How::Reduce => {
                let callable = self.arena.kids(kids).first();
                callable.map_or(Kind::Object, |&callable| global::kind(self.arena, callable))
            }
            How::NewObj | How::NewObjEx | How::Obj | How::Inst(_) | How::StackGlobal => {
                Kind::Object
            }
        }
    }
}
