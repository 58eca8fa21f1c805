//! What four Pythons wrote.

use std::sync::LazyLock;

use super::*;

static VECTORS: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!(
        "../../../../tests/vectors/pycket_sessions.json"
    ))
    .unwrap()
});

pub(super) const SESSIONS: usize = 362;

pub(super) fn sessions() -> &'static [Value] {
    let sessions = VECTORS["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), SESSIONS);
    sessions
}

fn label(case: &Value) -> String {
    format!(
        "{} {} {} {} {}",
        case["id"], case["name"], case["python"], case["impl"], case["protocol"]
    )
}

#[test]
fn recorded_sessions_read_as_in_python() {
    let mut values = 0;
    let mut opaque = 0;
    for case in sessions() {
        let pickle = Pickle::read(&bytes_of(case, "blob")).unwrap();
        let view = pickle.view();
        let expected = &case["expected_json"];
        assert_eq!(
            values_of(&view),
            with_plain_floats(expected),
            "{}",
            label(case)
        );
        let names: Vec<&String> = view.opaque.keys().collect();
        let mut expected: Vec<&String> = case["opaque_keys"].as_object().unwrap().keys().collect();
        expected.sort();
        assert_eq!(names, expected, "{}", label(case));
        let odd = case["odd_keys"].as_array().unwrap().len();
        assert_eq!(view.unnamed, odd, "{}", label(case));
        let protocol = case["protocol"].as_u64().unwrap();
        assert_eq!(u64::from(pickle.protocol().number()), protocol);
        values += view.values.len();
        opaque += view.opaque.len();
    }
    assert_eq!((values, opaque), (3727, 538));
}

#[test]
fn recorded_values_are_canonical() {
    for case in sessions() {
        let view = Pickle::read(&bytes_of(case, "blob")).unwrap().view();
        for json in view.values.values() {
            assert_eq!(*json, Json::parse(json.as_str().as_bytes()).unwrap());
        }
    }
}

#[test]
fn recorded_sessions_are_opaque_for_the_reason_in_the_way() {
    let mut kinds: BTreeMap<String, BTreeMap<&str, usize>> = BTreeMap::new();
    for case in sessions() {
        let view = Pickle::read(&bytes_of(case, "blob")).unwrap().view();
        for (name, kind) in view.opaque {
            let reason = case["opaque_keys"][&name].as_str().unwrap().to_owned();
            *kinds
                .entry(reason)
                .or_default()
                .entry(kind.as_str())
                .or_default() += 1;
        }
    }
    let lines: Vec<String> = kinds
        .iter()
        .map(|(reason, kinds)| format!("{reason}: {kinds:?}"))
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
Color: {"object": 6}
Counter: {"object": 10}
Decimal: {"object": 18}
DictSub: {"object": 9}
Fraction: {"object": 9}
NewStyle: {"object": 42}
ObjectDict: {"object": 9}
OrderedDict: {"object": 10}
Point: {"object": 13}
Slots: {"object": 4}
StrSub: {"object": 9}
UUID: {"object": 9}
User: {"object": 6}
builtin_function_or_method: {"object": 10}
bytearray: {"bytes": 11}
bytes: {"bytes": 12}
complex: {"object": 9}
date: {"object": 9}
datetime: {"object": 24}
defaultdict: {"object": 10}
deque: {"object": 10}
dict key of type int: {"key": 11}
ellipsis: {"object": 6}
frozenset: {"set": 14}
instance: {"object": 5}
int outside i64/u64: {"integer": 45}
lone surrogate: {"text": 4}
non-ASCII Python 2 byte str: {"text": 13}
non-finite float: {"float": 27}
range: {"object": 6}
recursive: {"recursive": 23}
set: {"set": 14}
time: {"object": 9}
timedelta: {"object": 9}
tuple: {"tuple": 83}
type: {"object": 20}
"#);
}

#[test]
fn recorded_sessions_are_written_as_they_were() {
    for case in sessions() {
        let pickle = Pickle::read(&bytes_of(case, "blob")).unwrap();
        let again = reread(&pickle);
        assert_eq!(outline(&again), outline(&pickle), "{}", label(case));
        assert_eq!(again.protocol(), pickle.protocol());
        assert_eq!(again.write(), pickle.write(), "{}", label(case));
    }
}

#[test]
fn edits_of_recorded_sessions_leave_the_rest() {
    let new =
        parsed(&json!({"list": [1, -1.5, "\u{e9}\u{1f600}", null, {"a": true}], "big": u64::MAX}));
    let mut deleted = 0;
    for case in sessions() {
        let mut pickle = Pickle::read(&bytes_of(case, "blob")).unwrap();
        let mut expected = pickle.view();
        let names: Vec<String> = expected
            .values
            .keys()
            .chain(expected.opaque.keys())
            .cloned()
            .collect();
        for name in names.iter().step_by(2).take(5) {
            assert!(pickle.delete(name));
            expected.values.remove(name);
            expected.opaque.remove(name);
            deleted += 1;
        }
        let replaced = names.get(1).map_or("other", String::as_str);
        for name in [replaced, "n\u{e9}w \u{1f600}"] {
            pickle.set(name, &new).unwrap();
            expected.opaque.remove(name);
            expected.values.insert(name.to_owned(), new.clone());
        }
        assert_eq!(pickle.view(), expected, "{}", label(case));
        let again = reread(&pickle);
        assert_eq!(again.view(), expected, "{}", label(case));
        assert_eq!(outline(&again), outline(&pickle), "{}", label(case));
    }
    assert_eq!(deleted, 667);
}

#[test]
fn recorded_memcached_values_are_unwrapped() {
    let cases = VECTORS["memcached_values"].as_array().unwrap();
    for case in cases {
        let value = bytes_of(case, "value");
        let inner = unwrap_bytes(&value);
        match case["flags"].as_u64() {
            Some(1) => assert_eq!(inner, Some(bytes_of(case, "inner_blob"))),
            _ => assert_eq!(inner, None),
        }
        let blob = inner.unwrap_or(value);
        let view = Pickle::read(&blob).unwrap().view();
        assert_eq!(values_of(&view), case["expected_json"]);
    }
    assert_eq!(cases.len(), 2);
}
