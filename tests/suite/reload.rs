//! Another configuration while it runs: nothing is lost.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use std::{iter, thread};

use crate::harness::{
    Address, AppRequest, AppResponse, Browser, DEADLINE, Gate, Pycket, Upstream, Wire, tool,
};
use crate::http2_server::{Http2Server, ok};
use crate::servers::{RedisServer, Reply};
use crate::stage::in_time;

/// An application that says its name, and the name of who is logged in.
pub(crate) fn named(name: &'static str) -> Upstream {
    Upstream::app(move |request| match request.target.as_str() {
        "/login" => AppResponse::see_other("/").header("X-Session-Set", "user=alice"),
        _ => AppResponse::ok(format!("{name} {}", session(request))),
    })
}

fn session(request: &AppRequest) -> &str {
    request.header("X-Session").unwrap_or("-")
}

pub(crate) fn get(wire: &mut Wire) -> String {
    wire.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let head = wire.read_head();
    assert_eq!(head.status(), 200);
    let length = head.fields.one("Content-Length").unwrap().parse().unwrap();
    String::from_utf8(wire.read_exactly(length)).unwrap()
}

fn upstream(app: &Upstream) -> String {
    format!("upstream = 'http://{}'", app.address())
}

#[test]
fn connections_that_are_there_get_the_new_upstream_and_sessions_survive() {
    let (old, new) = (named("old"), named("new"));
    let mut pycket = Pycket::with(&old).start();
    let mut browser = Browser::at(&pycket);
    browser.post("/login", "");
    let mut kept = Wire::connect(&pycket);
    assert_eq!(get(&mut kept), "old {}");
    pycket.reload(&upstream(&new));
    assert_eq!(get(&mut kept), "new {}");
    assert_eq!(browser.get("/").text(), r#"new {"user":"alice"}"#);
    assert_eq!(pycket.stop().code, Some(0));
}

#[test]
fn exchange_that_runs_ends_with_the_old_configuration() {
    let gate = Gate::closed();
    let held = gate.clone();
    let old = Upstream::app(move |_| {
        held.pass();
        AppResponse::ok("old")
    });
    let new = named("new");
    let mut pycket = Pycket::with(&old).config("workers = 1").start();
    let mut slow = Wire::connect(&pycket);
    slow.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    old.request(1);
    pycket.reload(&upstream(&new));
    assert_eq!(Browser::at(&pycket).get("/").text(), "new {}");
    gate.open();
    slow.read_until("old");
    assert_eq!(get(&mut slow), "new {}");
}

#[test]
fn bad_file_is_reported_as_check_does_and_changes_nothing() {
    let (old, new) = (named("old"), named("new"));
    let mut pycket = Pycket::with(&old).start();
    let stays = "the configuration was not reloaded: the old one stays";
    pycket.overwrite("upstream = \n");
    pycket.signal("HUP");
    assert!(pycket.says(stays).contains("not TOML"));
    assert_eq!(Browser::at(&pycket).get("/").text(), "old {}");

    // An address that is taken; the upstream would have been fine.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    pycket.reconfigure(&format!(
        "{}\nlisten = ['127.0.0.1:0', '{address}']",
        upstream(&new)
    ));
    pycket.signal("HUP");
    pycket.says(&format!("can't listen on {address}"));
    assert_eq!(Browser::at(&pycket).get("/").text(), "old {}");

    // Mended, it is taken.
    pycket.reload("listen = '127.0.0.1:0'");
    assert_eq!(Browser::at(&pycket).get("/").text(), "new {}");
}

#[test]
fn routes_and_limits_change() {
    let (old, new) = (named("old"), named("new"));
    let mut pycket = Pycket::with(&old).start();
    let mut browser = Browser::at(&pycket);
    assert_eq!(browser.post("/", "0123456789").status, 200);
    pycket.reload(&format!(
        "limits.max_body = '9B'\n[[route]]\npath = '/new'\n{}",
        upstream(&new)
    ));
    assert_eq!(browser.post("/", "0123456789").status, 413);
    assert_eq!(browser.post("/", "012345678").status, 200);
    assert_eq!(browser.get("/new/page").text(), "new {}");
    assert_eq!(browser.get("/").text(), "old {}");
}

#[test]
fn cookie_of_another_secret_counts_no_more() {
    let app = named("app");
    let mut pycket = Pycket::with(&app).start();
    let mut browser = Browser::at(&pycket);
    browser.post("/login", "");
    pycket.reload("cookies.secret = 'another secret that is long enough for it'");
    assert_eq!(browser.get("/").text(), "app {}");
}

#[test]
fn listeners_come_and_go_and_the_others_stay() {
    let app = named("app");
    let mut pycket = Pycket::with(&app).start();
    let mut kept = Wire::connect(&pycket);
    assert_eq!(get(&mut kept), "app {}");
    pycket.reload("listen = ['127.0.0.1:0', '127.0.0.1:0']");
    let second = pycket.second_address();
    let mut other = Wire::connect(&second);
    assert_eq!(get(&mut other), "app {}");
    pycket.reload("listen = '127.0.0.1:0'");
    until("nobody listens", || {
        TcpStream::connect(second)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    });
    assert_eq!(get(&mut other), "app {}", "it may finish");
    assert_eq!(get(&mut kept), "app {}");
    assert_eq!(get(&mut Wire::connect(&pycket)), "app {}");
}

/// Asks until it is so.
pub(crate) fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is() {
        assert!(Instant::now() < end, "{what}: not so");
        thread::yield_now();
    }
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_is_taken() {
    let (old, new) = (named("old"), named("new"));
    let mut pycket = Pycket::with(&old).config("workers = 2").start();
    pycket.reload(&format!(
        "{}\nworkers = 3\nlog.level = 'debug'\nstorage.max_memory = '9MiB'",
        upstream(&new)
    ));
    for text in ["`workers` stays 2", "`log.level`", "`storage.max_memory`"] {
        pycket.says(text);
    }
    assert_eq!(Browser::at(&pycket).get("/").text(), "new {}");
}

#[test]
fn file_that_changes_is_taken_where_it_is_watched() {
    let (old, new) = (named("old"), named("new"));
    let mut pycket = Pycket::with(&old).config("reload = 'watch'").start();
    pycket.reconfigure(&upstream(&new));
    pycket.says("the configuration was reloaded");
    assert_eq!(Browser::at(&pycket).get("/").text(), "new {}");
}

/// A store that takes a connection and says nothing, and its URL.
fn silent() -> (TcpListener, String) {
    let store = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = store.local_addr().unwrap();
    let config =
        format!("engine = 'redis'\nstorage.url = 'redis://{url}'\nstorage.connect_timeout = '60s'");
    (store, config)
}

#[test]
fn stop_is_obeyed_while_a_reload_waits_for_the_store() {
    let app = named("app");
    let mut pycket = Pycket::with(&app).start();
    let (store, config) = silent();
    pycket.reconfigure(&config);
    pycket.signal("HUP");
    let _connection = store.accept().unwrap();
    assert_eq!(pycket.stop().code, Some(0));
}

#[test]
fn reload_that_is_ordered_while_another_waits_comes_next() {
    let (old, new) = (named("old"), named("new"));
    let mut pycket = Pycket::with(&old).config("workers = 1").start();
    let (store, config) = silent();
    pycket.reconfigure(&config);
    pycket.signal("HUP");
    let connection = store.accept().unwrap();
    pycket.reconfigure(&upstream(&new));
    pycket.signal("HUP");
    // The first one goes on without a store.
    drop((connection, store));
    in_time("the second one holds", || {
        (Browser::at(&pycket).get("/").text() == "new {}").then_some(())
    });
    pycket.reload("limits.max_body = '1MiB'");
    assert_eq!(pycket.stop().code, Some(0));
}

#[test]
fn reloads_leave_no_connection_behind() {
    let app = Http2Server::start(|_| ok("app"));
    let redis = RedisServer::start();
    let clients = || {
        let Reply::Text(list) = redis.command(&["CLIENT", "LIST"]) else {
            panic!("it is a text");
        };
        // Without the one that asks.
        String::from_utf8(list).unwrap().lines().count() - 1
    };
    let config = format!("upstream = 'h2c://{}'\nworkers = 2", app.address());
    let mut pycket = Pycket::to(app.address())
        .config(&config)
        .redis(&redis)
        .start();
    let folder = format!("/proc/{}/fd", pycket.pid());
    let descriptors = || std::fs::read_dir(&folder).unwrap().count();
    let ask = |pycket: &Pycket| {
        // One worker or the other; each gets its connection to the application.
        for _ in 0..20 {
            assert_eq!(Browser::at(pycket).get("/").text(), "app");
        }
    };
    in_time("both workers are connected", || {
        (clients() == 2).then_some(())
    });
    ask(&pycket);
    pycket.reload("limits.max_body = '1MiB'");
    in_time("the old ones are gone", || (clients() == 2).then_some(()));
    let after_one = descriptors();
    for turn in 2..10 {
        ask(&pycket);
        pycket.reload(&format!("limits.max_body = '{turn}MiB'"));
    }
    in_time("there are two, as before", || {
        (clients() == 2).then_some(())
    });
    in_time("there are no more descriptors than after one", || {
        (descriptors() <= after_one).then_some(())
    });
}

/// Clients that ask by connections of their own, and open new ones when they are told to, until
/// `change` is done; how many answers they got. None may be missing.
pub(crate) fn load(address: SocketAddr, change: impl FnOnce()) -> usize {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = iter::repeat_with(|| {
            scope.spawn(|| {
                let mut answers = 0;
                let mut wire = Wire::connect(&address);
                while !done.load(Ordering::Relaxed) {
                    wire.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
                    let head = wire.read_head();
                    assert_eq!(head.status(), 200);
                    let length = head.fields.one("Content-Length").unwrap().parse().unwrap();
                    wire.read_exactly(length);
                    answers += 1;
                    if head
                        .fields
                        .one("Connection")
                        .is_some_and(|it| it == "close")
                    {
                        wire = Wire::connect(&address);
                    }
                }
                answers
            })
        })
        .take(4)
        .collect();
        change();
        done.store(true, Ordering::Relaxed);
        clients.into_iter().map(|it| it.join().unwrap()).sum()
    })
}

/// What h2load asks of this URL must all be answered.
pub(crate) fn h2load(url: &str, arguments: &[&str], count: usize) {
    let requests = count.to_string();
    let usual = ["-n", &requests, "-c", "8", "-t", "1"];
    let report = tool(
        "h2load",
        "nghttp2-client",
        &[&usual, arguments, &[url]].concat(),
    )
    .stdout;
    let all = format!("{count} total, {count} started, {count} done, {count} succeeded, 0 failed");
    assert!(report.contains(&all), "{report}");
}

#[test]
fn reloads_under_load_lose_no_request() {
    let (one, two) = (named("one"), named("two"));
    let mut pycket = Pycket::with(&one).start();
    let address = pycket.address();
    let answers = thread::scope(|scope| {
        let url = format!("http://{address}/");
        let url1 = url.clone();
        let http1 = scope.spawn(move || h2load(&url1, &["--h1"], 3000));
        let http2 = scope.spawn(move || h2load(&url, &["-m", "8"], 3000));
        load(address, || {
            let mut turn = [&two, &one].into_iter().cycle();
            let mut reloads = 0;
            while reloads < 10 || !http1.is_finished() || !http2.is_finished() {
                let app = turn.next().unwrap();
                pycket.reload(&upstream(app));
                reloads += 1;
            }
        })
    });
    assert!(answers > 10, "{answers}");
    for app in [&one, &two] {
        assert!(!app.requests().is_empty());
    }
    assert_eq!(pycket.stop().code, Some(0));
}
