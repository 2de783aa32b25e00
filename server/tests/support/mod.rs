//! What the black-box suites share: the process under test, its clients and the data they send.
//!
//! The suites know the server by its command line, its sockets and its folder alone, and speak to it through message
//! types generated from other declarations than ours, so that a wrong field number on our side cannot hide.
//! Each test has a server of its own: start-up costs milliseconds and isolation is worth them.
#![allow(dead_code, reason = "each suite uses its own part of the harness")]

pub(crate) mod blob;
pub(crate) mod damage;
pub(crate) mod farm;
pub(crate) mod grpc;
pub(crate) mod http;
pub(crate) mod metrics;
pub(crate) mod origin;
pub(crate) mod process;
pub(crate) mod worker;

use std::future::Future;
use std::time::Duration;

/// How long anything may take before the test gives up: a guard against hangs, never a measure.
pub(crate) const HANG_GUARD: Duration = Duration::from_secs(60);

/// Awaits `future`, failing the test where it would hang for ever.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(HANG_GUARD, future).await;
    outcome.unwrap_or_else(|_| panic!("{what}: no answer in {HANG_GUARD:?}"))
}
