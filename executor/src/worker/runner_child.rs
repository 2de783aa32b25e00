//! [`RunnerChild`]: the runner that a worker starts itself, and starts again when it dies.
//!
//! This is the one place where the worker makes a process after its own start. It does so only while no run begins: see
//! [`RunnerClient::start_exclusively`].

use std::{ffi::OsString, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::oneshot,
    task::JoinHandle,
};

use super::runner_client::RunnerClient;

/// Between a death and the next start; a runner that cannot start must not take the machine.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// How long a runner may take to end its commands and itself.
const END_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long a runner may take to try out what works here.
const START_WAIT_MAX: Duration = Duration::from_secs(30);

/// How to start a runner. It is to end when its standard input does, and to print `level NAME`, or `level NAME own-users`, when it
/// listens.
#[derive(Clone, Debug)]
pub struct RunnerCommand {
    /// The program.
    pub program: PathBuf,
    /// What it is told; the socket's address among it.
    pub arguments: Vec<OsString>,
}

impl RunnerCommand {
    fn spawn(&self) -> std::io::Result<Child> {
        Command::new(&self.program)
            .args(&self.arguments)
            // Its other end is ours: it ends when we do, however we end.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
    }
}

/// See the module.
pub(crate) struct RunnerChild {
    /// How it keeps commands apart.
    pub(crate) level: String,
    /// Whether each command is a user of its own, and not the worker's.
    pub(crate) has_own_users: bool,
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl RunnerChild {
    /// Starts the runner and waits until it listens; the first start has to succeed.
    pub(crate) async fn start(command: RunnerCommand, client: Arc<RunnerClient>) -> std::io::Result<Self> {
        let mut child = client.start_exclusively(|| command.spawn()).await?;
        // Waiting for a child closes its input, which asks this one to end: its input is kept apart.
        let mut input = child.stdin.take();
        let (level, has_own_users) = level(&mut child).await?;
        let (end, mut ended) = oneshot::channel();
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    status = child.wait() => {
                        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                        tracing::error!(event = "worker.runner_died", status, "the runner died; starting another");
                    }
                    _ = &mut ended => return finish(child, input).await,
                }
                (child, input) = loop {
                    tokio::select! {
                        () = tokio::time::sleep(RESTART_PAUSE) => {}
                        _ = &mut ended => return,
                    }
                    match client.start_exclusively(|| command.spawn()).await {
                        Ok(mut child) => {
                            let input = child.stdin.take();
                            break (child, input);
                        }
                        Err(error) => {
                            tracing::error!(event = "worker.runner_not_started", %error, "cannot start the runner");
                        }
                    }
                };
            }
        });
        Ok(Self { level, has_own_users, end, task })
    }

    /// Ends the runner, with all that it runs.
    pub(crate) async fn end(self) {
        let _ = self.end.send(());
        let _ = self.task.await;
    }
}

/// What a runner prints first. One that ends before has said on standard error why.
async fn level(child: &mut Child) -> std::io::Result<(String, bool)> {
    let output: ChildStdout = child.stdout.take().ok_or_else(|| std::io::Error::other("it has no standard output"))?;
    let mut line = String::new();
    let mut output = BufReader::new(output);
    match tokio::time::timeout(START_WAIT_MAX, output.read_line(&mut line)).await {
        Ok(read) => read?,
        Err(_) => return Err(std::io::Error::other("it did not say in time that it listens")),
    };
    match line.trim_end().strip_prefix("level ") {
        Some(words) => Ok(match words.strip_suffix(" own-users") {
            Some(level) => (level.to_owned(), true),
            None => (words.to_owned(), false),
        }),
        None => Err(std::io::Error::other("it ended before it listened; its words are above")),
    }
}

async fn finish(mut child: Child, input: Option<ChildStdin>) {
    // The end of its input asks it to end.
    drop(input);
    if let Some(pid) = child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32)) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if tokio::time::timeout(END_WAIT_MAX, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}
