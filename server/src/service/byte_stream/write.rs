//! `ByteStream.Write`: one blob as a stream of messages.
//!
//! ```text
//! first message -> name, offset -+-> present: OK, full size
//!                                +-> not 0, not where the upload stands: INVALID_ARGUMENT
//!                                +-> open or resume the upload
//! each message ---> name, offset, finish in order? -> data to the upload -> present meanwhile? OK, full size
//! finish_write ---> verify and store: OK, full size
//! half-close -----> OK, bytes so far; parked                        cut, silent, displaced ----> error; parked
//! ```
//! An upload that ends with an error of its own is gone; one that is cut off waits to be resumed. Of a compressed blob offsets
//! count the bytes of the zstd stream, and so does the committed size; an upload of one that is cut off is gone too, and what
//! it could go on from is always 0.

use std::time::Duration;

use cask_engine::EngineError;
use cask_proto::bytestream::WriteRequest;
use cask_proto::{Compressor, WriteName};
use tokio::sync::watch;
use tonic::{Status, Streaming};

use crate::cache::{Cache, CompressedUpload, ResumableUpload, too_slow};
use crate::service::health::Readiness;
use crate::service::request::{self, AnnouncedName, unserved};
use crate::status;

/// How long an answer is held back for the client's half-close after `finish_write`, to see that nothing follows. Clients
/// send it along with the last message; one that does not gets its answer this much later.
const HALF_CLOSE_WAIT_MAX: Duration = Duration::from_millis(500);

/// What a compressed upload of a blob that is there already has committed.
const PRESENT_COMPRESSED: i64 = -1;

/// Receives one stream; returns the committed size as it is sent.
pub(super) async fn receive(
    cache: &Cache,
    readiness: watch::Receiver<Readiness>,
    announced: &AnnouncedName,
    mut messages: Streaming<WriteRequest>,
) -> Result<i64, Status> {
    let idle_max = cache.limits().upload_idle_max;
    let Some(mut message) = within(idle_max, messages.message()).await? else {
        return Err(Status::invalid_argument("the stream ended before its first message"));
    };
    announced.check(&message.resource_name)?;
    if let Some((_, log)) = super::log::resource(cache, &message.resource_name)? {
        let committed_bytes = super::log::write(cache, readiness, log, message, &mut messages).await?;
        return Ok(committed_bytes as i64);
    }
    let mut sequence = Sequence::begin(&message)?;
    let name = request::write_name(cache, &message.resource_name)?;
    let digest = name.digest;
    let present = match name.compressor {
        Compressor::Identity => digest.size_bytes() as i64,
        _ => PRESENT_COMPRESSED,
    };
    let Some(mut upload) = Incoming::begin(cache, name, sequence.next_offset).await? else { return Ok(present) };
    loop {
        if let Err(fault) = sequence.accept(&message) {
            upload.end();
            return Err(fault.into());
        }
        upload.write(&message.data).await.map_err(status::grpc)?;
        if message.finish_write {
            break;
        }
        // Not held while waiting for the next one: it may be large, and its owner silent.
        drop(message);
        let next = tokio::select! {
            next = within(idle_max, messages.message()) => next?,
            () = upload.asked_to_end() => {
                upload.end();
                return Err(status::grpc(too_slow()));
            }
            () = upload.give_way() => return Err(Status::aborted("another stream goes on with this upload")),
        };
        match next {
            Some(next) => message = next,
            None => return Ok(upload.resumable_bytes() as i64),
        }
        if cache.engine().contains(&digest).map_err(status::grpc)? {
            upload.end();
            return Ok(present);
        }
    }
    let stored = async { upload.finish().await.map_err(status::grpc) };
    let nothing_follows = async {
        match tokio::time::timeout(HALF_CLOSE_WAIT_MAX, messages.message()).await {
            Ok(Ok(Some(after))) => sequence.accept(&after).map(|_| ()).map_err(Status::from),
            // Half-closed, gone, or in no hurry to be either.
            Ok(Ok(None) | Err(_)) | Err(_) => Ok(()),
        }
    };
    let (committed_bytes, ()) = tokio::try_join!(stored, nothing_follows)?;
    Ok(committed_bytes as i64)
}

/// An upload by what its name says of its bytes.
enum Incoming {
    /// As they are: can be resumed.
    Plain(ResumableUpload),
    /// As a zstd stream: cannot.
    Zstd(CompressedUpload),
}

impl Incoming {
    /// `None`: the blob is present.
    async fn begin(cache: &Cache, name: WriteName, offset: u64) -> Result<Option<Self>, Status> {
        match name.compressor {
            Compressor::Identity => {
                let upload = cache.start_upload(name, offset).await.map_err(status::grpc)?;
                Ok(upload.map(Self::Plain))
            }
            Compressor::Zstd => {
                let upload = cache.begin_compressed_upload(name.digest).await.map_err(status::grpc)?;
                if upload.is_some() && offset != 0 {
                    return Err(Status::invalid_argument(format!(
                        "a compressed upload cannot be resumed: it begins at 0, not at {offset}"
                    )));
                }
                Ok(upload.map(Self::Zstd))
            }
            Compressor::Deflate | Compressor::Brotli => Err(unserved(name.compressor).into()),
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
    fn end(self) {
        match self {
            Self::Plain(mut upload) => upload.end(),
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
}

/// The next message, unless the client is silent for too long.
async fn within(
    idle_max: Duration,
    message: impl Future<Output = Result<Option<WriteRequest>, Status>>,
) -> Result<Option<WriteRequest>, Status> {
    tokio::time::timeout(idle_max, message).await.unwrap_or_else(|_elapsed| {
        Err(Status::deadline_exceeded(format!("no message came for {} s", idle_max.as_secs())))
    })
}

/// Checks that the messages of a stream belong together and follow each other.
#[derive(Debug)]
pub(super) struct Sequence {
    name: String,
    next_offset: u64,
    is_finished: bool,
}

/// What is wrong with a message's place in its stream. All permanent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SequenceFault {
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

impl From<SequenceFault> for Status {
    fn from(fault: SequenceFault) -> Status {
        Status::invalid_argument(fault.to_string())
    }
}

impl Sequence {
    /// Takes name and offset from the first message, which still has to be accepted like the others.
    pub(super) fn begin(first: &WriteRequest) -> Result<Sequence, SequenceFault> {
        if first.resource_name.is_empty() {
            return Err(SequenceFault::NameMissing);
        }
        let next_offset =
            u64::try_from(first.write_offset).map_err(|_| SequenceFault::OffsetNegative(first.write_offset))?;
        Ok(Sequence { name: first.resource_name.clone(), next_offset, is_finished: false })
    }

    /// Where the message's data belongs.
    pub(super) fn accept(&mut self, message: &WriteRequest) -> Result<u64, SequenceFault> {
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
        self.next_offset += message.data.len() as u64;
        self.is_finished = message.finish_write;
        Ok(offset)
    }

    /// Where the next message's data belongs.
    pub(super) fn next_offset(&self) -> u64 {
        self.next_offset
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(resource_name: &str, write_offset: i64, length: usize, finish_write: bool) -> WriteRequest {
        WriteRequest {
            resource_name: resource_name.to_owned(),
            write_offset,
            finish_write,
            data: Bytes::from(vec![0; length]),
        }
    }

    fn check(messages: &[WriteRequest]) -> Result<u64, SequenceFault> {
        let mut sequence = Sequence::begin(&messages[0])?;
        for message in messages {
            sequence.accept(message)?;
        }
        Ok(sequence.next_offset)
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
