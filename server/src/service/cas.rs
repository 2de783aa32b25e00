//! `ContentAddressableStorage`: which blobs are missing, batches of small blobs, directory trees.

use std::pin::Pin;

use cask_proto::reapi::content_addressable_storage_server::{
    ContentAddressableStorage, ContentAddressableStorageServer,
};
use cask_proto::reapi::{
    BatchReadBlobsRequest, BatchReadBlobsResponse, BatchUpdateBlobsRequest, BatchUpdateBlobsResponse,
    FindMissingBlobsRequest, FindMissingBlobsResponse, GetChunkMappingRequest, GetChunkMappingResponse, GetTreeRequest,
    GetTreeResponse, RegisterChunkMappingRequest, RegisterChunkMappingResponse, SpliceBlobRequest, SpliceBlobResponse,
    SplitBlobRequest, SplitBlobResponse,
};
use futures_util::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::cache::Cache;

/// The service, with its message limits set.
pub(crate) fn server(cache: Cache) -> ContentAddressableStorageServer<CasService> {
    let message_size_bytes_max = cache.limits().message_size_bytes_max;
    ContentAddressableStorageServer::new(CasService { cache }).max_decoding_message_size(message_size_bytes_max)
}

pub(crate) struct CasService {
    cache: Cache,
}

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send + 'static>>;

#[tonic::async_trait]
impl ContentAddressableStorage for CasService {
    type GetTreeStream = ResponseStream<GetTreeResponse>;
    type GetChunkMappingStream = ResponseStream<GetChunkMappingResponse>;

    async fn find_missing_blobs(
        &self,
        _request: Request<FindMissingBlobsRequest>,
    ) -> Result<Response<FindMissingBlobsResponse>, Status> {
        todo!()
    }

    async fn batch_update_blobs(
        &self,
        _request: Request<BatchUpdateBlobsRequest>,
    ) -> Result<Response<BatchUpdateBlobsResponse>, Status> {
        todo!()
    }

    async fn batch_read_blobs(
        &self,
        _request: Request<BatchReadBlobsRequest>,
    ) -> Result<Response<BatchReadBlobsResponse>, Status> {
        todo!()
    }

    async fn get_tree(&self, _request: Request<GetTreeRequest>) -> Result<Response<Self::GetTreeStream>, Status> {
        todo!()
    }

    async fn split_blob(&self, _request: Request<SplitBlobRequest>) -> Result<Response<SplitBlobResponse>, Status> {
        Err(unsupported_chunking())
    }

    async fn splice_blob(&self, _request: Request<SpliceBlobRequest>) -> Result<Response<SpliceBlobResponse>, Status> {
        Err(unsupported_chunking())
    }

    async fn get_chunk_mapping(
        &self,
        _request: Request<GetChunkMappingRequest>,
    ) -> Result<Response<Self::GetChunkMappingStream>, Status> {
        Err(unsupported_chunking())
    }

    async fn register_chunk_mapping(
        &self,
        _request: Request<Streaming<RegisterChunkMappingRequest>>,
    ) -> Result<Response<RegisterChunkMappingResponse>, Status> {
        Err(unsupported_chunking())
    }
}

fn unsupported_chunking() -> Status {
    Status::unimplemented("blobs are not split or spliced by this server; its capabilities say so")
}
