//! Lists the keys of all primaries, one after the other.
//!
//! Keys can be where the scan has been already, or is yet to go, only while the slots stay where
//! they are. So a mark says of which layout it is, and a scan that meets another one begins anew.
//! While a slot is on its way, its keys are on both nodes and no layout says so: then the scan is
//! refused until that has ended.

use std::fmt::Write as _;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::super::breaker::Access;
use super::super::scan::{Page, Scan};
use super::super::{Key, StoreError};
use super::node::Node;
use super::{Cluster, Layout};

impl Cluster {
    /// A mark is a digest of the layout and, after a space, one of the node's own.
    pub(in super::super) async fn page(
        &self,
        scan: &mut Scan,
        count: u32,
    ) -> Result<Page, StoreError> {
        self.0.discover().await?;
        let layout = self.0.layout();
        if !layout.is_whole() {
            let reason =
                "some slots of the cluster have no node, so that not all keys can be listed";
            return Err(StoreError::unavailable(reason));
        }
        let (nodes, print) = print(&layout);
        let (server, mark) = match scan.mark.split_once(' ') {
            Some((of, mark)) if of == print && scan.server < nodes.len() => (scan.server, mark),
            Some(_) | None => (0, ""),
        };
        let node = nodes
            .get(server)
            .ok_or_else(|| StoreError::refused("there is no such node"))?;
        let (keys, next) = node
            .run(Access::Read, false, |redis| {
                let mark = mark.to_owned();
                async move {
                    let page = redis.scan(&mark, count).await?;
                    // Afterwards, since before it nothing would be known of the time of the scan.
                    if redis.moves_slots().await? {
                        return Err(StoreError::refused(
                            "the cluster is moving slots between its nodes, and a key on its way \
                             could be left out; list them when that has ended",
                        ));
                    }
                    Ok(page)
                }
            })
            .await?;
        let mut page = Page::default();
        for key in keys {
            match Key::new("", &key) {
                Ok(key) if scan.is_ours(key.as_bytes()) => page.keys.push(key),
                Ok(_) | Err(_) => page.others = page.others.saturating_add(1),
            }
        }
        scan.server = match &next {
            Some(_) => server,
            None => server.saturating_add(1),
        };
        if scan.server < nodes.len() {
            scan.mark = format!("{print} {}", next.unwrap_or_default());
            page.next = Some(scan.next());
            return Ok(page);
        }
        self.0.discover().await?;
        scan.server = 0;
        scan.mark.clear();
        if self::print(&self.0.layout()).1 != print {
            // What moved after its new node had been listed is found the second time.
            page.next = Some(scan.next());
        }
        Ok(page)
    }
}

/// The nodes that have slots, in the order of their names, and a digest of who has what.
fn print(layout: &Layout<Node>) -> (Vec<Arc<Node>>, String) {
    let mut digest = Sha256::new();
    let mut nodes: Vec<Arc<Node>> = Vec::new();
    for (first, last, node) in layout.ranges() {
        digest.update(format!("{first}-{last} {}\n", node.name()));
        if !nodes.iter().any(|known| Arc::ptr_eq(known, node)) {
            nodes.push(Arc::clone(node));
        }
    }
    nodes.sort_by_key(|node| node.name());
    let print = digest
        .finalize()
        .iter()
        .take(8)
        .fold(String::new(), |mut text, byte| {
            // Writing to a String can't fail.
            let _infallible = write!(text, "{byte:02x}");
            text
        });
    (nodes, print)
}
