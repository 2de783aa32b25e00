//! The supervisor: one process for one run. It sets up the isolation, starts the command, waits, and does not end before every
//! process of the run is gone. The runner executes its own binary again for it, so the runner never forks with threads, and the
//! worker, which writes executables, forks nothing.
//!
//! ```text
//! runner ──exec──▶ supervisor ──fork──▶ command                               host
//! runner ──exec──▶ supervisor ──fork──▶ init (PID 1 inside) ──fork──▶ command  sandbox
//! runner ──exec──▶ supervisor ──exec──▶ engine's client                        container
//! ```
//! Standard input is the plan and, after it, the life line: when its other end is closed, by the runner's wish or death,
//! everything is killed. Standard output takes the report.

mod container;
mod host;
mod launch;
mod ownership;
mod places;
mod sandbox;
mod strays;
mod view;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::ExitCode;

use prost::Message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitOptions, WaitStatus};

use super::kernel;
use super::plan::{Ending, Plan, PlanLevel, Report, UsageReport};

/// The largest plan that is read; a command line and an environment have to fit into less.
const PLAN_BYTES_MAX: u32 = 64 * 1024 * 1024;

/// Why a run did not come to an end of its own.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// The request is at fault, and will be on every machine.
    #[error("{0}")]
    Refused(String),
    /// The machine is at fault.
    #[error("cannot {step}: {errno}")]
    Failed { step: String, errno: Errno },
}

impl Trouble {
    fn ending(&self) -> Ending {
        match self {
            Self::Refused(sentence) => Ending::Refused(sentence.clone()),
            Self::Failed { .. } => Ending::Failed(self.to_string()),
        }
    }
}

/// Names the step for the case that it fails: `fork().map_err(failed("fork"))?`.
fn failed<E: Into<Errno>>(step: impl Into<String>) -> impl FnOnce(E) -> Trouble {
    move |error| Trouble::Failed { step: step.into(), errno: error.into() }
}

/// The whole life of a supervisor. To be called before the process starts a thread or opens anything.
pub(super) fn supervise() -> ExitCode {
    // Nobody could be told why not: the runner sees an end without a report.
    let Ok((plan, runner)) = prepare() else { return ExitCode::FAILURE };
    let report = carry_out(&plan, &runner);
    // A runner that is gone reads no report.
    let _ = File::from(runner.report).write_all(&report.encode_to_vec());
    ExitCode::SUCCESS
}

/// The supervisor's ends of the pipes to the runner.
struct Runner {
    /// Has something to read when everything has to end.
    life_line: OwnedFd,
    report: OwnedFd,
}

fn prepare() -> Result<(Plan, Runner), std::io::Error> {
    kernel::close_on_exec_from(3)?;
    kernel::default_signals();
    let runner = Runner {
        life_line: rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?,
        report: rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?,
    };
    let mut from = File::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?);
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > PLAN_BYTES_MAX {
        return Err(Errno::TOOBIG.into());
    }
    let mut encoded = vec![0; length as usize];
    from.read_exact(&mut encoded)?;
    let plan = Plan::decode(encoded.as_slice()).map_err(std::io::Error::other)?;
    Ok((plan, runner))
}

fn carry_out(plan: &Plan, runner: &Runner) -> Report {
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    let mut mount_points = Vec::new();
    let ending = end_of(plan, runner, &mut mount_points).unwrap_or_else(|trouble| trouble.ending());
    let usage = kernel::usage_of_children().ok().map(UsageReport::from);
    Report { ending: Some(ending), usage, mount_points }
}

fn end_of(plan: &Plan, runner: &Runner, mount_points: &mut Vec<String>) -> Result<Ending, Trouble> {
    if let (PlanLevel::Sweep, Some(id)) = (plan.level(), plan.own_id) {
        return strays::end_processes_of(id).map(|()| Ending::Exited(0));
    }
    let places = places::Places::open(plan, mount_points)?;
    match plan.level() {
        PlanLevel::Host => host::run(plan, places, runner),
        PlanLevel::Sandbox => sandbox::run(plan, places, runner),
        PlanLevel::Container => container::run(plan, places, runner),
        PlanLevel::Sweep => Err(Trouble::Refused("a sweep of nobody".to_owned())),
    }
}

impl From<kernel::Usage> for UsageReport {
    fn from(usage: kernel::Usage) -> Self {
        let ns = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self {
            user_ns: ns(usage.user_time),
            system_ns: ns(usage.system_time),
            resident_bytes_max: usage.resident_bytes_max,
            page_reclaims: usage.page_reclaims,
            page_faults: usage.page_faults,
            swaps: usage.swaps,
            block_inputs: usage.block_inputs,
            block_outputs: usage.block_outputs,
            messages_sent: usage.messages_sent,
            messages_received: usage.messages_received,
            signals_received: usage.signals_received,
            voluntary_switches: usage.voluntary_switches,
            involuntary_switches: usage.involuntary_switches,
        }
    }
}

/// What a child has to say beside its exit code: that it failed before it became the command, or how the command ended.
struct Word {
    read: OwnedFd,
    write: OwnedFd,
}

impl Word {
    fn new() -> Result<Self, Trouble> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed("make a pipe"))?;
        Ok(Self { read, write })
    }

    /// For the parent, when the child has ended: what came first.
    fn receive(self) -> Option<Ending> {
        drop(self.write);
        let mut encoded = Vec::new();
        File::from(self.read).read_to_end(&mut encoded).ok()?;
        Report::decode_length_delimited(encoded.as_slice()).ok()?.ending
    }
}

fn send(to: BorrowedFd<'_>, ending: Ending) {
    let report = Report { ending: Some(ending), usage: None, mount_points: Vec::new() };
    // Less than a pipe holds; and a parent that is gone needs no message.
    let _ = rustix::io::write(to, &report.encode_length_delimited_to_vec());
}

/// What a wait for a child was ended by.
enum Waited {
    /// It ended, and is reaped.
    Ended(WaitStatus),
    /// The runner wants the end, or is gone; the child is as it was.
    Stop,
}

/// How often children that were left by their parents are reaped while the command runs.
const REAP_INTERVAL: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Waits for a child, watching the life line, reaping others that come to their end meanwhile.
fn wait_for(child: Pid, life_line: BorrowedFd<'_>) -> Result<Waited, Trouble> {
    let handle = rustix::process::pidfd_open(child, PidfdFlags::empty()).map_err(failed("watch the command"))?;
    loop {
        let mut events = [PollFd::new(&handle, PollFlags::IN), PollFd::from_borrowed_fd(life_line, PollFlags::IN)];
        match poll(&mut events, Some(&REAP_INTERVAL)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(failed("watch the command")(errno)),
        }
        let asked_to_stop = !events[1].revents().is_empty();
        while let Some((pid, status)) =
            rustix::process::wait(WaitOptions::NOHANG).map_err(failed("wait for the command"))?
        {
            if pid == child {
                return Ok(Waited::Ended(status));
            }
        }
        if asked_to_stop {
            return Ok(Waited::Stop);
        }
    }
}

fn ending_of(status: WaitStatus) -> Ending {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ending::Exited(code),
        (None, Some(signal)) => Ending::Signalled(signal),
        (None, None) => Ending::Failed("the command ended in a way that the kernel does not describe".to_owned()),
    }
}

/// Lets the kernel kill this process when its parent ends.
fn die_with(parent: Pid) -> Result<(), Trouble> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(failed("ask for an end with the supervisor"))?;
    // It may have ended before it was asked. Inside a new PID namespace it has no number, which is as good as its own.
    match rustix::process::getppid() {
        Some(now) if now != parent => std::process::exit(1),
        _ => Ok(()),
    }
}

/// Moves this process into the control group of the run, if it has one.
fn enter_cgroup(places: &places::Places) -> Result<(), Trouble> {
    match &places.cgroup {
        // The kernel asks whether who opened the file may do this, not who writes to it.
        Some(procs) => rustix::io::write(procs, b"0").map(|_| ()).map_err(failed("enter the control group")),
        None => Ok(()),
    }
}
