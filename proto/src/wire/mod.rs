//! Hand codecs of the hot messages: from the bytes of one protobuf message to what a handler needs, and back, without a type in between.
//!
//! The generated types make a `String` of every hash and an object of every digest, which costs more than the look-up they
//! are for. Here a request is read where it lies. What is accepted, and every value, is exactly what the generated types give
//! (`tests/equivalence` holds the two against each other, on well-formed, mutated and random bytes), with one addition: lists that
//! are nothing but empty fields are refused, as [`codec`](crate::codec) refuses them.
//!
//! Input is one message: no gRPC prefix (`prefix` reads that), decompressed, complete (but for [`write_head`]). Nothing here allocates by what a length field
//! claims, and nothing waits. Used by the handlers of hot methods; everything else goes through the generated types.
//!
//! Read in this order: `fields` (protobuf as it lies), `raw_digest`, one file a service's messages, `segments` (what an answer is).

mod action_cache;
mod batch_answer;
mod batch_request;
mod byte_stream;
mod encode;
mod fault;
mod fields;
mod find_missing;
mod prefix;
mod raw_digest;
mod segments;
mod write_head;

pub use action_cache::GetActionResult;
pub use batch_answer::{BatchReadAnswer, BatchUpdateAnswer, ItemStatus};
pub use batch_request::{BatchRead, BatchUpdate, UpdateItem};
pub use byte_stream::{READ_RESPONSE_HEAD_BYTES_MAX, ReadRequest, WriteMessage, read_response_head, write_response};
pub use fault::WireFault;
pub(crate) use fields::has_few_fields;
pub use find_missing::{DigestFault, Entry, FindMissing, FindMissingAnswer, ParsedDigests};
pub use prefix::{FramingFault, MESSAGE_PREFIX_BYTES, message_length};
pub use raw_digest::{OwnedRawDigest, RawDigest};
pub use segments::Segments;
pub use write_head::{WriteHead, write_head};
