//! What a platform's properties ask of the runner.

use std::time::Duration;

use cask_proto::{reapi::Platform, run_options::RunOptions};

use super::fault::ExecutionFault;

/// Options of one run. Properties that say nothing to a runner were matched by the scheduler and are skipped here.
pub(crate) fn run_options(
    platform: &Platform,
    timeout: Duration,
    input_root_is_filesystem_root: bool,
) -> Result<RunOptions, ExecutionFault> {
    let mut options = RunOptions {
        input_root_is_filesystem_root,
        timeout: prost_types::Duration::try_from(timeout).ok(),
        ..RunOptions::default()
    };
    for property in &platform.properties {
        let (name, value) = (property.name.as_str(), property.value.as_str());
        match name {
            "network" => options.network = matches!(value, "on" | "true" | "yes" | "1" | "standard"),
            "unixUID" => options.user_id = Some(number(name, value)?),
            "unixGID" => options.group_id = Some(number(name, value)?),
            "container-image" => value.clone_into(&mut options.container_image),
            _ => {}
        }
    }
    Ok(options)
}

fn number(name: &str, value: &str) -> Result<u32, ExecutionFault> {
    value
        .parse()
        .map_err(|_| ExecutionFault::invalid(format!("the platform property `{name}` is `{value}`, no number")))
}
