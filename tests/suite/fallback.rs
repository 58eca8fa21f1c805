//! Sessions that are found in their old place, and moved over: nobody is logged out.

use serde_json::json;

use crate::harness::{Browser, Pycket, Upstream};
use crate::python_app::{self, PythonApp};
use crate::servers::{MemcachedServer, RedisServer};
use crate::stage::{cookie, id_in, number, obedient, page, post};

/// A proxy with sessions in a Redis of its own, and the library's Redis as the old place.
fn proxy(app: &Upstream, new: &RedisServer, old: &RedisServer) -> Pycket {
    let old = format!(
        "[storage.fallback]\nengine = 'redis'\nformat = 'pycket'\nport = {}\n",
        old.port()
    );
    Pycket::with(app).redis(new).config(&old).start()
}

#[test]
fn a_session_of_the_library_goes_on_in_the_new_place_with_a_new_cookie() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let library = PythonApp::redis(&old).start();
    let mut browser = Browser::at(&library);
    python_app::set(&mut browser, "user", &json!("alice"));
    python_app::notify(&mut browser, "flash", &json!("hello"));
    let id = id_in(&cookie(&browser));

    let app = obedient();
    let pycket = proxy(&app, &new, &old);
    browser.go_to(&pycket);
    let first = page(&mut browser, "/", &[]);
    assert_eq!(first.set_cookies().len(), 1, "its cookie is made anew");
    let seen = app.request(1);
    assert_eq!(seen.session(), json!({"user": "alice"}));
    assert_eq!(seen.notifications(), Some(json!({"flash": "hello"})));
    assert_eq!(id_in(&cookie(&browser)), id, "it is the same session");
    assert_eq!(number(&old, &["DBSIZE"]), 0, "nothing is left of it");
    assert_eq!(number(&new, &["DBSIZE"]), 1);

    let second = page(&mut browser, "/", &[]);
    assert_eq!(second.set_cookies().len(), 0);
    assert_eq!(app.request(2).session(), json!({"user": "alice"}));
    assert_eq!(app.request(2).notifications(), None, "it was shown once");
}

#[test]
fn many_requests_that_find_an_old_session_at_once_all_have_it() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let library = PythonApp::redis(&old).start();
    let app = obedient();
    let pycket = proxy(&app, &new, &old);
    let twin = pycket.twin();
    for round in 0..5 {
        let mut browser = Browser::at(&library);
        python_app::set(&mut browser, "user", &json!(round));
        std::thread::scope(|scope| {
            for number in 0..8 {
                let mut browser = browser.clone();
                let proxy = if number % 2 == 0 { &pycket } else { &twin };
                scope.spawn(move || {
                    browser.go_to(proxy);
                    post(&mut browser, "/", &[&format!("X-Session-Set: n{number}=1")]);
                });
            }
        });
        browser.go_to(&pycket);
        page(&mut browser, "/", &[]);
        let seen = app.requests().last().unwrap().session();
        assert_eq!(seen["user"], json!(round));
        assert_eq!(seen.as_object().unwrap().len(), 9, "{seen}");
    }
}

#[test]
fn a_session_that_can_not_be_kept_as_a_whole_goes_on_in_the_old_place_until_it_can() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let library = PythonApp::redis(&old).start();
    let mut browser = Browser::at(&library);
    python_app::put(&mut browser, "when", "datetime");
    let app = obedient();
    let pycket = proxy(&app, &new, &old);

    browser.go_to(&pycket);
    post(&mut browser, "/", &["X-Session-Set: user=alice"]);
    post(&mut browser, "/", &["X-Session-Control: renew"]);
    assert_eq!(number(&new, &["DBSIZE"]), 0);
    assert_eq!(number(&old, &["DBSIZE"]), 1);
    browser.go_to(&library);
    assert_eq!(python_app::get(&mut browser, "user"), json!("alice"));
    assert!(python_app::kept(&mut browser, "when", "datetime"));

    browser.go_to(&pycket);
    post(&mut browser, "/", &["X-Session-Delete: when"]);
    page(&mut browser, "/", &[]);
    assert_eq!(app.request(4).session(), json!({"user": "alice"}));
    assert_eq!(number(&new, &["DBSIZE"]), 1);
    assert_eq!(number(&old, &["DBSIZE"]), 0);
}

#[test]
fn what_ended_here_does_not_come_back_from_the_old_place() {
    for kind in [None, Some("datetime")] {
        let (old, new) = (RedisServer::start(), RedisServer::start());
        let library = PythonApp::redis(&old).start();
        let mut browser = Browser::at(&library);
        python_app::set(&mut browser, "user", &json!("alice"));
        if let Some(kind) = kind {
            // It can't be told in JSON, so the session stays where it is.
            python_app::put(&mut browser, "when", kind);
        }
        let made = cookie(&browser);
        let app = obedient();
        let pycket = proxy(&app, &new, &old);
        browser.go_to(&pycket);
        page(&mut browser, "/", &[]);
        post(&mut browser, "/", &["X-Session-Control: destroy"]);
        browser.plant(crate::stage::COOKIE, &made);
        page(&mut browser, "/", &[]);
        assert_eq!(app.request(3).session(), json!({}));
        assert_eq!(number(&old, &["DBSIZE"]), 0);
        assert_eq!(number(&new, &["DBSIZE"]), 0);
    }
}

#[test]
fn an_old_place_that_can_not_be_asked_is_no_logout() {
    let (mut old, new) = (RedisServer::start(), RedisServer::start());
    let library = PythonApp::redis(&old).start();
    let mut browser = Browser::at(&library);
    python_app::set(&mut browser, "user", &json!("alice"));
    let app = obedient();
    let pycket = proxy(&app, &new, &old);
    old.kill();
    browser.go_to(&pycket);
    let response = page(&mut browser, "/", &[]);
    assert_eq!(response.status, 503);
    assert_eq!(response.set_cookies().len(), 0);
    assert_eq!(app.requests().len(), 0);
}

#[test]
fn the_way_back_is_the_same_way() {
    let (memcached, redis) = (MemcachedServer::start(), RedisServer::start());
    let app = obedient();
    let native = Pycket::with(&app).redis(&redis).start();
    let mut browser = Browser::at(&native);
    post(
        &mut browser,
        "/",
        &["X-Session-Set: user=alice", "X-Notifications-Set: flash=hi"],
    );
    let back = format!(
        "storage.format = 'pycket'\nstorage.notification_names = ['flash']\n\
         [storage.fallback]\nengine = 'redis'\nurl = 'redis://127.0.0.1:{}'\n",
        redis.port()
    );
    let pycket = Pycket::with(&app)
        .memcached(&memcached)
        .config(&back)
        .start();
    browser.go_to(&pycket);
    page(&mut browser, "/", &[]);
    assert_eq!(app.request(2).session(), json!({"user": "alice"}));
    let library = PythonApp::memcached(&memcached).start();
    browser.go_to(&library);
    assert_eq!(python_app::get(&mut browser, "user"), json!("alice"));
    assert_eq!(number(&redis, &["DBSIZE"]), 0);
}

#[test]
fn notifications_of_the_library_come_along_where_they_get_another_place() {
    let (redis, memcached) = (RedisServer::start(), MemcachedServer::start());
    let library = PythonApp::redis(&redis).start();
    let mut browser = Browser::at(&library);
    python_app::set(&mut browser, "user", &json!("alice"));
    python_app::put(&mut browser, "point", "object");
    python_app::notify(&mut browser, "flash", &json!("hello"));
    let app = obedient();
    let places = format!(
        "storage.format = 'pycket'\nstorage.notification_names = ['flash']\n\
         [storage.fallback]\nengine = 'redis'\nformat = 'pycket'\nport = {}\n",
        redis.port()
    );
    let pycket = Pycket::with(&app)
        .memcached(&memcached)
        .config(&places)
        .start();
    browser.go_to(&pycket);
    page(&mut browser, "/", &[]);
    let seen = app.request(1);
    assert_eq!(seen.session(), json!({"user": "alice"}));
    assert_eq!(seen.notifications(), Some(json!({"flash": "hello"})));
    assert_eq!(number(&redis, &["DBSIZE"]), 0, "nothing is left of it");
    let there = PythonApp::memcached(&memcached).start();
    browser.go_to(&there);
    assert!(python_app::kept(&mut browser, "point", "object"));
}

#[test]
fn a_session_whose_notifications_are_not_declared_in_the_new_place_goes_on_in_the_old_one() {
    let (redis, memcached) = (RedisServer::start(), MemcachedServer::start());
    let library = PythonApp::redis(&redis).start();
    let app = obedient();
    let places = format!(
        "storage.format = 'pycket'\nstorage.notification_names = ['flash']\n\
         [storage.fallback]\nengine = 'redis'\nformat = 'pycket'\nport = {}\n",
        redis.port()
    );
    let pycket = Pycket::with(&app)
        .memcached(&memcached)
        .config(&places)
        .start();
    let mut browser = Browser::at(&library);
    python_app::set(&mut browser, "user", &json!("alice"));
    python_app::notify(&mut browser, "news", &json!("hello"));
    browser.go_to(&pycket);
    page(&mut browser, "/", &[]);
    assert_eq!(
        app.request(1).notifications(),
        Some(json!({"news": "hello"}))
    );
    // It was shown, and nothing is in the way any more.
    page(&mut browser, "/", &[]);
    assert_eq!(app.request(2).session(), json!({"user": "alice"}));
    assert_eq!(number(&redis, &["DBSIZE"]), 0, "nothing is left of it");
}

/// The settings of a copy of the proxy with sessions in one place, and another one to look at.
fn places(here: &RedisServer, there: &RedisServer, more: &str) -> String {
    format!(
        "engine = 'redis'\nstorage.url = 'redis://127.0.0.1:{}'\nstorage.timeout = '10s'\nsession.commit_timeout = '15s'\n\
         [storage.fallback]\nengine = 'redis'\nurl = 'redis://127.0.0.1:{}'\n{more}\n",
        here.port(),
        there.port()
    )
}

#[test]
fn copies_of_the_proxy_get_the_new_place_one_after_the_other_and_no_session_is_lost() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let app = obedient();
    // First all copies learn of the new place, then each in its turn goes over to it.
    let waiting = Pycket::with(&app)
        .config(&places(&old, &new, "move = false"))
        .start();
    let ready = Pycket::with(&app).config(&places(&new, &old, "")).start();
    for round in 0..5 {
        let mut browser = Browser::at(&waiting);
        post(
            &mut browser,
            "/",
            &[&format!("X-Session-Set: user={round}")],
        );
        std::thread::scope(|scope| {
            for number in 0..8 {
                let mut browser = browser.clone();
                let proxies = [&waiting, &ready];
                scope.spawn(move || {
                    for turn in 0..4 {
                        browser.go_to(proxies[(number + turn) % 2]);
                        let set = format!("X-Session-Set: n{number}-{turn}=1");
                        let response = post(&mut browser, "/", &[&set]);
                        assert_eq!(response.status, 200);
                    }
                });
            }
        });
        for proxy in [&waiting, &ready] {
            browser.go_to(proxy);
            page(&mut browser, "/", &[]);
            let seen = app.requests().last().unwrap().session();
            assert_eq!(seen["user"], json!(round.to_string()));
            assert_eq!(seen.as_object().unwrap().len(), 33, "{seen}");
        }
        // Renewed and ended by a copy that still has the old place.
        browser.go_to(&waiting);
        post(&mut browser, "/", &["X-Session-Control: renew"]);
        browser.go_to(&ready);
        page(&mut browser, "/", &[]);
        let seen = app.requests().last().unwrap().session();
        assert_eq!(seen["user"], json!(round.to_string()));
        browser.go_to(&waiting);
        post(&mut browser, "/", &["X-Session-Control: destroy"]);
    }
    assert_eq!(number(&old, &["DBSIZE"]), 0);
    assert_eq!(number(&new, &["DBSIZE"]), 0);
}
