//! `ActionCache`: results of actions, served only while everything they name can be read.

use cask_proto::reapi::action_cache_server::{ActionCache, ActionCacheServer};
use cask_proto::reapi::{ActionResult, GetActionResultRequest, UpdateActionResultRequest};
use tonic::{Request, Response, Status};

use crate::cache::Cache;

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
    async fn get_action_result(
        &self,
        _request: Request<GetActionResultRequest>,
    ) -> Result<Response<ActionResult>, Status> {
        todo!()
    }

    async fn update_action_result(
        &self,
        _request: Request<UpdateActionResultRequest>,
    ) -> Result<Response<ActionResult>, Status> {
        todo!()
    }
}
