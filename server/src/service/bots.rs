//! `google.devtools.remoteworkers.v1test2.Bots`: workers of BuildGrid's kind. The rules are in `execution::bots`.

use std::sync::Arc;
use std::time::Duration;

use cask_executor::bots::{capacity, platforms};
use cask_executor::scheduler::{LeaseId, WorkerHello};
use cask_proto::bots::bots_server::{Bots, BotsServer};
use cask_proto::bots::{
    BotSession, BotStatus, CreateBotSessionRequest, Lease, LeaseState, PostBotEventTempRequest, UpdateBotSessionRequest,
};
use cask_proto::reapi::ExecutedActionMetadata;
use prost::Message as _;
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::{Request, Response, Status};

use super::request;
use crate::execution::{BotError, BotSessions, Execution};
use crate::status::Answer;

/// What a bot may say of itself, in bytes.
const TEXT_BYTES_MAX: usize = 256;
const WORKER_BYTES_MAX: usize = 64 << 10;
/// The longest that an update waits for work, whatever the bot's patience.
const POLL_MAX: Duration = Duration::from_secs(60);
/// Of the time that the bot gives a call, so much may go by before it is answered: the answer has to travel.
const POLL_SHARE: f64 = 0.8;
/// A bot may send along how far each lease is: `partial-execution-metadata-<lease>-bin`.
const PROGRESS_PREFIX: &str = "partial-execution-metadata-";

/// The service, with its message limits set.
pub(crate) fn server(execution: Execution) -> BotsServer<BotsService> {
    let message_size_bytes_max = execution.cache().limits().message_size_bytes_max;
    BotsServer::new(BotsService { execution, sessions: Arc::default() })
        .max_decoding_message_size(message_size_bytes_max)
}

pub(crate) struct BotsService {
    execution: Execution,
    sessions: Arc<BotSessions>,
}

#[tonic::async_trait]
impl Bots for BotsService {
    async fn create_bot_session(
        &self,
        request: Request<CreateBotSessionRequest>,
    ) -> Result<Response<BotSession>, Status> {
        let patience = self.patience(request.metadata());
        let request = request.into_inner();
        let instance = request::instance(self.execution.cache(), &request.parent)?;
        let mut bot = request.bot_session.ok_or_else(|| Answer::invalid("`bot_session` is not set"))?;
        check(&bot)?;
        let name = session_name(&request.parent)?;
        let hello = WorkerHello {
            name: bot.bot_id.clone(),
            // Of one bot there is one session: another takes its place.
            process_id: format!("bot/{}/{}", instance.name(), bot.bot_id),
            instance: instance.name().clone(),
            concurrency: capacity(&bot),
            platforms: platforms(&bot),
            held: bot.leases.iter().filter(|lease| lease.state() == LeaseState::Active).filter_map(lease_id).collect(),
        };
        let farm = self.execution.farm()?;
        let takes_leases = bot.status() == BotStatus::Ok;
        let session = self
            .sessions
            .create(&self.execution, farm, name.clone(), hello, bot.bot_id.clone(), takes_leases)
            .map_err(answer)?;
        let timeout = self.execution.settings().bot_timeout;
        let said = std::mem::take(&mut bot.leases);
        // What it held it has to be told of; only without is there time to wait for work.
        let patience = if said.is_empty() { patience } else { Duration::ZERO };
        bot.leases = session.update(Vec::new(), Vec::new(), takes_leases, patience, timeout).await.map_err(answer)?;
        bot.name = name;
        bot.expire_time = Some(session.expires().into());
        Ok(Response::new(bot))
    }

    async fn update_bot_session(
        &self,
        request: Request<UpdateBotSessionRequest>,
    ) -> Result<Response<BotSession>, Status> {
        let patience = self.patience(request.metadata());
        let progress = progress(request.metadata());
        let request = request.into_inner();
        let mut bot = request.bot_session.ok_or_else(|| Answer::invalid("`bot_session` is not set"))?;
        if bot.name != request.name {
            return Err(Answer::invalid("`name` and `bot_session.name` are not the same").into());
        }
        check(&bot)?;
        let session = self.sessions.get(&request.name).map_err(answer)?;
        if session.bot_id != bot.bot_id {
            return Err(Answer::invalid("the session is another bot's").into());
        }
        let takes_leases = bot.status() == BotStatus::Ok;
        let timeout = self.execution.settings().bot_timeout;
        let said = std::mem::take(&mut bot.leases);
        bot.leases = session.update(said, progress, takes_leases, patience, timeout).await.map_err(answer)?;
        bot.expire_time = Some(session.expires().into());
        Ok(Response::new(bot))
    }

    async fn post_bot_event_temp(&self, _: Request<PostBotEventTempRequest>) -> Result<Response<()>, Status> {
        Err(Answer::unimplemented("bots' events are not kept").into())
    }
}

impl BotsService {
    /// How long a call may wait for work.
    fn patience(&self, metadata: &MetadataMap) -> Duration {
        let given = metadata.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(timeout_of);
        let expiry = self.execution.settings().bot_timeout / 2;
        given.map_or(POLL_MAX, |given| given.mul_f64(POLL_SHARE)).min(POLL_MAX).min(expiry)
    }
}

fn check(bot: &BotSession) -> Result<(), Status> {
    let is_plain = |text: &str| text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control);
    if bot.bot_id.is_empty() || !is_plain(&bot.bot_id) {
        let refusal = format!("`bot_id` has to be 1 to {TEXT_BYTES_MAX} bytes of plain text");
        return Err(Answer::invalid(refusal).into());
    }
    if bot.worker.as_ref().is_some_and(|worker| worker.encoded_len() > WORKER_BYTES_MAX) {
        return Err(Answer::invalid(format!("`worker` takes more than {WORKER_BYTES_MAX} bytes")).into());
    }
    Ok(())
}

/// `<parent>/<32 hexadecimal digits>`.
fn session_name(parent: &str) -> Result<String, Status> {
    let mut bytes = [0_u8; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
            .map_err(|error| Status::from(Answer::unavailable(format!("no randomness: {error}"))))?;
    }
    Ok(format!("{parent}/{:032x}", u128::from_be_bytes(bytes)))
}

fn lease_id(lease: &Lease) -> Option<LeaseId> {
    LeaseId::parse(&lease.id).ok()
}

/// What a bot sends along of its leases. What cannot be read fails nothing.
fn progress(metadata: &MetadataMap) -> Vec<(LeaseId, ExecutedActionMetadata)> {
    let of_entry = |entry| {
        let KeyAndValueRef::Binary(key, value) = entry else { return None };
        let lease = key.as_str().strip_prefix(PROGRESS_PREFIX)?.strip_suffix("-bin")?;
        let metadata = ExecutedActionMetadata::decode(value.to_bytes().ok()?).ok()?;
        Some((LeaseId::parse(lease).ok()?, metadata))
    };
    metadata.iter().filter_map(of_entry).collect()
}

/// A call's `grpc-timeout`: up to eight digits and a unit.
fn timeout_of(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// As BuildGrid's workers expect it: they make a new session of a lost one.
fn answer(error: BotError) -> Status {
    match error {
        BotError::Closed => Status::data_loss(error.to_string()),
        BotError::TooMany => Answer::exhausted(error.to_string()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        for (text, expected) in [
            ("5S", Some(Duration::from_secs(5))),
            ("100m", Some(Duration::from_millis(100))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("2M", Some(Duration::from_secs(120))),
            ("1H", Some(Duration::from_secs(3600))),
            ("7u", Some(Duration::from_micros(7))),
            ("", None),
            ("S", None),
            ("5", None),
            ("123456789S", None),
            ("5s", None),
            ("-5S", None),
            ("5é", None),
        ] {
            assert_eq!(timeout_of(text), expected, "{text}");
        }
    }
}
