//! The smallest application: fixed answers, by keep-alive.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{BEGIN, CHANGE, LARGE, LITTLE, MUCH, Outcome, free_address};

/// A thread that answers whatever comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Application {
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Application {
    /// Starts it. It ends with the process.
    pub(crate) fn start() -> Outcome<Self> {
        let listener = std::net::TcpListener::bind(free_address()?)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        thread::spawn(move || runtime.block_on(serve(listener)));
        Ok(Self { address })
    }
}

async fn serve(listener: std::net::TcpListener) -> Outcome<()> {
    let listener = TcpListener::from_std(listener)?;
    let answers = Arc::new(Answers::new());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answers = Arc::clone(&answers);
        // A client that goes away ends its connection, as it may.
        tokio::spawn(async move { converse(stream, &answers).await });
    }
}

async fn converse(mut stream: TcpStream, answers: &Answers) -> Outcome<()> {
    let mut request = Vec::with_capacity(16 * 1024);
    loop {
        request.clear();
        while !is_whole(&request) {
            if stream.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
        if asks(&request, CHANGE) {
            stream.write_all(answers.change().as_bytes()).await?;
        } else if let Some((bytes, values)) = shape(&request) {
            stream.write_all(begin(bytes, values).as_bytes()).await?;
        } else if asks(&request, BEGIN) {
            stream.write_all(answers.begin.as_bytes()).await?;
        } else if asks(&request, LARGE) {
            stream.write_all(answers.large.as_bytes()).await?;
        } else {
            stream.write_all(answers.page.as_bytes()).await?;
        }
    }
}

/// What is posted has always the same size, and nothing else has a body.
fn is_whole(request: &[u8]) -> bool {
    let body = if request.starts_with(b"POST ") {
        MUCH
    } else {
        0
    };
    memmem::find(request, b"\r\n\r\n").is_some_and(|head| request.len() >= head + 4 + body)
}

fn asks(request: &[u8], path: &str) -> bool {
    let rest = request.strip_prefix(b"GET ");
    rest.is_some_and(|rest| rest.starts_with(path.as_bytes()))
}

/// What a session that begins is to have: bytes as JSON, and values.
fn shape(request: &[u8]) -> Option<(usize, usize)> {
    let rest = request
        .strip_prefix(b"GET ")?
        .strip_prefix(BEGIN.as_bytes())?;
    let rest = std::str::from_utf8(rest.strip_prefix(b"/")?).ok()?;
    let (bytes, values) = rest.split(' ').next()?.split_once('/')?;
    Some((bytes.parse().ok()?, values.parse().ok()?))
}

fn begin(bytes: usize, values: usize) -> String {
    // `"v00":"",` and the braces.
    let pad = "x".repeat((bytes / values).saturating_sub(9));
    let values: Vec<String> = (0..values)
        .map(|number| format!("\"v{number:02}\":\"{pad}\""))
        .collect();
    let signal = format!("X-Session-Set: {{{}}}\r\n", values.join(","));
    answer(&signal, LITTLE)
}

struct Answers {
    page: String,
    begin: String,
    large: String,
    /// Always ten digits, so that each change costs the same.
    counter: AtomicU32,
}

impl Answers {
    fn new() -> Self {
        // With names and punctuation, 1 KiB.
        let pad = "x".repeat(962);
        let values = format!(r#"{{"counter":1000000000,"pad":"{pad}","user":"alice"}}"#);
        Self {
            page: answer("", LITTLE),
            begin: answer(&format!("X-Session-Set: {values}\r\n"), LITTLE),
            large: answer("", MUCH),
            counter: AtomicU32::new(1_000_000_000),
        }
    }

    fn change(&self) -> String {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        let signal = format!("X-Session-Set: {{\"counter\":{counter}}}\r\n");
        answer(&signal, LITTLE)
    }
}

fn answer(signals: &str, length: usize) -> String {
    let body = "x".repeat(length);
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
         Date: Tue, 14 Nov 2023 22:13:20 GMT\r\n{signals}\r\n{body}"
    )
}
