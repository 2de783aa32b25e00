//! A runner from its start to its end: folders, level, socket.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cask_proto::runner::runner_server::RunnerServer;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use super::cgroup::Cgroups;
use super::identities;
use super::options::{Isolation, Level, RunnerOptions};
use super::probe;
use super::service::RunnerService;

/// A request is a command line and an environment.
const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why a runner does not start.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// The build folder, or a hidden or shown one, is not there.
    #[error("the folder {path} cannot be used: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error("cannot listen on {path}: {source}")]
    Listen {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The folder of control groups is of no use.
    #[error("cannot use the control groups in {path}: {source}")]
    Cgroup {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What was asked for does not work here.
    #[error("the isolation level {} does not work here: {reason}", level.name())]
    Level {
        /// Which.
        level: Level,
        /// What failed, in the supervisor's words.
        reason: String,
    },
    /// Each run at a time is a user of its own.
    #[error(
        "{concurrency} commands at once need as many users, and there are {users}: lower --concurrency, or name more by --uid-range"
    )]
    TooFewUsers {
        /// Runs at once.
        concurrency: usize,
        /// In the range.
        users: usize,
    },
    /// The connection's machinery failed.
    #[error("serving ended: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// A runner that listens and can run commands: its level is known to work.
pub struct Runner {
    service: RunnerService,
    level: Level,
    has_own_users: bool,
    listener: UnixListener,
    socket: PathBuf,
}

impl Runner {
    /// Finds out what works here, then listens on a unix socket, which only this user may connect to.
    pub async fn start(mut options: RunnerOptions, socket: &Path) -> Result<Self, RunnerError> {
        // For what a killed supervisor leaves. Where it cannot be had, such orphans go to the machine's first process.
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        let resolve = |path: &Path| {
            std::fs::canonicalize(path).map_err(|source| RunnerError::Folder { path: path.to_owned(), source })
        };
        options.build_dir = resolve(&options.build_dir)?;
        if options.build_dir.to_str().is_none() {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "its name is not UTF-8");
            return Err(RunnerError::Folder { path: options.build_dir, source });
        }
        // What is not there needs no hiding.
        options.hidden = options.hidden.iter().filter_map(|path| std::fs::canonicalize(path).ok()).collect();
        options.hidden.push(options.build_dir.clone());
        options.shown = options.shown.iter().map(|path| resolve(path)).collect::<Result<_, _>>()?;
        let own_id = identities::are_available(options.user_ids).then_some(options.user_ids.first);
        let users = (options.user_ids.last - options.user_ids.first) as usize + 1;
        if own_id.is_some() && options.concurrency > users {
            return Err(RunnerError::TooFewUsers { concurrency: options.concurrency, users });
        }
        let level = match options.isolation {
            Isolation::Only(level) => {
                probe::try_level(&options, level, own_id)
                    .await
                    .map_err(|reason| RunnerError::Level { level, reason })?;
                level
            }
            Isolation::Auto => match probe::try_level(&options, Level::Sandbox, own_id).await {
                Ok(()) => Level::Sandbox,
                Err(reason) => {
                    tracing::warn!(
                        event = "runner.no_sandbox",
                        reason,
                        "sandboxes do not work here; commands run at the host level, which keeps less apart"
                    );
                    probe::try_level(&options, Level::Host, own_id)
                        .await
                        .map_err(|reason| RunnerError::Level { level: Level::Host, reason })?;
                    Level::Host
                }
            },
        };
        let cgroups = match &options.cgroup {
            None => None,
            Some(dir) => {
                let (cgroups, missing) =
                    Cgroups::open(dir).map_err(|source| RunnerError::Cgroup { path: dir.clone(), source })?;
                if !missing.is_empty() {
                    tracing::warn!(event = "runner.no_controllers", ?missing, "runs cannot be limited by these");
                }
                Some(cgroups)
            }
        };
        let listen = |source| RunnerError::Listen { path: socket.to_owned(), source };
        let listener = bind(socket).await.map_err(listen)?;
        Ok(Self {
            service: RunnerService::new(options, level, cgroups),
            level,
            has_own_users: own_id.is_some(),
            listener,
            socket: socket.to_owned(),
        })
    }

    /// The line by which who started this process learns what it got: `level NAME`, and ` own-users` behind it when each run is a
    /// user of its own, who can alter nothing that is another's.
    pub fn first_line(&self) -> String {
        let own_users = if self.has_own_users { " own-users" } else { "" };
        format!("level {}{own_users}", self.level.name())
    }

    /// What commands run at.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Serves until `ended`; then ends what runs and returns.
    pub async fn serve(self, ended: impl Future<Output = ()>) -> Result<(), RunnerError> {
        let service = RunnerServer::new(self.service).max_decoding_message_size(REQUEST_BYTES_MAX);
        let serving =
            Server::builder().add_service(service).serve_with_incoming(UnixListenerStream::new(self.listener));
        let outcome = tokio::select! {
            served = serving => served.map_err(RunnerError::from),
            () = ended => Ok(()),
        };
        let _ = std::fs::remove_file(&self.socket);
        outcome
    }
}

async fn bind(socket: &Path) -> io::Result<UnixListener> {
    // One that nobody listens on is what a killed predecessor left.
    if std::fs::symlink_metadata(socket).is_ok_and(|there| there.file_type().is_socket())
        && matches!(UnixStream::connect(socket).await, Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
    {
        std::fs::remove_file(socket)?;
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
