//! Lengths of time as people write them: `4h`, `10m`, `90s`, `1h30m`, `0s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A length of time, to the millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimeSpan(pub(crate) Duration);

const UNITS_MS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TimeSpanError {
    #[error("a length of time needs a number and a unit, such as 4h, 10m or 90s")]
    NoNumber,
    #[error("{0} of what? add a unit: {0}s, {0}m, {0}h or {0}d")]
    NoUnit(String),
    #[error("\"{0}\" is not a unit of time; use ms, s, m, h or d")]
    Unit(String),
    #[error("this length of time is too long to count")]
    TooLong,
}

impl FromStr for TimeSpan {
    type Err = TimeSpanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(TimeSpanError::NoNumber);
        }
        let mut total_ms: u64 = 0;
        while !rest.is_empty() {
            let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
            if number.is_empty() {
                return Err(TimeSpanError::NoNumber);
            }
            let after = after.trim_start();
            let (unit, after) = after.split_at(after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len()));
            if unit.is_empty() {
                return Err(TimeSpanError::NoUnit(number.to_owned()));
            }
            let Some((_, unit_ms)) = UNITS_MS.iter().find(|(name, _)| *name == unit) else {
                return Err(TimeSpanError::Unit(unit.to_owned()));
            };
            let number: u64 = number.parse().map_err(|_| TimeSpanError::TooLong)?;
            total_ms =
                number.checked_mul(*unit_ms).and_then(|ms| total_ms.checked_add(ms)).ok_or(TimeSpanError::TooLong)?;
            rest = after.trim_start();
        }
        Ok(TimeSpan(Duration::from_millis(total_ms)))
    }
}

/// In the largest units that are exact: `4h`, `1h30m`, `35ms`, `0s`.
impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest_ms = self.0.as_millis();
        if rest_ms == 0 {
            return f.write_str("0s");
        }
        for (name, unit_ms) in UNITS_MS {
            let count = rest_ms / u128::from(unit_ms);
            rest_ms %= u128::from(unit_ms);
            if count > 0 {
                write!(f, "{count}{name}")?;
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for TimeSpan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SpanVisitor;
        impl Visitor<'_> for SpanVisitor {
            type Value = TimeSpan;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a length of time such as \"4h\", \"10m\" or \"90s\"")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<TimeSpan, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(SpanVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_parse_as_written() {
        for (text, ms) in [
            ("0s", 0),
            ("90s", 90_000),
            ("10m", 600_000),
            ("4h", 14_400_000),
            ("2d", 172_800_000),
            ("250ms", 250),
            ("1h30m", 5_400_000),
            (" 1 h 30 m ", 5_400_000),
        ] {
            assert_eq!(text.parse(), Ok(TimeSpan(Duration::from_millis(ms))), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_span_says_why() {
        for (text, error) in [
            ("", TimeSpanError::NoNumber),
            ("h", TimeSpanError::NoNumber),
            ("-4h", TimeSpanError::NoNumber),
            ("1.5h", TimeSpanError::NoUnit("1".into())),
            ("90", TimeSpanError::NoUnit("90".into())),
            ("4 hours", TimeSpanError::Unit("hours".into())),
            ("99999999999999999999s", TimeSpanError::TooLong),
            ("999999999999999999d", TimeSpanError::TooLong),
        ] {
            assert_eq!(text.parse::<TimeSpan>(), Err(error), "{text}");
        }
    }

    #[test]
    fn spans_print_as_they_parse() {
        for text in ["0s", "90ms", "4h", "1h30m", "2d4h", "10m1s"] {
            assert_eq!(text.parse::<TimeSpan>().expect("a span").to_string(), text);
        }
    }
}
