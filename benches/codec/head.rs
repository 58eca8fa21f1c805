//! Heads: what one hop's fields, forwarding headers and `Via` cost in each direction.

use std::net::SocketAddr;

use divan::Bencher;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use pycket::config::{Forwarding, Neighbours};
use pycket::contract::Names;
use pycket::proxy::forward::{Forwarder, Framing};
use pycket::proxy::{Peer, Remote};

/// What a browser sends, a cookie of the application with it.
const REQUEST: [(&str, &str); 9] = [
    ("host", "shop.example"),
    (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101",
    ),
    ("accept", "text/html,application/xhtml+xml,*/*;q=0.8"),
    ("accept-language", "en-GB,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br"),
    ("connection", "keep-alive"),
    ("cookie", "theme=dark; consent=all"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-dest", "document"),
];

const RESPONSE: [(&str, &str); 5] = [
    ("content-type", "text/html; charset=utf-8"),
    ("content-length", "100"),
    ("connection", "keep-alive"),
    ("date", "Tue, 14 Nov 2023 22:13:20 GMT"),
    ("server", "application"),
];

/// The rules as they are by default.
fn forwarder() -> Forwarder {
    let forwarding = Forwarding {
        trust: Neighbours::default(),
        x_forwarded: true,
        forwarded: false,
        via: Some("pycket".to_owned()),
        client_cert: false,
        interim_responses: false,
    };
    let names = Names::default();
    Forwarder::new(&forwarding, move |name| names.is_reserved(name))
}

fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let line = |&(name, value): &(&'static str, &'static str)| {
        let name = HeaderName::from_static(name);
        (name, HeaderValue::from_static(value))
    };
    lines.iter().map(line).collect()
}

#[divan::bench]
fn request(bencher: Bencher<'_, '_>) {
    let (forwarder, headers) = (forwarder(), fields(&REQUEST));
    let address = SocketAddr::from(([192, 0, 2, 1], 40000));
    let peer = Peer::new(Remote::Address(address), false);
    bencher
        .with_inputs(|| {
            let mut head = Request::new(()).into_parts().0;
            head.headers = headers.clone();
            head
        })
        .bench_local_refs(|head| forwarder.request_head(head, Framing::Empty, &peer));
}

#[divan::bench]
fn response(bencher: Bencher<'_, '_>) {
    let (forwarder, headers) = (forwarder(), fields(&RESPONSE));
    bencher
        .with_inputs(|| {
            let mut head = Response::new(()).into_parts().0;
            head.headers = headers.clone();
            head
        })
        .bench_local_refs(|head| forwarder.response_head(head, &Method::GET, false));
}
