//! A worker process as the simulator has it: what it holds, and the messages between it and the server.

use std::collections::{BTreeMap, VecDeque};

use cask_executor::scheduler::{LeaseId, SessionId};
use cask_proto::reapi;

/// What a worker knows of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holding {
    Running,
    /// Finished, and the server has not acknowledged it.
    Finished,
}

#[derive(Clone, Debug)]
pub(crate) enum ToWorker {
    Assign(LeaseId),
    Cancel(LeaseId),
    Acknowledged(LeaseId),
}

#[derive(Clone, Debug)]
pub(crate) enum ToServer {
    Heartbeat(Vec<LeaseId>),
    Finished(LeaseId),
    GiveBack(LeaseId),
    Progress(LeaseId),
    Drain,
}

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) id: String,
    pub(crate) concurrency: u32,
    pub(crate) instance: String,
    pub(crate) platforms: Vec<reapi::Platform>,
    /// As the worker sees it.
    pub(crate) session: Option<SessionId>,
    pub(crate) holds: BTreeMap<LeaseId, Holding>,
    pub(crate) inbox: VecDeque<ToWorker>,
    pub(crate) outbox: VecDeque<ToServer>,
}

impl Process {
    pub(crate) fn receive(&mut self, message: &ToWorker) {
        match message {
            // One that comes twice is run once.
            ToWorker::Assign(lease) => {
                self.holds.entry(*lease).or_insert(Holding::Running);
            }
            ToWorker::Cancel(lease) | ToWorker::Acknowledged(lease) => {
                self.holds.remove(lease);
            }
        }
    }

    pub(crate) fn beat(&mut self) {
        self.outbox.push_back(ToServer::Heartbeat(self.holds.keys().copied().collect()));
    }

    /// The stream is gone, with all that was on it.
    pub(crate) fn disconnect(&mut self) {
        self.session = None;
        self.inbox.clear();
        self.outbox.clear();
    }

    pub(crate) fn running(&self) -> Vec<LeaseId> {
        self.holds.iter().filter(|(_, holding)| **holding == Holding::Running).map(|(lease, _)| *lease).collect()
    }
}
