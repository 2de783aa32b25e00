//! `cask serve`: opens the store, listens, serves until a signal, drains, closes the store.
//!
//! ```text
//! bind -> open the store -> serve reads -> index complete: say so, serve all --SIGTERM, SIGINT--> drain -> close the store
//! ```
//! Ports are bound before the store is opened: a busy port is known at once, and clients that come while the store's
//! segments are surveyed wait in the kernel's queue instead of being refused. While the index is filled, health says
//! `NOT_SERVING`, and what cannot be answered yet gets `UNAVAILABLE`.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cask_engine::clock::SystemClock;
use cask_engine::{Engine, EngineError, EngineOptions, OpenError};
use cask_index::Namespace;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::Failure;
use super::banner::Banner;
use crate::access::instances::{Instances, Terms};
use crate::access::limits::Limits;
use crate::asset::{Assets, OriginSettings};
use crate::cache::Cache;
use crate::config::{CasSharing, Compression, Config, DiskAdapter, Durability, Settings, Surroundings};
use crate::execution::Execution;
use crate::hot::Hot;
use crate::http_cache::HttpCache;
use crate::observe::pages::Pages;
use crate::observe::requests::RequestCounts;
use crate::service::health::Readiness;
use crate::transport::dispatch::Dispatch;
use crate::transport::listen::{BindError, ListenAddress, Listener};
use crate::transport::server::{Drained, Server};
use crate::transport::threads::{RUNTIME_END_WAIT_MAX, Threads};
use crate::transport::tls::Tls;

/// Serve the cache: gRPC and HTTP on one port.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Sizes are written 50GiB or 500MB, times 4h, 10m or 90s. A flag beats its variable, a variable the file, the file \
                        the default.\nThe file is TOML with the flags' names in snake case: max_size = \"50GiB\". CASK_LOG=debug logs more."
)]
pub(crate) struct ServeArguments {
    #[command(flatten)]
    settings: Settings,

    /// A TOML file of the settings below
    #[arg(long, value_name = "FILE", env = "CASK_CONFIG", display_order = 0)]
    config: Option<PathBuf>,
}

/// How long to wait for a port or a folder that is in use. A server that was killed a moment ago holds both until the
/// kernel has torn it down, which takes a while for one with much memory; its successor should not fail over that.
const PREDECESSOR_WAIT_MAX: Duration = Duration::from_secs(2);
const PREDECESSOR_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long the last results and the queue's journal may take to be written.
const QUEUE_END_WAIT_MAX: Duration = Duration::from_secs(10);

pub(super) fn run(arguments: ServeArguments) -> Result<(), Failure> {
    let config = Config::load(arguments.settings, arguments.config.as_deref(), &Surroundings::of_process())?;
    crate::observe::log::start(config.log_format).map_err(Failure::Usage)?;
    for warning in &config.warnings {
        tracing::warn!(event = "config.warning", "{warning}");
    }
    raise_open_files_limit();
    let no_threads = |error| Failure::Run(format!("cannot start the server's threads: {error}"));
    let tls = match &config.tls {
        Some(files) => {
            Some(Tls::load(&files.certificate, &files.key).map_err(|error| Failure::Usage(error.to_string()))?)
        }
        None => None,
    };
    let threads = Arc::new(Threads::start(config.threads).map_err(no_threads)?);
    // This one accepts, waits for signals and opens the store; connections are served by the threads.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_threads)?;
    let outcome = runtime.block_on(serve(config, &threads, tls));
    runtime.shutdown_timeout(RUNTIME_END_WAIT_MAX);
    if let Some(threads) = Arc::into_inner(threads) {
        threads.end();
    }
    outcome
}

async fn serve(config: Config, threads: &Arc<Threads>, tls: Option<Tls>) -> Result<(), Failure> {
    let mut signals = Signals::listen().map_err(|error| Failure::Run(format!("cannot listen for signals: {error}")))?;
    let mut listeners = Vec::new();
    for address in &config.listen {
        listeners.push(bind(address).await.map_err(|error| Failure::Run(error.to_string()))?);
    }

    let opening = tokio::task::spawn_blocking({
        let config = config.clone();
        move || {
            let engine = open_store(&config)?;
            let instances = instances(&engine, &config)?;
            Ok::<_, Failure>((engine, instances))
        }
    });
    let (engine, instances) = tokio::select! {
        opened = opening => opened.map_err(|_| Failure::Run("opening the store failed; the log says where".to_owned()))??,
        // A store that is being opened is as safe to leave as one that crashed.
        () = signals.next() => std::process::exit(0),
    };

    let (readiness, readiness_seen) = watch::channel(Readiness::Starting);
    let (dispatch, execution) = assemble(&engine, &config, instances, readiness_seen);
    let addresses: Vec<_> = listeners.iter().map(|listener| listener.address().clone()).collect();
    let server = Server::start(listeners, &dispatch, config.max_connections, threads, tls);
    let loaded = tokio::task::spawn_blocking({
        let engine = engine.clone();
        move || engine.wait_until_loaded()
    });
    let report = tokio::select! {
        loaded = loaded => Some(loaded.unwrap_or(Err(EngineError::Closed)).map_err(|_| {
            Failure::Run("filling the store's index failed; the log says where".to_owned())
        })?),
        () = signals.next() => None,
    };
    let mut running = None;
    if let Some(report) = report {
        if let Some(execution) = &execution {
            let started = execution.start(config.lease.0).await;
            running = Some(started.map_err(|error| Failure::Run(format!("cannot read the queue: {error}")))?);
        }
        readiness.send_replace(Readiness::Serving);
        let banner = Banner { addresses: &addresses, config: &config, report: &report, host_name: host_name() };
        // A server whose starter does not read on is still a server.
        let mut output = std::io::stdout().lock();
        let _ = write!(output, "{banner}").and_then(|()| output.flush());
        drop(output);
        tracing::info!(event = "serve.started", dir = %config.dir.display(), blobs = report.blob_count, "serving");
        signals.next().await;
    }
    tracing::info!(event = "serve.draining", patience = %config.drain_timeout, "finishing open requests; a second signal ends at once");
    if let Some(running) = &running {
        running.freeze();
    }
    readiness.send_replace(Readiness::Draining);
    let patience = async {
        tokio::select! {
            () = tokio::time::sleep(config.drain_timeout.0) => {}
            () = signals.next() => {}
        }
    };
    if let Drained::CutOff { connections } = server.drain(patience).await {
        tracing::warn!(event = "serve.cut_off", connections, "ending with connections open");
    }

    if let Some(running) = running {
        tokio::select! {
            () = running.stop() => {}
            () = tokio::time::sleep(QUEUE_END_WAIT_MAX) => {
                tracing::warn!(event = "serve.queue_not_written", "the end of the queue's journal could not be written");
            }
        }
    }
    let closing = tokio::task::spawn_blocking(move || engine.close());
    let closed = tokio::select! {
        closed = closing => closed,
        // Asked once more while the store writes out: it is crash-safe, so obey.
        () = signals.next() => std::process::exit(1),
    };
    match closed {
        Ok(Ok(())) => {
            tracing::info!(event = "serve.ended", "the store is closed");
            Ok(())
        }
        Ok(Err(error)) => {
            Err(Failure::Run(format!("the store could not be closed cleanly ({error}); the next start recovers it")))
        }
        Err(_) => Err(Failure::Run("closing the store failed; the log says where".to_owned())),
    }
}

async fn bind(address: &ListenAddress) -> Result<Listener, BindError> {
    let patience = Instant::now() + PREDECESSOR_WAIT_MAX;
    loop {
        match Listener::bind(address).await {
            Err(BindError::InUse { .. }) if Instant::now() < patience => {
                tokio::time::sleep(PREDECESSOR_POLL_INTERVAL).await;
            }
            bound => return bound,
        }
    }
}

/// Blocks while the store's segments are surveyed.
fn open_store(config: &Config) -> Result<Engine, Failure> {
    let dir = config.dir.display();
    std::fs::create_dir_all(&config.dir).map_err(|error| {
        Failure::Run(format!("cannot make the store's folder {dir}: {error}; name another with --dir"))
    })?;
    let mut options = EngineOptions::new(config.max_size.0);
    options.lease = config.lease.0;
    options.lease_floor = config.lease_floor.0;
    options.scrub_period = config.scrub_period.0;
    options.durability = match config.durability {
        Durability::Written => cask_engine::Durability::Written,
        Durability::Synced => cask_engine::Durability::Synced,
    };
    options.compression = match config.compression {
        Compression::Off => cask_engine::Compression::Off,
        Compression::Zstd => cask_engine::Compression::Zstd,
    };
    options.disk_adapter = match config.disk_adapter {
        DiskAdapter::Auto => cask_engine::DiskAdapter::Auto,
        DiskAdapter::Uring => cask_engine::DiskAdapter::Uring,
        DiskAdapter::Positioned => cask_engine::DiskAdapter::Positioned,
    };
    let patience = Instant::now() + PREDECESSOR_WAIT_MAX;
    loop {
        match Engine::start(&config.dir, options.clone(), Arc::new(SystemClock::new())) {
            Err(OpenError::InUse { .. }) if Instant::now() < patience => std::thread::sleep(PREDECESSOR_POLL_INTERVAL),
            opened => return opened.map_err(|error| Failure::Run(format!("cannot open the store: {error}"))),
        }
    }
}

/// The configured instances; those that are isolated get their namespace from the store.
fn instances(engine: &Engine, config: &Config) -> Result<Instances, Failure> {
    if config.instances.is_empty() {
        return Ok(Instances::default());
    }
    let (mut listed, mut others) = (HashMap::new(), None);
    for setting in &config.instances {
        let (preferred, actions) = (setting.digest_function, setting.actions);
        let Some(name) = &setting.name else {
            others = Some(Terms { namespace: Namespace::SHARED, preferred, actions });
            continue;
        };
        let namespace = match setting.sharing {
            CasSharing::Shared => Namespace::SHARED,
            CasSharing::Isolated => engine
                .namespace(name.as_str())
                .map_err(|error| Failure::Run(format!("cannot isolate the instance \"{name}\": {error}")))?,
        };
        listed.insert(name.clone(), Terms { namespace, preferred, actions });
    }
    Ok(Instances::new(listed, others))
}

fn assemble(
    engine: &Engine,
    config: &Config,
    instances: Instances,
    readiness: watch::Receiver<Readiness>,
) -> (Arc<Dispatch>, Option<Execution>) {
    let mut limits = Limits::default();
    if let Some(count) = config.max_uploads {
        limits.concurrent_uploads_max = count;
    }
    if let Some(size) = config.max_staged {
        limits.staged_bytes_max = usize::try_from(size.0).unwrap_or(usize::MAX);
        limits.message_bytes_max = limits.staged_bytes_max;
    }
    let cache = Cache::new(engine.clone(), instances, limits);
    let origins = OriginSettings {
        allowed: config.asset_origins.clone(),
        allow_private: config.asset_allow_private_origins,
        size_bytes_max: config.asset_max_size.0,
        timeout_max: config.asset_timeout.0,
        spool_folder: config.dir.clone(),
    };
    let assets = Assets::new(cache.clone(), Arc::new(SystemClock::new()), origins);
    let execution =
        config.execution.as_ref().map(|config| Execution::new(cache.clone(), config.into(), readiness.clone()));
    let requests = Arc::new(RequestCounts::new(&crate::service::FILE_DESCRIPTOR_SETS));
    let dispatch = Arc::new(Dispatch {
        hot: Hot::new(cache.clone(), readiness.clone()),
        routes: crate::service::routes(&cache, &assets, execution.as_ref(), readiness.clone()),
        http_cache: HttpCache::new(cache.clone()),
        pages: Pages::new(cache.clone(), assets, execution.clone(), Arc::clone(&requests), readiness),
        requests,
        cache,
    });
    (dispatch, execution)
}

/// A connection is a file descriptor, and the usual soft limit of 1024 is for programs that use `select`.
pub(super) fn raise_open_files_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(event = "serve.open_files_limit", %error, "could not raise the limit of open files");
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// SIGTERM and SIGINT, in whichever order they come.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one. Cancel safe.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
