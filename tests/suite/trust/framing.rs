//! What two servers could read in two ways never reaches the second one.

use super::{Passage, Stand, folded};
use crate::balance::refusing;
use crate::harness::{Pycket, raw_until_close};

/// Follows each attack: served only when the end of what came before is beyond doubt.
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

fn post(lines: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: h\r\n{lines}\r\n\r\n{body}")
}

fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked", body)
}

/// Characters up to U+00FF stand for bytes.
fn latin_1(text: &str) -> Vec<u8> {
    let byte = |c: char| u8::try_from(u32::from(c)).expect("a byte");
    text.chars().map(byte).collect()
}

impl Stand {
    fn attack(&self, text: &str) -> Passage {
        self.send(latin_1(&format!("{text}{NEXT}")))
    }

    fn refuses(&self, text: &str, status: u16) {
        let passage = self.attack(text);
        assert_eq!(passage.status(), status, "{text:?}: {passage:?}");
        let answers = passage.answer.matches("HTTP/1.").count();
        assert_eq!(answers, 1, "{text:?}: {passage:?}");
        assert!(passage.requests.is_empty(), "{text:?}: {passage:?}");
    }

    fn reads(&self, text: &str, body: &str) {
        let passage = self.attack(text);
        let [request, next] = passage.requests.as_slice() else {
            panic!("{text:?}: {passage:?}");
        };
        assert_eq!(request.body, body.as_bytes(), "{text:?}");
        assert_eq!(next.target, "/next", "{text:?}");
        let names = request.fields.0.iter().map(|(name, _)| folded(name));
        let framing =
            |name: &String| ["content-length", "transfer-encoding"].contains(&name.as_str());
        assert!(names.filter(framing).count() <= 1, "{text:?}: {request:?}");
        assert_eq!(request.header("Expect"), None, "{text:?}");
        // One framing, in the proxy's own words.
        let length = request.fields.all("Content-Length");
        let coding = request.fields.all("Transfer-Encoding");
        let digits = body.len().to_string();
        let framing = (length.as_slice(), coding.as_slice());
        let known = framing == (&[digits.as_str()], &[])
            || framing == (&[], &["chunked"])
            || (body.is_empty() && framing == (&[], &[]));
        assert!(known, "{text:?}: {framing:?}");
    }
}

/// `Transfer-Encoding` values that are not exactly `chunked`.
const CODINGS: [(&str, u16); 22] = [
    (",chunked", 400),
    ("chunked,", 400),
    ("chunked, chunked", 400),
    ("chunked\r\nTransfer-Encoding: chunked", 400),
    ("identity\r\nTransfer-Encoding: chunked", 400),
    ("chunked\r\nTransfer-Encoding: identity", 400),
    ("x\r\nTransfer-Encoding: chunked", 400),
    ("xchunked", 400),
    ("chunkedx", 400),
    ("\"chunked\"", 400),
    ("chunked;q=1", 400),
    ("chunked chunked", 400),
    ("identity", 400),
    ("gzip", 400),
    ("", 400),
    ("\u{b}chunked", 400),
    ("chunked\u{c}", 400),
    ("\u{a0}chunked", 400),
    ("chunked\0", 400),
    ("gzip, chunked", 501),
    ("identity, chunked", 501),
    ("chunked, identity", 400),
];

#[test]
fn transfer_coding_other_than_chunked_is_refused() {
    let stand = Stand::new("");
    for (coding, status) in CODINGS {
        stand.refuses(
            &post(&format!("Transfer-Encoding: {coding}"), "0\r\n\r\n"),
            status,
        );
    }
}

/// Header lines after `Host` that nobody may guess about.
const LINES: [&str; 45] = [
    "Content-Length: +5\r\nTransfer-Encoding: chunked",
    "Content-Length: +5",
    "Content-Length: -1",
    "Content-Length: 0x5",
    "Content-Length: 5,5",
    "Content-Length: 5, 6",
    "Content-Length: 5 5",
    "Content-Length: 5;",
    "Content-Length: 1_0",
    "Content-Length: 5.0",
    "Content-Length: ",
    "Content-Length: 18446744073709551621",
    "Content-Length: 5,",
    "Content-Length: ,5",
    "Content-Length: 5e0",
    "Content-Length: 0b101",
    "Content-Length: '5'",
    "Content-Length: ++5",
    "Content-Length: 5\u{b}",
    "Content-Length: 5\u{a0}",
    "Content-Length: \u{c}5",
    "Content-Length\u{b}: 5",
    "Content-Length: 5\r\n\0: a",
    "Content-Length: 5\r\nContent-Length: 5\r\nContent-Length: 6",
    "Content-Length: 5\r\nContent-Length: 6",
    "Content-Length: \r\nContent-Length: 5",
    "Content-Length: 5\r\nContent-Length: ",
    "Content-Length:\r\n 5",
    "Content-Length : 5",
    "Content-Length\t: 5",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding\t: chunked",
    "Transfer-Encoding:\r\n chunked",
    "X: a\r\n Content-Length: 5",
    "X: a\r\n\tb",
    "X: a\rContent-Length: 5",
    "X: a\0b",
    "X: a\u{7f}b",
    "X: \u{1b}[31m",
    "X\0: a",
    "X Y: a",
    ": a",
    "X",
    "X\u{e9}: a",
    "X(Y): a",
];

#[test]
fn head_that_could_be_read_in_two_ways_is_refused() {
    let stand = Stand::new("");
    for lines in LINES {
        stand.refuses(&post(lines, "hello"), 400);
    }
}

/// Both ways to say how long a body is.
const BOTH: [&str; 5] = [
    "Content-Length: 5\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 5",
    "Content-Length: 0\r\nTransfer-Encoding: chunked",
    "content-length: 5\r\ntransfer-encoding: CHUNKED",
    "Transfer-Encoding: chunked\r\nContent-Length: -1",
];

/// RFC 9112 section 6.3: the chunks count. Who came before may have gone by the length, so nothing behind
/// them is taken for a request.
#[test]
fn length_beside_chunks_is_left_out_and_ends_the_connection() {
    let stand = Stand::new("");
    for lines in BOTH {
        let passage = stand.attack(&post(lines, "5\r\nhello\r\n0\r\n\r\n"));
        assert_eq!(passage.status(), 200, "{lines:?}: {passage:?}");
        let answers = passage.answer.matches("HTTP/1.").count();
        assert_eq!(answers, 1, "{lines:?}: {passage:?}");
        let [request] = passage.requests.as_slice() else {
            panic!("{lines:?}: {passage:?}");
        };
        assert_eq!(request.body, b"hello", "{lines:?}");
        assert_eq!(request.header("Content-Length"), None, "{lines:?}");
        let codings = request.fields.all("Transfer-Encoding");
        assert_eq!(codings, ["chunked"], "{lines:?}");
    }
}

#[test]
fn transfer_coding_of_http_1_0_is_refused() {
    let stand = Stand::new("");
    for length in ["", "Content-Length: 5\r\n"] {
        let lines = format!("Host: h\r\n{length}Transfer-Encoding: chunked");
        stand.refuses(&format!("POST / HTTP/1.0\r\n{lines}\r\n\r\n0\r\n\r\n"), 400);
    }
}

/// Chunked bodies that no server should take.
const CHUNKS: [&str; 35] = [
    "+5\r\nhello\r\n0\r\n\r\n",
    "-5\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    " 5\r\nhello\r\n0\r\n\r\n",
    "5 5\r\nhello\r\n0\r\n\r\n",
    "g\r\nhello\r\n0\r\n\r\n",
    "\r\nhello\r\n0\r\n\r\n",
    ";a\r\nhello\r\n0\r\n\r\n",
    "5\nhello\r\n0\r\n\r\n",
    "5;a\nhello\r\n0\r\n\r\n",
    "5;a=\"\n\"\r\nhello\r\n0\r\n\r\n",
    "5\r\r\nhello\r\n0\r\n\r\n",
    "5\r\nhelloXX0\r\n\r\n",
    "5\r\nhello0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "5\r\nhello\r\r0\r\n\r\n",
    "10000000000000005\r\nhello\r\n0\r\n\r\n",
    "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "0\r\nX : a\r\n\r\n",
    "0\r\nX: a\0\r\n\r\n",
    "\u{b}5\r\nhello\r\n0\r\n\r\n",
    "5\u{b}\r\nhello\r\n0\r\n\r\n",
    "5\0\r\nhello\r\n0\r\n\r\n",
    "5,5\r\nhello\r\n0\r\n\r\n",
    "5_0\r\nhello\r\n0\r\n\r\n",
    "5\r\r;\r\nhello\r\n0\r\n\r\n",
    "5;a\rb\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n\r\n0\r\n\r\n",
    "5\r\nhello\r\n-0\r\n\r\n",
    "5\r\nhello\r\n0\n\n",
    "5\r\nhello\r\n0\r\nX\r\n\r\n",
    "5\r\nhello\r\n0\r\n: a\r\n\r\n",
    "5\r\nhello\r\n0\r\nX: a\r\n b\r\n\r\n",
    "5\r\nhello\r\n0\r\nX: a\rb\r\n\r\n",
    "\u{ef}\u{bc}\u{95}\r\nhello\r\n0\r\n\r\n",
];

#[test]
fn chunks_that_could_be_read_in_two_ways_are_refused() {
    let stand = Stand::new("");
    for body in CHUNKS {
        stand.refuses(&chunked(body), 400);
    }
    let extension = "x".repeat(20_000);
    stand.refuses(
        &chunked(&format!("5;{extension}\r\nhello\r\n0\r\n\r\n")),
        400,
    );
    let fields = "X: a\r\n".repeat(2000);
    stand.refuses(&chunked(&format!("5\r\nhello\r\n0\r\n{fields}\r\n")), 400);
}

/// A method, header lines after `Host` that leave no doubt, the bytes of a body, and what it is.
const CLEAR: [(&str, &str, &str, &str); 30] = [
    ("POST", "Content-Length: 5", "hello", "hello"),
    ("POST", "Content-Length:5", "hello", "hello"),
    ("POST", "Content-Length: \t 5 \t", "hello", "hello"),
    ("POST", "Content-Length: 0005", "hello", "hello"),
    ("POST", "Content-Length: 0", "", ""),
    // RFC 9110 section 8.6: twice the same may be taken for once.
    (
        "POST",
        "Content-Length: 5\r\nContent-Length: 5",
        "hello",
        "hello",
    ),
    (
        "POST",
        "Content-Length: 5\r\nContent_Length: 6",
        "hello",
        "hello",
    ),
    (
        "POST",
        "Content-Length: 5\r\nContent.Length: 6",
        "hello",
        "hello",
    ),
    (
        "POST",
        "Content-Length: 5\r\nTransfer_Encoding: chunked",
        "hello",
        "hello",
    ),
    (
        "POST",
        "Expect: 100-continue\r\nContent-Length: 5",
        "hello",
        "hello",
    ),
    (
        "POST",
        "Expect: 100-continue\r\nExpect: 100-Continue\r\nContent-Length: 5",
        "hello",
        "hello",
    ),
    (
        "POST",
        "Transfer-Encoding: Chunked",
        "5\r\nhello\r\n0\r\n\r\n",
        "hello",
    ),
    (
        "POST",
        "Transfer-Encoding:\t chunked \t",
        "5\r\nhello\r\n0\r\n\r\n",
        "hello",
    ),
    (
        "POST",
        "Transfer-Encoding: chunked",
        "5;a=b;c\r\nhello\r\n0;d\r\n\r\n",
        "hello",
    ),
    (
        "POST",
        "Transfer-Encoding: chunked",
        "5;a=\0\r\nhello\r\n0\r\n\r\n",
        "hello",
    ),
    (
        "POST",
        "Transfer-Encoding: chunked",
        "5;\u{7f}\r\nhello\r\n0\r\n\r\n",
        "hello",
    ),
    (
        "POST",
        "Transfer-Encoding: chunked",
        "5 \r\nhello\r\n0\r\n\r\n",
        "hello",
    ),
    (
        "POST",
        "Transfer-Encoding: chunked",
        "5\t;a\r\nhello\r\n0\r\n\r\n",
        "hello",
    ),
    (
        "POST",
        "Transfer-Encoding: chunked",
        "00005\r\nhello\r\n000\r\n\r\n",
        "hello",
    ),
    (
        "POST",
        "Transfer-Encoding: chunked",
        "A\r\nhellohello\r\n0\r\n\r\n",
        "hellohello",
    ),
    (
        "POST",
        "Transfer-Encoding: chunked",
        "1\r\nh\r\n4\r\nello\r\n0\r\n\r\n",
        "hello",
    ),
    ("POST", "Transfer-Encoding: chunked", "0\r\n\r\n", ""),
    ("GET", "Content-Length: 5", "hello", "hello"),
    ("DELETE", "Content-Length: 5", "hello", "hello"),
    ("OPTIONS", "Content-Length: 5", "hello", "hello"),
    ("HEAD", "Content-Length: 5", "hello", "hello"),
    (
        "GET",
        "Transfer-Encoding: chunked",
        "5\r\nhello\r\n0\r\n\r\n",
        "hello",
    ),
    (
        "DELETE",
        "Transfer-Encoding: chunked",
        "5\r\nhello\r\n0\r\n\r\n",
        "hello",
    ),
    (
        "OPTIONS",
        "Transfer-Encoding: chunked",
        "5\r\nhello\r\n0\r\n\r\n",
        "hello",
    ),
    (
        "HEAD",
        "Transfer-Encoding: chunked",
        "5\r\nhello\r\n0\r\n\r\n",
        "hello",
    ),
];

#[test]
fn unusual_and_clear_framings_are_written_anew() {
    let stand = Stand::new("");
    for (method, lines, bytes, body) in CLEAR {
        let request = format!("{method} / HTTP/1.1\r\nHost: h\r\n{lines}\r\n\r\n{bytes}");
        stand.reads(&request, body);
    }
    // RFC 9112 section 2.2: an empty line before a request, and a bare LF, may be taken.
    let request = post("Content-Length: 5", "hello");
    stand.reads(&format!("\r\n{request}"), "hello");
    let request = "POST / HTTP/1.1\nHost: h\nContent-Length: 5\n\nhello";
    stand.reads(request, "hello");
}

/// Trailer sections of which the end is not where everybody would look for it.
const TRAILERS: [&str; 4] = [
    "0\r\n\n",
    "0\r\nX: a\n\n",
    "0\r\nX: a\n\r\n",
    "0\r\nX: a\n\nGET /evil HTTP/1.1\r\nHost: h\r\n\r\n",
];

#[test]
fn what_stands_behind_a_doubtful_trailer_section_is_not_answered() {
    let stand = Stand::new("");
    for end in TRAILERS {
        let passage = stand.attack(&chunked(&format!("5\r\nhello\r\n{end}")));
        assert_eq!(passage.status(), 200, "{end:?}: {passage:?}");
        let answers = passage.answer.matches("HTTP/1.").count();
        assert_eq!(answers, 1, "{end:?}: {passage:?}");
        assert!(passage.answer.contains("connection: close"), "{end:?}");
        let [request] = passage.requests.as_slice() else {
            panic!("{end:?}: {passage:?}");
        };
        assert_eq!(request.body, b"hello", "{end:?}");
    }
}

#[test]
fn a_trailer_section_that_nobody_has_read_ends_the_connection() {
    // Where nobody can be asked, the request is answered without a look at its body.
    let (_kept, address) = refusing();
    let pycket = Pycket::to(address).start();
    for end in TRAILERS {
        let request = chunked(&format!("5\r\nhello\r\n{end}"));
        let answer = raw_until_close(&pycket, format!("{request}{NEXT}"));
        let answer = String::from_utf8(answer).expect("text");
        assert!(answer.starts_with("HTTP/1.1 502 "), "{end:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{end:?}: {answer}");
        assert!(answer.contains("connection: close"), "{end:?}: {answer}");
    }
}

/// Request lines, with what is answered.
const STARTS: [(&str, u16); 57] = [
    ("GET  / HTTP/1.1", 400),
    ("GET\t/ HTTP/1.1", 400),
    ("GET /\tHTTP/1.1", 400),
    ("GET / x HTTP/1.1", 400),
    ("GET /", 400),
    ("GET", 400),
    ("GET / HTTP/1.2", 400),
    ("GET / HTTP/2.0", 400),
    ("GET / HTTP/0.9", 400),
    ("GET / http/1.1", 400),
    ("GET / HTTP/1.1 x", 400),
    ("PRI * HTTP/2.0", 400),
    ("G(T / HTTP/1.1", 400),
    (" GET / HTTP/1.1", 400),
    ("GET foo HTTP/1.1", 400),
    ("GET h:80 HTTP/1.1", 400),
    ("GET * HTTP/1.1", 400),
    ("GET ftp://h/ HTTP/1.1", 400),
    ("GET http:///x HTTP/1.1", 400),
    ("GET http://user@h/ HTTP/1.1", 400),
    ("GET http://a%00b/ HTTP/1.1", 400),
    ("GET /a\0b HTTP/1.1", 400),
    ("GET /a\rb HTTP/1.1", 400),
    ("GET # HTTP/1.1", 400),
    ("GET ? HTTP/1.1", 400),
    ("GET /a\u{1}b HTTP/1.1", 400),
    ("GET /a\u{b}b HTTP/1.1", 400),
    ("GET /a\u{7f}b HTTP/1.1", 400),
    ("GET /\u{e9} HTTP/1.1", 400),
    ("GET /\u{a0} HTTP/1.1", 400),
    ("GET /<a> HTTP/1.1", 400),
    ("GET http://h:80:80/ HTTP/1.1", 400),
    ("GET http://h\\@evil/ HTTP/1.1", 400),
    ("GET ws://h/x HTTP/1.1", 400),
    ("GET javascript:x HTTP/1.1", 400),
    ("GET file:///etc/passwd HTTP/1.1", 400),
    ("POST * HTTP/1.1", 400),
    ("OPTIONS ** HTTP/1.1", 400),
    ("OPTIONS *x HTTP/1.1", 400),
    ("GET / HTTP/1.1\0", 400),
    ("GET / HTTP/1.1 ", 400),
    ("GET / HTTP/1.10", 400),
    ("GET / HTTP/01.1", 400),
    ("GET / HTTP/3", 400),
    ("GET / HTTP/1.", 400),
    ("GET / HTTP", 400),
    ("GET\u{b}/ HTTP/1.1", 400),
    ("GET\u{a0}/ HTTP/1.1", 400),
    ("GET\0 / HTTP/1.1", 400),
    ("G\u{e9}T / HTTP/1.1", 400),
    ("\u{16}\u{3}\u{1}", 400),
    ("SSH-2.0-x", 400),
    ("\r\r\nGET / HTTP/1.1", 400),
    ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1", 400),
    ("CONNECT http://h/ HTTP/1.1", 405),
    ("CONNECT h:80 HTTP/1.1", 405),
    ("CONNECT / HTTP/1.1", 405),
];

#[test]
fn request_line_that_no_gateway_serves_is_refused() {
    let stand = Stand::new("");
    for (start, status) in STARTS {
        stand.refuses(&format!("{start}\r\nHost: h\r\n\r\n"), status);
    }
    let empty_lines = "\r\n".repeat(20_000);
    stand.refuses(
        &format!("{empty_lines}GET / HTTP/1.1\r\nHost: h\r\n\r\n"),
        431,
    );
    stand.refuses("GET / HTTP/1.1\rHost: h\r\r", 400);
    stand.refuses("GET / HTTP/1.1\r\n X: y\r\nHost: h\r\n\r\n", 400);
}

/// `Host` lines that name no host, or more than one.
const HOSTS: [&str; 20] = [
    "X: y",
    "Host: ",
    "Host: h\r\nHost: h",
    "Host: h\r\nHost: evil",
    "Host: h\r\nhost:",
    "Host: a b",
    "Host: a,b",
    "Host: a/b",
    "Host: a@b",
    "Host: a?b",
    "Host: a#b",
    "Host: a\\b",
    "Host: a%00b",
    "Host: http://h",
    "Host: h:x",
    "Host: h:999999",
    "Host: h:80:80",
    "Host: :80",
    "Host: [::1",
    "Host: h\u{e9}",
];

#[test]
fn there_is_exactly_one_host_or_the_request_is_refused() {
    let stand = Stand::new("");
    for lines in HOSTS {
        stand.refuses(&format!("GET / HTTP/1.1\r\n{lines}\r\n\r\n"), 400);
        // An absolute target does not make it better (RFC 9112 section 3.2.2).
        stand.refuses(&format!("GET http://h/ HTTP/1.1\r\n{lines}\r\n\r\n"), 400);
    }
    stand.refuses("GET / HTTP/1.0\r\nHost: h\r\nHost: evil\r\n\r\n", 400);
}

#[test]
fn expectation_other_than_continue_is_refused() {
    let stand = Stand::new("");
    for expectation in [
        "x",
        "100-continue, x",
        "y 100-continue",
        "100-continue\r\nExpect: x",
        "",
    ] {
        let lines = format!("Expect: {expectation}\r\nContent-Length: 5");
        stand.refuses(&post(&lines, "hello"), 417);
    }
}
