//! `cask worker`: leases actions from a server and runs them, until a signal.
//!
//! ```text
//! start a runner -> open the folder -> connect, again and again: say so --SIGTERM, SIGINT--> finish what runs -> end
//! ```

mod settings;

use std::path::PathBuf;

use cask_executor::runner::{UserIds, are_users_available};
use cask_executor::worker::{
    self, Ended, FileCacheLimits, RunnerCommand, RunnerSource, WorkerError, WorkerLimits, WorkerOptions,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use self::settings::{Machine, WorkerConfig, WorkerSettings};
use super::Failure;
use crate::config::Surroundings;

/// Run actions for a server.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Sizes are written 50GiB or 500MB, times 4h, 10m or 90s. A flag beats its variable, a variable the file, the file \
                        the default.\nThe file is TOML with the flags' names in snake case; a worker for several platforms has a table \
                        [[platforms]] for each.\nSIGTERM lets running actions finish; a second one ends at once. CASK_LOG=debug logs more."
)]
pub(crate) struct WorkerArguments {
    #[command(flatten)]
    settings: WorkerSettings,

    /// A TOML file of the settings below
    #[arg(long, value_name = "FILE", env = "CASK_WORKER_CONFIG", display_order = 0)]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: WorkerArguments) -> Result<(), Failure> {
    // Root's own folder is closed to the users that its runner runs commands as.
    let has_own_users = are_users_available(UserIds::default());
    let machine = Machine {
        cache_folder: if has_own_users { Some("/var/cache".into()) } else { Surroundings::of_process().cache_folder },
        host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        processors: std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1)),
    };
    let config = WorkerConfig::load(arguments.settings, arguments.config.as_deref(), machine)
        .map_err(|error| Failure::Usage(error.to_string()))?;
    crate::observe::log::start(config.log_format).map_err(Failure::Usage)?;
    super::serve::raise_open_files_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Run(format!("cannot start the worker's threads: {error}")))?;
    let outcome = runtime.block_on(work(config));
    // What the disk is still busy with was given up.
    runtime.shutdown_background();
    outcome
}

async fn work(config: WorkerConfig) -> Result<(), Failure> {
    let asks = asks_to_end().map_err(|error| Failure::Run(format!("cannot listen for signals: {error}")))?;
    let options = options(&config)?;
    let line = format!(
        "cask: worker {} is connected to {}, {} {} at once",
        config.name,
        config.server,
        config.concurrency,
        if config.concurrency == 1 { "action" } else { "actions" }
    );
    let is_first = std::sync::atomic::AtomicBool::new(true);
    let connected = || {
        if is_first.swap(false, std::sync::atomic::Ordering::Relaxed) {
            // One whose starter does not read on works all the same.
            let _ = super::remote::print_line(&line);
        }
        tracing::info!(event = "worker.connected", server = config.server, "connected");
    };
    match worker::run(options, asks, connected).await {
        Ok(Ended::Drained) => Ok(()),
        Ok(Ended::CutOff { leases }) => {
            Err(Failure::Run(format!("ended with {leases} actions unfinished; the server gives them to other workers")))
        }
        Err(error @ WorkerError::Address(_)) => Err(Failure::Usage(error.to_string())),
        Err(error @ (WorkerError::Folder { .. } | WorkerError::FolderInUse(_))) => {
            Err(Failure::Run(format!("{error}; name another with --dir")))
        }
        Err(error) => Err(Failure::Run(error.to_string())),
    }
}

fn options(config: &WorkerConfig) -> Result<WorkerOptions, Failure> {
    #[expect(clippy::single_match_else, reason = "two ways to a runner, of which one is longer")]
    let runner = match &config.runner {
        Some(address) => RunnerSource::Address(address.clone()),
        None => {
            let program = std::env::current_exe()
                .map_err(|error| Failure::Run(format!("cannot find this program to start a runner: {error}")))?;
            let address = format!("unix:{}", config.dir.join("runner.sock").display());
            let build = worker::build_folder(&config.dir);
            let concurrency = config.concurrency.to_string();
            let mut arguments: Vec<std::ffi::OsString> =
                ["runner", "--until-stdin-ends", "--listen", &address, "--isolation", config.isolation.name()]
                    .map(Into::into)
                    .to_vec();
            arguments.extend(["--concurrency".into(), concurrency.into(), "--build-dir".into(), build.into()]);
            // Where the worker and the commands are one user, no mode keeps the inputs of other actions from being read.
            arguments.extend(["--hide".into(), config.dir.clone().into()]);
            arguments.extend(config.runner_arguments.iter().map(Into::into));
            RunnerSource::Child { command: RunnerCommand { program, arguments }, address }
        }
    };
    Ok(WorkerOptions {
        server: config.server.clone(),
        instance: config.instance.clone(),
        name: config.name.clone(),
        dir: config.dir.clone(),
        concurrency: config.concurrency,
        platforms: config.platforms.clone(),
        file_cache: FileCacheLimits { bytes_max: config.cache_size.0, files_max: config.cache_files },
        link_inputs: config.link_inputs,
        input_root_as_root: config.input_root_as_root,
        runner,
        drain_timeout: config.drain_timeout.0,
        limits: WorkerLimits::default(),
    })
}

/// SIGTERM and SIGINT, each an ask.
fn asks_to_end() -> std::io::Result<worker::Asks> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (asks, asked) = mpsc::channel(4);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if asks.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(asked)
}
