//! A runner in the test's process: the protocol, and no isolation at all.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use cask_proto::{
    run_options::RunOptions,
    runner::{
        CheckReadinessRequest, RunRequest, RunResponse,
        runner_server::{Runner, RunnerServer},
    },
};
use prost::Message as _;
use tokio::{net::UnixListener, process::Command, sync::watch};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Code, Request, Response, Status, transport::Server};

#[derive(Clone)]
pub(crate) struct FakeRunner {
    build: PathBuf,
    /// Requests that came, with their options.
    pub(crate) runs: Arc<Mutex<Vec<(RunRequest, RunOptions)>>>,
    /// How many run.
    running: Arc<watch::Sender<usize>>,
    /// What the next runs answer instead of running.
    pub(crate) refusals: Arc<Mutex<Vec<Status>>>,
    /// Files to leave in the folder of logs.
    pub(crate) server_logs: Arc<Mutex<Vec<(String, String)>>>,
}

impl FakeRunner {
    pub(crate) fn serve(socket: &Path, build: &Path) -> Self {
        let listener = UnixListener::bind(socket).expect("a socket");
        let runner = Self {
            build: build.to_owned(),
            runs: Arc::default(),
            running: Arc::new(watch::channel(0).0),
            refusals: Arc::default(),
            server_logs: Arc::default(),
        };
        let server = Server::builder().add_service(RunnerServer::new(runner.clone()));
        tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        runner
    }

    /// Waits until so many commands run.
    pub(crate) async fn wait_for(&self, count: usize) {
        let mut running = self.running.subscribe();
        super::soon(running.wait_for(|running| *running == count)).await.expect("the runner lives");
    }

    pub(crate) fn run_count(&self) -> usize {
        self.runs.lock().expect("not poisoned").len()
    }

    pub(crate) fn options(&self) -> RunOptions {
        self.runs.lock().expect("not poisoned").last().expect("something ran").1.clone()
    }
}

/// Counts a run for as long as its call lives.
struct Running(Arc<watch::Sender<usize>>);

impl Running {
    fn new(running: &Arc<watch::Sender<usize>>) -> Self {
        running.send_modify(|count| *count += 1);
        Self(Arc::clone(running))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[tonic::async_trait]
impl Runner for FakeRunner {
    async fn check_readiness(&self, _: Request<CheckReadinessRequest>) -> Result<Response<()>, Status> {
        Ok(Response::new(()))
    }

    async fn run(&self, request: Request<RunRequest>) -> Result<Response<RunResponse>, Status> {
        let options = request.metadata().get_bin("cask-run-options-bin").expect("our options");
        let options = RunOptions::decode(options.to_bytes().expect("binary")).expect("options");
        let request = request.into_inner();
        self.runs.lock().expect("not poisoned").push((request.clone(), options.clone()));
        if let Some(status) = self.refusals.lock().expect("not poisoned").pop() {
            return Err(status);
        }
        for (name, content) in self.server_logs.lock().expect("not poisoned").iter() {
            std::fs::write(self.build.join(&request.server_logs_directory).join(name), content)?;
        }
        let _running = Running::new(&self.running);
        let mut command = Command::new(&request.arguments[0]);
        command
            .args(&request.arguments[1..])
            .env_clear()
            .envs(&request.environment_variables)
            .env("TMPDIR", self.build.join(&request.temporary_directory))
            .current_dir(self.build.join(&request.input_root_directory).join(&request.working_directory))
            .stdin(Stdio::null())
            .stdout(File::create_new(self.build.join(&request.stdout_path))?)
            .stderr(File::create_new(self.build.join(&request.stderr_path))?)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let timeout = options.timeout.map_or(Duration::MAX, |timeout| Duration::try_from(timeout).expect("positive"));
        let Ok(status) = tokio::time::timeout(timeout, child.wait()).await else {
            child.kill().await?;
            return Err(Status::new(Code::DeadlineExceeded, "its time is over"));
        };
        let usage = prost_types::Any { type_url: "usage".to_owned(), value: vec![1] };
        let exit_code = i64::from(status?.code().unwrap_or(255));
        Ok(Response::new(RunResponse { exit_code, resource_usage: vec![usage] }))
    }
}
