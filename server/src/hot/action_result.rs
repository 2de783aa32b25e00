//! `GetActionResult`: a hit of which nothing has to be put inline is the stored bytes.

use bytes::Bytes;
use cask_index::Digest;
use cask_proto::wire::{GetActionResult, Segments};
use prost::Message;

use super::{Reply, malformed};
use crate::access::instances::Instance;
use crate::cache::{Cache, InlineOptions};
use crate::service::request;
use crate::status::{Answer, answer_of};

/// The answer to a request whose stored bytes are the answer and are in memory; `None` when it takes more.
pub(super) fn answer_at_once(cache: &Cache, message: &Bytes) -> Result<Option<Reply>, Answer> {
    let wire = GetActionResult::parse(message).map_err(malformed)?;
    if wire.inline_stdout || wire.inline_stderr || wire.inline_output_files().next().is_some() {
        return Ok(None);
    }
    let (instance, action) = named(cache, &wire)?;
    let found = cache.action_result_in_memory(instance.name().as_str(), &action).map_err(answer_of)?;
    Ok(found.map(|bytes| {
        let mut answer = Segments::new();
        answer.push_slice(bytes);
        Reply::new(answer)
    }))
}

/// The answer to any request.
pub(super) async fn answer(cache: &Cache, message: &Bytes) -> Result<Reply, Answer> {
    let wire = GetActionResult::parse(message).map_err(malformed)?;
    let (instance, action) = named(cache, &wire)?;
    let inline = InlineOptions {
        stdout: wire.inline_stdout,
        stderr: wire.inline_stderr,
        output_files: wire.inline_output_files().map(str::to_owned).collect(),
    };
    let result = cache.get_action_result(instance.name().as_str(), &action, inline).await.map_err(answer_of)?;
    let room = cache.answer_room(result.encoded_len()).await.map_err(answer_of)?;
    let mut answer = Segments::new();
    answer.push_slice(result.encode_to_vec().into());
    Ok(Reply { room: Some(room), ..Reply::new(answer) })
}

fn named(cache: &Cache, wire: &GetActionResult<'_>) -> Result<(Instance, Digest), Answer> {
    let instance = request::instance(cache, wire.instance_name)?;
    let rule = instance.digest_rule(wire.digest_function).map_err(answer_of)?;
    let action = rule.from_raw_field("action_digest", wire.action_digest.as_ref()).map_err(answer_of)?;
    Ok((instance, action))
}
