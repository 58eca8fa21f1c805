//! Values that an attacker chose can't become lines of a head.

use serde_json::{Value, json};

use crate::harness::{AppResponse, Browser, Pycket, Upstream};

/// What would be a header line if it were written as it is, as the text of a JSON string.
const HOSTILE: [&str; 12] = [
    r"x\r\nX-Evil: 1",
    r"x\nX-Evil: 1",
    r"x\rX-Evil: 1",
    r"x\r\n\r\nGET /evil HTTP/1.1\r\nHost: h\r\n\r\n",
    r"x\u0000y",
    r"x\u000by\u000cz",
    r"x\u001b[31m",
    r"x\u007fy",
    r"x\u0085X-Evil: 1",
    r"x\u2028X-Evil: 1",
    r"caf\u00e9 \ud83d\ude00",
    r#"\"\\\/\b\f\t"#,
];

/// An application that stores whatever a request's body asks it to.
fn storing() -> Upstream {
    Upstream::app(|request| {
        let signal = std::str::from_utf8(&request.body).expect("the tests send text");
        match request.target.as_str() {
            "/value" => AppResponse::ok("").header("X-Session-Set", signal),
            "/flash" => AppResponse::ok("").header("X-Notifications-Set", signal),
            _ => AppResponse::ok(""),
        }
    })
}

/// The names of the header lines that reach the application with a page.
const NAMES: [&str; 13] = [
    "accept",
    "cookie",
    "host",
    "sec-fetch-dest",
    "sec-fetch-mode",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-notifications",
    "x-request-id",
    "x-session",
    "x-session-id",
];

#[test]
fn values_and_names_stay_within_their_header() {
    let app = storing();
    let pycket = Pycket::with(&app).start();
    for text in HOSTILE {
        let value: Value = serde_json::from_str(&format!("\"{text}\"")).unwrap();
        let name = value.as_str().unwrap();
        let mut browser = Browser::at(&pycket);
        browser.plant("other", "1");
        // Names have no control characters.
        let is_name = !name.contains(char::is_control);
        for (target, signal, status) in [
            ("/value", format!("{{\"a\": \"{text}\"}}"), 200),
            (
                "/value",
                format!("{{\"{text}\": 1}}"),
                if is_name { 200 } else { 502 },
            ),
            ("/flash", format!("{{\"a\": \"{text}\"}}"), 200),
        ] {
            let stored = browser.request("POST", target).body(signal).send();
            assert_eq!(stored.status, status, "{text}: {}", stored.text());
        }
        assert_eq!(browser.page("/page").status, 200, "{text}");
        let page = app.requests().pop().unwrap();
        assert_eq!(page.target, "/page");
        let mut session = json!({"a": value});
        if is_name {
            session[name] = json!(1);
        }
        assert_eq!(page.session(), session, "{text}");
        assert_eq!(page.notifications(), Some(json!({"a": value})), "{text}");
        let mut names: Vec<_> = page
            .fields
            .0
            .iter()
            .map(|(name, _)| name.to_lowercase())
            .collect();
        names.retain(|name| name != "x-session-state");
        names.sort_unstable();
        assert_eq!(names, NAMES, "{text}");
        for header in ["X-Session", "X-Notifications"] {
            let visible = page
                .header(header)
                .unwrap()
                .bytes()
                .all(|b| (b' '..=b'~').contains(&b));
            assert!(visible, "{text}: {:?}", page.header(header));
        }
    }
    // Four requests for each: none of them became two.
    assert_eq!(app.requests().len(), 4 * HOSTILE.len());
}

const INJECT: &str = "
    [headers.inject]
    X-Percent = 'a'
    X-Utf-8 = { value = 'a', encode = 'utf-8' }
    X-Json = { value = 'a', encode = 'json' }
    X-Base64 = { value = 'a', encode = 'base64' }";

#[test]
fn injected_values_stay_within_their_header() {
    let app = storing();
    let pycket = Pycket::with(&app).config(INJECT).start();
    let mut browser = Browser::at(&pycket);
    let mut as_utf_8 = 0;
    for text in HOSTILE {
        let signal = format!("{{\"a\": \"{text}\"}}");
        assert_eq!(
            browser.request("POST", "/value").body(signal).send().status,
            200
        );
        assert_eq!(browser.get("/page").status, 200, "{text}");
        let page = app.requests().pop().unwrap();
        let told = |name: &str| page.header(name).map(str::to_owned);
        assert_eq!(told("X-Evil"), None, "{text}");
        for name in ["X-Percent", "X-Json", "X-Base64"] {
            let value = told(name).unwrap_or_else(|| panic!("{name} is missing: {text}"));
            let visible = value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            assert!(visible, "{name}: {value:?}");
        }
        let value: Value = serde_json::from_str(&format!("\"{text}\"")).unwrap();
        let value = value.as_str().unwrap();
        let decoded = percent_encoding::percent_decode_str(page.header("X-Percent").unwrap());
        assert_eq!(decoded.decode_utf8().unwrap(), value);
        assert_eq!(
            serde_json::from_str::<Value>(page.header("X-Json").unwrap()).unwrap(),
            value
        );
        // Raw text is left out where it could be more than text.
        if let Some(raw) = page.header("X-Utf-8") {
            assert_eq!(raw, value);
            assert!(!raw.chars().any(|c| c < ' ' || c == '\u{7f}'), "{raw:?}");
            as_utf_8 += 1;
        }
    }
    assert_eq!(as_utf_8, 2, "those without control characters");
}

#[test]
fn text_that_is_captured_or_announced_stays_within_its_header() {
    // What a header value can hold at all: the odd byte comes from a response head.
    let app = Upstream::raw(|mut wire, _| {
        let request = wire.read_request();
        let body = "Connection: close\r\nContent-Length: 0\r\n\r\n";
        if request.target == "/login" {
            wire.send("HTTP/1.1 200 OK\r\nX-Auth-User: a\"b\\c\td caf");
            wire.send([0xc3, 0xa9]);
            wire.send(format!("\r\n{body}"));
        } else {
            assert_eq!(request.session(), json!({"user": "a\"b\\c\td caf\u{e9}"}));
            wire.send(format!("HTTP/1.1 200 OK\r\n{body}"));
        }
    });
    let pycket = Pycket::with(&app)
        .config("headers.capture = { X-Auth-User = 'user' }")
        .start();
    let mut browser = Browser::at(&pycket);
    assert_eq!(browser.get("/login").header("X-Auth-User"), None);
    assert_eq!(browser.get("/").status, 200);
}
