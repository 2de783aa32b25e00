//! What a runner is told when it is started.

use std::path::PathBuf;
use std::str::FromStr;

/// Everything about a runner that an operator decides.
#[derive(Clone, Debug)]
pub struct RunnerOptions {
    /// The folder beneath which all paths of requests are: the worker's build folder.
    pub build_dir: PathBuf,
    /// How commands are kept apart.
    pub isolation: Isolation,
    /// The users that commands run as when the runner is root, one for each run at a time.
    pub user_ids: UserIds,
    /// Runs at once; more wait.
    pub concurrency: usize,
    /// Open files of one process.
    pub open_files_max: u64,
    /// Processes of one run, where they can be counted; 0 for no limit. A request may ask for less.
    pub processes_max: u64,
    /// Memory of one run, where it can be limited; 0 for no limit. A request may ask for less.
    pub memory_bytes_max: u64,
    /// Thousandths of a processor for one run, where they can be limited; 0 for no limit.
    pub cpu_millis_max: u64,
    /// How much one of stdout and stderr may be before its run is ended; 0 for no limit.
    pub output_bytes_max: u64,
    /// A folder of control groups (version 2) that is the runner's own.
    pub cgroup: Option<PathBuf>,
    /// Folders that a sandbox shows empty, beside the build folder.
    pub hidden: Vec<PathBuf>,
    /// What it shows although it is in a hidden folder, read-only.
    pub shown: Vec<PathBuf>,
    /// Of the container level.
    pub container: ContainerOptions,
}

impl RunnerOptions {
    /// The defaults, for the build folder `build_dir`.
    pub fn new(build_dir: impl Into<PathBuf>) -> Self {
        Self {
            build_dir: build_dir.into(),
            isolation: Isolation::Auto,
            user_ids: UserIds::default(),
            concurrency: 256,
            open_files_max: 65_536,
            processes_max: 0,
            memory_bytes_max: 0,
            cpu_millis_max: 0,
            output_bytes_max: 4 << 30,
            cgroup: None,
            hidden: ["/run", "/home", "/root"].map(PathBuf::from).to_vec(),
            shown: Vec::new(),
            container: ContainerOptions::default(),
        }
    }
}

/// What the container level runs.
#[derive(Clone, Debug)]
pub struct ContainerOptions {
    /// The engine's client: a program, looked up in `PATH`.
    pub engine: PathBuf,
    /// For requests that name no image; `None`: they are refused.
    pub image: Option<String>,
    /// Which images a request may name: exact, or with one `*` at the end. Empty: only the default.
    pub allowed_images: Vec<String>,
}

impl Default for ContainerOptions {
    fn default() -> Self {
        Self { engine: "podman".into(), image: None, allowed_images: Vec::new() }
    }
}

/// What an operator may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// The sandbox where it works, else the host level.
    Auto,
    /// This one, or no start.
    Only(Level),
}

/// How commands are kept apart from each other and from the machine; docs/isolation.md has what each promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A process of the machine, under a user of its own.
    Host,
    /// Namespaces of its own.
    Sandbox,
    /// A container of an engine.
    Container,
}

impl Level {
    /// As it is written on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Sandbox => "sandbox",
            Self::Container => "container",
        }
    }
}

/// Not the name of an isolation level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a level of isolation; there are auto, host, sandbox and container")]
pub struct IsolationError(String);

impl FromStr for Isolation {
    type Err = IsolationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "host" => Ok(Self::Only(Level::Host)),
            "sandbox" => Ok(Self::Only(Level::Sandbox)),
            "container" => Ok(Self::Only(Level::Container)),
            _ => Err(IsolationError(text.to_owned())),
        }
    }
}

/// A range of numbers of users (and of groups) that nothing else on the machine uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserIds {
    /// The first of them.
    pub first: u32,
    /// The last of them.
    pub last: u32,
}

impl Default for UserIds {
    /// Numbers that no convention has given to anybody: above those of people and of systemd's home folders, below those it
    /// takes for services.
    fn default() -> Self {
        Self { first: 60_578, last: 61_177 }
    }
}

/// Not a range of users.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a range of users; write FIRST-LAST, as in 60578-61177, without root")]
pub struct UserIdsError(String);

impl FromStr for UserIds {
    type Err = UserIdsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || UserIdsError(text.to_owned());
        let (first, last) = text.split_once('-').ok_or_else(error)?;
        let range = Self { first: first.parse().map_err(|_| error())?, last: last.parse().map_err(|_| error())? };
        // The last number means "none" to the kernel.
        if range.first == 0 || range.first > range.last || range.last == u32::MAX { Err(error()) } else { Ok(range) }
    }
}
