//! What nobody can make the proxy do: hostile bytes in, and what the other side got.
//!
//! Each module is a table of attacks, with the number of its rows asserted by its type.

mod answers;
mod forwarding;
mod framing;
mod hops;
mod http2;
mod paths;
mod signals;
mod spoofing;
mod values;

use crate::harness::{AppRequest, AppResponse, Pycket, Upstream, raw_until_close};

/// A proxy, and an application that answers everything with 200.
#[derive(Debug)]
struct Stand {
    app: Upstream,
    pycket: Pycket,
}

/// What became of the bytes of one connection.
#[derive(Debug)]
struct Passage {
    /// All that the client got.
    answer: String,
    /// What reached the application.
    requests: Vec<AppRequest>,
}

impl Passage {
    /// The status of the first answer, whose version is the client's.
    fn status(&self) -> u16 {
        let status = self.answer.split(' ').nth(1);
        let status = status.and_then(|status| status.parse().ok());
        status.unwrap_or_else(|| panic!("no answer: {self:?}"))
    }
}

impl Stand {
    fn new(config: &str) -> Self {
        let app = Upstream::app(|_| AppResponse::ok("ok"));
        let pycket = Pycket::with(&app).config(config).start();
        Self { app, pycket }
    }

    /// Sends exactly this on a new connection, after which the proxy must close it.
    fn send(&self, bytes: impl AsRef<[u8]>) -> Passage {
        let before = self.app.requests().len();
        let answer = raw_until_close(&self.pycket, bytes);
        let requests = self.app.requests().split_off(before);
        Passage {
            answer: answer.iter().copied().map(char::from).collect(),
            requests,
        }
    }

    /// Sends a request with these header lines, and gives what reached the application.
    fn request(&self, lines: &str) -> AppRequest {
        let passage = self.send(format!("GET /page HTTP/1.1\r\nHost: h\r\n{lines}\r\n\r\n"));
        let [request] = passage.requests.as_slice() else {
            panic!("{lines}: {passage:?}");
        };
        request.clone()
    }
}

/// Everything that reached the application with a request.
fn whole(request: &AppRequest) -> String {
    format!(
        "{} {} {:?} {:?} {:?}",
        request.method,
        request.target,
        request.fields.0,
        request.trailers.0,
        String::from_utf8_lossy(&request.body)
    )
}

/// The name as CGI, WSGI and their kin would know it.
fn folded(name: &str) -> String {
    let fold = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    name.chars().map(fold).collect()
}
