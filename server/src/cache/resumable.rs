//! An upload that can be resumed: a session under a name that the client can come back with.
//!
//! Dropping a [`ResumableUpload`] parks it, because that is how an interrupted stream ends: the transport drops the handler wherever it
//! stands. Only an upload that ended, stored or failed, is not parked.

use std::sync::Arc;
use std::time::Duration;

use cask_engine::EngineError;
use cask_proto::WriteName;

use super::parking::{Claim, Ticket};
use super::upload::UploadSession;
use super::{Cache, Shared};

/// How long a writer that wants to go on waits for the stream before it to end. That one ends at its next await, so this only
/// runs out when the disk is slow.
const HANDOVER_WAIT_MAX: Duration = Duration::from_secs(10);

/// Why an upload did not begin.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The first write offset is neither 0 nor where the upload stands. Permanent.
    #[error("the upload stands at {received_bytes} bytes, it cannot go on at {offset}")]
    Offset { offset: u64, received_bytes: u64 },
    /// Another stream writes under the same name and did not end in time.
    #[error("another stream is writing to this upload")]
    Busy,
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// An open upload with a name.
pub(crate) struct ResumableUpload {
    cache: Cache,
    /// Both are there until the upload ends.
    open: Option<(UploadSession, Ticket)>,
    /// Bytes still to come that were received before.
    overlap_bytes: u64,
}

impl Cache {
    /// Begins an upload at offset 0, or resumes one that stands at `offset`. `None`: the blob is present.
    pub(crate) async fn start_upload(
        &self,
        name: WriteName,
        offset: u64,
    ) -> Result<Option<ResumableUpload>, StartError> {
        if offset == 0 {
            let Some(session) = self.begin_upload(name.digest).await? else { return Ok(None) };
            let ticket = self.shared.parking.open(name);
            return Ok(Some(ResumableUpload { cache: self.clone(), open: Some((session, ticket)), overlap_bytes: 0 }));
        }
        if self.engine().contains(&name.digest) {
            return Ok(None);
        }
        let slot = self.upload_slot().await?;
        let resume = async {
            loop {
                match self.shared.parking.claim(&name, offset) {
                    Claim::Unknown => return Err(StartError::Offset { offset, received_bytes: 0 }),
                    Claim::Elsewhere { received_bytes } => return Err(StartError::Offset { offset, received_bytes }),
                    Claim::Live(handover) => handover.gone().await,
                    Claim::Resumed { staged, ticket, overlap_bytes } => return Ok((staged, ticket, overlap_bytes)),
                }
            }
        };
        let resumed = tokio::time::timeout(HANDOVER_WAIT_MAX, resume).await;
        let (staged, ticket, overlap_bytes) = resumed.unwrap_or(Err(StartError::Busy))?;
        let session = self.resume_upload(staged, slot);
        Ok(Some(ResumableUpload { cache: self.clone(), open: Some((session, ticket)), overlap_bytes }))
    }

    /// Bytes received of an upload that is under way or parked.
    pub(crate) fn query_upload(&self, name: &WriteName) -> Option<u64> {
        self.shared.parking.query(name)
    }
}

impl ResumableUpload {
    /// Where the client's next byte belongs.
    pub(crate) fn next_offset(&self) -> u64 {
        self.open().0.received_bytes() - self.overlap_bytes
    }

    /// Appends `data`. After an error the upload has ended.
    pub(crate) async fn write(&mut self, data: &[u8]) -> Result<(), EngineError> {
        let overlap = data.len().min(usize::try_from(self.overlap_bytes).unwrap_or(usize::MAX));
        self.overlap_bytes -= overlap as u64;
        let (session, ticket) = self.open.as_mut().expect("nothing is written to an upload that ended");
        let result = session.write(&data[overlap..]).await;
        ticket.set_received_bytes(session.received_bytes());
        if result.is_err() {
            self.end();
        }
        result
    }

    /// Verifies and stores the blob.
    pub(crate) async fn finish(mut self) -> Result<(), EngineError> {
        let (session, ticket) = self.open.take().expect("an upload is finished once");
        // A client that reconnects while this runs finds the name unknown and begins anew, or the blob present.
        self.cache.shared.parking.close(ticket);
        session.finish().await
    }

    /// Ends the upload without storing or parking it.
    pub(crate) fn end(&mut self) {
        if let Some((session, ticket)) = self.open.take() {
            self.cache.shared.parking.close(ticket);
            drop(session);
        }
    }

    /// Returns when another stream wants to go on with this upload: drop it then. Cancel-safe.
    pub(crate) async fn give_way(&self) {
        self.open().1.give_way().await;
    }

    fn open(&self) -> &(UploadSession, Ticket) {
        self.open.as_ref().expect("the upload has not ended")
    }
}

impl Drop for ResumableUpload {
    fn drop(&mut self) {
        let Some((session, ticket)) = self.open.take() else { return };
        let received_bytes = session.received_bytes();
        if received_bytes == 0 {
            self.cache.shared.parking.close(ticket);
            return;
        }
        ticket.set_received_bytes(received_bytes);
        let staged = session.into_staged();
        let held_bytes = staged.held_bytes();
        self.cache.shared.parking.park(ticket, staged, held_bytes);
        expire_later(&self.cache.shared);
    }
}

/// Frees what is parked now when it has become too old, even if no request comes by.
fn expire_later(shared: &Arc<Shared>) {
    // Without a runtime the server is going down, and everything with it.
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let (age_max, shared) = (shared.parking.age_max(), Arc::downgrade(shared));
    runtime.spawn(async move {
        tokio::time::sleep(age_max).await;
        if let Some(shared) = shared.upgrade() {
            drop(shared.parking.expire());
        }
    });
}
