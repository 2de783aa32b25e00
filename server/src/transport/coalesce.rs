//! Fewer, larger writes: what a connection sends while it is polled once goes out in one system call.
//!
//! HTTP/2 below the services writes and flushes every frame by itself, and a system call for 16 KiB costs more than the copy of
//! them. So writes are copied into a buffer, flushing is held back, and the task that owns the connection flushes once
//! after each poll of it:
//!
//! ```text
//! frames --poll_write--> buffer (copied while it is hot in the cache) --Flushed::poll, or full--> one write
//! ```
//! A buffer belongs to a connection only while it holds something. Those that are empty wait in their thread's store, so
//! idle connections cost none; those of peers that do not read are counted, and when they are many, further connections
//! that find their socket full get by with small ones.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What goes out at once, at most. More saves nothing: a system call for so much costs its copy and little else.
const LARGE_BYTES: usize = 256 << 10;
/// The same where memory is short.
const SMALL_BYTES: usize = 16 << 10;
/// Memory of large buffers over all connections; a few are in use at a time, the rest is what peers did not read.
const LARGE_TOTAL_BYTES_MAX: usize = 64 << 20;
/// Empty large buffers that a thread keeps.
const SPARE_BUFFERS_MAX: usize = 4;

static LARGE_BUFFERS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SPARE_BUFFERS: RefCell<Vec<LargeBuffer>> = const { RefCell::new(Vec::new()) };
}

/// Memory of `LARGE_BYTES`, counted for as long as it exists.
struct LargeBuffer(Box<[u8]>);

impl LargeBuffer {
    /// `None` when there are as many as there may be.
    fn take() -> Option<Self> {
        if let Some(spare) = SPARE_BUFFERS.with_borrow_mut(Vec::pop) {
            return Some(spare);
        }
        if LARGE_BUFFERS.fetch_add(1, Relaxed) >= LARGE_TOTAL_BYTES_MAX / LARGE_BYTES {
            LARGE_BUFFERS.fetch_sub(1, Relaxed);
            return None;
        }
        Some(Self(vec![0; LARGE_BYTES].into_boxed_slice()))
    }

    fn give_back(self) {
        // A connection may be dropped while its thread ends.
        let _ = SPARE_BUFFERS.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_BUFFERS_MAX {
                spare.push(self);
            }
        });
    }
}

impl Drop for LargeBuffer {
    fn drop(&mut self) {
        LARGE_BUFFERS.fetch_sub(1, Relaxed);
    }
}

enum Memory {
    None,
    Large(LargeBuffer),
    Small(Box<[u8]>),
}

impl Memory {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::None => &[],
            Self::Large(buffer) => &buffer.0,
            Self::Small(buffer) => buffer,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::None => &mut [],
            Self::Large(buffer) => &mut buffer.0,
            Self::Small(buffer) => buffer,
        }
    }
}

/// A stream and what was written to it and is not on its way yet: `memory[sent..filled]`.
struct Queue<S> {
    stream: S,
    memory: Memory,
    sent: usize,
    filled: usize,
}

impl<S: AsyncWrite + Unpin> Queue<S> {
    /// Copies what fits of `slices`; room is made by sending. Ready with 0 only when there is nothing to write.
    fn poll_push(&mut self, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.filled > 0 && self.filled == self.memory.bytes().len() {
            ready!(self.poll_send(cx))?;
        }
        if matches!(self.memory, Memory::None) {
            self.memory = match LargeBuffer::take() {
                Some(buffer) => Memory::Large(buffer),
                None => Memory::Small(vec![0; SMALL_BYTES].into_boxed_slice()),
            };
        }
        let mut taken = 0;
        let room = self.memory.bytes_mut();
        for slice in slices {
            let count = slice.len().min(room.len() - self.filled);
            room[self.filled..self.filled + count].copy_from_slice(&slice[..count]);
            self.filled += count;
            taken += count;
            if count < slice.len() {
                break;
            }
        }
        Poll::Ready(Ok(taken))
    }

    /// Sends all that is queued.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.filled {
            let bytes = &self.memory.bytes()[self.sent..self.filled];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, bytes)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => self.sent += count,
                Err(error) => {
                    // Nothing of it will ever be sent: who drops the connection need not try.
                    self.release();
                    return Poll::Ready(Err(error));
                }
            }
        }
        self.release();
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl<S> Queue<S> {
    fn release(&mut self) {
        (self.sent, self.filled) = (0, 0);
        if let Memory::Large(buffer) = std::mem::replace(&mut self.memory, Memory::None) {
            buffer.give_back();
        }
    }
}

impl<S> Drop for Queue<S> {
    fn drop(&mut self) {
        self.release();
    }
}

/// The stream as the protocol sees it; see the module's head.
pub(super) struct Coalescing<S> {
    queue: Arc<Mutex<Queue<S>>>,
}

/// The same stream as the owner of the connection sees it.
pub(super) struct Flusher<S> {
    queue: Arc<Mutex<Queue<S>>>,
}

/// Both ends of a stream whose writes are coalesced. Used from one task, so the lock is never waited for.
pub(super) fn coalesce<S>(stream: S) -> (Coalescing<S>, Flusher<S>) {
    let queue = Arc::new(Mutex::new(Queue { stream, memory: Memory::None, sent: 0, filled: 0 }));
    (Coalescing { queue: Arc::clone(&queue) }, Flusher { queue })
}

impl<S: AsyncRead + Unpin> AsyncRead for Coalescing<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.queue.lock().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalescing<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.queue.lock().poll_push(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.queue.lock().poll_push(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Held back: [`Flushed`] flushes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut queue = self.queue.lock();
        ready!(queue.poll_send(cx))?;
        Pin::new(&mut queue.stream).poll_shutdown(cx)
    }
}

/// A connection that is flushed after each poll of it. Ready when it has ended and all it wrote is sent.
pub(super) struct Flushed<C: Future, S> {
    connection: Pin<Box<C>>,
    flusher: Flusher<S>,
    ended: Option<C::Output>,
}

impl<C: Future, S> Flushed<C, S> {
    pub(super) fn new(connection: C, flusher: Flusher<S>) -> Self {
        Self { connection: Box::pin(connection), flusher, ended: None }
    }

    pub(super) fn connection(&mut self) -> Pin<&mut C> {
        self.connection.as_mut()
    }
}

impl<C, S, E> Future for Flushed<C, S>
where
    C: Future<Output = Result<(), E>>,
    S: AsyncWrite + Unpin,
    E: From<io::Error> + Unpin,
{
    type Output = Result<(), E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.ended.is_none()
            && let Poll::Ready(outcome) = self.connection.as_mut().poll(cx)
        {
            self.ended = Some(outcome);
        }
        let sent = self.flusher.queue.lock().poll_send(cx);
        match (sent, self.ended.take()) {
            (Poll::Ready(Err(error)), None | Some(Ok(()))) => Poll::Ready(Err(error.into())),
            (Poll::Ready(_), Some(outcome)) => Poll::Ready(outcome),
            (Poll::Pending, ended) => {
                self.ended = ended;
                Poll::Pending
            }
            (Poll::Ready(Ok(())), None) => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Notes the sizes of what is written to it; has room for `room` bytes.
    struct Sink {
        writes: Vec<usize>,
        room: usize,
    }

    impl AsyncWrite for Sink {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let count = bytes.len().min(self.room);
            if count == 0 {
                return Poll::Pending;
            }
            self.room -= count;
            self.writes.push(count);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn sink(room: usize) -> (Coalescing<Sink>, Flusher<Sink>) {
        coalesce(Sink { writes: Vec::new(), room })
    }

    #[tokio::test]
    async fn what_is_written_in_one_poll_goes_out_in_one_write() {
        let (mut stream, flusher) = sink(usize::MAX);
        let writer = async move {
            for _ in 0..10 {
                stream.write_all(&[1; 1000]).await?;
                stream.flush().await?;
            }
            tokio::task::yield_now().await;
            stream.write_all(&[2; 10]).await?;
            Ok::<_, io::Error>(())
        };
        let queue = Arc::clone(&flusher.queue);
        Flushed::new(writer, flusher).await.expect("it is written");
        let queue = queue.lock();
        assert_eq!(queue.stream.writes, [10_000, 10]);
        assert!(matches!(queue.memory, Memory::None), "an idle connection has no buffer");
    }

    #[tokio::test]
    async fn a_full_buffer_is_sent_before_more_is_taken() {
        let (mut stream, flusher) = sink(LARGE_BYTES);
        let queue = Arc::clone(&flusher.queue);
        let writer = async move {
            stream.write_all(&vec![0; LARGE_BYTES * 2]).await?;
            Ok::<_, io::Error>(stream)
        };
        let mut writer = std::pin::pin!(writer);
        // The second bufferful is taken and cannot be sent.
        let mut stream = poll_fn(|cx| writer.as_mut().poll(cx)).await.expect("it is taken");
        assert_eq!(queue.lock().stream.writes, [LARGE_BYTES]);
        let more = poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_write(cx, b"x").is_pending())).await;
        assert!(more, "nothing is taken that has no room");
        drop(flusher);
    }

    #[tokio::test]
    async fn all_is_sent_before_the_end() {
        let (near, mut far) = tokio::io::duplex(7);
        let (mut stream, flusher) = coalesce(near);
        let sent: Vec<u8> = (0..=255).cycle().take(LARGE_BYTES * 2 + 5).collect();
        let expected = sent.clone();
        let connection = Flushed::new(
            async move {
                stream.write_all(&sent).await?;
                stream.shutdown().await
            },
            flusher,
        );
        let reader = async {
            let mut received = Vec::new();
            far.read_to_end(&mut received).await.map(|_| received)
        };
        let (outcome, received) = tokio::join!(connection, reader);
        outcome.expect("it is sent");
        assert!(received.expect("it is read") == expected);
    }
}
