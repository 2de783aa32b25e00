//! The runner: a process of its own that forks commands, so that the worker, which writes executables, never does. (A process that
//! forks while another thread has a new executable open for writing hands that descriptor to its child, and whoever executes the
//! file then is told that it is busy.)
//!
//! ```text
//! worker ──gRPC over a unix socket──▶ service ▶ request (checked) ▶ run ──plan, life line──▶ supervisor ──▶ command
//! ```
//! It speaks Buildbarn's runner protocol, so that workers of that kind can use it and runners of that kind can serve our worker,
//! and reads one header of ours beside it. It knows nothing of blobs, caches or servers; it never writes an executable. Linux only.

mod cgroup;
mod identities;
mod kernel;
mod options;
mod orphans;
mod plan;
mod probe;
mod request;
mod run;
mod serve;
mod service;
mod settings;
mod signal;
mod supervisor;

use std::ffi::OsStr;
use std::process::ExitCode;

pub use identities::are_available as are_users_available;
pub use options::{ContainerOptions, Isolation, IsolationError, Level, RunnerOptions, UserIds, UserIdsError};
pub use request::RUN_OPTIONS_HEADER;
pub use serve::{Runner, RunnerError};

/// The argument by which a binary is told that it is a supervisor.
const SUPERVISOR_ARGUMENT: &str = "__run";

/// What `main` of a binary that has a runner calls before anything else: a supervisor's whole life when the process was started
/// to be one, else nothing.
pub fn supervise() -> Option<ExitCode> {
    (std::env::args_os().nth(1)? == OsStr::new(SUPERVISOR_ARGUMENT)).then(supervisor::supervise)
}
