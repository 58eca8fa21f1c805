//! A look at the frames that a client of HTTP/2 sends, to notice those that only make work.
//!
//! SETTINGS and PING have to be answered, PRIORITY and unknown frames to be read, and a stream that
//! is reset right after it was asked for has made an exchange for nothing. h2 bounds what it keeps of
//! all that, and not how often it comes (CVE-2019-9512, -9515, -9518, CVE-2023-44487). Each such
//! frame costs a token here; requests, bodies and what the client takes of answers give tokens back.
//! So ordinary clients, who do all this now and then, never run out.

/// Bytes of a frame's head (RFC 9113 section 4.1).
const HEAD: usize = 9;
/// What a request gives back; less than it can cost together with its reset.
const PER_REQUEST: u32 = 8;
/// How many bytes of bodies give back one token.
const BYTES_PER_TOKEN: u32 = 1024;
/// What the reset of a stream costs: of many requests that are made and reset, each loses some.
const RESET: u32 = 10;

/// The frames of one connection.
#[derive(Debug)]
pub(super) struct Meter {
    max: u32,
    tokens: u32,
    /// Bytes that have not yet given back a whole token.
    rest: u32,
    /// Bytes that are passed over before the next head: the preface, or a payload.
    skip: usize,
    head: [u8; HEAD],
    /// How much of the head has come.
    filled: usize,
}

impl Meter {
    /// A connection whose preface of so many bytes comes first.
    pub(super) fn new(max: u32, preface: usize) -> Self {
        Self {
            max,
            tokens: max,
            rest: 0,
            skip: preface,
            head: [0; HEAD],
            filled: 0,
        }
    }

    /// Takes what has been read. Whether the client still has tokens.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let missing = self.head.get_mut(self.filled..).unwrap_or_default();
            let part = missing.len().min(bytes.len());
            let (now, later) = bytes.split_at(part);
            for (to, from) in missing.iter_mut().zip(now) {
                *to = *from;
            }
            self.filled += part;
            bytes = later;
            if self.filled == HEAD {
                self.filled = 0;
                self.count();
            }
        }
        self.tokens > 0
    }

    /// Takes the number of bytes that the client has taken.
    pub(super) fn written(&mut self, bytes: usize) {
        self.give_bytes(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    fn count(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.head;
        let length = u32::from_be_bytes([0, high, middle, low]);
        self.skip = usize::try_from(length).unwrap_or(usize::MAX);
        let is_last = flags & 1 != 0;
        match kind {
            // DATA: bytes of it count as a body; none are of use only at the end.
            0 if length > 0 => self.give_bytes(length),
            0 if is_last => {}
            // HEADERS.
            1 => self.give(PER_REQUEST),
            // RST_STREAM.
            3 => self.take(RESET),
            // WINDOW_UPDATE: they come with what is written.
            8 => {}
            // CONTINUATION: h2 bounds it.
            9 if length > 0 => {}
            _ => self.take(1),
        }
    }

    fn give(&mut self, tokens: u32) {
        self.tokens = self.tokens.saturating_add(tokens).min(self.max);
    }

    fn give_bytes(&mut self, bytes: u32) {
        let bytes = self.rest.saturating_add(bytes);
        self.rest = bytes % BYTES_PER_TOKEN;
        self.give(bytes / BYTES_PER_TOKEN);
    }

    fn take(&mut self, tokens: u32) {
        self.tokens = self.tokens.saturating_sub(tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u32 = 1000;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        frame.extend(vec![kind; length.into()]);
        frame
    }

    /// How many such rounds a client may send; at most 10,000.
    fn rounds(round: &[Vec<u8>]) -> usize {
        let mut meter = Meter::new(MAX, 0);
        let bytes = round.concat();
        (0..10_000).take_while(|_| meter.read(&bytes)).count()
    }

    #[test]
    fn frames_that_only_make_work_run_out() {
        for kind in [2, 4, 5, 6, 10, 255] {
            assert_eq!(rounds(&[frame(kind, 0, 8)]), 999, "kind {kind}");
        }
        assert_eq!(rounds(&[frame(0, 0, 0)]), 999, "empty DATA");
        assert_eq!(rounds(&[frame(9, 0, 0)]), 999, "empty CONTINUATION");
        let rapid = [frame(1, 5, 20), frame(3, 0, 4)];
        assert!(rounds(&rapid) < 600, "requests that are reset");
    }

    #[test]
    fn what_clients_do_does_not() {
        assert_eq!(
            rounds(&[frame(1, 5, 20), frame(6, 0, 8), frame(8, 0, 4)]),
            10_000
        );
        let upload = [vec![frame(0, 0, 255); 5].concat(), frame(6, 0, 8)];
        assert_eq!(rounds(&upload), 10_000);
        let mut meter = Meter::new(MAX, 0);
        for _ in 0..10_000 {
            // A large download, of which some is measured by PING.
            assert!(meter.read(&frame(6, 0, 8)));
            meter.written(16_384);
        }
        for _ in 0..2_000 {
            // Somebody who leafs through pictures, and takes some of most of them.
            assert!(meter.read(&[frame(1, 5, 20), frame(3, 0, 4)].concat()));
            meter.written(4096);
        }
    }

    #[test]
    fn it_does_not_matter_in_which_pieces_they_come() {
        let bytes = [
            b"preface".to_vec(),
            frame(1, 5, 9),
            frame(6, 0, 8),
            frame(0, 1, 0),
        ]
        .concat();
        for size in 1..bytes.len() {
            let mut meter = Meter::new(MAX, 7);
            for piece in bytes.chunks(size) {
                assert!(meter.read(piece));
            }
            assert_eq!(
                (meter.tokens, meter.skip, meter.filled),
                (MAX - 1, 0, 0),
                "{size}"
            );
        }
    }
}
