//! One streaming upload of a zstd stream.
//!
//! ```text
//!                   one record                  more stream than bytes
//!   Empty --------------------------> Held -------------------------------> Decoding <----------- Empty
//!      first bytes                     | finish: decoded, verified,           | finish        large: first bytes
//!                                      v kept as it came where that pays      v as a plain upload
//!                                   (stored)                               (stored)
//! ```
//! A small blob's stream is held as it comes, since it may be what is stored. A large one's is decoded as it arrives, into
//! the session of a plain upload, which is told to compress its parts; what comes out is bounded by the digest's size,
//! whatever the stream says. All of it is paid for from the staging budget: a stream that is held together with what it decodes
//! to, a decoder's window as far as bytes can have gone through it. Nothing is paid for, or held, before the first bytes; and a window is paid for before the first
//! part is, so that an upload that waits holds little.
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
/// What a decoder takes without its window.
const DECODER_BYTES: usize = 128 * 1024;
/// Both.
const DECODING_BYTES: usize = DECODED_BYTES + DECODER_BYTES;
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
    Empty,
    Held { stream: Vec<u8>, room: Holding },
    Decoding(Box<Decoding>),
}

struct Decoding {
    decoder: ZstdDecoder,
    decoded: Box<[u8]>,
    /// Pays for `decoded` and the decoder without its window.
    room: Holding,
    /// Pays for the window.
    window: Option<Holding>,
    window_paid_bytes: usize,
    /// What later frames with larger windows cost on top.
    more: Vec<Holding>,
    /// Parts that the session had begun when the holdings' present piece began.
    part: u64,
}

impl Cache {
    /// Opens an upload of `digest` as a zstd stream; `None` when the blob is present already.
    pub(crate) async fn begin_compressed_upload(
        &self,
        digest: Digest,
    ) -> Result<Option<CompressedUpload>, EngineError> {
        let Some(mut session) = self.begin_upload(digest).await? else { return Ok(None) };
        session.prefer_compressed();
        Ok(Some(CompressedUpload { cache: self.clone(), digest, session, form: Form::Empty, received_bytes: 0 }))
    }

    /// `room` pays for [`DECODING_BYTES`].
    fn begin_decoding(&self, digest: &Digest, room: Holding) -> Result<Form, EngineError> {
        // A window that would never be paid for is refused for good.
        let window_bytes_max = (self.limits().staged_bytes_max / 2).max(1);
        let window_log_max = window_bytes_max.ilog2().clamp(WINDOW_LOG_MIN, WINDOW_LOG_MAX);
        let decoder = ZstdDecoder::new(window_log_max).map_err(|fault| refusal(digest, fault))?;
        Ok(Form::Decoding(Box::new(Decoding {
            decoder,
            decoded: vec![0; DECODED_BYTES].into(),
            room,
            window: None,
            window_paid_bytes: 0,
            more: Vec::new(),
            part: 0,
        })))
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
        if matches!(self.form, Form::Empty) {
            self.form = if self.session.is_one_record() {
                let size_bytes = self.digest.size_bytes();
                let room = self.cache.stage((2 * size_bytes + HELD_SLACK_BYTES) as usize).await?;
                Form::Held { stream: Vec::with_capacity(size_bytes.min(HELD_BYTES_FIRST) as usize), room }
            } else {
                let room = self.cache.stage(DECODING_BYTES).await?;
                self.cache.begin_decoding(&self.digest, room)?
            };
        }
        if let Form::Held { stream, .. } = &mut self.form {
            let held_bytes_max = self.digest.size_bytes() + HELD_SLACK_BYTES;
            if (stream.len() + data.len()) as u64 <= held_bytes_max {
                stream.extend_from_slice(data);
                self.received_bytes += data.len() as u64;
                return Ok(());
            }
            let held = std::mem::take(stream);
            // Not waited for: what is held already may be what others wait for.
            let room = self.cache.shared.budgets.staging(DECODING_BYTES).try_take(DECODING_BYTES);
            let decoding = self.cache.begin_decoding(&self.digest, room.ok_or_else(super::too_slow)?)?;
            let before = std::mem::replace(&mut self.form, decoding);
            self.decode(&held).await?;
            drop(before);
        }
        self.decode(data).await?;
        self.received_bytes += data.len() as u64;
        Ok(())
    }

    async fn decode(&mut self, mut data: &[u8]) -> Result<(), EngineError> {
        let Form::Decoding(decoding) = &mut self.form else { unreachable!("only a stream that is decoded comes here") };
        if decoding.window.is_none() && !data.is_empty() {
            // Reads the head of the first frame, for which the decoder takes its window.
            let read_bytes = decoding.step(&self.digest, data, false)?.0;
            data = &data[read_bytes..];
            let window_bytes = decoding.window_bytes(&self.digest);
            if window_bytes > 0 {
                decoding.window = Some(self.cache.stage(window_bytes).await?);
                decoding.window_paid_bytes = window_bytes;
            }
        }
        loop {
            let (read_bytes, written_bytes) = decoding.step(&self.digest, data, true)?;
            data = &data[read_bytes..];
            let missing_bytes = decoding.window_bytes(&self.digest).saturating_sub(decoding.window_paid_bytes);
            if missing_bytes > 0 {
                // A later frame wants more. Not waited for: the session may hold a part.
                let room = self.cache.shared.budgets.staging(missing_bytes).try_take(missing_bytes);
                decoding.more.push(room.ok_or_else(super::too_slow)?);
                decoding.window_paid_bytes += missing_bytes;
            }
            // Refuses what is beyond the digest's size.
            self.session.write(&decoding.decoded[..written_bytes]).await?;
            decoding.keep_up(self.session.received_bytes() / self.cache.engine().part_size_bytes() as u64);
            if data.is_empty() && written_bytes < decoding.decoded.len() {
                return Ok(());
            }
        }
    }

    /// Verifies and stores the blob; returns when it is readable.
    pub(crate) async fn finish(self) -> Result<(), EngineError> {
        match self.form {
            Form::Empty => Err(refusal(&self.digest, StreamFault::Truncated)),
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
            Form::Empty => std::future::pending().await,
            Form::Held { room, .. } => room.asked().await,
            Form::Decoding(decoding) => {
                let window = async {
                    match &decoding.window {
                        Some(window) => window.asked().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = decoding.room.asked() => {}
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

    /// What of the decoder's window can be taken: only pages that output went through are, and there is no more output than
    /// the blob.
    fn window_bytes(&self, digest: &Digest) -> usize {
        let size_bytes = usize::try_from(digest.size_bytes()).unwrap_or(usize::MAX);
        self.decoder.memory_bytes().saturating_sub(DECODER_BYTES).min(size_bytes)
    }

    /// What it holds is held for the part that is being filled, like the part itself: who fills parts in time is not asked to end.
    fn keep_up(&mut self, part: u64) {
        if std::mem::replace(&mut self.part, part) != part {
            self.room.begin_piece();
        }
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
