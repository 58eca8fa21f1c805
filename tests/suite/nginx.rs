//! A real nginx, before us or behind us.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::Address;
use crate::servers::{Process, free_port, make_certificates};

/// Somebody else may take a free port before nginx does.
const PORT_ATTEMPTS: usize = 5;

/// A running nginx with a certificate for `localhost` and `127.0.0.1`.
pub(crate) struct Nginx {
    _process: Process,
    address: SocketAddr,
    directory: TempDir,
}

impl Nginx {
    /// `listen` is what stands behind the address in `listen`, and `server` what stands in the
    /// server's block beside the certificate.
    pub(crate) fn start(listen: &str, server: &str) -> Self {
        Self::with_http("", listen, server)
    }

    /// The same, with something beside the server's block.
    pub(crate) fn with_http(http: &str, listen: &str, server: &str) -> Self {
        Self::run(|address| {
            format!(
                "events {{}}
                 http {{
                     access_log off;
                     client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
                     uwsgi_temp_path uwsgi; scgi_temp_path scgi;
                     {http}
                     server {{
                         listen {address} {listen};
                         ssl_certificate server.pem;
                         ssl_certificate_key server.key;
                         {server}
                     }}
                 }}"
            )
        })
    }

    /// One that passes on connections, whatever is spoken on them; `server` says where to and how.
    pub(crate) fn stream(server: &str) -> Self {
        // Debian's package libnginx-mod-stream.
        Self::run(|address| {
            format!(
                "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
                 events {{}}
                 stream {{ server {{ listen {address}; {server} }} }}"
            )
        })
    }

    fn run(config: impl Fn(SocketAddr) -> String) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        make_certificates(directory.path());
        for _ in 0..PORT_ATTEMPTS {
            let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
            let usual = "daemon off; master_process off; pid nginx.pid; error_log stderr notice;";
            let config = format!("{usual}\n{}", config(address));
            std::fs::write(directory.path().join("nginx.conf"), config)
                .expect("the directory is ours");
            let mut command = Command::new("nginx");
            command
                .env(
                    "PATH",
                    format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()),
                )
                .arg("-p")
                .arg(directory.path())
                .args(["-c", "nginx.conf", "-e", "stderr"]);
            // It listens before it says by which method it waits.
            if let Some(process) = Process::start(command, "nginx-light", "event method") {
                return Self {
                    _process: process,
                    address,
                    directory,
                };
            }
        }
        panic!("nginx does not start");
    }

    /// A file of the directory that it runs in: `ca.pem`, the authority that has signed its
    /// certificate, and `ca.key`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Address for Nginx {
    fn address(&self) -> SocketAddr {
        self.address
    }
}
