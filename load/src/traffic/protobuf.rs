//! Protobuf's wire format and gRPC's message prefix: as much as requests are written with and answers are judged by.

/// Bytes in front of each message: whether it is compressed, and its length.
pub(crate) const PREFIX_BYTES: usize = 5;

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

pub(crate) fn next_varint(message: &mut &[u8]) -> Option<u64> {
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
    fn fields_are_stepped_over_and_hostile_ones_end_the_reading() {
        let mut message = Vec::new();
        put_number(&mut message, 1, 300);
        put_bytes(&mut message, 2, b"abc");
        message.extend_from_slice(&[3 << 3 | 5, 1, 2, 3, 4, 4 << 3 | 1, 1, 2, 3, 4, 5, 6, 7, 8]);
        put_bytes(&mut message, 2, b"de");
        assert_eq!(count(&message, 2), Some(2));
        assert_eq!(number(&message, 1), Some(300));
        assert_eq!(bytes_of(&message, 2), Some(b"abc".as_slice()));
        for cut in 1..message.len() {
            // Cut between fields it is a message, elsewhere it is none; either way nothing panics.
            let _ = count(&message[..cut], 2);
        }
        for hostile in [
            &[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01][..],
            &[0x12, 5, 1],
            &[0x0b],
            &[0xff; 11],
            &[0x0d, 1],
        ] {
            assert_eq!(count(hostile, 2), None, "{hostile:?}");
        }
    }
}
