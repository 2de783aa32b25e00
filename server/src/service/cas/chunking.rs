//! Split and splice, in the unary form of API 2.12 and the streaming form of 2.13: the same lists, whole and in pieces.

use cask_index::Digest;
use cask_proto::digest::{DigestRule, to_wire};
use cask_proto::reapi;
use cask_proto::reapi::{
    GetChunkMappingRequest, GetChunkMappingResponse, RegisterChunkMappingRequest, RegisterChunkMappingResponse,
    SpliceBlobRequest, SpliceBlobResponse, SplitBlobRequest, SplitBlobResponse, chunking_function, digest_function,
};
use futures_util::stream;
use prost::Message;
use tonic::{Response, Status, Streaming};

use super::ResponseStream;
use crate::access::yielding::Holding;
use crate::cache::{AnswerPermit, Cache, ChunkList, ChunkMapping, ChunkingFunction, too_slow};
use crate::service::request;
use crate::status::{self, Answer, answer_of};

/// Bytes that a digest takes in an answer beside its own: tag and length.
const ENTRY_OVERHEAD_BYTES: usize = 4;

/// Digests in one message of a stream: at most 700 KB of the longest.
const PAGE_CHUNKS: usize = 5000;

/// Bytes of a growing list that are paid for at once.
const LIST_STEP_BYTES: usize = 256 * 1024;

pub(super) async fn split_blob(
    cache: &Cache,
    request: SplitBlobRequest,
) -> Result<Response<SplitBlobResponse>, Status> {
    let rule = request::digest_rule(cache, &request.instance_name, request.digest_function)?;
    let blob = request::digest_field(rule, "blob_digest", request.blob_digest.as_ref())?;
    let mapping = cache.split(blob, function(request.chunking_function)).await.map_err(status::grpc)?;
    let digest_bytes = |chunk: &Digest| to_wire(chunk).encoded_len() + ENTRY_OVERHEAD_BYTES;
    let answer_bytes: usize = mapping.chunks.iter().map(|chunk| digest_bytes(&chunk)).sum();
    let limit_bytes = cache.limits().response_size_bytes_max;
    if answer_bytes > limit_bytes {
        return Err(Answer::precondition(format!(
            "the blob has {} chunks, whose list of {answer_bytes} bytes is over the {limit_bytes} of one message; \
             GetChunkMapping gives it in pieces",
            mapping.chunks.len()
        ))
        .into());
    }
    let room = cache.answer_room(answer_bytes).await.map_err(status::grpc)?;
    let chunk_digests = mapping.chunks.iter().map(|chunk| to_wire(&chunk)).collect();
    let chunking_function = function_field(mapping.function);
    let mut response = Response::new(SplitBlobResponse { chunk_digests, chunking_function });
    response.extensions_mut().insert(room);
    Ok(response)
}

pub(super) async fn get_chunk_mapping(
    cache: &Cache,
    request: GetChunkMappingRequest,
) -> Result<Response<ResponseStream<GetChunkMappingResponse>>, Status> {
    let rule = request::digest_rule(cache, &request.instance_name, request.digest_function)?;
    let blob = request::digest_field(rule, "blob_digest", request.blob_digest.as_ref())?;
    let mapping = cache.split(blob, function(request.chunking_function)).await.map_err(status::grpc)?;
    // The list waits for its client.
    let room = cache.answer_room(mapping.chunks.memory_bytes()).await.map_err(status::grpc)?;
    let pages = Pages { mapping, given: 0, _room: room };
    let pages = stream::unfold(pages, |mut pages| async move { pages.next().map(|page| (Ok(page), pages)) });
    Ok(Response::new(Box::pin(pages)))
}

/// A mapping on its way to a client.
struct Pages {
    mapping: ChunkMapping,
    given: usize,
    _room: AnswerPermit,
}

impl Pages {
    /// The next page; `None` behind the last.
    fn next(&mut self) -> Option<GetChunkMappingResponse> {
        let ChunkMapping { chunks, function } = &self.mapping;
        let from = self.given;
        if from == chunks.len() {
            return None;
        }
        self.given = chunks.len().min(from + PAGE_CHUNKS);
        Some(GetChunkMappingResponse {
            chunk_digests: chunks.range(from, self.given).map(|chunk| to_wire(&chunk)).collect(),
            // Clients take it from the first message.
            chunking_function: if from == 0 { function_field(*function) } else { 0 },
        })
    }
}

pub(super) async fn splice_blob(
    cache: &Cache,
    request: SpliceBlobRequest,
) -> Result<Response<SpliceBlobResponse>, Status> {
    let rule = request::digest_rule(cache, &request.instance_name, request.digest_function)?;
    let blob = request::digest_field(rule, "blob_digest", request.blob_digest.as_ref())?;
    let mut chunks = ChunkList::new(blob);
    append(cache, &mut chunks, &request.chunk_digests)?;
    cache.splice(chunks, function(request.chunking_function)).await.map_err(status::grpc)?;
    Ok(Response::new(SpliceBlobResponse { blob_digest: request.blob_digest }))
}

pub(super) async fn register_chunk_mapping(
    cache: &Cache,
    mut messages: Streaming<RegisterChunkMappingRequest>,
) -> Result<Response<RegisterChunkMappingResponse>, Status> {
    let Some(first) = next_message(cache, &mut messages, None).await? else {
        return Err(Status::invalid_argument("the stream has no messages; the first names the blob"));
    };
    if first.digest_function == i32::from(digest_function::Value::Unknown) {
        return Err(Status::invalid_argument("digest_function is not set in the first message"));
    }
    let rule = request::digest_rule(cache, &first.instance_name, first.digest_function)?;
    let blob = request::digest_field(rule, "blob_digest", first.blob_digest.as_ref())?;
    let function = function(first.chunking_function);
    let mut chunks = ChunkList::new(blob);
    // The list grows as its client sends: paid like what is received, in steps, and given up when others need the room.
    let mut paid: Vec<Holding> = Vec::new();
    let mut message = Some(first);
    while let Some(received) = message {
        append(cache, &mut chunks, &received.chunk_digests)?;
        drop(received);
        while paid.len() * LIST_STEP_BYTES < chunks.memory_bytes() {
            paid.push(cache.message_room(LIST_STEP_BYTES).await.map_err(status::grpc)?);
        }
        message = next_message(cache, &mut messages, paid.first()).await?;
    }
    // From here on it waits for nobody outside.
    let _paid: Vec<_> = paid.into_iter().map(Holding::into_permit).collect();
    cache.splice(chunks, function).await.map_err(status::grpc)?;
    Ok(Response::new(RegisterChunkMappingResponse::default()))
}

/// The next message, unless its client is silent for too long, or slow while others wait for what is held.
async fn next_message(
    cache: &Cache,
    messages: &mut Streaming<RegisterChunkMappingRequest>,
    held: Option<&Holding>,
) -> Result<Option<RegisterChunkMappingRequest>, Status> {
    let asked = async {
        match held {
            Some(holding) => {
                holding.begin_piece();
                holding.asked().await;
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        message = tokio::time::timeout(cache.limits().upload_idle_max, messages.message()) => {
            message.unwrap_or_else(|_elapsed| Err(Status::deadline_exceeded("no message came in time")))
        }
        () = asked => Err(status::grpc(too_slow())),
    }
}

/// Appends the chunks of a request, which are of the blob's function.
fn append(cache: &Cache, chunks: &mut ChunkList, digests: &[reapi::Digest]) -> Result<(), Answer> {
    let rule = DigestRule::like(&chunks.blob());
    let limit = cache.limits().chunk_list_chunks_max;
    if digests.len() > limit - chunks.len() {
        return Err(Answer::invalid(format!("the blob has more than {limit} chunks")));
    }
    for digest in digests {
        let chunk = rule.from_wire(digest).map_err(answer_of)?;
        // They add nothing, and some clients take a list with one for broken.
        if !chunk.is_empty_blob() {
            chunks.push(&chunk);
        }
    }
    Ok(())
}

/// What a request's `chunking_function` asks for; `None`: nothing, or what is not known here, and then anything will do.
fn function(field: i32) -> Option<ChunkingFunction> {
    match chunking_function::Value::try_from(field) {
        Ok(chunking_function::Value::FastCdc2020) => Some(ChunkingFunction::FastCdc2020),
        Ok(chunking_function::Value::RepMaxCdc) => Some(ChunkingFunction::RepMaxCdc),
        Ok(chunking_function::Value::Unknown) | Err(_) => None,
    }
}

fn function_field(function: Option<ChunkingFunction>) -> i32 {
    let value = match function {
        Some(ChunkingFunction::FastCdc2020) => chunking_function::Value::FastCdc2020,
        Some(ChunkingFunction::RepMaxCdc) => chunking_function::Value::RepMaxCdc,
        None => chunking_function::Value::Unknown,
    };
    value.into()
}
