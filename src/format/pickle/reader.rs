//! The symbolic reader: runs the opcodes over an arena, imports nothing and calls nothing.

mod atom;
mod build;

use bytes::Bytes;

use super::Protocol;
use super::arena::{Arena, Form, How, NodeId, Op};
use super::cursor::Cursor;
use super::error::{PickleError, Problem};
use super::limits::{MAX_BYTES, MAX_MARKS, MAX_NODES};
use super::memo::Memo;
use super::opcode;

/// What a pickle holds, whatever it is.
pub(super) struct Content {
    pub(super) arena: Arena,
    pub(super) root: NodeId,
    pub(super) protocol: Protocol,
}

/// Reads one object that fills the whole of `blob`.
pub(super) fn read(blob: &Bytes) -> Result<Content, PickleError> {
    if blob.len() > MAX_BYTES {
        return Err(unreadable(MAX_BYTES, Problem::TooLarge));
    }
    let mut reader = Reader {
        cursor: Cursor::new(blob),
        arena: Arena::new(blob.clone()),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Memo::default(),
        nodes: 0,
        protocol: 0,
        frame_end: None,
    };
    loop {
        let start = reader.cursor.position();
        let more = reader
            .step(start)
            .map_err(|problem| unreadable(start, problem))?;
        if !more {
            return reader
                .finish()
                .map_err(|problem| unreadable(start, problem));
        }
    }
}

/// The error for the opcode that stands at `offset`.
pub(super) fn unreadable(offset: usize, problem: Problem) -> PickleError {
    PickleError::Unreadable {
        position: offset + 1,
        problem,
    }
}

struct Reader<'a> {
    cursor: Cursor<'a>,
    arena: Arena,
    stack: Vec<Slot>,
    /// The heights of the stack at the open marks.
    marks: Vec<usize>,
    memo: Memo,
    /// Objects, references and changes so far.
    nodes: usize,
    protocol: u8,
    frame_end: Option<usize>,
}

#[derive(Clone, Copy)]
struct Slot {
    node: NodeId,
    /// Whether the opcode that made the object put it there, and not a reference.
    made: bool,
}

impl Reader<'_> {
    /// Runs the next opcode; `false` after the last.
    fn step(&mut self, start: usize) -> Result<bool, Problem> {
        let code = self.cursor.byte()?;
        self.protocol = self.protocol.max(opcode::introduced_in(code));
        match code {
            opcode::STOP => return Ok(false),
            opcode::PROTO => self.proto()?,
            opcode::FRAME => {
                self.frame()?;
                return Ok(true);
            }
            opcode::MARK => self.mark()?,
            opcode::POP => self.pop_or_unmark()?,
            opcode::POP_MARK => {
                self.pop_mark()?;
            }
            opcode::DUP => self.refer_to(self.top()?.node)?,
            opcode::PUT | opcode::BINPUT | opcode::LONG_BINPUT | opcode::MEMOIZE => {
                self.put(code)?;
            }
            opcode::GET | opcode::BINGET | opcode::LONG_BINGET => self.get(code)?,
            opcode::EMPTY_LIST
            | opcode::EMPTY_DICT
            | opcode::EMPTY_SET
            | opcode::EMPTY_TUPLE
            | opcode::LIST
            | opcode::DICT
            | opcode::TUPLE
            | opcode::TUPLE1
            | opcode::TUPLE2
            | opcode::TUPLE3
            | opcode::FROZENSET => self.container(code)?,
            opcode::APPEND
            | opcode::APPENDS
            | opcode::SETITEM
            | opcode::SETITEMS
            | opcode::ADDITEMS
            | opcode::BUILD => self.change(code)?,
            opcode::STACK_GLOBAL
            | opcode::REDUCE
            | opcode::NEWOBJ
            | opcode::NEWOBJ_EX
            | opcode::OBJ
            | opcode::INST => {
                self.object(code, start)?;
            }
            _ => self.atom(code, start)?,
        }
        let end = self.cursor.position();
        match self.frame_end {
            Some(frame_end) if start < frame_end && frame_end < end => Err(Problem::Frame),
            _ => Ok(true),
        }
    }

    fn finish(self) -> Result<Content, Problem> {
        if self.cursor.remaining() > 0 {
            return Err(Problem::TrailingBytes);
        }
        match (self.stack.as_slice(), self.marks.as_slice()) {
            ([slot], []) => Ok(Content {
                arena: self.arena,
                root: slot.node,
                protocol: Protocol(self.protocol),
            }),
            _ => Err(Problem::NotOneObject),
        }
    }

    fn proto(&mut self) -> Result<(), Problem> {
        let named = self.cursor.byte()?;
        let known = Protocol::new(named).ok_or(Problem::UnknownProtocol(named))?;
        self.protocol = self.protocol.max(known.number());
        Ok(())
    }

    fn frame(&mut self) -> Result<(), Problem> {
        let len = u64::from_le_bytes(self.cursor.array()?);
        let len = usize::try_from(len).map_err(|_beyond| Problem::Frame)?;
        let start = self.cursor.position();
        if len > self.cursor.remaining() || self.frame_end.is_some_and(|end| start < end) {
            return Err(Problem::Frame);
        }
        self.frame_end = Some(start + len);
        Ok(())
    }

    // --- the memo ---

    fn put(&mut self, opcode: u8) -> Result<(), Problem> {
        let number = match opcode {
            opcode::MEMOIZE => {
                u32::try_from(self.memo.count()).map_err(|_beyond| Problem::MemoNumber)?
            }
            _ => self.memo_number(opcode)?,
        };
        self.memo.put(number, self.top()?.node);
        Ok(())
    }

    fn get(&mut self, opcode: u8) -> Result<(), Problem> {
        let number = self.memo_number(opcode)?;
        self.refer_to(self.memo.get(number).ok_or(Problem::NoSuchMemo)?)
    }

    fn memo_number(&mut self, opcode: u8) -> Result<u32, Problem> {
        Ok(match opcode {
            opcode::BINPUT | opcode::BINGET => self.cursor.byte()?.into(),
            opcode::LONG_BINPUT | opcode::LONG_BINGET => u32::from_le_bytes(self.cursor.array()?),
            _ => return self.memo_number_in_text(),
        })
    }

    // --- the stack ---

    /// Counts an object, a reference or a change.
    fn count(&mut self) -> Result<(), Problem> {
        if self.nodes == MAX_NODES {
            return Err(Problem::TooManyNodes);
        }
        self.nodes += 1;
        Ok(())
    }

    fn make(&mut self, form: Form) -> Result<NodeId, Problem> {
        self.count()?;
        let node = self.arena.add(form)?;
        self.stack.push(Slot { node, made: true });
        Ok(node)
    }

    fn refer_to(&mut self, node: NodeId) -> Result<(), Problem> {
        self.count()?;
        self.stack.push(Slot { node, made: false });
        Ok(())
    }

    fn mark(&mut self) -> Result<(), Problem> {
        if self.marks.len() == MAX_MARKS {
            return Err(Problem::TooManyMarks);
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// What lies below the last mark is out of reach.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or_default()
    }

    fn top(&self) -> Result<Slot, Problem> {
        match self.stack.last() {
            Some(&slot) if self.stack.len() > self.floor() => Ok(slot),
            _ => Err(Problem::StackUnderflow),
        }
    }

    fn pop(&mut self) -> Result<NodeId, Problem> {
        let slot = self.top()?;
        self.stack.pop();
        Ok(slot.node)
    }

    /// The last `N` objects, in the order in which they were made.
    fn pop_many<const N: usize>(&mut self) -> Result<[NodeId; N], Problem> {
        let (below, top) = self
            .stack
            .split_last_chunk::<N>()
            .ok_or(Problem::StackUnderflow)?;
        if below.len() < self.floor() {
            return Err(Problem::StackUnderflow);
        }
        let nodes = top.map(|slot| slot.node);
        self.stack.truncate(self.stack.len() - N);
        Ok(nodes)
    }

    /// POP takes a mark as well, when it is on top.
    fn pop_or_unmark(&mut self) -> Result<(), Problem> {
        if self.marks.last() == Some(&self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(|_dropped| ())
    }

    /// What was put on the stack since the last mark.
    fn pop_mark(&mut self) -> Result<Vec<NodeId>, Problem> {
        let height = self.marks.pop().ok_or(Problem::NoMark)?;
        let items = self.stack.drain(height..);
        Ok(items.map(|slot| slot.node).collect())
    }

    /// The object that a change is for. Every pickler changes what it has just made.
    fn target(&self) -> Result<NodeId, Problem> {
        let slot = self.top()?;
        if !slot.made {
            return Err(Problem::ChangedByReference);
        }
        match self.arena.form(slot.node) {
            Form::Atom { .. }
            | Form::Built {
                how: How::Tuple | How::FrozenSet,
                ..
            } => Err(Problem::Immutable),
            Form::List | Form::Dict | Form::Set | Form::Built { .. } => Ok(slot.node),
        }
    }

    fn change_by(&mut self, target: NodeId, op: Op) -> Result<(), Problem> {
        self.count()?;
        self.arena.push_op(target, op)
    }
}
