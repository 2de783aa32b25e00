//! On whose behalf a call is made: the request metadata header, put on every call of a client that has it.

use cask_proto::reapi;
use prost::Message as _;
use tonic::{
    Request, Status,
    metadata::{Binary, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

const HEADER: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";

/// A channel whose calls carry the header, if there is one.
pub(crate) type TaggedChannel = InterceptedService<Channel, RequestTag>;

/// The header's value; none by default.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestTag(Option<MetadataValue<Binary>>);

impl RequestTag {
    pub(crate) fn of(metadata: &reapi::RequestMetadata) -> Self {
        Self(Some(MetadataValue::from_bytes(&metadata.encode_to_vec())))
    }
}

impl Interceptor for RequestTag {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert_bin(HEADER, value.clone());
        }
        Ok(request)
    }
}
