//! Chromium, which nobody here wrote: a page logs in, fills a cart and opens a WebSocket.

use crate::harness::{AppResponse, Gate, Upstream, tool};
use crate::http2::websockets::{asked, switching};
use crate::tls::Authority;

/// Logs in as a person does, by a form. Its load never ends, so that it is not taken for the page that
/// is to be printed.
const ENTRANCE: &str = "<!doctype html><form method=post action=/login></form>
    <img src=/never><script>document.forms[0].submit()</script>";

/// Does what a page of an application does, and writes down what it saw. The image comes when all is
/// done; until then the page is not loaded, and not printed.
const SHOP: &str = r"
    <ul id=seen></ul><img src=/done-at-last>
    <script type=module>
        const see = text => {
            const line = document.createElement('li');
            line.textContent = text;
            document.getElementById('seen').append(line);
        };
        const get = async path => await (await fetch(path)).text();
        try {
            const items = ['apple', 'bread', 'cheese', 'coffee', 'honey', 'tea'];
            await Promise.all(items.map(item => fetch('/add/' + item, { method: 'POST' })));
            see('session ' + await get('/session'));
            see('cookies ' + JSON.stringify(document.cookie));
            const socket = new WebSocket('wss://' + location.host + '/socket');
            await new Promise((opened, failed) => {
                socket.onopen = opened;
                socket.onerror = () => failed(new Error('no WebSocket'));
            });
            const answered = new Promise(message => socket.onmessage = message);
            socket.send('hello');
            see('socket ' + (await answered).data);
            const entries = performance.getEntriesByType('resource');
            see('by ' + [...new Set(entries.map(entry => entry.nextHopProtocol))].join());
        } catch (error) {
            see('failed ' + error);
        }
        await fetch('/done', { method: 'POST' });
    </script>";

fn shop() -> Upstream {
    let (never, done) = (Gate::closed(), Gate::closed());
    Upstream::app(move |request| {
        let says = |name: &str| request.header(name).unwrap_or("-").to_owned();
        let html = |text: String| AppResponse::ok(text).header("Content-Type", "text/html");
        match request.target.as_str() {
            "/" => html(ENTRANCE.to_owned()),
            "/login" => AppResponse::see_other("/shop")
                .header("X-Session-Set", "user=alice")
                .header("X-Session-Control", "renew")
                .header("X-Notifications-Set", "flash=welcome"),
            "/shop" => {
                let flash = says("X-Notifications");
                html(format!("<!doctype html><p id=flash>{flash}</p>{SHOP}"))
            }
            "/never" => {
                never.pass();
                AppResponse::status(204)
            }
            "/done" => {
                done.open();
                never.open();
                AppResponse::status(204)
            }
            "/done-at-last" => {
                done.pass();
                AppResponse::status(204)
            }
            "/session" => {
                AppResponse::ok(format!("{} {}", says("X-Session"), says("X-Notifications")))
            }
            target => match target.strip_prefix("/add/") {
                Some(item) => AppResponse::status(204)
                    .header("X-Session-Set", &format!("cart.{item}=1"))
                    .header("X-Notifications-Add", &format!("added={item}")),
                None => AppResponse::status(404),
            },
        }
    })
}

/// An application that says over a WebSocket who is there, by which protocol it was asked, and what it
/// was told.
fn socket() -> Upstream {
    Upstream::raw(|mut wire, _| {
        let (head, accept) = asked(&mut wire);
        let line = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            let found = lines.find(|(field, _)| field.eq_ignore_ascii_case(name));
            found.map_or("-", |(_, value)| value).to_owned()
        };
        wire.send(switching(&accept));
        // RFC 6455 section 5.2: a short text, masked by four bytes.
        let start = wire.read_exactly(6);
        assert_eq!(start[0], 0x81);
        let text = wire.read_exactly(usize::from(start[1] & 0x7f));
        let text = text.iter().zip(start[2..].iter().cycle());
        let text: Vec<u8> = text.map(|(byte, mask)| byte ^ mask).collect();
        let text = String::from_utf8(text).unwrap();
        let answer = format!("{text} {} {}", line("X-Session-State"), line("Via"));
        let length = u8::try_from(answer.len()).unwrap();
        wire.send([&[0x81, length], answer.as_bytes()].concat());
        wire.read_to_close();
    })
}

#[test]
fn a_page_logs_in_and_fills_a_cart_and_talks_over_a_websocket() {
    let (app, socket, authority) = (shop(), socket(), Authority::new());
    authority.issue("server", &["localhost"]);
    let route = format!(
        "[[route]]\npath = '/socket'\nupstream = 'http://{}'",
        crate::harness::Address::address(&socket)
    );
    let pycket = authority
        .serves(&app, &["server"], "")
        .config(&route)
        .start();
    let folder = tempfile::tempdir().unwrap();
    let profile = format!("--user-data-dir={}", folder.path().display());
    let url = format!("https://localhost:{}/", pycket.second_address().port());
    let ended = tool(
        "chromium",
        "chromium",
        &[
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--ignore-certificate-errors",
            &profile,
            "--dump-dom",
            &url,
        ],
    );
    let page = ended.stdout;
    for seen in [
        r#"<p id="flash">{"flash":"welcome"}</p>"#,
        r#"<li>session {"cart.apple":"1","cart.bread":"1","cart.cheese":"1","cart.coffee":"1","cart.honey":"1","cart.tea":"1","user":"alice"} -</li>"#,
        // It can't be read by scripts.
        r#"<li>cookies ""</li>"#,
        "<li>socket hello active 2.0 pycket</li>",
        "<li>by h2</li>",
    ] {
        assert!(page.contains(seen), "{seen} in {page}\n{}", ended.stderr);
    }
}
