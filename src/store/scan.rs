//! All keys of a store, page by page, for commands that look through it.
//!
//! No exchange ever scans: it takes as long as the store is large. What is there during the whole
//! scan is found, and some of it perhaps twice; what comes or goes meanwhile may be found or not.

use std::collections::VecDeque;
use std::time::Duration;

use super::cluster::Cluster;
use super::remote::Fleet;
use super::{Engine, Key, Store, StoreError};

/// How long a record is still kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Left {
    /// For this long.
    For(Duration),
    /// For ever, unless somebody deletes it. No record of ours is.
    Forever,
}

/// A scan under way.
#[derive(Debug)]
pub struct Scan {
    over: Over,
    pub(super) prefix: String,
    /// Which server is being asked, of several.
    pub(super) server: usize,
    /// Where it stands within that server, in the engine's own words; empty is its beginning.
    pub(super) mark: String,
    /// What one memcached has listed and is yet to be given out.
    pub(super) listed: Option<VecDeque<Key>>,
}

#[derive(Clone, Debug)]
enum Over {
    Fleet(Fleet),
    Cluster(Cluster),
}

/// Some keys, and where to go on.
#[derive(Debug, Default)]
pub struct Page {
    /// Keys with the prefix; a page can be empty without being the last.
    pub keys: Vec<Key>,
    /// How many other keys were met, which belong to somebody else.
    pub others: u64,
    /// Where the rest begins, for [`Store::scan`]; `None` when this was all. It holds no key.
    pub next: Option<String>,
}

impl Store {
    /// Begins to list the keys that begin with `prefix`, or goes on at the `next` of an earlier
    /// scan. A Redis that was started anew in between is listed from its beginning, and so is a
    /// Redis Cluster whose slots have moved.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with the memory engine, which only its own process can see, and for
    /// a `from` that no scan has given.
    pub fn scan(&self, prefix: &str, from: Option<&str>) -> Result<Scan, StoreError> {
        let over = match &self.engine {
            Engine::Memory(_) => {
                return Err(StoreError::refused(
                    "sessions in memory are seen by their proxy only",
                ));
            }
            Engine::Remote(fleet) => Over::Fleet(fleet.clone()),
            Engine::Cluster(cluster) => Over::Cluster(cluster.clone()),
        };
        let (server, mark) = match from {
            None => (0, ""),
            Some(from) => from
                .split_once(':')
                .and_then(|(server, mark)| Some((server.parse().ok()?, mark)))
                .filter(|(server, _)| match &over {
                    Over::Fleet(fleet) => *server < fleet.len(),
                    // Only the mark tells of which nodes it is.
                    Over::Cluster(_) => true,
                })
                .ok_or_else(|| StoreError::refused("no scan of this store stands there"))?,
        };
        Ok(Scan {
            over,
            prefix: prefix.to_owned(),
            server,
            mark: mark.to_owned(),
            listed: None,
        })
    }

    /// How long a record is still kept; `None` when there is none.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub async fn left(&self, key: &Key) -> Result<Option<Left>, StoreError> {
        match &self.engine {
            Engine::Memory(_) => Err(StoreError::refused(
                "sessions in memory are seen by their proxy only",
            )),
            Engine::Remote(fleet) => fleet.left(key).await,
            Engine::Cluster(cluster) => cluster.left(key).await,
        }
    }
}

impl Scan {
    /// The next keys: `count` or so. After a page without `next`, it begins anew.
    ///
    /// # Errors
    /// As [`Store::load`]; the same page can be asked for again. [`StoreError::Refused`] also when
    /// the server can't list its keys.
    pub async fn page(&mut self, count: u32) -> Result<Page, StoreError> {
        match self.over.clone() {
            Over::Fleet(fleet) => fleet.page(self, count).await,
            Over::Cluster(cluster) => cluster.page(self, count).await,
        }
    }

    /// Takes a key apart: what follows the prefix, if it has it.
    pub(super) fn is_ours(&self, key: &[u8]) -> bool {
        key.starts_with(self.prefix.as_bytes())
    }

    /// `next` of a page that ends here.
    pub(super) fn next(&self) -> String {
        format!("{}:{}", self.server, self.mark)
    }
}
