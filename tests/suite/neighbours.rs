//! Proxies that nobody here wrote, before us and behind us: sessions pass through all of them.

use std::net::SocketAddr;

use crate::haproxy::Haproxy;
use crate::harness::{Address, AppResponse, Pycket, Upstream, curl};
use crate::nginx::Nginx;
use crate::proxy_protocol::expecting;

/// An application that logs in, and says who is there, what it has to tell them, and where they are.
fn app() -> Upstream {
    Upstream::app(|request| {
        if request.target == "/login" {
            return AppResponse::see_other("/")
                .header("X-Session-Set", "user=alice")
                .header("X-Session-Control", "renew")
                .header("X-Notifications-Set", "flash=welcome");
        }
        let says = |name: &str| request.header(name).unwrap_or("-").to_owned();
        let told = [
            says("X-Session"),
            says("X-Notifications"),
            says("X-Forwarded-For"),
            says("X-Forwarded-Proto"),
        ];
        AppResponse::ok(told.join(" ")).header("Content-Type", "text/html")
    })
}

/// Logs in, and looks twice: the session is read back, and the notification is shown once. What the
/// application knows of the client otherwise.
#[track_caller]
fn visit(url: &str, how: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let jar = folder.path().join("jar");
    let jar = jar.to_str().expect("a readable path");
    let ask = |path: &str, more: &[&str]| {
        let url = format!("{url}{path}");
        let usual = ["-b", jar, "-c", jar, "-H", "Accept: text/html", &url];
        curl(&[&usual, how, more].concat())
    };
    let status = ask("/login", &["-X", "POST", "-w", "%{http_code}"]);
    assert_eq!(status, "303");
    let (first, second) = (ask("/", &[]), ask("/", &[]));
    let known = first.strip_prefix(r#"{"user":"alice"} {"flash":"welcome"} "#);
    let known = known.unwrap_or_else(|| panic!("{first}"));
    assert_eq!(second, format!(r#"{{"user":"alice"}} - {known}"#));
    known.to_owned()
}

/// Another address of this machine, so that a client is told apart from proxies.
const CLIENT: [&str; 2] = ["--interface", "127.0.0.7"];
/// The same by both versions of HTTP.
const CLEARTEXT: [[&str; 3]; 2] = [
    [CLIENT[0], CLIENT[1], "--http1.1"],
    [CLIENT[0], CLIENT[1], "--http2-prior-knowledge"],
];

/// How many connections to this address are open.
fn connections(to: SocketAddr) -> usize {
    let ours = format!("0100007F:{:04X}", to.port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux has it");
    let is_meant = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // By their other end; 01 is ESTABLISHED.
        fields.get(2) == Some(&ours.as_str()) && fields.get(3) == Some(&"01")
    };
    table.lines().filter(is_meant).count()
}

#[test]
fn nginx_in_front_ends_tls_and_keeps_its_connection() {
    let app = app();
    let pycket = Pycket::with(&app)
        .config("forwarding.trust = ['127.0.0.1']")
        .start();
    let nginx = Nginx::with_http(
        &format!(
            "upstream pycket {{ server {}; keepalive 4; }}",
            pycket.address()
        ),
        "ssl http2",
        "location / {
             proxy_pass http://pycket;
             proxy_http_version 1.1;
             proxy_set_header Connection '';
             proxy_set_header Host $http_host;
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
             proxy_set_header X-Forwarded-Proto $scheme;
         }",
    );
    let url = format!("https://localhost:{}", nginx.address().port());
    let ca = nginx.file("ca.pem");
    let ca = ca.to_str().expect("a readable path");
    for version in ["--http2", "--http1.1"] {
        let how = [&CLIENT[..], &["--cacert", ca, "-4", version]].concat();
        assert_eq!(visit(&url, &how), "127.0.0.7, 127.0.0.1 https");
    }
    assert_eq!(connections(pycket.address()), 1);
    let version = ["--cacert", ca, "-4", "-D", "-", "-o", "/dev/null", &url];
    let head = curl(&version);
    assert!(head.starts_with("HTTP/2 200"), "{head}");
}

#[test]
fn nginx_in_front_passes_connections_on_and_says_whose_they_are() {
    let app = app();
    let pycket = expecting(&app, "127.0.0.1/32").start();
    let behind = pycket.second_address();
    let nginx = Nginx::stream(&format!("proxy_pass {behind}; proxy_protocol on;"));
    let url = format!("http://{}", nginx.address());
    for how in CLEARTEXT {
        assert_eq!(visit(&url, &how), "127.0.0.7 http");
    }
}

#[test]
fn nginx_behind_is_verified_by_its_own_authority() {
    let app = app();
    for listen in ["ssl", "ssl http2"] {
        let nginx = Nginx::start(
            listen,
            &format!("location / {{ proxy_pass http://{}; }}", app.address()),
        );
        let port = nginx.address().port();
        let before = |more: &str| {
            let config = format!(
                "upstream = 'app'\nupstreams.app.servers = ['https://localhost:{port}']\n{more}"
            );
            Pycket::with(&app).config(&config).start()
        };
        let ca = nginx.file("ca.pem");
        let pycket = before(&format!("upstreams.app.tls.ca_file = '{}'", ca.display()));
        let url = format!("http://{}", pycket.address());
        for how in CLEARTEXT {
            assert_eq!(visit(&url, &how), "127.0.0.7 http");
        }
        // The system does not know the authority.
        let pycket = before("");
        let url = format!("http://{}/", pycket.address());
        let status = curl(&["-o", "/dev/null", "-w", "%{http_code}", &url]);
        assert_eq!(status, "502");
    }
}

#[test]
fn haproxy_in_front_speaks_http2_and_says_whom_it_serves() {
    let app = app();
    let pycket = expecting(&app, "127.0.0.1/32").start();
    let behind = pycket.second_address();
    for how in ["send-proxy-v2", "send-proxy-v2 proto h2"] {
        let haproxy = Haproxy::start("http", "", &format!("server pycket {behind} {how}"));
        let url = format!("http://{}", haproxy.address());
        for client in ["127.0.0.7", "127.0.0.8", "127.0.0.7"] {
            let told = visit(&url, &["--interface", client]);
            assert_eq!(told, format!("{client} http"), "{how}");
        }
    }
    assert!(
        app.requests()
            .iter()
            .any(|request| request.header("Via") == Some("2.0 pycket"))
    );
}

#[test]
fn haproxy_in_front_speaks_http2_and_adds_headers() {
    let app = app();
    let pycket = Pycket::with(&app)
        .config("forwarding.trust = ['127.0.0.1']")
        .start();
    let server = format!(
        "option forwardfor\n  server pycket {} proto h2",
        pycket.address()
    );
    let haproxy = Haproxy::start("http", "", &server);
    let url = format!("http://{}", haproxy.address());
    for how in CLEARTEXT {
        assert_eq!(visit(&url, &how), "127.0.0.7, 127.0.0.1 http");
    }
    for request in app.requests() {
        assert_eq!(request.header("Via"), Some("2.0 pycket"));
    }
}

#[test]
fn haproxy_behind_speaks_http2_without_tls() {
    let app = app();
    let server = format!("server app {}", app.address());
    let haproxy = Haproxy::start("http", "proto h2", &server);
    let config = format!("upstream = 'h2c://{}'", haproxy.address());
    let pycket = Pycket::with(&app).config(&config).start();
    let url = format!("http://{}", pycket.address());
    for how in CLEARTEXT {
        assert_eq!(visit(&url, &how), "127.0.0.7 http");
    }
}
