//! What the client commands have in common: where the cache is, how a digest is written, how failures read.

use std::future::Future;
use std::io::Write;
use std::str::FromStr;

use cask_executor::ClientError;
use cask_executor::client::RemoteCache;
use cask_index::Digest;
use cask_proto::InstanceName;
use cask_proto::digest::FunctionRule;

use super::Failure;

/// Which cache to speak to.
#[derive(Debug, clap::Args)]
#[expect(clippy::doc_markdown, reason = "the comments are the help texts")]
pub(super) struct Remote {
    /// Address of the cache
    #[arg(long, value_name = "URL", env = "CASK_SERVER", default_value = "grpc://127.0.0.1:8980")]
    server: String,

    /// Instance name, as in Bazel's --remote_instance_name
    #[arg(long, value_name = "NAME", env = "CASK_INSTANCE", default_value = "", hide_default_value = true)]
    instance: String,
}

/// A digest as the commands print and read it: `<hash>/<size>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DigestArgument(pub(super) Digest);

impl FromStr for DigestArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let written = || format!("\"{text}\" is not a digest; write HASH/SIZE, as `cask upload` prints it");
        let (hash, size) = text.split_once('/').ok_or_else(written)?;
        let size_bytes = size.parse().map_err(|_| written())?;
        FunctionRule::INFERRED.digest(hash, size_bytes).map(Self).map_err(|error| format!("\"{text}\": {error}"))
    }
}

impl Remote {
    /// Connects and runs `work` with the client.
    pub(super) fn run<F>(self, work: impl FnOnce(RemoteCache) -> F) -> Result<(), Failure>
    where
        F: Future<Output = Result<(), Failure>>,
    {
        let instance = InstanceName::parse(&self.instance)
            .map_err(|error| Failure::Usage(format!("--instance \"{}\": {error}", self.instance)))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::Run(format!("cannot start: {error}")))?;
        runtime.block_on(async { work(RemoteCache::connect(&self.server, instance).await?).await })
    }
}

/// Says a failure with its causes in one sentence.
impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let sentence = with_causes(&error);
        match error {
            ClientError::Endpoint { .. } => Self::Usage(sentence),
            _ => Self::Run(sentence),
        }
    }
}

pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Some causes are said by what they caused already.
        if !sentence.contains(&text) {
            sentence = format!("{sentence}: {text}");
        }
        cause = error.source();
    }
    sentence
}

/// Prints a line for the next program in the pipe. One that does not want it ends the command.
pub(super) fn print_line(line: impl std::fmt::Display) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{line}").map_err(|error| Failure::Run(format!("cannot print: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_read_as_they_print() {
        let text = format!("{}/17", "0a".repeat(32));
        assert_eq!(text.parse::<DigestArgument>().expect("a digest").0.to_string(), text);
    }

    #[test]
    fn what_is_no_digest_says_how_one_is_written() {
        for text in ["", "abc", "abc/", "abc/x", "abc/1", "/1"] {
            let error = text.parse::<DigestArgument>().expect_err(text);
            assert!(error.contains(&format!("\"{text}\"")), "{error}");
        }
    }
}
