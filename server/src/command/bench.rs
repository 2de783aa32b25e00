//! `cask bench`: loads a cache, ours or another, and says what it gave and what it cost.
//!
//! The report goes to standard output, how far the run is to standard error when somebody looks. Exit codes: 0 when every
//! request went well; 1 when one failed, or nothing could be measured; 2 when the command line is wrong.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use cask_index::DigestFunction;
use cask_load::{Limit, LoadError, Options, Progress, Stage, Target, Workload};
use cask_proto::InstanceName;
use clap::{Args, Subcommand};

use super::Failure;
use super::remote::with_causes;
use crate::config::{ByteSize, TimeSpan};

/// Load a cache and measure it: throughput, latency, errors, processor time.
#[derive(Debug, Args)]
#[command(subcommand_value_name = "WORKLOAD", subcommand_help_heading = "Workloads", disable_help_subcommand = true)]
#[command(after_help = "Each workload has its own options: cask bench read --help.\n\
                        What the numbers mean, and how to measure fairly: docs/benchmarking.md.")]
pub(crate) struct BenchArguments {
    #[command(subcommand)]
    workload: WorkloadArguments,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::doc_markdown, reason = "the comments are the help texts")]
enum WorkloadArguments {
    /// FindMissingBlobs: which of many blobs are missing
    FindMissing {
        /// Digests a request
        #[arg(long, value_name = "COUNT", default_value = "1000", value_parser = count)]
        batch: usize,

        /// Share of the digests that the server has, 0 to 1
        #[arg(long, value_name = "SHARE", default_value = "1", value_parser = share)]
        hit_rate: f64,

        /// How many different digests are asked for in turn; those that the server is to have are uploaded first
        #[arg(long, value_name = "COUNT", default_value = "100000", value_parser = count)]
        blobs: usize,

        #[command(flatten)]
        common: Common,
    },
    /// ByteStream.Read: download blobs, a stream each
    Read {
        #[command(flatten)]
        size: Size,

        #[command(flatten)]
        blobs: Blobs,

        #[command(flatten)]
        common: Common,
    },
    /// ByteStream.Write: upload new blobs, a stream each
    Write {
        #[command(flatten)]
        size: Size,

        /// Bytes of data in each message of a stream
        #[arg(long, value_name = "SIZE", default_value = "64KiB", value_parser = message_size)]
        message: usize,

        #[command(flatten)]
        common: Common,
    },
    /// BatchReadBlobs: download small blobs, many a request
    BatchRead {
        #[command(flatten)]
        size: Size,

        /// Blobs a request
        #[arg(long, value_name = "COUNT", default_value = "100", value_parser = count)]
        batch: usize,

        #[command(flatten)]
        blobs: Blobs,

        #[command(flatten)]
        common: Common,
    },
    /// BatchUpdateBlobs: upload new small blobs, many a request
    BatchUpdate {
        #[command(flatten)]
        size: Size,

        /// Blobs a request
        #[arg(long, value_name = "COUNT", default_value = "100", value_parser = count)]
        batch: usize,

        #[command(flatten)]
        common: Common,
    },
    /// GetActionResult of results that are there
    ActionHit {
        /// How many different results are asked for in turn
        #[arg(long, value_name = "COUNT", default_value = "1000", value_parser = count)]
        actions: usize,

        /// Output files of each result
        #[arg(long, value_name = "COUNT", default_value = "1")]
        outputs: usize,

        #[command(flatten)]
        common: Common,
    },
    /// GetActionResult of results that are not there
    ActionMiss {
        /// How many different results are asked for in turn
        #[arg(long, value_name = "COUNT", default_value = "100000", value_parser = count)]
        actions: usize,

        #[command(flatten)]
        common: Common,
    },
    /// UpdateActionResult of new actions
    ActionUpdate {
        /// Output files of each result
        #[arg(long, value_name = "COUNT", default_value = "1")]
        outputs: usize,

        #[command(flatten)]
        common: Common,
    },
    /// What many builds at once ask for: lookups, downloads, uploads of many sizes
    Mixed {
        /// Share of the actions whose results are there, 0 to 1
        #[arg(long, value_name = "SHARE", default_value = "0.9", value_parser = share)]
        hit_rate: f64,

        #[command(flatten)]
        common: Common,
    },
    /// GET of blobs over HTTP/1.1
    HttpGet {
        #[command(flatten)]
        size: Size,

        #[command(flatten)]
        blobs: Blobs,

        #[command(flatten)]
        common: Common,
    },
    /// PUT of new blobs over HTTP/1.1
    HttpPut {
        #[command(flatten)]
        size: Size,

        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
struct Size {
    /// Bytes of each blob
    #[arg(long, value_name = "SIZE", default_value = "4KiB")]
    size: ByteSize,
}

#[derive(Debug, Args)]
struct Blobs {
    /// How many different blobs are read in turn [default: 256 MiB of them, 1,000 at most]
    #[arg(long, value_name = "COUNT", value_parser = count)]
    blobs: Option<usize>,
}

#[derive(Debug, Args)]
#[expect(clippy::doc_markdown, reason = "the comments are the help texts")]
struct Common {
    /// Address of the cache: grpc://HOST:PORT, http://HOST:PORT or unix:/PATH
    #[arg(long, value_name = "URL", env = "CASK_SERVER", default_value = "grpc://127.0.0.1:8980")]
    server: Target,

    /// Instance name, as in Bazel's --remote_instance_name
    #[arg(long, value_name = "NAME", env = "CASK_INSTANCE", default_value = "", hide_default_value = true)]
    instance: String,

    /// Digest function: sha256, blake3, sha1, sha384, sha512, md5, sha256tree or gitsha1
    #[arg(long, value_name = "NAME", default_value = "sha256", value_parser = function)]
    digest_function: DigestFunction,

    /// Requests in flight on each connection [default: 16; HTTP/1.1 has 1]
    #[arg(long, value_name = "COUNT", value_parser = count)]
    concurrency: Option<usize>,

    /// Connections
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = count)]
    connections: usize,

    /// Threads of the client, which share the connections
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = count)]
    threads: usize,

    /// How long is measured
    #[arg(long, value_name = "TIME", default_value = "5s", conflicts_with = "requests")]
    duration: TimeSpan,

    /// Measure this many requests instead, without warming up
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,

    /// How long the same is done before it is measured
    #[arg(long, value_name = "TIME", default_value = "500ms", conflicts_with = "requests")]
    warm_up: TimeSpan,

    /// Flow-control window of each answer; clients of Bazel's kind have 1 MiB
    #[arg(long, value_name = "SIZE", default_value = "1MiB")]
    window: ByteSize,

    /// What contents are made from: the same seed, the same blobs [default: another one each time]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,

    /// Compare every byte received with what it should be; costs the client time
    #[arg(long)]
    verify: bool,

    /// The server's process, if it runs on this machine: its processor time and memory are reported
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// A number that is not 0.
fn count(text: &str) -> Result<usize, String> {
    let number: usize = text.replace('_', "").parse().map_err(|_| "a whole number is wanted".to_owned())?;
    if number == 0 { Err("it must be 1 at least".to_owned()) } else { Ok(number) }
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "a number from 0 to 1 is wanted".to_owned())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("a number from 0 to 1 is wanted".to_owned()) }
}

fn function(text: &str) -> Result<DigestFunction, String> {
    DigestFunction::from_name(text)
        .ok_or_else(|| "the functions are sha256, blake3, sha1, sha384, sha512, md5, sha256tree and gitsha1".to_owned())
}

fn message_size(text: &str) -> Result<usize, String> {
    let ByteSize(bytes) = text.parse().map_err(|error| format!("{error}"))?;
    if (1..=1 << 30).contains(&bytes) { Ok(bytes as usize) } else { Err("1 B to 1 GiB".to_owned()) }
}

impl Blobs {
    fn count(&self, size_bytes: u64) -> usize {
        const READ_BYTES: u64 = 256 << 20;
        self.blobs.unwrap_or_else(|| (READ_BYTES / size_bytes.max(1)).clamp(1, 1000) as usize)
    }
}

impl WorkloadArguments {
    fn split(self) -> (Workload, Common) {
        match self {
            Self::FindMissing { batch, hit_rate, blobs, common } => {
                (Workload::FindMissing { batch, hit_rate, blobs }, common)
            }
            Self::Read { size: Size { size: ByteSize(size_bytes) }, blobs, common } => {
                (Workload::Read { size_bytes, blobs: blobs.count(size_bytes) }, common)
            }
            Self::Write { size: Size { size: ByteSize(size_bytes) }, message, common } => {
                (Workload::Write { size_bytes, message_bytes: message }, common)
            }
            Self::BatchRead { size: Size { size: ByteSize(size_bytes) }, batch, blobs, common } => {
                (Workload::BatchRead { size_bytes, batch, blobs: blobs.count(size_bytes) }, common)
            }
            Self::BatchUpdate { size: Size { size: ByteSize(size_bytes) }, batch, common } => {
                (Workload::BatchUpdate { size_bytes, batch }, common)
            }
            Self::ActionHit { actions, outputs, common } => (Workload::ActionHit { actions, outputs }, common),
            Self::ActionMiss { actions, common } => (Workload::ActionMiss { actions }, common),
            Self::ActionUpdate { outputs, common } => (Workload::ActionUpdate { outputs }, common),
            Self::Mixed { hit_rate, common } => (Workload::Mixed { hit_rate }, common),
            Self::HttpGet { size: Size { size: ByteSize(size_bytes) }, blobs, common } => {
                (Workload::HttpGet { size_bytes, blobs: blobs.count(size_bytes) }, common)
            }
            Self::HttpPut { size: Size { size: ByteSize(size_bytes) }, common } => {
                (Workload::HttpPut { size_bytes }, common)
            }
        }
    }
}

impl Common {
    fn options(self, workload: &Workload) -> Result<Options, Failure> {
        let instance = InstanceName::parse(&self.instance)
            .map_err(|error| Failure::Usage(format!("--instance \"{}\": {error}", self.instance)))?;
        let ByteSize(window_bytes) = self.window;
        let (limit, warm_up) = match self.requests {
            Some(requests) => (Limit::Requests(requests), Duration::ZERO),
            None => (Limit::Duration(self.duration.0), self.warm_up.0),
        };
        Ok(Options {
            instance,
            digest_function: self.digest_function,
            connections: self.connections,
            concurrency: self.concurrency.unwrap_or(if workload.is_http1() { 1 } else { 16 }),
            threads: self.threads,
            limit,
            warm_up,
            window_bytes: u32::try_from(window_bytes).unwrap_or(u32::MAX),
            seed: self.seed.unwrap_or_else(seed_of_the_moment),
            verify: self.verify,
            server_pid: self.server_pid,
            ..Options::new(self.server)
        })
    }
}

/// Another number each time, short enough to be typed.
fn seed_of_the_moment() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::from(since.subsec_nanos()) ^ since.as_secs() & 0xffff_ffff
}

pub(super) fn run(arguments: BenchArguments) -> Result<(), Failure> {
    let (workload, common) = arguments.workload.split();
    let json = common.json;
    let options = common.options(&workload)?;
    let mut line = ProgressLine { is_wanted: std::io::stderr().is_terminal(), is_shown: false };
    let outcome = cask_load::run(&workload, &options, |progress| line.tell(progress));
    line.clear();
    let report = outcome.map_err(|error| match error {
        LoadError::Options(_) | LoadError::TooLarge { .. } | LoadError::NoProcess(_) => {
            Failure::Usage(error.to_string())
        }
        other => Failure::Run(with_causes(&other)),
    })?;
    let text = if json { report.to_json() + "\n" } else { report.to_string() };
    let mut output = std::io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .map_err(|error| Failure::Run(format!("cannot print the report: {error}")))?;
    let Some(worst) = report.errors.first() else {
        return report.gave_up.map_or(Ok(()), |words| Err(Failure::Run(format!("a connection was given up: {words}"))));
    };
    let (failed, all) = (report.error_count(), report.error_count() + report.request_count());
    let detail = if worst.detail.is_empty() { String::new() } else { format!(": {}", worst.detail) };
    let mostly = if report.errors.len() > 1 { "mostly " } else { "" };
    Err(Failure::Run(format!("{failed} of {all} requests failed, {mostly}{}{detail}", worst.code)))
}

/// One line on a terminal, written over a few times a second.
struct ProgressLine {
    is_wanted: bool,
    is_shown: bool,
}

impl ProgressLine {
    fn tell(&mut self, progress: Progress) {
        if !self.is_wanted {
            return;
        }
        let what = match progress.stage {
            Stage::Preparing => "storing what will be asked for",
            Stage::WarmingUp => "warming up",
            Stage::Measuring => "measuring",
        };
        let of = progress.requests_total.map_or(String::new(), |total| format!(" of {total}"));
        let seconds = progress.elapsed.as_secs_f64();
        let rate = progress.requests as f64 / seconds.max(1e-9);
        let line = format!("{what}: {seconds:.1} s, {}{of} requests, {rate:.0}/s", progress.requests);
        let _ = write!(std::io::stderr(), "\r{line:<78}");
        self.is_shown = true;
    }

    fn clear(&self) {
        if self.is_shown {
            let _ = write!(std::io::stderr(), "\r{:78}\r", "");
        }
    }
}
