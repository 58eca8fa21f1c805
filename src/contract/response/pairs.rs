//! The grammar of the signals that set something.
//!
//! ```text
//! lines  = every line of the header, in its order
//! line   = [ part *( "," part ) ]     ; spaces and tabs around a part do not count, empty parts neither
//! part   = JSON object (RFC 8259)     ; when it begins with "{"
//!        / pair *( "&" pair )         ; application/x-www-form-urlencoded
//! pair   = name "=" value             ; %XX is a byte of UTF-8, + is a space
//! ```
//!
//! A comma may stand between parts because whoever passes a response on may join its lines so (RFC
//! 9110 section 5.3). Hence a comma inside a form-encoded value is written `%2C`.

use percent_encoding::percent_decode_str;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::error::{Fault, Rule};
use super::{Lines, check_name, text};
use crate::contract::ContractPolicy;
use crate::session::Json;

/// A name and its value; `None` is JSON `null`.
pub(super) type Pair = (String, Option<Json>);

/// Reads all lines.
pub(super) fn parse(lines: &Lines<'_>, policy: &ContractPolicy) -> Result<Vec<Pair>, Fault> {
    let mut pairs = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let line = text(number, line)?;
        let mut parts = Parts {
            line,
            pairs,
            policy,
        };
        parts
            .read()
            .map_err(|(byte, rule)| Fault::at(number, byte, rule))?;
        pairs = parts.pairs;
    }
    Ok(pairs)
}

const BLANK: [char; 2] = [' ', '\t'];

/// A broken rule and the byte, counted from 0, where that was seen.
type At = (usize, Rule);

struct Parts<'a> {
    line: &'a str,
    pairs: Vec<Pair>,
    policy: &'a ContractPolicy,
}

impl<'a> Parts<'a> {
    fn read(&mut self) -> Result<(), At> {
        let mut rest = self.line;
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            if rest.is_empty() {
                return Ok(());
            }
            rest = if rest.starts_with('{') {
                self.object(rest)?
            } else {
                let (part, tail) = rest.split_once(',').unwrap_or((rest, ""));
                self.form(part.trim_end_matches(BLANK))?;
                tail
            };
        }
    }

    /// Where in the line a part of it begins.
    fn offset(&self, part: &str) -> usize {
        part.as_ptr().addr() - self.line.as_ptr().addr()
    }

    /// Reads the JSON object at the beginning of `rest`; returns what comes after it.
    fn object(&mut self, rest: &'a str) -> Result<&'a str, At> {
        let start = self.offset(rest);
        let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<Members>();
        let members = match stream.next() {
            Some(Ok(Members(members))) => members,
            Some(Err(error)) => return Err(json_fault(start, &error)),
            None => Vec::new(),
        };
        let tail = rest.get(stream.byte_offset()..).unwrap_or_default();
        let tail = tail.trim_start_matches(BLANK);
        if !(tail.is_empty() || tail.starts_with(',')) {
            return Err((self.offset(tail), Rule::AfterObject));
        }
        for (name, value) in members {
            check_name(&name, self.policy).map_err(|rule| (start, rule))?;
            let value = (!value.is_null()).then(|| Json::from_value(&value));
            self.pairs.push((name, value));
        }
        Ok(tail)
    }

    fn form(&mut self, part: &'a str) -> Result<(), At> {
        for pair in part.split('&').filter(|pair| !pair.is_empty()) {
            let start = self.offset(pair);
            let (name, value) = pair.split_once('=').ok_or((start, Rule::NoPair))?;
            let name = self.decode(name)?;
            check_name(&name, self.policy).map_err(|rule| (start, rule))?;
            let value = Json::string(&self.decode(value)?);
            self.pairs.push((name, Some(value)));
        }
        Ok(())
    }

    fn decode(&self, text: &str) -> Result<String, At> {
        let start = self.offset(text);
        let mut bytes = text.bytes().enumerate();
        while let Some((index, byte)) = bytes.next() {
            let is_digit =
                |next: Option<(usize, u8)>| next.is_some_and(|(_, b)| b.is_ascii_hexdigit());
            if byte == b'%' && !(is_digit(bytes.next()) && is_digit(bytes.next())) {
                return Err((start + index, Rule::Percent));
            }
        }
        percent_decode_str(&text.replace('+', " "))
            .decode_utf8()
            .map(Into::into)
            // A position in the decoded text would mislead.
            .map_err(|_invalid| (start, Rule::NotUtf8))
    }
}

/// The parser's verdict without anything of the content.
fn json_fault(start: usize, error: &serde_json::Error) -> At {
    let text = error.to_string();
    let reason = match text.rsplit_once(" at line ") {
        // What the parser says of the data's type, rather than of its syntax, may quote it.
        Some((reason, _)) if !error.is_data() => reason,
        _ => "expected plain JSON values",
    };
    // The parser counts from 1, and a line of a header has one line.
    let byte = start + error.column().saturating_sub(1);
    (byte, Rule::Json(reason.to_owned()))
}

/// The members of a JSON object in their order: a name that stands twice counts twice, as in a form.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}
