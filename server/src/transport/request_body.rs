//! A gRPC request's body on its way to the decoder: frames are followed, and a message's memory is paid for before it is received.
//!
//! The decoder behind it reserves a message's whole announced length with the fifth byte of its prefix. So that byte is
//! held back until the length is allowed for the method and paid from the budget of messages. What is paid stays paid until
//! the answer is sent, since the decoder keeps its buffer as long: a call pays for its longest message once. While a call waits for
//! the budget it holds none of it, so waiting calls cannot starve each other; a message that stops arriving, or crawls while
//! others wait, ends its call.
//!
//! Called by the dispatcher for every gRPC call. Bytes pass through unchanged, in slices of the frames they came in.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use cask_proto::wire::{FramingFault, MESSAGE_PREFIX_BYTES, message_length};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::futures::OwnedNotified;
use tonic::Status;

use crate::access::limits::{FREE_MESSAGE_BYTES_MAX, OverBudget};
use crate::access::silence::Silence;
use crate::access::yielding::Holding;
use crate::cache::Cache;
use crate::status::{self, Answer};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

type Waiting = Pin<Box<dyn Future<Output = Result<Holding, OverBudget>> + Send>>;

/// What a call has paid for its messages; given back when the last of body and answer is gone.
pub(super) type Paid = Arc<Mutex<Option<Holding>>>;

/// See the module's head.
pub(super) struct RequestBody<B> {
    body: B,
    cache: Cache,
    framing: Framing,
    paid: Paid,
    /// The longest message that `paid` covers.
    paid_bytes: usize,
    waiting: Option<Waiting>,
    /// Bytes received and not passed on: they begin where a message has to be paid for.
    rest: Bytes,
    asked: Option<Pin<Box<OwnedNotified>>>,
    silence: Silence,
    /// See `of_conversation`.
    is_conversation: bool,
    has_ended: bool,
}

impl<B> RequestBody<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// Messages longer than `message_size_bytes_max` are refused.
    pub(super) fn new(body: B, cache: Cache, message_size_bytes_max: usize, paid: Paid) -> Self {
        let silence = Silence::new(cache.limits().upload_idle_max);
        Self {
            body,
            cache,
            framing: Framing::new(message_size_bytes_max),
            paid,
            paid_bytes: FREE_MESSAGE_BYTES_MAX,
            waiting: None,
            rest: Bytes::new(),
            asked: None,
            silence,
            is_conversation: false,
            has_ended: false,
        }
    }

    /// The same for a call that goes on for long and says something now and then: what a message took is given back when the
    /// next is waited for, by when the handler has taken it. (For other calls a wait says nothing of that.)
    pub(super) fn of_conversation(self) -> Self {
        Self { is_conversation: true, ..self }
    }

    /// What can be passed on of `data`; keeps the rest where a message has to be paid for first.
    fn pass(&mut self, mut data: Bytes) -> Result<Bytes, Status> {
        let mut passed_bytes = 0;
        let begun_before = self.framing.message_count;
        loop {
            match self.framing.follow(&data[passed_bytes..], self.paid_bytes).map_err(status::grpc)? {
                Followed::All => {
                    if self.framing.message_count != begun_before
                        && let Some(holding) = &*self.paid.lock()
                    {
                        holding.begin_piece();
                    }
                    return Ok(data);
                }
                Followed::Unpaid { at, bytes } => {
                    passed_bytes += at;
                    // What was paid for a shorter one goes back first: nobody holds while it waits.
                    self.asked = None;
                    drop(self.paid.lock().take());
                    self.paid_bytes = FREE_MESSAGE_BYTES_MAX;
                    if let Some(holding) = self.cache.budgets().messages(bytes).try_take(bytes) {
                        self.pay(holding, bytes);
                    } else {
                        let cache = self.cache.clone();
                        self.waiting = Some(Box::pin(async move { cache.budgets().messages(bytes).take(bytes).await }));
                        self.framing.owed_bytes = bytes;
                        self.rest = data.split_off(passed_bytes);
                        return Ok(data);
                    }
                }
            }
        }
    }

    fn pay(&mut self, holding: Holding, bytes: usize) {
        self.asked = Some(Box::pin(holding.asked()));
        *self.paid.lock() = Some(holding);
        self.paid_bytes = bytes;
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                match std::task::ready!(waiting.as_mut().poll(cx)) {
                    Ok(holding) => {
                        let bytes = self.framing.owed_bytes;
                        self.waiting = None;
                        self.pay(holding, bytes);
                    }
                    Err(over) => return Poll::Ready(Some(Err(busy(over.to_string()).into()))),
                }
            }
            if !self.rest.is_empty() {
                let rest = std::mem::take(&mut self.rest);
                match self.pass(rest) {
                    Ok(bytes) if bytes.is_empty() => continue,
                    Ok(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                    Err(status) => return Poll::Ready(Some(Err(status.into()))),
                }
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.silence.end();
                    match frame.into_data() {
                        Ok(data) => self.rest = data,
                        Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
                Poll::Ready(None) => {
                    return Poll::Ready(self.framing.finish().err().map(|fault| Err(status::grpc(fault).into())));
                }
                Poll::Pending if self.is_conversation && self.framing.is_between_messages() => {
                    self.asked = None;
                    drop(self.paid.lock().take());
                    self.paid_bytes = FREE_MESSAGE_BYTES_MAX;
                    return Poll::Pending;
                }
                Poll::Pending => return self.poll_patience(cx).map(|status| Some(Err(status.into()))),
            }
        }
    }

    /// Ready when the client may not be waited for any longer.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if let Some(asked) = &mut self.asked
            && asked.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(busy("the server is short of memory for messages and this one came too slowly"));
        }
        // Between the messages of a stream its handler decides how long to wait.
        if self.framing.is_between_messages() {
            return Poll::Pending;
        }
        self.silence.poll(cx).map(|()| Status::deadline_exceeded("the message did not arrive in time"))
    }
}

fn busy(what: impl Into<String>) -> Status {
    Answer { retry_after: Some(Duration::from_secs(1)), ..Answer::exhausted(what) }.into()
}

impl<B> http_body::Body for RequestBody<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let outcome = self.poll_bytes(cx);
        self.has_ended = matches!(outcome, Poll::Ready(None | Some(Err(_))));
        outcome
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// gRPC's frames: a flag, four bytes of length, the message.
struct Framing {
    message_size_bytes_max: usize,
    place: Place,
    message_count: u64,
    /// Of the message that is waited for.
    owed_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Prefix { bytes: [u8; MESSAGE_PREFIX_BYTES], have: usize },
    Message { left_bytes: usize },
}

const START: Place = Place::Prefix { bytes: [0; MESSAGE_PREFIX_BYTES], have: 0 };

#[derive(Debug, PartialEq, Eq)]
enum Followed {
    All,
    /// With the byte at `at` begins a message of `bytes` that is not paid for; that byte is not followed yet.
    Unpaid {
        at: usize,
        bytes: usize,
    },
}

impl Framing {
    fn new(message_size_bytes_max: usize) -> Self {
        Self { message_size_bytes_max, place: START, message_count: 0, owed_bytes: 0 }
    }

    /// Follows `data` up to the end, or to the byte with which a message of more than `paid_bytes` would begin.
    fn follow(&mut self, data: &[u8], paid_bytes: usize) -> Result<Followed, FramingFault> {
        let mut at = 0;
        while at < data.len() {
            match &mut self.place {
                Place::Prefix { bytes, have } => {
                    bytes[*have] = data[at];
                    if *have + 1 < MESSAGE_PREFIX_BYTES {
                        *have += 1;
                        at += 1;
                        continue;
                    }
                    let length = message_length(*bytes, self.message_size_bytes_max)?;
                    if length > paid_bytes {
                        return Ok(Followed::Unpaid { at, bytes: length });
                    }
                    at += 1;
                    self.message_count += 1;
                    self.place = if length == 0 { START } else { Place::Message { left_bytes: length } };
                }
                Place::Message { left_bytes } => {
                    let step = (*left_bytes).min(data.len() - at);
                    at += step;
                    *left_bytes -= step;
                    if *left_bytes == 0 {
                        self.place = START;
                    }
                }
            }
        }
        Ok(Followed::All)
    }

    /// True behind a whole message; false before the first.
    fn is_between_messages(&self) -> bool {
        self.place == START && self.message_count > 0
    }

    fn finish(&self) -> Result<(), FramingFault> {
        if matches!(self.place, Place::Prefix { have: 0, .. }) { Ok(()) } else { Err(FramingFault::CutShort) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1000;

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend_from_slice(&(length as u32).to_be_bytes());
        bytes.resize(MESSAGE_PREFIX_BYTES + length, 7);
        bytes
    }

    #[test]
    fn frames_are_followed_however_they_are_cut() {
        let body: Vec<u8> = [0, 1, 300, 0, LIMIT].map(message).concat();
        for step in [1, 2, 3, 4, 5, 6, 7, 100, body.len()] {
            let mut framing = Framing::new(LIMIT);
            for data in body.chunks(step) {
                assert_eq!(framing.follow(data, LIMIT), Ok(Followed::All), "in steps of {step}");
            }
            assert_eq!((framing.message_count, framing.finish()), (5, Ok(())), "in steps of {step}");
        }
        for cut in 1..message(20).len() {
            let mut framing = Framing::new(LIMIT);
            assert_eq!(framing.follow(&message(20)[..cut], LIMIT), Ok(Followed::All));
            assert_eq!(framing.finish(), Err(FramingFault::CutShort), "cut at {cut}");
        }
    }

    #[test]
    fn a_message_is_stopped_at_its_fifth_byte_until_it_is_paid() {
        let body = [message(10), message(200)].concat();
        for cut in 0..body.len() {
            let mut framing = Framing::new(LIMIT);
            let (head, tail) = body.split_at(cut);
            let stop = MESSAGE_PREFIX_BYTES + 10 + MESSAGE_PREFIX_BYTES - 1;
            let first = framing.follow(head, 100);
            let at = if cut > stop {
                assert_eq!(first, Ok(Followed::Unpaid { at: stop, bytes: 200 }));
                stop
            } else {
                assert_eq!(first, Ok(Followed::All));
                assert_eq!(framing.follow(tail, 100), Ok(Followed::Unpaid { at: stop - cut, bytes: 200 }));
                stop
            };
            assert_eq!(framing.follow(&body[at..], 200), Ok(Followed::All));
            assert_eq!((framing.message_count, framing.finish()), (2, Ok(())));
        }
    }

    #[test]
    fn what_is_no_message_is_named() {
        let too_long = FramingFault::TooLong { bytes: LIMIT + 1, limit_bytes: LIMIT };
        let mut flagged = message(3);
        flagged[0] = 7;
        let mut compressed = message(3);
        compressed[0] = 1;
        for (body, fault) in
            [(message(LIMIT + 1), too_long), (flagged, FramingFault::Flag(7)), (compressed, FramingFault::Compressed)]
        {
            assert_eq!(Framing::new(LIMIT).follow(&body, LIMIT), Err(fault));
        }
    }
}
