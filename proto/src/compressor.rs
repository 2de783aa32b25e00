//! The compressors of the Remote Execution API: their wire numbers and their names in resource names.

use crate::error::{WireError, excerpt};

/// How a blob's bytes are wrapped on the wire; digests are always of the unwrapped bytes. Discriminants are wire
/// numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i32)]
pub enum Compressor {
    /// As they are.
    #[default]
    Identity = 0,
    /// Zstandard, RFC 8878; one or several frames.
    Zstd = 1,
    /// Raw DEFLATE, RFC 1951.
    Deflate = 2,
    /// Brotli, RFC 7932.
    Brotli = 3,
}

impl Compressor {
    /// Every compressor, in the order of the wire numbers.
    pub const ALL: [Compressor; 4] = [Self::Identity, Self::Zstd, Self::Deflate, Self::Brotli];

    /// The number in `Compressor.Value` fields.
    pub const fn wire_number(self) -> i32 {
        self as i32
    }

    /// The compressor of a `Compressor.Value` field.
    pub fn from_wire_number(number: i32) -> Result<Self, WireError> {
        Self::ALL.into_iter().find(|c| c.wire_number() == number).ok_or(WireError::CompressorUnknown(number))
    }

    /// Lowercase name, as in `compressed-blobs/zstd/`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Zstd => "zstd",
            Self::Deflate => "deflate",
            Self::Brotli => "brotli",
        }
    }

    /// The compressor of a `compressed-blobs/<name>/` segment; `identity` has no place there.
    pub(crate) fn from_segment(name: &str) -> Result<Self, WireError> {
        Self::ALL
            .into_iter()
            .find(|c| *c != Self::Identity && c.name() == name)
            .ok_or_else(|| WireError::CompressorNameUnknown(excerpt(name)))
    }
}
