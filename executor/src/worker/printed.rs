//! What a run left beside its outputs: what the command printed, and logs of the runner's.

use std::{
    collections::BTreeMap,
    fs::File,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

use bytes::Bytes;
use cask_index::{Digest, DigestFunction};
use cask_proto::{
    digest::to_wire,
    reapi::{ActionResult, LogFile},
};
use rustix::{fs::Dir, io::Errno};

use super::{
    action_folder::ActionFolder,
    beneath::{WRONG_TYPE, open_child, open_file},
    fault::ExecutionFault,
    output_upload::{Content, OutputUpload, PlacedFile},
    outputs::hash,
};
use crate::action::RootPath;

/// What a command printed goes beside its digest up to this size.
const RAW_BYTES_MAX: u64 = 64 * 1024;
/// Logs that a runner may leave; more are not looked at.
const SERVER_LOGS_MAX: usize = 100;

/// See the module.
pub(crate) struct Printed {
    /// With exit code, standard output and standard error set.
    pub(crate) result: ActionResult,
    pub(crate) server_logs: BTreeMap<String, LogFile>,
    pub(crate) upload: OutputUpload,
}

impl Printed {
    /// Blocking.
    pub(crate) fn collect(
        folder: &ActionFolder,
        function: DigestFunction,
        exit_code: i32,
    ) -> Result<Self, ExecutionFault> {
        let mut upload = OutputUpload::default();
        let failed = |error: std::io::Error| ExecutionFault::machine("cannot read what the command printed", &error);
        let stdout = take(folder.directory(), "stdout", function, &mut upload).map_err(failed)?;
        let stderr = take(folder.directory(), "stderr", function, &mut upload).map_err(failed)?;
        let mut result = ActionResult { exit_code, ..ActionResult::default() };
        if let Some((digest, raw)) = stdout {
            result.stdout_digest = Some(to_wire(&digest));
            result.stdout_raw = raw.unwrap_or_default();
        }
        if let Some((digest, raw)) = stderr {
            result.stderr_digest = Some(to_wire(&digest));
            result.stderr_raw = raw.unwrap_or_default();
        }
        let failed = |error: std::io::Error| ExecutionFault::machine("cannot read the runner's logs", &error);
        let server_logs = server_logs(folder, function, &mut upload).map_err(failed)?;
        Ok(Self { result, server_logs, upload })
    }
}

/// Hashes a file, notes it for the upload, and has its content when that is small. `None`: there is none.
fn take(
    directory: &Arc<OwnedFd>,
    name: &str,
    function: DigestFunction,
    upload: &mut OutputUpload,
) -> std::io::Result<Option<(Digest, Option<Bytes>)>> {
    let file = match open_file(directory.as_fd(), name) {
        Ok(file) => file,
        // A runner need not make a file that nothing is written to.
        Err(Errno::NOENT | WRONG_TYPE | Errno::LOOP) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let size_bytes = rustix::fs::fstat(&file)?.st_size as u64;
    let (digest, raw) = hash(function, File::from(file), size_bytes, size_bytes <= RAW_BYTES_MAX)?;
    let Ok(place) = RootPath::ROOT.join("the log", name) else { return Ok(None) };
    let content = match &raw {
        Some(raw) => Content::Memory(raw.clone()),
        None => Content::File(PlacedFile { top: Arc::clone(directory), place }),
    };
    upload.add(digest, content);
    Ok(Some((digest, raw)))
}

fn server_logs(
    folder: &ActionFolder,
    function: DigestFunction,
    upload: &mut OutputUpload,
) -> std::io::Result<BTreeMap<String, LogFile>> {
    let mut logs = BTreeMap::new();
    let directory = match open_child(folder.directory().as_fd(), "server_logs") {
        Ok(directory) => Arc::new(directory),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(logs),
        Err(error) => return Err(error.into()),
    };
    let mut entries = Dir::read_from(&*directory)?;
    while let Some(entry) = entries.read() {
        if logs.len() == SERVER_LOGS_MAX {
            break;
        }
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if matches!(name, "." | "..") {
            continue;
        }
        if let Some((digest, _)) = take(&directory, name, function, upload)? {
            logs.insert(name.to_owned(), LogFile { digest: Some(to_wire(&digest)), human_readable: true });
        }
    }
    Ok(logs)
}
