//! `cask runner`: runs commands for a worker, until a signal or the end of its standard input where that was asked for.

use std::path::PathBuf;

use cask_executor::runner::{ContainerOptions, Isolation, Runner, RunnerOptions, UserIds};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};

use super::Failure;
use super::remote::print_line;
use crate::config::{ByteSize, LogFormat};
use crate::transport::listen::ListenAddress;

/// Run commands for a worker, on this machine.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A worker starts a runner of its own unless it is told of one; docs/isolation.md says what each level keeps apart."
)]
pub(crate) struct RunnerArguments {
    /// The socket to serve on; only this user may connect to it
    #[arg(long, value_name = "unix:PATH")]
    listen: ListenAddress,

    /// The worker's build folder: all paths of requests are in it
    #[arg(long, value_name = "DIR")]
    build_dir: PathBuf,

    /// How commands are kept apart: auto (sandbox where it works, else host), host, sandbox or container
    #[arg(long, value_name = "LEVEL", default_value = "auto")]
    isolation: Isolation,

    /// Users that commands run as when the runner is root, one for each at a time; nothing else may use them
    #[arg(long, value_name = "FIRST-LAST", default_value = "60578-61177")]
    uid_range: UserIds,

    /// Commands at once; more wait
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=65536))]
    concurrency: usize,

    /// Open files of one process
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    open_files: u64,

    /// Processes of one command, where they can be counted; 0: no limit
    #[arg(long, value_name = "N", default_value_t = 0)]
    processes: u64,

    /// Memory of one command, where it can be limited (--cgroup, containers); 0: no limit
    #[arg(long, value_name = "SIZE", default_value = "0")]
    memory: ByteSize,

    /// Processors of one command, where they can be limited (--cgroup, containers), as in 1.5; 0: no limit
    #[arg(long, value_name = "N", default_value = "0", value_parser = thousandths)]
    cpus: u64,

    /// End a command whose stdout or stderr grows beyond this; 0: never
    #[arg(long, value_name = "SIZE", default_value = "4GiB")]
    output_max: ByteSize,

    /// A folder of control groups (version 2) that is the runner's own, for limits
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,

    /// Show this folder empty in sandboxes, beside /run, /home, /root and the build folder (repeatable)
    #[arg(long, value_name = "DIR")]
    hide: Vec<PathBuf>,

    /// Show this folder, read-only, although it is in one that is hidden (repeatable)
    #[arg(long, value_name = "DIR")]
    show: Vec<PathBuf>,

    /// The client program of the container engine: podman or docker
    #[arg(long, value_name = "PROGRAM", default_value = "podman")]
    container_engine: PathBuf,

    /// The image of commands that name none
    #[arg(long, value_name = "IMAGE")]
    container_image: Option<String>,

    /// An image that commands may name; may end in * (repeatable)
    #[arg(long, value_name = "PATTERN")]
    container_images: Vec<String>,

    /// End when standard input ends: with the process that started this one, however that ends
    #[arg(long)]
    until_stdin_ends: bool,
}

fn thousandths(text: &str) -> Result<u64, String> {
    match text.parse::<f64>() {
        Ok(count) if (0.0..=1_000_000.0).contains(&count) => Ok((count * 1000.0).round() as u64),
        _ => Err("not a number of processors; write 2 or 0.5".to_owned()),
    }
}

pub(super) fn run(arguments: RunnerArguments) -> Result<(), Failure> {
    crate::observe::log::start(LogFormat::Text).map_err(Failure::Usage)?;
    let ListenAddress::Unix(socket) = &arguments.listen else {
        return Err(Failure::Usage("a runner listens on a unix socket: --listen unix:/path".to_owned()));
    };
    let mut options = RunnerOptions::new(arguments.build_dir);
    options.isolation = arguments.isolation;
    options.user_ids = arguments.uid_range;
    options.concurrency = arguments.concurrency;
    options.open_files_max = arguments.open_files;
    options.processes_max = arguments.processes;
    options.memory_bytes_max = arguments.memory.0;
    options.cpu_millis_max = arguments.cpus;
    options.output_bytes_max = arguments.output_max.0;
    options.cgroup = arguments.cgroup;
    options.hidden.extend(arguments.hide);
    options.shown = arguments.show;
    options.container = ContainerOptions {
        engine: arguments.container_engine,
        image: arguments.container_image,
        allowed_images: arguments.container_images,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::Run(format!("cannot start threads: {error}")))?;
    runtime.block_on(async {
        let failed = |error: std::io::Error| Failure::Run(format!("cannot listen for signals: {error}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let runner = Runner::start(options, socket).await.map_err(|error| Failure::Run(error.to_string()))?;
        // Who started this one reads here what it got.
        print_line(format_args!("{}", runner.first_line()))?;
        tracing::info!(event = "runner.started", level = runner.level().name(), listen = %arguments.listen, "running commands");
        let ended = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = end_of_stdin(), if arguments.until_stdin_ends => {}
            }
        };
        runner.serve(ended).await.map_err(|error| Failure::Run(error.to_string()))
    })?;
    // Its end closes the life lines; the supervisors end what runs. A thread that still reads standard input is left behind.
    runtime.shutdown_background();
    Ok(())
}

async fn end_of_stdin() {
    let mut input = tokio::io::stdin();
    let mut ignored = [0; 64];
    while input.read(&mut ignored).await.is_ok_and(|count| count > 0) {}
}
