//! `ActionCache`: results of actions are stored here; getting them is in `hot`.

use cask_proto::reapi::action_cache_server::{ActionCache, ActionCacheServer};
use cask_proto::reapi::{ActionResult, GetActionResultRequest, UpdateActionResultRequest};
use tonic::{Request, Response, Status};

use super::request;
use crate::cache::Cache;
use crate::status;

/// The service, with its message limits set.
pub(crate) fn server(cache: Cache) -> ActionCacheServer<ActionCacheService> {
    let message_size_bytes_max = cache.limits().message_size_bytes_max;
    ActionCacheServer::new(ActionCacheService { cache }).max_decoding_message_size(message_size_bytes_max)
}

pub(crate) struct ActionCacheService {
    cache: Cache,
}

#[tonic::async_trait]
impl ActionCache for ActionCacheService {
    async fn get_action_result(&self, _: Request<GetActionResultRequest>) -> Result<Response<ActionResult>, Status> {
        unreachable!("{}", super::ANSWERED_HOT)
    }

    async fn update_action_result(
        &self,
        request: Request<UpdateActionResultRequest>,
    ) -> Result<Response<ActionResult>, Status> {
        let request = request.into_inner();
        let instance = request::instance(&self.cache, &request.instance_name)?;
        let rule = instance.digest_rule(request.digest_function).map_err(status::answer_of)?;
        let action = request::digest_field(rule, "action_digest", request.action_digest.as_ref())?;
        instance.require_action_writes().map_err(status::grpc)?;
        let result = request.action_result.ok_or_else(|| Status::invalid_argument("`action_result` is not set"))?;
        let stored =
            self.cache.put_action_result(instance.name().as_str(), &action, result).await.map_err(status::grpc)?;
        Ok(Response::new(stored))
    }
}
