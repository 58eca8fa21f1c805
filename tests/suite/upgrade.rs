//! Another program takes over while it runs: nothing is lost.

mod http2_load;

use std::net::TcpListener;
use std::process::Command;
use std::thread;

use crate::harness::{Address, AppResponse, Gate, Process, Pycket, Upstream, Wire, tool};
use crate::listeners::handed_over;
use crate::reload::{get, h2load, load, named, until};
use crate::tls::Authority;
use http2_load::{Client, load as load_http2};

/// The process that took over. It is killed when this goes.
struct Successor(String);

impl Successor {
    /// Tells a process to make one, and waits until that serves.
    fn of(old: &Process) -> Self {
        old.signal("USR2");
        Self::wait(old, 0)
    }

    /// Tells this one to make the next; `first` is the process that all of them share the output of, and
    /// `before` how many have taken over.
    fn next(&self, first: &Process, before: usize) -> Self {
        self.signal("-USR2");
        Self::wait(first, before)
    }

    fn wait(first: &Process, before: usize) -> Self {
        first.says_more_often("the successor serves", before);
        let said = first.stderr_lines("a successor was started");
        let said = said.last().unwrap();
        let (_, pid) = said.split_once("\"pid\":").unwrap();
        let digits = pid.find(|c: char| !c.is_ascii_digit()).unwrap();
        Self(pid.get(..digits).unwrap().to_owned())
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.0]).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        // It may have ended.
        let _gone = Command::new("kill").args(["-KILL", &self.0]).output();
    }
}

#[test]
fn successor_takes_over_under_load_without_losing_a_request() {
    let app = named("app");
    let mut pycket = Pycket::with(&app).start();
    let address = pycket.address();
    let mut successor = None;
    thread::scope(|scope| {
        let url = format!("http://{address}/");
        let asked = scope.spawn(move || h2load(&url, &["--h1"], 4000));
        let answers = load(address, || {
            until("the load has begun", || app.requests().len() > 100);
            successor = Some(Successor::of(pycket.process()));
            assert_eq!(pycket.gone(), Some(0));
            let before = app.requests().len();
            until("the successor answers", || {
                app.requests().len() > before + 100
            });
            until("all are answered", || asked.is_finished());
        });
        assert!(answers > 100, "{answers}");
    });
    let successor = successor.unwrap();
    assert_ne!(successor.0, pycket.pid().to_string());
    assert_eq!(get(&mut Wire::connect(&address)), "app {}");
    successor.signal("-TERM");
    // Both have ended their output.
    assert!(pycket.ended().stderr.contains("\"cut_off\":0"));
}

#[test]
fn what_runs_in_the_old_process_may_finish_and_unix_sockets_stay() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = Upstream::app(move |request| {
        if request.target == "/slow" {
            held.pass();
        }
        AppResponse::ok("whole")
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listen = format!("listen = ['127.0.0.1:0', 'unix:{}']", path.display());
    let mut old = Pycket::with(&app).config(&listen).start();
    let mut slow = Wire::connect(&old);
    slow.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n");
    app.request(1);
    let successor = Successor::of(old.process());
    assert_eq!(get(&mut Wire::connect(&old)), "whole");
    gate.open();
    slow.read_until("whole");
    assert_eq!(old.gone(), Some(0));
    let path = path.to_str().unwrap();
    let answer = crate::harness::curl(&["--unix-socket", path, "http://h/"]);
    assert_eq!(answer, "whole");
    successor.signal("-TERM");
    old.ended();
    assert!(!std::fs::exists(path).unwrap(), "the successor removes it");
}

#[test]
fn successor_that_can_not_serve_leaves_the_old_process_serving() {
    let app = named("app");
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let program = folder.path().join("pycket");
    std::fs::hard_link(env!("CARGO_BIN_EXE_pycket"), &program).unwrap();
    let mut pycket = Pycket::with(&app).program(&program).start();
    let mut kept = Wire::connect(&pycket);
    pycket.reconfigure("no_such_key = 1");
    pycket.signal("USR2");
    pycket.says("it has ended before it served: exit status: 78");
    assert_eq!(get(&mut kept), "app {}");

    std::fs::remove_file(&program).unwrap();
    std::fs::write(&program, "#!/bin/sh\nexit 7\n").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, executable).unwrap();
    pycket.signal("USR2");
    pycket.says("it has ended before it served: exit status: 7");
    assert_eq!(get(&mut kept), "app {}");
    assert_eq!(get(&mut Wire::connect(&pycket)), "app {}");
    assert_eq!(pycket.stop().code, Some(0));
}

/// Upgrades while clients of HTTP/2 ask, who open another connection when theirs ends.
fn upgrade_under_http2(app: &Upstream, process: &Process, client: &Client) -> Successor {
    let mut successor = None;
    let answers = load_http2(client, || {
        until("the load has begun", || app.requests().len() > 100);
        successor = Some(Successor::of(process));
        process.says_more_often("\"message\":\"stopped\"", 0);
        let before = app.requests().len();
        until("the successor answers", || {
            app.requests().len() > before + 100
        });
    });
    // A request that was sent twice would be one too many.
    assert_eq!(answers, app.requests().len());
    successor.unwrap()
}

#[test]
fn successor_takes_over_under_http2_without_losing_a_request() {
    let app = named("app");
    let mut pycket = Pycket::with(&app).start();
    let client = Client::cleartext(pycket.address());
    let successor = upgrade_under_http2(&app, pycket.process(), &client);
    successor.signal("-TERM");
    let said = pycket.ended().stderr;
    assert_eq!(said.matches("\"cut_off\":0").count(), 2, "{said}");
}

#[test]
fn what_comes_from_h2load_before_its_connections_end_is_answered() {
    let app = named("app");
    let pycket = Pycket::with(&app).start();
    let url = format!("http://{}/", pycket.address());
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let arguments = ["-n", "100000", "-c", "8", "-m", "8", "-t", "1", &url];
            tool("h2load", "nghttp2-client", &arguments).stdout
        });
        until("the load has begun", || app.requests().len() > 100);
        let _successor = Successor::of(pycket.process());
        // It opens no other connection, and calls failed what it did not send for that.
        let report = asking.join().unwrap();
        let asked = app.requests().len();
        for all in [format!("{asked} succeeded"), format!("{asked} 2xx")] {
            assert!(report.contains(&all), "{asked} {report}");
        }
    });
}

#[test]
fn successor_takes_over_a_listener_with_tls() {
    let app = named("app");
    let authority = Authority::new();
    authority.issue("server", &["localhost"]);
    let listener = format!(
        "[[listener]]\naddress = '127.0.0.2:0'\n[listener.tls]\n\
         certificates = [{{ cert = '{}', key = '{}' }}]",
        authority.path("server.pem"),
        authority.path("server.key")
    );
    let mut pycket = Pycket::with(&app).config(&listener).start();
    let address = pycket.second_address();
    let client = Client::tls(address, "localhost", &authority.path("ca.pem"));
    let first = upgrade_under_http2(&app, pycket.process(), &client);
    // The same by HTTP/1.1, from the one that took over.
    let before = app.requests().len();
    let second = thread::scope(|scope| {
        let url = format!("https://{address}/");
        let asked = scope.spawn(move || h2load(&url, &["--h1"], 2000));
        until("the load has begun", || app.requests().len() > before + 100);
        let second = first.next(pycket.process(), 1);
        until("all are answered", || asked.is_finished());
        second
    });
    assert_eq!(app.requests().len(), before + 2000);
    second.signal("-TERM");
    let said = pycket.ended().stderr;
    assert_eq!(said.matches("\"cut_off\":0").count(), 3, "{said}");
}

#[test]
fn one_successor_after_the_other_takes_over() {
    let app = named("app");
    let mut pycket = Pycket::with(&app).start();
    let address = pycket.address();
    // Those that have handed over may finish, so they are kept, too.
    let mut successors = Vec::new();
    let answers = load(address, || {
        until("the load has begun", || app.requests().len() > 50);
        successors.push(Successor::of(pycket.process()));
        for before in 1..4 {
            let last = successors.last().unwrap();
            successors.push(last.next(pycket.process(), before));
            let asked = app.requests().len();
            until("it answers", || app.requests().len() > asked + 50);
        }
    });
    assert_eq!(answers, app.requests().len());
    successors.last().unwrap().signal("-TERM");
    let said = pycket.ended().stderr;
    assert_eq!(said.matches("\"cut_off\":0").count(), 5, "{said}");
}

#[test]
fn sockets_of_systemd_are_handed_on() {
    let app = named("app");
    let folder = tempfile::tempdir().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    // As systemd does, which never closes it.
    let systemds = socket.try_clone().unwrap();
    let mut process = handed_over(&app, folder.path(), socket.into(), "systemd:web", "$$");
    let mut successors = Vec::new();
    let answers = load(address, || {
        until("the load has begun", || app.requests().len() > 50);
        let first = Successor::of(&process);
        let second = first.next(&process, 1);
        successors = vec![first, second];
        process.says_more_often("\"message\":\"stopped\"", 1);
        let asked = app.requests().len();
        until("the last one answers", || app.requests().len() > asked + 50);
    });
    assert_eq!(answers, app.requests().len());
    successors.last().unwrap().signal("-TERM");
    let said = process.wait().stderr;
    assert_eq!(said.matches("\"cut_off\":0").count(), 3, "{said}");
    drop(systemds);
}
