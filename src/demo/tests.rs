//! What the application answers to what it is told, without a socket.

use proptest::prelude::*;

use super::*;

const ADA: &[(&str, &str)] = &[
    ("X-Session-State", "active"),
    ("X-Session-Id", "id-of-ada"),
    ("X-Session", r#"{"cart.apple":2,"login":1,"user":"Ada"}"#),
];
const NOBODY: &[(&str, &str)] = &[("X-Session-State", "none"), ("X-Session", "{}")];

fn header_map(headers: &[(&'static str, &str)]) -> HeaderMap {
    headers
        .iter()
        .map(|&(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect::<HeaderMap>()
}

fn ask(
    log: &ExchangeLog,
    method: &Method,
    path: &str,
    headers: &[(&'static str, &str)],
    body: &str,
) -> Response<Bytes> {
    respond(method, path, &header_map(headers), body.as_bytes(), log)
}

fn get(path: &str, headers: &[(&'static str, &str)]) -> Response<Bytes> {
    ask(&ExchangeLog::default(), &Method::GET, path, headers, "")
}

fn post(path: &str, headers: &[(&'static str, &str)], body: &str) -> Response<Bytes> {
    ask(&ExchangeLog::default(), &Method::POST, path, headers, body)
}

fn text(response: &Response<Bytes>) -> &str {
    std::str::from_utf8(response.body()).unwrap()
}

/// The status, where it leads to, and the signals.
fn signals(response: &Response<Bytes>) -> String {
    let mut lines = vec![response.status().as_u16().to_string()];
    for (name, value) in response.headers() {
        let name = name.as_str();
        if name == "location" || name.starts_with("x-session") || name.starts_with("x-notif") {
            lines.push(format!("{name}: {}", value.to_str().unwrap()));
        }
    }
    lines.join("\n")
}

#[test]
fn login_sets_the_user_renews_and_welcomes() {
    insta::assert_snapshot!(signals(&post("/login", NOBODY, "name=+J%C3%BCrgen+")), @r#"
    303
    x-session-set: {"login":1,"user":"J\u00fcrgen"}
    x-session-control: renew
    x-notifications-add: {"flash":"Welcome, J\u00fcrgen."}
    location: /
    "#);
}

#[test]
fn login_with_a_wrong_name_changes_nothing_and_says_what_would_be_right() {
    let long = format!("name={}", "x".repeat(41));
    let wrong = [
        "",
        "name=",
        "name=++",
        "name=a%0Ab",
        "other=Ada",
        long.as_str(),
    ];
    for body in wrong {
        let response = post("/login", NOBODY, body);
        assert_eq!(signals(&response), "422", "{body}");
        assert!(text(&response).contains("a name of 1 to 40 characters"));
    }
}

#[test]
fn adding_sets_only_the_name_of_that_thing() {
    insta::assert_snapshot!(signals(&post("/cart/add", ADA, "item=apple")), @r#"
    303
    x-session-set: {"cart.apple":3}
    x-notifications-add: {"flash":"Apples added to the cart."}
    location: /
    "#);
}

#[test]
fn five_at_once_set_five_different_names() {
    let page = get("/", ADA);
    let (_, rest) = text(&page).split_once("data-items=\"").unwrap();
    let (items, _) = rest.split_once('"').unwrap();
    let mut sets: Vec<_> = items
        .split(' ')
        .map(|item| post("/cart/add", ADA, &format!("item={item}")))
        .map(|response| response.headers()["x-session-set"].clone())
        .map(|set| set.to_str().unwrap().to_owned())
        .collect();
    sets.sort();
    insta::assert_snapshot!(sets.join("\n"), @r#"
    {"cart.apple":3}
    {"cart.bread":1}
    {"cart.cheese":1}
    {"cart.coffee":1}
    {"cart.honey":1}
    "#);
}

#[test]
fn removing_deletes_the_name() {
    insta::assert_snapshot!(signals(&post("/cart/remove", ADA, "item=apple")), @r#"
    303
    x-session-delete: cart.apple
    x-notifications-add: {"flash":"Apples taken out of the cart."}
    location: /
    "#);
}

#[test]
fn emptying_the_cart_leaves_the_user_logged_in() {
    insta::assert_snapshot!(signals(&post("/cart/empty", ADA, "")), @r#"
    303
    x-session-delete: cart.apple, cart.bread, cart.cheese, cart.coffee, cart.honey, cart.tea
    x-notifications-add: {"flash":"The cart is empty."}
    location: /
    "#);
}

#[test]
fn cart_needs_a_login_a_known_thing_and_room() {
    assert_eq!(signals(&post("/cart/add", NOBODY, "item=apple")), "403");
    assert_eq!(signals(&post("/cart/empty", NOBODY, "")), "403");
    assert_eq!(signals(&post("/cart/add", ADA, "item=moon")), "422");
    assert_eq!(signals(&post("/cart/remove", ADA, "")), "422");
    let full = [("X-Session", r#"{"cart.tea":99,"user":"Ada"}"#)];
    assert_eq!(signals(&post("/cart/add", &full, "item=tea")), "422");
}

#[test]
fn logout_destroys_the_session() {
    insta::assert_snapshot!(signals(&post("/logout", ADA, "")), @r"
    303
    x-session-control: destroy
    location: /goodbye
    ");
    assert!(text(&get("/goodbye", NOBODY)).contains("You are logged out."));
    assert!(!text(&get("/goodbye", ADA)).contains("You are logged out."));
}

#[test]
fn page_shows_notifications_of_both_kinds() {
    for value in [r#"{"flash":["One.","Two."]}"#, r#"{"flash":"One."}"#] {
        let page = get("/", &[("X-Session", "{}"), ("X-Notifications", value)]);
        assert!(text(&page).contains("<ul><li>One.</li>"), "{value}");
        assert_eq!(signals(&page), "200");
    }
}

#[test]
fn nothing_from_outside_becomes_markup() {
    let evil = r#""><script>alert('x')</script>&"#;
    let session = serde_json::json!({ "user": evil }).to_string();
    let notifications = serde_json::json!({ "flash": evil }).to_string();
    let headers = [
        ("X-Session", session.as_str()),
        ("X-Session-State", evil),
        ("X-Session-Id", evil),
        ("X-Notifications", notifications.as_str()),
    ];
    let page = get("/<script>alert(1)", &headers);
    assert_eq!(text(&page).matches("<script").count(), 1, "the page's own");
    assert!(
        text(&page)
            .contains("<b>&quot;&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;</b>")
    );
}

#[test]
fn unknown_path_is_404_and_wrong_method_405() {
    assert_eq!(signals(&get("/nowhere", ADA)), "404");
    let wrong = get("/cart/add", ADA);
    assert_eq!(wrong.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(wrong.headers()[ALLOW], "POST");
    assert_eq!(post("/", ADA, "").headers()[ALLOW], "GET, HEAD");
    assert_eq!(signals(&post("/style.css", ADA, "")), "404");
}

#[test]
fn assets_are_served_and_not_logged() {
    let log = ExchangeLog::default();
    for (path, media_type) in [
        ("/style.css", "text/css; charset=utf-8"),
        ("/five.js", "text/javascript; charset=utf-8"),
    ] {
        let response = ask(&log, &Method::GET, path, ADA, "");
        assert_eq!(response.headers()[CONTENT_TYPE], media_type);
    }
    assert_eq!(format!("{log:?}"), "ExchangeLog(0 sessions)");
}

#[test]
fn request_past_the_proxy_is_told_so() {
    assert!(text(&get("/", &[])).contains("did not come through pycket"));
    assert!(!text(&get("/", NOBODY)).contains("did not come through pycket"));
}

#[test]
fn malformed_headers_count_as_absent() {
    let page = get(
        "/",
        &[("X-Session", "{\"user\":"), ("X-Notifications", "7")],
    );
    assert_eq!(signals(&page), "200");
    assert!(text(&page).contains("Your name"));
}

#[test]
fn page_shows_the_login_that_began_the_session() {
    let log = ExchangeLog::default();
    ask(&log, &Method::POST, "/login", NOBODY, "name=Ada");
    let page = ask(&log, &Method::GET, "/", ADA, "");
    let summaries: Vec<_> = text(&page).matches("<summary>").collect();
    assert_eq!(summaries.len(), 2);
    assert!(text(&page).contains("<code>/login</code>"));
    assert!(text(&page).contains("<dt>X-Session-Control</dt><dd>renew</dd>"));
}

#[test]
fn page_shows_nothing_of_other_sessions() {
    let log = ExchangeLog::default();
    ask(&log, &Method::POST, "/login", NOBODY, "name=Ada");
    ask(&log, &Method::POST, "/cart/add", ADA, "item=apple");
    let eve = [
        ("X-Session-Id", "id-of-eve"),
        ("X-Session", r#"{"login":2,"user":"Eve"}"#),
    ];
    for headers in [NOBODY, &eve] {
        let page = ask(&log, &Method::GET, "/", headers, "");
        assert!(!text(&page).contains("Ada."), "{headers:?}");
        assert_eq!(text(&page).matches("<summary>").count(), 1);
    }
}

#[test]
fn log_is_bounded() {
    let log = ExchangeLog::default();
    for _ in 0..50 {
        ask(&log, &Method::GET, "/", ADA, "");
    }
    let page = ask(&log, &Method::GET, "/", ADA, "");
    assert_eq!(text(&page).matches("<summary>").count(), 10);
    for number in 0..200 {
        let id = format!("id-{number}");
        ask(
            &log,
            &Method::GET,
            "/",
            &[("X-Session-Id", id.as_str())],
            "",
        );
    }
    assert_eq!(format!("{log:?}"), "ExchangeLog(64 sessions)");
    let page = ask(&log, &Method::GET, "/", ADA, "");
    assert_eq!(text(&page).matches("<summary>").count(), 1, "forgotten");
}

proptest! {
    #[test]
    fn any_name_comes_back_from_the_signals_as_it_was(name in "\\PC{1,40}") {
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("name", &name)
            .finish();
        let response = post("/login", NOBODY, &body);
        if let Some(set) = response.headers().get("x-session-set") {
            let set: serde_json::Value = serde_json::from_slice(set.as_bytes()).unwrap();
            prop_assert_eq!(set["user"].as_str(), Some(name.trim()));
        } else {
            prop_assert!(name.trim().is_empty());
        }
    }

    #[test]
    fn any_body_and_path_are_answered(path in "/.{0,20}", body in proptest::collection::vec(any::<u8>(), 0..64)) {
        let log = ExchangeLog::default();
        for path in [path.as_str(), "/login", "/cart/add"] {
            let response = respond(&Method::POST, path, &header_map(ADA), &body, &log);
            prop_assert!(response.status().as_u16() < 500);
        }
    }
}
