//! Cask's remote execution: the API's client, the scheduler, the worker, the runner.
//!
//! Reaches blobs only as any client does, over the Remote Execution API; knows nothing of how a server stores them.

pub mod action;
pub mod bots;
pub mod client;
mod error;
pub mod farm;
pub mod runner;
pub mod scheduler;
pub mod worker;

pub use error::ClientError;
