//! The door to the store: opens it, wires the parts, hands calls on.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cask_index::{Digest, DigestFunction, Key, Keyer, Namespace, Table};
use parking_lot::Mutex;

use crate::background::Background;
use crate::blob::Blob;
use crate::clock::Clock;
use crate::commit_queue::{CommitQueue, Completion};
use crate::config::{Compression, EngineOptions, Geometry, Plan};
use crate::core::{Core, CrashProtection};
use crate::counters::{Counters, EngineStats, read};
use crate::disk::Disk;
use crate::disk::folder::FolderDisk;
use crate::encoding;
use crate::error::{EngineError, NamespaceError, OpenError};
use crate::format::superblock::{Superblock, SuperblockError};
use crate::format::touches::TouchSnapshot;
use crate::large_upload::LargeUploads;
use crate::recovery::{self, Filling, Life, Loading, Surveyed, Threads};
use crate::scrub::Scrubber;
use crate::segment::horizon::Horizon;
use crate::segment::lease::{RewriteCredit, Window};
use crate::stepper::Stepper;
use crate::upload::{BeginUpload, Upload, Verified, mismatch};

pub(crate) const SUPERBLOCK_NAME: &str = "superblock";

/// Randomness the store is opened with: used for a new store's identity and secret, and for the nonces of this process.
pub type Entropy = [u8; 56];

/// What opening found; printed at start.
#[derive(Clone, Debug)]
pub struct OpenReport {
    /// Blobs in the index.
    pub blob_count: u64,
    /// Action results in the index.
    pub action_count: u64,
    /// Bytes of live records.
    pub stored_bytes: u64,
    /// Segments the store may have.
    pub segment_count: u32,
    /// Size of each.
    pub segment_size_bytes: u32,
    /// Address space of the index.
    pub index_memory_bytes: u64,
    /// The last process closed the store in order (a new store counts as such).
    pub clean_shutdown: bool,
    /// Records in segments without footer that failed their checks: the torn end of the log, or damage.
    pub corrupt_record_count: u64,
    /// Time from the call until reads were served.
    pub readable_after: Duration,
    /// Time from the call until the index was complete.
    pub elapsed: Duration,
}

thread_local! {
    /// Keys of the FindMissing under way: no allocation once the thread is warm.
    static KEYS: RefCell<Vec<Key>> = const { RefCell::new(Vec::new()) };
}

struct Inner {
    core: Arc<Core>,
    background: Mutex<Option<Background>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(event = "close_failed", %error);
        }
    }
}

/// The store. Cheap to clone; all clones are one engine, closed by `close` or by the last one dropped.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

impl Engine {
    /// Opens or creates the store in `folder` and waits until its index is complete.
    pub fn open(
        folder: &Path,
        options: EngineOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<(Engine, OpenReport), OpenError> {
        let engine = Self::start(folder, options, clock)?;
        let report = engine.wait_until_loaded().map_err(|_| OpenError::Unloaded)?;
        Ok((engine, report))
    }

    /// Opens or creates the store in `folder` and starts its threads, one of which fills the index. Until that is done
    /// blobs already in the index can be read; everything else says `Loading`.
    pub fn start(folder: &Path, options: EngineOptions, clock: Arc<dyn Clock>) -> Result<Engine, OpenError> {
        let mut entropy: Entropy = [0; 56];
        let mut filled = 0;
        while filled < entropy.len() {
            filled += rustix::rand::getrandom(&mut entropy[filled..], rustix::rand::GetRandomFlags::empty()).map_err(
                |error| OpenError::Io { action: "read randomness for", path: folder.to_owned(), source: error.into() },
            )?;
        }
        let disk = Arc::new(FolderDisk::open_with(folder, options.disk_adapter)?);
        let (core, fill) = open_core(disk, folder, &options, clock, &entropy, Threads::of_machine())?;
        let background = Background::start(&core, fill).map_err(|source| OpenError::Io {
            action: "start threads for",
            path: folder.to_owned(),
            source,
        })?;
        Ok(Self { inner: Arc::new(Inner { core, background: Mutex::new(Some(background)) }) })
    }

    /// Waits until the index is complete.
    ///
    /// # Errors
    /// `Closed` when the store was closed, or loading failed, before that.
    pub fn wait_until_loaded(&self) -> Result<OpenReport, EngineError> {
        self.core().loading.wait().ok_or(EngineError::Closed)
    }

    /// Opens the store without threads: nothing is written, synced or reclaimed but by the [`Stepper`].
    pub fn open_stepped(
        disk: Arc<dyn Disk>,
        options: &EngineOptions,
        clock: Arc<dyn Clock>,
        entropy: &Entropy,
    ) -> Result<(Engine, Stepper, OpenReport), OpenError> {
        let (engine, stepper) = Self::open_unloaded(disk, options, clock, entropy)?;
        let report = stepper.load();
        Ok((engine, stepper, report))
    }

    /// As `open_stepped`, with the index still to be filled by [`Stepper::load`].
    pub fn open_unloaded(
        disk: Arc<dyn Disk>,
        options: &EngineOptions,
        clock: Arc<dyn Clock>,
        entropy: &Entropy,
    ) -> Result<(Engine, Stepper), OpenError> {
        let (core, fill) = open_core(disk, Path::new("store"), options, clock, entropy, Threads::ONE)?;
        let stepper = Stepper::new(Arc::clone(&core), Some(fill));
        Ok((Self { inner: Arc::new(Inner { core, background: Mutex::new(None) }) }, stepper))
    }

    fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }

    /// Appends the positions of the absent digests to `absent`, in order; present ones are leased. The empty blob is
    /// always present.
    ///
    /// # Errors
    /// `Loading`: nothing is known yet; `absent` is as it was.
    pub fn find_missing(&self, digests: &[Digest], absent: &mut Vec<usize>) -> Result<(), EngineError> {
        let core = self.core();
        // Asked before: what is entered between a look and the end of loading would be called missing.
        let is_complete = core.loading.is_complete();
        let absent_before = absent.len();
        KEYS.with_borrow_mut(|keys| {
            keys.clear();
            keys.extend(digests.iter().map(|digest| core.keyer.blob(digest)));
            core.index.touch_batch(keys, core.epoch(), |position| {
                if !digests[position].is_empty_blob() {
                    absent.push(position);
                }
            });
        });
        if absent.len() > absent_before && !is_complete {
            absent.truncate(absent_before);
            return Err(EngineError::Loading);
        }
        Ok(())
    }

    /// As `find_missing`, for one.
    ///
    /// # Errors
    /// `Loading`.
    pub fn contains(&self, digest: &Digest) -> Result<bool, EngineError> {
        let loaded = self.core().require_loaded();
        let present = self.core().contains(digest);
        if present { Ok(true) } else { loaded.map(|()| false) }
    }

    /// The digest of the stored blob with this hash. For callers that know no size (the HTTP cache). May wait for the disk.
    ///
    /// # Errors
    /// `Loading`.
    pub fn find_by_hash(
        &self,
        namespace: Namespace,
        function: DigestFunction,
        hash: &[u8],
    ) -> Result<Option<Digest>, EngineError> {
        let loaded = self.core().require_loaded();
        let found = self.core().find_by_hash(namespace, function, hash);
        if found.is_none() {
            loaded?;
        }
        Ok(found)
    }

    /// Opens a blob for reading and leases it.
    ///
    /// # Errors
    /// `NotFound`, `Loading`.
    pub fn read(&self, digest: &Digest) -> Result<Blob, EngineError> {
        Blob::open(self.core(), digest)
    }

    /// A whole blob as one `Bytes`, not copied when it is one record. May wait for the disk.
    ///
    /// # Errors
    /// As `read`, and `TooLarge` above `limit_bytes`.
    pub fn read_all(&self, digest: &Digest, limit_bytes: u64) -> Result<Bytes, EngineError> {
        if digest.size_bytes() > limit_bytes {
            return Err(EngineError::TooLarge { size_bytes: digest.size_bytes(), limit_bytes });
        }
        self.read(digest)?.read_all()
    }

    /// Begins a streaming upload.
    ///
    /// # Errors
    /// `TooLarge`, `Full`, `Loading`, `Closed`.
    pub fn begin_upload(&self, digest: Digest) -> Result<BeginUpload, EngineError> {
        Upload::begin(self.core(), digest)
    }

    /// One whole blob. `done` runs exactly once, also for errors found at once.
    pub fn put(&self, digest: Digest, data: &[u8], done: Completion) {
        submit(self.core().verify_whole(digest, data), done);
    }

    /// Verifies whole blobs, those of SHA-256 together; what is left to do for each can be done by any thread. `None`:
    /// stored already (and touched), nothing is left to do.
    ///
    /// The results are those of `begin_upload`, `append` and `verify`, in order, and those of one blob say nothing of another.
    /// Where the store compresses, blobs of more than a part are work for the processor, beside the hashing of all.
    ///
    /// # Errors
    /// For each: `TooLarge`, `Full`, `Loading`, `Closed`, `Mismatch`.
    pub fn verify_each(&self, blobs: &[(Digest, &[u8])]) -> Vec<Result<Option<Verified>, EngineError>> {
        self.core().verify_each(blobs)
    }

    /// Submits what was verified, as [`Verified::submit`] does each: what is one record each goes to the writer together, and
    /// so to the disk.
    pub fn submit_each(&self, verified: Vec<(Verified, Completion)>) {
        let mut submissions = Vec::with_capacity(verified.len());
        submissions.extend(verified.into_iter().filter_map(|(verified, done)| verified.into_submission(done)));
        self.core().queue.submit_all(submissions.into_iter(), true);
    }

    /// As `put`, for a blob that comes as a whole zstd stream; all of it is decoded in memory, so the caller bounds the
    /// digest's size. Work for the processor.
    pub fn put_zstd(&self, digest: Digest, stream: &[u8], done: Completion) {
        submit(self.verify_zstd(digest, stream), done);
    }

    fn verify_zstd(&self, digest: Digest, stream: &[u8]) -> Result<Option<Verified>, EngineError> {
        let mut upload = match self.begin_upload(digest)? {
            BeginUpload::Present => return Ok(None),
            BeginUpload::Upload(upload) => upload,
        };
        if upload.is_one_record() {
            return upload.verify_zstd(stream.to_vec()).map(Some);
        }
        let Some(raw) = encoding::decode_zstd(stream, digest.size_bytes() as usize) else {
            let found = format!("what was sent is no zstd stream of {} bytes", digest.size_bytes());
            return Err(mismatch(&digest, found));
        };
        upload.prefer_compressed();
        upload.append_whole(&raw)?.verify().map(Some)
    }

    /// Stores `value` (opaque to the engine) with the closure of blobs it needs, under instance and action. The last
    /// writer wins. `done` runs exactly once.
    pub fn put_action(&self, instance: &str, action: &Digest, value: &[u8], closure: &[Digest], done: Completion) {
        self.core().put_action(instance, action, value, closure, done);
    }

    /// The value stored for an action; its closure is probed and leased. May wait for the disk.
    ///
    /// # Errors
    /// `NotFound` when it or any blob of its closure is absent; `Loading`.
    pub fn get_action(&self, instance: &str, action: &Digest) -> Result<Bytes, EngineError> {
        let found = self.core().get_action(instance, action, true)?;
        Ok(found.expect("the engine declined to wait for the disk although it was told to"))
    }

    /// As [`get_action`](Self::get_action), but never waits: `None` when the value has to come from the disk.
    ///
    /// # Errors
    /// `NotFound` when it or any blob of its closure is absent; `Loading`.
    pub fn get_action_in_memory(&self, instance: &str, action: &Digest) -> Result<Option<Bytes>, EngineError> {
        self.core().get_action(instance, action, false)
    }

    /// The namespace of an isolated instance: the same for the same name for the life of the store. May wait for the disk; meant
    /// to be asked at start, by one thread.
    ///
    /// # Errors
    /// Nothing of the instance may be served then.
    pub fn namespace(&self, name: &str) -> Result<Namespace, NamespaceError> {
        self.core().namespace(name)
    }

    /// Whether uploads that come as they are get compressed: then finishing a part or a blob is work for the processor.
    pub fn compresses(&self) -> bool {
        self.core().plan.compression != Compression::Off
    }

    /// Largest blob that is accepted.
    pub fn blob_size_bytes_max(&self) -> u64 {
        self.core().plan.blob_size_bytes_max
    }

    /// Bytes of a blob's part: what an upload stages at most, and a chunk holds at most.
    pub fn part_size_bytes(&self) -> usize {
        self.core().plan.geometry.part_size_bytes as usize
    }

    /// Largest action value with an empty closure; each blob of the closure takes 16 bytes of it.
    pub fn action_value_size_bytes_max(&self) -> usize {
        self.core().plan.geometry.action_payload_bytes_max() as usize - 4096
    }

    /// How the disk is written to, in words for the operator.
    pub fn way_of_writing(&self) -> &'static str {
        self.core().disk.way_of_writing()
    }

    /// Counters and gauges.
    pub fn stats(&self) -> EngineStats {
        let core = self.core();
        let segments = core.ledger.counts();
        EngineStats {
            entry_count: core.index.entry_count(),
            index_memory_bytes: core.index.memory_bytes(),
            index_complete: core.loading.is_complete(),
            disk_bytes: u64::from(segments.files) * u64::from(core.plan.geometry.segment_size_bytes),
            max_size_bytes: core.plan.max_size_bytes,
            segments_free: u64::from(segments.free),
            segments_total: u64::from(segments.files),
            segments_max: u64::from(core.plan.segment_count_max),
            uploads_open: read(&core.counters.uploads_open),
            pins: core.ledger.pin_count(),
            appended_bytes_total: read(&core.counters.appended_bytes),
            reinserted_bytes_total: read(&core.counters.reinserted_bytes),
            reclaimed_segments_total: read(&core.counters.reclaimed_segments),
            spared_segments_total: read(&core.counters.spared_segments),
            dropped_records_total: read(&core.counters.dropped_records),
            lease_broken_total: read(&core.counters.lease_broken),
            horizon_ms: core.horizon.lock().horizon_ms(core.clock.now_ms()),
            uploads_refused_total: read(&core.counters.uploads_refused),
            corrupt_records_total: read(&core.counters.corrupt_records),
            quarantined_segments_total: read(&core.counters.quarantined_segments),
            scrubbed_bytes_total: read(&core.counters.scrubbed_bytes),
            scrubbed_records_total: read(&core.counters.scrubbed_records),
            scrub_cycles_total: read(&core.counters.scrub_cycles),
            scrub_cycle_ended_ms: read(&core.counters.scrub_cycle_ended_ms),
            restored_structures_total: read(&core.counters.restored_structures),
        }
    }

    /// Refuses new work, writes what is queued, syncs, marks the store clean and stops the threads. Idempotent.
    ///
    /// # Errors
    /// `Storage` when the disk refused; the store is then as after a crash.
    pub fn close(&self) -> Result<(), EngineError> {
        self.inner.close()
    }
}

fn submit(verified: Result<Option<Verified>, EngineError>, done: Completion) {
    match verified {
        Ok(Some(verified)) => verified.submit(done),
        Ok(None) => done(Ok(())),
        Err(error) => done(Err(error)),
    }
}

impl Inner {
    fn close(&self) -> Result<(), EngineError> {
        let mut background = self.background.lock();
        let Some(background) = background.take() else { return Ok(()) };
        self.core.loading.stop();
        self.core.queue.close();
        background.join();
        self.core.mark_clean()
    }
}

impl Core {
    /// Everything is written and nobody writes any more.
    pub(crate) fn mark_clean(&self) -> Result<(), EngineError> {
        let storage = |error: std::io::Error| EngineError::Storage(error.to_string());
        if !self.loading.is_complete() {
            // Nothing was changed: the store is what it was, and so is its touch snapshot.
            let superblock = Superblock { has_namespaces: self.has_namespaces(), ..self.superblock.clone() };
            return self.disk.replace_small(SUPERBLOCK_NAME, &superblock.encode()).map_err(storage);
        }
        self.step_syncer();
        if self.has_unusable || !self.sealing.lock().is_empty() {
            // The next start would take for free what the touches do not speak of.
            return Ok(());
        }
        if !self.save_touches().map_err(storage)? {
            // Without the touches nobody knows what the floor protects: the next start must take it for a crash.
            return Ok(());
        }
        let has_namespaces = self.has_namespaces();
        let superblock = Superblock { clean: true, has_namespaces, ..self.superblock.clone() };
        self.disk.replace_small(SUPERBLOCK_NAME, &superblock.encode()).map_err(storage)
    }
}

fn open_core(
    disk: Arc<dyn Disk>,
    folder: &Path,
    options: &EngineOptions,
    clock: Arc<dyn Clock>,
    entropy: &Entropy,
    threads: Threads,
) -> Result<(Arc<Core>, Fill), OpenError> {
    let started = Instant::now();
    let now_ms = clock.now_ms();
    let superblock = match read_superblock(&*disk, folder)? {
        Some(superblock) => superblock,
        None => Superblock {
            store_id: entropy[..16].try_into().expect("16 bytes"),
            key_seed: entropy[16..48].try_into().expect("32 bytes"),
            geometry: Geometry::for_new_store(options)?,
            created_ms: now_ms,
            clean: true,
            has_namespaces: false,
        },
    };
    if options.segment_size_bytes.is_some_and(|size| size != superblock.geometry.segment_size_bytes) {
        tracing::warn!(
            event = "segment_size_kept",
            segment_size_bytes = superblock.geometry.segment_size_bytes,
            "a store keeps the segment size it was made with"
        );
    }
    let plan = Plan::new(options, superblock.geometry)?;
    // Before anything else changes: from here on a crash is a crash.
    let open_mark = Superblock { clean: false, ..superblock.clone() };
    disk.replace_small(SUPERBLOCK_NAME, &open_mark.encode()).map_err(|source| OpenError::Io {
        action: "write",
        path: folder.join(SUPERBLOCK_NAME),
        source,
    })?;

    let keyer = Keyer::new(&superblock.key_seed);
    let Surveyed {
        ledger,
        lanes,
        sealing,
        lives,
        snapshot,
        touches_are_known,
        has_unusable,
        sequence_max,
        entry_count,
        corrupt_record_count,
    } = recovery::survey(&disk, &plan, &superblock, &keyer, threads)?;
    let index_capacity = plan.index_capacity.max(entry_count / 4 * 5);
    let index = Table::with_capacity(index_capacity).map_err(|source| OpenError::Io {
        action: "allocate",
        path: "index".into(),
        source,
    })?;
    let crash_protection = if superblock.clean && touches_are_known {
        CrashProtection::default()
    } else {
        CrashProtection { sequence_max, until_ms: now_ms.saturating_add(plan.lease_floor_ms) }
    };
    let has_namespaces = AtomicBool::new(superblock.has_namespaces);
    let core = Core {
        maintained_period: AtomicU64::new(now_ms / plan.epochs.length_ms),
        touches_saved_ms: AtomicU64::new(now_ms),
        action_appends: Mutex::new(()),
        rewrite_credit: Mutex::new(RewriteCredit::new(&plan)),
        window: Mutex::new(Window::new()),
        leased_share: Mutex::default(),
        action_pass: Mutex::default(),
        horizon: Mutex::new(Horizon::new(now_ms)),
        plan,
        superblock,
        keyer,
        index,
        ledger,
        lanes: lanes.map(Mutex::new),
        sealing: Mutex::new(sealing.into()),
        queue: CommitQueue::default(),
        large_uploads: Arc::new(LargeUploads::default()),
        crash_protection,
        counters: Counters::default(),
        scrubber: Scrubber::new(u64::from_le_bytes(entropy[48..].try_into().expect("8 bytes"))),
        clock,
        disk,
        loading: Loading::new(),
        has_unusable,
        has_namespaces,
        stamps: AtomicU64::new(0),
        nonces: AtomicU64::new(u64::from_le_bytes(entropy[48..].try_into().expect("8 bytes"))),
    };
    core.counters.corrupt_records.store(corrupt_record_count, Ordering::Relaxed);
    let fill = Fill { lives, snapshot, threads, now_ms, started, surveyed: started.elapsed() };
    Ok((Arc::new(core), fill))
}

/// The rest of opening: fills the index.
pub(crate) struct Fill {
    lives: Vec<Life>,
    snapshot: TouchSnapshot,
    threads: Threads,
    now_ms: u64,
    started: Instant,
    surveyed: Duration,
}

impl Fill {
    /// Fills the index, beside readers. When it was told to stop, loading is given up.
    pub(crate) fn run(self, core: &Core) {
        let filling = Filling {
            index: &core.index,
            ledger: &core.ledger,
            keyer: &core.keyer,
            superblock: &core.superblock,
            plan: &core.plan,
            snapshot: &self.snapshot,
            now_ms: self.now_ms,
            loading: &core.loading,
        };
        let Some(filled) = filling.fill(&self.lives, self.threads) else { return core.loading.give_up() };
        for open in filled.unsealed {
            core.ledger.unsealed(open.segment.number());
            core.sealing.lock().push_back(open);
        }
        core.stamps.fetch_max(filled.stamp_max, Ordering::Relaxed);
        core.counters.corrupt_records.fetch_add(filled.corrupt_record_count, Ordering::Relaxed);
        core.loading.completed(OpenReport {
            blob_count: filled.blob_count,
            action_count: filled.action_count,
            stored_bytes: filled.stored_bytes,
            segment_count: core.plan.segment_count_max,
            segment_size_bytes: core.plan.geometry.segment_size_bytes,
            index_memory_bytes: core.index.memory_bytes(),
            clean_shutdown: core.superblock.clean,
            corrupt_record_count: read(&core.counters.corrupt_records),
            readable_after: self.surveyed,
            elapsed: self.started.elapsed(),
        });
    }
}

fn read_superblock(disk: &dyn Disk, folder: &Path) -> Result<Option<Superblock>, OpenError> {
    let bytes = disk.read_small(SUPERBLOCK_NAME).map_err(|source| OpenError::Io {
        action: "read",
        path: folder.join(SUPERBLOCK_NAME),
        source,
    })?;
    let Some(bytes) = bytes else { return Ok(None) };
    Superblock::decode(&bytes).map(Some).map_err(|error| match error {
        SuperblockError::Newer(found) => {
            OpenError::NewerFormat { folder: folder.to_owned(), found, supported: crate::format::FORMAT_VERSION }
        }
        SuperblockError::Damaged(reason) => {
            OpenError::DamagedSuperblock { folder: folder.to_owned(), reason: reason.to_owned() }
        }
    })
}
