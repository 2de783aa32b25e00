//! The scheduler in the world: one for all threads of a server, with a clock, channels to workers, listeners and a journal.
//!
//! ```text
//! a call ──▶ lock ──▶ Scheduler ──▶ effects ──┬─▶ a session's channel
//!              ▲                              ├─▶ an operation's listeners
//!   timer ─────┘                              └─▶ journal ──▶ QueueStore
//! ```
//! A call holds the lock, for as long as the scheduler takes and its effects are handed on: nothing in there waits. So calls may
//! come from any thread and any runtime, and what a session is sent is in the order in which it was decided. Only the
//! journal waits for a disk, behind a queue of its own; who needs a record to be written waits for that apart.
//!
//! [`Background`] is to be run once, by whoever made the farm: it ticks the scheduler and writes the journal. The farm never
//! looks at what a task is about; that is for the server, which checks what comes in and stores what comes out.

mod journal;
mod session;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cask_proto::InstanceName;
use cask_proto::workers::{self, ToWorker, to_worker};
use cask_proto::{queue::TaskRecord, reapi};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{Notify, mpsc, watch as tokio_watch};
use tokio::time::Instant;

use self::journal::{Journal, Written};
pub use self::session::{Replies, Session};
pub use self::watch::Watch;
use crate::scheduler::{
    Counts, Effect, Finishing, JournalSlot, LeaseId, NotYours, Now, OperationId, OperationView, Options, Refused,
    Scheduler, SessionId, Submission, UnknownOperation, WorkerHello, WorkerView,
};

/// Where the journal is kept.
#[tonic::async_trait]
pub trait QueueStore: Send + Sync + 'static {
    /// All records that were put and not removed, in any order.
    async fn load(&self) -> Result<Vec<(JournalSlot, Bytes)>, QueueStoreError>;

    /// Stores a record over what the slot has; `None` removes it. Called for one slot at a time. When it returns, the record
    /// survives the end of the process.
    async fn put(&self, slot: JournalSlot, record: Option<Bytes>) -> Result<(), QueueStoreError>;
}

/// The journal could not be read or written. Whether it passes is for the store to say.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct QueueStoreError {
    /// For people.
    pub message: String,
    /// When it may be worth trying again; `None`: nobody knows.
    pub retry_after: Option<Duration>,
}

/// Why an Execute was not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ExecuteError {
    /// Passes.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It would not have survived a restart, so it was taken back.
    #[error("the queue's journal: {0}")]
    Journal(#[from] QueueStoreError),
}

/// Why an operation was not cancelled or forgotten.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ChangeError {
    /// Nothing was changed.
    #[error(transparent)]
    Unknown(#[from] UnknownOperation),
    /// It is so now, and may not be after a restart.
    #[error("the queue's journal: {0}")]
    Journal(#[from] QueueStoreError),
}

/// A scheduler that all threads share. Cheap to clone.
#[derive(Clone)]
pub struct Farm {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    journal: Journal,
    /// Where `monotonic` begins.
    started: Instant,
    heartbeat_interval: Duration,
    /// Told when the timer has to go off sooner than it is set to.
    timer_moved: Notify,
}

struct State {
    scheduler: Scheduler,
    sessions: HashMap<SessionId, mpsc::Sender<ToWorker>>,
    listeners: HashMap<OperationId, Listeners>,
    /// When the background ticks next.
    timer: Option<Duration>,
    /// See [`Farm::freeze`].
    is_frozen: bool,
}

/// The watches of an operation. Gone with the last of them.
struct Listeners {
    sender: tokio_watch::Sender<()>,
    /// Counted here, under the lock: receivers are dropped outside of it.
    count: usize,
}

impl State {
    /// Where to answer the worker that has a lease.
    fn holder(&self, lease: LeaseId) -> Option<Replies> {
        let session = self.scheduler.holder(lease)?;
        self.sessions.get(&session).map(|sender| Replies::new(sender.downgrade()))
    }
}

/// What has to be run for a farm to live. Ends when the farm is told to [stop](Farm::stop).
pub struct Background {
    farm: Farm,
}

impl Farm {
    /// A farm that goes on with what `store` has of the one before.
    ///
    /// # Errors
    /// When the store cannot be read: then nothing is known, and nothing may be begun.
    pub async fn start(
        options: Options,
        store: Arc<dyn QueueStore>,
        random: Box<dyn FnMut() -> u128 + Send>,
    ) -> Result<(Farm, Background), QueueStoreError> {
        let mut records = Vec::new();
        for (slot, bytes) in store.load().await? {
            match TaskRecord::decode(bytes) {
                Ok(record) => records.push((slot, record)),
                Err(error) => {
                    tracing::warn!(event = "queue.record_unreadable", slot = slot.0, %error, "a task is lost");
                }
            }
        }
        let heartbeat_interval = options.heartbeat_interval;
        let state = State {
            scheduler: Scheduler::new(options, random),
            sessions: HashMap::new(),
            listeners: HashMap::new(),
            timer: None,
            is_frozen: false,
        };
        let shared = Shared {
            state: Mutex::new(state),
            journal: Journal::new(store),
            started: Instant::now(),
            heartbeat_interval,
            timer_moved: Notify::new(),
        };
        let farm = Farm { shared: Arc::new(shared) };
        let restored = records.len();
        farm.call(|scheduler, now| scheduler.restore(now, records));
        if restored > 0 {
            tracing::info!(event = "queue.restored", tasks = restored, "went on with what the last process had");
        }
        Ok((farm.clone(), Background { farm }))
    }

    /// Takes an action. Returns when a restart would not lose it; dropped before, it goes on with nobody listening.
    pub async fn execute(&self, submission: Submission) -> Result<Watch, ExecuteError> {
        let (watch, written) = {
            let now = self.now();
            let mut state = self.shared.state.lock();
            let operation = state.scheduler.execute(&now, submission)?;
            let watch = self.listen(&mut state, operation).expect("the operation was made under the same lock");
            (watch, self.carry_out(&mut state, &now))
        };
        match written.all().await {
            Ok(()) => Ok(watch),
            Err(error) => {
                // Gone or finished meanwhile is as good.
                let _ = self.call(|scheduler, now| scheduler.cancel(now, watch.operation()));
                Err(error.into())
            }
        }
    }

    /// An operation whose result is known already.
    pub fn finished_at_once(&self, submission: Submission, response: reapi::ExecuteResponse) -> Watch {
        let now = self.now();
        let mut state = self.shared.state.lock();
        let operation = state.scheduler.finished_at_once(&now, submission, response);
        let watch = self.listen(&mut state, operation).expect("the operation was made under the same lock");
        // Nothing is lost with a result that is in the action cache.
        drop(self.carry_out(&mut state, &now));
        watch
    }

    /// Listens to an operation.
    pub fn watch(&self, operation: OperationId) -> Result<Watch, UnknownOperation> {
        self.listen(&mut self.shared.state.lock(), operation)
    }

    /// How an operation stands, for somebody who wants it to go on. See [`Scheduler::ask_after`].
    pub fn ask_after(&self, operation: OperationId) -> Option<OperationView> {
        self.call(|scheduler, now| {
            scheduler.ask_after(now, operation);
            scheduler.operation(operation)
        })
    }

    /// How an operation stands.
    pub fn operation(&self, operation: OperationId) -> Option<OperationView> {
        self.shared.state.lock().scheduler.operation(operation)
    }

    /// Operations of an instance by rising id, those after `after`, at most `limit`.
    pub fn operations(&self, instance: &InstanceName, after: Option<OperationId>, limit: usize) -> Vec<OperationView> {
        self.shared.state.lock().scheduler.operations(instance, after, limit)
    }

    /// See [`Scheduler::cancel`]. Returns when a restart would not bring it back; dropped before, it is cancelled all the same.
    pub async fn cancel(&self, operation: OperationId) -> Result<(), ChangeError> {
        let (outcome, written) = self.begin_call(|scheduler, now| scheduler.cancel(now, operation));
        outcome?;
        Ok(written.all().await?)
    }

    /// See [`Scheduler::delete`]. Who listens is told that it is gone. Returns when a restart would not bring it back; dropped
    /// before, it is forgotten all the same.
    pub async fn delete(&self, operation: OperationId) -> Result<(), ChangeError> {
        let (outcome, written) = self.begin_call(|scheduler, now| scheduler.delete(now, operation));
        outcome?;
        Ok(written.all().await?)
    }

    /// A worker is there. The first thing in the session's channel is the welcome.
    pub fn join(&self, hello: WorkerHello) -> Session {
        let now = self.now();
        // Whoever does not take what it is sent is no worker; what a good one may leave for a while fits.
        let room = 64 + 4 * hello.concurrency as usize;
        let (sender, receiver) = mpsc::channel(room);
        let mut state = self.shared.state.lock();
        let joined = state.scheduler.join(&now, hello);
        let welcome = workers::Welcome {
            session_id: joined.session.0.to_string(),
            heartbeat_interval: prost_types::Duration::try_from(self.shared.heartbeat_interval).ok(),
            kept_lease_ids: joined.kept.iter().map(LeaseId::to_string).collect(),
        };
        let welcome = ToWorker { message: Some(to_worker::Message::Welcome(welcome)) };
        sender.try_send(welcome).expect("a new channel has room");
        state.sessions.insert(joined.session, sender.clone());
        drop(self.carry_out(&mut state, &now));
        drop(state);
        Session::new(self.clone(), joined.session, sender.downgrade(), receiver)
    }

    /// See [`Scheduler::heartbeat`].
    pub fn heartbeat(&self, session: SessionId, leases: &[LeaseId]) {
        self.call(|scheduler, now| scheduler.heartbeat(now, session, leases));
    }

    /// See [`Scheduler::drain`].
    pub fn drain_worker(&self, session: SessionId) {
        self.call(|scheduler, now| scheduler.drain(now, session));
    }

    /// See [`Scheduler::undrain`].
    pub fn undrain_worker(&self, session: SessionId) {
        self.call(|scheduler, now| scheduler.undrain(now, session));
    }

    /// See [`Scheduler::progress`].
    pub fn progress(&self, session: SessionId, progress: workers::Progress) -> Result<(), NotYours> {
        self.call(|scheduler, now| scheduler.progress(now, session, progress))
    }

    /// See [`Scheduler::begin_finish`].
    pub fn begin_finish(&self, session: SessionId, lease: LeaseId) -> Result<Option<Finishing>, NotYours> {
        self.call(|scheduler, now| scheduler.begin_finish(now, session, lease))
    }

    /// See [`Scheduler::finish`]. Returns when a restart would not lose the result, or when that cannot be had; those who wait for
    /// it are told before. Not to be dropped halfway by who acknowledges it afterwards: to the session it returns, which had the
    /// lease last; `None`: nobody had it any more.
    pub async fn finish(&self, lease: LeaseId, response: reapi::ExecuteResponse) -> Option<Replies> {
        let (holder, written) = {
            let now = self.now();
            let mut state = self.shared.state.lock();
            let holder = state.holder(lease);
            state.scheduler.finish(&now, lease, response);
            (holder, self.carry_out(&mut state, &now))
        };
        // Logged where it happened; the result is with its clients all the same.
        let _ = written.all().await;
        holder
    }

    /// See [`Scheduler::reject`]. Returns whom to tell, as [`Farm::finish`] does.
    pub fn reject(&self, lease: LeaseId, reason: &str) -> Option<Replies> {
        let now = self.now();
        let mut state = self.shared.state.lock();
        let holder = state.holder(lease);
        state.scheduler.reject(&now, lease, reason);
        drop(self.carry_out(&mut state, &now));
        holder
    }

    /// See [`Scheduler::give_back`].
    pub fn give_back(&self, session: SessionId, lease: LeaseId, reason: &str) -> Result<(), NotYours> {
        self.call(|scheduler, now| scheduler.give_back(now, session, lease, reason))
    }

    /// For pages and metrics.
    pub fn workers(&self) -> Vec<WorkerView> {
        self.shared.state.lock().scheduler.workers()
    }

    /// For pages and metrics.
    pub fn counts(&self) -> Counts {
        self.shared.state.lock().scheduler.counts()
    }

    /// Records that wait to be written, or are being.
    pub fn journal_backlog(&self) -> usize {
        self.shared.journal.backlog()
    }

    /// From now on nobody is lost and nothing runs out of time: this process is about to end, and what it would decide alone because its
    /// workers and clients have to go, the next one decides better when they have come back.
    pub fn freeze(&self) {
        self.shared.state.lock().is_frozen = true;
    }

    /// Ends the background once the journal has everything. Calls after this are not journalled.
    pub async fn stop(&self) {
        self.shared.journal.stop().await;
    }

    fn now(&self) -> Now {
        Now { monotonic: self.shared.started.elapsed(), wall: SystemTime::now() }
    }

    /// One call of the scheduler, and what follows from it.
    fn call<T>(&self, call: impl FnOnce(&mut Scheduler, &Now) -> T) -> T {
        self.begin_call(call).0
    }

    /// As `call`, for who waits for the journal.
    fn begin_call<T>(&self, call: impl FnOnce(&mut Scheduler, &Now) -> T) -> (T, Written) {
        let now = self.now();
        let mut state = self.shared.state.lock();
        let outcome = call(&mut state.scheduler, &now);
        let written = self.carry_out(&mut state, &now);
        (outcome, written)
    }

    /// Hands on what the scheduler wants done. What it returns says when this call's part of the journal is written.
    fn carry_out(&self, state: &mut State, now: &Now) -> Written {
        let mut written = Written::default();
        loop {
            let effects = state.scheduler.take_effects();
            if effects.is_empty() {
                break;
            }
            let mut stuck = Vec::new();
            for effect in effects {
                let (session, message) = match effect {
                    Effect::Assign { session, assignment } => (session, to_worker::Message::Assignment(*assignment)),
                    Effect::CancelLease { session, lease } => {
                        (session, to_worker::Message::Cancel(workers::Cancel { lease_id: lease.to_string() }))
                    }
                    Effect::CloseSession { session } => {
                        // Its channel ends, and with it its stream.
                        state.sessions.remove(&session);
                        continue;
                    }
                    Effect::Changed { operation } => {
                        if let Some(listeners) = state.listeners.get(&operation) {
                            listeners.sender.send_replace(());
                        }
                        continue;
                    }
                    Effect::Journal { slot, record } => {
                        written.expect(self.shared.journal.push(slot, record));
                        continue;
                    }
                };
                // A session that is away has no channel; it hears of its leases when it comes back.
                if let Some(sender) = state.sessions.get(&session)
                    && sender.try_send(ToWorker { message: Some(message) }).is_err()
                {
                    stuck.push(session);
                }
            }
            for session in stuck {
                tracing::warn!(event = "worker.stuck", session = session.0, "a worker does not take what it is sent");
                state.sessions.remove(&session);
                state.scheduler.leave(now, session);
            }
        }
        let due = state.scheduler.next_deadline();
        let is_sooner = match (due, state.timer) {
            (Some(due), Some(timer)) => due < timer,
            (due, None) => due.is_some(),
            (None, Some(_)) => false,
        };
        if is_sooner {
            state.timer = due;
            self.shared.timer_moved.notify_one();
        }
        written
    }

    fn listen(&self, state: &mut State, operation: OperationId) -> Result<Watch, UnknownOperation> {
        state.scheduler.attach(operation)?;
        let listeners = state
            .listeners
            .entry(operation)
            .or_insert_with(|| Listeners { sender: tokio_watch::Sender::new(()), count: 0 });
        listeners.count += 1;
        Ok(Watch::new(self.clone(), operation, listeners.sender.subscribe()))
    }

    /// The last thing that a [`Watch`] does.
    fn unlisten(&self, operation: OperationId) {
        let now = self.now();
        let mut state = self.shared.state.lock();
        if let Some(listeners) = state.listeners.get_mut(&operation) {
            listeners.count -= 1;
            if listeners.count == 0 {
                state.listeners.remove(&operation);
            }
        }
        if state.is_frozen {
            return;
        }
        state.scheduler.detach(&now, operation);
        drop(self.carry_out(&mut state, &now));
    }

    /// The last thing that a [`Session`] does.
    fn leave(&self, session: SessionId) {
        let now = self.now();
        let mut state = self.shared.state.lock();
        // One that the scheduler closed is gone from here, and nothing is to be said of it any more.
        if state.sessions.remove(&session).is_some() && !state.is_frozen {
            state.scheduler.leave(&now, session);
            drop(self.carry_out(&mut state, &now));
        }
    }
}

impl Background {
    /// Ticks and writes until the farm is stopped.
    pub async fn run(self) {
        let farm = self.farm;
        let ticking = async {
            loop {
                farm.timer_goes_off().await;
                farm.tick();
            }
        };
        tokio::select! {
            () = farm.shared.journal.write() => {}
            () = ticking => {}
        }
    }
}

impl Farm {
    async fn timer_goes_off(&self) {
        loop {
            let moved = self.shared.timer_moved.notified();
            let timer = self.shared.state.lock().timer;
            let Some(timer) = timer else {
                moved.await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until(self.shared.started + timer) => return,
                () = moved => {}
            }
        }
    }

    fn tick(&self) {
        let now = self.now();
        let mut state = self.shared.state.lock();
        state.timer = None;
        if state.is_frozen {
            return;
        }
        state.scheduler.tick(&now);
        drop(self.carry_out(&mut state, &now));
    }
}
