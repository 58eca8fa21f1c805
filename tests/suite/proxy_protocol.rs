//! The PROXY protocol: byte by byte, from curl, and from `HAProxy` in front.

use std::net::SocketAddr;

use crate::haproxy::Haproxy;
use crate::harness::{
    Address, AppResponse, Builder, Pycket, Upstream, Wire, curl, raw_until_close,
};

/// An application that answers with what it is told about the client.
fn app() -> Upstream {
    Upstream::app(|request| AppResponse::ok(request.header("X-Forwarded-For").unwrap_or("nothing")))
}

/// A proxy that has a second address, where these have to send headers.
pub(crate) fn expecting(app: &Upstream, from: &str) -> Builder {
    Pycket::with(app).config(&format!(
        "[[listener]]\naddress = '127.0.0.1:0'\nproxy_protocol = ['{from}']"
    ))
}

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
const V1: &str = "PROXY TCP4 203.0.113.9 192.0.2.2 56324 443\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn body(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let answer = String::from_utf8(raw_until_close(&address, bytes)).expect("text");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or(("", "closed"));
    body.to_owned()
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len())
        .expect("it is short")
        .to_be_bytes();
    [V2, &[command, family], &length, rest, GET.as_bytes()].concat()
}

#[test]
fn the_address_in_the_header_is_the_clients() {
    let app = app();
    let pycket = expecting(&app, "127.0.0.0/8").start();
    let address = pycket.second_address();
    assert_eq!(body(address, format!("{V1}{GET}")), "203.0.113.9");
    let six = "PROXY TCP6 2001:db8::9 ::1 1 2\r\n";
    assert_eq!(body(address, format!("{six}{GET}")), "2001:db8::9");
    let ipv4 = [203, 0, 113, 10, 192, 0, 2, 2, 1, 2, 3, 4];
    assert_eq!(body(address, v2(0x21, 0x11, &ipv4)), "203.0.113.10");
    let with_noop = [&ipv4[..], &[4, 0, 3, 0, 0, 0]].concat();
    assert_eq!(body(address, v2(0x21, 0x11, &with_noop)), "203.0.113.10");
    // The load balancer itself, and somebody without an address.
    assert_eq!(body(address, v2(0x20, 0, &[])), "127.0.0.1");
    assert_eq!(body(address, format!("PROXY UNKNOWN\r\n{GET}")), "nothing");
    let line = pycket.access(|line| line["client"] == "203.0.113.9");
    assert_eq!(line["status"], 200);
}

#[test]
fn a_header_that_comes_in_pieces_is_waited_for() {
    let app = app();
    let pycket = expecting(&app, "127.0.0.0/8").start();
    let mut wire = Wire::connect(&pycket.second_address());
    for byte in format!("{V1}{GET}").as_bytes() {
        wire.send([*byte]);
    }
    let answer = wire.read_to_close();
    assert!(answer.ends_with(b"203.0.113.9"));
}

#[test]
fn connections_without_a_header_are_closed_and_reported() {
    let app = app();
    let pycket = expecting(&app, "127.0.0.0/8").start();
    let address = pycket.second_address();
    let endless = format!("PROXY TCP4 {}", "1".repeat(200));
    let lying = [V2, &[0x21, 0x11, 0, 4, 1, 2, 3, 4]].concat();
    let large = [V2, &[0x21, 0x11, 0xff, 0xff]].concat();
    for bytes in [
        GET.as_bytes(),
        endless.as_bytes(),
        b"\x16\x03\x01\x02\x00",
        &lying,
        &large,
    ] {
        assert_eq!(raw_until_close(&address, bytes), b"");
    }
    pycket.says("it does not begin with a header of the PROXY protocol");
    assert_eq!(app.requests().len(), 0);
}

#[test]
fn a_header_has_its_time() {
    let app = app();
    let pycket = expecting(&app, "127.0.0.0/8")
        .config("timeouts.client_handshake = '1s'")
        .start();
    let address = pycket.second_address();
    let mut silent = Wire::connect(&address);
    let mut slow = Wire::connect(&address);
    slow.send("PROXY TCP4 203.0.113.9");
    assert_eq!(silent.read_to_close(), b"");
    assert_eq!(slow.read_to_close(), b"");
}

#[test]
fn nobody_else_can_send_one() {
    let app = app();
    let pycket = expecting(&app, "192.0.2.0/24").start();
    for address in [pycket.second_address(), pycket.address()] {
        let answer = raw_until_close(&address, format!("{V1}{GET}"));
        assert!(answer.starts_with(b"HTTP/1.1 400"), "it is a bad request");
        assert_eq!(body(address, GET), "127.0.0.1");
    }
    assert_eq!(app.requests().len(), 2);
}

#[test]
fn what_a_client_behind_it_says_is_believed_only_if_the_client_is_trusted() {
    let app = app();
    let pycket = expecting(&app, "127.0.0.0/8")
        .config("forwarding.trust = ['127.0.0.0/8', '203.0.113.9']")
        .start();
    let address = pycket.second_address();
    let get =
        "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 198.51.100.7\r\nConnection: close\r\n\r\n";
    let from = |ip: &str| format!("PROXY TCP4 {ip} 192.0.2.2 1 2\r\n{get}");
    // The load balancer is trusted, but it passes on what it does not read.
    assert_eq!(body(address, from("203.0.113.10")), "203.0.113.10");
    assert_eq!(
        body(address, from("203.0.113.9")),
        "198.51.100.7, 203.0.113.9"
    );
}

#[test]
fn curl_says_who_it_is() {
    let app = app();
    let pycket = expecting(&app, "127.0.0.0/8").start();
    let url = format!("http://{}/", pycket.second_address());
    for flag in ["--http1.1", "--http2-prior-knowledge"] {
        assert_eq!(
            curl(&["--haproxy-protocol", flag, &url]),
            "127.0.0.1",
            "{flag}"
        );
    }
}

#[test]
fn haproxy_in_front_passes_on_whom_it_serves() {
    for how in [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2 proxy-v2-options crc32c,unique-id",
    ] {
        let app = app();
        let pycket = expecting(&app, "127.0.0.1/32").start();
        let behind = pycket.second_address();
        let haproxy = Haproxy::start("tcp", "", &format!("server pycket {behind} {how}"));
        let url = format!("http://{}/", haproxy.address());
        for flag in ["--http1.1", "--http2-prior-knowledge"] {
            // Another address of this machine, so that it is told apart from HAProxy's own.
            let told = curl(&["--interface", "127.0.0.7", flag, &url]);
            assert_eq!(told, "127.0.0.7", "{how} {flag}");
        }
    }
}

#[test]
fn connections_from_one_address_are_counted_behind_it_and_trusted_ones_are_not() {
    let app = app();
    let pycket = expecting(&app, "127.0.0.0/8")
        .config("workers = 1\nlimits.max_connections_per_address = 2\nforwarding.trust = ['198.51.100.0/24']")
        .start();
    let address = pycket.second_address();
    let connect = |ip: &str| {
        let mut wire = Wire::connect(&address);
        wire.send(format!(
            "PROXY TCP4 {ip} 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"
        ));
        wire
    };
    let mut first = connect("203.0.113.1");
    first.read_until("203.0.113.1");
    let mut second = connect("203.0.113.1");
    second.read_until("203.0.113.1");
    assert_eq!(connect("203.0.113.1").read_to_close(), b"", "the third one");
    connect("203.0.113.2").read_until("203.0.113.2");
    let mut trusted: Vec<_> = (0..5).map(|_| connect("198.51.100.1")).collect();
    for wire in &mut trusted {
        wire.read_until("198.51.100.1");
    }
    first.finish();
    assert_eq!(first.read_to_close(), b"");
    connect("203.0.113.1").read_until("203.0.113.1");
}
