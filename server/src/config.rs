//! What `cask serve` was told: flags, environment, file and defaults, in this order of weight, made into one typed
//! `Config`.
//!
//! `Settings` is the one list of names: clap makes flags and `CASK_*` variables of its fields, serde the keys of the file.
//! Nothing past this module reads a flag, a variable or the file.

mod byte_size;
mod disk_space;
mod execution;
pub(crate) mod file;
mod instance_setting;
mod time_span;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

pub(crate) use byte_size::ByteSize;
pub(crate) use disk_space::DiskSpace;
pub(crate) use execution::ExecutionConfig;
pub(crate) use file::FileError;
pub(crate) use instance_setting::{ActionAccess, CasSharing, InstanceSetting};
pub(crate) use time_span::TimeSpan;

use crate::asset::OriginPattern;
use crate::transport::listen::ListenAddress;

/// What one source said; `None` where it said nothing.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[expect(clippy::doc_markdown, reason = "the comments are the help texts")]
pub(crate) struct Settings {
    /// Where to listen: HOST:PORT or unix:/path; port 0 picks a free one. May be repeated [default: 127.0.0.1:8980]
    #[arg(long, value_name = "ADDRESS", env = "CASK_LISTEN", value_delimiter = ',')]
    #[serde(default, deserialize_with = "one_or_many")]
    pub(crate) listen: Option<Vec<ListenAddress>>,

    /// Folder of the store, made if absent [default: cask in the user's cache folder]
    #[arg(long, value_name = "DIR", env = "CASK_DIR")]
    pub(crate) dir: Option<PathBuf>,

    /// Most the store may take on disk, all in [default: 50GiB, or 80 % of the room there is if that is less]
    #[arg(long, value_name = "SIZE", env = "CASK_MAX_SIZE")]
    pub(crate) max_size: Option<ByteSize>,

    /// How long a blob should stay after it was last reported present [default: 4h]
    #[arg(long, value_name = "TIME", env = "CASK_LEASE")]
    pub(crate) lease: Option<TimeSpan>,

    /// How long it is sure to stay: uploads are refused before this is broken. 0s: never refuse [default: 10m]
    #[arg(long, value_name = "TIME", env = "CASK_LEASE_FLOOR")]
    pub(crate) lease_floor: Option<TimeSpan>,

    /// When an upload counts as stored: written (survives a crash of cask) or synced (also of the machine) [default: written]
    #[arg(long, value_name = "WHEN", env = "CASK_DURABILITY", value_enum, hide_possible_values = true)]
    pub(crate) durability: Option<Durability>,

    /// Everything stored is read and hashed again once in this time. 0s: never [default: 14d]
    #[arg(long, value_name = "TIME", env = "CASK_SCRUB_PERIOD")]
    pub(crate) scrub_period: Option<TimeSpan>,
    /// How the disk is written to: auto, uring (io_uring or nothing) or positioned [default: auto]
    #[arg(long, value_name = "HOW", env = "CASK_DISK_ADAPTER", value_enum, hide_possible_values = true)]
    pub(crate) disk_adapter: Option<DiskAdapter>,

    /// Serve these instances and no others: NAME[,cas=isolated][,actions=read-only][,digest-function=blake3]. * is every name without an entry.
    /// May be repeated [default: *]
    #[arg(long, value_name = "INSTANCE", env = "CASK_INSTANCES", value_delimiter = ';')]
    pub(crate) instances: Option<Vec<InstanceSetting>>,

    /// Whether blobs that come uncompressed are compressed on disk where that pays: off or zstd [default: off]
    #[arg(long, value_name = "HOW", env = "CASK_COMPRESSION", value_enum, hide_possible_values = true)]
    pub(crate) compression: Option<Compression>,

    /// Origins that assets are fetched from when nobody pushed them: example.com, *.example.com, or * for all that are on the public
    /// internet. May be repeated [default: none]
    #[arg(long, value_name = "HOST", env = "CASK_ASSET_ORIGINS", value_delimiter = ',')]
    pub(crate) asset_origins: Option<Vec<OriginPattern>>,

    /// Fetch from origins on this machine and in its networks too [default: false]
    #[arg(
        long,
        value_name = "BOOL",
        env = "CASK_ASSET_ALLOW_PRIVATE_ORIGINS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide_possible_values = true
    )]
    pub(crate) asset_allow_private_origins: Option<bool>,

    /// Largest asset that is fetched; fetches may take twice that on disk for a while, beside the store [default: 2GiB]
    #[arg(long, value_name = "SIZE", env = "CASK_ASSET_MAX_SIZE")]
    pub(crate) asset_max_size: Option<ByteSize>,

    /// Longest that an asset may take to be fetched [default: 10m]
    #[arg(long, value_name = "TIME", env = "CASK_ASSET_TIMEOUT")]
    pub(crate) asset_timeout: Option<TimeSpan>,

    /// Run actions too: a queue here, workers beside it (see `cask worker --help`) [default: false]
    #[arg(
        long,
        value_name = "BOOL",
        env = "CASK_EXECUTION",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide_possible_values = true
    )]
    pub(crate) execution: Option<bool>,

    /// How long an action may run that does not say itself; waiting and transfers do not count [default: 1h]
    #[arg(long, value_name = "TIME", env = "CASK_EXECUTION_TIMEOUT")]
    pub(crate) execution_timeout: Option<TimeSpan>,

    /// Longest that an action may ask to run; one that asks for more is refused [default: 24h]
    #[arg(long, value_name = "TIME", env = "CASK_EXECUTION_TIMEOUT_MAX")]
    pub(crate) execution_timeout_max: Option<TimeSpan>,

    /// Most actions that wait for a worker; more are refused for the moment. Each takes about 2 KiB of memory [default: 1000000]
    #[arg(long, value_name = "COUNT", env = "CASK_EXECUTION_QUEUE_MAX")]
    pub(crate) execution_queue_max: Option<usize>,

    /// How long an action waits while no worker is there that could run it; then it fails [default: 15m]
    #[arg(long, value_name = "TIME", env = "CASK_EXECUTION_WORKER_PATIENCE")]
    pub(crate) execution_worker_patience: Option<TimeSpan>,

    /// A worker that says nothing for so long is lost, and others run what it had [default: 30s]
    #[arg(long, value_name = "TIME", env = "CASK_EXECUTION_WORKER_TIMEOUT")]
    pub(crate) execution_worker_timeout: Option<TimeSpan>,

    /// How long what a worker runs is left to it when its connection breaks [default: 10s]
    #[arg(long, value_name = "TIME", env = "CASK_EXECUTION_RECONNECT_GRACE")]
    pub(crate) execution_reconnect_grace: Option<TimeSpan>,

    /// Runs that an action gets when its workers are lost; then it fails [default: 4]
    #[arg(long, value_name = "COUNT", env = "CASK_EXECUTION_ATTEMPTS")]
    pub(crate) execution_attempts: Option<u32>,

    /// How long a bot of the Remote Workers API may say nothing; what it had waits for it a little longer [default: 2m]
    #[arg(long, value_name = "TIME", env = "CASK_EXECUTION_BOT_TIMEOUT")]
    pub(crate) execution_bot_timeout: Option<TimeSpan>,

    /// How long clients may come back for what is done [default: 15m]
    #[arg(long, value_name = "TIME", env = "CASK_EXECUTION_RETENTION")]
    pub(crate) execution_retention: Option<TimeSpan>,

    /// How long an action that has not begun waits on when no client listens any more [default: 5m]
    #[arg(long, value_name = "TIME", env = "CASK_EXECUTION_ABANDONED_AFTER")]
    pub(crate) execution_abandoned_after: Option<TimeSpan>,

    /// How logs are printed to standard error: text or json [default: text]
    #[arg(long, value_name = "FORMAT", env = "CASK_LOG_FORMAT", value_enum, hide_possible_values = true)]
    pub(crate) log_format: Option<LogFormat>,

    /// How long open requests may go on after SIGTERM [default: 30s]
    #[arg(long, value_name = "TIME", env = "CASK_DRAIN_TIMEOUT")]
    pub(crate) drain_timeout: Option<TimeSpan>,

    /// Most connections open at once; more wait in the kernel's queue [default: 10000]
    #[arg(long, value_name = "COUNT", env = "CASK_MAX_CONNECTIONS")]
    pub(crate) max_connections: Option<usize>,

    /// A PEM file of the server's certificate and those that vouch for it: TCP listeners speak TLS
    #[arg(long, value_name = "FILE", env = "CASK_TLS_CERTIFICATE")]
    pub(crate) tls_certificate: Option<PathBuf>,

    /// A PEM file of the certificate's private key
    #[arg(long, value_name = "FILE", env = "CASK_TLS_KEY")]
    pub(crate) tls_key: Option<PathBuf>,

    /// Threads that serve connections; each connection stays on one [default: one a processor]
    #[arg(long, value_name = "COUNT", env = "CASK_THREADS")]
    pub(crate) threads: Option<usize>,

    /// Most uploads open at once [default: 4096]
    #[arg(long, value_name = "COUNT", env = "CASK_MAX_UPLOADS")]
    pub(crate) max_uploads: Option<usize>,

    /// Most memory for upload bytes that are not written yet; as much again for messages on their way in [default: 256MiB]
    #[arg(long, value_name = "SIZE", env = "CASK_MAX_STAGED")]
    pub(crate) max_staged: Option<ByteSize>,
}

/// When an upload is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Durability {
    Written,
    Synced,
}

/// How batches of writes reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DiskAdapter {
    Auto,
    Uring,
    Positioned,
}

/// Whether the store compresses what comes as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compression {
    Off,
    Zstd,
}

/// What log lines look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<ListenAddress>>, D::Error> {
    struct AddressVisitor;
    impl<'de> serde::de::Visitor<'de> for AddressVisitor {
        type Value = Vec<ListenAddress>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an address such as \"127.0.0.1:8980\", or a list of them")
        }
        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(vec![text.parse().map_err(E::custom)?])
        }
        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut texts: A) -> Result<Self::Value, A::Error> {
            let mut addresses = Vec::new();
            while let Some(text) = texts.next_element::<String>()? {
                addresses.push(text.parse().map_err(serde::de::Error::custom)?);
            }
            Ok(addresses)
        }
    }
    deserializer.deserialize_any(AddressVisitor).map(Some)
}

impl Settings {
    /// These, and where they are silent what the weaker source says.
    fn or(self, weaker: Settings) -> Settings {
        Settings {
            listen: self.listen.or(weaker.listen),
            dir: self.dir.or(weaker.dir),
            max_size: self.max_size.or(weaker.max_size),
            lease: self.lease.or(weaker.lease),
            lease_floor: self.lease_floor.or(weaker.lease_floor),
            durability: self.durability.or(weaker.durability),
            scrub_period: self.scrub_period.or(weaker.scrub_period),
            disk_adapter: self.disk_adapter.or(weaker.disk_adapter),
            instances: self.instances.or(weaker.instances),
            compression: self.compression.or(weaker.compression),
            asset_origins: self.asset_origins.or(weaker.asset_origins),
            asset_allow_private_origins: self.asset_allow_private_origins.or(weaker.asset_allow_private_origins),
            asset_max_size: self.asset_max_size.or(weaker.asset_max_size),
            asset_timeout: self.asset_timeout.or(weaker.asset_timeout),
            execution: self.execution.or(weaker.execution),
            execution_timeout: self.execution_timeout.or(weaker.execution_timeout),
            execution_timeout_max: self.execution_timeout_max.or(weaker.execution_timeout_max),
            execution_queue_max: self.execution_queue_max.or(weaker.execution_queue_max),
            execution_worker_patience: self.execution_worker_patience.or(weaker.execution_worker_patience),
            execution_worker_timeout: self.execution_worker_timeout.or(weaker.execution_worker_timeout),
            execution_reconnect_grace: self.execution_reconnect_grace.or(weaker.execution_reconnect_grace),
            execution_attempts: self.execution_attempts.or(weaker.execution_attempts),
            execution_bot_timeout: self.execution_bot_timeout.or(weaker.execution_bot_timeout),
            execution_retention: self.execution_retention.or(weaker.execution_retention),
            execution_abandoned_after: self.execution_abandoned_after.or(weaker.execution_abandoned_after),
            log_format: self.log_format.or(weaker.log_format),
            drain_timeout: self.drain_timeout.or(weaker.drain_timeout),
            max_connections: self.max_connections.or(weaker.max_connections),
            tls_certificate: self.tls_certificate.or(weaker.tls_certificate),
            tls_key: self.tls_key.or(weaker.tls_key),
            threads: self.threads.or(weaker.threads),
            max_uploads: self.max_uploads.or(weaker.max_uploads),
            max_staged: self.max_staged.or(weaker.max_staged),
        }
    }
}

/// The files of a server's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// Everything `cask serve` acts by: complete and checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    /// Never empty.
    pub(crate) listen: Vec<ListenAddress>,
    pub(crate) dir: PathBuf,
    pub(crate) max_size: ByteSize,
    pub(crate) lease: TimeSpan,
    pub(crate) lease_floor: TimeSpan,
    pub(crate) durability: Durability,
    /// Zero: never.
    pub(crate) scrub_period: TimeSpan,
    pub(crate) disk_adapter: DiskAdapter,
    pub(crate) compression: Compression,
    /// Empty: every name is an instance.
    pub(crate) instances: Vec<InstanceSetting>,
    /// Empty: assets are pushed, never fetched.
    pub(crate) asset_origins: Vec<OriginPattern>,
    pub(crate) asset_allow_private_origins: bool,
    pub(crate) asset_max_size: ByteSize,
    pub(crate) asset_timeout: TimeSpan,
    /// `None`: nothing is executed here.
    pub(crate) execution: Option<ExecutionConfig>,
    pub(crate) log_format: LogFormat,
    pub(crate) drain_timeout: TimeSpan,
    pub(crate) max_connections: usize,
    /// `None`: TCP listeners speak in the clear.
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) threads: NonZeroUsize,
    /// `None`: as `Limits` has it.
    pub(crate) max_uploads: Option<usize>,
    /// `None`: as `Limits` has it.
    pub(crate) max_staged: Option<ByteSize>,
    /// Sentences for the operator about settings that work but cannot be meant.
    pub(crate) warnings: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(
        "there is no cache folder to put the store in (neither XDG_CACHE_HOME nor HOME is set); name one with --dir"
    )]
    NoFolder,
    #[error("nothing to listen on; name an address with --listen, such as 127.0.0.1:8980")]
    NoListener,
    #[error("the lease floor ({floor}) is longer than the lease ({lease}); raise --lease or lower --lease-floor")]
    FloorAboveLease { floor: TimeSpan, lease: TimeSpan },
    #[error("instance \"{0}\" is in the list twice")]
    InstanceTwice(String),
    #[error("--{name} must be at least 1")]
    Zero { name: &'static str },
    #[error("--threads must be at most {THREADS_MAX}; one a processor is enough")]
    TooManyThreads,
    #[error(
        "the timeout of actions ({timeout}) is above the longest that is allowed ({timeout_max}); raise --execution-timeout-max or lower --execution-timeout"
    )]
    TimeoutAboveMax { timeout: TimeSpan, timeout_max: TimeSpan },
    #[error("--execution-worker-timeout must be at least {least}")]
    WorkerTimeout { least: TimeSpan },
    #[error("TLS needs both --tls-certificate and --tls-key")]
    HalfTls,
}

const MAX_SIZE_DEFAULT: ByteSize = ByteSize(50 << 30);
const LEASE_DEFAULT: TimeSpan = TimeSpan(Duration::from_secs(4 * 3600));
const LEASE_FLOOR_DEFAULT: TimeSpan = TimeSpan(Duration::from_secs(600));
const SCRUB_PERIOD_DEFAULT: TimeSpan = TimeSpan(Duration::from_secs(14 * 24 * 3600));
const ASSET_MAX_SIZE_DEFAULT: ByteSize = ByteSize(2 << 30);
const ASSET_TIMEOUT_DEFAULT: TimeSpan = TimeSpan(Duration::from_secs(600));
const DRAIN_TIMEOUT_DEFAULT: TimeSpan = TimeSpan(Duration::from_secs(30));
const CONNECTIONS_MAX_DEFAULT: usize = 10_000;
const THREADS_MAX: usize = 1024;

/// What the process finds around it; a parameter, so that tests need no environment.
pub(crate) struct Surroundings<'a> {
    /// The user's cache folder.
    pub(crate) cache_folder: Option<PathBuf>,
    pub(crate) disk_space: &'a dyn Fn(&std::path::Path) -> Option<DiskSpace>,
}

impl Surroundings<'_> {
    /// The real ones.
    pub(crate) fn of_process() -> Self {
        // A relative XDG_CACHE_HOME is to be ignored, says the XDG base directory specification.
        let cache_folder = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|folder| folder.is_absolute())
            .or_else(|| std::env::home_dir().filter(|home| home.is_absolute()).map(|home| home.join(".cache")));
        Self { cache_folder, disk_space: &DiskSpace::of }
    }
}

impl Config {
    /// `flags` carries flags and environment already (clap weighs those two); `file` is the path given by `--config`.
    pub(crate) fn load(
        flags: Settings,
        file: Option<&std::path::Path>,
        surroundings: &Surroundings<'_>,
    ) -> Result<Self, ConfigError> {
        let file = file.map(file::read).transpose()?.unwrap_or_default();
        Self::complete(flags.or(file), surroundings)
    }

    fn complete(settings: Settings, surroundings: &Surroundings<'_>) -> Result<Self, ConfigError> {
        let mut warnings = Vec::new();
        let execution = ExecutionConfig::complete(&settings, &mut warnings)?;
        let listen = match settings.listen {
            None => vec![ListenAddress::default()],
            Some(listen) if listen.is_empty() => return Err(ConfigError::NoListener),
            Some(listen) => listen,
        };
        let dir = match (settings.dir, &surroundings.cache_folder) {
            (Some(dir), _) => dir,
            (None, Some(cache_folder)) => cache_folder.join("cask"),
            (None, None) => return Err(ConfigError::NoFolder),
        };

        let space = (surroundings.disk_space)(&dir);
        let max_size = match (settings.max_size, space) {
            (Some(ByteSize(0)), _) => return Err(ConfigError::Zero { name: "max-size" }),
            (Some(asked), Some(space)) if asked.0 > space.available_bytes() => {
                warnings.push(format!(
                    "max_size is {asked}, but the disk has room for {} only; when it is full, uploads will be refused",
                    ByteSize(space.available_bytes())
                ));
                asked
            }
            (Some(asked), _) => asked,
            // Of free and held together, so that a restart of a grown store comes to the same size.
            (None, Some(space)) => MAX_SIZE_DEFAULT.min(ByteSize(space.available_bytes() / 5 * 4)),
            (None, None) => MAX_SIZE_DEFAULT,
        };

        let lease = settings.lease.unwrap_or(LEASE_DEFAULT);
        // A lease asked shorter than the usual floor is a wish, not a contradiction.
        let lease_floor = settings.lease_floor.unwrap_or(LEASE_FLOOR_DEFAULT.min(lease));
        if lease_floor > lease {
            return Err(ConfigError::FloorAboveLease { floor: lease_floor, lease });
        }
        for (name, count) in [("max-connections", settings.max_connections), ("max-uploads", settings.max_uploads)] {
            if count == Some(0) {
                return Err(ConfigError::Zero { name });
            }
        }
        let threads = match settings.threads.map(NonZeroUsize::new) {
            Some(None) => return Err(ConfigError::Zero { name: "threads" }),
            Some(Some(count)) if count.get() > THREADS_MAX => return Err(ConfigError::TooManyThreads),
            Some(Some(count)) => count,
            None => std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        };

        let tls = match (settings.tls_certificate, settings.tls_key) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            (None, None) => None,
            _ => return Err(ConfigError::HalfTls),
        };

        if settings.asset_max_size == Some(ByteSize(0)) {
            return Err(ConfigError::Zero { name: "asset-max-size" });
        }
        let asset_origins = settings.asset_origins.unwrap_or_default();
        if asset_origins.is_empty() && settings.asset_allow_private_origins == Some(true) {
            warnings
                .push("asset_allow_private_origins allows nothing as long as asset_origins names no host".to_owned());
        }

        let instances = settings.instances.unwrap_or_default();
        for (position, setting) in instances.iter().enumerate() {
            if instances[..position].iter().any(|before| before.name == setting.name) {
                let name = setting.name.as_ref().map_or("*", |name| name.as_str());
                return Err(ConfigError::InstanceTwice(name.to_owned()));
            }
        }

        Ok(Self {
            listen,
            dir,
            max_size,
            lease,
            lease_floor,
            durability: settings.durability.unwrap_or(Durability::Written),
            scrub_period: settings.scrub_period.unwrap_or(SCRUB_PERIOD_DEFAULT),
            disk_adapter: settings.disk_adapter.unwrap_or(DiskAdapter::Auto),
            compression: settings.compression.unwrap_or(Compression::Off),
            instances,
            asset_origins,
            asset_allow_private_origins: settings.asset_allow_private_origins.unwrap_or(false),
            asset_max_size: settings.asset_max_size.unwrap_or(ASSET_MAX_SIZE_DEFAULT),
            asset_timeout: settings.asset_timeout.unwrap_or(ASSET_TIMEOUT_DEFAULT),
            execution,
            log_format: settings.log_format.unwrap_or(LogFormat::Text),
            drain_timeout: settings.drain_timeout.unwrap_or(DRAIN_TIMEOUT_DEFAULT),
            max_connections: settings.max_connections.unwrap_or(CONNECTIONS_MAX_DEFAULT),
            tls,
            threads,
            max_uploads: settings.max_uploads,
            max_staged: settings.max_staged,
            warnings,
        })
    }
}

#[cfg(test)]
mod tests;
