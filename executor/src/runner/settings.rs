//! How options and a checked request become a plan.

use std::path::PathBuf;

use super::options::{Level, RunnerOptions};
use super::plan::{Plan, PlanLevel};
use super::request::Request;

/// As whom a command in a sandbox believes to run when the request does not say: the number of most people's first user.
const INNER_ID: u32 = 1000;

impl RunnerOptions {
    pub(super) fn plan(&self, level: Level, request: Request) -> Plan {
        let strings =
            |paths: &[PathBuf]| paths.iter().filter_map(|path| path.to_str().map(ToOwned::to_owned)).collect();
        let in_sandbox = level == Level::Sandbox;
        Plan {
            level: match level {
                Level::Host => PlanLevel::Host,
                Level::Sandbox => PlanLevel::Sandbox,
                Level::Container => PlanLevel::Container,
            } as i32,
            build_dir: self.build_dir.to_str().unwrap_or_default().to_owned(),
            input_root: request.input_root,
            working_directory: request.working_directory,
            stdout: request.stdout,
            stderr: request.stderr,
            temporary: request.temporary,
            server_logs: request.server_logs,
            arguments: request.arguments,
            environment: request.environment,
            own_id: None,
            sweep_first: false,
            network: request.options.network,
            root_is_filesystem_root: in_sandbox && request.options.input_root_is_filesystem_root,
            inner_user: request.options.user_id.unwrap_or(INNER_ID),
            inner_group: request.options.group_id.unwrap_or(INNER_ID),
            open_files_max: self.open_files_max,
            processes_max: smaller_limit(self.processes_max, u64::from(request.options.processes_max)),
            hidden: if in_sandbox { strings(&self.hidden) } else { Vec::new() },
            shown: if in_sandbox { strings(&self.shown) } else { Vec::new() },
            cgroup_procs: String::new(),
            probe: false,
            container: None,
        }
    }
}

/// The smaller of two limits of which 0 is none.
fn smaller_limit(one: u64, other: u64) -> u64 {
    match (one, other) {
        (0, limit) | (limit, 0) => limit,
        (one, other) => one.min(other),
    }
}
