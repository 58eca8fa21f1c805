//! Applications that are reached by TLS or by a unix socket, and whom to trust there.

use std::net::SocketAddr;
use std::process::Command;

use crate::harness::{Address, Browser, Builder, Pycket, Upstream, Wire};
use crate::nginx::Nginx;

const BY: &str = "return 200 \"$server_protocol $http_host $ssl_server_name $ssl_client_s_dn\";";

/// A proxy before this nginx, which it calls by `host`; without more, it trusts the system.
fn before(nginx: &Nginx, host: &str, more: &str) -> Builder {
    let port = nginx.address().port();
    Pycket::to(SocketAddr::from(([127, 0, 0, 1], 1))).config(&format!(
        "upstream = 'app'
         workers = 1
         upstreams.app.servers = ['https://{host}:{port}']
         {more}"
    ))
}

fn trusting(nginx: &Nginx) -> String {
    format!(
        "upstreams.app.tls.ca_file = '{}'",
        nginx.file("ca.pem").display()
    )
}

/// What the application says to `GET /` of `Host: a`.
fn answer(pycket: &Pycket) -> String {
    let answer = Browser::at(pycket).request("GET", "/").send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text().to_owned()
}

/// Why the exchange failed, as the access log has it.
fn refused(pycket: &Pycket) -> String {
    assert_eq!(Browser::at(pycket).get("/").status, 502);
    let line = pycket.access(|line| line["status"] == 502);
    line["error"].as_str().unwrap().to_owned()
}

#[test]
fn the_server_chooses_the_version_of_http() {
    let new = Nginx::start("ssl http2", BY);
    let old = Nginx::start("ssl", BY);
    for (nginx, http2, version) in [
        (&new, "auto", "HTTP/2.0 "),
        (&new, "always", "HTTP/2.0 "),
        (&new, "never", "HTTP/1.1 "),
        (&old, "auto", "HTTP/1.1 "),
    ] {
        let more = format!("upstreams.app.http2 = '{http2}'\n{}", trusting(nginx));
        let pycket = before(nginx, "127.0.0.1", &more).start();
        for _ in 0..3 {
            let answer = answer(&pycket);
            assert!(answer.starts_with(version), "{http2}: {answer}");
        }
    }
    let more = format!("upstreams.app.http2 = 'always'\n{}", trusting(&old));
    assert_eq!(
        refused(&before(&old, "127.0.0.1", &more).start()),
        "upstream_tls"
    );
}

#[test]
fn the_servers_name_is_asked_for_and_the_clients_host_stays() {
    let nginx = Nginx::start("ssl http2", BY);
    let pycket = before(&nginx, "localhost", &trusting(&nginx)).start();
    let mut browser = Browser::at(&pycket);
    let host = browser
        .get("/")
        .text()
        .split(' ')
        .nth(1)
        .unwrap()
        .to_owned();
    assert_eq!(host, pycket.address().to_string());
    assert_eq!(browser.get("/").text().split(' ').nth(2), Some("localhost"));
}

#[test]
fn a_server_of_an_unknown_authority_gets_no_request() {
    let nginx = Nginx::start("ssl http2", BY);
    let pycket = before(&nginx, "127.0.0.1", "").start();
    assert_eq!(refused(&pycket), "upstream_tls");
    pycket.says("UnknownIssuer");
}

#[test]
fn a_server_of_another_name_gets_no_request() {
    let nginx = Nginx::start("ssl http2", BY);
    let other = format!(
        "{}\nupstreams.app.tls.server_name = 'app.test'",
        trusting(&nginx)
    );
    let pycket = before(&nginx, "127.0.0.1", &other).start();
    assert_eq!(refused(&pycket), "upstream_tls");
    let right = format!(
        "{}\nupstreams.app.tls.server_name = 'localhost'",
        trusting(&nginx)
    );
    let pycket = before(&nginx, "127.0.0.1", &right).start();
    assert_eq!(answer(&pycket).split(' ').nth(2), Some("localhost"));
}

#[test]
fn verification_can_be_switched_off_by_name() {
    let nginx = Nginx::start("ssl http2", BY);
    let pycket = before(&nginx, "127.0.0.1", "upstreams.app.tls.verify = false").start();
    pycket.says("certificates are not verified");
    answer(&pycket);
}

#[test]
fn the_proxy_shows_its_certificate() {
    let nginx = Nginx::start(
        "ssl http2",
        &format!("ssl_client_certificate ca.pem; ssl_verify_client on; {BY}"),
    );
    let without = before(&nginx, "127.0.0.1", &trusting(&nginx)).start();
    assert_eq!(Browser::at(&without).get("/").status, 400, "nginx says no");
    let made = Command::new("openssl")
        .current_dir(nginx.file(""))
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ])
        .args([
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=the proxy",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
        ])
        .args(["-keyout", "client.key", "-out", "client.pem"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let more = format!(
        "{}\nupstreams.app.tls.cert = '{}'\nupstreams.app.tls.key = '{}'",
        trusting(&nginx),
        nginx.file("client.pem").display(),
        nginx.file("client.key").display()
    );
    let pycket = before(&nginx, "127.0.0.1", &more).start();
    assert!(answer(&pycket).ends_with("CN=the proxy"));
}

#[test]
fn health_checks_go_by_tls_too() {
    let nginx = Nginx::start("ssl http2", "location / { return 204; }");
    let health = "\nupstreams.app.health.unhealthy = 1\nupstreams.app.health.status = '200'";
    let pycket = before(&nginx, "127.0.0.1", &(trusting(&nginx) + health)).start();
    pycket.says("the status is 204");
    let pycket = before(&nginx, "127.0.0.1", "upstreams.app.health.tcp = true").start();
    pycket.says("UnknownIssuer");
}

#[test]
fn a_websocket_goes_by_http1_where_the_server_also_speaks_http2() {
    let app = Upstream::raw(|mut wire, _| {
        let head = wire.read_head();
        assert!(head.fields.lists("Upgrade", "websocket"));
        wire.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        );
        assert_eq!(wire.read_exactly(4), b"ping");
        wire.send("pong\n");
    });
    let nginx = Nginx::start(
        "ssl http2",
        &format!(
            "location / {{ {BY} }}
             location /ws {{
                 proxy_pass http://{};
                 proxy_http_version 1.1;
                 proxy_set_header Connection upgrade;
                 proxy_set_header Upgrade $http_upgrade;
             }}",
            app.address()
        ),
    );
    let pycket = before(&nginx, "127.0.0.1", &trusting(&nginx)).start();
    assert!(answer(&pycket).starts_with("HTTP/2.0"));
    let mut wire = Wire::connect(&pycket);
    wire.send(
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    );
    assert_eq!(wire.read_head().status(), 101);
    wire.send("ping");
    assert_eq!(wire.read_until("\n"), "pong\n");
}

#[test]
fn an_application_behind_a_unix_socket_is_reached() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let nginx = Nginx::start("ssl", &format!("listen unix:{};\n{BY}", path.display()));
    let pycket = Pycket::to(nginx.address())
        .config(&format!("upstream = 'unix:{}'", path.display()))
        .start();
    let mut browser = Browser::at(&pycket);
    for _ in 0..3 {
        assert!(browser.get("/").text().starts_with("HTTP/1.1 "));
    }
}

#[test]
fn a_key_that_does_not_fit_its_certificate_ends_the_start() {
    let nginx = Nginx::start("ssl", BY);
    let more = format!(
        "{}\nupstreams.app.tls.cert = '{}'\nupstreams.app.tls.key = '{}'",
        trusting(&nginx),
        nginx.file("server.pem").display(),
        nginx.file("ca.key").display()
    );
    let ended = before(&nginx, "127.0.0.1", &more).start_expecting_failure();
    assert!(ended.stderr.contains("upstream app"), "{}", ended.stderr);
}
