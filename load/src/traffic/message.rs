//! The cache's messages, written by hand, and as much of the answers as has to be read.
//!
//! Numbers of fields are those of the Remote Execution API and of ByteStream. Requests are whole gRPC messages, their five
//! bytes in front included.

use cask_index::{Digest, DigestFunction};
use cask_proto::digest::is_inferred_by_length;

/// Bytes in front of each message: whether it is compressed, and its length.
pub(crate) const PREFIX_BYTES: usize = 5;

/// Which instance and function all requests of a run name.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    pub(crate) instance: String,
    pub(crate) function: DigestFunction,
    /// As in HTTP's `Host`.
    pub(crate) host: String,
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn varint_bytes(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

/// A field of bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    put_length(out, field, bytes.len());
    out.extend_from_slice(bytes);
}

/// The beginning of a field of `length` bytes.
pub(crate) fn put_length(out: &mut Vec<u8>, field: u8, length: usize) {
    out.push(field << 3 | 2);
    put_varint(out, length as u64);
}

/// A field that is a number; nothing for 0.
pub(crate) fn put_number(out: &mut Vec<u8>, field: u8, value: u64) {
    if value > 0 {
        out.push(field << 3);
        put_varint(out, value);
    }
}

/// The five bytes in front of a message of `length` bytes.
pub(crate) fn put_prefix(out: &mut Vec<u8>, length: usize) {
    out.push(0);
    out.extend_from_slice(&(length as u32).to_be_bytes());
}

/// Appends the message that `write` writes, with its prefix.
pub(crate) fn put_message(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    put_prefix(out, 0);
    write(out);
    let length = out.len() - begin - PREFIX_BYTES;
    out[begin + 1..begin + PREFIX_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
}

pub(crate) fn put_hash(out: &mut Vec<u8>, digest: &Digest) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.extend(digest.hash().iter().flat_map(|byte| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]));
}

/// Bytes of a digest as a message.
pub(crate) fn digest_bytes(digest: &Digest) -> usize {
    let hash = digest.hash().len() * 2;
    let size = if digest.size_bytes() > 0 { 1 + varint_bytes(digest.size_bytes()) } else { 0 };
    1 + varint_bytes(hash as u64) + hash + size
}

/// A field that is a digest.
pub(crate) fn put_digest(out: &mut Vec<u8>, field: u8, digest: &Digest) {
    put_length(out, field, digest_bytes(digest));
    put_length(out, 1, digest.hash().len() * 2);
    put_hash(out, digest);
    put_number(out, 2, digest.size_bytes());
}

impl Address {
    /// The field that names the instance.
    pub(crate) fn put_instance(&self, out: &mut Vec<u8>) {
        if !self.instance.is_empty() {
            put_bytes(out, 1, self.instance.as_bytes());
        }
    }

    /// The field that names the function, for those that are not known by the length of their hashes. Servers older than the
    /// field know no others.
    pub(crate) fn put_function(&self, out: &mut Vec<u8>, field: u8) {
        if !is_inferred_by_length(self.function) {
            put_number(out, field, u64::from(self.function.wire_number()));
        }
    }

    /// `[instance/]` and `blobs/[function/]hash/size`, with `between` between them.
    pub(crate) fn resource_name(&self, between: &str, digest: &Digest) -> Vec<u8> {
        let mut name = Vec::with_capacity(128);
        if !self.instance.is_empty() {
            name.extend_from_slice(self.instance.as_bytes());
            name.push(b'/');
        }
        name.extend_from_slice(between.as_bytes());
        name.extend_from_slice(b"blobs/");
        if !is_inferred_by_length(self.function) {
            name.extend_from_slice(self.function.name().as_bytes());
            name.push(b'/');
        }
        put_hash(&mut name, digest);
        name.push(b'/');
        name.extend_from_slice(digest.size_bytes().to_string().as_bytes());
        name
    }

    /// The head of an HTTP/1.1 request for a blob.
    pub(crate) fn put_http(&self, out: &mut Vec<u8>, verb: &str, digest: &Digest, length: Option<u64>) {
        out.extend_from_slice(verb.as_bytes());
        out.extend_from_slice(b" /");
        for byte in self.instance.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
                out.push(byte);
            } else {
                out.extend_from_slice(format!("%{byte:02X}").as_bytes());
            }
        }
        if !self.instance.is_empty() {
            out.push(b'/');
        }
        out.extend_from_slice(b"cas/");
        put_hash(out, digest);
        out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
        out.extend_from_slice(self.host.as_bytes());
        if let Some(length) = length {
            out.extend_from_slice(format!("\r\ncontent-length: {length}").as_bytes());
        }
        out.extend_from_slice(b"\r\n\r\n");
    }

    /// A request for one blob's bytes.
    pub(crate) fn put_read(&self, out: &mut Vec<u8>, digest: &Digest) {
        put_message(out, |out| put_bytes(out, 1, &self.resource_name("", digest)));
    }

    /// A request for which of `digests` are missing.
    pub(crate) fn put_find_missing<'d>(&self, out: &mut Vec<u8>, digests: impl Iterator<Item = &'d Digest>) {
        put_message(out, |out| {
            self.put_instance(out);
            digests.for_each(|digest| put_digest(out, 2, digest));
            self.put_function(out, 3);
        });
    }

    /// A request for several blobs' bytes.
    pub(crate) fn put_batch_read<'d>(&self, out: &mut Vec<u8>, digests: impl Iterator<Item = &'d Digest>) {
        put_message(out, |out| {
            self.put_instance(out);
            digests.for_each(|digest| put_digest(out, 2, digest));
            self.put_function(out, 4);
        });
    }

    /// A request for the result of an action.
    pub(crate) fn put_get_action(&self, out: &mut Vec<u8>, action: &Digest) {
        put_message(out, |out| {
            self.put_instance(out);
            put_digest(out, 2, action);
            self.put_function(out, 6);
        });
    }

    /// A request to store the result of an action; `result` is an `ActionResult`.
    pub(crate) fn put_update_action(&self, out: &mut Vec<u8>, action: &Digest, result: &[u8]) {
        put_message(out, |out| {
            self.put_instance(out);
            put_digest(out, 2, action);
            put_bytes(out, 3, result);
            self.put_function(out, 5);
        });
    }
}

/// An action's result with these outputs.
pub(crate) fn action_result<'d>(outputs: impl Iterator<Item = &'d Digest>) -> Vec<u8> {
    let mut result = Vec::new();
    for (number, digest) in outputs.enumerate() {
        let mut file = Vec::new();
        put_bytes(&mut file, 1, format!("bazel-out/k8-fastbuild/bin/bench/output-{number}.o").as_bytes());
        put_digest(&mut file, 2, digest);
        put_bytes(&mut result, 2, &file);
    }
    result
}

/// A field of a message: its number and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of four or eight bytes, which none of our messages has.
    Fixed,
}

/// Takes the next field off a message; `None` where there is none, which at its end is well and before it is not.
pub(crate) fn next_field<'a>(message: &mut &'a [u8]) -> Option<(u64, Field<'a>)> {
    let tag = next_varint(message)?;
    let field = match tag & 7 {
        0 => Field::Number(next_varint(message)?),
        1 | 5 => {
            *message = message.get(if tag & 7 == 1 { 8 } else { 4 }..)?;
            Field::Fixed
        }
        2 => {
            let length = usize::try_from(next_varint(message)?).ok()?;
            let (bytes, rest) = message.split_at_checked(length)?;
            *message = rest;
            Field::Bytes(bytes)
        }
        _ => return None,
    };
    Some((tag >> 3, field))
}

fn next_varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for (at, byte) in message.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            *message = &message[at + 1..];
            return Some(value);
        }
    }
    None
}

/// The one message of a unary answer; `None` where it is not exactly that.
pub(crate) fn unary(answer: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = answer.split_first_chunk::<PREFIX_BYTES>()?;
    let [compressed, l0, l1, l2, l3] = *prefix;
    (compressed == 0 && message.len() == u32::from_be_bytes([l0, l1, l2, l3]) as usize).then_some(message)
}

/// How many fields of this number a message has; `None` where it is no message.
pub(crate) fn count(mut message: &[u8], number: u64) -> Option<u64> {
    let mut found = 0;
    while !message.is_empty() {
        found += u64::from(next_field(&mut message)?.0 == number);
    }
    Some(found)
}

/// The last number in a field of this number, 0 where there is none.
pub(crate) fn number(mut message: &[u8], wanted: u64) -> Option<u64> {
    let mut found = 0;
    while !message.is_empty() {
        if let (number, Field::Number(value)) = next_field(&mut message)?
            && number == wanted
        {
            found = value;
        }
    }
    Some(found)
}

/// Calls `each` with each message in a field of this number; `None` where something is no message.
pub(crate) fn each_message<'a>(
    mut message: &'a [u8],
    wanted: u64,
    mut each: impl FnMut(&'a [u8]) -> Option<()>,
) -> Option<()> {
    while !message.is_empty() {
        if let (number, Field::Bytes(bytes)) = next_field(&mut message)?
            && number == wanted
        {
            each(bytes)?;
        }
    }
    Some(())
}

/// The first bytes in a field of this number; none where there is no such field.
pub(crate) fn bytes_of(mut message: &[u8], wanted: u64) -> Option<&[u8]> {
    while !message.is_empty() {
        if let (number, Field::Bytes(bytes)) = next_field(&mut message)?
            && number == wanted
        {
            return Some(bytes);
        }
    }
    Some(&[])
}

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

    #[test]
    fn varints_have_the_length_that_is_said() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), 1 << 62, 1 << 63, u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_bytes(value), "{value}");
            assert_eq!(next_varint(&mut out.as_slice()), Some(value));
        }
    }

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
