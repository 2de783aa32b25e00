//! Decoding a zstd stream that arrives piece by piece, into buffers of the caller.
//!
//! Bounded by whoever calls: no more comes out than there is room for, and the window, which the decoder allocates when a frame
//! asks for it, has a limit. How much memory that is can be asked, so that it can be paid for. No byte that came out is
//! to be believed before the whole blob has been hashed.

use zstd::zstd_safe::{DCtx, InBuffer, OutBuffer, get_error_name};

use super::stream_decoder_context;

/// A zstd stream being decoded.
pub struct ZstdDecoder {
    context: DCtx<'static>,
    /// Between frames, where a stream may end.
    is_at_frame_end: bool,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of input that were used up.
    pub read_bytes: usize,
    /// Bytes of output that were written.
    pub written_bytes: usize,
}

/// The bytes are no zstd stream that this decoder takes. Permanent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamFault {
    /// Not zstd, damaged, or asking for a larger window than is allowed.
    #[error("not a zstd stream that can be decoded: {0}")]
    Undecodable(&'static str),
    /// It ends within a frame.
    #[error("the zstd stream ends within a frame")]
    Truncated,
    /// There is no memory for a decoder.
    #[error("no memory for a zstd decoder")]
    NoMemory,
}

impl ZstdDecoder {
    /// A decoder of frames whose windows have at most 2^`window_log_max` bytes.
    ///
    /// # Errors
    /// `NoMemory`.
    pub fn new(window_log_max: u32) -> Result<Self, StreamFault> {
        let context = stream_decoder_context(window_log_max).ok_or(StreamFault::NoMemory)?;
        Ok(Self { context, is_at_frame_end: true })
    }

    /// Decodes until the input is used up or the output is full. Progress is sure unless the input is empty and nothing
    /// is left to come out of what was read before.
    ///
    /// # Errors
    /// `Undecodable`; the decoder is of no more use then.
    pub fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Decoded, StreamFault> {
        let mut input = InBuffer::around(input);
        let mut output = OutBuffer::around(output);
        loop {
            let before = (input.pos(), output.pos());
            let hint = self
                .context
                .decompress_stream(&mut output, &mut input)
                .map_err(|code| StreamFault::Undecodable(get_error_name(code)))?;
            let has_moved = before != (input.pos(), output.pos());
            if has_moved {
                self.is_at_frame_end = hint == 0;
            }
            // It stops at each frame's end, of which many may be in the input.
            if !has_moved || input.pos() == input.src.len() && output.pos() == output.capacity() {
                break;
            }
        }
        Ok(Decoded { read_bytes: input.pos(), written_bytes: output.pos() })
    }

    /// The input has ended.
    ///
    /// # Errors
    /// `Truncated`.
    pub fn end(&self) -> Result<(), StreamFault> {
        if self.is_at_frame_end { Ok(()) } else { Err(StreamFault::Truncated) }
    }

    /// Memory that the decoder has allocated. Only pages that output went through are really taken.
    pub fn memory_bytes(&self) -> usize {
        self.context.sizeof()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(length: usize) -> Vec<u8> {
        (0..length).map(|position| (position / 7 % 11) as u8 + b'a').collect()
    }

    fn decode(stream: &[u8], input_bytes: usize, output_bytes: usize) -> Result<Vec<u8>, StreamFault> {
        let mut decoder = ZstdDecoder::new(20)?;
        let (mut whole, mut output) = (Vec::new(), vec![0; output_bytes]);
        for mut piece in stream.chunks(input_bytes) {
            loop {
                let decoded = decoder.step(piece, &mut output)?;
                whole.extend_from_slice(&output[..decoded.written_bytes]);
                piece = &piece[decoded.read_bytes..];
                if piece.is_empty() && decoded.written_bytes < output_bytes {
                    break;
                }
            }
        }
        decoder.end()?;
        Ok(whole)
    }

    #[test]
    fn streams_of_any_frames_in_any_pieces() {
        let raw = text(50_000);
        let frame = |raw: &[u8]| zstd::bulk::compress(raw, 3).unwrap();
        let one = frame(&raw);
        let many: Vec<u8> = raw.chunks(777).flat_map(frame).chain(frame(&[])).collect();
        for stream in [&one, &many] {
            for (input_bytes, output_bytes) in
                [(1, 1), (1, 100_000), (100_000, 1), (7, 13), (1000, 50_000), (99_999, 99_999)]
            {
                assert_eq!(
                    decode(stream, input_bytes, output_bytes).as_ref(),
                    Ok(&raw),
                    "{input_bytes} {output_bytes}"
                );
            }
        }
        assert_eq!(decode(&[], 1, 1), Ok(vec![]));
    }

    #[test]
    fn what_is_no_stream_is_an_error() {
        let raw = text(5000);
        let stream = zstd::bulk::compress(&raw, 3).unwrap();
        for cut in 1..stream.len() {
            assert_eq!(decode(&stream[..cut], 7, 100), Err(StreamFault::Truncated), "{cut}");
        }
        let half_a_magic = [&stream[..], &stream[..2]].concat();
        assert_eq!(decode(&half_a_magic, 7, 100), Err(StreamFault::Truncated));
        for wrong in [&raw[..], &[&stream[..], b"x"].concat(), &[&stream[..], b"trailing"].concat(), &[0; 100]] {
            assert!(matches!(decode(wrong, 7, 100), Err(StreamFault::Undecodable(_))));
        }
    }

    #[test]
    fn a_window_beyond_the_limit_is_refused_and_costs_nothing() {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.window_log(27).unwrap();
        std::io::Write::write_all(&mut encoder, &text(5000)).unwrap();
        let stream = encoder.finish().unwrap();
        let mut decoder = ZstdDecoder::new(20).unwrap();
        assert!(matches!(decoder.step(&stream, &mut [0; 6000]), Err(StreamFault::Undecodable(_))));
        assert!(decoder.memory_bytes() < 1 << 20, "{}", decoder.memory_bytes());
        let mut decoder = ZstdDecoder::new(27).unwrap();
        assert_eq!(decoder.step(&stream, &mut [0; 6000]).unwrap().written_bytes, 5000);
        assert!(decoder.memory_bytes() >= 1 << 27);
    }
}
