//! A runner with a build folder of its own, and actions made in it as a worker makes them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::BufRead;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use cask_executor::runner::{Isolation, Level, RUN_OPTIONS_HEADER, Runner, RunnerOptions};
use cask_proto::resourceusage::PosixResourceUsage;
use cask_proto::run_options::RunOptions;
use cask_proto::runner::runner_client::RunnerClient;
use cask_proto::runner::{RunRequest, RunResponse};
use prost::Message;
use tempfile::TempDir;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// A runner and its build folder.
pub(crate) struct Rig {
    pub(crate) dir: TempDir,
    client: RunnerClient<Channel>,
    serving: Serving,
    /// Who the runner is and whose the folders of actions are; `None`: this process's user.
    owner: Option<u32>,
    next: AtomicU64,
}

enum Serving {
    Task(tokio::task::JoinHandle<()>),
    Process(Child),
}

impl Rig {
    pub(crate) async fn start(level: Level) -> Self {
        Self::start_with(level, |_| {}).await
    }

    pub(crate) async fn start_with(level: Level, change: impl FnOnce(&mut RunnerOptions)) -> Self {
        let dir = folder();
        let mut options = RunnerOptions::new(dir.path().join("build"));
        options.isolation = Isolation::Only(level);
        change(&mut options);
        let socket = dir.path().join("socket");
        let runner = Runner::start(options, &socket).await.unwrap_or_else(|error| panic!("{error}"));
        let serving = tokio::spawn(async {
            runner.serve(std::future::pending()).await.expect("serving goes on");
        });
        let client = connect(&socket).await;
        Self { dir, client, serving: Serving::Task(serving), owner: None, next: AtomicU64::new(0) }
    }

    /// A runner that is a process of its own, of another user if `owner` says so; started by `wrapper` if there is one. Returns
    /// also the level it says it has.
    pub(crate) async fn process(level: &str, owner: Option<u32>, wrapper: &[&str]) -> (Self, String) {
        let dir = folder();
        let exe = std::env::current_exe().expect("this binary");
        let mut words = wrapper.iter().map(OsStr::new).chain([exe.as_os_str()]);
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).arg("__runner").arg(level).arg(dir.path()).stdout(Stdio::piped());
        if let Some(owner) = owner {
            for path in [dir.path().to_owned(), dir.path().join("build")] {
                std::os::unix::fs::chown(path, Some(owner), Some(owner)).expect("a change of owner");
            }
            command.uid(owner).gid(owner);
        }
        let mut process = command.spawn().expect("a runner");
        let mut line = String::new();
        let output = process.stdout.as_mut().expect("its output");
        std::io::BufReader::new(output).read_line(&mut line).expect("its level");
        let level =
            line.trim_end().strip_prefix("level ").unwrap_or_else(|| panic!("it does not start: {line}")).to_owned();
        let client = connect(&dir.path().join("socket")).await;
        (Self { dir, client, serving: Serving::Process(process), owner, next: AtomicU64::new(0) }, level)
    }

    /// The process of one that is a process.
    pub(crate) fn runner_pid(&self) -> u32 {
        match &self.serving {
            Serving::Process(process) => process.id(),
            Serving::Task(_) => panic!("this runner is a task"),
        }
    }

    pub(crate) fn kill_runner(&mut self) {
        if let Serving::Process(process) = &mut self.serving {
            process.kill().expect("it can be killed");
            process.wait().expect("it ends");
        }
    }

    pub(crate) fn build_dir(&self) -> PathBuf {
        self.dir.path().join("build")
    }

    pub(crate) fn client(&self) -> RunnerClient<Channel> {
        self.client.clone()
    }

    /// A new action of a shell script.
    pub(crate) fn shell(&self, script: &str) -> Action {
        self.action(&["/bin/sh", "-c", script])
    }

    pub(crate) fn action(&self, arguments: &[&str]) -> Action {
        let number = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let action = Action::make(&self.build_dir(), &number, arguments, self.client());
        if let Some(owner) = self.owner {
            for path in ["", "root", "tmp", "server_logs"] {
                std::os::unix::fs::chown(action.folder.join(path), Some(owner), Some(owner))
                    .expect("a change of owner");
            }
        }
        action
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        match &mut self.serving {
            Serving::Task(task) => task.abort(),
            Serving::Process(process) => {
                let _ = process.kill();
                let _ = process.wait();
            }
        }
    }
}

/// A folder of a test that other users may pass through, with a build folder in it.
pub(crate) fn folder() -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
    fs::create_dir(dir.path().join("build")).expect("a build folder");
    dir
}

pub(crate) async fn connect(socket: &Path) -> RunnerClient<Channel> {
    let address = format!("unix:{}", socket.display());
    let channel = Endpoint::from_shared(address).expect("an address").connect().await.expect("a runner");
    RunnerClient::new(channel)
}

/// One action: its folder, the request, and what the worker says beside it.
pub(crate) struct Action {
    pub(crate) folder: PathBuf,
    pub(crate) request: RunRequest,
    pub(crate) options: RunOptions,
    client: RunnerClient<Channel>,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) exit_code: i64,
    pub(crate) usage: PosixResourceUsage,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Action {
    pub(crate) fn make(build_dir: &Path, name: &str, arguments: &[&str], client: RunnerClient<Channel>) -> Self {
        let folder = build_dir.join(name);
        fs::create_dir(&folder).expect("a folder");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("its mode");
        for inner in ["root", "tmp", "server_logs"] {
            let inner = folder.join(inner);
            fs::create_dir(&inner).expect("a folder");
            fs::set_permissions(&inner, fs::Permissions::from_mode(0o777)).expect("its mode");
        }
        let request = RunRequest {
            arguments: arguments.iter().map(ToString::to_string).collect(),
            environment_variables: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
            working_directory: String::new(),
            stdout_path: format!("{name}/stdout"),
            stderr_path: format!("{name}/stderr"),
            input_root_directory: format!("{name}/root"),
            temporary_directory: format!("{name}/tmp"),
            server_logs_directory: format!("{name}/server_logs"),
        };
        Self { folder, request, options: RunOptions::default(), client }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// An input file as a worker stages one: read-only.
    pub(crate) fn input(self, path: &str, content: &str, mode: u32) -> Self {
        let place = self.root().join(path);
        fs::create_dir_all(place.parent().expect("it is in the root")).expect("its folder");
        fs::write(&place, content).expect("an input");
        fs::set_permissions(&place, fs::Permissions::from_mode(mode)).expect("its mode");
        self
    }

    pub(crate) async fn run(&self) -> Result<Ended, Status> {
        let response = self.call().await?;
        let usage = response.resource_usage.first().expect("resource usage");
        let usage = usage.to_msg::<PosixResourceUsage>().expect("of the POSIX kind");
        Ok(Ended { exit_code: response.exit_code, usage, stdout: self.read("stdout"), stderr: self.read("stderr") })
    }

    pub(crate) async fn call(&self) -> Result<RunResponse, Status> {
        let mut call = Request::new(self.request.clone());
        call.metadata_mut().insert_bin(RUN_OPTIONS_HEADER, MetadataValue::from_bytes(&self.options.encode_to_vec()));
        self.client.clone().run(call).await.map(tonic::Response::into_inner)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join(name)).unwrap_or_default()).into_owned()
    }
}

/// The life of a process that is a runner and nothing else: `__runner LEVEL FOLDER`.
pub(crate) fn runner_process() -> Option<ExitCode> {
    let arguments: Vec<_> = std::env::args().collect();
    if arguments.get(1)? != "__runner" {
        return None;
    }
    let level = arguments[2].parse().expect("a level");
    let dir = PathBuf::from(&arguments[3]);
    runtime().block_on(async {
        let mut options = RunnerOptions::new(dir.join("build"));
        options.isolation = level;
        let runner = Runner::start(options, &dir.join("socket")).await.unwrap_or_else(|error| panic!("{error}"));
        println!("{}", runner.first_line());
        runner.serve(std::future::pending()).await.expect("serving goes on");
    });
    Some(ExitCode::SUCCESS)
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// A number that no other test's `sleep` has for its argument, by which processes are found.
pub(crate) fn mark() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}{:04}", 100_000 + std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The processes of which the mark is an argument.
pub(crate) fn marked(mark: &str) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let marked = processes.filter(|process| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|argument| argument == mark.as_bytes())
    });
    marked.filter_map(|process| process.file_name().to_str()?.parse().ok()).collect()
}

/// Waits for something that happens in another process.
pub(crate) async fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !happened() {
        assert!(std::time::Instant::now() < patience, "{what} does not happen");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}
