//! One `cask worker` process with a folder of its own. It is ready when it says that it is connected, and dies with its
//! `Worker`, by SIGKILL; what it logged is shown when the test fails.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::HANG_GUARD;
use super::process::Server;

/// The start of the line on standard output that says that the worker is there.
const READY: &str = "cask: worker ";

/// How a worker is started.
#[derive(Clone, Debug)]
pub(crate) struct WorkerOptions {
    pub(crate) name: String,
    /// Where the server is, if not at its first address.
    pub(crate) server: Option<String>,
    pub(crate) instance: String,
    /// Actions at once.
    pub(crate) concurrency: u32,
    /// Properties, as `NAME=VALUE`.
    pub(crate) platform: Vec<String>,
    /// More of the command line, as it is written there.
    pub(crate) flags: Vec<String>,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            name: "w1".to_owned(),
            server: None,
            instance: String::new(),
            concurrency: 1,
            platform: Vec::new(),
            flags: Vec::new(),
        }
    }
}

/// A worker process. Its folder is gone with it.
pub(crate) struct Worker {
    child: Option<Child>,
    log: Arc<Mutex<Vec<String>>>,
    folder: TempDir,
}

impl Worker {
    /// A worker that is connected to the server.
    pub(crate) fn start(server: &Server, options: &WorkerOptions) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Root's worker runs commands as others, who have to pass it.
        let passable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), passable).expect("its mode");
        let mut command = Command::new(env!("CARGO_BIN_EXE_cask"));
        let address = options.server.clone().unwrap_or_else(|| format!("grpc://{}", server.address()));
        command.args(["worker", "--server", &address, "--name", &options.name]);
        command.args(["--concurrency", &options.concurrency.to_string(), "--instance", &options.instance]);
        command.arg("--dir").arg(folder.path().join("worker"));
        for property in &options.platform {
            command.args(["--platform", property]);
        }
        command.args(&options.flags);
        // What the developer has set for workers of their own is not for this one.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CASK_") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the worker's binary starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (ready, ready_receiver) = mpsc::channel();
        keep_lines(child.stdout.take().expect("a piped stdout"), Arc::clone(&log), move |line| {
            if line.starts_with(READY) && line.contains(" is connected to ") {
                // The receiver is gone only where the test has failed already.
                let _ = ready.send(());
            }
        });
        keep_lines(child.stderr.take().expect("a piped stderr"), Arc::clone(&log), |_| {});
        let worker = Self { child: Some(child), log, folder };
        if let Err(problem) = ready_receiver.recv_timeout(HANG_GUARD) {
            panic!("the worker did not say that it is connected: {problem}");
        }
        worker
    }

    /// SIGKILL: no goodbye to anybody.
    pub(crate) fn kill(&mut self) {
        kill_process(self.pid(), Signal::KILL).expect("the worker runs");
        self.wait();
    }

    /// Sends SIGTERM and returns at once.
    pub(crate) fn terminate(&self) {
        kill_process(self.pid(), Signal::TERM).expect("the worker runs");
    }

    /// Waits for the process to end by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the worker runs");
        child.wait().expect("the process can be waited for")
    }

    /// As `wait`, for a test that goes on meanwhile.
    pub(crate) async fn ended(mut self) -> (ExitStatus, Self) {
        let wait = tokio::task::spawn_blocking(move || (self.wait(), self));
        super::within("the worker's end", wait).await.expect("waiting does not panic")
    }

    /// Its folder: caches, and the folders of what runs.
    pub(crate) fn folder(&self) -> std::path::PathBuf {
        self.folder.path().join("worker")
    }

    pub(crate) fn pid(&self) -> Pid {
        let id = self.child.as_ref().expect("the worker runs").id();
        Pid::from_raw(i32::try_from(id).expect("a process id")).expect("a process id is not zero")
    }

    /// What it has printed so far.
    pub(crate) fn log_text(&self) -> String {
        self.log
            .lock()
            .expect("no holder of the log panics")
            .iter()
            .fold(String::new(), |text, line| text + "  | " + line + "\n")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            eprintln!("the worker printed:\n{}", self.log_text());
        }
    }
}

/// Reads `pipe` to its end on a thread of its own, so that the process never blocks on a full pipe.
fn keep_lines(pipe: impl Read + Send + 'static, log: Arc<Mutex<Vec<String>>>, on_line: impl Fn(&str) + Send + 'static) {
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let Ok(line) = line else { return };
            on_line(&line);
            log.lock().expect("no holder of the log panics").push(line);
        }
    });
}
