//! One `cask serve` process over a folder of its own.
//!
//! Nothing here sleeps or guesses a port: the process is ready when it says where it listens. A process dies with its
//! `Server`, by SIGKILL; what it logged is shown when the test fails.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::HANG_GUARD;

/// The start of the one line on standard output that says where the server listens.
const LISTENING: &str = "cask: listening on ";
/// How many lines of the log are kept for a failing test.
const LOG_LINES_MAX: usize = 400;

/// How a server is started. The defaults are those of most tests; `lease` and `lease_floor` unset mean the server's own.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) max_size: String,
    pub(crate) lease: Option<String>,
    pub(crate) lease_floor: Option<String>,
    /// How long a stopping server waits for its clients.
    pub(crate) drain_timeout: Option<String>,
    /// The budget of upload bytes, and that of messages.
    pub(crate) max_staged: Option<String>,
    /// More of the command line, as it is written there.
    pub(crate) flags: Vec<&'static str>,
    /// Variables of its environment.
    pub(crate) environment: Vec<(&'static str, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_size: "256MiB".to_owned(),
            lease: None,
            lease_floor: None,
            drain_timeout: None,
            max_staged: None,
            flags: Vec::new(),
            environment: Vec::new(),
        }
    }
}

impl Options {
    /// A plain cache of this size: no lease holds anything.
    pub(crate) fn without_leases(max_size: &str) -> Self {
        Self {
            max_size: max_size.to_owned(),
            lease: Some("0s".to_owned()),
            lease_floor: Some("0s".to_owned()),
            ..Self::default()
        }
    }

    pub(crate) fn with_max_size(max_size: &str) -> Self {
        Self { max_size: max_size.to_owned(), ..Self::default() }
    }
}

/// A server process and the folder it serves. Both are gone when it is dropped.
pub(crate) struct Server {
    running: Option<Running>,
    options: Options,
    log: Log,
    /// The folder given to `--dir`.
    store: PathBuf,
    /// What it stands in, where that is the server's own: held, never read.
    held_folder: Option<TempDir>,
}

struct Running {
    child: Child,
    address: SocketAddr,
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<VecDeque<String>>>);

impl Log {
    fn push(&self, line: String) {
        let mut lines = self.0.lock().expect("no holder of the log panics");
        if lines.len() == LOG_LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    fn text(&self) -> String {
        let lines = self.0.lock().expect("no holder of the log panics");
        lines.iter().fold(String::new(), |text, line| text + "  | " + line + "\n")
    }
}

impl Server {
    /// A server over a fresh folder, ready to be spoken to.
    pub(crate) fn start(options: Options) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut server = Self::over(folder.path().join("store"), options);
        server.held_folder = Some(folder);
        server.start_again();
        server
    }

    /// A server over a folder that the test owns; not started yet.
    pub(crate) fn over(store: PathBuf, options: Options) -> Self {
        Self { running: None, options, log: Log::default(), store, held_folder: None }
    }

    /// Starts the process over the same folder; it must not be running.
    pub(crate) fn start_again(&mut self) {
        assert!(self.running.is_none(), "the server runs already");
        let mut child = self.command().spawn().expect("the server's binary starts");

        let (ready, ready_receiver) = mpsc::channel();
        keep_lines(child.stdout.take().expect("a piped stdout"), self.log.clone(), move |line| {
            if let Some(address) = line.strip_prefix(LISTENING) {
                // The receiver is gone only where the test has failed already.
                let _ = ready.send(address.trim().to_owned());
            }
        });
        keep_lines(child.stderr.take().expect("a piped stderr"), self.log.clone(), |_| {});

        let address = match ready_receiver.recv_timeout(HANG_GUARD) {
            Ok(address) => address,
            Err(problem) => {
                let _ = child.kill();
                let status = child.wait();
                panic!("the server did not say where it listens ({problem}; {status:?}):\n{}", self.log.text());
            }
        };
        let address = address.parse().unwrap_or_else(|_| panic!("not an address after {LISTENING:?}: {address:?}"));
        self.running = Some(Running { child, address });
    }

    /// The size limit from the next start on.
    pub(crate) fn set_max_size(&mut self, max_size: &str) {
        max_size.clone_into(&mut self.options.max_size);
    }

    /// Runs a second process over the same folder to its end: its exit status and all it printed.
    pub(crate) fn run_another(&self) -> (ExitStatus, String) {
        let mut child = self.command().spawn().expect("the server's binary starts");
        let log = Log::default();
        let (ready, ready_receiver) = mpsc::channel();
        let stderr = keep_lines(child.stderr.take().expect("a piped stderr"), log.clone(), |_| {});
        let stdout = keep_lines(child.stdout.take().expect("a piped stdout"), log.clone(), move |line| {
            if line.starts_with(LISTENING) {
                // The receiver is gone only where the test has failed already.
                let _ = ready.send(());
            }
        });
        // Either it ends, which closes its output, or it serves, which it must not.
        let serves = ready_receiver.recv_timeout(HANG_GUARD).is_ok();
        if serves {
            child.kill().expect("the process runs");
        }
        let status = child.wait().expect("the process can be waited for");
        stdout.join().expect("reading lines does not panic");
        stderr.join().expect("reading lines does not panic");
        assert!(!serves, "a second server serves the same folder:\n{}", log.text());
        (status, log.text())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cask"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--max-size", &self.options.max_size]);
        command.arg("--dir").arg(self.store());
        for (flag, value) in [
            ("--lease", &self.options.lease),
            ("--lease-floor", &self.options.lease_floor),
            ("--drain-timeout", &self.options.drain_timeout),
            ("--max-staged", &self.options.max_staged),
        ] {
            if let Some(value) = value {
                command.args([flag, value]);
            }
        }
        command.args(&self.options.flags);
        // The same tests over each way to write; see the `adapters` stage.
        if let Ok(adapter) = std::env::var("CASK_TEST_DISK_ADAPTER") {
            command.args(["--disk-adapter", &adapter]);
        }
        // What the developer has set for servers of their own is not for this one.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CASK_") {
                command.env_remove(name);
            }
        }
        command.envs(self.options.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// SIGTERM, then waits for the end, which must be a clean one. The clients of this task go on meanwhile: a server
    /// lets go of a connection when the other side has heard that it shall.
    pub(crate) async fn stop(self) -> Self {
        self.terminate();
        let (status, server) = self.ended().await;
        assert!(status.success(), "after SIGTERM the server ended with {status}:\n{}", server.log.text());
        server
    }

    /// Sends SIGTERM and returns at once.
    pub(crate) fn terminate(&self) {
        kill_process(self.pid(), Signal::TERM).expect("the server runs");
    }

    /// SIGKILL: the process gets no chance to say goodbye.
    pub(crate) fn kill(&mut self) {
        kill_process(self.pid(), Signal::KILL).expect("the server runs");
        self.wait();
    }

    /// Waits for the process to end by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut running = self.running.take().expect("the server runs");
        running.child.wait().expect("the process can be waited for")
    }

    /// As `wait`, for a test whose clients must go on while the server ends.
    pub(crate) async fn ended(mut self) -> (ExitStatus, Self) {
        let wait = tokio::task::spawn_blocking(move || (self.wait(), self));
        super::within("the server's end", wait).await.expect("waiting does not panic")
    }

    pub(crate) fn kill_and_restart(&mut self) {
        self.kill();
        self.start_again();
    }

    /// True while the process has not ended.
    pub(crate) fn is_alive(&mut self) -> bool {
        let running = self.running.as_mut().expect("the server was started");
        running.child.try_wait().expect("the process can be asked").is_none()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running.as_ref().expect("the server runs").address
    }

    /// The folder given to `--dir`.
    pub(crate) fn store(&self) -> PathBuf {
        self.store.clone()
    }

    /// What the server has printed so far, its last lines.
    pub(crate) fn log_text(&self) -> String {
        self.log.text()
    }

    /// The most memory that was resident at once, mapped pages of the store included.
    pub(crate) fn peak_memory_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    /// Anonymous resident memory in bytes: the process's own, without the mapped pages of the store.
    pub(crate) fn anonymous_memory_bytes(&self) -> u64 {
        self.status_bytes("RssAnon:")
    }

    fn status_bytes(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid().as_raw_nonzero()))
            .expect("the process has a status file");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of that name");
        let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number of kilobytes");
        kibibytes * 1024
    }

    /// How many files and sockets the process holds open.
    pub(crate) fn open_file_count(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid().as_raw_nonzero())).expect("the process has open files").count()
    }

    /// How many threads the process has.
    pub(crate) fn thread_count(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.pid().as_raw_nonzero())).expect("the process has threads").count()
    }

    /// The files with the blobs in them, in the order of their names.
    pub(crate) fn segment_files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = fs::read_dir(self.store().join("segments"))
            .expect("the store has a folder of segments")
            .map(|entry| entry.expect("a folder entry").path())
            .filter(|path| path.is_file())
            .collect();
        files.sort();
        files
    }

    pub(crate) fn pid(&self) -> Pid {
        let id = self.running.as_ref().expect("the server runs").child.id();
        Pid::from_raw(i32::try_from(id).expect("a process id")).expect("a process id is not zero")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
        if thread::panicking() {
            eprintln!("the server printed:\n{}", self.log.text());
        }
    }
}

/// Reads `pipe` to its end on a thread of its own, so that the process never blocks on a full pipe.
fn keep_lines(pipe: impl Read + Send + 'static, log: Log, on_line: impl Fn(&str) + Send + 'static) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let Ok(line) = line else { return };
            on_line(&line);
            log.push(line);
        }
    })
}

/// What a folder takes on the disk, its subfolders included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DiskUse {
    /// The sum of the files' lengths.
    pub(crate) length_bytes: u64,
    /// The sum of what is allocated for files and folders.
    pub(crate) allocated_bytes: u64,
}

pub(crate) fn disk_use(folder: &Path) -> DiskUse {
    use std::os::unix::fs::MetadataExt;
    let mut total = DiskUse::default();
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a folder entry").path();
        // A file may go between the listing and the look at it.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        total.allocated_bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            let inner = disk_use(&path);
            total.length_bytes += inner.length_bytes;
            total.allocated_bytes += inner.allocated_bytes;
        } else {
            total.length_bytes += metadata.len();
        }
    }
    total
}
