//! All keys of a server: `lru_crawler metadump` (memcached `doc/protocol.txt`, "LRU Crawler").
//!
//! With `hash` it walks the hash table, and misses nothing. Before 1.6.10 there is only `all`, which
//! walks the lists by last use, and may miss an item that goes from one to another meanwhile.
//!
//! The driver has no such command, so this is a connection of its own, for this one question. It is
//! read as fast as it comes: the server's crawler waits for us, and does nothing else meanwhile.

use std::time::Duration;

use meta::Line;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::super::scan::Left;
use super::super::{Key, StoreError};
use super::{Get, Memcached, Meta};

mod meta;

/// The crawler also runs by itself, and then says that it is busy; for so often we ask again.
const ATTEMPTS: u32 = 100;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(100);

/// A key may be three times as long when it is percent-encoded, and the rest is numbers.
const MAX_LINE: u64 = 2048;

/// What came of a dump.
enum Dumped {
    All,
    Busy,
    NoSuchWay,
}

impl Memcached {
    /// What the meta protocol says of an item's end: seconds, or -1 for none.
    pub(in super::super) async fn left(&self, key: &Key) -> Result<Option<Left>, StoreError> {
        let operation = Get::new(key.as_bytes())
            .without_value()
            .no_lru_bump()
            .meta(Meta::NONE.ttl());
        let found = self.run(operation).await?;
        if !found.hit() {
            return Ok(None);
        }
        match found.item.ttl {
            Some(-1) => Ok(Some(Left::Forever)),
            // It is cut to whole seconds; what is in its last one is still there.
            Some(secs) => match u64::try_from(secs) {
                Ok(secs) => Ok(Some(Left::For(Duration::from_secs(secs.max(1))))),
                Err(_negative) => Err(StoreError::corrupt("an item with a negative lifetime")),
            },
            None => Err(StoreError::corrupt("an item without a lifetime")),
        }
    }

    /// Shows every key to `see`.
    pub(in super::super) async fn dump(
        &self,
        see: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<(), StoreError> {
        let mut command = &b"lru_crawler metadump hash\r\n"[..];
        for _ in 0..ATTEMPTS {
            match self.try_dump(command, see).await? {
                Dumped::All => return Ok(()),
                Dumped::NoSuchWay => command = &b"lru_crawler metadump all\r\n"[..],
                Dumped::Busy => sleep(BETWEEN_ATTEMPTS).await,
            }
        }
        Err(StoreError::unavailable(
            "the server is busy with another look through its keys",
        ))
    }

    async fn try_dump(
        &self,
        command: &[u8],
        see: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<Dumped, StoreError> {
        let io = |error: std::io::Error| StoreError::unavailable(error.to_string());
        let connecting = TcpStream::connect(self.address.as_str());
        let connected = timeout(self.connect_timeout, connecting).await;
        let mut stream = connected
            .map_err(|_elapsed| StoreError::TimedOut)?
            .map_err(io)?;
        let sent = stream.write_all(command);
        let sent = timeout(self.timeout, sent).await;
        sent.map_err(|_elapsed| StoreError::TimedOut)?.map_err(io)?;

        let mut reader = BufReader::with_capacity(64 * 1024, stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut limited = (&mut reader).take(MAX_LINE);
            let read = timeout(self.timeout, limited.read_until(b'\n', &mut line)).await;
            read.map_err(|_elapsed| StoreError::TimedOut)?.map_err(io)?;
            if line.last() != Some(&b'\n') {
                return Err(StoreError::unavailable("the list of keys broke off"));
            }
            match Line::read(&line) {
                Line::Item(key) => see(&key),
                Line::End => return Ok(Dumped::All),
                Line::Busy => return Ok(Dumped::Busy),
                Line::NoSuchWay => return Ok(Dumped::NoSuchWay),
                Line::Unable => {
                    return Err(StoreError::refused(
                        "the server does not list its keys: that takes memcached 1.4.31 or later \
                         with its LRU crawler on, which is off only with -o no_lru_crawler",
                    ));
                }
                Line::Unknown => {
                    return Err(StoreError::corrupt("a line that is no key of the server"));
                }
            }
        }
    }
}
