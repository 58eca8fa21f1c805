use std::time::Duration;

use super::*;
use crate::contract::{Capture, Encoding};
use proptest::prelude::*;

fn policy() -> ContractPolicy {
    ContractPolicy {
        encoding: Encoding::Json,
        expose: None,
        inject: Vec::new(),
        capture: Vec::new(),
        signals: true,
        on_bad_signal: OnBadSignal::Fail,
        budget: 4096,
    }
}

fn ignoring() -> ContractPolicy {
    ContractPolicy {
        on_bad_signal: OnBadSignal::Ignore,
        ..policy()
    }
}

fn exposing(name: &str) -> ContractPolicy {
    ContractPolicy {
        expose: Some(vec![name.to_owned()]),
        ..policy()
    }
}

fn names() -> Names {
    let mut names = Names::default();
    names
        .reserve(&HeaderName::from_static("x-auth-user"))
        .unwrap();
    names
}

fn capturing() -> ContractPolicy {
    let header = HeaderName::from_static("x-auth-user");
    ContractPolicy {
        capture: vec![Capture {
            header,
            value: "user".to_owned(),
        }],
        ..policy()
    }
}

/// Extracts from these lines, and makes sure that nothing reserved is left.
fn extracted(policy: &ContractPolicy, lines: &[(&str, &[u8])]) -> Extracted {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("text/html"));
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_bytes(value).unwrap());
    }
    let extracted = extract(&mut headers, &names(), policy);
    assert_eq!(headers.len(), 1, "{headers:?}");
    extracted
}

fn signals(lines: &[(&str, &str)]) -> Signals {
    let lines: Vec<_> = lines
        .iter()
        .map(|(name, value)| (*name, value.as_bytes()))
        .collect();
    let extracted = extracted(&policy(), &lines);
    assert!(extracted.ignored.is_empty());
    extracted.signals.unwrap()
}

fn pair(name: &str, json: &str) -> Pair {
    let value = (json != "null").then(|| Json::parse(json.as_bytes()).unwrap());
    (name.to_owned(), value)
}

fn errors(policy: &ContractPolicy, header: &str, lines: &[&[u8]]) -> String {
    let lines: Vec<_> = lines.iter().map(|value| (header, *value)).collect();
    let errors = extracted(policy, &lines).signals.unwrap_err();
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    texts.join("\n")
}

fn all_errors(header: &str, lines: &[&[u8]]) -> String {
    let texts: Vec<String> = lines
        .iter()
        .map(|line| errors(&policy(), header, &[line]))
        .collect();
    texts.join("\n")
}

#[test]
fn a_response_without_signals_asks_for_nothing() {
    assert_eq!(extracted(&policy(), &[]), Extracted::default());
    assert!(
        signals(&[
            ("x-session-set", ""),
            ("x-session-delete", ""),
            ("x-session-control", "")
        ])
        .patch
        .is_empty()
    );
    assert!(
        signals(&[
            ("x-session-set", "{}, {} ,"),
            ("x-notifications-taken", " ")
        ])
        .patch
        .is_empty()
    );
}

#[test]
fn json_and_form_can_be_joined_by_commas_or_stand_in_lines() {
    let expected = vec![
        pair("a", "1"),
        pair("b", r#""2,3""#),
        pair("c", r#""""#),
        pair("a", "null"),
    ];
    for lines in [
        &[r#"{"a":1},b=2%2C3&c=,{"a":null}"#][..],
        &[r#"  {"a": 1 } , b=2%2C3	,, c= , { "a" : null }"#],
        &[r#"{"a":1}"#, "b=2%2C3&c=", r#"{"a":null}"#],
        &[r#"{"a":1}, b=2%2C3"#, r#"c=&, {"a":null}"#],
    ] {
        let lines: Vec<_> = lines.iter().map(|line| ("x-session-set", *line)).collect();
        assert_eq!(signals(&lines).patch.set, expected);
    }
}

#[test]
fn form_values_are_decoded_and_keep_what_is_no_separator() {
    let set = signals(&[("x-session-set", "na%C3%AFve+name=a+b%2Bc=d é&x=%0D%0A%00")])
        .patch
        .set;
    assert_eq!(
        set,
        [
            pair("naïve name", r#""a b+c=d é""#),
            pair("x", r#""\r\n\u0000""#)
        ]
    );
}

#[test]
fn notifications_replace_or_join_a_list() {
    let announce = signals(&[
        ("x-notifications-add", "flash=two"),
        ("x-notifications-set", r#"{"flash":["one"]}"#),
    ])
    .patch
    .announce;
    let expected = [(r#"["one"]"#, false), (r#""two""#, true)].map(|(json, append)| Announcement {
        name: "flash".to_owned(),
        value: Json::parse(json.as_bytes()).unwrap(),
        append,
    });
    assert_eq!(announce, expected);
}

#[test]
fn lists_take_tokens_strings_and_display_strings_over_lines() {
    let patch = signals(&[
        ("x-session-delete", r#"user, "last seen""#),
        ("x-session-delete", r#"%"na%c3%afve", "*""#),
        ("x-notifications-taken", "flash"),
    ])
    .patch;
    assert_eq!(patch.delete, ["user", "last seen", "naïve", "*"]);
    assert_eq!(patch.taken, Taken::Names(vec!["flash".to_owned()]));
    assert_eq!(
        signals(&[("x-notifications-taken", "a, *")]).patch.taken,
        Taken::All
    );
}

#[test]
fn control_is_a_dictionary_whose_last_word_counts() {
    let signals = signals(&[
        ("x-session-control", "clear, renew=?1, ttl=0, persist=?0"),
        ("x-session-control", "ttl=61, clear=?0"),
    ]);
    assert!(signals.renew && !signals.destroy && !signals.patch.clear);
    assert_eq!(signals.patch.idle_timeout, Some(Duration::from_secs(61)));
    assert_eq!(signals.patch.persist, Some(false));
}

#[test]
fn with_destroy_nothing_else_counts_but_all_must_be_well_formed() {
    let lines = [
        ("x-session-set", "a=1"),
        ("x-session-control", "destroy, renew, clear"),
    ];
    assert_eq!(
        signals(&lines),
        Signals {
            destroy: true,
            ..Signals::default()
        }
    );
    let bad: [(&str, &[u8]); 2] = [("x-session-set", b"a"), ("x-session-control", b"destroy")];
    assert!(extracted(&policy(), &bad).signals.is_err());
}

#[test]
fn captured_text_comes_before_explicit_signals_and_the_last_line_counts() {
    let capture = |lines: &[(&str, &str)]| {
        let lines: Vec<_> = lines
            .iter()
            .map(|(name, value)| (*name, value.as_bytes()))
            .collect();
        let extracted = extracted(&capturing(), &lines);
        assert!(extracted.ignored.is_empty());
        extracted.signals.unwrap().patch.set
    };
    assert_eq!(
        capture(&[
            ("x-session-set", "user=bob"),
            ("x-auth-user", "x"),
            ("x-auth-user", "Zoë 100%")
        ]),
        [pair("user", r#""Zoë 100%""#), pair("user", r#""bob""#)]
    );
    assert_eq!(capture(&[("x-auth-user", "")]), [pair("user", "null")]);
    insta::assert_snapshot!(errors(&capturing(), "x-auth-user", &[b"a\xff"]), @"X-Auth-User, line 1, byte 2: expected UTF-8");
    let narrow = ContractPolicy {
        expose: Some(Vec::new()),
        ..capturing()
    };
    insta::assert_snapshot!(errors(&narrow, "x-auth-user", &[b"a"]), @"X-Auth-User: the route does not expose this name");
}

#[test]
fn an_unknown_reserved_header_is_removed_and_reported() {
    let lines: [(&str, &[u8]); 4] = [
        ("x-session-sett", b"a=1"),
        ("x_session_set", b"a=1"),
        ("x-session", b"{}"),
        ("x-auth-user", b"a"),
    ];
    let extracted = extracted(&policy(), &lines);
    assert_eq!(extracted.signals, Ok(Signals::default()));
    assert_eq!(
        extracted.ignored,
        [
            "x-session-sett",
            "x_session_set",
            "x-session",
            "x-auth-user"
        ]
    );
}

#[test]
fn where_signals_are_not_allowed_they_are_removed_and_reported() {
    let policy = ContractPolicy {
        signals: false,
        ..capturing()
    };
    let extracted = extracted(&policy, &[("x-session-set", b"a"), ("x-auth-user", b"a")]);
    assert_eq!(extracted.signals, Ok(Signals::default()));
    assert_eq!(extracted.ignored, ["x-session-set", "x-auth-user"]);
}

#[test]
fn one_malformed_signal_stops_all_and_every_one_is_named() {
    let lines: [(&str, &[u8]); 4] = [
        ("x-session-set", b"a=1"),
        ("x-session-set", b"b"),
        ("x-session-delete", b"c"),
        ("x-session-control", b"renew, destory"),
    ];
    let errors = extracted(&policy(), &lines).signals.unwrap_err();
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"), @"
    X-Session-Set, line 2, byte 1: expected a JSON object or name=value; a comma inside a value is written %2C
    X-Session-Control, member 2: expected clear, renew, destroy, ttl or persist
    ");

    let ignored = extracted(&ignoring(), &lines);
    assert_eq!(ignored.dropped, errors);
    let patch = Patch {
        delete: vec!["c".to_owned()],
        ..Patch::default()
    };
    assert_eq!(
        ignored.signals,
        Ok(Signals {
            patch,
            ..Signals::default()
        })
    );
}

#[test]
fn a_route_changes_only_what_it_exposes() {
    let policy = exposing("user");
    for (header, value) in [
        ("x-session-set", "user=1&other=2"),
        ("x-session-set", r#"{"user":1}, {"other":null}"#),
        ("x-session-delete", "user, other"),
        ("x-notifications-add", "other=1"),
        ("x-notifications-taken", "other"),
    ] {
        let text = errors(&policy, header, &[value.as_bytes()]);
        assert!(
            text.ends_with("the route does not expose this name"),
            "{text}"
        );
        assert!(!text.contains("other"), "{text}");
    }
    let clear = extracted(&policy, &[("x-session-control", b"clear")])
        .signals
        .unwrap();
    assert!(!clear.patch.clear);
    assert_eq!(clear.patch.delete, ["user"]);
}

#[test]
fn what_breaks_the_grammar_of_pairs_is_named_with_its_place() {
    insta::assert_snapshot!(all_errors("x-session-set", &[
        br#"{"a":}"#,
        br#"  {"a":1"#,
        br#"{"a":1} b=2"#,
        br#"{"a":1}, {"a":nul}"#,
        b"{a:1}",
        br#"{"":1}"#,
        br#"{"a\u0000":1}"#,
        br#"{"a":"\ud800"}"#,
        b"{\"a\":\"\t\"}",
        br#"{"a":{"$serde_json::private::Number":12345}}"#,
        b"[1,2]",
        b"a",
        b"a=1,2",
        b"a=1&b",
        b"=1",
        b"a%00=1",
        b"a=1, b=100%",
        b"a=%4",
        b"a=%zz",
        b"a=%ff",
        b"a=\xff",
    ]), @r"
    X-Session-Set, line 1, byte 6: expected value
    X-Session-Set, line 1, byte 8: EOF while parsing an object
    X-Session-Set, line 1, byte 9: expected a comma or the end after a JSON object
    X-Session-Set, line 1, byte 18: expected ident
    X-Session-Set, line 1, byte 2: key must be a string
    X-Session-Set, line 1, byte 1: a name is not empty
    X-Session-Set, line 1, byte 1: a name has no control characters
    X-Session-Set, line 1, byte 13: unexpected end of hex escape
    X-Session-Set, line 1, byte 7: control character (\u0000-\u001F) found while parsing a string
    X-Session-Set, line 1, byte 42: expected plain JSON values
    X-Session-Set, line 1, byte 1: expected a JSON object or name=value; a comma inside a value is written %2C
    X-Session-Set, line 1, byte 1: expected a JSON object or name=value; a comma inside a value is written %2C
    X-Session-Set, line 1, byte 5: expected a JSON object or name=value; a comma inside a value is written %2C
    X-Session-Set, line 1, byte 5: expected a JSON object or name=value; a comma inside a value is written %2C
    X-Session-Set, line 1, byte 1: a name is not empty
    X-Session-Set, line 1, byte 1: a name has no control characters
    X-Session-Set, line 1, byte 11: expected two hexadecimal digits after %; a % itself is written %25
    X-Session-Set, line 1, byte 3: expected two hexadecimal digits after %; a % itself is written %25
    X-Session-Set, line 1, byte 3: expected two hexadecimal digits after %; a % itself is written %25
    X-Session-Set, line 1, byte 3: expected UTF-8
    X-Session-Set, line 1, byte 3: expected UTF-8
    ");
    insta::assert_snapshot!(errors(&policy(), "x-session-set", &[b"a=1", b"b=2, c"]), @"X-Session-Set, line 2, byte 6: expected a JSON object or name=value; a comma inside a value is written %2C");
    insta::assert_snapshot!(errors(&policy(), "x-notifications-add", &[br#"{"a":null}"#]), @"X-Notifications-Add: null is no notification");
}

#[test]
fn what_breaks_the_grammar_of_structured_fields_is_named_with_its_place() {
    insta::assert_snapshot!(all_errors("x-session-delete", &[
        b"a,",
        b"a b",
        b"\"a",
        b"caf\xc3\xa9",
        b"a, 1",
        b"a, (b c)",
        b"a;b",
        b"\"\"",
        br#"%"%00""#,
        b"*",
    ]), @"
    X-Session-Delete, line 1, byte 2: trailing comma (RFC 9651)
    X-Session-Delete, line 1, byte 3: trailing characters after member (RFC 9651)
    X-Session-Delete, line 1, byte 3: unterminated string (RFC 9651)
    X-Session-Delete, line 1, byte 4: trailing characters after member (RFC 9651)
    X-Session-Delete, member 2: expected a name as a token or a string
    X-Session-Delete, member 2: expected a name as a token or a string
    X-Session-Delete, member 1: there are no parameters here
    X-Session-Delete, member 1: a name is not empty
    X-Session-Delete, member 1: a name has no control characters
    X-Session-Delete: * is no name here: `clear` deletes all values
    ");
    insta::assert_snapshot!(all_errors("x-session-control", &[
        b"Renew",
        b"renew, destory",
        b"clear=1",
        b"destroy=()",
        b"renew;now",
        b"ttl",
        b"ttl=0",
        b"ttl=-1",
        b"ttl=1.5",
        b"ttl=4294967296",
        b"persist=no",
    ]), @"
    X-Session-Control, line 1, byte 1: expected start of key ('a'-'z' or '*') (RFC 9651)
    X-Session-Control, member 2: expected clear, renew, destroy, ttl or persist
    X-Session-Control, member 1: expected a boolean: nothing or =?1 for yes, =?0 for no
    X-Session-Control, member 1: expected a boolean: nothing or =?1 for yes, =?0 for no
    X-Session-Control, member 1: there are no parameters here
    X-Session-Control, member 1: expected whole seconds from 1 to 4294967295
    X-Session-Control, member 1: expected whole seconds from 1 to 4294967295
    X-Session-Control, member 1: expected whole seconds from 1 to 4294967295
    X-Session-Control, member 1: expected whole seconds from 1 to 4294967295
    X-Session-Control, member 1: expected whole seconds from 1 to 4294967295
    X-Session-Control, member 1: expected a boolean: nothing or =?1 for yes, =?0 for no
    ");
    insta::assert_snapshot!(errors(&policy(), "x-session-delete", &[b"a", b"b c"]), @"X-Session-Delete, line 2, byte 3: trailing characters after member (RFC 9651)");
}

#[test]
fn reserved_headers_are_removed_from_trailers_without_effect() {
    let mut trailers = HeaderMap::new();
    trailers.insert("x_session_set", HeaderValue::from_static("a=1"));
    trailers.insert("digest", HeaderValue::from_static("x"));
    remove_reserved(&mut trailers, &names());
    assert_eq!(trailers.len(), 1);
}

#[test]
fn deep_nesting_is_refused() {
    let line = format!("{{\"a\":{}", "[".repeat(50_000));
    let text = errors(&policy(), "x-session-set", &[line.as_bytes()]);
    insta::assert_snapshot!(text, @"X-Session-Set, line 1, byte 132: recursion limit exceeded");
}

fn any_header() -> impl Strategy<Value = String> {
    prop_oneof![
        proptest::sample::select(Field::SIGNALS.to_vec())
            .prop_map(|field| Names::default().get(field).as_str().to_owned()),
        "x[-_.](session|notifications)([-_][a-z]{0,4})?",
        Just("x-auth-user".to_owned()),
    ]
}

fn any_line() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        "[{}\\[\\]\",:=&%+*?; a-z0-9é\\\\]{0,40}".prop_map(String::into_bytes),
    ]
}

proptest! {
    #[test]
    fn extraction_never_panics_and_leaves_nothing_reserved(
        lines in proptest::collection::vec((any_header(), any_line()), 0..6), fail: bool, allowed: bool
    ) {
        let policy = ContractPolicy {
            signals: allowed,
            on_bad_signal: if fail { OnBadSignal::Fail } else { OnBadSignal::Ignore },
            ..capturing()
        };
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
            }
        }
        let extracted = extract(&mut headers, &names(), &policy);
        prop_assert!(headers.is_empty());
        prop_assert!(fail || extracted.signals.is_ok());
    }

    #[test]
    fn form_and_json_give_equal_patches(
        values in proptest::collection::vec(("\\PC{1,6}", ".{0,8}"), 1..5)
    ) {
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(&values).finish();
        let members: Vec<String> = values
            .iter()
            .map(|(name, value)| format!("{}:{}", Json::string(name).as_str(), Json::string(value).as_str()))
            .collect();
        let json = format!("{{{}}}", members.join(","));
        prop_assert_eq!(signals(&[("x-session-set", &form)]), signals(&[("x-session-set", &json)]));
    }
}
