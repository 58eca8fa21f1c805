//! A client of HTTP/2 that sends what it is told to, frame by frame (RFC 9113).

use std::collections::HashMap;
use std::io;

use crate::harness::{Address, Wire};

/// The flags of frames.
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// A plain request.
pub(crate) const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "example.com"),
    (":path", "/"),
];

/// One connection.
pub(crate) struct Frames {
    wire: Wire,
    /// Streams that were answered, with the beginning of their header block.
    answered: HashMap<u32, Vec<u8>>,
    /// What of their bodies has come.
    bodies: HashMap<u32, Vec<u8>>,
    /// Streams whose answers have come as a whole.
    ended: Vec<u32>,
    /// Streams that were reset, and by which code.
    reset: HashMap<u32, u32>,
    /// Whether GOAWAY has come, or the connection has ended.
    gone: bool,
}

impl Frames {
    /// Connects, and says what it speaks.
    pub(crate) fn connect(server: &impl Address) -> Self {
        Self::connect_with(server, &[])
    }

    /// Connects with these settings.
    pub(crate) fn connect_with(server: &impl Address, settings: &[u8]) -> Self {
        let mut wire = Wire::connect(server);
        wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        wire.send(frame(4, 0, 0, settings));
        Self {
            wire,
            answered: HashMap::new(),
            bodies: HashMap::new(),
            ended: Vec::new(),
            reset: HashMap::new(),
            gone: false,
        }
    }

    /// Sends HEADERS.
    pub(crate) fn headers(&mut self, stream: u32, fields: &[(&str, &str)], flags: u8) {
        let block = block(fields);
        // What does not fit into one frame goes on in others.
        let mut parts = block.chunks(16_000).peekable();
        let first = parts.next().unwrap_or_default();
        if parts.peek().is_none() {
            return self.send(&frame(1, flags, stream, first));
        }
        self.send(&frame(1, flags & !END_HEADERS, stream, first));
        while let Some(part) = parts.next() {
            let last = if parts.peek().is_none() {
                flags & END_HEADERS
            } else {
                0
            };
            self.send(&frame(9, last, stream, part));
        }
    }

    /// Sends DATA.
    pub(crate) fn data(&mut self, stream: u32, bytes: &[u8], last: bool) {
        self.send(&frame(0, u8::from(last), stream, bytes));
    }

    /// Sends CONTINUATION; whether the server took it.
    pub(crate) fn try_continuation(&mut self, stream: u32, fields: &[(&str, &str)]) -> bool {
        self.wire
            .try_send(&frame(9, 0, stream, &block(fields)))
            .is_ok()
    }

    /// Sends a plain request; whether the server took it.
    pub(crate) fn try_request(&mut self, stream: u32) -> bool {
        let head = frame(1, END_HEADERS | END_STREAM, stream, &block(&GET));
        self.wire.try_send(&head).is_ok()
    }

    /// Sends so many requests and resets all of them; whether the server took it.
    pub(crate) fn try_request_and_reset(&mut self, first: u32, count: usize) -> bool {
        let mut bytes = Vec::new();
        for stream in (first..).step_by(2).take(count) {
            bytes.extend(frame(1, END_HEADERS | END_STREAM, stream, &block(&GET)));
            bytes.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
        }
        self.wire.try_send(&bytes).is_ok()
    }

    /// Sends any frame; whether the server took it.
    pub(crate) fn try_frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.wire
            .try_send(&frame(kind, flags, stream, payload))
            .is_ok()
    }

    /// Waits for the head of an answer; its status.
    pub(crate) fn status(&mut self, stream: u32) -> String {
        loop {
            if let Some(block) = self.answered.get(&stream) {
                return status(block);
            }
            assert!(
                !self.reset.contains_key(&stream),
                "stream {stream} was reset"
            );
            self.receive().expect("an answer comes");
        }
    }

    /// Waits until a stream is reset, answered with 400, or the connection ends.
    pub(crate) fn is_refused(&mut self, stream: u32) -> bool {
        loop {
            if let Some(block) = self.answered.get(&stream) {
                return status(block) == "400";
            }
            if self.gone || self.reset.contains_key(&stream) {
                return true;
            }
            if self.receive().is_err() {
                return true;
            }
        }
    }

    /// Waits until this has come of a body.
    pub(crate) fn receives(&mut self, stream: u32, text: &str) {
        let has_come = |bodies: &HashMap<u32, Vec<u8>>| {
            let body = bodies.get(&stream);
            body.is_some_and(|body| String::from_utf8_lossy(body).contains(text))
        };
        while !has_come(&self.bodies) {
            self.receive().expect("it comes");
        }
    }

    /// Waits until a stream is reset; by which code.
    pub(crate) fn is_reset(&mut self, stream: u32) -> u32 {
        loop {
            if let Some(code) = self.reset.get(&stream) {
                return *code;
            }
            self.receive().expect("it is reset");
        }
    }

    /// Whether a stream has been reset so far.
    pub(crate) fn has_been_reset(&self, stream: u32) -> bool {
        self.reset.contains_key(&stream)
    }

    /// Waits for the end of an answer's body.
    pub(crate) fn ends(&mut self, stream: u32) {
        while !self.ended.contains(&stream) {
            assert!(
                !self.reset.contains_key(&stream),
                "stream {stream} was reset"
            );
            self.receive().expect("it ends");
        }
    }

    /// Waits for GOAWAY.
    pub(crate) fn goes_away(&mut self) {
        while !self.gone {
            self.receive().expect("it says that it goes away");
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.wire.send(bytes);
    }

    fn receive(&mut self) -> io::Result<()> {
        let head = self.wire.try_read_exactly(9)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let payload = self.wire.try_read_exactly(length)?;
        if kind <= 1 && flags & END_STREAM != 0 {
            self.ended.push(stream);
        }
        match kind {
            0 => self.bodies.entry(stream).or_default().extend(payload),
            1 => drop(self.answered.entry(stream).or_insert(payload)),
            3 => drop(self.reset.insert(stream, number(&payload))),
            4 if flags & ACK == 0 => drop(self.try_frame(4, ACK, 0, &[])),
            6 if flags & ACK == 0 => drop(self.try_frame(6, ACK, 0, &payload)),
            7 => self.gone = true,
            _ => {}
        }
        Ok(())
    }
}

/// Four bytes as a number.
fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("four bytes"))
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .expect("it is short")
        .to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Fields as literals without indexing and without Huffman codes (RFC 7541 section 6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// With a prefix of seven bits (RFC 7541 section 5.1).
fn integer(block: &mut Vec<u8>, number: usize) {
    let Some(mut rest) = number.checked_sub(127) else {
        return block.push(u8::try_from(number).expect("it is below 127"));
    };
    block.push(127);
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).expect("it is below 128") | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).expect("it is below 128"));
}

/// The status stands first in a response's block: indexed, or as a literal of three digits, which
/// may be Huffman coded.
fn status(block: &[u8]) -> String {
    const INDEXED: [&str; 7] = ["200", "204", "206", "304", "400", "404", "500"];
    // A change of the table's size may come before.
    let block = match block {
        [first, rest @ ..] if first & 0xe0 == 0x20 => rest,
        block => block,
    };
    match block {
        [first, ..] if (0x88..=0x8e).contains(first) => {
            INDEXED[usize::from(first - 0x88)].to_owned()
        }
        [_, 3, a, b, c, ..] => [a, b, c].map(|digit| char::from(*digit)).iter().collect(),
        [_, length, a, b, c, ..] if length & 0x80 != 0 => {
            digits(u32::from(*a) << 16 | u32::from(*b) << 8 | u32::from(*c))
        }
        block => panic!("no status in {block:x?}"),
    }
}

/// Three digits as Huffman codes: 0, 1 and 2 have five bits, the others six (RFC 7541 appendix B).
fn digits(bits: u32) -> String {
    let mut text = String::new();
    let mut left = 24;
    while text.len() < 3 {
        let five = bits >> (left - 5) & 31;
        if five < 3 {
            text.push(char::from(
                b'0' + u8::try_from(five).expect("it is below 3"),
            ));
            left -= 5;
        } else {
            let six = bits >> (left - 6) & 63;
            let digit = six.checked_sub(0x19).expect("a digit") + 3;
            text.push(char::from(b'0' + u8::try_from(digit).expect("a digit")));
            left -= 6;
        }
    }
    text
}
