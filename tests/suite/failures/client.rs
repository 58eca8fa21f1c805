//! The client goes away before it has its answer.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{App, COOKIE, ENGINES, Server, all_at_once, logged_in, values};
use crate::fault_proxy::Fault;
use crate::harness::{Browser, Gate, Pycket, Upstream, Wire};

/// Sends a page load with the browser's cookie on a connection of its own.
fn load_page(pycket: &Pycket, browser: &Browser, path: &str) -> Wire {
    let cookie = browser.cookie(COOKIE).expect("there is a session");
    let mut wire = Wire::connect(pycket);
    wire.send(format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nSec-Fetch-Mode: navigate\r\nCookie: {COOKIE}={cookie}\r\n\r\n"
    ));
    wire
}

fn assert_client_left(pycket: &Pycket, path: &str) {
    let line = pycket.access(|line| line["path"] == path);
    assert_eq!(line["error"], "client_left", "{line}");
}

#[test]
fn upload_that_breaks_off_ends_the_upstream_connection() {
    for reset in [false, true] {
        let (arrived, ended) = (Gate::closed(), Gate::closed());
        let app = {
            let (arrived, ended) = (arrived.clone(), ended.clone());
            Upstream::raw(move |mut wire, _| {
                wire.read_until("the beginning");
                arrived.open();
                assert_eq!(wire.read_to_close(), b"");
                ended.open();
            })
        };
        let pycket = Pycket::with(&app).start();
        let mut client = Wire::connect(&pycket);
        client.send("POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nthe beginning");
        arrived.pass();
        if reset {
            client.reset();
        } else {
            drop(client);
        }
        ended.pass();
        let line = pycket.access(|line| line["path"] == "/up");
        assert_ne!(line["error"], Value::Null, "{line}");
    }
}

/// An application that leaves a notification, shows what it is given, or never answers.
fn thoughtful(arrived: &Gate, ended: &Gate) -> Upstream {
    let (arrived, ended) = (arrived.clone(), ended.clone());
    Upstream::raw(move |mut wire, _| {
        let request = wire.read_request();
        if request.target == "/think" {
            arrived.open();
            assert_eq!(wire.read_to_close(), b"");
            ended.open();
            return;
        }
        let signal = match request.target.as_str() {
            "/add" => "X-Notifications-Add: m=hello\r\n",
            _ => "",
        };
        let shown = request.header("X-Notifications").unwrap_or("nothing");
        let length = shown.len();
        wire.send(format!(
            "HTTP/1.1 200 OK\r\n{signal}Connection: close\r\nContent-Length: {length}\r\n\r\n{shown}"
        ));
    })
}

#[test]
fn client_that_leaves_while_the_application_thinks_gives_back_its_notifications() {
    let checked = all_at_once(&ENGINES, |&engine| {
        let (server, arrived, ended) = (Server::start(engine), Gate::closed(), Gate::closed());
        let app = thoughtful(&arrived, &ended);
        let builder = Pycket::with(&app);
        let mut pycket = match &server {
            Server::Redis(server) => builder.redis(server),
            Server::Memcached(server) => builder.memcached(server),
        }
        .start();
        let mut browser = Browser::at(&pycket);
        assert_eq!(browser.post("/add", "").text(), "nothing");

        let client = load_page(&pycket, &browser, "/think");
        arrived.pass();
        assert_eq!(
            browser.page("/").text(),
            "nothing",
            "they are with the other page"
        );
        drop(client);
        ended.pass();
        assert_client_left(&pycket, "/think");
        assert_eq!(pycket.stop().code, Some(0), "it ends what it has begun");

        let twin = pycket.twin();
        assert_eq!(browser.go_to(&twin).page("/").text(), r#"{"m":["hello"]}"#);
        assert_eq!(browser.page("/").text(), "nothing");
    });
    assert_eq!(checked, 2);
}

#[test]
fn client_that_leaves_while_signals_are_stored_does_not_undo_them() {
    let checked = all_at_once(&ENGINES, |&engine| {
        let (server, app) = (Server::start(engine), App::start());
        let relay = Arc::new(server.relay());
        let patient = "session.commit_timeout = '15s'";
        let mut pycket = server.behind(&relay, &app).config(patient).start();
        let mut browser = logged_in(&pycket, "alice");

        let breaking = Arc::clone(&relay);
        app.meanwhile(move || {
            breaking.set(Fault::Refuse);
            breaking.hang_up();
        });
        let mut client = Wire::connect(&pycket);
        let cookie = browser.cookie(COOKIE).expect("there is a session");
        client.send(format!(
            "POST /set HTTP/1.1\r\nHost: x\r\nCookie: {COOKIE}={cookie}\r\nContent-Length: 0\r\n\
             Answer: X-Session-Set: n=1\r\n\r\n"
        ));
        // Nothing but this exchange asks the store.
        pycket.says("the store is down");
        drop(client);
        assert_client_left(&pycket, "/set");
        relay.set(Fault::Pass);
        assert_eq!(pycket.stop().code, Some(0), "it ends what it has begun");

        let twin = pycket.twin();
        let session = json!({"user": "alice", "n": "1"});
        assert_eq!(values(browser.go_to(&twin)), session);
    });
    assert_eq!(checked, 2);
}

#[test]
fn client_that_leaves_within_the_body_ends_the_upstream_connection() {
    let ended = Gate::closed();
    let app = {
        let ended = ended.clone();
        Upstream::raw(move |mut wire, _| {
            wire.read_request();
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nthe beginning");
            wire.read_to_close();
            ended.open();
        })
    };
    let pycket = Pycket::with(&app).start();
    let mut client = Wire::connect(&pycket);
    client.send("GET /down HTTP/1.1\r\nHost: x\r\n\r\n");
    client.read_until("the beginning");
    drop(client);
    ended.pass();
    assert_client_left(&pycket, "/down");
}
