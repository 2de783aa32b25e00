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
mod flight;
mod integrity;
mod origin;
mod qualifiers;
mod record;
mod spool;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cask_engine::EngineError;
use cask_engine::clock::Clock;
use cask_index::{Digest, DigestFunction};
use http::HeaderMap;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

pub(crate) use self::counts::AssetStats;
use self::counts::{AssetCounts, Lookup};
use self::download::{DownloadError, Downloads, Wanted};
use self::flight::{FlightKey, Flights, Stranded, passed};
pub(crate) use self::origin::{Fault, FaultKind, OriginPattern};
use self::origin::{Origin, Origins};
pub(crate) use self::qualifiers::{QualifierError, Qualifiers};
use self::record::{Record, Source};
use self::spool::SpoolRoom;
use crate::access::instances::Instance;
use crate::access::limits::Budget;
use crate::cache::{ActionError, Cache};

/// Fetches from origins at once. Each takes up to half a MiB of memory.
const FETCHES_MAX: usize = 32;
/// What the spools take together, in terms of the largest asset.
const SPOOLED_ASSETS_MAX: u64 = 2;

/// What a URI stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AssetKind {
    Blob,
    Directory,
}

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

/// What a client asks for.
pub(crate) struct Query {
    pub(crate) kind: AssetKind,
    pub(crate) instance: Instance,
    pub(crate) function: DigestFunction,
    /// Never empty.
    pub(crate) uris: Vec<String>,
    pub(crate) qualifiers: Qualifiers,
    /// Unix time; what was pushed or fetched before is not good enough.
    pub(crate) oldest_accepted_ms: Option<u64>,
    pub(crate) timeout: Option<Duration>,
}

/// What it got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The one of the query's URIs.
    pub(crate) uri: String,
    pub(crate) digest: Digest,
    /// Unix time.
    pub(crate) expires_ms: Option<u64>,
}

/// Why it got nothing.
#[derive(Clone, Debug)]
pub(crate) enum FetchError {
    /// Outside this server's control.
    Fault {
        uri: String,
        fault: Fault,
    },
    /// Names of qualifiers that nobody pushed anything under and that no origin can honour.
    Unsupported(Vec<String>),
    Store(EngineError),
}

impl From<EngineError> for FetchError {
    fn from(error: EngineError) -> Self {
        FetchError::Store(error)
    }
}

/// What a client vouches for.
pub(crate) struct Push {
    pub(crate) kind: AssetKind,
    pub(crate) instance: Instance,
    pub(crate) digest: Digest,
    /// Never empty.
    pub(crate) uris: Vec<String>,
    pub(crate) qualifiers: Qualifiers,
    /// Unix time.
    pub(crate) expires_ms: Option<u64>,
    /// What is to stay as long as the asset, if it is there; of the asset's function.
    pub(crate) referenced_blobs: Vec<Digest>,
    pub(crate) referenced_directories: Vec<Digest>,
}

/// Why it was not taken.
#[derive(Clone, Debug)]
pub(crate) enum PushError {
    /// The request contradicts itself. Permanent.
    Invalid(&'static str),
    /// Blobs of the asset that are not in the store.
    Absent(Vec<Digest>),
    Action(ActionError),
}

impl From<ActionError> for PushError {
    fn from(error: ActionError) -> Self {
        PushError::Action(error)
    }
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
    fetching: Option<Fetching>,
}

struct Fetching {
    downloads: Downloads,
    flights: Flights<Result<Digest, DownloadError>>,
    slots: Budget,
    timeout_max: Duration,
}

impl Assets {
    /// May wait for the disk, for the machine's certificates.
    pub(crate) fn new(cache: Cache, clock: Arc<dyn Clock>, settings: OriginSettings) -> Assets {
        let counts = Arc::new(AssetCounts::default());
        let fetching = (!settings.allowed.is_empty()).then(|| {
            let size_bytes_max = settings.size_bytes_max.min(cache.engine().blob_size_bytes_max());
            let downloads = Downloads {
                cache: cache.clone(),
                origins: Origins::new(settings.allowed, settings.allow_private),
                room: SpoolRoom::new(settings.spool_folder, size_bytes_max.saturating_mul(SPOOLED_ASSETS_MAX)),
                size_bytes_max,
                counts: Arc::clone(&counts),
            };
            let slots = Budget::new("fetches from origins", FETCHES_MAX, cache.limits().budget_wait_max);
            Fetching { downloads, flights: Flights::new(), slots, timeout_max: settings.timeout_max }
        });
        Assets { shared: Arc::new(Shared { cache, clock, counts, fetching }) }
    }

    /// Counters and gauges.
    pub(crate) fn stats(&self) -> AssetStats {
        let stats = self.shared.counts.stats();
        let Some(fetching) = &self.shared.fetching else { return stats };
        let (flights, room) = (&fetching.flights, &fetching.downloads.room);
        AssetStats { fetches_under_way: flights.count() as u64, spooled_bytes: room.used_bytes(), ..stats }
    }

    /// Records that the asset is what the URIs and qualifiers stand for, in place of what they stood for before.
    pub(crate) async fn push(&self, push: Push) -> Result<(), PushError> {
        let Shared { cache, clock, .. } = &*self.shared;
        let Push { kind, instance, digest, uris, qualifiers, .. } = &push;
        if qualifiers.has_headers() {
            return Err(PushError::Invalid("headers say nothing about content and are not stored; push without them"));
        }
        let checksum = qualifiers.integrity().and_then(|integrity| integrity.only_hash(digest.function()));
        if checksum.is_some_and(|hash| *kind == AssetKind::Blob && hash != digest.hash()) {
            return Err(PushError::Invalid("checksum.sri is another one than the blob's"));
        }
        let own = match kind {
            AssetKind::Blob => cache.references(digest, &[*digest], &[]).await?,
            AssetKind::Directory => cache.references(digest, &[], &[*digest]).await?,
        };
        if !own.absent.is_empty() {
            return Err(PushError::Absent(own.absent.iter().map(|&position| own.digests[position]).collect()));
        }
        // Hints, says the API, and clients do refer to what they never had; what is there is kept.
        let mut others = cache.references(digest, &push.referenced_blobs, &push.referenced_directories).await?;
        for position in others.absent.into_iter().rev() {
            others.digests.swap_remove(position);
        }
        let mut closure = own.digests;
        closure.append(&mut others.digests);

        let record = Record {
            digest: *digest,
            source: Source::Pushed,
            obtained_ms: clock.now_ms(),
            expires_ms: push.expires_ms,
        };
        let value = record.encode();
        for uri in uris {
            let key = instance.within(record::key(*kind, digest.function(), uri, qualifiers.identity()));
            let stored = cache.put_asset_record(instance.name(), &key, &value, &closure).await;
            stored.map_err(ActionError::from)?;
            if !qualifiers.unsupported_by_origins().is_empty() {
                let key = instance.within(record::names_key(*kind, digest.function(), uri, qualifiers.names()));
                cache.put_asset_record(instance.name(), &key, &[], &[]).await.map_err(ActionError::from)?;
            }
        }
        Ok(())
    }

    /// What is known of any of the URIs, else what the first origin gives that gives it.
    pub(crate) async fn fetch(&self, query: Query) -> Result<Found, FetchError> {
        for uri in &query.uris {
            if let Some(record) = self.look_up(&query, uri).await? {
                let digest = query.instance.within(record.digest);
                return Ok(Found { uri: uri.clone(), digest, expires_ms: record.expires_ms });
            }
        }
        let fault = |uri: &str, fault| Err(FetchError::Fault { uri: uri.to_owned(), fault });
        if query.kind == AssetKind::Directory {
            let reason = "nobody pushed it, and directories are not made from what origins have";
            return fault(&query.uris[0], Fault::new(FaultKind::NotFound, reason));
        }
        let may_fetch = self.shared.fetching.is_some();
        let unsupported = query.qualifiers.unsupported_by_origins();
        if !unsupported.is_empty() && query.uris.iter().any(|uri| origin::is_of_web_server(uri)) {
            let refused = if may_fetch { unsupported } else { query.qualifiers.unknown() };
            if !refused.is_empty() && !self.was_pushed_by_these_names(&query).await? {
                return Err(FetchError::Unsupported(refused.into_iter().map(str::to_owned).collect()));
            }
            let reason = "nobody pushed it with these qualifiers, which no origin can honour";
            return fault(&query.uris[0], Fault::new(FaultKind::NotFound, reason));
        }
        match &self.shared.fetching {
            Some(fetching) => self.fetch_from_origins(fetching, &query).await,
            None => {
                for uri in &query.uris {
                    if let Some(refusal) = origin::never_fetched(uri) {
                        return fault(uri, refusal);
                    }
                }
                let reason = "nobody pushed it, and this server fetches from no origin (see asset_origins)";
                fault(&query.uris[0], Fault::new(FaultKind::NotFound, reason))
            }
        }
    }

    async fn look_up(&self, query: &Query, uri: &str) -> Result<Option<Record>, EngineError> {
        let Shared { cache, clock, counts, .. } = &*self.shared;
        let key = query.instance.within(record::key(query.kind, query.function, uri, query.qualifiers.identity()));
        let value = cache.asset_record(query.instance.name(), &key).await?;
        let record = value.and_then(Record::decode);
        let lookup = match &record {
            None => Lookup::Miss,
            Some(record) if record.expires_ms.is_some_and(|expires_ms| expires_ms <= clock.now_ms()) => Lookup::Expired,
            Some(record) if query.oldest_accepted_ms.is_some_and(|oldest_ms| record.obtained_ms < oldest_ms) => {
                Lookup::Stale
            }
            // To whom a header is sent may answer something else.
            Some(Record { source: Source::Fetched, .. })
                if query.qualifiers.has_headers() && query.qualifiers.integrity().is_none() =>
            {
                Lookup::Miss
            }
            Some(_) => Lookup::Hit,
        };
        counts.count_lookup(lookup);
        Ok(record.filter(|_| lookup == Lookup::Hit))
    }

    /// Whether another value would have found something, so that the names mean something here.
    async fn was_pushed_by_these_names(&self, query: &Query) -> Result<bool, EngineError> {
        for uri in &query.uris {
            let key = record::names_key(query.kind, query.function, uri, query.qualifiers.names());
            let key = query.instance.within(key);
            if self.shared.cache.asset_record(query.instance.name(), &key).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn fetch_from_origins(&self, fetching: &Fetching, query: &Query) -> Result<Found, FetchError> {
        let end = Instant::now() + query.timeout.unwrap_or(fetching.timeout_max).min(fetching.timeout_max);
        let mut faults: Vec<(&str, Fault)> = Vec::new();
        for (position, uri) in query.uris.iter().enumerate() {
            let origin = match fetching.downloads.origins.check(uri) {
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
            match self.fetch_from(fetching, query, uri, origin, headers, deadline).await {
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
        &self,
        fetching: &Fetching,
        query: &Query,
        uri: &str,
        origin: Origin,
        headers: HeaderMap,
        deadline: Instant,
    ) -> Result<Digest, DownloadError> {
        let shared = &self.shared;
        let now_ms = shared.clock.now_ms();
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
        // A wish for what is yet to come is met by what begins now, and by nothing that has begun.
        let not_before_ms = query.oldest_accepted_ms.map_or(0, |oldest_ms| oldest_ms.min(now_ms + 1));
        let boarded = fetching.flights.board(job.flight_key, now_ms, not_before_ms, deadline, |deadline| {
            let assets = self.clone();
            async move { assets.fly(job, deadline).await }
        });
        if boarded.is_shared {
            shared.counts.count_joined();
        }
        match boarded.outcome(deadline).await {
            Ok(outcome) => outcome,
            Err(Stranded::TimedOut) => Err(timed_out().into()),
            Err(Stranded::Lost) => Err(EngineError::Closed.into()),
        }
    }

    /// The fetch itself, a task of its own.
    async fn fly(&self, job: Job, deadline: tokio::sync::watch::Receiver<Instant>) -> Result<Digest, DownloadError> {
        let Shared { cache, counts, fetching, .. } = &*self.shared;
        let fetching = fetching.as_ref().expect("only where origins are asked does a fetch begin");
        let name = job.origin.name();
        let download = async {
            let _slot = fetching.slots.take(1).await.map_err(|full| {
                let retry_after = Duration::from_secs(1);
                DownloadError::Store(EngineError::Full { retry_after, advice: full.to_string() })
            })?;
            fetching.downloads.download(&job.origin, job.headers, &job.wanted).await
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
