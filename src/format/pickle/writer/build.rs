//! Writes objects: references, atoms, and the opcodes that build the rest.

use super::super::arena::{Form, How, Kids, NodeId};
use super::super::error::PickleError;
use super::super::opcode;
use super::{At, Frame, Stop, Writer};

impl Writer<'_> {
    /// Writes a reference, an atom, or the beginning of anything else.
    pub(super) fn enter(&mut self, node: NodeId) -> Result<(), Stop> {
        self.count()?;
        if let Some(number) = self.memo_of(node) {
            self.get(number);
            return Ok(());
        }
        match self.arena.form(node) {
            Form::Atom { raw, .. } => {
                self.body.extend_from_slice(self.arena.bytes(raw));
                if self.is_shared(node) {
                    self.put(node);
                }
            }
            Form::List => self.open(node, b"(l", opcode::EMPTY_LIST),
            Form::Dict => self.open(node, b"(d", opcode::EMPTY_DICT),
            Form::Set => self.open(node, &[opcode::EMPTY_SET], opcode::EMPTY_SET),
            Form::Built { how, kids } => {
                if self.set_building(node, true) {
                    self.enter_again(how)?;
                }
                if self.has_mark(how, kids) {
                    self.mark()?;
                }
                let at = At::Part { how, kids, next: 0 };
                self.frames.push(Frame { node, at });
            }
        }
        Ok(())
    }

    /// Whether something may be begun once more inside itself.
    fn enter_again(&self, how: How) -> Result<(), Stop> {
        match how {
            // Only which parts they have counts, and not what these hold by then.
            How::Tuple | How::FrozenSet if self.memoize_all => Ok(()),
            How::Tuple | How::FrozenSet => Err(Stop::Entered),
            // What is called would find lists half full that were full when it was read.
            How::Reduce
            | How::NewObj
            | How::NewObjEx
            | How::Obj
            | How::Inst(_)
            | How::StackGlobal => Err(Stop::Refused(PickleError::Entangled)),
        }
    }

    /// Writes an empty container. It gets its memo entry before its contents, which may refer to
    /// it.
    fn open(&mut self, node: NodeId, in_protocol_0: &[u8], opcode: u8) {
        if self.protocol == 0 {
            self.body.extend_from_slice(in_protocol_0);
        } else {
            self.body.push(opcode);
        }
        self.begin_changes(node);
    }

    /// Whether the parts stand after a mark.
    fn has_mark(&self, how: How, kids: Kids) -> bool {
        match (how, self.arena.kids(kids).len()) {
            (How::Tuple, 0) => self.protocol == 0,
            (How::Tuple, 1..=3) => self.protocol < 2,
            (How::Tuple | How::FrozenSet | How::Obj | How::Inst(_), _) => true,
            (How::Reduce | How::NewObj | How::NewObjEx | How::StackGlobal, _) => false,
        }
    }

    /// Writes the opcode that builds an object from its parts.
    pub(super) fn build(&mut self, node: NodeId, how: How, kids: Kids) {
        let marked = self.has_mark(how, kids);
        let len = self.arena.kids(kids).len();
        self.marks -= usize::from(marked);
        self.set_building(node, false);
        if let Some(number) = self.memo_of(node) {
            // One of the parts has built it. POP takes marks as well, and protocol 0 has no
            // POP_MARK.
            match (marked, self.protocol) {
                (true, 1..) => self.body.push(opcode::POP_MARK),
                _ => self
                    .body
                    .extend((0..len + usize::from(marked)).map(|_| opcode::POP)),
            }
            self.get(number);
            return;
        }
        match (how, len) {
            (How::Tuple, 0) if !marked => self.body.push(opcode::EMPTY_TUPLE),
            (How::Tuple, 1) if !marked => self.body.push(opcode::TUPLE1),
            (How::Tuple, 2) if !marked => self.body.push(opcode::TUPLE2),
            (How::Tuple, 3) if !marked => self.body.push(opcode::TUPLE3),
            (How::Tuple, _) => self.body.push(opcode::TUPLE),
            (How::FrozenSet, _) => self.body.push(opcode::FROZENSET),
            (How::Reduce, _) => self.body.push(opcode::REDUCE),
            (How::NewObj, _) => self.body.push(opcode::NEWOBJ),
            (How::NewObjEx, _) => self.body.push(opcode::NEWOBJ_EX),
            (How::Obj, _) => self.body.push(opcode::OBJ),
            (How::Inst(raw), _) => self.body.extend_from_slice(self.arena.bytes(raw)),
            (How::StackGlobal, _) => self.body.push(opcode::STACK_GLOBAL),
        }
        self.begin_changes(node);
    }

    fn begin_changes(&mut self, node: NodeId) {
        if self.memoize_all || self.is_shared(node) {
            self.put(node);
        }
        let at = At::Between(self.arena.first_op(node));
        self.frames.push(Frame { node, at });
    }
}
