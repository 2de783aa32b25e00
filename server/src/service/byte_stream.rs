//! `google.bytestream.ByteStream`: blobs as streams.

use std::pin::Pin;

use cask_proto::bytestream::byte_stream_server::{ByteStream, ByteStreamServer};
use cask_proto::bytestream::{
    QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, ReadResponse, WriteRequest, WriteResponse,
};
use futures_util::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::cache::Cache;

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
    type ReadStream = Pin<Box<dyn Stream<Item = Result<ReadResponse, Status>> + Send + 'static>>;

    async fn read(&self, _request: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        todo!()
    }

    async fn write(&self, _request: Request<Streaming<WriteRequest>>) -> Result<Response<WriteResponse>, Status> {
        todo!()
    }

    async fn query_write_status(
        &self,
        _request: Request<QueryWriteStatusRequest>,
    ) -> Result<Response<QueryWriteStatusResponse>, Status> {
        todo!()
    }
}
