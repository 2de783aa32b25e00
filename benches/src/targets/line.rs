//! [`Line`]: one target with what was found, and whether that is enough.

use serde::Serialize;

use super::hindrance::Hindrance;

/// What a value is counted in, and so how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// 1 is the whole.
    Share,
    /// How many times the reference.
    Times,
    /// Of something, a second.
    PerSecond,
    /// Processor milliseconds for a thousand million bytes.
    MillisecondsPerGb,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
    /// Bytes.
    Bytes,
    /// A number of things.
    Count,
}

impl Unit {
    /// `value` as a person writes it.
    pub fn write(self, value: f64) -> String {
        match self {
            Self::Share => format!("{:.0} %", value * 100.0),
            Self::Times => format!("{value:.2}x"),
            Self::PerSecond if value >= 1e6 => format!("{:.1} M/s", value / 1e6),
            Self::PerSecond => format!("{:.0} k/s", value / 1e3),
            Self::MillisecondsPerGb => format!("{value:.0} ms/GB"),
            Self::Milliseconds => format!("{value:.2} ms"),
            Self::Microseconds => format!("{value:.1} us"),
            Self::Bytes if value >= 1000.0 => format!("{:.1} KB", value / 1e3),
            Self::Bytes => format!("{value:.1} B"),
            Self::Count => format!("{value:.0}"),
        }
    }
}

/// What a value has to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
    /// Nothing was promised; it is there to be seen.
    None,
}

impl Bound {
    fn admits(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
            Self::None => true,
        }
    }

    fn write(self, unit: Unit) -> String {
        let plain = |value: f64| match unit {
            Unit::Times => format!("{value}x"),
            Unit::PerSecond if value >= 1e6 => format!("{} M/s", value / 1e6),
            Unit::Milliseconds => format!("{value} ms"),
            Unit::Microseconds => format!("{value} us"),
            Unit::Bytes if value < 1000.0 => format!("{value} B"),
            Unit::Bytes => format!("{} KB", value / 1e3),
            _ => unit.write(value),
        };
        match self {
            Self::AtLeast(least) => format!(">= {}", plain(least)),
            Self::AtMost(0.0) => "0".to_owned(),
            Self::AtMost(most) => format!("<= {}", plain(most)),
            Self::None => String::new(),
        }
    }
}

/// Whether a target is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is.
    Met,
    /// It is not.
    Missed,
    /// There was no target, only a figure.
    Told,
    /// Nobody knows.
    Unmeasured,
}

impl Verdict {
    /// As in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Met => "yes",
            Self::Missed => "NO",
            Self::Told => "",
            Self::Unmeasured => "not measured",
        }
    }
}

/// A line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The row of the design's table it belongs to, or a word.
    pub row: &'static str,
    /// What is measured.
    pub what: String,
    /// What it should be.
    pub target: String,
    /// What it is, in words.
    pub measured: String,
    /// What it is compared with.
    pub reference: String,
    /// Whether it is enough.
    pub verdict: Verdict,
    /// The figure that decides.
    pub value: Option<f64>,
    /// What that is counted in.
    pub unit: Unit,
    /// What decides.
    pub bound: Bound,
}

impl Line {
    /// A figure that has to be within `bound`.
    pub fn new(row: &'static str, what: impl Into<String>, bound: Bound, unit: Unit, value: f64) -> Self {
        let verdict = match bound {
            Bound::None => Verdict::Told,
            _ if bound.admits(value) => Verdict::Met,
            _ => Verdict::Missed,
        };
        Self {
            row,
            what: what.into(),
            target: bound.write(unit),
            measured: unit.write(value),
            reference: String::new(),
            verdict,
            value: Some(value),
            unit,
            bound,
        }
    }

    /// Says more about the figure.
    #[must_use]
    pub fn that_is(mut self, more: impl AsRef<str>) -> Self {
        self.measured = format!("{} ({})", self.measured, more.as_ref());
        self
    }

    /// Says what it was compared with.
    #[must_use]
    pub fn beside(mut self, reference: impl Into<String>) -> Self {
        self.reference = reference.into();
        self
    }

    /// A row without figures.
    pub fn hindered(row: &'static str, what: &str, hindrance: &Hindrance) -> Self {
        Self {
            row,
            what: what.to_owned(),
            target: String::new(),
            measured: hindrance.to_string(),
            reference: String::new(),
            verdict: Verdict::Unmeasured,
            value: None,
            unit: Unit::Count,
            bound: Bound::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_decide_and_are_written_as_in_the_design() {
        for (bound, unit, value, target, measured, verdict) in [
            (Bound::AtLeast(0.9), Unit::Share, 0.9, ">= 90 %", "90 %", Verdict::Met),
            (Bound::AtLeast(0.9), Unit::Share, 0.89, ">= 90 %", "89 %", Verdict::Missed),
            (Bound::AtMost(1.2), Unit::Times, 1.21, "<= 1.2x", "1.21x", Verdict::Missed),
            (Bound::AtLeast(130e3), Unit::PerSecond, 131e3, ">= 130 k/s", "131 k/s", Verdict::Met),
            (Bound::AtLeast(25e6), Unit::PerSecond, 24.9e6, ">= 25 M/s", "24.9 M/s", Verdict::Missed),
            (Bound::AtMost(300.0), Unit::MillisecondsPerGb, 299.6, "<= 300 ms/GB", "300 ms/GB", Verdict::Met),
            (Bound::AtMost(20e3), Unit::Bytes, 15_200.0, "<= 20 KB", "15.2 KB", Verdict::Met),
            (Bound::AtMost(0.0), Unit::Count, 1.0, "0", "1", Verdict::Missed),
            (Bound::None, Unit::Milliseconds, 0.5, "", "0.50 ms", Verdict::Told),
        ] {
            let line = Line::new("1", "it", bound, unit, value);
            assert_eq!((line.target.as_str(), line.measured.as_str(), line.verdict), (target, measured, verdict));
        }
    }
}
