//! The few importable names that are known, by which older protocols spell what newer ones have an
//! opcode for.

use bytes::Bytes;

use super::Kind;
use super::arena::{Arena, Form, How, NodeId};
use super::opcode::GLOBAL;
use super::reader;

/// What calling this gives.
pub(super) fn kind(arena: &Arena, callable: NodeId) -> Kind {
    match name(arena, callable) {
        Some(("__builtin__" | "builtins", "set" | "frozenset")) => Kind::Set,
        Some(("__builtin__" | "builtins", "bytes" | "bytearray") | ("_codecs", "encode")) => {
            Kind::Bytes
        }
        _ => Kind::Object,
    }
}

/// Module and name of something to import.
fn name(arena: &Arena, node: NodeId) -> Option<(&str, &str)> {
    match arena.form(node) {
        Form::Atom { raw, .. } => {
            let lines = arena.bytes(raw).strip_prefix(&[GLOBAL])?;
            str::from_utf8(lines)
                .ok()?
                .strip_suffix('\n')?
                .split_once('\n')
        }
        Form::Built {
            how: How::StackGlobal,
            kids,
        } => match arena.kids(kids) {
            &[module, name] => Some((arena.text_of(module)?, arena.text_of(name)?)),
            _ => None,
        },
        Form::List | Form::Dict | Form::Set | Form::Built { .. } => None,
    }
}

/// The bytes in a pickle of nothing but bytes, as Python 3 writes it in protocols 0 to 2:
/// `_codecs.encode(text, 'latin1')`.
///
/// The client `python3-memcached` writes records so, with flags 1: the pickle of a session, pickled
/// once more. `None` when it is anything else.
///
/// ```
/// use bytes::Bytes;
/// use pycket::format::pickle::unwrap_bytes;
///
/// let outer = Bytes::from_static(
///     b"c_codecs\nencode\np0\n(V\x80\x03}q\0.\np1\nVlatin1\np2\ntp3\nRp4\n.",
/// );
/// assert_eq!(unwrap_bytes(&outer).unwrap(), &b"\x80\x03}q\0."[..]);
/// ```
pub fn unwrap_bytes(blob: &Bytes) -> Option<Bytes> {
    let content = reader::read(blob).ok()?;
    let arena = &content.arena;
    let built_by = |node, expected: fn(How) -> bool| match arena.form(node) {
        Form::Built { how, kids } if expected(how) && arena.first_op(node).is_none() => {
            Some(arena.kids(kids))
        }
        Form::Atom { .. } | Form::List | Form::Dict | Form::Set | Form::Built { .. } => None,
    };
    let &[callable, arguments] = built_by(content.root, |how| matches!(how, How::Reduce))? else {
        return None;
    };
    let &[text, encoding] = built_by(arguments, |how| matches!(how, How::Tuple))? else {
        return None;
    };
    if name(arena, callable)? != ("_codecs", "encode") || arena.text_of(encoding)? != "latin1" {
        return None;
    }
    let characters = arena.text_of(text)?.chars();
    characters
        .map(|character| u8::try_from(character).ok())
        .collect::<Option<Vec<u8>>>()
        .map(Bytes::from)
}
