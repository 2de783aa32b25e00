//! What a request asks for, checked: no path leaves the build folder, and what the kernel could not be told is refused.

use std::collections::BTreeMap;
use std::time::Duration;

use cask_proto::run_options::RunOptions;
use cask_proto::runner::RunRequest;
use prost::Message;
use tonic::metadata::MetadataMap;

/// The header that carries what Buildbarn's request has no field for: an encoded `cask.runner.v1.RunOptions`.
pub const RUN_OPTIONS_HEADER: &str = "cask-run-options-bin";

/// What is wrong with a request, for good.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestError {
    #[error("the {what}, {path:?}, is not a path inside the folder it is relative to")]
    Path { what: &'static str, path: String },
    #[error("the {0} is not given")]
    Missing(&'static str),
    #[error("the {0} has a zero byte in it")]
    ZeroByte(&'static str),
    #[error("{0:?} cannot be the name of an environment variable")]
    VariableName(String),
    #[error("the timeout is not a time span")]
    Timeout,
    #[error("the header {RUN_OPTIONS_HEADER} is not an encoded cask.runner.v1.RunOptions")]
    Options,
    #[error("no container image is given, and this runner has none of its own")]
    NoImage,
    #[error("this runner does not run the container image {0:?}")]
    ForbiddenImage(String),
}

/// A checked request. Paths are as in [`super::plan::Plan`].
#[derive(Debug)]
pub(super) struct Request {
    pub(super) arguments: Vec<Vec<u8>>,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) working_directory: String,
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) input_root: String,
    pub(super) temporary: String,
    pub(super) server_logs: String,
    pub(super) options: RunOptions,
    pub(super) timeout: Option<Duration>,
}

impl Request {
    pub(super) fn parse(request: RunRequest, metadata: &MetadataMap) -> Result<Self, RequestError> {
        let options = options_of(metadata)?;
        let timeout = match options.timeout {
            None => None,
            Some(timeout) => Some(Duration::try_from(timeout).map_err(|_| RequestError::Timeout)?),
        };
        if request.arguments.first().is_none_or(String::is_empty) {
            return Err(RequestError::Missing("command"));
        }
        if request.arguments.iter().any(|argument| argument.contains('\0')) {
            return Err(RequestError::ZeroByte("command"));
        }
        for (name, value) in &request.environment_variables {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(RequestError::VariableName(name.clone()));
            }
            if value.contains('\0') {
                return Err(RequestError::ZeroByte("environment"));
            }
        }
        Ok(Self {
            arguments: request.arguments.into_iter().map(String::into_bytes).collect(),
            environment: request.environment_variables,
            working_directory: inside("working directory", &request.working_directory)?,
            stdout: given("stdout path", &request.stdout_path)?,
            stderr: given("stderr path", &request.stderr_path)?,
            input_root: given("input root directory", &request.input_root_directory)?,
            temporary: inside("temporary directory", &request.temporary_directory)?,
            server_logs: inside("server logs directory", &request.server_logs_directory)?,
            options,
            timeout,
        })
    }
}

fn options_of(metadata: &MetadataMap) -> Result<RunOptions, RequestError> {
    let Some(value) = metadata.get_bin(RUN_OPTIONS_HEADER) else { return Ok(RunOptions::default()) };
    let encoded = value.to_bytes().map_err(|_| RequestError::Options)?;
    RunOptions::decode(encoded).map_err(|_| RequestError::Options)
}

fn given(what: &'static str, path: &str) -> Result<String, RequestError> {
    let path = inside(what, path)?;
    if path.is_empty() { Err(RequestError::Missing(what)) } else { Ok(path) }
}

/// A relative path without empty components, `.` and `..`; empty for the folder itself.
pub(super) fn inside(what: &'static str, path: &str) -> Result<String, RequestError> {
    let error = || RequestError::Path { what, path: path.to_owned() };
    if path.starts_with('/') || path.contains('\0') {
        return Err(error());
    }
    let components: Vec<_> = path.split('/').filter(|component| !matches!(*component, "" | ".")).collect();
    if components.contains(&"..") { Err(error()) } else { Ok(components.join("/")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside_the_folder_they_are_relative_to() {
        for (path, expected) in [
            ("", Some("")),
            (".", Some("")),
            ("a", Some("a")),
            ("a/b", Some("a/b")),
            ("./a//b/", Some("a/b")),
            ("a/..b/c..", Some("a/..b/c..")),
            ("..", None),
            ("a/../..", None),
            ("a/../b", None),
            ("/", None),
            ("/etc/passwd", None),
            ("a\0b", None),
        ] {
            assert_eq!(inside("working directory", path).ok().as_deref(), expected, "{path:?}");
        }
    }
}
