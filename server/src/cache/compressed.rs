//! One streaming upload of a zstd stream.
//!
//! ```text
//!          one record, and no more stream than bytes            else, or grown beyond that
//!   begin ------------> Held ------------------------------------------------> Decoding
//!                        | finish: decoded, verified,                           | finish: as a plain upload
//!                        v kept as it came where that pays                      v
//!                     (stored)                                               (stored)
//! ```
//! A small blob's stream is held as it comes, since it may be what is stored. A large one's is decoded as it arrives, into
//! the session of a plain upload, which is told to compress its parts; what comes out is bounded by the digest's size, whatever the stream says. All of it is
//! paid for from the staging budget: a stream that is held together with what it decodes to, a decoder's window as far as bytes
//! can have gone through it. A window is paid for before the first part is, so that an upload that waits holds nothing.
//!
//! Such an upload cannot be resumed: offsets count what was sent, and nobody could say where in the blob that is. Dropping it
//! at any point abandons it. After an error it is of no more use.

use cask_engine::EngineError;
use cask_engine::encoding::{StreamFault, ZstdDecoder};
use cask_index::Digest;

use super::Cache;
use super::upload::UploadSession;
use crate::access::yielding::Holding;

/// Beyond this a small blob's stream is no longer held: as much as its bytes, and something for headers.
const HELD_SLACK_BYTES: u64 = 4 * 1024;
/// What a stream promises does not set aside memory; what comes does.
const HELD_BYTES_FIRST: u64 = 64 * 1024;
/// What is decoded at once.
const DECODED_BYTES: usize = 64 * 1024;
/// The largest window a frame may have, as a power of two: what decoders take that are not told otherwise. Less where the
/// staging budget is small: half of it.
const WINDOW_LOG_MAX: u32 = 27;
/// The smallest there is.
const WINDOW_LOG_MIN: u32 = 10;

/// See the module's head.
pub(crate) struct CompressedUpload {
    cache: Cache,
    digest: Digest,
    session: UploadSession,
    form: Form,
    received_bytes: u64,
}

enum Form {
    Held { stream: Vec<u8>, room: Holding },
    Decoding(Box<Decoding>),
}

struct Decoding {
    decoder: ZstdDecoder,
    decoded: Box<[u8]>,
    /// Pays for `decoded` and the decoder's window, and how much that is.
    rooms: Vec<Holding>,
    paid_bytes: usize,
}

impl Cache {
    /// Opens an upload of `digest` as a zstd stream; `None` when the blob is present already.
    pub(crate) async fn begin_compressed_upload(
        &self,
        digest: Digest,
    ) -> Result<Option<CompressedUpload>, EngineError> {
        let Some(mut session) = self.begin_upload(digest).await? else { return Ok(None) };
        session.prefer_compressed();
        let form = if session.is_one_record() {
            let size_bytes = digest.size_bytes();
            let room = self.stage((2 * size_bytes + HELD_SLACK_BYTES) as usize).await?;
            Form::Held { stream: Vec::with_capacity(size_bytes.min(HELD_BYTES_FIRST) as usize), room }
        } else {
            Form::Decoding(Box::new(self.begin_decoding(&digest).await?))
        };
        Ok(Some(CompressedUpload { cache: self.clone(), digest, session, form, received_bytes: 0 }))
    }

    async fn begin_decoding(&self, digest: &Digest) -> Result<Decoding, EngineError> {
        let room = self.stage(DECODED_BYTES).await?;
        // A window that would never be paid for is refused for good.
        let window_bytes_max = (self.limits().staged_bytes_max / 2).max(1);
        let window_log_max = window_bytes_max.ilog2().clamp(WINDOW_LOG_MIN, WINDOW_LOG_MAX);
        let decoder = ZstdDecoder::new(window_log_max).map_err(|fault| refusal(digest, fault))?;
        let decoded = vec![0; DECODED_BYTES].into();
        Ok(Decoding { decoder, decoded, rooms: vec![room], paid_bytes: DECODED_BYTES })
    }
}

impl CompressedUpload {
    /// Bytes of the stream accepted so far.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Takes `data`, of any length.
    pub(crate) async fn write(&mut self, data: &[u8]) -> Result<(), EngineError> {
        if data.is_empty() {
            return Ok(());
        }
        if let Form::Held { stream, .. } = &mut self.form {
            let held_bytes_max = self.digest.size_bytes() + HELD_SLACK_BYTES;
            if (stream.len() + data.len()) as u64 <= held_bytes_max {
                stream.extend_from_slice(data);
                self.received_bytes += data.len() as u64;
                return Ok(());
            }
            let held = std::mem::take(stream);
            let decoding = self.cache.begin_decoding(&self.digest).await?;
            // What was paid for the stream is given back when it has been decoded.
            let before = std::mem::replace(&mut self.form, Form::Decoding(Box::new(decoding)));
            self.decode(&held).await?;
            drop(before);
        }
        self.decode(data).await?;
        self.received_bytes += data.len() as u64;
        Ok(())
    }

    async fn decode(&mut self, mut data: &[u8]) -> Result<(), EngineError> {
        let Form::Decoding(decoding) = &mut self.form else { unreachable!("only a stream that is decoded comes here") };
        if self.session.received_bytes() == 0 && !data.is_empty() {
            // Reads the head of the first frame, for which the decoder takes its window.
            let read_bytes = decoding.step(&self.digest, data, false)?.0;
            data = &data[read_bytes..];
            let missing_bytes = decoding.unpaid_bytes(&self.digest);
            if missing_bytes > 0 {
                decoding.rooms.push(self.cache.stage(missing_bytes).await?);
                decoding.paid_bytes += missing_bytes;
            }
        }
        loop {
            let (read_bytes, written_bytes) = decoding.step(&self.digest, data, true)?;
            data = &data[read_bytes..];
            let missing_bytes = decoding.unpaid_bytes(&self.digest);
            if missing_bytes > 0 {
                // A later frame wants more. Not waited for: the session may hold a part.
                let room = self.cache.shared.budgets.staging(missing_bytes).try_take(missing_bytes);
                decoding.rooms.push(room.ok_or_else(super::too_slow)?);
                decoding.paid_bytes += missing_bytes;
            }
            // Refuses what is beyond the digest's size.
            self.session.write(&decoding.decoded[..written_bytes]).await?;
            if data.is_empty() && written_bytes < decoding.decoded.len() {
                return Ok(());
            }
        }
    }

    /// Verifies and stores the blob; returns when it is readable.
    pub(crate) async fn finish(self) -> Result<(), EngineError> {
        match self.form {
            Form::Held { stream, room } => self.session.finish_zstd(stream, room).await,
            Form::Decoding(decoding) => {
                decoding.decoder.end().map_err(|fault| refusal(&self.digest, fault))?;
                self.session.finish().await
            }
        }
    }

    /// Ready when others need memory that this upload holds for too long: end it then. Cancel-safe.
    pub(crate) async fn asked_to_end(&self) {
        match &self.form {
            Form::Held { room, .. } => room.asked().await,
            Form::Decoding(decoding) => {
                let window = async {
                    match decoding.rooms.last() {
                        Some(room) => room.asked().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = window => {}
                    () = self.session.asked_to_end() => {}
                }
            }
        }
    }
}

impl Decoding {
    /// Decodes some of `data`; what was read of it, and how much is in `decoded`, for which there may be no room.
    fn step(&mut self, digest: &Digest, data: &[u8], has_room: bool) -> Result<(usize, usize), EngineError> {
        let decoded = if has_room { &mut self.decoded[..] } else { &mut [] };
        let step = self.decoder.step(data, decoded).map_err(|fault| refusal(digest, fault))?;
        Ok((step.read_bytes, step.written_bytes))
    }

    /// Of the decoder's memory only pages that output went through are taken, and there is no more output than the blob.
    fn unpaid_bytes(&self, digest: &Digest) -> usize {
        let size_bytes = usize::try_from(digest.size_bytes()).unwrap_or(usize::MAX);
        (DECODED_BYTES + self.decoder.memory_bytes().min(size_bytes)).saturating_sub(self.paid_bytes)
    }
}

fn refusal(digest: &Digest, fault: StreamFault) -> EngineError {
    match fault {
        StreamFault::NoMemory => super::too_slow(),
        StreamFault::Undecodable(_) | StreamFault::Truncated => {
            EngineError::Mismatch { expected: *digest, found: fault.to_string() }
        }
    }
}
