mod hostile;
mod recorded;

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::arena::{Form, How};
use super::*;

fn bytes_of(case: &Value, key: &str) -> Bytes {
    let text = case[key].as_str().unwrap();
    Bytes::from(STANDARD.decode(text).unwrap())
}

fn read(blob: &[u8]) -> Result<Pickle, PickleError> {
    Pickle::read(&Bytes::copy_from_slice(blob))
}

fn reread(pickle: &Pickle) -> Pickle {
    read(&pickle.write().unwrap()).unwrap()
}

fn parsed(json: &Value) -> Json {
    Json::from_value(json)
}

/// The view's values as one JSON object, floats in one spelling.
fn values_of(view: &View) -> Value {
    let members = view.values.iter();
    Value::Object(
        members
            .map(|(name, json)| (name.clone(), with_plain_floats(&json.to_value())))
            .collect(),
    )
}

/// Python writes `1e+16`, where the view has `1e16`.
fn with_plain_floats(value: &Value) -> Value {
    match value {
        Value::Number(number) if number.as_str().contains(['.', 'e', 'E']) => {
            json!({ "float": number.as_str().parse::<f64>().unwrap().to_bits() })
        }
        Value::Array(items) => items.iter().map(with_plain_floats).collect(),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), with_plain_floats(value)))
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// One line per object, in the order in which they are first met, so that equal outlines mean the
/// same forms, bytes, changes and sharing.
fn outline(pickle: &Pickle) -> Vec<String> {
    let arena = &pickle.arena;
    let mut met = vec![pickle.root];
    let mut lines = Vec::new();
    let number = |node: NodeId, met: &mut Vec<NodeId>| {
        let known = met.iter().position(|&other| other == node);
        known.unwrap_or_else(|| {
            met.push(node);
            met.len() - 1
        })
    };
    while let Some(&node) = met.get(lines.len()) {
        let mut line = match arena.form(node) {
            Form::Atom { raw, .. } => {
                format!("{:?} {:?}", arena.bytes(raw), arena.text_of(node))
            }
            Form::List => "list".to_owned(),
            Form::Dict => "dict".to_owned(),
            Form::Set => "set".to_owned(),
            Form::Built { how, kids } => {
                let how = if let How::Inst(raw) = how {
                    format!("{:?}", arena.bytes(raw))
                } else {
                    format!("{how:?}")
                };
                let kids = arena.kids(kids).iter();
                let kids: Vec<usize> = kids.map(|&kid| number(kid, &mut met)).collect();
                format!("{how} {kids:?}")
            }
        };
        for op in arena.ops(node) {
            let (first, second) = op.operands();
            let first = number(first, &mut met);
            let second = second.map(|second| number(second, &mut met));
            let verb = match op {
                Op::Append(_) => "append",
                Op::SetItem(..) => "set",
                Op::Add(_) => "add",
                Op::Build(_) => "build",
            };
            write!(line, "; {verb} {first} {second:?}").unwrap();
        }
        lines.push(line);
    }
    lines
}

// --- what reading makes of things ---

/// The view of a dictionary whose only name is `k`.
fn view_of(value: &[u8]) -> Result<Json, Kind> {
    let blob = [b"}X\x01\0\0\0k", value, b"s."].concat();
    let mut view = read(&blob).unwrap().view();
    match view.values.remove("k") {
        Some(json) => Ok(json),
        None => Err(view.opaque["k"]),
    }
}

#[test]
fn numbers_are_exact_or_opaque() {
    let cases: [(&[u8], Result<&str, Kind>); 27] = [
        (b"I0\n", Ok("0")),
        (b"I-007\n", Ok("-7")),
        (b"I+7 \n", Ok("7")),
        (b"I00\n", Ok("false")),
        (b"I01\n", Ok("true")),
        (b"I1\n", Ok("1")),
        (b"L1L\n", Ok("1")),
        (b"L-9223372036854775808L\n", Ok("-9223372036854775808")),
        (b"L-9223372036854775809L\n", Err(Kind::Integer)),
        (b"L18446744073709551615L\n", Ok("18446744073709551615")),
        (b"L18446744073709551616L\n", Err(Kind::Integer)),
        (
            b"L1000000000000000000000000000000000000000L\n",
            Err(Kind::Integer),
        ),
        (b"J\xff\xff\xff\xff", Ok("-1")),
        (b"K\xff", Ok("255")),
        (b"M\xff\xff", Ok("65535")),
        (b"\x8a\x00", Ok("0")),
        (b"\x8a\x01\xff", Ok("-1")),
        (b"\x8a\x02\xff\x00", Ok("255")),
        (
            b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00",
            Ok("18446744073709551615"),
        ),
        (b"\x8a\x09\0\0\0\0\0\0\0\0\x01", Err(Kind::Integer)),
        (
            b"\x8b\x14\0\0\0\x05\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            Ok("5"),
        ),
        (b"F1\n", Ok("1.0")),
        (b"F-0\n", Ok("-0.0")),
        (b"F1e16\n", Ok("1e+16")),
        (b"F1.5E-7\n", Ok("1.5e-07")),
        (b"Finf\n", Err(Kind::Float)),
        (b"G\x7f\xf8\0\0\0\0\0\0", Err(Kind::Float)),
    ];
    for (value, expected) in cases {
        let found = view_of(value);
        let found = found.as_ref().map(Json::as_str).map_err(|kind| *kind);
        assert_eq!(found, expected, "{}", value.escape_ascii());
    }
}

#[test]
fn text_is_unicode_or_opaque() {
    let cases: [(&[u8], Result<&str, Kind>); 17] = [
        (
            br"S'it\'s\t\x41\101\0q\\\q'
",
            Ok("it's\tAA\0q\\\\q"),
        ),
        (b"S\"it's\"\n", Ok("it's")),
        (b"S''\n", Ok("")),
        (b"S'\xe9'\n", Err(Kind::Text)),
        (
            br"S'\xe9'
",
            Err(Kind::Text),
        ),
        (b"U\x01a", Ok("a")),
        (b"U\x02\xc3\xa9", Err(Kind::Text)),
        (b"T\x01\0\0\0a", Ok("a")),
        (b"Vabc\n", Ok("abc")),
        (b"V\xe9\\u20ac\n", Ok("\u{e9}\u{20ac}")),
        (
            br"V\\u0041\\\u0041\n
",
            Ok(r"\\u0041\\A\n"),
        ),
        (
            br"V\ud83d\ude00\U0001f600
",
            Ok("\u{1f600}\u{1f600}"),
        ),
        (
            br"V\ud83d
",
            Err(Kind::Text),
        ),
        (b"\x8c\x02\xc3\xa9", Ok("\u{e9}")),
        (b"\x8c\x04\xed\xa0\x80a", Err(Kind::Text)),
        (b"\x8d\x01\0\0\0\0\0\0\0a", Ok("a")),
        (b"C\x01a", Err(Kind::Bytes)),
    ];
    for (value, expected) in cases {
        let expected = expected.map(Json::string);
        assert_eq!(view_of(value), expected, "{}", value.escape_ascii());
    }
}

#[test]
fn broken_arguments_are_refused() {
    let cases: [(&[u8], Problem); 19] = [
        (b"I\n", Problem::Integer),
        (b"I1_0\n", Problem::Integer),
        (b"I+-1\n", Problem::Integer),
        (b"L1LL\n", Problem::Integer),
        (b"F\n", Problem::Float),
        (b"F1_0.0\n", Problem::Float),
        (b"F0x1\n", Problem::Float),
        (b"S'\n", Problem::QuotedString),
        (b"S'\\'\n", Problem::QuotedString),
        (b"S'\\x4'\n", Problem::QuotedString),
        (b"V\\u004\n", Problem::UnicodeEscape),
        (b"V\\U00110000\n", Problem::UnicodeEscape),
        (b"\x8c\x03\xed\xa0a", Problem::NotUtf8),
        (b"NNa", Problem::Immutable),
        (b")Na", Problem::Immutable),
        (b"]2Na", Problem::ChangedByReference),
        (b"(o", Problem::ItemCount),
        (b"(Nd", Problem::ItemCount),
        (b"\x99", Problem::UnknownOpcode(0x99)),
    ];
    for (value, expected) in cases {
        let blob = [b"}X\x01\0\0\0k", value, b"s."].concat();
        match read(&blob) {
            Err(PickleError::Unreadable { problem, .. }) => {
                assert_eq!(problem, expected, "{}", value.escape_ascii());
            }
            other => panic!("{}: {other:?}", value.escape_ascii()),
        }
    }
}

#[test]
fn integers_in_text_have_a_limit() {
    let of_digits = |count| [b"I", "1".repeat(count).as_bytes(), b"\n"].concat();
    assert_eq!(view_of(&of_digits(1_300)), Err(Kind::Integer));
    let blob = [b"}K\x01", of_digits(1_301).as_slice(), b"s."].concat();
    assert!(read(&blob).is_err());
}

#[test]
fn values_are_shown_to_the_depth_that_json_is_read_to() {
    let nested = |depth: usize| [b"]".repeat(depth), b"a".repeat(depth - 1)].concat();
    let deepest = view_of(&nested(127)).unwrap();
    assert_eq!(Json::parse(deepest.as_str().as_bytes()).unwrap(), deepest);
    assert_eq!(view_of(&nested(128)), Err(Kind::Deep));
}

#[test]
fn a_key_inside_that_is_set_twice_has_its_last_value() {
    let json = view_of(b"}(U\x01bK\x01V\nK\x02U\x01aK\x03U\x01bK\x04u").unwrap();
    assert_eq!(json.as_str(), r#"{"":2,"a":3,"b":4}"#);
    assert_eq!(view_of(b"}K\x01Ns"), Err(Kind::Key));
}

#[test]
fn all_values_together_share_one_limit() {
    let text = "\u{e9}".repeat(100_000);
    let json = Json::string(&text);
    assert_eq!(json.as_str().len(), 600_002);
    let mut pickle = Pickle::empty(Protocol::COMMON);
    for name in ["a", "b", "c"] {
        pickle.set(name, &json).unwrap();
    }
    pickle.set("user", &Json::string("alice")).unwrap();
    let view = reread(&pickle).view();
    // What is too much does not hide what comes after it.
    assert_eq!(view.values.keys().collect::<Vec<_>>(), ["a", "user"]);
    let kinds: Vec<Kind> = view.opaque.into_values().collect();
    assert_eq!(kinds, [Kind::Large, Kind::Large]);
}

#[test]
fn kinds_are_tokens_of_structured_fields() {
    use Kind::*;
    let kinds = [
        Tuple, Set, Bytes, Object, Recursive, Float, Integer, Text, Key, Deep, Large,
    ];
    for kind in kinds {
        let mut letters = kind.as_str().bytes();
        assert!(letters.all(|letter| letter.is_ascii_lowercase()));
    }
}

// --- what editing keeps ---

/// In Python 2 `'a'` and `u'a'` are one key: the first of them, with the last value.
const TWICE: &[u8] = b"(dS'a'\nI1\nsS'b'\nI2\nsVa\nI3\ns.";

#[test]
fn a_name_keeps_its_first_spelling_and_place() {
    let mut pickle = read(TWICE).unwrap();
    assert_eq!(values_of(&pickle.view()), json!({"a": 3, "b": 2}));
    assert_eq!(pickle.write().unwrap(), TWICE);
    pickle.set("a", &parsed(&json!(4))).unwrap();
    assert_eq!(pickle.write().unwrap(), b"(dS'a'\nI4\nsS'b'\nI2\ns.");
}

#[test]
fn a_deleted_name_is_gone_however_often_it_was_set() {
    let mut pickle = read(TWICE).unwrap();
    assert!(pickle.delete("a"));
    assert!(!pickle.delete("a"));
    assert_eq!(pickle.write().unwrap(), b"(dS'b'\nI2\ns.");
    assert!(pickle.delete("b"));
    assert_eq!(pickle.write().unwrap(), b"(d.");
    pickle.set("c", &parsed(&json!(null))).unwrap();
    assert_eq!(pickle.write().unwrap(), b"(dVc\nNs.");
}

#[test]
fn the_bytes_of_a_deleted_value_are_not_written() {
    let blob = b"\x80\x02}q\0(U\x01acdatetime\ndate\nq\x01U\x04\x07\xea\x0b\x18\x85RU\x01bK\x01u.";
    let mut pickle = read(blob).unwrap();
    assert_eq!(pickle.view().opaque["a"], Kind::Object);
    pickle.delete("a");
    assert_eq!(pickle.write().unwrap(), b"\x80\x02}U\x01bK\x01s.");
}

#[test]
fn clear_takes_also_what_has_no_name() {
    let mut pickle = read(b"\x80\x02}(K\x01K\x02U\x01\xe9NU\x01aNu.").unwrap();
    assert_eq!(pickle.view().unnamed, 2);
    pickle.clear();
    assert_eq!(pickle.write().unwrap(), b"\x80\x02}.");
}

#[test]
fn values_that_share_an_object_share_it_still() {
    let mut pickle = read(b"\x80\x02}q\0(U\x01a]q\x01K\x01aU\x01bh\x01U\x01cNu.").unwrap();
    pickle.delete("c");
    assert_eq!(
        pickle.write().unwrap(),
        b"\x80\x02}(U\x01a]q\0K\x01aU\x01bh\0u."
    );
    pickle.delete("a");
    assert_eq!(pickle.write().unwrap(), b"\x80\x02}U\x01b]K\x01as.");
}

#[test]
fn an_empty_session_is_that_of_python() {
    let expected: [&[u8]; 6] = [
        b"(d.",
        b"}.",
        b"\x80\x02}.",
        b"\x80\x03}.",
        b"\x80\x04}.",
        b"\x80\x05}.",
    ];
    for (number, expected) in (0..).zip(expected) {
        let protocol = Protocol::new(number).unwrap();
        assert_eq!(Pickle::empty(protocol).write().unwrap(), expected);
    }
    assert_eq!(Protocol::new(6), None);
}

#[test]
fn new_values_are_spelt_in_the_protocol() {
    let value = parsed(&json!([
        true,
        -1,
        300,
        5_000_000_000_i64,
        1.5,
        "\u{e9}\u{20ac}\n",
        {}
    ]));
    let spelt = |number| {
        let mut pickle = Pickle::empty(Protocol::new(number).unwrap());
        pickle.set("k", &value).unwrap();
        pickle.write().unwrap().escape_ascii().to_string()
    };
    insta::assert_snapshot!((0..=5).map(spelt).collect::<Vec<_>>().join("\n"), @r"
(dVk\n(lI01\naI-1\naI300\naI5000000000\naF1.5\naV\xe9\\u20ac\\u000a\na(das.
}X\x01\x00\x00\x00k](I01\nJ\xff\xff\xff\xffM,\x01I5000000000\nG?\xf8\x00\x00\x00\x00\x00\x00X\x06\x00\x00\x00\xc3\xa9\xe2\x82\xac\n}es.
\x80\x02}X\x01\x00\x00\x00k](\x88J\xff\xff\xff\xffM,\x01I5000000000\nG?\xf8\x00\x00\x00\x00\x00\x00X\x06\x00\x00\x00\xc3\xa9\xe2\x82\xac\n}es.
\x80\x03}X\x01\x00\x00\x00k](\x88J\xff\xff\xff\xffM,\x01\x8a\x05\x00\xf2\x05*\x01G?\xf8\x00\x00\x00\x00\x00\x00X\x06\x00\x00\x00\xc3\xa9\xe2\x82\xac\n}es.
\x80\x04\x95+\x00\x00\x00\x00\x00\x00\x00}\x8c\x01k](\x88J\xff\xff\xff\xffM,\x01\x8a\x05\x00\xf2\x05*\x01G?\xf8\x00\x00\x00\x00\x00\x00\x8c\x06\xc3\xa9\xe2\x82\xac\n}es.
\x80\x05\x95+\x00\x00\x00\x00\x00\x00\x00}\x8c\x01k](\x88J\xff\xff\xff\xffM,\x01\x8a\x05\x00\xf2\x05*\x01G?\xf8\x00\x00\x00\x00\x00\x00\x8c\x06\xc3\xa9\xe2\x82\xac\n}es.
");
}

#[test]
fn a_number_that_would_not_come_back_is_not_set() {
    let mut pickle = read(TWICE).unwrap();
    for number in [
        "18446744073709551616",
        "-9223372036854775809",
        "1e400",
        "[1E999]",
    ] {
        let json = Json::parse(number.as_bytes()).unwrap();
        assert_eq!(pickle.set("a", &json), Err(PickleError::Number), "{number}");
    }
    assert_eq!(pickle.write().unwrap(), TWICE);
}

#[test]
fn what_could_not_be_read_again_is_not_written() {
    let mut pickle = Pickle::empty(Protocol::COMMON);
    pickle
        .set("a", &Json::string(&"x".repeat(1 << 20)))
        .unwrap();
    assert_eq!(pickle.write(), Err(PickleError::Excess));

    let numbers: Value = (0..100_000).map(|_| json!(1)).collect();
    pickle.set("a", &parsed(&numbers)).unwrap();
    assert_eq!(pickle.write(), Err(PickleError::Excess));
    pickle.delete("a");
    assert_eq!(pickle.write().unwrap(), b"\x80\x02}.");
}

// --- objects that contain themselves ---

/// Tuple, list and tuple again: Python builds the tuple inside, drops what it began outside, and
/// refers to the one inside.
#[test]
fn a_tuple_that_contains_itself_is_written_as_python_does() {
    let blobs: [&[u8]; 3] = [
        b"(dS't'\n((lp0\n(g0\ntp1\na00g1\ns.",
        b"\x80\x02}U\x01t]q\0h\0\x85q\x01a0h\x01s.",
        b"\x80\x02}U\x01t(]q\0(h\0NNNtq\x01aNNN1h\x01s.",
    ];
    for blob in blobs {
        let pickle = read(blob).unwrap();
        assert_eq!(pickle.view().opaque["t"], Kind::Tuple);
        assert_eq!(outline(&reread(&pickle)), outline(&pickle));
    }
}

#[test]
fn a_frozen_set_that_contains_itself_is_written_as_python_does() {
    // Protocol 4 of `frozenset([o])`, where `o.f` is that set.
    let blob = b"\x80\x04}\x94\x8c\x01f\x94(\x8c\x01m\x94\x8c\x01O\x94\x93\x94)\x81\x94}\x94\x8c\x01f\x94(h\x05\x91\x94sb1h\x08s.";
    let pickle = read(blob).unwrap();
    assert_eq!(pickle.view().opaque["f"], Kind::Set);
    assert_eq!(outline(&reread(&pickle)), outline(&pickle));
}

/// Protocol 2 of the same: `frozenset` is called with a list. To call it inside again, the list
/// would have to be complete before it is.
#[test]
fn an_object_that_contains_itself_in_its_arguments_is_read_only() {
    let blob = b"\x80\x02}q\0X\x01\0\0\0fq\x01c__builtin__\nfrozenset\nq\x02]q\x03cm\nO\nq\x04)\x81q\x05}q\x06h\x01h\x02]q\x07h\x05a\x85q\x08Rq\x09sba\x85q\x0aR0h\x09s.";
    let mut pickle = read(blob).unwrap();
    assert_eq!(pickle.view().opaque["f"], Kind::Set);
    assert_eq!(pickle.write(), Err(PickleError::Entangled));
    pickle.delete("f");
    assert_eq!(pickle.write().unwrap(), b"\x80\x02}.");
}
