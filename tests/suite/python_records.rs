//! What the proxy does to the library's records, byte by byte, and what it leaves alone.

use serde_json::{Value, json};

use crate::harness::Browser;
use crate::python_app::{self, PythonApp, Shared, on_both_stores, python_says};
use crate::servers::Reply;
use crate::stage::{COOKIE, Stage, Store, cookie, id_in, number, obedient, page};

const DAY: i64 = 24 * 60 * 60;

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
    const SCRIPT: &str = "import json, pickletools, sys\n\
        opcodes = list(pickletools.genops(bytes(json.loads(sys.argv[1]))))\n\
        needed = max(opcode.proto for opcode, _, _ in opcodes)\n\
        opcode, stated, _ = opcodes[0]\n\
        protocol = stated if opcode.name == 'PROTO' else needed\n\
        assert needed <= protocol, opcodes\n\
        print(protocol)";
    python_says(SCRIPT, &format!("{record:?}")).parse().unwrap()
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
            assert_eq!(both.at_proxy(&mut browser, &[set]).status, 200);
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
            both.at_proxy(&mut browser, &signals);
            let id = id_in(&cookie(&browser));
            assert_eq!(protocol(&both.record(&id).unwrap()), expected);
            if let Store::Redis(redis) | Store::Near(redis) = &both.stage.store {
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
        Store::Redis(server) | Store::Near(server) => number(server, &["TTL", id]),
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
        Store::Redis(server) | Store::Near(server) => {
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
        both.at_proxy(&mut browser, &["X-Session-Set: user=alice"]);
        assert!(seconds_left(both, &id) <= 1000);
        both.at_proxy(&mut browser, &["X-Session-Set: theme=dark"]);
        let left = seconds_left(both, &id);
        assert!((DAY - 60..=DAY).contains(&left), "{left} s");
    });
}

#[test]
fn notifications_in_redis_live_for_a_day_of_their_own() {
    let both = Shared::on(Store::redis(), "");
    let (Store::Redis(redis) | Store::Near(redis)) = &both.stage.store else {
        unreachable!("it has just been made");
    };
    let mut browser = both.alice();
    let id = id_in(&cookie(&browser));
    python_app::notify(&mut browser, "news", &json!("later"));
    expire(&both, &id, 1000);
    redis.command_in(1, &[b"EXPIRE", id.as_bytes(), b"2000"]);
    both.at_proxy(&mut browser, &["X-Notifications-Set: flash=hello"]);
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
        both.at_proxy(&mut browser, &["X-Session-Control: renew"]);
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
            assert_eq!(both.at_proxy(&mut browser, &[signal]).status, 200);
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
        both.at_proxy(&mut browser, &[replace, delete]);

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
        both.at_proxy(&mut browser, &["X-Session-Control: clear"]);
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
        both.at_proxy(&mut browser, &["X-Session-Set: user=bob"]);
        assert_eq!(both.session(&mut browser), json!({"user": "bob"}));
        both.at_proxy(&mut browser, &["X-Session-Delete: k"]);
        browser.go_to(&both.library);
        assert_eq!(python_app::names(&mut browser), json!(["user"]));
        assert!(!file.exists());
    });
}

#[test]
fn one_redis_database_for_both_is_one_record_for_both() {
    let store = Store::redis();
    let (Store::Redis(redis) | Store::Near(redis)) = &store else {
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
