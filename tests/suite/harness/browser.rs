//! A browser: requests by HTTP/1.1, one connection each, and a cookie jar.

use std::net::SocketAddr;

use serde_json::Value;

use super::Address;
use super::framing::Body;
use super::jar::Jar;
use super::message::{Fields, Head};
use super::wire::Wire;

/// One browser. A clone is a second tab: it starts with the cookies of that moment, and each goes
/// on by itself, as two requests that are under way together do.
#[derive(Clone, Debug)]
pub(crate) struct Browser {
    server: SocketAddr,
    jar: Jar,
}

/// A request that is being put together.
#[derive(Debug)]
pub(crate) struct Request<'b> {
    browser: &'b mut Browser,
    method: String,
    target: String,
    fields: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Response {
    /// The status.
    pub(crate) status: u16,
    /// The header lines.
    pub(crate) fields: Fields,
    /// The trailer lines.
    pub(crate) trailers: Fields,
    body: Vec<u8>,
    whole: bool,
}

impl Browser {
    /// A browser without cookies.
    pub(crate) fn at(server: &impl Address) -> Self {
        Self {
            server: server.address(),
            jar: Jar::default(),
        }
    }

    /// From here on it talks to another server, and keeps its cookies: `browser.go_to(&twin)`.
    pub(crate) fn go_to(&mut self, server: &impl Address) -> &mut Self {
        self.server = server.address();
        self
    }

    /// `GET` without anything that says what for.
    pub(crate) fn get(&mut self, target: &str) -> Response {
        self.request("GET", target).send()
    }

    /// `POST` of a form, as a page submits it.
    pub(crate) fn post(&mut self, target: &str, body: &str) -> Response {
        self.request("POST", target)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("Sec-Fetch-Mode", "navigate")
            .header("Sec-Fetch-Dest", "document")
            .header("Accept", "text/html")
            .body(body)
            .send()
    }

    /// `GET` as a browser loads a page.
    pub(crate) fn page(&mut self, target: &str) -> Response {
        self.request("GET", target)
            .header("Sec-Fetch-Mode", "navigate")
            .header("Sec-Fetch-Dest", "document")
            .header("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
            .send()
    }

    /// `GET` as a page loads an image.
    pub(crate) fn image(&mut self, target: &str) -> Response {
        self.request("GET", target)
            .header("Sec-Fetch-Mode", "no-cors")
            .header("Sec-Fetch-Dest", "image")
            .header("Accept", "image/avif,image/webp,*/*;q=0.8")
            .send()
    }

    /// Loads the page to which a redirect leads.
    pub(crate) fn follow(&mut self, redirect: &Response) -> Response {
        let location = redirect
            .header("Location")
            .expect("the response is a redirect");
        let origin = format!("http://{}", self.server);
        let target = location
            .strip_prefix(&origin)
            .unwrap_or(location)
            .to_owned();
        self.page(&target)
    }

    /// Any other request.
    pub(crate) fn request(&mut self, method: &str, target: &str) -> Request<'_> {
        Request {
            browser: self,
            method: method.to_owned(),
            target: target.to_owned(),
            fields: Vec::new(),
            body: None,
        }
    }

    /// The value of the cookie of this name.
    pub(crate) fn cookie(&self, name: &str) -> Option<&str> {
        self.jar.get(name)
    }

    /// Plants a cookie for all paths.
    pub(crate) fn plant(&mut self, name: &str, value: &str) {
        self.jar.take(&format!("{name}={value}; Path=/"), "/");
    }
}

impl Request<'_> {
    /// One more header line; the same name again is one more line.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// One line of this name for each value.
    pub(crate) fn headers(self, name: &str, values: &[&str]) -> Self {
        values
            .iter()
            .fold(self, |request, value| request.header(name, value))
    }

    /// The body, sent with its length.
    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Sends it, waits for the response, and takes its cookies.
    pub(crate) fn send(self) -> Response {
        let mut wire = Wire::connect(&self.browser.server);
        wire.send(self.bytes());
        let what = || format!("{} {}", self.method, self.target);
        let answer = wire.try_read_response(&self.method);
        let (head, body) = answer.unwrap_or_else(|error| panic!("{}: {error}", what()));
        for line in head.fields.all("Set-Cookie") {
            self.browser.jar.take(line, path(&self.target));
        }
        Response::new(head, body)
    }

    fn bytes(&self) -> Vec<u8> {
        let Self {
            browser,
            method,
            target,
            fields,
            body,
        } = self;
        let cookie = browser
            .jar
            .line(path(target))
            .map(|line| ("Cookie".to_owned(), line));
        let length = body
            .as_ref()
            .map(|body| ("Content-Length".to_owned(), body.len().to_string()));
        let mut lines = vec![
            format!("{method} {target} HTTP/1.1"),
            format!("Host: {}", browser.server),
        ];
        let fields = fields.iter().chain(&cookie).chain(&length);
        lines.extend(fields.map(|(name, value)| format!("{name}: {value}")));
        let mut bytes = (lines.join("\r\n") + "\r\n\r\n").into_bytes();
        bytes.extend_from_slice(body.as_deref().unwrap_or_default());
        bytes
    }
}

impl Response {
    fn new(head: Head, body: Body) -> Self {
        let status = head.status();
        let Body {
            bytes,
            trailers,
            whole,
        } = body;
        Self {
            status,
            fields: head.fields,
            trailers,
            body: bytes,
            whole,
        }
    }

    /// The value of the only header line with this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.fields.one(name)
    }

    /// All `Set-Cookie` lines, as they came.
    pub(crate) fn set_cookies(&self) -> Vec<&str> {
        self.fields.all("Set-Cookie")
    }

    /// The body.
    ///
    /// # Panics
    ///
    /// When the connection ended before it was whole: a test that expects that asks
    /// [`Self::cut_body`].
    pub(crate) fn body(&self) -> &[u8] {
        assert!(
            self.whole,
            "the body was cut off after {} bytes",
            self.body.len()
        );
        &self.body
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(self.body()).expect("the body is text")
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        let text = self.text();
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
    }

    /// What arrived of a body that was cut off; `None` when it is whole.
    pub(crate) fn cut_body(&self) -> Option<&[u8]> {
        (!self.whole).then_some(&self.body)
    }
}

impl Wire {
    /// Reads the response to a request of this method; interim ones are left out.
    pub(crate) fn read_response(&mut self, method: &str) -> Response {
        let answer = self.try_read_response(method);
        let (head, body) = answer.unwrap_or_else(|error| panic!("no response: {error}"));
        Response::new(head, body)
    }
}

fn path(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}
