//! Thousands of clients that hardly do anything, and one that is in a hurry.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Builder as RuntimeBuilder;
use tokio::sync::oneshot;
use tokio::time::interval;

use super::app;
use crate::harness::{Address as _, Browser, DEADLINE, Pycket, tool};

/// How many send their request's head a byte a second, how many its body, and how many read nothing.
const HEADS: usize = 1000;
const BODIES: usize = 1000;
const READERS: usize = 500;

/// What has become of the slow clients.
#[derive(Debug, Default)]
struct Count {
    /// Bytes that were sent one by one.
    sent: AtomicUsize,
    /// Connections that ended.
    lost: AtomicUsize,
}

/// The slow clients and the application that they ask, all on one thread.
struct Crowd {
    count: Arc<Count>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    /// Begins; returns when each has its connection and those that ask for something have reached
    /// the application.
    fn gather(proxy: SocketAddr, application: TcpListener) -> Self {
        let count = Arc::<Count>::default();
        let counted = Arc::clone(&count);
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = channel();
        let runtime = RuntimeBuilder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::spawn(serve(application, Arc::clone(&counted), tell.clone()));
                for number in 0..HEADS + BODIES + READERS {
                    let client = client(number, proxy, Arc::clone(&counted), tell.clone());
                    tokio::spawn(client);
                }
                // The test's end is its word, too.
                stopped.await.unwrap_or_default();
            });
        });
        let crowd = Self {
            count,
            stop: Some(stop),
            thread: Some(thread),
        };
        crowd.is_complete(&told);
        crowd
    }

    fn is_complete(&self, told: &Receiver<()>) {
        for number in 0..HEADS + 2 * BODIES + 2 * READERS {
            let came = told.recv_timeout(DEADLINE);
            assert!(came.is_ok(), "{number} came: {:?}", self.count);
        }
    }

    fn sent(&self) -> usize {
        self.count.sent.load(Ordering::Relaxed)
    }

    /// Ends all of them; how many had lost their connection before.
    fn disperse(mut self) -> usize {
        let lost = self.count.lost.load(Ordering::Relaxed);
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_some_and(|ended| ended.is_ok()));
        lost
    }
}

/// A slow client. It tells when it has connected.
async fn client(number: usize, proxy: SocketAddr, count: Arc<Count>, tell: Sender<()>) {
    let ended = if number < HEADS {
        let head = "GET / HTTP/1.1\r\nHost: h\r\nX-Slow: ";
        drip(connect(proxy, head, &tell).await, &count).await
    } else if number < HEADS + BODIES {
        let head = "POST /slow HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n";
        drip(connect(proxy, head, &tell).await, &count).await
    } else {
        let head = "GET /slow HTTP/1.1\r\nHost: h\r\n\r\n";
        match connect(proxy, head, &tell).await {
            // When it is cut off, the application sees it first.
            Ok(_stream) => std::future::pending().await,
            Err(error) => Err(error),
        }
    };
    if ended.is_err() {
        count.lost.fetch_add(1, Ordering::Relaxed);
    }
}

async fn connect(proxy: SocketAddr, head: &str, tell: &Sender<()>) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // What is not read stays with the proxy.
    socket.set_recv_buffer_size(4096)?;
    let mut stream = socket.connect(proxy).await?;
    stream.write_all(head.as_bytes()).await?;
    tell.send(()).unwrap_or_default();
    Ok(stream)
}

/// Sends a byte a second for as long as it goes.
async fn drip(stream: io::Result<TcpStream>, count: &Count) -> io::Result<()> {
    let mut stream = stream?;
    let mut every_second = interval(Duration::from_secs(1));
    loop {
        every_second.tick().await;
        stream.write_all(b"x").await?;
        count.sent.fetch_add(1, Ordering::Relaxed);
        match stream.try_read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(_answer_or_end) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => return Err(error),
        }
    }
}

/// An application that takes every body and answers a GET without end. It tells of each request.
async fn serve(listener: TcpListener, count: Arc<Count>, tell: Sender<()>) {
    listener.set_nonblocking(true).expect("a listener");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let (tell, count) = (tell.clone(), Arc::clone(&count));
        tokio::spawn(async move {
            let ended = answer(stream, &tell).await;
            // None of them is ever done.
            count.lost.fetch_add(1, Ordering::Relaxed);
            ended
        });
    }
}

async fn answer(mut stream: TcpStream, tell: &Sender<()>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    let length = stream.read(&mut buffer).await?;
    tell.send(()).unwrap_or_default();
    if buffer[..length].starts_with(b"GET ") {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
        stream.write_all(head.as_bytes()).await?;
        loop {
            stream.write_all(&[b'x'; 4096]).await?;
        }
    }
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// Lets this process, and the proxy that it starts, have as many descriptors as they may.
fn raise_descriptors() {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("Linux has it");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let hard = line.and_then(|line| line.split_whitespace().nth(4));
    let hard = hard.expect("there is a limit");
    assert!(
        hard.parse().map_or(true, |hard: usize| hard > 10_000),
        "{hard}: too few descriptors"
    );
    let (pid, limit) = (std::process::id().to_string(), format!("--nofile={hard}:"));
    let raised = tool("prlimit", "util-linux", &["--pid", &pid, &limit]);
    assert_eq!(raised.code, Some(0), "{}", raised.stderr);
}

/// How long a request takes: the middle of some.
fn hurry(pycket: &Pycket, until: impl Fn() -> bool) -> Duration {
    let mut took = Vec::new();
    while took.len() < 100 || !until() {
        let begun = Instant::now();
        assert_eq!(Browser::at(pycket).get("/").status, 200);
        took.push(begun.elapsed());
    }
    took.sort();
    took[took.len() / 2]
}

/// A listener at which thousands can queue. That of std has room for 128. Who comes when it is full and
/// is not accepted within a second is forgotten by the kernel, and reset when it goes on to speak.
fn listen_to_a_crowd() -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).expect("a free port");
    socket.listen(4096).expect("it listens");
    socket.into()
}

#[test]
fn thousands_of_slow_clients_do_not_disturb_a_fast_one() {
    raise_descriptors();
    let application = listen_to_a_crowd();
    let slow = application.local_addr().expect("it is bound");
    let config = format!(
        "limits.max_connections_per_address = 10000
        limits.max_upstream_connections = 10000
        timeouts.client_head = '10m'
        timeouts.client_body = '10m'
        timeouts.client_write = '10m'
        [[route]]
        path = '/slow'
        upstream = 'http://{slow}'"
    );
    let fast = app();
    let pycket = Pycket::with(&fast).config(&config).start();
    let alone = hurry(&pycket, || true);
    let crowd = Crowd::gather(pycket.address(), application);
    let enough = crowd.sent() + 3 * (HEADS + BODIES);
    let beside_them = hurry(&pycket, || crowd.sent() >= enough);
    assert_eq!(crowd.disperse(), 0, "slow clients were cut off");
    // What else runs on this machine takes its time, too.
    let most = 4 * alone + Duration::from_millis(20);
    assert!(beside_them < most, "{beside_them:?} instead of {alone:?}");
}
