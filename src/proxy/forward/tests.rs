use std::net::SocketAddr;

use http::{Request, Response};
use proptest::prelude::*;

use super::*;
use crate::config::Neighbour;
use crate::proxy::Remote;

fn neighbour(name: &str) -> Neighbour {
    match name {
        "unix" => Neighbour::Unix,
        network => Neighbour::Network(network.parse().unwrap()),
    }
}

fn forwarding(trust: &[&str]) -> Forwarding {
    Forwarding {
        trust: trust.iter().map(|name| neighbour(name)).collect(),
        x_forwarded: true,
        forwarded: false,
        via: Some("pycket".to_owned()),
        client_cert: true,
        interim_responses: false,
    }
}

fn forwarder(trust: &[&str]) -> Forwarder {
    Forwarder::new(&forwarding(trust), |name| {
        name.as_str().starts_with("x-session")
    })
}

fn peer() -> Peer {
    at(SocketAddr::from(([192, 0, 2, 1], 40000)))
}

fn at(address: SocketAddr) -> Peer {
    Peer::new(Remote::Address(address), false)
}

/// A request head from text as it stands on the wire; the target as hyper would parse it.
fn head(text: &str) -> request::Parts {
    let mut lines = text.trim().lines().map(str::trim);
    let mut words = lines.next().unwrap().split(' ');
    let mut head = Request::new(()).into_parts().0;
    head.method = words.next().unwrap().parse().unwrap();
    head.uri = words.next().unwrap().parse().unwrap();
    head.version = match words.next() {
        Some("HTTP/1.0") => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    head.headers = fields(lines);
    head
}

fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        let value = HeaderValue::from_bytes(value.trim_matches(' ').as_bytes()).unwrap();
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
    }
    headers
}

fn response(text: &str) -> response::Parts {
    let mut lines = text.trim().lines().map(str::trim);
    let mut head = Response::new(()).into_parts().0;
    head.status = lines.next().unwrap().parse().unwrap();
    head.headers = fields(lines);
    head
}

fn shown(headers: &HeaderMap) -> String {
    let mut lines: Vec<String> = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    lines.sort();
    lines.join("\n")
}

/// Forwards an untrusted client's request and shows what goes upstream.
fn forwarded(text: &str) -> String {
    forwarded_by(&forwarder(&[]), text, Framing::Empty)
}

fn forwarded_by(forwarder: &Forwarder, text: &str, framing: Framing) -> String {
    let mut head = head(text);
    forwarder.request_head(&mut head, framing, &peer()).unwrap();
    format!("{} {}\n{}", head.method, head.uri, shown(&head.headers))
}

fn refused(text: &str, framing: Framing) -> RequestError {
    forwarder(&[])
        .request_head(&mut head(text), framing, &peer())
        .unwrap_err()
}

#[test]
fn a_plain_request_gets_what_a_gateway_adds() {
    let text = forwarded("GET /a?b=c HTTP/1.1\nHost: example.com\nAccept: */*");
    insta::assert_snapshot!(text, @r"
    GET /a?b=c
    accept: */*
    host: example.com
    via: 1.1 pycket
    x-forwarded-for: 192.0.2.1
    x-forwarded-host: example.com
    x-forwarded-proto: http
    ");
}

#[test]
fn an_absolute_target_becomes_origin_form_and_replaces_the_host() {
    let text = forwarded("GET http://other:81/a HTTP/1.1\nHost: example.com");
    assert!(text.starts_with("GET /a\nhost: other:81\n"), "{text}");
    let text = forwarded("GET http://other?b=c HTTP/1.1\nHost: example.com");
    assert!(text.starts_with("GET /?b=c\nhost: other\n"), "{text}");
    let text = forwarded("OPTIONS * HTTP/1.1\nHost: example.com");
    assert!(text.starts_with("OPTIONS *\n"), "{text}");
}

#[test]
fn other_targets_are_refused() {
    for target in ["foo", "foo:80", "*", "ftp://example.com/"] {
        let text = format!("GET {target} HTTP/1.1\nHost: example.com");
        assert_eq!(
            refused(&text, Framing::Empty),
            RequestError::Target,
            "{target}"
        );
    }
    let connect = "CONNECT example.com:443 HTTP/1.1\nHost: example.com";
    assert_eq!(refused(connect, Framing::Empty), RequestError::Connect);
    let user = "GET http://user@example.com/ HTTP/1.1\nHost: example.com";
    assert_eq!(refused(user, Framing::Empty), RequestError::HostInvalid);
}

#[test]
fn a_request_has_exactly_one_host() {
    assert_eq!(
        refused("GET / HTTP/1.1", Framing::Empty),
        RequestError::HostCount
    );
    for version in ["HTTP/1.0", "HTTP/1.1"] {
        let two = format!("GET / {version}\nHost: a\nHost: a");
        assert_eq!(refused(&two, Framing::Empty), RequestError::HostCount);
    }
    // Absolute targets need it as much (RFC 9112 section 3.2.2).
    let absolute = "GET http://example.com/ HTTP/1.1";
    assert_eq!(refused(absolute, Framing::Empty), RequestError::HostCount);
    let old = forwarded("GET / HTTP/1.0");
    assert!(
        !old.contains("host:") && !old.contains("x-forwarded-host"),
        "{old}"
    );
    assert!(old.contains("via: 1.0 pycket"), "{old}");
}

#[test]
fn a_host_is_a_host() {
    let bad = [
        "",
        "a b",
        "a/b",
        "a?b",
        "a#b",
        "a@b",
        "a,b",
        "a:b",
        "a:80:80",
        "a:123456",
        "[::1",
        "::1",
        "[x]",
        "a\"b",
        "a%20b",
        "[::1]x",
        ":80",
        "caf\u{e9}",
    ];
    for host in bad {
        let mut head = head("GET / HTTP/1.1");
        let value = HeaderValue::from_bytes(host.as_bytes()).unwrap();
        head.headers.insert(HOST, value);
        let refused = forwarder(&[]).request_head(&mut head, Framing::Empty, &peer());
        assert_eq!(refused.unwrap_err(), RequestError::HostInvalid, "{host}");
    }
    for host in [
        "a",
        "a.b-c_d:80",
        "192.0.2.1:8080",
        "[2001:db8::1]:80",
        "[::1]",
        "a:",
    ] {
        forwarded(&format!("GET / HTTP/1.1\nHost: {host}"));
    }
    assert_eq!(host_name(&HeaderValue::from_static("[::1]:80")), b"[::1]");
    assert_eq!(host_name(&HeaderValue::from_static("a:80")), b"a");
}

#[test]
fn only_exactly_one_chunked_is_a_transfer_encoding() {
    let malformed = [
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \u{a0}chunked",
        "Transfer-Encoding: chunked\nTransfer-Encoding: chunked",
        "Transfer-Encoding: x\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked;a=b",
        "Transfer-Encoding: ",
    ];
    for field in malformed {
        let mut head = head("POST / HTTP/1.1\nHost: a");
        for line in field.lines() {
            let value = line.split_once(": ").unwrap().1;
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            head.headers.append(TRANSFER_ENCODING, value);
        }
        let refused = forwarder(&[]).request_head(&mut head, Framing::Chunked, &peer());
        assert_eq!(
            refused.unwrap_err(),
            RequestError::TransferEncoding,
            "{field:?}"
        );
    }
    for coding in ["gzip, chunked", "chunked, identity"] {
        let text = format!("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: {coding}");
        assert_eq!(
            refused(&text, Framing::Chunked),
            RequestError::TransferCoding
        );
    }
    let both = "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nContent-Length: 5";
    assert_eq!(refused(both, Framing::Chunked), RequestError::TwoLengths);
}

#[test]
fn framing_is_written_in_our_words() {
    let by = |text, framing| forwarded_by(&forwarder(&[]), text, framing);
    let chunked = by(
        "GET / HTTP/1.1\nHost: a\nTransfer-Encoding: ChUnKeD",
        Framing::Chunked,
    );
    assert!(
        chunked.contains("\ntransfer-encoding: chunked\n"),
        "{chunked}"
    );
    let known = by(
        "POST / HTTP/1.1\nHost: a\nContent-Length: 0007",
        Framing::Length(7),
    );
    assert!(known.contains("\ncontent-length: 7\n"), "{known}");
    let empty = by(
        "POST / HTTP/1.1\nHost: a\nContent-Length: 000",
        Framing::Empty,
    );
    assert!(empty.contains("\ncontent-length: 0\n"), "{empty}");
    let none = by("GET / HTTP/1.1\nHost: a", Framing::Empty);
    assert!(!none.contains("content-length"), "{none}");
}

#[test]
fn only_100_continue_is_expected_and_it_stays_here() {
    let text = forwarded("POST / HTTP/1.1\nHost: a\nExpect: 100-Continue");
    assert!(!text.contains("expect"), "{text}");
    for unknown in ["y 100-continue", "100-continue, x", "x"] {
        let text = format!("POST / HTTP/1.1\nHost: a\nExpect: {unknown}");
        assert_eq!(
            refused(&text, Framing::Length(1)),
            RequestError::Expectation
        );
    }
}

#[test]
fn every_connection_line_counts() {
    // CVE-2021-33197: the first line is empty.
    let text = forwarded(
        "GET / HTTP/1.1\nHost: a\nConnection:\nConnection: X-One, close\nConnection: x-two\n\
         X-One: 1\nX-Two: 2\nX-Three: 3",
    );
    assert!(!text.contains("x-one") && !text.contains("x-two"), "{text}");
    assert!(text.contains("x-three: 3"), "{text}");
    assert!(!text.contains("connection"), "{text}");
}

#[test]
fn framing_host_and_trusted_fields_cannot_be_named_away() {
    let text = "POST / HTTP/1.1\nHost: a\nX-Forwarded-For: 198.51.100.7\nContent-Length: 3\n\
                Connection: Host, Content-Length, Transfer-Encoding, X-Forwarded-For";
    let kept = forwarded_by(&forwarder(&["192.0.2.0/24"]), text, Framing::Length(3));
    assert!(kept.contains("\nhost: a\n"), "{kept}");
    assert!(kept.contains("\ncontent-length: 3\n"), "{kept}");
    assert!(
        kept.contains("x-forwarded-for: 198.51.100.7, 192.0.2.1"),
        "{kept}"
    );
}

#[test]
fn hop_by_hop_fields_end_here() {
    let text = forwarded(
        "GET / HTTP/1.1\nHost: a\nKeep-Alive: timeout=5\nProxy-Connection: keep-alive\n\
         Proxy-Authorization: Basic eA==\nProxy-Authenticate: Basic\nTE: gzip\nTrailer: X-A\n\
         Upgrade: h2c\nHTTP2-Settings: AAA\nConnection: Upgrade, HTTP2-Settings\nProxy: evil\n\
         Keep_Alive: 1",
    );
    insta::assert_snapshot!(text, @r"
    GET /
    host: a
    via: 1.1 pycket
    x-forwarded-for: 192.0.2.1
    x-forwarded-host: a
    x-forwarded-proto: http
    ");
}

#[test]
fn only_trailers_are_left_of_te() {
    let text = forwarded("GET / HTTP/1.1\nHost: a\nTE: gzip;q=0.5, Trailers");
    assert!(text.contains("\nte: trailers\n"), "{text}");
    assert!(text.contains("\nconnection: te\n"), "{text}");
}

fn declared(trailers: &Trailers) -> &[HeaderName] {
    match trailers {
        Trailers::Declared(names) => names,
        Trailers::All(_) => panic!("{trailers:?}"),
    }
}

#[test]
fn declared_trailers_pass_unless_they_could_be_taken_for_headers() {
    let mut head = head(
        "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\
         Trailer: X-Checksum, X-Session, Authorization\n\
         Trailer: Content-Length, x_session, X-Forwarded-For, Set-Cookie, Connection, X-Time",
    );
    let inbound = forwarder(&[])
        .request_head(&mut head, Framing::Chunked, &peer())
        .unwrap();
    assert_eq!(declared(&inbound.trailers), ["x-checksum", "x-time"]);
    let declared: Vec<_> = head.headers.get_all(TRAILER).iter().collect();
    assert_eq!(declared, ["x-checksum", "x-time"]);
}

#[test]
fn a_websocket_upgrade_is_written_anew() {
    let text = "GET /ws HTTP/1.1\nHost: a\nConnection: keep-alive, Upgrade, X-A\n\
                Upgrade: WebSocket\nSec-WebSocket-Version: 13\nX-A: 1";
    let mut head = head(text);
    let inbound = forwarder(&[])
        .request_head(&mut head, Framing::Empty, &peer())
        .unwrap();
    assert!(inbound.upgrade);
    insta::assert_snapshot!(shown(&head.headers), @r"
    connection: upgrade
    host: a
    sec-websocket-version: 13
    upgrade: websocket
    via: 1.1 pycket
    x-forwarded-for: 192.0.2.1
    x-forwarded-host: a
    x-forwarded-proto: http
    ");
}

#[test]
fn other_upgrades_are_ordinary_requests() {
    let websocket = "Connection: upgrade\nUpgrade: websocket";
    let cases = [
        ("POST / HTTP/1.1", websocket, Framing::Empty),
        ("GET / HTTP/1.0", websocket, Framing::Empty),
        ("GET / HTTP/1.1", websocket, Framing::Length(3)),
        ("GET / HTTP/1.1", "Upgrade: websocket", Framing::Empty),
        ("GET / HTTP/1.1", "Connection: upgrade", Framing::Empty),
        (
            "GET / HTTP/1.1",
            "Connection: upgrade\nUpgrade: h2c",
            Framing::Empty,
        ),
        (
            "GET / HTTP/1.1",
            "Connection: upgrade\nUpgrade: TLS/1.0",
            Framing::Empty,
        ),
        (
            "GET / HTTP/1.1",
            "Connection: upgrade\nUpgrade: websocket, h2c",
            Framing::Empty,
        ),
    ];
    for (line, fields, framing) in cases {
        let mut head = head(&format!("{line}\nHost: a\n{fields}"));
        let inbound = forwarder(&[])
            .request_head(&mut head, framing, &peer())
            .unwrap();
        assert!(!inbound.upgrade, "{line} {fields}");
        assert!(!head.headers.contains_key(UPGRADE), "{line} {fields}");
        assert!(!head.headers.contains_key(CONNECTION), "{line} {fields}");
    }
}

const SPOOFS: &str = "GET / HTTP/1.1\nHost: a\nX-Forwarded-For: 203.0.113.9\n\
    X-Forwarded-Host: evil\nX-Forwarded-Proto: https\nX-Forwarded-Port: 1\n\
    X-Forwarded-Prefix: /evil\nX-Forwarded-Uri: /evil\nX-Forwarded-Server: evil\n\
    Forwarded: for=203.0.113.9\nX-Real-IP: 203.0.113.9\nX-Original-URL: /evil\n\
    X-Rewrite-URL: /evil\nX_Forwarded_For: 203.0.113.9\nX.Real.IP: 203.0.113.9";

#[test]
fn strangers_cannot_say_who_they_are() {
    insta::assert_snapshot!(forwarded(SPOOFS), @r"
    GET /
    host: a
    via: 1.1 pycket
    x-forwarded-for: 192.0.2.1
    x-forwarded-host: a
    x-forwarded-proto: http
    ");
}

#[test]
fn trusted_neighbours_are_kept_and_added_to() {
    let text = forwarded_by(&forwarder(&["192.0.2.0/24"]), SPOOFS, Framing::Empty);
    assert!(
        text.contains("x-forwarded-for: 203.0.113.9, 192.0.2.1"),
        "{text}"
    );
    assert!(text.contains("x-forwarded-host: evil"), "{text}");
    assert!(text.contains("x-forwarded-proto: https"), "{text}");
}

fn client_of(forwarder: &Forwarder, fields: &str) -> Client {
    let mut head = head(&format!("GET / HTTP/1.1\nHost: a\n{fields}"));
    let inbound = forwarder.request_head(&mut head, Framing::Empty, &peer());
    inbound.unwrap().client
}

#[test]
fn the_client_is_the_last_one_that_nobody_trusts() {
    let forwarder = forwarder(&["192.0.2.0/24", "10.0.0.0/8", "2001:db8::/32"]);
    let cases = [
        ("X-Forwarded-For: 198.51.100.1", "198.51.100.1"),
        (
            "X-Forwarded-For: 203.0.113.9, 198.51.100.1, 10.0.0.1",
            "198.51.100.1",
        ),
        (
            "X-Forwarded-For: 203.0.113.9\nX-Forwarded-For: 198.51.100.1, 10.0.0.1",
            "198.51.100.1",
        ),
        ("X-Forwarded-For: 10.0.0.2, 10.0.0.1", "10.0.0.2"),
        (
            "X-Forwarded-For: 203.0.113.9, unknown, 10.0.0.1",
            "10.0.0.1",
        ),
        (
            "X-Forwarded-For: 198.51.100.1:4711, [2001:db8::1]:80",
            "198.51.100.1",
        ),
        ("X-Forwarded-For: ::ffff:198.51.100.1", "198.51.100.1"),
        ("X-Forwarded-For:", "192.0.2.1"),
        (
            "Forwarded: for=203.0.113.9, for=\"[2001:db9::7]:1\";proto=https, for=10.0.0.1",
            "2001:db9::7",
        ),
        ("Forwarded: For=\"a,b\"", "192.0.2.1"),
        ("Accept: x", "192.0.2.1"),
    ];
    for (fields, address) in cases {
        let client = client_of(&forwarder, fields);
        assert_eq!(client.address.unwrap().to_string(), address, "{fields}");
    }
}

#[test]
fn the_scheme_is_what_a_trusted_neighbour_says() {
    let trusting = forwarder(&["192.0.2.0/24"]);
    let scheme = |fields| client_of(&trusting, fields).scheme;
    assert_eq!(scheme("X-Forwarded-Proto: https"), Scheme::Https);
    assert_eq!(scheme("X-Forwarded-Proto: https, http"), Scheme::Http);
    assert_eq!(scheme("Forwarded: for=10.0.0.1;proto=https"), Scheme::Https);
    assert_eq!(scheme("X-Forwarded-Proto: wss"), Scheme::Http);
    let stranger = client_of(&forwarder(&[]), "X-Forwarded-Proto: https");
    assert_eq!((stranger.scheme, stranger.trusted), (Scheme::Http, false));
}

#[test]
fn an_ipv4_neighbour_on_a_dual_stack_socket_is_trusted() {
    let mapped = SocketAddr::from(([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201], 1));
    assert!(forwarder(&["192.0.2.0/24"]).trusts(&at(mapped)));
    assert_eq!(at(mapped).address_text().unwrap(), "192.0.2.1");
}

#[test]
fn forwarded_elements_are_quoted_where_they_must_be() {
    let mut rules = forwarding(&[]);
    (rules.x_forwarded, rules.forwarded) = (false, true);
    let forwarder = Forwarder::new(&rules, |_| false);
    let text = forwarded_by(&forwarder, SPOOFS, Framing::Empty);
    insta::assert_snapshot!(text, @r#"
    GET /
    forwarded: for=192.0.2.1;host="a";proto=http
    host: a
    via: 1.1 pycket
    "#);
    let v6 = Remote::Address("[2001:db8::1]:1".parse().unwrap());
    let v6 = Peer::new(v6, true);
    let mut head = head("GET / HTTP/1.1\nHost: a:80");
    forwarder
        .request_head(&mut head, Framing::Empty, &v6)
        .unwrap();
    let element = head.headers.get("forwarded").unwrap();
    assert_eq!(element, "for=\"[2001:db8::1]\";host=\"a:80\";proto=https");
}

#[test]
fn only_we_say_which_certificate_a_client_has_shown() {
    let lies = "GET / HTTP/1.1\nHost: h\nConnection: client-cert\nClient-Cert: :AA==:\n\
                Client_Cert: :AA==:\nClient-Cert-Chain: :AA==:\nclient.cert_chain: :AA==:\n\
                Client-Certificate: other";
    let forwarder = forwarder(&["192.0.2.1/32"]);
    let text = forwarded_by(&forwarder, lies, Framing::Empty);
    assert!(
        text.starts_with("GET /\nclient-certificate: other\nhost: h\n"),
        "{text}"
    );
    let shown = HeaderValue::from_static(":MII=:");
    let peer = peer().with_client_cert(Some(shown.clone()));
    let mut head = head(lies);
    forwarder
        .request_head(&mut head, Framing::Empty, &peer)
        .unwrap();
    let said: Vec<_> = head.headers.get_all("client-cert").iter().collect();
    assert_eq!(said, [&shown]);
}

#[test]
fn a_neighbour_on_a_unix_socket_has_no_address() {
    let mut rules = forwarding(&["unix"]);
    rules.forwarded = true;
    let trusting = Forwarder::new(&rules, |_| false);
    let peer = Peer::new(Remote::Unix, false);
    let mut told = head("GET / HTTP/1.1\nHost: a\nX-Forwarded-For: 203.0.113.9");
    let inbound = trusting.request_head(&mut told, Framing::Empty, &peer);
    let client = inbound.unwrap().client;
    assert_eq!(client.address.unwrap().to_string(), "203.0.113.9");
    assert_eq!(told.headers["x-forwarded-for"], "203.0.113.9");
    assert_eq!(
        told.headers["forwarded"],
        "for=unknown;host=\"a\";proto=http"
    );

    let mut spoofed = head("GET / HTTP/1.1\nHost: a\nX-Forwarded-For: 203.0.113.9");
    let inbound = forwarder(&["0.0.0.0/0"]).request_head(&mut spoofed, Framing::Empty, &peer);
    let client = inbound.unwrap().client;
    assert_eq!((client.address, client.trusted), (None, false));
    assert!(!spoofed.headers.contains_key("x-forwarded-for"));
}

fn answered(text: &str, method: &Method, upgrade: bool) -> Result<String, ResponseError> {
    let mut head = response(text);
    forwarder(&[]).response_head(&mut head, method, upgrade)?;
    Ok(shown(&head.headers))
}

#[test]
fn a_response_loses_what_belongs_to_its_hop_only() {
    let text = answered(
        "200\nConnection: keep-alive, X-A\nKeep-Alive: timeout=5\nX-A: 1\nUpgrade: h2c\n\
         Proxy-Authenticate: Basic\nContent-Length: 5\nDate: now\nServer: x\nSet-Cookie: a\n\
         Set-Cookie: b",
        &Method::GET,
        false,
    );
    insta::assert_snapshot!(text.unwrap(), @r"
    content-length: 5
    date: now
    server: x
    set-cookie: a
    set-cookie: b
    via: 1.1 pycket
    ");
}

#[test]
fn doubtful_response_framing_is_refused() {
    let cases = [
        (
            "Content-Length: 5\nTransfer-Encoding: chunked",
            ResponseError::TwoLengths,
        ),
        (
            "Content-Length: 5\nContent-Length: 5",
            ResponseError::ContentLength,
        ),
        ("Content-Length: 5, 5", ResponseError::ContentLength),
        ("Content-Length: -1", ResponseError::ContentLength),
        ("Content-Length:", ResponseError::ContentLength),
        ("Transfer-Encoding: gzip", ResponseError::TransferEncoding),
        (
            "Transfer-Encoding: gzip, chunked",
            ResponseError::TransferEncoding,
        ),
        (
            "Transfer-Encoding: chunked\nTransfer-Encoding: chunked",
            ResponseError::TransferEncoding,
        ),
    ];
    for (fields, error) in cases {
        let refused = answered(&format!("200\n{fields}"), &Method::GET, false);
        assert_eq!(refused.unwrap_err(), error, "{fields}");
    }
    let plain = answered("200\nTransfer-Encoding: Chunked", &Method::GET, false);
    assert_eq!(plain.unwrap(), "via: 1.1 pycket");
}

#[test]
fn responses_without_a_body_keep_the_length_that_one_would_have() {
    let text = answered("200\nContent-Length: 5", &Method::HEAD, false);
    assert!(text.unwrap().contains("content-length: 5"));
    let text = answered("304\nTransfer-Encoding: chunked", &Method::GET, false);
    assert_eq!(text.unwrap(), "via: 1.1 pycket");
}

#[test]
fn only_an_upgrade_that_was_asked_for_is_answered_with_101() {
    let switch = "101\nConnection: Upgrade\nUpgrade: WebSocket\nSec-WebSocket-Accept: x";
    let text = answered(switch, &Method::GET, true).unwrap();
    assert!(text.contains("connection: upgrade\n"), "{text}");
    assert!(text.contains("upgrade: websocket\n"), "{text}");
    for (text, asked) in [
        (switch, false),
        ("101\nConnection: upgrade\nUpgrade: h2c", true),
        ("101\nUpgrade: websocket", true),
        ("101", true),
    ] {
        let refused = answered(text, &Method::GET, asked);
        assert_eq!(
            refused.unwrap_err(),
            ResponseError::UnaskedUpgrade,
            "{text}"
        );
    }
}

#[test]
fn a_response_declares_only_trailers_that_may_pass() {
    let mut head = response("200\nTransfer-Encoding: chunked\nTrailer: X-Session-Set, ETag, Vary");
    let outbound = forwarder(&[]).response_head(&mut head, &Method::GET, false);
    assert_eq!(declared(&outbound.unwrap().trailers), ["etag"]);
    assert_eq!(head.headers.get(TRAILER).unwrap(), "etag");
}

const ENDS_HERE: [&str; 8] = [
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
    "http2-settings",
    "te",
    "trailer",
    "upgrade",
];

proptest! {
    /// The law of RFC 9110 section 7.6.1, for any Connection lines.
    #[test]
    fn no_nominated_and_no_hop_by_hop_field_survives(
        lines in prop::collection::vec("[ ,]{0,2}([a-zA-Z-]{1,12}|x-[a-c]|te|close|\u{e9})([ ,]{1,3}x-[a-e]){0,3}", 0..4),
        names in prop::collection::vec("x-[a-e]|keep-alive|te|trailer|upgrade|proxy-connection", 0..8),
    ) {
        let mut head = head("GET / HTTP/1.1\nHost: a");
        for line in &lines {
            head.headers.append(CONNECTION, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        for name in &names {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            head.headers.append(name, HeaderValue::from_static("x"));
        }
        let mut nominated: Vec<String> = Vec::new();
        for line in &lines {
            nominated.extend(line.split(',').map(|name| name.trim().to_ascii_lowercase()));
        }
        forwarder(&[]).request_head(&mut head, Framing::Empty, &peer()).unwrap();
        for name in head.headers.keys() {
            prop_assert!(!ENDS_HERE.contains(&name.as_str()), "{name}");
            let ours = ["host", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
            prop_assert!(
                ours.contains(&name.as_str()) || !nominated.iter().any(|n| n == name.as_str()),
                "{name}"
            );
        }
        prop_assert!(!head.headers.contains_key(CONNECTION));
    }

    #[test]
    fn any_bytes_in_forwarding_fields_are_survived(
        chain in prop::collection::vec(any::<u8>(), 0..60),
        element in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let mut head = head("GET / HTTP/1.1\nHost: a");
        for (name, bytes) in [("x-forwarded-for", &chain), ("forwarded", &element)] {
            if let Ok(value) = HeaderValue::from_bytes(bytes) {
                head.headers.append(HeaderName::from_static(name), value);
            }
        }
        forwarder(&["192.0.2.1/32"]).request_head(&mut head, Framing::Empty, &peer()).unwrap();
    }
}
