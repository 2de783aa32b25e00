//! An origin's answer on its way into the store.
//!
//! The store takes a blob by its digest. Where the checksum asked for is of the digest's function and the origin says how long its
//! answer is, the digest is known and the bytes go straight into an upload; if the blob is there already, none is read.
//! Otherwise they wait in a [`Spool`](super::spool::Spool) until their digest is known. Either way nothing is stored that does not
//! have the checksum asked for.

use std::sync::Arc;

use cask_engine::EngineError;
use cask_index::{Digest, DigestFunction, Hasher};
use http::HeaderMap;

use super::counts::AssetCounts;
use super::integrity::Integrity;
use super::origin::{Fault, FaultKind, Origin, OriginBody, Origins};
use super::spool::{SpoolError, SpoolRoom};
use crate::access::instances::Instance;
use crate::cache::{Cache, too_slow};

/// Why an answer did not become a blob.
#[derive(Clone, Debug)]
pub(super) enum DownloadError {
    Fault(Fault),
    Store(EngineError),
}

impl From<Fault> for DownloadError {
    fn from(fault: Fault) -> Self {
        DownloadError::Fault(fault)
    }
}

impl From<EngineError> for DownloadError {
    fn from(error: EngineError) -> Self {
        match error {
            // The client's checksum is the digest here, so it is the origin that did not keep to it.
            EngineError::Mismatch { .. } => DownloadError::Fault(mismatch()),
            other => DownloadError::Store(other),
        }
    }
}

impl From<SpoolError> for DownloadError {
    fn from(error: SpoolError) -> Self {
        DownloadError::Fault(Fault::new(FaultKind::Exhausted, error.to_string()))
    }
}

/// What is asked for.
#[derive(Clone)]
pub(super) struct Wanted {
    pub(super) instance: Instance,
    pub(super) function: DigestFunction,
    pub(super) integrity: Option<Integrity>,
}

/// What downloads need.
pub(super) struct Downloads {
    pub(super) cache: Cache,
    pub(super) origins: Origins,
    pub(super) room: Arc<SpoolRoom>,
    pub(super) size_bytes_max: u64,
    pub(super) counts: Arc<AssetCounts>,
}

impl Downloads {
    /// Fetches and stores; the digest of what was stored. Dropping the future ends it.
    pub(super) async fn download(
        &self,
        origin: &Origin,
        headers: HeaderMap,
        wanted: &Wanted,
    ) -> Result<Digest, DownloadError> {
        let mut body = self.origins.get(origin, headers).await?;
        let stored = self.store(&mut body, wanted).await;
        self.counts.count_received(body.received_bytes());
        stored
    }

    async fn store(&self, body: &mut OriginBody, wanted: &Wanted) -> Result<Digest, DownloadError> {
        let length_bytes = body.length_bytes();
        if length_bytes.is_some_and(|length| length > self.size_bytes_max) {
            return Err(self.too_large().into());
        }
        let expected = wanted.integrity.as_ref().and_then(|integrity| integrity.only_hash(wanted.function));
        match (expected, length_bytes) {
            (Some(hash), Some(length)) => {
                let digest = Digest::new(wanted.function, hash, length)
                    .expect("a checksum of the function has a hash of its length");
                let digest = wanted.instance.within(digest);
                self.store_straight(body, digest).await?;
                Ok(digest)
            }
            _ => self.store_by_spool(body, wanted).await,
        }
    }

    async fn store_straight(&self, body: &mut OriginBody, digest: Digest) -> Result<(), DownloadError> {
        let Some(mut session) = self.cache.begin_upload(digest).await? else { return Ok(()) };
        loop {
            let data = tokio::select! {
                data = body.next() => data?,
                () = session.asked_to_end() => return Err(DownloadError::Store(too_slow())),
            };
            match data {
                Some(data) => session.write(&data).await?,
                None => return Ok(session.finish().await?),
            }
        }
    }

    async fn store_by_spool(&self, body: &mut OriginBody, wanted: &Wanted) -> Result<Digest, DownloadError> {
        let mut spool = self.room.spool();
        let mut check = wanted.integrity.as_ref().map(Integrity::check);
        while let Some(data) = body.next().await? {
            if body.received_bytes() > self.size_bytes_max {
                return Err(self.too_large().into());
            }
            if let Some(check) = &mut check {
                check.update(&data);
            }
            spool.write(&data).await?;
        }
        if check.is_some_and(|check| !check.passes()) {
            return Err(mismatch().into());
        }
        // Not while the bytes came: some functions need the length first.
        let mut hasher = Hasher::new(wanted.function, spool.length_bytes());
        spool.rewind().await?;
        while let Some(piece) = spool.next_piece().await? {
            hasher.update(&piece);
        }
        let digest = wanted.instance.within(hasher.finish(spool.length_bytes()));
        if let Some(mut session) = self.cache.begin_upload(digest).await? {
            spool.rewind().await?;
            while let Some(piece) = spool.next_piece().await? {
                session.write(&piece).await?;
            }
            session.finish().await?;
        }
        Ok(digest)
    }

    /// Permanent, so none of the faults that may pass.
    fn too_large(&self) -> Fault {
        let limit_bytes = self.size_bytes_max;
        let reason = format!("it has more than the {limit_bytes} bytes that this server fetches (see asset_max_size)");
        Fault::new(FaultKind::Denied, reason)
    }
}

fn mismatch() -> Fault {
    Fault::new(FaultKind::Mismatch, "the content does not have the checksum asked for")
}
