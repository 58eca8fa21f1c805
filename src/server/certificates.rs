//! The certificates of one address, read again when their files change.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::sockets::Entrance;
use crate::telemetry::chain;
use crate::tls::{Settings, TlsError};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What the next handshake is done with.
#[derive(Debug)]
pub(super) struct Certificates {
    settings: Settings,
    http2: bool,
    /// Held for one clone of an `Arc`, and never across an await.
    current: RwLock<Arc<ServerConfig>>,
    /// How the files were when they were last read.
    seen: Mutex<Vec<Option<Stamp>>>,
}

/// What tells that a file has changed: device, inode, size, and when it was written.
type Stamp = (u64, u64, u64, i64, i64);

impl Certificates {
    /// Reads the files.
    pub(super) fn open(settings: Settings, http2: bool) -> Result<Self, TlsError> {
        // Before they are read: what changes meanwhile is read again.
        let seen = stamps(&settings);
        let current = settings.load(http2, &read)?;
        Ok(Self {
            settings,
            http2,
            current: RwLock::new(Arc::new(current)),
            seen: Mutex::new(seen),
        })
    }

    /// As they are now.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    }

    /// Reads the files again if they have changed. Those that can't be used change nothing; that is
    /// said once for each change.
    fn refresh(&self) {
        let now = stamps(&self.settings);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == now {
            return;
        }
        *seen = now;
        match self.settings.load(self.http2, &read) {
            Ok(config) => {
                let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                *current = Arc::new(config);
                info!("the certificates have changed and were read again");
            }
            Err(error) => warn!(
                error = chain(&error),
                "the certificates have changed and can't be used: the old ones stay"
            ),
        }
    }
}

/// Looks after the certificates of all addresses, as long as it is polled.
pub(super) async fn keep_fresh(entrances: Vec<Arc<Entrance>>) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        for door in entrances.iter().map(|entrance| entrance.door.get()) {
            if let Some(certificates) = &door.certificates {
                certificates.refresh();
            }
        }
    }
}

fn stamps(settings: &Settings) -> Vec<Option<Stamp>> {
    settings.files().map(stamp).collect()
}

/// `None` when there is no such file at the moment.
fn stamp(file: &Path) -> Option<Stamp> {
    let file = fs::metadata(file).ok()?;
    Some((
        file.dev(),
        file.ino(),
        file.len(),
        file.mtime(),
        file.mtime_nsec(),
    ))
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    fs::read(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{Clients, Files, MinVersion};

    const CERT: &[u8] = include_bytes!("../../tests/vectors/tls/cert.pem");
    const KEY: &[u8] = include_bytes!("../../tests/vectors/tls/key.pem");

    #[test]
    fn files_that_change_are_read_again_and_bad_ones_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files {
            cert: folder.path().join("cert.pem"),
            key: folder.path().join("key.pem"),
        };
        fs::write(&files.cert, CERT).unwrap();
        fs::write(&files.key, KEY).unwrap();
        let settings = Settings {
            certificates: vec![files.clone()],
            min_version: MinVersion::Tls12,
            clients: Clients::Unasked,
            client_cert_header: false,
        };
        let certificates = Certificates::open(settings, true).unwrap();
        let first = certificates.current();
        certificates.refresh();
        assert!(Arc::ptr_eq(&first, &certificates.current()), "unchanged");
        fs::write(&files.key, b"broken").unwrap();
        certificates.refresh();
        assert!(Arc::ptr_eq(&first, &certificates.current()), "broken");
        fs::remove_file(&files.key).unwrap();
        certificates.refresh();
        assert!(Arc::ptr_eq(&first, &certificates.current()), "gone");
        fs::write(&files.key, KEY).unwrap();
        certificates.refresh();
        assert!(!Arc::ptr_eq(&first, &certificates.current()), "new");
    }
}
