//! One action, from its assignment to what is said of it.
//!
//! ```text
//! fetch Action, Command, directories, files -> make the root -> run -> collect and upload outputs -> Finished
//!    `-- missing, malformed: refused             `-- time over: what it printed
//! ```
//! Everything is bounded by what is checked before it is made. The machine's faults are told from the action's: the first go to another
//! worker, the second to the client.
//!
//! Cancel safe at each step: dropping an execution drops the call of the runner, which ends the command's processes, and removes the folder.

use std::{
    collections::BTreeMap,
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use cask_index::{Digest, DigestFunction};
use cask_proto::{
    InstanceName,
    digest::{DigestRule, FunctionRule},
    reapi::{self, ExecuteResponse, ExecutedActionMetadata, LogFile},
    rpc,
    run_options::RunOptions,
    runner::{RunRequest, RunResponse},
    workers::{Assignment, Finished, Progress},
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinError,
};
use tonic::{Code, transport::Channel};

use super::{
    InputRootAsRoot, WorkerLimits,
    action_folder::{ActionFolder, BuildFolder},
    fault::{ExecutionFault, missing_status},
    file_cache::FileCache,
    input_files,
    input_tree::{DirectoryCache, InputTree},
    logs::LiveLogs,
    outputs,
    printed::Printed,
    root::{make_output_parents, make_root},
    run_options::run_options,
    runner_client::{RunOutcome, RunnerClient},
};
use crate::{
    action::{CheckedAction, CheckedCommand, requirements},
    client::{RemoteCache, RetryPolicy},
};

/// What a timed-out command's exit code is: that of a killed one.
const KILLED_EXIT_CODE: i32 = 128 + 9;

/// A worker that can run nothing, its disk being full or its runner gone, must not be the one that is always free: each fault in a row
/// takes twice as long to be said.
const FAULT_PAUSE_FIRST: Duration = Duration::from_millis(50);
const FAULT_PAUSE_MAX: Duration = Duration::from_secs(10);

/// A server that restarts, or is away for some minutes, costs time and no results: the lease says when nobody waits for us any more.
pub(crate) const PATIENT: RetryPolicy =
    RetryPolicy { attempts_max: 150, delay_first: Duration::from_millis(100), delay_max: Duration::from_secs(5) };

/// What all executions of a worker share.
pub(crate) struct Parts {
    pub(crate) worker_name: String,
    /// Of the worker's instance.
    pub(crate) remote: RemoteCache,
    pub(crate) channel: Channel,
    pub(crate) instance: InstanceName,
    pub(crate) files: Arc<FileCache>,
    pub(crate) directories: DirectoryCache,
    pub(crate) fetches: Arc<Semaphore>,
    pub(crate) build: BuildFolder,
    pub(crate) runner: Arc<RunnerClient>,
    pub(crate) limits: WorkerLimits,
    pub(crate) input_root_as_root: InputRootAsRoot,
    /// That make one root.
    pub(crate) root_threads: usize,
    /// Of the machine, since an action last ran.
    pub(crate) faults: AtomicU32,
}

/// Where an execution says how far it is.
pub(crate) type ProgressSender = mpsc::Sender<Progress>;

/// Executes to the end, whatever that is.
pub(crate) async fn execute(parts: Arc<Parts>, assignment: Assignment, progress: ProgressSender) -> Finished {
    let metadata = ExecutedActionMetadata {
        worker: parts.worker_name.clone(),
        queued_timestamp: assignment.queued_timestamp,
        worker_start_timestamp: now(),
        ..ExecutedActionMetadata::default()
    };
    let lease_id = assignment.lease_id.clone();
    let mut execution =
        Execution { parts, assignment, progress, metadata, partial: None, server_logs: BTreeMap::new() };
    let outcome = execution.run().await;
    let faults = &execution.parts.faults;
    if !matches!(outcome, Err(ExecutionFault::Machine(_))) {
        faults.store(0, Relaxed);
    }
    let (result, status) = match outcome {
        Ok(result) => (Some(result), rpc::Status::default()),
        Err(ExecutionFault::Refused(status)) => (execution.partial.take(), status),
        Err(ExecutionFault::Missing(digests)) => (None, missing_status(digests)),
        Err(ExecutionFault::Machine(reason)) => {
            tracing::warn!(event = "worker.fault", lease_id, reason, "an action goes back to the server");
            let pause = FAULT_PAUSE_FIRST * 2_u32.pow(faults.fetch_add(1, Relaxed).min(16));
            tokio::time::sleep(pause.min(FAULT_PAUSE_MAX)).await;
            let status = rpc::Status { code: Code::Unavailable as i32, message: reason, ..rpc::Status::default() };
            let response = ExecuteResponse { status: Some(status), ..ExecuteResponse::default() };
            return Finished { lease_id, response: Some(response), worker_fault: true };
        }
    };
    execution.metadata.worker_completed_timestamp = now();
    let metadata = execution.metadata;
    let response = ExecuteResponse {
        result: result.map(|result| reapi::ActionResult { execution_metadata: Some(metadata), ..result }),
        status: Some(status),
        server_logs: execution.server_logs,
        ..ExecuteResponse::default()
    };
    Finished { lease_id, response: Some(response), worker_fault: false }
}

struct Execution {
    parts: Arc<Parts>,
    assignment: Assignment,
    progress: ProgressSender,
    metadata: ExecutedActionMetadata,
    /// What there is of a result when the execution is refused after the run.
    partial: Option<reapi::ActionResult>,
    server_logs: BTreeMap<String, LogFile>,
}

/// All that a run needs, and what the root was made of.
struct Prepared {
    command: CheckedCommand,
    folder: ActionFolder,
    options: RunOptions,
    timeout: Duration,
}

impl Execution {
    async fn run(&mut self) -> Result<reapi::ActionResult, ExecutionFault> {
        let action = self.action()?;
        let remote = self.remote()?;
        self.metadata.input_fetch_start_timestamp = now();
        let prepared = self.prepare(&remote, action).await?;
        self.metadata.input_fetch_completed_timestamp = now();
        self.parts.files.settle();

        self.metadata.execution_start_timestamp = now();
        self.report([None, None]);
        let began = Instant::now();
        let (outcome, logs) = self.run_command(&prepared).await;
        let ran = began.elapsed();
        self.metadata.execution_completed_timestamp = now();
        let outcome = outcome?;

        self.metadata.output_upload_start_timestamp = now();
        let finished = self.hand_in(&remote, action.function(), prepared, outcome, ran).await;
        logs.finish().await;
        self.metadata.output_upload_completed_timestamp = now();
        finished
    }

    fn action(&self) -> Result<Digest, ExecutionFault> {
        FunctionRule::of_request(self.assignment.digest_function, None)
            .and_then(|rule| rule.from_wire_field("action_digest", self.assignment.action_digest.as_ref()))
            .map_err(|error| ExecutionFault::Machine(format!("the assignment makes no sense: {error}")))
    }

    /// The cache as the assignment's instance has it; its calls are the client's.
    fn remote(&self) -> Result<RemoteCache, ExecutionFault> {
        let name = &self.assignment.instance_name;
        let remote = if *name == self.parts.instance.as_str() {
            self.parts.remote.clone()
        } else {
            let instance = InstanceName::parse(name)
                .map_err(|error| ExecutionFault::Machine(format!("the assignment makes no sense: {error}")))?;
            RemoteCache::over(self.parts.channel.clone(), instance, PATIENT)
        };
        Ok(match &self.assignment.request_metadata {
            Some(metadata) => remote.on_behalf_of(metadata),
            None => remote,
        })
    }

    async fn prepare(&self, remote: &RemoteCache, digest: Digest) -> Result<Prepared, ExecutionFault> {
        let parts = &self.parts;
        let rule = DigestRule::like(&digest);
        let action = CheckedAction::decode(rule, self.small_blob(remote, digest, "action").await?)?;
        // All that is missing is said at once, so neither waits for the other.
        let (command, tree) = tokio::join!(
            self.small_blob(remote, action.command, "command"),
            InputTree::fetch(remote, &parts.directories, action.input_root, &parts.limits.input)
        );
        let (command, tree) = match (command, tree) {
            (Ok(command), Ok(tree)) => (command, tree),
            (Err(fault), tree) => return Err(fault.and(tree.err())),
            (_, Err(fault)) => return Err(fault),
        };
        let command = CheckedCommand::decode(command)?;
        if !tree.has_directory(&command.working_directory) {
            return Err(ExecutionFault::invalid(format!(
                "the working directory `{}` is no directory of the input",
                command.working_directory
            )));
        }
        let platform = match &self.assignment.platform {
            Some(platform) => platform.clone(),
            None => requirements(&action, &command),
        };
        let timeout = self.assignment.timeout.and_then(|timeout| Duration::try_from(timeout).ok());
        let timeout = timeout
            .or(action.timeout)
            .ok_or_else(|| ExecutionFault::Machine("the assignment has no timeout".to_owned()))?;
        let options = run_options(&platform, timeout, self.is_filesystem_root(&command, &tree))?;
        let pins = input_files::bring(remote, &parts.files, &parts.fetches, tree.files()).await?;
        let place = parts.build.place().await;
        let made = tokio::task::spawn_blocking({
            let parts = Arc::clone(parts);
            move || {
                let failed = |error: std::io::Error| ExecutionFault::machine("cannot make the input root", &error);
                let folder = parts.build.action_folder(place).map_err(failed)?;
                make_root(folder.root().as_fd(), &tree, &parts.files, &pins, parts.root_threads).map_err(failed)?;
                make_output_parents(folder.root().as_fd(), &command)?;
                Ok::<_, ExecutionFault>((command, folder))
            }
        });
        let (command, folder) = made.await.map_err(badly)??;
        Ok(Prepared { command, folder, options, timeout })
    }

    /// A message that has to fit in memory.
    async fn small_blob(&self, remote: &RemoteCache, digest: Digest, what: &str) -> Result<Bytes, ExecutionFault> {
        if digest.size_bytes() > self.parts.limits.message_bytes_max {
            return Err(ExecutionFault::invalid(format!("the {what} has {} bytes", digest.size_bytes())));
        }
        match remote.read_blobs(&[digest]).await?.pop().flatten() {
            Some(blob) => Ok(blob),
            None => Err(ExecutionFault::Missing(vec![digest])),
        }
    }

    fn is_filesystem_root(&self, command: &CheckedCommand, tree: &InputTree) -> bool {
        match self.parts.input_root_as_root {
            InputRootAsRoot::Never => false,
            InputRootAsRoot::Always => true,
            InputRootAsRoot::Auto => tree.has_program(command),
        }
    }

    /// Runs, and tells of log streams meanwhile.
    async fn run_command(&self, prepared: &Prepared) -> (Result<RunOutcome, ExecutionFault>, LiveLogs) {
        let Prepared { command, folder, options, .. } = prepared;
        let request = RunRequest {
            arguments: command.arguments.clone(),
            environment_variables: command.environment.iter().cloned().collect(),
            working_directory: command.working_directory.to_string(),
            stdout_path: folder.relative("stdout"),
            stderr_path: folder.relative("stderr"),
            input_root_directory: folder.relative("root"),
            temporary_directory: folder.relative("tmp"),
            server_logs_directory: folder.relative("server_logs"),
        };
        let (names, mut named) = mpsc::channel(2);
        let channel = self.parts.channel.clone();
        let instance = self.parts.instance.clone();
        let logs = LiveLogs::watch(channel, instance, Arc::clone(folder.directory()), names);
        let mut run = std::pin::pin!(self.parts.runner.run(request, options));
        loop {
            tokio::select! {
                outcome = &mut run => return (outcome, logs),
                Some(names) = named.recv() => self.report(names),
            }
        }
    }

    /// Collects and uploads what the command made.
    async fn hand_in(
        &mut self,
        remote: &RemoteCache,
        function: DigestFunction,
        prepared: Prepared,
        outcome: RunOutcome,
        ran: Duration,
    ) -> Result<reapi::ActionResult, ExecutionFault> {
        let (exit_code, timeout) = match outcome {
            RunOutcome::Exited(RunResponse { exit_code, resource_usage }) => {
                self.metadata.auxiliary_metadata = resource_usage;
                (exit_code as i32, None)
            }
            RunOutcome::TimedOut => (KILLED_EXIT_CODE, Some(prepared.timeout)),
        };
        self.metadata.virtual_execution_duration = prost_types::Duration::try_from(ran).ok();
        let limits = self.parts.limits.output.clone();
        let collected = tokio::task::spawn_blocking(move || {
            let Prepared { command, folder, .. } = prepared;
            let printed = Printed::collect(&folder, function, exit_code)?;
            // What a command leaves that did not come to its end is not what was asked for.
            let outputs = timeout.is_none().then(|| outputs::collect(folder.root(), &command, function, &limits));
            Ok::<_, ExecutionFault>((printed, outputs, folder))
        });
        // The folder stays until all is uploaded.
        let (printed, outputs, _folder) = collected.await.map_err(badly)??;
        let Printed { result: printed, server_logs, upload } = printed;
        upload.upload(remote).await?;
        self.server_logs = server_logs;
        let outputs = match outputs {
            Some(Ok(outputs)) => outputs,
            Some(Err(fault)) => {
                self.partial = Some(printed);
                return Err(fault);
            }
            None => {
                self.partial = Some(printed);
                let seconds = timeout.unwrap_or_default().as_secs_f64();
                let message = format!("the command ran for longer than its timeout of {seconds} s and was ended");
                return Err(ExecutionFault::refused(Code::DeadlineExceeded, message));
            }
        };
        outputs.upload.upload(remote).await?;
        Ok(reapi::ActionResult {
            output_files: outputs.result.output_files,
            output_directories: outputs.result.output_directories,
            output_symlinks: outputs.result.output_symlinks,
            output_file_symlinks: outputs.result.output_file_symlinks,
            output_directory_symlinks: outputs.result.output_directory_symlinks,
            ..printed
        })
    }

    /// Says how far the execution is. One that is not heard is no loss.
    fn report(&self, [stdout, stderr]: [Option<String>; 2]) {
        let _ = self.progress.try_send(Progress {
            lease_id: self.assignment.lease_id.clone(),
            partial_metadata: Some(self.metadata.clone()),
            stdout_stream_name: stdout.unwrap_or_default(),
            stderr_stream_name: stderr.unwrap_or_default(),
        });
    }
}

#[expect(clippy::unnecessary_wraps, reason = "fields of messages are optional")]
fn now() -> Option<prost_types::Timestamp> {
    Some(SystemTime::now().into())
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn badly(error: JoinError) -> ExecutionFault {
    ExecutionFault::Machine(format!("the work on an action ended badly: {error}"))
}
