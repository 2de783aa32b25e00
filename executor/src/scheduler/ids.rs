//! What things are called. Operations and leases are named by 128 random bits, written as 32 lower-case hexadecimal digits,
//! so that nobody guesses another's.

use std::fmt;

/// The part of an operation's name that is not its instance.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationId(pub u128);

/// One worker's right to one run of a task.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub u128);

/// A worker that is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// Where a task is in the journal; inside the scheduler, which task it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JournalSlot(pub u32);

/// Text that is no identifier: not 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an identifier: 32 lower-case hexadecimal digits are one")]
pub struct NotAnId;

const DIGITS: usize = 32;

fn parse(text: &str) -> Result<u128, NotAnId> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != DIGITS || !text.bytes().all(is_digit) {
        return Err(NotAnId);
    }
    u128::from_str_radix(text, 16).map_err(|_| NotAnId)
}

impl OperationId {
    /// From its text.
    pub fn parse(text: &str) -> Result<Self, NotAnId> {
        parse(text).map(Self)
    }
}

impl LeaseId {
    /// From its text.
    pub fn parse(text: &str) -> Result<Self, NotAnId> {
        parse(text).map(Self)
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operation {self}")
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lease {self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_has_one_text() {
        for number in [0, 1, 0xabc, u128::MAX] {
            assert_eq!(OperationId::parse(&OperationId(number).to_string()), Ok(OperationId(number)));
            assert_eq!(LeaseId::parse(&LeaseId(number).to_string()), Ok(LeaseId(number)));
        }
        let texts = ["", "1", "0000000000000000000000000000000A", "+0000000000000000000000000000001"];
        for text in texts {
            assert_eq!(OperationId::parse(text), Err(NotAnId), "{text}");
        }
    }
}
