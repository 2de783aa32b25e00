//! `google.longrunning.Operations`: the operations of execution, by name. Finished ones are remembered for a while.
//!
//! Whoever knows a name may cancel and forget it; names cannot be guessed, and a list is of one instance.

use std::time::Duration;

use cask_executor::farm::{ChangeError, Farm};
use cask_executor::scheduler::{OperationId, Stage};
use cask_proto::InstanceName;
use cask_proto::longrunning::operations_server::{Operations, OperationsServer};
use cask_proto::longrunning::{
    CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest, ListOperationsResponse,
    Operation, WaitOperationRequest,
};
use prost::Message as _;
use tonic::{Request, Response, Status};

use crate::cache::InlineOptions;
use crate::execution::{Execution, operation};
use crate::status::Answer;

/// Operations in one answer of a list.
const PAGE_OPERATIONS_MAX: usize = 1000;
/// What an operation takes in a list beside its own bytes.
const ENTRY_OVERHEAD_BYTES: usize = 8;
/// How long a wait may take whose client says nothing of it.
const WAIT_MAX: Duration = Duration::from_secs(60);

pub(crate) fn server(execution: Execution) -> OperationsServer<OperationsService> {
    OperationsServer::new(OperationsService { execution })
}

pub(crate) struct OperationsService {
    execution: Execution,
}

/// The operation of a name, if there is one.
pub(super) fn find(farm: &Farm, name: &str) -> Result<OperationId, Status> {
    let (instance, id) = operation::parse_name(name).ok_or_else(|| unknown(name))?;
    let view = farm.operation(id).ok_or_else(|| unknown(name))?;
    if view.task.instance == instance { Ok(id) } else { Err(unknown(name)) }
}

/// There is none of this name.
pub(super) fn unknown(name: &str) -> Status {
    let shown: String = name.chars().take(128).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    Status::not_found(format!("there is no operation `{shown}`: it never was, was deleted, or ended too long ago"))
}

fn refusal(name: &str, error: ChangeError) -> Status {
    match error {
        ChangeError::Unknown(_) => unknown(name),
        ChangeError::Journal(error) => {
            Answer { retry_after: error.retry_after, ..Answer::unavailable(error.to_string()) }.into()
        }
    }
}

impl OperationsService {
    async fn state(&self, name: &str) -> Result<Operation, Status> {
        let farm = self.execution.farm()?;
        let view = farm.ask_after(find(farm, name)?).ok_or_else(|| unknown(name))?;
        Ok(operation::message(self.execution.cache(), view, &InlineOptions::default()).await)
    }
}

#[tonic::async_trait]
impl Operations for OperationsService {
    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        let request = request.into_inner();
        let farm = self.execution.farm()?;
        let instance = listed_instance(&request.name).ok_or_else(|| {
            Answer::invalid("name is that of an instance, or of its operations: [instance/]operations")
        })?;
        self.execution.cache().instances().of_name(instance.clone()).map_err(crate::status::grpc)?;
        if !request.filter.is_empty() {
            return Err(Answer::invalid("lists are not filtered here; filter has to be empty").into());
        }
        let page_size = usize::try_from(request.page_size)
            .map_err(|_| Answer::invalid(format!("page_size {} is negative", request.page_size)))?;
        let page_size = if page_size == 0 { PAGE_OPERATIONS_MAX } else { page_size.min(PAGE_OPERATIONS_MAX) };
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(OperationId::parse(token).map_err(|_| Answer::invalid("page_token was not given out here"))?),
        };
        // One more than fits, to know whether there is more.
        let views = farm.operations(&instance, after, page_size + 1);
        let mut room_bytes = self.execution.cache().limits().response_size_bytes_max;
        let mut answer = ListOperationsResponse::default();
        let mut last = None;
        for view in views {
            let id = view.id;
            let message = operation::message(self.execution.cache(), view, &InlineOptions::default()).await;
            let bytes = message.encoded_len() + ENTRY_OVERHEAD_BYTES;
            // One larger than a page goes alone all the same.
            if answer.operations.len() == page_size || (bytes > room_bytes && last.is_some()) {
                answer.next_page_token = last.map(|id: OperationId| id.to_string()).unwrap_or_default();
                break;
            }
            room_bytes = room_bytes.saturating_sub(bytes);
            answer.operations.push(message);
            last = Some(id);
        }
        Ok(Response::new(answer))
    }

    async fn get_operation(&self, request: Request<GetOperationRequest>) -> Result<Response<Operation>, Status> {
        self.state(&request.get_ref().name).await.map(Response::new)
    }

    async fn delete_operation(&self, request: Request<DeleteOperationRequest>) -> Result<Response<()>, Status> {
        let name = &request.get_ref().name;
        let farm = self.execution.farm()?;
        farm.delete(find(farm, name)?).await.map_err(|error| refusal(name, error))?;
        Ok(Response::new(()))
    }

    async fn cancel_operation(&self, request: Request<CancelOperationRequest>) -> Result<Response<()>, Status> {
        let name = &request.get_ref().name;
        let farm = self.execution.farm()?;
        farm.cancel(find(farm, name)?).await.map_err(|error| refusal(name, error))?;
        Ok(Response::new(()))
    }

    async fn wait_operation(&self, request: Request<WaitOperationRequest>) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        let patience = match request.timeout {
            None => WAIT_MAX,
            Some(timeout) => {
                Duration::try_from(timeout).map_err(|_| Answer::invalid("timeout is no length of time"))?.min(WAIT_MAX)
            }
        };
        let farm = self.execution.farm()?;
        let mut watch = farm.watch(find(farm, &request.name)?).map_err(|_| unknown(&request.name))?;
        let mut readiness = self.execution.readiness();
        let finished = async {
            while watch.view().is_some_and(|view| !matches!(view.stage, Stage::Completed(_))) {
                watch.changed().await;
            }
        };
        // The state is what it is when the time is up.
        tokio::select! {
            () = finished => {}
            () = tokio::time::sleep(patience) => {}
            _ = readiness.wait_for(|readiness| *readiness == super::health::Readiness::Draining) => {}
        }
        self.state(&request.name).await.map(Response::new)
    }
}

/// Lists are asked for by an instance's name or by that of its operations.
fn listed_instance(name: &str) -> Option<InstanceName> {
    operation::instance_of_collection(name).or_else(|| InstanceName::parse(name).ok())
}
