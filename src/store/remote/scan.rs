//! Lists the keys of all servers, one after the other.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::super::breaker::{Access, guarded};
use super::super::memcached::Memcached;
use super::super::redis::Redis;
use super::super::scan::{Left, Page, Scan};
use super::super::{Key, StoreError};
use super::{Fleet, Remote, Server};

/// What keys of a memcached are sorted by, and a scan's place among them: half of their SHA-256,
/// so that no key stands where the place is kept.
type Rank = [u8; 16];

impl Fleet {
    /// How many servers there are.
    pub(in super::super) fn len(&self) -> usize {
        self.others.len().saturating_add(1)
    }

    pub(in super::super) async fn left(&self, key: &Key) -> Result<Option<Left>, StoreError> {
        let remote = self.of(key);
        let mut operation = Box::pin(async {
            match &remote.server {
                Server::Redis(redis) => redis.left(key).await,
                Server::Memcached(memcached) => memcached.left(key).await,
            }
        });
        guarded(remote, Access::Read, operation.as_mut()).await
    }

    pub(in super::super) async fn page(
        &self,
        scan: &mut Scan,
        count: u32,
    ) -> Result<Page, StoreError> {
        let mut servers = std::iter::once(&self.first).chain(self.others.iter());
        let remote = servers
            .nth(scan.server)
            .ok_or_else(|| StoreError::refused("there is no such server"))?;
        match &remote.server {
            Server::Redis(redis) => self.redis_page(remote, redis, scan, count).await,
            Server::Memcached(memcached) => self.memcached_page(memcached, scan, count).await,
        }
    }

    async fn redis_page(
        &self,
        remote: &Arc<Remote>,
        redis: &Redis,
        scan: &mut Scan,
        count: u32,
    ) -> Result<Page, StoreError> {
        let from = scan.mark.clone();
        let operation = pin!(redis.scan(&from, count));
        let (keys, mark) = guarded(remote, Access::Read, operation).await?;
        let mut page = Page::default();
        for key in keys {
            match Key::new("", &key) {
                Ok(key) if scan.is_ours(key.as_bytes()) => page.keys.push(key),
                Ok(_) | Err(_) => page.others = page.others.saturating_add(1),
            }
        }
        let is_last = mark.is_none();
        scan.mark = mark.unwrap_or_default();
        page.next = (!is_last).then(|| scan.next());
        Ok(page)
    }

    /// A memcached lists all at once or nothing, in no order that lasts: hence all keys are held,
    /// and sorted, so that a later scan can go on where this one stands.
    async fn memcached_page(
        &self,
        memcached: &Memcached,
        scan: &mut Scan,
        count: u32,
    ) -> Result<Page, StoreError> {
        let mut page = Page::default();
        let mut listed = match scan.listed.take() {
            Some(listed) => listed,
            None => list(memcached, scan, &mut page).await?,
        };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let rest = listed.split_off(count.min(listed.len()));
        page.keys = listed.into();
        if let Some(last) = page.keys.last() {
            scan.mark = hex(rank(last.as_bytes()));
        }
        if !rest.is_empty() {
            scan.listed = Some(rest);
            page.next = Some(scan.next());
            return Ok(page);
        }
        scan.mark.clear();
        scan.server = scan.server.saturating_add(1);
        if scan.server < self.len() {
            page.next = Some(scan.next());
        } else {
            scan.server = 0;
        }
        Ok(page)
    }
}

/// The keys of this server that come after the scan's place.
async fn list(
    memcached: &Memcached,
    scan: &Scan,
    page: &mut Page,
) -> Result<VecDeque<Key>, StoreError> {
    let (mut ours, mut others) = (Vec::new(), 0_u64);
    memcached
        .dump(&mut |key| match Key::new("", key) {
            Ok(key) if scan.is_ours(key.as_bytes()) => ours.push((rank(key.as_bytes()), key)),
            Ok(_) | Err(_) => others = others.saturating_add(1),
        })
        .await?;
    if scan.mark.is_empty() {
        page.others = others;
    }
    ours.sort_unstable_by_key(|(rank, _)| *rank);
    let after = |(rank, _): &(Rank, Key)| scan.mark < hex(*rank);
    ours.retain(after);
    Ok(ours.into_iter().map(|(_, key)| key).collect())
}

fn rank(key: &[u8]) -> Rank {
    let mut rank = Rank::default();
    for (slot, byte) in rank.iter_mut().zip(Sha256::digest(key)) {
        *slot = byte;
    }
    rank
}

/// Sorted as the bytes are.
fn hex(rank: Rank) -> String {
    use std::fmt::Write as _;

    rank.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String can't fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}
