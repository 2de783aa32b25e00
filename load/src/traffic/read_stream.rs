//! [`ReadParser`]: the stream of `ReadResponse` messages, taken apart as it comes, without a copy of its data.

use super::protobuf::{PREFIX_BYTES, next_varint};

/// Takes the stream of `ReadResponse` messages apart as it comes.
#[derive(Debug, Default)]
pub(crate) struct ReadParser {
    /// What came of the bytes before the data.
    head: Vec<u8>,
    /// Bytes of data, of the message at hand, that are to come.
    left: usize,
}

/// The most bytes before a message's data: prefix, tag, length.
const HEAD_BYTES_MAX: usize = PREFIX_BYTES + 1 + 10;

impl ReadParser {
    /// Forgets what came.
    pub(crate) fn clear(&mut self) {
        self.head.clear();
        self.left = 0;
    }

    /// True between messages.
    pub(crate) fn is_at_end(&self) -> bool {
        self.head.is_empty() && self.left == 0
    }

    /// Takes the next bytes, hands on those that are data; `None` where they are no such messages.
    pub(crate) fn take(&mut self, mut bytes: &[u8], mut data: impl FnMut(&[u8])) -> Option<()> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let (these, rest) = bytes.split_at(self.left.min(bytes.len()));
                data(these);
                self.left -= these.len();
                bytes = rest;
                continue;
            }
            let (&byte, rest) = bytes.split_first()?;
            bytes = rest;
            self.head.push(byte);
            if let Some((prefix, mut message)) = self.head.split_first_chunk::<PREFIX_BYTES>() {
                let [compressed, l0, l1, l2, l3] = *prefix;
                let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
                if compressed != 0 {
                    return None;
                }
                if length == 0 {
                    self.head.clear();
                    continue;
                }
                // Tag 10, bytes: the only field there is.
                let begun = message.len();
                if begun > 0 && message[0] != 10 << 3 | 2 {
                    return None;
                }
                if begun > 1 {
                    message = &message[1..];
                    if let Some(data_bytes) = next_varint(&mut message) {
                        if begun + usize::try_from(data_bytes).ok()? != length {
                            return None;
                        }
                        self.left = data_bytes as usize;
                        self.head.clear();
                    } else if self.head.len() > HEAD_BYTES_MAX {
                        return None;
                    }
                }
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::protobuf::{put_bytes, put_message};

    #[test]
    fn read_answers_come_apart_however_they_are_cut() {
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for length in [1usize, 0, 127, 128, 20_000] {
            let data: Vec<u8> = (0..length).map(|at| at as u8).collect();
            put_message(&mut stream, |out| {
                if length > 0 {
                    put_bytes(out, 10, &data);
                }
            });
            expected.extend_from_slice(&data);
        }
        for step in [1, 2, 3, 7, 100, 30_000] {
            let mut parser = ReadParser::default();
            let mut received = Vec::new();
            for piece in stream.chunks(step) {
                parser.take(piece, |data| received.extend_from_slice(data)).expect("messages");
            }
            assert!(parser.is_at_end());
            assert!(received == expected, "steps of {step}");
        }
    }

    #[test]
    fn what_is_no_read_answer_is_refused() {
        for (what, stream) in [
            ("compressed", &[1, 0, 0, 0, 3, 0x52, 1, 0][..]),
            ("another field", &[0, 0, 0, 0, 3, 0x0a, 1, 0]),
            ("data longer than its message", &[0, 0, 0, 0, 3, 0x52, 2, 0, 0]),
            ("a length without end", &[0, 0, 0, 0, 90, 0x52, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255]),
        ] {
            assert_eq!(ReadParser::default().take(stream, |_| ()), None, "{what}");
        }
    }
}
