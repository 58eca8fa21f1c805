//! Facts about the harness itself: browser and application face to face, without the proxy.

use std::process::Command;
use std::sync::mpsc;
use std::thread;

use super::*;

fn echo() -> Upstream {
    Upstream::app(|request| AppResponse::ok(format!("{} {}", request.method, request.target)))
}

#[test]
fn application_sees_lines_in_order_and_as_spelt() {
    let app = echo();
    raw(
        &app,
        "GET /a?b HTTP/1.1\r\nhost: x\r\nX_odd-Name:  1 \r\nx-twice: 2\r\nX-Twice: 3\r\n\r\n",
    );
    let request = app.request(1);
    assert_eq!(request.target, "/a?b");
    let lines: Vec<_> = request
        .fields
        .0
        .iter()
        .map(|(n, v)| format!("{n}={v}"))
        .collect();
    assert_eq!(lines, ["host=x", "X_odd-Name=1", "x-twice=2", "X-Twice=3"]);
    assert_eq!(request.fields.all("x-twice"), ["2", "3"]);
}

#[test]
fn application_reads_chunks_and_trailers() {
    let app = echo();
    raw(
        &app,
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n",
    );
    let request = app.request(1);
    assert_eq!(request.body, b"abc0123456789");
    assert_eq!(request.trailers.one("X-Sum"), Some("1"));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let app = echo();
    let answers = raw_until_close(
        &app,
        "HEAD /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\nConnection: close\r\n\r\n",
    );
    let answers = String::from_utf8(answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2);
    assert!(answers.ends_with("GET /2"), "{answers}");
    assert_eq!(app.request(2).connection, 1);
}

#[test]
fn raw_ends_with_the_first_whole_response() {
    let app = Upstream::app(|_| AppResponse::see_other("/").header("X-A", "1").close());
    let answer = raw(&app, "HEAD / HTTP/1.1\r\n\r\n");
    let expected = "HTTP/1.1 303 Scripted\r\nLocation: /\r\nX-A: 1\r\nConnection: close\r\n\
                    Content-Length: 0\r\n\r\n";
    assert_eq!(String::from_utf8(answer).unwrap(), expected);
}

#[test]
fn client_that_waits_for_100_continue_gets_it() {
    let app = echo();
    let mut wire = Wire::connect(&app);
    wire.send("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(wire.read_head().status(), 100);
    wire.send("hi");
    assert_eq!(wire.read_head().status(), 200);
    assert_eq!(app.request(1).body, b"hi");
}

#[test]
fn response_is_held_until_the_gate_opens() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = Upstream::app(move |request| {
        if request.target == "/held" {
            held.pass();
        }
        AppResponse::status(204)
    });
    let mut browser = Browser::at(&app);
    let (sender, answered) = mpsc::channel();
    let mut tab = browser.clone();
    let waiting = thread::spawn(move || sender.send(tab.get("/held").status));
    app.request(1);
    assert_eq!(
        browser.get("/").status,
        204,
        "others are answered meanwhile"
    );
    assert!(answered.try_recv().is_err(), "the gate is closed");
    gate.open();
    assert_eq!(answered.recv_timeout(DEADLINE), Ok(204));
    waiting.join().unwrap().unwrap();
}

#[test]
fn browser_keeps_cookies_and_a_second_tab_starts_with_them() {
    let app = Upstream::app(|request| match request.target.as_str() {
        "/in" => AppResponse::see_other("/").header("Set-Cookie", "id=1; Path=/; HttpOnly"),
        "/out" => AppResponse::see_other("/").header("Set-Cookie", "id=; Path=/; Max-Age=0"),
        _ => AppResponse::ok(request.header("Cookie").unwrap_or_default()),
    });
    let mut browser = Browser::at(&app);
    let redirect = browser.post("/in", "user=alice");
    assert_eq!(redirect.status, 303);
    assert_eq!(redirect.set_cookies(), ["id=1; Path=/; HttpOnly"]);
    assert_eq!(browser.follow(&redirect).text(), "id=1");

    let mut tab = browser.clone();
    browser.get("/out");
    assert_eq!(browser.cookie("id"), None);
    assert_eq!(browser.get("/").text(), "");
    assert_eq!(tab.get("/").text(), "id=1");
    tab.plant("other", "2");
    assert_eq!(tab.get("/").text(), "id=1; other=2");
}

#[test]
fn browser_says_what_a_request_is_for() {
    let app = echo();
    let mut browser = Browser::at(&app);
    browser.page("/");
    assert_eq!(app.request(1).header("Sec-Fetch-Mode"), Some("navigate"));
    assert_eq!(app.request(1).header("Sec-Fetch-Dest"), Some("document"));
    browser.image("/x");
    assert_eq!(app.request(2).header("Sec-Fetch-Dest"), Some("image"));
    browser
        .request("PUT", "/x")
        .header("X-A", "1")
        .header("X-A", "2")
        .body("b")
        .send();
    assert_eq!(app.request(3).fields.all("X-A"), ["1", "2"]);
    assert_eq!(app.request(3).body, b"b");
    browser.get("/");
    assert_eq!(app.request(4).header("Sec-Fetch-Mode"), None);
}

#[test]
fn browser_goes_from_one_server_to_another_with_its_cookies() {
    let one = Upstream::app(|_| AppResponse::ok("one").header("Set-Cookie", "a=1"));
    let two = Upstream::app(|_| AppResponse::ok("two"));
    let mut browser = Browser::at(&one);
    assert_eq!(browser.get("/").text(), "one");
    assert_eq!(browser.go_to(&two).get("/").text(), "two");
    assert_eq!(two.request(1).header("Cookie"), Some("a=1"));
}

#[test]
fn contract_headers_are_read_as_json() {
    let app = Upstream::app(|_| AppResponse::ok(r#"{"a": 1}"#));
    let mut browser = Browser::at(&app);
    let answer = browser
        .request("GET", "/")
        .header("X-Session", r#"{"user":"alice"}"#)
        .send();
    assert_eq!(answer.json()["a"], 1);
    assert_eq!(app.request(1).session()["user"], "alice");
    assert_eq!(app.request(1).notifications(), None);
}

#[test]
fn body_that_is_cut_off_is_not_taken_for_a_whole_one() {
    let framings = ["Content-Length: 9", "Transfer-Encoding: chunked"];
    for framing in framings {
        let app = Upstream::raw(move |mut wire, _| {
            wire.read_request();
            wire.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n4\r\nabcd"));
        });
        let answer = Browser::at(&app).get("/");
        let cut = answer.cut_body().expect("it is cut off");
        assert!(cut.ends_with(b"abcd"), "{framing}");
    }
}

#[test]
fn body_may_end_with_the_connection() {
    let app = Upstream::raw(|mut wire, _| {
        wire.read_request();
        wire.send("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\nabcd");
    });
    let answer = Browser::at(&app).get("/");
    assert_eq!((answer.status, answer.text()), (200, "abcd"));
}

#[test]
fn trailers_of_a_response_reach_the_browser() {
    let app = Upstream::raw(|mut wire, _| {
        wire.read_request();
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n");
        wire.read_to_close();
    });
    let answer = Browser::at(&app).get("/");
    assert_eq!(answer.trailers.one("X-Sum"), Some("1"));
    assert_eq!(answer.header("X-Sum"), None);
    assert_eq!(answer.body(), b"");
}

#[test]
fn both_sides_can_talk_step_by_step() {
    let app = Upstream::raw(|mut wire, number| {
        assert_eq!(number, 1);
        let head = wire.read_head();
        assert!(head.fields.lists("Connection", "upgrade"));
        wire.send("HTTP/1.1 101 Switching Protocols\r\n\r\n");
        assert_eq!(wire.read_exactly(4), b"ping");
        wire.send("pong\n");
        assert_eq!(wire.read_to_close(), b"bye");
    });
    let mut wire = Wire::connect(&app);
    wire.send("GET / HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\n\r\n");
    assert_eq!(wire.read_head().status(), 101);
    wire.send("ping");
    assert_eq!(wire.read_until("\n"), "pong\n");
    wire.send("bye");
    wire.finish();
    assert_eq!(wire.read_to_close(), b"");
}

#[test]
fn reset_connection_is_an_empty_answer() {
    let app = Upstream::raw(|mut wire, _| {
        wire.read_head();
        wire.reset();
    });
    assert_eq!(raw(&app, "GET / HTTP/1.1\r\n\r\n"), b"");
}

#[test]
#[should_panic(expected = "the script of the application panicked")]
fn panic_in_the_application_fails_the_test() {
    let app = Upstream::app(|request| {
        assert_eq!(request.target, "/right");
        AppResponse::ok("")
    });
    raw(&app, "GET /wrong HTTP/1.1\r\n\r\n");
}

#[test]
fn process_tells_what_it_said_and_how_it_ended() {
    let script = "echo one; echo two >&2; read -r line; echo $line; exit 3";
    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut process = Process::start(
        Command::new("sh").arg("-c").arg(script).stdin(reader),
        "dash",
    );
    let upper = |line: &str| (line == "one").then(|| line.to_uppercase());
    assert_eq!(process.stdout_line("one", upper), "ONE");
    process.stderr_line("two", |line| (line == "two").then_some(()));
    std::io::Write::write_all(&mut writer, b"three\n").unwrap();
    let ended = process.wait();
    assert_eq!(ended.code, Some(3));
    assert_eq!(
        (ended.stdout.as_str(), ended.stderr.as_str()),
        ("one\nthree", "two")
    );
}

#[test]
fn process_that_a_signal_ends_has_no_code() {
    let mut process = Process::start(Command::new("cat").stdin(std::process::Stdio::piped()), "");
    process.signal("TERM");
    assert_eq!(process.wait().code, None);
}

#[test]
#[should_panic(expected = "sh does not say hello")]
fn waiting_for_a_line_ends_with_the_process() {
    let process = Process::start(Command::new("sh").arg("-c").arg("echo bye"), "dash");
    process.stdout_line("hello", |line| (line == "hello").then_some(()));
}
