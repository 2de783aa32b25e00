//! The host level: the command sees the machine as any process of its user does.
//!
//! What makes it one run: a session and a process group of its own; when the runner is root a user of its own, who owns the run's
//! folders and nothing else; a clean environment, limits, no way to gain privileges. When the command has ended, whatever it left
//! is killed before the report.

use std::os::fd::AsFd;

use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::process::Pid;

use super::places::{Places, absolute};
use super::{Runner, Trouble, Waited, Word, ending_of, failed, launch, send, strays, wait_for};
use crate::runner::kernel::{self, Fork};
use crate::runner::plan::{Ending, Plan};

pub(super) fn run(plan: &Plan, places: Places, runner: &Runner) -> Result<Ending, Trouble> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(failed("become a subreaper"))?;
    rustix::thread::set_no_new_privs(true).map_err(failed("give up new privileges"))?;
    if let (Some(id), true) = (plan.own_id, plan.sweep_first) {
        strays::end_processes_of(id)?;
    }
    let supervisor = rustix::process::getpid();
    let word = Word::new()?;
    let child = match kernel::fork().map_err(failed("fork"))? {
        Fork::Child => {
            let code = become_command(plan, &places, supervisor).unwrap_or_else(|trouble| {
                send(word.write.as_fd(), trouble.ending());
                1
            });
            std::process::exit(code);
        }
        Fork::Parent { child } => child,
    };
    drop(places);
    let waited = wait_for(child, runner.life_line.as_fd());
    strays::end_all(plan.own_id)?;
    let ending = match waited? {
        Waited::Ended(status) => ending_of(status),
        Waited::Stop => Ending::Stopped(true),
    };
    Ok(word.receive().unwrap_or(ending))
}

fn become_command(plan: &Plan, places: &Places, supervisor: Pid) -> Result<i32, Trouble> {
    rustix::process::setsid().map_err(failed("start a session"))?;
    super::enter_cgroup(places)?;
    launch::take_streams(places)?;
    launch::take_limits(plan)?;
    if let Some(id) = plan.own_id {
        become_user(id).map_err(failed("become the run's user"))?;
    }
    // After the change of the user, which undoes it.
    super::die_with(supervisor)?;
    rustix::process::fchdir(&places.working_directory).map_err(failed("enter the working directory"))?;
    let temporary = (!plan.temporary.is_empty()).then(|| absolute(plan, &plan.temporary));
    Ok(launch::execute(plan, temporary.as_deref()))
}

/// Becomes the user and the group of this number, in no other group, for good.
pub(super) fn become_user(id: u32) -> Result<(), Errno> {
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)
}
