//! [`Server`]: a `cask serve` process of one network thread, on the core of what is measured, and runs of the load client
//! against it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cask_load::{Limit, Options, Report, Target, Workload};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::hindrance::Hindrance;
use super::rounds::Sample;
use super::scene::Scene;

/// The start of the line on standard output that says where the server listens.
const LISTENING: &str = "cask: listening on ";

/// How the names of threads that serve connections begin.
pub const NETWORK_THREAD: &str = "cask-edge";

/// A server and its store; the process ends and the folder goes when it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    target: Target,
    address: String,
    folder: TempDir,
    arguments: Vec<String>,
}

impl Server {
    /// Starts one over a fresh store of `max_size` without leases, so that it makes room for whatever comes.
    pub fn start(scene: &Scene, max_size: &str) -> Result<Self, Hindrance> {
        Self::start_with(scene, max_size, &["--lease", "0s", "--lease-floor", "0s"])
    }

    /// Starts one over a fresh store of `max_size` with more `arguments`.
    pub fn start_with(scene: &Scene, max_size: &str, arguments: &[&str]) -> Result<Self, Hindrance> {
        let folder = tempfile::Builder::new()
            .prefix("cask-targets.")
            .tempdir_in(&scene.folder)
            .map_err(Hindrance::to("make a folder for the store"))?;
        let plain = ["--max-size", max_size, "--threads", "1"];
        let arguments: Vec<String> = plain.iter().chain(arguments).map(|&text| text.to_owned()).collect();
        let (child, address) = spawn(scene, folder.path(), &arguments)?;
        let target = target_of(&address)?;
        Ok(Self { child, target, address, folder, arguments })
    }

    /// Stops the process in order, calls `meanwhile` with the store's folder, and starts another process over it.
    pub fn restart(
        &mut self,
        scene: &Scene,
        meanwhile: impl FnOnce(&Path) -> Result<(), Hindrance>,
    ) -> Result<(), Hindrance> {
        self.stop();
        meanwhile(&self.store())?;
        (self.child, self.address) = spawn(scene, self.folder.path(), &self.arguments)?;
        self.target = target_of(&self.address)?;
        Ok(())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The folder of its segments.
    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// What the load client is told: one connection with `concurrency` requests in flight for a turn of the scene.
    pub fn options(&self, scene: &Scene, concurrency: usize) -> Options {
        Options {
            concurrency,
            limit: Limit::Duration(scene.pace.turn),
            warm_up: scene.pace.warm_up,
            server_pid: Some(self.pid()),
            ..Options::new(self.target.clone())
        }
    }

    fn stop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nobody wants the store any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn target_of(address: &str) -> Result<Target, Hindrance> {
    let text = format!("grpc://{address}");
    text.parse().map_err(|error| Hindrance::Lacking(format!("the server says it listens on \"{address}\": {error}")))
}

fn spawn(scene: &Scene, folder: &Path, arguments: &[String]) -> Result<(Child, String), Hindrance> {
    let log_path = folder.join("log");
    let log = File::create(&log_path).map_err(Hindrance::to("make the server's log"))?;
    let mut command = Command::new(&scene.cask);
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--drain-timeout", "1s", "--dir"])
        .arg(folder.join("store"))
        .args(arguments)
        // What is set for another server has no say here.
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    let mut child = scene.cores.on_measured(move || command.spawn()).map_err(Hindrance::to("start the server"))?;
    let output = child.stdout.take().expect("a piped stdout");
    let mut lines = BufReader::new(output).lines();
    // Its end, if the server does not come to listen, ends this, too.
    let listening =
        lines.by_ref().map_while(Result::ok).find_map(|line| line.strip_prefix(LISTENING).map(str::to_owned));
    // The banner goes on; a pipe that nobody reads must not break or fill.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    if let Some(address) = listening {
        return Ok((child, address.trim().to_owned()));
    }
    let _ = child.wait();
    let said = std::fs::read_to_string(log_path).unwrap_or_default();
    Err(Hindrance::Lacking(format!("the server did not start: {}", said.lines().last().unwrap_or("it says nothing"))))
}

/// Runs `workload`; a request that failed is a hindrance, since what was measured is not what was meant.
pub fn load(workload: &Workload, options: &Options) -> Result<Report, Hindrance> {
    let report = cask_load::run(workload, options, |_| ())?;
    match report.errors.first() {
        None => Ok(report),
        Some(error) => Err(Hindrance::Lacking(format!(
            "{} of the requests of {} failed: {} {}",
            error.count,
            workload.name(),
            error.code,
            error.detail
        ))),
    }
}

/// What a report counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Requests.
    Requests,
    /// Digests in them.
    Digests,
    /// Thousand million bytes of blobs.
    Gigabytes,
}

/// A turn of the load client.
pub fn turn(workload: &Workload, options: &Options, counted: Counted) -> Result<Sample, Hindrance> {
    sample(&load(workload, options)?, counted)
}

/// What a report says of the server.
pub fn sample(report: &Report, counted: Counted) -> Result<Sample, Hindrance> {
    let units: f64 = report
        .operations
        .iter()
        .map(|row| match counted {
            Counted::Requests => row.requests as f64,
            Counted::Digests => row.digests as f64,
            Counted::Gigabytes => row.bytes as f64 / 1e9,
        })
        .sum();
    let server =
        report.server.ok_or_else(|| Hindrance::Lacking("the server's process cannot be looked at".to_owned()))?;
    Ok(Sample::new(units, report.elapsed_seconds, server.cpu_seconds))
}

/// How long is waited for things that take as long as they take.
pub const PATIENCE: Duration = Duration::from_secs(30);
