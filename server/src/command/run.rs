//! `cask run`: a command on a worker as if it ran here. Uploads its input, executes, brings back what it made, and ends as it did.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use cask_executor::action::{CheckedCommand, RootPath};
use cask_executor::client::{ExecuteOptions, InputTree, OutputFolder, OutputPlacement, RemoteCache};
use cask_index::DigestFunction;
use cask_proto::digest::to_wire;
use cask_proto::reapi::{self, command::EnvironmentVariable, platform};

use super::Failure;
use super::remote::{Remote, with_causes};
use super::watch::{self, EXIT_CODES_HELP, Watched, watch};
use crate::config::TimeSpan;

/// Run a command on a worker, with a folder for its input.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES_HELP)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    remote: Remote,

    /// A folder that the command finds as its input root; without, an empty one
    #[arg(long, value_name = "DIR")]
    input: Option<PathBuf>,

    /// A file or folder that the command makes and that is wanted back, as seen from its working directory; may be repeated
    #[arg(long = "output", value_name = "PATH")]
    outputs: Vec<String>,

    /// Where outputs are put: at their places below this folder, which stands for the input root
    #[arg(long, value_name = "DIR", default_value = ".")]
    output_dir: PathBuf,

    /// A variable of the command's environment, which has no others but the worker's few; may be repeated
    #[arg(long = "env", value_name = "NAME=VALUE")]
    environment: Vec<Pair>,

    /// A property that the worker must have; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    platform: Vec<Pair>,

    /// A folder of the input to run in
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true)]
    working_directory: String,

    /// End the command when it has run for so long; without, the server's default
    #[arg(long, value_name = "TIME")]
    timeout: Option<TimeSpan>,

    #[command(flatten)]
    policy: Policy,

    /// Neither look for a cached result nor keep this one, nor share the run with anybody
    #[arg(long)]
    no_cache: bool,

    /// The command, behind --
    #[arg(value_name = "COMMAND", required = true, last = true)]
    command: Vec<String>,
}

/// How an action is executed.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Policy {
    /// Lower is sooner; may be negative
    #[arg(long, value_name = "NUMBER", default_value_t = 0, allow_hyphen_values = true)]
    priority: i32,

    /// Run it even if a result is cached
    #[arg(long)]
    skip_cache: bool,
}

impl From<Policy> for ExecuteOptions {
    fn from(policy: Policy) -> Self {
        Self { priority: policy.priority, skip_cache_lookup: policy.skip_cache }
    }
}

/// `NAME=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair {
    name: String,
    value: String,
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Self { name: name.to_owned(), value: value.to_owned() }),
            _ => Err(format!("\"{text}\": write NAME=VALUE")),
        }
    }
}

pub(super) fn run(arguments: RunArguments) -> Result<(), Failure> {
    let Wish { command, action } = Wish::of(&arguments).map_err(watch::as_not_run)?;
    let RunArguments { remote, input, output_dir, policy, .. } = arguments;
    let done = remote.run(async |cache| {
        let cache = watch::client(&cache);
        // Hashing would keep this thread from answering the server.
        let read = tokio::task::spawn_blocking(move || {
            input.map_or_else(|| Ok(InputTree::empty()), |dir| InputTree::read(&dir))
        });
        let read = read.await.map_err(|error| Failure::Run(format!("cannot read the input: {error}")))?;
        let mut inputs = read.map_err(|error| Failure::Run(with_causes(&error)))?;
        let action = reapi::Action {
            command_digest: Some(to_wire(&inputs.add(&command))),
            input_root_digest: Some(to_wire(&inputs.root())),
            ..action
        };
        let action = inputs.add(&action);
        cache.upload_tree(&inputs).await?;
        let watched = watch(&cache, cache.execute(action, &policy.into()), Some(&inputs)).await?;
        let wanted = &command.output_paths;
        if !wanted.is_empty() {
            let working_directory = CheckedCommand::check(command.clone())
                .map_err(|fault| Failure::Usage(fault.to_string()))?
                .working_directory;
            bring_back(&cache, &watched, &output_dir, working_directory, action.function()).await?;
            name_absent(wanted, &watched.result);
        }
        watched.exit()
    });
    done.map_err(watch::as_not_run)
}

/// Writes the outputs below a folder that stands for the input root.
pub(super) async fn bring_back(
    cache: &RemoteCache,
    watched: &Watched,
    folder: &Path,
    working_directory: RootPath,
    function: DigestFunction,
) -> Result<(), Failure> {
    let failed = |error| Failure::Run(format!("cannot write into {}: {error}", folder.display()));
    let folder = OutputFolder::open(folder).map_err(failed)?;
    let placement = OutputPlacement { folder: &folder, working_directory, function };
    let downloaded = cache.download_outputs(&watched.result, &placement).await;
    downloaded.map_err(|error| Failure::Run(with_causes(&error)))
}

/// Says which outputs the command did not make: it is not asked to fail, and who looks for them should know why.
fn name_absent(wanted: &[String], result: &reapi::ActionResult) {
    let files = result.output_files.iter().map(|file| &file.path);
    let folders = result.output_directories.iter().map(|folder| &folder.path);
    let symlinks = [&result.output_symlinks, &result.output_file_symlinks, &result.output_directory_symlinks];
    let symlinks = symlinks.into_iter().flatten().map(|symlink| &symlink.path);
    let made: HashSet<_> = files.chain(folders).chain(symlinks).collect();
    for path in wanted.iter().filter(|path| !made.contains(path)) {
        // Nobody is hurt by a note that cannot be written.
        let _ = writeln!(std::io::stderr(), "cask: the command did not make {path}");
    }
}

/// What the arguments ask for, but for the digests.
struct Wish {
    command: reapi::Command,
    action: reapi::Action,
}

impl Wish {
    fn of(arguments: &RunArguments) -> Result<Self, Failure> {
        // Sorted and without duplicates: the same wish is the same action.
        let environment: BTreeMap<_, _> =
            arguments.environment.iter().map(|pair| (pair.name.clone(), pair.value.clone())).collect();
        let variable = |(name, value)| EnvironmentVariable { name, value };
        let mut properties: Vec<_> = arguments.platform.iter().map(|pair| (&pair.name, &pair.value)).collect();
        properties.sort_unstable();
        properties.dedup();
        let property =
            |(name, value): (&String, &String)| platform::Property { name: name.clone(), value: value.clone() };
        let platform = reapi::Platform { properties: properties.into_iter().map(property).collect() };
        let platform = (!platform.properties.is_empty()).then_some(platform);
        let outputs = arguments.outputs.iter().map(|path| path.trim_end_matches('/').to_owned());
        let outputs: BTreeSet<String> = outputs.collect();
        let command = reapi::Command {
            arguments: arguments.command.clone(),
            environment_variables: environment.into_iter().map(variable).collect(),
            output_paths: outputs.into_iter().collect(),
            working_directory: arguments.working_directory.trim_end_matches('/').to_owned(),
            // Of both: servers of the API's first versions look here.
            platform: platform.clone(),
            ..Default::default()
        };
        // The server would say the same, after the upload.
        CheckedCommand::check(command.clone()).map_err(|fault| Failure::Usage(fault.to_string()))?;
        let timeout = arguments.timeout.map(|timeout| prost_types::Duration::try_from(timeout.0));
        let timeout = timeout.transpose().map_err(|_| Failure::Usage("--timeout is too long".to_owned()))?;
        let action = reapi::Action { timeout, do_not_cache: arguments.no_cache, platform, ..Default::default() };
        Ok(Self { command, action })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: RunArguments,
    }

    fn wish(line: &[&str]) -> Result<Wish, Failure> {
        let line = Line::try_parse_from([&["run"], line].concat()).expect("a command line");
        Wish::of(&line.arguments)
    }

    #[test]
    fn the_same_wish_is_the_same_action() {
        let one = wish(&[
            "--env",
            "B=2",
            "--env",
            "A=1",
            "--output",
            "y",
            "--output",
            "x/",
            "--platform",
            "p=2",
            "--platform",
            "p=1",
            "--",
            "a",
            "b",
        ]);
        let other = wish(&[
            "--platform",
            "p=1",
            "--platform",
            "p=2",
            "--output",
            "x",
            "--output",
            "y",
            "--env",
            "A=0",
            "--env",
            "A=1",
            "--env",
            "B=2",
            "--",
            "a",
            "b",
        ]);
        let (one, other) = (one.expect("a wish"), other.expect("a wish"));
        assert_eq!(one.command, other.command);
        assert_eq!(one.action, other.action);
        assert_eq!(one.command.output_paths, ["x", "y"]);
        assert_eq!(one.action.platform, one.command.platform);
    }

    #[test]
    fn what_cannot_be_run_is_refused_before_anything_is_sent() {
        for line in [
            &["--output", "/x", "--", "a"][..],
            &["--output", "../x", "--", "a"],
            &["--working-directory", "w", "--output", "../../x", "--", "a"],
            &["--working-directory", "/w", "--", "a"],
            &["--", ""],
        ] {
            assert!(matches!(wish(line), Err(Failure::Usage(_))), "{line:?}");
        }
        let fine =
            wish(&["--working-directory", "w/", "--output", "../x", "--timeout", "90s", "--priority", "-3", "--", "a"]);
        assert_eq!(fine.expect("a wish").action.timeout.expect("given").seconds, 90);
    }
}
