//! The verbs of `cask`, a file each, and how they end: 0 when done, 1 when the run failed, 2 when the command line or the
//! configuration is wrong. A failure is one sentence on standard error.

mod banner;
mod bench;
mod capabilities;
mod download;
mod execute;
mod find_missing;
mod fsck;
mod remote;
mod run;
mod runner;
mod serve;
mod upload;
mod worker;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::ConfigError;

/// A shared remote cache for builds: fast, bounded, never a wrong byte.
#[derive(Debug, Parser)]
#[command(name = "cask", version, max_term_width = 120)]
struct CommandLine {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Serve(serve::ServeArguments),
    Upload(upload::UploadArguments),
    Download(download::DownloadArguments),
    FindMissing(find_missing::FindMissingArguments),
    Capabilities(capabilities::CapabilitiesArguments),
    Execute(execute::ExecuteArguments),
    Run(run::RunArguments),
    Worker(worker::WorkerArguments),
    Runner(runner::RunnerArguments),
    Fsck(fsck::FsckArguments),
    Bench(bench::BenchArguments),
}

/// Why a command ended without doing what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was asked cannot be done as written.
    Usage(String),
    /// It can, but not now or not here.
    Run(String),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Runs what the command line asks for.
pub(crate) fn run() -> ExitCode {
    let outcome = match CommandLine::parse().verb {
        Some(Verb::Serve(arguments)) => serve::run(arguments),
        Some(Verb::Upload(arguments)) => upload::run(arguments),
        Some(Verb::Download(arguments)) => download::run(arguments),
        Some(Verb::FindMissing(arguments)) => find_missing::run(arguments),
        Some(Verb::Capabilities(arguments)) => capabilities::run(arguments),
        Some(Verb::Execute(arguments)) => execute::run(arguments),
        Some(Verb::Run(arguments)) => run::run(arguments),
        Some(Verb::Worker(arguments)) => worker::run(arguments),
        Some(Verb::Runner(arguments)) => runner::run(arguments),
        Some(Verb::Fsck(arguments)) => fsck::run(&arguments),
        Some(Verb::Bench(arguments)) => bench::run(arguments),
        None => {
            // Printing can only fail for want of a reader.
            let _ = CommandLine::command().print_help();
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(sentence)) => fail(2, &sentence),
        Err(Failure::Run(sentence)) => fail(1, &sentence),
    }
}

fn fail(code: u8, sentence: &str) -> ExitCode {
    use std::io::Write;
    // Not `eprintln!`, which panics when nobody reads.
    let _ = writeln!(std::io::stderr(), "cask: {sentence}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }
}
