//! Heads and bodies of HTTP/1.1, read strictly from a [`Wire`].
//!
//! Written for the tests alone: the product's own parser must not judge itself.

use std::io;

use super::message::{AppRequest, Fields, Head};
use super::wire::{Wire, is_cut, text};

/// A body and its trailers; `whole` says whether it ended as its framing promised.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    pub(super) trailers: Fields,
    pub(super) whole: bool,
}

impl Wire {
    /// Reads a head, consumed up to the empty line.
    pub(crate) fn read_head(&mut self) -> Head {
        self.try_read_head().expect("a whole head arrives")
    }

    /// Reads a request head and the body after it.
    pub(crate) fn read_request(&mut self) -> AppRequest {
        self.try_read_request(1).expect("a whole request arrives")
    }

    pub(super) fn try_read_head(&mut self) -> io::Result<Head> {
        let start = self.line()?;
        Ok(Head {
            start,
            fields: self.fields()?,
        })
    }

    /// Reads a request, and says `100 Continue` to a client that waits for it.
    pub(crate) fn try_read_request(&mut self, connection: usize) -> io::Result<AppRequest> {
        let head = self.try_read_head()?;
        if head.fields.lists("Expect", "100-continue") {
            self.try_send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = self.body(&head.fields, Some(0))?;
        if !body.whole {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(AppRequest {
            method: head.part(0).to_owned(),
            target: head.part(1).to_owned(),
            fields: head.fields,
            body: body.bytes,
            trailers: body.trailers,
            connection,
        })
    }

    /// Reads the response to a request of this method; interim ones are left out.
    pub(super) fn try_read_response(&mut self, method: &str) -> io::Result<(Head, Body)> {
        let mut head = self.try_read_head()?;
        while matches!(head.status(), 100 | 102..=199) {
            head = self.try_read_head()?;
        }
        let bodiless = method == "HEAD" || matches!(head.status(), 101 | 204 | 304);
        let body = if bodiless {
            Body {
                bytes: Vec::new(),
                trailers: Fields::default(),
                whole: true,
            }
        } else {
            self.body(&head.fields, None)?
        };
        Ok((head, body))
    }

    /// Reads a body (RFC 9112 section 6.3); one without framing has `unframed` bytes, or lasts
    /// until the connection ends.
    fn body(&mut self, fields: &Fields, unframed: Option<usize>) -> io::Result<Body> {
        let mut bytes = Vec::new();
        let mut trailers = Fields::default();
        let framed = if fields.lists("Transfer-Encoding", "chunked") {
            self.chunks(&mut bytes).map(|read| trailers = read)
        } else if let Some(length) = fields.one("Content-Length") {
            let parsed = length.parse().ok();
            let length = parsed.ok_or_else(|| invalid("Content-Length", length))?;
            self.piece(length, &mut bytes)
        } else if let Some(length) = unframed {
            self.piece(length, &mut bytes)
        } else {
            self.take_to_close()
                .map(|range| bytes.extend_from_slice(self.bytes(range)))
        };
        match framed {
            Err(error) if !is_cut(&error) => Err(error),
            result => Ok(Body {
                bytes,
                trailers,
                whole: result.is_ok(),
            }),
        }
    }

    fn chunks(&mut self, bytes: &mut Vec<u8>) -> io::Result<Fields> {
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).ok();
            let size = size.ok_or_else(|| invalid("chunk size", &line))?;
            if size == 0 {
                return self.fields();
            }
            self.piece(size, bytes)?;
            let end = self.line()?;
            if !end.is_empty() {
                return Err(invalid("end of a chunk", &end));
            }
        }
    }

    /// Appends so many bytes to `bytes`, or as many as there are.
    fn piece(&mut self, length: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
        let taken = self.take(length);
        let range = match &taken {
            Ok(range) => range.clone(),
            Err(_) => self.rest(),
        };
        bytes.extend_from_slice(self.bytes(range));
        taken.map(drop)
    }

    fn fields(&mut self) -> io::Result<Fields> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Fields(fields));
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| invalid("header line", &line))?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let range = self.take_until(b"\r\n")?;
        let line = text(self.bytes(range));
        Ok(line.trim_end_matches("\r\n").to_owned())
    }
}

fn invalid(what: &str, text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {text:?}"))
}
