//! How options and a checked request become a plan.

use std::path::PathBuf;

use super::cgroup::Limits;
use super::options::{ContainerOptions, Level, RunnerOptions};
use super::plan::{ContainerPlan, Plan, PlanLevel};
use super::request::{Request, RequestError};

/// As whom a command in a sandbox believes to run when the request does not say: the number of most people's first user.
const INNER_ID: u32 = 1000;

impl RunnerOptions {
    pub(super) fn plan(&self, level: Level, request: Request) -> Result<Plan, RequestError> {
        let strings =
            |paths: &[PathBuf]| paths.iter().filter_map(|path| path.to_str().map(ToOwned::to_owned)).collect();
        let in_sandbox = level == Level::Sandbox;
        let limits = self.limits(&request);
        let container = match level {
            Level::Container => Some(ContainerPlan {
                engine: self.container.engine.to_string_lossy().into_owned(),
                image: self.container.image_for(&request.options.container_image)?,
                name: format!("cask-{}", uuid::Uuid::new_v4()),
                memory_bytes_max: limits.memory_bytes_max,
                cpu_millis_max: limits.cpu_millis_max,
            }),
            Level::Host | Level::Sandbox => None,
        };
        Ok(Plan {
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
            processes_max: limits.processes_max,
            hidden: if in_sandbox { strings(&self.hidden) } else { Vec::new() },
            shown: if in_sandbox { strings(&self.shown) } else { Vec::new() },
            cgroup_procs: String::new(),
            probe: false,
            container,
        })
    }

    /// The smaller of what the operator and the request say, each.
    pub(super) fn limits(&self, request: &Request) -> Limits {
        Limits {
            memory_bytes_max: smaller_limit(self.memory_bytes_max, request.options.memory_bytes_max),
            processes_max: smaller_limit(self.processes_max, u64::from(request.options.processes_max)),
            cpu_millis_max: self.cpu_millis_max,
        }
    }
}

impl ContainerOptions {
    /// The image for a request that asks for `wanted`; empty for none.
    fn image_for(&self, wanted: &str) -> Result<String, RequestError> {
        if wanted.is_empty() {
            return self.image.clone().ok_or(RequestError::NoImage);
        }
        // Not a name but a flag to the engine's client.
        let is_allowed = !wanted.starts_with('-')
            && (self.image.as_deref() == Some(wanted)
                || self.allowed_images.iter().any(|pattern| match pattern.strip_suffix('*') {
                    Some(beginning) => wanted.starts_with(beginning),
                    None => pattern == wanted,
                }));
        if is_allowed { Ok(wanted.to_owned()) } else { Err(RequestError::ForbiddenImage(wanted.to_owned())) }
    }
}

/// The smaller of two limits of which 0 is none.
fn smaller_limit(one: u64, other: u64) -> u64 {
    match (one, other) {
        (0, limit) | (limit, 0) => limit,
        (one, other) => one.min(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_those_the_operator_named() {
        let options = ContainerOptions {
            engine: "podman".into(),
            image: Some("debian:12".to_owned()),
            allowed_images: vec!["registry/team/*".to_owned(), "alpine".to_owned()],
        };
        for (wanted, image) in [
            ("", Some("debian:12")),
            ("debian:12", Some("debian:12")),
            ("alpine", Some("alpine")),
            ("alpine:3", None),
            ("registry/team/gcc@sha256:00", Some("registry/team/gcc@sha256:00")),
            ("registry/teammates/gcc", None),
            ("--privileged", None),
        ] {
            assert_eq!(options.image_for(wanted).ok().as_deref(), image, "{wanted:?}");
        }
        let all = ContainerOptions { image: None, allowed_images: vec!["*".to_owned()], ..options };
        assert_eq!(all.image_for(""), Err(RequestError::NoImage));
        assert!(all.image_for("--privileged").is_err());
    }

    #[test]
    fn the_smaller_limit_counts_and_none_is_no_limit() {
        for (one, other, smaller) in [(0, 0, 0), (0, 5, 5), (5, 0, 5), (4, 5, 4), (5, 4, 4)] {
            assert_eq!(smaller_limit(one, other), smaller);
        }
    }
}
