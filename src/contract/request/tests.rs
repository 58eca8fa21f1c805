use super::*;
use crate::clock::Timestamp;
use crate::contract::{Encoding, Inject, OnBadSignal, TextEncoding};
use crate::session::{Json, SessionId};
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

fn inject(header: &'static str, value: &str, encode: TextEncoding) -> Inject {
    Inject {
        header: HeaderName::from_static(header),
        value: value.to_owned(),
        encode,
    }
}

fn session(values: &[(&str, &str)]) -> Session {
    let mut session = Session::begin(&SessionId::from_bytes([7; 16]), Timestamp::from_secs(1));
    let map = values
        .iter()
        .map(|(name, json)| ((*name).to_owned(), Json::parse(json.as_bytes()).unwrap()))
        .collect();
    session.values = Values::from_map(&map);
    session
}

fn shown(policy: &ContractPolicy, view: &View<'_>) -> String {
    let mut headers = HeaderMap::new();
    let unwritable = apply(&mut headers, &Names::default(), policy, view).unwrap();
    let mut lines: Vec<String> = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    lines.sort();
    lines.extend(unwritable.iter().map(|name| format!("not sent: {name}")));
    lines.join("\n")
}

fn active<'a>(session: &'a Session, notifications: Option<&'a Bytes>) -> View<'a> {
    View {
        state: State::Active,
        session: Some(session),
        notifications,
    }
}

#[test]
fn without_a_session_the_application_sees_an_empty_object_and_the_reason() {
    let view = |state| View {
        state,
        session: None,
        notifications: None,
    };
    insta::assert_snapshot!(shown(&policy(), &view(State::None)), @"
    x-session-state: none
    x-session: {}
    ");
    insta::assert_snapshot!(shown(&policy(), &view(State::Unavailable)), @"
    x-session-state: unavailable
    x-session: {}
    ");
    let form = ContractPolicy {
        encoding: Encoding::Form,
        ..policy()
    };
    insta::assert_snapshot!(shown(&form, &view(State::None)), @"
    x-session-state: none
    x-session:
    ");
}

#[test]
fn a_session_and_its_notifications_are_shown() {
    let session = session(&[("user", r#""Zoë""#), ("n", "[1,2]")]);
    let notifications = Bytes::from_static(br#"{"flash":"Welcome back"}"#);
    insta::assert_snapshot!(shown(&policy(), &active(&session, Some(&notifications))), @r#"
    x-notifications: {"flash":"Welcome back"}
    x-session-id: W2cLaN2yJSyJl8aK5XDRWA
    x-session-state: active
    x-session: {"n":[1,2],"user":"Zo\u00eb"}
    "#);
    let base64 = ContractPolicy {
        encoding: Encoding::Base64,
        ..policy()
    };
    insta::assert_snapshot!(shown(&base64, &active(&session, Some(&notifications))), @"
    x-notifications: eyJmbGFzaCI6IldlbGNvbWUgYmFjayJ9
    x-session-id: W2cLaN2yJSyJl8aK5XDRWA
    x-session-state: active
    x-session: eyJuIjpbMSwyXSwidXNlciI6IlpvXHUwMGViIn0
    ");
}

#[test]
fn the_text_of_the_record_is_sent_without_a_copy() {
    let session = session(&[("user", r#""alice""#)]);
    let mut headers = HeaderMap::new();
    apply(
        &mut headers,
        &Names::default(),
        &policy(),
        &active(&session, None),
    )
    .unwrap();
    let sent = &headers["x-session"];
    assert_eq!(sent.as_bytes().as_ptr(), session.values.as_bytes().as_ptr());
    assert!(sent.is_sensitive());
}

#[test]
fn ours_replace_what_is_there_with_all_its_lines() {
    let mut headers = HeaderMap::new();
    headers.append("x-session", HeaderValue::from_static("{\"user\":\"root\"}"));
    headers.append(
        "x-session",
        HeaderValue::from_static("{\"user\":\"admin\"}"),
    );
    let view = View {
        state: State::None,
        session: None,
        notifications: None,
    };
    apply(&mut headers, &Names::default(), &policy(), &view).unwrap();
    let lines: Vec<_> = headers.get_all("x-session").iter().collect();
    assert_eq!(lines, ["{}"]);
}

#[test]
fn injected_headers_carry_the_value_and_nothing_where_there_is_none() {
    let session = session(&[
        ("user", r#""Zoë""#),
        ("age", "42"),
        ("gone", "null"),
        ("evil", r#""a\r\nX-Admin: 1""#),
    ]);
    let policy = ContractPolicy {
        inject: vec![
            inject("x-user", "user", TextEncoding::Percent),
            inject("x-user-raw", "user", TextEncoding::Utf8),
            inject("x-age", "age", TextEncoding::Percent),
            inject("x-gone", "gone", TextEncoding::Percent),
            inject("x-absent", "absent", TextEncoding::Percent),
            inject("x-evil", "evil", TextEncoding::Percent),
            inject("x-evil-raw", "evil", TextEncoding::Utf8),
        ],
        ..policy()
    };
    insta::assert_snapshot!(shown(&policy, &active(&session, None)), @r#"
    x-age: 42
    x-evil: a%0D%0AX-Admin:%201
    x-session-id: W2cLaN2yJSyJl8aK5XDRWA
    x-session-state: active
    x-session: {"age":42,"evil":"a\r\nX-Admin: 1","gone":null,"user":"Zo\u00eb"}
    x-user-raw: Zoë
    x-user: Zo%C3%AB
    not sent: x-evil-raw
    "#);
}

#[test]
fn only_exposed_names_are_in_any_header() {
    let session = session(&[("user", r#""alice""#), ("secret", r#""s3cret""#)]);
    let notifications = Bytes::from_static(br#"{"secret":1,"user":2}"#);
    let policy = ContractPolicy {
        expose: Some(vec!["user".to_owned(), "other".to_owned()]),
        inject: vec![
            inject("x-user", "user", TextEncoding::Percent),
            inject("x-secret", "secret", TextEncoding::Percent),
        ],
        ..policy()
    };
    insta::assert_snapshot!(shown(&policy, &active(&session, Some(&notifications))), @r#"
    x-notifications: {"user":2}
    x-session-id: W2cLaN2yJSyJl8aK5XDRWA
    x-session-state: active
    x-session: {"user":"alice"}
    x-user: alice
    "#);
}

#[test]
fn what_is_over_the_budget_is_not_set_at_all() {
    let session = session(&[("user", r#""alice""#)]);
    let names = Names::default();
    let size = injected_size(&names, &policy(), &session, None);
    let exact = ContractPolicy {
        budget: size,
        ..policy()
    };
    apply(
        &mut HeaderMap::new(),
        &names,
        &exact,
        &active(&session, None),
    )
    .unwrap();

    let over = ContractPolicy {
        budget: size - 1,
        ..policy()
    };
    let mut headers = HeaderMap::new();
    let error = apply(&mut headers, &names, &over, &active(&session, None)).unwrap_err();
    assert!(headers.is_empty());
    insta::assert_snapshot!(error, @"the request headers of the session take 92 bytes, the budget is 91 bytes");
}

#[test]
fn a_damaged_record_is_an_error_and_shows_nothing() {
    let mut session = session(&[]);
    session.values = Values::from_canonical(Bytes::from_static(b"{\"a\":\"\n\"}"));
    let names = Names::default();
    let mut headers = HeaderMap::new();
    let error = apply(&mut headers, &names, &policy(), &active(&session, None)).unwrap_err();
    assert!(matches!(error, ApplyError::Damaged(_)));
    assert!(headers.is_empty());
    assert_eq!(injected_size(&names, &policy(), &session, None), usize::MAX);
}

#[test]
fn scrubbing_takes_all_lines_and_spellings_and_nothing_else() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "a"),
        ("x-session", "1"),
        ("x-session", "2"),
        ("x_session", "3"),
        ("x.session-id", "4"),
        ("x-sessions", "5"),
        ("cookie", "a=b"),
        ("cookie", "c=d"),
    ] {
        headers.append(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    scrub(&mut headers, &Names::default());
    let left: Vec<&str> = headers
        .values()
        .map(|value| value.to_str().unwrap())
        .collect();
    assert_eq!(left.len(), 4);
    assert!(
        ["a", "5", "a=b", "c=d"]
            .iter()
            .all(|kept| left.contains(kept))
    );
}

proptest! {
    #[test]
    fn scrubbing_leaves_nothing_of_ours(
        client in proptest::collection::vec(
            "([xX][-_.][sS]ession|x[-~]notifications|[xy]-user|accept)([-_.][a-zA-Z~]{0,4})?", 0..12
        )
    ) {
        let mut names = Names::default();
        names.reserve(&HeaderName::from_static("x-user")).unwrap();
        let mut headers = HeaderMap::new();
        for name in &client {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_static("evil"));
        }
        scrub(&mut headers, &names);
        for name in headers.keys() {
            let folded = name.as_str().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
            let ours = ["x-session", "x-notifications"]
                .iter()
                .any(|own| folded == *own || folded.starts_with(&format!("{own}-")));
            prop_assert!(!ours && folded != "x-user", "{} survived", name);
        }
    }

    #[test]
    fn the_size_is_that_of_the_lines(
        map in proptest::collection::btree_map("[a-c]", ".{0,8}", 0..4), utf8: bool, form: bool
    ) {
        let json = map.into_iter().map(|(name, value)| (name, Json::string(&value))).collect();
        let mut session = session(&[]);
        session.values = Values::from_map(&json);
        let encode = if utf8 { TextEncoding::Utf8 } else { TextEncoding::Percent };
        let policy = ContractPolicy {
            encoding: if form { Encoding::Form } else { Encoding::Json },
            inject: vec![inject("x-a", "a", encode), inject("x-b", "b", encode)],
            ..policy()
        };
        let notifications = Bytes::from_static(br#"{"n":1}"#);
        let mut headers = HeaderMap::new();
        let names = Names::default();
        apply(&mut headers, &names, &policy, &active(&session, Some(&notifications))).unwrap();
        let sum: usize = headers.iter().map(|(n, v)| n.as_str().len() + v.len() + 4).sum();
        prop_assert_eq!(injected_size(&names, &policy, &session, Some(&notifications)), sum);
    }
}
