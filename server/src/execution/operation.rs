//! Operations as clients see them: their names, and the message of each state.
//!
//! ```text
//! [instance/]operations/<32 hexadecimal digits>
//! ```
//! `error` is never set: clients of this API take it for a fault of the server. What went wrong with a run is in the status of its response.

use cask_executor::scheduler::{OperationId, OperationView, Stage};
use cask_proto::InstanceName;
use cask_proto::digest::{DigestRule, function_field, to_wire};
use cask_proto::longrunning::{self, operation};
use cask_proto::reapi::execution_stage::Value as WireStage;
use cask_proto::reapi::{ExecuteOperationMetadata, ExecuteResponse};
use prost::{Message, Name};
use prost_types::Any;

use crate::cache::{Cache, InlineOptions};

const SEGMENT: &str = "operations";

/// The name of an operation of an instance.
pub(crate) fn name(instance: &InstanceName, operation: OperationId) -> String {
    if instance.as_str().is_empty() {
        format!("{SEGMENT}/{operation}")
    } else {
        format!("{instance}/{SEGMENT}/{operation}")
    }
}

/// The instance and id in a name; `None`: no operation is called so.
pub(crate) fn parse_name(name: &str) -> Option<(InstanceName, OperationId)> {
    let (collection, id) = name.rsplit_once('/')?;
    Some((instance_of_collection(collection)?, OperationId::parse(id).ok()?))
}

/// The instance whose operations are called `collection/...`.
pub(crate) fn instance_of_collection(collection: &str) -> Option<InstanceName> {
    if collection == SEGMENT {
        return Some(InstanceName::EMPTY);
    }
    let instance = collection.strip_suffix(SEGMENT)?.strip_suffix('/')?;
    InstanceName::parse(instance).ok().filter(|instance| *instance != InstanceName::EMPTY)
}

/// The message of a state; with what the caller wishes for inside the result, as far as a message has room for it.
pub(crate) async fn message(cache: &Cache, view: OperationView, inline: &InlineOptions) -> longrunning::Operation {
    let mut message = without_response(&view);
    if let Stage::Completed(response) = &view.stage {
        let mut response = ExecuteResponse::clone(response);
        inline_outputs(cache, &view, &mut response, inline).await;
        message.result = Some(operation::Result::Response(any(&response)));
        message.done = true;
    }
    message
}

/// The message of a state, complete but for the inside of what is finished.
fn without_response(view: &OperationView) -> longrunning::Operation {
    let stage = match view.stage {
        Stage::Queued => WireStage::Queued,
        Stage::Executing => WireStage::Executing,
        Stage::Completed(_) => WireStage::Completed,
    };
    let task = &view.task;
    let metadata = ExecuteOperationMetadata {
        stage: stage.into(),
        action_digest: Some(to_wire(&task.action)),
        stdout_stream_name: task.stdout_stream_name.clone(),
        stderr_stream_name: task.stderr_stream_name.clone(),
        partial_execution_metadata: Some(task.partial_metadata.clone()),
        digest_function: function_field(task.action.function()),
    };
    longrunning::Operation {
        name: name(&task.instance, view.id),
        metadata: Some(any(&metadata)),
        done: false,
        result: None,
    }
}

async fn inline_outputs(cache: &Cache, view: &OperationView, response: &mut ExecuteResponse, inline: &InlineOptions) {
    if *inline == InlineOptions::default() {
        return;
    }
    let envelope_bytes = response.encoded_len() + without_response(view).encoded_len();
    let Some(result) = &mut response.result else { return };
    let room_bytes = cache.limits().response_size_bytes_max.saturating_sub(envelope_bytes - result.encoded_len());
    let Ok(instance) = cache.instances().of_name(view.task.instance.clone()) else { return };
    // The digests are the instance's own; the task's may have come out of the journal, which does not say whose.
    let rule = DigestRule::like(&instance.within(view.task.action));
    // A wish: where it cannot be had, the digest is there.
    if let Err(error) = cache.inline(rule, result, inline, room_bytes).await {
        tracing::debug!(event = "execution.not_inlined", %error, "an output was left out of a response");
    }
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back() {
        for instance in ["", "main", "a/b"] {
            let instance = InstanceName::parse(instance).expect("a name");
            let name = name(&instance, OperationId(0xfeed));
            assert_eq!(parse_name(&name), Some((instance, OperationId(0xfeed))), "{name}");
        }
    }

    #[test]
    fn what_is_no_name_is_nobodys() {
        let id = OperationId(1).to_string();
        for name in [
            "",
            "/",
            "operations",
            "operations/",
            &id,
            &format!("/operations/{id}"),
            &format!("main/{id}"),
            &format!("mainoperations/{id}"),
            &format!("a//operations/{id}"),
            &format!("blobs/operations/{id}"),
            &format!("operations/{id}/"),
            &format!("operations/{}", id.replace('1', "G")),
        ] {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }
}
