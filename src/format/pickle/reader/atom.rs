//! Opcodes whose argument is all there is to the object.

use std::borrow::Cow;

use super::super::Kind;
use super::super::arena::{Arena, Form, Scalar, Span};
use super::super::error::Problem;
use super::super::literal;
use super::super::opcode;
use super::Reader;

impl Reader<'_> {
    pub(super) fn atom(&mut self, opcode: u8, start: usize) -> Result<(), Problem> {
        let scalar = match opcode {
            opcode::NONE => Scalar::None,
            opcode::NEWTRUE => Scalar::Bool(true),
            opcode::NEWFALSE => Scalar::Bool(false),
            opcode::INT | opcode::LONG | opcode::FLOAT => self.number_in_text(opcode)?,
            opcode::BININT => Scalar::Int(i32::from_le_bytes(self.cursor.array()?).into()),
            opcode::BININT1 => Scalar::Int(self.cursor.byte()?.into()),
            opcode::BININT2 => Scalar::Int(u16::from_le_bytes(self.cursor.array()?).into()),
            opcode::LONG1 | opcode::LONG4 => literal::long(self.sized(opcode)?),
            opcode::BINFLOAT => literal::finite(f64::from_be_bytes(self.cursor.array()?)),
            opcode::STRING => self.quoted(start)?,
            opcode::SHORT_BINSTRING | opcode::BINSTRING => self.python_2_string(opcode)?,
            opcode::UNICODE => self.raw_unicode(start)?,
            opcode::SHORT_BINUNICODE | opcode::BINUNICODE | opcode::BINUNICODE8 => {
                self.unicode(opcode)?
            }
            opcode::SHORT_BINBYTES | opcode::BINBYTES | opcode::BINBYTES8 | opcode::BYTEARRAY8 => {
                self.sized(opcode)?;
                Scalar::Foreign(Kind::Bytes)
            }
            opcode::GLOBAL => {
                self.cursor.line()?;
                self.cursor.line()?;
                Scalar::Foreign(Kind::Object)
            }
            opcode::PERSID | opcode::BINPERSID => return Err(Problem::PersistentId),
            opcode::EXT1..=opcode::EXT4 => return Err(Problem::Extension),
            opcode::NEXT_BUFFER | opcode::READONLY_BUFFER => return Err(Problem::Buffer),
            unknown => return Err(Problem::UnknownOpcode(unknown)),
        };
        let raw = self.raw(start)?;
        self.make(Form::Atom { raw, scalar }).map(|_node| ())
    }

    /// The bytes of the opcode at `start` with its argument.
    pub(super) fn raw(&self, start: usize) -> Result<Span, Problem> {
        Arena::span(start, self.cursor.position())
    }

    /// The argument of an opcode that begins with its length.
    fn sized(&mut self, opcode: u8) -> Result<&[u8], Problem> {
        let cursor = &mut self.cursor;
        match opcode {
            opcode::LONG4 | opcode::BINSTRING => {
                let len = i32::from_le_bytes(cursor.array()?);
                cursor.take(len)
            }
            opcode::BINUNICODE | opcode::BINBYTES => {
                let len = u32::from_le_bytes(cursor.array()?);
                cursor.take(len)
            }
            opcode::BINUNICODE8 | opcode::BINBYTES8 | opcode::BYTEARRAY8 => {
                let len = u64::from_le_bytes(cursor.array()?);
                cursor.take(len)
            }
            _ => {
                let len = cursor.byte()?;
                cursor.take(len)
            }
        }
    }

    fn number_in_text(&mut self, opcode: u8) -> Result<Scalar, Problem> {
        let line = self.cursor.line()?;
        match (opcode, line) {
            (opcode::FLOAT, line) => literal::float(line),
            (opcode::LONG, line) => literal::integer(line.strip_suffix(b"L").unwrap_or(line)),
            // How protocols 0 and 1 spell what is no number.
            (_, b"00") => Ok(Scalar::Bool(false)),
            (_, b"01") => Ok(Scalar::Bool(true)),
            (_, line) => literal::integer(line),
        }
    }

    pub(super) fn memo_number_in_text(&mut self) -> Result<u32, Problem> {
        let Scalar::Int(number) = literal::integer(self.cursor.line()?)? else {
            return Err(Problem::MemoNumber);
        };
        u32::try_from(number).map_err(|_beyond| Problem::MemoNumber)
    }

    fn quoted(&mut self, start: usize) -> Result<Scalar, Problem> {
        let bytes = literal::quoted(self.cursor.line()?)?;
        if literal::ascii(&bytes).is_none() {
            return Ok(Scalar::Foreign(Kind::Text));
        }
        Ok(Scalar::Text(match bytes {
            // Between opcode and quote, quote and line feed.
            Cow::Borrowed(_) => Arena::span(start + 2, self.cursor.position() - 2)?,
            Cow::Owned(bytes) => self.arena.add_bytes(&bytes)?,
        }))
    }

    fn python_2_string(&mut self, opcode: u8) -> Result<Scalar, Problem> {
        let bytes = self.sized(opcode)?;
        let len = bytes.len();
        if literal::ascii(bytes).is_none() {
            return Ok(Scalar::Foreign(Kind::Text));
        }
        self.last(len)
    }

    fn raw_unicode(&mut self, start: usize) -> Result<Scalar, Problem> {
        Ok(match literal::raw_unicode(self.cursor.line()?)? {
            None => Scalar::Foreign(Kind::Text),
            Some(Cow::Borrowed(_)) => {
                Scalar::Text(Arena::span(start + 1, self.cursor.position() - 1)?)
            }
            Some(Cow::Owned(text)) => Scalar::Text(self.arena.add_bytes(text.as_bytes())?),
        })
    }

    fn unicode(&mut self, opcode: u8) -> Result<Scalar, Problem> {
        let bytes = self.sized(opcode)?;
        let len = bytes.len();
        if literal::is_unicode(bytes)? {
            self.last(len)
        } else {
            Ok(Scalar::Foreign(Kind::Text))
        }
    }

    /// The last `len` bytes that were read are text.
    fn last(&self, len: usize) -> Result<Scalar, Problem> {
        let end = self.cursor.position();
        Ok(Scalar::Text(Arena::span(end - len, end)?))
    }
}
