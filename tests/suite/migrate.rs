//! `pycket migrate`: sessions move between stores and formats, and nobody is logged out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Browser, Process, Pycket, program};
use crate::operator::{
    Desk, native_in_memcached, native_in_redis, pycket_in_memcached, pycket_in_redis,
};
use crate::python_app::{self, PythonApp};
use crate::servers::{MemcachedServer, RedisServer, Reply};
use crate::stage::{cookie, id_in, in_time, number, obedient, page, post};

/// A session of the library: `{"user": "bob"}`, in a pickle that all versions of Python read.
const BOB: &str = "(dp0\nVuser\np1\nVbob\np2\ns.";

/// A native record of nothing that was ever written.
const GARBAGE: &[u8] = b"\x80\x02garbage";

/// Runs a migration, and gives its report.
#[track_caller]
fn migrate(desk: &Desk, from: &str, to: &str, more: &[&str]) -> Value {
    let (code, report) = migrate_partly(desk, from, to, more);
    assert_eq!(code, Some(0), "{report}");
    report
}

/// Runs a migration that may leave sessions behind.
#[track_caller]
fn migrate_partly(desk: &Desk, from: &str, to: &str, more: &[&str]) -> (Option<i32>, Value) {
    let arguments = ["migrate", "--from", from, "--to", to, "--output", "json"];
    let said = desk.run(&[&arguments, more].concat());
    let report = serde_json::from_str(&said.stdout);
    (said.code, report.unwrap_or_else(|_| panic!("{said:?}")))
}

/// Checks counts of a report.
#[track_caller]
fn assert_counts(report: &Value, counts: &[(&str, u64)]) {
    for (name, count) in counts {
        assert_eq!(report[*name], *count, "{name}: {report}");
    }
}

/// Fills a database with so many sessions of the library.
fn fill(redis: &RedisServer, count: usize) {
    let script = "for i = 1, tonumber(ARGV[1]) do \
        redis.call('SET', string.format('%08x-89ab-cdef-0123-456789abcdef', i), ARGV[2], 'EX', 5000) \
        end return 1";
    let filled = redis.command(&["EVAL", script, "0", &count.to_string(), BOB]);
    assert_eq!(filled, Reply::Number(1));
}

/// A browser with a session at the library, in which there are a value, a value that JSON can't
/// say, and a notification.
fn alice(library: &PythonApp) -> Browser {
    let mut browser = Browser::at(library);
    python_app::set(&mut browser, "user", &json!("alice"));
    python_app::put(&mut browser, "point", "object");
    python_app::notify(&mut browser, "flash", &json!("hello"));
    browser
}

/// What the library shows of such a session.
#[track_caller]
fn assert_is_alice(browser: &mut Browser) {
    assert_is_alice_but_for_notifications(browser);
    assert_eq!(python_app::show(browser, "flash"), json!("hello"));
}

#[track_caller]
fn assert_is_alice_but_for_notifications(browser: &mut Browser) {
    assert_eq!(python_app::get(browser, "user"), json!("alice"));
    assert_eq!(python_app::names(browser), json!(["point", "user"]));
    assert!(python_app::kept(browser, "point", "object"));
}

/// Milliseconds until a key ends.
fn left(redis: &RedisServer, key: &str) -> i64 {
    number(redis, &["PTTL", key])
}

#[test]
fn sessions_of_the_library_go_on_in_the_proxys_format_and_end_when_they_would_have() {
    let (redis, desk) = (RedisServer::start(), Desk::new());
    let library = PythonApp::redis(&redis).start();
    let mut browser = Browser::at(&library);
    python_app::set(&mut browser, "user", &json!("alice"));
    python_app::notify(&mut browser, "flash", &json!("hello"));
    let id = id_in(&cookie(&browser));
    for database in [0, 1] {
        let expire = [b"PEXPIRE", id.as_bytes(), b"4000000"];
        let set = redis.command_in(database, &expire.map(AsRef::as_ref));
        assert_eq!(set, Reply::Number(1));
    }
    let only_notified = {
        let mut browser = Browser::at(&library);
        python_app::notify(&mut browser, "flash", &json!("only that"));
        browser
    };
    redis.set(0, "cache:1", b"of somebody else");
    let from = desk.config("from", &pycket_in_redis(&redis));
    let to = desk.config("to", &native_in_redis(&redis));
    let report = migrate(&desk, &from, &to, &[]);
    assert_counts(&report, &[("seen", 2), ("copied", 2), ("lossy", 0)]);
    let end = left(&redis, &format!("pycket:{id}"));
    assert!((3_900_000..=4_000_000).contains(&end), "{end}");

    let app = obedient();
    let pycket = Pycket::with(&app).redis(&redis).start();
    browser.go_to(&pycket);
    page(&mut browser, "/", &[]);
    let seen = app.request(1);
    assert_eq!(seen.session(), json!({"user": "alice"}));
    assert_eq!(seen.notifications(), Some(json!({"flash": "hello"})));
    // It was used, so that it lives on as sessions of the proxy do.
    let end = left(&redis, &format!("pycket:{id}"));
    assert!(end > 80_000_000, "{end}");
    let mut browser = only_notified;
    browser.go_to(&pycket);
    page(&mut browser, "/", &[]);
    assert_eq!(
        app.request(2).notifications(),
        Some(json!({"flash": "only that"}))
    );
    assert!(redis.get(0, &id).is_some(), "the source is as it was");
}

#[test]
fn sessions_of_the_proxy_go_on_at_the_library() {
    let (redis, desk) = (RedisServer::start(), Desk::new());
    let app = obedient();
    let pycket = Pycket::with(&app).redis(&redis).start();
    let mut browser = Browser::at(&pycket);
    let lines = ["X-Session-Set: user=alice", "X-Notifications-Set: flash=hi"];
    post(&mut browser, "/", &lines);
    let id = id_in(&cookie(&browser));
    assert_eq!(
        number(&redis, &["PEXPIRE", &format!("pycket:{id}"), "4000000"]),
        1
    );
    let mut chosen = Browser::at(&pycket);
    post(
        &mut chosen,
        "/",
        &["X-Session-Set: a=1", "X-Session-Control: ttl=60"],
    );

    let from = desk.config("from", &native_in_redis(&redis));
    let to = desk.config("to", &pycket_in_redis(&redis));
    let (code, report) = migrate_partly(&desk, &from, &to, &[]);
    assert_eq!(
        code,
        Some(1),
        "one has a lifetime that the library can't keep"
    );
    assert_counts(&report, &[("copied", 1), ("lossy_not_copied", 1)]);
    assert_eq!(report["losses"], json!({"setting ttl: format": 1}));
    let end = left(&redis, &id);
    assert!((3_900_000..=4_000_000).contains(&end), "{end}");
    let library = PythonApp::redis(&redis).start();
    browser.go_to(&library);
    assert_eq!(python_app::get(&mut browser, "user"), json!("alice"));
    assert_eq!(python_app::show(&mut browser, "flash"), json!("hi"));
}

#[test]
fn the_librarys_records_go_from_redis_to_memcached_and_back_with_all_that_is_in_them() {
    let (first, second) = (RedisServer::start(), RedisServer::start());
    let memcached = MemcachedServer::start();
    let desk = Desk::new();
    let library = PythonApp::redis(&first).start();
    let mut browser = alice(&library);
    let id = id_in(&cookie(&browser));
    for database in [0, 1] {
        let expire = [b"PEXPIRE", id.as_bytes(), b"4000000"];
        let set = first.command_in(database, &expire.map(AsRef::as_ref));
        assert_eq!(set, Reply::Number(1));
    }
    let redis = desk.config("redis", &pycket_in_redis(&first));
    let between = desk.config("between", &pycket_in_memcached(&memcached));
    let back = desk.config("back", &pycket_in_redis(&second));
    let report = migrate(&desk, &redis, &between, &[]);
    assert_counts(&report, &[("copied", 1), ("lossy", 0)]);
    let in_memcached = PythonApp::memcached(&memcached).start();
    let mut looker = browser.clone();
    looker.go_to(&in_memcached);
    assert_eq!(python_app::show(&mut looker, "flash"), json!("hello"));
    assert_is_alice_but_for_notifications(&mut looker);

    // The lifetime there is now that of the last change; a fresh copy has the old one.
    assert_eq!(memcached.command("flush_all"), "OK");
    let report = migrate(&desk, &redis, &between, &["--delete-source"]);
    assert_counts(&report, &[("copied", 1), ("deleted_at_source", 1)]);
    assert_eq!(number(&first, &["DBSIZE"]), 0);
    let report = migrate(&desk, &between, &back, &["--delete-source"]);
    assert_counts(&report, &[("copied", 1), ("deleted_at_source", 1)]);
    assert_eq!(memcached.get(&id), None);
    let end = left(&second, &id);
    assert!((3_900_000..=4_001_000).contains(&end), "{end}");
    let library = PythonApp::redis(&second).start();
    assert_is_alice(browser.go_to(&library));
}

#[test]
fn native_sessions_go_through_memcached_fleets_with_their_times() {
    let (first, second) = (RedisServer::start(), RedisServer::start());
    let fleet = [MemcachedServer::start(), MemcachedServer::start()];
    let desk = Desk::new();
    let app = obedient();
    let pycket = Pycket::with(&app).redis(&first).start();
    let mut browsers: Vec<Browser> = (0..20)
        .map(|number| {
            let mut browser = Browser::at(&pycket);
            post(
                &mut browser,
                "/",
                &[&format!("X-Session-Set: user={number}")],
            );
            browser
        })
        .collect();
    let addresses = fleet.each_ref().map(MemcachedServer::address);
    let servers = format!("engine = 'memcached'\n[storage]\nservers = {addresses:?}\n");
    let from = desk.config("from", &native_in_redis(&first));
    let between = desk.config("between", &servers);
    let to = desk.config("to", &native_in_redis(&second));
    let report = migrate(&desk, &from, &between, &["--batch", "3"]);
    assert_counts(&report, &[("seen", 20), ("copied", 20)]);
    let report = migrate(&desk, &between, &to, &["--batch", "3"]);
    assert_counts(&report, &[("seen", 20), ("copied", 20)]);
    let there = Pycket::with(&app).redis(&second).start();
    for (number, browser) in browsers.iter_mut().enumerate() {
        let key = format!("pycket:{}", id_in(&cookie(browser)));
        assert_eq!(
            first.get(0, &key),
            second.get(0, &key),
            "not a bit is another"
        );
        assert!(left(&second, &key) > 80_000_000);
        page(browser.go_to(&there), "/", &[]);
        let seen = app.requests().last().unwrap().session();
        assert_eq!(seen, json!({"user": number.to_string()}));
    }
}

#[test]
fn a_dry_run_writes_nothing_and_says_what_would_be_lost() {
    let (old, new, desk) = (RedisServer::start(), RedisServer::start(), Desk::new());
    let library = PythonApp::redis(&old).start();
    let mut browser = alice(&library);
    let mut other = Browser::at(&library);
    python_app::put(&mut other, "when", "datetime");
    python_app::put(&mut other, "tags", "set");
    fill(&old, 7);
    let from = desk.config("from", &pycket_in_redis(&old));
    let to = desk.config("to", &native_in_redis(&new));
    let before = (
        number(&old, &["DBSIZE"]),
        old.get(0, &id_in(&cookie(&browser))),
    );
    let (code, report) = migrate_partly(&desk, &from, &to, &["--dry-run", "--delete-source"]);
    assert_eq!(code, Some(1));
    assert_eq!(report["dry_run"], true);
    let counts = [
        ("seen", 9),
        ("copied", 7),
        ("lossy", 2),
        ("lossy_not_copied", 2),
    ];
    assert_counts(&report, &counts);
    let losses = json!({
        "value point: object": 1, "value tags: set": 1, "value when: object": 1,
    });
    assert_eq!(report["losses"], losses);
    assert_eq!(number(&new, &["DBSIZE"]), 0);
    let after = (
        number(&old, &["DBSIZE"]),
        old.get(0, &id_in(&cookie(&browser))),
    );
    assert_eq!(after, before);

    let report = migrate(&desk, &from, &to, &["--lossy"]);
    assert_counts(
        &report,
        &[("copied", 9), ("lossy", 2), ("lossy_not_copied", 0)],
    );
    let app = obedient();
    let pycket = Pycket::with(&app).redis(&new).start();
    page(browser.go_to(&pycket), "/", &[]);
    assert_eq!(app.request(1).session(), json!({"user": "alice"}));
}

#[test]
fn a_migration_that_is_killed_goes_on_where_it_was() {
    const COUNT: usize = 3000;
    let (old, new, desk) = (RedisServer::start(), RedisServer::start(), Desk::new());
    fill(&old, COUNT);
    let from = desk.config("from", &pycket_in_redis(&old));
    let to = desk.config("to", &native_in_redis(&new));
    let path = desk.path("state");
    let state = path.to_str().unwrap();
    let more = ["--delete-source", "--state", state, "--batch", "20"];
    let arguments = ["migrate", "--from", &from, "--to", &to];
    let mut running = desk.start(&[&arguments[..], &more].concat());
    // The databases of notifications and of values are walked one after the other.
    in_time("the state", || path.exists().then_some(()));
    in_time("copies", || (number(&new, &["DBSIZE"]) > 20).then_some(()));
    running.kill().unwrap();
    running.wait().unwrap();
    let copied = usize::try_from(number(&new, &["DBSIZE"])).unwrap();
    assert!(
        (1..COUNT).contains(&copied),
        "{copied} before it was killed"
    );

    let again = [&arguments[..], &more, &["--output", "json"]].concat();
    let said = desk.run(&again);
    assert!(
        said.stderr
            .contains("going on where an earlier run has stopped")
    );
    let report = said.json();
    // What the batch that was cut off had moved is moved, and counted by nobody.
    assert_eq!(report["failed"], 0);
    assert_eq!(number(&new, &["DBSIZE"]), 3000);
    assert_eq!(number(&old, &["DBSIZE"]), 0);

    let said = desk.run(&again);
    assert!(
        said.stderr.contains("this migration is finished"),
        "{said:?}"
    );
    assert_eq!(said.json(), report);
    let other = desk.config("other", &native_in_redis(&old));
    let arguments = ["migrate", "--from", &from, "--to", &other];
    let said = desk.run(&[&arguments[..], &more].concat());
    assert_eq!(said.code, Some(2));
    assert!(
        said.stderr.contains("it is of another migration"),
        "{said:?}"
    );
}

#[test]
fn a_store_that_stands_still_for_a_while_is_waited_for() {
    let (old, new, desk) = (RedisServer::start(), RedisServer::start(), Desk::new());
    fill(&old, 2000);
    let from = desk.config("from", &pycket_in_redis(&old));
    let to = desk.config("to", &native_in_redis(&new));
    let arguments = ["migrate", "--from", &from, "--to", &to, "--delete-source"];
    let mut running = Process::start(program().args(arguments), "of this project");
    in_time("copies", || (number(&new, &["DBSIZE"]) > 20).then_some(()));
    new.pause();
    running.stderr_line("that", |line| {
        line.contains("the store is down").then_some(())
    });
    new.resume();
    let ended = running.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(number(&new, &["DBSIZE"]), 2000);
    assert_eq!(number(&old, &["DBSIZE"]), 0);
}

#[test]
fn a_cursor_of_another_run_of_redis_does_not_count() {
    let (old, new, desk) = (RedisServer::start(), RedisServer::start(), Desk::new());
    fill(&old, 100);
    let from = desk.config("from", &pycket_in_redis(&old));
    let to = desk.config("to", &native_in_redis(&new));
    let path = desk.path("state");
    let more = ["--state", path.to_str().unwrap(), "--batch", "10"];
    migrate(&desk, &from, &to, &more);
    // As if it had been broken off, and Redis had then been started again with its data.
    let text = std::fs::read_to_string(&path).unwrap();
    let mut state: Value = serde_json::from_str(&text).unwrap();
    state["finished"] = json!(false);
    state["position"] = json!("1/0:3 0123456789abcdef0123456789abcdef01234567");
    std::fs::write(&path, state.to_string()).unwrap();
    assert_eq!(new.command(&["FLUSHALL"]), Reply::Text(b"OK".to_vec()));
    migrate(&desk, &from, &to, &more);
    assert_eq!(number(&new, &["DBSIZE"]), 100);
}

#[test]
fn a_migration_from_memcached_goes_on_where_it_was() {
    let (memcached, redis, desk) = (MemcachedServer::start(), RedisServer::start(), Desk::new());
    for number in 0..2000 {
        let id = format!("{number:08x}-89ab-cdef-0123-456789abcdef");
        memcached.set(&id, 0, BOB.as_bytes());
    }
    let from = desk.config("from", &pycket_in_memcached(&memcached));
    let to = desk.config("to", &native_in_redis(&redis));
    let path = desk.path("state");
    let state = path.to_str().unwrap();
    let arguments = ["migrate", "--from", &from, "--to", &to, "--output", "json"];
    let arguments = [&arguments[..], &["--state", state, "--batch", "5"]].concat();
    let mut running = desk.start(&arguments);
    in_time("the state", || path.exists().then_some(()));
    running.kill().unwrap();
    running.wait().unwrap();
    let copied = number(&redis, &["DBSIZE"]);
    assert!((1..2000).contains(&copied), "{copied} before it was killed");
    let report = desk.run(&arguments).json();
    assert_eq!(number(&redis, &["DBSIZE"]), 2000);
    // Only the batch that was cut off was done twice.
    let seen = report["seen"].as_u64().unwrap();
    assert_eq!(seen, 2000, "{report}");
    assert!(report["already_there"].as_u64().unwrap() <= 5, "{report}");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("89ab-cdef"), "no id is in the state");
}

#[test]
fn what_can_not_be_read_is_named_and_left_alone() {
    let (old, new, desk) = (RedisServer::start(), RedisServer::start(), Desk::new());
    fill(&old, 3);
    let id = "ffffffff-89ab-cdef-0123-456789abcdef";
    old.set(0, id, GARBAGE);
    old.set(
        0,
        "ffffffff-89ab-cdef-0123-456789abcdef:x",
        b"of somebody else",
    );
    old.command(&["HSET", "eeeeeeee-89ab-cdef-0123-456789abcdef", "a", "b"]);
    let from = desk.config("from", &pycket_in_redis(&old));
    let to = desk.config("to", &native_in_redis(&new));
    let (code, report) = migrate_partly(&desk, &from, &to, &["--delete-source", "--lossy"]);
    assert_eq!(code, Some(1));
    let counts = [("copied", 3), ("unreadable", 2), ("other_keys", 1)];
    assert_counts(&report, &counts);
    let problems = report["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 2);
    for problem in problems {
        assert_eq!(problem["session"].as_str().unwrap().len(), 22);
        assert!(!problem["reason"].as_str().unwrap().contains("ffffffff"));
    }
    assert_eq!(old.get(0, id).as_deref(), Some(GARBAGE));
    assert_eq!(number(&old, &["DBSIZE"]), 3);
    assert_eq!(number(&new, &["DBSIZE"]), 3);
}

#[test]
fn what_is_at_the_target_is_left_alone_unless_it_shall_be_overwritten() {
    let (redis, desk) = (RedisServer::start(), Desk::new());
    let app = obedient();
    let other = "storage.key_prefix = 'other:'";
    let pycket = Pycket::with(&app).redis(&redis).start();
    let there = Pycket::with(&app).redis(&redis).config(other).start();
    let mut browser = Browser::at(&pycket);
    post(&mut browser, "/", &["X-Session-Set: user=alice"]);
    let from = desk.config("from", &native_in_redis(&redis));
    let to = native_in_redis(&redis) + "key_prefix = 'other:'\n";
    let to = desk.config("to", &to);
    migrate(&desk, &from, &to, &[]);
    browser.go_to(&there);
    post(&mut browser, "/", &["X-Session-Set: user=bob"]);
    let mut user = |expected: &str| {
        page(&mut browser, "/", &[]);
        let seen = app.requests().last().unwrap().session();
        assert_eq!(seen, json!({"user": expected}));
    };
    let report = migrate(&desk, &from, &to, &["--delete-source"]);
    assert_counts(&report, &[("left_alone", 1), ("deleted_at_source", 0)]);
    user("bob");
    let report = migrate(&desk, &from, &to, &["--overwrite"]);
    assert_counts(&report, &[("copied", 1), ("overwritten", 1)]);
    user("alice");
    let report = migrate(&desk, &from, &to, &["--delete-source"]);
    assert_counts(&report, &[("already_there", 1), ("deleted_at_source", 1)]);
    user("alice");
    assert_eq!(number(&redis, &["DBSIZE"]), 1);
}

#[test]
fn one_store_under_two_names_is_refused_before_anything_is_deleted() {
    let (redis, desk) = (RedisServer::start(), Desk::new());
    fill(&redis, 3);
    let from = desk.config("from", &pycket_in_redis(&redis));
    let alias = format!("{}host = 'localhost'\n", pycket_in_redis(&redis));
    let bare = format!("{}key_prefix = ''\n", native_in_redis(&redis));
    for to in [pycket_in_redis(&redis), alias, bare] {
        let to = desk.config("to", &to);
        let said = desk.run(&["migrate", "--from", &from, "--to", &to, "--delete-source"]);
        assert_eq!(said.code, Some(2), "{said:?}");
        assert!(said.stderr.contains("source and target are the same"));
        assert_eq!(number(&redis, &["DBSIZE"]), 3);
    }
}

#[test]
fn the_fallback_of_the_target_is_the_source_where_none_is_named() {
    let (old, new, desk) = (RedisServer::start(), RedisServer::start(), Desk::new());
    fill(&old, 5);
    let fallback = fallback(&old);
    // No cookie is looked at, so there need be no secret.
    let to = desk.file("to", &(native_in_redis(&new) + &fallback));
    desk.run(&["migrate", "--to", &to, "--delete-source"])
        .fine();
    assert_eq!(number(&new, &["DBSIZE"]), 5);
    assert_eq!(number(&old, &["DBSIZE"]), 0);
    let alone = desk.config("alone", &native_in_redis(&new));
    let said = desk.run(&["migrate", "--to", &alone]);
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("give --from FILE"));
}

fn fallback(old: &RedisServer) -> String {
    let port = old.port();
    format!("[storage.fallback]\nengine = 'redis'\nformat = 'pycket'\nport = {port}\n")
}

/// Sets values one after the other until it is told to stop, and gives the last one.
fn keep_changing(mut browser: Browser, name: &str, stop: &AtomicBool) -> u64 {
    let mut last = 0;
    while !stop.load(Ordering::SeqCst) {
        last += 1;
        let set = format!("X-Session-Set: {name}={last}");
        let response = post(&mut browser, "/", &[&set]);
        assert_eq!(response.status, 200);
    }
    last
}

#[test]
fn nobody_is_logged_out_and_no_change_is_lost_while_sessions_move_under_load() {
    let (old, new, desk) = (RedisServer::start(), RedisServer::start(), Desk::new());
    let library = PythonApp::redis(&old).start();
    fill(&old, 1000);
    let mut browsers: Vec<Browser> = (0..10)
        .map(|number| {
            let mut browser = Browser::at(&library);
            python_app::set(&mut browser, "user", &json!(number));
            browser
        })
        .collect();
    let app = obedient();
    let proxies: Vec<Pycket> = {
        let first = Pycket::with(&app)
            .redis(&new)
            .config(&fallback(&old))
            .start();
        vec![first.twin(), first]
    };
    let to = desk.config("to", &(native_in_redis(&new) + &fallback(&old)));
    let stop = AtomicBool::new(false);
    let last: Vec<Vec<u64>> = thread::scope(|scope| {
        // They begin one after the other, while the migration is under way.
        let mut running: Vec<Vec<_>> = Vec::new();
        let migration = scope.spawn(|| {
            let report = desk.run(&["migrate", "--to", &to, "--delete-source", "--batch", "10"]);
            stop.store(true, Ordering::SeqCst);
            report.fine()
        });
        for browser in &browsers {
            let tabs = proxies.iter().zip(["a", "b"]).map(|(proxy, name)| {
                let (mut browser, stop) = (browser.clone(), &stop);
                browser.go_to(proxy);
                scope.spawn(move || keep_changing(browser, name, stop))
            });
            running.push(tabs.collect());
        }
        migration.join().expect("the migration succeeds");
        let ended = running.into_iter().map(|tabs| {
            let ended = tabs
                .into_iter()
                .map(|tab| tab.join().expect("nothing fails"));
            ended.collect()
        });
        ended.collect()
    });
    for (number, (browser, last)) in browsers.iter_mut().zip(&last).enumerate() {
        browser.go_to(&proxies[0]);
        page(browser, "/", &[]);
        let seen = app.requests().last().unwrap().session();
        let mut expected = json!({"user": number});
        for (name, last) in ["a", "b"].iter().zip(last) {
            if *last > 0 {
                expected[*name] = json!(last.to_string());
            }
        }
        assert_eq!(seen, expected, "browser {number}");
    }
    assert_eq!(number(&old, &["DBSIZE"]), 0);
    assert_eq!(number(&new, &["DBSIZE"]), 1010);
}

#[test]
fn a_change_at_the_source_is_copied_before_the_source_is_deleted() {
    let (redis, desk) = (RedisServer::start(), Desk::new());
    let app = obedient();
    let pycket = Pycket::with(&app).redis(&redis).start();
    let browsers: Vec<Browser> = (0..6)
        .map(|number| {
            let mut browser = Browser::at(&pycket);
            post(
                &mut browser,
                "/",
                &[&format!("X-Session-Set: user={number}")],
            );
            browser
        })
        .collect();
    let from = desk.config("from", &native_in_redis(&redis));
    let to = desk.config("to", &(native_in_redis(&redis) + "key_prefix = 'other:'\n"));
    let stop = AtomicBool::new(false);
    // Each changes its session at the source until that is gone from there, and counts what the
    // access log says is kept.
    let change = |number: usize, mut browser: Browser| {
        let mut last = 0_u64;
        while !stop.load(Ordering::SeqCst) {
            let path = format!("/{number}/{last}");
            post(
                &mut browser,
                &path,
                &[&format!("X-Session-Set: n={}", last + 1)],
            );
            if pycket.access(|line| line["path"] == path.as_str())["wrote"] != "replaced" {
                break;
            }
            last += 1;
        }
        last
    };
    let last: Vec<u64> = thread::scope(|scope| {
        let change = &change;
        let running = browsers.iter().enumerate().map(|(number, browser)| {
            let browser = browser.clone();
            scope.spawn(move || change(number, browser))
        });
        let running: Vec<_> = running.collect();
        migrate(&desk, &from, &to, &["--delete-source"]);
        stop.store(true, Ordering::SeqCst);
        let ended = running
            .into_iter()
            .map(|tab| tab.join().expect("nothing fails"));
        ended.collect()
    });
    let there = Pycket::with(&app)
        .redis(&redis)
        .config("storage.key_prefix = 'other:'")
        .start();
    for (number, (mut browser, last)) in browsers.into_iter().zip(last).enumerate() {
        browser.go_to(&there);
        page(&mut browser, "/", &[]);
        let seen = app.requests().last().unwrap().session();
        assert_eq!(seen["user"], number.to_string());
        let n = seen["n"].as_str().map_or(0, |n| n.parse().unwrap());
        assert!(
            n == last || n == last + 1,
            "{n} was kept, {last} was written"
        );
    }
}

#[test]
fn values_that_would_turn_into_notifications_are_told_and_left_out() {
    let (redis, memcached) = (RedisServer::start(), MemcachedServer::start());
    let desk = Desk::new();
    let library = PythonApp::redis(&redis).start();
    let mut browser = Browser::at(&library);
    python_app::set(&mut browser, "user", &json!("alice"));
    python_app::set(&mut browser, "flash", &json!("a value"));
    python_app::notify(&mut browser, "note", &json!("undeclared"));
    let from = desk.config("from", &pycket_in_redis(&redis));
    let to = desk.config("to", &pycket_in_memcached(&memcached));
    let (code, report) = migrate_partly(&desk, &from, &to, &[]);
    assert_eq!(code, Some(1));
    let losses = json!({"notification note: undeclared": 1, "value flash: declared": 1});
    assert_eq!(report["losses"], losses);
    assert_eq!(memcached.get(&id_in(&cookie(&browser))), None);
    let report = migrate(&desk, &from, &to, &["--lossy"]);
    assert_counts(&report, &[("copied", 1)]);
    let there = PythonApp::memcached(&memcached).start();
    browser.go_to(&there);
    assert_eq!(python_app::names(&mut browser), json!(["user"]));
}

#[test]
fn native_memcached_records_reach_the_library_in_redis() {
    let (memcached, redis, desk) = (MemcachedServer::start(), RedisServer::start(), Desk::new());
    let app = obedient();
    let pycket = Pycket::with(&app).memcached(&memcached).start();
    let mut browser = Browser::at(&pycket);
    post(&mut browser, "/", &["X-Session-Set: user=alice"]);
    let from = desk.config("from", &native_in_memcached(&memcached));
    let to = desk.config("to", &pycket_in_redis(&redis));
    let report = migrate(&desk, &from, &to, &["--delete-source"]);
    assert_counts(&report, &[("copied", 1), ("deleted_at_source", 1)]);
    let library = PythonApp::redis(&redis).start();
    browser.go_to(&library);
    assert_eq!(python_app::get(&mut browser, "user"), json!("alice"));
}
