//! The last steps before a process is the command: streams, limits, and the exec.

use std::ffi::OsStr;
use std::io::{ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Resource, Rlimit};

use super::places::Places;
use super::{Trouble, failed};
use crate::runner::plan::Plan;

/// What a shell says for a command that cannot be executed, and for one that is not there.
const CANNOT_EXECUTE: i32 = 126;
const NOT_FOUND: i32 = 127;

/// Puts the run's files in the place of the standard streams.
pub(super) fn take_streams(places: &Places) -> Result<(), Trouble> {
    rustix::stdio::dup2_stdin(&places.stdin)
        .and_then(|()| rustix::stdio::dup2_stdout(&places.stdout))
        .and_then(|()| rustix::stdio::dup2_stderr(&places.stderr))
        .map_err(failed("connect the command's streams"))
}

/// Limits of the process and what it starts.
pub(super) fn take_limits(plan: &Plan) -> Result<(), Trouble> {
    let set = |resource, value: u64| {
        // A hard limit can be lowered and, without privileges, never raised: what is there bounds what is asked for.
        let hard = rustix::process::getrlimit(resource).maximum.map_or(value, |maximum| maximum.min(value));
        rustix::process::setrlimit(resource, Rlimit { current: Some(hard), maximum: Some(hard) })
    };
    set(Resource::Core, 0)
        .and_then(|()| set(Resource::Nofile, plan.open_files_max))
        // It counts all processes of the user; only a user of the run's own makes it one of the run.
        .and_then(|()| match plan.own_id {
            Some(_) if plan.processes_max > 0 => set(Resource::Nproc, plan.processes_max),
            _ => Ok(()),
        })
        .map_err(failed("limit the command"))
}

/// Becomes the command; its streams and working directory are in place. Returns only in a probe.
pub(super) fn execute(plan: &Plan, temporary: Option<&str>) -> i32 {
    if plan.probe {
        return 0;
    }
    let Some((program, arguments)) = plan.arguments.split_first() else { return NOT_FOUND };
    let program = OsStr::from_bytes(program);
    let mut command = Command::new(program);
    command.args(arguments.iter().map(|argument| OsStr::from_bytes(argument))).env_clear();
    if let Some(temporary) = temporary {
        command.env("TMPDIR", temporary);
    }
    command.envs(&plan.environment);
    // Looks for a bare name in the PATH of the new environment, and gives a script without an interpreter to the shell.
    let error = command.exec();
    // The command's own standard error, where a shell would have said it.
    let _ = writeln!(std::io::stderr(), "cask: {}: {}", program.display(), reason(&error));
    if error.kind() == ErrorKind::NotFound { NOT_FOUND } else { CANNOT_EXECUTE }
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "not found, or its interpreter is not".to_owned(),
        ErrorKind::PermissionDenied => "not executable".to_owned(),
        _ => error.to_string(),
    }
}
