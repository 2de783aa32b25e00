//! Encodings of payloads: what is stored as a zstd stream, and how it becomes a blob's bytes again.
//!
//! One record is the unit: an encoded payload is a complete zstd stream that decodes to exactly the record's raw length, so
//! any part of a blob can be read without the parts before it, and the payloads of a blob one after another are a zstd
//! stream of the whole blob. Whole payloads are decoded in one go into a buffer of the known length: nothing that a
//! stream says can make it take more. What arrives piece by piece is for [`ZstdDecoder`].
//!
//! Called by uploads, reads, the scrubber and fsck, never with a lock held. It does no I/O. All of it is work for the
//! processor, a millisecond or so a MiB: callers keep it off threads that must not be held up.

mod plain_frame;
mod stream;

use std::borrow::Cow;

use parking_lot::Mutex;
use zstd::zstd_safe::{self, CCtx, CParameter, DCtx, DParameter, ResetDirective};

pub use plain_frame::{EMPTY_FRAME, PLAIN_BLOCK_BYTES_MAX, PlainFrame};
pub use stream::{Decoded, StreamFault, ZstdDecoder};

use crate::config::Compression;
use crate::format::record::{Encoding, RecordHeader};

/// Larger raw payloads are decoded only by threads that may wait: below, a hop to one costs as much as the work.
pub const INLINE_DECODE_BYTES_MAX: u64 = 64 << 10;

/// Larger raw payloads are compressed, and client's streams checked, only by threads that may wait. Both cost more than
/// decoding.
pub const INLINE_ENCODE_BYTES_MAX: usize = 32 << 10;

/// Below this nothing is gained: records come in units of 64 bytes, and so little is read in no time.
const COMPRESSED_RAW_BYTES_MIN: usize = 512;
/// What is compressed first of a payload, to see whether the rest is worth it.
const SAMPLE_BYTES: usize = 64 << 10;
/// Level 1: each level above costs half as much time again and saves two or three per cent of what it leaves.
const LEVEL: i32 = 1;
/// Largest window of a stream that is stored as a client sent it: what the format's document (RFC 8878, 3.1.1.1.2) asks
/// every decoder to support. With a larger one the blob would be unreadable to some.
const STORED_WINDOW_BYTES_MAX: u64 = 8 << 20;
/// Contexts kept for the next call, of each kind. They are memory; more are made and dropped as needed.
const CONTEXTS_KEPT: usize = 8;

static COMPRESSORS: Mutex<Vec<CCtx<'static>>> = Mutex::new(Vec::new());
static DECOMPRESSORS: Mutex<Vec<DCtx<'static>>> = Mutex::new(Vec::new());

/// Whether storing `stored_bytes` for `raw_bytes` is worth decoding them on every plain read: an eighth less.
pub(crate) fn pays(stored_bytes: usize, raw_bytes: usize) -> bool {
    stored_bytes <= raw_bytes - raw_bytes / 8
}

/// The bytes that a payload stands for. `None`: it does not decode to exactly `raw_length_bytes`.
pub(crate) fn decode(encoding: Encoding, payload: &[u8], raw_length_bytes: u64) -> Option<Cow<'_, [u8]>> {
    match encoding {
        Encoding::Raw => (payload.len() as u64 == raw_length_bytes).then_some(Cow::Borrowed(payload)),
        Encoding::Zstd => decode_zstd(payload, usize::try_from(raw_length_bytes).ok()?).map(Cow::Owned),
    }
}

/// As `decode`, of a record's payload.
pub(crate) fn decode_record<'a>(
    header: &RecordHeader,
    payload: &'a [u8],
    part_size_bytes: u32,
) -> Option<Cow<'a, [u8]>> {
    decode(header.encoding, payload, header.raw_length_bytes(part_size_bytes))
}

/// The `raw_length_bytes` bytes of a whole zstd stream; `None` when it is not one of exactly so many. They are allocated at
/// once: the caller has bounded them.
pub fn decode_zstd(stream: &[u8], raw_length_bytes: usize) -> Option<Vec<u8>> {
    let kept = DECOMPRESSORS.lock().pop();
    let mut context = kept.or_else(DCtx::try_create)?;
    let mut raw = Vec::with_capacity(raw_length_bytes);
    // Into one buffer that holds all of it: no window is allocated, and several frames follow each other by themselves.
    let decoded = context.decompress(&mut raw, stream);
    keep(&DECOMPRESSORS, context);
    // A vector may have more room than was asked for.
    (decoded.is_ok() && raw.len() == raw_length_bytes).then_some(raw)
}

/// How the policy wants a payload stored: as it is, or as a frame of its own where that pays.
pub(crate) fn encode(policy: Compression, raw: Vec<u8>) -> (Encoding, Vec<u8>) {
    match policy {
        Compression::Off => (Encoding::Raw, raw),
        Compression::Zstd => match compress_if_it_pays(&raw) {
            Some(compressed) => (Encoding::Zstd, compressed),
            None => (Encoding::Raw, raw),
        },
    }
}

/// One frame, if it pays; where a sample says that it does not, only the sample is compressed.
fn compress_if_it_pays(raw: &[u8]) -> Option<Vec<u8>> {
    if raw.len() < COMPRESSED_RAW_BYTES_MIN {
        return None;
    }
    let kept = COMPRESSORS.lock().pop();
    let mut context = match kept {
        Some(context) => context,
        None => {
            let mut context = CCtx::try_create()?;
            context.set_parameter(CParameter::CompressionLevel(LEVEL)).ok()?;
            context
        }
    };
    let is_promising = raw.len() <= 2 * SAMPLE_BYTES || compress(&mut context, &raw[..SAMPLE_BYTES]).is_some();
    let compressed = if is_promising { compress(&mut context, raw) } else { None };
    keep(&COMPRESSORS, context);
    compressed.map(|mut compressed| {
        compressed.shrink_to_fit();
        compressed
    })
}

/// `None` where it does not pay: what does not fit the paying size is given up on.
fn compress(context: &mut CCtx<'static>, raw: &[u8]) -> Option<Vec<u8>> {
    let mut compressed = Vec::with_capacity(raw.len() - raw.len() / 8);
    let written = context.compress2(&mut compressed, raw);
    (written.is_ok() && pays(compressed.len(), raw.len())).then_some(compressed)
}

trait Context {
    fn forget_session(&mut self) -> bool;
}

impl Context for CCtx<'static> {
    fn forget_session(&mut self) -> bool {
        self.reset(ResetDirective::SessionOnly).is_ok()
    }
}

impl Context for DCtx<'static> {
    fn forget_session(&mut self) -> bool {
        self.reset(ResetDirective::SessionOnly).is_ok()
    }
}

fn keep<C: Context>(kept: &Mutex<Vec<C>>, mut context: C) {
    if context.forget_session() {
        let mut kept = kept.lock();
        if kept.len() < CONTEXTS_KEPT {
            kept.push(context);
        }
    }
}

/// Whether every reader can be given this stream (which is known to decode): frames of moderate windows and nothing else.
/// Skippable frames say nothing and may be as long as they like.
pub fn is_for_every_reader(mut stream: &[u8]) -> bool {
    const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    while !stream.is_empty() {
        if !stream.starts_with(&MAGIC) {
            return false;
        }
        let Some(window_bytes) = window_bytes(&stream[MAGIC.len()..]) else { return false };
        if window_bytes > STORED_WINDOW_BYTES_MAX {
            return false;
        }
        let Ok(length_bytes) = zstd_safe::find_frame_compressed_size(stream) else { return false };
        stream = &stream[length_bytes.min(stream.len())..];
    }
    true
}

/// The window that a frame header (without its magic) asks for. In a single segment that is the content, which is known to
/// be no more than a part.
fn window_bytes(header: &[u8]) -> Option<u64> {
    const SINGLE_SEGMENT: u8 = 1 << 5;
    let (descriptor, rest) = header.split_first()?;
    if descriptor & SINGLE_SEGMENT != 0 {
        return Some(0);
    }
    let window = *rest.first()?;
    let base = 1_u64 << (10 + (window >> 3));
    Some(base + base / 8 * u64::from(window & 7))
}

/// What the beginning of a zstd stream says of the size of its first frame's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentSize {
    /// So many bytes.
    Told(u64),
    /// The frame does not tell.
    Untold,
    /// The header is longer than what was looked at.
    NeedsMore,
    /// There is no frame.
    NoFrame,
}

/// Longest header of a frame, its magic included.
const FRAME_HEADER_BYTES_MAX: usize = 18;

/// Looks at the first frame's header.
pub fn content_size(beginning: &[u8]) -> ContentSize {
    match zstd_safe::get_frame_content_size(beginning) {
        Ok(Some(size_bytes)) => ContentSize::Told(size_bytes),
        Ok(None) => ContentSize::Untold,
        Err(_) if beginning.len() < FRAME_HEADER_BYTES_MAX => ContentSize::NeedsMore,
        Err(_) => ContentSize::NoFrame,
    }
}

fn stream_decoder_context(window_log_max: u32) -> Option<DCtx<'static>> {
    let mut context = DCtx::try_create()?;
    context.set_parameter(DParameter::WindowLogMax(window_log_max)).ok()?;
    Some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(length: usize) -> Vec<u8> {
        (0..length).map(|position| (position / 7 % 11) as u8 + b'a').collect()
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    fn frame(raw: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(raw, 3).unwrap()
    }

    #[test]
    fn what_pays_is_compressed_and_comes_back() {
        for raw in [text(COMPRESSED_RAW_BYTES_MIN), text(5000), text(300_000), text(1 << 20)] {
            let (encoding, payload) = encode(Compression::Zstd, raw.clone());
            assert_eq!(encoding, Encoding::Zstd);
            assert!(pays(payload.len(), raw.len()) && is_for_every_reader(&payload));
            assert_eq!(decode(encoding, &payload, raw.len() as u64).as_deref(), Some(&raw[..]));
            assert_eq!(encode(Compression::Off, raw.clone()), (Encoding::Raw, raw));
        }
    }

    #[test]
    fn what_does_not_pay_stays_as_it_is() {
        let mixed = [noise(SAMPLE_BYTES), text(1 << 20)].concat();
        for raw in [vec![], text(COMPRESSED_RAW_BYTES_MIN - 1), noise(5000), noise(1 << 20), mixed] {
            assert_eq!(encode(Compression::Zstd, raw.clone()), (Encoding::Raw, raw));
        }
    }

    #[test]
    fn only_a_stream_of_exactly_the_length_is_decoded() {
        let raw = text(10_000);
        let stream = [frame(&raw[..4000]), frame(&[]), frame(&raw[4000..])].concat();
        assert_eq!(decode_zstd(&stream, 10_000).as_deref(), Some(&raw[..]));
        for length in [0, 1, 4000, 9999, 10_001, 20_000] {
            assert_eq!(decode_zstd(&stream, length), None, "{length}");
        }
        for cut in 0..stream.len() {
            assert_eq!(decode_zstd(&stream[..cut], 10_000), None, "cut at {cut}");
        }
        assert_eq!(decode_zstd(&[&stream[..], b"x"].concat(), 10_000), None, "a trailing byte");
        assert_eq!(decode_zstd(&raw, 10_000), None, "no zstd at all");
        assert_eq!(decode_zstd(&stream, 10_000).as_deref(), Some(&raw[..]), "after all those errors");
    }

    #[test]
    fn a_stream_that_not_every_reader_takes_is_told_apart() {
        let raw = text(100_000);
        let with_window = |log| {
            let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
            encoder.include_contentsize(false).unwrap();
            encoder.window_log(log).unwrap();
            std::io::Write::write_all(&mut encoder, &raw).unwrap();
            encoder.finish().unwrap()
        };
        let skippable = [&0x184D_2A50_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"abc"].concat();
        for (stream, is_plain) in [
            (frame(&raw), true),
            ([frame(&raw), frame(&raw)].concat(), true),
            (with_window(20), true),
            (with_window(23), true),
            (with_window(24), false),
            (with_window(27), false),
            ([frame(&raw), with_window(25)].concat(), false),
            ([frame(&raw), skippable].concat(), false),
        ] {
            assert_eq!(is_for_every_reader(&stream), is_plain);
            assert!(decode_zstd(&stream, 100_000).or_else(|| decode_zstd(&stream, 200_000)).is_some());
        }
    }
}
