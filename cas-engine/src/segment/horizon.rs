//! How long the store really keeps what was asked for, and what it would take to keep it for the lease.
//!
//! Reclaim tells it of every record it drops. The horizon is the least time between a last touch and a drop, over the
//! last hour or two: what was touched more recently than that is there. Once an hour, if leases were broken in it,
//! there is a report with the size at which they would not have been: the store turns over in proportion to its size, so
//! what was dropped at two hours of a lease of four needs twice the store.

/// Drops are looked back on over this and up to twice this.
const WINDOW_MS: u64 = 3_600_000;

/// What was dropped in a window.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    began_ms: u64,
    least_idle_ms: Option<u64>,
    broken: u64,
    broken_idle_ms: u64,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Horizon {
    opened_ms: u64,
    before: Window,
    present: Window,
    reported_ms: u64,
}

/// Leases that were broken, to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BrokenLeases {
    /// In the last hour or two.
    pub(crate) count: u64,
    /// How long they had not been touched, on average, at the least.
    pub(crate) kept_ms: u64,
    /// The size at which they would have lived.
    pub(crate) max_size_needed_bytes: u64,
}

impl Horizon {
    pub(crate) fn new(now_ms: u64) -> Self {
        let window = Window { began_ms: now_ms, ..Window::default() };
        Self { opened_ms: now_ms, before: window, present: window, reported_ms: now_ms }
    }

    /// A record was dropped, last touched at least `idle_ms` ago.
    pub(crate) fn dropped(&mut self, idle_ms: u64, breaks_lease: bool, now_ms: u64) {
        self.turn(now_ms);
        let least = &mut self.present.least_idle_ms;
        *least = Some(least.map_or(idle_ms, |known| known.min(idle_ms)));
        if breaks_lease {
            self.present.broken += 1;
            self.present.broken_idle_ms += idle_ms;
        }
    }

    fn turn(&mut self, now_ms: u64) {
        let elapsed_ms = now_ms.saturating_sub(self.present.began_ms);
        if elapsed_ms >= WINDOW_MS {
            let fresh = Window { began_ms: now_ms, ..Window::default() };
            let before = std::mem::replace(&mut self.present, fresh);
            self.before = if elapsed_ms >= 2 * WINDOW_MS { fresh } else { before };
        }
    }

    /// See [`EngineStats::horizon_ms`](crate::EngineStats::horizon_ms).
    pub(crate) fn horizon_ms(&mut self, now_ms: u64) -> u64 {
        self.turn(now_ms);
        let lately = self.before.least_idle_ms.into_iter().chain(self.present.least_idle_ms).min();
        lately.unwrap_or(now_ms.saturating_sub(self.opened_ms))
    }

    /// Once an hour, if there is something to say.
    pub(crate) fn report(&mut self, lease_ms: u64, max_size_bytes: u64, now_ms: u64) -> Option<BrokenLeases> {
        if now_ms.saturating_sub(self.reported_ms) < WINDOW_MS {
            return None;
        }
        self.turn(now_ms);
        let (count, idle_ms) = [self.before, self.present]
            .iter()
            .fold((0, 0), |(count, idle_ms), window| (count + window.broken, idle_ms + window.broken_idle_ms));
        if count == 0 {
            return None;
        }
        self.reported_ms = now_ms;
        let kept_ms = idle_ms / count;
        // What was dropped at once says only "much more".
        let factor = (lease_ms as f64 / kept_ms.max(1) as f64).clamp(1.0, 100.0);
        Some(BrokenLeases { count, kept_ms, max_size_needed_bytes: (max_size_bytes as f64 * factor) as u64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;

    #[test]
    fn the_horizon_is_the_least_idle_time_at_a_drop_lately() {
        let mut horizon = Horizon::new(HOUR);
        assert_eq!(horizon.horizon_ms(3 * HOUR), 2 * HOUR, "nothing was dropped since it was opened");
        for (at_ms, idle_ms, expected_ms) in [
            (4 * HOUR, 9 * HOUR, 9 * HOUR),
            (4 * HOUR + 1, 5 * HOUR, 5 * HOUR),
            (5 * HOUR + 1, 7 * HOUR, 5 * HOUR),
            (6 * HOUR + 2, 8 * HOUR, 7 * HOUR),
        ] {
            horizon.dropped(idle_ms, false, at_ms);
            assert_eq!(horizon.horizon_ms(at_ms), expected_ms, "at {at_ms}");
        }
        assert_eq!(horizon.horizon_ms(20 * HOUR), 19 * HOUR, "long ago");
    }

    #[test]
    fn broken_leases_are_reported_once_an_hour_with_the_size_it_takes() {
        let mut horizon = Horizon::new(0);
        let report = |horizon: &mut Horizon, now_ms| horizon.report(4 * HOUR, 100, now_ms);
        horizon.dropped(5 * HOUR, false, 10 * MINUTE);
        assert_eq!(report(&mut horizon, 2 * HOUR), None, "no lease was broken");
        horizon.dropped(HOUR, true, 2 * HOUR);
        horizon.dropped(3 * HOUR, true, 2 * HOUR);
        let expected = BrokenLeases { count: 2, kept_ms: 2 * HOUR, max_size_needed_bytes: 200 };
        assert_eq!(report(&mut horizon, 2 * HOUR), Some(expected));
        assert_eq!(report(&mut horizon, 3 * HOUR - 1), None, "not so soon again");
        assert_eq!(report(&mut horizon, 5 * HOUR), None, "it is over");
    }
}
