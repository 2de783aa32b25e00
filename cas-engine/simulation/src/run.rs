//! One run: a store, a list of operations, and a look at everything after each of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cask_engine::clock::Clock;
use cask_engine::{BeginUpload, Completion, Engine, EngineError, EngineStats, OpenError, ReclaimStep, Stepper, Upload};
use cask_index::{Digest, DigestFunction};

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

    // ---- uploads

    fn completion(&mut self, about: About, errors: u64) -> Completion {
        let id = self.next_id;
        self.next_id += 1;
        self.waiting.insert(id, Waiting { about, errors });
        let mut ticket = Ticket { id, outcomes: Arc::clone(&self.outcomes), ran: false };
        let clock = Arc::clone(&self.clock);
        Box::new(move |outcome| {
            ticket.ran = true;
            // The promise runs from here: the step that gave it may take its time with something else.
            ticket.outcomes.lock().unwrap().push((ticket.id, Outcome::Ran(outcome, clock.now_ms())));
        })
    }

    fn upload_index(&self, upload: u32) -> Option<usize> {
        (!self.uploads.is_empty()).then(|| upload as usize % self.uploads.len())
    }

    fn put(&mut self, number: u32) -> Checked {
        self.open_upload(number, Flaw::None)?;
        match self.uploads.last() {
            Some(upload) if upload.blob == number && upload.position == 0 => self.finish_upload(self.uploads.len() - 1),
            _ => Ok(()),
        }
    }

    fn open_upload(&mut self, number: u32, flaw: Flaw) -> Checked {
        if self.uploads.len() > UPLOADS_MAX {
            return Ok(());
        }
        let errors = self.disk.errors();
        let now_ms = self.now_ms();
        let blob = self.model.blob(self.setup, number);
        let (digest, known) = (blob.digest, blob.known);
        let (mut data, flaw) = (blob.data.to_vec(), if blob.data.is_empty() { Flaw::None } else { flaw });
        match flaw {
            Flaw::None => {}
            Flaw::Content => {
                let middle = data.len() / 2;
                data[middle] ^= 1;
            }
            Flaw::TooLong => data.push(7),
            Flaw::TooShort => {
                data.pop();
            }
        }
        match self.engine().begin_upload(digest) {
            Ok(BeginUpload::Present) => {
                require!(
                    known != Known::Absent,
                    "presence",
                    "an upload of blob {number} ({digest}) found it present, which it is not"
                );
                self.model.blob_reported(number, now_ms);
            }
            Ok(BeginUpload::Upload(upload)) => {
                require!(
                    known != Known::Present || self.disk.is_harmed(&digest),
                    "presence",
                    "an upload of blob {number} ({digest}) did not find it, and it is to be there"
                );
                self.found_absent(number);
                self.uploads.push(OpenUpload { blob: number, upload, data, position: 0, flaw, errors });
            }
            Err(error) => self.check_refusal(&error, errors, "begin_upload")?,
        }
        Ok(())
    }

    /// True while it goes on.
    fn feed(&mut self, index: usize, bytes: usize) -> Checked<bool> {
        let mut left = bytes;
        loop {
            let (needs_flush, errors) = (self.uploads[index].upload.needs_flush(), self.uploads[index].errors);
            if needs_flush {
                let done = self.completion(About::Part, errors);
                self.uploads[index].upload.flush_part(done);
                self.model.keys_max += 1;
            }
            let one = &mut self.uploads[index];
            let room = one.upload.part_room_bytes().min(left).min(one.data.len() - one.position);
            if room == 0 {
                return Ok(true);
            }
            match one.upload.append(&one.data[one.position..one.position + room]) {
                Ok(()) => {
                    one.position += room;
                    left -= room;
                }
                Err(EngineError::Mismatch { .. }) if one.flaw == Flaw::TooLong => {
                    self.uploads.remove(index);
                    return Ok(false);
                }
                Err(error) => {
                    return Err(Violation::new("upload", format!("append to blob {}: {error}", one.blob)));
                }
            }
        }
    }

    fn finish_upload(&mut self, index: usize) -> Checked {
        if !self.feed(index, usize::MAX)? {
            return Ok(());
        }
        let OpenUpload { blob, upload, flaw, errors, .. } = self.uploads.remove(index);
        let large = upload.digest().size_bytes() > self.setup.part_size_bytes() as u64;
        self.model.keys_max += 1 + u64::from(large);
        if flaw == Flaw::None {
            self.model.blobs.get_mut(&blob).expect("it was opened").whole = true;
        }
        let done = self.completion(About::Blob(blob), errors);
        let id = self.next_id - 1;
        match (upload.finish(done), flaw) {
            (Ok(()), Flaw::None) => Ok(()),
            (Err(EngineError::Mismatch { .. }), Flaw::Content | Flaw::TooShort) => {
                self.waiting.remove(&id);
                self.outcomes.lock().unwrap().retain(|(other, _)| *other != id);
                Ok(())
            }
            (outcome, flaw) => Err(Violation::new("upload", format!("finish of blob {blob}, {flaw:?}: {outcome:?}"))),
        }
    }

    /// A refusal must be of a kind that the situation allows.
    fn check_refusal(&mut self, error: &EngineError, errors: u64, what: &str) -> Checked {
        match error {
            EngineError::Full { retry_after, advice } => {
                self.tally.refused += 1;
                require!(
                    !retry_after.is_zero() && !advice.is_empty(),
                    "advice",
                    "{what} was refused with {retry_after:?} and {advice:?}"
                );
                Ok(())
            }
            EngineError::Storage(text) => {
                require!(
                    self.disk.errors() > errors || self.disk.is_crashed(),
                    "a failure without a fault",
                    "{what} failed with {text:?}, and the disk gave no error since it began"
                );
                Ok(())
            }
            other => Err(Violation::new("error kind", format!("{what}: {other}"))),
        }
    }

    /// Answers that have come since.
    fn drain(&mut self) -> Checked {
        let outcomes = std::mem::take(&mut *self.outcomes.lock().unwrap());
        for (id, outcome) in outcomes {
            let Some(Waiting { about, errors }) = self.waiting.remove(&id) else {
                return Err(Violation::new("completion", format!("completion {id} ran twice")));
            };
            self.tally.note(match &outcome {
                Outcome::Ran(Ok(()), _) => 1,
                Outcome::Ran(Err(_), _) => 2,
                Outcome::Dropped => 3,
            });
            match (about, outcome) {
                (_, Outcome::Dropped) => {
                    require!(self.opened.is_none(), "completion", "the completion of {about:?} was dropped unused");
                    match about {
                        About::Blob(blob) => {
                            let blob = self.model.blobs.get_mut(&blob).expect("it was mentioned");
                            if blob.known == Known::Absent {
                                blob.known = Known::Unknown;
                            }
                        }
                        About::Action(..) | About::Part => {}
                    }
                }
                (About::Blob(blob), Outcome::Ran(Ok(()), now_ms)) => self.model.blob_reported(blob, now_ms),
                (About::Action(action, position), Outcome::Ran(Ok(()), now_ms)) => {
                    self.model.action_reported(action, position, now_ms);
                }
                (About::Part, Outcome::Ran(Ok(()), _)) => {}
                (_, Outcome::Ran(Err(EngineError::Closed), _)) if self.opened.is_none() => {}
                (_, Outcome::Ran(Err(error), _)) => self.check_refusal(&error, errors, &format!("{about:?}"))?,
            }
        }
        Ok(())
    }

    // ---- questions

    fn find_missing(&mut self, numbers: &[u32]) -> Checked {
        let digests: Vec<Digest> = numbers.iter().map(|number| self.model.blob(self.setup, *number).digest).collect();
        let mut absent = Vec::new();
        self.engine()
            .find_missing(&digests, &mut absent)
            .map_err(|error| Violation::new("error kind", format!("find_missing: {error}")))?;
        let now_ms = self.now_ms();
        for (position, number) in numbers.iter().enumerate() {
            let is_absent = absent.contains(&position);
            self.tally.note(u64::from(is_absent));
            self.check_presence(*number, !is_absent, "find_missing")?;
            if is_absent {
                self.found_absent(*number);
            } else {
                self.model.blob_reported(*number, now_ms);
            }
        }
        Ok(())
    }

    fn check_presence(&self, number: u32, present: bool, what: &str) -> Checked {
        let blob = &self.model.blobs[&number];
        require!(
            present || blob.known != Known::Present || self.disk.is_harmed(&blob.digest),
            "presence",
            "{what} says that blob {number} ({}) is missing; it was promised {:?} ms ago, durable {}",
            blob.digest,
            blob.promised_ms.map(|promised_ms| self.now_ms() - promised_ms),
            blob.durable
        );
        require!(
            !present || blob.whole,
            "partial blob",
            "{what} says that blob {number} ({}) is there, which was never sent completely",
            blob.digest
        );
        require!(
            !present || blob.known != Known::Absent,
            "presence",
            "{what} says that blob {number} ({}) is there, which was absent and not uploaded since",
            blob.digest
        );
        Ok(())
    }

    fn read(&mut self, number: u32) -> Checked {
        let digest = self.model.blob(self.setup, number).digest;
        let outcome = self.engine().read_all(&digest, u64::MAX);
        let found = check_read(number, &self.model, &self.disk, &outcome)?;
        self.tally.note(u64::from(found));
        let now_ms = self.now_ms();
        if found {
            self.check_presence(number, true, "read")?;
            self.model.blob_reported(number, now_ms);
        } else {
            self.found_absent(number);
        }
        Ok(())
    }

    /// It was just found missing: and so it stays, unless a damaged record of it is still about.
    fn found_absent(&mut self, number: u32) {
        let blob = self.model.blobs.get_mut(&number).expect("it was asked for");
        blob.known = if self.disk.is_harmed(&blob.digest) { Known::Unknown } else { Known::Absent };
    }

    fn hold(&mut self, number: u32, at: u32) -> Checked {
        if self.held.len() >= HELD_MAX || self.disk.is_faulty() {
            return Ok(());
        }
        let digest = self.model.blob(self.setup, number).digest;
        let size_bytes = digest.size_bytes();
        let offset = u64::from(at) % size_bytes.max(1);
        let Ok(blob) = self.engine().read(&digest) else {
            return self.check_presence(number, false, "read");
        };
        let chunk = match blob.chunk_at(offset, false) {
            Ok(None) => blob.chunk_at(offset, true),
            answer => answer,
        };
        match chunk {
            Ok(Some(chunk)) => {
                let expected = &self.model.blobs[&number].data[offset as usize..];
                require!(
                    expected.starts_with(&chunk) && (!chunk.is_empty() || expected.is_empty()),
                    "wrong bytes",
                    "a chunk of blob {number} at {offset} is not what was stored"
                );
                let now_ms = self.now_ms();
                self.check_presence(number, true, "chunk_at")?;
                self.model.blob_reported(number, now_ms);
                let copy = chunk.to_vec();
                self.held.push(Held { digest, chunk, copy });
                Ok(())
            }
            Ok(None) => Err(Violation::new("read", "a look that may block did not answer".to_owned())),
            Err(error) => {
                check_read(number, &self.model, &self.disk, &Err(error))?;
                self.found_absent(number);
                Ok(())
            }
        }
    }

    fn check_held(&self) -> Checked {
        for held in &self.held {
            require!(
                held.chunk == held.copy,
                "pinned range written",
                "a chunk of {} changed while it was held",
                held.digest
            );
        }
        Ok(())
    }

    fn release(&mut self) -> Checked {
        self.check_held()?;
        self.held.clear();
        Ok(())
    }

    fn put_action(&mut self, number: u32, closure: &[u32], value_bytes: usize) {
        let digests: Vec<Digest> = closure.iter().map(|blob| self.model.blob(self.setup, *blob).digest).collect();
        let position = self.model.put(number, closure.to_vec(), value_bytes);
        let action = &self.model.actions[&number];
        let (instance, digest, value) = (action.instance, action.digest, action.puts[position].value.clone());
        let errors = self.disk.errors();
        let done = self.completion(About::Action(number, position), errors);
        self.engine().put_action(instance, &digest, &value, &digests, done);
    }

    fn get_action(&mut self, number: u32) -> Checked {
        let action = self.model.action(number);
        let (instance, digest) = (action.instance, action.digest);
        let outcome = self.engine().get_action(instance, &digest);
        let now_ms = self.now_ms();
        match check_action(number, &self.model, &self.disk, &outcome, self.setup, now_ms)? {
            Some(position) => {
                self.tally.note(position as u64);
                self.model.action_reported(number, position, now_ms);
                let closure = self.model.actions[&number].puts[position].closure.clone();
                for blob in closure {
                    let digest = self.model.blob(self.setup, blob).digest;
                    self.check_presence(blob, true, "an action's closure")?;
                    self.model.blob_reported(blob, now_ms);
                    let outcome = self.engine().read_all(&digest, u64::MAX);
                    require!(
                        check_read(blob, &self.model, &self.disk, &outcome)? || self.disk.is_harmed(&digest),
                        "closure",
                        "action {number} was a hit, and its blob {blob} cannot be read"
                    );
                }
            }
            None => {
                let action = self.model.actions.get_mut(&number).expect("just asked for");
                action.confirmed = false;
            }
        }
        Ok(())
    }

    // ---- steps

    fn step_write(&mut self) -> Checked {
        let step = self.stepper().write();
        self.tally.note(step as u64);
        self.drain()?;
        self.look_at_changes()
    }

    fn step_sync(&mut self) -> Checked {
        self.drain()?;
        self.stepper().sync();
        self.drain()?;
        if !self.disk.is_crashed() {
            // What failed under the sync leaves the index first.
            self.look_at_changes()?;
            self.model.synced();
        }
        Ok(())
    }

    fn step_reclaim(&mut self) -> Checked<ReclaimStep> {
        let step = self.stepper().reclaim();
        self.tally.note(u64::from(step == ReclaimStep::Reclaimed));
        if self.verbose {
            let stats = self.engine().stats();
            println!("{} reclaim {step:?}, {} waiting, {stats:?}", self.now_ms() % 100_000_000, self.waiting.len());
        }
        self.drain()?;
        self.look_at_changes()?;
        Ok(step)
    }

    fn settle(&mut self) -> Checked {
        for _ in 0..SETTLE_ROUNDS_MAX {
            self.step_write()?;
            if self.waiting.is_empty() || self.disk.is_crashed() {
                return Ok(());
            }
            self.step_sync()?;
            self.step_reclaim()?;
            if self.disk.is_crashed() {
                return Ok(());
            }
            self.advance(SETTLE_ROUND_MS);
        }
        let waiting: Vec<About> = self.waiting.values().map(|waiting| waiting.about).collect();
        Err(Violation::new("progress", format!("no answer after {SETTLE_ROUNDS_MAX} fair rounds: {waiting:?}")))
    }

    /// Faults are over, nobody reads, every floor has run out: the store must take an upload.
    fn liveness(&mut self) -> Checked {
        self.disk.heal();
        self.disk.crash_after(None);
        self.release()?;
        self.uploads.clear();
        self.settle()?;
        self.advance(self.setup.lease_floor_ms + 2 * self.epoch_ms() + 20_000);
        let mut last = String::new();
        for _ in 0..LIVENESS_TRIES_MAX {
            self.liveness_blob += 1;
            let number = self.liveness_blob;
            self.put(number)?;
            self.settle()?;
            if self.model.blobs[&number].known == Known::Present {
                return Ok(());
            }
            last = format!("{:?}", self.engine().stats());
            for _ in 0..4 {
                self.step_sync()?;
                self.step_reclaim()?;
            }
            self.advance(11_000);
        }
        Err(Violation::new("liveness", format!("{LIVENESS_TRIES_MAX} uploads were refused or failed: {last}")))
    }

    fn epoch_ms(&self) -> u64 {
        self.setup.lease_ms.div_ceil(47).max(5000)
    }

    /// As in production, the maintenance runs at least once a period.
    fn advance(&mut self, ms: u64) {
        let mut left = ms;
        while left > 0 {
            let pace = left.min(4 * self.epoch_ms());
            self.clock.advance_ms(pace);
            left -= pace;
            if left > 0 && !self.disk.is_crashed() {
                self.stepper().maintain();
            }
        }
    }

    fn fault(&mut self, fault: Fault) -> Checked {
        if matches!(
            fault,
            Fault::BitFlip(_)
                | Fault::StructureFlip(_)
                | Fault::BadPage(_)
                | Fault::LostWrite
                | Fault::MisdirectedWrite
        ) {
            // A fault may hit what is held; nobody promises anything then.
            self.release()?;
        }
        self.disk.inject(fault);
        Ok(())
    }

    // ---- checks of the whole

    /// Something was dropped, quarantined or found corrupt since the last look: who is gone, and was that allowed?
    fn look_at_changes(&mut self) -> Checked {
        let stats = self.engine().stats();
        let seen = std::mem::replace(&mut self.seen, stats.clone());
        let dropped = stats.dropped_records_total != seen.dropped_records_total;
        let quarantined = stats.quarantined_segments_total != seen.quarantined_segments_total;
        let corrupt = stats.corrupt_records_total != seen.corrupt_records_total;
        self.tally.reclaimed_segments += stats.reclaimed_segments_total - seen.reclaimed_segments_total;
        if !dropped && !quarantined && !corrupt {
            return Ok(());
        }
        // Segments that failed because the machine went down did not fail: what was written is there after a kill.
        let crashed = self.disk.is_crashed();
        let quarantined = quarantined && !crashed;
        let now_ms = self.now_ms();
        let floor_ms = self.setup.lease_floor_ms;
        let (engine, disk) = (&self.opened.as_ref().expect("it is open").0, &self.disk);
        for (number, blob) in &mut self.model.blobs {
            if blob.known != Known::Present || is_stored(engine, &blob.digest) {
                continue;
            }
            let age_ms = blob.promised_ms.map(|promised_ms| now_ms - promised_ms);
            let in_floor = age_ms.is_some_and(|age_ms| age_ms < floor_ms);
            if crashed && (!dropped || in_floor) {
                continue;
            }
            let excused = disk.is_harmed(&blob.digest) || (quarantined && !blob.durable) || (dropped && !in_floor);
            require!(
                excused,
                if in_floor && dropped { "lease floor" } else { "lost" },
                "blob {number} ({}) is gone: promised {age_ms:?} ms ago, floor {floor_ms} ms, durable {}, dropped {dropped}, quarantined {quarantined}, corrupt {corrupt}",
                blob.digest,
                blob.durable
            );
            // A damaged record may still be in the index, unseen by whoever looks at its header.
            blob.known = if disk.is_harmed(&blob.digest) { Known::Unknown } else { Known::Absent };
        }
        if quarantined {
            self.model.quarantined();
        }
        if dropped {
            for action in self.model.actions.values_mut() {
                action.confirmed = false;
            }
        }
        Ok(())
    }

    fn check_stats(&mut self) -> Checked {
        let stats = self.engine().stats();
        let files = self.disk.segment_count();
        let segment_bytes = u64::from(self.setup.segment_size_bytes);
        require!(
            stats.uploads_open == self.uploads.len() as u64,
            "recount",
            "{} uploads are open, stats say {}",
            self.uploads.len(),
            stats.uploads_open
        );
        require!(
            stats.segments_total == files && stats.disk_bytes == files * segment_bytes,
            "recount",
            "{files} segment files of {segment_bytes} bytes, stats say {stats:?}"
        );
        require!(
            stats.segments_free <= stats.segments_total && stats.segments_total <= stats.segments_max,
            "recount",
            "{stats:?}"
        );
        let peak = self.disk.take_bytes_peak();
        require!(
            peak <= stats.max_size_bytes,
            "max size",
            "{peak} bytes on the disk, {} are allowed",
            stats.max_size_bytes
        );
        let part = self.setup.part_size_bytes();
        let known: u64 = self
            .model
            .blobs
            .values()
            .filter(|blob| blob.known == Known::Present && !blob.data.is_empty() && !self.disk.is_harmed(&blob.digest))
            .map(|blob| if blob.data.len() > part { 1 + blob.data.len().div_ceil(part) as u64 } else { 1 })
            .sum();
        require!(
            known <= stats.entry_count && stats.entry_count <= self.model.keys_max,
            "recount",
            "{} entries in the index; at least {known}, at most {} are known of",
            stats.entry_count,
            self.model.keys_max
        );
        Ok(())
    }

    // ---- opening and crashing

    fn open(&mut self, crash_after: Option<u32>) -> Checked<bool> {
        self.disk.crash_after(crash_after.map(u64::from));
        let options = self.setup.options(self.segment_count);
        for try_number in 0..2 {
            self.tally.opens += 1;
            let opened = open_store(&self.disk, &options, &self.clock, &mut self.random);
            match opened {
                // The last thing that recovery did may have been the crash, and it went on with what it knew.
                Ok(opened) if self.disk.is_crashed() => {
                    drop(opened);
                    return Ok(false);
                }
                Ok(opened) => {
                    self.seen = opened.0.stats();
                    self.opened = Some(opened);
                    self.disk.take_bytes_peak();
                    return Ok(true);
                }
                Err(_) if self.disk.is_crashed() => return Ok(false),
                Err(error) => {
                    require!(
                        try_number == 0 && self.disk.is_faulty(),
                        "opening",
                        "the store cannot be opened: {error}"
                    );
                    self.disk.heal();
                }
            }
        }
        Ok(false)
    }

    /// The engine goes as a killed process does.
    fn drop_engine(&mut self) -> Checked {
        self.release()?;
        self.uploads.clear();
        self.opened = None;
        self.drain()?;
        if let Some((id, Waiting { about, .. })) = std::mem::take(&mut self.waiting).pop_first() {
            return Err(Violation::new(
                "completion",
                format!("completion {id} ({about:?}) neither ran nor was dropped"),
            ));
        }
        Ok(())
    }

    fn crash_and_reopen(&mut self, kind: CrashKind, again_after: Option<u32>) -> Checked {
        let (mut kind, mut again_after) = (kind, again_after);
        loop {
            self.tally.crashes += u64::from(self.disk.is_crashed());
            self.drop_engine()?;
            self.next_disk(kind);
            self.look_at_copies()?;
            // Half of the crashes during a recovery are of the other kind.
            let next = match self.random.below(3) {
                0 => CrashKind::Kill,
                _ => CrashKind::Power(Survivors::Sectors(self.random.below(100))),
            };
            self.crash = (next, None);
            if self.open(again_after)? {
                break;
            }
            (kind, again_after) = (next, None);
        }
        self.learn_what_is_there()
    }

    fn next_disk(&mut self, kind: CrashKind) {
        self.tally.unsynced_at_crash = self.disk.unsynced_count() as u32;
        let seed = self.random.next_u64();
        let next = self.disk.after_crash(kind, seed);
        self.tally.disk_operations += self.disk.operations();
        self.disk = next;
        if matches!(kind, CrashKind::Power(_)) {
            self.model.power_lost();
        }
        // Whatever was absent may come back: what reclaim dropped is still in the log.
        for blob in self.model.blobs.values_mut().filter(|blob| blob.known == Known::Absent) {
            blob.known = Known::Unknown;
        }
        self.advance_without_engine();
    }

    fn advance_without_engine(&mut self) {
        self.clock.advance_ms(self.random.below(2000));
    }

    /// Opens a copy of the disk, looks at everything, opens the copy again: it must be the same.
    fn look_at_copies(&mut self) -> Checked {
        let copy = self.disk.copy();
        let options = self.setup.options(self.segment_count);
        let mut first: Option<Vec<(&'static str, u32, bool)>> = None;
        // The first opening may be of a store that was closed in order; the ones after it never are. Where crashes are many, a
        // second recovery is looked at after some of them.
        let rounds = if self.brief && !self.random.chance(1, 8) { 1 } else { 3 };
        for round in 0..rounds {
            self.tally.opens += 1;
            let (engine, _stepper) = open_store(&copy, &options, &self.clock, &mut self.random).map_err(|error| {
                Violation::new("opening", format!("a store cannot be opened after a crash: {error}"))
            })?;
            let mut there: Vec<_> = self
                .model
                .blobs
                .iter()
                .map(|(number, blob)| ("blob", *number, is_stored(&engine, &blob.digest)))
                .collect();
            let now_ms = self.now_ms();
            for (number, action) in &self.model.actions {
                let outcome = engine.get_action(action.instance, &action.digest);
                let found = check_action(*number, &self.model, &self.disk, &outcome, self.setup, now_ms)?;
                there.push(("action", *number, found.is_some()));
            }
            if let Some(first) = &first {
                for (was, is) in first.iter().zip(&there) {
                    require!(was == is, "recovery of a recovery", "{was:?}, and after a second recovery {is:?}");
                }
            }
            for (_, number, stored) in there.iter().filter(|(what, ..)| *what == "blob") {
                self.check_presence(*number, *stored, "a store opened after a crash")?;
                let digest = self.model.blobs[number].digest;
                let outcome = engine.read_all(&digest, u64::MAX);
                let found = check_read(*number, &self.model, &self.disk, &outcome)?;
                require!(
                    found || !stored || self.disk.is_harmed(&digest),
                    "reported and unreadable",
                    "blob {number} ({digest}) is present after a crash and cannot be read"
                );
            }
            first = (round == 1).then_some(there);
        }
        Ok(())
    }

    /// After a start the model takes for granted what the store has, and no more.
    fn learn_what_is_there(&mut self) -> Checked {
        let engine = &self.opened.as_ref().expect("it is open").0;
        for (number, blob) in &mut self.model.blobs {
            let stored = is_stored(engine, &blob.digest);
            require!(
                stored || blob.known != Known::Present || self.disk.is_harmed(&blob.digest),
                "presence",
                "blob {number} ({}) is missing after a start",
                blob.digest
            );
            match blob.known {
                Known::Present if stored => {}
                _ => {
                    let absent = if self.disk.is_harmed(&blob.digest) { Known::Unknown } else { Known::Absent };
                    blob.known = if stored { Known::Present } else { absent };
                    blob.durable = blob.data.is_empty();
                    blob.promised_ms = None;
                }
            }
        }
        Ok(())
    }

    fn reopen_in_order(&mut self, segment_count: Option<u32>, power_loss: bool) -> Checked {
        self.release()?;
        self.uploads.clear();
        let closed = self.stepper().close();
        let (engine, stepper) = self.opened.take().expect("it is open");
        self.drain()?;
        if self.disk.is_crashed() {
            self.opened = Some((engine, stepper));
            return Ok(());
        }
        require!(self.waiting.is_empty(), "completion", "{} completions did not run at close", self.waiting.len());
        self.opened = Some((engine, stepper));
        self.look_at_changes()?;
        if closed.is_ok() {
            self.model.synced();
        }
        let before = self.segment_count;
        self.segment_count = segment_count.unwrap_or(before);
        if u64::from(self.segment_count) <= self.disk.segment_count() && self.segment_count < before {
            self.model.shrunk();
        }
        let kind =
            if power_loss { CrashKind::Power(Survivors::Sectors(self.random.below(100))) } else { CrashKind::Kill };
        self.crash_and_reopen(kind, None)
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
        || engine.find_by_hash(DigestFunction::Sha256, digest.hash()).is_ok_and(|found| found == Some(*digest))
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
