//! Logs that grow: one writer appends, any number of readers follow, until the log is finished.
//!
//! ```text
//! create -> open --append--> open ... --finish--> finished: a record in the store
//!             \--too many are open, and nobody wrote to it for the longest--> forgotten
//! ```
//! An open log lives in this process: its full pieces are blobs of the store, the piece being filled is in memory. Finishing stores
//! the rest and a record with the pieces as its closure, so that a finished log stays readable as one and survives
//! restarts; an open one does not survive them, and neither does the action that wrote it. Bounded: so many open logs, one piece
//! of memory each, and no log longer than one record can list.

mod reader;
mod record;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cask_engine::EngineError;
use cask_index::{Digest, DigestFunction, Hasher, Namespace};
use cask_proto::LogName;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

pub(crate) use self::reader::LogReader;
use self::reader::Source;
use self::record::{FinishedLog, PIECE_RECORD_BYTES, Piece};
use super::Cache;

/// What is kept in memory of an open log, and the size of its blobs.
const PIECE_BYTES: usize = 128 * 1024;

/// Where too many logs are open, the one that nobody wrote to for the longest gives way to a new one, if that is longer than this.
const IDLE_MIN: Duration = Duration::from_secs(600);

/// How often, in pieces, the pieces of an open log are asked for, which keeps them.
const PIECES_PER_TOUCH: usize = 16;

/// Records of logs are entries of the action cache under an instance that no request can name.
const RECORD_INSTANCE: &str = "blobs/logstreams";

/// The open logs.
#[derive(Debug, Default)]
pub(crate) struct OpenLogs {
    by_name: Mutex<HashMap<LogName, Arc<OpenLog>>>,
}

#[derive(Debug)]
struct OpenLog {
    secret: String,
    namespace: Namespace,
    /// Held while a piece is stored, so that appends come one after the other.
    turn: tokio::sync::Mutex<()>,
    content: Mutex<Content>,
    /// Sees a change whenever `content` does.
    grown: watch::Sender<()>,
}

#[derive(Debug)]
struct Content {
    pieces: Vec<Piece>,
    /// Behind the pieces; at most `PIECE_BYTES`.
    tail: BytesMut,
    is_finished: bool,
    /// It gave way to another: nobody can write to it any more.
    is_forgotten: bool,
    written: Instant,
}

impl Content {
    fn stored_bytes(&self) -> u64 {
        self.pieces.last().map_or(0, |piece| piece.end)
    }

    fn size_bytes(&self) -> u64 {
        self.stored_bytes() + self.tail.len() as u64
    }
}

/// The two names of a new log.
#[derive(Clone, Debug)]
pub(crate) struct CreatedLog {
    pub(crate) name: LogName,
    pub(crate) secret: String,
}

/// What went wrong with a log.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// Permanent.
    #[error("there is no such log")]
    Unknown,
    /// Permanent: what was written is not written again.
    #[error("write_offset is {offset}, the log stands at {size_bytes}; what is there is never changed")]
    Offset { offset: u64, size_bytes: u64 },
    /// Permanent.
    #[error("read_offset {offset} is beyond the end of a log of {size_bytes} bytes")]
    Beyond { offset: u64, size_bytes: u64 },
    /// Permanent.
    #[error("the log is finished")]
    Finished,
    /// Permanent.
    #[error("a log has at most {limit_bytes} bytes")]
    TooLong { limit_bytes: u64 },
    /// Others have to be finished first.
    #[error("{limit} logs are open, more are not allowed")]
    TooMany { limit: usize },
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Cache {
    /// Begins a log. `namespace` is that of the instance in the name.
    pub(crate) fn create_log(
        &self,
        parent: cask_proto::InstanceName,
        namespace: Namespace,
    ) -> Result<CreatedLog, LogError> {
        let (id, secret) = (token()?, token()?);
        let name = LogName { instance: parent, id };
        let log = OpenLog {
            secret: secret.clone(),
            namespace,
            turn: tokio::sync::Mutex::default(),
            content: Mutex::new(Content {
                pieces: Vec::new(),
                tail: BytesMut::new(),
                is_finished: false,
                is_forgotten: false,
                written: Instant::now(),
            }),
            grown: watch::Sender::new(()),
        };
        let limit = self.limits().open_logs_max;
        let mut open = self.shared.open_logs.by_name.lock();
        if open.len() >= limit {
            let idle =
                open.iter().map(|(name, log)| (log.content.lock().written, name)).min_by_key(|(written, _)| *written);
            let Some(name) = idle.filter(|(written, _)| written.elapsed() >= IDLE_MIN).map(|(_, name)| name.clone())
            else {
                return Err(LogError::TooMany { limit });
            };
            if let Some(log) = open.remove(&name) {
                log.content.lock().is_forgotten = true;
                log.grown.send_replace(());
            }
        }
        open.insert(name.clone(), Arc::new(log));
        Ok(CreatedLog { name, secret })
    }

    /// How many logs are open.
    pub(crate) fn open_log_count(&self) -> usize {
        self.shared.open_logs.by_name.lock().len()
    }

    /// Appends `data`, which belongs at `offset`. Cancel-safe: what was appended is known by the log's size.
    pub(crate) async fn append_log(
        &self,
        name: &LogName,
        secret: &str,
        offset: u64,
        mut data: &[u8],
    ) -> Result<(), LogError> {
        let log = self.open_for_writing(name, secret).await?;
        let _turn = log.turn.lock().await;
        {
            let content = log.content.lock();
            if content.is_finished {
                return Err(LogError::Finished);
            }
            if content.size_bytes() != offset {
                return Err(LogError::Offset { offset, size_bytes: content.size_bytes() });
            }
        }
        let limit_bytes = self.log_size_bytes_max();
        if offset.saturating_add(data.len() as u64) > limit_bytes {
            return Err(LogError::TooLong { limit_bytes });
        }
        while !data.is_empty() {
            if log.content.lock().tail.len() == PIECE_BYTES {
                self.store_tail(&log).await?;
            }
            let mut content = log.content.lock();
            let (piece, rest) = data.split_at(data.len().min(PIECE_BYTES - content.tail.len()));
            content.tail.extend_from_slice(piece);
            content.written = Instant::now();
            data = rest;
            drop(content);
            log.grown.send_replace(());
        }
        Ok(())
    }

    /// Ends the log; from now on it is read from the store alone. After an error it is open still, and finishing can be tried again.
    pub(crate) async fn finish_log(&self, name: &LogName, secret: &str) -> Result<u64, LogError> {
        let log = self.open_for_writing(name, secret).await?;
        let _turn = log.turn.lock().await;
        if log.content.lock().is_finished {
            return Err(LogError::Finished);
        }
        if !log.content.lock().tail.is_empty() {
            self.store_tail(&log).await?;
        }
        let pieces = log.content.lock().pieces.clone();
        let digests: Vec<Digest> = pieces.iter().map(|piece| piece.digest).collect();
        let mut absent = Vec::new();
        self.engine().find_missing(&digests, &mut absent)?;
        if let Some(position) = absent.first() {
            // Written so slowly that the store dropped its beginning.
            return Err(EngineError::DataLoss(digests[*position]).into());
        }
        let finished = FinishedLog { secret: log.secret.clone(), pieces };
        let (tell, told) = oneshot::channel();
        let done = Box::new(move |outcome| {
            // Nobody listens any more when the request was cancelled.
            let _ = tell.send(outcome);
        });
        self.engine().put_action(RECORD_INSTANCE, &key(name, log.namespace), &finished.encode(), &digests, done);
        told.await.unwrap_or(Err(EngineError::Closed))?;
        log.content.lock().is_finished = true;
        log.grown.send_replace(());
        self.shared.open_logs.by_name.lock().remove(name);
        Ok(finished.size_bytes())
    }

    /// Bytes written, and whether that is all.
    pub(crate) async fn log_status(
        &self,
        name: &LogName,
        namespace: Namespace,
        secret: &str,
    ) -> Result<(u64, bool), LogError> {
        if let Some(log) = self.open_log(name) {
            let log = check_secret(log, secret)?;
            let content = log.content.lock();
            return Ok((content.size_bytes(), content.is_finished));
        }
        let finished = self.finished_log(name, namespace).await?;
        if is_same(&finished.secret, secret) { Ok((finished.size_bytes(), true)) } else { Err(LogError::Unknown) }
    }

    /// Follows a log from `offset` on, at most `limit` bytes of it (`None`: until it is finished).
    pub(crate) async fn read_log(
        &self,
        name: &LogName,
        namespace: Namespace,
        offset: u64,
        limit: Option<u64>,
    ) -> Result<LogReader, LogError> {
        let source = if let Some(log) = self.open_log(name) {
            Source::Open { changes: log.grown.subscribe(), log }
        } else {
            let finished = self.finished_log(name, namespace).await?;
            let size_bytes = finished.size_bytes();
            if offset > size_bytes {
                return Err(LogError::Beyond { offset, size_bytes });
            }
            Source::Finished(finished.pieces)
        };
        let end = limit.map_or(u64::MAX, |limit| offset.saturating_add(limit));
        Ok(LogReader::new(self.clone(), source, offset, end))
    }

    fn open_log(&self, name: &LogName) -> Option<Arc<OpenLog>> {
        self.shared.open_logs.by_name.lock().get(name).cloned()
    }

    /// `Finished` for a log that is in the store already.
    async fn open_for_writing(&self, name: &LogName, secret: &str) -> Result<Arc<OpenLog>, LogError> {
        if let Some(log) = self.open_log(name) {
            return check_secret(log, secret);
        }
        let instance = self.instances().of_name(name.instance.clone()).map_err(|_| LogError::Unknown)?;
        let finished = self.finished_log(name, instance.namespace()).await?;
        Err(if is_same(&finished.secret, secret) { LogError::Finished } else { LogError::Unknown })
    }

    async fn finished_log(&self, name: &LogName, namespace: Namespace) -> Result<FinishedLog, LogError> {
        let (engine, key) = (self.engine().clone(), key(name, namespace));
        let value = super::blocking(move || engine.get_action(RECORD_INSTANCE, &key)).await;
        let value = value.map_err(|error| match error {
            EngineError::NotFound => LogError::Unknown,
            other => other.into(),
        })?;
        FinishedLog::decode(&value, &key).ok_or(LogError::Unknown)
    }

    /// Makes a blob of the tail. The caller has the turn.
    async fn store_tail(&self, log: &OpenLog) -> Result<(), LogError> {
        let data = Bytes::copy_from_slice(&log.content.lock().tail);
        let digest = Hasher::digest(DigestFunction::Sha256, &data).within(log.namespace);
        self.put(digest, data).await?;
        let mut content = log.content.lock();
        let end = content.size_bytes();
        content.pieces.push(Piece { digest, end });
        content.tail.clear();
        if content.pieces.len().is_multiple_of(PIECES_PER_TOUCH) {
            let digests: Vec<Digest> = content.pieces.iter().map(|piece| piece.digest).collect();
            drop(content);
            // What is missing shows when it is read or the log is finished.
            self.engine().find_missing(&digests, &mut Vec::new())?;
        }
        Ok(())
    }

    fn log_size_bytes_max(&self) -> u64 {
        let pieces_max = self.engine().action_value_size_bytes_max() / PIECE_RECORD_BYTES;
        // Less one for the piece that finishing may cut short.
        pieces_max.saturating_sub(1) as u64 * PIECE_BYTES as u64
    }
}

fn check_secret(log: Arc<OpenLog>, secret: &str) -> Result<Arc<OpenLog>, LogError> {
    // A wrong secret is told like a wrong name: whoever guesses learns nothing.
    if is_same(&log.secret, secret) { Ok(log) } else { Err(LogError::Unknown) }
}

/// Compares all of it whatever differs, so that the time it takes tells nothing.
fn is_same(secret: &str, given: &str) -> bool {
    secret.len() == given.len() && secret.bytes().zip(given.bytes()).fold(0, |seen, (a, b)| seen | (a ^ b)) == 0
}

/// What a log's record is stored under.
fn key(name: &LogName, namespace: Namespace) -> Digest {
    Hasher::digest(DigestFunction::Sha256, name.to_string().as_bytes()).with_size_bytes(0).within(namespace)
}

/// 128 random bits in hexadecimal.
fn token() -> Result<String, LogError> {
    let mut bytes = [0_u8; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
            .map_err(|error| EngineError::Storage(format!("no randomness: {error}")))?;
    }
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}
