//! Cask's wire: the Remote Execution API and its neighbours as Rust types, resource names, digests on the wire.
//!
//! The declarations under `proto/` are our own (names and numbers only) and are held against an independent set of
//! generated types in `tests/oracle`. Each package is re-exported here under a short name. Used by the server and
//! the executor; knows nothing of sockets, storage or policy.

pub mod codec;
mod codes;
mod compressor;
pub mod digest;
mod error;
mod log_name;
mod resource_name;
pub mod wire;

pub use codes::GRPC_CODES;
pub use compressor::Compressor;
pub use error::WireError;
pub use log_name::{LogName, LogResource};
pub use resource_name::{InstanceName, ReadName, UploadId, WriteName};

/// Serialized `google.protobuf.FileDescriptorSet` of every package below and its imports, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// What the build script generated, as nested modules that follow the package names.
mod generated {
    #![allow(missing_docs, unreachable_pub, rust_2018_idioms, clippy::all, clippy::pedantic)]
    include!(concat!(env!("OUT_DIR"), "/packages.rs"));
}

pub use generated::build::bazel::remote::asset::v1 as asset;
pub use generated::build::bazel::remote::execution::v2 as reapi;
pub use generated::build::bazel::remote::logstream::v1 as logstream;
pub use generated::build::bazel::semver;
pub use generated::buildbarn::resourceusage;
pub use generated::buildbarn::runner;
pub use generated::cask::queue::v1 as queue;
pub use generated::cask::runner::v1 as run_options;
pub use generated::cask::worker::v1 as workers;
pub use generated::google::bytestream;
pub use generated::google::devtools::remoteworkers::v1test2 as bots;
pub use generated::google::longrunning;
pub use generated::google::rpc;
