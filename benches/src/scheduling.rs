//! A farm without a network: a scheduler, its workers, and actions as builds send them.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use cask_executor::scheduler::{Effect, LeaseId, Now, Options, Scheduler, SessionId, Submission, WorkerHello};
use cask_index::{Digest, DigestFunction};
use cask_proto::InstanceName;
use cask_proto::reapi::{self, platform::Property};

/// Builds that are under way at once.
const INVOCATIONS: u64 = 50;

/// A scheduler whose workers are all busy while anything waits.
#[derive(Debug)]
pub struct Farm {
    scheduler: Scheduler,
    now: Now,
    submitted: u64,
    running: VecDeque<(SessionId, LeaseId)>,
    sessions: Vec<SessionId>,
}

fn platform(properties: &[(&str, &str)]) -> reapi::Platform {
    let property = |(name, value): &(&str, &str)| Property { name: (*name).to_owned(), value: (*value).to_owned() };
    reapi::Platform { properties: properties.iter().map(property).collect() }
}

/// What action `number` asks for: one of three containers.
fn wanted(number: u64) -> reapi::Platform {
    let image = format!("docker://registry.example.org/toolchain@sha256:{:064x}", number % 3);
    platform(&[("ISA", "x86-64"), ("OSFamily", "linux"), ("container-image", &image)])
}

/// As Bazel says it.
fn request_metadata(number: u64) -> reapi::RequestMetadata {
    let invocation = number % INVOCATIONS;
    reapi::RequestMetadata {
        tool_details: Some(reapi::ToolDetails { tool_name: "bazel".to_owned(), tool_version: "8.0.0".to_owned() }),
        action_id: format!("{number:064x}"),
        tool_invocation_id: format!("5b8efff8-1a35-4bd3-8d4b-{invocation:012x}"),
        correlated_invocations_id: format!("0f4a3c2e-7b11-4c37-9a44-{invocation:012x}"),
        action_mnemonic: "CppCompile".to_owned(),
        target_id: format!("//some/package/of/usual/depth:target_{}", number / 10),
        configuration_id: format!("{:064x}", 7),
    }
}

fn submission(number: u64) -> Submission {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    Submission {
        instance: InstanceName::EMPTY,
        action: Digest::new(DigestFunction::Sha256, &hash, 147).expect("a hash of that length"),
        platform: wanted(number),
        priority: 0,
        timeout: Duration::from_secs(600),
        do_not_cache: false,
        skip_cache_lookup: false,
        request_metadata: request_metadata(number),
    }
}

impl Farm {
    /// A farm of so many workers, each of which runs `concurrency` actions at once.
    ///
    /// # Panics
    /// Never.
    pub fn new(workers: u32, concurrency: u32) -> Self {
        let mut state = 1_u128;
        let random = move || {
            state = state.wrapping_mul(0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645).wrapping_add(1);
            state ^ (state >> 64)
        };
        let now = Now { monotonic: Duration::ZERO, wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) };
        let mut farm = Self {
            scheduler: Scheduler::new(Options::default(), Box::new(random)),
            now,
            submitted: 0,
            running: VecDeque::new(),
            sessions: Vec::new(),
        };
        for worker in 0..workers {
            let any = ("container-image", "*");
            // Two sizes of machine.
            let pool = if worker % 4 == 0 { ("pool", "large") } else { ("pool", "small") };
            let hello = WorkerHello {
                name: format!("worker-{worker}.example.org"),
                process_id: format!("{worker:032x}"),
                instance: InstanceName::EMPTY,
                concurrency,
                platforms: vec![platform(&[("ISA", "x86-64"), ("OSFamily", "linux"), any, pool])],
                held: Vec::new(),
            };
            let joined = farm.scheduler.join(&farm.now, hello);
            farm.sessions.push(joined.session);
        }
        farm
    }

    /// A client sends one action.
    ///
    /// # Panics
    /// When the queue is full.
    pub fn submit(&mut self) {
        self.submitted += 1;
        self.now.monotonic += Duration::from_micros(10);
        self.now.wall += Duration::from_micros(10);
        let operation = self.scheduler.execute(&self.now, submission(self.submitted)).expect("room");
        self.scheduler.attach(operation).expect("just submitted");
        self.take_effects();
    }

    /// The worker that has run longest finishes; it gets the next action, if one waits.
    ///
    /// # Panics
    /// When nothing runs.
    pub fn finish(&mut self) {
        self.now.monotonic += Duration::from_micros(10);
        let (session, lease) = self.running.pop_front().expect("something runs");
        self.scheduler.begin_finish(&self.now, session, lease).expect("it is its");
        let result = reapi::ActionResult { exit_code: 0, ..Default::default() };
        let response = reapi::ExecuteResponse { result: Some(result), ..Default::default() };
        self.scheduler.finish(&self.now, lease, response);
        self.take_effects();
    }

    /// A worker says that it lives.
    pub fn beat(&mut self, worker: usize) {
        let session = self.sessions[worker % self.sessions.len()];
        self.scheduler.heartbeat(&self.now, session, &[]);
        self.take_effects();
    }

    /// Does what is due.
    pub fn tick(&mut self) {
        self.scheduler.tick(&self.now);
        self.take_effects();
    }

    /// Actions that wait.
    pub fn queued(&self) -> usize {
        self.scheduler.counts().queued
    }

    fn take_effects(&mut self) {
        for effect in self.scheduler.take_effects() {
            if let Effect::Assign { session, assignment } = effect {
                self.running.push_back((session, LeaseId::parse(&assignment.lease_id).expect("a lease's id")));
            }
        }
    }
}
