//! Websockets over HTTP/2 (RFC 8441), to an application that knows those of HTTP/1.1.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

use super::frames::{END_HEADERS, END_STREAM, Frames, GET};
use crate::harness::{Pycket, Upstream, Wire};

const CONNECT: [(&str, &str); 7] = [
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "http"),
    (":authority", "example.com"),
    (":path", "/chat?room=1"),
    ("sec-websocket-version", "13"),
    ("origin", "http://example.com"),
];

/// Reads a request for a websocket; its lines, and the answer to its key.
pub(crate) fn asked(wire: &mut Wire) -> (String, String) {
    let head = wire.read_until("\r\n\r\n");
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("sec-websocket-key")
            .then_some(value)
    });
    let key = key.expect("there is a key");
    let hash = Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
    (head, STANDARD.encode(hash))
}

pub(crate) fn switching(accept: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

#[test]
fn bytes_pass_both_ways_beside_other_streams() {
    let app = Upstream::raw(|mut wire, _| {
        let (head, accept) = asked(&mut wire);
        let head = head.to_lowercase();
        if head.starts_with("get /chat?room=1 http/1.1\r\n") {
            for line in [
                "host: example.com\r\n",
                "connection: upgrade\r\n",
                "upgrade: websocket\r\n",
                "sec-websocket-version: 13\r\n",
                "origin: http://example.com\r\n",
            ] {
                assert!(head.contains(line), "{line} in {head}");
            }
            assert!(!head.contains(":protocol"), "{head}");
        }
        wire.send(switching(&accept));
        wire.send("hello");
        wire.read_until("question");
        wire.send("answer");
        wire.read_to_close();
    });
    // Shorter than the wait below; a tunnel is nothing idle.
    let pycket = Pycket::with(&app)
        .config("timeouts.client_idle = '1s'")
        .start();
    let mut client = Frames::connect(&pycket);
    client.headers(1, &CONNECT, END_HEADERS);
    assert_eq!(client.status(1), "200");
    client.receives(1, "hello");
    // As long as an idle connection is kept.
    let mut idle = Frames::connect(&pycket);
    idle.goes_away();
    client.data(1, b"question", false);
    client.receives(1, "answer");
    client.data(1, b"", true);
    let line = pycket.access(|line| line["path"] == "/chat");
    assert_eq!(
        (&line["bytes_in"], &line["bytes_out"]),
        (&8.into(), &11.into())
    );
}

#[test]
fn an_application_can_decline() {
    let app = Upstream::raw(|mut wire, _| {
        asked(&mut wire);
        wire.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
        wire.read_to_close();
    });
    let pycket = Pycket::with(&app).start();
    let mut client = Frames::connect(&pycket);
    client.headers(1, &CONNECT, END_HEADERS);
    assert_eq!(client.status(1), "403");
}

#[test]
fn an_application_that_does_not_know_the_protocol_is_a_bad_gateway() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        switching("AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    ] {
        let app = Upstream::raw(move |mut wire, _| {
            asked(&mut wire);
            wire.send(&answer);
            wire.read_to_close();
        });
        let pycket = Pycket::with(&app).start();
        let mut client = Frames::connect(&pycket);
        client.headers(1, &CONNECT, END_HEADERS);
        assert_eq!(client.status(1), "502");
    }
}

#[test]
fn other_protocols_are_not_offered() {
    let app = Upstream::raw(|mut wire, _| drop(wire.read_to_close()));
    let pycket = Pycket::with(&app).start();
    let mut client = Frames::connect(&pycket);
    let other = CONNECT.map(|(name, value)| match name {
        ":protocol" => (name, "connect-udp"),
        _ => (name, value),
    });
    client.headers(1, &other, END_HEADERS);
    assert_eq!(client.status(1), "405");
    // A protocol without CONNECT is malformed.
    let get = [&GET[..], &[(":protocol", "websocket")]].concat();
    client.headers(3, &get, END_HEADERS | END_STREAM);
    assert!(client.is_refused(3));
}

#[test]
fn a_socket_in_which_nothing_moves_is_closed() {
    let app = Upstream::raw(|mut wire, _| {
        let (_, accept) = asked(&mut wire);
        wire.send(switching(&accept));
        assert_eq!(wire.read_to_close(), b"");
    });
    let pycket = Pycket::with(&app).config("timeouts.tunnel = '1s'").start();
    let mut client = Frames::connect(&pycket);
    client.headers(1, &CONNECT, END_HEADERS);
    assert_eq!(client.status(1), "200");
    let line = pycket.access(|line| line["path"] == "/chat");
    assert_eq!(line["error"], "tunnel_idle");
    client.is_reset(1);

    let mut wire = Wire::connect(&pycket);
    wire.send(
        "GET /one HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(wire.read_head().status(), 101);
    assert_eq!(wire.read_to_close(), b"");
}
