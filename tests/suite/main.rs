//! The behaviour of `pycket`, seen from outside.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "in a test they are how it fails; clippy knows only functions with #[test] as such"
)]

mod servers;
mod store_contract;
mod store_failures;
