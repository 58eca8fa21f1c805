//! The smallest application: fixed answers of 100 bytes, by keep-alive.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{BEGIN, CHANGE, Outcome, free_address};

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
    let mut head = Vec::with_capacity(8192);
    loop {
        head.clear();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        if starts(&head, CHANGE) {
            stream.write_all(answers.change().as_bytes()).await?;
        } else if starts(&head, BEGIN) {
            stream.write_all(answers.begin.as_bytes()).await?;
        } else {
            stream.write_all(answers.page.as_bytes()).await?;
        }
    }
}

fn starts(head: &[u8], path: &str) -> bool {
    let rest = head.strip_prefix(b"GET ");
    rest.is_some_and(|rest| rest.starts_with(path.as_bytes()))
}

struct Answers {
    page: String,
    begin: String,
    /// Always ten digits, so that each change costs the same.
    counter: AtomicU32,
}

impl Answers {
    fn new() -> Self {
        // With names and punctuation, 1 KiB.
        let pad = "x".repeat(962);
        let values = format!(r#"{{"counter":1000000000,"pad":"{pad}","user":"alice"}}"#);
        Self {
            page: answer(""),
            begin: answer(&format!("X-Session-Set: {values}\r\n")),
            counter: AtomicU32::new(1_000_000_000),
        }
    }

    fn change(&self) -> String {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        answer(&format!("X-Session-Set: {{\"counter\":{counter}}}\r\n"))
    }
}

fn answer(signals: &str) -> String {
    let body = "x".repeat(100);
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\
         Date: Tue, 14 Nov 2023 22:13:20 GMT\r\n{signals}\r\n{body}"
    )
}
