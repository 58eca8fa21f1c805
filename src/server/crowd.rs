//! How many connections there are from each address.

use std::collections::hash_map::{Entry, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts the connections of the whole process by their address. An IPv6 network of 64 bits counts
/// as one address, since whoever has one of its addresses has all of them.
#[derive(Clone, Debug)]
pub(super) struct Crowd(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: AtomicUsize,
    /// Held for one look-up, and never across an await.
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection that counts, as long as it is there.
#[derive(Debug)]
pub(super) struct Member {
    crowd: Arc<Inner>,
    address: IpAddr,
}

impl Crowd {
    /// At most so many from one address.
    pub(super) fn new(limit: usize) -> Self {
        Self(Arc::new(Inner {
            limit: AtomicUsize::new(limit),
            counts: Mutex::default(),
        }))
    }

    /// From now on, at most so many. Those that are there stay.
    pub(super) fn allow(&self, limit: usize) {
        self.0.limit.store(limit, Ordering::Relaxed);
    }

    /// Takes a place; `None` when there are as many as allowed.
    pub(super) fn join(&self, address: IpAddr) -> Option<Member> {
        let address = whole(address);
        let mut counts = self.0.lock();
        let count = counts.entry(address).or_insert(0);
        // An address that has just been added has room: the limit is 1 or more.
        if *count >= self.0.limit.load(Ordering::Relaxed) {
            return None;
        }
        *count = count.saturating_add(1);
        Some(Member {
            crowd: Arc::clone(&self.0),
            address,
        })
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = self.crowd.lock().entry(self.address) {
            let left = entry.get().saturating_sub(1);
            if left == 0 {
                entry.remove();
            } else {
                entry.insert(left);
            }
        }
    }
}

/// What counts as one address.
fn whole(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_places_and_gets_them_back() {
        let crowd = Crowd::new(2);
        let join = |text: &str| crowd.join(text.parse().unwrap());
        let first = join("192.0.2.1").unwrap();
        let _second = join("::ffff:192.0.2.1").unwrap();
        assert!(join("192.0.2.1").is_none());
        assert!(join("192.0.2.2").is_some());
        drop(first);
        let _third = join("192.0.2.1").unwrap();
        assert!(join("192.0.2.1").is_none());
        assert_eq!(crowd.0.lock().len(), 1, "nobody else is left");
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let crowd = Crowd::new(1);
        let join = |text: &str| crowd.join(text.parse().unwrap());
        let _first = join("2001:db8:1:2::1").unwrap();
        assert!(join("2001:db8:1:2:ffff::9").is_none());
        assert!(join("2001:db8:1:3::1").is_some());
    }
}
