//! Leases under load: a store with an access pattern like Bazel's, touched many millions of times.
//!
//! A workspace of targets, each an action and its outputs. A build asks for the actions of most targets (a hit touches the
//! closure), asks which inputs are missing in batches, reads some outputs, and uploads what it missed under a new version. Builds follow
//! one another while time passes; some targets change often, most hardly ever.
//!
//! The model keeps for every digest when it was last reported present. What is asked for within the floor has to be there; while
//! capacity suffices, so has what is asked for within the lease, and `lease_broken_total` stays 0. Under pressure it is counted,
//! what goes is on average older than what stays, then uploads are refused with advice, and reads go on.

use std::sync::Arc;
use std::time::Duration;

use cask_engine::clock::Clock;
use cask_engine::{Durability, Engine, EngineError, EngineOptions, Stepper, WriterStep};
use cask_index::Digest;

use crate::checker::Violation;
use crate::clock::SimClock;
use crate::disk::{CrashKind, SimDisk};
use crate::model::digest_of;
use crate::random::{Random, content, mix_seed};

const SEGMENT_BYTES: u32 = 64 << 10;
const FLOOR_MS: u64 = 600_000;
const LEASE_MS: u64 = 4 * 3_600_000;

/// One phase: a size of the store and a load.
#[derive(Clone, Copy, Debug)]
struct Phase {
    name: &'static str,
    segments: u32,
    /// Targets of the workspace.
    targets: usize,
    /// Time between two builds.
    pace_ms: u64,
    /// Everything leased fits: nothing of it may go.
    fits: bool,
    /// Share of the phase's touches.
    share: u64,
}

const PHASES: [Phase; 5] = [
    Phase { name: "roomy", segments: 160, targets: 250, pace_ms: 600_000, fits: true, share: 4 },
    Phase { name: "raised", segments: 240, targets: 250, pace_ms: 600_000, fits: true, share: 2 },
    Phase { name: "lowered", segments: 60, targets: 250, pace_ms: 600_000, fits: false, share: 1 },
    Phase { name: "pressed", segments: 40, targets: 800, pace_ms: 900_000, fits: false, share: 2 },
    Phase { name: "choked", segments: 20, targets: 800, pace_ms: 20_000, fits: false, share: 1 },
];

/// What was seen in a phase.
#[derive(Clone, Debug, Default)]
pub struct PhaseReport {
    /// The phase.
    pub name: &'static str,
    /// Builds.
    pub builds: u64,
    /// Digests that were reported present, one by one or by a hit.
    pub touches: u64,
    /// Uploads taken.
    pub uploads: u64,
    /// Uploads refused.
    pub refused: u64,
    /// Segments reclaimed.
    pub reclaimed: u64,
    /// The engine's count of leases it broke.
    pub leases_broken: u64,
    /// Times that something went within its lease, but not its floor, in a phase where all that is leased fits.
    pub target_broken: u64,
    /// Written again over written.
    pub rewritten_percent: u64,
}

struct Named {
    digest: Digest,
    data: Arc<[u8]>,
    promised_ms: Option<u64>,
}

struct Target {
    version: u32,
    action: Digest,
    outputs: Vec<usize>,
    stored: bool,
}

struct Workspace {
    clock: Arc<SimClock>,
    disk: Arc<SimDisk>,
    random: Random,
    blobs: Vec<Named>,
    targets: Vec<Target>,
    report: PhaseReport,
    strict: bool,
}

fn options(segments: u32) -> EngineOptions {
    EngineOptions {
        lease: Duration::from_millis(LEASE_MS),
        lease_floor: Duration::from_millis(FLOOR_MS),
        durability: Durability::Written,
        segment_size_bytes: Some(SEGMENT_BYTES),
        index_capacity: Some(50_000),
        ..EngineOptions::new(u64::from(segments) * u64::from(SEGMENT_BYTES) * 32 / 31 + 64 * 1024)
    }
}

/// Touches at least `touches` digests in all. `strict`: a target that is broken where capacity suffices is an error, and not
/// only counted.
///
/// # Errors
/// A lease was broken that must not be.
pub fn leases(touches: u64, strict: bool) -> Result<Vec<PhaseReport>, Violation> {
    let clock = Arc::new(SimClock::new());
    let mut workspace = Workspace {
        disk: SimDisk::new(Arc::clone(&clock), 1),
        clock,
        random: Random::new(1),
        blobs: Vec::new(),
        targets: Vec::new(),
        report: PhaseReport::default(),
        strict,
    };
    let shares: u64 = PHASES.iter().map(|phase| phase.share).sum();
    PHASES
        .iter()
        .map(|phase| {
            let report = workspace.phase(phase, touches * phase.share / shares)?;
            // The next phase opens the same store with another size.
            workspace.disk = workspace.disk.after_crash(CrashKind::Kill, 7);
            Ok(report)
        })
        .collect()
}

impl Workspace {
    fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    fn phase(&mut self, phase: &Phase, touches: u64) -> Result<PhaseReport, Violation> {
        self.report = PhaseReport { name: phase.name, ..PhaseReport::default() };
        let disk: Arc<dyn cask_engine::disk::Disk> = Arc::clone(&self.disk) as _;
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as _;
        let before = self.disk.segment_count();
        let (engine, stepper, _) = Engine::open_stepped(disk, &options(phase.segments), clock, &[3; 56])
            .map_err(|error| Violation::new("opening", format!("{}: {error}", phase.name)))?;
        if before > u64::from(phase.segments) {
            // What goes with the lowered size is excused.
            self.blobs.iter_mut().for_each(|blob| blob.promised_ms = None);
        }
        while self.targets.len() < phase.targets {
            self.new_target();
        }
        while self.report.touches < touches {
            self.build(phase, &engine, &stepper)?;
            self.report.builds += 1;
            self.pass(phase.pace_ms, &stepper);
        }
        let stats = engine.stats();
        self.report.reclaimed = stats.reclaimed_segments_total;
        self.report.leases_broken = stats.lease_broken_total;
        self.report.rewritten_percent = 100 * stats.reinserted_bytes_total / stats.appended_bytes_total.max(1);
        if phase.fits && stats.lease_broken_total > 0 {
            let detail = format!("{}: {} leases were broken where all fit", phase.name, stats.lease_broken_total);
            self.target_broken(detail)?;
        }
        if phase.name == "choked" && (self.report.refused == 0 || stats.lease_broken_total == 0) {
            return Err(Violation::new(
                "lease",
                "a store that is far too small refused nothing or broke nothing".to_owned(),
            ));
        }
        stepper.close().map_err(|error| Violation::new("closing", error.to_string()))?;
        Ok(self.report.clone())
    }

    /// Time passes in steps that the maintenance can follow; what stands in the queue is written.
    fn pass(&self, ms: u64, stepper: &Stepper) {
        let mut left = ms;
        while left > 0 {
            let pace = left.min(200_000);
            self.clock.advance_ms(pace);
            left -= pace;
            stepper.sync();
            stepper.maintain();
            stepper.reclaim();
        }
    }

    fn new_blob(&mut self) -> usize {
        let number = self.blobs.len();
        let length = 200 + self.random.index(3000);
        let data = content(mix_seed(2, number as u64), length);
        self.blobs.push(Named { digest: digest_of(&data), data: data.into(), promised_ms: None });
        number
    }

    fn new_target(&mut self) {
        let number = self.targets.len() as u64;
        let outputs = (0..1 + self.random.index(12)).map(|_| self.new_blob()).collect();
        let action = digest_of(&content(mix_seed(3, number), 40));
        self.targets.push(Target { version: 0, action, outputs, stored: false });
    }

    /// What has to be there still.
    fn must_be_there(&self, blob: usize, phase: &Phase) -> bool {
        let horizon_ms = if phase.fits { LEASE_MS } else { FLOOR_MS };
        self.blobs[blob].promised_ms.is_some_and(|promised_ms| self.now_ms() - promised_ms < horizon_ms)
    }

    fn check_absent(&mut self, blob: usize, phase: &Phase, how: &str) -> Result<(), Violation> {
        if self.must_be_there(blob, phase) {
            let named = &self.blobs[blob];
            let age_ms = self.now_ms() - named.promised_ms.unwrap_or_default();
            let detail = format!("{}, {how}: {} is gone {age_ms} ms after its last touch", phase.name, named.digest);
            if age_ms < FLOOR_MS {
                return Err(Violation::new("lease floor", detail));
            }
            self.target_broken(detail)?;
        }
        Ok(())
    }

    /// Counted, or an error where the caller wants the target kept as strictly as the floor.
    fn target_broken(&mut self, detail: String) -> Result<(), Violation> {
        self.report.target_broken += 1;
        if self.strict { Err(Violation::new("lease", detail)) } else { Ok(()) }
    }

    fn build(&mut self, phase: &Phase, engine: &Engine, stepper: &Stepper) -> Result<(), Violation> {
        for index in 0..phase.targets {
            // A few targets change with nearly every build, most with hardly any.
            let changes =
                if index < phase.targets / 20 { self.random.chance(1, 3) } else { self.random.chance(1, 400) };
            if changes {
                self.targets[index].version += 1;
                self.targets[index].stored = false;
                let version = u64::from(self.targets[index].version);
                self.targets[index].action = digest_of(&content(mix_seed(1 << 32 | index as u64, version), 40));
                let outputs = self.targets[index].outputs.len();
                self.targets[index].outputs = (0..outputs).map(|_| self.new_blob()).collect();
            }
            if self.random.chance(1, 10) {
                continue;
            }
            self.use_target(index, phase, engine, stepper)?;
        }
        self.ask_in_batches(phase, engine)
    }

    fn use_target(&mut self, index: usize, phase: &Phase, engine: &Engine, stepper: &Stepper) -> Result<(), Violation> {
        let (action, outputs) = (self.targets[index].action, self.targets[index].outputs.clone());
        let now_ms = self.now_ms();
        match engine.get_action("", &action) {
            Ok(_) => {
                self.report.touches += outputs.len() as u64;
                outputs.iter().for_each(|blob| self.blobs[*blob].promised_ms = Some(now_ms));
                if self.random.chance(1, 4) {
                    let blob = outputs[self.random.index(outputs.len())];
                    let read = engine.read_all(&self.blobs[blob].digest, u64::MAX);
                    if read.as_deref().ok() != Some(&self.blobs[blob].data[..]) {
                        return Err(Violation::new(
                            "read",
                            format!("{}: an output of a hit: {:?}", phase.name, read.err()),
                        ));
                    }
                    self.report.touches += 1;
                }
                Ok(())
            }
            Err(EngineError::NotFound) => {
                if phase.fits
                    && self.targets[index].stored
                    && outputs.iter().all(|blob| self.must_be_there(*blob, phase))
                {
                    let detail = format!("{}: an action within its lease is gone: {:?}", phase.name, engine.stats());
                    self.target_broken(detail)?;
                }
                self.upload(index, phase, engine, stepper)
            }
            Err(error) => Err(Violation::new("error kind", format!("{}: {error}", phase.name))),
        }
    }

    /// The action is run, and what is missing uploaded.
    fn upload(&mut self, index: usize, phase: &Phase, engine: &Engine, stepper: &Stepper) -> Result<(), Violation> {
        let outputs = self.targets[index].outputs.clone();
        let digests: Vec<Digest> = outputs.iter().map(|blob| self.blobs[*blob].digest).collect();
        let mut complete = true;
        for blob in outputs {
            let digest = self.blobs[blob].digest;
            if !engine.contains(&digest).unwrap_or(false) {
                self.check_absent(blob, phase, "contains")?;
                let data = Arc::clone(&self.blobs[blob].data);
                match wait(stepper, &self.clock, |done| engine.put(digest, &data, done)) {
                    Ok(()) => self.report.uploads += 1,
                    Err(EngineError::Full { retry_after, advice }) if !retry_after.is_zero() && !advice.is_empty() => {
                        self.report.refused += 1;
                        complete = false;
                        if phase.fits {
                            return Err(Violation::new(
                                "lease",
                                format!("{}: an upload was refused: {advice}", phase.name),
                            ));
                        }
                        continue;
                    }
                    Err(error) => return Err(Violation::new("error kind", format!("{}: {error}", phase.name))),
                }
            }
            self.report.touches += 1;
            self.blobs[blob].promised_ms = Some(self.now_ms());
        }
        if complete {
            let action = self.targets[index].action;
            let value = self.targets[index].version.to_le_bytes();
            let put = wait(stepper, &self.clock, |done| engine.put_action("", &action, &value, &digests, done));
            self.targets[index].stored = put.is_ok();
        }
        Ok(())
    }

    /// FindMissing over what the build has, as clients do before they upload.
    fn ask_in_batches(&mut self, phase: &Phase, engine: &Engine) -> Result<(), Violation> {
        let now_ms = self.now_ms();
        let all: Vec<usize> =
            self.targets[..phase.targets].iter().flat_map(|target| target.outputs.iter().copied()).collect();
        for batch in all.chunks(500) {
            let digests: Vec<Digest> = batch.iter().map(|blob| self.blobs[*blob].digest).collect();
            let mut absent = Vec::new();
            engine
                .find_missing(&digests, &mut absent)
                .map_err(|error| Violation::new("error kind", format!("find_missing: {error}")))?;
            let mut absent = absent.into_iter().peekable();
            for (position, blob) in batch.iter().enumerate() {
                if absent.next_if_eq(&position).is_some() {
                    self.check_absent(*blob, phase, "find_missing")?;
                    self.blobs[*blob].promised_ms = None;
                } else {
                    self.report.touches += 1;
                    self.blobs[*blob].promised_ms = Some(now_ms);
                }
            }
        }
        Ok(())
    }
}

/// Steps until the completion ran.
fn wait(stepper: &Stepper, clock: &SimClock, call: impl FnOnce(cask_engine::Completion)) -> Result<(), EngineError> {
    let outcome = Arc::new(std::sync::Mutex::new(None));
    let slot = Arc::clone(&outcome);
    call(Box::new(move |result| *slot.lock().unwrap() = Some(result)));
    for _ in 0..1000 {
        if let Some(outcome) = outcome.lock().unwrap().take() {
            return outcome;
        }
        if stepper.write() == WriterStep::WaitsForSpace {
            stepper.sync();
            stepper.reclaim();
            clock.advance_ms(20);
        }
    }
    panic!("an upload waits for ever");
}
