//! One connection: HTTP/1.1 or HTTP/2, told apart by its first bytes, inside TLS or not, served until it ends or is drained.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use futures_util::TryFutureExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::coalesce::{Flushed, coalesce};
use super::dispatch::Dispatch;
use super::listen::Stream;
use super::outbox::Outbox;
use super::sent_body::StreamTasks;
use super::stall::StallGuard;
use super::tls::Tls;

/// A connection that has not made a request by then is closed: whoever opens connections without using them takes places
/// from those who build.
const FIRST_REQUEST_WAIT_MAX: Duration = Duration::from_secs(60);

/// The same while draining: long enough for a request that is on its way.
const DRAIN_FIRST_REQUEST_WAIT_MAX: Duration = Duration::from_secs(1);

/// How long an HTTP/1 client may take over a request's head, which includes how long it may keep an idle connection.
const HEADER_WAIT_MAX: Duration = Duration::from_secs(75);

/// How long a client may not read what it is sent.
const WRITE_STALL_WAIT_MAX: Duration = Duration::from_secs(120);

/// Half of it on its way keeps 50 MB/s going over 20 ms.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// What one connection can make us hold unread while its calls wait for a budget; over all connections no budget but their
/// number bounds it.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// A frame is read into memory of its own, which grows while it comes: frames of 1 MiB made what waits in the windows half as dear again.
const FRAME_BYTES_MAX: u32 = 256 << 10;
/// Generous: Bazel opens a stream a blob, at most a few hundred at once. Each may leave one small piece of its answer in the
/// connection's hands; what they send is bounded by the connection's window and the budgets.
const CONCURRENT_STREAMS_MAX: u32 = 1024;
const HEADER_LIST_BYTES_MAX: u32 = 64 << 10;
const SEND_BUFFER_BYTES_MAX: usize = 1 << 20;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// h2 counts, over a connection's whole life, frames that come for a stream it has reset, and ends the connection at the
/// limit (by default 1024). A write that is answered early because its blob is present is such a reset, and its client's
/// frames on the way are innocent, so a long build would reach the default. Still a bound: each costs the peer a frame.
const LATE_FRAMES_MAX: usize = 1 << 18;

/// Streams that a client may open and reset before we have looked at the first: a build that is interrupted cancels all its calls
/// at once, and the library's 20 would end the connection that others of its build may share.
const RESETS_UNSEEN_MAX: usize = CONCURRENT_STREAMS_MAX as usize;

/// How every connection is spoken with; made once.
#[derive(Clone)]
pub(super) struct Protocol {
    builder: Arc<Builder<StreamTasks>>,
    /// For TCP; what comes over a unix socket does not leave the machine.
    tls: Option<Tls>,
}

impl Protocol {
    pub(super) fn new(tls: Option<Tls>) -> Self {
        let mut builder = Builder::new(StreamTasks);
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_WAIT_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_concurrent_streams(CONCURRENT_STREAMS_MAX)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
            .max_local_error_reset_streams(LATE_FRAMES_MAX)
            .max_pending_accept_reset_streams(RESETS_UNSEEN_MAX)
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        Self { builder: Arc::new(builder), tls }
    }

    /// Serves a connection to its end. When `draining` is cancelled, what is being answered is answered, nothing new is
    /// taken (GOAWAY, or `Connection: close`), and the connection ends.
    pub(super) async fn serve(&self, stream: Stream, dispatch: Arc<Dispatch>, draining: CancellationToken) {
        match (stream, &self.tls) {
            // In a box, as below: an idle connection costs what its future takes at its largest.
            (Stream::Tcp(stream), Some(tls)) => Box::pin(self.serve_encrypted(stream, tls, dispatch, draining)).await,
            (Stream::Tcp(stream), None) => self.serve_stream(stream, dispatch, draining).await,
            (Stream::Unix(stream), _) => self.serve_stream(stream, dispatch, draining).await,
        }
    }

    async fn serve_encrypted(
        &self,
        stream: TcpStream,
        tls: &Tls,
        dispatch: Arc<Dispatch>,
        draining: CancellationToken,
    ) {
        let greeted = tokio::select! {
            greeted = tls.greet(stream) => greeted,
            () = draining.cancelled() => return,
        };
        match greeted {
            Ok(stream) => self.serve_stream(stream, dispatch, draining).await,
            Err(error) => {
                tracing::debug!(event = "connection.refused", %error, "a client did not agree to TLS");
            }
        }
    }

    async fn serve_stream<S>(&self, stream: S, dispatch: Arc<Dispatch>, draining: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let heard = Arc::new(AtomicBool::new(false));
        let outbox = Outbox::default();
        let service = service_fn({
            let (heard, outbox) = (Arc::clone(&heard), outbox.clone());
            move |request: http::Request<Incoming>| {
                heard.store(true, Relaxed);
                let outbox = outbox.clone();
                Arc::clone(&dispatch).answer(request).map_ok(|answer| answer.map(|body| body.through(outbox)))
            }
        });
        let (stream, flusher) = coalesce(StallGuard::new(stream, WRITE_STALL_WAIT_MAX), outbox);
        let mut connection = Flushed::new(self.builder.serve_connection(TokioIo::new(stream), service), flusher);

        let outcome = tokio::select! {
            outcome = &mut connection => outcome,
            () = draining.cancelled() => {
                connection.connection().graceful_shutdown();
                // Half a head, or a preface and no more: a client that has asked nothing yet is not waited for.
                let patience = Box::pin(silence(&heard, DRAIN_FIRST_REQUEST_WAIT_MAX));
                tokio::select! {
                    outcome = &mut connection => outcome,
                    () = patience => return,
                }
            }
            () = silence(&heard, FIRST_REQUEST_WAIT_MAX) => return,
        };
        if let Err(error) = outcome {
            // Clients vanish; this is their ordinary way to.
            tracing::debug!(event = "connection.ended", error = %error, "a connection broke off");
        }
    }
}

/// Ends when the first request is overdue; never once there was one.
async fn silence(heard: &AtomicBool, wait_max: Duration) {
    tokio::time::sleep(wait_max).await;
    if heard.load(Relaxed) {
        std::future::pending::<()>().await;
    }
}
