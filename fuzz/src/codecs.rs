//! The hand codecs of hot requests against the generated types. The comparisons are those of proto's own tests.

#[path = "../../proto/tests/equivalence/compare.rs"]
mod compare;

pub use compare::{
    wire_batch_read, wire_batch_update, wire_find_missing, wire_get_action_result, wire_read, wire_write,
};
