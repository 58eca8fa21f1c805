//! The objects that a pickle refers back to, by number.

use std::collections::BTreeMap;

use super::arena::NodeId;

/// Picklers count from 0 or from 1 without gaps, so most lookups are one step. A number far beyond
/// goes to a map: it never sizes an allocation.
#[derive(Default)]
pub(super) struct Memo {
    dense: Vec<Option<NodeId>>,
    sparse: BTreeMap<u32, NodeId>,
    count: usize,
}

impl Memo {
    pub(super) fn get(&self, number: u32) -> Option<NodeId> {
        self.in_dense(number)
            .or_else(|| self.sparse.get(&number).copied())
    }

    pub(super) fn put(&mut self, number: u32, node: NodeId) {
        if self.get(number).is_none() {
            self.count += 1;
        }
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        if index == self.dense.len() + 1 {
            self.dense.push(None);
        }
        if let Some(slot) = self.dense.get_mut(index) {
            *slot = Some(node);
        } else if index == self.dense.len() {
            self.dense.push(Some(node));
        } else {
            self.sparse.insert(number, node);
        }
    }

    /// How many numbers are taken: the number that MEMOIZE gives next.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    fn in_dense(&self, number: u32) -> Option<NodeId> {
        let index = usize::try_from(number).ok()?;
        self.dense.get(index).copied().flatten()
    }
}
