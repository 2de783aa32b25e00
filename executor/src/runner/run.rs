//! The life of one run, as the runner sees it: a supervisor is started, and awaited to its end whatever happens to the call.
//!
//! ```text
//! started ──report──▶ ended
//!    │ timeout, too much output, call dropped: the life line is closed
//!    ▼
//! stopping ──report──▶ ended        the supervisor reports when the last process is gone
//! ```
//! A task of its own carries it, so a dropped call cancels nothing but the command. It holds the run's permit and user until
//! the supervisor is gone.

use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use prost::Message;
use rustix::fs::{AtFlags, Mode, OFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};

use super::plan::{Ending, Plan, PlanLevel, Report, UsageReport};
use super::{SUPERVISOR_ARGUMENT, orphans};

/// The binary that runs; a path that stays right when the file is replaced by a newer one.
const OWN_BINARY: &str = "/proc/self/exe";
/// How often the size of a run's output is looked at, where there is a limit.
const OUTPUT_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// How a run ended, seen from outside.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    Exited {
        code: i32,
        usage: UsageReport,
    },
    Signalled {
        signal: i32,
        usage: UsageReport,
    },
    /// All processes were ended when the time was over.
    TimedOut,
    /// All processes were ended because of this much output.
    TooMuchOutput {
        limit_bytes: u64,
    },
    /// All processes were ended on the wish of the caller.
    Stopped,
    /// The request cannot be run anywhere.
    Refused(String),
    /// The machine failed.
    Failed(String),
}

/// What may end a run before its command does.
pub(super) struct Bounds {
    pub(super) timeout: Option<Duration>,
    /// 0: none.
    pub(super) output_bytes_max: u64,
}

/// Runs a plan to its end. `dropped` completes when nobody wants the result any more.
///
/// To be awaited to the end: dropped early, it leaves the supervisor to end by itself, unreaped for a while.
pub(super) async fn carry_out(plan: &Plan, bounds: Bounds, dropped: oneshot::Receiver<()>) -> Outcome {
    let mut supervisor = match start() {
        Ok(supervisor) => supervisor,
        Err(error) => return Outcome::Failed(format!("cannot start a supervisor: {error}")),
    };
    let (Some(mut life_line), Some(mut report)) = (supervisor.stdin.take(), supervisor.stdout.take()) else {
        return Outcome::Failed("a supervisor without pipes".to_owned());
    };
    let encoded = plan.encode_to_vec();
    let mut framed = u32::try_from(encoded.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    framed.extend(encoded);
    // A supervisor that does not read has ended; its missing report says so.
    let _ = life_line.write_all(&framed).await;
    drop(framed);

    let mut received = Vec::new();
    let early = {
        let reading = report.read_to_end(&mut received);
        let overdue = expire(bounds.timeout);
        let flooded = too_much_output(plan, bounds.output_bytes_max);
        tokio::select! {
            biased;
            _ = reading => None,
            // Its sender sends nothing: that it is gone is the message.
            _ = dropped => Some(Outcome::Stopped),
            () = overdue => Some(Outcome::TimedOut),
            () = flooded => Some(Outcome::TooMuchOutput { limit_bytes: bounds.output_bytes_max }),
        }
    };
    drop(life_line);
    if early.is_some() {
        let _ = report.read_to_end(&mut received).await;
    }
    let pid = supervisor.id();
    let status = supervisor.wait().await;
    orphans::forget(pid);
    let report = Report::decode(received.as_slice()).unwrap_or_default();
    tidy(plan, &report);
    let Some(ending) = report.ending else {
        // Nobody else waits for what it left.
        let _ = tokio::task::spawn_blocking(orphans::end_all).await;
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        return Outcome::Failed(format!("the supervisor of the run ended without a report: {status}"));
    };
    let usage = report.usage.unwrap_or_default();
    match (ending, early) {
        // It may have come to its end at the same moment; too late is too late.
        (Ending::Stopped(_) | Ending::Exited(_) | Ending::Signalled(_), Some(early)) => early,
        (Ending::Exited(code), None) => Outcome::Exited { code, usage },
        (Ending::Signalled(signal), None) => Outcome::Signalled { signal, usage },
        (Ending::Refused(sentence), _) => Outcome::Refused(sentence),
        (Ending::Failed(sentence), _) => Outcome::Failed(sentence),
        (Ending::Stopped(_), None) => Outcome::Failed("the supervisor stopped unasked".to_owned()),
    }
}

fn start() -> std::io::Result<Child> {
    let mut command = Command::new(OWN_BINARY);
    command.arg0("cask").arg(SUPERVISOR_ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::piped());
    orphans::start_supervisor(&mut command)
}

/// Kills what a user's processes left whose supervisor did not come to its end. An error if that one does not either.
pub(super) async fn sweep(id: u32) -> Result<(), Outcome> {
    let plan = Plan { level: PlanLevel::Sweep as i32, own_id: Some(id), ..Plan::default() };
    // Held: a sweep that nobody waits for would be ended.
    let (_wanted, dropped) = oneshot::channel();
    match carry_out(&plan, Bounds { timeout: None, output_bytes_max: 0 }, dropped).await {
        Outcome::Exited { code: 0, .. } => Ok(()),
        outcome => Err(outcome),
    }
}

async fn expire(timeout: Option<Duration>) {
    match timeout.and_then(|timeout| Instant::now().checked_add(timeout)) {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// Completes when one of the two streams has become larger than `limit_bytes`.
async fn too_much_output(plan: &Plan, limit_bytes: u64) {
    if limit_bytes == 0 {
        return std::future::pending().await;
    }
    let mut ticks = tokio::time::interval(OUTPUT_CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let Ok(build_dir) = open_folder(&plan.build_dir) else { continue };
        for path in [&plan.stdout, &plan.stderr] {
            let size = rustix::fs::statat(&build_dir, path.as_str(), AtFlags::SYMLINK_NOFOLLOW);
            if size.is_ok_and(|stat| u64::try_from(stat.st_size).is_ok_and(|size| size > limit_bytes)) {
                return;
            }
        }
    }
}

/// Takes back what the supervisor did to the run's folder and could not undo as the user it had become.
fn tidy(plan: &Plan, report: &Report) {
    let root = format!("{}/{}", plan.build_dir, plan.input_root);
    if !report.mount_points.is_empty()
        && let Ok(root) = open_folder(&root)
    {
        for name in &report.mount_points {
            // One that is not empty belongs to the command.
            let _ = rustix::fs::unlinkat(&root, name.as_str(), AtFlags::REMOVEDIR);
        }
    }
    if plan.own_id.is_some()
        && let Some((folder, _)) = plan.input_root.rsplit_once('/')
        && let Ok(folder) = open_folder(&format!("{}/{folder}", plan.build_dir))
    {
        // The user may be another run's soon, and must not find this one's outputs then.
        let _ = rustix::fs::fchmod(&folder, Mode::RWXU);
        let _ = rustix::fs::fchown(&folder, None, Some(rustix::process::getegid()));
    }
}

fn open_folder(path: &str) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}
