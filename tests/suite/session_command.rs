//! `pycket session`: what is in a store, for people and programs, and mended by hand.

use serde_json::{Value, json};

use crate::harness::{Browser, Pycket, program};
use crate::operator::{
    Desk, native_in_memcached, native_in_redis, pycket_in_memcached, pycket_in_redis,
};
use crate::python_app::{self, PythonApp};
use crate::servers::{MemcachedServer, RedisServer};
use crate::stage::{cookie, id_in, number, obedient, page, post};

const DAY: u64 = 24 * 60 * 60;

/// What one `pycket session` command says of a session.
fn show(desk: &Desk, config: &str, subject: &str, more: &[&str]) -> Value {
    let arguments = ["session", "show", "--config", config, "--output", "json"];
    desk.run(&[&arguments, more, &[subject]].concat()).json()
}

fn names(items: &Value) -> Vec<&str> {
    let items = items.as_array().expect("a list");
    let names = items.iter().map(|item| item["name"].as_str());
    names.collect::<Option<_>>().expect("each has a name")
}

/// A native session with two values and a notification, and its browser.
fn alice(pycket: &Pycket) -> Browser {
    let mut browser = Browser::at(pycket);
    let set = "X-Session-Set: {\"user\":\"alice\",\"cart\":[1,2]}";
    post(&mut browser, "/", &[set, "X-Notifications-Set: flash=hi"]);
    browser
}

#[test]
fn a_session_is_found_by_its_cookie_its_id_its_key_and_its_public_id() {
    let (redis, desk) = (RedisServer::start(), Desk::new());
    let app = obedient();
    let pycket = Pycket::with(&app).redis(&redis).start();
    let browser = alice(&pycket);
    let config = desk.config("config", &native_in_redis(&redis));
    let (cookie, id) = (cookie(&browser), id_in(&cookie(&browser)));
    let first = show(&desk, &config, &cookie, &[]);
    let public = first["session"].as_str().unwrap();
    let key = format!("pycket:{id}");
    for subject in [
        &id,
        &key,
        public,
        &format!("Cookie: a=1; PYCKET_ID={cookie}"),
    ] {
        assert_eq!(show(&desk, &config, subject, &[])["session"], public);
    }
    let arguments = ["session", "show", "--config", &config, "-"];
    let said = desk.run_with_input(&arguments, &format!("{cookie}\n"));
    assert!(said.fine().contains(public));
}

#[test]
fn what_is_shown_has_no_secret_and_no_value_unless_asked_for() {
    let (redis, desk) = (RedisServer::start(), Desk::new());
    let app = obedient();
    let pycket = Pycket::with(&app).redis(&redis).start();
    let browser = alice(&pycket);
    let config = desk.config("config", &native_in_redis(&redis));
    let id = id_in(&cookie(&browser));
    let shown = show(&desk, &config, &id, &[]);
    let end = shown["expires_in_seconds"].as_u64().unwrap();
    assert!((DAY - 60..=DAY).contains(&end), "{end}");
    assert!(shown["created"].is_u64() && shown["last_use"].is_u64());
    let values = json!([
        {"name": "cart", "type": "array", "bytes": 5},
        {"name": "user", "type": "string", "bytes": 7},
    ]);
    assert_eq!(shown["values"], values);
    let waiting = json!([{"name": "flash", "type": "string", "bytes": 4, "state": "waits"}]);
    assert_eq!(shown["notifications"], waiting);

    let table = desk
        .run(&["session", "show", "--config", &config, &id])
        .fine();
    let list = desk.run(&["session", "list", "--config", &config]).fine();
    for hidden in ["alice", "hi\"", id.as_str()] {
        for text in [&shown.to_string(), &table, &list] {
            assert!(!text.contains(hidden), "{hidden}: {text}");
        }
    }
    let open = show(&desk, &config, &id, &["--values", "--secrets"]);
    assert_eq!(open["id"], id);
    assert_eq!(open["key"], format!("pycket:{id}"));
    assert_eq!(open["values"][0]["value"], json!([1, 2]));
    assert_eq!(open["notifications"][0]["value"], "hi");
    let more = ["--values", "--secrets", &id];
    let table = desk.run(&[&["session", "show", "--config", &config], &more[..]].concat());
    let table = table.fine();
    assert!(
        table.contains("\"alice\"") && table.contains(&id),
        "{table}"
    );
}

#[test]
fn an_old_cookie_still_shows_its_session_and_a_forged_one_is_an_error() {
    let (redis, desk) = (RedisServer::start(), Desk::new());
    let app = obedient();
    let pycket = Pycket::with(&app).redis(&redis).start();
    let browser = alice(&pycket);
    let config = desk.config("config", &native_in_redis(&redis));
    let id = id_in(&cookie(&browser));
    let sign = |more: &[&str]| {
        let output = program()
            .args(["cookie", "sign"])
            .args(more)
            .arg(&id)
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let old = sign(&["--config", &config, "--at", "1300000000"]);
    let shown = show(&desk, &config, old.trim(), &[]);
    let remark = shown["remark"].as_str().unwrap();
    assert!(remark.starts_with("the proxy does not take the cookie: signed too long ago"));

    let forged = sign(&["--secret", "another"]);
    let said = desk.run(&["session", "show", "--config", &config, forged.trim()]);
    assert_eq!(said.code, Some(1));
    insta::assert_snapshot!(said.stderr, @"error: the cookie is not valid: the signature does not match; another secret signed it, or it was changed afterwards
");
}

#[test]
fn what_names_no_session_is_said_and_not_repeated() {
    let (redis, desk) = (RedisServer::start(), Desk::new());
    let config = desk.config("config", &native_in_redis(&redis));
    let none = "01234567-89ab-cdef-0123-456789abcdef";
    for command in ["show", "set"] {
        let more: &[&str] = if command == "set" { &["a", "1"] } else { &[] };
        let run = |subject| {
            let arguments = ["session", command, "--config", &config, subject];
            desk.run(&[&arguments, more].concat())
        };
        let said = run(none);
        assert_eq!(said.code, Some(1));
        assert!(
            said.stderr
                .contains("it has ended or expired, or never began")
        );
        let said = run("secret-nonsense");
        assert_eq!(said.code, Some(2));
        assert!(said.stderr.contains("this names no session"));
        assert!(!said.stderr.contains("nonsense"));
    }
    let memory = desk.config("memory", "engine = 'memory'\n");
    let said = desk.run(&["session", "list", "--config", &memory]);
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("nobody else sees them"), "{said:?}");
}

#[test]
fn all_sessions_are_listed_on_both_engines_and_in_both_formats() {
    let (redis, memcached) = (RedisServer::start(), MemcachedServer::start());
    let app = obedient();
    let desk = Desk::new();
    let configs = [
        native_in_redis(&redis),
        native_in_memcached(&memcached),
        pycket_in_redis(&redis),
        pycket_in_memcached(&memcached),
    ];
    let native = [
        Pycket::with(&app).redis(&redis).start(),
        Pycket::with(&app).memcached(&memcached).start(),
    ];
    for pycket in &native {
        for _ in 0..3 {
            alice(pycket);
        }
    }
    let python = [
        PythonApp::redis(&redis).start(),
        PythonApp::memcached(&memcached).start(),
    ];
    for app in &python {
        for _ in 0..3 {
            let mut browser = Browser::at(app);
            python_app::notify(&mut browser, "flash", &json!("only that"));
            let mut browser = Browser::at(app);
            python_app::set(&mut browser, "user", &json!("bob"));
            python_app::put(&mut browser, "when", "datetime");
        }
    }
    for (storage, count) in configs.iter().zip([3, 3, 6, 6]) {
        let config = desk.config("config", storage);
        let list = |more: &[&str]| {
            let arguments = ["session", "list", "--config", &config];
            desk.run(&[&arguments, more].concat())
        };
        let listed = list(&["--output", "json"]).lines();
        assert_eq!(listed.len(), count, "{storage}: {listed:?}");
        let waiting = listed.iter().filter(|row| row["notifications"] == 1);
        assert_eq!(waiting.count(), 3, "{storage}: {listed:?}");
        let said = list(&["--limit", "2"]);
        assert!(said.stderr.contains("there are more"), "{said:?}");
        assert_eq!(said.fine().lines().count(), 3, "a head and two sessions");
        let said = list(&["--limit", &count.to_string()]);
        assert_eq!(said.stderr, "");
    }
}

#[test]
fn a_deleted_session_is_gone_for_its_browser_and_deleting_it_again_is_fine() {
    let (redis, memcached) = (RedisServer::start(), MemcachedServer::start());
    let desk = Desk::new();
    let app = obedient();
    let cases = [
        (
            native_in_redis(&redis),
            Pycket::with(&app).redis(&redis).start(),
        ),
        (
            native_in_memcached(&memcached),
            Pycket::with(&app).memcached(&memcached).start(),
        ),
    ];
    for (storage, pycket) in cases {
        let mut browser = alice(&pycket);
        let config = desk.config("config", &storage);
        let id = id_in(&cookie(&browser));
        let delete = || {
            desk.run(&["session", "delete", "--config", &config, &id])
                .fine()
        };
        assert!(delete().starts_with("deleted "));
        assert!(delete().starts_with("nothing was there under "));
        page(&mut browser, "/", &[]);
        assert_eq!(app.requests().last().unwrap().session(), json!({}));
    }
}

#[test]
fn a_value_is_set_and_deleted_in_the_librarys_records_and_the_rest_of_them_stays() {
    let (redis, memcached) = (RedisServer::start(), MemcachedServer::start());
    let desk = Desk::new();
    let cases = [
        (pycket_in_redis(&redis), PythonApp::redis(&redis).start()),
        (
            pycket_in_memcached(&memcached),
            PythonApp::memcached(&memcached).start(),
        ),
    ];
    for (storage, library) in cases {
        let config = desk.config("config", &storage);
        let mut browser = Browser::at(&library);
        python_app::set(&mut browser, "user", &json!("alice"));
        python_app::put(&mut browser, "point", "object");
        let id = id_in(&cookie(&browser));
        let shown = show(&desk, &config, &id, &["--values"]);
        let point = json!({"name": "point", "type": "opaque", "kind": "object", "bytes": null});
        assert_eq!(shown["values"][0], point);
        assert_eq!(shown["created"], Value::Null, "the library keeps no times");

        let set = |more: &[&str]| {
            let arguments = ["session", "set", "--config", &config, &id];
            desk.run(&[&arguments, more].concat())
        };
        assert!(
            set(&["role", r#"{"admin":true}"#])
                .fine()
                .starts_with("set role")
        );
        assert_eq!(
            python_app::get(&mut browser, "role"),
            json!({"admin": true})
        );
        assert!(
            set(&["role", "--delete"])
                .fine()
                .starts_with("deleted role")
        );
        assert!(
            set(&["role", "--delete"])
                .fine()
                .starts_with("there was no role")
        );
        assert_eq!(python_app::names(&mut browser), json!(["point", "user"]));
        assert!(python_app::kept(&mut browser, "point", "object"));
        assert!(set(&["point", "1"]).fine().starts_with("set point"));
        assert_eq!(python_app::get(&mut browser, "point"), json!(1));
    }
}

#[test]
fn set_refuses_what_the_proxy_would_refuse_and_keeps_the_lifetime() {
    let (redis, desk) = (RedisServer::start(), Desk::new());
    let app = obedient();
    let pycket = Pycket::with(&app).redis(&redis).start();
    let browser = alice(&pycket);
    let limits = "[session]\nmax_names = 3\nmax_name_length = 8\n";
    let config = desk.config("config", &(native_in_redis(&redis) + limits));
    let id = id_in(&cookie(&browser));
    let key = format!("pycket:{id}");
    assert_eq!(number(&redis, &["PEXPIRE", &key, "5000000"]), 1);
    let set = |name: &str, value: &str| {
        let arguments = ["session", "set", "--config", &config, &id, name, value];
        let said = desk.run(&arguments);
        (said.code, said.stdout + &said.stderr)
    };
    let large = format!("\"{}\"", "x".repeat(70_000));
    let refused = [
        (set("name-of-9", "1"), 1, "session.max_name_length allows 8"),
        (set("", "1"), 1, "the change is refused"),
        (set("a\nb", "1"), 1, "a name has no control characters"),
        (set("a", "alice"), 2, "text has quotes"),
        (set("a", "null"), 2, "--delete takes the name away"),
        (set("a", &large), 1, "session.max_record allows"),
    ];
    for ((code, text), expected, why) in refused {
        assert_eq!(code, Some(expected), "{text}");
        assert!(text.contains(why), "{text}");
    }
    assert_eq!(set("c", "1").0, Some(0));
    assert!(set("d", "1").1.contains("session.max_names allows 3"));
    assert!(set("c", "1").1.starts_with("c is so already"));
    let left = number(&redis, &["PTTL", &key]);
    assert!((4_900_000..=5_000_000).contains(&left), "{left}");
}

#[test]
fn parallel_changes_by_hand_and_by_the_application_are_all_kept() {
    let (redis, desk) = (RedisServer::start(), Desk::new());
    let app = obedient();
    let pycket = Pycket::with(&app).redis(&redis).start();
    let mut browser = alice(&pycket);
    let config = desk.config("config", &native_in_redis(&redis));
    let id = id_in(&cookie(&browser));
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (name, mut browser) = (format!("hand{number}"), browser.clone());
            let (desk, config, id) = (&desk, &config, &id);
            scope.spawn(move || {
                let arguments = ["session", "set", "--config", config, id, &name, "1"];
                desk.run(&arguments).fine();
            });
            scope.spawn(move || {
                for round in 0..5 {
                    let set = format!("X-Session-Set: app{number}{round}=1");
                    assert_eq!(post(&mut browser, "/", &[&set]).status, 200);
                }
            });
        }
    });
    page(&mut browser, "/", &[]);
    let seen = app.requests().last().unwrap().session();
    assert_eq!(seen.as_object().unwrap().len(), 2 + 4 + 20, "{seen}");
}

#[test]
fn a_session_in_the_old_place_is_shown_changed_and_deleted_there() {
    let (old, new, desk) = (RedisServer::start(), RedisServer::start(), Desk::new());
    let library = PythonApp::redis(&old).start();
    let mut browser = Browser::at(&library);
    python_app::set(&mut browser, "user", &json!("alice"));
    let id = id_in(&cookie(&browser));
    let fallback = format!(
        "[storage.fallback]\nengine = 'redis'\nformat = 'pycket'\nport = {}\n",
        old.port()
    );
    let config = desk.config("config", &(native_in_redis(&new) + &fallback));
    let shown = show(&desk, &config, &id, &[]);
    assert_eq!(shown["place"], "fallback");
    assert_eq!(names(&shown["values"]), ["user"]);
    let set = ["session", "set", "--config", &config, &id, "role", "1"];
    desk.run(&set).fine();
    assert_eq!(python_app::get(&mut browser, "role"), json!(1));
    let listed = desk.run(&["session", "list", "--config", &config, "--output", "json"]);
    assert_eq!(listed.lines()[0]["place"], "fallback");
    let deleted = desk.run(&["session", "delete", "--config", &config, &id]);
    assert!(deleted.fine().starts_with("deleted "));
    assert_eq!(number(&old, &["DBSIZE"]), 0);
}

#[test]
fn a_renewed_session_is_found_by_its_old_id_and_by_its_public_id() {
    let (redis, desk) = (RedisServer::start(), Desk::new());
    let app = obedient();
    let grace = "session.renew_grace = '1m'";
    let pycket = Pycket::with(&app).redis(&redis).config(grace).start();
    let mut browser = alice(&pycket);
    let old = id_in(&cookie(&browser));
    post(&mut browser, "/", &["X-Session-Control: renew"]);
    page(&mut browser, "/", &[]);
    let seen = app.requests().last().unwrap().clone();
    let public = seen.header("X-Session-Id").unwrap();
    let config = desk.config("config", &native_in_redis(&redis));
    let new = id_in(&cookie(&browser));
    for subject in [old.as_str(), public, new.as_str()] {
        let shown = show(&desk, &config, subject, &["--secrets"]);
        assert_eq!(
            (&shown["session"], &shown["id"]),
            (&json!(public), &json!(new))
        );
    }
    let deleted = desk.run(&["session", "delete", "--config", &config, &old]);
    assert_eq!(deleted.fine(), format!("deleted {public}\n"));
    assert_eq!(
        number(&redis, &["DBSIZE"]),
        0,
        "by its old id it would still be there"
    );
}

#[test]
fn a_record_that_can_not_be_read_says_why_and_can_be_deleted() {
    let (redis, desk) = (RedisServer::start(), Desk::new());
    let config = desk.config("config", &native_in_redis(&redis));
    let id = "01234567-89ab-cdef-0123-456789abcdef";
    redis.set(0, &format!("pycket:{id}"), b"\x09garbage");
    let said = desk.run(&["session", "show", "--config", &config, id]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("the record"), "{said:?}");
    let listed = desk.run(&["session", "list", "--config", &config, "--output", "json"]);
    assert!(listed.lines()[0]["unreadable"].is_string());
    let deleted = desk.run(&["session", "delete", "--config", &config, id]);
    assert!(deleted.fine().starts_with("deleted "));
    assert_eq!(number(&redis, &["DBSIZE"]), 0);
}

#[test]
fn a_memcached_that_lists_no_keys_is_refused_with_what_it_takes() {
    let memcached = MemcachedServer::start_with(&["-o", "no_lru_crawler"]);
    let desk = Desk::new();
    let config = desk.config("config", &native_in_memcached(&memcached));
    let said = desk.run(&["session", "list", "--config", &config]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("with its LRU crawler on"), "{said:?}");
}

#[test]
fn a_store_that_is_down_is_an_error_that_names_it() {
    let (mut redis, desk) = (RedisServer::start(), Desk::new());
    let config = desk.config("config", &native_in_redis(&redis));
    redis.kill();
    let said = desk.run(&["session", "list", "--config", &config]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.stderr.contains(&format!("127.0.0.1:{}", redis.port())),
        "{said:?}"
    );
}
