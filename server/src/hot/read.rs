//! `ByteStream.Read`: a blob, or a log, as a stream of messages whose data are slices of the store.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use cask_proto::wire::{READ_RESPONSE_HEAD_BYTES_MAX, ReadRequest, read_response_head};
use cask_proto::{Compressor, LogResource};
use futures_util::Stream;
use tokio::sync::watch;

use super::malformed;
use crate::cache::{BlobStream, Cache, Wire};
use crate::service::byte_stream::log;
use crate::service::health::Readiness;
use crate::service::request;
use crate::status::{Answer, answer_of};

/// An answer that is being read. Pulled by the transport: a chunk is taken from the store when there is room to send it, so a
/// slow client costs what a `BlobStream` holds and no task.
pub(crate) struct ReadStream {
    source: Source,
}

/// The stream, and what it was asked for.
type Fetched = (BlobStream, Result<Option<Bytes>, Answer>);

enum Source {
    Blob(BlobStream),
    /// A chunk that has to come from the disk, and the stream it is of.
    Fetching(Pin<Box<dyn Future<Output = Fetched> + Send>>),
    Log(Pin<Box<dyn Stream<Item = Result<Bytes, Answer>> + Send>>),
    Ended,
}

impl ReadStream {
    /// Opens the blob that a request names; `None` when it names a log.
    pub(super) fn open(cache: &Cache, announced: Option<&[u8]>, message: &Bytes) -> Result<Option<Self>, Answer> {
        let wire = ReadRequest::parse(message).map_err(malformed)?;
        request::check_announced(announced, wire.resource_name)?;
        if LogResource::parse(wire.resource_name).is_some() {
            return Ok(None);
        }
        let name = request::read_name(cache, wire.resource_name)?;
        let digest = name.digest;
        let offset = u64::try_from(wire.read_offset)
            .ok()
            .filter(|offset| *offset <= digest.size_bytes())
            .ok_or_else(|| Answer::out_of_range(format!("read_offset {} is not in {digest}", wire.read_offset)))?;
        let limit = match u64::try_from(wire.read_limit) {
            Ok(0) => None,
            Ok(limit) => Some(limit),
            Err(_) => return Err(Answer::invalid(format!("read_limit {} is negative", wire.read_limit))),
        };
        let encoding = match name.compressor {
            Compressor::Identity => Wire::Plain,
            Compressor::Zstd if limit.is_some() => {
                return Err(Answer::invalid("read_limit must be 0 for a compressed blob"));
            }
            Compressor::Zstd => Wire::Zstd,
            Compressor::Deflate | Compressor::Brotli => return Err(request::unserved(name.compressor)),
        };
        let blob = cache.read(&digest, offset, limit, encoding).map_err(answer_of)?;
        Ok(Some(Self { source: Source::Blob(blob) }))
    }

    /// Follows the log that a request names.
    pub(super) async fn follow(
        cache: &Cache,
        readiness: &watch::Receiver<Readiness>,
        message: &Bytes,
    ) -> Result<Self, Answer> {
        let wire = ReadRequest::parse(message).map_err(malformed)?;
        let log = log::resource(cache, wire.resource_name)?;
        let log = log.ok_or_else(|| Answer::invalid("this is the name of no log"))?;
        let chunks = log::read(cache, readiness.clone(), log, wire.read_offset, wire.read_limit).await?;
        Ok(Self { source: Source::Log(Box::pin(chunks)) })
    }

    /// The data of the next message; `None` at the end. An error ends the stream.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Answer>>> {
        let outcome = loop {
            match &mut self.source {
                Source::Blob(blob) => match blob.next_chunk_in_memory() {
                    Ok(Some(chunk)) => break Some(Ok(chunk)),
                    Ok(None) => {
                        let Source::Blob(mut blob) = std::mem::replace(&mut self.source, Source::Ended) else {
                            unreachable!("it was just seen to be one")
                        };
                        if blob.is_at_end() {
                            break None;
                        }
                        self.source = Source::Fetching(Box::pin(async move {
                            let chunk = blob.next_chunk().await.map_err(answer_of);
                            (blob, chunk)
                        }));
                    }
                    Err(error) => break Some(Err(answer_of(error))),
                },
                Source::Fetching(fetching) => {
                    let (blob, chunk) = ready!(fetching.as_mut().poll(cx));
                    self.source = Source::Blob(blob);
                    break chunk.transpose();
                }
                Source::Log(log) => break ready!(log.as_mut().poll_next(cx)),
                Source::Ended => break None,
            }
        };
        if !matches!(outcome, Some(Ok(_))) {
            self.source = Source::Ended;
        }
        Poll::Ready(outcome)
    }
}

/// What stands before a message's data: gRPC's prefix, and the field's key and length.
pub(crate) fn message_head(data: &Bytes) -> Bytes {
    let mut head = [0; READ_RESPONSE_HEAD_BYTES_MAX];
    let length = read_response_head(data.len(), &mut head);
    Bytes::copy_from_slice(&head[..length])
}
