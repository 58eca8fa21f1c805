//! JSON values as objects, spelt in a given protocol.

use serde_json::{Number, Value};

use super::Protocol;
use super::arena::{Arena, Form, NodeId, Op, Scalar};
use super::error::{PickleError, Problem};
use super::literal;
use super::opcode;
use crate::session::Json;

/// Where a value that is still to be made goes.
type Place = (NodeId, Option<NodeId>);

/// Makes the objects of a JSON value: text becomes unicode, a number with a point or an exponent a
/// float.
pub(super) fn add(
    arena: &mut Arena,
    protocol: Protocol,
    json: &Json,
) -> Result<NodeId, PickleError> {
    let value = json.to_value();
    let root = shallow(arena, protocol, &value)?;
    let mut waiting: Vec<(Place, &Value)> = Vec::new();
    defer(arena, protocol, &mut waiting, root, &value)?;
    while let Some(((container, key), value)) = waiting.pop() {
        let node = shallow(arena, protocol, value)?;
        let op = key.map_or(Op::Append(node), |key| Op::SetItem(key, node));
        arena.push_op(container, op).map_err(excess)?;
        defer(arena, protocol, &mut waiting, node, value)?;
    }
    Ok(root)
}

/// Makes text.
pub(super) fn add_text(
    arena: &mut Arena,
    protocol: Protocol,
    text: &str,
) -> Result<NodeId, PickleError> {
    let span = arena.add_bytes(text.as_bytes()).map_err(excess)?;
    add_atom(arena, &spell_text(protocol, text), Scalar::Text(span))
}

/// Makes the object without its contents.
fn shallow(arena: &mut Arena, protocol: Protocol, value: &Value) -> Result<NodeId, PickleError> {
    match value {
        Value::Null => add_atom(arena, &[opcode::NONE], Scalar::None),
        Value::Bool(value) => {
            let spelling: &[u8] = match (protocol.number(), value) {
                (0 | 1, false) => b"I00\n",
                (0 | 1, true) => b"I01\n",
                (_, false) => &[opcode::NEWFALSE],
                (_, true) => &[opcode::NEWTRUE],
            };
            add_atom(arena, spelling, Scalar::Bool(*value))
        }
        Value::Number(number) => add_number(arena, protocol, number),
        Value::String(text) => add_text(arena, protocol, text),
        Value::Array(_) => arena.add(Form::List).map_err(excess),
        Value::Object(_) => arena.add(Form::Dict).map_err(excess),
    }
}

/// Puts the contents of a value on the list, the first on top.
fn defer<'a>(
    arena: &mut Arena,
    protocol: Protocol,
    waiting: &mut Vec<(Place, &'a Value)>,
    container: NodeId,
    value: &'a Value,
) -> Result<(), PickleError> {
    match value {
        Value::Array(items) => {
            waiting.extend(items.iter().rev().map(|item| ((container, None), item)));
        }
        Value::Object(members) => {
            for (key, value) in members.iter().rev() {
                let key = add_text(arena, protocol, key)?;
                waiting.push(((container, Some(key)), value));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    Ok(())
}

fn add_atom(arena: &mut Arena, spelling: &[u8], scalar: Scalar) -> Result<NodeId, PickleError> {
    let raw = arena.add_bytes(spelling).map_err(excess)?;
    arena.add(Form::Atom { raw, scalar }).map_err(excess)
}

/// The arena is full, long after it holds more than may be written.
fn excess(_problem: Problem) -> PickleError {
    PickleError::Excess
}

// --- spellings ---

fn add_number(
    arena: &mut Arena,
    protocol: Protocol,
    number: &Number,
) -> Result<NodeId, PickleError> {
    let digits = number.as_str();
    if digits.contains(['.', 'e', 'E']) {
        let float = digits.parse().ok().filter(|float: &f64| float.is_finite());
        let float = float.ok_or(PickleError::Number)?;
        return add_atom(arena, &spell_float(protocol, float), Scalar::Float(float));
    }
    let integer = digits.parse().map_err(|_range| PickleError::Number)?;
    let scalar = match (i64::try_from(integer), u64::try_from(integer)) {
        (Ok(integer), _) => Scalar::Int(integer),
        (_, Ok(integer)) => Scalar::Unsigned(integer),
        _ => return Err(PickleError::Number),
    };
    add_atom(arena, &spell_integer(protocol, integer), scalar)
}

fn spell_float(protocol: Protocol, float: f64) -> Vec<u8> {
    if protocol.number() == 0 {
        return with_text(opcode::FLOAT, &literal::spell_float(float));
    }
    with_bytes(opcode::BINFLOAT, &float.to_be_bytes())
}

/// As short as the protocol has it. What goes beyond 32 bits is written as Python 2 does it, so that
/// it is an `int` there as far as possible, and not a `long`.
fn spell_integer(protocol: Protocol, integer: i128) -> Vec<u8> {
    if protocol.number() > 0 {
        if let Ok(byte) = u8::try_from(integer) {
            return with_bytes(opcode::BININT1, &[byte]);
        }
        if let Ok(short) = u16::try_from(integer) {
            return with_bytes(opcode::BININT2, &short.to_le_bytes());
        }
        if let Ok(int) = i32::try_from(integer) {
            return with_bytes(opcode::BININT, &int.to_le_bytes());
        }
    }
    match protocol.number() {
        0..=2 if i64::try_from(integer).is_ok() => with_text(opcode::INT, &integer.to_string()),
        0 | 1 => with_text(opcode::LONG, &format!("{integer}L")),
        _ => {
            // As many bytes as hold the number and its sign.
            let bits = 128 - (integer ^ (integer >> 127)).leading_zeros();
            let len = u8::try_from(bits / 8 + 1).unwrap_or(16);
            let bytes = integer.to_le_bytes();
            let significant = bytes.get(..len.into()).unwrap_or(&bytes);
            with_bytes(opcode::LONG1, &[[len].as_slice(), significant].concat())
        }
    }
}

fn spell_text(protocol: Protocol, text: &str) -> Vec<u8> {
    if protocol.number() == 0 {
        return spell_text_in_a_line(text);
    }
    let (mut spelling, len) = match (u8::try_from(text.len()), u32::try_from(text.len())) {
        (Ok(len), _) if protocol.number() >= 4 => (vec![opcode::SHORT_BINUNICODE], vec![len]),
        // Text of 4 GiB is far beyond what may be written.
        (_, len) => (
            vec![opcode::BINUNICODE],
            len.unwrap_or(u32::MAX).to_le_bytes().to_vec(),
        ),
    };
    spelling.extend(len);
    spelling.extend_from_slice(text.as_bytes());
    spelling
}

/// Latin-1 with escapes. Python escapes the same characters: NUL and the end-of-file of old
/// systems, and what would end the line or begin an escape.
fn spell_text_in_a_line(text: &str) -> Vec<u8> {
    let mut spelling = vec![opcode::UNICODE];
    for character in text.chars() {
        match (u8::try_from(character), u32::from(character)) {
            (Ok(0 | b'\n' | b'\r' | 0x1a | b'\\'), code) => {
                spelling.extend(format!("\\u{code:04x}").bytes());
            }
            (Ok(latin_1), _) => spelling.push(latin_1),
            (_, code @ ..=0xffff) => spelling.extend(format!("\\u{code:04x}").bytes()),
            (_, code) => spelling.extend(format!("\\U{code:08x}").bytes()),
        }
    }
    spelling.push(b'\n');
    spelling
}

fn with_text(opcode: u8, argument: &str) -> Vec<u8> {
    let mut spelling = with_bytes(opcode, argument.as_bytes());
    spelling.push(b'\n');
    spelling
}

fn with_bytes(opcode: u8, argument: &[u8]) -> Vec<u8> {
    let mut spelling = vec![opcode];
    spelling.extend_from_slice(argument);
    spelling
}
