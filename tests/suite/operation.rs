//! The process as its operator meets it: start, logs, stop, failure.

use crate::harness::{Address as _, AppResponse, Browser, Pycket, SECRET, Upstream, raw};
use crate::servers::RedisServer;

fn app() -> Upstream {
    Upstream::app(|request| match request.target.as_str() {
        "/login" => AppResponse::see_other("/").header("X-Session-Set", "user=alice"),
        _ => AppResponse::ok(request.header("X-Session").unwrap_or("no header")),
    })
}

#[test]
fn sigterm_ends_it_without_an_error() {
    let app = app();
    let mut pycket = Pycket::with(&app).start();
    assert_eq!(Browser::at(&pycket).get("/").text(), "{}");
    assert_eq!(pycket.stop().code, Some(0));
}

#[test]
fn sigkill_ends_it() {
    let app = app();
    assert_eq!(Pycket::with(&app).start().kill().code, None);
}

#[test]
fn exchange_has_one_line_in_the_access_log() {
    let app = app();
    let mut pycket = Pycket::with(&app).start();
    pycket.says("listening on 127.0.0.1:");
    Browser::at(&pycket).get("/some/path?query");
    let line = pycket.access(|line| line["path"] == "/some/path");
    assert_eq!(line["method"], "GET");
    assert_eq!(line["host"], pycket.address().to_string());
    assert_eq!(line["status"], 200);
    assert_eq!(pycket.stop().stdout.matches("/some/path").count(), 1);
}

#[test]
fn the_access_log_names_a_session_as_the_application_knows_it() {
    let app = app();
    let pycket = Pycket::with(&app).start();
    let mut browser = Browser::at(&pycket);
    browser.get("/before");
    browser.post("/login", "");
    browser.get("/after");
    let line = |path: &str| pycket.access(|line| line["path"] == path);
    assert!(line("/before").get("session").is_none());
    let requests = app.requests();
    let seen = requests.last().and_then(|seen| seen.header("X-Session-Id"));
    let public = seen.expect("there is a session");
    assert_eq!(line("/login")["session"], public);
    assert_eq!(line("/after")["session"], public);
}

#[test]
fn the_access_log_has_no_password_of_a_request_that_is_refused() {
    let app = app();
    let mut pycket = Pycket::with(&app).start();
    for host in [
        "GET http://user:word@h/ HTTP/1.1\r\nHost: h",
        "GET / HTTP/1.1\r\nHost: user:word@h",
    ] {
        raw(&pycket, format!("{host}\r\nConnection: close\r\n\r\n"));
    }
    let output = pycket.stop().stdout;
    assert_eq!(output.matches(r#""host":"h""#).count(), 2, "{output}");
    assert!(!output.contains("word"), "{output}");
}

#[test]
fn output_has_no_secret_no_cookie_and_no_value() {
    let app = app();
    let mut pycket = Pycket::with(&app).config("log.level = 'debug'").start();
    let mut browser = Browser::at(&pycket);
    browser.post("/login", "");
    browser.get("/");
    let cookie = browser
        .cookie("PYCKET_ID")
        .expect("a session has begun")
        .to_owned();
    let (_, signature) = cookie
        .trim_matches('"')
        .rsplit_once('|')
        .expect("it is signed");
    let ended = pycket.stop();
    let output = ended.stdout + &ended.stderr;
    for text in [SECRET, signature, "alice"] {
        assert!(!output.contains(text), "{text} is in the output:\n{output}");
    }
}

#[test]
fn unknown_key_is_refused_at_start() {
    let app = app();
    let ended = Pycket::with(&app)
        .config("no_such_key = 1")
        .start_expecting_failure();
    assert_eq!(ended.code, Some(78));
    assert!(ended.stderr.contains("no_such_key"), "{}", ended.stderr);
}

#[test]
fn file_that_is_not_toml_is_refused_with_its_line() {
    let ended = Pycket::exactly("listen = '127.0.0.1:0'\nupstream =\n").start_expecting_failure();
    assert_eq!(ended.code, Some(78));
    assert!(ended.stderr.contains(":2:"), "{}", ended.stderr);
}

#[test]
fn environment_overrides_the_file() {
    let app = app();
    let cookie = "FROM_ENVIRONMENT";
    let pycket = Pycket::with(&app)
        .env("PYCKET_COOKIES_NAME", cookie)
        .start();
    let mut browser = Browser::at(&pycket);
    browser.post("/login", "");
    assert!(browser.cookie(cookie).is_some());
}

#[test]
fn session_outlives_the_proxy_that_began_it() {
    let app = app();
    let redis = RedisServer::start();
    let mut pycket = Pycket::with(&app).redis(&redis).start();
    let mut browser = Browser::at(&pycket);
    browser.post("/login", "");
    pycket.kill();
    let twin = pycket.twin();
    assert_eq!(browser.go_to(&twin).get("/").text(), r#"{"user":"alice"}"#);
}
