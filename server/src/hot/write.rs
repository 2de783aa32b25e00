//! `ByteStream.Write`: one blob as a stream of messages.
//!
//! ```text
//! first message -> name, offset -+-> present: OK, full size
//!                                +-> not 0, not where the upload stands: INVALID_ARGUMENT
//!                                +-> open or resume the upload
//! each message ---> name, offset, finish in order? -> data to the upload, as it comes -> present meanwhile? OK, full size
//! finish_write ---> verify and store: OK, full size
//! half-close -----> OK, bytes so far; parked                        cut, silent, displaced ----> error; parked
//! ```
//! Data goes from the pieces of the body to the upload, which hashes and stages it: a message is never collected, unless its
//! fields come in an order that no known client writes.
//!
//! An upload that ends with an error of its own is gone; one that is cut off waits to be resumed. Of a compressed blob offsets
//! count the bytes of the zstd stream, and so does the committed size; an upload of one that is cut off is gone too, and what
//! it could go on from is always 0.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cask_engine::EngineError;
use cask_proto::wire::{WriteHead, WriteMessage, write_head};
use cask_proto::{Compressor, LogResource, WriteName};
use tokio::sync::watch;

use super::frames::{Frames, Incoming};
use super::malformed;
use crate::access::yielding::Holding;
use crate::cache::{Cache, CompressedUpload, ResumableUpload, too_slow};
use crate::service::byte_stream::log;
use crate::service::health::Readiness;
use crate::service::request::{self, unserved};
use crate::status::{Answer, answer_of};

/// How long an answer is held back for the client's half-close after `finish_write`, to see that nothing follows. Clients
/// send it along with the last message; one that does not gets its answer this much later.
const HALF_CLOSE_WAIT_MAX: Duration = Duration::from_millis(500);

/// What a compressed upload of a blob that is there already has committed.
const PRESENT_COMPRESSED: i64 = -1;

/// Receives one stream; returns the committed size as it is sent.
pub(super) async fn receive<F: Frames>(
    cache: &Cache,
    readiness: &watch::Receiver<Readiness>,
    announced: Option<&[u8]>,
    incoming: &mut Incoming<F>,
) -> Result<i64, Answer> {
    let Some(mut message) = Head::next(cache, incoming).await? else {
        return Err(Answer::invalid("the stream ended before its first message"));
    };
    request::check_announced(announced, &message.resource_name)?;
    if let Some((_, log)) = log::resource(cache, &message.resource_name)? {
        return receive_log(cache, readiness.clone(), log, message, incoming).await;
    }
    let mut sequence = Sequence::begin(&message)?;
    let name = request::write_name(cache, &message.resource_name)?;
    let digest = name.digest;
    let present = match name.compressor {
        Compressor::Identity => digest.size_bytes() as i64,
        _ => PRESENT_COMPRESSED,
    };
    // What is compressed takes longer than a thread of connections has.
    let may_gather = !cache.engine().compresses();
    if let Some(data) = may_gather.then(|| whole_small_blob(&name, &message, incoming)).flatten() {
        sequence.accept(&message)?;
        // What is parked under the name is begun anew, or of no use any more.
        cache.forget_upload(&name);
        if cache.engine().contains(&digest).map_err(answer_of)? {
            return Ok(present);
        }
        let stored = async { cache.put_small(digest, data).await.map_err(answer_of) };
        tokio::try_join!(stored, nothing_follows(cache, &mut sequence, incoming))?;
        return Ok(present);
    }
    let Some(mut upload) = Upload::begin(cache, name, sequence.next_offset).await? else { return Ok(present) };
    loop {
        if let Err(fault) = sequence.accept(&message) {
            upload.end();
            return Err(fault.into());
        }
        let is_last = message.finish_write;
        while let Some(data) = upload.or_interrupted(message.data(incoming)).await? {
            upload.write(&data).await.map_err(answer_of)?;
        }
        // Before the next one is waited for: what it was collected in may be large, and its client silent.
        drop(message);
        if is_last {
            break;
        }
        match upload.or_interrupted(Head::next(cache, incoming)).await? {
            Some(next) => message = next,
            None => return Ok(upload.resumable_bytes() as i64),
        }
        if cache.engine().contains(&digest).map_err(answer_of)? {
            upload.end();
            return Ok(present);
        }
    }
    let stored = async { upload.finish().await.map_err(answer_of) };
    let (committed_bytes, ()) = tokio::try_join!(stored, nothing_follows(cache, &mut sequence, incoming))?;
    Ok(committed_bytes as i64)
}

/// After `finish_write`.
async fn nothing_follows<F: Frames>(
    cache: &Cache,
    sequence: &mut Sequence,
    incoming: &mut Incoming<F>,
) -> Result<(), Answer> {
    match tokio::time::timeout(HALF_CLOSE_WAIT_MAX, Head::next(cache, incoming)).await {
        Ok(Ok(Some(after))) => sequence.accept(&after).map(|_| ()).map_err(Answer::from),
        // Half-closed, gone, or in no hurry to be either.
        Ok(Ok(None) | Err(_)) | Err(_) => Ok(()),
    }
}

/// A blob that the first message has all of, and that has come: most of those that are small. No upload has to be kept of it
/// that could be gone on with, and it is hashed together with others.
fn whole_small_blob<F: Frames>(name: &WriteName, message: &Head, incoming: &mut Incoming<F>) -> Option<Bytes> {
    let is_whole = name.compressor == Compressor::Identity
        && message.write_offset == 0
        && message.finish_write
        && message.data_bytes as u64 == name.digest.size_bytes()
        && message.data_bytes <= Cache::SMALL_BLOB_BYTES_MAX;
    if !is_whole {
        return None;
    }
    if message.left_bytes == 0 { Some(message.begun.clone()) } else { incoming.bytes_at_hand(message.left_bytes) }
}

/// An upload by what its name says of its bytes.
enum Upload {
    /// As they are: can be resumed.
    Plain(ResumableUpload),
    /// As a zstd stream: cannot.
    Zstd(CompressedUpload),
}

impl Upload {
    /// `None`: the blob is present.
    async fn begin(cache: &Cache, name: WriteName, offset: u64) -> Result<Option<Self>, Answer> {
        match name.compressor {
            Compressor::Identity => {
                let upload = cache.start_upload(name, offset).await.map_err(answer_of)?;
                Ok(upload.map(Self::Plain))
            }
            Compressor::Zstd => {
                let upload = cache.begin_compressed_upload(name.digest).await.map_err(answer_of)?;
                if upload.is_some() && offset != 0 {
                    return Err(Answer::invalid(format!(
                        "a compressed upload cannot be resumed: it begins at 0, not at {offset}"
                    )));
                }
                Ok(upload.map(Self::Zstd))
            }
            Compressor::Deflate | Compressor::Brotli => Err(unserved(name.compressor)),
        }
    }

    async fn write(&mut self, data: &[u8]) -> Result<(), EngineError> {
        match self {
            Self::Plain(upload) => upload.write(data).await,
            Self::Zstd(upload) => upload.write(data).await,
        }
    }

    /// Stores the blob; the bytes that the client sent, beginning with those of earlier streams.
    async fn finish(self) -> Result<u64, EngineError> {
        match self {
            Self::Plain(upload) => {
                let size_bytes = upload.received_bytes();
                upload.finish().await.map(|()| size_bytes)
            }
            Self::Zstd(upload) => {
                let received_bytes = upload.received_bytes();
                upload.finish().await.map(|()| received_bytes)
            }
        }
    }

    /// Where the upload could go on, if it were cut off now.
    fn resumable_bytes(&self) -> u64 {
        match self {
            Self::Plain(upload) => upload.received_bytes(),
            Self::Zstd(_) => 0,
        }
    }

    /// Ends the upload without storing or parking it.
    fn end(&mut self) {
        match self {
            Self::Plain(upload) => upload.end(),
            Self::Zstd(_) => {}
        }
    }

    async fn asked_to_end(&self) {
        match self {
            Self::Plain(upload) => upload.asked_to_end().await,
            Self::Zstd(upload) => upload.asked_to_end().await,
        }
    }

    async fn give_way(&self) {
        match self {
            Self::Plain(upload) => upload.give_way().await,
            Self::Zstd(_) => std::future::pending().await,
        }
    }

    /// What the client sends next, unless this upload has to make room for others meanwhile.
    async fn or_interrupted<T>(&mut self, next: impl Future<Output = Result<T, Answer>>) -> Result<T, Answer> {
        tokio::select! {
            biased;
            next = next => return next,
            () = self.give_way() => {
                return Err(Answer::aborted("another stream goes on with this upload"));
            }
            () = self.asked_to_end() => {}
        }
        self.end();
        Err(answer_of(too_slow()))
    }
}

/// One message: what its fields say, and its data, which may still be on its way.
#[derive(Debug)]
struct Head {
    resource_name: String,
    write_offset: i64,
    finish_write: bool,
    data_bytes: usize,
    /// Data that came along with the other fields.
    begun: Bytes,
    /// Data still to come.
    left_bytes: usize,
    /// Pays for a message that was collected.
    _paid: Option<Holding>,
}

impl Head {
    /// The next message; `None` at the end of the stream.
    async fn next<F: Frames>(cache: &Cache, incoming: &mut Incoming<F>) -> Result<Option<Self>, Answer> {
        let Some(message_bytes) = incoming.message_bytes(cache.limits().write_message_size_bytes_max).await? else {
            return Ok(None);
        };
        // Only of a message that is cut before its data begins.
        let mut gathered = BytesMut::new();
        loop {
            let so_far: &[u8] = if gathered.is_empty() { incoming.peek(message_bytes).await? } else { &gathered };
            match write_head(message_bytes, so_far).map_err(malformed)? {
                WriteHead::Streamable { resource_name, write_offset, finish_write, head_bytes, data_bytes } => {
                    let mut head = Self {
                        resource_name: resource_name.to_owned(),
                        write_offset,
                        finish_write,
                        data_bytes,
                        begun: Bytes::new(),
                        left_bytes: data_bytes,
                        _paid: None,
                    };
                    if gathered.is_empty() {
                        incoming.skip(head_bytes);
                    } else {
                        head.begun = gathered.split_off(head_bytes).freeze();
                        head.left_bytes -= head.begun.len();
                    }
                    return Ok(Some(head));
                }
                WriteHead::NeedMore => {
                    let piece = incoming.bytes(PIECE_BYTES_MAX.min(message_bytes - gathered.len())).await?;
                    gathered.extend_from_slice(&piece);
                }
                WriteHead::Irregular => {
                    let request = incoming.collect(cache, message_bytes, &gathered).await?;
                    let message = WriteMessage::parse(&request.message).map_err(malformed)?;
                    return Ok(Some(Self {
                        resource_name: message.resource_name.to_owned(),
                        write_offset: message.write_offset,
                        finish_write: message.finish_write,
                        data_bytes: message.data.len(),
                        begun: message.data,
                        left_bytes: 0,
                        _paid: request.paid,
                    }));
                }
            }
        }
    }

    /// The next piece of the data, never empty; `None` when there is no more. Cancel safe.
    async fn data<F: Frames>(&mut self, incoming: &mut Incoming<F>) -> Result<Option<Bytes>, Answer> {
        if !self.begun.is_empty() {
            return Ok(Some(std::mem::take(&mut self.begun)));
        }
        if self.left_bytes == 0 {
            return Ok(None);
        }
        let data = incoming.bytes(self.left_bytes).await?;
        self.left_bytes -= data.len();
        Ok(Some(data))
    }
}

/// What is gathered at a time of a message's other fields.
const PIECE_BYTES_MAX: usize = 256;

/// Receives one stream of appends to a log; returns the log's size. A writer may be silent for as long as it has nothing to say,
/// but not for longer than the server lives.
async fn receive_log<F: Frames>(
    cache: &Cache,
    mut readiness: watch::Receiver<Readiness>,
    log: LogResource,
    first: Head,
    incoming: &mut Incoming<F>,
) -> Result<i64, Answer> {
    let (name, secret) = log::writable(log)?;
    incoming.be_patient();
    let mut stopping = std::pin::pin!(readiness.wait_for(|readiness| *readiness == Readiness::Draining));
    let mut sequence = Sequence::begin(&first)?;
    let mut message = first;
    loop {
        let mut offset = sequence.accept(&message)?;
        loop {
            let data = tokio::select! {
                data = message.data(incoming) => data?,
                _ = &mut stopping => return Err(log::stopping()),
            };
            let Some(data) = data else { break };
            cache.append_log(&name, &secret, offset, &data).await.map_err(answer_of)?;
            offset += data.len() as u64;
        }
        if message.finish_write {
            return cache.finish_log(&name, &secret).await.map(|bytes| bytes as i64).map_err(answer_of);
        }
        drop(message);
        let next = tokio::select! {
            next = Head::next(cache, incoming) => next?,
            _ = &mut stopping => return Err(log::stopping()),
        };
        match next {
            Some(next) => message = next,
            None => return Ok(sequence.next_offset as i64),
        }
    }
}

/// Checks that the messages of a stream belong together and follow each other.
#[derive(Debug)]
struct Sequence {
    name: String,
    next_offset: u64,
    is_finished: bool,
}

/// What is wrong with a message's place in its stream. All permanent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum SequenceFault {
    #[error("the first message has no resource_name")]
    NameMissing,
    #[error("resource_name changed within the stream")]
    NameChanged,
    #[error("write_offset {0} is negative")]
    OffsetNegative(i64),
    #[error("write_offset is {found}, the next byte belongs at {expected}")]
    Offset { expected: u64, found: i64 },
    #[error("a message came after finish_write")]
    AfterFinish,
}

impl From<SequenceFault> for Answer {
    fn from(fault: SequenceFault) -> Answer {
        Answer::invalid(fault.to_string())
    }
}

impl Sequence {
    /// Takes name and offset from the first message, which still has to be accepted like the others.
    fn begin(first: &Head) -> Result<Sequence, SequenceFault> {
        if first.resource_name.is_empty() {
            return Err(SequenceFault::NameMissing);
        }
        let next_offset =
            u64::try_from(first.write_offset).map_err(|_| SequenceFault::OffsetNegative(first.write_offset))?;
        Ok(Sequence { name: first.resource_name.clone(), next_offset, is_finished: false })
    }

    /// Where the message's data belongs.
    fn accept(&mut self, message: &Head) -> Result<u64, SequenceFault> {
        if self.is_finished {
            return Err(SequenceFault::AfterFinish);
        }
        if !message.resource_name.is_empty() && message.resource_name != self.name {
            return Err(SequenceFault::NameChanged);
        }
        if u64::try_from(message.write_offset) != Ok(self.next_offset) {
            return Err(SequenceFault::Offset { expected: self.next_offset, found: message.write_offset });
        }
        let offset = self.next_offset;
        self.next_offset += message.data_bytes as u64;
        self.is_finished = message.finish_write;
        Ok(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(resource_name: &str, write_offset: i64, length: usize, finish_write: bool) -> Head {
        Head {
            resource_name: resource_name.to_owned(),
            write_offset,
            finish_write,
            data_bytes: length,
            begun: Bytes::new(),
            left_bytes: length,
            _paid: None,
        }
    }

    fn check(messages: &[Head]) -> Result<u64, SequenceFault> {
        let mut sequence = Sequence::begin(&messages[0])?;
        for message in messages {
            sequence.accept(message)?;
        }
        Ok(sequence.next_offset)
    }

    #[tokio::test]
    async fn a_small_blob_is_whole_when_its_one_message_has_come() {
        use crate::hot::frames::tests::Pieces;

        let data = Bytes::from_static(b"all of it");
        let digest = cask_index::Hasher::digest(cask_index::DigestFunction::Sha256, &data);
        let name = |digest, compressor| WriteName {
            instance: cask_proto::InstanceName::EMPTY,
            upload_id: cask_proto::UploadId::parse("u").expect("an id"),
            digest,
            compressor,
        };
        let plain = name(digest, Compressor::Identity);
        let large = name(digest.with_size_bytes(1 << 20), Compressor::Identity);
        let at = |offset, length, finish| message("n", offset, length, finish);
        for (name, head, first_piece, is_whole) in [
            (&plain, at(0, 9, true), 9, true),
            (&plain, at(0, 9, true), 8, false),
            (&plain, at(0, 9, false), 9, false),
            (&plain, at(1, 9, true), 9, false),
            (&plain, at(0, 8, true), 9, false),
            (&large, at(0, 9, true), 9, false),
            (&large, at(0, 1 << 20, true), 9, false),
            (&name(digest, Compressor::Zstd), at(0, 9, true), 9, false),
        ] {
            let pieces = [data.slice(..first_piece), data.slice(first_piece..)];
            let mut incoming = Incoming::new(Pieces(pieces.into()), Duration::from_secs(60));
            incoming.peek(1).await.expect("the first piece");
            let found = whole_small_blob(name, &head, &mut incoming);
            assert_eq!(found, is_whole.then(|| data.clone()), "{name:?}: {head:?}, first {first_piece} bytes");
            // What was not taken is still there for the upload.
            let left = if is_whole { b"" } else { &data[..first_piece] };
            assert_eq!(incoming.peek(usize::MAX).await.unwrap_or_default(), left);
        }
        let collected = Head { begun: data.clone(), left_bytes: 0, ..at(0, 9, true) };
        let mut nothing = Incoming::new(Pieces([].into()), Duration::from_secs(60));
        assert_eq!(whole_small_blob(&plain, &collected, &mut nothing), Some(data));
    }

    #[test]
    fn messages_in_order_pass() {
        for (messages, end) in [
            (vec![message("n", 0, 5, true)], 5),
            (vec![message("n", 0, 5, false), message("", 5, 5, false), message("n", 10, 1, true)], 11),
            (vec![message("n", 7, 5, false), message("", 12, 0, true)], 12),
            // Keep-alives carry no data and move nothing.
            (vec![message("n", 0, 0, false), message("", 0, 0, false), message("", 0, 3, true)], 3),
            (vec![message("n", 0, 0, true)], 0),
        ] {
            assert_eq!(check(&messages), Ok(end), "{messages:?}");
        }
    }

    #[test]
    fn messages_out_of_order_are_named() {
        use SequenceFault::{AfterFinish, NameChanged, NameMissing, Offset, OffsetNegative};
        for (messages, fault) in [
            (vec![message("", 0, 5, true)], NameMissing),
            (vec![message("n", -1, 5, true)], OffsetNegative(-1)),
            (vec![message("n", 0, 5, false), message("m", 5, 5, true)], NameChanged),
            (vec![message("n", 0, 5, false), message("", 0, 5, true)], Offset { expected: 5, found: 0 }),
            (vec![message("n", 0, 5, false), message("", 6, 5, true)], Offset { expected: 5, found: 6 }),
            (vec![message("n", 0, 5, false), message("", -5, 5, true)], Offset { expected: 5, found: -5 }),
            (vec![message("n", 0, 5, true), message("", 5, 0, false)], AfterFinish),
            (vec![message("n", 0, 5, true), message("n", 0, 5, true)], AfterFinish),
        ] {
            assert_eq!(check(&messages), Err(fault), "{messages:?}");
        }
    }
}
