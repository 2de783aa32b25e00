//! Rounds: short measurements in turn, and their medians.

use super::hindrance::Hindrance;

/// What one round gave, in whatever unit is counted: requests, digests, gigabytes.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Units a second by the clock.
    pub per_second: f64,
    /// Processor seconds that the measured process spent on one unit.
    pub cpu_seconds: f64,
}

impl Sample {
    /// Of `units` in `seconds` by the clock and `cpu_seconds` of the processor.
    pub fn new(units: f64, seconds: f64, cpu_seconds: f64) -> Self {
        Self { per_second: units / seconds.max(1e-9), cpu_seconds: cpu_seconds / units.max(1e-9) }
    }

    /// What a core would give that did nothing else.
    pub fn per_core_second(&self) -> f64 {
        1.0 / self.cpu_seconds.max(1e-15)
    }

    /// Processor milliseconds a unit: of a gigabyte, mostly.
    pub fn cpu_ms(&self) -> f64 {
        self.cpu_seconds * 1e3
    }

    /// Processor microseconds a unit: of a request, mostly.
    pub fn cpu_us(&self) -> f64 {
        self.cpu_seconds * 1e6
    }

    fn median(samples: &[Sample]) -> Self {
        Self {
            per_second: median(samples.iter().map(|sample| sample.per_second)),
            cpu_seconds: median(samples.iter().map(|sample| sample.cpu_seconds)),
        }
    }
}

/// One way of measuring, called once a round.
pub type Way<'a> = &'a mut dyn FnMut() -> Result<Sample, Hindrance>;

/// Lets the `ways` take turns, `rounds` times; the median of each.
pub fn in_turn<const N: usize>(rounds: usize, mut ways: [Way<'_>; N]) -> Result<[Sample; N], Hindrance> {
    let mut samples = [const { Vec::new() }; N];
    for _ in 0..rounds {
        for (way, samples) in ways.iter_mut().zip(&mut samples) {
            samples.push(way()?);
        }
    }
    Ok(samples.map(|samples| Sample::median(&samples)))
}

/// The middle one; 0 of none.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_take_turns_and_medians_are_of_each_figure() {
        let mut order = String::new();
        let trail = std::cell::RefCell::new(&mut order);
        let (mut rates, mut others) = ([3.0, 1.0, 2.0].into_iter(), [9.0, 8.0, 7.0].into_iter());
        let mut one = || {
            trail.borrow_mut().push('a');
            let rate = rates.next().expect("three rounds");
            Ok(Sample { per_second: rate, cpu_seconds: 10.0 - rate })
        };
        let mut other = || {
            trail.borrow_mut().push('b');
            Ok(Sample::new(others.next().expect("three rounds"), 1.0, 16.0))
        };
        let [first, second] = in_turn(3, [&mut one, &mut other]).expect("measured");
        assert_eq!((first.per_second, first.cpu_seconds), (2.0, 8.0));
        assert_eq!((second.per_second, second.cpu_seconds, second.per_core_second()), (8.0, 2.0, 0.5));
        assert_eq!(order, "ababab");
        assert!(median(std::iter::empty()) == 0.0);
    }
}
