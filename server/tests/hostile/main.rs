//! Clients that mean harm, or behave as if: whatever they send, the server's memory stays below a bound, ordinary clients are served
//! meanwhile, and when they are gone everything they held is given back.
//!
//! Each test is one attack, against a server with one thread, so that starving others would show. The bounds on memory
//! hold for the whole process: what an allocator keeps for itself is in them.

#[path = "../support/mod.rs"]
mod support;

mod floods;
mod headers;
mod idle;
mod raw;
mod siege;
mod slow;
mod stuffing;

pub(crate) const FIND_MISSING: &str = "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs";
pub(crate) const BATCH_UPDATE: &str = "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs";
pub(crate) const BATCH_READ: &str = "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs";
pub(crate) const READ: &str = "/google.bytestream.ByteStream/Read";
pub(crate) const WRITE: &str = "/google.bytestream.ByteStream/Write";
