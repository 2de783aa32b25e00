//! An answer's body on its way to the client, and the tasks that send it over HTTP/2.
//!
//! Over HTTP/2 a client grants window to each stream apart, so one that stops reading a stream while its connection lives is seen by
//! nobody below: what the answer holds (memory, pins on segments) would be held for ever. Each stream has a task of its own;
//! the body notes in it when it last handed something out, and a task whose client has not asked for more within
//! [`TAKE_WAIT_MAX`] ends, which resets its stream. Pieces are small, because the last one handed out is in the connection's hands and
//! out of reach.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;

use super::request_body::Paid;
use crate::cache::AnswerPermit;

/// How long a client may leave a piece of an answer unasked for.
pub(super) const TAKE_WAIT_MAX: Duration = Duration::from_secs(120);

/// What is handed to a stream at once.
const PIECE_BYTES_MAX: usize = 64 * 1024;
/// The end of a longer frame: as little as one frame of HTTP/2 is left in the connection's hands.
const LAST_PIECE_BYTES_MAX: usize = 16 * 1024;

tokio::task_local! {
    /// When the stream of this task handed out what its client has not asked past yet.
    static HANDED_OUT: Cell<Option<Instant>>;
}

/// An answer's body, and what has to live as long as it.
pub(super) struct SentBody {
    body: Body,
    rest: Bytes,
    _paid: Option<Paid>,
    _room: Option<AnswerPermit>,
}

impl SentBody {
    pub(super) fn new(body: Body, paid: Option<Paid>, room: Option<AnswerPermit>) -> Self {
        Self { body, rest: Bytes::new(), _paid: paid, _room: room }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>, is_stream: bool) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) if is_stream => frame,
                other => return Poll::Ready(other),
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let piece = self.rest.split_to(piece_bytes(self.rest.len()));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

/// How much of `left_bytes` goes next.
fn piece_bytes(left_bytes: usize) -> usize {
    if left_bytes <= LAST_PIECE_BYTES_MAX {
        left_bytes
    } else {
        (left_bytes - LAST_PIECE_BYTES_MAX).min(PIECE_BYTES_MAX)
    }
}

impl http_body::Body for SentBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // On HTTP/1 there is no task of ours: the connection has one stream, and what guards it guards this.
        let is_stream = HANDED_OUT.try_with(|handed_out| handed_out.set(None)).is_ok();
        let piece = ready!(self.poll_piece(cx, is_stream));
        if is_stream {
            HANDED_OUT.with(|handed_out| handed_out.set(Some(Instant::now())));
        }
        Poll::Ready(piece)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.rest.is_empty() { self.body.size_hint() } else { SizeHint::default() }
    }
}

/// Spawns the tasks of HTTP/2 streams.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamTasks;

impl<F> Executor<F> for StreamTasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        tokio::spawn(HANDED_OUT.scope(Cell::new(None), until_stalled(stream)));
    }
}

/// Runs `stream` to its end, or until its client leaves a piece unasked for too long.
async fn until_stalled(stream: impl Future) {
    let mut stream = pin!(stream);
    let mut overdue: Option<Pin<Box<Sleep>>> = None;
    let mut since = None;
    poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let Some(handed_out) = HANDED_OUT.with(Cell::get) else { return Poll::Pending };
        let deadline = handed_out + TAKE_WAIT_MAX;
        let overdue = overdue.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if since != Some(handed_out) {
            since = Some(handed_out);
            overdue.as_mut().reset(deadline);
        }
        ready!(overdue.as_mut().poll(cx));
        tracing::info!(event = "stream.stalled", "a client stopped reading an answer; its stream is reset");
        Poll::Ready(())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[test]
    fn pieces_are_small_and_the_last_one_smaller() {
        for (whole, pieces) in [
            (0, vec![]),
            (1, vec![1]),
            (16 << 10, vec![16 << 10]),
            ((16 << 10) + 1, vec![1, 16 << 10]),
            (80 << 10, vec![64 << 10, 16 << 10]),
            (200 << 10, vec![64 << 10, 64 << 10, 56 << 10, 16 << 10]),
        ] {
            let (mut left, mut found) = (whole, Vec::new());
            while left > 0 {
                found.push(piece_bytes(left));
                left -= piece_bytes(left);
            }
            assert_eq!(found, pieces, "{whole}");
        }
    }

    #[tokio::test]
    async fn an_answer_in_pieces_is_the_answer() {
        let whole = Bytes::from((0..1_000_000_u32).map(|number| number as u8).collect::<Vec<_>>());
        let body = SentBody::new(Body::new(http_body_util::Full::new(whole.clone())), None, None);
        let collected = HANDED_OUT.scope(Cell::new(None), body.collect()).await.expect("a body");
        assert_eq!(collected.to_bytes(), whole);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_whose_client_asks_for_no_more_is_ended_and_one_that_waits_for_us_is_not() {
        let begun = Instant::now();
        let stalled = async {
            HANDED_OUT.with(|handed_out| handed_out.set(Some(Instant::now())));
            std::future::pending::<()>().await;
        };
        HANDED_OUT.scope(Cell::new(None), until_stalled(stalled)).await;
        assert!(begun.elapsed() >= TAKE_WAIT_MAX);

        let slow_server = tokio::time::sleep(TAKE_WAIT_MAX * 10);
        HANDED_OUT.scope(Cell::new(None), until_stalled(slow_server)).await;
        let slow_client = async {
            for _ in 0..10 {
                HANDED_OUT.with(|handed_out| handed_out.set(Some(Instant::now())));
                tokio::time::sleep(TAKE_WAIT_MAX / 2).await;
            }
        };
        let begun = Instant::now();
        HANDED_OUT.scope(Cell::new(None), until_stalled(slow_client)).await;
        assert!(begun.elapsed() >= TAKE_WAIT_MAX * 5, "it was let through to its end");
    }

    /// A client that never grants more window than its first few bytes, on a connection that lives.
    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_not_read_is_reset_and_gives_back_what_it_held() {
        let (near, far) = tokio::io::duplex(1 << 20);
        let paid = Paid::default();
        let service = hyper::service::service_fn({
            let paid = paid.clone();
            move |_: http::Request<hyper::body::Incoming>| {
                let whole = Body::new(http_body_util::Full::new(Bytes::from(vec![7; 4 << 20])));
                let body = SentBody::new(whole, Some(paid.clone()), None);
                std::future::ready(Ok::<_, std::convert::Infallible>(http::Response::new(body)))
            }
        });
        let server = hyper::server::conn::http2::Builder::new(StreamTasks)
            .serve_connection(hyper_util::rt::TokioIo::new(near), service.clone());
        let server = tokio::spawn(server);
        let (mut sender, connection) = hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
            .initial_stream_window_size(1000)
            .handshake(hyper_util::rt::TokioIo::new(far))
            .await
            .expect("a connection");
        tokio::spawn(connection);
        // Held by the test and by the service.
        let held_by_none = std::sync::Arc::strong_count(&paid);
        let ask = || http::Request::get("http://cask/").body(http_body_util::Empty::<Bytes>::new()).expect("a request");
        let begun = Instant::now();
        let mut unread = sender.send_request(ask()).await.expect("an answer");
        assert!(std::sync::Arc::strong_count(&paid) > held_by_none);
        while std::sync::Arc::strong_count(&paid) > held_by_none {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(begun.elapsed() >= TAKE_WAIT_MAX && begun.elapsed() < TAKE_WAIT_MAX * 2, "{:?}", begun.elapsed());
        let rest = unread.body_mut().collect().await;
        assert!(rest.is_err(), "its client is told");
        // The connection lives, and a stream that is read is served.
        let read = sender.send_request(ask()).await.expect("an answer").into_body().collect().await;
        assert_eq!(read.expect("a body").to_bytes().len(), 4 << 20);
        server.abort();
    }
}
