//! What routes have of their own besides sessions: how large bodies are, how long answers may take,
//! and what the servers behind them take of headers.

use serde_json::json;

use crate::examples::Application;
use crate::harness::{
    Address as _, AppResponse, Browser, Gate, Pycket, Response, Upstream, Wire, raw,
};
use crate::http2::frames::{END_HEADERS, Frames, GET};
use crate::stage::obedient;

fn app() -> Upstream {
    Upstream::app(|request| AppResponse::ok(request.body.len().to_string()))
}

#[test]
fn a_route_can_take_larger_and_smaller_bodies_than_the_others() {
    let app = app();
    let config = "limits.max_body = '1000B'
        [[route]]
        path = '/upload'
        max_body = '2000B'
        [[route]]
        path = '/static/'
        session = false
        max_body = '0B'";
    let pycket = Pycket::with(&app).config(config).start();
    let mut browser = Browser::at(&pycket);
    let mut status = |target, length| browser.post(target, &"x".repeat(length)).status;
    assert_eq!(status("/", 1000), 200);
    assert_eq!(status("/upload", 2000), 200);
    assert_eq!(status("/static/", 0), 200);
    for (target, length) in [("/", 1001), ("/upload", 2001), ("/static/", 1)] {
        let head = format!("POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n");
        assert!(
            raw(&pycket, &head).starts_with(b"HTTP/1.1 413 "),
            "{target}"
        );
        let line = pycket.access(|line| line["path"] == target && line["status"] == 413);
        assert_eq!(line["error"], "request_too_large");
        // Without saying so at the beginning ...
        let head = format!("POST {target} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n");
        let body = "x".repeat(length);
        let answer = raw(&pycket, format!("{head}\r\n{length:x}\r\n{body}\r\n"));
        assert!(answer.starts_with(b"HTTP/1.1 413 "), "{target} in chunks");
        // ... and by HTTP/2.
        let post = GET.map(|(name, value)| match name {
            ":method" => (name, "POST"),
            ":path" => (name, target),
            _ => (name, value),
        });
        let mut client = Frames::connect(&pycket);
        client.headers(1, &post, END_HEADERS);
        client.data(1, body.as_bytes(), false);
        assert_eq!(client.status(1), "413", "{target} by HTTP/2");
    }
}

#[test]
fn a_route_can_wait_longer_and_shorter_than_the_others() {
    let gate = Gate::closed();
    let waiting = gate.clone();
    let app = Upstream::app(move |_| {
        waiting.pass();
        AppResponse::ok("at last")
    });
    let config = "timeouts.upstream_response = '200ms'
        [[route]]
        path = '/report'
        upstream_response = '80s'
        [[route]]
        path = '/hasty'
        session = false
        upstream_response = '100ms'";
    let pycket = Pycket::with(&app).config(config).start();
    let mut patient = Wire::connect(&pycket);
    patient.send("GET /report HTTP/1.1\r\nHost: h\r\n\r\n");
    app.request(1);
    for target in ["/", "/hasty"] {
        assert_eq!(Browser::at(&pycket).get(target).status, 504, "{target}");
    }
    gate.open();
    patient.read_until("at last");
}

/// A session that fills the budget for a server comes to it, with headers of a client's own.
fn is_taken(server: &Application, budget: &str, size: usize) -> Response {
    let app = obedient();
    let config = format!(
        "headers.budget = '{budget}'
        [[route]]
        path = '/server'
        upstream = 'http://{}'",
        server.address()
    );
    let pycket = Pycket::with(&app).config(&config).start();
    let mut browser = Browser::at(&pycket);
    let set = |browser: &mut Browser, length: usize| {
        let values = json!({"filling": "x".repeat(length)});
        let answer = format!("X-Session-Set: {values}");
        let request = browser.request("POST", "/").header("Answer", &answer);
        request.send().status
    };
    assert_eq!(set(&mut browser, size), 502, "it is over the budget");
    assert_eq!(set(&mut browser, size - 160), 200, "it nearly fills it");
    let client = "x".repeat(1000);
    let request = browser.request("GET", "/server/of/no/such/page");
    let request = request.headers("X-Of-Mine", &[&client, &client]);
    request.header("User-Agent", &client).send()
}

#[test]
fn a_budget_named_after_a_server_fits_into_its_limits() {
    // Both know no such page, and say so instead of refusing the headers.
    assert_eq!(
        is_taken(&Application::gunicorn(), "gunicorn", 8000).status,
        404
    );
    assert_eq!(is_taken(&Application::node(), "node", 12 << 10).status, 404);
}

#[test]
fn answers_get_the_headers_that_the_application_does_not_set() {
    let app = Upstream::app(|request| match request.target.as_str() {
        "/own" => AppResponse::ok("own")
            .header("X-Frame-Options", "SAMEORIGIN")
            .header("Cache-Control", "no-cache"),
        "/login" => AppResponse::ok("").header("X-Session-Set", "user=alice"),
        "/bad" => AppResponse::ok("").header("X-Session-Set", "{"),
        _ => AppResponse::ok("usual"),
    });
    let config = "forwarding.trust = ['127.0.0.1']
        [response_headers]
        X-Frame-Options = 'DENY'
        Cache-Control = 'public, max-age=60'
        Strict-Transport-Security = 'max-age=31536000'
        [[route]]
        path = '/static/'
        session = false
        response_headers = { X-Content-Type-Options = 'nosniff', x-frame-options = false }";
    let pycket = Pycket::with(&app).config(config).start();
    let get = |target: &str, proto: &str| {
        let mut browser = Browser::at(&pycket);
        let request = browser.request("GET", target);
        let response = request.header("X-Forwarded-Proto", proto).send();
        [
            "X-Frame-Options",
            "Cache-Control",
            "X-Content-Type-Options",
            "Strict-Transport-Security",
        ]
        .map(|name| response.fields.all(name).join("|"))
    };
    let public = "public, max-age=60";
    let hsts = "max-age=31536000";
    assert_eq!(get("/", "http"), ["DENY", public, "", ""]);
    assert_eq!(get("/", "https"), ["DENY", public, "", hsts]);
    assert_eq!(get("/own", "http"), ["SAMEORIGIN", "no-cache", "", ""]);
    // What sets the session cookie stays private.
    assert_eq!(
        get("/login", "http"),
        ["DENY", "max-age=60, private", "", ""]
    );
    // An answer of the proxy itself.
    assert_eq!(get("/bad", "https"), ["DENY", "no-store", "", hsts]);
    assert_eq!(get("/static/a", "https"), ["", public, "nosniff", hsts]);
}
