//! One blob through `ByteStream.Write`, resumed where the cache says it stands when the way breaks.

use std::{
    io::ErrorKind,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use cask_index::Digest;
use cask_proto::{
    WriteName,
    bytestream::{QueryWriteStatusRequest, WriteRequest, byte_stream_client::ByteStreamClient},
};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_stream::Stream;
use tonic::{Code, Status};

use super::{
    request_tag::TaggedChannel,
    retry::{Attempts, RetryPolicy, unary},
    source::BlobSource,
};
use crate::ClientError;

/// Data in one message: large enough that the frame around it costs nothing, small enough for any server.
const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// Uploads under one name. Ends early, with success, when the cache has the blob already.
pub(crate) async fn upload(
    client: &mut ByteStreamClient<TaggedChannel>,
    policy: RetryPolicy,
    name: &WriteName,
    source: &impl BlobSource,
) -> Result<(), ClientError> {
    let digest = name.digest;
    let what = || format!("upload of {digest}");
    let mut attempts = Attempts::new(policy);
    let (mut offset_bytes, mut furthest_bytes) = (0, 0);
    loop {
        let status = match write_from(client, name, source, offset_bytes).await? {
            Ok(committed_size) => match committed_size.cmp(&digest.size_bytes()) {
                std::cmp::Ordering::Equal => return Ok(()),
                std::cmp::Ordering::Greater => return Err(beyond_the_end(digest, committed_size)),
                std::cmp::Ordering::Less => {
                    Status::aborted(format!("the cache kept {committed_size} of {} bytes", digest.size_bytes()))
                }
            },
            Err(status) => status,
        };
        attempts.pause(&status, what).await?;
        let Some(committed_bytes) = committed(client, policy, name).await? else { return Ok(()) };
        // Only new ground is progress: a cache that loses what it had must not keep us here for ever.
        if committed_bytes > furthest_bytes {
            furthest_bytes = committed_bytes;
            attempts.progressed();
        }
        offset_bytes = committed_bytes;
    }
}

fn beyond_the_end(digest: Digest, committed_size: u64) -> ClientError {
    ClientError::Answer(format!("{committed_size} bytes committed of {digest}"))
}

/// Writes from an offset to the end. Outside: the source failed, or the answer is nonsense. Inside: what the cache
/// answered.
async fn write_from(
    client: &mut ByteStreamClient<TaggedChannel>,
    name: &WriteName,
    source: &impl BlobSource,
    offset_bytes: u64,
) -> Result<Result<u64, Status>, ClientError> {
    let digest = name.digest;
    let source_failed = |source| ClientError::Source { digest, source };
    let failure = Arc::new(Mutex::new(None));
    let requests = WriteRequests {
        reader: source.open_at(offset_bytes).await.map_err(source_failed)?,
        resource_name: name.to_string(),
        offset_bytes,
        size_bytes: digest.size_bytes(),
        buffer: Vec::new(),
        ended: false,
        failure: Arc::clone(&failure),
    };
    let answer = client.write(requests).await;
    // The cache's answer to half a stream says nothing; why it was half does.
    if let Some(error) = failure.lock().expect("held for one statement").take() {
        return Err(source_failed(error));
    }
    match answer {
        Ok(response) => {
            let committed_size = response.into_inner().committed_size;
            let committed_size = u64::try_from(committed_size)
                .map_err(|_| ClientError::Answer(format!("{committed_size} bytes committed of {digest}")))?;
            Ok(Ok(committed_size))
        }
        Err(status) => Ok(Err(status)),
    }
}

/// How much of an interrupted upload the cache holds; `None` when it holds the whole blob.
async fn committed(
    client: &ByteStreamClient<TaggedChannel>,
    policy: RetryPolicy,
    name: &WriteName,
) -> Result<Option<u64>, ClientError> {
    let digest = name.digest;
    let answer = unary(
        policy,
        || format!("upload of {digest}"),
        || {
            let mut client = client.clone();
            let request = QueryWriteStatusRequest { resource_name: name.to_string() };
            async move { client.query_write_status(request).await }
        },
    )
    .await;
    match answer {
        Ok(status) if status.complete => Ok(None),
        Ok(status) => match u64::try_from(status.committed_size) {
            Ok(committed_size) if committed_size <= digest.size_bytes() => Ok(Some(committed_size)),
            _ => Err(ClientError::Answer(format!("{} bytes committed of {digest}", status.committed_size))),
        },
        // Caches that do not resume: from the beginning.
        Err(ClientError::NotFound(_) | ClientError::Refused { code: Code::Unimplemented, .. }) => Ok(Some(0)),
        Err(error) => Err(error),
    }
}

/// The messages of one attempt, read as the transport asks for them.
struct WriteRequests<R> {
    reader: R,
    /// On the first message only; empty afterwards.
    resource_name: String,
    offset_bytes: u64,
    size_bytes: u64,
    /// Kept while a read is pending.
    buffer: Vec<u8>,
    ended: bool,
    /// Why the stream ended before the blob did.
    failure: Arc<Mutex<Option<std::io::Error>>>,
}

impl<R> WriteRequests<R> {
    fn fail(&mut self, error: std::io::Error) {
        self.ended = true;
        *self.failure.lock().expect("held for one statement") = Some(error);
    }
}

impl<R: AsyncRead + Unpin> Stream for WriteRequests<R> {
    type Item = WriteRequest;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WriteRequest>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let rest_bytes = this.size_bytes - this.offset_bytes;
        // With nothing left (an empty blob, or all but the end was acknowledged) the message only says that this is the
        // end.
        let data = if rest_bytes == 0 {
            Bytes::new()
        } else {
            this.buffer.resize(rest_bytes.min(CHUNK_BYTES_MAX as u64) as usize, 0);
            let mut filled = ReadBuf::new(&mut this.buffer);
            let count = match ready!(Pin::new(&mut this.reader).poll_read(context, &mut filled)) {
                Ok(()) => filled.filled().len(),
                Err(error) => {
                    this.fail(error);
                    return Poll::Ready(None);
                }
            };
            if count == 0 {
                let reason = format!("it ends after {} of {} bytes", this.offset_bytes, this.size_bytes);
                this.fail(std::io::Error::new(ErrorKind::UnexpectedEof, reason));
                return Poll::Ready(None);
            }
            this.buffer.truncate(count);
            Bytes::from(std::mem::take(&mut this.buffer))
        };
        let write_offset = i64::try_from(this.offset_bytes).expect("a blob's size fits in 63 bits");
        this.offset_bytes += data.len() as u64;
        this.ended = this.offset_bytes == this.size_bytes;
        let resource_name = std::mem::take(&mut this.resource_name);
        Poll::Ready(Some(WriteRequest { resource_name, write_offset, finish_write: this.ended, data }))
    }
}
