//! The worker: leases actions from a server, makes their input roots, has a runner run them, uploads what they made.
//!
//! ```text
//! session --Assignment--> execution: input_tree, input_files (file_cache), root -> runner_client -> outputs (tree), output_upload
//!    ^                        |  logs: what it prints, live
//!    +------ Finished --------+
//! ```
//! Reaches blobs as any client does. Makes no process but its runner. What it is told by the server and what a command leaves are checked
//! before anything is done with them.

mod action_folder;
mod beneath;
mod connection;
mod execution;
pub mod fault;
pub mod file_cache;
mod input_files;
pub mod input_tree;
mod logs;
mod output_upload;
mod outputs;
mod printed;
pub mod removal;
pub mod root;
mod run_options;
mod runner_child;
mod runner_client;
mod session;
mod tree;

use std::{path::PathBuf, sync::Arc, time::Duration};

use cask_proto::{
    InstanceName,
    reapi::{Platform, platform::Property},
};
use tokio::sync::Semaphore;

use self::{
    action_folder::BuildFolder,
    execution::{PATIENT, Parts},
    file_cache::FileCache,
    input_tree::DirectoryCache,
    runner_child::RunnerChild,
    runner_client::RunnerClient,
    session::{Session, SessionOptions},
};
pub use self::{
    connection::AddressError,
    file_cache::FileCacheLimits,
    input_tree::InputLimits,
    outputs::OutputLimits,
    runner_child::RunnerCommand,
    session::{Asks, Ended},
};
use crate::client::RemoteCache;

/// Calls that fetch inputs at once, over all actions.
const FETCHES_MAX: usize = 16;
/// Entries of directories that are remembered; some 100 bytes each, twice over.
const DIRECTORY_ENTRIES_MAX: usize = 500_000;

/// Whether input files are given to commands as links to the cache's own files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkInputs {
    /// Only if commands run as another user and so cannot alter them: when the worker started the runner, and that says so.
    Auto,
    /// Commands are trusted not to alter their inputs.
    Always,
    /// Each command gets copies.
    Never,
}

/// Whether the command sees its input root as `/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputRootAsRoot {
    /// It never does.
    Never,
    /// It always does.
    Always,
    /// It does if its program, by an absolute path, is in the input.
    Auto,
}

/// Bounds on what an action may bring and leave.
#[derive(Clone, Debug)]
pub struct WorkerLimits {
    /// Of the input tree.
    pub input: InputLimits,
    /// Of the outputs.
    pub output: OutputLimits,
    /// Of an Action or Command message.
    pub message_bytes_max: u64,
}

impl Default for WorkerLimits {
    fn default() -> Self {
        Self { input: InputLimits::default(), output: OutputLimits::default(), message_bytes_max: 64 << 20 }
    }
}

/// Where the runner is.
#[derive(Clone, Debug)]
pub enum RunnerSource {
    /// It runs already.
    Address(String),
    /// The worker starts it, and it listens at the address.
    Child {
        /// How to start it.
        command: RunnerCommand,
        /// Where it will listen.
        address: String,
    },
}

/// All that a worker is told.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Address of the server.
    pub server: String,
    /// Whose actions it runs.
    pub instance: InstanceName,
    /// For people.
    pub name: String,
    /// Holds the file cache and the folders of running actions; nobody else uses it. Its `build` is what the runner's paths are relative to.
    pub dir: PathBuf,
    /// Actions at once.
    pub concurrency: u32,
    /// What it can do, one for each kind of action it takes.
    pub platforms: Vec<Platform>,
    /// How much the file cache may hold.
    pub file_cache: FileCacheLimits,
    /// How files get into roots.
    pub link_inputs: LinkInputs,
    /// What commands see as `/`.
    pub input_root_as_root: InputRootAsRoot,
    /// Who runs commands.
    pub runner: RunnerSource,
    /// How long running actions may go on after the worker was asked to end.
    pub drain_timeout: Duration,
    /// Bounds.
    pub limits: WorkerLimits,
}

/// Why a worker could not start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// An address is none.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Its folder.
    #[error("cannot use the folder {}: {error}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Two workers, one folder.
    #[error("another worker uses the folder {}", .0.display())]
    FolderInUse(PathBuf),
    /// Commands have users of their own, who cannot come to their folders.
    #[error(
        "commands run as users of their own, and these cannot pass the folder {}, a folder above --dir is closed or --dir is: \
         name another, or let everybody pass it (chmod o+x)",
        .0.display()
    )]
    FolderClosed(PathBuf),
    /// The runner that was to be started.
    #[error("cannot start the runner {}: {error}", program.display())]
    Runner {
        /// The program.
        program: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The server will not let this worker in, whenever it asks.
    #[error(
        "the server refuses this worker: {}",
        if *.code == tonic::Code::Unimplemented { "it runs no actions; start it with --execution" } else { .message }
    )]
    Refused {
        /// What the server said.
        code: tonic::Code,
        /// Its words.
        message: String,
    },
    /// The runner does not answer.
    #[error("{0}")]
    RunnerNotReady(String),
}

/// The folder that paths in requests to the runner are relative to.
pub fn build_folder(dir: &std::path::Path) -> PathBuf {
    dir.join("build")
}

/// Runs a worker until it is drained. Of the asks to end, the first drains and the second ends at once. `connected` is called
/// each time that the server has accepted the worker.
///
/// To be dropped only with the process: then the runner sees its calls go.
pub async fn run(options: WorkerOptions, asks: Asks, connected: impl Fn()) -> Result<Ended, WorkerError> {
    let folder = |path: PathBuf| move |error| WorkerError::Folder { path, error };
    let dir = options.dir.clone();
    let is_new = !dir.exists();
    std::fs::create_dir_all(&dir).map_err(folder(dir.clone()))?;
    let _lock = lock(&dir)?;
    let channel = connection::channel(&options.server)?;
    let runner_address = match &options.runner {
        RunnerSource::Address(address) | RunnerSource::Child { address, .. } => address,
    };
    let runner = Arc::new(RunnerClient::new(connection::channel(runner_address)?));
    let build = build_folder(&dir);
    std::fs::create_dir_all(&build).map_err(folder(build.clone()))?;
    // Before it could see a file that is open for writing.
    let child = match options.runner.clone() {
        RunnerSource::Address(_) => None,
        RunnerSource::Child { command, .. } => {
            let program = command.program.clone();
            let child = RunnerChild::start(command, Arc::clone(&runner)).await;
            Some(child.map_err(|error| WorkerError::Runner { program, error })?)
        }
    };
    if let Some(child) = &child
        && child.has_own_users
    {
        if is_new {
            // Whatever this process's umask is.
            let passable = std::os::unix::fs::PermissionsExt::from_mode(0o711);
            std::fs::set_permissions(&dir, passable).map_err(folder(dir.clone()))?;
        }
        if let Some(closed) = closed_folder(&build, &child.level).map_err(folder(build.clone()))? {
            return Err(WorkerError::FolderClosed(closed));
        }
    }
    let links = match options.link_inputs {
        LinkInputs::Always => true,
        LinkInputs::Never => false,
        // Root is not enough: in a user namespace it may have no other user to run commands as.
        LinkInputs::Auto => child.as_ref().is_some_and(|child| child.has_own_users),
    };
    let inputs = dir.join("inputs");
    let files = FileCache::open(&inputs, options.file_cache, links).map_err(folder(inputs))?;
    let build = BuildFolder::open(&build, 2 * options.concurrency as usize).map_err(folder(build))?;
    runner.wait_until_ready().await.map_err(|fault| WorkerError::RunnerNotReady(fault.to_string()))?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let parts = Arc::new(Parts {
        worker_name: options.name.clone(),
        remote: RemoteCache::over(channel.clone(), options.instance.clone(), PATIENT),
        channel: channel.clone(),
        instance: options.instance.clone(),
        files,
        directories: DirectoryCache::new(DIRECTORY_ENTRIES_MAX),
        fetches: Arc::new(Semaphore::new(FETCHES_MAX)),
        build,
        runner,
        limits: options.limits,
        input_root_as_root: options.input_root_as_root,
        root_threads: processors.min(4),
        faults: 0.into(),
    });
    let mut platforms = options.platforms;
    if let Some(child) = &child {
        for platform in &mut platforms {
            add_properties_of_level(platform, &child.level);
        }
    }
    let session = Session::new(
        channel,
        parts,
        SessionOptions {
            name: options.name,
            instance: options.instance,
            concurrency: options.concurrency,
            platforms,
            drain_timeout: options.drain_timeout,
        },
    );
    let ended = session.run(asks, connected).await;
    if let Some(child) = child {
        child.end().await;
    }
    ended.map_err(|status| WorkerError::Refused { code: status.code(), message: status.message().to_owned() })
}

/// What a sandbox covers with folders of its own: whether the machine's are closed does not matter to who is in it.
const COVERED: [&str; 6] = ["/tmp", "/var/tmp", "/dev", "/run", "/home", "/root"];

/// The first folder above the build folder that not everybody may pass: absolute paths through it would fail for commands that
/// are not the worker's user. An engine brings its folders in itself.
fn closed_folder(build: &std::path::Path, level: &str) -> std::io::Result<Option<PathBuf>> {
    use std::os::unix::fs::MetadataExt as _;
    if level == "container" {
        return Ok(None);
    }
    let build = std::fs::canonicalize(build)?;
    for above in build.ancestors().skip(1) {
        if level == "sandbox" && COVERED.iter().any(|covered| above.starts_with(covered)) {
            continue;
        }
        if std::fs::metadata(above)?.mode() & 0o001 == 0 {
            return Ok(Some(above.to_owned()));
        }
    }
    Ok(None)
}

/// What a level of isolation can do whatever the action asks for. What the operator said of the same names counts.
fn add_properties_of_level(platform: &mut Platform, level: &str) {
    let names: &[&str] = match level {
        "sandbox" => &["network", "unixUID", "unixGID"],
        "container" => &["container-image", "network"],
        _ => &[],
    };
    for name in names {
        if !platform.properties.iter().any(|property| property.name == *name) {
            platform.properties.push(Property { name: (*name).to_owned(), value: "*".to_owned() });
        }
    }
}

/// Held for as long as the worker lives, however it ends.
fn lock(dir: &std::path::Path) -> Result<std::fs::File, WorkerError> {
    let path = dir.join("lock");
    let failed = |error| WorkerError::Folder { path: path.clone(), error };
    let file = std::fs::File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(WorkerError::FolderInUse(dir.to_owned())),
        Err(error) => Err(failed(error.into())),
    }
}
