//! The session cookie, caches, several copies of the proxy, and what the log must not say.

use serde_json::json;

use crate::harness::{Address, Browser, Pycket, SECRET, raw};
use crate::servers::{MemcachedServer, RedisServer};
use crate::stage::{COOKIE, Stage, Store, cookie, id_in, obedient, on_engines, page, post};

fn stage(config: &str) -> Stage {
    Stage::on(Store::Memory, config)
}

/// The attributes of a `Set-Cookie` line, those of its lifetime left out, sorted.
fn attributes(line: &str) -> Vec<String> {
    let mut attributes: Vec<_> = line.split("; ").skip(1).map(str::to_owned).collect();
    attributes.retain(|attribute| {
        !attribute.starts_with("Expires=") && !attribute.starts_with("Max-Age=")
    });
    attributes.sort();
    attributes
}

#[test]
fn cookie_expires_with_the_attributes_that_it_was_set_with() {
    let cases = [
        ("", COOKIE, &["HttpOnly", "Path=/", "SameSite=Lax"][..]),
        (
            "path = '/app'\ndomain = 'example.com'\nsecure = true\nsamesite = 'Strict'\nhttponly = false\nexpires_days = 9",
            COOKIE,
            &[
                "Domain=example.com",
                "Path=/app",
                "SameSite=Strict",
                "Secure",
            ],
        ),
        (
            "name = '__Host-sid'\nsecure = true\nsamesite = 'None'\npartitioned = true",
            "__Host-sid",
            &[
                "HttpOnly",
                "Partitioned",
                "Path=/",
                "SameSite=None",
                "Secure",
            ],
        ),
        (
            "samesite = false\nmax_age = '1h'",
            COOKIE,
            &["HttpOnly", "Path=/"],
        ),
    ];
    let mut checked = 0;
    for (config, name, expected) in cases {
        let stage = stage(&format!("[cookies]\n{config}"));
        let mut browser = stage.browser();
        let begun = post(&mut browser, "/app/in", &["X-Session-Set: a=1"]);
        let ended = post(&mut browser, "/app/out", &["X-Session-Control: destroy"]);
        for (response, value) in [(&begun, "2|1:0|"), (&ended, ";")] {
            let [line] = response.set_cookies()[..] else {
                panic!("{:?}", response.set_cookies());
            };
            assert!(line.starts_with(&format!("{name}={value}")), "{line}");
            assert_eq!(attributes(line), expected, "{line}");
        }
        let expired = ended.set_cookies()[0].to_owned();
        assert!(expired.contains("Max-Age=0") && expired.contains("Expires=Thu, 01 Jan 1970"));
        assert_eq!(browser.cookie(name), None);
        checked += 1;
    }
    assert_eq!(checked, 4);
}

#[test]
fn application_chooses_whether_the_cookie_outlives_the_browser() {
    let stage = stage("cookies.expires_days = 120");
    let mut browser = stage.browser();
    let steps = [
        (&["X-Session-Set: a=1"][..], Some(true)),
        (&["X-Session-Control: persist=?0"], Some(false)),
        // Said already.
        (&["X-Session-Control: persist=?0"], None),
        (&["X-Session-Control: renew"], Some(false)),
        (&["X-Session-Control: persist"], Some(true)),
        (&["X-Session-Set: a=2"], None),
    ];
    for (answer, expires) in steps {
        let response = post(&mut browser, "/", answer);
        let lines = response.set_cookies();
        let seen = lines.first().map(|line| line.contains("; Expires="));
        assert_eq!(
            (seen, lines.len()),
            (expires, usize::from(expires.is_some())),
            "{answer:?}"
        );
    }
    assert_eq!(stage.session(&mut browser), json!({"a": "2"}));
}

#[test]
fn first_cookie_that_verifies_counts_and_none_goes_upstream() {
    let stage = stage("");
    let mut browser = stage.browser();
    post(&mut browser, "/", &["X-Session-Set: a=1"]);
    let good = cookie(&browser);
    let mut other = stage.browser();
    post(&mut other, "/", &["X-Session-Set: a=2"]);
    let second = cookie(&other);
    let forged = good.replace("2|1:0|", "2|1:0|1");
    let quoted = format!("{COOKIE}=\"{good}\"");
    let cases = [
        (vec![format!("{COOKIE}={forged}; {COOKIE}={good}")], "1"),
        (
            vec![format!("{COOKIE}=; {COOKIE}=x"), format!("{COOKIE}={good}")],
            "1",
        ),
        (vec![format!("{COOKIE}={second}; {COOKIE}={good}")], "2"),
        (vec![quoted], "1"),
    ];
    let mut checked = 0;
    for (lines, value) in cases {
        let mut client = stage.browser();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        client.request("GET", "/").headers("Cookie", &lines).send();
        let seen = stage.last();
        assert_eq!(seen.session(), json!({ "a": value }), "{checked}");
        assert_eq!(seen.fields.all("Cookie"), [""; 0]);
        checked += 1;
    }
    assert_eq!(checked, 4);
}

/// `Cookie` lines in which `{}` stands for a cookie that verifies; some frameworks would find it under
/// its name. Whether the proxy does, and what goes on to the application.
const LOOKALIKES: [(&str, bool, &[&str]); 16] = [
    ("PYCKET_ID={}", true, &[]),
    (";; PYCKET_ID={} ;", true, &[";;"]),
    ("pycket_id={}", false, &["pycket_id={}"]),
    ("PYCKET_ID2={}", false, &["PYCKET_ID2={}"]),
    ("XPYCKET_ID={}", false, &["XPYCKET_ID={}"]),
    ("PYCKET-ID={}", false, &["PYCKET-ID={}"]),
    ("PYCKET%5FID={}", false, &["PYCKET%5FID={}"]),
    ("\"PYCKET_ID\"={}", false, &["\"PYCKET_ID\"={}"]),
    ("a; \u{a0}PYCKET_ID={}", false, &["a; \u{a0}PYCKET_ID={}"]),
    ("a; \u{85}PYCKET_ID={}", false, &["a; \u{85}PYCKET_ID={}"]),
    (
        "a; \u{2000}PYCKET_ID={}",
        false,
        &["a; \u{2000}PYCKET_ID={}"],
    ),
    ("PYCKET_ID\u{a0}={}", false, &["PYCKET_ID\u{a0}={}"]),
    ("a=1, PYCKET_ID={}", false, &["a=1, PYCKET_ID={}"]),
    ("a=\"; PYCKET_ID={}; b=\"", true, &["a=\"; b=\""]),
    ("PYCKET_ID={}x", false, &[]),
    (
        "$Version=1; PYCKET_ID={}; $Path=/",
        true,
        &["$Version=1; $Path=/"],
    ),
];

#[test]
fn a_cookie_is_found_under_its_own_name_only() {
    let stage = stage("");
    let mut browser = stage.browser();
    post(&mut browser, "/", &["X-Session-Set: a=1"]);
    let good = cookie(&browser);
    for (line, is_found, rest) in LOOKALIKES {
        let line = line.replace("{}", &good);
        let mut client = stage.browser();
        client.request("GET", "/").header("Cookie", &line).send();
        let seen = stage.last();
        let expected = if is_found {
            json!({"a": "1"})
        } else {
            json!({})
        };
        assert_eq!(seen.session(), expected, "{line}");
        let rest: Vec<String> = rest.iter().map(|rest| rest.replace("{}", &good)).collect();
        assert_eq!(seen.fields.all("Cookie"), rest, "{line}");
    }
}

#[test]
fn other_cookies_pass_byte_for_byte() {
    let stage = stage("");
    let mut browser = stage.browser();
    post(&mut browser, "/", &["X-Session-Set: a=1"]);
    let own = format!("{COOKIE}={}", cookie(&browser));
    let lines = [
        format!("a=\"x,y\";b=;  =c; {own}; \u{eb}=%01; PYCKET_IDS=1"),
        format!("{own}; d={COOKIE}; e"),
        own,
        "PYCKET_ID2=z;;".to_owned(),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    stage
        .browser()
        .request("GET", "/")
        .headers("Cookie", &lines)
        .send();
    let seen = stage.app.request(2);
    assert_eq!(seen.session(), json!({"a": "1"}));
    assert_eq!(
        seen.fields.all("Cookie"),
        [
            "a=\"x,y\";b=;  =c; \u{eb}=%01; PYCKET_IDS=1",
            "d=PYCKET_ID; e",
            "PYCKET_ID2=z;;"
        ]
    );
}

#[test]
fn secrets_change_without_ending_sessions() {
    let redis = RedisServer::start();
    let app = obedient();
    let with = |secrets: &str| {
        let config = format!(
            "listen = '127.0.0.1:0'\nupstream = 'http://{}'\ncookies.secrets = {secrets}",
            app.address()
        );
        Pycket::exactly(&config).redis(&redis).start()
    };
    let before = with("{ 1 = 'the first secret of at least 32 bytes' }");
    let both = with(
        "{ 1 = 'the first secret of at least 32 bytes', 2 = 'the second secret of at least 32 bytes' }",
    );
    let after = with("{ 2 = 'the second secret of at least 32 bytes' }");
    let mut browser = Browser::at(&before);
    post(&mut browser, "/", &["X-Session-Set: a=1"]);
    assert!(cookie(&browser).starts_with("2|1:1|"));
    let state = |browser: &mut Browser| {
        browser.get("/");
        let seen = app.requests().pop().expect("it arrived");
        seen.header("X-Session-State").map(str::to_owned)
    };
    assert_eq!(state(browser.go_to(&after)).as_deref(), Some("none"));
    assert_eq!(state(browser.go_to(&both)).as_deref(), Some("active"));
    post(&mut browser, "/", &["X-Session-Control: renew"]);
    assert!(cookie(&browser).starts_with("2|1:2|"));
    assert_eq!(state(browser.go_to(&after)).as_deref(), Some("active"));
    assert_eq!(state(browser.go_to(&before)).as_deref(), Some("none"));
}

#[test]
fn cookie_is_written_in_the_version_that_is_set_or_in_the_same_that_came() {
    let redis = RedisServer::start();
    let app = obedient();
    let with = |cookies: &str| {
        let config = format!(
            "listen = '127.0.0.1:0'\nupstream = 'http://{}'\n[cookies]\nsecret = '{SECRET}'\n{cookies}",
            app.address()
        );
        Pycket::exactly(&config).redis(&redis).start()
    };
    let (old, same, new) = (with("version = 1"), with("version = 'same'"), with(""));
    let strict = with("min_version = 2");
    // A value of version 1 begins with the base64 of the id.
    let version = |browser: &Browser| match cookie(browser) {
        value if value.starts_with("2|1:0|") => 2,
        value => {
            assert_eq!(value.find('|'), Some(48), "{value}");
            1
        }
    };
    let renew = &["X-Session-Control: renew"];
    let mut browser = Browser::at(&old);
    post(&mut browser, "/", &["X-Session-Set: a=1"]);
    assert_eq!(version(&browser), 1);
    let first = cookie(&browser);
    post(browser.go_to(&same), "/", renew);
    assert_ne!(cookie(&browser), first);
    assert_eq!(version(&browser), 1);
    browser.go_to(&strict).get("/");
    let seen = app.requests().pop().expect("it arrived");
    assert_eq!(seen.header("X-Session-State"), Some("none"));
    post(browser.go_to(&new), "/", renew);
    assert_eq!(version(&browser), 2);
    post(browser.go_to(&same), "/", renew);
    assert_eq!(version(&browser), 2);
    post(browser.go_to(&old), "/", renew);
    assert_eq!(version(&browser), 1);
    browser.go_to(&same).get("/");
    let seen = app.requests().pop().expect("it arrived");
    assert_eq!(seen.session(), json!({"a": "1"}));

    let mut stranger = Browser::at(&same);
    post(&mut stranger, "/", &["X-Session-Set: a=1"]);
    assert_eq!(version(&stranger), 2);
}

#[test]
fn cookie_is_secure_when_a_trusted_neighbour_says_that_the_browser_came_by_tls() {
    let cases = [
        ("forwarding.trust = ['127.0.0.0/8']", "https", true),
        ("forwarding.trust = ['127.0.0.0/8']", "http", false),
        ("forwarding.trust = ['10.0.0.0/8']", "https", false),
        ("", "https", false),
    ];
    for (config, scheme, secure) in cases {
        let stage = stage(config);
        let mut browser = stage.browser();
        let mut set = |answer: &str| {
            let request = browser
                .request("POST", "/")
                .header("X-Forwarded-Proto", scheme);
            let response = request.header("Answer", answer).send();
            response.set_cookies()[0].contains("; Secure")
        };
        assert_eq!(set("X-Session-Set: a=1"), secure, "{config} {scheme}");
        assert_eq!(
            set("X-Session-Control: destroy"),
            secure,
            "{config} {scheme}"
        );
    }
}

#[test]
fn shared_caches_are_kept_from_what_belongs_to_one_browser() {
    let stage = stage(
        "[[route]]
         path = '/off/'
         cache_guard = false
         [[route]]
         path = '/static/'
         session = false",
    );
    let set = "X-Session-Set: a=1";
    let cases = [
        ("/", &[][..], &["Cookie"][..], &[][..]),
        (
            "/",
            &["Vary: Accept", "Cache-Control: public, max-age=60"],
            &["Accept", "Cookie"],
            &["public, max-age=60"],
        ),
        ("/", &["Vary: accept, COOKIE"], &["accept, COOKIE"], &[]),
        ("/", &[set], &["Cookie"], &["private"]),
        (
            "/",
            &[set, "Cache-Control: public, max-age=60, s-maxage=9"],
            &["Cookie"],
            &["max-age=60, private"],
        ),
        (
            "/",
            &[set, "Cache-Control: no-store"],
            &["Cookie"],
            &["no-store"],
        ),
        ("/off/", &[set, "Cache-Control: public"], &[], &["public"]),
        (
            "/static/",
            &[set, "Cache-Control: public"],
            &[],
            &["public"],
        ),
    ];
    let mut checked = 0;
    for (path, answer, vary, cache) in cases {
        let response = post(&mut stage.browser(), path, answer);
        assert_eq!(response.fields.all("Vary"), vary, "{path} {answer:?}");
        assert_eq!(
            response.fields.all("Cache-Control"),
            cache,
            "{path} {answer:?}"
        );
        checked += 1;
    }
    assert_eq!(checked, 8);
    // Taking the cookie away is guarded, too.
    let mut browser = stage.browser();
    post(&mut browser, "/", &[set]);
    let ended = post(&mut browser, "/", &["X-Session-Control: destroy"]);
    assert_eq!(ended.header("Cache-Control"), Some("private"));
}

#[test]
fn session_goes_from_copy_to_copy() {
    on_engines([Store::redis(), Store::memcached()], |store| {
        let stage = Stage::on(store, "");
        let twin = stage.pycket.twin();
        let mut browser = stage.browser();
        for number in 0..10 {
            let next = if number % 2 == 0 {
                &twin
            } else {
                &stage.pycket
            };
            browser.go_to(next);
            let signal = format!("X-Session-Set: n{number}={number}");
            let renew = if number % 3 == 0 {
                "X-Session-Control: renew"
            } else {
                "X-Other: 1"
            };
            post(&mut browser, "/", &[&signal, renew]);
        }
        let session = stage.session(browser.go_to(&stage.pycket));
        assert_eq!(session.as_object().map(serde_json::Map::len), Some(10));
        post(browser.go_to(&twin), "/", &["X-Session-Control: destroy"]);
        stage.store.assert_records(0);
    });
}

#[test]
fn session_outlives_its_proxy() {
    on_engines([Store::redis(), Store::memcached()], |store| {
        let mut stage = Stage::on(store, "");
        let mut browser = stage.browser();
        post(
            &mut browser,
            "/",
            &["X-Session-Set: a=1", "X-Notifications-Set: n=1"],
        );
        stage.pycket.stop();
        let twin = stage.pycket.twin();
        page(browser.go_to(&twin), "/", &[]);
        let seen = stage.app.request(2);
        assert_eq!(seen.session(), json!({"a": "1"}));
        assert_eq!(seen.notifications(), Some(json!({"n": "1"})));
    });
}

/// Exchanges in which everything happens that could make a log say too much. Gives what it must
/// not say.
fn misbehave(stage: &Stage) -> Vec<String> {
    let mut said = vec![SECRET.to_owned()];
    let mut browser = stage.browser();
    let answers = [
        &["X-Session-Set: user=sessionvalue&q=1"][..],
        &[
            "X-Session-Control: renew",
            "X-Notifications-Set: flash=notificationvalue",
        ],
        &["X-Session-Set: {\"user\": \"sessionvalue\" \"}"],
        &["X-Session-Control: sessionvalue"],
        &["X-Session-Delete: sessionvalue;sessionvalue"],
        &[
            "X-Session-Sett: sessionvalue",
            "Set-Cookie: other=cookievalue",
        ],
        &["X-Auth-User: sessionvalue"],
        &["500", "X-Notifications-Add: flash=notificationvalue"],
    ];
    for answer in answers {
        post(&mut browser, "/path?q=sessionvalue", answer);
        said.extend(browser.cookie(COOKIE).map(str::to_owned));
    }
    let too_much = format!("X-Session-Set: big={}", "sessionvalue".repeat(500));
    post(&mut browser, "/", &[&too_much]);
    page(&mut browser, "/page", &["304"]);
    page(&mut browser, "/page", &["431"]);
    let live = cookie(&browser);
    for bad in [
        live.replace("2|1:0", "2|1:1"),
        live.replace("|48:", "|47:"),
        "cookievalue".to_owned(),
    ] {
        let mut stranger = stage.browser();
        stranger.plant(COOKIE, &bad);
        stranger.plant("other", "cookievalue");
        stranger.get("/");
    }
    raw(
        &stage.pycket,
        format!("GET / HTTP/1.1\r\nHost: a\r\nHost: cookievalue\r\nCookie: {live}\r\n\r\n"),
    );
    said
}

#[test]
fn no_log_has_a_secret_a_cookie_an_id_or_a_value() {
    on_engines(Store::each(), |store| {
        let config = "log.level = 'debug'\nheaders.capture.X-Auth-User = 'user'";
        let mut stage = Stage::on(store, config);
        let mut said = misbehave(&stage);
        let last = said.last().cloned().expect("there are cookies");
        let mut browser = stage.browser();
        browser.plant(COOKIE, &last);
        // The store fails in the middle of it.
        match &mut stage.store {
            Store::Memory => {}
            Store::Redis(server) | Store::Near(server) => RedisServer::kill(server),
            Store::Memcached(server) => MemcachedServer::kill(server),
        }
        post(&mut browser, "/", &["X-Session-Set: user=sessionvalue"]);
        let ended = stage.pycket.stop();
        let output = ended.stdout + &ended.stderr;
        assert!(
            output.contains("bad_signals") && output.contains("forged"),
            "{output}"
        );

        let cookies: Vec<String> = said.iter().skip(1).cloned().collect();
        assert!(cookies.len() >= 6);
        for cookie in &cookies {
            said.push(id_in(cookie));
            said.push(cookie.rsplit('|').take(1).collect());
            said.push(cookie.rsplit('|').nth(1).unwrap_or_default().to_owned());
        }
        said.extend(["sessionvalue", "notificationvalue", "cookievalue"].map(str::to_owned));
        for text in said {
            assert!(
                !output.contains(&text),
                "{text} is in the output:\n{output}"
            );
        }
    });
}
