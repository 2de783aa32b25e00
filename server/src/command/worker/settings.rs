//! What `cask worker` was told: flags, environment, file and defaults, in this order of weight.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use cask_executor::worker::{InputRootAsRoot, LinkInputs};
use cask_proto::InstanceName;
use cask_proto::reapi::{Platform, platform};
use serde::{Deserialize, Deserializer};

use crate::config::{ByteSize, FileError, LogFormat, TimeSpan};

/// What one source said; `None` where it said nothing.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[expect(clippy::doc_markdown, reason = "the comments are the help texts")]
pub(super) struct WorkerSettings {
    /// Address of the server: grpc://HOST:PORT or unix:/path [default: grpc://127.0.0.1:8980]
    #[arg(long, value_name = "URL", env = "CASK_SERVER")]
    server: Option<String>,

    /// Whose actions to run: an instance name, as in Bazel's --remote_instance_name
    #[arg(long, value_name = "NAME", env = "CASK_INSTANCE")]
    instance: Option<String>,

    /// What results and pages call this worker [default: the machine's name]
    #[arg(long, value_name = "NAME", env = "CASK_WORKER_NAME")]
    name: Option<String>,

    /// Folder for input files and running actions, made if absent, with room for both [default:
    /// /var/cache/cask-worker for root, cask-worker in the user's cache folder for others]
    #[arg(long, value_name = "DIR", env = "CASK_WORKER_DIR")]
    dir: Option<PathBuf>,

    /// Actions at once [default: one a processor]
    #[arg(long, value_name = "COUNT", env = "CASK_WORKER_CONCURRENCY")]
    concurrency: Option<u32>,

    /// A property that actions may ask for; * is every value. OSFamily and ISA are there already. May be repeated
    #[arg(long, value_name = "NAME=VALUE", env = "CASK_WORKER_PLATFORM", value_delimiter = ';')]
    platform: Option<Vec<PropertySetting>>,

    /// Most that input files may take on disk between actions [default: 10GiB]
    #[arg(long, value_name = "SIZE", env = "CASK_WORKER_CACHE_SIZE")]
    cache_size: Option<ByteSize>,

    /// Most input files to keep [default: 1000000]
    #[arg(long, value_name = "COUNT", env = "CASK_WORKER_CACHE_FILES")]
    cache_files: Option<usize>,

    /// A runner that runs already, with DIR/build as its build folder: unix:/path or HOST:PORT [default: start one]
    #[arg(long, value_name = "ADDRESS", env = "CASK_WORKER_RUNNER")]
    runner: Option<String>,

    /// How commands are kept apart by the runner that is started: auto (the strongest that works here), sandbox, host or container
    #[arg(long, value_name = "LEVEL", env = "CASK_WORKER_ISOLATION", value_enum, hide_possible_values = true)]
    isolation: Option<Isolation>,

    /// A flag for the runner that is started, as `cask runner --help` has them: --runner-argument=--container-image=debian:12. May be
    /// repeated
    #[arg(
        long,
        value_name = "FLAG",
        env = "CASK_WORKER_RUNNER_ARGUMENT",
        value_delimiter = ';',
        allow_hyphen_values = true
    )]
    runner_argument: Option<Vec<String>>,

    /// Whether commands get links to the kept input files, or copies: auto (links if the runner that the worker started runs commands
    /// as other users, which takes root), always (commands are trusted not to alter them) or never [default: auto]
    #[arg(long, value_name = "WHEN", env = "CASK_WORKER_LINK_INPUTS", value_enum, hide_possible_values = true)]
    link_inputs: Option<When>,

    /// Whether commands see their input as /: never, always or auto (if their program is in it) [default: auto]
    #[arg(long, value_name = "WHEN", env = "CASK_WORKER_INPUT_ROOT_AS_ROOT", value_enum, hide_possible_values = true)]
    input_root_as_root: Option<When>,

    /// How long running actions may go on after SIGTERM [default: 15m]
    #[arg(long, value_name = "TIME", env = "CASK_WORKER_DRAIN_TIMEOUT")]
    drain_timeout: Option<TimeSpan>,

    /// How logs are printed to standard error: text or json [default: text]
    #[arg(long, value_name = "FORMAT", env = "CASK_LOG_FORMAT", value_enum, hide_possible_values = true)]
    log_format: Option<LogFormat>,
}

/// A file says the same, and may say several platforms.
#[derive(Clone, Debug, Default, Deserialize)]
struct Platforms {
    #[serde(default)]
    platforms: Vec<std::collections::BTreeMap<String, Values>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Values {
    One(String),
    Many(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Isolation {
    Auto,
    Sandbox,
    Host,
    Container,
}

impl Isolation {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Sandbox => "sandbox",
            Self::Host => "host",
            Self::Container => "container",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
enum When {
    Auto,
    Always,
    Never,
}

/// `NAME=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PropertySetting {
    name: String,
    value: String,
}

impl FromStr for PropertySetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Self { name: name.to_owned(), value: value.to_owned() }),
            _ => Err(format!("\"{text}\" is no property; write NAME=VALUE")),
        }
    }
}

impl<'de> Deserialize<'de> for PropertySetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Everything `cask worker` acts by: complete and checked.
#[derive(Clone, Debug)]
pub(super) struct WorkerConfig {
    pub(super) server: String,
    pub(super) instance: InstanceName,
    pub(super) name: String,
    /// Absolute.
    pub(super) dir: PathBuf,
    pub(super) concurrency: u32,
    pub(super) platforms: Vec<Platform>,
    pub(super) cache_size: ByteSize,
    pub(super) cache_files: usize,
    pub(super) runner: Option<String>,
    pub(super) isolation: Isolation,
    /// Told to the runner that is started, behind what the worker says itself.
    pub(super) runner_arguments: Vec<String>,
    pub(super) link_inputs: LinkInputs,
    pub(super) input_root_as_root: InputRootAsRoot,
    pub(super) drain_timeout: TimeSpan,
    pub(super) log_format: LogFormat,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum WorkerConfigError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("--instance \"{name}\": {error}")]
    Instance { name: String, error: cask_proto::WireError },
    #[error("there is no cache folder to work in (neither XDG_CACHE_HOME nor HOME is set); name one with --dir")]
    NoFolder,
    #[error("the folder {} cannot be made absolute: {error}", path.display())]
    Folder { path: PathBuf, error: std::io::Error },
    #[error("--{0} must be at least 1")]
    Zero(&'static str),
    #[error("--concurrency must be at most {CONCURRENCY_MAX}")]
    TooMany,
    #[error(
        "--{0} is for the runner that the worker starts, and --runner names one that runs already; leave one of them out"
    )]
    ForAnother(&'static str),
}

const SERVER_DEFAULT: &str = "grpc://127.0.0.1:8980";
const CACHE_SIZE_DEFAULT: ByteSize = ByteSize(10 << 30);
const CACHE_FILES_DEFAULT: usize = 1_000_000;
const DRAIN_TIMEOUT_DEFAULT: TimeSpan = TimeSpan(Duration::from_secs(15 * 60));
/// A server lets in no worker that wants more.
const CONCURRENCY_MAX: u32 = 1024;

/// What the process finds around it; a parameter, so that tests need no environment.
pub(super) struct Machine {
    pub(super) cache_folder: Option<PathBuf>,
    pub(super) host_name: String,
    pub(super) processors: u32,
}

impl WorkerConfig {
    /// `flags` carries flags and environment already.
    pub(super) fn load(
        flags: WorkerSettings,
        file: Option<&std::path::Path>,
        machine: Machine,
    ) -> Result<Self, WorkerConfigError> {
        let (file, platforms) = match file {
            Some(path) => read(path)?,
            None => Default::default(),
        };
        Self::complete(flags.or(file), platforms, machine)
    }

    fn complete(settings: WorkerSettings, platforms: Platforms, machine: Machine) -> Result<Self, WorkerConfigError> {
        let instance = settings.instance.unwrap_or_default();
        let instance = InstanceName::parse(&instance)
            .map_err(|error| WorkerConfigError::Instance { name: instance.clone(), error })?;
        let dir = settings.dir.or_else(|| machine.cache_folder.map(|folder| folder.join("cask-worker")));
        let dir = dir.ok_or(WorkerConfigError::NoFolder)?;
        let dir = std::path::absolute(&dir).map_err(|error| WorkerConfigError::Folder { path: dir.clone(), error })?;
        let concurrency = match settings.concurrency.unwrap_or(machine.processors.min(CONCURRENCY_MAX)) {
            0 => return Err(WorkerConfigError::Zero("concurrency")),
            count if count > CONCURRENCY_MAX => return Err(WorkerConfigError::TooMany),
            count => count,
        };
        let cache_size = settings.cache_size.unwrap_or(CACHE_SIZE_DEFAULT);
        let cache_files = settings.cache_files.unwrap_or(CACHE_FILES_DEFAULT);
        if cache_size.0 == 0 {
            return Err(WorkerConfigError::Zero("cache-size"));
        }
        if cache_files == 0 {
            return Err(WorkerConfigError::Zero("cache-files"));
        }
        if settings.runner.is_some() && settings.isolation.is_some() {
            return Err(WorkerConfigError::ForAnother("isolation"));
        }
        if settings.runner.is_some() && settings.runner_argument.is_some() {
            return Err(WorkerConfigError::ForAnother("runner-argument"));
        }
        Ok(Self {
            server: settings.server.unwrap_or_else(|| SERVER_DEFAULT.to_owned()),
            instance,
            name: settings.name.unwrap_or(machine.host_name),
            dir,
            concurrency,
            platforms: platforms.complete(&settings.platform.unwrap_or_default()),
            cache_size,
            cache_files,
            runner: settings.runner,
            isolation: settings.isolation.unwrap_or(Isolation::Auto),
            runner_arguments: settings.runner_argument.unwrap_or_default(),
            link_inputs: match settings.link_inputs.unwrap_or(When::Auto) {
                When::Auto => LinkInputs::Auto,
                When::Always => LinkInputs::Always,
                When::Never => LinkInputs::Never,
            },
            input_root_as_root: match settings.input_root_as_root.unwrap_or(When::Auto) {
                When::Auto => InputRootAsRoot::Auto,
                When::Always => InputRootAsRoot::Always,
                When::Never => InputRootAsRoot::Never,
            },
            drain_timeout: settings.drain_timeout.unwrap_or(DRAIN_TIMEOUT_DEFAULT),
            log_format: settings.log_format.unwrap_or(LogFormat::Text),
        })
    }
}

impl WorkerSettings {
    /// These, and where they are silent what the weaker source says.
    fn or(self, weaker: Self) -> Self {
        Self {
            server: self.server.or(weaker.server),
            instance: self.instance.or(weaker.instance),
            name: self.name.or(weaker.name),
            dir: self.dir.or(weaker.dir),
            concurrency: self.concurrency.or(weaker.concurrency),
            platform: self.platform.or(weaker.platform),
            cache_size: self.cache_size.or(weaker.cache_size),
            cache_files: self.cache_files.or(weaker.cache_files),
            runner: self.runner.or(weaker.runner),
            isolation: self.isolation.or(weaker.isolation),
            runner_argument: self.runner_argument.or(weaker.runner_argument),
            link_inputs: self.link_inputs.or(weaker.link_inputs),
            input_root_as_root: self.input_root_as_root.or(weaker.input_root_as_root),
            drain_timeout: self.drain_timeout.or(weaker.drain_timeout),
            log_format: self.log_format.or(weaker.log_format),
        }
    }
}

impl Platforms {
    /// Each table, or none at all, with what `--platform` says of all of them and what the machine is.
    fn complete(self, of_all: &[PropertySetting]) -> Vec<Platform> {
        let mut tables = self.platforms;
        if tables.is_empty() {
            tables.push(std::collections::BTreeMap::new());
        }
        let complete = |table: std::collections::BTreeMap<String, Values>| {
            let of_table = table.into_iter().flat_map(|(name, values)| {
                let values = match values {
                    Values::One(value) => vec![value],
                    Values::Many(values) => values,
                };
                values.into_iter().map(move |value| (name.clone(), value))
            });
            let of_all = of_all.iter().map(|property| (property.name.clone(), property.value.clone()));
            let mut properties: Vec<(String, String)> = of_table.chain(of_all).collect();
            for (name, value) in [("OSFamily", "linux"), ("ISA", instruction_set())] {
                if !properties.iter().any(|(said, _)| said == name) {
                    properties.push((name.to_owned(), value.to_owned()));
                }
            }
            properties.sort();
            properties.dedup();
            let property = |(name, value)| platform::Property { name, value };
            Platform { properties: properties.into_iter().map(property).collect() }
        };
        tables.into_iter().map(complete).collect()
    }
}

/// As the API's lexicon of platform properties has it.
fn instruction_set() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "x86-64",
        "x86" => "x86-32",
        "arm" => "arm-a32",
        "aarch64" => "arm-a64",
        "powerpc64" => "power-isa-be",
        other => other,
    }
}

fn read(path: &std::path::Path) -> Result<(WorkerSettings, Platforms), FileError> {
    let text = std::fs::read_to_string(path).map_err(|error| FileError::Read { path: path.to_owned(), error })?;
    parse(path, &text)
}

/// `path` only names the file in errors.
fn parse(path: &std::path::Path, text: &str) -> Result<(WorkerSettings, Platforms), FileError> {
    let settings = crate::config::file::parse_as::<WorkerSettings>(path, text, &["platforms"])?;
    let platforms = toml::from_str(text).map_err(|error| crate::config::file::syntax(path, text, &error))?;
    Ok((settings, platforms))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn machine() -> Machine {
        Machine { cache_folder: Some("/cache".into()), host_name: "host".to_owned(), processors: 3 }
    }

    fn of_file(text: &str) -> Result<WorkerConfig, WorkerConfigError> {
        let (settings, platforms) = parse(Path::new("worker.toml"), text)?;
        WorkerConfig::complete(settings, platforms, machine())
    }

    fn properties(platform: &Platform) -> Vec<String> {
        platform.properties.iter().map(|property| format!("{}={}", property.name, property.value)).collect()
    }

    #[test]
    fn without_a_word_everything_has_a_value() {
        let config = of_file("").expect("a configuration");
        assert_eq!(config.server, "grpc://127.0.0.1:8980");
        assert_eq!((config.name.as_str(), config.concurrency), ("host", 3));
        assert_eq!(config.dir, Path::new("/cache/cask-worker"));
        let [platform] = &config.platforms[..] else { panic!("{:?}", config.platforms) };
        assert_eq!(properties(platform)[1], "OSFamily=linux");
    }

    #[test]
    fn every_key_of_the_flags_is_read() {
        let config = of_file(
            r#"
            server = "unix:/run/cask.sock"
            instance = "main"
            name = "w1"
            dir = "/srv/worker"
            concurrency = 8
            platform = ["Pool=big", "ISA=x86-64-v3"]
            cache_size = "1GiB"
            cache_files = 10
            isolation = "sandbox"
            runner_argument = ["--container-image=debian:12", "--memory=2GiB"]
            link_inputs = "always"
            input_root_as_root = "never"
            drain_timeout = "1m"
            log_format = "json"

            [[platforms]]
            container-image = "docker://a"
            [[platforms]]
            Pool = "gpu"
            gpu = ["a", "b"]
            "#,
        )
        .expect("a configuration");
        assert_eq!((config.server.as_str(), config.instance.as_str()), ("unix:/run/cask.sock", "main"));
        assert_eq!((config.name.as_str(), config.concurrency, config.cache_files), ("w1", 8, 10));
        assert_eq!((config.cache_size, config.isolation), (ByteSize(1 << 30), Isolation::Sandbox));
        assert_eq!(config.runner_arguments, ["--container-image=debian:12", "--memory=2GiB"]);
        assert_eq!((config.link_inputs, config.input_root_as_root), (LinkInputs::Always, InputRootAsRoot::Never));
        assert_eq!((config.drain_timeout.0.as_secs(), config.log_format), (60, LogFormat::Json));
        let platforms: Vec<_> = config.platforms.iter().map(properties).collect();
        assert_eq!(
            platforms,
            [
                vec!["ISA=x86-64-v3", "OSFamily=linux", "Pool=big", "container-image=docker://a"],
                vec!["ISA=x86-64-v3", "OSFamily=linux", "Pool=big", "Pool=gpu", "gpu=a", "gpu=b"],
            ]
        );
    }

    #[test]
    fn what_cannot_be_meant_says_what_to_do() {
        for (text, error) in [
            ("concurrency = 0", "--concurrency must be at least 1"),
            ("concurrency = 1025", "--concurrency must be at most 1024"),
            ("cache_size = 0", "--cache-size must be at least 1"),
            ("concurency = 4", "worker.toml: unknown key \"concurency\"; did you mean \"concurrency\"?"),
            ("platform = [\"big\"]", "worker.toml: line 1: \"big\" is no property; write NAME=VALUE"),
            (
                "instance = \"a//b\"",
                "--instance \"a//b\": instance name `a//b` has an empty segment (a leading, trailing or doubled slash)",
            ),
            (
                "runner = \"unix:/r\"\nisolation = \"host\"",
                "--isolation is for the runner that the worker starts, and --runner names one that runs already; leave one of them out",
            ),
            (
                "runner = \"unix:/r\"\nrunner_argument = [\"--memory=1GiB\"]",
                "--runner-argument is for the runner that the worker starts, and --runner names one that runs already; leave one of them out",
            ),
        ] {
            let found = of_file(text).expect_err(text).to_string();
            assert_eq!(found, error);
        }
    }
}
