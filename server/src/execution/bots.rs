//! Sessions of bots: workers that ask again and again instead of listening to a stream.
//!
//! ```text
//!   UpdateBotSession ──▶ BotLeases ──what happened──▶ a task a session ──▶ farm, finishing
//!          ▲                 ▲                              │
//!          └── long poll ────┴──── offers, cancellations ◀──┘
//! ```
//! The task holds the farm's session and speaks for the bot between its updates, until the bot has been silent for as long as it was told it
//! may be: then the session ends, and its leases wait for the bot as those of any worker do.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cask_executor::bots::{BotLeases, Happened};
use cask_executor::farm::{Farm, Session};
use cask_executor::scheduler::{LeaseId, WorkerHello};
use cask_proto::reapi::{self, ActionResult, ExecutedActionMetadata};
use cask_proto::workers::{self, to_worker};
use cask_proto::{bots, rpc};
use parking_lot::Mutex;
use prost::Message as _;
use prost_types::Any;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tonic::Code;

use super::Execution;
use crate::service::health::Readiness;

/// Sessions at once. Each is a task and some kilobytes.
const SESSIONS_MAX: usize = 100_000;
/// The largest Action that is handed out.
const ACTION_BYTES_MAX: u64 = 4 << 20;
/// Updates that wait for the session's task. One bot makes one at a time.
const COMMANDS_MAX: usize = 16;

const ACTION_TYPE_URL: &str = "type.googleapis.com/build.bazel.remote.execution.v2.Action";

/// All bots' sessions.
#[derive(Default)]
pub(crate) struct BotSessions {
    listed: Mutex<Listed>,
}

#[derive(Default)]
struct Listed {
    by_name: HashMap<String, Arc<BotSession>>,
    /// The one session of each bot, by what its process is called.
    of_bot: HashMap<String, String>,
}

/// A bot's session.
pub(crate) struct BotSession {
    pub(crate) bot_id: String,
    /// Leases that it takes at once.
    pub(crate) capacity: usize,
    leases: Mutex<BotLeases>,
    expires: Mutex<Instant>,
    /// Told when the bot has something to hear.
    news: Notify,
    /// Told when another session of the bot takes its place.
    superseded: Notify,
    commands: mpsc::Sender<Command>,
}

/// What the session's task is told by one update.
struct Command {
    progress: Vec<(LeaseId, ExecutedActionMetadata)>,
    happened: Vec<Happened>,
    takes_leases: bool,
}

/// Why an update is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BotError {
    /// It expired, another session of the bot took its place, or the server was restarted.
    #[error("there is no such bot session (any more); create another")]
    Closed,
    #[error("more than {SESSIONS_MAX} bot sessions")]
    TooMany,
}

impl BotSessions {
    /// Begins a session. `name` is its whole name; `held` the leases that the bot has from an earlier one.
    pub(crate) fn create(
        self: &Arc<Self>,
        execution: &Execution,
        farm: &Farm,
        name: String,
        hello: WorkerHello,
        bot_id: String,
        takes_leases: bool,
    ) -> Result<Arc<BotSession>, BotError> {
        let (commands, commands_receiver) = mpsc::channel(COMMANDS_MAX);
        let session = Arc::new(BotSession {
            bot_id,
            capacity: hello.concurrency as usize,
            leases: Mutex::default(),
            expires: Mutex::new(Instant::now() + execution.settings().bot_timeout),
            news: Notify::new(),
            superseded: Notify::new(),
            commands,
        });
        let process_id = hello.process_id.clone();
        {
            let mut listed = self.listed.lock();
            if listed.by_name.len() >= SESSIONS_MAX {
                return Err(BotError::TooMany);
            }
            listed.by_name.insert(name.clone(), Arc::clone(&session));
            let before = listed.of_bot.insert(process_id.clone(), name.clone());
            if let Some(before) = before.and_then(|before| listed.by_name.remove(&before)) {
                before.superseded.notify_one();
            }
        }
        let speaker = Speaker {
            execution: execution.clone(),
            farm: farm.clone(),
            bot: Arc::clone(&session),
            farm_session: None,
            hello,
        };
        let sessions = Arc::clone(self);
        tokio::spawn(async move {
            let bot = Arc::clone(&speaker.bot);
            speaker.run(takes_leases, commands_receiver).await;
            // Whoever polls hears that it is over: nobody takes commands any more.
            bot.news.notify_waiters();
            let mut listed = sessions.listed.lock();
            listed.by_name.remove(&name);
            if listed.of_bot.get(&process_id) == Some(&name) {
                listed.of_bot.remove(&process_id);
            }
        });
        Ok(session)
    }

    /// The session of that name.
    pub(crate) fn get(&self, name: &str) -> Result<Arc<BotSession>, BotError> {
        self.listed.lock().by_name.get(name).cloned().ok_or(BotError::Closed)
    }
}

impl BotSession {
    /// Takes what the bot says, and waits up to `patience` for something to tell it. Cancel-safe: what the bot says is taken whole or
    /// not at all, and in the latter case the bot's next update says it again.
    pub(crate) async fn update(
        &self,
        said: Vec<bots::Lease>,
        progress: Vec<(LeaseId, ExecutedActionMetadata)>,
        takes_leases: bool,
        patience: Duration,
        timeout: Duration,
    ) -> Result<Vec<bots::Lease>, BotError> {
        *self.expires.lock() = Instant::now() + timeout;
        // Room first: what leaves the leases must be on its way before anything is waited for.
        let room = self.commands.reserve().await.map_err(|_| BotError::Closed)?;
        let happened = self.leases.lock().update(said);
        let has_changed = !happened.is_empty();
        room.send(Command { progress, happened, takes_leases });
        // Something happened: the bot is told how things stand before it waits.
        let patience = if has_changed || !takes_leases { Duration::ZERO } else { patience };
        let deadline = tokio::time::sleep(patience);
        tokio::pin!(deadline);
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if self.commands.is_closed() {
                return Err(BotError::Closed);
            }
            {
                let leases = self.leases.lock();
                if leases.has_news() || leases.live().count() >= self.capacity {
                    return Ok(leases.answer());
                }
            }
            tokio::select! {
                () = &mut news => {}
                () = &mut deadline => return Ok(self.leases.lock().answer()),
            }
        }
    }

    /// Until when the bot has to say something.
    pub(crate) fn expires(&self) -> SystemTime {
        SystemTime::now() + self.expires.lock().saturating_duration_since(Instant::now())
    }
}

/// Speaks for a bot to the farm.
struct Speaker {
    execution: Execution,
    farm: Farm,
    bot: Arc<BotSession>,
    hello: WorkerHello,
    /// Once the bot has been well: before, it has nothing and is given nothing.
    farm_session: Option<Session>,
}

impl Speaker {
    async fn run(mut self, takes_leases: bool, mut commands: mpsc::Receiver<Command>) {
        self.take_leases(takes_leases);
        let mut heartbeat = tokio::time::interval(self.execution.settings().scheduler.heartbeat_interval);
        let mut readiness = self.execution.readiness();
        loop {
            tokio::select! {
                message = next(self.farm_session.as_mut()) => match message {
                    Some(message) => self.hear(message).await,
                    None => return,
                },
                // The bot's half holds a sender for as long as it is in the list.
                Some(command) = commands.recv() => self.obey(command),
                _ = heartbeat.tick() => {
                    if Instant::now() >= *self.bot.expires.lock() {
                        tracing::info!(event = "bot.expired", bot = self.bot.bot_id, "a bot was silent for too long");
                        return;
                    }
                    if let Some(session) = &self.farm_session {
                        self.farm.heartbeat(session.id(), &self.live());
                    }
                }
                () = self.bot.superseded.notified() => return,
                () = draining(&mut readiness) => return,
            }
        }
    }

    fn live(&self) -> Vec<LeaseId> {
        self.bot.leases.lock().live().filter_map(|lease| LeaseId::parse(lease).ok()).collect()
    }

    /// What the farm says to the bot.
    async fn hear(&mut self, message: workers::ToWorker) {
        match message.message {
            Some(to_worker::Message::Welcome(welcome)) => {
                let mut leases = self.bot.leases.lock();
                for lease in welcome.kept_lease_ids {
                    leases.adopt(lease);
                }
            }
            Some(to_worker::Message::Assignment(assignment)) => self.offer(assignment).await,
            Some(to_worker::Message::Cancel(cancel)) => {
                self.bot.leases.lock().cancel(&cancel.lease_id);
                self.bot.news.notify_waiters();
            }
            Some(to_worker::Message::Acknowledged(_) | to_worker::Message::Drain(_)) | None => {}
        }
    }

    async fn offer(&mut self, assignment: workers::Assignment) {
        let lease = assignment.lease_id;
        let Ok(lease_id) = LeaseId::parse(&lease) else { return };
        match self.action(&assignment.instance_name, assignment.action_digest, assignment.digest_function).await {
            Ok(value) => {
                let payload = Any { type_url: ACTION_TYPE_URL.to_owned(), value: value.to_vec() };
                self.bot.leases.lock().offer(lease, payload);
                self.bot.news.notify_waiters();
            }
            Err(reason) => {
                // It was there a moment ago, when it was queued; another attempt says what is missing.
                self.give_back(lease_id, &reason);
            }
        }
    }

    async fn action(
        &self,
        instance: &str,
        digest: Option<reapi::Digest>,
        digest_function: i32,
    ) -> Result<bytes::Bytes, String> {
        let cache = self.execution.cache();
        let rule =
            crate::service::request::digest_rule(cache, instance, digest_function).map_err(|answer| answer.message)?;
        let digest = rule.from_wire(&digest.unwrap_or_default()).map_err(|error| error.to_string())?;
        cache.read_whole(&digest, ACTION_BYTES_MAX).await.map_err(|error| error.to_string())
    }

    fn obey(&mut self, command: Command) {
        for (lease, metadata) in command.progress {
            let progress = workers::Progress {
                lease_id: lease.to_string(),
                partial_metadata: Some(metadata),
                ..workers::Progress::default()
            };
            // Cancelled meanwhile, of which the bot is told.
            if let Some(session) = &self.farm_session {
                let _ = self.farm.progress(session.id(), progress);
            }
        }
        for event in command.happened {
            self.report(event);
        }
        self.take_leases(command.takes_leases);
    }

    /// A bot that is not well gets nothing new.
    fn take_leases(&mut self, takes_leases: bool) {
        match &self.farm_session {
            Some(session) if takes_leases => self.farm.undrain_worker(session.id()),
            Some(session) => self.farm.drain_worker(session.id()),
            None if takes_leases => {
                let session = self.farm.join(self.hello.clone());
                // The bot's session of before may have ended unwell.
                self.farm.undrain_worker(session.id());
                self.farm_session = Some(session);
            }
            None => {}
        }
    }

    fn report(&mut self, event: Happened) {
        match event {
            Happened::Started { .. } => {}
            Happened::Dropped { lease } => {
                if let Ok(lease) = LeaseId::parse(&lease) {
                    self.give_back(lease, "the bot does not know it any more");
                }
            }
            Happened::Finished { lease, status, result } => {
                let Ok(lease) = LeaseId::parse(&lease) else { return };
                let finished = finished(lease, &self.hello.name, status, result);
                // The bot has forgotten it already; an acknowledgement is for nobody.
                if let Some(session) = &self.farm_session {
                    drop(self.execution.take_finished(&self.farm, session, lease, finished));
                }
            }
        }
    }

    /// Nothing if it was cancelled meanwhile.
    fn give_back(&self, lease: LeaseId, reason: &str) {
        if let Some(session) = &self.farm_session {
            let _ = self.farm.give_back(session.id(), lease, reason);
        }
    }
}

/// What the farm says; for ever nothing, before there is a session. Cancel-safe.
async fn next(session: Option<&mut Session>) -> Option<workers::ToWorker> {
    match session {
        Some(session) => session.next().await,
        None => std::future::pending().await,
    }
}

/// Until the server drains, or is gone. Cancel-safe.
async fn draining(readiness: &mut watch::Receiver<Readiness>) {
    let _ = readiness.wait_for(|readiness| *readiness == Readiness::Draining).await;
}

/// A lease's end as a worker of ours would tell it.
fn finished(lease: LeaseId, worker: &str, status: rpc::Status, result: Option<Any>) -> workers::Finished {
    let lease_id = lease.to_string();
    let fault = |message: String| workers::Finished {
        lease_id: lease_id.clone(),
        response: Some(reapi::ExecuteResponse { message, ..Default::default() }),
        worker_fault: true,
    };
    if status.code != Code::Ok as i32 && !is_the_actions(Code::from(status.code)) {
        return fault(status.message);
    }
    let result = match result.map(|result| ActionResult::decode(result.value.as_slice())) {
        Some(Ok(mut result)) => {
            let metadata = result.execution_metadata.get_or_insert_default();
            if metadata.worker.is_empty() {
                worker.clone_into(&mut metadata.worker);
            }
            Some(result)
        }
        Some(Err(_)) => return fault("the bot's result is no ActionResult".to_owned()),
        None if status.code == Code::Ok as i32 => return fault("the bot brought no result".to_owned()),
        None => None,
    };
    let response = reapi::ExecuteResponse { result, status: Some(status), ..Default::default() };
    workers::Finished { lease_id, response: Some(response), worker_fault: false }
}

/// What a status says of the action; the others speak of the bot or its network, and another may do better.
fn is_the_actions(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument | Code::FailedPrecondition | Code::DeadlineExceeded | Code::OutOfRange | Code::NotFound
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: Code) -> rpc::Status {
        rpc::Status { code: code as i32, message: "why".to_owned(), details: Vec::new() }
    }

    #[expect(clippy::unnecessary_wraps, reason = "a lease's result is optional")]
    fn result(exit_code: i32) -> Option<Any> {
        let result = ActionResult { exit_code, ..ActionResult::default() };
        Some(Any { type_url: "x/ActionResult".to_owned(), value: result.encode_to_vec() })
    }

    /// It was taken off the bot's leases and lost with the call, and the action was run again.
    #[tokio::test]
    async fn a_result_whose_call_goes_away_before_it_is_taken_is_told_again() {
        let (commands, mut said) = mpsc::channel(1);
        let idle = || Command { progress: Vec::new(), happened: Vec::new(), takes_leases: true };
        commands.try_send(idle()).expect("there is room");
        let session = BotSession {
            bot_id: "bot".to_owned(),
            capacity: 1,
            leases: Mutex::default(),
            expires: Mutex::new(Instant::now()),
            news: Notify::new(),
            superseded: Notify::new(),
            commands,
        };
        session.leases.lock().adopt("lease".to_owned());
        let completed = || {
            let state = bots::LeaseState::Completed as i32;
            vec![bots::Lease { id: "lease".to_owned(), state, ..bots::Lease::default() }]
        };
        let update = || session.update(completed(), Vec::new(), true, Duration::ZERO, Duration::ZERO);
        let mut dropped = Box::pin(update());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(dropped.as_mut().poll(&mut context).is_pending(), "there is no room");
        drop(dropped);
        assert_eq!(session.leases.lock().live().count(), 1, "nothing was taken");
        said.recv().await.expect("the first command");
        update().await.expect("there is room");
        let command = said.recv().await.expect("what the bot said");
        assert!(matches!(&command.happened[..], [Happened::Finished { lease, .. }] if lease == "lease"));
    }

    #[test]
    fn a_bots_end_is_told_as_a_workers() {
        let lease = LeaseId(7);
        let rubbish = Some(Any { type_url: String::new(), value: vec![0xff] });
        for (code, brought, is_fault) in [
            (Code::Ok, result(0), false),
            (Code::Ok, result(3), false),
            (Code::Ok, None, true),
            (Code::Ok, rubbish, true),
            (Code::DeadlineExceeded, result(0), false),
            (Code::FailedPrecondition, None, false),
            (Code::Unavailable, None, true),
            (Code::Internal, result(0), true),
            (Code::Aborted, None, true),
        ] {
            let finished = finished(lease, "bot", status(code), brought.clone());
            assert_eq!(finished.worker_fault, is_fault, "{code:?} {brought:?}");
            if !is_fault {
                let response = finished.response.expect("a response");
                assert_eq!(response.status.expect("a status").code, code as i32);
                if let Some(result) = response.result {
                    assert_eq!(result.execution_metadata.expect("metadata").worker, "bot");
                }
            }
        }
    }
}
