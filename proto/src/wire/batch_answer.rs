//! Answers of `BatchUpdateBlobs` and `BatchReadBlobs`, written response by response. Byte for byte what the generated types encode.

use bytes::Bytes;

use super::encode;
use super::raw_digest::RawDigest;
use super::segments::Segments;

/// The outcome of one item: a `google.rpc.Status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ItemStatus<'a> {
    /// A gRPC code; 0 is OK.
    pub code: i32,
    /// For people; empty when OK.
    pub message: &'a str,
    /// The encoded `details` fields (each an `Any`, with its key and length), mostly none.
    pub details: &'a [u8],
}

impl ItemStatus<'_> {
    /// OK, and nothing to say.
    pub const OK: ItemStatus<'static> = ItemStatus { code: 0, message: "", details: &[] };

    /// As protobuf has it: an `int32` below zero is sign-extended.
    fn code_number(&self) -> u64 {
        i64::from(self.code) as u64
    }

    fn length_bytes(&self) -> usize {
        encode::number_field_length(1, self.code_number())
            + encode::bytes_field_length(2, self.message.len())
            + self.details.len()
    }

    fn put(&self, out: &mut Segments) {
        encode::number_field(1, self.code_number(), out);
        encode::bytes_field(2, self.message.as_bytes(), out);
        out.put(self.details);
    }
}

/// The one field of both answers.
const RESPONSES: u32 = 1;

/// Gathered bytes of a response beside its data: a SHA-256 digest, a status, heads.
const RESPONSE_BYTES: usize = 96;

/// `BatchUpdateBlobsResponse`.
#[derive(Debug)]
pub struct BatchUpdateAnswer {
    segments: Segments,
}

impl BatchUpdateAnswer {
    /// Without responses; `count` are expected.
    pub fn new(count: usize) -> Self {
        Self { segments: Segments::with_capacity(count * RESPONSE_BYTES) }
    }

    /// Appends a response. `digest` is the item's own; `None` where the item had none.
    pub fn push(&mut self, digest: Option<RawDigest<'_>>, status: &ItemStatus<'_>) {
        let digest_length = digest.map(|digest| digest.length_bytes());
        let length = digest_length.map_or(0, |length| encode::message_field_length(1, length))
            + encode::message_field_length(2, status.length_bytes());
        let out = &mut self.segments;
        encode::field_head(RESPONSES, length, out);
        put_digest(digest, digest_length, out);
        encode::field_head(2, status.length_bytes(), out);
        status.put(out);
    }

    /// Bytes of the message so far.
    pub fn length_bytes(&self) -> usize {
        self.segments.len()
    }

    /// The answer.
    pub fn finish(self) -> Segments {
        self.segments
    }
}

/// `BatchReadBlobsResponse`.
#[derive(Debug)]
pub struct BatchReadAnswer {
    segments: Segments,
}

impl BatchReadAnswer {
    /// Without responses; `count` are expected.
    pub fn new(count: usize) -> Self {
        Self { segments: Segments::with_capacity(count * RESPONSE_BYTES) }
    }

    /// Appends a response. `data` is the blob, in pieces, wrapped by `compressor` (`Compressor.Value`); it is not copied unless it is short.
    pub fn push(&mut self, digest: RawDigest<'_>, data: &[Bytes], status: &ItemStatus<'_>, compressor: i32) {
        let digest_length = digest.length_bytes();
        let data_length = data.iter().map(Bytes::len).sum();
        let compressor = i64::from(compressor) as u64;
        let length = encode::message_field_length(1, digest_length)
            + encode::bytes_field_length(2, data_length)
            + encode::message_field_length(3, status.length_bytes())
            + encode::number_field_length(4, compressor);
        let out = &mut self.segments;
        encode::field_head(RESPONSES, length, out);
        put_digest(Some(digest), Some(digest_length), out);
        if data_length > 0 {
            encode::field_head(2, data_length, out);
            for piece in data {
                out.push_slice(piece.clone());
            }
        }
        encode::field_head(3, status.length_bytes(), out);
        status.put(out);
        encode::number_field(4, compressor, out);
    }

    /// Bytes of the message so far.
    pub fn length_bytes(&self) -> usize {
        self.segments.len()
    }

    /// The answer.
    pub fn finish(self) -> Segments {
        self.segments
    }
}

fn put_digest(digest: Option<RawDigest<'_>>, length: Option<usize>, out: &mut Segments) {
    if let (Some(digest), Some(length)) = (digest, length) {
        encode::field_head(1, length, out);
        digest.put(out);
    }
}
