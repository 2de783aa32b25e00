//! The network threads: each has a runtime of its own, and a connection stays on the thread it is given.
//!
//! Nothing a connection does then wakes another thread, which costs less than half of what work stealing between threads
//! does. The price is that one connection is served by one processor, and that connections have to be spread well: builds
//! hold few of them for a long time, so each new one goes to the thread that has the fewest (the kernel's own spreading,
//! by hash, would as soon put both of two clients on one thread).

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// Threads that wait for the disk, or work on what takes the processor long, over all network threads.
const BLOCKING_THREADS_MAX: usize = 512;

/// How long tasks that outlive the drain get before their threads are left behind.
pub(crate) const RUNTIME_END_WAIT_MAX: Duration = Duration::from_secs(1);

/// The threads of one server. Dropped, they are told to end and not waited for.
pub(crate) struct Threads {
    threads: Vec<Thread>,
    end: CancellationToken,
}

struct Thread {
    runtime: Handle,
    connection_count: Arc<AtomicUsize>,
    joined: std::thread::JoinHandle<()>,
}

/// A place on a thread, for one connection.
pub(super) struct ThreadPlace {
    runtime: Handle,
    connection_count: Arc<AtomicUsize>,
}

impl Threads {
    /// Starts `count` threads.
    pub(crate) fn start(count: NonZeroUsize) -> io::Result<Self> {
        let mut started = Self { threads: Vec::with_capacity(count.get()), end: CancellationToken::new() };
        for number in 0..count.get() {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .thread_name("cask-work")
                .max_blocking_threads((BLOCKING_THREADS_MAX / count).max(16))
                .build()?;
            let handle = runtime.handle().clone();
            let end = started.end.clone();
            let thread = std::thread::Builder::new().name(format!("cask-edge-{number}")).spawn(move || {
                runtime.block_on(end.cancelled());
                runtime.shutdown_timeout(RUNTIME_END_WAIT_MAX);
            })?;
            started.threads.push(Thread { runtime: handle, connection_count: Arc::default(), joined: thread });
        }
        Ok(started)
    }

    /// A place on the thread with the fewest connections.
    pub(super) fn place(&self) -> ThreadPlace {
        let thread = self.threads.iter().min_by_key(|thread| thread.connection_count.load(Relaxed));
        let thread = thread.expect("there is at least one thread");
        thread.connection_count.fetch_add(1, Relaxed);
        ThreadPlace { runtime: thread.runtime.clone(), connection_count: Arc::clone(&thread.connection_count) }
    }

    /// Ends the threads and waits for them; what still runs on them is dropped.
    pub(crate) fn end(mut self) {
        self.end.cancel();
        for thread in self.threads.drain(..) {
            if thread.joined.join().is_err() {
                tracing::error!(event = "thread.failed", "a network thread ended with a panic");
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl ThreadPlace {
    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

impl Drop for ThreadPlace {
    fn drop(&mut self) {
        self.connection_count.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_go_where_the_fewest_are() {
        let threads = Threads::start(NonZeroUsize::new(3).expect("not zero")).expect("threads");
        let mut places: Vec<_> = (0..6).map(|_| threads.place()).collect();
        let counts = |threads: &Threads| -> Vec<_> {
            threads.threads.iter().map(|thread| thread.connection_count.load(Relaxed)).collect()
        };
        assert_eq!(counts(&threads), [2, 2, 2]);
        // The second thread's, in the order they were given.
        drop(places.remove(4));
        drop(places.remove(1));
        assert_eq!(counts(&threads), [2, 0, 2]);
        places.push(threads.place());
        places.push(threads.place());
        assert_eq!(counts(&threads), [2, 2, 2]);
        threads.end();
    }
}
