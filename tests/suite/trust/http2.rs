//! What HTTP/1.1 could not say, or would say otherwise, does not go on from HTTP/2.

use super::{Stand, whole};
use crate::harness::AppRequest;
use crate::http2::frames::{END_HEADERS, END_STREAM, Frames, GET};

/// One field beside a plain request, which is refused.
const FIELDS: [(&str, &str); 40] = [
    ("x-a", "a\rb"),
    ("x-a", "a\nb"),
    ("x-a", "a\r\nX-Evil: 1"),
    ("x-a", "a\0b"),
    ("x-a", "a\u{1}b"),
    ("x-a", "a\u{7f}b"),
    ("cookie", "a=1\r\nX-Evil: 1"),
    ("", "1"),
    ("x a", "1"),
    ("x:a", "1"),
    ("x(a", "1"),
    ("x\0a", "1"),
    ("x\u{e9}", "1"),
    ("x-a\r\nx-evil", "1"),
    ("x-a: 1\r\nx-evil", "1"),
    ("X-A", "1"),
    ("transfer-encoding", "chunked"),
    ("connection", "close"),
    ("connection", "x-session"),
    ("keep-alive", "timeout=5"),
    ("proxy-connection", "close"),
    ("upgrade", "h2c"),
    ("te", "gzip"),
    ("te", "trailers, gzip"),
    ("content-length", "5"),
    ("content-length", "+0"),
    ("content-length", "-1"),
    ("content-length", "0, 0"),
    ("content-length", "x"),
    ("host", ""),
    ("host", "evil.example"),
    ("host", "example.com, evil"),
    (":method", "POST"),
    (":scheme", "https"),
    (":authority", "evil"),
    (":path", "/evil"),
    (":status", "200"),
    (":protocol", "websocket"),
    (":evil", "1"),
    (":", ""),
];

/// What a pseudo-header can't be.
const PSEUDO: [(&str, &[&str]); 4] = [
    (
        ":path",
        &[
            "",
            "a",
            "*",
            "?a",
            "/a b",
            "/a\tb",
            "/a\nb",
            "/a\0b",
            "/a\u{7f}b",
            "/a HTTP/1.1\r\nX: y",
            "http://evil/x",
        ],
    ),
    (
        ":method",
        &[
            "",
            "G T",
            "GET ",
            "G(T",
            "G\0T",
            "GET\r\nX: y",
            "GET / HTTP/1.1",
        ],
    ),
    (
        ":authority",
        &[
            "",
            "a b",
            "a,b",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "a@b",
            "a:b",
            "a:999999",
            "[::1",
            "*",
            "a\0b",
            "a\r\nX: y",
        ],
    ),
    (
        ":scheme",
        &[
            "",
            "ht tp",
            "http\0",
            "http\r\nX: y",
            "http://evil/?",
            "ftp",
            "file",
        ],
    ),
];

/// A plain request, of which one field is another.
fn with<'a>(name: &str, value: &'a str) -> [(&'static str, &'a str); 4] {
    GET.map(|(known, usual)| (known, if known == name { value } else { usual }))
}

impl Stand {
    /// Sends such a head on a new connection, which the application must not see.
    fn refuses_head(&self, fields: &[(&str, &str)]) {
        let mut client = Frames::connect(&self.pycket);
        client.headers(1, fields, END_HEADERS | END_STREAM);
        assert!(client.is_refused(1), "{fields:?}");
        let reached = self.app.requests();
        assert!(reached.is_empty(), "{fields:?}: {reached:?}");
    }

    /// Sends such a request on a new connection; what the application got.
    fn passes(&self, head: &[(&str, &str)], body: &[u8], trailers: &[(&str, &str)]) -> AppRequest {
        let before = self.app.requests().len();
        let mut client = Frames::connect(&self.pycket);
        client.headers(1, head, END_HEADERS);
        client.data(1, body, trailers.is_empty());
        if !trailers.is_empty() {
            client.headers(1, trailers, END_HEADERS | END_STREAM);
        }
        assert_eq!(client.status(1), "200", "{head:?} {trailers:?}");
        let request = self.app.request(before + 1);
        assert_eq!(self.app.requests().len(), before + 1, "{head:?}");
        request
    }
}

#[test]
fn what_http_1_1_could_not_say_is_refused() {
    let stand = Stand::new("");
    for field in FIELDS {
        stand.refuses_head(&[&GET[..], &[field]].concat());
    }
    let mut values = 0;
    for (name, cases) in PSEUDO {
        for value in cases {
            stand.refuses_head(&with(name, value));
            values += 1;
        }
        let without: Vec<_> = GET
            .into_iter()
            .filter(|(known, _)| *known != name)
            .collect();
        stand.refuses_head(&without);
    }
    assert_eq!(values, 39);
    let (first, rest) = GET.split_at(1);
    stand.refuses_head(&[first, &[("x-a", "1")], rest].concat());
}

#[test]
fn body_of_another_length_than_said_is_never_a_whole_request() {
    let stand = Stand::new("");
    let post = with(":method", "POST");
    for lengths in [
        &["4"][..],
        &["6"],
        &["0"],
        &["+5"],
        &["5, 5"],
        &["5", "6"],
        &["18446744073709551621"],
    ] {
        let lengths = lengths.iter().map(|length| ("content-length", *length));
        let head: Vec<_> = post.into_iter().chain(lengths).collect();
        let mut client = Frames::connect(&stand.pycket);
        client.headers(1, &head, END_HEADERS);
        client.data(1, b"hello", true);
        assert!(client.is_refused(1), "{head:?}");
        assert!(stand.app.requests().is_empty(), "{head:?}");
    }
}

#[test]
fn body_that_looks_like_a_request_stays_a_body() {
    let stand = Stand::new("");
    let body = b"0\r\n\r\nGET /evil HTTP/1.1\r\nHost: h\r\n\r\n";
    for method in ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "TRACE"] {
        let request = stand.passes(&with(":method", method), body, &[]);
        assert_eq!(
            (request.method.as_str(), request.body.as_slice()),
            (method, &body[..])
        );
    }
}

/// Fields that a client says of itself, in its head or behind its body.
const CLAIMS: [&str; 20] = [
    "x-session",
    "x_session",
    "x.session",
    "x-session-id",
    "x-session~set",
    "x-notifications",
    "x_notifications",
    "forwarded",
    "x-forwarded-for",
    "x_forwarded_for",
    "x-forwarded-proto",
    "x-real-ip",
    "x-original-url",
    "x-request-id",
    "http2-settings",
    "proxy-authorization",
    "proxy",
    "transfer_encoding",
    "content_length",
    "x-remote-user",
];

#[test]
fn claims_of_a_client_are_removed_from_heads_and_trailers() {
    let stand = Stand::new("headers.inject = { X-Remote-User = 'user' }");
    let post = with(":method", "POST");
    for name in CLAIMS {
        let head = [&post[..], &[(name, "evil")]].concat();
        let request = stand.passes(&head, b"hello", &[]);
        assert!(!whole(&request).contains("evil"), "{name}: {request:?}");
        for declared in [&[][..], &[("trailer", name)]] {
            let head = [&post[..], declared].concat();
            let request = stand.passes(&head, b"hello", &[(name, "evil")]);
            assert!(!whole(&request).contains("evil"), "{name}: {request:?}");
            assert!(request.trailers.0.is_empty(), "{name}: {request:?}");
            assert_eq!(request.body, b"hello", "{name}");
        }
    }
    assert_eq!(stand.app.requests().len(), 20 * 3);
}

/// What would be another head if trailers were merged into it (RFC 9110 section 6.5.1).
const TRAILERS: [&str; 16] = [
    ":path",
    "host",
    "content-length",
    "content-type",
    "authorization",
    "cookie",
    "set-cookie",
    "expect",
    "range",
    "cache-control",
    "max-forwards",
    "te",
    "trailer",
    "via",
    "origin",
    "if-match",
];

#[test]
fn trailers_that_would_change_the_head_are_dropped() {
    let stand = Stand::new("");
    let post = with(":method", "POST");
    for name in TRAILERS {
        let head = [&post[..], &[("trailer", name)]].concat();
        let trailer = if name == "te" { "trailers" } else { "evil" };
        let request = stand.passes(&head, b"hello", &[(name, trailer)]);
        assert_eq!(request.target, "/", "{name}");
        assert!(request.trailers.0.is_empty(), "{name}: {request:?}");
        assert!(!whole(&request).contains("evil"), "{name}: {request:?}");
    }
    // As they are dropped from HTTP/1.1.
    for name in &TRAILERS[1..] {
        let passage = stand.send(format!(
            "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTrailer: {name}\r\n\
             Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n{name}: evil\r\n\r\n"
        ));
        let [request] = passage.requests.as_slice() else {
            panic!("{name}: {passage:?}");
        };
        assert!(request.trailers.0.is_empty(), "{name}: {request:?}");
        assert!(!whole(request).contains("evil"), "{name}: {request:?}");
    }
}

/// A head of which a frame of 16 kB becomes 60 MB when it is written out.
#[test]
fn a_head_that_grows_when_it_is_unpacked_is_refused() {
    let stand = Stand::new("");
    let mut block = Vec::new();
    for (name, value) in GET {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("it is short"));
            block.extend(text.as_bytes());
        }
    }
    // A literal that stays in the table (RFC 7541 section 6.2.1), 4000 bytes long: 127 + 3873.
    block.extend([0x40, 1, b'x', 127, 0xa1, 0x1e]);
    block.extend([b'a'; 4000]);
    // The newest entry, again and again.
    block.extend([0xbe; 12_000]);
    let mut client = Frames::connect(&stand.pycket);
    assert!(client.try_frame(1, END_HEADERS | END_STREAM, 1, &block));
    assert!(client.is_refused(1));
    assert!(stand.app.requests().is_empty());
}

/// The client makes the server reset streams, which then count no more (CVE-2025-8671).
#[test]
fn streams_that_the_server_is_made_to_reset_end_the_connection() {
    let mistakes: [(&str, u8, &[u8]); 4] = [
        ("windows that grow by nothing", 8, &[0; 4]),
        ("windows that grow too large", 8, &[0x7f, 0xff, 0xff, 0xff]),
        ("streams that depend on themselves", 2, &[]),
        ("data behind the end", 0, b"x"),
    ];
    let stand = Stand::new("log.access = false");
    for (what, kind, payload) in mistakes {
        let mut client = Frames::connect(&stand.pycket);
        let mut stream = 1_u32;
        loop {
            let on_itself = [&stream.to_be_bytes()[..], &[1]].concat();
            let payload = if kind == 2 { &on_itself } else { payload };
            if !client.try_request(stream) || !client.try_frame(kind, 0, stream, payload) {
                break;
            }
            stream += 2;
            assert!(stream < 1_000_000, "it takes {what} for ever");
        }
    }
}
