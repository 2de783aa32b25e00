//! One streaming upload over the engine's parts.
//!
//! The engine hashes and stages bytes in parts and writes a part when told to. A session keeps one part filling and at most one
//! in flight: a client faster than the disk is held back, and a session holds at most two parts of memory. Each part is
//! paid for from the server's budget of staged bytes before its first byte is taken, and the price is given back when the engine has
//! written (or dropped) it. Since a session never waits for budget while it holds a part of its own that is not on its way
//! to the disk, waiting sessions cannot starve each other. Where the store compresses, a part does on a blocking thread while the
//! next one is filled.
//!
//! Cancellation: every `async fn` here may be dropped at any await. What was accepted so far is counted exactly
//! (`received_bytes`), and the session can go on, be parked, or be dropped, which abandons the upload and gives back all it holds.

use bytes::Bytes;
use cask_engine::encoding::INLINE_ENCODE_BYTES_MAX;
use cask_engine::{BeginUpload, Completion, EngineError, Upload};
use cask_index::Digest;
use tokio::sync::oneshot;

use super::Cache;
use crate::access::limits::Permit;
use crate::access::yielding::Holding;

/// One open upload. Dropping it abandons the upload.
pub(crate) struct UploadSession {
    cache: Cache,
    staged: StagedUpload,
    /// The place among the open uploads; a parked upload has none.
    _slot: Permit,
}

/// What stays of an upload while nobody writes to it.
pub(crate) struct StagedUpload {
    upload: Upload,
    /// Pays for the part that is being filled, so many bytes; `None` until its first byte.
    part: Option<(Holding, usize)>,
    /// The outcome of the part last handed to the engine, until it has been looked at.
    in_flight: Option<oneshot::Receiver<Result<(), EngineError>>>,
}

impl Cache {
    /// Opens a streaming upload, or `None` when the blob is present already (and has been touched): nothing to send.
    /// `TooLarge` and `UnsupportedFunction` are found here, before any data. Waits while too many uploads are open, then
    /// fails with `Full`.
    pub(crate) async fn begin_upload(&self, digest: Digest) -> Result<Option<UploadSession>, EngineError> {
        if self.engine().contains(&digest)? {
            return Ok(None);
        }
        let slot = self.upload_slot().await?;
        match self.engine().begin_upload(digest)? {
            BeginUpload::Present => Ok(None),
            BeginUpload::Upload(upload) => {
                let staged = StagedUpload { upload, part: None, in_flight: None };
                Ok(Some(UploadSession { cache: self.clone(), staged, _slot: slot }))
            }
        }
    }

    /// Goes on with an upload that was parked.
    pub(super) fn resume_upload(&self, staged: StagedUpload, slot: Permit) -> UploadSession {
        UploadSession { cache: self.clone(), staged, _slot: slot }
    }

    /// Stores one whole blob that is in memory already; returns when it is readable.
    pub(crate) async fn put(&self, digest: Digest, data: Bytes) -> Result<(), EngineError> {
        self.begin_put(digest, data).await?.stored().await
    }

    /// As `put`, but returns when the engine has taken the bytes, so that several puts share one group commit.
    pub(crate) async fn begin_put(&self, digest: Digest, data: Bytes) -> Result<PendingPut, EngineError> {
        self.begin_puts(vec![(digest, data)]).await.pop().expect("an outcome for each blob")
    }

    /// As `begin_put`, of several blobs, in order: those of SHA-256 are hashed together, and share one group commit.
    ///
    /// What has to wait for staging budget waits with nothing in its hands: the blobs before it are on their way.
    pub(crate) async fn begin_puts(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<PendingPut, EngineError>> {
        let mut begun = Vec::with_capacity(blobs.len());
        let mut paid = Vec::with_capacity(blobs.len());
        for (digest, data) in blobs {
            // What is hashed and compressed in parts is so apart from the others.
            let is_large = data.len() > self.engine().part_size_bytes();
            let permit = if is_large { None } else { self.try_stage(data.len()) };
            if let Some(permit) = permit {
                paid.push(PaidBlob { digest, data, permit });
                continue;
            }
            self.hand_over(&mut paid, &mut begun).await;
            match self.stage(data.len()).await.map(Holding::into_permit) {
                Ok(permit) if is_large => begun.push(Ok(self.put_large(PaidBlob { digest, data, permit }).await)),
                Ok(permit) => paid.push(PaidBlob { digest, data, permit }),
                Err(error) => begun.push(Err(error)),
            }
        }
        self.hand_over(&mut paid, &mut begun).await;
        begun
    }

    /// Hashes blobs of a part at most and gives them to the engine.
    async fn hand_over(&self, paid: &mut Vec<PaidBlob>, begun: &mut Vec<Result<PendingPut, EngineError>>) {
        let blobs: Vec<(Digest, &[u8])> = paid.iter().map(|blob| (blob.digest, &blob.data[..])).collect();
        let verified = self.engine().verify_each(&blobs);
        // Those that are quickly submitted are so before anything is waited for.
        let (mut quick, mut slow) = (Vec::with_capacity(paid.len()), Vec::new());
        for (PaidBlob { permit, .. }, verified) in paid.drain(..).zip(verified) {
            begun.push(verified.map(|verified| {
                let Some(verified) = verified else { return PendingPut::Stored };
                let (done, told) = completion(Some(permit));
                let submitted = if verified.takes_a_while() { &mut slow } else { &mut quick };
                submitted.push((verified, done));
                PendingPut::Told(told)
            }));
        }
        self.engine().submit_each(quick);
        for (verified, done) in slow {
            let turn = self.coder().await;
            tokio::task::spawn_blocking(move || {
                let _turn = turn;
                verified.submit(done);
            });
        }
    }

    /// One that the engine hashes and stores in parts.
    async fn put_large(&self, PaidBlob { digest, data, permit }: PaidBlob) -> PendingPut {
        let (done, told) = completion(Some(permit));
        if self.engine().compresses() {
            let (engine, turn) = (self.engine().clone(), self.coder().await);
            tokio::task::spawn_blocking(move || {
                let _turn = turn;
                engine.put(digest, &data, done);
            });
        } else {
            self.engine().put(digest, &data, done);
        }
        PendingPut::Told(told)
    }

    /// As `begin_put`, for a blob that comes as a zstd stream. The caller has seen to it that the digest's size is one that
    /// may be held in memory.
    pub(crate) async fn begin_put_zstd(&self, digest: Digest, stream: Bytes) -> Result<PendingPut, EngineError> {
        let size_bytes = usize::try_from(digest.size_bytes()).unwrap_or(usize::MAX);
        let holding = self.stage(stream.len().saturating_add(size_bytes)).await?;
        let (done, told) = completion(Some(holding.into_permit()));
        if size_bytes > INLINE_ENCODE_BYTES_MAX {
            let (engine, turn) = (self.engine().clone(), self.coder().await);
            tokio::task::spawn_blocking(move || {
                let _turn = turn;
                engine.put_zstd(digest, &stream, done);
            });
        } else {
            self.engine().put_zstd(digest, &stream, done);
        }
        Ok(PendingPut::Told(told))
    }
}

/// A blob that the engine has and has not stored yet. Dropping it does not undo the put.
pub(crate) enum PendingPut {
    /// It was stored before.
    Stored,
    /// The engine tells.
    Told(oneshot::Receiver<Result<(), EngineError>>),
}

/// A whole blob whose bytes are paid for.
struct PaidBlob {
    digest: Digest,
    data: Bytes,
    permit: Permit,
}

impl PendingPut {
    /// Returns when the blob is readable.
    pub(crate) async fn stored(self) -> Result<(), EngineError> {
        match self {
            Self::Stored => Ok(()),
            Self::Told(told) => outcome(told).await,
        }
    }
}

impl UploadSession {
    /// Bytes accepted so far: where a resumed stream goes on.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.staged.upload.received_bytes()
    }

    /// Appends `data`, of any length. After an error the session is of no more use: drop it.
    pub(crate) async fn write(&mut self, mut data: &[u8]) -> Result<(), EngineError> {
        let digest = *self.staged.upload.digest();
        let missing_bytes = digest.size_bytes() - self.received_bytes();
        if data.len() as u64 > missing_bytes {
            return Err(EngineError::Mismatch { expected: digest, found: "more bytes than that".to_owned() });
        }
        loop {
            if self.staged.upload.needs_flush() {
                self.flush_part().await?;
            }
            if data.is_empty() {
                return Ok(());
            }
            self.pay_for_part().await?;
            let (head, rest) = data.split_at(data.len().min(self.staged.upload.part_room_bytes()));
            self.staged.upload.append(head)?;
            data = rest;
        }
    }

    /// Verifies size and hash and stores the blob; returns when it is readable (to the configured durability). Once
    /// the engine has taken the last part, dropping the future no longer undoes the upload.
    pub(crate) async fn finish(mut self) -> Result<(), EngineError> {
        self.settle().await?;
        let StagedUpload { upload, part, in_flight: _ } = self.staged;
        let (done, stored) = completion(part.map(|(holding, _)| holding.into_permit()));
        let verified = upload.verify()?;
        if verified.takes_a_while() {
            let turn = self.cache.coder().await;
            tokio::task::spawn_blocking(move || {
                let _turn = turn;
                verified.submit(done);
            });
        } else {
            verified.submit(done);
        }
        outcome(stored).await
    }

    /// Stores a blob of one record, of which nothing was written, from its zstd stream; returns when it is readable. `room`
    /// pays for the stream and for what it decodes to.
    pub(super) async fn finish_zstd(self, stream: Vec<u8>, room: Holding) -> Result<(), EngineError> {
        let (done, stored) = completion(Some(room.into_permit()));
        let upload = self.staged.upload;
        if upload.digest().size_bytes() > INLINE_ENCODE_BYTES_MAX as u64 {
            self.cache.on_processor(move || upload.finish_zstd(stream, done)).await?;
        } else {
            upload.finish_zstd(stream, done)?;
        }
        outcome(stored).await
    }

    /// The blob comes compressed: it is to be stored so, part by part, where that pays.
    pub(super) fn prefer_compressed(&mut self) {
        self.staged.upload.prefer_compressed();
    }

    /// Whether the blob is one record in the store.
    pub(super) fn is_one_record(&self) -> bool {
        self.staged.upload.is_one_record()
    }

    /// Ready when others need the memory of the part that this upload fills too slowly: end it then, with [`too_slow`].
    /// Cancel-safe.
    pub(crate) async fn asked_to_end(&self) {
        match &self.staged.part {
            Some((holding, _)) => holding.asked().await,
            None => std::future::pending().await,
        }
    }

    /// Gives up the place among the open uploads and keeps what was received.
    pub(super) fn into_staged(self) -> StagedUpload {
        self.staged
    }

    async fn flush_part(&mut self) -> Result<(), EngineError> {
        self.settle().await?;
        // Before the part is taken out of the upload: the wait may be cut short.
        let turn = if self.staged.upload.compresses() { Some(self.cache.coder().await) } else { None };
        let permit = self.staged.part.take().map(|(holding, _)| holding.into_permit());
        let (done, written) = completion(permit);
        self.staged.in_flight = Some(written);
        let part = self.staged.upload.take_part();
        match turn {
            // The next part is filled meanwhile.
            Some(turn) => drop(tokio::task::spawn_blocking(move || {
                let _turn = turn;
                part.submit(done);
            })),
            None => part.submit(done),
        }
        Ok(())
    }

    /// Waits until the part in flight, if there is one, has been written.
    async fn settle(&mut self) -> Result<(), EngineError> {
        if let Some(written) = &mut self.staged.in_flight {
            let result = outcome(written).await;
            self.staged.in_flight = None;
            result?;
        }
        Ok(())
    }

    async fn pay_for_part(&mut self) -> Result<(), EngineError> {
        if self.staged.part.is_none() {
            let missing_bytes = self.staged.upload.digest().size_bytes() - self.received_bytes();
            let part_bytes =
                usize::try_from(missing_bytes).unwrap_or(usize::MAX).min(self.cache.engine().part_size_bytes());
            let holding = self.cache.stage(part_bytes).await?;
            self.staged.part = Some((holding, part_bytes));
        }
        Ok(())
    }
}

impl StagedUpload {
    /// Bytes of the staging budget that it holds while parked.
    pub(super) fn held_bytes(&self) -> usize {
        self.part.as_ref().map_or(0, |(_, bytes)| *bytes)
    }
}

/// What an upload is told that has to make room for others.
pub(crate) fn too_slow() -> EngineError {
    EngineError::Full {
        retry_after: std::time::Duration::from_secs(1),
        advice: "the server is short of memory for uploads and this one came too slowly".to_owned(),
    }
}

/// A completion that gives back `permit` and then tells the receiver.
pub(super) fn completion(permit: Option<Permit>) -> (Completion, oneshot::Receiver<Result<(), EngineError>>) {
    let (tell, told) = oneshot::channel();
    let done = Box::new(move |result| {
        drop(permit);
        // Nobody listens any more when the request was cancelled; the engine's work stands all the same.
        let _ = tell.send(result);
    });
    (done, told)
}

/// A completion that was dropped without being run is an engine that went away.
pub(super) async fn outcome(
    told: impl Future<Output = Result<Result<(), EngineError>, oneshot::error::RecvError>>,
) -> Result<(), EngineError> {
    told.await.unwrap_or(Err(EngineError::Closed))
}
