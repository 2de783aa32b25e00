//! What can be wrong with names and digests that a client sent.
//!
//! Every variant is the client's fault and permanent: the edge answers `INVALID_ARGUMENT` (HTTP 400) with the text.

use cask_index::{DigestError, DigestFunction};

/// Longest piece of client text that an error repeats.
const EXCERPT_CHARS_MAX: usize = 80;

/// A malformed digest, instance name or resource name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A message that needs a digest carries none.
    #[error("`{0}` is not set")]
    DigestUnset(&'static str),
    /// Hash or size do not fit the digest function.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// `digest_function` holds a number the API does not define.
    #[error("digest function {0} is not one of the Remote Execution API")]
    FunctionUnknown(i32),
    /// A function the API defines and Cask does not implement.
    #[error("digest function {0} is not supported")]
    FunctionUnsupported(&'static str),
    /// No function was named and none has hashes of this length.
    #[error("no digest function was named, and none has a hash of {0} characters")]
    HashLengthUnknown(usize),
    /// `blobs/sha256/...`: functions recognised by their length must not be named in a resource name.
    #[error("`{}/` must be left out of the resource name: the hash's length says it already", .0.name())]
    FunctionMustBeOmitted(DigestFunction),
    /// `compressor` holds a number the API does not define.
    #[error("compressor {0} is not one of the Remote Execution API")]
    CompressorUnknown(i32),
    /// `compressed-blobs/<what?>/...`.
    #[error("`{0}` is not a compressor; known are zstd, deflate and brotli")]
    CompressorNameUnknown(String),
    /// The size is not a plain decimal number below 2^63.
    #[error("size `{0}` is not a decimal number of bytes")]
    SizeMalformed(String),
    /// An instance name longer than its limit.
    #[error("instance name has {found_bytes} bytes, at most {limit_bytes} are allowed")]
    InstanceTooLong {
        /// Length of the given name.
        found_bytes: usize,
        /// Longest allowed name.
        limit_bytes: usize,
    },
    /// A word that resource names use for themselves.
    #[error("instance name contains the reserved segment `{0}`")]
    InstanceReserved(&'static str),
    /// Leading, trailing or doubled slash.
    #[error("instance name `{0}` has an empty segment (a leading, trailing or doubled slash)")]
    InstanceSegmentEmpty(String),
    /// `.`, `..` or a control character.
    #[error("instance name `{0}` has a segment that is `.`, `..` or contains a control character")]
    InstanceSegmentForbidden(String),
    /// The text between `uploads/` and `/blobs/`.
    #[error("`{0}` is not an upload id (up to 128 printable ASCII characters, normally a UUID)")]
    UploadIdMalformed(String),
    /// Not the name of a blob to read.
    #[error(
        "`{0}` is not of the form [instance/]blobs/[function/]hash/size \
         or [instance/]compressed-blobs/compressor/[function/]hash/size"
    )]
    NotAReadName(String),
    /// Has the segment `logstreams`, and is no name of a log stream.
    #[error("`{0}` is not of the form [instance/]logstreams/id or [instance/]logstreams/id/secret")]
    NotALogName(String),
    /// Not the name of an upload.
    #[error(
        "`{0}` is not of the form [instance/]uploads/uuid/blobs/[function/]hash/size \
         or [instance/]uploads/uuid/compressed-blobs/compressor/[function/]hash/size"
    )]
    NotAWriteName(String),
}

/// The beginning of what a client sent, short enough to be repeated in an answer and in a log line.
pub(crate) fn excerpt(text: &str) -> String {
    let mut short: String =
        text.chars().take(EXCERPT_CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(EXCERPT_CHARS_MAX).is_some() {
        short.push('\u{2026}');
    }
    short
}
