//! The real engine, stepped, under the replay's clock.
//!
//! The store lives in a folder of a file system in memory (`/dev/shm` where there is one), so that the adapter is the
//! product's and yet no device slows the replay down.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cask_engine::clock::Clock;
use cask_engine::disk::folder::FolderDisk;
use cask_engine::{Engine, EngineOptions, EngineStats, ReclaimStep, Stepper, WriterStep};
use cask_index::{Digest, DigestFunction};

use super::replay::{Cache, Promise};
use super::trace::{Object, Trace};
use crate::{blob, digest_of};

/// Uploads between two rounds of the background's work: as a busy server has them.
const UPLOADS_A_ROUND: u32 = 16;
/// Virtual time between two rounds of maintenance: less than the eight periods after which touch epochs must be swept.
const MAINTENANCE_MS: u64 = 30 * 60_000;
/// The virtual time at which every replay starts.
const STARTED_MS: u64 = 1_700_000_000_000;

struct ReplayClock(AtomicU64);

impl Clock for ReplayClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The engine as a cache under test.
pub struct EngineCache<'a> {
    trace: &'a Trace,
    clock: Arc<ReplayClock>,
    engine: Engine,
    stepper: Stepper,
    digests: Vec<Option<Digest>>,
    uploads_since_round: u32,
    maintain_at_ms: u64,
    /// Steps that were taken and segments they made free: how much looking about reclaim does.
    reclaim_steps: u64,
    // Dropped last: the store's folder.
    folder: tempfile::TempDir,
}

impl<'a> EngineCache<'a> {
    /// A new store of `size_bytes` in segments of `segment_size_bytes`.
    ///
    /// # Panics
    /// When the store cannot be made: a measurement has nothing to go on with.
    pub fn new(trace: &'a Trace, size_bytes: u64, segment_size_bytes: u32, promise: Promise) -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let folder = folder.expect("a temporary folder");
        let options = EngineOptions {
            lease: Duration::from_millis(promise.lease_ms),
            lease_floor: Duration::from_millis(promise.floor_ms),
            segment_size_bytes: Some(segment_size_bytes),
            index_capacity: Some((size_bytes / 384).max(10_000)),
            ..EngineOptions::new(size_bytes)
        };
        let clock = Arc::new(ReplayClock(AtomicU64::new(STARTED_MS)));
        let disk = Arc::new(FolderDisk::open(folder.path()).expect("the folder opens"));
        let opened = Engine::open_stepped(disk, &options, Arc::clone(&clock) as Arc<dyn Clock>, &[7; 56]);
        let (engine, stepper, _) = opened.unwrap_or_else(|error| panic!("{error}"));
        let digests = vec![None; trace.sizes_bytes.len()];
        Self {
            trace,
            clock,
            engine,
            stepper,
            digests,
            uploads_since_round: 0,
            maintain_at_ms: 0,
            reclaim_steps: 0,
            folder,
        }
    }

    /// The engine's own account.
    pub fn stats(&self) -> EngineStats {
        self.engine.stats()
    }

    /// Steps of the reclaimer taken.
    pub fn reclaim_steps(&self) -> u64 {
        self.reclaim_steps
    }

    /// Where the store is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn payload(&self, object: Object) -> Vec<u8> {
        blob(u64::from(object) + 1, self.trace.sizes_bytes[object as usize] as usize)
    }

    fn digest(&mut self, object: Object) -> Digest {
        if let Some(digest) = self.digests[object as usize] {
            return digest;
        }
        let digest = digest_of(&self.payload(object));
        self.digests[object as usize] = Some(digest);
        digest
    }

    /// The name of an action: any digest that no blob has.
    fn action_digest(record: Object) -> Digest {
        let mut hash = [0xA5; 32];
        hash[..4].copy_from_slice(&record.to_le_bytes());
        Digest::new(DigestFunction::Sha256, &hash, 142).expect("SHA-256 hashes have this length")
    }

    fn work(&mut self) {
        // A batch of one lane may be written while another waits for space.
        loop {
            match self.stepper.write() {
                WriterStep::Idle => break,
                WriterStep::Worked => {}
                WriterStep::WaitsForSpace => self.round(),
            }
        }
        self.uploads_since_round += 1;
        if self.uploads_since_round >= UPLOADS_A_ROUND {
            self.round();
        }
    }

    fn round(&mut self) {
        self.uploads_since_round = 0;
        self.stepper.sync();
        loop {
            self.reclaim_steps += 1;
            match self.stepper.reclaim() {
                ReclaimStep::Reclaimed | ReclaimStep::Looked => {}
                ReclaimStep::Waits => {
                    self.stepper.sync();
                    return;
                }
                ReclaimStep::Idle | ReclaimStep::Exhausted { .. } => return,
            }
        }
    }

    fn finish(&mut self, call: impl FnOnce(&Engine, cask_engine::Completion)) -> bool {
        let (sender, answer) = std::sync::mpsc::sync_channel(1);
        call(
            &self.engine,
            Box::new(move |outcome| {
                let _ = sender.try_send(outcome.is_ok());
            }),
        );
        self.work();
        answer.try_recv().unwrap_or(false)
    }
}

impl Cache for EngineCache<'_> {
    fn now(&mut self, at_ms: u64) {
        self.clock.0.store(STARTED_MS + at_ms, Ordering::Relaxed);
        if at_ms >= self.maintain_at_ms {
            self.maintain_at_ms = at_ms + MAINTENANCE_MS;
            self.stepper.maintain();
        }
    }

    fn probe(&mut self, blob: Object) -> bool {
        let digest = self.digest(blob);
        self.engine.contains(&digest).expect("the index is loaded")
    }

    fn probe_action(&mut self, record: Object, _: &[Object]) -> bool {
        self.engine.get_action("", &Self::action_digest(record)).is_ok()
    }

    fn store(&mut self, blob: Object) -> bool {
        let (digest, payload) = (self.digest(blob), self.payload(blob));
        self.finish(|engine, done| engine.put(digest, &payload, done))
    }

    fn store_action(&mut self, record: Object, outputs: &[Object]) -> bool {
        let closure: Vec<Digest> = outputs.iter().map(|output| self.digest(*output)).collect();
        let value = vec![7; (self.trace.sizes_bytes[record as usize] as usize).saturating_sub(64 + 16 * closure.len())];
        self.finish(|engine, done| engine.put_action("", &Self::action_digest(record), &value, &closure, done))
    }

    fn written(&self) -> (u64, u64) {
        let stats = self.engine.stats();
        (stats.appended_bytes_total, stats.appended_bytes_total + stats.reinserted_bytes_total)
    }
}
