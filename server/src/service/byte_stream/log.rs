//! `ByteStream` over log streams: appending by the write name, following by the read name.

use cask_proto::bytestream::{QueryWriteStatusResponse, ReadRequest, ReadResponse, WriteRequest};
use cask_proto::{LogName, LogResource};
use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::{Status, Streaming};

use super::write::Sequence;
use crate::access::instances::Instance;
use crate::cache::Cache;
use crate::service::health::Readiness;
use crate::status::{self, answer_of};

/// The log that a name is of; `None` when it is of a blob, or of nothing.
pub(super) fn resource(cache: &Cache, name: &str) -> Result<Option<(Instance, LogResource)>, Status> {
    let Some(parsed) = LogResource::parse(name) else { return Ok(None) };
    let resource = parsed.map_err(status::grpc)?;
    let (LogResource::Read(log) | LogResource::Write(log, _)) = &resource;
    let instance = cache.instances().of_name(log.instance.clone()).map_err(status::grpc)?;
    Ok(Some((instance, resource)))
}

/// Follows a log. The stream ends with the log, or with UNAVAILABLE when the server stops: a reader that waits would hold that
/// up, and finds the log again after the restart if it was finished.
pub(super) async fn read(
    cache: &Cache,
    readiness: watch::Receiver<Readiness>,
    (instance, resource): (Instance, LogResource),
    request: &ReadRequest,
) -> Result<impl Stream<Item = Result<ReadResponse, Status>> + Send + 'static, Status> {
    let LogResource::Read(name) = resource else {
        return Err(Status::invalid_argument("this is the name to write to; a log is read by its other name"));
    };
    let offset = u64::try_from(request.read_offset)
        .map_err(|_| Status::out_of_range(format!("read_offset {} is negative", request.read_offset)))?;
    let limit = u64::try_from(request.read_limit)
        .map_err(|_| Status::invalid_argument(format!("read_limit {} is negative", request.read_limit)))?;
    let limit = Some(limit).filter(|limit| *limit > 0);
    let reader = cache.read_log(&name, instance.namespace(), offset, limit).await.map_err(status::grpc)?;
    Ok(stream::try_unfold((reader, readiness), |(mut reader, mut readiness)| async move {
        let chunk = tokio::select! {
            chunk = reader.next_chunk() => chunk.map_err(status::grpc)?,
            _ = readiness.wait_for(|readiness| *readiness == Readiness::Draining) => {
                return Err(stopping());
            }
        };
        Ok(chunk.map(|data| (ReadResponse { data }, (reader, readiness))))
    }))
}

/// Receives one stream of appends; returns the log's size. A writer may be silent for as long as it has nothing to say, but not
/// for longer than the server lives.
pub(super) async fn write(
    cache: &Cache,
    mut readiness: watch::Receiver<Readiness>,
    resource: LogResource,
    first: WriteRequest,
    messages: &mut Streaming<WriteRequest>,
) -> Result<u64, Status> {
    let (name, secret) = writable(resource)?;
    let mut sequence = Sequence::begin(&first)?;
    let mut message = first;
    loop {
        let offset = sequence.accept(&message)?;
        cache.append_log(&name, &secret, offset, &message.data).await.map_err(status::grpc)?;
        if message.finish_write {
            return cache.finish_log(&name, &secret).await.map_err(status::grpc);
        }
        drop(message);
        let next = tokio::select! {
            next = messages.message() => next?,
            _ = readiness.wait_for(|readiness| *readiness == Readiness::Draining) => return Err(stopping()),
        };
        match next {
            Some(next) => message = next,
            None => return Ok(sequence.next_offset()),
        }
    }
}

pub(super) async fn write_status(
    cache: &Cache,
    (instance, resource): (Instance, LogResource),
) -> Result<QueryWriteStatusResponse, Status> {
    let (name, secret) = writable(resource)?;
    let status = cache.log_status(&name, instance.namespace(), &secret).await;
    let (size_bytes, complete) = status.map_err(answer_of)?;
    Ok(QueryWriteStatusResponse { committed_size: size_bytes as i64, complete })
}

fn stopping() -> Status {
    Status::unavailable("the server is stopping")
}

fn writable(resource: LogResource) -> Result<(LogName, String), Status> {
    match resource {
        LogResource::Write(name, secret) => Ok((name, secret)),
        LogResource::Read(_) => {
            Err(Status::invalid_argument("this is the name to read by; a log is written to by its other name"))
        }
    }
}
