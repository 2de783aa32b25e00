//! `google.bytestream.ByteStream`: blobs as streams.

mod log;
mod write;

use std::pin::Pin;

use cask_proto::Compressor;
use cask_proto::bytestream::byte_stream_server::{ByteStream, ByteStreamServer};
use cask_proto::bytestream::{
    QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, ReadResponse, WriteRequest, WriteResponse,
};
use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::health::Readiness;
use super::request::{self, AnnouncedName};
use crate::cache::{Cache, Wire};
use crate::status;

/// The service, with its message limits set.
pub(crate) fn server(cache: Cache, readiness: watch::Receiver<Readiness>) -> ByteStreamServer<ByteStreamService> {
    let message_size_bytes_max = cache.limits().message_size_bytes_max;
    ByteStreamServer::new(ByteStreamService { cache, readiness }).max_decoding_message_size(message_size_bytes_max)
}

pub(crate) struct ByteStreamService {
    cache: Cache,
    /// Readers of logs wait for more, but not for longer than the server lives.
    readiness: watch::Receiver<Readiness>,
}

#[tonic::async_trait]
impl ByteStream for ByteStreamService {
    type ReadStream = Pin<Box<dyn Stream<Item = Result<ReadResponse, Status>> + Send + 'static>>;

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let announced = AnnouncedName::of(request.metadata());
        let request = request.into_inner();
        announced.check(&request.resource_name)?;
        if let Some(log) = log::resource(&self.cache, &request.resource_name)? {
            let chunks = log::read(&self.cache, self.readiness.clone(), log, &request).await?;
            return Ok(Response::new(Box::pin(chunks)));
        }
        let name = request::read_name(&self.cache, &request.resource_name)?;
        let digest = name.digest;
        let offset = u64::try_from(request.read_offset)
            .ok()
            .filter(|offset| *offset <= digest.size_bytes())
            .ok_or_else(|| Status::out_of_range(format!("read_offset {} is not in {digest}", request.read_offset)))?;
        let limit = match u64::try_from(request.read_limit) {
            Ok(0) => None,
            Ok(limit) => Some(limit),
            Err(_) => return Err(Status::invalid_argument(format!("read_limit {} is negative", request.read_limit))),
        };
        let wire = match name.compressor {
            Compressor::Identity => Wire::Plain,
            Compressor::Zstd if limit.is_some() => {
                return Err(Status::invalid_argument("read_limit must be 0 for a compressed blob"));
            }
            Compressor::Zstd => Wire::Zstd,
            Compressor::Deflate | Compressor::Brotli => return Err(request::unserved(name.compressor).into()),
        };
        let blob = self.cache.read(&digest, offset, limit, wire).await.map_err(status::grpc)?;
        // Pulled by the transport: a chunk is taken from the store when there is room to send it, so a slow client costs
        // what a `BlobStream` holds and no task.
        let responses = stream::try_unfold(blob, |mut blob| async move {
            let chunk = blob.next_chunk().await.map_err(status::grpc)?;
            Ok(chunk.map(|data| (ReadResponse { data }, blob)))
        });
        Ok(Response::new(Box::pin(responses)))
    }

    async fn write(&self, request: Request<Streaming<WriteRequest>>) -> Result<Response<WriteResponse>, Status> {
        let announced = AnnouncedName::of(request.metadata());
        let (readiness, messages) = (self.readiness.clone(), request.into_inner());
        let committed_size = write::receive(&self.cache, readiness, &announced, messages).await?;
        Ok(Response::new(WriteResponse { committed_size }))
    }

    async fn query_write_status(
        &self,
        request: Request<QueryWriteStatusRequest>,
    ) -> Result<Response<QueryWriteStatusResponse>, Status> {
        let announced = AnnouncedName::of(request.metadata());
        let request = request.into_inner();
        announced.check(&request.resource_name)?;
        if let Some(log) = log::resource(&self.cache, &request.resource_name)? {
            return Ok(Response::new(log::write_status(&self.cache, log).await?));
        }
        let name = request::write_name(&self.cache, &request.resource_name)?;
        // Asked in this order: an upload is known by its name until its blob is present, so the answer never falls.
        let received_bytes = self.cache.query_upload(&name);
        let response = if self.cache.engine().contains(&name.digest).map_err(status::grpc)? {
            QueryWriteStatusResponse { committed_size: name.digest.size_bytes() as i64, complete: true }
        } else {
            // Nothing known is zero bytes and not NOT_FOUND, which some clients take for the end of the upload.
            let committed_size = received_bytes.unwrap_or(0) as i64;
            QueryWriteStatusResponse { committed_size, complete: false }
        };
        Ok(Response::new(response))
    }
}
