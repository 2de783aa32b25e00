//! The wire contract as black-box checks: each test carries its line of the conformance checklist in its name.
//!
//! The tests drive the real binary through independently generated clients. Where the protocol allows several
//! answers a test takes the set; where it is silent and Cask has chosen, it takes Cask's choice.
//! Sections follow the checklist: general and capabilities (A), finding (B), batches (C, D), trees (E), streams (F, G),
//! chunking (H), the action cache (I), the neighbours: health, reflection, HTTP (L). `compression` has what all of them say of compressors; `functions` and `instances` ask the same of every digest function and kind of instance.
//! `known_faults` holds faults seen
//! in other servers, `robustness` what no client should send,
//! `bounds` what clients can make the server hold.
//!
//! `batch_faults`, `compression_faults`, `name_faults`, `size_faults` and `stream_faults` hold more of the faults seen in
//! other servers.
//! `checklist.txt` has all lines, and `../conformance.py` makes docs/conformance.md of it and of the names of the tests.

#[path = "../support/mod.rs"]
mod support;

mod action_cache;
mod batch_faults;
mod batch_read;
mod batch_update;
mod bots;
mod bounds;
mod capabilities;
mod chunk_faults;
mod chunking;
mod cold_reads;
mod compression;
mod compression_faults;
mod execution;
mod execution_faults;
mod execution_operations;
mod execution_outputs;
mod execution_services;
mod find_missing;
mod functions;
mod get_tree;
mod health;
mod http_cache;
mod instances;
mod known_faults;
mod log_stream;
mod name_faults;
mod read;
mod remote_asset;
mod remote_asset_origin;
mod robustness;
mod scripted_worker;
mod size_faults;
mod stream_faults;
mod tls;
mod write;

use support::grpc::Cache;
use support::process::{Options, Server};

/// A fresh server with the default leases, and a client of it under the empty instance name.
async fn start() -> (Server, Cache) {
    start_with(Options::default()).await
}

async fn start_with(options: Options) -> (Server, Cache) {
    let server = Server::start(options);
    let cache = Cache::connect(&server).await;
    (server, cache)
}
