//! A real gRPC server behind the proxy, asked by HTTP/1.1 as far as that goes.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::harness::{Browser, Process, Pycket, Response};

/// A gRPC server (`tests/python/grpc_app.py`), and where it listens.
fn server() -> (Process, SocketAddr) {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut command = Command::new(format!("{root}/target/python/bin/python"));
    command.arg(format!("{root}/tests/python/grpc_app.py"));
    let process = Process::start(command.stdin(Stdio::piped()), "of tests/run");
    let port = process.stdout_line("its port", |line| line.strip_prefix("port ")?.parse().ok());
    (process, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// A message with what stands before it (gRPC over HTTP/2, "Length-Prefixed-Message").
fn message(text: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

fn call(browser: &mut Browser, method: &str, text: &str) -> Response {
    browser
        .request("POST", &format!("/demo.Demo/{method}"))
        .header("TE", "trailers")
        .header("Content-Type", "application/grpc")
        .body(message(text))
        .send()
}

#[test]
fn calls_bring_messages_and_their_status() {
    let (_server, address) = server();
    let pycket = Pycket::to(address)
        .config(&format!("upstream = 'h2c://{address}'"))
        .start();
    let mut browser = Browser::at(&pycket);
    let answer = call(&mut browser, "Echo", "hello");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("Content-Type"), Some("application/grpc"));
    assert_eq!(answer.body(), message("hello"));
    assert_eq!(answer.trailers.one("grpc-status"), Some("0"));

    let answer = call(&mut browser, "Count", "3");
    assert_eq!(answer.body(), ["0", "1", "2"].map(message).concat());
    assert_eq!(answer.trailers.one("grpc-status"), Some("0"));

    let answer = call(&mut browser, "Fail", "");
    let status = answer.trailers.one("grpc-status");
    assert_eq!(status.or(answer.header("grpc-status")), Some("5"));
    let why = answer.trailers.one("grpc-message");
    let why = why.or(answer.header("grpc-message"));
    assert_eq!(why, Some("there is no such thing"));
}
