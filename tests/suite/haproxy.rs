//! A real `HAProxy`, before us or behind us.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::{Address, Process};

/// A running `HAProxy`. It ends with this.
pub(crate) struct Haproxy {
    _process: Process,
    _folder: TempDir,
    address: SocketAddr,
}

impl Haproxy {
    /// `mode` is `tcp` or `http`, `bind` what stands behind the socket that it listens on, and `server`
    /// where it passes on to, and how.
    pub(crate) fn start(mode: &str, bind: &str, server: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("haproxy.cfg");
        let text = format!(
            "defaults\n  mode {mode}\n  timeout connect 20s\n  timeout client 20s\n  \
             timeout server 20s\nlisten all\n  bind fd@3 {bind}\n  {server}\n"
        );
        fs::write(&config, text).expect("the folder is ours");
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("it is bound");
        let mut command = Command::new("sh");
        let script = format!(
            "exec 3<&0 </dev/null; exec haproxy -db -f '{}'",
            config.display()
        );
        command
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .args(["-c", &script])
            .stdin(OwnedFd::from(socket));
        Self {
            _process: Process::start(&mut command, "haproxy"),
            _folder: folder,
            address,
        }
    }
}

impl Address for Haproxy {
    fn address(&self) -> SocketAddr {
        self.address
    }
}
