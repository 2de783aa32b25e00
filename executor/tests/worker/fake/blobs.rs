//! The parts of a server that hold bytes: blobs and logs.

use bytes::Bytes;
use cask_proto::{
    LogResource, ReadName, WriteName,
    bytestream::{
        self as bs,
        byte_stream_server::{ByteStream, ByteStreamServer},
    },
    logstream::{
        self as ls,
        log_stream_service_server::{LogStreamService, LogStreamServiceServer},
    },
    reapi::{
        self as re,
        capabilities_server::{Capabilities, CapabilitiesServer},
        content_addressable_storage_server::{ContentAddressableStorage, ContentAddressableStorageServer},
    },
    rpc,
    workers::workers_server::WorkersServer,
};
use prost::Message as _;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{
    Code, Request, Response, Status, Streaming,
    metadata::MetadataMap,
    transport::{Server, server::Router},
};

use super::{FakeServer, digest_of};

type Answers<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl FakeServer {
    pub(crate) fn router(&self) -> Router {
        Server::builder()
            .add_service(ByteStreamServer::new(self.clone()))
            .add_service(LogStreamServiceServer::new(self.clone()))
            .add_service(CapabilitiesServer::new(self.clone()))
            .add_service(ContentAddressableStorageServer::new(self.clone()))
            .add_service(WorkersServer::new(self.clone()))
    }

    fn called(&self, what: String, metadata: &MetadataMap) {
        let mut state = self.state();
        state.calls.push(what);
        if let Some(value) = metadata.get_bin("build.bazel.remote.execution.v2.requestmetadata-bin") {
            let metadata = re::RequestMetadata::decode(value.to_bytes().expect("binary")).expect("metadata");
            state.tools.push(metadata.tool_details.unwrap_or_default().tool_name);
        }
    }

    async fn pass_gate(&self) {
        let gate = self.state().gate.clone();
        if let Some(gate) = gate {
            gate.acquire().await.expect("never closed").forget();
        }
    }

    fn stored(&self, key: &str) -> Option<Bytes> {
        if key.ends_with("/0") { Some(Bytes::new()) } else { self.state().blobs.get(key).cloned() }
    }

    async fn write_log(
        &self,
        name: String,
        first: bs::WriteRequest,
        mut rest: Streaming<bs::WriteRequest>,
    ) -> Result<i64, Status> {
        let mut message = first;
        loop {
            {
                let mut state = self.state();
                let (bytes, is_finished) = state.logs.get_mut(&name).ok_or_else(|| Status::not_found("no log"))?;
                assert!(!*is_finished, "written after its end");
                assert_eq!(message.write_offset, bytes.len() as i64);
                bytes.extend_from_slice(&message.data);
                *is_finished = message.finish_write;
            }
            match rest.next().await {
                Some(next) => message = next?,
                None => return Ok(self.state().logs[&name].0.len() as i64),
            }
        }
    }
}

#[tonic::async_trait]
impl ByteStream for FakeServer {
    type ReadStream = Answers<bs::ReadResponse>;

    async fn read(&self, request: Request<bs::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let name =
            ReadName::parse(&request.get_ref().resource_name).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let key = name.digest.to_string();
        self.called(format!("read {key}"), request.metadata());
        self.pass_gate().await;
        let blob = self.stored(&key).ok_or_else(|| Status::not_found(key))?;
        let rest = blob.slice(request.get_ref().read_offset as usize..);
        let pieces: Vec<_> =
            rest.chunks(64 * 1024).map(|piece| Ok(bs::ReadResponse { data: Bytes::copy_from_slice(piece) })).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(pieces))))
    }

    async fn write(
        &self,
        request: Request<Streaming<bs::WriteRequest>>,
    ) -> Result<Response<bs::WriteResponse>, Status> {
        let metadata = request.metadata().clone();
        let mut messages = request.into_inner();
        let first = messages.next().await.ok_or_else(|| Status::invalid_argument("no message"))??;
        if let Some(log) = LogResource::parse(&first.resource_name) {
            let Ok(LogResource::Write(name, _)) = log else { return Err(Status::invalid_argument("no log to write")) };
            let committed_size = self.write_log(name.to_string(), first, messages).await?;
            return Ok(Response::new(bs::WriteResponse { committed_size }));
        }
        let name = WriteName::parse(&first.resource_name).map_err(|e| Status::invalid_argument(e.to_string()))?;
        self.called(format!("write {}", name.digest), &metadata);
        let mut bytes = first.data.to_vec();
        while let Some(message) = messages.next().await {
            bytes.extend_from_slice(&message?.data);
        }
        if digest_of(&bytes) != name.digest {
            return Err(Status::invalid_argument("other bytes"));
        }
        let committed_size = bytes.len() as i64;
        self.put(bytes);
        Ok(Response::new(bs::WriteResponse { committed_size }))
    }

    async fn query_write_status(
        &self,
        _: Request<bs::QueryWriteStatusRequest>,
    ) -> Result<Response<bs::QueryWriteStatusResponse>, Status> {
        Err(Status::not_found("no upload"))
    }
}

#[tonic::async_trait]
impl LogStreamService for FakeServer {
    async fn create_log_stream(
        &self,
        request: Request<ls::CreateLogStreamRequest>,
    ) -> Result<Response<ls::LogStream>, Status> {
        let mut state = self.state();
        let name = format!("{}/logstreams/{:032x}", request.into_inner().parent, state.logs.len());
        state.logs.insert(name.clone(), (Vec::new(), false));
        let write_resource_name = format!("{name}/{:032x}", 7);
        Ok(Response::new(ls::LogStream { name, write_resource_name }))
    }
}

#[tonic::async_trait]
impl Capabilities for FakeServer {
    async fn get_capabilities(
        &self,
        _: Request<re::GetCapabilitiesRequest>,
    ) -> Result<Response<re::ServerCapabilities>, Status> {
        let cache = re::CacheCapabilities { max_batch_total_size_bytes: 100_000, ..Default::default() };
        Ok(Response::new(re::ServerCapabilities { cache_capabilities: Some(cache), ..Default::default() }))
    }
}

#[tonic::async_trait]
impl ContentAddressableStorage for FakeServer {
    type GetTreeStream = Answers<re::GetTreeResponse>;
    type GetChunkMappingStream = Answers<re::GetChunkMappingResponse>;

    async fn find_missing_blobs(
        &self,
        request: Request<re::FindMissingBlobsRequest>,
    ) -> Result<Response<re::FindMissingBlobsResponse>, Status> {
        self.called(format!("find_missing {}", request.get_ref().blob_digests.len()), request.metadata());
        let mut digests = request.into_inner().blob_digests;
        digests.retain(|digest| self.stored(&format!("{}/{}", digest.hash, digest.size_bytes)).is_none());
        Ok(Response::new(re::FindMissingBlobsResponse { missing_blob_digests: digests }))
    }

    async fn batch_update_blobs(
        &self,
        request: Request<re::BatchUpdateBlobsRequest>,
    ) -> Result<Response<re::BatchUpdateBlobsResponse>, Status> {
        self.called(format!("batch_update {}", request.get_ref().requests.len()), request.metadata());
        let mut responses = Vec::new();
        for item in request.into_inner().requests {
            let digest = item.digest.expect("set");
            let put = self.put(item.data);
            assert_eq!(put.hash_hex(), digest.hash, "other bytes");
            let status = Some(rpc::Status::default());
            responses.push(re::batch_update_blobs_response::Response { digest: Some(digest), status });
        }
        Ok(Response::new(re::BatchUpdateBlobsResponse { responses }))
    }

    async fn batch_read_blobs(
        &self,
        request: Request<re::BatchReadBlobsRequest>,
    ) -> Result<Response<re::BatchReadBlobsResponse>, Status> {
        self.called(format!("batch_read {}", request.get_ref().digests.len()), request.metadata());
        self.pass_gate().await;
        let mut responses = Vec::new();
        for digest in request.into_inner().digests {
            let blob = self.stored(&format!("{}/{}", digest.hash, digest.size_bytes));
            let code = if blob.is_some() { Code::Ok } else { Code::NotFound };
            responses.push(re::batch_read_blobs_response::Response {
                digest: Some(digest),
                data: blob.unwrap_or_default(),
                compressor: 0,
                status: Some(rpc::Status { code: code as i32, ..rpc::Status::default() }),
            });
        }
        Ok(Response::new(re::BatchReadBlobsResponse { responses }))
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
