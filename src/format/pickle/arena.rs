//! The objects of a pickle, side by side and connected by numbers.
//!
//! A pickle is a program that builds objects. An object is kept here as that program built it:
//! its form, and then what was done to it, in order. So it can be written again, and since nothing
//! owns anything, no depth of nesting costs stack, not even when all is dropped.

use bytes::Bytes;

use super::Kind;
use super::error::Problem;

/// An object.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeId(u32);

/// One change of an object.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct OpId(u32);

/// Bytes of the pickle, or of those that were added.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start: u32,
    len: u32,
}

/// The objects that another was built from: a range of [`Arena::kids`].
#[derive(Clone, Copy)]
pub(super) struct Kids {
    start: u32,
    len: u32,
}

#[derive(Clone)]
pub(super) struct Node {
    pub(super) form: Form,
    ops: Option<(OpId, OpId)>,
}

#[derive(Clone, Copy)]
pub(super) enum Form {
    /// Something without parts: the bytes of its opcode with the argument, and what they mean.
    Atom {
        raw: Span,
        scalar: Scalar,
    },
    List,
    Dict,
    Set,
    /// Something that needs its parts before it exists.
    Built {
        how: How,
        kids: Kids,
    },
}

#[derive(Clone, Copy)]
pub(super) enum Scalar {
    None,
    Bool(bool),
    Int(i64),
    /// Only what is above `i64::MAX`.
    Unsigned(u64),
    /// Only finite ones.
    Float(f64),
    /// Valid UTF-8, unescaped.
    Text(Span),
    /// Nothing that JSON has.
    Foreign(Kind),
}

/// By which opcode something is built from its parts.
#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    Tuple,
    FrozenSet,
    /// A callable and its arguments.
    Reduce,
    /// A class and its arguments.
    NewObj,
    /// A class, its arguments and its keyword arguments.
    NewObjEx,
    /// A class and each of its arguments.
    Obj,
    /// Each of the arguments; the class is in the bytes of the opcode.
    Inst(Span),
    /// Module and name.
    StackGlobal,
}

/// What is done to an object that exists.
#[derive(Clone, Copy)]
pub(super) enum Op {
    Append(NodeId),
    SetItem(NodeId, NodeId),
    Add(NodeId),
    Build(NodeId),
}

/// A change, and the next one of the same object.
#[derive(Clone, Copy)]
struct Link {
    op: Op,
    next: Option<OpId>,
}

#[derive(Clone)]
pub(super) struct Arena {
    input: Bytes,
    added: Vec<u8>,
    nodes: Vec<Node>,
    kids: Vec<NodeId>,
    links: Vec<Link>,
}

impl Op {
    /// The objects that it takes, in the order in which they are written.
    pub(super) fn operands(self) -> (NodeId, Option<NodeId>) {
        match self {
            Self::Append(item) | Self::Add(item) | Self::Build(item) => (item, None),
            Self::SetItem(key, value) => (key, Some(value)),
        }
    }
}

impl Arena {
    pub(super) fn new(input: Bytes) -> Self {
        Self {
            input,
            added: Vec::new(),
            nodes: Vec::new(),
            kids: Vec::new(),
            links: Vec::new(),
        }
    }

    /// An arena with nothing but an empty dictionary.
    pub(super) fn of_empty_dict() -> (Self, NodeId) {
        let mut arena = Self::new(Bytes::new());
        arena.nodes.push(Node {
            form: Form::Dict,
            ops: None,
        });
        (arena, NodeId(0))
    }

    /// How many objects there are or ever were.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    // --- bytes ---

    /// Bytes `start..end` of the pickle.
    pub(super) fn span(start: usize, end: usize) -> Result<Span, Problem> {
        Ok(Span {
            start: number(start)?,
            len: number(end.saturating_sub(start))?,
        })
    }

    /// Keeps bytes that the pickle does not have as they are.
    pub(super) fn add_bytes(&mut self, bytes: &[u8]) -> Result<Span, Problem> {
        let start = self.input.len() + self.added.len();
        let span = Self::span(start, start + bytes.len())?;
        self.added.extend_from_slice(bytes);
        Ok(span)
    }

    pub(super) fn bytes(&self, span: Span) -> &[u8] {
        let (start, len) = (widen(span.start), widen(span.len));
        let found = match start.checked_sub(self.input.len()) {
            Some(start) => self.added.get(start..start + len),
            None => self.input.get(start..start + len),
        };
        found.unwrap_or_default()
    }

    /// The text of a [`Scalar::Text`].
    pub(super) fn text(&self, span: Span) -> &str {
        str::from_utf8(self.bytes(span)).unwrap_or_default()
    }

    // --- objects ---

    pub(super) fn add(&mut self, form: Form) -> Result<NodeId, Problem> {
        let id = NodeId(number(self.nodes.len())?);
        self.nodes.push(Node { form, ops: None });
        Ok(id)
    }

    pub(super) fn add_kids(
        &mut self,
        kids: impl IntoIterator<Item = NodeId>,
    ) -> Result<Kids, Problem> {
        let start = self.kids.len();
        self.kids.extend(kids);
        Ok(Kids {
            start: number(start)?,
            len: number(self.kids.len() - start)?,
        })
    }

    pub(super) fn form(&self, id: NodeId) -> Form {
        self.node(id).form
    }

    pub(super) fn kids(&self, kids: Kids) -> &[NodeId] {
        let start = widen(kids.start);
        self.kids
            .get(start..start + widen(kids.len))
            .unwrap_or_default()
    }

    /// The text of an atom that is text.
    pub(super) fn text_of(&self, id: NodeId) -> Option<&str> {
        match self.form(id) {
            Form::Atom {
                scalar: Scalar::Text(span),
                ..
            } => Some(self.text(span)),
            Form::Atom { .. } | Form::List | Form::Dict | Form::Set | Form::Built { .. } => None,
        }
    }

    fn node(&self, id: NodeId) -> &Node {
        self.nodes.get(id.index()).expect("ids stay in their arena")
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes
            .get_mut(id.index())
            .expect("ids stay in their arena")
    }

    // --- changes ---

    pub(super) fn push_op(&mut self, id: NodeId, op: Op) -> Result<(), Problem> {
        let new = OpId(number(self.links.len())?);
        self.links.push(Link { op, next: None });
        let ops = &mut self.node_mut(id).ops;
        let before = ops.replace((ops.map_or(new, |(first, _)| first), new));
        if let Some((_, last)) = before {
            self.link_mut(last).next = Some(new);
        }
        Ok(())
    }

    /// Forgets every change of an object.
    pub(super) fn clear_ops(&mut self, id: NodeId) {
        self.node_mut(id).ops = None;
    }

    pub(super) fn first_op(&self, id: NodeId) -> Option<OpId> {
        self.node(id).ops.map(|(first, _)| first)
    }

    /// A change, and the next one of the same object.
    pub(super) fn op(&self, id: OpId) -> (Op, Option<OpId>) {
        let link = self.links.get(widen(id.0));
        let link = link.expect("ids stay in their arena");
        (link.op, link.next)
    }

    pub(super) fn ops(&self, id: NodeId) -> impl Iterator<Item = Op> {
        self.op_ids(id).map(|(_, op)| op)
    }

    pub(super) fn op_ids(&self, id: NodeId) -> impl Iterator<Item = (OpId, Op)> {
        self.op_ids_from(self.first_op(id))
    }

    pub(super) fn op_ids_from(&self, mut next: Option<OpId>) -> impl Iterator<Item = (OpId, Op)> {
        std::iter::from_fn(move || {
            let id = next?;
            let (op, after) = self.op(id);
            next = after;
            Some((id, op))
        })
    }

    pub(super) fn replace_op(&mut self, id: OpId, op: Op) {
        self.link_mut(id).op = op;
    }

    /// Takes out some changes of an object; they are given in their order.
    pub(super) fn remove_ops(&mut self, id: NodeId, doomed: &[OpId]) {
        let mut doomed = doomed.iter().copied().peekable();
        let mut kept: Option<(OpId, OpId)> = None;
        let mut next = self.first_op(id);
        while let Some(op) = next {
            next = self.op(op).1;
            if doomed.next_if_eq(&op).is_some() {
                continue;
            }
            if let Some((_, last)) = kept {
                self.link_mut(last).next = Some(op);
            }
            kept = Some((kept.map_or(op, |(first, _)| first), op));
        }
        if let Some((_, last)) = kept {
            self.link_mut(last).next = None;
        }
        self.node_mut(id).ops = kept;
    }

    fn link_mut(&mut self, id: OpId) -> &mut Link {
        let link = self.links.get_mut(widen(id.0));
        link.expect("ids stay in their arena")
    }
}

impl NodeId {
    pub(super) fn index(self) -> usize {
        widen(self.0)
    }
}

fn number(size: usize) -> Result<u32, Problem> {
    u32::try_from(size).map_err(|_beyond| Problem::TooManyNodes)
}

fn widen(number: u32) -> usize {
    usize::try_from(number).expect("a usize has at least 32 bits")
}
