//! Requests and responses as the tests see them: lines in order, spelt as they arrived.

use serde_json::Value;

/// The header lines of a message, in order and as spelt on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields(pub(crate) Vec<(String, String)>);

impl Fields {
    /// The value of the only line with this name, in any case; `None` when there is none.
    ///
    /// # Panics
    ///
    /// When there are several: the test then means [`Self::all`].
    pub(crate) fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "several lines of {name}: {all:?}");
        all.first().copied()
    }

    /// The values of all lines with this name, in any case.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let same = |(field, _): &&(String, String)| field.eq_ignore_ascii_case(name);
        self.0
            .iter()
            .filter(same)
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// Whether one of the lines with this name lists this token, in any case.
    pub(crate) fn lists(&self, name: &str, token: &str) -> bool {
        let same = |item: &str| item.trim().eq_ignore_ascii_case(token);
        self.all(name).iter().any(|line| line.split(',').any(same))
    }
}

/// The head of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// The request line or the status line, without its line end.
    pub(crate) start: String,
    /// The header lines.
    pub(crate) fields: Fields,
}

impl Head {
    /// One of the three parts of the start line, empty when it is missing.
    pub(crate) fn part(&self, index: usize) -> &str {
        self.start.splitn(3, ' ').nth(index).unwrap_or_default()
    }

    /// The status of a response.
    pub(crate) fn status(&self) -> u16 {
        let status = self.part(1).parse();
        status.unwrap_or_else(|_| panic!("not a status line: {:?}", self.start))
    }
}

/// A request as it reached the application.
#[derive(Clone, Debug)]
pub(crate) struct AppRequest {
    /// The method.
    pub(crate) method: String,
    /// The request target as it stood in the request line.
    pub(crate) target: String,
    /// The header lines.
    pub(crate) fields: Fields,
    /// The body, without its framing.
    pub(crate) body: Vec<u8>,
    /// The trailer lines.
    pub(crate) trailers: Fields,
    /// Which connection it came on, counted from 1.
    pub(crate) connection: usize,
}

impl AppRequest {
    /// The value of the only header line with this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.fields.one(name)
    }

    /// What `X-Session` says.
    pub(crate) fn session(&self) -> Value {
        self.json("X-Session").expect("the request has X-Session")
    }

    /// What `X-Notifications` says; `None` when nothing was delivered.
    pub(crate) fn notifications(&self) -> Option<Value> {
        self.json("X-Notifications")
    }

    fn json(&self, name: &str) -> Option<Value> {
        let text = self.header(name)?;
        let value = serde_json::from_str(text);
        Some(value.unwrap_or_else(|error| panic!("{name}: {text:?} is not JSON: {error}")))
    }
}

/// What the application answers.
#[derive(Clone, Debug)]
pub(crate) struct AppResponse {
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    close: bool,
}

impl AppResponse {
    /// This status and no body.
    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            fields: Vec::new(),
            body: Vec::new(),
            close: false,
        }
    }

    /// 200 with this body.
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200).body(body)
    }

    /// 303 to `location`.
    pub(crate) fn see_other(location: &str) -> Self {
        Self::status(303).header("Location", location)
    }

    /// One more header line; the same name again is one more line.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The body.
    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Ends the connection after this response.
    pub(crate) fn close(self) -> Self {
        let mut closing = self.header("Connection", "close");
        closing.close = true;
        closing
    }

    /// Whether the connection ends after this response.
    pub(super) fn closes(&self) -> bool {
        self.close
    }

    /// The bytes that answer a request of this method (RFC 9110 section 6.4.1 says which
    /// responses have no body).
    pub(super) fn bytes(&self, method: &str) -> Vec<u8> {
        let bodiless = matches!(self.status, 100..=199 | 204 | 304);
        let mut lines = vec![format!("HTTP/1.1 {} Scripted", self.status)];
        let fields = self.fields.iter();
        lines.extend(fields.map(|(name, value)| format!("{name}: {value}")));
        if !bodiless {
            lines.push(format!("Content-Length: {}", self.body.len()));
        }
        let mut bytes = (lines.join("\r\n") + "\r\n\r\n").into_bytes();
        if !bodiless && method != "HEAD" {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}
