//! Browsers: each has a connection and a cookie of its own.

use std::net::SocketAddr;

use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{BEGIN, Outcome};

/// One that asks for the same page again and again.
#[derive(Debug)]
pub(crate) struct Browser {
    stream: TcpStream,
    request: String,
    answer: Vec<u8>,
}

/// Connects many browsers, each with a session of its own if they have some.
pub(crate) async fn browsers(
    address: SocketAddr,
    path: &str,
    have_sessions: bool,
    count: usize,
) -> Outcome<Vec<Browser>> {
    let mut browsers = Vec::with_capacity(count);
    for _ in 0..count {
        let cookie = if have_sessions {
            format!("Cookie: {}\r\n", begin(address).await?)
        } else {
            String::new()
        };
        browsers.push(Browser::connect(address, path, &cookie).await?);
    }
    Ok(browsers)
}

/// Lets a session begin; gives its cookie, as a `Cookie` line has it.
async fn begin(address: SocketAddr) -> Outcome<String> {
    let mut browser = Browser::connect(address, BEGIN, "").await?;
    browser.ask().await?;
    let head = String::from_utf8_lossy(&browser.answer);
    let line = head
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: "));
    let cookie = line.and_then(|line| line.split(';').next());
    Ok(cookie.ok_or("no cookie was set")?.to_owned())
}

impl Browser {
    async fn connect(address: SocketAddr, path: &str, cookie: &str) -> Outcome<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\
             {cookie}\r\n"
        );
        Ok(Self {
            stream,
            request,
            answer: Vec::with_capacity(4096),
        })
    }

    /// Sends the request and reads the whole answer.
    ///
    /// # Errors
    ///
    /// Any answer but 200, and a connection that ends.
    pub(crate) async fn ask(&mut self) -> Outcome<()> {
        self.stream.write_all(self.request.as_bytes()).await?;
        self.answer.clear();
        while !self.is_whole() {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                return Err("a connection ended".into());
            }
        }
        if !self.is_good() {
            return Err(String::from_utf8_lossy(&self.answer).into_owned().into());
        }
        Ok(())
    }

    /// All bodies of the application have 100 bytes. Of any other answer the head is enough.
    fn is_whole(&self) -> bool {
        let Some(head) = memmem::find(&self.answer, b"\r\n\r\n") else {
            return false;
        };
        !self.is_good() || self.answer.len() >= head + 4 + 100
    }

    fn is_good(&self) -> bool {
        self.answer.starts_with(b"HTTP/1.1 200 ")
    }
}
