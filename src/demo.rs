//! The demonstration: a small shop behind the proxy.
//!
//! It is a plain web application that speaks only the header contract, as any user's application
//! would: the session comes in request headers ([`respond`] reads them), changes go out as
//! response headers. It imports nothing of this crate, so that it shows how little an application
//! needs. It keeps no session; what it remembers, in [`ExchangeLog`], is the last exchanges of each
//! session, for display.
//!
//! Everything that it knows about a session it believes from the headers, so it belongs behind the
//! proxy and on a loopback address.

mod exchange_log;
mod page;
mod server;
mod shop;
mod visitor;

pub use exchange_log::ExchangeLog;
pub use server::serve;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use exchange_log::Exchange;
use shop::{Action, Answer, Outcome};
use visitor::Visitor;

/// The page needs its own style sheet, its own script and an icon in a `data:` address, nothing
/// else; so even markup that slipped in could not load or run anything.
const CONTENT_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
    connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Answers one request: all of the application's logic, without any I/O.
///
/// `path` is the request target without its query. `headers` carry the contract's request headers,
/// where the proxy set them; without them the visitor counts as one without a session. `body` is
/// an `application/x-www-form-urlencoded` form where the path takes one.
///
/// The response is a page, a redirect after a form (303), a style sheet or a script; its headers
/// carry the contract's signals. Wrong input is answered with 4xx and the page, with a sentence on
/// it that says what would be right.
pub fn respond(
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    body: &[u8],
    log: &ExchangeLog,
) -> Response<Bytes> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    match path {
        "/style.css" if reads => asset("text/css; charset=utf-8", include_str!("demo/style.css")),
        "/five.js" if reads => asset(
            "text/javascript; charset=utf-8",
            include_str!("demo/five.js"),
        ),
        _ => {
            let visitor = Visitor::of(headers);
            let answer = match Action::of(method, path) {
                Ok(action) => shop::act(action, &visitor, body, || log.next_login()),
                Err(answer) => answer,
            };
            let exchange = Exchange::of(method, path, headers, &answer);
            let recent = log.record(&visitor, exchange, answer.login);
            response(&answer, &visitor, &recent)
        }
    }
}

fn asset(media_type: &'static str, text: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn response(
    answer: &Answer,
    visitor: &Visitor,
    recent: &[std::sync::Arc<Exchange>],
) -> Response<Bytes> {
    let body = match answer.outcome {
        Outcome::Redirect(_) => Bytes::new(),
        Outcome::Page(notice) => Bytes::from(page::render(visitor, notice, recent)),
    };
    let mut response = Response::new(body);
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    for signal in &answer.signals {
        headers.append(signal.header(), signal.header_value());
    }
    if answer.status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static(answer.allow));
    }
    if let Outcome::Redirect(to) = answer.outcome {
        headers.insert(LOCATION, HeaderValue::from_static(to));
    } else {
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        );
        headers.insert(
            CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(CONTENT_POLICY),
        );
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
