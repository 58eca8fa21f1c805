use std::net::Ipv4Addr;
use std::sync::mpsc;

use insta::assert_snapshot;

use super::*;

fn record() -> AccessRecord {
    AccessRecord {
        id: RequestId::from_static("0123456789abcdef-00000001"),
        time: Timestamp::from_millis(1_795_305_600_042),
        client: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))),
        method: Method::POST,
        host: Some(HeaderValue::from_static("example.com:8080")),
        target: Some(PathAndQuery::from_static("/login?token=secret")),
        route: Some(Arc::from("/")),
        server: None,
        status: StatusCode::SEE_OTHER,
        bytes_in: 12,
        bytes_out: 0,
        total: Duration::from_micros(1500),
        store: Duration::from_micros(300),
        upstream: Duration::from_micros(900),
        cookie: CookieOutcome::None,
        record: RecordOutcome::NotAsked,
        session: Some(PublicId::from_bytes([1; 16])),
        wrote: WriteOutcome::Created,
        claimed: 0,
        shown: 0,
        returned: 0,
        error: None,
    }
}

fn line(record: &AccessRecord, format: LogFormat) -> String {
    let mut lines = Lines::new(format, 0);
    lines.push(record);
    String::from_utf8(lines.bytes).unwrap()
}

#[test]
fn text_lines_have_keys_and_values_and_no_query() {
    assert_snapshot!(line(&record(), LogFormat::Text), @"time=2026-11-22T00:00:00.042Z id=0123456789abcdef-00000001 client=192.0.2.1 method=POST host=example.com:8080 path=/login route=/ status=303 bytes_in=12 bytes_out=0 total_us=1500 store_us=300 upstream_us=900 cookie=none record=not_asked session=AQEBAQEBAQEBAQEBAQEBAQ wrote=created claimed=0 shown=0 returned=0");
}

#[test]
fn json_lines_are_objects() {
    let line = line(&record(), LogFormat::Json);
    let object: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(object["path"], "/login");
    assert_snapshot!(line, @r#"{"time":"2026-11-22T00:00:00.042Z","id":"0123456789abcdef-00000001","client":"192.0.2.1","method":"POST","host":"example.com:8080","path":"/login","route":"/","status":303,"bytes_in":12,"bytes_out":0,"total_us":1500,"store_us":300,"upstream_us":900,"cookie":"none","record":"not_asked","session":"AQEBAQEBAQEBAQEBAQEBAQ","wrote":"created","claimed":0,"shown":0,"returned":0}"#);
}

#[test]
fn strangers_cannot_forge_lines_or_keys() {
    let mut record = record();
    record.host = Some(HeaderValue::from_bytes(b"a\" status=200 \\ caf\xe9\tx").unwrap());
    record.target = Some(PathAndQuery::try_from("/a=b").unwrap());
    record.route = Some(Arc::from(""));
    let text = line(&record, LogFormat::Text);
    assert_eq!(text.lines().count(), 1);
    assert_snapshot!(text, @r#"time=2026-11-22T00:00:00.042Z id=0123456789abcdef-00000001 client=192.0.2.1 method=POST host="a\" status=200 \\ caf\xe9\x09x" path="/a=b" route="" status=303 bytes_in=12 bytes_out=0 total_us=1500 store_us=300 upstream_us=900 cookie=none record=not_asked session=AQEBAQEBAQEBAQEBAQEBAQ wrote=created claimed=0 shown=0 returned=0"#);
    let json = line(&record, LogFormat::Json);
    let object: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(object["host"], "a\" status=200 \\ caf\u{e9}\tx");
    assert_eq!(json.lines().count(), 1);
}

#[test]
fn a_server_of_several_stands_behind_the_route() {
    let mut record = record();
    record.server = Some(Arc::from("10.0.0.1:9000"));
    let text = line(&record, LogFormat::Text);
    assert!(
        text.contains(" route=/ server=10.0.0.1:9000 status="),
        "{text}"
    );
    record.server = Some(Arc::from("/run/app.sock"));
    let object: serde_json::Value = serde_json::from_str(&line(&record, LogFormat::Json)).unwrap();
    assert_eq!(object["server"], "/run/app.sock");
}

#[test]
fn each_line_has_the_time_of_its_own() {
    let mut lines = Lines::new(LogFormat::Text, 0);
    let mut record = record();
    for millis in [
        1_795_305_600_042,
        1_795_305_600_999,
        1_795_305_601_000,
        7,
        0,
    ] {
        record.time = Timestamp::from_millis(millis);
        lines.push(&record);
    }
    let text = String::from_utf8(lines.bytes).unwrap();
    let times: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("time=")?.split(' ').next())
        .collect();
    assert_eq!(
        times,
        [
            "2026-11-22T00:00:00.042Z",
            "2026-11-22T00:00:00.999Z",
            "2026-11-22T00:00:01.000Z",
            "1970-01-01T00:00:00.007Z",
            "1970-01-01T00:00:00.000Z",
        ]
    );
}

/// Sends each write call on.
struct Calls(mpsc::Sender<Vec<u8>>);

impl Write for Calls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn many_lines_leave_by_one_write() {
    let (calls, written) = mpsc::channel();
    let log = AccessLog::to(LogFormat::Text, Calls(calls));
    let length = line(&record(), LogFormat::Text).len();
    let lines = WRITE_AT_BYTES.div_ceil(length);
    for _ in 1..lines {
        log.write(&record());
    }
    assert!(written.try_recv().is_err(), "nothing is written early");
    log.write(&record());
    assert_eq!(written.try_recv().unwrap().len(), lines * length);
    assert!(written.try_recv().is_err());
}

#[test]
fn what_is_left_is_written_at_the_end() {
    let (calls, written) = mpsc::channel();
    let log = AccessLog::to(LogFormat::Text, Calls(calls));
    log.write(&record());
    drop(log);
    assert!(written.try_recv().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_single_line_does_not_wait_for_others() {
    let (calls, written) = mpsc::channel();
    let log = Arc::new(AccessLog::to(LogFormat::Text, Calls(calls)));
    let flushing = Arc::clone(&log);
    tokio::spawn(async move { flushing.keep_flushing().await });
    log.write(&record());
    tokio::time::sleep(WRITE_AFTER.checked_sub(Duration::from_millis(1)).unwrap()).await;
    assert!(written.try_recv().is_err());
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert!(written.try_recv().is_ok());
}
