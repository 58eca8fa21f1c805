//! Opcodes that make objects of others, and those that change objects.

use super::super::arena::{Form, How, Kids, Op};
use super::super::error::Problem;
use super::super::opcode;
use super::Reader;

impl Reader<'_> {
    pub(super) fn container(&mut self, opcode: u8) -> Result<(), Problem> {
        match opcode {
            opcode::EMPTY_LIST => self.make(Form::List).map(|_node| ()),
            opcode::EMPTY_DICT => self.make(Form::Dict).map(|_node| ()),
            opcode::EMPTY_SET => self.make(Form::Set).map(|_node| ()),
            opcode::LIST => {
                let items = self.pop_mark()?;
                let list = self.make(Form::List)?;
                for item in items {
                    self.change_by(list, Op::Append(item))?;
                }
                Ok(())
            }
            opcode::DICT => {
                let items = self.pop_mark()?;
                let dict = self.make(Form::Dict)?;
                for item in pairs(&items)? {
                    self.change_by(dict, item)?;
                }
                Ok(())
            }
            opcode::EMPTY_TUPLE => self.build_of(How::Tuple, []),
            opcode::TUPLE1 => self.build::<1>(How::Tuple),
            opcode::TUPLE2 => self.build::<2>(How::Tuple),
            opcode::TUPLE3 => self.build::<3>(How::Tuple),
            opcode::FROZENSET => self.build_marked(How::FrozenSet),
            _ => self.build_marked(How::Tuple),
        }
    }

    pub(super) fn object(&mut self, opcode: u8, start: usize) -> Result<(), Problem> {
        match opcode {
            opcode::STACK_GLOBAL => self.build::<2>(How::StackGlobal),
            opcode::REDUCE => self.build::<2>(How::Reduce),
            opcode::NEWOBJ => self.build::<2>(How::NewObj),
            opcode::NEWOBJ_EX => self.build::<3>(How::NewObjEx),
            opcode::OBJ => {
                let items = self.pop_mark()?;
                if items.is_empty() {
                    return Err(Problem::ItemCount);
                }
                self.build_of(How::Obj, items)
            }
            _ => {
                self.cursor.line()?;
                self.cursor.line()?;
                let raw = self.raw(start)?;
                self.build_marked(How::Inst(raw))
            }
        }
    }

    pub(super) fn change(&mut self, opcode: u8) -> Result<(), Problem> {
        match opcode {
            opcode::APPEND => {
                let item = self.pop()?;
                self.change_by(self.target()?, Op::Append(item))
            }
            opcode::SETITEM => {
                let [key, value] = self.pop_many()?;
                self.change_by(self.target()?, Op::SetItem(key, value))
            }
            opcode::BUILD => {
                let state = self.pop()?;
                self.change_by(self.target()?, Op::Build(state))
            }
            opcode::APPENDS => {
                let items = self.pop_mark()?;
                self.change_by_all(items.into_iter().map(Op::Append))
            }
            opcode::ADDITEMS => {
                let items = self.pop_mark()?;
                self.change_by_all(items.into_iter().map(Op::Add))
            }
            _ => {
                let items = self.pop_mark()?;
                self.change_by_all(pairs(&items)?)
            }
        }
    }

    /// No change at all needs no target.
    fn change_by_all(&mut self, ops: impl Iterator<Item = Op>) -> Result<(), Problem> {
        for op in ops {
            self.change_by(self.target()?, op)?;
        }
        Ok(())
    }

    fn build<const N: usize>(&mut self, how: How) -> Result<(), Problem> {
        let kids = self.pop_many::<N>()?;
        self.build_of(how, kids)
    }

    fn build_marked(&mut self, how: How) -> Result<(), Problem> {
        let kids = self.pop_mark()?;
        self.build_of(how, kids)
    }

    fn build_of(
        &mut self,
        how: How,
        kids: impl IntoIterator<Item = super::NodeId>,
    ) -> Result<(), Problem> {
        let kids: Kids = self.arena.add_kids(kids)?;
        self.make(Form::Built { how, kids }).map(|_node| ())
    }
}

/// Keys and values by turns.
fn pairs(items: &[super::NodeId]) -> Result<impl Iterator<Item = Op>, Problem> {
    let (pairs, []) = items.as_chunks::<2>() else {
        return Err(Problem::ItemCount);
    };
    Ok(pairs.iter().map(|&[key, value]| Op::SetItem(key, value)))
}
