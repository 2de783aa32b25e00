//! A scheduler with a clock that is set by hand, and short words for what is done to it.

use std::time::{Duration, SystemTime};

use cask_executor::scheduler::{
    Effect, JournalSlot, LeaseId, Now, OperationId, Options, Refused, Scheduler, SessionId, Stage, Submission,
    WorkerHello,
};
use cask_index::{Digest, DigestFunction};
use cask_proto::queue::TaskRecord;
use cask_proto::reapi::{self, platform::Property};
use cask_proto::{InstanceName, workers};

/// See the module.
pub(crate) struct Farm {
    pub(crate) scheduler: Scheduler,
    pub(crate) now: Now,
    pub(crate) effects: Vec<Effect>,
}

/// 2001, some time.
pub(crate) fn epoch() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)
}

/// Identifiers that count up.
pub(crate) fn counting(first: u128) -> Box<dyn FnMut() -> u128 + Send> {
    let mut next = first;
    Box::new(move || {
        next += 1;
        next
    })
}

pub(crate) fn action(number: u64) -> Digest {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&number.to_le_bytes());
    Digest::new(DigestFunction::Sha256, &hash, 100).expect("a hash of that length")
}

/// `name=value` each.
pub(crate) fn platform(properties: &[&str]) -> reapi::Platform {
    let property = |text: &&str| {
        let (name, value) = text.split_once('=').expect("name=value");
        Property { name: name.to_owned(), value: value.to_owned() }
    };
    reapi::Platform { properties: properties.iter().map(property).collect() }
}

/// A plain submission; the tests change what they are about.
pub(crate) fn submission(number: u64) -> Submission {
    Submission {
        instance: InstanceName::EMPTY,
        action: action(number),
        platform: platform(&[]),
        priority: 0,
        timeout: Duration::from_secs(60),
        do_not_cache: false,
        skip_cache_lookup: false,
        request_metadata: reapi::RequestMetadata::default(),
    }
}

/// The submission of an invocation.
pub(crate) fn of(invocation: &str, number: u64) -> Submission {
    let request_metadata = reapi::RequestMetadata { tool_invocation_id: invocation.to_owned(), ..Default::default() };
    Submission { request_metadata, ..submission(number) }
}

pub(crate) fn hello(process: &str, concurrency: u32) -> WorkerHello {
    WorkerHello {
        name: format!("worker {process}"),
        process_id: process.to_owned(),
        instance: InstanceName::EMPTY,
        concurrency,
        platforms: vec![platform(&["OSFamily=linux"])],
        held: Vec::new(),
    }
}

/// A response that is told from others.
pub(crate) fn response(message: &str) -> reapi::ExecuteResponse {
    reapi::ExecuteResponse { message: message.to_owned(), ..Default::default() }
}

/// What a worker was given.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) session: SessionId,
    pub(crate) lease: LeaseId,
    pub(crate) assignment: workers::Assignment,
}

impl Farm {
    pub(crate) fn new(options: Options) -> Self {
        let now = Now { monotonic: Duration::from_secs(100), wall: epoch() };
        Self { scheduler: Scheduler::new(options, counting(0)), now, effects: Vec::new() }
    }

    /// A new process with what the journal had.
    pub(crate) fn restarted(options: Options, wall: SystemTime, records: Vec<(JournalSlot, TaskRecord)>) -> Self {
        let mut farm = Self::new(options.clone());
        farm.scheduler = Scheduler::new(options, counting(1 << 64));
        farm.now.wall = wall;
        farm.scheduler.restore(&farm.now, records);
        farm
    }

    pub(crate) fn execute(&mut self, submission: Submission) -> OperationId {
        self.try_execute(submission).expect("there is room")
    }

    pub(crate) fn try_execute(&mut self, submission: Submission) -> Result<OperationId, Refused> {
        self.scheduler.execute(&self.now, submission)
    }

    pub(crate) fn join(&mut self, hello: WorkerHello) -> SessionId {
        self.scheduler.join(&self.now, hello).session
    }

    /// Lets time pass, with all looks in between at their time.
    pub(crate) fn pass(&mut self, duration: Duration) {
        let until = self.now.monotonic + duration;
        while let Some(due) = self.scheduler.next_deadline().filter(|due| *due <= until) {
            self.advance_to(due.max(self.now.monotonic));
            self.scheduler.tick(&self.now);
        }
        self.advance_to(until);
    }

    fn advance_to(&mut self, monotonic: Duration) {
        self.now.wall += monotonic.saturating_sub(self.now.monotonic);
        self.now.monotonic = monotonic;
    }

    /// Effects since the last call.
    pub(crate) fn effects(&mut self) -> Vec<Effect> {
        let effects = self.scheduler.take_effects();
        self.effects.extend(effects.iter().cloned());
        effects
    }

    /// What was given to workers since the last call, other effects left out.
    pub(crate) fn given(&mut self) -> Vec<Given> {
        let given = |effect| match effect {
            Effect::Assign { session, assignment } => {
                let lease = LeaseId::parse(&assignment.lease_id).expect("a lease's id");
                Some(Given { session, lease, assignment: *assignment })
            }
            _ => None,
        };
        self.effects().into_iter().filter_map(given).collect()
    }

    /// The one task given since the last call.
    pub(crate) fn given_one(&mut self) -> Given {
        let mut given = self.given();
        assert_eq!(given.len(), 1, "{given:?}");
        given.remove(0)
    }

    pub(crate) fn finish(&mut self, given: &Given, message: &str) {
        self.scheduler.begin_finish(&self.now, given.session, given.lease).expect("it is its");
        self.scheduler.finish(&self.now, given.lease, response(message));
    }

    pub(crate) fn stage(&self, operation: OperationId) -> Stage {
        self.scheduler.operation(operation).expect("it is known").stage
    }

    /// The message and the status code of a finished operation.
    pub(crate) fn outcome(&self, operation: OperationId) -> (String, i32) {
        match self.stage(operation) {
            Stage::Completed(response) => {
                (response.message.clone(), response.status.as_ref().map_or(0, |status| status.code))
            }
            stage => panic!("not finished but {stage:?}"),
        }
    }
}
