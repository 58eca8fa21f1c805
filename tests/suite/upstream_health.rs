//! Servers that are asked whether they are well.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::balance::{before, named, refusing};
use crate::harness::{Address, AppResponse, Browser, Upstream};

/// An application that says at `/healthz` whether it is well.
fn honest(name: &'static str) -> (Upstream, Arc<AtomicBool>) {
    let well = Arc::new(AtomicBool::new(true));
    let says = Arc::clone(&well);
    let app = Upstream::app(move |request| match request.target.as_str() {
        "/healthz" if !says.load(Ordering::SeqCst) => AppResponse::status(503),
        _ => AppResponse::ok(name),
    });
    (app, well)
}

const HASTY: &str = "
    upstreams.app.slow_start = '0s'
    [upstreams.app.health]
    path = '/healthz'
    interval = '100ms'
    timeout = '100ms'
    healthy = 1
    unhealthy = 1";

#[test]
fn a_server_that_says_it_is_not_well_gets_no_requests_until_it_is() {
    let ((a, _), (b, b_is_well)) = (honest("a"), honest("b"));
    let pycket = before(&[(a.address(), ""), (b.address(), "")], HASTY).start();
    let mut browser = Browser::at(&pycket);
    b_is_well.store(false, Ordering::SeqCst);
    let message = pycket.says("a server fails its health check");
    assert!(message.contains("the status is 503"), "{message}");
    assert!(message.contains(&b.address().to_string()), "{message}");
    for _ in 0..10 {
        assert_eq!(browser.get("/").text(), "a");
    }
    b_is_well.store(true, Ordering::SeqCst);
    pycket.says("a server passes its health check");
    let answers: Vec<String> = (0..10)
        .map(|_| browser.get("/").text().to_owned())
        .collect();
    assert_eq!(answers.iter().filter(|name| *name == "b").count(), 5);
}

#[test]
fn a_server_that_refuses_connections_is_known_before_a_request_meets_it() {
    let (_socket, gone) = refusing();
    let app = named("a");
    let config = "
        upstreams.app.retry_percent = 0
        upstreams.app.retry_min_per_second = 0
        upstreams.app.health.tcp = true";
    let pycket = before(&[(gone, ""), (app.address(), "")], config).start();
    let message = pycket.says("a server fails its health check");
    assert!(message.contains("refused"), "{message}");
    let mut browser = Browser::at(&pycket);
    for _ in 0..10 {
        assert_eq!(browser.get("/").text(), "a");
    }
}

#[test]
fn a_server_that_does_not_answer_in_time_is_not_well() {
    // On a busy machine it may be given up before the whole question has arrived.
    let silent = Upstream::raw(|mut wire, _| drop(wire.read_to_close()));
    let pycket = before(&[(silent.address(), "")], HASTY).start();
    let message = pycket.says("a server fails its health check");
    assert!(message.contains("no answer within 100ms"), "{message}");
}

#[test]
fn one_task_asks_for_all_workers() {
    let app = named("a");
    let config = "
        [upstreams.app.health]
        path = '/healthz?deep=1'
        host = 'app.example.com'
        interval = '1h'";
    let pycket = before(&[(app.address(), "")], config)
        .config("workers = 4")
        .start();
    let question = app.request(1);
    assert_eq!(question.target, "/healthz?deep=1");
    assert_eq!(question.header("Host"), Some("app.example.com"));
    assert_eq!(question.header("User-Agent"), Some("pycket-health-check"));
    for _ in 0..20 {
        assert_eq!(Browser::at(&pycket).get("/").status, 200);
    }
    let asked = app.requests();
    let asked = asked
        .iter()
        .filter(|request| request.target.starts_with("/healthz"));
    assert_eq!(asked.count(), 1);
}

#[test]
fn a_draining_server_is_not_asked() {
    let (drained, app) = (named("drained"), named("a"));
    let servers = [(drained.address(), ", drain = true"), (app.address(), "")];
    let pycket = before(&servers, HASTY).start();
    app.request(3);
    assert_eq!(Browser::at(&pycket).get("/").text(), "a");
    assert!(drained.requests().is_empty());
}

#[test]
fn what_is_known_about_servers_stays_over_a_reload() {
    let ((a, _), (b, b_is_well)) = (honest("a"), honest("b"));
    b_is_well.store(false, Ordering::SeqCst);
    let once = HASTY.replace("'100ms'\n    timeout", "'1h'\n    timeout");
    let mut pycket = before(&[(a.address(), ""), (b.address(), "")], &once).start();
    pycket.says("a server fails its health check");
    // Nobody asks again, so nobody knows.
    b_is_well.store(true, Ordering::SeqCst);
    pycket.reload("limits.max_body = '1MiB'");
    let mut browser = Browser::at(&pycket);
    for _ in 0..10 {
        assert_eq!(browser.get("/").text(), "a");
    }
    assert_eq!(b.requests().len(), 1);
}

#[test]
fn a_server_that_was_put_out_stays_out_over_a_reload() {
    let broken = Upstream::raw(|mut wire, _| drop(wire.read_request()));
    let app = named("a");
    let config = "
        upstreams.app.max_failures = 1
        upstreams.app.ejection = '1h'
        upstreams.app.max_ejection = '1h'";
    let mut pycket = before(&[(broken.address(), ""), (app.address(), "")], config).start();
    let mut browser = Browser::at(&pycket);
    while browser.get("/").status == 200 {}
    pycket.says("a server gets no requests for a while");
    pycket.reload("limits.max_body = '1MiB'");
    for _ in 0..10 {
        assert_eq!(browser.get("/").text(), "a");
    }
}

#[test]
fn servers_are_asked_on_after_a_reload() {
    let ((a, _), (b, b_is_well)) = (honest("a"), honest("b"));
    let mut pycket = before(&[(a.address(), ""), (b.address(), "")], HASTY).start();
    b_is_well.store(false, Ordering::SeqCst);
    pycket.says("a server fails its health check");
    pycket.reload("limits.max_body = '1MiB'");
    b_is_well.store(true, Ordering::SeqCst);
    pycket.says("a server passes its health check");
}

#[test]
fn servers_that_no_configuration_has_any_more_are_not_asked() {
    let ((a, _), (b, _)) = (honest("a"), honest("b"));
    let mut pycket = before(&[(a.address(), "")], HASTY).start();
    a.request(1);
    pycket.reload(&format!(
        "upstreams.app.servers = ['http://{}']",
        b.address()
    ));
    // What was on its way has arrived.
    b.request(2);
    let asked = a.requests().len();
    b.request(8);
    assert_eq!(a.requests().len(), asked);
}
