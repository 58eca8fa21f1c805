//! The behaviour of the real binary, as its users meet it.
//!
//! One test binary, because linking is the slow part. [`harness`] is what the tests are written
//! with, [`servers`] starts the stores, [`stage`] puts both together for facts that hold on every
//! engine, [`python_app`] is an application with the Python library; every other module is a list
//! of facts.

// `cfg(test)` always holds here. It tells clippy that helpers, too, may panic.
#[cfg(test)]
mod architecture;
#[cfg(test)]
mod balance;
#[cfg(test)]
mod chromium;
#[cfg(test)]
mod client_limits;
#[cfg(test)]
mod concurrency;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod cookie_command;
#[cfg(test)]
mod corpus;
#[cfg(test)]
mod doubt;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod fallback;
#[cfg(test)]
mod fault_proxy;
#[cfg(test)]
mod haproxy;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod http2;
#[cfg(test)]
mod http2_server;
#[cfg(test)]
mod http_semantics;
#[cfg(test)]
mod interim;
#[cfg(test)]
mod listeners;
#[cfg(test)]
mod migrate;
#[cfg(test)]
mod near_cache;
#[cfg(test)]
mod neighbours;
#[cfg(test)]
mod nginx;
#[cfg(test)]
mod notifications;
#[cfg(test)]
mod operation;
#[cfg(test)]
mod operator;
#[cfg(test)]
mod passage;
#[cfg(test)]
mod proxy_protocol;
#[cfg(test)]
mod python_app;
#[cfg(test)]
mod python_behind;
#[cfg(test)]
mod python_library;
#[cfg(test)]
mod python_meetings;
#[cfg(test)]
mod python_records;
#[cfg(test)]
mod python_refusals;
#[cfg(test)]
mod python_sharing;
#[cfg(test)]
mod redis_cluster;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod route_policy;
#[cfg(test)]
mod servers;
#[cfg(test)]
mod session_command;
#[cfg(test)]
mod session_cookie;
#[cfg(test)]
mod session_flow;
#[cfg(test)]
mod shutdown;
#[cfg(test)]
mod stage;
#[cfg(test)]
mod store_contract;
#[cfg(test)]
mod store_failures;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod trust;
#[cfg(test)]
mod upgrade;
#[cfg(test)]
mod upstream_grpc;
#[cfg(test)]
mod upstream_health;
#[cfg(test)]
mod upstream_http2;
#[cfg(test)]
mod upstream_names;
#[cfg(test)]
mod upstream_tls;
mod websocket;
