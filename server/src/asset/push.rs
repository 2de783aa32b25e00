//! Taking what clients vouch for.

use cask_index::Digest;

use super::record::{self, Record, Source};
use super::{AssetKind, Assets, Qualifiers, Shared};
use crate::access::instances::Instance;
use crate::cache::ActionError;

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

impl Assets {
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
}
