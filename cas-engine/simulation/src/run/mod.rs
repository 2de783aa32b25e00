//! One run: a store, a list of operations, and a look at everything after each of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cask_engine::clock::Clock;
use cask_engine::{BeginUpload, Completion, Engine, EngineError, EngineStats, OpenError, ReclaimStep, Stepper, Upload};
use cask_index::{Digest, DigestFunction, Namespace};

use crate::checker::Violation;
use crate::clock::SimClock;
use crate::disk::{CrashKind, Fault, FaultCounts, SimDisk, Survivors};
use crate::model::{Known, Model};
use crate::random::{Random, mix_seed};
use crate::workload::{Flaw, Operation, Setup};

/// Rounds of fair steps after which every upload must have its answer.
const SETTLE_ROUNDS_MAX: usize = 400;
/// Between two rounds.
const SETTLE_ROUND_MS: u64 = 100;
/// Uploads tried until one must be accepted, once nothing protects anything.
const LIVENESS_TRIES_MAX: u32 = 12;
/// Numbers of the blobs that liveness uploads.
const LIVENESS_BLOBS_FIRST: u32 = 1 << 25;
/// Chunks held at once.
const HELD_MAX: usize = 8;
/// Uploads open at once.
const UPLOADS_MAX: usize = 6;

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Operations carried out.
    pub operations: u64,
    /// Crashes, those during a recovery included.
    pub crashes: u64,
    /// Times a store was opened, the looks at copies included.
    pub opens: u64,
    /// Disk operations that could have been a crash point.
    pub disk_operations: u64,
    /// Segments that reclaim freed.
    pub reclaimed_segments: u64,
    /// Uploads refused.
    pub refused: u64,
    /// Faults by kind.
    pub faults: FaultCounts,
    /// Unsynced writes when the machine went down last.
    pub unsynced_at_crash: u32,
    /// A hash of everything that happened.
    pub trace: u64,
}

impl Tally {
    /// Sums.
    pub fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.crashes += other.crashes;
        self.opens += other.opens;
        self.disk_operations += other.disk_operations;
        self.reclaimed_segments += other.reclaimed_segments;
        self.refused += other.refused;
        self.faults.add(&other.faults);
        self.trace ^= other.trace;
    }

    pub(crate) fn note(&mut self, word: u64) {
        self.trace = (self.trace.rotate_left(7) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

type Checked<T = ()> = Result<T, Violation>;

macro_rules! require {
    ($condition:expr, $checker:expr, $($detail:tt)*) => {
        if !$condition {
            return Err(Violation::new($checker, format!($($detail)*)));
        }
    };
}

mod opening;
mod questions;
mod steps;
mod uploads;
mod whole;

/// What a completion says, in the end.
enum Outcome {
    /// What came of it, and when.
    Ran(Result<(), EngineError>, u64),
    /// Dropped without having run.
    Dropped,
}

type Outcomes = Arc<Mutex<Vec<(u64, Outcome)>>>;

/// Tells when a completion goes without having run.
struct Ticket {
    id: u64,
    outcomes: Outcomes,
    ran: bool,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.ran {
            self.outcomes.lock().unwrap().push((self.id, Outcome::Dropped));
        }
    }
}

/// What a completion is about.
#[derive(Clone, Copy, Debug)]
enum About {
    Blob(u32),
    Action(u32, usize),
    Part,
}

struct Waiting {
    about: About,
    /// Errors of the disk when it began: it may fail only if there was another since.
    errors: u64,
}

struct OpenUpload {
    blob: u32,
    upload: Upload,
    /// What is sent, wrong or right.
    data: Vec<u8>,
    position: usize,
    flaw: Flaw,
    errors: u64,
}

struct Held {
    digest: Digest,
    chunk: Bytes,
    copy: Vec<u8>,
}

/// A store under simulation.
pub struct Run<'a> {
    setup: &'a Setup,
    clock: Arc<SimClock>,
    disk: Arc<SimDisk>,
    opened: Option<(Engine, Stepper)>,
    segment_count: u32,
    random: Random,
    model: Model,
    uploads: Vec<OpenUpload>,
    held: Vec<Held>,
    outcomes: Outcomes,
    waiting: BTreeMap<u64, Waiting>,
    next_id: u64,
    /// How the next crash of the disk ends.
    crash: (CrashKind, Option<u32>),
    seen: EngineStats,
    liveness_blob: u32,
    tally: Tally,
    /// Prints what happens.
    verbose: bool,
    /// One of very many.
    brief: bool,
}

/// Runs a setup's operations on an empty store.
pub fn run(setup: &Setup, operations: &[Operation]) -> (Tally, Result<(), Violation>) {
    let mut run = Run::new(setup);
    let outcome = run.all(operations);
    if run.verbose && outcome.is_err() {
        run.disk.dump();
    }
    (run.finish(), outcome)
}

/// A store in a state from which many runs begin, and what the model knows of it.
pub struct Prepared {
    setup: Setup,
    disk: Arc<SimDisk>,
    model: Model,
    now_ms: u64,
}

impl Prepared {
    /// Carries out `operations` on an empty store and closes it in order.
    ///
    /// # Errors
    /// A promise was broken on the way.
    pub fn new(setup: Setup, operations: &[Operation]) -> Result<Self, Violation> {
        let (disk, model, now_ms) = {
            let mut run = Run::new(&setup);
            run.open(None)?;
            operations.iter().try_for_each(|operation| run.take(operation))?;
            run.stepper().close().map_err(|error| Violation::new("opening", error.to_string()))?;
            run.model.synced();
            run.drop_engine()?;
            let model = std::mem::replace(&mut run.model, Model::new(&setup));
            (Arc::clone(&run.disk), model, run.now_ms())
        };
        Ok(Self { setup, disk, model, now_ms })
    }

    /// How the store is opened.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Carries out `operations` on a copy. A crash that they arm and do not reach does not happen.
    pub fn run(&self, operations: &[Operation]) -> (Tally, Result<(), Violation>) {
        crate::search::caught(|| {
            let mut run = Run::new(&self.setup);
            run.clock = Arc::new(SimClock::at(self.now_ms));
            // Another process: with the first one's entropy its large uploads would have the nonces of those stored.
            run.random = Random::new(mix_seed(self.setup.seed, 5));
            run.disk = self.disk.copy_at(&run.clock);
            run.model = self.model.clone();
            run.brief = true;
            let outcome = run.open(None).and_then(|_| {
                operations.iter().enumerate().try_for_each(|(position, operation)| {
                    run.take(operation).map_err(|violation| violation.at(position, operation))
                })
            });
            (run.finish(), outcome)
        })
    }
}

impl<'a> Run<'a> {
    fn new(setup: &'a Setup) -> Self {
        let clock = Arc::new(SimClock::new());
        let disk = SimDisk::new(Arc::clone(&clock), mix_seed(setup.seed, 3));
        Self {
            setup,
            clock,
            disk,
            opened: None,
            segment_count: setup.segment_count,
            random: Random::new(mix_seed(setup.seed, 4)),
            model: Model::new(setup),
            uploads: Vec::new(),
            held: Vec::new(),
            outcomes: Outcomes::default(),
            waiting: BTreeMap::new(),
            next_id: 0,
            crash: (CrashKind::Kill, None),
            seen: EngineStats::default(),
            liveness_blob: LIVENESS_BLOBS_FIRST,
            tally: Tally::default(),
            brief: false,
            verbose: std::env::var_os("SIMULATE_VERBOSE").is_some(),
        }
    }

    fn all(&mut self, operations: &[Operation]) -> Checked {
        self.open(None)?;
        for (position, operation) in operations.iter().enumerate() {
            self.tally.operations += 1;
            self.take(operation).map_err(|violation| violation.at(position, operation))?;
        }
        let end = operations.len();
        let last = Operation::Liveness;
        self.take(&last).map_err(|violation| violation.at(end, &last))?;
        let last = Operation::Crash { after: 0, kind: CrashKind::Kill, again_after: None };
        self.take(&last).map_err(|violation| violation.at(end + 1, &last))
    }

    fn finish(mut self) -> Tally {
        self.held.clear();
        self.uploads.clear();
        self.opened = None;
        self.tally.disk_operations += self.disk.operations();
        self.tally.faults.add(&self.disk.counts());
        self.tally.note(self.disk.trace());
        self.tally
    }

    fn engine(&self) -> &Engine {
        &self.opened.as_ref().expect("the store is open between operations").0
    }

    fn stepper(&self) -> &Stepper {
        &self.opened.as_ref().expect("the store is open between operations").1
    }

    fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// One operation, the checks after it, and the crash that it may have run into.
    fn take(&mut self, operation: &Operation) -> Checked {
        self.tally.note(0x0B);
        if self.verbose {
            println!("{} {operation:?}", self.now_ms() % 100_000_000);
        }
        self.perform(operation)?;
        self.drain()?;
        if self.disk.is_crashed() {
            // The operation may have reclaimed before it died.
            if self.opened.is_some() {
                self.look_at_changes()?;
            }
            let (kind, again_after) = self.crash;
            return self.crash_and_reopen(kind, again_after);
        }
        self.look_at_changes()?;
        self.check_stats()?;
        self.check_held()
    }

    fn perform(&mut self, operation: &Operation) -> Checked {
        match operation {
            Operation::Put { blob } => self.put(*blob),
            Operation::PutMany { first, count } => (*first..first + count).try_for_each(|blob| {
                if self.disk.is_crashed() {
                    // The process is dead: what it would still say binds nobody.
                    return Ok(());
                }
                self.put(blob)?;
                if self.waiting.len().is_multiple_of(16) { self.step_write() } else { Ok(()) }
            }),
            Operation::Open { blob, flaw } => self.open_upload(*blob, *flaw),
            Operation::Feed { upload, bytes } => match self.upload_index(*upload) {
                Some(index) => self.feed(index, *bytes as usize).map(|_| ()),
                None => Ok(()),
            },
            Operation::Finish { upload } => match self.upload_index(*upload) {
                Some(index) => self.finish_upload(index),
                None => Ok(()),
            },
            Operation::Abandon { upload } => {
                if let Some(index) = self.upload_index(*upload) {
                    self.uploads.remove(index);
                }
                Ok(())
            }
            Operation::PutAction { action, closure, value_bytes } => {
                self.put_action(*action, closure, *value_bytes as usize);
                Ok(())
            }
            Operation::GetAction { action } => self.get_action(*action),
            Operation::FindMissing { blobs } => self.find_missing(blobs),
            Operation::Read { blob } => self.read(*blob),
            Operation::Hold { blob, at } => self.hold(*blob, *at),
            Operation::Release => self.release(),
            Operation::Advance { ms } => {
                self.advance(*ms);
                Ok(())
            }
            Operation::Write => self.step_write(),
            Operation::Sync => self.step_sync(),
            Operation::Reclaim => self.step_reclaim().map(|_| ()),
            Operation::Maintain => {
                self.stepper().maintain();
                Ok(())
            }
            Operation::Settle => self.settle(),
            Operation::Liveness => self.liveness(),
            Operation::Reopen { segment_count, power_loss } => self.reopen_in_order(*segment_count, *power_loss),
            Operation::Crash { after, kind, again_after } => {
                self.crash = (*kind, *again_after);
                match after {
                    0 => self.disk.crash_now(),
                    _ => self.disk.crash_after(Some(u64::from(*after))),
                }
                Ok(())
            }
            Operation::Fault(fault) => self.fault(*fault),
        }
    }
}

fn open_store(
    disk: &Arc<SimDisk>,
    options: &cask_engine::EngineOptions,
    clock: &Arc<SimClock>,
    random: &mut Random,
) -> Result<(Engine, Stepper), OpenError> {
    let mut entropy = [0; 56];
    for word in entropy.chunks_exact_mut(8) {
        word.copy_from_slice(&random.next_u64().to_le_bytes());
    }
    let disk: Arc<dyn cask_engine::disk::Disk> = Arc::clone(disk) as _;
    let clock: Arc<dyn Clock> = Arc::clone(clock) as _;
    let (engine, stepper, _) = Engine::open_stepped(disk, options, clock, &entropy)?;
    Ok((engine, stepper))
}

/// Whether the blob is in the index, found in a way that touches nothing.
fn is_stored(engine: &Engine, digest: &Digest) -> bool {
    digest.is_empty_blob()
        || engine
            .find_by_hash(Namespace::SHARED, DigestFunction::Sha256, digest.hash())
            .is_ok_and(|found| found == Some(*digest))
}

/// True when it was read, and rightly.
fn check_read(number: u32, model: &Model, disk: &SimDisk, outcome: &Result<Bytes, EngineError>) -> Checked<bool> {
    let blob = &model.blobs[&number];
    match outcome {
        Ok(bytes) => {
            require!(
                bytes[..] == blob.data[..],
                "wrong bytes",
                "blob {number} ({}) reads as something else",
                blob.digest
            );
            Ok(true)
        }
        Err(error) => {
            let harmed = disk.is_harmed(&blob.digest);
            require!(
                harmed || (blob.known != Known::Present && matches!(error, EngineError::NotFound)),
                "unreadable",
                "blob {number} ({}), durable {}, known {:?}: {error}",
                blob.digest,
                blob.durable,
                blob.known
            );
            Ok(false)
        }
    }
}

/// The position of the value that was returned; `None` for a miss that is allowed.
fn check_action(
    number: u32,
    model: &Model,
    disk: &SimDisk,
    outcome: &Result<Bytes, EngineError>,
    setup: &Setup,
    now_ms: u64,
) -> Checked<Option<usize>> {
    let action = &model.actions[&number];
    let harmed = disk.is_harmed(&action.digest);
    let binding = action.newest_binding();
    match outcome {
        Ok(value) => {
            let position = action.puts.iter().position(|put| *value == put.value);
            let Some(position) = position else {
                return Err(Violation::new(
                    "wrong bytes",
                    format!("action {number} has a value that was never stored"),
                ));
            };
            require!(
                harmed || binding.is_none_or(|binding| position >= binding),
                "stale action",
                "action {number} returns value {position}, and {binding:?} was acknowledged"
            );
            Ok(Some(position))
        }
        Err(EngineError::NotFound) => {
            let in_floor = action.promised_ms.is_some_and(|promised_ms| now_ms - promised_ms < setup.lease_floor_ms);
            let expected = match binding {
                Some(binding) if action.confirmed || in_floor => {
                    // A later call without answer may have replaced it, with a closure that is not there.
                    binding + 1 == action.puts.len()
                        && action.puts[binding].closure.iter().all(|blob| {
                            let blob = &model.blobs[blob];
                            blob.known == Known::Present && !disk.is_harmed(&blob.digest)
                        })
                }
                _ => false,
            };
            require!(
                harmed || !expected,
                "lost action",
                "action {number} is a miss: confirmed {}, promised {:?} ms ago",
                action.confirmed,
                action.promised_ms.map(|promised_ms| now_ms - promised_ms)
            );
            Ok(None)
        }
        Err(error) => Err(Violation::new("error kind", format!("get_action: {error}"))),
    }
}
