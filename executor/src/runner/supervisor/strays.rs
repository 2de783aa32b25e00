//! Ending what a command left behind. At the host level a process can leave its group and its session, but neither its user nor
//! the supervisor, which as a child subreaper is the parent of every orphan.

use std::collections::HashMap;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};

use super::{Trouble, failed};
use crate::runner::kernel::{self, Fork};

/// Kills and reaps until this process has no children, and so no descendants.
pub(super) fn end_all(own_id: Option<u32>) -> Result<(), Trouble> {
    loop {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => break,
                Err(Errno::CHILD) => return Ok(()),
                Err(errno) => return Err(failed("reap what the command left")(errno)),
            }
        }
        if let Some(id) = own_id {
            end_processes_of(id)?;
        }
        // Also beside the above, whose messenger may have been killed by one of those it was after.
        kill_descendants();
        // At least one is dying; when it is gone its children are ours, and the next round sees them.
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(_) | Err(Errno::INTR | Errno::CHILD) => {}
            Err(errno) => return Err(failed("reap what the command left")(errno)),
        }
    }
}

/// Kills every process of a user at one stroke, so that none can start another meanwhile. Only that user itself can ask for it:
/// hence a process that becomes it.
pub(super) fn end_processes_of(id: u32) -> Result<(), Trouble> {
    match kernel::fork().map_err(failed("fork"))? {
        Fork::Child => {
            let killed = super::host::become_user(id).is_ok()
                && rustix::process::getuid().as_raw() == id
                && matches!(
                    // The group of "process 1" stands for all that may be signalled; the caller is spared.
                    rustix::process::kill_process_group(Pid::INIT, Signal::KILL),
                    Ok(()) | Err(Errno::SRCH)
                );
            std::process::exit(i32::from(!killed));
        }
        Fork::Parent { child } => rustix::process::waitpid(Some(child), WaitOptions::empty())
            .map(|_| ())
            .map_err(failed("wait for the end of what the command left")),
    }
}

/// Kills every descendant that can be seen now.
fn kill_descendants() {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for (pid, parent) in processes() {
        children.entry(parent).or_default().push(pid);
    }
    let mut left = vec![rustix::process::getpid().as_raw_nonzero().get()];
    while let Some(parent) = left.pop() {
        for pid in children.remove(&parent).unwrap_or_default() {
            // Its number cannot have been given to another process: its parent is us, or was alive a moment ago and is killed
            // after it.
            if let Some(target) = Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(target, Signal::KILL);
            }
            left.push(pid);
        }
    }
}

/// Every process and its parent.
fn processes() -> impl Iterator<Item = (i32, i32)> {
    std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read(entry.path().join("stat")).ok()?;
        // The name before it is in brackets and may hold anything, a bracket too.
        let after_name = stat.iter().rposition(|byte| *byte == b')')?;
        let fields = std::str::from_utf8(stat.get(after_name + 1..)?).ok()?;
        Some((pid, fields.split_ascii_whitespace().nth(1)?.parse().ok()?))
    })
}
