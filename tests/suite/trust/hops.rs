//! What belongs to one hop ends here, and a client can't name away what the proxy says.

use super::{Stand, whole};
use crate::harness::{AppResponse, Browser, Pycket, Upstream};

/// Header lines of a request; nothing that is `evil` may reach the application.
const ENDS_HERE: [&str; 26] = [
    "Connection: close, X-Hop\r\nX-Hop: evil",
    "Connection: close,,\t x-HOP ,\r\nX-hop: evil",
    "Connection: close\r\nConnection: X-Hop\r\nX-Hop: evil",
    "Connection:\r\nConnection: close, X-Hop\r\nX-Hop: evil",
    "X-Hop: evil\r\nConnection: X-Hop\r\nConnection:\r\nConnection: close\r\nX-Hop: evil",
    "Connection: close, X-Hop, X-Hop2\r\nX-Hop: evil\r\nX-Hop2: evil",
    "Connection: close, X_Hop\r\nX_Hop: evil",
    "Connection: close, Authorization\r\nAuthorization: evil",
    "Connection: close, Cookie\r\nCookie: a=evil",
    "Connection: close, evil",
    "Connection: close\r\nKeep-Alive: evil",
    "Connection: close\r\nKeep_Alive: evil",
    "Connection: close\r\nProxy-Connection: evil",
    "Connection: close\r\nProxy_Connection: evil",
    "Connection: close\r\nProxy-Authorization: evil",
    "Connection: close\r\nProxy-Authenticate: evil",
    "Connection: close\r\nProxy: http://evil",
    "Connection: close\r\nTransfer_Encoding: evil",
    "Connection: close\r\nContent_Length: evil",
    "Connection: close\r\nTransfer.Encoding: evil",
    "Connection: close, TE\r\nTE: evil, trailers;q=0.5",
    "Connection: close\r\nTrailer: evil",
    "Connection: close, Upgrade\r\nUpgrade: evil",
    "Connection: close, Upgrade\r\nUpgrade: websocket, evil",
    "Connection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: evil",
    "Connection: close\r\nHTTP2-Settings: evil",
];

#[test]
fn what_belongs_to_one_hop_ends_here() {
    let stand = Stand::new("");
    for lines in ENDS_HERE {
        let request = stand.request(lines);
        assert!(!whole(&request).contains("evil"), "{lines}: {request:?}");
        let options = request.fields.all("Connection");
        assert!(options.is_empty(), "{lines}: {options:?}");
    }
}

/// What a client can't name away, the value that the application must see.
const STAYS: [(&str, &str); 9] = [
    ("Host", "h"),
    ("Content-Length", "2"),
    ("X-Session", "{}"),
    ("X-Session-State", "none"),
    ("X-Forwarded-For", "127.0.0.1"),
    ("X-Forwarded-Proto", "http"),
    ("X-Forwarded-Host", "h"),
    ("Via", "1.1 pycket"),
    ("X-Request-Id", ""),
];

#[test]
fn client_can_not_name_away_what_the_application_relies_on() {
    let stand = Stand::new("");
    for (name, value) in STAYS {
        let passage = stand.send(format!(
            "POST / HTTP/1.1\r\nHost: h\r\nConnection: close, {name}\r\nContent-Length: 2\r\n\r\nab"
        ));
        let [request] = passage.requests.as_slice() else {
            panic!("{name}: {passage:?}");
        };
        assert_eq!(request.body, b"ab", "{name}");
        let seen = request
            .header(name)
            .unwrap_or_else(|| panic!("{name} was cut out"));
        assert!(value.is_empty() || seen == value, "{name}: {seen}");
    }
}

#[test]
fn transfer_encoding_can_not_be_named_away() {
    let stand = Stand::new("");
    let passage = stand.send(
        "POST / HTTP/1.1\r\nHost: h\r\nConnection: close, Transfer-Encoding\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    );
    assert_eq!(passage.requests.len(), 1);
    assert_eq!(passage.requests[0].body, b"ab");
}

#[test]
fn upgrade_is_passed_on_for_a_plain_websocket_only() {
    let stand = Stand::new("");
    let request = |method: &str, version: &str, lines: &str| {
        format!("{method} / {version}\r\nHost: h\r\nConnection: close, Upgrade\r\n{lines}\r\n\r\n")
    };
    let websocket = "Upgrade: WebSocket";
    let cases = [
        (request("GET", "HTTP/1.1", websocket), true),
        (request("POST", "HTTP/1.1", websocket), false),
        (request("GET", "HTTP/1.0", websocket), false),
        (request("GET", "HTTP/1.1", "Upgrade: h2c"), false),
        (
            request("GET", "HTTP/1.1", "Upgrade: websocket\r\nUpgrade: h2c"),
            false,
        ),
        (
            request("GET", "HTTP/1.1", "Upgrade: websocket\r\nContent-Length: 2") + "ab",
            false,
        ),
    ];
    for (bytes, passes) in cases {
        let passage = stand.send(&bytes);
        assert_eq!(passage.requests.len(), 1, "{bytes}");
        let upgrade = passage.requests[0].header("Upgrade");
        assert_eq!(upgrade, passes.then_some("websocket"), "{bytes}");
    }
}

#[test]
fn what_follows_a_websocket_that_was_declined_is_a_request() {
    let stand = Stand::new("");
    let next = "GET /next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    for lines in [
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 777\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Key: x",
        "X: y",
    ] {
        let passage = stand.send(format!(
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{lines}\r\n\r\n{next}"
        ));
        let targets: Vec<_> = passage
            .requests
            .iter()
            .map(|it| it.target.as_str())
            .collect();
        assert_eq!(targets, ["/", "/next"], "{lines}: {passage:?}");
        assert_eq!(passage.answer.matches("HTTP/1.1 200").count(), 2, "{lines}");
    }
}

/// Header lines of a response; nothing that is `evil` may reach the browser.
const RESPONSES: [(&str, &str); 8] = [
    ("X-Hop", "Connection"),
    ("Keep-Alive", ""),
    ("Proxy-Authenticate", ""),
    ("Proxy-Connection", ""),
    ("Upgrade", ""),
    ("Trailer", ""),
    ("TE", ""),
    ("HTTP2-Settings", ""),
];

#[test]
fn what_belongs_to_one_hop_of_the_response_ends_here() {
    for (name, nominated_by) in RESPONSES {
        let app = Upstream::app(move |_| {
            let answer = AppResponse::ok("")
                .header(name, "evil")
                .header("X-End", "kept");
            if nominated_by.is_empty() {
                answer
            } else {
                answer.header("Connection", "").header(nominated_by, name)
            }
        });
        let pycket = Pycket::with(&app).start();
        let response = Browser::at(&pycket).get("/");
        assert_eq!(response.header(name), None, "{name}");
        assert_eq!(response.header("X-End"), Some("kept"), "{name}");
        assert_eq!(response.header("Connection"), None, "{name}");
        assert_eq!(response.header("Via"), Some("1.1 pycket"), "{name}");
    }
}
