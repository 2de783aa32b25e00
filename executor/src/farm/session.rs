//! A worker's connection as the farm sees it: what it is to be sent, and that it is gone.

use cask_proto::workers::{self, ToWorker, to_worker};
use tokio::sync::mpsc;

use super::Farm;
use crate::scheduler::{LeaseId, SessionId};

/// A session. Dropped, it has left; its leases wait for the worker to come back.
pub struct Session {
    farm: Farm,
    id: SessionId,
    replies: Replies,
    receiver: mpsc::Receiver<ToWorker>,
}

/// Answers to what a worker said. They wait for room: a worker that does not read is not read from either.
#[derive(Clone)]
pub struct Replies {
    /// Weak: the channel is closed when the farm closes the session.
    sender: mpsc::WeakSender<ToWorker>,
}

impl Session {
    pub(super) fn new(
        farm: Farm,
        id: SessionId,
        sender: mpsc::WeakSender<ToWorker>,
        receiver: mpsc::Receiver<ToWorker>,
    ) -> Self {
        Self { farm, id, replies: Replies::new(sender), receiver }
    }

    /// Its name.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// For answers.
    pub fn replies(&self) -> Replies {
        self.replies.clone()
    }

    /// What the worker is to be sent next; `None`: the session is over. Cancel-safe.
    pub async fn next(&mut self) -> Option<ToWorker> {
        self.receiver.recv().await
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.farm.leave(self.id);
    }
}

impl Replies {
    pub(super) fn new(sender: mpsc::WeakSender<ToWorker>) -> Self {
        Self { sender }
    }

    /// The result of a lease is where it belongs.
    pub fn acknowledgement(&self, lease: LeaseId) -> ToWorker {
        let acknowledged = workers::Acknowledged { lease_id: lease.to_string() };
        ToWorker { message: Some(to_worker::Message::Acknowledged(acknowledged)) }
    }

    /// A lease is not the worker's.
    pub fn cancellation(&self, lease: LeaseId) -> ToWorker {
        let cancel = workers::Cancel { lease_id: lease.to_string() };
        ToWorker { message: Some(to_worker::Message::Cancel(cancel)) }
    }

    /// Waits for room. Of a session that is over nobody hears: its worker asks again with its next hello.
    pub async fn send(&self, message: ToWorker) {
        if let Some(sender) = self.sender.upgrade() {
            let _ = sender.send(message).await;
        }
    }
}
