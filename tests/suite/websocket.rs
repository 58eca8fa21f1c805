//! A real WebSocket server behind the proxy, and a real client in front of it, both by Tornado.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::harness::{Address, Process, Pycket};
use crate::upstream_grpc::python;

#[test]
fn a_client_and_a_server_talk_and_have_a_session() {
    let server = Process::start(&mut python("websocket_app.py"), "of tests/run");
    let port = server.stdout_line("its port", |line| line.strip_prefix("port ")?.parse().ok());
    let pycket = Pycket::to(SocketAddr::from(([127, 0, 0, 1], port))).start();
    let mut command = python("websocket_client.py");
    command.arg(pycket.address().to_string());
    let ended = Process::start(&mut command, "of tests/run").wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let said: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(
        said,
        json!({
            "protocol": "two",
            "first": [{}, "127.0.0.1"],
            "text": "gr\u{fc}\u{df}e",
            "large": true,
            "second": [{"visits": "1"}, "127.0.0.1"],
            "many": true,
            "end": [null, 4000, "as you say"],
            "own_end": null,
        })
    );
    let line = pycket.access(|line| line["wrote"] == "created");
    assert_eq!(line["status"], 101);
}
