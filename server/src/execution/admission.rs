//! Whether an action is run, refused, or answered from the cache: everything that can be said before a worker is asked.
//!
//! In this order, the cheap before the dear: the request's own fields; the Action, and whether its result is known; the
//! Command and the whole input tree. All that is missing is told at once.

use std::time::Duration;

use cask_engine::EngineError;
use cask_executor::action::{ActionFault, CheckedAction, CheckedCommand, requirements};
use cask_executor::scheduler::Submission;
use cask_index::Digest;
use cask_proto::digest::DigestRule;
use cask_proto::reapi;
use prost::Message as _;
use tonic::Status;

use super::Execution;
use super::input_tree::{self, TreeBounds, TreeFault};
use super::missing::MissingBlobs;
use super::shortened::shortened;
use crate::access::instances::Instance;
use crate::cache::{ActionError, InlineOptions};
use crate::status::{Answer, answer_of};

/// The largest Action or Command.
const MESSAGE_BYTES_MAX: u64 = 16 << 20;
/// Properties of a platform are kept for as long as the action waits, and compared with those of each worker.
const PLATFORM_BYTES_MAX: usize = 16 << 10;
/// Of what the client says of itself, as much is kept with an action.
const METADATA_FIELD_BYTES_MAX: usize = 256;

/// What a client asks for.
pub(crate) struct Asked {
    pub(crate) instance: Instance,
    pub(crate) action: Digest,
    pub(crate) skip_cache_lookup: bool,
    pub(crate) priority: i32,
    pub(crate) request_metadata: reapi::RequestMetadata,
}

/// What becomes of it.
pub(crate) enum Admitted {
    Run(Submission),
    /// Its result is known.
    Known(Submission, Box<reapi::ActionResult>),
}

/// Why it is refused.
#[derive(Debug)]
pub(crate) enum AdmissionError {
    Refused(Answer),
    Missing(MissingBlobs),
}

impl From<AdmissionError> for Status {
    fn from(error: AdmissionError) -> Status {
        match error {
            AdmissionError::Refused(answer) => answer.into(),
            AdmissionError::Missing(missing) => missing.into_status(),
        }
    }
}

impl From<EngineError> for AdmissionError {
    fn from(error: EngineError) -> Self {
        Self::Refused(answer_of(error))
    }
}

impl From<ActionFault> for AdmissionError {
    fn from(fault: ActionFault) -> Self {
        Self::Refused(Answer::invalid(fault.to_string()))
    }
}

impl From<TreeFault> for AdmissionError {
    fn from(fault: TreeFault) -> Self {
        match fault {
            TreeFault::Engine(error) => error.into(),
            fault => Self::Refused(Answer::invalid(fault.to_string())),
        }
    }
}

impl Execution {
    /// Cancel-safe.
    pub(crate) async fn admit(&self, asked: Asked) -> Result<Admitted, AdmissionError> {
        let _turn = self.admission_turn().await?;
        let cache = self.cache();
        let rule = DigestRule::like(&asked.action);
        let mut missing = MissingBlobs::default();
        let Some(action) = self.message(&asked.action, &mut missing).await? else {
            return Err(AdmissionError::Missing(missing));
        };
        let action = CheckedAction::decode(rule, action)?;
        let timeout = self.timeout(action.timeout)?;
        let mut submission = Submission {
            instance: asked.instance.name().clone(),
            action: asked.action,
            platform: action.platform.clone().unwrap_or_default(),
            priority: asked.priority,
            timeout,
            do_not_cache: action.do_not_cache,
            skip_cache_lookup: asked.skip_cache_lookup,
            request_metadata: bounded(asked.request_metadata),
        };
        if !asked.skip_cache_lookup && !action.do_not_cache {
            let instance = asked.instance.name().as_str();
            match cache.get_action_result(instance, &asked.action, InlineOptions::default()).await {
                Ok(result) => return Ok(Admitted::Known(submission, Box::new(result))),
                Err(ActionError::Engine(EngineError::NotFound)) => {}
                Err(error) => return Err(AdmissionError::Refused(answer_of(error))),
            }
        }
        let command = match self.message(&action.command, &mut missing).await? {
            Some(command) => Some(CheckedCommand::decode(command)?),
            None => None,
        };
        input_tree::check(cache, action.input_root, TreeBounds::default(), &mut missing).await?;
        let Some(command) = command.filter(|_| missing.is_empty()) else {
            return Err(AdmissionError::Missing(missing));
        };
        submission.platform = requirements(&action, &command);
        if submission.platform.encoded_len() > PLATFORM_BYTES_MAX {
            let refusal = format!("the platform has more than {PLATFORM_BYTES_MAX} bytes of properties");
            return Err(AdmissionError::Refused(Answer::invalid(refusal)));
        }
        Ok(Admitted::Run(submission))
    }

    /// A whole message; `None` and noted when it is missing.
    async fn message(&self, digest: &Digest, missing: &mut MissingBlobs) -> Result<Option<bytes::Bytes>, EngineError> {
        match self.cache().read_whole(digest, MESSAGE_BYTES_MAX).await {
            Ok(message) => Ok(Some(message)),
            Err(EngineError::NotFound | EngineError::DataLoss(_)) => {
                missing.add(digest);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn timeout(&self, asked: Option<Duration>) -> Result<Duration, AdmissionError> {
        let settings = self.settings();
        match asked {
            None => Ok(settings.timeout_default),
            Some(timeout) if timeout > settings.timeout_max => {
                let (asked, limit) = (timeout.as_secs(), settings.timeout_max.as_secs());
                let refusal = format!("the action's timeout of {asked} s is above the {limit} s that are allowed here");
                Err(AdmissionError::Refused(Answer::invalid(refusal)))
            }
            Some(timeout) => Ok(timeout),
        }
    }
}

/// A client's words about itself, cut where they are too long to be kept.
fn bounded(mut metadata: reapi::RequestMetadata) -> reapi::RequestMetadata {
    let cut = |text: &mut String| *text = shortened(std::mem::take(text), METADATA_FIELD_BYTES_MAX);
    if let Some(tool) = &mut metadata.tool_details {
        cut(&mut tool.tool_name);
        cut(&mut tool.tool_version);
    }
    for text in [
        &mut metadata.action_id,
        &mut metadata.tool_invocation_id,
        &mut metadata.correlated_invocations_id,
        &mut metadata.action_mnemonic,
        &mut metadata.target_id,
        &mut metadata.configuration_id,
    ] {
        cut(text);
    }
    metadata
}
