//! The TOML file: the flags' names in snake case, nothing else. Every error is one sentence naming file and line.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::de::DeserializeOwned;

use super::Settings;

#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("cannot read the configuration {}: {error}", path.display())]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{}: line {line}: {message}", path.display())]
    Syntax { path: PathBuf, line: usize, message: String },
    #[error("{}: unknown key \"{key}\"{suggestion}", path.display())]
    UnknownKey { path: PathBuf, key: String, suggestion: String },
}

fn suggestion(key: &str, known: &[String]) -> String {
    match nearest(key, known) {
        Some(key) => format!("; did you mean \"{key}\"?"),
        None => format!("; known keys are {}", known.join(", ")),
    }
}

/// Reads and parses a file.
pub(crate) fn read(path: &Path) -> Result<Settings, FileError> {
    let text = std::fs::read_to_string(path).map_err(|error| FileError::Read { path: path.to_owned(), error })?;
    parse(path, &text)
}

/// `path` only names the file in errors.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Settings, FileError> {
    parse_as(path, text, &[])
}

/// As above, for the settings of another command; `more_keys` are those that no flag has.
pub(crate) fn parse_as<S: Args + DeserializeOwned>(
    path: &Path,
    text: &str,
    more_keys: &[&str],
) -> Result<S, FileError> {
    let syntax = |error: toml::de::Error| syntax(path, text, &error);
    // Keys first: a misspelt key is a better message than whatever is wrong with its value.
    let table: toml::Table = text.parse().map_err(syntax)?;
    let known = known_keys::<S>(more_keys);
    if let Some(key) = table.keys().find(|key| !known.contains(key)) {
        let suggestion = suggestion(key, &known);
        return Err(FileError::UnknownKey { path: path.to_owned(), key: key.clone(), suggestion });
    }
    toml::from_str(text).map_err(syntax)
}

/// The line of an error, and its words in one line.
pub(crate) fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> FileError {
    FileError::Syntax {
        path: path.to_owned(),
        line: 1 + error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count()),
        message: error.message().replace('\n', " "),
    }
}

/// The fields of the settings: clap's ids are the field names, so this list cannot fall behind.
fn known_keys<S: Args>(more: &[&str]) -> Vec<String> {
    S::augment_args(clap::Command::new("cask"))
        .get_arguments()
        .map(|argument| argument.get_id().to_string())
        .chain(more.iter().map(|key| (*key).to_owned()))
        .collect()
}

fn nearest(key: &str, known: &[String]) -> Option<String> {
    let key = key.replace('-', "_").to_lowercase();
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(&key, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(text: &str) -> String {
        parse(Path::new("cask.toml"), text).expect_err("an error").to_string()
    }

    #[test]
    fn every_key_of_the_flags_is_read() {
        let settings = parse(
            Path::new("cask.toml"),
            r#"
            listen = ["127.0.0.1:1", "unix:/run/cask.sock"]
            dir = "/var/lib/cask"
            max_size = "2TiB"
            lease = "8h"
            lease_floor = "0s"
            durability = "synced"
            scrub_period = "30d"
            disk_adapter = "uring"
            compression = "zstd"
            asset_origins = ["example.com", "*.example.org:8443"]
            asset_allow_private_origins = true
            asset_max_size = "1GiB"
            asset_timeout = "2m"
            execution = true
            execution_timeout = "30m"
            execution_timeout_max = "2h"
            execution_queue_max = 1000
            execution_worker_patience = "1m"
            execution_worker_timeout = "20s"
            execution_reconnect_grace = "10s"
            execution_attempts = 2
            execution_bot_timeout = "1m"
            execution_retention = "5m"
            execution_abandoned_after = "2m"
            log_format = "json"
            drain_timeout = "5s"
            max_connections = 7
            threads = 2
            tls_certificate = "/etc/cask/certificate.pem"
            tls_key = "/etc/cask/key.pem"
            max_uploads = 8
            max_staged = 1048576
            "#,
        )
        .expect("settings");
        assert!(settings.silent().is_empty(), "unread: {:?}", settings.silent());
    }

    #[test]
    fn one_listener_needs_no_list() {
        let settings = parse(Path::new("cask.toml"), "listen = \"127.0.0.1:1\"").expect("settings");
        assert_eq!(settings.listen.map(|listen| listen.len()), Some(1));
    }

    #[test]
    fn errors_name_file_line_and_the_nearest_key() {
        for (text, message) in [
            ("max-size = 1", r#"cask.toml: unknown key "max-size"; did you mean "max_size"?"#),
            ("leese = \"1h\"", r#"cask.toml: unknown key "leese"; did you mean "lease"?"#),
            ("\n\nlease = \"1 hour\"", r#"cask.toml: line 3: "hour" is not a unit of time; use ms, s, m, h or d"#),
            ("max_size = -1", "cask.toml: line 1: a size cannot be negative"),
            (
                "lease = 4",
                "cask.toml: line 1: invalid type: integer `4`, expected a length of time such as \"4h\", \"10m\" or \"90s\"",
            ),
            ("durability = \"fsync\"", "cask.toml: line 1: unknown variant `fsync`, expected `written` or `synced`"),
            ("compression = \"gzip\"", "cask.toml: line 1: unknown variant `gzip`, expected `off` or `zstd`"),
            (
                "disk_adapter = \"io_uring\"",
                "cask.toml: line 1: unknown variant `io_uring`, expected one of `auto`, `uring`, `positioned`",
            ),
        ] {
            assert_eq!(error_of(text), message);
        }
        assert!(error_of("colour = 1").starts_with(r#"cask.toml: unknown key "colour"; known keys are listen, dir,"#));
        assert!(error_of("dir = [").starts_with("cask.toml: line 1: "));
    }
}
