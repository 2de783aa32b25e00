//! zstd streams of unknown origin: nothing makes a decoder panic or give more than was asked for, and what is decoded at once (and
//! so may be stored and handed on) every reader decodes in pieces.

use cask_engine::encoding::{ContentSize, ZstdDecoder, content_size, decode_zstd, is_for_every_reader};

/// What stock decoders take.
const WINDOW_LOG_MAX: u32 = 27;

/// Input: the length that is promised (two bytes), the size of pieces (one byte), the stream. True when it decodes to what it
/// promised.
///
/// # Panics
/// The two ways disagree.
pub fn zstd_stream(data: &[u8]) -> bool {
    let [low, high, piece, stream @ ..] = data else { return false };
    let promised_bytes = usize::from(u16::from_le_bytes([*low, *high]));
    let piece_bytes = usize::from(*piece).max(1);
    let whole = decode_zstd(stream, promised_bytes);
    let pieces = decode_in_pieces(stream, piece_bytes, promised_bytes);
    if let Some(whole) = &whole {
        assert_eq!(whole.len(), promised_bytes);
        // Large windows are refused only where memory is set aside for them.
        if is_for_every_reader(stream) {
            assert_eq!(pieces.as_ref(), Some(whole), "what is decoded at once is decoded in pieces");
        }
    }
    // Not the other way round: in pieces, a frame may end short of the content size that it tells. The hash tells then.
    if let (Some(whole), Some(pieces)) = (&whole, &pieces) {
        assert_eq!(whole, pieces, "decoded at once and in pieces");
    }
    if let (ContentSize::Told(_), true) = (content_size(stream), stream.len() < 5) {
        panic!("so few bytes are no header");
    }
    whole.is_some()
}

fn decode_in_pieces(stream: &[u8], piece_bytes: usize, promised_bytes: usize) -> Option<Vec<u8>> {
    let mut decoder = ZstdDecoder::new(WINDOW_LOG_MAX).expect("memory");
    // One more than promised, to see what is too long.
    let (mut decoded, mut output) = (Vec::new(), vec![0; piece_bytes]);
    for mut piece in stream.chunks(piece_bytes) {
        loop {
            let step = decoder.step(piece, &mut output).ok()?;
            assert!(step.read_bytes <= piece.len() && step.written_bytes <= output.len());
            decoded.extend_from_slice(&output[..step.written_bytes]);
            piece = &piece[step.read_bytes..];
            if decoded.len() > promised_bytes {
                return None;
            }
            if piece.is_empty() && step.written_bytes < output.len() {
                break;
            }
        }
    }
    decoder.end().ok()?;
    (decoded.len() == promised_bytes).then_some(decoded)
}
