//! What nobody in his right mind would write.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::*;

/// The bytes of a case; those that would be long are described.
fn hostile_bytes(case: &Value) -> Vec<u8> {
    let many = |byte: u8, count: usize| vec![byte; count];
    match case["name"].as_str().unwrap() {
        "nest_list_100k" => [
            b"\x80\x04}\x8c\x01k".to_vec(),
            many(b']', 100_000),
            many(b'a', 99_999),
            b"s.".to_vec(),
        ]
        .concat(),
        "nest_tuple1_1m" => [
            b"\x80\x04}\x8c\x01kN".to_vec(),
            many(0x85, 1_000_000),
            b"s.".to_vec(),
        ]
        .concat(),
        "nest_mark_1m" => [b"\x80\x04".to_vec(), many(b'(', 1_000_000), b"}.".to_vec()].concat(),
        "nest_dict_100k" => [
            b"\x80\x04".to_vec(),
            b"}\x8c\x01k".repeat(100_000),
            b"N".to_vec(),
            many(b's', 100_000),
            b".".to_vec(),
        ]
        .concat(),
        "10MB_string" => [
            b"\x80\x04}\x8c\x01kX".to_vec(),
            10_000_000_u32.to_le_bytes().to_vec(),
            many(b'a', 10_000_000),
            b"s.".to_vec(),
        ]
        .concat(),
        _ => bytes_of(case, "blob").to_vec(),
    }
}

/// Reads a case and says how that ended; nothing when it is a plain session.
fn end_of(case: &Value) -> Option<String> {
    let name = case["name"].as_str().unwrap();
    let bytes = hostile_bytes(case);
    assert_eq!(case["size"], json!(bytes.len()), "{name}");
    let pickle = match (case["expect"].as_str().unwrap(), read(&bytes)) {
        ("reject" | "limit" | "accept_or_reject", Err(error)) => {
            return Some(format!("{name}: {error}"));
        }
        ("reject", Ok(_)) => panic!("{name} was read"),
        (_, outcome) => outcome.unwrap(),
    };
    let view = pickle.view();
    assert_eq!(reread(&pickle).view(), view, "{name}");
    if case["expect"].as_str().unwrap().starts_with("accept") {
        assert!(view.opaque.is_empty(), "{name}");
        assert_eq!(values_of(&view), case["prototype"]["json"], "{name}");
        return None;
    }
    assert!(view.values.is_empty(), "{name}");
    let kinds: Vec<&str> = view.opaque.values().map(|kind| kind.as_str()).collect();
    Some(format!("{name}: {}", kinds.join(" ")))
}

#[test]
fn hostile_streams_end_as_they_must() {
    let vectors: Value = serde_json::from_str(include_str!(
        "../../../../tests/vectors/pickle_hostile.json"
    ))
    .unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    let ends: Vec<String> = cases.iter().filter_map(end_of).collect();
    assert_eq!(cases.len(), 54);
    insta::assert_snapshot!(ends.join("\n"), @"
os_system_reduce: object
top_level_reduce: expected a plain dictionary at byte 26
inst_opcode: object
build_setstate: object
persid: persistent ids are not read at byte 14
binpersid: persistent ids are not read at byte 10
ext1: the extension registry is not read at byte 7
next_buffer: buffers outside the pickle are not read at byte 7
top_list: expected a plain dictionary at byte 4
top_none: expected a plain dictionary at byte 2
empty_input: it ends too early at byte 1
proto_6: protocol 6 is not one of 0 to 5 at byte 1
proto_255: protocol 255 is not one of 0 to 5 at byte 1
no_stop: it ends too early at byte 4
stack_left_over: expected one object to be left at byte 5
stack_underflow: nothing is left on the stack at byte 3
pop_empty: nothing is left on the stack at byte 3
no_mark: no mark is open at byte 4
odd_setitems: wrong number of items after the mark at byte 8
memo_missing: the memo has no such entry at byte 7
put_huge_index_text: the number of a memo entry is not one of 32 bits at byte 3
put_negative: the number of a memo entry is not one of 32 bits at byte 3
len_binunicode_4g: it ends too early at byte 4
len_binunicode8: it ends too early at byte 4
len_binunicode8_i64: it ends too early at byte 4
len_binstring_negative: it ends too early at byte 2
len_long4_negative: it ends too early at byte 4
len_bytearray8: it ends too early at byte 4
frame_too_long: the frame has a wrong length at byte 3
text_int_garbage: expected a decimal integer of at most 1300 digits at byte 8
float_text_nan: float
string_unquoted: expected a quoted string with whole escapes at byte 3
string_mixed_quotes: expected a quoted string with whole escapes at byte 3
bad_utf8: expected UTF-8 at byte 7
nest_list_100k: it has more than 200000 nodes at byte 200005
nest_tuple1_1m: it has more than 200000 nodes at byte 200005
nest_mark_1m: it has more than 10000 open marks at byte 10003
nest_dict_100k: it has more than 200000 nodes at byte 400003
billion_laughs_lists: large
billion_laughs_tuples: tuple
global_newline_tricks: object
codecs_encode_bomb: bytes
nested_frame: the frame has a wrong length at byte 13
10MB_string: it has more than 1048576 bytes at byte 1048577
");
}

#[test]
fn nesting_costs_no_stack() {
    // As deep as the limit on nodes lets it be: 99,997 lists in each other.
    let blob = [
        b"}X\x01\0\0\0k".to_vec(),
        b"]".repeat(99_997),
        b"a".repeat(99_996),
        b"s.".to_vec(),
    ]
    .concat();
    let pickle = read(&blob).unwrap();
    assert_eq!(pickle.view().opaque["k"], Kind::Deep);
    assert_eq!(pickle.write().unwrap(), blob);
}

/// A chain of tuples around some lists, each of which contains the whole chain: with every list,
/// it is begun once more before it is complete.
fn chain(tuples: usize, lists: u32) -> Vec<u8> {
    let for_each = |opcodes: &[u8]| -> Vec<u8> {
        (0..lists)
            .flat_map(|list| [opcodes, &list.to_le_bytes()].concat())
            .collect()
    };
    let whole = lists.to_le_bytes();
    let append_to_others = [b"0j".as_slice(), &whole, b"a"].concat();
    [
        b"}X\x01\0\0\0k".to_vec(),
        for_each(b"]r"),
        b"(".to_vec(),
        for_each(b"j"),
        b"t".to_vec(),
        b"\x85".repeat(tuples),
        [b"r".as_slice(), &whole, b"a"].concat(),
        append_to_others.repeat(usize::try_from(lists - 1).unwrap()),
        [b"0j".as_slice(), &whole, b"s."].concat(),
    ]
    .concat()
}

#[test]
fn what_contains_itself_often_is_not_begun_without_end() {
    let pickle = read(&chain(3, 5)).unwrap();
    assert_eq!(outline(&reread(&pickle)), outline(&pickle));

    let pickle = read(&chain(1_000, 1_000)).unwrap();
    assert_eq!(pickle.view().opaque["k"], Kind::Tuple);
    assert_eq!(pickle.write(), Err(PickleError::Excess));
}

#[test]
fn members_that_vanish_count_as_well() {
    // 5,000 times the same dictionary, in which one key is set 1,000 times.
    let blob = [
        b"}X\x01\0\0\0k(}(".to_vec(),
        b"U\x01aN".repeat(1_000),
        b"uq\x01".to_vec(),
        b"h\x01".repeat(5_000),
        b"ls.".to_vec(),
    ]
    .concat();
    assert_eq!(read(&blob).unwrap().view().opaque["k"], Kind::Large);
}

// --- whatever comes ---

proptest! {
    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        if let Ok(pickle) = read(&bytes) {
            pickle.view();
        }
        unwrap_bytes(&Bytes::from(bytes));
    }

    #[test]
    fn values_come_back_in_every_protocol(
        members in proptest::collection::btree_map(".{0,8}", any_json(), 0..5),
        number in 0_u8..=5,
    ) {
        let mut pickle = Pickle::empty(Protocol::new(number).unwrap());
        for (name, json) in &members {
            pickle.set(name, json).unwrap();
        }
        let again = reread(&pickle);
        prop_assert_eq!(again.protocol(), pickle.protocol());
        prop_assert_eq!(again.view(), pickle.view());
        prop_assert_eq!(again.view().values, members);
    }

    #[test]
    fn what_is_set_is_what_is_shown(
        case in 0..recorded::SESSIONS,
        name in ".{0,8}",
        json in any_json(),
    ) {
        let blob = bytes_of(&recorded::sessions()[case], "blob");
        let mut pickle = Pickle::read(&blob).unwrap();
        let mut expected = pickle.view();
        pickle.set(&name, &json).unwrap();
        expected.opaque.remove(&name);
        expected.values.insert(name, json);
        prop_assert_eq!(pickle.view(), expected.clone());
        prop_assert_eq!(reread(&pickle).view(), expected);
    }
}

/// JSON in the spelling of numbers that is ours.
fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-300_i32..70_000).prop_map(Value::from),
        proptest::num::f64::NORMAL.prop_map(|float| {
            let text = literal::spell_float(float);
            serde_json::from_str(&text).unwrap()
        }),
        "\\PC{0,8}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    let any_value = leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(".{0,6}", inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    });
    any_value.prop_map(|value| Json::from_value(&value))
}

/// Programs that no pickler would write, of opcodes that fit together often enough.
#[test]
fn whatever_is_read_is_written_as_it_was() {
    const PIECES: [&[u8]; 42] = [
        b"N",
        b"K\x07",
        b"U\x01a",
        b"I5\n",
        b"cm\nf\n",
        b"]",
        b"}",
        b"\x8f",
        b")",
        b"(",
        b"(",
        b"(",
        b"t",
        b"t",
        b"\x85",
        b"\x86",
        b"\x91",
        b"a",
        b"a",
        b"e",
        b"e",
        b"s",
        b"u",
        b"\x90",
        b"b",
        b"R",
        b"\x81",
        b"o",
        b"l",
        b"0",
        b"1",
        b"2",
        b"q\x01",
        b"q\x02",
        b"h\0",
        b"h\x01",
        b"h\x02",
        b"]q\x01",
        b"(h\x01",
        b"tq\x02a0h\x02",
        b"]q\x01h\x01\x85q\x02a0h\x02",
        b"]q\x01cm\nf\nh\x01\x85Rq\x03a0h\x03",
    ];
    let mut runner = TestRunner::deterministic();
    let program = proptest::collection::vec(proptest::sample::select(PIECES.to_vec()), 0..24);
    let mut readable = 0;
    let mut recursive = 0;
    let mut entangled = 0;
    for round in 0..50_000 {
        let pieces = program.new_tree(&mut runner).unwrap().current().concat();
        let header: &[u8] = if round % 2 == 0 { b"" } else { b"\x80\x04" };
        let blob = [header, b"}q\0K\x01(", &pieces, b"ts."].concat();
        let Ok(pickle) = read(&blob) else { continue };
        readable += 1;
        let written = match pickle.write() {
            Ok(written) => written,
            Err(error) => {
                assert_eq!(error, PickleError::Entangled);
                entangled += 1;
                continue;
            }
        };
        let again = read(&written).unwrap();
        assert_eq!(outline(&again), outline(&pickle), "{}", blob.escape_ascii());
        assert_eq!(again.write().unwrap(), written, "{}", blob.escape_ascii());
        recursive += usize::from(written.windows(2).any(|pair| matches!(pair, b"0h" | b"1h")));
        pickle.view();
    }
    assert_eq!((readable, recursive, entangled), (3574, 174, 179));
}
