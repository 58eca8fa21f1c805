//! Which node has which slot; pure.

use std::fmt;
use std::sync::Arc;

/// How many slots there are; the keys' hash is spread over them.
const SLOTS: usize = 16_384;

/// Which node has which slot. Never changed, but replaced: whoever has one may look at it in peace.
pub(super) struct Layout<N> {
    nodes: Vec<Arc<N>>,
    /// For each slot the place in `nodes`; out of it where nobody has the slot.
    owners: Vec<u16>,
}

const NOBODY: u16 = u16::MAX;

impl<N: fmt::Debug> fmt::Debug for Layout<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = &self.nodes;
        f.debug_struct("Layout")
            .field("nodes", nodes)
            .finish_non_exhaustive()
    }
}

impl<N> Layout<N> {
    /// Nothing is known.
    pub(super) fn empty() -> Self {
        Self {
            nodes: Vec::new(),
            owners: vec![NOBODY; SLOTS],
        }
    }

    pub(super) fn owner(&self, slot: u16) -> Option<&Arc<N>> {
        let place = self.owners.get(usize::from(slot))?;
        self.nodes.get(usize::from(*place))
    }

    /// All nodes, also those that have no slot.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Arc<N>> {
        self.nodes.iter()
    }

    /// Whether each slot has a node.
    pub(super) fn is_whole(&self) -> bool {
        self.owners.iter().all(|place| *place != NOBODY)
    }

    /// The same with this node among the others, without a slot.
    pub(super) fn with_guest(&self, node: &Arc<N>) -> Self {
        let mut layout = self.copy();
        layout.place(node);
        layout
    }

    /// The same, but this node has that slot.
    pub(super) fn with_owner(&self, slot: u16, node: &Arc<N>) -> Self {
        self.with_range(slot, slot, node)
    }

    /// The same, but this node has those slots, the last one included.
    pub(super) fn with_range(&self, first: u16, last: u16, node: &Arc<N>) -> Self {
        let mut layout = self.copy();
        layout.give(first, last, node);
        layout
    }

    /// Of each run of slots with one node: the first, the last and the node.
    pub(super) fn ranges(&self) -> Vec<(usize, usize, &Arc<N>)> {
        let mut ranges = Vec::new();
        let mut next = 0_usize;
        for run in self.owners.chunk_by(|one, other| one == other) {
            let first = next;
            next = first.saturating_add(run.len());
            let owner = run.first().and_then(|p| self.nodes.get(usize::from(*p)));
            if let Some(node) = owner {
                ranges.push((first, next.saturating_sub(1), node));
            }
        }
        ranges
    }

    pub(super) fn give(&mut self, first: u16, last: u16, node: &Arc<N>) {
        let place = self.place(node);
        let slots = usize::from(first)..usize::from(last).saturating_add(1).min(SLOTS);
        if let Some(owners) = self.owners.get_mut(slots) {
            owners.fill(place);
        }
    }

    /// The node's place, where it is put if it has none.
    fn place(&mut self, node: &Arc<N>) -> u16 {
        let known = self.nodes.iter().position(|known| Arc::ptr_eq(known, node));
        let place = known.unwrap_or_else(|| {
            self.nodes.push(Arc::clone(node));
            self.nodes.len().saturating_sub(1)
        });
        // There are no more primaries than slots.
        u16::try_from(place).unwrap_or(NOBODY)
    }

    fn copy(&self) -> Self {
        Self {
            nodes: self.nodes.clone(),
            owners: self.owners.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(layout: &Layout<&'static str>, slots: &[u16]) -> Vec<Option<&'static str>> {
        let owner = |slot: &u16| layout.owner(*slot).map(|node| **node);
        slots.iter().map(owner).collect()
    }

    #[test]
    fn each_slot_has_the_node_that_was_given_last() {
        let (a, b) = (Arc::new("a"), Arc::new("b"));
        let mut layout = Layout::empty();
        assert_eq!(owners(&layout, &[0, 16_383]), [None, None]);
        layout.give(0, 8191, &a);
        assert!(!layout.is_whole());
        layout.give(8192, 16_383, &b);
        assert!(layout.is_whole());
        let moved = layout.with_owner(100, &b);
        let slots = [0, 99, 100, 101, 8191, 8192, 16_383, 16_384];
        assert_eq!(
            owners(&moved, &slots),
            [
                Some("a"),
                Some("a"),
                Some("b"),
                Some("a"),
                Some("a"),
                Some("b"),
                Some("b"),
                None
            ]
        );
        assert_eq!(owners(&layout, &[100]), [Some("a")], "it is another one");
        assert_eq!(moved.nodes().count(), 2);
    }

    #[test]
    fn guests_have_no_slots() {
        let (a, b) = (Arc::new("a"), Arc::new("b"));
        let mut layout = Layout::empty();
        layout.give(0, 16_383, &a);
        let with = layout.with_guest(&b).with_guest(&b);
        assert_eq!(with.nodes().count(), 2);
        assert_eq!(with.ranges(), [(0, 16_383, &a)]);
    }

    #[test]
    fn ranges_are_what_they_were_made_of() {
        let (a, b) = (Arc::new("a"), Arc::new("b"));
        let mut layout = Layout::empty();
        layout.give(10, 20, &a);
        layout.give(21, 30, &b);
        layout.give(40, 40, &a);
        assert_eq!(layout.ranges(), [(10, 20, &a), (21, 30, &b), (40, 40, &a)]);
    }
}
