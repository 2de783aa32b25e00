//! gRPC's frames on their way in: a prefix of five bytes, a message, the next prefix. Messages that lie within one piece of the
//! body are slices of it.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use cask_proto::wire::{FramingFault, MESSAGE_PREFIX_BYTES, message_length};

use super::Request;
use crate::access::limits::FREE_MESSAGE_BYTES_MAX;
use crate::access::silence::Silence;
use crate::access::yielding::Holding;
use crate::cache::Cache;
use crate::status::{Answer, answer_of};

/// The body of a request.
pub(crate) trait Frames: Send {
    /// The next piece, of any length; `None` at the end. An error ends it too: the client is gone.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Answer>>>;

    /// Whether it is known already that nothing follows.
    fn is_at_end(&self) -> bool;
}

/// A body that is read as gRPC messages.
pub(super) struct Incoming<F> {
    frames: F,
    /// Received and not taken yet.
    rest: Bytes,
    /// `None`: the client may be silent for ever.
    silence: Option<Silence>,
}

impl<F: Frames> Incoming<F> {
    /// A client may be silent for `idle_max`.
    pub(super) fn new(frames: F, idle_max: Duration) -> Self {
        Self { frames, rest: Bytes::new(), silence: Some(Silence::new(idle_max)) }
    }

    /// From now on the client may be silent for as long as it likes.
    pub(super) fn be_patient(&mut self) {
        self.silence = None;
    }

    /// Waits until something is in `rest`; false at the end of the body.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Answer>> {
        while self.rest.is_empty() {
            match self.frames.poll_next(cx) {
                Poll::Ready(Some(Ok(bytes))) => {
                    if let Some(silence) = &mut self.silence {
                        silence.end();
                    }
                    self.rest = bytes;
                }
                Poll::Ready(Some(Err(answer))) => return Poll::Ready(Err(answer)),
                Poll::Ready(None) => return Poll::Ready(Ok(false)),
                Poll::Pending => {
                    let Some(silence) = &mut self.silence else { return Poll::Pending };
                    ready!(silence.poll(cx));
                    return Poll::Ready(Err(too_late(silence.wait_max())));
                }
            }
        }
        Poll::Ready(Ok(true))
    }

    /// The beginning of what follows, at most `bytes_max`, and something unless that is 0. Cancel safe.
    pub(super) async fn peek(&mut self, bytes_max: usize) -> Result<&[u8], Answer> {
        if bytes_max > 0 && !poll_fn(|cx| self.poll_rest(cx)).await? {
            return Err(cut_short());
        }
        Ok(&self.rest[..self.rest.len().min(bytes_max)])
    }

    /// Passes over bytes that were peeked at.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.rest.advance(bytes);
    }

    /// The next bytes of a message, at most `bytes_max`. Cancel safe.
    pub(super) async fn bytes(&mut self, bytes_max: usize) -> Result<Bytes, Answer> {
        if !poll_fn(|cx| self.poll_rest(cx)).await? {
            return Err(cut_short());
        }
        Ok(self.rest.split_to(self.rest.len().min(bytes_max)))
    }

    /// So many bytes of a message, if they have come in one piece.
    pub(super) fn bytes_at_hand(&mut self, bytes: usize) -> Option<Bytes> {
        (self.rest.len() >= bytes).then(|| self.rest.split_to(bytes))
    }

    /// The length of the next message; `None` when there is none. Cancel safe only before its first byte: what is dropped
    /// within a prefix is a body that cannot be read on.
    pub(super) async fn message_bytes(&mut self, bytes_max: usize) -> Result<Option<usize>, Answer> {
        if !poll_fn(|cx| self.poll_rest(cx)).await? {
            return Ok(None);
        }
        let mut prefix = [0; MESSAGE_PREFIX_BYTES];
        if self.rest.len() >= MESSAGE_PREFIX_BYTES {
            self.rest.copy_to_slice(&mut prefix);
        } else {
            let mut have = 0;
            while have < MESSAGE_PREFIX_BYTES {
                let piece = self.bytes(MESSAGE_PREFIX_BYTES - have).await?;
                prefix[have..have + piece.len()].copy_from_slice(&piece);
                have += piece.len();
            }
        }
        let length = message_length(prefix, bytes_max).map_err(answer_of)?;
        Ok(Some(length))
    }

    /// The whole message of a body that has one, if it has come already and is small; else nothing is taken.
    pub(super) fn only_message_at_hand(&mut self, bytes_max: usize) -> Result<Option<Bytes>, Answer> {
        if self.rest.is_empty() {
            let mut cx = Context::from_waker(Waker::noop());
            // Whoever asks for more has its own waker registered then.
            match self.frames.poll_next(&mut cx) {
                Poll::Ready(Some(bytes)) => self.rest = bytes?,
                Poll::Ready(None) | Poll::Pending => return Ok(None),
            }
        }
        let [0, length @ ..] = *self.rest.first_chunk::<MESSAGE_PREFIX_BYTES>().unwrap_or(&[1; MESSAGE_PREFIX_BYTES])
        else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(length) as usize;
        let is_all = self.rest.len() == MESSAGE_PREFIX_BYTES + length && self.frames.is_at_end();
        if !is_all || length > FREE_MESSAGE_BYTES_MAX.min(bytes_max) {
            return Ok(None);
        }
        let mut message = std::mem::take(&mut self.rest);
        message.advance(MESSAGE_PREFIX_BYTES);
        Ok(Some(message))
    }

    /// The whole message of a body that has one, paid for if it is not small.
    pub(super) async fn only_message(&mut self, cache: &Cache, bytes_max: usize) -> Result<Request, Answer> {
        let length = self.message_bytes(bytes_max).await?;
        let length = length.ok_or_else(|| Answer::invalid("the request has no message"))?;
        let request = self.collect(cache, length, &[]).await?;
        if !self.rest.is_empty() || !self.frames.is_at_end() && poll_fn(|cx| self.poll_rest(cx)).await? {
            return Err(Answer::invalid("the request has more than one message"));
        }
        Ok(request)
    }

    /// The message of this length that begins with `begun` and goes on here.
    pub(super) async fn collect(&mut self, cache: &Cache, length: usize, begun: &[u8]) -> Result<Request, Answer> {
        let paid = if length > FREE_MESSAGE_BYTES_MAX {
            Some(cache.message_room(length).await.map_err(answer_of)?)
        } else {
            None
        };
        if begun.is_empty() && self.rest.len() >= length {
            return Ok(Request { message: self.rest.split_to(length), paid });
        }
        let mut message = Vec::with_capacity(length);
        message.extend_from_slice(begun);
        while message.len() < length {
            let piece = match &paid {
                None => self.bytes(length - message.len()).await?,
                Some(holding) => self.bytes_or_give_way(holding, length - message.len()).await?,
            };
            message.extend_from_slice(&piece);
        }
        Ok(Request { message: message.into(), paid })
    }

    async fn bytes_or_give_way(&mut self, holding: &Holding, bytes_max: usize) -> Result<Bytes, Answer> {
        tokio::select! {
            biased;
            bytes = self.bytes(bytes_max) => bytes,
            () = holding.asked() => Err(Answer {
                retry_after: Some(Duration::from_secs(1)),
                ..Answer::exhausted("the server is short of memory for messages and this one came too slowly")
            }),
        }
    }
}

fn cut_short() -> Answer {
    answer_of(FramingFault::CutShort)
}

fn too_late(wait_max: Duration) -> Answer {
    Answer::too_late(format!("nothing came for {} s", wait_max.as_secs()))
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A body whose pieces are all there.
    pub(in crate::hot) struct Pieces(pub(in crate::hot) VecDeque<Bytes>);

    impl Frames for Pieces {
        fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Answer>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }

        fn is_at_end(&self) -> bool {
            self.0.is_empty()
        }
    }

    fn incoming(body: &[u8], piece_bytes: usize) -> Incoming<Pieces> {
        let pieces = body.chunks(piece_bytes).map(Bytes::copy_from_slice).collect();
        Incoming::new(Pieces(pieces), Duration::from_secs(60))
    }

    #[tokio::test]
    async fn messages_are_found_however_the_body_is_cut() {
        let body = [&[0, 0, 0, 0, 3][..], b"abc", &[0, 0, 0, 0, 0], &[0, 0, 0, 0, 1], b"d"].concat();
        for piece_bytes in 1..=body.len() {
            let mut incoming = incoming(&body, piece_bytes);
            let mut messages = Vec::new();
            while let Some(length) = incoming.message_bytes(3).await.expect("a prefix") {
                let mut message = Vec::new();
                while message.len() < length {
                    message.extend_from_slice(&incoming.bytes(length - message.len()).await.expect("bytes"));
                }
                messages.push(message);
            }
            assert_eq!(messages, [&b"abc"[..], b"", b"d"], "pieces of {piece_bytes}");
        }
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused() {
        for (body, said) in [
            (&[2, 0, 0, 0, 0][..], "2 is no flag"),
            (&[1, 0, 0, 0, 0], "compressed"),
            (&[0, 0, 0, 0, 4], "over this method's limit"),
            (&[0, 0], "ends within a message"),
        ] {
            let refusal = incoming(body, 1).message_bytes(3).await.expect_err(said);
            assert!(refusal.message.contains(said), "{}", refusal.message);
        }
        let mut cut = incoming(&[0, 0, 0, 0, 3, b'a'], 6);
        assert_eq!(cut.message_bytes(3).await.expect("a prefix"), Some(3));
        assert_eq!(cut.bytes(3).await.expect("what came"), "a");
        assert!(cut.bytes(2).await.is_err());
    }
}
