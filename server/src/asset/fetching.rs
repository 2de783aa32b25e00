//! Fetching from origins: the URIs of a query in their order, each shared by all who ask for the same at the same time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cask_engine::EngineError;
use cask_engine::clock::Clock;
use cask_index::Digest;
use http::HeaderMap;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;

use super::counts::{AssetCounts, AssetStats};
use super::download::{DownloadError, Downloads, Wanted};
use super::fetch::{FetchError, Found, Query};
use super::flight::{FlightKey, Flights, Stranded, passed};
use super::origin::{Fault, FaultKind, Origin, OriginPattern, Origins};
use super::record::{self, Record, Source};
use super::{qualifiers, spool::SpoolRoom};
use crate::access::instances::Instance;
use crate::access::limits::Budget;
use crate::cache::Cache;

/// Fetches from origins at once. Each takes up to half a MiB of memory.
const FETCHES_MAX: usize = 32;
/// Those and the ones that wait for their turn, each with its request: up to 64 KiB.
const FLIGHTS_MAX: usize = 512;
/// What the spools take together, in terms of the largest asset.
const SPOOLED_ASSETS_MAX: u64 = 2;

/// Whether and how origins are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OriginSettings {
    /// Empty: no origin is asked.
    pub(crate) allowed: Vec<OriginPattern>,
    pub(crate) allow_private: bool,
    pub(crate) size_bytes_max: u64,
    /// For a fetch whose client gives it less, that; for all others, this.
    pub(crate) timeout_max: Duration,
    /// Where the bytes wait whose digest is not known yet.
    pub(crate) spool_folder: PathBuf,
}

/// All that fetches share.
pub(super) struct Fetching {
    downloads: Downloads,
    flights: Flights<Result<Digest, DownloadError>>,
    slots: Budget,
    timeout_max: Duration,
    clock: Arc<dyn Clock>,
}

impl Fetching {
    /// May wait for the disk, for the machine's certificates.
    pub(super) fn new(
        cache: &Cache,
        clock: Arc<dyn Clock>,
        counts: Arc<AssetCounts>,
        settings: OriginSettings,
    ) -> Arc<Fetching> {
        let size_bytes_max = settings.size_bytes_max.min(cache.engine().blob_size_bytes_max());
        let downloads = Downloads {
            cache: cache.clone(),
            origins: Origins::new(settings.allowed, settings.allow_private),
            room: SpoolRoom::new(settings.spool_folder, size_bytes_max.saturating_mul(SPOOLED_ASSETS_MAX)),
            size_bytes_max,
            counts,
        };
        let slots = Budget::new("fetches from origins", FETCHES_MAX, cache.limits().budget_wait_max);
        Arc::new(Fetching { downloads, flights: Flights::new(), slots, timeout_max: settings.timeout_max, clock })
    }

    /// What is under way, for the metrics.
    pub(super) fn add_to(&self, stats: AssetStats) -> AssetStats {
        AssetStats {
            fetches_under_way: self.flights.count() as u64,
            spooled_bytes: self.downloads.room.used_bytes(),
            ..stats
        }
    }

    /// What the first origin gives that gives it.
    pub(super) async fn fetch(self: &Arc<Self>, query: &Query) -> Result<Found, FetchError> {
        let end = Instant::now() + query.timeout.unwrap_or(self.timeout_max).min(self.timeout_max);
        let mut faults: Vec<(&str, Fault)> = Vec::new();
        for (position, uri) in query.uris.iter().enumerate() {
            let origin = match self.downloads.origins.check(uri) {
                Ok(Some(origin)) => origin,
                Ok(None) => continue,
                Err(fault) => {
                    faults.push((uri, fault));
                    continue;
                }
            };
            // One that hangs leaves the others their share of the time.
            let left = u32::try_from(query.uris.len() - position).unwrap_or(u32::MAX);
            let deadline = Instant::now() + end.saturating_duration_since(Instant::now()) / left;
            let headers = query.qualifiers.headers_for(position, uri);
            match self.fetch_from(query, uri, origin, headers, deadline).await {
                Ok(digest) => return Ok(Found { uri: uri.clone(), digest, expires_ms: None }),
                Err(DownloadError::Store(error)) => return Err(error.into()),
                Err(DownloadError::Fault(fault)) => faults.push((uri, fault)),
            }
        }
        let Some((uri, first)) = faults.first() else {
            let fault = Fault::new(FaultKind::NotFound, "nobody pushed it, and it is not on a web server");
            return Err(FetchError::Fault { uri: query.uris[0].clone(), fault });
        };
        let reasons: Vec<&str> = faults.iter().map(|(_, fault)| fault.reason.as_str()).collect();
        Err(FetchError::Fault { uri: (*uri).to_owned(), fault: Fault::new(first.kind, reasons.join("; ")) })
    }

    async fn fetch_from(
        self: &Arc<Self>,
        query: &Query,
        uri: &str,
        origin: Origin,
        headers: HeaderMap,
        deadline: Instant,
    ) -> Result<Digest, DownloadError> {
        let now_ms = self.clock.now_ms();
        let record_key =
            query.instance.within(record::key(query.kind, query.function, uri, query.qualifiers.identity()));
        let is_for_all = headers.is_empty() || query.qualifiers.integrity().is_some();
        let job = Job {
            record_key: is_for_all.then_some(record_key),
            wanted: Wanted {
                instance: query.instance.clone(),
                function: query.function,
                integrity: query.qualifiers.integrity().cloned(),
            },
            flight_key: flight_key(&query.instance, &record_key, &headers),
            origin,
            headers,
            began_ms: now_ms,
        };
        if !self.flights.has_room_for(&job.flight_key, FLIGHTS_MAX) {
            let advice = format!("{FLIGHTS_MAX} fetches from origins are under way");
            return Err(EngineError::Full { retry_after: Duration::from_secs(1), advice }.into());
        }
        // A wish for what is yet to come is met by what begins now, and by nothing that has begun.
        let not_before_ms = query.oldest_accepted_ms.map_or(0, |oldest_ms| oldest_ms.min(now_ms + 1));
        let boarded = self.flights.board(job.flight_key, now_ms, not_before_ms, deadline, |deadline| {
            let fetching = Arc::clone(self);
            async move { fetching.fly(job, deadline).await }
        });
        if boarded.is_shared {
            self.downloads.counts.count_joined();
        }
        match boarded.outcome(deadline).await {
            Ok(outcome) => outcome,
            Err(Stranded::TimedOut) => Err(timed_out().into()),
            Err(Stranded::Lost) => Err(EngineError::Closed.into()),
        }
    }

    /// The fetch itself, a task of its own.
    async fn fly(&self, job: Job, deadline: watch::Receiver<Instant>) -> Result<Digest, DownloadError> {
        let Downloads { cache, counts, .. } = &self.downloads;
        let name = job.origin.name();
        let download = async {
            let _slot = self.slots.take(1).await.map_err(|full| {
                let retry_after = Duration::from_secs(1);
                DownloadError::Store(EngineError::Full { retry_after, advice: full.to_string() })
            })?;
            self.downloads.download(&job.origin, job.headers, &job.wanted).await
        };
        let downloaded = tokio::select! {
            downloaded = download => downloaded,
            () = passed(deadline) => Err(timed_out().into()),
        };
        if let (Ok(digest), Some(key)) = (&downloaded, job.record_key) {
            let (source, obtained_ms) = (Source::Fetched, job.began_ms);
            let value = Record { digest: *digest, source, obtained_ms, expires_ms: None }.encode();
            let recorded = cache.put_asset_record(job.wanted.instance.name(), &key, &value, &[*digest]).await;
            // The client has what it asked for; the next one fetches it again.
            if let Err(error) = recorded {
                tracing::warn!(event = "asset.not_recorded", origin = %name, %error, "fetched and not remembered");
            }
        }
        match &downloaded {
            Ok(digest) => {
                counts.count_fetched();
                tracing::info!(event = "asset.fetched", origin = %name, %digest, "fetched from its origin");
            }
            Err(DownloadError::Fault(fault)) => {
                counts.count_fault(fault.kind);
                tracing::warn!(event = "asset.origin_failed", origin = %name, kind = ?fault.kind, "{}", fault.reason);
            }
            Err(DownloadError::Store(error)) => {
                counts.count_unstored();
                tracing::warn!(event = "asset.not_stored", origin = %name, %error, "fetched in vain");
            }
        }
        downloaded
    }
}

/// All that a fetch from an origin takes along.
struct Job {
    /// Where the result is recorded; `None`: it is nobody's but theirs who wait.
    record_key: Option<Digest>,
    wanted: Wanted,
    flight_key: FlightKey,
    origin: Origin,
    headers: HeaderMap,
    began_ms: u64,
}

/// Those share a fetch who ask for the same with the same headers.
fn flight_key(instance: &Instance, record_key: &Digest, headers: &HeaderMap) -> FlightKey {
    let mut hasher = Sha256::new();
    hasher.update(record_key.hash());
    hasher.update(qualifiers::fingerprint(headers));
    hasher.update(instance.name().as_str());
    hasher.finalize().into()
}

fn timed_out() -> Fault {
    Fault::new(FaultKind::TimedOut, "the origin did not send all of it in the time it was given")
}
