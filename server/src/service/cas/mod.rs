//! `ContentAddressableStorage`: which blobs are missing, batches of small blobs, directory trees, and chunks in `chunking`.

mod chunking;

use std::pin::Pin;

use bytes::Bytes;
use cask_index::Digest;
use cask_proto::digest::DigestRule;
use cask_proto::reapi::content_addressable_storage_server::{
    ContentAddressableStorage, ContentAddressableStorageServer,
};
use cask_proto::reapi::{
    self, BatchReadBlobsRequest, BatchReadBlobsResponse, BatchUpdateBlobsRequest, BatchUpdateBlobsResponse,
    FindMissingBlobsRequest, FindMissingBlobsResponse, GetChunkMappingRequest, GetChunkMappingResponse, GetTreeRequest,
    GetTreeResponse, RegisterChunkMappingRequest, RegisterChunkMappingResponse, SpliceBlobRequest, SpliceBlobResponse,
    SplitBlobRequest, SplitBlobResponse, batch_read_blobs_response, batch_update_blobs_request,
    batch_update_blobs_response,
};
use cask_proto::{Compressor, rpc};
use futures_util::{Stream, stream};
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

use super::request;
use super::tree::{Listing, ListingOptions};
use crate::cache::{Cache, PendingPut};
use crate::status::{self, Answer, answer_of};

/// Bytes that one item of a batch answer takes beside its data and its digest: tags, lengths and a short status.
const ITEM_OVERHEAD_BYTES: usize = 64;

/// The same for an answer of codes alone.
const ITEM_CODE_BYTES: usize = 16;

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
        request: Request<FindMissingBlobsRequest>,
    ) -> Result<Response<FindMissingBlobsResponse>, Status> {
        let mut request = request.into_inner();
        let rule = request::digest_rule(&self.cache, &request.instance_name, request.digest_function)?;
        let digests =
            request.blob_digests.iter().map(|wire| request::digest(rule, wire)).collect::<Result<Vec<_>, _>>()?;
        let mut absent = Vec::new();
        self.cache.engine().find_missing(&digests, &mut absent).map_err(status::grpc)?;
        let missing_blob_digests =
            absent.into_iter().map(|position| std::mem::take(&mut request.blob_digests[position])).collect();
        let answer = FindMissingBlobsResponse { missing_blob_digests };
        // As long as the list it answers, at most; a client that sends more than it can receive has to send less.
        let (size_bytes, limit_bytes) = (answer.encoded_len(), self.cache.limits().response_size_bytes_max);
        if size_bytes > limit_bytes {
            return Err(Status::invalid_argument(format!(
                "the answer would have {size_bytes} bytes, over {limit_bytes}; ask for fewer digests at a time"
            )));
        }
        Ok(Response::new(answer))
    }

    async fn batch_update_blobs(
        &self,
        request: Request<BatchUpdateBlobsRequest>,
    ) -> Result<Response<BatchUpdateBlobsResponse>, Status> {
        let request = request.into_inner();
        let rule = request::digest_rule(&self.cache, &request.instance_name, request.digest_function)?;
        self.check_batch_total("carries", request.requests.iter().map(item_bytes))?;
        self.check_answer(&request.requests)?;
        // All items are handed over before the first is waited for, so that they share group commits. An item that has to wait for
        // staging budget waits for items before it at most, which are on their way already.
        let mut puts = Vec::with_capacity(request.requests.len());
        for item in request.requests {
            puts.push((self.begin_item(rule, &item).await, item.digest));
        }
        let mut responses = Vec::with_capacity(puts.len());
        for (put, digest) in puts {
            let outcome = match put {
                Ok(put) => put.stored().await.map_err(answer_of),
                Err(answer) => Err(answer),
            };
            let status = outcome.map_or_else(rpc::Status::from, |()| rpc::Status::default());
            responses.push(batch_update_blobs_response::Response { digest, status: Some(status) });
        }
        let mut answer = BatchUpdateBlobsResponse { responses };
        if answer.encoded_len() > self.cache.limits().response_size_bytes_max {
            // The codes say what is to be done; what went wrong has to be asked for with fewer blobs.
            answer.responses.iter_mut().flat_map(|item| &mut item.status).for_each(|status| status.message.clear());
        }
        Ok(Response::new(answer))
    }

    async fn batch_read_blobs(
        &self,
        request: Request<BatchReadBlobsRequest>,
    ) -> Result<Response<BatchReadBlobsResponse>, Status> {
        let request = request.into_inner();
        let rule = request::digest_rule(&self.cache, &request.instance_name, request.digest_function)?;
        let digests: Vec<_> = request.digests.iter().map(|wire| request::digest(rule, wire)).collect();
        let sizes = digests.iter().flatten().map(Digest::size_bytes);
        self.check_batch_total("asks for", sizes)?;
        let sizes = digests.iter().flatten().map(Digest::size_bytes);
        let answer_bytes = sizes.sum::<u64>() as usize + item_overhead_bytes(&request.digests);
        let answer_room = self.cache.answer_room(answer_bytes).await.map_err(status::grpc)?;
        let mut room = self.read_room(&request.digests)?;
        // What a client lists beside it is its own business: plain bytes are always acceptable.
        let takes_zstd = request.acceptable_compressors.contains(&Compressor::Zstd.wire_number());
        let mut responses = Vec::with_capacity(digests.len());
        for (digest, wire) in digests.into_iter().zip(request.digests) {
            let outcome = match digest {
                Ok(digest) => self.read_item(&digest, takes_zstd, &mut room).await,
                Err(answer) => Err(answer),
            };
            let (data, compressor, status) = match outcome {
                Ok((data, compressor)) => (data, compressor, rpc::Status::default()),
                Err(answer) => (Bytes::new(), Compressor::Identity, answer.into()),
            };
            responses.push(batch_read_blobs_response::Response {
                digest: Some(wire),
                data,
                status: Some(status),
                compressor: compressor.wire_number(),
            });
        }
        let mut response = Response::new(BatchReadBlobsResponse { responses });
        response.extensions_mut().insert(answer_room);
        Ok(response)
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

impl CasService {
    /// Refuses a batch of which not even the codes would fit an answer.
    fn check_answer(&self, items: &[batch_update_blobs_request::Request]) -> Result<(), Status> {
        let item_bytes = |item: &batch_update_blobs_request::Request| {
            ITEM_CODE_BYTES + item.digest.as_ref().map_or(0, Message::encoded_len)
        };
        if items.iter().map(item_bytes).sum::<usize>() > self.cache.limits().response_size_bytes_max {
            return Err(Status::invalid_argument(format!(
                "{} blobs are too many for one batch; send fewer",
                items.len()
            )));
        }
        Ok(())
    }

    /// Refuses a batch over the advertised limit as a whole.
    fn check_batch_total(&self, verb: &'static str, sizes: impl Iterator<Item = u64>) -> Result<(), Status> {
        let limit_bytes = self.cache.limits().batch_total_size_bytes_max;
        let total_bytes = sizes.fold(0, u64::saturating_add);
        if total_bytes > limit_bytes {
            return Err(Status::invalid_argument(format!(
                "the batch {verb} {total_bytes} bytes, the limit is {limit_bytes}; use ByteStream for large blobs"
            )));
        }
        Ok(())
    }

    async fn begin_item(
        &self,
        rule: DigestRule,
        item: &batch_update_blobs_request::Request,
    ) -> Result<PendingPut, Answer> {
        let digest = request::digest_field(rule, "digest", item.digest.as_ref())?;
        let compressor = Compressor::from_wire_number(item.compressor).map_err(answer_of)?;
        request::served_compressor(compressor)?;
        match compressor {
            Compressor::Identity => self.cache.begin_put(digest, item.data.clone()).await,
            _ => self.cache.begin_put_zstd(digest, item.data.clone()).await,
        }
        .map_err(answer_of)
    }

    /// Bytes of data that a batch answer has room for beside the digests and statuses of its items. The advertised limit is on blob
    /// bytes alone, so a batch of very many tiny blobs can be within it and not fit a message.
    fn read_room(&self, digests: &[reapi::Digest]) -> Result<usize, Status> {
        let limits = self.cache.limits();
        let one_blob_of_the_limit = limits.batch_total_size_bytes_max as usize + 2 * ITEM_OVERHEAD_BYTES;
        let message_bytes = limits.response_size_bytes_max.max(one_blob_of_the_limit);
        message_bytes.checked_sub(item_overhead_bytes(digests)).ok_or_else(|| {
            Status::invalid_argument(format!("{} digests are too many for one batch; ask for fewer", digests.len()))
        })
    }

    /// The blob as zstd where it is stored so and the client takes it, else as it is.
    async fn read_item(
        &self,
        digest: &Digest,
        takes_zstd: bool,
        room_bytes: &mut usize,
    ) -> Result<(Bytes, Compressor), Answer> {
        if digest.size_bytes() > *room_bytes as u64 {
            return Err(Answer::exhausted("the answer has no more room; ask for this blob again"));
        }
        let (data, compressor) = if takes_zstd {
            self.cache.read_whole_either(digest, *room_bytes as u64).await.map_err(answer_of)?
        } else {
            let data = self.cache.read_whole(digest, *room_bytes as u64).await.map_err(answer_of)?;
            (data, Compressor::Identity)
        };
        *room_bytes -= data.len();
        Ok((data, compressor))
    }
}

/// Bytes of blob that an item carries: of a compressed one it is the digest that says, and that bounds what it is decoded to.
fn item_bytes(item: &batch_update_blobs_request::Request) -> u64 {
    let sent_bytes = item.data.len() as u64;
    if item.compressor == Compressor::Identity.wire_number() {
        return sent_bytes;
    }
    let promised_bytes = item.digest.as_ref().and_then(|digest| u64::try_from(digest.size_bytes).ok());
    sent_bytes.max(promised_bytes.unwrap_or(0))
}

fn item_overhead_bytes(digests: &[reapi::Digest]) -> usize {
    digests.iter().map(|wire| wire.encoded_len() + ITEM_OVERHEAD_BYTES).sum()
}
