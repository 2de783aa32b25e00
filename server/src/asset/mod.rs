//! Assets: what a URI and some qualifiers stand for. Pushed by clients, or fetched from their origins where the operator allows it.
//!
//! ```text
//! push ──▶ record (URI, qualifiers ──▶ digest, and all it needs)
//!                  ▲        │
//!                  │        ▼
//! fetch ─────── look up ─────▶ known, fresh, complete ──▶ answer
//!                  │
//!                  └─ not ──▶ origin ──▶ checksum ──▶ store ──▶ record
//! ```
//!
//! Credentials: what a client sends as headers goes to the origin and nowhere else. It is not stored, not logged, and no part of what a
//! record is known by. So what an origin gave to somebody's headers is remembered only when a checksum says that it is what anybody
//! may have who knows the checksum; without one it is fetched each time, and those who send other headers do not share it.
//!
//! Used by the Remote Asset services and the metrics. Knows no gRPC.

mod counts;
mod download;
mod fetch;
mod fetching;
mod flight;
mod integrity;
mod origin;
mod push;
mod qualifiers;
mod record;
mod spool;

use std::sync::Arc;

use cask_engine::clock::Clock;

use self::counts::AssetCounts;
pub(crate) use self::counts::AssetStats;
pub(crate) use self::fetch::{FetchError, Found, Query};
use self::fetching::Fetching;
pub(crate) use self::fetching::OriginSettings;
pub(crate) use self::origin::{Fault, FaultKind, OriginPattern};
pub(crate) use self::push::{Push, PushError};
pub(crate) use self::qualifiers::{QualifierError, Qualifiers};
use crate::cache::Cache;

/// What a URI stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AssetKind {
    Blob,
    Directory,
}

/// All that is known of assets. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Assets {
    shared: Arc<Shared>,
}

struct Shared {
    cache: Cache,
    clock: Arc<dyn Clock>,
    counts: Arc<AssetCounts>,
    /// `None`: no origin is asked.
    fetching: Option<Arc<Fetching>>,
}

impl Assets {
    /// May wait for the disk, for the machine's certificates.
    pub(crate) fn new(cache: Cache, clock: Arc<dyn Clock>, settings: OriginSettings) -> Assets {
        let counts = Arc::new(AssetCounts::default());
        let fetching = (!settings.allowed.is_empty())
            .then(|| Fetching::new(&cache, Arc::clone(&clock), Arc::clone(&counts), settings));
        Assets { shared: Arc::new(Shared { cache, clock, counts, fetching }) }
    }

    /// Counters and gauges.
    pub(crate) fn stats(&self) -> AssetStats {
        let stats = self.shared.counts.stats();
        match &self.shared.fetching {
            Some(fetching) => fetching.add_to(stats),
            None => stats,
        }
    }
}
