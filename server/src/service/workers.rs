//! `cask.worker.v1.Workers`: a stream a worker, on which actions go out and results come in.
//!
//! One task has both halves: it forwards what the scheduler has for the worker and hears what the worker says, and while the worker does
//! not read, it is not listened to either. The stream ends with either side, with the first message that makes no sense, or
//! with the server's drain, at once: leases wait for the worker to come back.

use std::pin::Pin;
use std::time::Duration;

use cask_executor::farm::{Farm, Session};
use cask_executor::scheduler::{LeaseId, WorkerHello};
use cask_proto::workers::from_worker::Message;
use cask_proto::workers::workers_server::{Workers, WorkersServer};
use cask_proto::workers::{FromWorker, Hello, Progress, ToWorker};
use futures_util::{Stream, stream};
use prost::Message as _;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::health::Readiness;
use super::request;
use crate::execution::Execution;
use crate::status::Answer;

/// How long a stream may be open without a word.
const HELLO_WAIT_MAX: Duration = Duration::from_secs(10);

/// Runs at once of one worker.
const CONCURRENCY_MAX: u32 = 1024;
const NAME_BYTES_MAX: usize = 256;
const VERSION_BYTES_MAX: usize = 256;
const PLATFORMS_BYTES_MAX: usize = 64 << 10;
/// Leases that a worker may say it holds: those of its runs, and of some that it was told to stop.
const HELD_MAX: usize = 4 * CONCURRENCY_MAX as usize;
/// Of a run that goes on, in names and times.
const PROGRESS_BYTES_MAX: usize = 64 << 10;

/// The service, with its message limits set.
pub(crate) fn server(execution: Execution) -> WorkersServer<WorkersService> {
    let message_size_bytes_max = execution.cache().limits().message_size_bytes_max;
    WorkersServer::new(WorkersService { execution }).max_decoding_message_size(message_size_bytes_max)
}

pub(crate) struct WorkersService {
    execution: Execution,
}

type ToWorkerStream = Pin<Box<dyn Stream<Item = Result<ToWorker, Status>> + Send>>;

#[tonic::async_trait]
impl Workers for WorkersService {
    type SessionStream = ToWorkerStream;

    async fn session(&self, request: Request<Streaming<FromWorker>>) -> Result<Response<ToWorkerStream>, Status> {
        let conversation = Conversation {
            farm: self.execution.farm()?.clone(),
            readiness: self.execution.readiness(),
            execution: self.execution.clone(),
            said: request.into_inner(),
            session: None,
            is_over: false,
        };
        // The worker is answered before it has said hello: some clients wait for that.
        Ok(Response::new(Box::pin(stream::unfold(conversation, |mut conversation| async move {
            let next = conversation.next().await.transpose()?;
            conversation.is_over = next.is_err();
            Some((next, conversation))
        }))))
    }
}

struct Conversation {
    execution: Execution,
    farm: Farm,
    said: Streaming<FromWorker>,
    readiness: watch::Receiver<Readiness>,
    /// Since hello.
    session: Option<Session>,
    is_over: bool,
}

impl Conversation {
    /// What the worker is sent next; `None`: the end. An error ends it too.
    async fn next(&mut self) -> Result<Option<ToWorker>, Status> {
        if self.is_over {
            return Ok(None);
        }
        if self.session.is_none() && !self.greeted().await? {
            return Ok(None);
        }
        let session = self.session.as_mut().expect("there has been a hello");
        loop {
            let said = tokio::select! {
                _ = self.readiness.wait_for(|readiness| *readiness == Readiness::Draining) => return Err(going_down()),
                message = session.next() => return Ok(message),
                said = self.said.message() => said?,
            };
            let Some(said) = said else { return Ok(None) };
            if let Some(answer) = hear(&self.execution, &self.farm, session, said)? {
                return Ok(Some(answer));
            }
        }
    }

    /// False: the worker went without a word.
    async fn greeted(&mut self) -> Result<bool, Status> {
        let hello = tokio::select! {
            _ = self.readiness.wait_for(|readiness| *readiness == Readiness::Draining) => return Err(going_down()),
            hello = tokio::time::timeout(HELLO_WAIT_MAX, self.said.message()) => hello,
        };
        let hello = match hello.map_err(|_| Status::deadline_exceeded("a session begins with hello"))?? {
            None => return Ok(false),
            Some(FromWorker { message: Some(Message::Hello(hello)) }) => checked_hello(&self.execution, hello)?,
            Some(_) => return Err(Answer::invalid("a session begins with hello").into()),
        };
        tracing::info!(
            event = "worker.joined",
            worker = hello.name,
            instance = %hello.instance,
            concurrency = hello.concurrency,
            "a worker is there"
        );
        self.session = Some(self.farm.join(hello));
        Ok(true)
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        if let Some(session) = &self.session {
            tracing::info!(event = "worker.left", session = session.id().0, "a worker's stream ended");
        }
    }
}

/// Takes what a worker says after hello; what is to be answered at once.
fn hear(execution: &Execution, farm: &Farm, session: &Session, said: FromWorker) -> Result<Option<ToWorker>, Status> {
    match said.message {
        Some(Message::Heartbeat(heartbeat)) => {
            farm.heartbeat(session.id(), &leases(&heartbeat.lease_ids)?);
            Ok(None)
        }
        Some(Message::Progress(progress)) => {
            let lease = lease(&progress.lease_id)?;
            check_progress(&progress)?;
            // It may have been cancelled meanwhile, of which the worker is told apart. That of others it is told here.
            let taken = farm.progress(session.id(), progress);
            Ok(taken.err().map(|_| session.replies().cancellation(lease)))
        }
        Some(Message::Finished(finished)) => {
            let lease = lease(&finished.lease_id)?;
            Ok(execution.take_finished(farm, session, lease, finished))
        }
        Some(Message::Drain(_)) => {
            farm.drain_worker(session.id());
            Ok(None)
        }
        Some(Message::Hello(_)) => Err(Answer::invalid("hello is said once").into()),
        None => Err(Answer::invalid("a message without content").into()),
    }
}

fn checked_hello(execution: &Execution, hello: Hello) -> Result<WorkerHello, Status> {
    let instance = request::instance(execution.cache(), &hello.instance_name)?;
    let is_plain = |text: &str, bytes_max: usize| text.len() <= bytes_max && !text.chars().any(char::is_control);
    if hello.worker_name.is_empty() || !is_plain(&hello.worker_name, NAME_BYTES_MAX) {
        let refusal = format!("worker_name has to be 1 to {NAME_BYTES_MAX} bytes of plain text");
        return Err(Answer::invalid(refusal).into());
    }
    if hello.process_id.is_empty() || !is_plain(&hello.process_id, NAME_BYTES_MAX) {
        let refusal = format!("process_id has to be 1 to {NAME_BYTES_MAX} bytes of plain text");
        return Err(Answer::invalid(refusal).into());
    }
    if !is_plain(&hello.version, VERSION_BYTES_MAX) {
        return Err(Answer::invalid("version is no version").into());
    }
    if !(1..=CONCURRENCY_MAX).contains(&hello.concurrency) {
        return Err(Answer::invalid(format!("concurrency has to be 1 to {CONCURRENCY_MAX}")).into());
    }
    if hello.platforms.iter().map(prost::Message::encoded_len).sum::<usize>() > PLATFORMS_BYTES_MAX {
        return Err(Answer::invalid(format!("the platforms take more than {PLATFORMS_BYTES_MAX} bytes")).into());
    }
    Ok(WorkerHello {
        name: hello.worker_name,
        process_id: hello.process_id,
        instance: instance.name().clone(),
        concurrency: hello.concurrency,
        platforms: hello.platforms,
        held: leases(&hello.held_lease_ids)?,
    })
}

fn leases(ids: &[String]) -> Result<Vec<LeaseId>, Status> {
    if ids.len() > HELD_MAX {
        return Err(Answer::invalid(format!("more than {HELD_MAX} leases")).into());
    }
    ids.iter().map(|id| lease(id)).collect()
}

fn lease(id: &str) -> Result<LeaseId, Status> {
    LeaseId::parse(id).map_err(|error| Answer::invalid(format!("lease_id: {error}")).into())
}

fn check_progress(progress: &Progress) -> Result<(), Status> {
    if progress.encoded_len() > PROGRESS_BYTES_MAX {
        return Err(Answer::invalid(format!("progress takes more than {PROGRESS_BYTES_MAX} bytes")).into());
    }
    Ok(())
}

fn going_down() -> Status {
    Status::unavailable("the server is shutting down; what the worker runs is waited for")
}
