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
    /// `None` when the upload has ended, or while it is being finished.
    session: Option<UploadSession>,
    /// `None` when the upload has ended.
    ticket: Option<Ticket>,
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
            let Some(session) = self.begin_upload(name.digest).await? else {
                // What is parked under the name is of no use any more.
                self.shared.parking.forget(&name);
                return Ok(None);
            };
            let ticket = self.shared.parking.open(name);
            return Ok(Some(ResumableUpload::new(self.clone(), session, ticket, 0)));
        }
        if self.engine().contains(&name.digest)? {
            return Ok(None);
        }
        let slot = self.upload_slot().await?;
        let resume = async {
            loop {
                match self.shared.parking.claim(&name, offset) {
                    // The stream before may just have finished it.
                    Claim::Unknown if self.engine().contains(&name.digest)? => return Ok(None),
                    Claim::Unknown => return Err(StartError::Offset { offset, received_bytes: 0 }),
                    Claim::Elsewhere { received_bytes } => return Err(StartError::Offset { offset, received_bytes }),
                    Claim::Live(handover) => handover.gone().await,
                    Claim::Resumed { staged, ticket, overlap_bytes } => {
                        let session = self.resume_upload(staged, slot);
                        return Ok(Some(ResumableUpload::new(self.clone(), session, ticket, overlap_bytes)));
                    }
                }
            }
        };
        let resumed = tokio::time::timeout(HANDOVER_WAIT_MAX, resume).await;
        resumed.unwrap_or(Err(StartError::Busy))
    }

    /// What is parked under the name is of no use any more. A stream that is still sending stays.
    pub(crate) fn forget_upload(&self, name: &WriteName) {
        self.shared.parking.forget(name);
    }

    /// Bytes received of an upload that is under way or parked.
    pub(crate) fn query_upload(&self, name: &WriteName) -> Option<u64> {
        self.shared.parking.query(name)
    }
}

impl ResumableUpload {
    fn new(cache: Cache, session: UploadSession, ticket: Ticket, overlap_bytes: u64) -> ResumableUpload {
        ResumableUpload { cache, session: Some(session), ticket: Some(ticket), overlap_bytes }
    }

    /// What a query would answer, and so where the upload can be resumed; beyond the client's last byte while it repeats
    /// what was received before.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.session.as_ref().expect(NOT_ENDED).received_bytes()
    }

    /// Appends `data`. After an error the upload has ended.
    pub(crate) async fn write(&mut self, data: &[u8]) -> Result<(), EngineError> {
        let overlap = data.len().min(usize::try_from(self.overlap_bytes).unwrap_or(usize::MAX));
        self.overlap_bytes -= overlap as u64;
        let session = self.session.as_mut().expect(NOT_ENDED);
        let result = session.write(&data[overlap..]).await;
        self.ticket.as_ref().expect(NOT_ENDED).set_received_bytes(session.received_bytes());
        if result.is_err() {
            self.end();
        }
        result
    }

    /// Verifies and stores the blob. Until it is stored the upload is known by its name, so that what a query answers
    /// never falls; cut short, it is not parked.
    pub(crate) async fn finish(mut self) -> Result<(), EngineError> {
        let session = self.session.take().expect(NOT_ENDED);
        session.finish().await
    }

    /// Ends the upload without storing or parking it.
    pub(crate) fn end(&mut self) {
        self.session = None;
        if let Some(ticket) = self.ticket.take() {
            self.cache.shared.parking.close(ticket);
        }
    }

    /// Ready when others need the memory of the part that this upload fills too slowly. Cancel-safe.
    pub(crate) async fn asked_to_end(&self) {
        self.session.as_ref().expect(NOT_ENDED).asked_to_end().await;
    }

    /// Returns when another stream wants to go on with this upload: drop it then. Cancel-safe.
    pub(crate) async fn give_way(&self) {
        self.ticket.as_ref().expect(NOT_ENDED).give_way().await;
    }
}

const NOT_ENDED: &str = "nothing is asked of an upload that ended";

impl Drop for ResumableUpload {
    fn drop(&mut self) {
        let received_bytes = self.session.as_ref().map_or(0, UploadSession::received_bytes);
        if received_bytes == 0 {
            self.end();
            return;
        }
        if let (Some(session), Some(ticket)) = (self.session.take(), self.ticket.take()) {
            ticket.set_received_bytes(received_bytes);
            let staged = session.into_staged();
            let held_bytes = staged.held_bytes();
            self.cache.shared.parking.park(ticket, staged, held_bytes);
            sweep_later(&self.cache.shared);
        }
    }
}

/// Sees to it that what is parked is freed when it has become too old, even if no request comes by: one task at a time, that
/// lives while something is parked.
fn sweep_later(shared: &Arc<Shared>) {
    // Without a runtime the server is going down, and everything with it.
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    if !shared.parking.begin_sweep() {
        return;
    }
    let shared = Arc::downgrade(shared);
    runtime.spawn(async move {
        while let Some(next) = shared.upgrade().and_then(|shared| shared.parking.sweep()) {
            tokio::time::sleep_until(next).await;
        }
    });
}
