//! Applications that are reached by name.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::harness::{Address, AppResponse, Browser, Pycket, Upstream};

/// A DNS server that answers every question for IPv4 addresses with these, for one second.
struct Dns {
    address: SocketAddr,
    addresses: Arc<Mutex<Vec<Ipv4Addr>>>,
}

impl Dns {
    fn start(addresses: &[Ipv4Addr]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let addresses = Arc::new(Mutex::new(addresses.to_vec()));
        let current = Arc::clone(&addresses);
        // It ends with the process: nothing waits for it.
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let answer = answer(&buffer[..length], &current.lock().unwrap());
                socket.send_to(&answer, from).unwrap();
            }
        });
        Self { address, addresses }
    }

    fn now_says(&self, addresses: &[Ipv4Addr]) {
        *self.addresses.lock().unwrap() = addresses.to_vec();
    }
}

/// RFC 1035 section 4.
fn answer(question: &[u8], addresses: &[Ipv4Addr]) -> Vec<u8> {
    let name_end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
    let asked = &question[12..name_end + 4];
    let wants_ipv4 = question[name_end..name_end + 2] == [0, 1];
    let addresses = if wants_ipv4 { addresses } else { &[] };
    let mut answer = question[..2].to_vec();
    answer.extend([
        0x81,
        0x80,
        0,
        1,
        0,
        u8::try_from(addresses.len()).unwrap(),
        0,
        0,
        0,
        0,
    ]);
    answer.extend(asked);
    for address in addresses {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}

const ONE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const TWO: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const NOBODY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// Two applications on the same port of two addresses.
fn pair() -> (Upstream, Upstream) {
    let app = |listener, name| Upstream::listening(listener, move |_| AppResponse::ok(name));
    loop {
        let first = TcpListener::bind((ONE, 0)).unwrap();
        // Somebody else may have this port there.
        if let Ok(second) = TcpListener::bind((TWO, first.local_addr().unwrap().port())) {
            return (app(first, "one"), app(second, "two"));
        }
    }
}

fn before(dns: &Dns, port: u16) -> Pycket {
    Pycket::to(SocketAddr::from((ONE, port)))
        .config(&format!(
            "upstream = 'http://app.test:{port}'\nworkers = 1\ndns_servers = ['{}']\n\
             timeouts.upstream_idle = '1h'",
            dns.address
        ))
        .start()
}

/// Who answers several requests at the same time, so that each has a connection of its own.
fn answers(pycket: &Pycket) -> Vec<String> {
    let asking: Vec<_> = (0..8)
        .map(|_| {
            let mut browser = Browser::at(pycket);
            thread::spawn(move || browser.get("/").text().to_owned())
        })
        .collect();
    let answers = asking.into_iter().map(|asking| asking.join().unwrap());
    answers.collect()
}

#[test]
fn requests_follow_a_name_to_its_other_addresses() {
    let (one, _two) = pair();
    let dns = Dns::start(&[ONE]);
    let pycket = before(&dns, one.address().port());
    assert_eq!(answers(&pycket), ["one"; 8]);
    dns.now_says(&[TWO]);
    let moved = pycket.says("127.0.0.2");
    assert!(moved.contains("a name leads to new addresses"), "{moved}");
    // The connections to the old address are still open, and not used any more.
    assert_eq!(answers(&pycket), ["two"; 8]);
}

#[test]
fn an_address_that_refuses_is_passed_over() {
    let (one, _two) = pair();
    let dns = Dns::start(&[NOBODY, ONE]);
    let pycket = before(&dns, one.address().port());
    assert_eq!(answers(&pycket), ["one"; 8]);
}

#[test]
fn while_a_name_can_not_be_resolved_its_old_addresses_stay() {
    let (one, _two) = pair();
    let dns = Dns::start(&[ONE]);
    let pycket = before(&dns, one.address().port());
    assert_eq!(answers(&pycket), ["one"; 8]);
    dns.now_says(&[]);
    pycket.says("its old addresses stay");
    assert_eq!(answers(&pycket), ["one"; 8]);
}

#[test]
fn a_name_that_does_not_exist_is_502_and_the_log_says_so() {
    let dns = Dns::start(&[]);
    let pycket = before(&dns, 9);
    assert_eq!(Browser::at(&pycket).get("/").status, 502);
    pycket.says("app.test can't be resolved");
}
