//! What the proxy does to the library's records, byte by byte, and what it leaves alone.

use serde_json::{Value, json};

use crate::harness::{Browser, Response};
use crate::python_app::{self, PythonApp, Shared, on_both_stores, python};
use crate::servers::Reply;
use crate::stage::{COOKIE, Stage, Store, cookie, id_in, number, obedient, page, post};

const DAY: i64 = 24 * 60 * 60;

/// At the proxy; its application answers with these lines.
fn at_proxy(both: &Shared, browser: &mut Browser, answer: &[&str]) -> Response {
    post(browser.go_to(&both.stage.pycket), "/", answer)
}

/// What a script for the library's Python prints.
fn python_says(script: &str, argument: &str) -> String {
    let output = python().args(["-c", script, argument]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `{'user': 'alice', 'pair': (1, 'two')}` as Python pickles it in this protocol.
fn pickled(protocol: u8) -> Vec<u8> {
    const SCRIPT: &str = "import pickle, sys\n\
        value = {'user': 'alice', 'pair': (1, 'two')}\n\
        print(*pickle.dumps(value, int(sys.argv[1])))";
    let numbers = python_says(SCRIPT, &protocol.to_string());
    let bytes = numbers.split(' ').map(|byte| byte.parse().unwrap());
    bytes.collect()
}

/// The protocol of a pickle, which Python checks: no opcode is of a later one.
fn protocol(record: &[u8]) -> u8 {
    const SCRIPT: &str = "import pickletools, sys\n\
        opcodes = list(pickletools.genops(bytes.fromhex(sys.argv[1])))\n\
        needed = max(opcode.proto for opcode, _, _ in opcodes)\n\
        opcode, stated, _ = opcodes[0]\n\
        protocol = stated if opcode.name == 'PROTO' else needed\n\
        assert needed <= protocol, opcodes\n\
        print(protocol)";
    python_says(SCRIPT, &hex(record)).parse().unwrap()
}

#[test]
fn record_keeps_the_protocol_that_it_came_with() {
    on_both_stores("", |both| {
        let mut browser = both.alice();
        let id = id_in(&cookie(&browser));
        for written in 0..=5 {
            let came = pickled(written);
            assert_eq!(protocol(&came), written);
            both.put_record(&id, &came);
            let set = r#"X-Session-Set: {"n": [1, 2.5, "gr\u00fcn", null, true, 70000]}"#;
            assert_eq!(at_proxy(both, &mut browser, &[set]).status, 200);
            let record = both.record(&id).unwrap();
            assert_ne!(record, came);
            assert_eq!(protocol(&record), written, "{record:?}");

            browser.go_to(&both.library);
            let set = json!([1, 2.5, "gr\u{fc}n", null, true, 70000]);
            assert_eq!(python_app::get(&mut browser, "n"), set);
            assert_eq!(python_app::get(&mut browser, "user"), json!("alice"));
            assert!(python_app::kept(&mut browser, "pair", "tuple"));
        }
    });
}

#[test]
fn new_record_is_in_the_protocol_that_the_settings_say() {
    for (config, expected) in [("", 2), ("storage.pickle_protocol = 0", 0)] {
        on_both_stores(config, |both| {
            let mut browser = both.stage.browser();
            let signals = [
                "X-Session-Set: user=alice",
                "X-Notifications-Set: flash=hello",
            ];
            at_proxy(both, &mut browser, &signals);
            let id = id_in(&cookie(&browser));
            assert_eq!(protocol(&both.record(&id).unwrap()), expected);
            if let Store::Redis(redis) = &both.stage.store {
                assert_eq!(protocol(&redis.get(1, &id).unwrap()), expected);
            }
            browser.go_to(&both.library);
            assert_eq!(python_app::get(&mut browser, "user"), json!("alice"));
            assert_eq!(python_app::show(&mut browser, "flash"), json!("hello"));
        });
    }
}

/// The seconds that the session's values still have.
fn seconds_left(both: &Shared, id: &str) -> i64 {
    match &both.stage.store {
        Store::Memory => panic!("only the proxy knows"),
        Store::Redis(server) => number(server, &["TTL", id]),
        Store::Memcached(server) => {
            let answer = server.command(&format!("mg {id} t"));
            let seconds = answer.strip_prefix("HD t").map(str::parse);
            seconds.expect("it is there").expect("it ends some time")
        }
    }
}

/// Lets the session's values end in so many seconds.
fn expire(both: &Shared, id: &str, seconds: i64) {
    match &both.stage.store {
        Store::Memory => {}
        Store::Redis(server) => {
            assert_eq!(number(server, &["EXPIRE", id, &seconds.to_string()]), 1);
        }
        Store::Memcached(server) => {
            assert_eq!(server.command(&format!("touch {id} {seconds}")), "TOUCHED");
        }
    }
}

#[test]
fn session_lives_for_a_day_from_its_last_change() {
    on_both_stores("", |both| {
        let mut browser = both.alice();
        let id = id_in(&cookie(&browser));
        expire(both, &id, 1000);
        // A look is no change, nor is what changes nothing.
        both.session(&mut browser);
        page(&mut browser, "/", &[]);
        at_proxy(both, &mut browser, &["X-Session-Set: user=alice"]);
        assert!(seconds_left(both, &id) <= 1000);
        at_proxy(both, &mut browser, &["X-Session-Set: theme=dark"]);
        let left = seconds_left(both, &id);
        assert!((DAY - 60..=DAY).contains(&left), "{left} s");
    });
}

#[test]
fn notifications_in_redis_live_for_a_day_of_their_own() {
    let both = Shared::on(Store::redis(), "");
    let Store::Redis(redis) = &both.stage.store else {
        unreachable!("it has just been made");
    };
    let mut browser = both.alice();
    let id = id_in(&cookie(&browser));
    python_app::notify(&mut browser, "news", &json!("later"));
    expire(&both, &id, 1000);
    redis.command_in(1, &[b"EXPIRE", id.as_bytes(), b"2000"]);
    at_proxy(&both, &mut browser, &["X-Notifications-Set: flash=hello"]);
    assert!(
        seconds_left(&both, &id) <= 1000,
        "the values did not change"
    );
    let Reply::Number(left) = redis.command_in(1, &[b"TTL", id.as_bytes()]) else {
        panic!("a time to live is a number");
    };
    assert!((DAY - 60..=DAY).contains(&left), "{left} s");
}

#[test]
fn renewal_moves_all_of_the_session_to_another_id() {
    on_both_stores("", |both| {
        let mut browser = both.alice();
        python_app::put(&mut browser, "when", "datetime");
        python_app::notify(&mut browser, "flash", &json!("hello"));
        let (old, record) = (cookie(&browser), both.record(&id_in(&cookie(&browser))));
        at_proxy(both, &mut browser, &["X-Session-Control: renew"]);
        let new = cookie(&browser);
        assert_ne!(id_in(&new), id_in(&old));
        both.stage.store.assert_records(1);
        assert_eq!(both.record(&id_in(&old)), None);
        assert_eq!(both.record(&id_in(&new)).is_some(), record.is_some());

        browser.go_to(&both.library);
        assert_eq!(python_app::id(&mut browser), json!(id_in(&new)));
        assert_eq!(python_app::get(&mut browser, "user"), json!("alice"));
        assert!(python_app::kept(&mut browser, "when", "datetime"));
        assert_eq!(python_app::show(&mut browser, "flash"), json!("hello"));

        let mut thief = Browser::at(&both.library);
        thief.plant(COOKIE, &old);
        assert_eq!(python_app::names(&mut thief), json!([]));
        assert_eq!(python_app::waiting(&mut thief), json!([]));
    });
}

/// The kinds of `tests/python/app.py` with what the proxy says is in the way, sorted. One of them
/// JSON can say: a list that is shared.
const KINDS: &str = "\"big\";kind=integer, \"bytes\";kind=bytes, \"datetime\";kind=object, \
    \"decimal\";kind=object, \"numbered\";kind=key, \"object\";kind=object, \
    \"recursive\";kind=recursive, \"set\";kind=set, \"tuple\";kind=tuple";

/// A browser whose session has `user`, and a value of each kind under the kind's name.
fn alice_with_all_kinds(both: &Shared) -> (Browser, Vec<String>) {
    let mut browser = both.alice();
    let kinds = python_app::kinds(&mut browser);
    assert_eq!(kinds.len(), 10);
    for kind in &kinds {
        python_app::put(&mut browser, kind, kind);
    }
    (browser, kinds)
}

/// `X-Session-Opaque`, as the application behind the proxy sees it.
fn opaque(both: &Shared, browser: &mut Browser) -> Option<String> {
    both.session(browser);
    let seen = both.stage.last();
    seen.header("X-Session-Opaque").map(str::to_owned)
}

#[test]
fn values_that_json_cannot_say_are_told_by_name_and_survive() {
    on_both_stores("", |both| {
        let (mut browser, kinds) = alice_with_all_kinds(both);
        let seen = both.session(&mut browser);
        assert_eq!(seen, json!({"user": "alice", "shared": [["one"], ["one"]]}));
        assert_eq!(opaque(both, &mut browser).as_deref(), Some(KINDS));

        for signal in [
            "X-Session-Set: theme=dark",
            "X-Session-Set: theme=light",
            "X-Session-Delete: user",
            "X-Notifications-Set: flash=hello",
            "X-Session-Control: renew",
        ] {
            assert_eq!(at_proxy(both, &mut browser, &[signal]).status, 200);
            let library = browser.go_to(&both.library);
            let lost = |kind: &&String| !python_app::kept(library, kind, kind);
            let lost: Vec<_> = kinds.iter().filter(lost).collect();
            assert!(lost.is_empty(), "{signal}: {lost:?}");
        }
        assert_eq!(python_app::get(&mut browser, "theme"), json!("light"));
        assert_eq!(python_app::get(&mut browser, "user"), Value::Null);
        assert_eq!(opaque(both, &mut browser).as_deref(), Some(KINDS));
    });
}

#[test]
fn values_that_json_cannot_say_are_replaced_and_deleted_by_name() {
    on_both_stores("", |both| {
        let (mut browser, kinds) = alice_with_all_kinds(both);
        let replace = r#"X-Session-Set: {"datetime": "2013-03-11", "set": [1, 2]}"#;
        let delete = "X-Session-Delete: object, recursive, absent";
        at_proxy(both, &mut browser, &[replace, delete]);

        browser.go_to(&both.library);
        let replaced = python_app::get(&mut browser, "datetime");
        assert_eq!(replaced, json!("2013-03-11"));
        assert_eq!(python_app::get(&mut browser, "set"), json!([1, 2]));
        let changed = ["datetime", "set", "object", "recursive"];
        for kind in &kinds {
            let kept = python_app::kept(&mut browser, kind, kind);
            assert_eq!(kept, !changed.contains(&kind.as_str()), "{kind}");
        }
        let names = python_app::names(&mut browser);
        assert_eq!(
            names.as_array().unwrap().len(),
            1 + kinds.len() - 2,
            "{names}"
        );

        let told = opaque(both, &mut browser).unwrap();
        assert!(
            !changed
                .iter()
                .any(|name| told.contains(&format!("\"{name}\""))),
            "{told}"
        );
        at_proxy(both, &mut browser, &["X-Session-Control: clear"]);
        assert_eq!(opaque(both, &mut browser), None);
        assert_eq!(python_app::names(browser.go_to(&both.library)), json!([]));
    });
}

#[test]
fn nothing_in_a_pickle_is_ever_run() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proof");
    let command = format!("touch {}", file.display());
    let length = u32::try_from(command.len()).unwrap().to_le_bytes();
    // {"k": os.system("touch ...")}, as pickle.py would load it.
    let hostile = [
        b"\x80\x02}(X\x01\0\0\0kcposix\nsystem\nX",
        &length[..],
        command.as_bytes(),
        b"\x85Ru.",
    ]
    .concat();
    on_both_stores("", |both| {
        let mut browser = both.alice();
        let id = id_in(&cookie(&browser));
        both.put_record(&id, &hostile);
        assert_eq!(both.session(&mut browser), json!({}));
        let told = opaque(both, &mut browser);
        assert_eq!(told.as_deref(), Some("\"k\";kind=object"));
        at_proxy(both, &mut browser, &["X-Session-Set: user=bob"]);
        assert_eq!(both.session(&mut browser), json!({"user": "bob"}));
        at_proxy(both, &mut browser, &["X-Session-Delete: k"]);
        browser.go_to(&both.library);
        assert_eq!(python_app::names(&mut browser), json!(["user"]));
        assert!(!file.exists());
    });
}

/// Bytes that are no session, with what the log says of them.
fn unreadable() -> Vec<(Vec<u8>, &'static str)> {
    vec![
        (b"hidden garbage".to_vec(), "memo"),
        (b"{\"user\": \"hidden\"}".to_vec(), "unknown opcode 0x7b"),
        (
            b"\x80\x04}\x94\x8c\x04user\x94\x8c\x06hid".to_vec(),
            "it ends too early",
        ),
        (b"\x80\x04].".to_vec(), "expected a plain dictionary"),
        (
            b"cposix\nsystem\n(S\"hidden\"\ntR.".to_vec(),
            "expected a plain dictionary",
        ),
        (
            b"(dp0\nS'k'\np1\nPhidden\ns.".to_vec(),
            "persistent ids are not read",
        ),
        (
            b"\x80\x04}\x8c\x01k\x82\x01s.".to_vec(),
            "the extension registry is not read",
        ),
        (b"\x80\x06}.".to_vec(), "protocol 6 is not one of 0 to 5"),
        (b"\x80\x04}.hidden".to_vec(), "it goes on after its end"),
        (b"(".repeat(10_001), "open marks"),
        (vec![b'.'; 70_000], "session.max_record allows 65536"),
    ]
}

#[test]
fn record_that_cannot_be_read_is_an_error_and_left_alone() {
    on_both_stores("session.max_record = '64KiB'", |both| {
        let mut browser = both.alice();
        let id = id_in(&cookie(&browser));
        let whole = both.record(&id).unwrap();
        browser.go_to(&both.stage.pycket);
        let before = both.stage.app.requests().len();
        for (bytes, why) in unreadable() {
            both.put_record(&id, &bytes);
            for answer in [
                &[][..],
                &["X-Session-Set: user=bob"],
                &["X-Session-Control: renew"],
                &["X-Session-Control: destroy"],
            ] {
                let response = post(&mut browser, "/", answer);
                assert_eq!(response.status, 503, "{why}");
                assert_eq!(response.set_cookies().len(), 0, "{why}");
                assert_eq!(both.record(&id).as_ref(), Some(&bytes), "{why}");
            }
            let line = both.stage.pycket.says(why);
            assert!(!line.contains("hid"), "{line}");
        }
        assert_eq!(both.stage.app.requests().len(), before);
        both.put_record(&id, &whole);
        assert_eq!(both.session(&mut browser), json!({"user": "alice"}));
    });
}

#[test]
fn record_that_cannot_be_read_is_left_alone_where_the_route_goes_on_without() {
    on_both_stores("session.on_store_error = 'anonymous'", |both| {
        let mut browser = both.alice();
        let id = id_in(&cookie(&browser));
        let made = cookie(&browser);
        for (bytes, why) in unreadable() {
            both.put_record(&id, &bytes);
            for signal in ["X-Session-Set: user=bob", "X-Session-Control: renew, clear"] {
                assert_eq!(at_proxy(both, &mut browser, &[signal]).status, 200);
                let state = both
                    .stage
                    .last()
                    .header("X-Session-State")
                    .map(str::to_owned);
                assert_eq!(state.as_deref(), Some("unavailable"), "{why}");
                assert_eq!(both.record(&id).as_ref(), Some(&bytes), "{why}");
                assert_eq!(cookie(&browser), made);
            }
        }
    });
}

#[test]
fn notifications_that_cannot_be_read_are_left_alone_with_the_values() {
    let both = Shared::on(Store::redis(), "");
    let Store::Redis(redis) = &both.stage.store else {
        unreachable!("it has just been made");
    };
    let mut browser = both.alice();
    let id = id_in(&cookie(&browser));
    let values = redis.get(0, &id);
    redis.set(1, &id, b"\x80\x04}.more");
    let response = at_proxy(&both, &mut browser, &["X-Session-Set: user=bob"]);
    assert_eq!(response.status, 503);
    both.stage
        .pycket
        .says("the pickled notifications can't be used");
    assert_eq!(redis.get(0, &id), values);
    assert_eq!(redis.get(1, &id).as_deref(), Some(&b"\x80\x04}.more"[..]));
}

/// A change that the application may not ask for: the answer is 502, the log says why, and the
/// record stays.
#[track_caller]
fn assert_refused(both: &Shared, browser: &mut Browser, signal: &str, why: &str) {
    let id = browser.cookie(COOKIE).map(id_in);
    let record = || id.as_deref().map(|id| both.record(id));
    let before = record();
    let response = at_proxy(both, browser, &[signal]);
    assert_eq!(response.status, 502, "{signal}");
    assert_eq!(response.set_cookies().len(), 0, "{signal}");
    let line = both.stage.pycket.says(why);
    assert!(
        line.contains("the signals were refused"),
        "{signal}: {line}"
    );
    assert!(!line.contains("hidden"), "{signal}: {line}");
    assert_eq!(record(), before, "{signal}");
}

#[test]
fn name_that_is_not_what_it_is_declared_to_be_is_a_mistake_of_the_application() {
    let both = Shared::on(Store::memcached(), "");
    let mut alice = both.alice();
    let mut stranger = both.stage.browser();
    for browser in [&mut alice, &mut stranger] {
        for (signal, why) in [
            (
                "X-Session-Set: a=1&flash=hidden",
                r#"\"flash\" is a notification by storage.notification_names"#,
            ),
            (
                "X-Notifications-Set: other=hidden",
                r#"\"other\" is no notification by storage.notification_names"#,
            ),
            (
                "X-Notifications-Add: another=hidden",
                r#"\"another\" is no notification by storage.notification_names"#,
            ),
        ] {
            assert_refused(&both, browser, signal, why);
        }
    }
    both.stage.store.assert_records(1);
    let line = both.stage.pycket.access(|line| line["status"] == 502);
    assert_eq!(line["error"], "bad_signals", "{line}");
}

#[test]
fn number_that_is_too_large_for_a_record_is_a_mistake_of_the_application() {
    on_both_stores("", |both| {
        let signal = r#"X-Session-Set: {"n": [18446744073709551616]}"#;
        let why = "a number of the value is outside the range of 64 bits";
        assert_refused(both, &mut both.alice(), signal, why);
    });
}

#[test]
fn proxy_that_may_not_write_reads_and_refuses_every_change() {
    on_both_stores("storage.writable = false", |both| {
        let mut browser = both.alice();
        python_app::notify(&mut browser, "flash", &json!("hello"));
        let id = id_in(&cookie(&browser));
        let record = both.record(&id);
        assert_eq!(both.session(&mut browser), json!({"user": "alice"}));
        // It can't take a notification, so it shows none: the library would show it again.
        let response = page(&mut browser, "/", &["200", "X-Session-Set: user=alice"]);
        assert_eq!(response.status, 200);
        assert_eq!(both.stage.last().session(), json!({"user": "alice"}));
        assert_eq!(both.stage.shown(), None);
        for signal in [
            "X-Session-Set: user=bob",
            "X-Session-Delete: user",
            "X-Notifications-Set: news=1",
            "X-Session-Control: clear",
            "X-Session-Control: renew",
            "X-Session-Control: destroy",
        ] {
            let why = "sessions can't be changed: storage.writable = false";
            assert_refused(both, &mut browser, signal, why);
            assert_refused_unless_empty(both, signal, why);
        }
        assert_eq!(both.record(&id), record);
        both.stage.store.assert_records(1);
        browser.go_to(&both.library);
        assert_eq!(python_app::show(&mut browser, "flash"), json!("hello"));
    });
}

/// A stranger's session is not begun either; what asks for nothing of it is fine.
fn assert_refused_unless_empty(both: &Shared, signal: &str, why: &str) {
    let mut stranger = both.stage.browser();
    if signal.contains("Set") {
        assert_refused(both, &mut stranger, signal, why);
    } else {
        assert_eq!(at_proxy(both, &mut stranger, &[signal]).status, 200);
    }
    assert_eq!(stranger.cookie(COOKIE), None);
}

#[test]
fn proxy_that_may_not_write_shows_notifications_where_the_application_takes_them() {
    let config = "storage.writable = false\nnotifications.consume = 'ack'";
    on_both_stores(config, |both| {
        let mut browser = both.alice();
        python_app::notify(&mut browser, "flash", &json!("hello"));
        both.session(&mut browser);
        assert_eq!(both.stage.shown(), Some(json!({"flash": "hello"})));
        let why = "sessions can't be changed: storage.writable = false";
        assert_refused(both, &mut browser, "X-Notifications-Taken: *", why);
        browser.go_to(&both.library);
        assert_eq!(python_app::show(&mut browser, "flash"), json!("hello"));
    });
}

#[test]
fn one_redis_database_for_both_is_one_record_for_both() {
    let store = Store::redis();
    let Store::Redis(redis) = &store else {
        unreachable!("it has just been made");
    };
    let same = json!({"db_sessions": 3, "db_notifications": 3});
    let library = PythonApp::redis(redis).storage(&same).start();
    let config = "storage.format = 'pycket'\nstorage.db_sessions = 3\n\
        storage.db_notifications = 3\nstorage.notification_names = ['flash']";
    let stage = Stage::with(store, obedient(), config);
    let mut browser = Browser::at(&library);
    python_app::set(&mut browser, "user", &json!("alice"));
    python_app::notify(&mut browser, "flash", &json!("hello"));
    page(browser.go_to(&stage.pycket), "/", &["X-Session-Set: n=1"]);
    assert_eq!(stage.last().session(), json!({"user": "alice"}));
    assert_eq!(stage.shown(), Some(json!({"flash": "hello"})));
    browser.go_to(&library);
    assert_eq!(python_app::names(&mut browser), json!(["n", "user"]));
}
