//! The worker's side of Buildbarn's runner protocol, with our own options in a header that other runners do not read.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use cask_proto::{
    run_options::RunOptions,
    runner::{CheckReadinessRequest, RunRequest, RunResponse, runner_client::RunnerClient as Client},
};
use prost::Message as _;
use tokio::sync::RwLock;
use tonic::{Code, Request, Status, metadata::MetadataValue, transport::Channel};

use super::fault::ExecutionFault;

const OPTIONS_HEADER: &str = "cask-run-options-bin";
/// What is in a runner's answer is short.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How much later than the timeout itself we end a run on our own: runners that know the timeout end it in time, with all its
/// processes.
const FOREIGN_GRACE: Duration = Duration::from_secs(15);
/// How long a runner that does not answer is waited for: one that is being started again needs a moment.
const READY_WAIT_MAX: Duration = Duration::from_secs(20);
const READY_PAUSE: Duration = Duration::from_millis(50);

/// How a run ended.
#[derive(Debug)]
pub(crate) enum RunOutcome {
    /// By itself; all its processes are gone.
    Exited(RunResponse),
    /// It was ended after its time.
    TimedOut,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct RunnerClient {
    client: Client<Channel>,
    /// Held for writing while a runner is started. A process that is being forked has all our descriptors for a moment, and a
    /// program that is open for writing anywhere cannot be executed; so no run begins in that moment.
    starting: RwLock<()>,
    /// The last run failed for want of a runner.
    is_suspect: AtomicBool,
}

impl RunnerClient {
    pub(crate) fn new(channel: Channel) -> Self {
        Self {
            client: Client::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX),
            starting: RwLock::new(()),
            is_suspect: false.into(),
        }
    }

    /// Waits until the runner says that it is ready; the reason why not after a while.
    pub(crate) async fn wait_until_ready(&self) -> Result<(), ExecutionFault> {
        let deadline = tokio::time::Instant::now() + READY_WAIT_MAX;
        loop {
            let answer = self.client.clone().check_readiness(CheckReadinessRequest::default()).await;
            match answer {
                Ok(_) => return Ok(()),
                Err(status) if tokio::time::Instant::now() >= deadline => {
                    return Err(ExecutionFault::Machine(format!("the runner is not ready: {}", status.message())));
                }
                Err(_) => tokio::time::sleep(READY_PAUSE).await,
            }
        }
    }

    /// Starts a runner while no run begins.
    pub(crate) async fn start_exclusively<T>(&self, start: impl FnOnce() -> T) -> T {
        let _alone = self.starting.write().await;
        start()
    }

    /// Runs a command. Dropping the future ends the run: the runner sees the call go and ends all its processes.
    pub(crate) async fn run(&self, run: RunRequest, options: &RunOptions) -> Result<RunOutcome, ExecutionFault> {
        // Asked only after a failure: else it is one call more for each action.
        if self.is_suspect.load(Relaxed) {
            self.wait_until_ready().await?;
            self.is_suspect.store(false, Relaxed);
        }
        // Only to wait for the end of a start that is under way.
        drop(self.starting.read().await);
        let mut request = Request::new(run);
        request.metadata_mut().insert_bin(OPTIONS_HEADER, MetadataValue::from_bytes(&options.encode_to_vec()));
        let mut client = self.client.clone();
        let call = client.run(request);
        let timeout = options.timeout.and_then(|timeout| Duration::try_from(timeout).ok());
        let answer = match timeout {
            None => call.await,
            Some(timeout) => match tokio::time::timeout(timeout + FOREIGN_GRACE, call).await {
                Ok(answer) => answer,
                Err(_) => return Ok(RunOutcome::TimedOut),
            },
        };
        match answer {
            Ok(response) => Ok(RunOutcome::Exited(response.into_inner())),
            Err(status) if status.code() == Code::DeadlineExceeded => Ok(RunOutcome::TimedOut),
            Err(status) => {
                let fault = refusal(&status);
                self.is_suspect.store(matches!(fault, ExecutionFault::Machine(_)), Relaxed);
                Err(fault)
            }
        }
    }
}

/// What a runner says that did not run the command, or not to its end.
fn refusal(status: &Status) -> ExecutionFault {
    match status.code() {
        Code::InvalidArgument => ExecutionFault::invalid(status.message()),
        Code::FailedPrecondition | Code::NotFound | Code::OutOfRange => ExecutionFault::precondition(status.message()),
        code => ExecutionFault::Machine(format!("the runner failed ({code:?}): {}", status.message())),
    }
}
