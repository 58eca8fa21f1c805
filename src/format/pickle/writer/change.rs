//! Writes what is done to an object after it was built, many changes with one opcode.

use super::super::arena::{Op, OpId};
use super::super::limits::BATCH;
use super::super::opcode;
use super::{At, Stop, Writer};

/// A change that is being written.
#[derive(Clone, Copy)]
pub(super) struct Change {
    op: Op,
    after: Option<OpId>,
    /// Which operand comes next.
    operand: u8,
    /// Whether it stands between a mark and one opcode for many.
    batched: bool,
    /// How many more of the batch follow.
    left: usize,
}

impl Writer<'_> {
    /// Begins a run of changes of one kind, after a mark if there are several.
    pub(super) fn begin_batch(&mut self, first: OpId) -> Result<Change, Stop> {
        let (op, after) = self.arena.op(first);
        let kind = std::mem::discriminant(&op);
        let following = self.arena.op_ids_from(after).take(BATCH - 1);
        let same = |(_, next): &(OpId, Op)| std::mem::discriminant(next) == kind;
        let left = match op {
            Op::Build(_) => 0,
            Op::Append(_) | Op::SetItem(..) if self.protocol == 0 => 0,
            Op::Append(_) | Op::SetItem(..) | Op::Add(_) => following.take_while(same).count(),
        };
        let batched = left > 0 || matches!(op, Op::Add(_));
        if batched {
            self.mark()?;
        }
        self.count()?;
        Ok(Change {
            op,
            after,
            operand: 0,
            batched,
            left,
        })
    }

    /// Writes the next operand, or else ends this change.
    pub(super) fn change(&mut self, change: Change) -> Result<(), Stop> {
        let (first, second) = change.op.operands();
        let operand = match change.operand {
            0 => Some(first),
            1 => second,
            _ => None,
        };
        if let Some(operand) = operand {
            self.go_on(At::Change(Change {
                operand: change.operand + 1,
                ..change
            }));
            return self.enter(operand);
        }
        if let (Some(next), 1..) = (change.after, change.left) {
            self.count()?;
            let (op, after) = self.arena.op(next);
            self.go_on(At::Change(Change {
                op,
                after,
                operand: 0,
                batched: change.batched,
                left: change.left - 1,
            }));
            return Ok(());
        }
        self.marks -= usize::from(change.batched);
        self.body.push(match (change.op, change.batched) {
            (Op::Append(_), false) => opcode::APPEND,
            (Op::Append(_), true) => opcode::APPENDS,
            (Op::SetItem(..), false) => opcode::SETITEM,
            (Op::SetItem(..), true) => opcode::SETITEMS,
            (Op::Add(_), _) => opcode::ADDITEMS,
            (Op::Build(_), _) => opcode::BUILD,
        });
        self.go_on(At::Between(change.after));
        Ok(())
    }
}
