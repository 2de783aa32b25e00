//! The `cask` binary: parses the command line and hands over to a command.

mod access;
mod asset;
mod cache;
mod command;
mod config;
mod execution;
mod hot;
mod http_cache;
mod observe;
mod service;
mod status;
mod transport;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: a supervisor is a process of one thread, and has a millisecond to start.
    if let Some(ended) = cask_executor::runner::supervise() {
        return ended;
    }
    command::run()
}
