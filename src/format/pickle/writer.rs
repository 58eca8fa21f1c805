//! Writes objects as the pickle that builds them again.
//!
//! What was read is written in the order in which it was built, and an object that stands in
//! several places is built once and referred to. It is spelt as Python's picklers spell it, except
//! that only those objects get a memo entry that are referred to.

mod build;
mod change;

use self::change::Change;
use super::Protocol;
use super::arena::{Arena, Form, How, Kids, NodeId, OpId};
use super::error::PickleError;
use super::limits::{MAX_BYTES, MAX_MARKS, MAX_NODES};
use super::opcode;

/// Writes one object.
///
/// # Errors
///
/// [`PickleError::Excess`] when the pickle could not be read again, [`PickleError::Entangled`] when
/// it would not build the same objects.
pub(super) fn write(
    arena: &Arena,
    root: NodeId,
    protocol: Protocol,
) -> Result<Vec<u8>, PickleError> {
    let shared = shared(arena, root);
    let body = match Writer::new(arena, protocol, &shared, false).write(root) {
        Err(Stop::Entered) => Writer::new(arena, protocol, &shared, true).write(root),
        done => done,
    };
    let body = body.map_err(|stop| match stop {
        Stop::Refused(error) => error,
        // The second writer does not stop for that.
        Stop::Entered => PickleError::Entangled,
    })?;
    let pickle = with_header(protocol, body);
    if pickle.len() > MAX_BYTES {
        return Err(PickleError::Excess);
    }
    Ok(pickle)
}

fn with_header(protocol: Protocol, body: Vec<u8>) -> Vec<u8> {
    if protocol.number() < 2 {
        return body;
    }
    let mut pickle = vec![opcode::PROTO, protocol.number()];
    // Python frames nothing below four bytes.
    if let (4.., 4.., Ok(len)) = (protocol.number(), body.len(), u64::try_from(body.len())) {
        pickle.push(opcode::FRAME);
        pickle.extend(len.to_le_bytes());
    }
    pickle.extend(body);
    pickle
}

/// Which objects stand in more than one place.
fn shared(arena: &Arena, root: NodeId) -> Vec<bool> {
    let mut reached = vec![false; arena.len()];
    let mut shared = vec![false; arena.len()];
    let mut waiting = vec![root];
    while let Some(node) = waiting.pop() {
        let places = (reached.get_mut(node.index()), shared.get_mut(node.index()));
        let (Some(reached), Some(shared)) = places else {
            continue;
        };
        if *reached {
            *shared = true;
            continue;
        }
        *reached = true;
        if let Form::Built { kids, .. } = arena.form(node) {
            waiting.extend(arena.kids(kids));
        }
        for op in arena.ops(node) {
            let (first, second) = op.operands();
            waiting.push(first);
            waiting.extend(second);
        }
    }
    shared
}

/// Why writing ends early.
enum Stop {
    /// It can't be written.
    Refused(PickleError),
    /// A tuple was entered that is being built: it contains itself by way of one of its parts.
    Entered,
}

struct Writer<'a> {
    arena: &'a Arena,
    protocol: u8,
    shared: &'a [bool],
    /// Whether everything gets a memo entry, as a pickler does it. A part that contains the whole
    /// needs that: the whole is then built inside the part, and what was begun outside is dropped.
    memoize_all: bool,
    memo: Vec<Option<u32>>,
    memoized: u32,
    building: Vec<bool>,
    frames: Vec<Frame>,
    nodes: usize,
    /// Marks that are open.
    marks: usize,
    body: Vec<u8>,
}

/// An object that is being written.
struct Frame {
    node: NodeId,
    at: At,
}

#[derive(Clone, Copy)]
enum At {
    /// At one of its parts.
    Part { how: How, kids: Kids, next: usize },
    /// Between changes.
    Between(Option<OpId>),
    /// In a change.
    Change(Change),
}

impl<'a> Writer<'a> {
    fn new(arena: &'a Arena, protocol: Protocol, shared: &'a [bool], memoize_all: bool) -> Self {
        Self {
            arena,
            protocol: protocol.number(),
            shared,
            memoize_all,
            memo: vec![None; arena.len()],
            memoized: 0,
            building: vec![false; arena.len()],
            frames: Vec::new(),
            nodes: 0,
            marks: 0,
            body: Vec::new(),
        }
    }

    fn write(mut self, root: NodeId) -> Result<Vec<u8>, Stop> {
        self.enter(root)?;
        while let Some(frame) = self.frames.last_mut() {
            let node = frame.node;
            match frame.at {
                At::Part { how, kids, next } => {
                    if let Some(&kid) = self.arena.kids(kids).get(next) {
                        let next = next + 1;
                        frame.at = At::Part { how, kids, next };
                        self.enter(kid)?;
                    } else {
                        self.frames.pop();
                        self.build(node, how, kids);
                    }
                }
                At::Between(None) => {
                    self.frames.pop();
                }
                At::Between(Some(op)) => {
                    let batch = self.begin_batch(op)?;
                    self.go_on(At::Change(batch));
                }
                At::Change(change) => self.change(change)?,
            }
        }
        self.body.push(opcode::STOP);
        Ok(self.body)
    }

    fn go_on(&mut self, at: At) {
        if let Some(frame) = self.frames.last_mut() {
            frame.at = at;
        }
    }

    // --- the memo ---

    fn put(&mut self, node: NodeId) {
        let number = self.memoized;
        if let Some(entry) = self.memo.get_mut(node.index()) {
            *entry = Some(number);
            self.memoized += 1;
        }
        match self.protocol {
            0 => self.body.extend(format!("p{number}\n").bytes()),
            1..4 => self.numbered(opcode::BINPUT, opcode::LONG_BINPUT, number),
            _ => self.body.push(opcode::MEMOIZE),
        }
    }

    fn get(&mut self, number: u32) {
        match self.protocol {
            0 => self.body.extend(format!("g{number}\n").bytes()),
            _ => self.numbered(opcode::BINGET, opcode::LONG_BINGET, number),
        }
    }

    fn numbered(&mut self, short: u8, long: u8, number: u32) {
        if let Ok(byte) = u8::try_from(number) {
            self.body.extend([short, byte]);
        } else {
            self.body.push(long);
            self.body.extend(number.to_le_bytes());
        }
    }

    fn memo_of(&self, node: NodeId) -> Option<u32> {
        self.memo.get(node.index()).copied().flatten()
    }

    fn is_shared(&self, node: NodeId) -> bool {
        self.shared.get(node.index()).copied().unwrap_or_default()
    }

    /// Says whether it was being built before.
    fn set_building(&mut self, node: NodeId, now: bool) -> bool {
        let entry = self.building.get_mut(node.index());
        entry.is_some_and(|entry| std::mem::replace(entry, now))
    }

    // --- limits ---

    /// Counts what the reader counts: an object, a reference or a change.
    fn count(&mut self) -> Result<(), Stop> {
        self.nodes += 1;
        if self.nodes > MAX_NODES || self.body.len() > MAX_BYTES {
            return Err(Stop::Refused(PickleError::Excess));
        }
        Ok(())
    }

    fn mark(&mut self) -> Result<(), Stop> {
        self.marks += 1;
        self.body.push(opcode::MARK);
        if self.marks > MAX_MARKS {
            return Err(Stop::Refused(PickleError::Excess));
        }
        Ok(())
    }
}
