//! Section H: splitting and splicing.
//!
//! H2 to H16 wait for the feature; H1 is what holds without it.

use bazel_remote_apis::build::bazel::remote::execution::v2::{
    GetChunkMappingRequest, RegisterChunkMappingRequest, SpliceBlobRequest, SplitBlobRequest,
};
use tonic::Code;

use crate::start;
use crate::support::grpc::assert_code;
use crate::support::within;

#[tokio::test]
async fn h01_flags_down_means_unimplemented() {
    let (_server, cache) = start().await;
    let digest = Some(cache.store(b"something").await);
    let capabilities = cache.capabilities().await.expect("GetCapabilities").cache_capabilities.unwrap_or_default();
    assert!(!capabilities.split_blob_support && !capabilities.splice_blob_support, "chunking came: write H2 to H16");

    let unimplemented = [Code::Unimplemented];
    let split = SplitBlobRequest { blob_digest: digest.clone(), ..SplitBlobRequest::default() };
    assert_code(&cache.cas().split_blob(split).await, &unimplemented, "SplitBlob");
    let splice = SpliceBlobRequest { blob_digest: digest.clone(), ..SpliceBlobRequest::default() };
    assert_code(&cache.cas().splice_blob(splice).await, &unimplemented, "SpliceBlob");
    let mapping = GetChunkMappingRequest { blob_digest: digest.clone(), ..GetChunkMappingRequest::default() };
    let outcome = match cache.cas().get_chunk_mapping(mapping).await {
        Ok(answer) => within("a chunk mapping", answer.into_inner().message()).await.map(|_| ()),
        Err(status) => Err(status),
    };
    assert_code(&outcome, &unimplemented, "GetChunkMapping");
    let register = RegisterChunkMappingRequest { blob_digest: digest, ..RegisterChunkMappingRequest::default() };
    let outcome = cache.cas().register_chunk_mapping(tokio_stream::iter([register])).await;
    assert_code(&outcome, &unimplemented, "RegisterChunkMapping");
}
