//! `ByteStream` over log streams: appending by the write name, following by the read name.

use bytes::Bytes;
use cask_proto::bytestream::QueryWriteStatusResponse;
use cask_proto::{LogName, LogResource};
use futures_util::{Stream, stream};
use tokio::sync::watch;

use crate::access::instances::Instance;
use crate::cache::Cache;
use crate::service::health::Readiness;
use crate::status::{Answer, answer_of};

/// The log that a name is of; `None` when it is of a blob, or of nothing.
pub(crate) fn resource(cache: &Cache, name: &str) -> Result<Option<(Instance, LogResource)>, Answer> {
    let Some(parsed) = LogResource::parse(name) else { return Ok(None) };
    let resource = parsed.map_err(answer_of)?;
    let (LogResource::Read(log) | LogResource::Write(log, _)) = &resource;
    let instance = cache.instances().of_name(log.instance.clone()).map_err(answer_of)?;
    Ok(Some((instance, resource)))
}

/// Follows a log. The stream ends with the log, or with UNAVAILABLE when the server stops: a reader that waits would hold that
/// up, and finds the log again after the restart if it was finished.
pub(crate) async fn read(
    cache: &Cache,
    readiness: watch::Receiver<Readiness>,
    (instance, resource): (Instance, LogResource),
    read_offset: i64,
    read_limit: i64,
) -> Result<impl Stream<Item = Result<Bytes, Answer>> + Send + 'static, Answer> {
    let LogResource::Read(name) = resource else {
        return Err(Answer::invalid("this is the name to write to; a log is read by its other name"));
    };
    let offset = u64::try_from(read_offset)
        .map_err(|_| Answer::out_of_range(format!("read_offset {read_offset} is negative")))?;
    let limit =
        u64::try_from(read_limit).map_err(|_| Answer::invalid(format!("read_limit {read_limit} is negative")))?;
    let limit = Some(limit).filter(|limit| *limit > 0);
    let reader = cache.read_log(&name, instance.namespace(), offset, limit).await.map_err(answer_of)?;
    Ok(stream::try_unfold((reader, readiness), |(mut reader, mut readiness)| async move {
        let chunk = tokio::select! {
            chunk = reader.next_chunk() => chunk.map_err(answer_of)?,
            _ = readiness.wait_for(|readiness| *readiness == Readiness::Draining) => {
                return Err(stopping());
            }
        };
        Ok(chunk.map(|data| (data, (reader, readiness))))
    }))
}

/// How much of a log there is.
pub(crate) async fn write_status(
    cache: &Cache,
    (instance, resource): (Instance, LogResource),
) -> Result<QueryWriteStatusResponse, Answer> {
    let (name, secret) = writable(resource)?;
    let status = cache.log_status(&name, instance.namespace(), &secret).await;
    let (size_bytes, complete) = status.map_err(answer_of)?;
    Ok(QueryWriteStatusResponse { committed_size: size_bytes as i64, complete })
}

/// What who follows or writes a log is told when the server ends.
pub(crate) fn stopping() -> Answer {
    Answer::unavailable("the server is stopping")
}

/// The log that a name writes to.
pub(crate) fn writable(resource: LogResource) -> Result<(LogName, String), Answer> {
    match resource {
        LogResource::Write(name, secret) => Ok((name, secret)),
        LogResource::Read(_) => {
            Err(Answer::invalid("this is the name to read by; a log is written to by its other name"))
        }
    }
}
