//! Several servers for one application: who gets which request, and what happens when one is gone.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};

use crate::harness::{Address, AppResponse, Browser, Builder, Gate, Pycket, Upstream, Wire, raw};

/// An application that answers with its name; sessions begin at `/login`.
pub(crate) fn named(name: &'static str) -> Upstream {
    Upstream::app(move |request| {
        let answer = AppResponse::ok(name);
        match request.target.as_str() {
            "/login" => answer.header("X-Session-Set", "user=alice"),
            _ => answer,
        }
    })
}

/// A proxy with one worker before a group of these servers, each with what stands beside its URL.
pub(crate) fn before(servers: &[(SocketAddr, &str)], more: &str) -> Builder {
    let servers: Vec<String> = servers
        .iter()
        .map(|(address, more)| format!("{{ url = 'http://{address}'{more} }}"))
        .collect();
    Pycket::to(SocketAddr::from(([127, 0, 0, 1], 1))).config(&format!(
        "upstream = 'app'
         workers = 1
         upstreams.app.servers = [{}]
         {more}",
        servers.join(", ")
    ))
}

/// An address where nobody listens, and nobody will while this is kept.
pub(crate) fn refusing() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// Who answers so many requests.
fn answers(browser: &mut Browser, count: usize) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    for _ in 0..count {
        let response = browser.get("/");
        assert_eq!(response.status, 200, "{}", response.text());
        *answers.entry(response.text().to_owned()).or_default() += 1;
    }
    answers
}

fn counts(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    let pairs = pairs
        .iter()
        .map(|(name, count)| ((*name).to_owned(), *count));
    pairs.collect()
}

#[test]
fn servers_take_turns_by_their_weights() {
    let (a, b) = (named("a"), named("b"));
    let servers = [(a.address(), ""), (b.address(), ", weight = 3")];
    let pycket = before(&servers, "").start();
    let got = answers(&mut Browser::at(&pycket), 40);
    assert_eq!(got, counts(&[("a", 10), ("b", 30)]));
}

#[test]
fn the_access_log_says_which_server_was_asked_where_there_are_several() {
    let (a, b) = (named("a"), named("b"));
    let servers = [(a.address(), ""), (b.address(), "")];
    let pycket = before(&servers, "").start();
    let mut browser = Browser::at(&pycket);
    for turn in 0..4 {
        let path = format!("/{turn}");
        let answer = browser.get(&path);
        let asked = if answer.text() == "a" { &a } else { &b };
        let line = pycket.access(|line| line["path"] == path.as_str());
        assert_eq!(line["server"], asked.address().to_string());
    }
    let pycket = Pycket::with(&a).start();
    Browser::at(&pycket).get("/alone");
    let line = pycket.access(|line| line["path"] == "/alone");
    assert_eq!(line.get("server"), None);
}

#[test]
fn a_draining_server_gets_no_requests() {
    let (a, b) = (named("a"), named("b"));
    let servers = [(a.address(), ", drain = true"), (b.address(), "")];
    for balance in ["round_robin", "least", "session"] {
        let more = format!("upstreams.app.balance = '{balance}'");
        let pycket = before(&servers, &more).start();
        let got = answers(&mut Browser::at(&pycket), 10);
        assert_eq!(got, counts(&[("b", 10)]), "{balance}");
    }
}

#[test]
fn the_server_where_less_runs_gets_the_request() {
    let gate = Gate::closed();
    let held = gate.clone();
    let slow = Upstream::app(move |_| {
        held.pass();
        AppResponse::ok("slow")
    });
    let fast = named("fast");
    let servers = [(slow.address(), ""), (fast.address(), "")];
    let pycket = before(&servers, "upstreams.app.balance = 'least'").start();
    // Until the slow one has got one; the fast one is idle again each time.
    let mut waiting = Vec::new();
    while slow.requests().is_empty() {
        let mut wire = Wire::connect(&pycket);
        wire.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        waiting.push(wire);
        assert!(waiting.len() < 100, "the slow one gets nothing");
        while slow.requests().len() + fast.requests().len() < waiting.len() {
            std::thread::yield_now();
        }
    }
    let got = answers(&mut Browser::at(&pycket), 20);
    assert_eq!(got, counts(&[("fast", 20)]));
    gate.open();
}

#[test]
fn a_session_stays_with_its_server_on_all_copies() {
    let apps = [named("a"), named("b"), named("c")];
    let forward: Vec<_> = apps.iter().map(|app| (app.address(), "")).collect();
    let backward: Vec<_> = forward.iter().rev().copied().collect();
    let redis = crate::servers::RedisServer::start();
    let start = |servers: &[(SocketAddr, &str)]| {
        before(servers, "upstreams.app.balance = 'session'")
            .redis(&redis)
            .start()
    };
    let (one, other) = (start(&forward), start(&backward));
    let mut seen = BTreeMap::new();
    for _ in 0..24 {
        let mut browser = Browser::at(&one);
        browser.get("/login");
        let got = answers(&mut browser, 3);
        assert_eq!(got.len(), 1, "{got:?}");
        let (name, _) = got.first_key_value().unwrap();
        assert_eq!(browser.go_to(&other).get("/").text(), name);
        *seen.entry(name.clone()).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 3, "all have sessions: {seen:?}");
}

#[test]
fn without_a_session_the_clients_address_decides() {
    let apps = [named("a"), named("b"), named("c")];
    let servers: Vec<_> = apps.iter().map(|app| (app.address(), "")).collect();
    let config = "upstreams.app.balance = 'session'\nforwarding.trust = ['127.0.0.1']";
    let pycket = before(&servers, config).start();
    let mut seen = BTreeMap::new();
    for client in 0..24 {
        let ask = || {
            let request = format!(
                "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.{client}\r\nConnection: close\r\n\r\n"
            );
            let answer = String::from_utf8(raw(&pycket, request)).unwrap();
            answer.chars().last().unwrap()
        };
        let name = ask();
        assert_eq!(ask(), name);
        *seen.entry(name).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 3, "all have clients: {seen:?}");
}

#[test]
fn a_request_that_was_refused_goes_to_another_server_and_keeps_its_body() {
    let (_socket, gone) = refusing();
    let app = Upstream::app(|request| AppResponse::ok(request.body.clone()));
    let pycket = before(&[(gone, ""), (app.address(), "")], "").start();
    let mut browser = Browser::at(&pycket);
    for number in 0..6 {
        let body = format!("number {number}");
        let answer = browser.request("POST", "/").body(body.as_str()).send();
        assert_eq!((answer.status, answer.text()), (200, body.as_str()));
    }
}

#[test]
fn a_request_that_may_have_arrived_is_not_sent_again() {
    let breaking = Upstream::raw(|mut wire, _| {
        wire.read_request();
    });
    let app = named("a");
    let servers = [(breaking.address(), ", weight = 1000"), (app.address(), "")];
    let pycket = before(&servers, "").start();
    let answer = Browser::at(&pycket).get("/");
    assert_eq!(answer.status, 502);
    assert!(app.requests().is_empty());
}

#[test]
fn retries_end_with_their_budget() {
    let (_socket, gone) = refusing();
    let app = named("a");
    let config = "
        upstreams.app.max_failures = 0
        upstreams.app.retry_percent = 20
        upstreams.app.retry_min_per_second = 0";
    let pycket = before(&[(gone, ""), (app.address(), "")], config).start();
    let mut browser = Browser::at(&pycket);
    let statuses: Vec<u16> = (0..100).map(|_| browser.get("/").status).collect();
    let failed = statuses.iter().filter(|status| **status == 502).count();
    // Half of the hundred meet the one that is gone. Of a hundred, twenty may be sent again, but
    // for what could not be saved up.
    assert!((30..=40).contains(&failed), "{failed}");
    assert_eq!(app.requests().len(), 100 - failed);
}

#[test]
fn a_server_that_keeps_failing_gets_no_requests_until_it_is_back() {
    let (socket, gone) = refusing();
    let app = named("a");
    let config = "
        upstreams.app.ejection = '100ms'
        upstreams.app.max_ejection = '100ms'
        upstreams.app.slow_start = '0s'
        upstreams.app.max_failures = 3";
    let pycket = before(&[(gone, ""), (app.address(), "")], config).start();
    let mut browser = Browser::at(&pycket);
    for _ in 0..10 {
        assert_eq!(browser.get("/").text(), "a");
    }
    let message = pycket.says("a server gets no requests for a while");
    assert!(message.contains("\"failures\":3"), "{message}");
    assert!(message.contains(&format!("http://{gone}")), "{message}");
    socket.listen(128).unwrap();
    let listener = TcpListener::from(socket);
    let back = Upstream::listening(listener, |_| AppResponse::ok("back"));
    while back.requests().is_empty() {
        assert_eq!(browser.get("/").status, 200);
    }
    pycket.says("a server answers again");
}

#[test]
fn when_too_many_are_out_all_get_requests() {
    let (_first, gone) = refusing();
    let (_second, gone_too) = refusing();
    let (_third, gone_as_well) = refusing();
    let servers = [(gone, ""), (gone_too, ""), (gone_as_well, "")];
    let config = "upstreams.app.max_failures = 1\nupstreams.app.ejection = '1h'\nupstreams.app.max_ejection = '1h'";
    let pycket = before(&servers, config).start();
    let mut browser = Browser::at(&pycket);
    for _ in 0..6 {
        assert_eq!(browser.get("/").status, 502, "they are tried");
    }
    let never = format!("{config}\nupstreams.app.panic_threshold = 100");
    let pycket = before(&servers, &never).start();
    let mut browser = Browser::at(&pycket);
    assert_eq!(browser.get("/").status, 502);
    let answer = browser.get("/none");
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("The application is not available."));
    let line = pycket.access(|line| line["path"] == "/none");
    assert_eq!(line["error"], "upstream_unavailable");
}
