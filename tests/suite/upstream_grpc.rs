//! A real gRPC server behind the proxy, asked by a real client by HTTP/2, with and without TLS, and
//! by HTTP/1.1 as far as that goes.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Address, Browser, Builder, Process, Pycket, Response};
use crate::tls::Authority;

/// A program of `tests/python`.
pub(crate) fn python(script: &str) -> Command {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut command = Command::new(format!("{root}/target/python/bin/python"));
    command.arg(format!("{root}/tests/python/{script}"));
    command.stdin(Stdio::piped());
    command
}

/// A gRPC server (`tests/python/grpc_app.py`), and where it listens.
fn server() -> (Process, SocketAddr) {
    let process = Process::start(&mut python("grpc_app.py"), "of tests/run");
    let port = process.stdout_line("its port", |line| line.strip_prefix("port ")?.parse().ok());
    (process, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// A proxy in front of it.
fn proxy(server: SocketAddr) -> Builder {
    Pycket::to(server).config(&format!("upstream = 'h2c://{server}'"))
}

/// What comes of asking for these things (`tests/python/grpc_client.py`).
fn ask(address: SocketAddr, what: &str, more: &[&str]) -> Value {
    let mut command = python("grpc_client.py");
    command.arg(address.to_string()).arg(what).args(more);
    let ended = Process::start(&mut command, "of tests/run").wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    serde_json::from_str(&ended.stdout).expect("JSON")
}

/// All kinds of calls, asked for one after the other by one connection.
const CALLS: &str = "unary,large,many,server_streaming,client_streaming,bidirectional,error,\
                     error_after_messages,unknown,deadline";

/// What comes of them, as without a proxy.
fn outcomes() -> Value {
    json!({
        "unary": ["hello", "a test", true, "OK"],
        "large": true,
        "many": true,
        "server_streaming": true,
        "client_streaming": 499_500,
        "bidirectional": ["you say one", "you say two", "you say three", "OK"],
        "error": ["NOT_FOUND", "there is no such thing"],
        "error_after_messages": ["so far", "DATA_LOSS", "and no further: \u{e9}"],
        "unknown": "UNIMPLEMENTED",
        "deadline": "DEADLINE_EXCEEDED",
    })
}

#[test]
fn a_client_has_all_kinds_of_calls_as_without_a_proxy() {
    let (server, address) = server();
    assert_eq!(ask(address, CALLS, &[]), outcomes(), "without a proxy");
    let pycket = proxy(address).start();
    assert_eq!(ask(pycket.address(), CALLS, &[]), outcomes());
    drop(server);
}

#[test]
fn a_client_has_all_kinds_of_calls_by_tls() {
    let (_server, address) = server();
    let authority = Authority::new();
    authority.issue("grpc", &["grpc.example.com"]);
    let (ca, cert, key) = (
        authority.path("ca.pem"),
        authority.path("grpc.pem"),
        authority.path("grpc.key"),
    );
    let listener = format!(
        "[[listener]]\naddress = '127.0.0.1:0'\n[listener.tls]\n\
         certificates = [{{ cert = '{cert}', key = '{key}' }}]"
    );
    let pycket = proxy(address).config(&listener).start();
    let asked = ask(pycket.second_address(), CALLS, &[&ca, "grpc.example.com"]);
    assert_eq!(asked, outcomes());
}

#[test]
fn a_call_that_the_client_ends_ends_at_the_server() {
    let (server, address) = server();
    let pycket = proxy(address).start();
    let mut command = python("grpc_client.py");
    command.arg(pycket.address().to_string()).arg("cancel");
    let mut client = Process::start(&mut command, "of tests/run");
    server.stdout_line("that it waits", |line| (line == "waits").then_some(()));
    client.end_input();
    assert_eq!(client.wait().stdout, r#"{"cancel": "CANCELLED"}"#);
    let no_more = |line: &str| (line == "waits no more").then_some(());
    server.stdout_line("that it waits no more", no_more);
    let line = pycket.access(|line| line["path"] == "/demo.Demo/Wait");
    assert_eq!(line["error"], "client_left");
}

#[test]
fn a_call_that_the_proxy_ends_has_a_status_that_clients_know() {
    let (_server, address) = server();
    let config = "[[route]]\npath = '/demo.Demo/Wait'\nupstream_response = '100ms'";
    let pycket = proxy(address).config(config).start();
    // gRPC over HTTP/2, "HTTP/2 Transport Mapping": 504 is UNAVAILABLE.
    let mut client = python("grpc_client.py");
    client.arg(pycket.address().to_string()).arg("given_up");
    let ended = Process::start(&mut client, "of tests/run").wait();
    assert_eq!(
        ended.stdout, r#"{"given_up": "UNAVAILABLE"}"#,
        "{}",
        ended.stderr
    );
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
