//! [`Fields`]: the fields of one message, one after the other, as slices of it.
//!
//! The rules are the generated types' (prost): a number has at most ten bytes and 64 bits, also when it is longer than needed; a key has 32 bits and
//! its field number is not 0; a group is skipped with what is in it, up to a depth; a field with a known number and another wire type is a
//! fault, an unknown number is skipped. A caller takes each field by what it is declared as, which checks the type.

use super::WireFault;

/// How deep messages and groups may lie in each other, the outermost message counted.
const NESTING_MAX: u32 = 100;

/// What a field's key says of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WireType {
    Varint,
    Fixed64,
    LengthDelimited,
    GroupStart,
    GroupEnd,
    Fixed32,
}

/// One field: its number, and its value as far as any message of ours has one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'m> {
    pub(super) number: u32,
    value: Value<'m>,
}

#[derive(Clone, Copy, Debug)]
enum Value<'m> {
    Varint(u64),
    Bytes(&'m [u8]),
    /// Fixed-width numbers and groups: no hot message declares one, so they are skipped where they are unknown.
    Foreign,
}

impl<'m> Field<'m> {
    #[inline]
    pub(super) fn varint(&self) -> Result<u64, WireFault> {
        match self.value {
            Value::Varint(value) => Ok(value),
            _ => Err(WireFault::wrong_type(self.number)),
        }
    }

    #[inline]
    pub(super) fn int64(&self) -> Result<i64, WireFault> {
        Ok(self.varint()? as i64)
    }

    /// Enums too: these are open, any number may come. What has more than 32 bits is cut off.
    #[inline]
    pub(super) fn int32(&self) -> Result<i32, WireFault> {
        Ok(self.varint()? as i32)
    }

    #[inline]
    pub(super) fn bool(&self) -> Result<bool, WireFault> {
        Ok(self.varint()? != 0)
    }

    /// The body of a `bytes` field or of a message.
    #[inline]
    pub(super) fn bytes(&self) -> Result<&'m [u8], WireFault> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(WireFault::wrong_type(self.number)),
        }
    }

    #[inline]
    pub(super) fn string(&self) -> Result<&'m str, WireFault> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireFault::not_utf8(self.number))
    }

    /// A repeated enum, which may come one number a field or packed: calls `each` with every number of this field.
    pub(super) fn repeated_int32(&self, mut each: impl FnMut(i32)) -> Result<(), WireFault> {
        let Value::Bytes(packed) = self.value else {
            each(self.int32()?);
            return Ok(());
        };
        let mut numbers = Fields::new(packed);
        while !numbers.rest.is_empty() {
            each(numbers.varint()? as i32);
        }
        Ok(())
    }
}

/// Reads a message from its beginning. After a fault it stands anywhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'m> {
    rest: &'m [u8],
    /// Levels that may still lie in this one.
    levels_left: u32,
}

impl<'m> Fields<'m> {
    /// Of a message that lies in no other.
    #[inline]
    pub(super) fn new(message: &'m [u8]) -> Self {
        Self { rest: message, levels_left: NESTING_MAX }
    }

    /// Of a message that lies in `levels` others.
    #[inline]
    pub(super) fn within(levels: u32, message: &'m [u8]) -> Self {
        Self { rest: message, levels_left: NESTING_MAX - levels }
    }

    /// What has not been read yet.
    #[inline]
    pub(super) fn rest(&self) -> &'m [u8] {
        self.rest
    }

    /// The next field; `None` at the end.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<Field<'m>>, WireFault> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (number, wire_type) = self.key()?;
        let value = match wire_type {
            WireType::LengthDelimited => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            WireType::Varint => Value::Varint(self.varint()?),
            _ => {
                self.skip(number, wire_type, self.levels_left)?;
                Value::Foreign
            }
        };
        Ok(Some(Field { number, value }))
    }

    /// The next field's number and wire type.
    #[inline]
    pub(super) fn key(&mut self) -> Result<(u32, WireType), WireFault> {
        let key = u32::try_from(self.varint()?).map_err(|_| WireFault::KEY)?;
        let wire_type = match key & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::LengthDelimited,
            3 => WireType::GroupStart,
            4 => WireType::GroupEnd,
            5 => WireType::Fixed32,
            _ => return Err(WireFault::KEY),
        };
        if key >> 3 == 0 {
            return Err(WireFault::KEY);
        }
        Ok((key >> 3, wire_type))
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Result<u64, WireFault> {
        match self.rest {
            [byte @ 0..0x80, rest @ ..] => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            _ => self.varint_of_several_bytes(),
        }
    }

    fn varint_of_several_bytes(&mut self) -> Result<u64, WireFault> {
        const BYTES_MAX: usize = 10;
        let mut value = 0;
        for (index, &byte) in self.rest.iter().take(BYTES_MAX).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                // The tenth byte holds the 64th bit alone.
                if index == BYTES_MAX - 1 && byte > 1 {
                    return Err(WireFault::NUMBER_TOO_LONG);
                }
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(if self.rest.len() < BYTES_MAX { WireFault::TRUNCATED } else { WireFault::NUMBER_TOO_LONG })
    }

    #[inline]
    fn take(&mut self, length: u64) -> Result<&'m [u8], WireFault> {
        let length = usize::try_from(length).map_err(|_| WireFault::TRUNCATED)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(WireFault::TRUNCATED)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Reads over the value of a field whose key was read.
    fn skip(&mut self, number: u32, wire_type: WireType, levels_left: u32) -> Result<(), WireFault> {
        if levels_left == 0 {
            return Err(WireFault::NESTING);
        }
        match wire_type {
            WireType::Varint => self.varint().map(drop),
            WireType::Fixed64 => self.take(8).map(drop),
            WireType::Fixed32 => self.take(4).map(drop),
            WireType::LengthDelimited => {
                let length = self.varint()?;
                self.take(length).map(drop)
            }
            WireType::GroupStart => loop {
                let (inner, wire_type) = self.key()?;
                if wire_type == WireType::GroupEnd {
                    return if inner == number { Ok(()) } else { Err(WireFault::GROUP_END) };
                }
                self.skip(inner, wire_type, levels_left - 1)?;
            },
            WireType::GroupEnd => Err(WireFault::GROUP_END),
        }
    }
}

/// Fields that any message may have, and the bytes that more of them must have on average: a list of digests has 38 and more each.
/// A field of two bytes becomes an element of a hundred and more, so without a bound a message of the largest size takes gigabytes.
const FIELDS_FREE: usize = 65_536;
const FIELD_BYTES_MIN: usize = 16;

/// Whether a message's own fields are few enough to be decoded into a list. What is malformed is left to the decoder.
pub(crate) fn has_few_fields(message: &[u8]) -> bool {
    let fields_max = FIELDS_FREE + message.len() / FIELD_BYTES_MIN;
    // A field has two bytes or more, so a short message needs no look.
    if message.len() / 2 <= fields_max {
        return true;
    }
    let mut fields = Fields::new(message);
    for _ in 0..=fields_max {
        if !matches!(fields.next(), Ok(Some(_))) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_something_pass_and_lists_of_nothing_do_not() {
        let digest = [&[0x12, 38][..], &[b'0'; 38]].concat();
        for (what, element, count, passes) in [
            ("digests", &digest[..], 200_000, true),
            ("a few empty fields", &[0x12, 0][..], 60_000, true),
            ("millions of empty fields", &[0x12, 0], 2_000_000, false),
            ("millions of numbers", &[0x08, 1], 2_000_000, false),
            ("what ends within a field", &[0x12, 5], 1, true),
            ("rubbish", &[0xff; 11], 1000, true),
        ] {
            assert_eq!(has_few_fields(&element.repeat(count)), passes, "{what}");
        }
        assert!(has_few_fields(&[]));
    }

    /// A group once ended the count, and what came behind it was decoded however many it was.
    #[test]
    fn a_group_does_not_hide_what_comes_behind_it() {
        let group = [0x7b, 0x7c];
        assert!(!has_few_fields(&[&group[..], &[0x12, 0].repeat(2_000_000)].concat()));
        assert!(!has_few_fields(&group.repeat(2_000_000)));
    }
}
