//! Bodies both ways: a request's bytes with patience and bounds, a blob's chunks as a response.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tonic::body::Body;

use super::Refusal;
use crate::cache::BlobStream;

/// A request's body.
pub(super) struct IncomingBody<B> {
    body: B,
    idle_max: Duration,
    /// Nothing more can be read: it has ended, broken, or been slow.
    ended: bool,
}

impl<B> IncomingBody<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    /// A body that must not be silent for longer than `idle_max`.
    pub(super) fn new(body: B, idle_max: Duration) -> Self {
        Self { body, idle_max, ended: false }
    }

    /// The next bytes; `None` at the end. A body shorter than its Content-Length is an error, never an end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        while !self.ended {
            match tokio::time::timeout(self.idle_max, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    // The other kind of frame is trailers, which mean nothing here.
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
                Ok(None) => self.ended = true,
                Ok(Some(Err(error))) => {
                    self.ended = true;
                    return Err(Refusal::Broken(error.to_string()));
                }
                Err(_) => {
                    self.ended = true;
                    return Err(Refusal::Slow);
                }
            }
        }
        Ok(None)
    }

    /// The whole body; `None` when it is over the limit.
    pub(super) async fn collect(&mut self, limit_bytes: usize) -> Result<Option<Bytes>, Refusal> {
        let mut whole = BytesMut::new();
        while let Some(bytes) = self.next().await? {
            if whole.len() + bytes.len() > limit_bytes {
                return Ok(None);
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(Some(whole.freeze()))
    }

    /// Reads the rest away, or what passes the limit of it.
    pub(super) async fn drain(&mut self, limit_bytes: u64) {
        let mut drained_bytes = 0;
        while drained_bytes < limit_bytes {
            match self.next().await {
                Ok(Some(bytes)) => drained_bytes += bytes.len() as u64,
                Ok(None) | Err(_) => return,
            }
        }
    }
}

/// A blob as a response's body. An error on the way breaks the response off, so that a client sees fewer bytes than
/// announced and not a shorter blob.
pub(super) fn blob_body(blob: BlobStream) -> Body {
    let chunks = stream::unfold(Some(blob), |blob| async {
        let mut blob = blob?;
        match blob.next_chunk().await {
            Ok(Some(chunk)) => Some((Ok(Frame::data(chunk)), Some(blob))),
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(event = "http.read_broken", %error, "a blob could not be read to its end");
                Some((Err(error), None))
            }
        }
    });
    Body::new(StreamBody::new(chunks))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body_of(
        frames: Vec<Result<Frame<Bytes>, &'static str>>,
    ) -> IncomingBody<impl http_body::Body<Data = Bytes, Error = &'static str> + Unpin> {
        IncomingBody::new(StreamBody::new(stream::iter(frames)), Duration::from_secs(1))
    }

    #[tokio::test]
    async fn a_body_within_the_limit_is_collected_and_one_over_it_is_not() {
        let frames = || vec![Ok(Frame::data(Bytes::from("ab"))), Ok(Frame::data(Bytes::from("cd")))];
        assert_eq!(body_of(frames()).collect(4).await.expect("a body"), Some(Bytes::from("abcd")));
        assert_eq!(body_of(frames()).collect(3).await.expect("a body"), None);
    }

    #[tokio::test]
    async fn a_broken_body_is_an_error_once_and_then_an_end() {
        let mut body = body_of(vec![Ok(Frame::data(Bytes::from("ab"))), Err("reset")]);
        assert_eq!(body.next().await.expect("bytes"), Some(Bytes::from("ab")));
        assert!(matches!(body.next().await, Err(Refusal::Broken(_))));
        assert_eq!(body.next().await.expect("an end"), None);
        body.drain(u64::MAX).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_body_is_given_up() {
        let pending = StreamBody::new(stream::pending::<Result<Frame<Bytes>, &'static str>>());
        let mut body = IncomingBody::new(pending, Duration::from_secs(60));
        assert!(matches!(body.next().await, Err(Refusal::Slow)));
    }

    #[tokio::test]
    async fn draining_stops_at_its_limit() {
        let mut body = body_of((0..10).map(|_| Ok(Frame::data(Bytes::from("1234")))).collect());
        body.drain(20).await;
        assert_eq!(body.collect(100).await.expect("the rest").map(|rest| rest.len()), Some(20));
    }
}
