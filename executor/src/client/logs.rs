//! [`LogReader`]: a log that grows while it is read, until whoever writes it says that it is finished.

use std::pin::Pin;

use bytes::Bytes;
use cask_proto::bytestream::{ReadRequest, ReadResponse};
use futures_util::future::BoxFuture;
use tokio::time::Sleep;
use tonic::{Response, Status, Streaming};

use super::{
    RemoteCache,
    retry::{Attempts, is_passing},
};
use crate::ClientError;

enum Link {
    Idle,
    Pausing(Pin<Box<Sleep>>),
    Opening(BoxFuture<'static, Result<Response<Streaming<ReadResponse>>, Status>>),
    Open(Box<Streaming<ReadResponse>>),
    Ended,
}

/// A log stream on its way down, resumed where it broke off. Nothing verifies its bytes: a log has no digest while it grows.
///
/// Cancellation: [`LogReader::next`] may be dropped at any point and called again without losing a byte.
pub struct LogReader {
    cache: RemoteCache,
    name: String,
    offset_bytes: u64,
    link: Link,
    attempts: Attempts,
}

impl std::fmt::Debug for LogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogReader")
            .field("name", &self.name)
            .field("offset_bytes", &self.offset_bytes)
            .finish_non_exhaustive()
    }
}

impl RemoteCache {
    /// Follows a log by the name for its readers, from its beginning.
    pub fn follow_log(&self, name: String) -> LogReader {
        LogReader { cache: self.clone(), name, offset_bytes: 0, link: Link::Idle, attempts: Attempts::new(self.retry) }
    }
}

impl LogReader {
    /// By which the log is read.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many bytes were given out.
    pub fn read_bytes(&self) -> u64 {
        self.offset_bytes
    }

    /// More of the log, never empty; `None` at its end. After an error it is at its end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let status = match &mut self.link {
                Link::Ended => return Ok(None),
                Link::Idle => {
                    self.link = Link::Opening(self.open());
                    continue;
                }
                Link::Pausing(sleep) => {
                    sleep.as_mut().await;
                    self.link = Link::Idle;
                    continue;
                }
                Link::Opening(opening) => match opening.await {
                    Ok(stream) => {
                        self.link = Link::Open(Box::new(stream.into_inner()));
                        continue;
                    }
                    Err(status) => status,
                },
                Link::Open(stream) => match stream.message().await {
                    Ok(Some(response)) if response.data.is_empty() => continue,
                    Ok(Some(response)) => {
                        self.offset_bytes += response.data.len() as u64;
                        self.attempts.progressed();
                        return Ok(Some(response.data));
                    }
                    Ok(None) => {
                        self.link = Link::Ended;
                        return Ok(None);
                    }
                    Err(status) => status,
                },
            };
            self.link = Link::Ended;
            if !is_passing(status.code()) {
                return Err(ClientError::of_status(&status, || format!("log {}", self.name)));
            }
            self.link = Link::Pausing(Box::pin(tokio::time::sleep(self.attempts.failed(&status)?)));
        }
    }

    fn open(&self) -> BoxFuture<'static, Result<Response<Streaming<ReadResponse>>, Status>> {
        let mut client = self.cache.byte_stream();
        let read_offset = i64::try_from(self.offset_bytes).expect("nobody reads 2^63 bytes");
        let request = ReadRequest { resource_name: self.name.clone(), read_offset, read_limit: 0 };
        Box::pin(async move { client.read(request).await })
    }
}
