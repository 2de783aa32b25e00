//! Fuzz targets: one function each, which takes any bytes and panics when an invariant breaks.
//!
//! The shells under `fuzz_targets/` hand them to libFuzzer (`fuzz/run`); `tests/corpus.rs` runs them in the ordinary build
//! over the seeds and a fixed stream of mutations of them.

mod codecs;
mod disk_format;
mod encoding;
mod engine_operations;
mod wire;

pub use codecs::{
    wire_batch_read, wire_batch_update, wire_find_missing, wire_get_action_result, wire_read, wire_write,
};
pub use disk_format::{action_payload, footer, record, segment_header, superblock, touch_snapshot};
pub use encoding::zstd_stream;
pub use engine_operations::engine_operations;
pub use wire::{proto_digest, resource_name};

/// A target: true when the input was what it is about, and was accepted.
pub type Target = fn(&[u8]) -> bool;

/// Every target by the name of its shell and of its folder of seeds.
pub const TARGETS: [(&str, Target); 16] = [
    ("action_payload", action_payload),
    ("engine_operations", engine_operations),
    ("footer", footer),
    ("proto_digest", proto_digest),
    ("record", record),
    ("resource_name", resource_name),
    ("segment_header", segment_header),
    ("superblock", superblock),
    ("touch_snapshot", touch_snapshot),
    ("wire_batch_read", wire_batch_read),
    ("wire_batch_update", wire_batch_update),
    ("wire_find_missing", wire_find_missing),
    ("wire_get_action_result", wire_get_action_result),
    ("wire_read", wire_read),
    ("wire_write", wire_write),
    ("zstd_stream", zstd_stream),
];
