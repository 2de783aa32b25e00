//! `GetActionResult`: a hit of which nothing has to be put inline is the stored bytes.

use bytes::Bytes;
use cask_proto::wire::{GetActionResult, Segments};
use prost::Message;

use super::{Reply, malformed};
use crate::cache::{Cache, FoundAction, InlineOptions};
use crate::service::request;
use crate::status::{Answer, answer_of};

/// The answer to a request.
pub(super) async fn answer(cache: &Cache, message: &Bytes) -> Result<Reply, Answer> {
    let wire = GetActionResult::parse(message).map_err(malformed)?;
    let instance = request::instance(cache, wire.instance_name)?;
    let rule = instance.digest_rule(wire.digest_function).map_err(answer_of)?;
    let action = rule.from_raw_field("action_digest", wire.action_digest.as_ref()).map_err(answer_of)?;
    let inline = InlineOptions {
        stdout: wire.inline_stdout,
        stderr: wire.inline_stderr,
        output_files: wire.inline_output_files().map(str::to_owned).collect(),
    };
    let found = cache.find_action_result(instance.name().as_str(), &action, inline).await.map_err(answer_of)?;
    let mut answer = Segments::new();
    Ok(match found {
        FoundAction::Stored(bytes) => {
            answer.push_slice(bytes);
            Reply::new(answer)
        }
        FoundAction::Decoded(result) => {
            let room = cache.answer_room(result.encoded_len()).await.map_err(answer_of)?;
            answer.push_slice(result.encode_to_vec().into());
            Reply { room: Some(room), ..Reply::new(answer) }
        }
    })
}
