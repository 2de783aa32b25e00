//! `cask capabilities`: what a cache says of itself, in lines.

use cask_proto::reapi::ServerCapabilities;
use cask_proto::semver::SemVer;

use super::Failure;
use super::remote::{Remote, print_line};
use crate::config::ByteSize;

/// Print what a cache says of itself.
#[derive(Debug, clap::Args)]
pub(crate) struct CapabilitiesArguments {
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(arguments: CapabilitiesArguments) -> Result<(), Failure> {
    arguments.remote.run(async |cache| {
        for line in lines(&cache.capabilities().await?) {
            print_line(line)?;
        }
        Ok(())
    })
}

fn lines(capabilities: &ServerCapabilities) -> Vec<String> {
    let mut lines = vec![format!(
        "API versions       {} to {}",
        version(capabilities.low_api_version.as_ref()),
        version(capabilities.high_api_version.as_ref())
    )];
    if let Some(cache) = &capabilities.cache_capabilities {
        let functions: Vec<_> = cache.digest_functions().map(|function| function.as_str_name()).collect();
        lines.push(format!("digest functions   {}", functions.join(", ")));
        let updates = cache.action_cache_update_capabilities.is_some_and(|updates| updates.update_enabled);
        lines.push(format!("action cache       {}", if updates { "read and write" } else { "read only" }));
        lines.push(format!("largest batch      {}", size(cache.max_batch_total_size_bytes)));
        lines.push(format!("largest blob       {}", size(cache.max_cas_blob_size_bytes)));
        let compressors: Vec<_> =
            cache.supported_compressors().map(|compressor| compressor.as_str_name().to_lowercase()).collect();
        lines.push(format!(
            "compressors        {}",
            if compressors.is_empty() { "none".to_owned() } else { compressors.join(", ") }
        ));
    }
    let executes = capabilities.execution_capabilities.as_ref().is_some_and(|execution| execution.exec_enabled);
    lines.push(format!("remote execution   {}", if executes { "yes" } else { "no" }));
    lines
}

fn version(version: Option<&SemVer>) -> String {
    version.map_or("unsaid".to_owned(), |version| format!("{}.{}", version.major, version.minor))
}

/// Zero is how the wire says that there is no limit.
fn size(bytes: i64) -> String {
    match u64::try_from(bytes) {
        Ok(bytes @ 1..) => ByteSize(bytes).to_string(),
        _ => "no limit".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use cask_proto::reapi::CacheCapabilities;

    use super::*;

    #[test]
    fn a_server_that_says_nothing_is_described_too() {
        assert_eq!(
            lines(&ServerCapabilities::default()),
            ["API versions       unsaid to unsaid", "remote execution   no"]
        );
        let cache = CacheCapabilities { max_batch_total_size_bytes: 4 << 20, ..CacheCapabilities::default() };
        let lines = lines(&ServerCapabilities { cache_capabilities: Some(cache), ..ServerCapabilities::default() });
        assert!(lines.contains(&"largest batch      4 MiB".to_owned()), "{lines:?}");
        assert!(lines.contains(&"largest blob       no limit".to_owned()), "{lines:?}");
    }
}
