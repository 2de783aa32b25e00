//! Section A: capabilities and what holds for every call.
//!
//! Left out: A14 to A16 (identities and mTLS: no access control yet); A17 is in `instances`. A6 is in `compression`.
//! A7 is conditional: it bites once chunking is advertised.

use bazel_remote_apis::build::bazel::remote::execution::v2::{
    ActionResult, CacheCapabilities, FindMissingBlobsRequest, ServerCapabilities, digest_function,
    symlink_absolute_path_strategy,
};
use bazel_remote_apis::build::bazel::semver::SemVer;
use bazel_remote_apis::google::bytestream::{QueryWriteStatusRequest, ReadRequest};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

use crate::start;
use crate::support::blob::{absent_digest, blob, digest_of};
use crate::support::grpc::{Cache, assert_code, assert_invalid, code, piece};

async fn server_capabilities(cache: &Cache) -> ServerCapabilities {
    cache.capabilities().await.expect("GetCapabilities")
}

async fn cache_capabilities(cache: &Cache) -> CacheCapabilities {
    server_capabilities(cache).await.cache_capabilities.expect("cache capabilities")
}

#[tokio::test]
async fn a01_versions_span_what_clients_speak() {
    let (_server, cache) = start().await;
    let capabilities = server_capabilities(&cache).await;
    let version = |version: Option<SemVer>| {
        let version = version.expect("a version that is set");
        (version.major, version.minor)
    };
    assert_eq!(version(capabilities.low_api_version), (2, 0), "old Bazels want exactly 2.0 in range");
    assert!(version(capabilities.high_api_version) >= (2, 3));
}

#[tokio::test]
async fn a02_no_digest_function_is_unknown() {
    let (_server, cache) = start().await;
    let capabilities = server_capabilities(&cache).await;
    let functions = capabilities.cache_capabilities.expect("cache capabilities").digest_functions;
    assert_eq!(functions.first(), Some(&(digest_function::Value::Sha256 as i32)));
    assert!(!functions.contains(&(digest_function::Value::Unknown as i32)));
    if let Some(execution) = capabilities.execution_capabilities {
        assert_ne!(execution.digest_function, digest_function::Value::Unknown as i32);
        assert!(execution.digest_functions.contains(&execution.digest_function));
    }
}

#[tokio::test]
async fn a03_a_cache_promises_no_execution() {
    let (_server, cache) = start().await;
    let execution = server_capabilities(&cache).await.execution_capabilities;
    assert!(execution.is_none(), "only what the endpoint serves is returned");
}

#[tokio::test]
async fn a04_a_batch_of_exactly_the_advertised_limit_is_taken() {
    let (_server, cache) = start().await;
    let limit = cache.batch_limit_bytes().await;
    let (one, one_data) = blob(1, limit / 2);
    let (two, two_data) = blob(2, limit - limit / 2);
    let answer = cache.batch_update(vec![(one.clone(), one_data), (two.clone(), two_data)]).await;
    assert_eq!(answer.expect("a batch at the limit"), [(one, Code::Ok), (two, Code::Ok)]);
    cache.store(&blob(3, limit).1).await;
}

#[tokio::test]
async fn a05_the_symlink_strategy_is_known() {
    let (_server, cache) = start().await;
    let strategy = cache_capabilities(&cache).await.symlink_absolute_path_strategy;
    assert_ne!(strategy, symlink_absolute_path_strategy::Value::Unknown as i32);
}

#[tokio::test]
async fn a07_chunking_parameters_come_with_the_flags() {
    let (_server, cache) = start().await;
    let capabilities = cache_capabilities(&cache).await;
    if capabilities.split_blob_support || capabilities.splice_blob_support {
        let params = capabilities.fast_cdc_2020_params.expect("parameters beside the flags");
        assert!((1024..=8 * 1024 * 1024).contains(&params.avg_chunk_size_bytes));
    }
}

#[tokio::test]
async fn a08_node_properties_are_not_platform_keys() {
    let (_server, cache) = start().await;
    let Some(execution) = server_capabilities(&cache).await.execution_capabilities else { return };
    for name in execution.supported_node_properties {
        assert!(["unix_mode", "mtime", "SubtreeReadOnly"].contains(&name.as_str()), "{name}");
    }
}

#[tokio::test]
async fn a09_an_unknown_instance_never_gets_a_retriable_code() {
    let (_server, cache) = start().await;
    let strange = cache.instance("nobody/has/configured/this");
    // Without a list of instances each name is served; with one, a stranger is refused for good.
    let allowed = [Code::Ok, Code::InvalidArgument, Code::NotFound];
    assert_code(&strange.capabilities().await, &allowed, "GetCapabilities");
    assert_code(&strange.find_missing(&[absent_digest(1)]).await, &allowed, "FindMissingBlobs");
    assert_code(&strange.read(&absent_digest(1)).await, &allowed, "Read");
    assert_code(&strange.get_action(&absent_digest(1)).await, &allowed, "GetActionResult");
}

#[tokio::test]
async fn a10_an_instance_of_several_segments_works_everywhere() {
    let (_server, cache) = start().await;
    let cache = cache.instance("a/b/c");
    cache.capabilities().await.expect("GetCapabilities");

    let batched = cache.store(b"by batch").await;
    let (streamed, data) = blob(10, 100_000);
    assert_eq!(cache.upload(&streamed, &data).await.expect("Write"), 100_000);
    let status = cache.write_status(&cache.write_name(&streamed)).await.expect("QueryWriteStatus");
    assert_eq!((status.committed_size, status.complete), (100_000, true));

    assert_eq!(cache.find_missing(&[batched.clone(), streamed.clone()]).await.expect("FindMissingBlobs"), []);
    assert_eq!(cache.read(&streamed).await.expect("Read"), data);
    assert_eq!(cache.batch_read(&[batched]).await.expect("BatchReadBlobs")[0].data, b"by batch");

    let root = cache.store_message(&super::get_tree::directory(&[], &["file"])).await;
    assert_eq!(cache.tree(&root, 0).await.expect("GetTree").len(), 1);

    let action = digest_of(b"an action");
    let result = ActionResult { exit_code: 7, ..Default::default() };
    cache.update_action(&action, result).await.expect("UpdateActionResult");
    assert_eq!(cache.get_action(&action).await.expect("GetActionResult").exit_code, 7);
}

#[tokio::test]
async fn a11_an_instance_with_a_reserved_segment_is_refused() {
    let (_server, cache) = start().await;
    let digest = cache.store(b"something").await;
    for reserved in
        ["blobs", "uploads", "actions", "actionResults", "operations", "capabilities", "compressed-blobs", "a/blobs/b"]
    {
        let cache = cache.instance(reserved);
        assert_invalid(&cache.find_missing(std::slice::from_ref(&digest)).await, reserved);
        assert_invalid(&cache.batch_read(std::slice::from_ref(&digest)).await, reserved);
        assert_invalid(&cache.batch_update(vec![]).await, reserved);
        assert_invalid(&cache.tree(&digest, 0).await, reserved);
        assert_invalid(&cache.get_action(&digest).await, reserved);
        assert_invalid(&cache.update_action(&digest, ActionResult::default()).await, reserved);
        assert_invalid(&cache.capabilities().await, reserved);
    }
    // Not a plain prefix either: no reading of the name may find the blob behind the wrong instance.
    for name in ["blobs/blobs", "operations/blobs", "a/actions/b/blobs"] {
        let name = format!("{name}/{}/{}", digest.hash, digest.size_bytes);
        assert_invalid(&cache.read_range(&name, 0, 0).await, &name);
    }
}

#[tokio::test]
async fn a12_malformed_request_metadata_fails_no_call() {
    let (_server, cache) = start().await;
    let digest = cache.store(b"something").await;
    for key in [
        "build.bazel.remote.execution.v2.requestmetadata-bin",
        "google.devtools.remoteexecution.v1test.requestmetadata-bin",
    ] {
        for value in [&b""[..], b"\xff\xff\xff\xff", b"\x0a\xff\x01", &[0x80; 600]] {
            let mut request = Request::new(FindMissingBlobsRequest {
                blob_digests: vec![digest.clone()],
                ..FindMissingBlobsRequest::default()
            });
            request.metadata_mut().insert_bin(key, MetadataValue::from_bytes(value));
            let answer = cache.cas().find_missing_blobs(request).await.expect("a call with odd metadata");
            assert_eq!(answer.into_inner().missing_blob_digests, []);

            let mut request =
                Request::new(ReadRequest { resource_name: cache.read_name(&digest), ..ReadRequest::default() });
            request.metadata_mut().insert_bin(key, MetadataValue::from_bytes(value));
            cache.byte_stream().read(request).await.expect("a read with odd metadata");
        }
    }
}

/// The header repeats the name, on reads, writes and questions alike; one that names something else is refused.
#[tokio::test]
async fn a13_the_resource_name_header_agrees_or_is_refused() {
    const HEADER: &str = "build.bazel.remote.execution.v2.resource-name";
    let (_server, cache) = start().await;
    let (digest, data) = blob(133, 1000);
    let (write_name, read_name) = (cache.write_name(&digest), cache.read_name(&digest));
    for (announced, agrees) in [(write_name.as_str(), true), (read_name.as_str(), false)] {
        let value: MetadataValue<_> = announced.parse().expect("a name is a header value");
        let mut write = Request::new(tokio_stream::iter(vec![piece(&write_name, 0, &data, true)]));
        write.metadata_mut().insert(HEADER, value.clone());
        let outcome = cache.byte_stream().write(write).await;
        assert_eq!(code(&outcome), if agrees { Code::Ok } else { Code::InvalidArgument }, "{announced}");
        let asked = QueryWriteStatusRequest { resource_name: write_name.clone() };
        let mut query = Request::new(asked);
        query.metadata_mut().insert(HEADER, value.clone());
        let outcome = cache.byte_stream().query_write_status(query).await;
        assert_eq!(code(&outcome), if agrees { Code::Ok } else { Code::InvalidArgument }, "{announced}");
        let mut read = Request::new(ReadRequest { resource_name: read_name.clone(), ..ReadRequest::default() });
        read.metadata_mut().insert(HEADER, value);
        let outcome = cache.byte_stream().read(read).await;
        assert_eq!(code(&outcome), if agrees { Code::InvalidArgument } else { Code::Ok }, "{announced}");
    }
}

#[tokio::test]
async fn a13_the_resource_name_header_never_misroutes() {
    let (_server, cache) = start().await;
    let (wanted, wanted_data) = blob(131, 1000);
    let (other, other_data) = blob(132, 1000);
    cache.store(&wanted_data).await;
    cache.store(&other_data).await;
    let mut request = Request::new(ReadRequest { resource_name: cache.read_name(&wanted), ..ReadRequest::default() });
    let header = cache.read_name(&other).parse().expect("a name is a header value");
    request.metadata_mut().insert("build.bazel.remote.execution.v2.resource-name", header);
    match cache.byte_stream().read(request).await {
        Err(status) => assert_eq!(status.code(), Code::InvalidArgument),
        Ok(answer) => {
            let mut stream = answer.into_inner();
            let mut data = Vec::new();
            loop {
                match stream.message().await {
                    Ok(Some(message)) => data.extend_from_slice(&message.data),
                    Ok(None) => break assert_eq!(data, wanted_data),
                    Err(status) => break assert_eq!(status.code(), Code::InvalidArgument),
                }
            }
        }
    }
}
