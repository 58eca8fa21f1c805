//! Who the client is: what strangers say of it is replaced, what a trusted neighbour says is kept
//! and added to.

use serde_json::Value;

use super::{Stand, folded, whole};

const TRUST: &str = "forwarding.trust = ['127.0.0.1/32', '10.0.0.0/8', 'fd00::/8']";

/// Headers that frameworks believe about the client, the scheme, the host or the path.
const CLAIMS: [&str; 14] = [
    "Forwarded",
    "X-Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Proto",
    "X-Forwarded-Scheme",
    "X-Forwarded-Server",
    "X-Forwarded-Ssl",
    "X-Forwarded-Uri",
    "X-Original-Url",
    "X-Real-Ip",
    "X-Rewrite-Url",
];

#[test]
fn claims_of_strangers_are_removed_in_every_spelling() {
    let stand = Stand::new("");
    for claim in CLAIMS {
        for separator in ["-", "_", ".", "~"] {
            let name = claim.replace('-', separator);
            let lines = format!("Connection: close\r\n{name}: evil\r\n{name}: evil");
            let request = stand.request(&lines);
            assert!(!whole(&request).contains("evil"), "{name}: {request:?}");
            let told = |name: &str| request.header(name).map(str::to_owned);
            assert_eq!(told("X-Forwarded-For").as_deref(), Some("127.0.0.1"));
            assert_eq!(told("X-Forwarded-Proto").as_deref(), Some("http"));
            assert_eq!(told("X-Forwarded-Host").as_deref(), Some("h"));
            assert_eq!(told("Forwarded"), None);
        }
    }
    assert_eq!(stand.app.requests().len(), 14 * 4);
}

#[test]
fn claims_of_a_neighbour_pass_in_their_own_spelling_only() {
    let stand = Stand::new(TRUST);
    for claim in CLAIMS {
        let request = stand.request(&format!("Connection: close\r\n{claim}: kept.example"));
        assert!(
            whole(&request).contains("kept.example") || claim == "X-Forwarded-Proto",
            "{claim}"
        );
        // A balancer that sets the proper name may have let these through.
        for separator in ["_", ".", "~"] {
            let name = claim.replace('-', separator);
            if name == claim {
                continue;
            }
            let request = stand.request(&format!("Connection: close\r\n{name}: evil"));
            assert!(!whole(&request).contains("evil"), "{name}: {request:?}");
        }
    }
}

/// What a trusted neighbour sends, who the client is in the log, and the chain that goes upstream.
const CHAINS: [(&str, &str, &str); 16] = [
    ("", "127.0.0.1", "127.0.0.1"),
    ("X-Forwarded-For: 6.6.6.6", "6.6.6.6", "6.6.6.6, 127.0.0.1"),
    (
        "X-Forwarded-For: 6.6.6.6, 9.9.9.9",
        "9.9.9.9",
        "6.6.6.6, 9.9.9.9, 127.0.0.1",
    ),
    (
        "X-Forwarded-For: 6.6.6.6, 10.1.1.1",
        "6.6.6.6",
        "6.6.6.6, 10.1.1.1, 127.0.0.1",
    ),
    (
        "X-Forwarded-For: 5.5.5.5, 6.6.6.6,10.1.1.1,10.2.2.2",
        "6.6.6.6",
        "5.5.5.5, 6.6.6.6,10.1.1.1,10.2.2.2, 127.0.0.1",
    ),
    (
        "X-Forwarded-For: 10.1.1.1, 10.2.2.2",
        "10.1.1.1",
        "10.1.1.1, 10.2.2.2, 127.0.0.1",
    ),
    (
        "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 9.9.9.9",
        "9.9.9.9",
        "6.6.6.6, 9.9.9.9, 127.0.0.1",
    ),
    (
        "X-Forwarded-For: evil, 10.1.1.1",
        "10.1.1.1",
        "evil, 10.1.1.1, 127.0.0.1",
    ),
    (
        "X-Forwarded-For: 6.6.6.6, evil",
        "127.0.0.1",
        "6.6.6.6, evil, 127.0.0.1",
    ),
    (
        "X-Forwarded-For: 6.6.6.6:1234",
        "6.6.6.6",
        "6.6.6.6:1234, 127.0.0.1",
    ),
    (
        "X-Forwarded-For: 2001:db8::1",
        "2001:db8::1",
        "2001:db8::1, 127.0.0.1",
    ),
    (
        "X-Forwarded-For: [2001:db8::1]:443, fd00::1",
        "2001:db8::1",
        "[2001:db8::1]:443, fd00::1, 127.0.0.1",
    ),
    (
        "X-Forwarded-For: ::ffff:6.6.6.6",
        "6.6.6.6",
        "::ffff:6.6.6.6, 127.0.0.1",
    ),
    (
        "X-Forwarded-For: 6.6.6.6\r\nForwarded: for=9.9.9.9",
        "6.6.6.6",
        "6.6.6.6, 127.0.0.1",
    ),
    (
        "Forwarded: for=5.5.5.5, for=\"6.6.6.6:80\";proto=https",
        "6.6.6.6",
        "127.0.0.1",
    ),
    (
        "X-Forwarded-For: 999.1.1.1",
        "127.0.0.1",
        "999.1.1.1, 127.0.0.1",
    ),
];

#[test]
fn client_is_the_last_on_the_way_whom_nobody_trusts() {
    let stand = Stand::new(TRUST);
    for (number, (lines, client, chain)) in (1..).zip(CHAINS) {
        let passage = stand.send(format!(
            "GET /{number} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{lines}{}\r\n",
            if lines.is_empty() { "" } else { "\r\n" }
        ));
        let [request] = passage.requests.as_slice() else {
            panic!("{lines}: {passage:?}");
        };
        assert_eq!(request.header("X-Forwarded-For"), Some(chain), "{lines}");
        let path = format!("/{number}");
        let line = stand.pycket.access(|line| line["path"] == path.as_str());
        assert_eq!(line["client"], client, "{lines}");
    }
}

#[test]
fn scheme_and_host_are_the_nearest_neighbours_word() {
    let stand = Stand::new(TRUST);
    let cases = [
        ("X-Forwarded-Proto: https", "https", "h"),
        ("X-Forwarded-Proto: HTTPS", "https", "h"),
        ("X-Forwarded-Proto: https, http", "http", "h"),
        ("X-Forwarded-Proto: evil", "http", "h"),
        ("Forwarded: for=6.6.6.6;proto=https", "https", "h"),
        ("X-Forwarded-Host: shop.example", "http", "shop.example"),
        ("X-Forwarded-Host: a b", "http", "h"),
        ("X-Forwarded-Host: evil/path", "http", "h"),
    ];
    for (lines, scheme, host) in cases {
        let request = stand.request(&format!("Connection: close\r\n{lines}"));
        assert_eq!(request.header("X-Forwarded-Proto"), Some(scheme), "{lines}");
        assert_eq!(request.header("X-Forwarded-Host"), Some(host), "{lines}");
    }
}

#[test]
fn forwarded_is_written_when_it_is_wanted() {
    let wanted = "forwarding.forwarded = true\nforwarding.x_forwarded = false";
    let stand = Stand::new(wanted);
    let claim = "Connection: close\r\nForwarded: for=6.6.6.6\r\nX-Forwarded-For: 6.6.6.6";
    let ours = "for=127.0.0.1;host=\"h\";proto=http";
    let request = stand.request(claim);
    assert_eq!(request.fields.all("Forwarded"), [ours]);
    assert_eq!(request.header("X-Forwarded-For"), None);
    let stand = Stand::new(&format!("{wanted}\n{TRUST}"));
    let request = stand.request(claim);
    assert_eq!(request.fields.all("Forwarded"), ["for=6.6.6.6", ours]);
}

#[test]
fn via_is_added_to_and_can_be_left_out() {
    let stand = Stand::new("");
    let request = stand.request("Connection: close\r\nVia: 1.0 before");
    assert_eq!(request.fields.all("Via"), ["1.0 before", "1.1 pycket"]);
    let stand = Stand::new("forwarding.via = false");
    let request = stand.request("Connection: close\r\nVia: 1.0 before");
    assert_eq!(request.fields.all("Via"), ["1.0 before"]);
}

/// All request ids that the application sees, in whichever spelling.
fn ids(stand: &Stand, lines: &str) -> Vec<String> {
    let request = stand.request(&format!("Connection: close\r\n{lines}"));
    let fields = request.fields.0.into_iter();
    let ids = fields.filter(|(name, _)| folded(name) == "x-request-id");
    ids.map(|(_, id)| id).collect()
}

fn is_ours(id: &str) -> bool {
    id.len() == 25 && id.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}

#[test]
fn request_id_of_a_stranger_is_replaced() {
    let stand = Stand::new("");
    for name in [
        "X-Request-Id",
        "x-request-id",
        "X_Request_Id",
        "X.Request.Id",
        "X-Request~Id",
    ] {
        let seen = ids(&stand, &format!("{name}: evil\r\n{name}: evil"));
        assert!(seen.len() == 1 && is_ours(&seen[0]), "{name}: {seen:?}");
    }
}

#[test]
fn request_id_of_a_neighbour_is_kept_when_it_is_one() {
    let stand = Stand::new(TRUST);
    let longest = "x".repeat(128);
    for id in ["id-1", "a/b=c:d", "\"}", longest.as_str()] {
        assert_eq!(ids(&stand, &format!("X-Request-Id: {id}")), [id]);
    }
    let too_long = "x".repeat(129);
    for id in ["", "a b", "a\tb", "caf\u{e9}", too_long.as_str()] {
        let seen = ids(&stand, &format!("X-Request-Id: {id}"));
        assert!(seen.len() == 1 && is_ours(&seen[0]), "{id}: {seen:?}");
    }
    assert_eq!(
        ids(&stand, "X-Request-Id: id-1\r\nX_Request_Id: evil"),
        ["id-1"]
    );
}

#[test]
fn nothing_in_a_request_can_add_a_line_or_a_key_to_the_log() {
    let heads = [
        "GET /a%0aid=evil HTTP/1.1\r\nHost: h",
        "GET /%0d%0a{\"id\":\"evil\"} HTTP/1.1\r\nHost: h",
        "GET /\"status=200\" HTTP/1.1\r\nHost: h",
        "GET /a\\x0ab HTTP/1.1\r\nHost: h",
        "GET /=&status=500?id=evil HTTP/1.1\r\nHost: h",
        "GET / HTTP/1.1\r\nHost: h\" id=evil",
        "GET / HTTP/1.1\r\nHost: h\\",
        "GET / HTTP/1.1\r\nHost: \u{1b}[31m",
        "EVIL|ID / HTTP/1.1\r\nHost: h",
        "GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: \",\"id\":\"evil",
        "GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: x\"status=500",
    ];
    for format in ["json", "text"] {
        let mut stand = Stand::new(&format!("log.format = '{format}'\n{TRUST}"));
        let mut served = 0;
        for head in heads {
            let passage = stand.send(format!("{head}\r\nConnection: close\r\n\r\n"));
            // What is malformed to hyper itself is no exchange.
            served += usize::from(passage.answer.contains("Request id") || passage.status() == 200);
        }
        let output = stand.pycket.stop().stdout;
        assert_eq!(output.lines().count(), served, "{output}");
        assert!(served >= 9, "{served} of {}", heads.len());
        for line in output.lines() {
            let printable = line.chars().all(|c| (' '..='~').contains(&c));
            assert!(printable, "{line}");
            if format == "json" {
                let entry: Value = serde_json::from_str(line).expect(line);
                assert_ne!(entry["id"], "evil", "{line}");
                assert!(entry["status"].is_number(), "{line}");
            } else {
                assert_eq!(unquoted(line).matches(" id=").count(), 1, "{line}");
                assert_eq!(unquoted(line).matches(" status=").count(), 1, "{line}");
            }
        }
    }
}

/// A line of the text log without what stands in quotes.
fn unquoted(line: &str) -> String {
    let (mut text, mut inside, mut escaped) = (String::new(), false, false);
    for c in line.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if inside => escaped = true,
            '"' => inside = !inside,
            c if !inside => text.push(c),
            _ => {}
        }
    }
    text
}
