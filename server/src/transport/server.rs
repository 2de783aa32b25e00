//! The accept loops and their end.
//!
//! ```text
//! accepting --drain()--> draining --all connections ended, or the time is up--> ended
//! ```
//! Draining closes the listeners first, so that a successor can bind them, then lets open requests finish.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::Protocol;
use super::dispatch::Dispatch;
use super::listen::{Listener, Stream};
use super::threads::Threads;
use super::tls::Tls;

/// How long to wait after an accept that failed for want of file descriptors or memory.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// A serving server.
pub(crate) struct Server {
    draining: CancellationToken,
    accept_loops: TaskTracker,
    connections: TaskTracker,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    Clean,
    /// Connections that were still open when patience ended.
    CutOff {
        connections: usize,
    },
}

impl Server {
    /// Starts to accept on every listener, on the caller's runtime, and to serve on `threads`. At most `connections_max`
    /// connections are open at once; further ones wait in the kernel's queues.
    pub(crate) fn start(
        listeners: Vec<Listener>,
        dispatch: &Arc<Dispatch>,
        connections_max: usize,
        threads: &Arc<Threads>,
        tls: Option<Tls>,
    ) -> Self {
        let server = Self {
            draining: CancellationToken::new(),
            accept_loops: TaskTracker::new(),
            connections: TaskTracker::new(),
        };
        let places = Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
        let protocol = Protocol::new(tls);
        for listener in listeners {
            let accept_loop = AcceptLoop {
                listener,
                protocol: protocol.clone(),
                dispatch: Arc::clone(dispatch),
                places: Arc::clone(&places),
                threads: Arc::clone(threads),
                connections: server.connections.clone(),
                draining: server.draining.clone(),
            };
            server.accept_loops.spawn(async move {
                let draining = accept_loop.draining.clone();
                tokio::select! {
                    () = draining.cancelled() => {}
                    () = accept_loop.run() => {}
                }
            });
        }
        server.accept_loops.close();
        server
    }

    /// Stops accepting and waits for open connections to finish, until `patience` ends.
    pub(crate) async fn drain(&self, patience: impl Future<Output = ()>) -> Drained {
        self.draining.cancel();
        self.accept_loops.wait().await;
        self.connections.close();
        tokio::select! {
            biased;
            () = self.connections.wait() => Drained::Clean,
            () = patience => Drained::CutOff { connections: self.connections.len() },
        }
    }
}

struct AcceptLoop {
    listener: Listener,
    protocol: Protocol,
    dispatch: Arc<Dispatch>,
    places: Arc<Semaphore>,
    threads: Arc<Threads>,
    connections: TaskTracker,
    draining: CancellationToken,
}

impl AcceptLoop {
    /// Never ends by itself; dropped between connections it loses none that was accepted.
    async fn run(&self) {
        let mut told_full = false;
        loop {
            if self.places.available_permits() == 0 && !told_full {
                told_full = true;
                tracing::warn!(
                    event = "connections.full",
                    listener = %self.listener.address(),
                    "all connections that max_connections allows are open; new ones wait"
                );
            }
            let place = Arc::clone(&self.places).acquire_owned().await.expect("the semaphore is never closed");
            let accepted = self.listener.accept().await.and_then(Stream::hand_over);
            let stream = match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(event = "accept.failed", listener = %self.listener.address(), %error, "could not accept");
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                    continue;
                }
            };
            let (protocol, dispatch, draining) =
                (self.protocol.clone(), Arc::clone(&self.dispatch), self.draining.clone());
            let open = dispatch.requests.open_connection();
            let thread = self.threads.place();
            let runtime = thread.runtime().clone();
            let serving = async move {
                match stream.receive() {
                    Ok(stream) => protocol.serve(stream, dispatch, draining).await,
                    Err(error) => tracing::warn!(event = "accept.failed", %error, "could not take over a connection"),
                }
                drop((place, open, thread));
            };
            self.connections.spawn_on(serving, &runtime);
        }
    }
}
