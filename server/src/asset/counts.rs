//! Counts of what became of assets, for the metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::origin::FaultKind;

/// What looking a URI up came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    Hit,
    /// Nothing known, or what is known is not complete any more.
    Miss,
    /// Older than the client accepts.
    Stale,
    Expired,
}

const LOOKUPS: [(Lookup, &str); 4] =
    [(Lookup::Hit, "hit"), (Lookup::Miss, "miss"), (Lookup::Stale, "stale"), (Lookup::Expired, "expired")];

const FAULTS: [(FaultKind, &str); 6] = [
    (FaultKind::NotFound, "not_found"),
    (FaultKind::Denied, "denied"),
    (FaultKind::Mismatch, "mismatch"),
    (FaultKind::TimedOut, "timed_out"),
    (FaultKind::Exhausted, "exhausted"),
    (FaultKind::Failed, "failed"),
];

/// All counters of assets.
#[derive(Debug, Default)]
pub(super) struct AssetCounts {
    lookups: [AtomicU64; LOOKUPS.len()],
    fetched: AtomicU64,
    faults: [AtomicU64; FAULTS.len()],
    unstored: AtomicU64,
    joined: AtomicU64,
    received_bytes: AtomicU64,
}

impl AssetCounts {
    pub(super) fn count_lookup(&self, lookup: Lookup) {
        let position = LOOKUPS.iter().position(|(candidate, _)| *candidate == lookup);
        self.lookups[position.expect("every outcome has a row")].fetch_add(1, Relaxed);
    }

    /// A fetch from an origin that came to its end.
    pub(super) fn count_fetched(&self) {
        self.fetched.fetch_add(1, Relaxed);
    }

    /// A fetch from an origin that failed, by the origin's doing.
    pub(super) fn count_fault(&self, kind: FaultKind) {
        let position = FAULTS.iter().position(|(candidate, _)| *candidate == kind);
        self.faults[position.expect("every fault has a row")].fetch_add(1, Relaxed);
    }

    /// A fetch from an origin that failed, by the store's doing.
    pub(super) fn count_unstored(&self) {
        self.unstored.fetch_add(1, Relaxed);
    }

    /// A request that waits for a fetch another one began.
    pub(super) fn count_joined(&self) {
        self.joined.fetch_add(1, Relaxed);
    }

    pub(super) fn count_received(&self, bytes: u64) {
        self.received_bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn stats(&self) -> AssetStats {
        let named = |(name, count): (&'static str, &AtomicU64)| (name, count.load(Relaxed));
        let faults = FAULTS.iter().map(|(_, name)| *name).zip(&self.faults);
        AssetStats {
            lookups: LOOKUPS.iter().map(|(_, name)| *name).zip(&self.lookups).map(named).collect(),
            fetches: [("ok", &self.fetched), ("unstored", &self.unstored)]
                .into_iter()
                .chain(faults)
                .map(named)
                .collect(),
            fetches_joined: self.joined.load(Relaxed),
            received_bytes: self.received_bytes.load(Relaxed),
            fetches_under_way: 0,
            spooled_bytes: 0,
        }
    }
}

/// Counters and gauges of assets.
#[derive(Clone, Debug, Default)]
pub(crate) struct AssetStats {
    /// Result and count.
    pub(crate) lookups: Vec<(&'static str, u64)>,
    /// Outcome and count.
    pub(crate) fetches: Vec<(&'static str, u64)>,
    pub(crate) fetches_joined: u64,
    pub(crate) received_bytes: u64,
    pub(crate) fetches_under_way: u64,
    pub(crate) spooled_bytes: u64,
}
