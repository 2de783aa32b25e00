//! Cask's remote execution parts. Today: the client of a remote cache, used by the command line and the tests, later by
//! workers.
//!
//! Reaches blobs only as any client does, over the Remote Execution API; knows nothing of how a server stores them.

pub mod client;
mod error;

pub use error::ClientError;
