//! `LogStreamService`: makes logs. They are written and read over `ByteStream`, by the names given out here.

use cask_proto::InstanceName;
use cask_proto::logstream::log_stream_service_server::{LogStreamService, LogStreamServiceServer};
use cask_proto::logstream::{CreateLogStreamRequest, LogStream};
use tonic::{Request, Response, Status};

use super::request;
use crate::cache::Cache;
use crate::status;

pub(crate) fn server(cache: Cache) -> LogStreamServiceServer<LogService> {
    LogStreamServiceServer::new(LogService { cache })
}

pub(crate) struct LogService {
    cache: Cache,
}

#[tonic::async_trait]
impl LogStreamService for LogService {
    async fn create_log_stream(&self, request: Request<CreateLogStreamRequest>) -> Result<Response<LogStream>, Status> {
        // The parent is an instance: whoever may be there may log there.
        let instance = request::instance(&self.cache, &request.into_inner().parent)?;
        let parent: InstanceName = instance.name().clone();
        let created = self.cache.create_log(parent, instance.namespace()).map_err(status::grpc)?;
        let write_resource_name = format!("{}/{}", created.name, created.secret);
        Ok(Response::new(LogStream { name: created.name.to_string(), write_resource_name }))
    }
}
