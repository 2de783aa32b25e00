//! [`Session`]: the worker's stream with its server, and the leases it holds.
//!
//! ```text
//! lease: Assignment -> Running -> Finished --Acknowledged--> forgotten
//!                        `--- Cancel, not kept by Welcome -->   "
//! ```
//! The stream may break at any time; leases do not mind. They run on, their results are kept, and the next stream begins by naming them. The server
//! says which it still counts on. A worker that was let in once connects again for ever: it is the server's to decide whether it is
//! lost. One that the server refuses for what it is, before it ever let it in, ends.
//!
//! One task owns all of it. Executions are tasks of their own and speak to it through a channel.

use std::{collections::HashMap, sync::Arc, time::Duration};

use cask_proto::{
    InstanceName,
    reapi::{ActionResult, ExecuteResponse, Platform},
    rpc,
    workers::{
        Assignment, Drain, Finished, FromWorker, Heartbeat, Hello, Progress, ToWorker, Welcome, from_worker, to_worker,
        workers_client::WorkersClient,
    },
};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

use super::execution::{Parts, execute};

/// Messages that may wait for the transport. More than this, and the server does not read: the stream is given up.
const OUTBOX_MESSAGES_MAX: usize = 1024;
/// An `ExecuteResponse` may hold 128 KiB of what was printed.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The largest `ExecuteResponse` that is sent: below the 4 MiB that servers and clients take by default, with room for what is around it.
const RESPONSE_BYTES_MAX: usize = (4 << 20) - (64 << 10);
const RECONNECT_PAUSE_FIRST: Duration = Duration::from_millis(100);
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long a server may take to say welcome.
const WELCOME_WAIT_MAX: Duration = Duration::from_secs(20);
const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(5);
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);

/// Asks to end: the first drains, the second ends at once.
pub type Asks = mpsc::Receiver<()>;

/// What a session says of its worker.
#[derive(Clone, Debug)]
pub(crate) struct SessionOptions {
    pub(crate) name: String,
    pub(crate) instance: InstanceName,
    pub(crate) concurrency: u32,
    pub(crate) platforms: Vec<Platform>,
    pub(crate) drain_timeout: Duration,
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It had nothing left to do.
    Drained,
    /// Asked twice, or out of time: so many actions were given up.
    CutOff {
        /// Leases that were held.
        leases: usize,
    },
}

enum Lease {
    Running {
        task: AbortHandle,
        /// The latest, said again to a new stream.
        progress: Option<Box<Progress>>,
    },
    /// Not acknowledged.
    Finished(Box<Finished>),
}

/// See the module.
pub(crate) struct Session {
    channel: Channel,
    parts: Arc<Parts>,
    options: SessionOptions,
    process_id: String,
    leases: HashMap<String, Lease>,
    tasks: JoinSet<Finished>,
    progress_sender: mpsc::Sender<Progress>,
    progress: mpsc::Receiver<Progress>,
    /// When the worker has to be done; set by the first ask to end.
    drain_until: Option<Instant>,
}

/// What ended a stream's turn.
enum Turn {
    /// It broke, or could not be made; connect again.
    Broken(Status),
    Over(Ended),
}

impl Session {
    pub(crate) fn new(channel: Channel, parts: Arc<Parts>, options: SessionOptions) -> Self {
        let (progress_sender, progress) = mpsc::channel(OUTBOX_MESSAGES_MAX);
        Self {
            channel,
            parts,
            options,
            process_id: uuid::Uuid::new_v4().simple().to_string(),
            leases: HashMap::new(),
            tasks: JoinSet::new(),
            progress_sender,
            progress,
            drain_until: None,
        }
    }

    /// Until drained. All that runs is stopped at the end. The error is the answer of a server that will never let this worker in.
    pub(crate) async fn run(mut self, mut asks: Asks, connected: impl Fn()) -> Result<Ended, Status> {
        let mut was_let_in = false;
        let mut pause = RECONNECT_PAUSE_FIRST;
        loop {
            let mut welcomed = false;
            let turn = self.stream(&mut asks, || {
                welcomed = true;
                connected();
            });
            match turn.await {
                Turn::Over(ended) => return Ok(ended),
                Turn::Broken(status) => {
                    if welcomed {
                        was_let_in = true;
                        pause = RECONNECT_PAUSE_FIRST;
                    }
                    let is_final =
                        matches!(status.code(), Code::InvalidArgument | Code::Unimplemented | Code::PermissionDenied);
                    if is_final && !was_let_in {
                        return Err(status);
                    }
                    let advice = match status.code() {
                        Code::Unimplemented => "; the server runs no actions: start it with execution",
                        Code::PermissionDenied | Code::Unauthenticated => "; the server does not let this worker in",
                        _ => "",
                    };
                    tracing::warn!(
                        event = "worker.disconnected",
                        code = ?status.code(),
                        message = status.message(),
                        leases = self.leases.len(),
                        "no stream to the server{advice}; connecting again"
                    );
                    if let Some(ended) = self.wait(&mut asks, pause).await {
                        return Ok(ended);
                    }
                    pause = (pause * 2).min(RECONNECT_PAUSE_MAX);
                }
            }
        }
    }

    /// Between two streams: results come in and are kept.
    async fn wait(&mut self, asks: &mut Asks, pause: Duration) -> Option<Ended> {
        let until = Instant::now() + pause;
        loop {
            if self.is_drained() {
                return Some(Ended::Drained);
            }
            tokio::select! {
                () = tokio::time::sleep_until(until) => return None,
                () = sleep_until(self.drain_until) => return Some(self.cut_off()),
                Some(()) = asks.recv() => {
                    if self.drain_until.is_some() {
                        return Some(self.cut_off());
                    }
                    self.begin_drain();
                }
                Some(progress) = self.progress.recv() => self.note(&progress),
                Some(finished) = self.tasks.join_next() => { self.finish(finished); }
            }
        }
    }

    /// One stream, from hello to its end.
    async fn stream(&mut self, asks: &mut Asks, connected: impl FnOnce()) -> Turn {
        let (outbox, messages) = mpsc::channel(OUTBOX_MESSAGES_MAX);
        let outbox = Outbox(outbox);
        let hello = from_worker::Message::Hello(self.hello());
        if let Err(status) = outbox.send(hello) {
            return Turn::Broken(status);
        }
        let mut client = WorkersClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let opening = async move {
            let open = async {
                let mut stream = client.session(ReceiverStream::new(messages)).await?.into_inner();
                match stream.message().await?.and_then(|message| message.message) {
                    Some(to_worker::Message::Welcome(welcome)) => Ok((stream, welcome)),
                    _ => Err(Status::unavailable("the server did not say welcome")),
                }
            };
            let late = || Status::deadline_exceeded("the server did not say welcome in time");
            tokio::time::timeout(WELCOME_WAIT_MAX, open).await.unwrap_or_else(|_| Err(late()))
        };
        let mut opening = std::pin::pin!(opening);
        let (stream, welcome) = loop {
            tokio::select! {
                opened = &mut opening => match opened {
                    Ok(opened) => break opened,
                    Err(status) => return Turn::Broken(status),
                },
                () = sleep_until(self.drain_until) => return Turn::Over(self.cut_off()),
                Some(()) = asks.recv() => {
                    if self.drain_until.is_some() {
                        return Turn::Over(self.cut_off());
                    }
                    self.begin_drain();
                    if self.is_drained() {
                        return Turn::Over(Ended::Drained);
                    }
                }
                Some(progress) = self.progress.recv() => self.note(&progress),
                Some(finished) = self.tasks.join_next() => { self.finish(finished); }
            }
        };
        connected();
        match self.serve(stream, &welcome, &outbox, asks).await {
            Ok(ended) => Turn::Over(ended),
            Err(status) => Turn::Broken(status),
        }
    }

    async fn serve(
        &mut self,
        mut stream: Streaming<ToWorker>,
        welcome: &Welcome,
        outbox: &Outbox,
        asks: &mut Asks,
    ) -> Result<Ended, Status> {
        self.resume(welcome, outbox)?;
        let interval = welcome.heartbeat_interval.and_then(|interval| Duration::try_from(interval).ok());
        let mut heartbeat = tokio::time::interval(interval.unwrap_or(HEARTBEAT_DEFAULT).max(HEARTBEAT_MIN));
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if self.is_drained() {
                return Ok(Ended::Drained);
            }
            tokio::select! {
                message = stream.message() => {
                    let message = message?.ok_or_else(|| Status::unavailable("the server ended the stream"))?;
                    self.hear(message, outbox)?;
                }
                _ = heartbeat.tick() => {
                    let lease_ids = self.leases.keys().cloned().collect();
                    outbox.send(from_worker::Message::Heartbeat(Heartbeat { lease_ids }))?;
                }
                Some(progress) = self.progress.recv() => {
                    self.note(&progress);
                    // A run that was cancelled is of no interest any more.
                    if self.leases.contains_key(&progress.lease_id) {
                        outbox.send(from_worker::Message::Progress(progress))?;
                    }
                }
                Some(finished) = self.tasks.join_next() => {
                    if let Some(finished) = self.finish(finished) {
                        outbox.send(from_worker::Message::Finished(finished))?;
                    }
                }
                () = sleep_until(self.drain_until) => return Ok(self.cut_off()),
                Some(()) = asks.recv() => {
                    if self.drain_until.is_some() {
                        return Ok(self.cut_off());
                    }
                    self.begin_drain();
                    outbox.send(from_worker::Message::Drain(Drain {}))?;
                }
            }
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            worker_name: self.options.name.clone(),
            instance_name: self.options.instance.to_string(),
            concurrency: self.options.concurrency,
            platforms: self.options.platforms.clone(),
            held_lease_ids: self.leases.keys().cloned().collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process_id: self.process_id.clone(),
        }
    }

    /// Stops what the server does not count on, and says again what it may not have heard.
    fn resume(&mut self, welcome: &Welcome, outbox: &Outbox) -> Result<(), Status> {
        let lost: Vec<String> = self.leases.keys().filter(|id| !welcome.kept_lease_ids.contains(id)).cloned().collect();
        for lease_id in lost {
            self.forget(&lease_id);
        }
        if self.drain_until.is_some() {
            outbox.send(from_worker::Message::Drain(Drain {}))?;
        }
        for lease in self.leases.values() {
            match lease {
                Lease::Running { progress: Some(progress), .. } => {
                    outbox.send(from_worker::Message::Progress((**progress).clone()))?;
                }
                Lease::Running { progress: None, .. } => {}
                Lease::Finished(finished) => {
                    outbox.send(from_worker::Message::Finished((**finished).clone()))?;
                }
            }
        }
        Ok(())
    }

    fn hear(&mut self, message: ToWorker, outbox: &Outbox) -> Result<(), Status> {
        match message.message {
            Some(to_worker::Message::Assignment(assignment)) => self.begin(assignment, outbox),
            Some(to_worker::Message::Cancel(cancel)) => {
                self.forget(&cancel.lease_id);
                Ok(())
            }
            Some(to_worker::Message::Acknowledged(acknowledged)) => {
                if matches!(self.leases.get(&acknowledged.lease_id), Some(Lease::Finished(_))) {
                    self.leases.remove(&acknowledged.lease_id);
                }
                Ok(())
            }
            Some(to_worker::Message::Drain(_)) => {
                if self.drain_until.is_none() {
                    self.begin_drain();
                }
                Ok(())
            }
            // Said once more, or of a later version of the protocol.
            Some(to_worker::Message::Welcome(_)) | None => Ok(()),
        }
    }

    fn begin(&mut self, assignment: Assignment, outbox: &Outbox) -> Result<(), Status> {
        let lease_id = assignment.lease_id.clone();
        if self.leases.contains_key(&lease_id) {
            return Ok(());
        }
        let running = self.leases.values().filter(|lease| matches!(lease, Lease::Running { .. })).count();
        if running >= self.options.concurrency as usize {
            let finished = Finished { lease_id, response: None, worker_fault: true };
            return outbox.send(from_worker::Message::Finished(finished));
        }
        let execution = execute(Arc::clone(&self.parts), assignment, self.progress_sender.clone());
        let task = self.tasks.spawn(execution);
        self.leases.insert(lease_id, Lease::Running { task, progress: None });
        Ok(())
    }

    fn note(&mut self, said: &Progress) {
        if let Some(Lease::Running { progress, .. }) = self.leases.get_mut(&said.lease_id) {
            *progress = Some(Box::new(said.clone()));
        }
    }

    /// The result of a lease that is still held.
    fn finish(&mut self, finished: Result<Finished, tokio::task::JoinError>) -> Option<Finished> {
        let finished = match finished {
            Ok(finished) => finished,
            // Forgotten already.
            Err(error) if error.is_cancelled() => return None,
            Err(error) => {
                let id = self.leases.iter().find_map(|(id, lease)| match lease {
                    Lease::Running { task, .. } if task.id() == error.id() => Some(id.clone()),
                    _ => None,
                })?;
                tracing::error!(event = "worker.panicked", lease_id = id, "an execution panicked");
                Finished { lease_id: id, response: None, worker_fault: true }
            }
        };
        let finished = bounded(finished);
        let lease = self.leases.get_mut(&finished.lease_id)?;
        *lease = Lease::Finished(Box::new(finished.clone()));
        Some(finished)
    }

    /// Ends it if it runs. The runner sees its call go, and nothing is sent.
    fn forget(&mut self, lease_id: &str) {
        if let Some(Lease::Running { task, .. }) = self.leases.remove(lease_id) {
            task.abort();
        }
    }

    fn begin_drain(&mut self) {
        tracing::info!(
            event = "worker.draining",
            leases = self.leases.len(),
            "finishing what runs; another signal ends at once"
        );
        self.drain_until = Some(Instant::now() + self.options.drain_timeout);
    }

    fn is_drained(&self) -> bool {
        self.drain_until.is_some() && self.leases.is_empty()
    }

    fn cut_off(&mut self) -> Ended {
        self.tasks.abort_all();
        Ended::CutOff { leases: self.leases.len() }
    }
}

/// A result that the stream cannot carry would break it each time that it is said; without the names of its outputs it can be, and is
/// refused for good.
fn bounded(mut finished: Finished) -> Finished {
    let size = finished.response.as_ref().map_or(0, prost::Message::encoded_len);
    if size <= RESPONSE_BYTES_MAX {
        return finished;
    }
    let message = format!(
        "the result names so many outputs that it has {size} bytes; {RESPONSE_BYTES_MAX} are the most that can be told"
    );
    let status = rpc::Status { code: Code::FailedPrecondition as i32, message, ..rpc::Status::default() };
    let result = finished.response.take().and_then(|response| response.result).map(|result| ActionResult {
        exit_code: result.exit_code,
        stdout_digest: result.stdout_digest,
        stderr_digest: result.stderr_digest,
        execution_metadata: result.execution_metadata,
        ..ActionResult::default()
    });
    finished.response = Some(ExecuteResponse { result, status: Some(status), ..ExecuteResponse::default() });
    finished
}

struct Outbox(mpsc::Sender<FromWorker>);

impl Outbox {
    fn send(&self, message: from_worker::Message) -> Result<(), Status> {
        self.0
            .try_send(FromWorker { message: Some(message) })
            .map_err(|_| Status::unavailable("the server does not read what it is told"))
    }
}

/// Never, for `None`.
async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
