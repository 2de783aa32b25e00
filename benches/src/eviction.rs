//! Eviction measured: demands replayed against the engine and against textbook caches of the same size.
//!
//! A [`Trace`] is what builds ask of a cache, whatever it answers: which actions they look up, with the outputs of each, and
//! which inputs they probe. [`replay`] plays it, uploads what is found missing, and counts. Every cache is charged a
//! record's bytes on disk (header, padding), so that they differ by policy alone; the engine pays for its open segments
//! and its reserve out of the same size.
//!
//! `bin/eviction` prints the table.

pub mod chance;
pub mod engine;
pub mod generated;
pub mod lists;
pub mod recorded;
pub mod replay;
pub mod segments;
pub mod trace;

pub use replay::{Cache, Outcome, replay};
pub use trace::{Event, Object, Trace};
