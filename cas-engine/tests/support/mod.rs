//! A store under a test's control: its folder, its clock, its steps.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use cask_engine::clock::Clock;
use cask_engine::disk::folder::FolderDisk;
use cask_engine::{BeginUpload, DiskAdapter, Engine, EngineError, EngineOptions, OpenReport, Stepper, WriterStep};
use cask_index::{Digest, DigestFunction};
use sha2::Digest as _;

pub const MIB: u64 = 1 << 20;

/// Time that moves when told to.
pub struct ManualClock(AtomicU64);

impl ManualClock {
    pub fn at(now_ms: u64) -> Self {
        Self(AtomicU64::new(now_ms))
    }

    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

pub fn sha256(data: &[u8]) -> Digest {
    Digest::new(DigestFunction::Sha256, &sha2::Sha256::digest(data), data.len() as u64).unwrap()
}

/// Bytes that differ for each seed and do not repeat.
pub fn data(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// `over_uring.rs` compiles the tests of its neighbours once more: there they write through io_uring.
fn adapter() -> DiskAdapter {
    if module_path!().starts_with("over_uring::") && uring_is_available() {
        DiskAdapter::Uring
    } else {
        DiskAdapter::Positioned
    }
}

/// Where it is not, a line on standard error says so, which the test harness does not catch.
#[expect(clippy::explicit_write, reason = "the harness swallows what the macros print")]
pub fn uring_is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let Err(error) = FolderDisk::open_with(folder.path(), DiskAdapter::Uring) else { return true };
        writeln!(std::io::stderr(), "SKIPPED: nothing is tested over io_uring here: {error}").unwrap();
        false
    })
}

/// A small store: 1 MiB segments, 64 KiB parts, no promises unless asked for.
pub fn small(max_size_mib: u64) -> EngineOptions {
    EngineOptions {
        lease: Duration::ZERO,
        lease_floor: Duration::ZERO,
        segment_size_bytes: Some(MIB as u32),
        index_capacity: Some(100_000),
        disk_adapter: adapter(),
        ..EngineOptions::new(max_size_mib * MIB)
    }
}

pub struct Store {
    pub folder: tempfile::TempDir,
    pub clock: Arc<ManualClock>,
    pub options: EngineOptions,
    opened: Option<(Engine, Stepper)>,
    pub report: OpenReport,
}

impl Store {
    pub fn new(options: EngineOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock(AtomicU64::new(1_700_000_000_000)));
        let (engine, stepper, report) = open(folder.path(), &options, &clock);
        Self { folder, clock, options, opened: Some((engine, stepper)), report }
    }

    pub fn engine(&self) -> &Engine {
        &self.opened.as_ref().unwrap().0
    }

    pub fn stepper(&self) -> &Stepper {
        &self.opened.as_ref().unwrap().1
    }

    /// Drops the engine as kill -9 would (nothing is synced or marked) and opens the folder again.
    pub fn crash(&mut self) {
        self.crash_after(|_| {});
    }

    /// As `crash`, and something happens to the files in between.
    pub fn crash_after(&mut self, harm: impl FnOnce(&Path)) {
        self.opened = None;
        harm(self.folder.path());
        let (engine, stepper, report) = open(self.folder.path(), &self.options, &self.clock);
        self.opened = Some((engine, stepper));
        self.report = report;
    }

    pub fn put(&self, data: &[u8]) -> Result<Digest, EngineError> {
        let digest = sha256(data);
        self.put_as(digest, data).map(|()| digest)
    }

    /// Uploads in pieces, taking steps until the completion ran.
    pub fn put_as(&self, digest: Digest, data: &[u8]) -> Result<(), EngineError> {
        let mut upload = match self.engine().begin_upload(digest)? {
            BeginUpload::Present => return Ok(()),
            BeginUpload::Upload(upload) => upload,
        };
        let mut rest = data;
        while !rest.is_empty() {
            if upload.needs_flush() {
                self.wait(|done| upload.flush_part(done))?;
            }
            let room = upload.part_room_bytes().min(rest.len());
            // An invariant of the caller, but a digest smaller than the data is the tests' business.
            upload.append(&rest[..room])?;
            rest = &rest[room..];
        }
        let mut refused = Ok(());
        let outcome = self.wait(|done| refused = upload.finish(done));
        refused.and(outcome)
    }

    pub fn put_action(
        &self,
        instance: &str,
        action: &Digest,
        value: &[u8],
        closure: &[Digest],
    ) -> Result<(), EngineError> {
        self.wait(|done| self.engine().put_action(instance, action, value, closure, done))
    }

    /// Calls with a completion, then steps until it ran (or was dropped).
    pub fn wait(&self, call: impl FnOnce(cask_engine::Completion)) -> Result<(), EngineError> {
        let outcome = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&outcome);
        call(Box::new(move |result| *slot.lock().unwrap() = Some(result)));
        for _ in 0..10_000 {
            if let Some(outcome) = outcome.lock().unwrap().take() {
                return outcome;
            }
            if Arc::strong_count(&outcome) == 1 {
                return Ok(());
            }
            if self.stepper().write() == WriterStep::WaitsForSpace {
                self.stepper().sync();
                self.stepper().reclaim();
            }
        }
        panic!("no completion after 10,000 steps");
    }

    pub fn get(&self, digest: &Digest) -> Result<Vec<u8>, EngineError> {
        self.engine().read_all(digest, u64::MAX).map(|bytes| bytes.to_vec())
    }

    pub fn present(&self, digest: &Digest) -> bool {
        let mut absent = Vec::new();
        self.engine().find_missing(&[*digest], &mut absent).unwrap();
        absent.is_empty()
    }

    pub fn segment_files(&self) -> Vec<PathBuf> {
        segment_files(self.folder.path())
    }

    /// Bytes of all files, by length and by blocks, whichever is more.
    pub fn disk_bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let mut folders = vec![self.folder.path().to_owned()];
        let mut bytes = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let metadata = entry.metadata().unwrap();
                if metadata.is_dir() {
                    folders.push(entry.path());
                } else {
                    bytes += metadata.len().max(metadata.blocks() * 512);
                }
            }
        }
        bytes
    }
}

pub fn segment_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        std::fs::read_dir(folder.join("segments")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn open(folder: &Path, options: &EngineOptions, clock: &Arc<ManualClock>) -> (Engine, Stepper, OpenReport) {
    let disk = Arc::new(FolderDisk::open_with(folder, options.disk_adapter).unwrap());
    let clock: Arc<dyn Clock> = Arc::clone(clock) as _;
    Engine::open_stepped(disk, options, clock, &[7; 56]).unwrap()
}
