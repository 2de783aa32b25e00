//! `Capabilities`: what this server serves, and nothing it does not. The first call of nearly every client.

use cask_proto::digest::function_field;
use cask_proto::reapi::capabilities_server::{Capabilities, CapabilitiesServer};
use cask_proto::reapi::priority_capabilities::PriorityRange;
use cask_proto::reapi::{
    ActionCacheUpdateCapabilities, CacheCapabilities, ExecutionCapabilities, FastCdc2020Params, GetCapabilitiesRequest,
    PriorityCapabilities, RepMaxCdcParams, ServerCapabilities, symlink_absolute_path_strategy,
};
use cask_proto::semver::SemVer;
use tonic::{Request, Response, Status};

use super::request;
use crate::cache::{
    COMPRESSORS, Cache, DIGEST_FUNCTIONS, FAST_CDC_AVERAGE_BYTES, REP_MAX_CDC_HORIZON_BYTES, REP_MAX_CDC_MIN_BYTES,
};

pub(crate) fn server(cache: &Cache, executes: bool) -> CapabilitiesServer<CapabilitiesService> {
    let mut served = served(cache.limits().batch_total_size_bytes_max, cache.engine().blob_size_bytes_max());
    served.execution_capabilities = executes.then(execution);
    CapabilitiesServer::new(CapabilitiesService { cache: cache.clone(), served })
}

pub(crate) struct CapabilitiesService {
    cache: Cache,
    /// Of an instance without wishes of its own.
    served: ServerCapabilities,
}

#[tonic::async_trait]
impl Capabilities for CapabilitiesService {
    async fn get_capabilities(
        &self,
        request: Request<GetCapabilitiesRequest>,
    ) -> Result<Response<ServerCapabilities>, Status> {
        let instance = request::instance(&self.cache, &request.get_ref().instance_name)?;
        let mut served = self.served.clone();
        if let Some(cache) = &mut served.cache_capabilities {
            if let Some(preferred) = instance.preferred_function().map(function_field) {
                // Some clients take the first.
                cache.digest_functions.sort_by_key(|function| *function != preferred);
            }
            let update_enabled = instance.takes_action_results();
            cache.action_cache_update_capabilities = Some(ActionCacheUpdateCapabilities { update_enabled });
        }
        if let (Some(execution), Some(preferred)) = (&mut served.execution_capabilities, instance.preferred_function())
        {
            let preferred = function_field(preferred);
            execution.digest_function = preferred;
            execution.digest_functions.sort_by_key(|function| *function != preferred);
        }
        Ok(Response::new(served))
    }
}

fn served(batch_total_size_bytes_max: u64, blob_size_bytes_max: u64) -> ServerCapabilities {
    let compressors: Vec<i32> = COMPRESSORS.iter().map(|compressor| compressor.wire_number()).collect();
    let wire_size = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    ServerCapabilities {
        cache_capabilities: Some(CacheCapabilities {
            digest_functions: DIGEST_FUNCTIONS.map(function_field).to_vec(),
            action_cache_update_capabilities: Some(ActionCacheUpdateCapabilities { update_enabled: true }),
            // Priorities are accepted and ignored. Bazel fails a build whose nonzero priority is outside every range, so
            // the range is everything.
            cache_priority_capabilities: Some(PriorityCapabilities {
                priorities: vec![PriorityRange { min_priority: i32::MIN, max_priority: i32::MAX }],
            }),
            max_batch_total_size_bytes: wire_size(batch_total_size_bytes_max),
            symlink_absolute_path_strategy: symlink_absolute_path_strategy::Value::Allowed.into(),
            max_cas_blob_size_bytes: wire_size(blob_size_bytes_max),
            supported_compressors: compressors.clone(),
            supported_batch_update_compressors: compressors,
            split_blob_support: true,
            splice_blob_support: true,
            fast_cdc_2020_params: Some(FastCdc2020Params {
                avg_chunk_size_bytes: FAST_CDC_AVERAGE_BYTES as u64,
                seed: 0,
            }),
            rep_max_cdc_params: Some(RepMaxCdcParams {
                min_chunk_size_bytes: REP_MAX_CDC_MIN_BYTES as u64,
                horizon_size_bytes: REP_MAX_CDC_HORIZON_BYTES as u64,
            }),
        }),
        // A cache alone executes nothing; then the message itself must be absent.
        execution_capabilities: None,
        deprecated_api_version: None,
        // Bazel up to 2023 speaks exactly 2.0 and refuses a server whose lowest version is above it.
        low_api_version: Some(version(2, 0)),
        // The streaming chunk mappings of 2.13 are served too, but their text has not been released yet.
        high_api_version: Some(version(2, 12)),
    }
}

/// Of a server with execution.
fn execution() -> ExecutionCapabilities {
    let functions = DIGEST_FUNCTIONS.map(function_field);
    ExecutionCapabilities {
        // Of an older version of the API; it has to be one of the list.
        digest_function: functions[0],
        exec_enabled: true,
        execution_priority_capabilities: Some(PriorityCapabilities {
            priorities: vec![PriorityRange { min_priority: i32::MIN, max_priority: i32::MAX }],
        }),
        // Of nodes in trees, not of platforms.
        supported_node_properties: vec!["mtime".to_owned(), "unix_mode".to_owned()],
        digest_functions: functions.to_vec(),
    }
}

fn version(major: i32, minor: i32) -> SemVer {
    SemVer { major, minor, ..SemVer::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_past_the_wire_is_advertised_as_the_largest() {
        let cache = served(4096, u64::MAX).cache_capabilities.expect("cache capabilities");
        assert_eq!(cache.max_batch_total_size_bytes, 4096);
        assert_eq!(cache.max_cas_blob_size_bytes, i64::MAX);
    }
}
