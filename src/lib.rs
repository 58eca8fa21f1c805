//! `pycket`: a reverse proxy that gives web applications sessions and one-time notifications.
//!
//! The browser holds one signed cookie, the data is in a store, and the application behind reads
//! the session from request headers and changes it with response headers.
//!
//! # The life of an exchange
//!
//! One request and its response take these steps; [`proxy`] carries the same numbers.
//!
//!  1. accept within limits, read the request head: [`server`]
//!  2. route: host and path choose the upstream and the session's policy: [`config`]
//!  3. cookie: verify signature and age, cut it out of what goes upstream: [`cookie`]
//!  4. load the session, one round trip at most: [`archive`], [`mod@format`], [`store`]
//!  5. notifications: claim what this exchange may show: [`exchange`]
//!  6. request headers: remove everything a client sent in our namespace, set ours: [`contract`]
//!  7. forward, streaming both ways: [`proxy`]
//!  8. signals: read from the response head, checked as a whole, removed: [`contract`]
//!  9. plan: what to store and which cookie to set: [`exchange`]
//! 10. persist, before the first byte of the response goes out: [`proxy`], [`archive`]
//! 11. answer: cookie, cache guard, body: [`proxy`]
//!
//! # The map
//!
//! Pure modules decide; they take `now` as an argument and know no sockets: [`clock`] (its type),
//! [`session`], [`mod@format`], [`cookie`], [`contract`], [`exchange`]. Modules with I/O carry out:
//! [`store`], [`archive`], [`proxy`], [`server`], [`telemetry`], [`cli`]. [`tls`] makes of certificates
//! what rustls needs, [`tally`] counts for a worker. [`config`] turns `pycket.toml` into
//! the plain values that all of them take.
//!
//! Imports go one way: `cli → server → proxy → {exchange → {contract, cookie} → session,
//! archive → {format → session, store}}`; `config` stands beside them and names their types, never the other
//! way round for pure modules. `tests/suite/architecture.rs` holds this.
//!
//! # Words
//!
//! Downstream is the browser's side, upstream the application's. An *exchange* is one request and
//! its response. A *session* is what belongs to one browser, never a connection. A *record* is the
//! bytes of a session in the store, a *signal* a response header by which the application asks for
//! a change, a *patch* what one exchange changes, per name.

pub mod archive;
pub mod cli;
pub mod clock;
pub mod config;
pub mod contract;
pub mod cookie;
pub mod demo;
pub mod exchange;
pub mod format;
pub mod proxy;
pub mod server;
pub mod session;
pub mod store;
pub mod tally;
pub mod telemetry;
pub mod tls;
