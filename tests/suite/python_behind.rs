//! An application behind the proxy that still runs the Python library: the cookie passes through,
//! and there is only one.

use serde_json::json;

use crate::harness::{Address as _, AppResponse, Browser, Builder, Pycket, Upstream};
use crate::python_app::{self, PythonApp};
use crate::servers::RedisServer;
use crate::stage::{COOKIE, cookie, id_in};

/// A proxy with the library's format.
fn proxy(builder: Builder, redis: &RedisServer, cookies: &str) -> Pycket {
    let config = format!("storage.format = 'pycket'\n[cookies]\n{cookies}\n");
    builder.redis(redis).config(&config).start()
}

#[test]
fn an_application_with_the_library_works_behind_the_proxy_as_it_did_before() {
    let redis = RedisServer::start();
    let app = PythonApp::redis(&redis).start();
    let pycket = proxy(Pycket::to(app.address()), &redis, "forward = true");
    let mut browser = Browser::at(&pycket);
    python_app::set(&mut browser, "user", &json!("alice"));
    let made = cookie(&browser);
    assert_eq!(python_app::id(&mut browser), json!(id_in(&made)));
    python_app::notify(&mut browser, "flash", &json!("hello"));
    // A page that does not look for it leaves it where it is.
    browser.page("/nothing");
    assert_eq!(python_app::get(&mut browser, "user"), json!("alice"));
    assert_eq!(python_app::show(&mut browser, "flash"), json!("hello"));
    assert_eq!(python_app::waiting(&mut browser), json!([]));
    assert_eq!(cookie(&browser), made, "nobody set another cookie");
    browser.go_to(&app);
    assert_eq!(python_app::get(&mut browser, "user"), json!("alice"));
}

/// Answers with the given cookie, and asks for a change of the session.
fn setting(cookie: String) -> Upstream {
    Upstream::app(move |_| {
        AppResponse::ok("ok")
            .header("Set-Cookie", &format!("{COOKIE}={cookie}; Path=/"))
            .header("X-Session-Set", "seen=1")
    })
}

#[test]
fn what_a_response_with_the_librarys_cookie_asks_for_goes_to_that_session() {
    let redis = RedisServer::start();
    let app = PythonApp::redis(&redis).start();
    let mut alice = Browser::at(&app);
    python_app::set(&mut alice, "user", &json!("alice"));
    let made = cookie(&alice);
    let upstream = setting(made.clone());
    let pycket = proxy(Pycket::with(&upstream), &redis, "");
    let mut browser = Browser::at(&pycket);
    let response = browser.get("/");
    assert_eq!(response.set_cookies().len(), 1);
    assert_eq!(response.header("Cache-Control"), Some("private"));
    assert_eq!(cookie(&browser), made);
    browser.go_to(&app);
    assert_eq!(python_app::names(&mut browser), json!(["seen", "user"]));

    // Also where the session does not exist yet.
    redis.command(&["FLUSHALL"]);
    browser.go_to(&pycket);
    assert_eq!(browser.get("/").set_cookies().len(), 1);
    browser.go_to(&app);
    assert_eq!(python_app::names(&mut browser), json!(["seen"]));
}

#[test]
fn the_cookie_stays_here_where_the_settings_say_so() {
    let redis = RedisServer::start();
    for (forward, passes) in [
        ("", true),
        ("forward = true", true),
        ("forward = false", false),
    ] {
        let app = Upstream::app(|request| {
            AppResponse::ok(request.header("Cookie").unwrap_or("none"))
                .header("X-Session-Set", "a=1")
        });
        let pycket = proxy(Pycket::with(&app), &redis, forward);
        let mut browser = Browser::at(&pycket);
        assert_eq!(browser.get("/").text(), "none");
        let seen = browser.get("/").text().to_owned();
        assert_eq!(seen.contains(COOKIE), passes, "{forward}: {seen}");
    }
}
