//! The verbs of `cask`, a file each, and how they end: 0 when done, 1 when the run failed, 2 when the command line or the
//! configuration is wrong. A failure is one sentence on standard error. Those that run a command for somebody end as that
//! command did, and keep codes of their own for what is not the command's doing; see `watch`.

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
mod watch;
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
#[expect(clippy::large_enum_variant, reason = "there is one")]
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
    /// A command that was run for the caller ended with this code, or was not run, with a sentence of ours on why.
    Exit(u8, Option<String>),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Runs what the command line asks for.
pub(crate) fn run() -> ExitCode {
    let command_line = CommandLine::try_parse().unwrap_or_else(|error| misread(&error));
    let outcome = match command_line.verb {
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
        Err(Failure::Exit(code, Some(sentence))) => fail(code, &sentence),
        Err(Failure::Exit(code, None)) => ExitCode::from(code),
    }
}

/// Says what is wrong with the command line, or what was asked for with --help, and ends.
fn misread(error: &clap::Error) -> ! {
    // Printing can only fail for want of a reader.
    let _ = error.print();
    let runs_for_others = std::env::args_os().nth(1).is_some_and(|verb| verb == "run" || verb == "execute");
    let code = match error.exit_code() {
        0 => 0,
        // Two is what a command may have ended with.
        _ if runs_for_others => watch::EXIT_NOT_RUN.into(),
        code => code,
    };
    std::process::exit(code)
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
