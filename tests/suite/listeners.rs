//! Where it listens: addresses, unix sockets, and the sockets that systemd hands over.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::{AppResponse, Builder, Process, Pycket, Upstream, curl, program};

/// An application that answers with what it is told about the client.
fn app() -> Upstream {
    Upstream::app(|request| {
        let told = request.header("X-Forwarded-For").unwrap_or("nothing");
        AppResponse::ok(told)
    })
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn at_socket(app: &Upstream, path: &Path, more: &str) -> Builder {
    let listener = format!("[[listener]]\naddress = 'unix:{}'\n{more}", path.display());
    Pycket::with(app).config(&listener)
}

/// Asks by a unix socket.
fn ask(path: &Path, arguments: &[&str]) -> String {
    let path = path.to_str().expect("a readable path");
    curl(&[&["--unix-socket", path, "http://h/"], arguments].concat())
}

#[test]
fn several_addresses_are_listened_on_ipv6_among_them() {
    let app = app();
    let pycket = Pycket::with(&app)
        .config("listen = ['127.0.0.1:0', '[::1]:0']")
        .start();
    let second = pycket.second_address();
    assert!(second.is_ipv6(), "{second}");
    assert_eq!(curl(&[&format!("http://{second}/")]), "::1");
    let first = crate::harness::Address::address(&pycket);
    assert_eq!(curl(&[&format!("http://{first}/")]), "127.0.0.1");
}

#[test]
fn a_unix_socket_is_served_by_all_workers_and_removed_at_the_end() {
    let (app, folder) = (app(), folder());
    let path = folder.path().join("http.sock");
    let mut pycket = at_socket(&app, &path, "mode = '0620'")
        .config("workers = 3")
        .start();
    pycket.says("listening on unix:");
    let mode = fs::metadata(&path)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o620);
    for _ in 0..9 {
        assert_eq!(
            ask(&path, &["-H", "X-Forwarded-For: 203.0.113.9"]),
            "nothing"
        );
    }
    let line = pycket.access(|line| line["status"] == 200);
    assert!(line.get("client").is_none(), "{line}");
    assert_eq!(pycket.stop().code, Some(0));
    assert!(!path.exists());
}

#[test]
fn a_neighbour_on_a_unix_socket_is_believed_where_the_configuration_says_so() {
    let (app, folder) = (app(), folder());
    let path = folder.path().join("http.sock");
    let pycket = at_socket(&app, &path, "")
        .config("forwarding.trust = ['unix']")
        .start();
    pycket.says("listening on unix:");
    let told = ask(&path, &["-H", "X-Forwarded-For: 203.0.113.9"]);
    assert_eq!(told, "203.0.113.9");
    let line = pycket.access(|line| line["status"] == 200);
    assert_eq!(line["client"], "203.0.113.9");
}

#[test]
fn a_socket_file_that_was_left_behind_is_replaced() {
    let (app, folder) = (app(), folder());
    let path = folder.path().join("http.sock");
    let mut killed = at_socket(&app, &path, "").start();
    killed.says("listening on unix:");
    killed.kill();
    assert!(path.exists(), "nobody has removed it");
    let again = at_socket(&app, &path, "").start();
    again.says("listening on unix:");
    assert_eq!(ask(&path, &[]), "nothing");
}

#[test]
fn a_socket_file_that_somebody_listens_on_is_left_alone() {
    let (app, folder) = (app(), folder());
    let path = folder.path().join("http.sock");
    let _somebody = UnixListener::bind(&path).expect("a free path");
    let ended = at_socket(&app, &path, "").start_expecting_failure();
    assert!(
        ended.stderr.contains("another process listens on it"),
        "{}",
        ended.stderr
    );
    let notes = folder.path().join("notes");
    fs::write(&notes, "precious").expect("the folder can be written");
    let ended = at_socket(&app, &notes, "").start_expecting_failure();
    assert!(ended.stderr.contains("no socket"), "{}", ended.stderr);
}

/// Starts it as systemd would, with this socket as number 3.
pub(crate) fn handed_over(
    app: &Upstream,
    folder: &Path,
    socket: OwnedFd,
    listen: &str,
    pid: &str,
) -> Process {
    let config = folder.join("pycket.toml");
    let builder = Pycket::with(app).config(&format!("listen = '{listen}'"));
    fs::write(&config, builder.text()).expect("the folder can be written");
    let script = format!(
        "exec 3<&0 </dev/null; LISTEN_PID={pid} LISTEN_FDS=1 LISTEN_FDNAMES=web exec \"$0\" \"$@\""
    );
    let mut command = Command::new("sh");
    command.arg("-c").arg(script);
    command
        .arg(program().get_program())
        .arg("run")
        .arg("--config")
        .arg(config);
    command.stdin(socket);
    Process::start(&mut command, "of this project")
}

#[test]
fn sockets_of_systemd_are_taken_by_their_names() {
    for listen in ["systemd", "systemd:web"] {
        let (app, folder) = (app(), folder());
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("it is bound");
        // It waits in the socket from before the start.
        let _process = handed_over(&app, folder.path(), socket.into(), listen, "$$");
        assert_eq!(
            curl(&[&format!("http://{address}/")]),
            "127.0.0.1",
            "{listen}"
        );
    }
}

#[test]
fn a_unix_socket_of_systemd_is_served_and_stays() {
    let (app, folder) = (app(), folder());
    let path = folder.path().join("activated.sock");
    let socket = UnixListener::bind(&path).expect("a free path");
    let mut process = handed_over(&app, folder.path(), socket.into(), "systemd", "$$");
    assert_eq!(ask(&path, &[]), "nothing");
    process.signal("TERM");
    assert_eq!(process.wait().code, Some(0));
    assert!(path.exists(), "it is systemd's");
}

#[test]
fn sockets_that_are_meant_for_another_process_or_have_another_name_are_no_sockets() {
    for (listen, pid, complaint) in [
        ("systemd", "1", "systemd handed over no socket"),
        ("systemd:api", "$$", "FileDescriptorName=api"),
    ] {
        let (app, folder) = (app(), folder());
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let ended = handed_over(&app, folder.path(), socket.into(), listen, pid).wait();
        assert_ne!(ended.code, Some(0), "{listen}");
        assert!(
            ended.stderr.contains(complaint),
            "{listen}: {}",
            ended.stderr
        );
    }
}
