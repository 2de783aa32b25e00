//! What a supervisor leaves that was killed before its work was done: a command without privileges of its own can do that to a
//! supervisor of the same user.
//!
//! The runner is a child subreaper, so such orphans become its children; any child that is not a supervisor is one.

use std::collections::HashSet;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, WaitOptions};
use tokio::process::{Child, Command};

/// The supervisors that run. Held while one is started, so that none is taken for an orphan before it is listed.
static SUPERVISORS: Mutex<Option<HashSet<u32>>> = Mutex::new(None);

/// Starts a supervisor; [`forget`] it when it was waited for.
pub(super) fn start_supervisor(command: &mut Command) -> std::io::Result<Child> {
    let mut supervisors = SUPERVISORS.lock();
    let child = command.spawn()?;
    supervisors.get_or_insert_default().extend(child.id());
    Ok(child)
}

pub(super) fn forget(supervisor: Option<u32>) {
    if let (Some(supervisor), Some(supervisors)) = (supervisor, SUPERVISORS.lock().as_mut()) {
        supervisors.remove(&supervisor);
    }
}

/// Kills and reaps all orphans. Blocks until they are gone.
pub(super) fn end_all() {
    loop {
        let orphans = {
            let supervisors = SUPERVISORS.lock();
            let is_supervisor = |pid: u32| supervisors.as_ref().is_some_and(|supervisors| supervisors.contains(&pid));
            children().into_iter().filter(|pid| !is_supervisor(*pid)).collect::<Vec<_>>()
        };
        let mut ended = 0;
        for pid in orphans.iter().filter_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?)) {
            // Ours until it is waited for, so its number is not another's.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            ended += usize::from(
                rustix::process::waitpid(Some(pid), WaitOptions::empty()).is_ok_and(|status| status.is_some()),
            );
        }
        // The children of each became ours meanwhile.
        if ended == 0 {
            return;
        }
    }
}

fn children() -> Vec<u32> {
    let lists = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = lists.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
        .collect()
}
