//! Section L, the Remote Workers API: workers that ask again and again (lines L6 to L11). What BuildGrid's published stubs make of it
//! is tested with the real clients.

use std::time::Duration;

use bazel_remote_apis::build::bazel::remote::execution::v2::{Action, ActionResult, ExecuteResponse};
use cask_proto::bots::bots_client::BotsClient;
use cask_proto::bots::{
    BotSession, BotStatus, CreateBotSessionRequest, Device, Lease, LeaseState, PostBotEventTempRequest,
    UpdateBotSessionRequest, Worker, device, worker,
};
use prost::Message;
use prost_types::Any;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::start_with;
use crate::support::farm::{Call, executing, result_of, shell, status_of};
use crate::support::grpc::{Cache, assert_invalid, code};
use crate::support::within;

/// A patience that is never used up: who waits so long waits for something that does not come.
const LONG: Duration = Duration::from_secs(600);

struct Bot {
    client: BotsClient<Channel>,
    session: BotSession,
}

fn described(bot_id: &str, capacity: &str) -> BotSession {
    let property = |key: &str, value: &str| device::Property { key: key.to_owned(), value: value.to_owned() };
    BotSession {
        bot_id: bot_id.to_owned(),
        status: BotStatus::Ok.into(),
        worker: Some(Worker {
            devices: vec![Device {
                handle: "main".to_owned(),
                properties: vec![property("OSFamily", "linux"), property("ISA", "x86-64")],
            }],
            configs: vec![worker::Config { key: "capacity".to_owned(), value: capacity.to_owned() }],
            properties: Vec::new(),
        }),
        ..BotSession::default()
    }
}

async fn create(
    cache: &Cache,
    parent: &str,
    bot_session: Option<BotSession>,
    patience: Duration,
) -> Result<BotSession, Status> {
    let mut request = Request::new(CreateBotSessionRequest { parent: parent.to_owned(), bot_session });
    request.set_timeout(patience);
    let mut client = BotsClient::new(cache.channel.clone());
    Ok(within("CreateBotSession", client.create_bot_session(request)).await?.into_inner())
}

impl Bot {
    /// A bot that does not wait for work with its first call.
    async fn create(cache: &Cache, bot_id: &str, capacity: &str) -> Self {
        let unready = BotSession { status: BotStatus::Initializing.into(), ..described(bot_id, capacity) };
        let mut session = create(cache, "", Some(unready), LONG).await.expect("CreateBotSession");
        session.status = BotStatus::Ok.into();
        Self { client: BotsClient::new(cache.channel.clone()), session }
    }

    async fn update(&mut self, patience: Duration) -> Result<(), Status> {
        let mut request = Request::new(UpdateBotSessionRequest {
            name: self.session.name.clone(),
            bot_session: Some(self.session.clone()),
            update_mask: None,
        });
        request.set_timeout(patience);
        self.session = within("UpdateBotSession", self.client.update_bot_session(request)).await?.into_inner();
        Ok(())
    }

    /// Waits for a lease to be offered.
    async fn offered(&mut self) -> Lease {
        loop {
            self.update(LONG).await.expect("UpdateBotSession");
            if let Some(lease) = self.session.leases.iter().find(|lease| lease.state() == LeaseState::Pending) {
                return lease.clone();
            }
        }
    }

    /// Sets a lease's state for the next update.
    fn set(&mut self, lease: &str, state: LeaseState) -> &mut Lease {
        let lease = self.session.leases.iter_mut().find(|held| held.id == lease).expect("the lease is held");
        lease.set_state(state);
        lease
    }

    fn state(&self, lease: &str) -> Option<LeaseState> {
        self.session.leases.iter().find(|held| held.id == lease).map(Lease::state)
    }

    /// Runs an offered lease to this end.
    async fn complete(&mut self, lease: &str, exit_code: i32) {
        self.set(lease, LeaseState::Active);
        self.update(LONG).await.expect("UpdateBotSession");
        assert_eq!(self.state(lease), Some(LeaseState::Active));
        let result = ActionResult { exit_code, ..ActionResult::default() };
        let held = self.set(lease, LeaseState::Completed);
        held.status = Some(cask_proto::rpc::Status::default());
        held.result = Some(Any {
            type_url: "type.googleapis.com/build.bazel.remote.execution.v2.ActionResult".to_owned(),
            value: result.encode_to_vec(),
        });
        self.update(LONG).await.expect("UpdateBotSession");
        assert_eq!(self.state(lease), None, "a lease that is done is not spoken of any more");
    }
}

/// An action that nothing runs but the bot's word.
async fn submitted(cache: &Cache, argument: &str) -> Call {
    let action = shell(argument).do_not_cache().store(cache).await;
    let mut call = Call::execute(cache, &action).await.expect("Execute");
    call.name().await;
    call
}

fn outcome(response: &ExecuteResponse) -> (Code, i32, String) {
    let result = result_of(response);
    (status_of(response).0, result.exit_code, result.execution_metadata.expect("metadata").worker)
}

#[tokio::test]
async fn l06_a_session_is_named_under_its_parent_and_needs_a_bot() {
    let (_server, cache) = start_with(executing(&[])).await;
    let unready = |bot_id| BotSession { status: BotStatus::Initializing.into(), ..described(bot_id, "1") };
    for parent in ["", "main", "a/b"] {
        let session = create(&cache, parent, Some(unready("bot")), LONG).await.expect("CreateBotSession");
        let (before, last) = session.name.rsplit_once('/').expect("a slash");
        assert_eq!(before, parent);
        assert!(!last.is_empty());
        assert!(session.expire_time.is_some());
    }
    assert_invalid(&create(&cache, "", Some(unready("")), LONG).await, "no bot_id");
    assert_invalid(&create(&cache, "", None, LONG).await, "no session");
    assert_invalid(&create(&cache, "a//b", Some(unready("bot")), LONG).await, "a parent that is no instance");
    let mut bot = Bot::create(&cache, "one", "1").await;
    let name = bot.session.name.clone();
    bot.session.bot_id = "other".to_owned();
    assert_invalid(&bot.update(LONG).await, "another bot's session");
    bot.session.bot_id = "one".to_owned();
    let mut request = UpdateBotSessionRequest { name, bot_session: Some(bot.session.clone()), update_mask: None };
    request.name.push('0');
    assert_invalid(&bot.client.update_bot_session(request).await, "two names");
    let event = PostBotEventTempRequest::default();
    assert_eq!(code(&bot.client.post_bot_event_temp(event).await), Code::Unimplemented);
}

#[tokio::test]
async fn l07_a_second_session_of_a_bot_ends_the_first() {
    let (_server, cache) = start_with(executing(&[])).await;
    let mut first = Bot::create(&cache, "bot", "1").await;
    let mut call = submitted(&cache, "l07").await;
    let lease = first.offered().await;
    first.set(&lease.id, LeaseState::Active);
    first.update(LONG).await.expect("UpdateBotSession");

    let mut second = Bot::create(&cache, "bot", "1").await;
    assert_eq!(code(&first.update(LONG).await), Code::DataLoss);
    // What the first had is given to the bot again, once it is sure that nobody has it.
    let again = second.offered().await;
    second.complete(&again.id, 0).await;
    call.until(bazel_remote_apis::build::bazel::remote::execution::v2::execution_stage::Value::Executing).await;
    assert_eq!(outcome(&call.finish().await), (Code::Ok, 0, "bot".to_owned()));
}

#[tokio::test]
async fn l08_a_lease_goes_from_pending_over_active_to_completed() {
    let (_server, cache) = start_with(executing(&[])).await;
    let mut bot = Bot::create(&cache, "bot", "2").await;
    for (argument, exit_code) in [("l08", 0), ("l08 fails", 3)] {
        let call = submitted(&cache, argument).await;
        let lease = bot.offered().await;
        let payload = lease.payload.expect("a payload");
        assert_eq!(payload.type_url, "type.googleapis.com/build.bazel.remote.execution.v2.Action");
        let action = Action::decode(&payload.value[..]).expect("an Action");
        assert!(action.command_digest.is_some() && action.do_not_cache);
        bot.complete(&lease.id, exit_code).await;
        assert_eq!(outcome(&call.finish().await), (Code::Ok, exit_code, "bot".to_owned()));
    }
}

#[tokio::test]
async fn l08_a_bot_that_holds_as_much_as_it_can_is_offered_no_more() {
    let (_server, cache) = start_with(executing(&[])).await;
    let mut bot = Bot::create(&cache, "bot", "1").await;
    let first = submitted(&cache, "first").await;
    let second = submitted(&cache, "second").await;
    let lease = bot.offered().await;
    assert_eq!(bot.session.leases.len(), 1);
    bot.complete(&lease.id, 0).await;
    assert_eq!(outcome(&first.finish().await).0, Code::Ok);
    let lease = bot.offered().await;
    bot.complete(&lease.id, 0).await;
    assert_eq!(outcome(&second.finish().await).0, Code::Ok);
}

#[tokio::test]
async fn l08_a_cancelled_operation_cancels_the_lease() {
    let (_server, cache) = start_with(executing(&[])).await;
    let mut bot = Bot::create(&cache, "bot", "1").await;
    let mut call = submitted(&cache, "cancelled").await;
    let lease = bot.offered().await;
    bot.set(&lease.id, LeaseState::Active);
    bot.update(LONG).await.expect("UpdateBotSession");
    let name = call.name().await;
    let request = bazel_remote_apis::google::longrunning::CancelOperationRequest { name };
    crate::support::farm::operations(&cache).cancel_operation(request).await.expect("CancelOperation");
    assert_eq!(status_of(&call.finish().await).0, Code::Cancelled);
    while bot.state(&lease.id) != Some(LeaseState::Cancelled) {
        bot.update(LONG).await.expect("UpdateBotSession");
    }
    // It lets go, and that is all.
    bot.session.leases.clear();
    bot.update(Duration::from_millis(200)).await.expect("UpdateBotSession");
    assert_eq!(bot.session.leases, []);
}

#[tokio::test]
async fn l09_what_an_expired_session_had_is_queued_again() {
    let flags = ["--execution-bot-timeout=1s", "--execution-reconnect-grace=0s", "--execution-worker-timeout=2s"];
    let (_server, cache) = start_with(executing(&flags)).await;
    let mut lost = Bot::create(&cache, "lost", "1").await;
    let call = submitted(&cache, "l09").await;
    let lease = lost.offered().await;
    lost.set(&lease.id, LeaseState::Active);
    lost.update(LONG).await.expect("UpdateBotSession");
    // It says nothing any more. Another is offered the action when the first's time is over, and no sooner.
    let mut other = Bot::create(&cache, "other", "1").await;
    let again = other.offered().await;
    assert_ne!(again.id, lease.id);
    assert_eq!(code(&lost.update(LONG).await), Code::DataLoss);
    other.complete(&again.id, 0).await;
    assert_eq!(outcome(&call.finish().await), (Code::Ok, 0, "other".to_owned()));
}

#[tokio::test]
async fn l10_a_bot_that_is_not_well_gets_nothing() {
    let (_server, cache) = start_with(executing(&[])).await;
    let mut unwell = Bot::create(&cache, "unwell", "1").await;
    for status in [BotStatus::Unhealthy, BotStatus::HostRebooting, BotStatus::BotTerminating, BotStatus::Initializing] {
        unwell.session.set_status(status);
        unwell.update(LONG).await.expect("UpdateBotSession");
        assert_eq!(unwell.session.leases, [], "{status:?}");
    }
    let call = submitted(&cache, "l10").await;
    unwell.update(LONG).await.expect("UpdateBotSession");
    assert_eq!(unwell.session.leases, []);
    // Another gets it; and the first gets the next when it is well again.
    let mut well = Bot::create(&cache, "well", "1").await;
    let lease = well.offered().await;
    well.complete(&lease.id, 0).await;
    assert_eq!(outcome(&call.finish().await).2, "well");
    well.session.set_status(BotStatus::Unhealthy);
    well.update(LONG).await.expect("UpdateBotSession");
    unwell.session.set_status(BotStatus::Ok);
    let call = submitted(&cache, "l10 again").await;
    let lease = unwell.offered().await;
    unwell.complete(&lease.id, 0).await;
    assert_eq!(outcome(&call.finish().await).2, "unwell");
}

#[tokio::test]
async fn l11_an_update_without_news_returns_before_its_deadline() {
    let (_server, cache) = start_with(executing(&[])).await;
    let mut bot = Bot::create(&cache, "bot", "1").await;
    // Had it come too late, it would have been DEADLINE_EXCEEDED.
    bot.update(Duration::from_millis(500)).await.expect("UpdateBotSession");
    assert_eq!(bot.session.leases, []);
    let session = create(&cache, "", Some(described("first", "1")), Duration::from_millis(500)).await;
    assert_eq!(session.expect("CreateBotSession").leases, []);
}
