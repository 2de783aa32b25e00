//! `google.bytestream.ByteStream`: the state of uploads. Reading and writing is in `hot`.

pub(crate) mod log;

use cask_proto::bytestream::byte_stream_server::{ByteStream, ByteStreamServer};
use cask_proto::bytestream::{
    QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, ReadResponse, WriteRequest, WriteResponse,
};
use futures_util::stream;
use tonic::{Request, Response, Status, Streaming};

use super::request::{self, AnnouncedName};
use crate::cache::Cache;
use crate::status;

/// The service, with its message limits set.
pub(crate) fn server(cache: Cache) -> ByteStreamServer<ByteStreamService> {
    let message_size_bytes_max = cache.limits().message_size_bytes_max;
    ByteStreamServer::new(ByteStreamService { cache }).max_decoding_message_size(message_size_bytes_max)
}

pub(crate) struct ByteStreamService {
    cache: Cache,
}

#[tonic::async_trait]
impl ByteStream for ByteStreamService {
    type ReadStream = stream::Empty<Result<ReadResponse, Status>>;

    async fn read(&self, _: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        unreachable!("{}", super::ANSWERED_HOT)
    }

    async fn write(&self, _: Request<Streaming<WriteRequest>>) -> Result<Response<WriteResponse>, Status> {
        unreachable!("{}", super::ANSWERED_HOT)
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
