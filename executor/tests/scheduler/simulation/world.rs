//! Everything around the scheduler: clients, the network, workers, the journal, the clock.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use cask_executor::scheduler::{
    Effect, JournalSlot, LeaseId, Now, OperationId, Options, Refused, Scheduler, SessionId, Submission, WorkerHello,
};
use cask_proto::queue::TaskRecord;
use cask_proto::{InstanceName, reapi, workers};

use super::model::{Model, Op, Session};
use super::process::{Holding, Process, ToServer, ToWorker};
use super::random::Random;
use crate::farm::{action, epoch, platform};

pub(crate) const INSTANCES: [&str; 2] = ["", "other"];
const INVOCATIONS: [&str; 4] = ["", "large", "small", "third"];
const PROCESSES_MAX: usize = 6;
const TASKS_MAX: usize = 60;
/// A full look costs as much as many steps.
const STEPS_A_CHECK: usize = 5;

fn wanted_platforms() -> Vec<reapi::Platform> {
    vec![
        platform(&[]),
        platform(&["OSFamily=linux"]),
        platform(&["ISA=x86-64", "OSFamily=linux"]),
        platform(&["OSFamily=linux", "ISA=x86-64"]),
        platform(&["ISA=avx2", "ISA=x86-64", "OSFamily=linux"]),
        platform(&["OSFamily=linux", "container-image=docker://busybox"]),
        platform(&["OSFamily=plan9"]),
    ]
}

fn offered_platforms() -> Vec<Vec<reapi::Platform>> {
    vec![
        vec![platform(&["OSFamily=linux", "ISA=x86-64"])],
        vec![platform(&["OSFamily=linux", "ISA=x86-64", "ISA=avx2", "container-image=*"])],
        vec![platform(&["OSFamily=linux"]), platform(&["OSFamily=windows", "ISA=x86-64"])],
        vec![],
    ]
}

/// What a slot of the journal has on the disk, and what is on its way there.
#[derive(Debug, Default)]
struct JournalLine {
    durable: Option<TaskRecord>,
    pending: Vec<Option<TaskRecord>>,
}

/// See the module.
pub(crate) struct World {
    random: Random,
    pub(crate) scheduler: Scheduler,
    pub(crate) model: Model,
    now: Now,
    processes: Vec<Process>,
    /// Sessions whose stream broke without the server's knowing yet.
    unnoticed: Vec<SessionId>,
    /// Results on their way to where they belong, and who is told then.
    storing: Vec<(LeaseId, SessionId)>,
    journal: BTreeMap<JournalSlot, JournalLine>,
    /// Operations that are on the disk, and were not let go of since.
    acknowledged: BTreeSet<OperationId>,
    /// Results from the cache, which are not in the journal.
    unwritten: BTreeSet<OperationId>,
    steps: usize,
    lives: u64,
    processes_ever: usize,
    trace: u64,
    is_healed: bool,
}

struct Hasher<'a>(&'a mut u64);

impl std::fmt::Write for Hasher<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for byte in text.bytes() {
            *self.0 = (*self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        Ok(())
    }
}

fn identifiers(seed: u64) -> Box<dyn FnMut() -> u128 + Send> {
    let mut random = Random::new(seed);
    Box::new(move || (u128::from(random.next()) << 64) | u128::from(random.next()))
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let seconds = Duration::from_secs;
        let options = Options {
            queued_max: if random.percent(20) { 10 } else { 1000 },
            queued_bytes_max: if random.percent(20) { 20_000 } else { 1 << 30 },
            attempts_max: 1 + random.below(4) as u32,
            heartbeat_interval: seconds(5),
            worker_timeout: seconds(30),
            reconnect_grace: seconds(5),
            restart_grace: seconds(30),
            no_worker_patience: seconds(120),
            abandoned_after: seconds(60),
            finished_retention: seconds(100),
            finished_bytes_max: if random.percent(20) { 8 << 10 } else { 64 << 20 },
            known_bytes_max: 64 << 20,
            oldest_first_every: 2 + random.below(5) as u32,
        };
        let now = Now { monotonic: seconds(1000), wall: epoch() };
        Self {
            scheduler: Scheduler::new(options.clone(), identifiers(seed)),
            model: Model::new(options, now.monotonic),
            random,
            now,
            processes: Vec::new(),
            unnoticed: Vec::new(),
            storing: Vec::new(),
            journal: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            unwritten: BTreeSet::new(),
            steps: 0,
            lives: seed << 8,
            processes_ever: 0,
            trace: 0xcbf2_9ce4_8422_2325,
            is_healed: false,
        }
    }

    pub(crate) fn trace(&self) -> u64 {
        self.trace
    }

    pub(crate) fn step(&mut self) {
        match self.random.below(200) {
            0..26 => self.execute(),
            26..28 => self.finished_at_once(),
            28..62 => self.deliver_to_worker(),
            62..96 => self.deliver_to_server(),
            96..108 => self.beat(),
            108..128 => self.worker_finishes(),
            128..131 => self.worker_says(ToServer::GiveBack),
            131..134 => self.worker_says(ToServer::Progress),
            134..150 => self.stored(),
            150..157 => self.start_process(),
            157..163 => self.reconnect(),
            163..166 => self.break_stream(),
            166..168 => self.die(),
            168 => self.drain(),
            169..172 => self.notice(),
            172..175 => self.cancel(),
            175..177 => self.delete(),
            177..181 => self.attach(),
            181..184 => self.detach(),
            184..193 => self.pass(3_000),
            193 => self.pass(200_000),
            194..197 => self.sync(),
            197 => self.meddle(),
            _ => {
                if self.random.percent(25) {
                    self.restart();
                }
            }
        }
        self.steps += 1;
        if self.steps.is_multiple_of(STEPS_A_CHECK) {
            self.check();
        }
    }

    /// Takes what the scheduler wants done, and does it.
    fn settle(&mut self) {
        let effects = self.scheduler.take_effects();
        for effect in &effects {
            write!(Hasher(&mut self.trace), "{effect:?}").expect("it takes all");
        }
        self.model.follow(&effects);
        for effect in effects {
            match effect {
                Effect::Assign { session, assignment } => {
                    let lease = LeaseId::parse(&assignment.lease_id).expect("a lease's id");
                    self.send(session, ToWorker::Assign(lease));
                }
                Effect::CancelLease { session, lease } => self.send(session, ToWorker::Cancel(lease)),
                Effect::CloseSession { session } => {
                    self.unnoticed.retain(|it| *it != session);
                    if let Some(process) = self.processes.iter_mut().find(|it| it.session == Some(session)) {
                        process.disconnect();
                    }
                }
                Effect::Changed { .. } => {}
                Effect::Journal { slot, record } => {
                    self.journal.entry(slot).or_default().pending.push(record.map(|record| *record));
                }
            }
        }
        // What is not in the journal leaves no trace when it goes.
        for id in self.unwritten.iter().copied().collect::<Vec<_>>() {
            if self.scheduler.operation(id).is_none() {
                self.unwritten.remove(&id);
                if let Some(op) = self.model.ops.remove(&id).filter(|op| op.outcome.is_some()) {
                    self.model.check_forgotten(&op);
                }
            }
        }
        self.model.look_for_workers();
        let known = &self.model.ops;
        self.acknowledged.retain(|id| known.contains_key(id));
    }

    fn send(&mut self, session: SessionId, message: ToWorker) {
        if let Some(process) = self.processes.iter_mut().find(|it| it.session == Some(session)) {
            process.inbox.push_back(message);
        }
    }

    fn submission(&mut self) -> Submission {
        let instance = INSTANCES[usize::from(self.random.percent(20))];
        let number = self.random.below(40);
        let wanted = wanted_platforms();
        // The same action asks for the same.
        let platform = wanted[number % wanted.len()].clone();
        let invocation = if self.random.percent(60) { 1 } else { self.random.below(INVOCATIONS.len()) };
        Submission {
            instance: InstanceName::parse(instance).expect("a name"),
            action: action(number as u64),
            platform,
            priority: if self.random.percent(80) { 0 } else { self.random.below(5) as i32 - 2 },
            timeout: Duration::from_secs(60),
            do_not_cache: number.is_multiple_of(5),
            skip_cache_lookup: self.random.percent(15),
            request_metadata: reapi::RequestMetadata {
                tool_invocation_id: INVOCATIONS[invocation].to_owned(),
                ..Default::default()
            },
        }
    }

    fn add_op(&mut self, id: OperationId, submission: &Submission) {
        let op = Op {
            invocation: submission.request_metadata.tool_invocation_id.clone(),
            instance: submission.instance.as_str().to_owned(),
            listeners: 0,
            was_cancelled: false,
            was_restored: false,
            outcome: None,
        };
        assert!(self.model.ops.insert(id, op).is_none(), "{id} is new");
    }

    fn execute(&mut self) {
        if self.model.slots.len() > TASKS_MAX {
            return;
        }
        let submission = self.submission();
        let merged_before = self.scheduler.counts().merged_total;
        let joinable = self.joinable(&submission);
        let id = match self.scheduler.execute(&self.now, submission.clone()) {
            Ok(id) => id,
            Err(refused) => {
                let options = &self.model.options;
                match refused {
                    Refused::QueueFull { limit } => assert!(self.scheduler.counts().queued >= limit),
                    Refused::QueueTooLarge { limit_bytes } => assert_eq!(limit_bytes, options.queued_bytes_max),
                }
                assert!(!joinable, "joining needs no room");
                return self.settle();
            }
        };
        let is_merged = self.scheduler.counts().merged_total > merged_before;
        assert_eq!(is_merged, joinable, "{submission:?}");
        self.add_op(id, &submission);
        self.settle();
        let priority = self.scheduler.operation(id).map(|view| view.task.priority);
        assert!(priority.is_some_and(|it| it <= submission.priority), "a call that joins raises the task's priority");
        if self.random.percent(60) {
            self.listen(id);
        }
    }

    /// True if an unfinished task is there that the call may share.
    fn joinable(&self, submission: &Submission) -> bool {
        let is_like = |record: &TaskRecord| {
            let digest = record.action_digest.as_ref().expect("set");
            record.instance_name == submission.instance.as_str()
                && digest.hash == submission.action.hash_hex()
                && !record.do_not_cache
                && (record.skip_cache_lookup || !submission.skip_cache_lookup)
        };
        let mut unfinished = self.model.slots.values().filter(|slot| slot.record.finished.is_none());
        !submission.do_not_cache && unfinished.any(|slot| is_like(&slot.record))
    }

    fn finished_at_once(&mut self) {
        let submission = self.submission();
        let response = reapi::ExecuteResponse { message: "from the cache".to_owned(), ..Default::default() };
        let id = self.scheduler.finished_at_once(&self.now, submission.clone(), response);
        self.add_op(id, &submission);
        self.unwritten.insert(id);
        self.settle();
    }

    /// The position of the next message: mostly the first.
    fn position(&mut self, length: usize) -> usize {
        if !self.is_healed && self.random.percent(10) { self.random.below(length) } else { 0 }
    }

    fn some_process(&mut self, is_meant: impl Fn(&Process) -> bool) -> Option<usize> {
        let meant: Vec<_> = (0..self.processes.len()).filter(|it| is_meant(&self.processes[*it])).collect();
        self.random.pick(&meant)
    }

    fn deliver_to_worker(&mut self) {
        let Some(index) = self.some_process(|it| !it.inbox.is_empty()) else { return };
        let position = self.position(self.processes[index].inbox.len());
        let process = &mut self.processes[index];
        let message = process.inbox.remove(position).expect("it is there");
        let fate = if self.is_healed { 100 } else { self.random.below(100) };
        if fate < 3 {
            return;
        }
        if fate < 6 {
            process.inbox.push_back(message.clone());
        }
        process.receive(&message);
    }

    fn deliver_to_server(&mut self) {
        let Some(index) = self.some_process(|it| !it.outbox.is_empty() && it.session.is_some()) else { return };
        let position = self.position(self.processes[index].outbox.len());
        let process = &mut self.processes[index];
        let message = process.outbox.remove(position).expect("it is there");
        let session = process.session.expect("seen above");
        let fate = if self.is_healed { 100 } else { self.random.below(100) };
        if fate < 3 {
            return;
        }
        if fate < 6 {
            process.outbox.push_back(message.clone());
        }
        self.hear(session, message);
    }

    fn hear(&mut self, session: SessionId, message: ToServer) {
        if let Some(known) = self.model.sessions.get_mut(&session).filter(|it| it.away.is_none()) {
            known.heard = self.now.monotonic;
            match &message {
                ToServer::Heartbeat(_) => known.is_resting = false,
                ToServer::Drain => known.is_draining = true,
                ToServer::Finished(_) | ToServer::GiveBack(_) | ToServer::Progress(_) => {}
            }
        }
        match message {
            ToServer::Heartbeat(leases) => self.scheduler.heartbeat(&self.now, session, &leases),
            ToServer::Drain => self.scheduler.drain(&self.now, session),
            ToServer::Progress(lease) => {
                let progress = workers::Progress {
                    lease_id: lease.to_string(),
                    stdout_stream_name: "out".to_owned(),
                    ..Default::default()
                };
                let _ = self.scheduler.progress(&self.now, session, progress);
            }
            ToServer::GiveBack(lease) => {
                if let Some(known) = self.model.sessions.get_mut(&session) {
                    let was_resting = known.is_resting;
                    known.is_resting = true;
                    if self.scheduler.give_back(&self.now, session, lease, "it is broken").is_err() {
                        self.model.sessions.get_mut(&session).expect("seen above").is_resting = was_resting;
                    }
                }
            }
            ToServer::Finished(lease) => match self.scheduler.begin_finish(&self.now, session, lease) {
                Ok(Some(_)) => {
                    self.model.finishing.insert(lease);
                    self.storing.push((lease, session));
                }
                Ok(None) => assert!(self.model.finishing.contains(&lease), "{lease} was not told before"),
                Err(_) => self.send(session, ToWorker::Acknowledged(lease)),
            },
        }
        self.settle();
    }

    /// A result is where it belongs.
    fn stored(&mut self) {
        if self.storing.is_empty() {
            return;
        }
        let index = self.random.below(self.storing.len());
        let (lease, session) = self.storing.swap_remove(index);
        let task = self.model.slots.values().find(|slot| slot.lease() == Some(lease));
        let hash = task.map(|slot| slot.record.action_digest.clone().expect("set").hash);
        let message = format!("{} {lease}", hash.unwrap_or_default());
        let session = self.scheduler.holder(lease).unwrap_or(session);
        self.scheduler.finish(&self.now, lease, reapi::ExecuteResponse { message, ..Default::default() });
        self.model.finishing.remove(&lease);
        self.settle();
        self.send(session, ToWorker::Acknowledged(lease));
    }

    fn beat(&mut self) {
        if let Some(index) = self.some_process(|it| it.session.is_some()) {
            self.processes[index].beat();
        }
    }

    fn worker_finishes(&mut self) {
        let Some(index) = self.some_process(|it| !it.running().is_empty()) else { return };
        let running = self.processes[index].running();
        let lease = self.random.pick(&running).expect("it has some");
        let process = &mut self.processes[index];
        process.holds.insert(lease, Holding::Finished);
        if process.session.is_some() {
            process.outbox.push_back(ToServer::Finished(lease));
        }
    }

    fn worker_says(&mut self, what: impl Fn(LeaseId) -> ToServer) {
        let Some(index) = self.some_process(|it| it.session.is_some() && !it.running().is_empty()) else { return };
        let running = self.processes[index].running();
        let lease = self.random.pick(&running).expect("it has some");
        let process = &mut self.processes[index];
        let message = what(lease);
        if matches!(message, ToServer::GiveBack(_)) {
            process.holds.remove(&lease);
        }
        process.outbox.push_back(message);
    }

    fn start_process(&mut self) {
        if self.processes.len() < PROCESSES_MAX {
            let offered = offered_platforms();
            let platforms = offered[self.random.below(offered.len())].clone();
            let instance = INSTANCES[usize::from(self.random.percent(20))];
            let concurrency = 1 + self.random.below(3) as u32;
            self.add_process(instance, platforms, concurrency);
        }
    }

    fn add_process(&mut self, instance: &str, platforms: Vec<reapi::Platform>, concurrency: u32) {
        self.processes_ever += 1;
        self.processes.push(Process {
            id: format!("process {}", self.processes_ever),
            concurrency,
            instance: instance.to_owned(),
            platforms,
            session: None,
            holds: BTreeMap::new(),
            inbox: std::collections::VecDeque::new(),
            outbox: std::collections::VecDeque::new(),
        });
        self.connect(self.processes.len() - 1);
    }

    fn reconnect(&mut self) {
        let Some(index) = self.some_process(|it| it.session.is_none()) else { return };
        match self.random.below(10) {
            // As one that lost its memory.
            0 => self.processes[index].holds.clear(),
            // As one that lies.
            1 => {
                let all: Vec<_> = self.model.holder_of.keys().copied().collect();
                for lease in [self.random.pick(&all), all.last().copied()].into_iter().flatten() {
                    self.processes[index].holds.entry(lease).or_insert(Holding::Running);
                }
            }
            _ => {}
        }
        self.connect(index);
    }

    fn connect(&mut self, index: usize) {
        let process = &mut self.processes[index];
        process.disconnect();
        let hello = WorkerHello {
            name: process.id.clone(),
            process_id: process.id.clone(),
            instance: InstanceName::parse(&process.instance).expect("a name"),
            concurrency: process.concurrency,
            platforms: process.platforms.clone(),
            held: process.holds.keys().copied().collect(),
        };
        let joined = self.scheduler.join(&self.now, hello);
        let process = &mut self.processes[index];
        process.session = Some(joined.session);
        process.holds.retain(|lease, _| joined.kept.contains(lease));
        // What was finished and not acknowledged is said again.
        for (lease, holding) in &process.holds {
            if *holding == Holding::Finished {
                process.outbox.push_back(ToServer::Finished(*lease));
            }
        }
        let before =
            self.model.sessions.iter().find(|(_, it)| it.process_id == process.id).map(|(id, it)| (*id, it.clone()));
        if let Some((session, _)) = before.as_ref().filter(|(_, it)| it.away.is_some()) {
            self.model.sessions.remove(session);
        }
        let session = Session {
            process_id: process.id.clone(),
            instance: process.instance.clone(),
            concurrency: process.concurrency,
            leases_max: joined.kept.len().max(process.concurrency as usize),
            platforms: process.platforms.clone(),
            is_draining: before.is_some_and(|(_, it)| it.is_draining),
            is_resting: false,
            heard: self.now.monotonic,
            away: None,
        };
        let other = self.model.sessions.insert(joined.session, session);
        assert!(other.is_none(), "a session's number is used once");
        self.settle();
        let of_process = self.model.sessions.values().filter(|it| it.process_id == self.processes[index].id);
        assert_eq!(of_process.count(), 1, "a process has one session");
        for lease in &joined.kept {
            let slot = self.model.slots.values().find(|slot| slot.lease() == Some(*lease));
            let holder = slot.and_then(|slot| slot.record.lease.clone()).map(|lease| lease.process_id);
            assert_eq!(holder.as_ref(), Some(&self.processes[index].id), "a worker keeps only what is its");
        }
    }

    fn break_stream(&mut self) {
        let Some(index) = self.some_process(|it| it.session.is_some()) else { return };
        let session = self.processes[index].session.expect("seen above");
        self.processes[index].disconnect();
        if self.random.percent(50) {
            self.leave(session);
        } else {
            self.unnoticed.push(session);
        }
    }

    fn leave(&mut self, session: SessionId) {
        if let Some(known) = self.model.sessions.get_mut(&session) {
            known.away.get_or_insert(self.now.monotonic);
        }
        self.scheduler.leave(&self.now, session);
        self.settle();
    }

    fn notice(&mut self) {
        if !self.unnoticed.is_empty() {
            let index = self.random.below(self.unnoticed.len());
            let session = self.unnoticed.swap_remove(index);
            self.leave(session);
        }
    }

    fn die(&mut self) {
        if let Some(index) = self.some_process(|_| true) {
            let process = self.processes.swap_remove(index);
            self.unnoticed.extend(process.session);
        }
    }

    fn drain(&mut self) {
        if let Some(index) = self.some_process(|it| it.session.is_some()) {
            self.processes[index].outbox.push_back(ToServer::Drain);
        }
    }

    fn some_op(&mut self) -> Option<OperationId> {
        let ids: Vec<_> = self.model.ops.keys().copied().collect();
        self.random.pick(&ids)
    }

    fn cancel(&mut self) {
        let Some(id) = self.some_op() else { return };
        let view = self.scheduler.operation(id).expect("what is known is found");
        let op = self.model.ops.get_mut(&id).expect("it is known");
        let is_over = matches!(view.stage, cask_executor::scheduler::Stage::Completed(_));
        op.was_cancelled |= !is_over;
        self.scheduler.cancel(&self.now, id).expect("it is known");
        if let Some((_, lease)) = view.task.worker
            && self.model.slots.values().all(|slot| slot.lease() != Some(lease))
        {
            self.model.finishing.remove(&lease);
        }
        self.settle();
    }

    fn delete(&mut self) {
        if let Some(id) = self.some_op() {
            self.model.ops.remove(&id);
            self.scheduler.delete(&self.now, id).expect("it is known");
            assert!(self.scheduler.operation(id).is_none());
            self.settle();
        }
    }

    fn attach(&mut self) {
        if let Some(id) = self.some_op() {
            self.listen(id);
        }
    }

    fn listen(&mut self, id: OperationId) {
        if let Some(op) = self.model.ops.get_mut(&id) {
            op.listeners += 1;
            self.scheduler.attach(id).expect("it is known");
            self.settle();
        }
    }

    fn detach(&mut self) {
        let listened: Vec<_> = self.model.ops.iter().filter(|(_, op)| op.listeners > 0).map(|(id, _)| *id).collect();
        if let Some(id) = self.random.pick(&listened) {
            self.model.ops.get_mut(&id).expect("it is known").listeners -= 1;
            self.scheduler.detach(&self.now, id);
            self.settle();
        }
    }

    /// Somebody claims what is another's.
    fn meddle(&mut self) {
        let leases: Vec<_> = self
            .scheduler
            .workers()
            .iter()
            .flat_map(|it| it.leases.clone().into_iter().map(|lease| (it.session, lease)))
            .collect();
        let sessions: Vec<_> = self.model.sessions.keys().copied().collect();
        let (Some((owner, lease)), Some(session)) = (self.random.pick(&leases), self.random.pick(&sessions)) else {
            return;
        };
        if owner == session {
            return;
        }
        if let Some(known) = self.model.sessions.get_mut(&session).filter(|it| it.away.is_none()) {
            known.heard = self.now.monotonic;
        }
        let progress = workers::Progress { lease_id: lease.to_string(), ..Default::default() };
        assert!(self.scheduler.begin_finish(&self.now, session, lease).is_err());
        assert!(self.scheduler.give_back(&self.now, session, lease, "mine").is_err());
        assert!(self.scheduler.progress(&self.now, session, progress).is_err());
        assert!(self.scheduler.take_effects().is_empty());
    }

    fn pass(&mut self, milliseconds_max: usize) {
        let duration = Duration::from_millis(self.random.below(milliseconds_max) as u64);
        let until = self.now.monotonic + duration;
        // Sometimes the one who looks is late.
        if self.random.percent(70) {
            while let Some(due) = self.scheduler.next_deadline().filter(|due| *due <= until) {
                self.tick(due.max(self.now.monotonic));
            }
        }
        self.tick(until);
    }

    fn tick(&mut self, monotonic: Duration) {
        // What ended is seen before time goes on.
        self.check();
        self.now.wall += monotonic.saturating_sub(self.now.monotonic);
        self.now.monotonic = monotonic;
        self.model.now = monotonic;
        let grace = self.model.options.reconnect_grace;
        self.model.sessions.retain(|_, session| session.away.is_none_or(|at| at + grace > monotonic));
        self.scheduler.tick(&self.now);
        self.settle();
        self.check_time();
        self.check();
    }

    /// Some of what was written reaches the disk.
    fn sync(&mut self) {
        for line in self.journal.values_mut() {
            let count = self.random.below(line.pending.len() + 1);
            if let Some(record) = line.pending.drain(..count).next_back() {
                for operation in record.iter().flat_map(|record| &record.operations) {
                    let id = OperationId::parse(&operation.id).expect("an operation's id");
                    if self.model.ops.contains_key(&id) {
                        self.acknowledged.insert(id);
                    }
                }
                line.durable = record;
            }
        }
    }

    fn restart(&mut self) {
        self.sync();
        let mut records = Vec::new();
        for (slot, line) in &mut self.journal {
            line.pending.clear();
            records.extend(line.durable.clone().map(|record| (*slot, record)));
        }
        self.journal.retain(|_, line| line.durable.is_some());
        for process in &mut self.processes {
            process.disconnect();
        }
        self.unnoticed.clear();
        self.storing.clear();
        self.unwritten.clear();
        self.lives += 1;
        self.scheduler = Scheduler::new(self.model.options.clone(), identifiers(self.lives));
        if self.random.percent(50) {
            self.now.wall += Duration::from_secs(20);
        }
        self.model.restarted(self.now.monotonic, &records);
        let mut acknowledged = std::mem::take(&mut self.acknowledged);
        if self.model.options.finished_bytes_max < 1 << 20 {
            // Some may be too much.
            let finished = records.iter().filter(|(_, record)| record.finished.is_some());
            for operation in finished.flat_map(|(_, record)| &record.operations) {
                acknowledged.remove(&OperationId::parse(&operation.id).expect("an operation's id"));
            }
        }
        self.scheduler.restore(&self.now, records);
        for id in acknowledged {
            assert!(self.scheduler.operation(id).is_some(), "{id} was acknowledged, and is lost");
        }
        self.settle();
        self.check();
    }

    /// All faults end; then everything must come to its end, and be forgotten.
    pub(crate) fn heal(&mut self) {
        self.is_healed = true;
        for id in self.model.ops.keys().copied().collect::<Vec<_>>() {
            self.listen(id);
        }
        while !self.storing.is_empty() {
            self.stored();
        }
        let offered = offered_platforms();
        for process in std::mem::take(&mut self.processes) {
            self.unnoticed.extend(process.session);
        }
        for session in std::mem::take(&mut self.unnoticed) {
            self.leave(session);
        }
        for instance in INSTANCES {
            self.add_process(instance, offered[1].clone(), 2);
        }
        for _ in 0..400 {
            if self.model.slots.values().all(|slot| slot.record.finished.is_some()) {
                break;
            }
            self.work();
            self.tick(self.now.monotonic + Duration::from_secs(1));
        }
        self.work();
        self.check();
        for (id, op) in &self.model.ops {
            assert!(op.outcome.is_some(), "{id} never ends");
        }
        for process in &self.processes {
            assert!(process.holds.is_empty(), "{process:?} still runs what nobody waits for");
        }
        assert!(self.scheduler.workers().iter().all(|it| it.leases.is_empty()));
        while self.model.ops.values().any(|op| op.listeners > 0) {
            self.detach();
        }
        let gone_at = self.now.monotonic + self.model.options.finished_retention;
        while self.now.monotonic < gone_at {
            self.tick(self.now.monotonic + Duration::from_secs(10));
            self.work();
        }
        assert!(self.model.ops.is_empty() && self.model.slots.is_empty(), "{:?}", self.model);
        for line in self.journal.values() {
            let last = line.pending.last().unwrap_or(&line.durable);
            assert!(last.is_none(), "the journal keeps what is forgotten");
        }
    }

    /// Workers do what they have to, and everybody hears everything.
    fn work(&mut self) {
        for _ in 0..2 {
            for process in &mut self.processes {
                process.beat();
            }
            while self
                .processes
                .iter()
                .any(|it| !it.running().is_empty() || !it.inbox.is_empty() || !it.outbox.is_empty())
            {
                self.deliver_to_worker();
                self.worker_finishes();
                self.deliver_to_server();
                while !self.storing.is_empty() {
                    self.stored();
                }
            }
        }
    }
}
