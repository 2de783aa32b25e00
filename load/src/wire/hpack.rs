//! What a client needs to know of a header block (RFC 7541): `:status`, `grpc-status`, `grpc-message`.
//!
//! We advertise a dynamic table of no bytes, so there are no dynamic entries: a peer that refers to one is in error. Other
//! fields are stepped over, not decoded.

use std::sync::LazyLock;

use super::huffman;

/// The names that are looked for, as Huffman strings: comparing needs no decoding, since a string has one Huffman form.
static HUFFMAN_NAMES: LazyLock<[(Field, Vec<u8>); 3]> =
    LazyLock::new(|| NAMES.map(|(field, name)| (field, huffman::encode(name))));

const NAMES: [(Field, &[u8]); 3] =
    [(Field::Status, b":status"), (Field::GrpcStatus, b"grpc-status"), (Field::GrpcMessage, b"grpc-message")];

/// Entries of the static table that are `:status`, first and last, and their values.
const STATUS_FIRST: usize = 8;
const STATUS_VALUES: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
const STATIC_ENTRIES: usize = 61;

/// The longest `grpc-message` that is kept, in bytes.
const MESSAGE_BYTES_MAX: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Status,
    GrpcStatus,
    GrpcMessage,
    Other,
}

/// What the blocks of one answer have said so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) status: Option<u16>,
    pub(crate) grpc_status: Option<u32>,
    /// Percent-encoded, cut at [`MESSAGE_BYTES_MAX`].
    pub(crate) grpc_message: Vec<u8>,
}

impl Said {
    /// Forgets, keeping the memory.
    pub(crate) fn clear(&mut self) {
        self.status = None;
        self.grpc_status = None;
        self.grpc_message.clear();
    }

    /// Reads one header block.
    pub(crate) fn read(&mut self, mut block: &[u8]) -> Result<(), &'static str> {
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                let index = integer(&mut block, 7)?;
                match index.checked_sub(STATUS_FIRST).and_then(|place| STATUS_VALUES.get(place)) {
                    Some(&status) => self.status = Some(status),
                    None if index == 0 => return Err("a header field of index 0"),
                    None if index > STATIC_ENTRIES => return Err("a header field of a table that is empty"),
                    None => {}
                }
            } else if first & 0xe0 == 0x20 {
                if integer(&mut block, 5)? > 0 {
                    return Err("a header table larger than allowed");
                }
            } else {
                // With indexing nothing is entered into a table of no bytes, so the three kinds of literals are one.
                let index = integer(&mut block, if first & 0x40 != 0 { 6 } else { 4 })?;
                let field = match index {
                    0 => name(&mut block)?,
                    8..=14 => Field::Status,
                    1..=STATIC_ENTRIES => Field::Other,
                    _ => return Err("a header name of a table that is empty"),
                };
                let value = string(&mut block)?;
                self.take(field, value)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, field: Field, (is_huffman, value): (bool, &[u8])) -> Result<(), &'static str> {
        if field == Field::Other {
            return Ok(());
        }
        let mut decoded = Vec::new();
        let value = if is_huffman {
            huffman::decode(value, &mut decoded).ok_or("a Huffman string that is none")?;
            decoded.as_slice()
        } else {
            value
        };
        match field {
            Field::Status => self.status = Some(number(value, 999).ok_or("a status that is no number")? as u16),
            Field::GrpcStatus => {
                self.grpc_status = Some(number(value, u32::MAX / 10 - 1).ok_or("a grpc-status that is no number")?);
            }
            Field::GrpcMessage => {
                self.grpc_message.clear();
                self.grpc_message.extend_from_slice(&value[..value.len().min(MESSAGE_BYTES_MAX)]);
            }
            Field::Other => {}
        }
        Ok(())
    }
}

/// A decimal number up to `most`.
fn number(text: &[u8], most: u32) -> Option<u32> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u32, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        Some(number * 10 + u32::from(digit)).filter(|number| *number <= most)
    })
}

/// An integer of the prefix length (RFC 7541, 5.1).
fn integer(block: &mut &[u8], prefix_bits: u32) -> Result<usize, &'static str> {
    const CUT: &str = "a header block that is cut off";
    let (&first, mut rest) = block.split_first().ok_or(CUT)?;
    let most = (1usize << prefix_bits) - 1;
    let mut value = usize::from(first) & most;
    if value == most {
        let mut shift = 0;
        loop {
            let (&byte, after) = rest.split_first().ok_or(CUT)?;
            rest = after;
            // Blocks are far shorter than what four more bytes can say.
            if shift > 21 {
                return Err("a number in a header block that is too large");
            }
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *block = rest;
    Ok(value)
}

/// A string as it stands there, and whether it is in Huffman code.
fn string<'a>(block: &mut &'a [u8]) -> Result<(bool, &'a [u8]), &'static str> {
    let is_huffman = block.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(block, 7)?;
    let (value, rest) = block.split_at_checked(length).ok_or("a header string that is cut off")?;
    *block = rest;
    Ok((is_huffman, value))
}

fn name(block: &mut &[u8]) -> Result<Field, &'static str> {
    let (is_huffman, name) = string(block)?;
    let found = if is_huffman {
        HUFFMAN_NAMES.iter().find(|(_, text)| text == name).map(|(field, _)| *field)
    } else {
        NAMES.iter().find(|(_, text)| *text == name).map(|(field, _)| *field)
    };
    Ok(found.unwrap_or(Field::Other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::content::scatter;

    fn literal(first: u8, name: &[u8], value: &[u8], is_huffman: bool) -> Vec<u8> {
        let mut block = vec![first];
        for text in [name, value] {
            let (bit, text) = if is_huffman { (0x80, huffman::encode(text)) } else { (0, text.to_vec()) };
            assert!(text.len() < 127);
            block.push(bit | text.len() as u8);
            block.extend(text);
        }
        block
    }

    #[test]
    fn the_three_fields_are_found_in_every_form() {
        for first in [0x00, 0x10, 0x40] {
            for is_huffman in [false, true] {
                let block = [
                    vec![0x20],
                    literal(first, b":status", b"503", is_huffman),
                    literal(first, b"content-type", b"application/grpc", is_huffman),
                    vec![0xa1],
                    literal(first, b"grpc-status", b"14", is_huffman),
                    literal(first, b"grpc-message", b"try%20again", is_huffman),
                    literal(first, b"grpc-status-details-bin", b"CA4", is_huffman),
                ];
                let mut said = Said::default();
                said.read(&block.concat()).expect("a header block");
                let grpc_message = b"try%20again".to_vec();
                assert_eq!(said, Said { status: Some(503), grpc_status: Some(14), grpc_message });
            }
        }
    }

    #[test]
    fn statuses_of_the_static_table() {
        for (index, status) in (8..).zip(STATUS_VALUES) {
            let mut said = Said::default();
            said.read(&[0x80 | index]).expect("a header block");
            assert_eq!(said.status, Some(status));
            // The name from the table, the value beside it.
            said.read(&[index, 3, b'4', b'2', b'9']).expect("a header block");
            assert_eq!(said.status, Some(429));
        }
    }

    #[test]
    fn random_blocks_are_read_or_refused() {
        let mut refused = 0;
        for seed in 0..20_000u64 {
            let length = scatter(seed) % 64;
            let block: Vec<u8> = (0..length).map(|at| scatter(seed << 8 | at) as u8).collect();
            let mut said = Said::default();
            refused += u64::from(said.read(&block).is_err());
            assert!(said.grpc_message.len() <= MESSAGE_BYTES_MAX);
        }
        assert!(refused > 10_000, "{refused}");
    }
}
