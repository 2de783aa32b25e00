//! A worker that runs nothing: the test says what it finishes, and when. Speaks `cask.worker.v1` through our own generated types, as
//! there are no others.

use std::collections::VecDeque;

use bazel_remote_apis::build::bazel::remote::execution::v2 as oracle;
use cask_proto::reapi::{self, ExecuteResponse, Platform, platform::Property};
use cask_proto::workers::from_worker::Message as FromWorkerMessage;
use cask_proto::workers::to_worker::Message as ToWorkerMessage;
use cask_proto::workers::workers_client::WorkersClient;
use cask_proto::workers::{Assignment, Finished, FromWorker, Heartbeat, Hello, Progress, ToWorker, Welcome};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::support::within;

/// A worker of one session.
pub(crate) struct ScriptedWorker {
    sender: Option<mpsc::Sender<FromWorker>>,
    said: Streaming<ToWorker>,
    /// Said before what was waited for.
    earlier: VecDeque<ToWorkerMessage>,
}

/// What a worker says first, where the test does not care.
pub(crate) fn hello(name: &str) -> Hello {
    Hello {
        worker_name: name.to_owned(),
        process_id: format!("process of {name}"),
        concurrency: 1,
        platforms: vec![platform(&[("OSFamily", "linux"), ("ISA", "x86-64")])],
        version: "0.0.0".to_owned(),
        ..Hello::default()
    }
}

pub(crate) fn platform(properties: &[(&str, &str)]) -> Platform {
    let property = |(name, value): &(&str, &str)| Property { name: (*name).to_owned(), value: (*value).to_owned() };
    Platform { properties: properties.iter().map(property).collect() }
}

impl ScriptedWorker {
    /// A session; anything but a welcome fails the test.
    pub(crate) async fn join(channel: &Channel, hello: Hello) -> (Self, Welcome) {
        let mut worker = Self::open(channel).await;
        worker.say(FromWorkerMessage::Hello(hello)).await;
        match worker.next().await {
            ToWorkerMessage::Welcome(welcome) => (worker, welcome),
            other => panic!("not a welcome: {other:?}"),
        }
    }

    /// A stream on which nothing was said yet.
    pub(crate) async fn open(channel: &Channel) -> Self {
        let (sender, receiver) = mpsc::channel(16);
        let mut client = WorkersClient::new(channel.clone());
        let said =
            within("a session", client.session(ReceiverStream::new(receiver))).await.expect("Session").into_inner();
        Self { sender: Some(sender), said, earlier: VecDeque::new() }
    }

    pub(crate) async fn say(&self, message: FromWorkerMessage) {
        self.send(FromWorker { message: Some(message) }).await;
    }

    pub(crate) async fn send(&self, message: FromWorker) {
        let sender = self.sender.as_ref().expect("the stream is not half-closed");
        // One that the server has ended shows in what it says.
        let _ = sender.send(message).await;
    }

    pub(crate) async fn heartbeat(&self, leases: &[&str]) {
        let lease_ids = leases.iter().map(|lease| (*lease).to_owned()).collect();
        self.say(FromWorkerMessage::Heartbeat(Heartbeat { lease_ids })).await;
    }

    pub(crate) async fn progress(&self, progress: Progress) {
        self.say(FromWorkerMessage::Progress(progress)).await;
    }

    pub(crate) async fn finish(&self, lease: &str, response: ExecuteResponse) {
        let finished = Finished { lease_id: lease.to_owned(), response: Some(response), worker_fault: false };
        self.say(FromWorkerMessage::Finished(finished)).await;
    }

    /// What the server says next; the end of the stream fails the test.
    pub(crate) async fn next(&mut self) -> ToWorkerMessage {
        match self.earlier.pop_front() {
            Some(message) => message,
            None => self.next_said().await,
        }
    }

    async fn next_said(&mut self) -> ToWorkerMessage {
        let next = self.answer().await.expect("the session lives").expect("the session goes on");
        next.message.expect("a message with content")
    }

    /// As it comes, the end too.
    pub(crate) async fn answer(&mut self) -> Result<Option<ToWorker>, Status> {
        within("a message for the worker", self.said.message()).await
    }

    /// The next message, which has to be an assignment.
    pub(crate) async fn assignment(&mut self) -> Assignment {
        match self.next().await {
            ToWorkerMessage::Assignment(assignment) => assignment,
            other => panic!("not an assignment: {other:?}"),
        }
    }

    /// Waits until a lease is acknowledged. The next action may come before: a result is told to those who wait for it first, then
    /// it is made to last, and then the worker may forget it.
    pub(crate) async fn acknowledged(&mut self, lease: &str) {
        loop {
            match self.next_said().await {
                ToWorkerMessage::Acknowledged(acknowledged) if acknowledged.lease_id == lease => return,
                message @ (ToWorkerMessage::Assignment(_) | ToWorkerMessage::Acknowledged(_)) => {
                    self.earlier.push_back(message);
                }
                other => panic!("not an acknowledgement: {other:?}"),
            }
        }
    }

    /// The next message, which has to cancel a lease.
    pub(crate) async fn cancelled(&mut self, lease: &str) {
        match self.next().await {
            ToWorkerMessage::Cancel(cancel) => assert_eq!(cancel.lease_id, lease),
            other => panic!("not a cancellation: {other:?}"),
        }
    }
}

/// A run that ended with this exit code and nothing else.
pub(crate) fn exited(exit_code: i32) -> ExecuteResponse {
    let execution_metadata =
        Some(reapi::ExecutedActionMetadata { worker: "scripted".to_owned(), ..Default::default() });
    let result = reapi::ActionResult { exit_code, execution_metadata, ..Default::default() };
    ExecuteResponse { result: Some(result), ..Default::default() }
}

/// The same message in our types.
pub(crate) fn ours<M: Message + Default>(theirs: &impl Message) -> M {
    M::decode(&theirs.encode_to_vec()[..]).expect("both are of one declaration")
}

/// A digest in our types.
pub(crate) fn our_digest(digest: &oracle::Digest) -> reapi::Digest {
    ours(digest)
}
