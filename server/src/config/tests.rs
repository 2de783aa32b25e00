use std::path::Path;

use super::*;

impl Settings {
    /// Names of the settings nothing was said about.
    pub(super) fn silent(&self) -> Vec<&'static str> {
        [
            ("listen", self.listen.is_none()),
            ("dir", self.dir.is_none()),
            ("max_size", self.max_size.is_none()),
            ("lease", self.lease.is_none()),
            ("lease_floor", self.lease_floor.is_none()),
            ("durability", self.durability.is_none()),
            ("scrub_period", self.scrub_period.is_none()),
            ("disk_adapter", self.disk_adapter.is_none()),
            ("compression", self.compression.is_none()),
            ("asset_origins", self.asset_origins.is_none()),
            ("asset_allow_private_origins", self.asset_allow_private_origins.is_none()),
            ("asset_max_size", self.asset_max_size.is_none()),
            ("asset_timeout", self.asset_timeout.is_none()),
            ("execution", self.execution.is_none()),
            ("execution_timeout", self.execution_timeout.is_none()),
            ("execution_timeout_max", self.execution_timeout_max.is_none()),
            ("execution_queue_max", self.execution_queue_max.is_none()),
            ("execution_worker_patience", self.execution_worker_patience.is_none()),
            ("execution_worker_timeout", self.execution_worker_timeout.is_none()),
            ("execution_reconnect_grace", self.execution_reconnect_grace.is_none()),
            ("execution_attempts", self.execution_attempts.is_none()),
            ("execution_retention", self.execution_retention.is_none()),
            ("execution_abandoned_after", self.execution_abandoned_after.is_none()),
            ("log_format", self.log_format.is_none()),
            ("drain_timeout", self.drain_timeout.is_none()),
            ("max_connections", self.max_connections.is_none()),
            ("tls_certificate", self.tls_certificate.is_none()),
            ("tls_key", self.tls_key.is_none()),
            ("threads", self.threads.is_none()),
            ("max_uploads", self.max_uploads.is_none()),
            ("max_staged", self.max_staged.is_none()),
        ]
        .into_iter()
        .filter_map(|(name, silent)| silent.then_some(name))
        .collect()
    }
}

const GIB: u64 = 1 << 30;

fn complete_with(settings: Settings, free_bytes: u64, held_bytes: u64) -> Result<Config, ConfigError> {
    let space = move |_: &Path| Some(DiskSpace { free_bytes, held_bytes });
    Config::complete(settings, &Surroundings { cache_folder: Some("/home/u/.cache".into()), disk_space: &space })
}

fn span(text: &str) -> TimeSpan {
    text.parse().expect("a span")
}

#[test]
fn nothing_said_gives_the_laptop_defaults() {
    let config = complete_with(Settings::default(), 1000 * GIB, 0).expect("a config");
    assert_eq!(config.listen, ["127.0.0.1:8980".parse().expect("an address")]);
    assert_eq!(config.dir, Path::new("/home/u/.cache/cask"));
    assert_eq!(config.max_size, ByteSize(50 * GIB));
    assert_eq!((config.lease, config.lease_floor), (span("4h"), span("10m")));
    assert_eq!(config.scrub_period, span("14d"));
    assert_eq!((config.durability, config.disk_adapter), (Durability::Written, DiskAdapter::Auto));
    assert_eq!((config.asset_origins.len(), config.asset_allow_private_origins), (0, false));
    assert_eq!((config.asset_max_size, config.asset_timeout), (ByteSize(2 * GIB), span("10m")));
    assert!(config.warnings.is_empty());
}

#[test]
fn the_default_size_leaves_a_fifth_of_the_disk_and_does_not_creep_on_restart() {
    let fresh = complete_with(Settings::default(), 10 * GIB, 0).expect("a config");
    assert_eq!(fresh.max_size, ByteSize(8 * GIB));
    let grown = complete_with(Settings::default(), 2 * GIB, 8 * GIB).expect("a config");
    assert_eq!(grown.max_size, fresh.max_size);
}

#[test]
fn an_asked_size_is_kept_and_warned_about_when_the_disk_is_smaller() {
    let asked = |size: u64| Settings { max_size: Some(ByteSize(size * GIB)), ..Settings::default() };
    let fits = complete_with(asked(10), 4 * GIB, 6 * GIB).expect("a config");
    assert_eq!((fits.max_size, fits.warnings.len()), (ByteSize(10 * GIB), 0));
    let too_large = complete_with(asked(11), 4 * GIB, 6 * GIB).expect("a config");
    assert_eq!(too_large.max_size, ByteSize(11 * GIB));
    assert_eq!(
        too_large.warnings,
        ["max_size is 11 GiB, but the disk has room for 10 GiB only; when it is full, uploads will be refused"]
    );
}

#[test]
fn a_flag_beats_the_file_and_the_file_the_default() {
    let text = "lease = \"2h\"\nlease_floor = \"5m\"";
    let file = file::parse(Path::new("cask.toml"), text).expect("settings");
    let flags = Settings { lease: Some(span("3h")), ..Settings::default() };
    let config = complete_with(flags.or(file), GIB, 0).expect("a config");
    assert_eq!((config.lease, config.lease_floor, config.drain_timeout), (span("3h"), span("5m"), span("30s")));
}

/// `or` written by hand must not forget a field: a source that speaks on everything wins on everything.
#[test]
fn a_source_that_says_everything_leaves_nothing_to_the_weaker() {
    let all = |text: &str| file::parse(Path::new("cask.toml"), text).expect("settings");
    let one = all(
        "listen = \"a:1\"\ndir = \"/a\"\nmax_size = 1\nlease = \"1h\"\nlease_floor = \"1m\"\ndurability = \"written\"\nscrub_period = \"1d\"\n\
                   disk_adapter = \"auto\"\ncompression = \"off\"\nlog_format = \"text\"\ndrain_timeout = \"1s\"\nmax_connections = 1\nthreads = 1\ntls_certificate = \"a\"\ntls_key = \"b\"\nmax_uploads = 1\nmax_staged = 1\n\
                   execution = true\nexecution_timeout = \"1s\"\nexecution_timeout_max = \"1s\"\nexecution_queue_max = 1\nexecution_worker_patience = \"1s\"\nexecution_worker_timeout = \"1s\"\n\
                   execution_reconnect_grace = \"1s\"\nexecution_attempts = 1\nexecution_retention = \"1s\"\nexecution_abandoned_after = \"1s\"\n\
                   instances = [\"a\"]\nasset_origins = [\"a\"]\nasset_allow_private_origins = true\nasset_max_size = 1\nasset_timeout = \"1s\"",
    );
    let other = all(
        "listen = \"b:2\"\ndir = \"/b\"\nmax_size = 2\nlease = \"2h\"\nlease_floor = \"2m\"\ndurability = \"synced\"\nscrub_period = \"2d\"\n\
                     disk_adapter = \"uring\"\ncompression = \"zstd\"\nlog_format = \"json\"\ndrain_timeout = \"2s\"\nmax_connections = 2\nthreads = 2\ntls_certificate = \"c\"\ntls_key = \"d\"\nmax_uploads = 2\nmax_staged = 2\n\
                     execution = false\nexecution_timeout = \"2s\"\nexecution_timeout_max = \"2s\"\nexecution_queue_max = 2\nexecution_worker_patience = \"2s\"\nexecution_worker_timeout = \"2s\"\n\
                     execution_reconnect_grace = \"2s\"\nexecution_attempts = 2\nexecution_retention = \"2s\"\nexecution_abandoned_after = \"2s\"\n\
                     instances = [\"b\", \"*\"]\nasset_origins = [\"b\", \"*\"]\nasset_allow_private_origins = false\nasset_max_size = 2\nasset_timeout = \"2s\"",
    );
    let debug = |settings: &Settings| format!("{settings:?}");
    assert!(one.silent().is_empty());
    assert_eq!(debug(&one.clone().or(other.clone())), debug(&one));
    assert_eq!(debug(&Settings::default().or(other.clone())), debug(&other));
}

#[test]
fn execution_is_off_unless_it_is_asked_for() {
    assert_eq!(complete_with(Settings::default(), GIB, 0).expect("a config").execution, None);
    let silent = Settings { execution_attempts: Some(7), ..Settings::default() };
    let config = complete_with(silent, GIB, 0).expect("a config");
    assert_eq!((config.execution, config.warnings.len()), (None, 1), "settings that do nothing are warned about");
    let on = Settings { execution: Some(true), ..Settings::default() };
    let execution = complete_with(on.clone(), GIB, 0).expect("a config").execution.expect("execution");
    assert_eq!((execution.timeout, execution.timeout_max), (span("1h"), span("24h")));
    assert_eq!((execution.worker_patience, execution.attempts, execution.queue_max), (span("15m"), 4, 1_000_000));
    let short = Settings { execution_timeout_max: Some(span("10m")), ..on };
    let execution = complete_with(short, GIB, 0).expect("a config").execution.expect("execution");
    assert_eq!((execution.timeout, execution.timeout_max), (span("10m"), span("10m")));
}

#[test]
fn a_short_lease_brings_its_floor_down_but_a_contradiction_is_refused() {
    let short = Settings { lease: Some(span("5m")), ..Settings::default() };
    assert_eq!(complete_with(short.clone(), GIB, 0).expect("a config").lease_floor, span("5m"));
    let contradiction = Settings { lease_floor: Some(span("6m")), ..short };
    assert_eq!(
        complete_with(contradiction, GIB, 0).expect_err("an error").to_string(),
        "the lease floor (6m) is longer than the lease (5m); raise --lease or lower --lease-floor"
    );
}

#[test]
fn what_cannot_work_is_refused_with_advice() {
    let homeless = Surroundings { cache_folder: None, disk_space: &|_| None };
    let error = Config::complete(Settings::default(), &homeless).expect_err("an error").to_string();
    assert!(error.contains("--dir"), "{error}");
    for (settings, hint) in [
        (Settings { max_size: Some(ByteSize(0)), ..Settings::default() }, "--max-size must be at least 1"),
        (Settings { asset_max_size: Some(ByteSize(0)), ..Settings::default() }, "--asset-max-size must be at least 1"),
        (Settings { max_connections: Some(0), ..Settings::default() }, "--max-connections must be at least 1"),
        (
            Settings { tls_key: Some("key.pem".into()), ..Settings::default() },
            "TLS needs both --tls-certificate and --tls-key",
        ),
        (Settings { threads: Some(0), ..Settings::default() }, "--threads must be at least 1"),
        (
            Settings { threads: Some(1025), ..Settings::default() },
            "--threads must be at most 1024; one a processor is enough",
        ),
        (
            Settings { execution: Some(true), execution_timeout: Some(span("25h")), ..Settings::default() },
            "raise --execution-timeout-max or lower --execution-timeout",
        ),
        (
            Settings { execution: Some(true), execution_attempts: Some(0), ..Settings::default() },
            "--execution-attempts must be at least 1",
        ),
        (
            Settings { execution: Some(true), execution_queue_max: Some(0), ..Settings::default() },
            "--execution-queue-max must be at least 1",
        ),
        (
            Settings { execution: Some(true), execution_timeout: Some(span("0s")), ..Settings::default() },
            "--execution-timeout must be at least 1",
        ),
        (
            Settings { execution: Some(true), execution_worker_timeout: Some(span("10ms")), ..Settings::default() },
            "--execution-worker-timeout must be at least 1s",
        ),
        (Settings { listen: Some(vec![]), ..Settings::default() }, "--listen"),
        (
            Settings {
                instances: Some(vec!["a".parse().unwrap(), "a,cas=isolated".parse().unwrap()]),
                ..Settings::default()
            },
            "instance \"a\" is in the list twice",
        ),
    ] {
        let error = complete_with(settings, GIB, 0).expect_err("an error").to_string();
        assert!(error.contains(hint), "{error}");
    }
}
