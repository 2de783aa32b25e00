//! `ContentAddressableStorage`: directory trees, and chunks in `chunking`. Missing blobs and batches are in `hot`.

mod chunking;

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
use futures_util::{Stream, stream};
use tonic::{Request, Response, Status, Streaming};

use super::request;
use super::tree::{Listing, ListingOptions};
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
        _: Request<FindMissingBlobsRequest>,
    ) -> Result<Response<FindMissingBlobsResponse>, Status> {
        unreachable!("{}", super::ANSWERED_HOT)
    }

    async fn batch_update_blobs(
        &self,
        _: Request<BatchUpdateBlobsRequest>,
    ) -> Result<Response<BatchUpdateBlobsResponse>, Status> {
        unreachable!("{}", super::ANSWERED_HOT)
    }

    async fn batch_read_blobs(
        &self,
        _: Request<BatchReadBlobsRequest>,
    ) -> Result<Response<BatchReadBlobsResponse>, Status> {
        unreachable!("{}", super::ANSWERED_HOT)
    }

    async fn get_tree(&self, request: Request<GetTreeRequest>) -> Result<Response<Self::GetTreeStream>, Status> {
        let request = request.into_inner();
        let rule = request::digest_rule(&self.cache, &request.instance_name, request.digest_function)?;
        let root = request::digest_field(rule, "root_digest", request.root_digest.as_ref())?;
        let options = ListingOptions { root, page_size: request.page_size, page_token: request.page_token };
        let listing = Listing::begin(self.cache.clone(), options).await?;
        // Pulled by the transport, a page at a time.
        let pages = stream::try_unfold(listing, |mut listing| async move {
            let page = listing.next_page().await?;
            Ok::<_, Status>(page.map(|page| (page, listing)))
        });
        Ok(Response::new(Box::pin(pages)))
    }

    async fn split_blob(&self, request: Request<SplitBlobRequest>) -> Result<Response<SplitBlobResponse>, Status> {
        chunking::split_blob(&self.cache, request.into_inner()).await
    }

    async fn splice_blob(&self, request: Request<SpliceBlobRequest>) -> Result<Response<SpliceBlobResponse>, Status> {
        chunking::splice_blob(&self.cache, request.into_inner()).await
    }

    async fn get_chunk_mapping(
        &self,
        request: Request<GetChunkMappingRequest>,
    ) -> Result<Response<Self::GetChunkMappingStream>, Status> {
        chunking::get_chunk_mapping(&self.cache, request.into_inner()).await
    }

    async fn register_chunk_mapping(
        &self,
        request: Request<Streaming<RegisterChunkMappingRequest>>,
    ) -> Result<Response<RegisterChunkMappingResponse>, Status> {
        chunking::register_chunk_mapping(&self.cache, request.into_inner()).await
    }
}
