use super::*;
use proptest::prelude::*;

fn header(name: &str) -> HeaderName {
    HeaderName::from_bytes(name.as_bytes()).unwrap()
}

fn with_prefix(prefix: &str) -> Result<Names, Vec<NamesError>> {
    Names::new(prefix, &BTreeMap::new())
}

fn with_session(name: &str) -> Result<Names, Vec<NamesError>> {
    Names::new("X-", &BTreeMap::from([(Field::Session, header(name))]))
}

fn messages(result: Result<Names, Vec<NamesError>>) -> String {
    let errors = result.unwrap_err();
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[test]
fn the_default_names_are_those_of_the_contract() {
    let names = Names::default();
    assert_eq!(with_prefix("X-").unwrap(), names);
    let list: Vec<String> = Field::ALL
        .iter()
        .map(|field| format!("{} {}", field.key(), Title(names.get(*field).as_str())))
        .collect();
    insta::assert_snapshot!(list.join("\n"), @"
    session X-Session
    session_id X-Session-Id
    session_state X-Session-State
    session_opaque X-Session-Opaque
    notifications X-Notifications
    session_set X-Session-Set
    session_delete X-Session-Delete
    session_control X-Session-Control
    notifications_set X-Notifications-Set
    notifications_add X-Notifications-Add
    notifications_taken X-Notifications-Taken
    ");
}

#[test]
fn every_spelling_that_an_application_sees_as_ours_is_reserved() {
    let names = Names::default();
    for name in [
        "X-Session",
        "x_session",
        "X.Session",
        "X~Session",
        "X-Session-Id",
        "X_Session-STATE",
        "x-session-sett",
        "X-Notifications",
        "X+Notifications!Taken",
    ] {
        assert!(names.is_reserved(&header(name)), "{name}");
    }
    for name in [
        "Host",
        "X",
        "X-",
        "X-Sessions",
        "X-Session1",
        "X-Notification",
        "XX-Session",
    ] {
        assert!(!names.is_reserved(&header(name)), "{name}");
    }
}

#[test]
fn a_prefix_of_ones_own_is_reserved_as_a_whole() {
    let names = with_prefix("X_App-").unwrap();
    assert_eq!(names.get(Field::SessionId), "x_app-session-id");
    for name in ["X-App-Session", "x_app_anything", "X-App-"] {
        assert!(names.is_reserved(&header(name)), "{name}");
    }
    assert!(!names.is_reserved(&header("X-Session")));
}

#[test]
fn a_name_of_ones_own_is_reserved_with_its_family() {
    let names = with_session("Sess").unwrap();
    for name in ["Sess", "sess_x", "X-Session-Id", "X-Notifications-Set"] {
        assert!(names.is_reserved(&header(name)), "{name}");
    }
    for name in ["Session", "X-Session", "X-Session-Sett"] {
        assert!(!names.is_reserved(&header(name)), "{name}");
    }
}

#[test]
fn names_that_can_not_be_used_are_refused_with_the_reason() {
    insta::assert_snapshot!(messages(with_prefix("")), @"a prefix of header names is 1 to 64 letters, digits, `-` or other token characters");
    insta::assert_snapshot!(messages(with_prefix("X Y")), @"a prefix of header names is 1 to 64 letters, digits, `-` or other token characters");
    assert_eq!(with_prefix(&"x".repeat(65)), Err(vec![NamesError::Prefix]));
    insta::assert_snapshot!(messages(with_prefix("S")), @"these names would also take away Sec-Fetch-Mode: choose a longer or rarer prefix or name");
    insta::assert_snapshot!(messages(with_prefix("X-Forwarded_")), @"these names would also take away X-Forwarded-For: choose a longer or rarer prefix or name");
    insta::assert_snapshot!(messages(with_session("X")), @"these names would also take away X-Forwarded-For: choose a longer or rarer prefix or name");
    insta::assert_snapshot!(messages(with_session("Set-Cookie")), @"Set-Cookie can't be used: it belongs to HTTP or to the proxy itself");
    insta::assert_snapshot!(messages(with_session("X_Session-Id")), @"X_Session-Id and X-Session-Id are the same to an application");
}

#[test]
fn reserved_targets_can_not_come_from_a_client() {
    let mut names = Names::default();
    names.reserve(&header("Remote-User")).unwrap();
    names.reserve(&header("remote-user")).unwrap();
    assert!(names.is_reserved(&header("Remote_User")));
    assert!(!names.is_reserved(&header("Remote-User-Id")));
    let error = names.reserve(&header("Remote_User")).unwrap_err();
    insta::assert_snapshot!(error, @"Remote-User and Remote_User are the same to an application");
}

#[test]
fn a_target_can_not_frame_route_authenticate_or_be_the_contracts_own() {
    let names = Names::default();
    for name in [
        "Host",
        "Connection",
        "Content-Length",
        "Content_Length",
        "Content-Type",
        "Transfer-Encoding",
        "TE",
        "Trailer",
        "Upgrade",
        "Keep-Alive",
        "Proxy",
        "Proxy-Connection",
        "Cookie",
        "Set-Cookie",
        "Authorization",
        "Expect",
        "Via",
        "Forwarded",
        "X-Forwarded-For",
        "X_Forwarded_Host",
        "X-Request-Id",
        "Location",
        "Sec-WebSocket-Key",
    ] {
        let error = names.check_target(&header(name)).unwrap_err();
        assert!(matches!(error, NamesError::Forbidden { .. }), "{name}");
    }
    for name in ["X-Session", "X_Session_Id", "X-Session-User"] {
        let error = names.check_target(&header(name)).unwrap_err();
        assert!(matches!(error, NamesError::Own { .. }), "{name}");
    }
    for name in ["Remote-User", "X-Remote-User", "X-User", "X-Tenant_Id"] {
        assert_eq!(names.check_target(&header(name)), Ok(()), "{name}");
    }
    insta::assert_snapshot!(names.check_target(&header("host")).unwrap_err(), @"Host can't be used: it belongs to HTTP or to the proxy itself");
    insta::assert_snapshot!(names.check_target(&header("x-session-user")).unwrap_err(), @"X-Session-User can't be used: it belongs to the header contract");
}

#[test]
fn two_targets_of_one_list_that_fold_alike_collide() {
    let list = ["X-User", "X-Name", "x_user", "X-Name"].map(header);
    let errors: Vec<String> = Names::collisions(&list)
        .iter()
        .map(ToString::to_string)
        .collect();
    insta::assert_snapshot!(errors.join("\n"), @"
    X-User and X_User are the same to an application
    X-Name and X-Name are the same to an application
    ");
}

#[test]
fn the_contracts_own_names_are_all_reserved_whatever_they_are() {
    let odd = BTreeMap::from([
        (Field::SessionSet, header("App.Set")),
        (Field::SessionId, header("9id")),
    ]);
    for names in [
        Names::default(),
        with_prefix("P9").unwrap(),
        Names::new("X_", &odd).unwrap(),
    ] {
        for field in Field::ALL {
            assert!(names.is_reserved(names.get(field)), "{field:?}");
        }
    }
}

proptest! {
    #[test]
    fn reserved_is_what_the_folded_names_say(name in "[xX][-_.a~][sS]ession([-_.!][a-z]{0,3})?") {
        let folded: String = name
            .to_ascii_lowercase()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let ours = folded == "x-session" || folded.starts_with("x-session-");
        prop_assert_eq!(Names::default().is_reserved(&header(&name)), ours);
    }
}
