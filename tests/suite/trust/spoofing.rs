//! Headers of the contract that a client sends never reach the application.

use super::{Stand, folded, whole};

/// Names that an application could take for the contract's.
const NAMES: [&str; 17] = [
    "X-Session",
    "x-session",
    "X_Session",
    "X.Session",
    "x!session",
    "X-Session-Id",
    "x-session~id",
    "X_SESSION_STATE",
    "X-Session-Set",
    "x.session.opaque",
    "X-Session-Control",
    "X-Session-Of-Tomorrow",
    "X-Notifications",
    "x_notifications",
    "X+Notifications",
    "X-Notifications-Set",
    "X-Notifications_Taken",
];

/// A kind of request, and how many requests it is.
type Shape = (&'static str, usize, fn(&str) -> String);

const SHAPES: [Shape; 14] = [
    ("once", 1, |name| {
        format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{name}: evil\r\n\r\n")
    }),
    ("before everything else", 1, |name| {
        format!("GET / HTTP/1.1\r\n{name}:evil\r\nHost: h\r\nConnection: close\r\n\r\n")
    }),
    ("repeated", 1, |name| {
        let upper = name.to_uppercase();
        format!(
            "GET / HTTP/1.1\r\nHost: h\r\n{name}: evil\r\n{upper}: evil\r\nConnection: close\r\n{name}: evil\r\n\r\n"
        )
    }),
    ("empty, then not", 1, |name| {
        format!("GET / HTTP/1.1\r\nHost: h\r\n{name}:\r\n{name}: evil\r\nConnection: close\r\n\r\n")
    }),
    ("with a chunked body", 1, |name| {
        format!(
            "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{name}: evil\r\n\
             Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
        )
    }),
    ("in declared trailers", 1, |name| {
        format!(
            "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTrailer: {name}\r\n\
             Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n{name}: evil\r\n\r\n"
        )
    }),
    ("in other trailers", 1, |name| {
        format!(
            "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
             1\r\nx\r\n0\r\n{name}: evil\r\n\r\n"
        )
    }),
    ("nominated", 1, |name| {
        format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: close, {name}\r\n{name}: evil\r\n\r\n")
    }),
    ("where there are no sessions", 1, |name| {
        format!("GET /static/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{name}: evil\r\n\r\n")
    }),
    ("by HTTP/1.0", 1, |name| {
        format!("GET / HTTP/1.0\r\n{name}: evil\r\n\r\n")
    }),
    ("in absolute form", 1, |name| {
        format!("GET http://h/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{name}: evil\r\n\r\n")
    }),
    ("pipelined", 2, |name| {
        format!(
            "GET / HTTP/1.1\r\nHost: h\r\n\r\n\
             GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{name}: evil\r\n\r\n"
        )
    }),
    ("with an upgrade", 1, |name| {
        format!(
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: close, Upgrade, {name}\r\nUpgrade: websocket\r\n\
             {name}: evil\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n"
        )
    }),
    ("about the server as a whole", 1, |name| {
        format!("OPTIONS * HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{name}: evil\r\n\r\n")
    }),
];

#[test]
fn headers_of_the_contract_come_from_the_proxy_alone() {
    let stand = Stand::new("route = [{ path = '/static/', session = false }]");
    for name in NAMES {
        for (shape, count, bytes) in SHAPES {
            let passage = stand.send(bytes(name));
            let what = format!("{name} {shape}: {passage:?}");
            assert_eq!(passage.status(), 200, "{what}");
            assert_eq!(passage.requests.len(), count, "{what}");
            for request in &passage.requests {
                assert!(!whole(request).contains("evil"), "{what}");
                let of_contract = |(name, _): &&(String, String)| {
                    let name = folded(name);
                    name.starts_with("x-session") || name.starts_with("x-notifications")
                };
                let ours = request.fields.0.iter().filter(of_contract);
                let ours: Vec<_> = ours.map(|(n, v)| (n.as_str(), v.as_str())).collect();
                if request.target == "/static/x" {
                    assert_eq!(ours, [], "{what}");
                } else {
                    let none = [("x-session", "{}"), ("x-session-state", "none")];
                    assert_eq!(ours, none, "{what}");
                }
            }
        }
    }
    assert_eq!(stand.app.requests().len(), 17 * 15);
}

#[test]
fn names_that_only_look_alike_are_the_applications() {
    let stand = Stand::new("");
    for name in [
        "X-Sessions",
        "X-Sess",
        "Session",
        "X-Notification",
        "Y-X-Session",
    ] {
        let request = stand.request(&format!("Connection: close\r\n{name}: kept"));
        assert_eq!(request.header(name), Some("kept"), "{name}");
    }
}
