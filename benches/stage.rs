//! What the benches share that measure the real program: servers, an application, and load.
//!
//! The program is the one that cargo built beside the bench, or that of `--program`. Everything
//! listens on the loopback, on free ports, and ends with the bench.

pub(crate) mod application;
pub(crate) mod load;
pub(crate) mod server;

use std::error::Error;
use std::fmt;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Whatever goes wrong ends the bench.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The page that changes nothing.
pub(crate) const PAGE: &str = "/page";
/// The page whose answer changes a value of the session.
pub(crate) const CHANGE: &str = "/change";
/// The page whose answer stores 1 KiB, which begins a session where there is none.
pub(crate) const BEGIN: &str = "/begin";
/// The page that is large.
pub(crate) const LARGE: &str = "/large";
/// Where something large goes.
pub(crate) const UPLOAD: &str = "/upload";

/// Bytes of what is large.
pub(crate) const MUCH: usize = 10 * 1024;
/// Bytes of all other answers.
pub(crate) const LITTLE: usize = 100;

/// The name that all ask for; the certificate has it.
pub(crate) const HOST: &str = "example.com";
/// The proxy's certificate, which stands for its own authority.
pub(crate) const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/stage/cert.pem");
/// The key to it.
pub(crate) const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/stage/key.pem");

/// Where sessions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// In the proxy.
    Memory,
    /// In Redis.
    Redis,
    /// In Redis, with the near cache before it.
    Near,
    /// In memcached.
    Memcached,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Redis | Self::Near => "redis",
            Self::Memcached => "memcached",
        })
    }
}

/// The words of the command line.
#[derive(Debug)]
pub(crate) struct Arguments(Vec<String>);

impl Arguments {
    /// Those of this process, without what cargo adds.
    pub(crate) fn read() -> Self {
        let words = std::env::args().skip(1);
        Self(words.filter(|word| word != "--bench").collect())
    }

    /// Takes a flag out; says whether it was there.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|word| word != name);
        self.0.len() < before
    }

    /// Takes a flag and its value out.
    pub(crate) fn value(&mut self, name: &str) -> Option<String> {
        let place = self.0.iter().position(|word| word == name)?;
        let mut words = self.0.split_off(place).into_iter().skip(1);
        let value = words.next();
        self.0.extend(words);
        value
    }

    /// Takes a number out that follows a flag, or that is there otherwise.
    pub(crate) fn number(&mut self, name: &str, otherwise: u32) -> Outcome<u32> {
        let Some(text) = self.value(name) else {
            return Ok(otherwise);
        };
        let wrong = |error| format!("{name} {text}: {error}").into();
        text.parse().map_err(wrong)
    }

    /// The program to measure.
    pub(crate) fn program(&mut self) -> PathBuf {
        let built = || env!("CARGO_BIN_EXE_pycket").to_owned();
        PathBuf::from(self.value("--program").unwrap_or_else(built))
    }

    /// Complains about what nobody took.
    pub(crate) fn end(self, usage: &str) -> Outcome<()> {
        match self.0.first() {
            Some(word) => Err(format!("{word}: not understood\n{usage}").into()),
            None => Ok(()),
        }
    }
}

/// What the process ends with: an error is said as people read it.
pub(crate) fn conclude(outcome: Outcome<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        // There is nobody left to tell if this fails, too.
        writeln!(std::io::stderr(), "{error}").unwrap_or_default();
        ExitCode::FAILURE
    })
}

/// Prints a line.
pub(crate) fn say(line: &str) -> Outcome<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

/// An address of the loopback that is free; the kernel gives each of several calls another one.
pub(crate) fn free_address() -> Outcome<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?)
}
