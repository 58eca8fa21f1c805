//! No spelling of a path, a host or a method gets around a route.

use crate::harness::{Address as _, AppResponse, Pycket, Upstream, raw_until_close};

/// Two applications, and paths, hosts and methods that lead to the second one.
struct Stand {
    open: Upstream,
    guarded: Upstream,
    pycket: Pycket,
}

impl Stand {
    fn new() -> Self {
        let app = || Upstream::app(|_| AppResponse::ok("ok"));
        let (open, guarded) = (app(), app());
        let to = format!("upstream = 'http://{}'", guarded.address());
        let config = format!(
            "[[route]]\npath = '/admin'\n{to}\n\
             [[route]]\nhost = '*.inner.test'\n{to}\n\
             [[route]]\npath = '/edit'\nmethods = ['POST']\n{to}\n"
        );
        let pycket = Pycket::with(&open).config(&config).start();
        Self {
            open,
            guarded,
            pycket,
        }
    }

    /// Sends a request; says the status, and the target as it reached each application.
    fn ask(&self, start: &str, host: &str) -> (String, Vec<String>, Vec<String>) {
        let before = (self.open.requests().len(), self.guarded.requests().len());
        let request = format!("{start} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = raw_until_close(&self.pycket, request);
        let status = String::from_utf8_lossy(&answer);
        let status = status.split(' ').nth(1).unwrap_or_default().to_owned();
        let targets = |app: &Upstream, before| {
            let requests = app.requests().split_off(before);
            requests.into_iter().map(|request| request.target).collect()
        };
        (
            status,
            targets(&self.open, before.0),
            targets(&self.guarded, before.1),
        )
    }

    fn assert_goes(&self, start: &str, host: &str, guarded: bool) {
        let (status, open, inner) = self.ask(start, host);
        let (taken, other) = if guarded {
            (inner, open)
        } else {
            (open, inner)
        };
        assert_eq!(status, "200", "{start} {host}");
        let target = start.split(' ').nth(1).unwrap_or_default();
        assert_eq!(taken, [target], "{start} {host}: it goes on as it came");
        assert!(other.is_empty(), "{start} {host}");
    }
}

#[test]
fn path_that_two_servers_read_alike_takes_its_route_as_it_came() {
    let stand = Stand::new();
    for path in [
        "/admin",
        "/admin/x?y=//..",
        "/%61dmin/x",
        "/a/../admin",
        "/a/%2e%2E/admin/x%2Fy",
        "/admin/a//b;v=1",
    ] {
        stand.assert_goes(&format!("GET {path}"), "h", true);
    }
    for path in [
        "/",
        "/?x=/../admin",
        "/a%2Fb//c;d",
        "/administer",
        "/ADMIN",
        "/admin/../a",
        "/caf%C3%A9/%zz/100%25",
    ] {
        stand.assert_goes(&format!("GET {path}"), "h", false);
    }
}

#[test]
fn path_that_leads_elsewhere_when_it_is_read_in_another_way_reaches_nobody() {
    let stand = Stand::new();
    let attacks: [&str; 18] = [
        "//admin",
        "/a//../admin",
        "/.//admin",
        "/a/..;/admin",
        "/a/..;x=y/admin",
        "/admin;/x",
        "/;/admin",
        "/a/..%2fadmin",
        "/a%2f..%2fadmin",
        "/a/..%5Cadmin",
        "/admin%2f",
        "/admin%5cx",
        "/%2fadmin",
        "/%2561dmin",
        "/a/%252e%252e/admin",
        "/admin/..%2fa",
        "/admin/%252e%252e/a",
        "/admin%00",
    ];
    for path in attacks {
        let (status, open, guarded) = stand.ask(&format!("GET {path}"), "h");
        assert_eq!(status, "400", "{path}");
        assert!(open.is_empty() && guarded.is_empty(), "{path}");
    }
}

#[test]
fn host_and_method_choose_the_route_whatever_their_form() {
    let stand = Stand::new();
    for host in ["a.inner.test", "A.B.Inner.TEST", "a.inner.test:80"] {
        stand.assert_goes("GET /", host, true);
    }
    for host in ["inner.test", "ainner.test", "a.inner.test.evil.test"] {
        stand.assert_goes("GET /", host, false);
    }
    let (_, open, guarded) = stand.ask("GET http://a.inner.test/x", "a.inner.test");
    assert_eq!((open.len(), guarded), (0, vec!["/x".to_owned()]));
    stand.assert_goes("POST /edit", "h", true);
    stand.assert_goes("GET /edit", "h", false);
    stand.assert_goes("post /edit", "h", false);
}
