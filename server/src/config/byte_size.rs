//! Sizes as people write them: `50GiB`, `500MB`, `1048576`.
//!
//! Used by flags, environment and file alike, so that one text means one size everywhere. Binary units (KiB) are powers
//! of 1024, decimal ones (KB) powers of 1000; a bare letter (`50G`) is refused because half of its writers mean the other.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteSize(pub(crate) u64);

const UNITS: [(&str, u64); 11] = [
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("PB", 1_000_000_000_000_000),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ByteSizeError {
    #[error("a size needs a number, such as 50GiB or 500MB")]
    NoNumber,
    #[error("\"{0}\" is not a unit of size; use B, KiB, MiB, GiB, TiB, PiB or KB, MB, GB, TB, PB")]
    Unit(String),
    #[error("\"{0}\" could mean two sizes; write {0}iB (powers of 1024) or {0}B (powers of 1000)")]
    Ambiguous(String),
    #[error("this size does not fit in 64 bits")]
    TooLarge,
}

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let number_length = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
        let (number, unit) = text.split_at(number_length);
        let number = number.replace('_', "");
        let unit = unit.trim();
        let unit_bytes = if unit.is_empty() {
            1
        } else if let Some((_, bytes)) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
            *bytes
        } else if unit.len() == 1 && "KMGTP".contains(&unit.to_ascii_uppercase()) {
            return Err(ByteSizeError::Ambiguous(unit.to_ascii_uppercase()));
        } else {
            return Err(ByteSizeError::Unit(unit.to_owned()));
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
        // Nine decimal places are exact in integers here and more than anybody writes.
        if whole.is_empty() || fraction.contains('.') || fraction.len() > 9 {
            return Err(ByteSizeError::NoNumber);
        }
        let whole: u64 = whole.parse().map_err(|_| ByteSizeError::TooLarge)?;
        let mut bytes = u128::from(whole) * u128::from(unit_bytes);
        if !fraction.is_empty() {
            let numerator: u64 = fraction.parse().map_err(|_| ByteSizeError::NoNumber)?;
            bytes += u128::from(numerator) * u128::from(unit_bytes) / 10_u128.pow(fraction.len() as u32);
        }
        u64::try_from(bytes).map(ByteSize).map_err(|_| ByteSizeError::TooLarge)
    }
}

/// In binary units with at most one decimal: `1.5 GiB`, `50 GiB`, `12 B`.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((unit, unit_bytes)) = UNITS[..5].iter().find(|(_, unit_bytes)| self.0 >= *unit_bytes) else {
            return write!(f, "{} B", self.0);
        };
        let tenths = u128::from(self.0) * 10 / u128::from(*unit_bytes);
        match tenths % 10 {
            0 => write!(f, "{} {unit}", tenths / 10),
            tenth => write!(f, "{}.{tenth} {unit}", tenths / 10),
        }
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;
        impl Visitor<'_> for SizeVisitor {
            type Value = ByteSize;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"50GiB\", or a number of bytes")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_i64<E: Error>(self, bytes: i64) -> Result<ByteSize, E> {
                u64::try_from(bytes).map(ByteSize).map_err(|_| E::custom("a size cannot be negative"))
            }
        }
        deserializer.deserialize_any(SizeVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_as_written() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("1_000", 1_000),
            ("12B", 12),
            ("50GiB", 50 << 30),
            ("50 gib", 50 << 30),
            (" 500MB ", 500_000_000),
            ("1.5KiB", 1536),
            ("0.1GB", 100_000_000),
            ("2TiB", 2 << 40),
            ("3PB", 3_000_000_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size_says_why() {
        for (text, error) in [
            ("", ByteSizeError::NoNumber),
            ("GiB", ByteSizeError::NoNumber),
            ("1.2.3MB", ByteSizeError::NoNumber),
            ("-5GiB", ByteSizeError::Unit("-5GiB".into())),
            ("50 gigs", ByteSizeError::Unit("gigs".into())),
            ("50g", ByteSizeError::Ambiguous("G".into())),
            ("99999999999999999999", ByteSizeError::TooLarge),
            ("20000PiB", ByteSizeError::TooLarge),
        ] {
            assert_eq!(text.parse::<ByteSize>(), Err(error), "{text}");
        }
    }

    #[test]
    fn sizes_print_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (50 << 30, "50 GiB"),
            ((50 << 30) - 1, "49.9 GiB"),
            (u64::MAX, "16383.9 PiB"),
        ] {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }
}
