//! Buildbarn's runner protocol, on top of [`run`].
//!
//! | what happened | answer |
//! |---|---|
//! | the command ended | exit code; 128 + n when signal n ended it, and the signal's name in the resource usage |
//! | the command is not there, cannot be executed | exit code 127, 126, and a line on its stderr, as from a shell |
//! | a path leaves its folder, is missing, or the request makes no sense | `INVALID_ARGUMENT` |
//! | the time was over | `DEADLINE_EXCEEDED`, when all processes are gone |
//! | too much on stdout or stderr | `FAILED_PRECONDITION`, when all processes are gone |
//! | the machine failed | `INTERNAL`: another attempt may do better |

use std::sync::Arc;

use cask_proto::resourceusage::PosixResourceUsage;
use cask_proto::runner::{CheckReadinessRequest, RunRequest, RunResponse, runner_server};
use prost_types::{Any, Duration};
use tokio::sync::{Semaphore, oneshot};
use tonic::{Request as Call, Response, Status};

use super::cgroup::Cgroups;
use super::identities::{self, Identities};
use super::options::{Level, RunnerOptions};
use super::plan::UsageReport;
use super::request::{Request, inside};
use super::run::{self, Bounds, Outcome};
use super::signal;

/// One runner's state; cheap to clone.
#[derive(Clone)]
pub(super) struct RunnerService {
    shared: Arc<Shared>,
}

struct Shared {
    options: RunnerOptions,
    level: Level,
    permits: Arc<Semaphore>,
    /// When the runner is root.
    identities: Option<Identities>,
    cgroups: Option<Cgroups>,
}

impl RunnerService {
    /// `options.build_dir` and the folders that are hidden and shown are absolute and without symbolic links.
    pub(super) fn new(options: RunnerOptions, level: Level, cgroups: Option<Cgroups>) -> Self {
        let identities = identities::are_available(options.user_ids).then(|| Identities::new(options.user_ids));
        let permits = Arc::new(Semaphore::new(options.concurrency));
        Self { shared: Arc::new(Shared { options, level, permits, identities, cgroups }) }
    }

    /// Runs a request to its end in a task of its own, so that a caller that goes away ends the command and loses nothing else.
    async fn run_to_end(&self, request: Request) -> Result<Outcome, Status> {
        let permit = self.shared.permits.clone().acquire_owned().await.map_err(|_| Status::unavailable("ending"))?;
        let shared = self.shared.clone();
        let (wanted, dropped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let _permit = permit;
            shared.run(request, dropped).await
        });
        let outcome = task.await;
        drop(wanted);
        outcome.unwrap_or_else(|_| Err(Status::internal("a run broke an invariant of the runner; its log says where")))
    }
}

impl Shared {
    async fn run(&self, request: Request, dropped: oneshot::Receiver<()>) -> Result<Outcome, Status> {
        // Gone, with what is in it, before the run's user is free again.
        let cgroup = match &self.cgroups {
            Some(cgroups) => Some(
                cgroups
                    .make(self.options.limits(&request))
                    .map_err(|error| Status::internal(format!("cannot make a control group: {error}")))?,
            ),
            None => None,
        };
        let bounds = Bounds { timeout: request.timeout, output_bytes_max: self.options.output_bytes_max };
        let mut plan =
            self.options.plan(self.level, request).map_err(|error| Status::invalid_argument(error.to_string()))?;
        if let Some(cgroup) = &cgroup {
            plan.cgroup_procs = cgroup.procs().to_string_lossy().into_owned();
        }
        let identity = match &self.identities {
            Some(identities) => Some(identities.take().map_err(|error| Status::resource_exhausted(error.to_string()))?),
            None => None,
        };
        if let Some(identity) = &identity {
            plan.own_id = Some(identity.id);
            plan.sweep_first = identity.is_fresh;
        }
        let outcome = run::carry_out(&plan, bounds, dropped).await;
        // It may wait a moment for the kernel.
        let _ = tokio::task::spawn_blocking(move || drop(cgroup)).await;
        if let (Some(identities), Some(identity)) = (&self.identities, &identity) {
            // A failed supervisor may have left processes; a user that has some is not used again.
            let is_clean = !matches!(outcome, Outcome::Failed(_)) || run::sweep(identity.id).await.is_ok();
            if is_clean {
                identities.give_back(identity);
            }
        }
        Ok(outcome)
    }
}

#[tonic::async_trait]
impl runner_server::Runner for RunnerService {
    async fn check_readiness(&self, call: Call<CheckReadinessRequest>) -> Result<Response<()>, Status> {
        let path =
            inside("path", &call.into_inner().path).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let place = self.shared.options.build_dir.join(path);
        match tokio::fs::symlink_metadata(&place).await {
            Ok(_) => Ok(Response::new(())),
            Err(error) => Err(Status::unavailable(format!("{} is not there: {error}", place.display()))),
        }
    }

    async fn run(&self, call: Call<RunRequest>) -> Result<Response<RunResponse>, Status> {
        let (metadata, _, request) = call.into_parts();
        let request =
            Request::parse(request, &metadata).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (exit_code, usage, termination_signal) = match self.run_to_end(request).await? {
            Outcome::Exited { code, usage } => (code, usage, String::new()),
            Outcome::Signalled { signal, usage } => (128 + signal, usage, signal::name(signal)),
            Outcome::TimedOut => return Err(Status::deadline_exceeded("the command took longer than its timeout")),
            Outcome::TooMuchOutput { limit_bytes } => {
                return Err(Status::failed_precondition(format!(
                    "the command wrote more than {limit_bytes} bytes to stdout or stderr"
                )));
            }
            Outcome::Stopped => return Err(Status::cancelled("the run was ended on its caller's wish")),
            Outcome::Refused(sentence) => return Err(Status::invalid_argument(sentence)),
            Outcome::Failed(sentence) => {
                tracing::error!(event = "runner.run_failed", "{sentence}");
                return Err(Status::internal(sentence));
            }
        };
        let usage = Any::from_msg(&usage_message(&usage, termination_signal))
            .map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(RunResponse { exit_code: i64::from(exit_code), resource_usage: vec![usage] }))
    }
}

fn usage_message(usage: &UsageReport, termination_signal: String) -> PosixResourceUsage {
    let duration = |ns: u64| Duration { seconds: (ns / 1_000_000_000) as i64, nanos: (ns % 1_000_000_000) as i32 };
    PosixResourceUsage {
        user_time: Some(duration(usage.user_ns)),
        system_time: Some(duration(usage.system_ns)),
        maximum_resident_set_size: usage.resident_bytes_max,
        page_reclaims: usage.page_reclaims,
        page_faults: usage.page_faults,
        swaps: usage.swaps,
        block_input_operations: usage.block_inputs,
        block_output_operations: usage.block_outputs,
        messages_sent: usage.messages_sent,
        messages_received: usage.messages_received,
        signals_received: usage.signals_received,
        voluntary_context_switches: usage.voluntary_switches,
        involuntary_context_switches: usage.involuntary_switches,
        termination_signal,
    }
}
