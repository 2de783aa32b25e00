//! A load generator for caches that speak the Remote Execution API, ours or others.
//!
//! [`run`] makes the requests of a [`Workload`] against a [`Target`] and says in a [`Report`] what came of it: throughput,
//! latencies, errors, and what client and server paid. Used by `cask bench` and by the program that measures Cask's
//! targets.
//!
//! Its client must cost less than the server it measures: it speaks HTTP/2 by itself ([`wire`]), writes requests before they
//! are needed ([`traffic`]), and never waits for one request before it makes the next. It never panics because of what a
//! server sends, and its memory is bounded by the options.
//!
//! What is deliberately absent: TLS, retries, an open loop (requests at a fixed rate whatever the server does).

mod fault;
mod options;
mod process;
mod report;
mod run;
mod tally;
mod target;
mod traffic;
mod wire;
mod workload;

pub use options::{Limit, Options};
pub use report::{ClientReport, ErrorReport, Latency, OperationReport, Report, ServerReport};
pub use run::{Progress, Stage, run};
pub use target::{Target, TargetError};
pub use traffic::operation::Operation;
pub use workload::Workload;

/// Why a run did not come to a report.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The server could not be reached.
    #[error("cannot connect to {target}")]
    Connect {
        /// Its address.
        target: String,
        /// The kernel's words.
        source: std::io::Error,
    },
    /// What was to be asked for could not be stored first.
    #[error("cannot store what {workload} asks for: {reason}")]
    Preparation {
        /// The workload.
        workload: &'static str,
        /// What happened.
        reason: String,
    },
    /// Nothing could be measured.
    #[error("no request was answered: {0}")]
    Unanswered(String),
    /// The options ask for more memory than is reasonable.
    #[error("{what} would take {bytes} bytes of memory; ask for less")]
    TooLarge {
        /// What takes it.
        what: &'static str,
        /// How much.
        bytes: u64,
    },
    /// There is no such process on this machine.
    #[error("there is no process {0} on this machine, or it may not be looked at")]
    NoProcess(u32),
    /// The options do not fit together.
    #[error("{0}")]
    Options(&'static str),
}
