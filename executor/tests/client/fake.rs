//! A cache in memory that fails on cue and writes down what it was asked.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use cask_executor::client::{RemoteCache, RetryPolicy};
use cask_proto::{
    InstanceName, ReadName, WriteName, bytestream as bs,
    bytestream::byte_stream_server::{ByteStream, ByteStreamServer},
    reapi as re,
    reapi::{
        capabilities_server::{Capabilities, CapabilitiesServer},
        content_addressable_storage_server::{ContentAddressableStorage, ContentAddressableStorageServer},
    },
    rpc,
};
use prost::Message as _;
use tokio_stream::{Stream, StreamExt as _, wrappers::TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming, transport::Server};

/// What the next `Write` does instead of its work.
#[derive(Clone, Debug)]
pub(crate) enum WriteFault {
    /// Keeps this many bytes in all and breaks off.
    KeepThenFail(usize, Code),
    /// Keeps this many bytes in all and answers with their number, as if the client had stopped.
    KeepThenAnswer(usize),
    /// Stores the blob; the answer gets lost.
    StoreThenFail(Code),
    /// Answers with success to the first message.
    SayItIsThere,
}

/// What the next `Read` does instead of its work.
#[derive(Clone, Debug)]
pub(crate) enum ReadFault {
    /// Sends this many bytes and breaks off.
    BreakAfter(usize, Code),
    /// Sends this many bytes and ends as if that were all.
    EndAfter(usize),
    /// Sends other bytes of the right length.
    OtherBytes,
    /// Sends all and one byte more.
    OneByteMore,
}

/// How `QueryWriteStatus` answers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Query {
    #[default]
    Honest,
    NotFound,
    Unimplemented,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) blobs: HashMap<String, Bytes>,
    pub(crate) partial: HashMap<String, Vec<u8>>,
    pub(crate) write_faults: VecDeque<WriteFault>,
    pub(crate) read_faults: VecDeque<ReadFault>,
    /// Codes of the next batch updates, one an item; a missing one is OK. An empty list fails the whole call.
    pub(crate) batch_faults: VecDeque<Vec<Code>>,
    /// The next so many find-missing calls are answered with `Unavailable`.
    pub(crate) find_missing_failures: usize,
    pub(crate) query: Query,
    pub(crate) batch_bytes_max: i64,
    /// What was asked: "write 0", "query", "read 17"...
    pub(crate) log: Vec<String>,
    /// Encoded sizes of the list requests.
    pub(crate) message_bytes: Vec<usize>,
}

#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<State>>);

impl Fake {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics with the lock")
    }

    /// Serves on a free port, until the test's runtime ends.
    pub(crate) async fn serve(&self) -> RemoteCache {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let server = Server::builder()
            .add_service(ByteStreamServer::new(self.clone()))
            .add_service(CapabilitiesServer::new(self.clone()))
            .add_service(ContentAddressableStorageServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let retry = RetryPolicy { attempts_max: 3, delay_first: std::time::Duration::ZERO, ..RetryPolicy::default() };
        let instance = InstanceName::parse("test").expect("a name");
        RemoteCache::over(endpoint.connect().await.expect("it listens"), instance, retry)
    }
}

fn broken(code: Code) -> Status {
    Status::new(code, "on cue")
}

type Answers<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ByteStream for Fake {
    type ReadStream = Answers<bs::ReadResponse>;

    async fn read(&self, request: Request<bs::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let mut state = self.state();
        state.log.push(format!("read {}", request.read_offset));
        let name = ReadName::parse(&request.resource_name).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let blob = state.blobs.get(&name.digest.to_string()).cloned().ok_or_else(|| Status::not_found("no blob"))?;
        let rest = blob.slice(request.read_offset as usize..);
        let (data, end) = match state.read_faults.pop_front() {
            None => (rest, None),
            Some(ReadFault::BreakAfter(count, code)) => (rest.slice(..count), Some(broken(code))),
            Some(ReadFault::EndAfter(count)) => (rest.slice(..count), None),
            Some(ReadFault::OtherBytes) => (rest.iter().map(|byte| !byte).collect::<Vec<u8>>().into(), None),
            Some(ReadFault::OneByteMore) => ([&rest[..], b"!"].concat().into(), None),
        };
        // An empty message first: those are legal and mean nothing.
        let pieces = std::iter::once(&b""[..]).chain(data.chunks(64 * 1024));
        let mut answers: Vec<_> =
            pieces.map(|piece| Ok(bs::ReadResponse { data: Bytes::copy_from_slice(piece) })).collect();
        answers.extend(end.map(Err));
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }

    async fn write(
        &self,
        request: Request<Streaming<bs::WriteRequest>>,
    ) -> Result<Response<bs::WriteResponse>, Status> {
        let mut messages = request.into_inner();
        let first = messages.next().await.ok_or_else(|| Status::invalid_argument("no message"))??;
        let name = first.resource_name.clone();
        let digest =
            WriteName::parse(&name).map_err(|error| Status::invalid_argument(error.to_string()))?.digest.to_string();
        let fault = {
            let mut state = self.state();
            state.log.push(format!("write {}", first.write_offset));
            state.write_faults.pop_front()
        };
        if matches!(fault, Some(WriteFault::SayItIsThere)) {
            let committed_size = WriteName::parse(&name).expect("parsed above").digest.size_bytes() as i64;
            return Ok(Response::new(bs::WriteResponse { committed_size }));
        }
        let mut bytes = self.state().partial.remove(&name).unwrap_or_default();
        let mut message = first;
        let finished = loop {
            if message.write_offset != bytes.len() as i64 {
                return Err(Status::invalid_argument(format!(
                    "offset {} is not {}",
                    message.write_offset,
                    bytes.len()
                )));
            }
            bytes.extend_from_slice(&message.data);
            match &fault {
                Some(WriteFault::KeepThenFail(count, _) | WriteFault::KeepThenAnswer(count))
                    if bytes.len() >= *count =>
                {
                    bytes.truncate(*count);
                    break false;
                }
                _ => {}
            }
            if message.finish_write {
                break true;
            }
            match messages.next().await {
                Some(next) => message = next?,
                None => break false,
            }
            if !message.resource_name.is_empty() {
                return Err(Status::invalid_argument("the name belongs on the first message"));
            }
        };
        let committed_size = bytes.len() as i64;
        if finished {
            self.state().blobs.insert(digest, bytes.into());
        } else {
            self.state().partial.insert(name, bytes);
        }
        match fault {
            Some(WriteFault::KeepThenFail(_, code) | WriteFault::StoreThenFail(code)) => Err(broken(code)),
            _ => Ok(Response::new(bs::WriteResponse { committed_size })),
        }
    }

    async fn query_write_status(
        &self,
        request: Request<bs::QueryWriteStatusRequest>,
    ) -> Result<Response<bs::QueryWriteStatusResponse>, Status> {
        let name = request.into_inner().resource_name;
        let mut state = self.state();
        state.log.push("query".to_owned());
        match state.query {
            Query::Honest => {}
            // A cache that does not resume keeps nothing either.
            Query::NotFound | Query::Unimplemented => state.partial.clear(),
        }
        match state.query {
            Query::NotFound => return Err(Status::not_found("unknown upload")),
            Query::Unimplemented => return Err(Status::unimplemented("no such method")),
            Query::Honest => {}
        }
        let digest = WriteName::parse(&name).map_err(|error| Status::invalid_argument(error.to_string()))?.digest;
        let complete = state.blobs.contains_key(&digest.to_string());
        let committed_size = state.partial.get(&name).map_or(0, |bytes| bytes.len() as i64);
        Ok(Response::new(bs::QueryWriteStatusResponse { committed_size, complete }))
    }
}

#[tonic::async_trait]
impl Capabilities for Fake {
    async fn get_capabilities(
        &self,
        _: Request<re::GetCapabilitiesRequest>,
    ) -> Result<Response<re::ServerCapabilities>, Status> {
        let max_batch_total_size_bytes = self.state().batch_bytes_max;
        let cache = re::CacheCapabilities { max_batch_total_size_bytes, ..Default::default() };
        Ok(Response::new(re::ServerCapabilities { cache_capabilities: Some(cache), ..Default::default() }))
    }
}

#[tonic::async_trait]
impl ContentAddressableStorage for Fake {
    type GetTreeStream = Answers<re::GetTreeResponse>;
    type GetChunkMappingStream = Answers<re::GetChunkMappingResponse>;

    async fn find_missing_blobs(
        &self,
        request: Request<re::FindMissingBlobsRequest>,
    ) -> Result<Response<re::FindMissingBlobsResponse>, Status> {
        let mut request = request.into_inner();
        let mut state = self.state();
        state.log.push(format!("find missing, function {}", request.digest_function));
        state.message_bytes.push(request.encoded_len());
        if state.find_missing_failures > 0 {
            state.find_missing_failures -= 1;
            return Err(broken(Code::Unavailable));
        }
        request.blob_digests.retain(|d| !state.blobs.contains_key(&format!("{}/{}", d.hash, d.size_bytes)));
        Ok(Response::new(re::FindMissingBlobsResponse { missing_blob_digests: request.blob_digests }))
    }

    async fn batch_update_blobs(
        &self,
        request: Request<re::BatchUpdateBlobsRequest>,
    ) -> Result<Response<re::BatchUpdateBlobsResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.state();
        state.log.push(format!("batch {}", request.requests.len()));
        state.message_bytes.push(request.encoded_len());
        let codes = match state.batch_faults.pop_front() {
            Some(codes) if codes.is_empty() => return Err(broken(Code::Unavailable)),
            codes => codes.unwrap_or_default(),
        };
        let codes = codes.into_iter().chain(std::iter::repeat(Code::Ok));
        let responses = request.requests.into_iter().zip(codes).map(|(item, code)| {
            let digest = item.digest.expect("set");
            if code == Code::Ok {
                state.blobs.insert(format!("{}/{}", digest.hash, digest.size_bytes), item.data);
            }
            let status = rpc::Status { code: code as i32, ..Default::default() };
            re::batch_update_blobs_response::Response { digest: Some(digest), status: Some(status) }
        });
        let responses = responses.collect();
        Ok(Response::new(re::BatchUpdateBlobsResponse { responses }))
    }

    async fn batch_read_blobs(
        &self,
        _: Request<re::BatchReadBlobsRequest>,
    ) -> Result<Response<re::BatchReadBlobsResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn get_tree(&self, _: Request<re::GetTreeRequest>) -> Result<Response<Self::GetTreeStream>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn split_blob(&self, _: Request<re::SplitBlobRequest>) -> Result<Response<re::SplitBlobResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn get_chunk_mapping(
        &self,
        _: Request<re::GetChunkMappingRequest>,
    ) -> Result<Response<Self::GetChunkMappingStream>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn splice_blob(&self, _: Request<re::SpliceBlobRequest>) -> Result<Response<re::SpliceBlobResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn register_chunk_mapping(
        &self,
        _: Request<Streaming<re::RegisterChunkMappingRequest>>,
    ) -> Result<Response<re::RegisterChunkMappingResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }
}
