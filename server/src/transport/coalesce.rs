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
//!
//! Each poll of a connection is a turn: it reads so much and no more before the other tasks of its thread have theirs. And who does not read
//! is not read from, beyond a little: what its requests make the protocol say (resets, acknowledgements, refusals) would
//! have to be kept.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::outbox::Outbox;

/// What goes out at once, at most: so much that the call itself is little beside its copy. Whether 1 MiB would be better is not measured.
const LARGE_BYTES: usize = 256 << 10;
/// The same where memory is short.
const SMALL_BYTES: usize = 16 << 10;
/// Memory of large buffers over all connections; a few are in use at a time, the rest is what peers did not read.
const LARGE_TOTAL_BYTES_MAX: usize = 64 << 20;
/// What a connection reads in one turn, give or take a buffer. Thousands of frames can be in it, each with a stream of its own; a
/// quarter of it cuts so many messages in two that a large FindMissing costs a third more.
const TURN_READ_BYTES: usize = 256 << 10;
/// A turn that has taken as long reads no more, and the next ones read less: some frames cost far more than their bytes (a change of
/// SETTINGS visits every stream).
const TURN_TIME_MAX: Duration = Duration::from_millis(1);
/// The least that a turn reads.
const TURN_READ_BYTES_MIN: usize = 256;
/// The same while the peer takes nothing: enough that a client which is merely slow is heard, since each byte it takes begins
/// this anew.
const BLOCKED_READ_BYTES: usize = 16 << 10;
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
    /// The socket was full when it was last tried.
    is_blocked: bool,
    may_read_bytes: usize,
    /// What a turn may read at present.
    turn_read_bytes: usize,
    /// Reading has taken this turn too long.
    has_overrun: bool,
    /// When this turn first read.
    turn_begun: Option<Instant>,
    /// The protocol wanted to read more than it might, and waits to be polled again.
    is_read_refused: bool,
}

impl<S: AsyncRead + Unpin> Queue<S> {
    fn poll_pull(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let begun = *self.turn_begun.get_or_insert_with(Instant::now);
        self.has_overrun |= begun.elapsed() > TURN_TIME_MAX;
        if self.may_read_bytes == 0 || self.has_overrun {
            self.is_read_refused = true;
            return Poll::Pending;
        }
        let had = buffer.filled().len();
        if self.turn_read_bytes == TURN_READ_BYTES {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        } else {
            // To the byte, since a buffer may have room for many times as much.
            let room = self.may_read_bytes.min(buffer.remaining());
            let mut part = ReadBuf::new(buffer.initialize_unfilled_to(room));
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
            let count = part.filled().len();
            buffer.advance(count);
        }
        self.may_read_bytes = self.may_read_bytes.saturating_sub(buffer.filled().len() - had);
        Poll::Ready(Ok(()))
    }
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
                Ok(count) => {
                    self.sent += count;
                    self.may_read_bytes = self.may_read_bytes.max(BLOCKED_READ_BYTES.min(self.turn_read_bytes));
                }
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

    /// Ends a turn: sends what there is, and says what the next one may read.
    fn poll_end_turn(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = self.poll_send(cx);
        self.turn_begun = None;
        self.turn_read_bytes = if std::mem::take(&mut self.has_overrun) {
            (self.turn_read_bytes / 4).max(TURN_READ_BYTES_MIN)
        } else {
            (self.turn_read_bytes * 2).min(TURN_READ_BYTES)
        };
        match sent {
            Poll::Ready(_) => {
                self.is_blocked = false;
                self.may_read_bytes = self.turn_read_bytes;
            }
            Poll::Pending if !self.is_blocked => {
                self.is_blocked = true;
                self.may_read_bytes = BLOCKED_READ_BYTES.min(self.turn_read_bytes);
            }
            Poll::Pending => {}
        }
        if self.may_read_bytes > 0 && std::mem::take(&mut self.is_read_refused) {
            cx.waker().wake_by_ref();
        }
        sent
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
    outbox: Outbox,
}

/// Both ends of a stream whose writes are coalesced; `outbox` is told when they are sent. Used from one task, so the lock is
/// never waited for.
pub(super) fn coalesce<S>(stream: S, outbox: Outbox) -> (Coalescing<S>, Flusher<S>) {
    let queue = Arc::new(Mutex::new(Queue {
        stream,
        memory: Memory::None,
        sent: 0,
        filled: 0,
        is_blocked: false,
        may_read_bytes: TURN_READ_BYTES,
        turn_read_bytes: TURN_READ_BYTES,
        has_overrun: false,
        turn_begun: None,
        is_read_refused: false,
    }));
    (Coalescing { queue: Arc::clone(&queue) }, Flusher { queue, outbox })
}

impl<S: AsyncRead + Unpin> AsyncRead for Coalescing<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.queue.lock().poll_pull(cx, buffer)
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
        let sent = self.flusher.queue.lock().poll_end_turn(cx);
        match sent {
            Poll::Ready(_) => self.flusher.outbox.open(cx),
            Poll::Pending => self.flusher.outbox.close(),
        }
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
        coalesce(Sink { writes: Vec::new(), room }, Outbox::default())
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
        let (mut stream, flusher) = coalesce(near, Outbox::default());
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

    /// Reads as much as it may, for as long as it is polled.
    struct Reader<S> {
        stream: Coalescing<S>,
        read_bytes: Arc<AtomicUsize>,
        /// Sent once, before anything is read.
        say: Option<Vec<u8>>,
    }

    impl<S: AsyncRead + AsyncWrite + Unpin> Future for Reader<S> {
        type Output = io::Result<()>;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            if let Some(say) = self.say.take() {
                assert!(Pin::new(&mut self.stream).poll_write(cx, &say)?.is_ready());
            }
            loop {
                let mut memory = [0; 4096];
                let mut buffer = ReadBuf::new(&mut memory);
                ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
                if buffer.filled().is_empty() {
                    return Poll::Ready(Ok(()));
                }
                self.read_bytes.fetch_add(buffer.filled().len(), Relaxed);
            }
        }
    }

    #[tokio::test]
    async fn a_turn_reads_so_much_and_the_next_one_the_rest() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        far.write_all(&vec![0; 1 << 20]).await.expect("it fits");
        drop(far);
        let (stream, flusher) = coalesce(near, Outbox::default());
        let read_bytes = Arc::<AtomicUsize>::default();
        let reader = Reader { stream, read_bytes: Arc::clone(&read_bytes), say: None };
        let mut connection = std::pin::pin!(Flushed::new(reader, flusher));
        let mut turns = 0;
        poll_fn(|cx| {
            let before = read_bytes.load(Relaxed);
            let outcome = connection.as_mut().poll(cx);
            turns += 1;
            let read = read_bytes.load(Relaxed) - before;
            assert!(read <= TURN_READ_BYTES + 4096, "{read} bytes in one turn");
            outcome
        })
        .await
        .expect("its end");
        assert_eq!(read_bytes.load(Relaxed), 1 << 20);
        assert!(turns >= (1 << 20) / TURN_READ_BYTES, "{turns}");
    }

    /// A client that sends and does not read; then it reads, and is read again.
    #[tokio::test]
    async fn who_does_not_read_is_not_read_from() {
        let (near, mut far) = tokio::io::duplex(200_000);
        let (stream, flusher) = coalesce(near, Outbox::default());
        let read_bytes = Arc::<AtomicUsize>::default();
        let say = Some(vec![1; LARGE_BYTES]);
        let mut connection =
            Box::pin(Flushed::new(Reader { stream, read_bytes: Arc::clone(&read_bytes), say }, flusher));
        // The first turn fills the socket.
        assert!(poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx))).await.is_pending());
        far.write_all(&vec![2; 150_000]).await.expect("it fits");
        for _ in 0..100 {
            assert!(poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx))).await.is_pending());
        }
        let heard_bytes = read_bytes.load(Relaxed);
        assert!(heard_bytes <= BLOCKED_READ_BYTES + 4096, "{heard_bytes} bytes of a client that reads nothing");
        let connection = tokio::spawn(connection);
        let mut said = vec![0; LARGE_BYTES];
        far.read_exact(&mut said).await.expect("what was said");
        far.shutdown().await.expect("no more");
        connection.await.expect("no panic").expect("its end");
        assert_eq!(read_bytes.load(Relaxed), 150_000);
    }
}
