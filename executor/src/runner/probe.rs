//! Which level works here: tried, with the same code that runs commands, on a folder made for it.

use std::path::Path;

use tokio::sync::oneshot;

use super::options::{Level, RunnerOptions};
use super::plan::Plan;
use super::request::{Request, RequestError};
use super::run::{self, Bounds, Outcome};

/// Sets up a level and takes it down again. The error is why it does not work.
pub(super) async fn try_level(options: &RunnerOptions, level: Level, own_id: Option<u32>) -> Result<(), String> {
    let folder = tempfile::Builder::new()
        .prefix(".probe-")
        .tempdir_in(&options.build_dir)
        .map_err(|error| format!("cannot make a folder in {}: {error}", options.build_dir.display()))?;
    let name = folder.path().file_name().and_then(|name| name.to_str()).ok_or("a folder without a name")?;
    make_folders(folder.path())
        .map_err(|error| format!("cannot make a folder in {}: {error}", folder.path().display()))?;
    let request = Request {
        arguments: Vec::new(),
        environment: std::collections::BTreeMap::default(),
        working_directory: String::new(),
        stdout: format!("{name}/stdout"),
        stderr: format!("{name}/stderr"),
        input_root: format!("{name}/root"),
        temporary: format!("{name}/tmp"),
        server_logs: String::new(),
        options: cask_proto::run_options::RunOptions::default(),
        timeout: None,
    };
    let plan = match options.plan(level, request) {
        Ok(plan) => Plan { probe: true, own_id, ..plan },
        // An operator may want every request to name its image.
        Err(RequestError::NoImage) if !options.container.allowed_images.is_empty() => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    // Held: a probe that nobody waits for would be ended.
    let (_wanted, dropped) = oneshot::channel();
    match run::carry_out(&plan, Bounds { timeout: None, output_bytes_max: 0 }, dropped).await {
        Outcome::Exited { code: 0, .. } => Ok(()),
        Outcome::Refused(sentence) | Outcome::Failed(sentence) => Err(sentence),
        outcome => Err(format!("the trial ended as {outcome:?}")),
    }
}

fn make_folders(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir(folder.join("root"))?;
    std::fs::create_dir(folder.join("tmp"))
}
