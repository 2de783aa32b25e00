//! The methods that builds call most, from a request's bytes to its answer's: FindMissingBlobs, the batches, `GetActionResult`,
//! and `ByteStream`'s Read and Write.
//!
//! Nothing here knows what carries the bytes: a request comes as the [`Frames`] of its body, an answer goes as [`Segments`],
//! slices of the store among them, and an error is an [`Answer`]. So what is below can be replaced, and nothing is copied
//! between the store and the writer to the socket. The rarer methods are ordinary services, in `service`.
//!
//! Called by the dispatcher.

mod action_result;
mod batch;
mod find_missing;
mod frames;
mod read;
mod write;

use bytes::Bytes;
use cask_proto::wire::{Segments, WireFault};
use tokio::sync::watch;

pub(crate) use self::frames::Frames;
use self::frames::Incoming;
pub(crate) use self::read::{ReadStream, message_head};
use crate::access::yielding::Holding;
use crate::cache::{AnswerPermit, Cache};
use crate::service::health::Readiness;
use crate::status::Answer;

/// What the handlers work on.
#[derive(Clone)]
pub(crate) struct Hot {
    cache: Cache,
    /// Readers of logs wait for more, but not for longer than the server lives.
    readiness: watch::Receiver<Readiness>,
}

/// A method that is answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    FindMissingBlobs,
    BatchUpdateBlobs,
    BatchReadBlobs,
    GetActionResult,
    Read,
    Write,
}

impl Method {
    /// The method at a path, if it is one of these.
    pub(crate) fn of_path(path: &str) -> Option<Self> {
        match path {
            "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs" => {
                Some(Self::FindMissingBlobs)
            }
            "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs" => {
                Some(Self::BatchUpdateBlobs)
            }
            "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs" => Some(Self::BatchReadBlobs),
            "/build.bazel.remote.execution.v2.ActionCache/GetActionResult" => Some(Self::GetActionResult),
            "/google.bytestream.ByteStream/Read" => Some(Self::Read),
            "/google.bytestream.ByteStream/Write" => Some(Self::Write),
            _ => None,
        }
    }
}

/// An answer with status OK, or the beginning of one.
pub(crate) enum Answered {
    /// One message.
    Message(Reply),
    /// Message after message.
    Stream(Box<ReadStream>),
}

/// One message, and what pays for it until the client has taken it.
pub(crate) struct Reply {
    pub(crate) message: Segments,
    pub(crate) paid: Option<Holding>,
    pub(crate) room: Option<AnswerPermit>,
}

impl Reply {
    fn new(message: Segments) -> Self {
        Self { message, paid: None, room: None }
    }
}

/// One message of a request; it stays paid for as long as this lives.
struct Request {
    message: Bytes,
    paid: Option<Holding>,
}

impl Hot {
    pub(crate) fn new(cache: Cache, readiness: watch::Receiver<Readiness>) -> Self {
        Self { cache, readiness }
    }

    /// Answers one call. `announced` is the resource name that its headers claim. Dropped, the call is cancelled.
    pub(crate) async fn answer<F: Frames>(
        &self,
        method: Method,
        announced: Option<&[u8]>,
        frames: F,
    ) -> Result<Answered, Answer> {
        let cache = &self.cache;
        let limits = cache.limits();
        let mut incoming = Incoming::new(frames, limits.upload_idle_max);
        if method == Method::Write {
            // Apart, because a call's future is moved into its task, and this one is many times longer than the others.
            let receiving = Box::pin(write::receive(cache, &self.readiness, announced, &mut incoming));
            return Ok(Answered::Message(Reply::new(cask_proto::wire::write_response(receiving.await?))));
        }
        let message_bytes_max = match method {
            Method::Read => limits.name_message_size_bytes_max,
            _ => limits.message_size_bytes_max,
        };
        let request = match incoming.only_message_at_hand(message_bytes_max)? {
            Some(message) => Request { message, paid: None },
            None => Box::pin(incoming.only_message(cache, message_bytes_max)).await?,
        };
        let message = &request.message;
        let mut reply = match method {
            Method::FindMissingBlobs => Reply::new(find_missing::answer(cache, message)?),
            Method::BatchUpdateBlobs => Reply::new(Box::pin(batch::update(cache, message)).await?),
            Method::BatchReadBlobs => Box::pin(batch::read(cache, message)).await?,
            Method::GetActionResult => match action_result::answer_at_once(cache, message)? {
                Some(reply) => reply,
                None => Box::pin(action_result::answer(cache, message)).await?,
            },
            Method::Read | Method::Write => {
                let stream = match ReadStream::open(cache, announced, message)? {
                    Some(stream) => stream,
                    None => Box::pin(ReadStream::follow(cache, &self.readiness, message)).await?,
                };
                return Ok(Answered::Stream(Box::new(stream)));
            }
        };
        reply.paid = request.paid;
        Ok(Answered::Message(reply))
    }
}

/// What is said about a message that is no message.
fn malformed(fault: WireFault) -> Answer {
    Answer::invalid(format!("the message cannot be decoded: {fault}"))
}
