//! TLS from clients: curl, openssl and h2load meet it, with certificates that openssl makes.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::harness::{Address, AppResponse, Builder, Ended, Pycket, Upstream, Wire, curl, tool};

/// An authority, and what it has signed.
pub(crate) struct Authority {
    folder: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Self { folder };
        authority.openssl("ca", &["-subj", "/CN=authority"]);
        authority
    }

    /// Makes `name.pem` and `name.key`, for these hosts.
    pub(crate) fn issue(&self, name: &str, hosts: &[&str]) {
        let hosts: Vec<_> = hosts.iter().map(|host| format!("DNS:{host}")).collect();
        let hosts = format!("subjectAltName={}", hosts.join(","));
        let by = [self.path("ca.pem"), self.path("ca.key")];
        let subject = format!("/CN={name}");
        let arguments = ["-CA", &by[0], "-CAkey", &by[1], "-subj", &subject];
        let leaf = "basicConstraints=critical,CA:FALSE";
        self.openssl(
            name,
            &[&arguments[..], &["-addext", &hosts, "-addext", leaf]].concat(),
        );
    }

    fn openssl(&self, name: &str, arguments: &[&str]) {
        let files = [
            self.path(&format!("{name}.key")),
            self.path(&format!("{name}.pem")),
        ];
        let usual = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ];
        let more = [
            "-nodes", "-days", "2", "-keyout", &files[0], "-out", &files[1],
        ];
        let ended = tool(
            "openssl",
            "openssl",
            &[&usual[..], &more, arguments].concat(),
        );
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }

    pub(crate) fn path(&self, file: &str) -> String {
        let path: PathBuf = self.folder.path().join(file);
        path.to_str().expect("a readable path").to_owned()
    }

    /// A proxy that has these certificates, and what else stands in its table of TLS.
    pub(crate) fn serves(&self, app: &Upstream, names: &[&str], more: &str) -> Builder {
        let pairs = names.iter().map(|name| {
            let (cert, key) = (
                self.path(&format!("{name}.pem")),
                self.path(&format!("{name}.key")),
            );
            format!("{{ cert = '{cert}', key = '{key}' }}")
        });
        let pairs: Vec<_> = pairs.collect();
        Pycket::with(app).config(&format!(
            "[[listener]]\naddress = '127.0.0.1:0'\n[listener.tls]\ncertificates = [{}]\n{more}",
            pairs.join(", ")
        ))
    }

    /// Arguments for curl, that ask a host at this address.
    fn ask(&self, host: &str, address: SocketAddr) -> Vec<String> {
        let port = address.port();
        vec![
            "--cacert".to_owned(),
            self.path("ca.pem"),
            "--resolve".to_owned(),
            format!("{host}:{port}:127.0.0.1"),
            format!("https://{host}:{port}/"),
        ]
    }

    fn curl(&self, host: &str, address: SocketAddr, more: &[&str]) -> String {
        let arguments = self.ask(host, address);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        curl(&[&arguments, more].concat())
    }

    /// As `curl`, where it need not succeed.
    fn try_curl(&self, host: &str, address: SocketAddr, more: &[&str]) -> Ended {
        let arguments = self.ask(host, address);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let usual = ["--silent", "--show-error", "--max-time", "20"];
        tool("curl", "curl", &[&usual[..], &arguments, more].concat())
    }
}

fn app() -> Upstream {
    Upstream::app(|request| {
        let scheme = request.header("X-Forwarded-Proto").unwrap_or("none");
        AppResponse::ok(scheme).header("X-Session-Set", "user=alice")
    })
}

const VERSION: [&str; 2] = ["-w", " %{http_version}"];

/// What openssl's client says about the connection.
fn s_client(address: SocketAddr, arguments: &[&str]) -> String {
    let address = address.to_string();
    let arguments = [&["s_client", "-connect", &address], arguments].concat();
    tool("openssl", "openssl", &arguments).stdout
}

#[test]
fn both_versions_of_http_are_chosen_by_alpn() {
    let (app, authority) = (app(), Authority::new());
    authority.issue("server", &["shop.test"]);
    let pycket = authority.serves(&app, &["server"], "").start();
    let address = pycket.second_address();
    let by = |flag| authority.curl("shop.test", address, &[&VERSION[..], &[flag]].concat());
    assert_eq!(by("--http2"), "https 2");
    assert_eq!(by("--http1.1"), "https 1.1");
    assert_eq!(by("--no-alpn"), "https 1.1");
    let said = s_client(address, &["-alpn", "h2,http/1.1"]);
    assert!(said.contains("ALPN protocol: h2"), "{said}");
    let said = s_client(address, &["-alpn", "http/1.1"]);
    assert!(said.contains("ALPN protocol: http/1.1"), "{said}");
    assert_eq!(curl(&[&format!("http://{}/", pycket.address())]), "http");
}

#[test]
fn http2_can_be_left_out() {
    let (app, authority) = (app(), Authority::new());
    authority.issue("server", &["shop.test"]);
    let config = authority.serves(&app, &["server"], "");
    let text = config.text().replace(
        "address = \"127.0.0.1:0\"",
        "address = \"127.0.0.1:0\"\nhttp2 = false",
    );
    let pycket = Pycket::exactly(&text).start();
    let said = s_client(pycket.second_address(), &["-alpn", "h2,http/1.1"]);
    assert!(!said.contains("ALPN protocol: h2"), "{said}");
}

#[test]
fn the_cookie_is_secure_by_itself() {
    let (app, authority) = (app(), Authority::new());
    authority.issue("server", &["shop.test"]);
    let pycket = authority.serves(&app, &["server"], "").start();
    let head = authority.curl("shop.test", pycket.second_address(), &["-D", "-"]);
    let head = head.to_lowercase();
    assert!(
        head.contains("set-cookie: pycket_id=") && head.contains("; secure"),
        "{head}"
    );
    let head = curl(&["-D", "-", &format!("http://{}/", pycket.address())]).to_lowercase();
    assert!(
        head.contains("set-cookie: pycket_id=") && !head.contains("secure"),
        "{head}"
    );
}

#[test]
fn certificates_are_chosen_by_their_names() {
    let (app, authority) = (app(), Authority::new());
    authority.issue("first", &["first.test"]);
    authority.issue("wild", &["*.wild.test", "wild.test"]);
    authority.issue("exact", &["exact.wild.test"]);
    let pycket = authority
        .serves(&app, &["first", "wild", "exact"], "")
        .start();
    let address = pycket.second_address();
    // curl checks the names.
    for host in [
        "first.test",
        "any.wild.test",
        "wild.test",
        "EXACT.wild.test",
    ] {
        assert_eq!(authority.curl(host, address, &[]), "https", "{host}");
    }
    for (host, subject) in [
        ("exact.wild.test", "CN = exact"),
        ("other.wild.test", "CN = wild"),
        ("a.b.wild.test", "CN = first"),
        ("unknown.test", "CN = first"),
    ] {
        let said = s_client(address, &["-servername", host]);
        assert!(
            said.contains(&format!("subject={subject}")),
            "{host}: {said}"
        );
    }
    let said = s_client(address, &["-noservername"]);
    assert!(said.contains("subject=CN = first"), "{said}");
}

#[test]
fn both_versions_of_tls_are_spoken_unless_one_is_left_out() {
    let (app, authority) = (app(), Authority::new());
    authority.issue("server", &["shop.test"]);
    let old = ["--tlsv1.2", "--tls-max", "1.2"];
    let new = ["--tlsv1.3"];
    let pycket = authority.serves(&app, &["server"], "").start();
    let address = pycket.second_address();
    assert_eq!(authority.curl("shop.test", address, &old), "https");
    assert_eq!(authority.curl("shop.test", address, &new), "https");
    let ended = authority.try_curl("shop.test", address, &["--tlsv1.0", "--tls-max", "1.1"]);
    assert_ne!(ended.code, Some(0));

    let strict = authority
        .serves(&app, &["server"], "min_version = '1.3'")
        .start();
    let address = strict.second_address();
    assert_ne!(authority.try_curl("shop.test", address, &old).code, Some(0));
    assert_eq!(authority.curl("shop.test", address, &new), "https");
}

#[test]
fn certificates_are_read_again_when_they_change() {
    let (app, authority) = (app(), Authority::new());
    authority.issue("server", &["old.test"]);
    let mut pycket = authority.serves(&app, &["server"], "").start();
    let address = pycket.second_address();
    assert_eq!(authority.curl("old.test", address, &[]), "https");
    authority.issue("next", &["new.test"]);
    let copy = |from: &str, to: &str| {
        fs::copy(authority.path(from), authority.path(to)).expect("the folder is ours");
    };
    // Neither half fits the other, however soon it looks.
    fs::write(authority.path("server.key"), "broken").expect("the folder is ours");
    pycket.says("can't be used: the old ones stay");
    assert_eq!(authority.curl("old.test", address, &[]), "https");
    copy("next.key", "server.key");
    copy("next.pem", "server.pem");
    pycket.says("have changed and were read again");
    assert_eq!(authority.curl("new.test", address, &[]), "https");
    let ended = authority.try_curl("old.test", address, &[]);
    assert_ne!(ended.code, Some(0));
    assert_eq!(pycket.stop().code, Some(0));
}

#[test]
fn clients_show_certificates_where_they_must() {
    let (app, authority) = (app(), Authority::new());
    authority.issue("server", &["shop.test"]);
    authority.issue("client", &["client.test"]);
    let stranger = Authority::new();
    stranger.issue("client", &["client.test"]);
    let shows = |who: &Authority| [who.path("client.pem"), who.path("client.key")];
    let (good, bad) = (shows(&authority), shows(&stranger));
    let good = ["--cert", &good[0], "--key", &good[1]];
    let bad = ["--cert", &bad[0], "--key", &bad[1]];
    let ca = format!("client_ca = '{}'", authority.path("ca.pem"));

    let required = authority.serves(&app, &["server"], &ca).start();
    let address = required.second_address();
    assert_eq!(authority.curl("shop.test", address, &good), "https");
    assert_ne!(authority.try_curl("shop.test", address, &[]).code, Some(0));
    assert_ne!(authority.try_curl("shop.test", address, &bad).code, Some(0));

    let more = format!("{ca}\nclient_certificate = 'optional'");
    let optional = authority.serves(&app, &["server"], &more).start();
    let address = optional.second_address();
    assert_eq!(authority.curl("shop.test", address, &good), "https");
    assert_eq!(authority.curl("shop.test", address, &[]), "https");
    assert_ne!(authority.try_curl("shop.test", address, &bad).code, Some(0));
}

/// What `Client-Cert` is to say of a certificate (RFC 9440 section 2.1).
fn encoded(pem: &str) -> String {
    let text = fs::read_to_string(pem).expect("a certificate");
    let lines = text.lines().filter(|line| !line.starts_with("-----"));
    format!(":{}:", lines.collect::<String>())
}

#[test]
fn the_application_learns_of_the_certificate_that_a_client_shows_and_of_no_other() {
    let app = Upstream::app(|request| {
        let said = request.fields.all("Client-Cert").join("|");
        let others = request
            .header("client_cert")
            .or(request.header("Client-Cert-Chain"));
        AppResponse::ok(format!("{said} {}", others.unwrap_or("none")))
    });
    let authority = Authority::new();
    authority.issue("server", &["shop.test"]);
    authority.issue("client", &["client.test"]);
    let more = format!(
        "client_ca = '{}'\nclient_certificate = 'optional'",
        authority.path("ca.pem")
    );
    let pair = [authority.path("client.pem"), authority.path("client.key")];
    let shows = ["--cert", &pair[0], "--key", &pair[1]];
    let lies = [
        "-H",
        "Client-Cert: :AA==:",
        "-H",
        "client_cert: :AA==:",
        "-H",
        "Client-Cert-Chain: :AA==:",
    ];
    let told = format!("{more}\nclient_cert_header = true");
    let pycket = authority.serves(&app, &["server"], &told).start();
    let address = pycket.second_address();
    for version in ["--http2", "--http1.1"] {
        let ask = |more: &[&str]| {
            let more = [more, &lies, &[version]].concat();
            authority.curl("shop.test", address, &more)
        };
        assert_eq!(ask(&shows), format!("{} none", encoded(&pair[0])));
        assert_eq!(ask(&[]), " none");
    }
    // Not by another listener, either.
    let plain = format!("http://{}/", pycket.address());
    assert_eq!(curl(&[&lies[..], &[&plain]].concat()), " none");

    let silent = authority.serves(&app, &["server"], &more).start();
    let answer = authority.curl("shop.test", silent.second_address(), &shows);
    assert_eq!(answer, " none");
}

#[test]
fn plain_http_is_told_what_is_spoken() {
    let (app, authority) = (app(), Authority::new());
    authority.issue("server", &["shop.test"]);
    let mut pycket = authority
        .serves(&app, &["server"], "")
        .config("log.level = 'debug'")
        .start();
    let address = pycket.second_address();
    let url = format!("http://{address}/");
    let answer = curl(&["-w", "%{http_code}", &url]);
    assert_eq!(answer, "This port speaks HTTPS.\n400");
    let mut nonsense = Wire::connect(&address);
    nonsense.send([0, 1, 2, 3]);
    assert_eq!(nonsense.read_to_close(), b"");
    pycket.says("it speaks HTTP without TLS");
    pycket.says("it speaks no TLS");
    assert_eq!(app.requests().len(), 0);
    assert_eq!(pycket.stop().code, Some(0));
}

#[test]
fn a_handshake_has_its_time() {
    let (app, authority) = (app(), Authority::new());
    authority.issue("server", &["shop.test"]);
    let pycket = authority
        .serves(&app, &["server"], "")
        .config("timeouts.client_handshake = '1s'")
        .start();
    let address = pycket.second_address();
    let mut silent = Wire::connect(&address);
    let mut slow = Wire::connect(&address);
    // The beginning of a ClientHello that never ends.
    slow.send([0x16, 3, 1, 2, 0, 1, 0, 1]);
    assert_eq!(silent.read_to_close(), b"");
    assert_eq!(slow.read_to_close(), b"");
}

#[test]
fn bad_files_are_mistakes_in_the_configuration() {
    let (app, authority) = (app(), Authority::new());
    authority.issue("server", &["shop.test"]);
    authority.issue("other", &["shop.test"]);
    fs::copy(authority.path("other.key"), authority.path("server.key")).expect("it is ours");
    let ended = authority
        .serves(&app, &["server"], "")
        .start_expecting_failure();
    assert!(
        ended.stderr.contains("is not the key of this certificate"),
        "{}",
        ended.stderr
    );
    let ended = authority
        .serves(&app, &["nobody"], "")
        .start_expecting_failure();
    assert!(ended.stderr.contains("can't be read"), "{}", ended.stderr);
}

#[test]
fn h2load_gets_all_its_answers() {
    let (app, authority) = (app(), Authority::new());
    authority.issue("server", &["shop.test"]);
    let pycket = authority
        .serves(&app, &["server"], "")
        .config("log.access = false")
        .start();
    let url = format!("https://{}/", pycket.second_address());
    for more in [&["-m", "10"][..], &["--h1"]] {
        let arguments = [&["-n", "500", "-c", "8"], more, &[&url]].concat();
        let report = tool("h2load", "nghttp2-client", &arguments).stdout;
        assert!(
            report.contains("500 succeeded, 0 failed"),
            "{more:?}: {report}"
        );
    }
}

#[test]
fn what_is_under_way_finishes_when_it_stops() {
    let gate = crate::harness::Gate::closed();
    let waiting = gate.clone();
    let app = Upstream::app(move |_| {
        waiting.pass();
        AppResponse::ok("whole")
    });
    let authority = Authority::new();
    authority.issue("server", &["shop.test"]);
    let mut pycket = authority.serves(&app, &["server"], "").start();
    let address = pycket.second_address();
    let answers = std::thread::scope(|scope| {
        let ask = |flag| authority.curl("shop.test", address, &[flag]);
        let asking = ["--http2", "--http1.1"].map(|flag| scope.spawn(move || ask(flag)));
        app.request(2);
        pycket.signal("TERM");
        pycket.says("stopping: exchanges may finish");
        gate.open();
        asking.map(|asking| asking.join().expect("curl succeeds"))
    });
    assert_eq!(answers, ["whole", "whole"]);
    assert_eq!(pycket.ended().code, Some(0));
}
