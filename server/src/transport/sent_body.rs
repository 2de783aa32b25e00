//! An answer's body on its way to the client, and the tasks that send it over HTTP/2.
//!
//! Over HTTP/2 a client grants window to each stream apart, so one that stops reading a stream while its connection lives is seen by
//! nobody below: what the answer holds (memory, pins on segments) would be held for ever. Each stream has a task of its own;
//! the body notes in it when it last handed something out, and a task whose client has not asked for more within
//! [`TAKE_WAIT_MAX`] ends, which resets its stream. Pieces are small, because the last one handed out is in the connection's hands and
//! out of reach.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue};
use http_body::{Body as _, Frame, SizeHint};
use hyper::rt::Executor;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tonic::body::Body;
use tonic::{Code, Status};

use super::dispatch::code_of;
use super::outbox::{Outbox, Turn};
use super::pieces::Pieces;
use super::request_body::Paid;
use crate::access::yielding::Holding;
use crate::cache::AnswerPermit;
use crate::hot::{ReadStream, message_head};
use crate::observe::requests::GrpcCall;

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
    source: Source,
    rest: Pieces,
    /// Of a gRPC call whose status is not known yet.
    call: Option<GrpcCall>,
    /// Among the streams of its connection; `None` where nothing is shared.
    turn: Option<Turn>,
    _held: Held,
}

/// What an answer holds until the client has taken it.
#[derive(Default)]
#[expect(dead_code, reason = "held, not read")]
pub(super) struct Held {
    pub(super) paid: Option<Paid>,
    pub(super) room: Option<AnswerPermit>,
    pub(super) holding: Option<Holding>,
}

enum Source {
    Body(Body),
    Read(Box<ReadStream>),
    /// gRPC's trailers, which say OK.
    Trailers,
    Ended,
}

impl SentBody {
    /// What a service or the HTTP side answers; `call` if it is a gRPC call.
    pub(super) fn of_body(body: Body, call: Option<GrpcCall>, held: Held) -> Self {
        Self { source: Source::Body(body), rest: Pieces::default(), call, turn: None, _held: held }
    }

    /// A call's one message, prefix included, and status OK.
    pub(super) fn of_message(message: Vec<Bytes>, call: GrpcCall, held: Held) -> Self {
        Self { source: Source::Trailers, rest: message.into(), call: Some(call), turn: None, _held: held }
    }

    /// A call's messages as they are read.
    pub(super) fn of_read(stream: Box<ReadStream>, call: GrpcCall, held: Held) -> Self {
        Self { source: Source::Read(stream), rest: Pieces::default(), call: Some(call), turn: None, _held: held }
    }

    /// The same over a connection whose streams share `outbox`.
    pub(super) fn through(self, outbox: Outbox) -> Self {
        Self { turn: Some(Turn::new(outbox)), ..self }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>, is_stream: bool) -> Poll<Option<Result<Frame<Pieces>, Status>>> {
        while !self.rest.has_remaining() {
            match &mut self.source {
                Source::Body(body) => match ready!(Pin::new(body).poll_frame(cx)) {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) if !is_stream => return Poll::Ready(Some(Ok(Frame::data(data.into())))),
                        Ok(data) => self.rest = data.into(),
                        Err(frame) => {
                            let Ok(trailers) = frame.into_trailers() else { continue };
                            self.note(code_of(&trailers));
                            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                        }
                    },
                    Some(Err(status)) => {
                        self.note(Some(status.code()));
                        return Poll::Ready(Some(Err(status)));
                    }
                    None => return Poll::Ready(None),
                },
                Source::Read(stream) => match ready!(stream.poll_data(cx)) {
                    Some(Ok(data)) => self.rest = [message_head(&data), data].into(),
                    Some(Err(answer)) => return Poll::Ready(Some(Ok(self.end(&answer.into())))),
                    None => self.source = Source::Trailers,
                },
                Source::Trailers => return Poll::Ready(Some(Ok(self.end(&Status::ok(""))))),
                Source::Ended => return Poll::Ready(None),
            }
        }
        let piece = self.rest.split_to(piece_bytes(self.rest.remaining()));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    /// The trailers of a call that ends with `status`.
    fn end(&mut self, status: &Status) -> Frame<Pieces> {
        self.source = Source::Ended;
        self.note(Some(status.code()));
        let mut trailers = HeaderMap::with_capacity(1);
        if status.add_header(&mut trailers).is_err() {
            // A message that no header can carry is left out; the code is what clients act on.
            trailers.insert(Status::GRPC_STATUS, HeaderValue::from(status.code() as i32));
        }
        Frame::trailers(trailers)
    }

    /// The call has ended with this code.
    fn note(&mut self, code: Option<Code>) {
        if let (Some(code), Some(call)) = (code, &mut self.call) {
            call.set_code(code);
        }
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
    type Data = Pieces;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Pieces>, Status>>> {
        // On HTTP/1 there is no task of ours: the connection has one stream, and what guards it guards this.
        let is_stream = HANDED_OUT.try_with(Cell::get).is_ok();
        if is_stream
            && let Some(turn) = &mut self.turn
            && turn.poll_room(cx).is_pending()
        {
            // A client that reads so little of its connection is waited for no longer than one that reads nothing of a stream.
            HANDED_OUT.with(|handed_out| handed_out.set(handed_out.get().or_else(|| Some(Instant::now()))));
            return Poll::Pending;
        }
        if is_stream {
            HANDED_OUT.with(|handed_out| handed_out.set(None));
        }
        let piece = ready!(self.poll_piece(cx, is_stream));
        if is_stream {
            if let (Some(Ok(frame)), Some(turn)) = (&piece, &self.turn) {
                turn.took(frame.data_ref().map_or(0, Buf::remaining));
            }
            HANDED_OUT.with(|handed_out| handed_out.set(Some(Instant::now())));
        }
        Poll::Ready(piece)
    }

    fn is_end_stream(&self) -> bool {
        !self.rest.has_remaining()
            && match &self.source {
                Source::Body(body) => body.is_end_stream(),
                Source::Ended => true,
                Source::Read(_) | Source::Trailers => false,
            }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Body(body) if !self.rest.has_remaining() => body.size_hint(),
            _ => SizeHint::default(),
        }
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
        tokio::spawn(HANDED_OUT.scope(Cell::new(None), UntilStalled { stream, overdue: None, since: None }));
    }
}

pin_project! {
    /// Runs `stream` to its end, or until its client leaves a piece unasked for too long.
    struct UntilStalled<F> {
        // In place: a stream's future is moved once, into its task.
        #[pin]
        stream: F,
        overdue: Option<Pin<Box<Sleep>>>,
        // The hand-out that `overdue` is set for.
        since: Option<Instant>,
    }
}

impl<F: Future> Future for UntilStalled<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.stream.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let Some(handed_out) = HANDED_OUT.with(Cell::get) else { return Poll::Pending };
        let deadline = handed_out + TAKE_WAIT_MAX;
        let overdue = this.overdue.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if *this.since != Some(handed_out) {
            *this.since = Some(handed_out);
            overdue.as_mut().reset(deadline);
        }
        ready!(overdue.as_mut().poll(cx));
        tracing::info!(event = "stream.stalled", "a client stopped reading an answer; its stream is reset");
        Poll::Ready(())
    }
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
        let body = SentBody::of_body(Body::new(http_body_util::Full::new(whole.clone())), None, Held::default());
        let collected = HANDED_OUT.scope(Cell::new(None), body.collect()).await.expect("a body");
        assert_eq!(collected.to_bytes(), whole);
    }

    async fn until_stalled(stream: impl Future) {
        UntilStalled { stream, overdue: None, since: None }.await;
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
                let held = Held { paid: Some(paid.clone()), ..Held::default() };
                let body = SentBody::of_body(whole, None, held);
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
