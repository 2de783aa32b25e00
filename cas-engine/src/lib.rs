//! Cask's storage engine: a log-structured blob store with an in-memory index.
//!
//! Segments of one fixed size are appended to, sealed, reclaimed and used again for ever; a digest index in memory says
//! where each record stands; the footers of the sealed segments bring it back after a restart. Reads are slices of the
//! mapped segments, uploads are verified while they arrive, leases keep what was promised, and the bytes on disk never
//! exceed what was allowed.
//!
//! Read in this order: `format` (bytes on disk), `segment` (states, lanes, the ledger), `core` and `writer` (an upload's
//! way), `blob` (a read's way), `segment::reclaimer` and `segment::lease` (what is kept), `recovery`, `engine` (the door).
//!
//! Deliberately absent: async, gRPC, configuration files. Threads exist only in `background`; everything else is steps
//! that a test can take one by one (see [`Stepper`]) with a clock, a disk and randomness of its own.

mod action_cache;
mod background;
mod blob;
pub mod clock;
mod commit_queue;
mod config;
mod core;
mod counters;
pub mod disk;
pub mod encoding;
mod engine;
mod error;
pub mod format;
pub mod fsck;
mod large_upload;
mod namespaces;
mod recovery;
mod scrub;
mod segment;
mod stepper;
mod syncer;
mod touch_snapshot;
mod upload;
mod walk;
mod whole_blobs;
mod writer;

pub use blob::{Blob, StoredChunk};
pub use commit_queue::Completion;
pub use config::{Compression, Durability, EngineOptions, Geometry};
pub use counters::EngineStats;
pub use disk::DiskAdapter;
pub use engine::{Engine, Entropy, OpenReport};
pub use error::{EngineError, NamespaceError, OpenError};
pub use scrub::ScrubStep;
pub use segment::reclaimer::ReclaimStep;
pub use stepper::Stepper;
pub use upload::{BeginUpload, FullPart, Upload, Verified};
pub use writer::WriterStep;
