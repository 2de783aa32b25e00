//! A stream whose peer must go on reading: a write that waits for too long fails, which ends the connection.
//!
//! What is being sent pins memory and segments of the store, so a client that stops reading (a suspended process, a dead
//! network) must not hold them for ever. On HTTP/2 the keepalive finds such clients too; HTTP/1 has nothing else.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Bounds how long a write may make no progress. Reads are left alone: an idle connection is no fault.
pub(super) struct StallGuard<S> {
    stream: S,
    wait_max: Duration,
    /// Runs while a write waits; kept, because writes wait often.
    overdue: Option<Pin<Box<Sleep>>>,
    is_waiting: bool,
}

impl<S> StallGuard<S> {
    pub(super) fn new(stream: S, wait_max: Duration) -> Self {
        Self { stream, wait_max, overdue: None, is_waiting: false }
    }

    /// Passes on what a write came to, or fails it when it waits for longer than it may.
    fn guard<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.is_waiting = false;
            return outcome;
        }
        let wait_max = self.wait_max;
        let overdue = self.overdue.get_or_insert_with(|| Box::pin(tokio::time::sleep(wait_max)));
        if !self.is_waiting {
            self.is_waiting = true;
            overdue.as_mut().reset(Instant::now() + wait_max);
        }
        match overdue.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer stopped reading"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallGuard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.guard(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.guard(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.guard(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.guard(cx, outcome)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const WAIT_MAX: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_stops_reading_is_given_up() {
        let (near, far) = tokio::io::duplex(1024);
        let mut guarded = StallGuard::new(near, WAIT_MAX);
        guarded.write_all(&[0; 1024]).await.expect("it fits the buffer");
        let begun = Instant::now();
        let error = guarded.write_all(&[0; 1]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= WAIT_MAX);
        drop(far);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_slowly_is_waited_for_each_time_anew() {
        let (near, mut far) = tokio::io::duplex(1024);
        let mut guarded = StallGuard::new(near, WAIT_MAX);
        let reader = tokio::spawn(async move {
            let mut buffer = [0; 1024];
            for _ in 0..10 {
                tokio::time::sleep(WAIT_MAX / 2).await;
                far.read_exact(&mut buffer).await.expect("bytes");
            }
        });
        guarded.write_all(&[0; 10 * 1024]).await.expect("slow is not stalled");
        reader.await.expect("a reader");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_of_the_peer_is_no_stall() {
        let (near, mut far) = tokio::io::duplex(1024);
        let mut guarded = StallGuard::new(near, WAIT_MAX);
        let late = tokio::spawn(async move {
            tokio::time::sleep(WAIT_MAX * 10).await;
            far.write_all(b"x").await.expect("a listener");
            far
        });
        assert_eq!(guarded.read_u8().await.expect("a byte"), b'x');
        late.await.expect("a writer");
    }
}
