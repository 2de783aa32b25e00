//! The server's end of a worker's stream, played by the test.

use cask_index::Digest;
use cask_proto::{
    digest::to_wire,
    reapi as re,
    workers::{
        Acknowledged, Assignment, Cancel, Drain, Finished, FromWorker, Hello, Progress, ToWorker, Welcome, from_worker,
        to_worker, workers_server::Workers,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{FakeServer, soon};

#[tonic::async_trait]
impl Workers for FakeServer {
    type SessionStream = UnboundedReceiverStream<Result<ToWorker, Status>>;

    async fn session(&self, request: Request<Streaming<FromWorker>>) -> Result<Response<Self::SessionStream>, Status> {
        if let Some(refusal) = self.state().refusal.clone() {
            return Err(refusal);
        }
        let (to, messages) = mpsc::unbounded_channel();
        let session = FakeSession {
            from: request.into_inner(),
            to,
            hello: Hello::default(),
            progress: Vec::new(),
            heartbeats: 0,
        };
        self.opened.send(session).map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(UnboundedReceiverStream::new(messages)))
    }
}

/// One stream. Dropped, it breaks.
pub(crate) struct FakeSession {
    from: Streaming<FromWorker>,
    to: mpsc::UnboundedSender<Result<ToWorker, Status>>,
    pub(crate) hello: Hello,
    /// What came by while the test waited for something else.
    pub(crate) progress: Vec<Progress>,
    pub(crate) heartbeats: usize,
}

impl FakeSession {
    fn tell(&self, message: to_worker::Message) {
        let _ = self.to.send(Ok(ToWorker { message: Some(message) }));
    }

    /// The next message that is no heartbeat; `None` when the stream is over.
    pub(crate) async fn hear(&mut self) -> Option<from_worker::Message> {
        loop {
            match soon(self.from.message()).await.ok().flatten()?.message? {
                from_worker::Message::Heartbeat(_) => self.heartbeats += 1,
                message => return Some(message),
            }
        }
    }

    pub(crate) async fn hear_hello(&mut self) {
        match self.hear().await {
            Some(from_worker::Message::Hello(hello)) => self.hello = hello,
            other => panic!("{other:?} instead of a hello"),
        }
    }

    pub(crate) fn welcome(&mut self, kept_lease_ids: Vec<String>) {
        let heartbeat_interval = Some(prost_types::Duration { seconds: 1, nanos: 0 });
        let session_id = "session".to_owned();
        self.tell(to_worker::Message::Welcome(Welcome { session_id, heartbeat_interval, kept_lease_ids }));
    }

    pub(crate) fn assign(&self, lease_id: &str, action: Digest) {
        self.assign_with(lease_id, action, |_| {});
    }

    pub(crate) fn assign_with(&self, lease_id: &str, action: Digest, change: impl FnOnce(&mut Assignment)) {
        let mut assignment = Assignment {
            lease_id: lease_id.to_owned(),
            instance_name: "test".to_owned(),
            action_digest: Some(to_wire(&action)),
            digest_function: re::digest_function::Value::Sha256 as i32,
            timeout: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            platform: None,
            attempt: 0,
            queued_timestamp: Some(prost_types::Timestamp { seconds: 1, nanos: 2 }),
            request_metadata: None,
        };
        change(&mut assignment);
        self.tell(to_worker::Message::Assignment(assignment));
    }

    pub(crate) fn cancel(&self, lease_id: &str) {
        self.tell(to_worker::Message::Cancel(Cancel { lease_id: lease_id.to_owned() }));
    }

    pub(crate) fn acknowledge(&self, lease_id: &str) {
        self.tell(to_worker::Message::Acknowledged(Acknowledged { lease_id: lease_id.to_owned() }));
    }

    pub(crate) fn drain(&self) {
        self.tell(to_worker::Message::Drain(Drain {}));
    }

    /// The next result.
    pub(crate) async fn finished(&mut self) -> Finished {
        loop {
            match self.hear().await {
                Some(from_worker::Message::Finished(finished)) => return finished,
                Some(from_worker::Message::Progress(progress)) => self.progress.push(progress),
                other => panic!("{other:?} instead of a result"),
            }
        }
    }

    /// The next progress.
    pub(crate) async fn progressed(&mut self) -> Progress {
        match self.hear().await {
            Some(from_worker::Message::Progress(progress)) => progress,
            other => panic!("{other:?} instead of progress"),
        }
    }

    /// One action to its result, which is acknowledged.
    pub(crate) async fn execute(&mut self, action: Digest) -> re::ExecuteResponse {
        self.assign("lease", action);
        let finished = self.finished().await;
        assert!(!finished.worker_fault, "{finished:?}");
        self.acknowledge("lease");
        finished.response.expect("set")
    }
}
