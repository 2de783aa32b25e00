//! Answering what clients ask for: by what is known, else by what an origin has.

use std::time::Duration;

use cask_engine::EngineError;
use cask_index::{Digest, DigestFunction};

use super::counts::Lookup;
use super::record::{self, Record, Source};
use super::{AssetKind, Assets, Fault, FaultKind, Qualifiers, Shared, origin};
use crate::access::instances::Instance;

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

impl Assets {
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
        if let Some(fetching) = &self.shared.fetching {
            return fetching.fetch(&query).await;
        }
        for uri in &query.uris {
            if let Some(refusal) = origin::never_fetched(uri) {
                return fault(uri, refusal);
            }
        }
        let reason = "nobody pushed it, and this server fetches from no origin (see asset_origins)";
        fault(&query.uris[0], Fault::new(FaultKind::NotFound, reason))
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
}
