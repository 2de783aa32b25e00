//! Faults that were found in the engine; each test is named for its story.

mod support;

use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cask_engine::clock::Clock;
use cask_engine::disk::folder::FolderDisk;
use cask_engine::disk::{Disk, SegmentFile};
use cask_engine::{BeginUpload, Durability, Engine, EngineError, Stepper, WriterStep};
use cask_index::{Digest, DigestFunction};
use support::{Store, data, sha256, small};

const PART: usize = 64 * 1024;

/// The order of segments' sequences is not the order of writes: a copy in the reinserted lane's younger segment beats a
/// newer record in the action lane's older one.
#[test]
fn an_action_written_again_is_not_the_old_one_after_a_crash() {
    let mut store = Store::new(small(16));
    let action = sha256(b"the action");
    store.put_action("", &action, b"first", &[]).unwrap();
    // Seal its segment; the action lane's next one is opened now and fills slowly.
    for seed in 0..20 {
        store.put_action("", &sha256(&data(seed, 8)), &data(seed, PART), &[]).unwrap();
    }
    // Reclaim moves the first record, which is asked for, to the reinserted lane.
    for seed in 0..15 * 16 {
        assert_eq!(store.engine().get_action("", &action).unwrap(), "first", "{seed}");
        store.put(&data(1000 + seed, PART)).unwrap();
    }
    assert!(store.engine().stats().reinserted_bytes_total > 0);
    store.put_action("", &action, b"second", &[]).unwrap();
    assert_eq!(store.engine().get_action("", &action).unwrap(), "second");
    store.crash();
    assert_eq!(store.engine().get_action("", &action).unwrap(), "second");
}

/// `max_size` is lowered on a store in which everything was asked for: there is no segment to move what is kept to.
#[test]
fn a_store_that_was_made_smaller_takes_uploads() {
    let mut store = Store::new(small(32));
    for seed in 0..24 * 15 {
        let digest = store.put(&data(seed, PART)).unwrap();
        assert!(store.present(&digest));
    }
    store.stepper().run_until_idle();
    store.options.max_size_bytes = 16 << 20;
    store.crash();
    for seed in 0..24 * 15 {
        store.present(&sha256(&data(seed, PART)));
    }
    for seed in 0..40 {
        store.put(&data(5000 + seed, PART)).unwrap();
    }
}

/// Everything is older than the lease as a segment and within the lease as a touch: all of it would be kept. A short burst of
/// uploads may cost the credit that was saved up (here two segments) and a quarter of each segment; a longer one costs no
/// more than was uploaded.
#[test]
fn a_store_of_leased_blobs_rewrites_no_more_than_its_credit() {
    let mut options = small(64);
    options.lease = Duration::from_secs(4 * 3600);
    let store = Store::new(options);
    let digests: Vec<Digest> = (0..61 * 15).map(|seed| store.put(&data(seed, PART)).unwrap()).collect();
    store.stepper().sync();
    store.clock.advance(Duration::from_secs(4 * 3600 + 600));
    store.stepper().maintain();
    digests.iter().for_each(|digest| assert!(store.present(digest)));
    let before = store.engine().stats();
    let upload = |seeds: std::ops::Range<u64>| {
        for seed in seeds {
            store.put(&data(5000 + seed, PART)).unwrap();
        }
        let after = store.engine().stats();
        let appended = after.appended_bytes_total - before.appended_bytes_total;
        let reinserted = after.reinserted_bytes_total - before.reinserted_bytes_total;
        (appended, reinserted, after.reclaimed_segments_total - before.reclaimed_segments_total)
    };
    let (_, reinserted, reclaimed) = upload(0..2 * 15);
    let (saved, share) = (2 << 20, reclaimed * (1 << 20) / 4);
    assert!(reinserted <= saved + share, "{reinserted} bytes rewritten, {saved} saved and {share} free");
    let (appended, reinserted, _) = upload(2 * 15..10 * 15);
    assert!(reinserted <= appended, "{appended} bytes were uploaded, {reinserted} rewritten");
}

/// A head that lost a part is younger by sequence than the head of the upload that replaced it.
#[test]
fn a_large_blob_uploaded_again_survives_a_crash() {
    let mut store = Store::new(small(16));
    let blob = data(3, 2 * PART);
    let digest = store.put(&blob).unwrap();
    // Its segment is sealed; the next one of the large lane is opened now and fills slowly.
    for seed in 0..3 {
        store.put(&data(100 + seed, 7 * PART)).unwrap();
    }
    for seed in 0..15 * 16 {
        assert!(store.present(&digest), "{seed}");
        store.put(&data(1000 + seed, PART)).unwrap();
    }
    assert!(store.engine().stats().reinserted_bytes_total > 0);
    // A part is damaged; the reader finds out, the builder uploads the blob again and is told that it is stored.
    for path in store.segment_files() {
        let bytes = std::fs::read(&path).unwrap();
        if let Some(start) = bytes.windows(64).position(|window| window == &blob[blob.len() - 64..]) {
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[0xAA; 8], start as u64).unwrap();
        }
    }
    store.get(&digest).unwrap_err();
    assert!(!store.present(&digest));
    store.put(&blob).unwrap();
    assert_eq!(store.get(&digest).unwrap(), blob);
    store.crash();
    assert_eq!(store.get(&digest).unwrap(), blob);
}

/// A client that asks for a known hash with other sizes finds one that the index takes for present (once in 2^24), reads
/// it, and the good blob is gone.
#[test]
fn a_wrong_size_that_collides_does_not_evict_the_blob() {
    let store = Store::new(small(16));
    let blob = data(1, 1000);
    let digest = store.put(&blob).unwrap();
    let sized = |size| Digest::new(DigestFunction::Sha256, digest.hash(), size).unwrap();
    let other = (1001..2_000_000_000_u64).map(sized).find(|other| store.engine().contains(other).unwrap()).unwrap();
    let read = store.engine().read_all(&other, u64::MAX);
    assert!(matches!(read, Err(EngineError::NotFound)), "{other}");
    assert_eq!(store.get(&digest).unwrap(), blob);
}

/// A bit of a sealed segment's first block is lost: the records behind it are not.
#[test]
fn a_damaged_segment_header_costs_no_blob() {
    let mut store = Store::new(small(16));
    let digests: Vec<Digest> = (0..4 * 15).map(|seed| store.put(&data(seed, PART)).unwrap()).collect();
    store.stepper().run_until_idle();
    store.crash_after(|folder| {
        for path in support::segment_files(folder) {
            let bytes = std::fs::read(&path).unwrap();
            if bytes[bytes.len() - 64..].starts_with(b"CASKFOOT") {
                let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
                file.write_all_at(&[bytes[20] ^ 1], 20).unwrap();
            }
        }
    });
    for (seed, digest) in digests.iter().enumerate() {
        assert_eq!(store.get(digest).unwrap(), data(seed as u64, PART), "{seed}");
    }
    for seed in 0..20 * 15 {
        store.put(&data(1000 + seed, PART)).unwrap();
    }
}

/// A disk whose syncs run something in between, as another thread would.
struct HookedDisk {
    disk: FolderDisk,
    hook: Hook,
}
type Hook = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;
struct HookedFile {
    file: Arc<dyn SegmentFile>,
    hook: Hook,
}
impl HookedDisk {
    fn file(&self, file: Arc<dyn SegmentFile>) -> Arc<dyn SegmentFile> {
        Arc::new(HookedFile { file, hook: Arc::clone(&self.hook) })
    }
}
impl Disk for HookedDisk {
    fn read_small(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.disk.read_small(name)
    }
    fn replace_small(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.disk.replace_small(name, bytes)
    }
    fn segment_numbers(&self) -> io::Result<Vec<u32>> {
        self.disk.segment_numbers()
    }
    fn open_segment(&self, number: u32, size_bytes: u32) -> io::Result<Arc<dyn SegmentFile>> {
        Ok(self.file(self.disk.open_segment(number, size_bytes)?))
    }
    fn create_segment(&self, number: u32, size_bytes: u32) -> io::Result<Arc<dyn SegmentFile>> {
        Ok(self.file(self.disk.create_segment(number, size_bytes)?))
    }
    fn remove_segment(&self, number: u32) -> io::Result<()> {
        self.disk.remove_segment(number)
    }
}
impl SegmentFile for HookedFile {
    fn write_at(&self, offset_bytes: u32, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        HEADER.with(|header| header.store(offset_bytes == 0, Ordering::Relaxed));
        self.file.write_at(offset_bytes, pieces)
    }
    fn sync(&self) -> io::Result<()> {
        // Not for the header of a fresh segment, which is synced under its lane's lock.
        if !HEADER.with(|header| header.swap(false, Ordering::Relaxed)) {
            let hook = self.hook.lock().unwrap().take();
            if let Some(hook) = hook {
                hook();
            }
        }
        self.file.sync()
    }
    fn slice(&self, offset_bytes: u32, length_bytes: u32) -> &[u8] {
        self.file.slice(offset_bytes, length_bytes)
    }
    fn is_resident(&self, offset_bytes: u32, length_bytes: u32) -> bool {
        self.file.is_resident(offset_bytes, length_bytes)
    }
    fn make_resident(&self, offset_bytes: u32, length_bytes: u32) -> io::Result<()> {
        self.file.make_resident(offset_bytes, length_bytes)
    }
}
thread_local! {
    static HEADER: AtomicBool = const { AtomicBool::new(false) };
}

struct FixedClock(AtomicU64);
impl Clock for FixedClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A segment is full and sealed before its last batch is in the index: the reclaimer takes those records for dead.
#[test]
fn records_that_are_written_and_not_published_yet_are_not_reclaimed() {
    let folder = tempfile::tempdir().unwrap();
    let hook: Hook = Arc::default();
    let disk = Arc::new(HookedDisk { disk: FolderDisk::open(folder.path()).unwrap(), hook: Arc::clone(&hook) });
    let mut options = small(16);
    options.lease_floor = Duration::from_secs(600);
    options.lease = Duration::from_secs(4 * 3600);
    options.durability = Durability::Synced;
    let clock = Arc::new(FixedClock(AtomicU64::new(1_700_000_000_000)));
    let (engine, stepper, _) = Engine::open_stepped(disk, &options, clock, &[7; 56]).unwrap();
    let mut seed = 0;
    while engine.stats().segments_total < 11 {
        seed += 1;
        put(&engine, &data(seed, PART));
        assert_eq!(stepper.write(), WriterStep::Worked);
        stepper.sync();
    }
    let batch: Vec<Vec<u8>> = (0..40).map(|number| data(10_000 + number, PART)).collect();
    let acknowledged = Arc::new(AtomicU64::new(0));
    for blob in &batch {
        let BeginUpload::Upload(mut upload) = engine.begin_upload(sha256(blob)).unwrap() else { panic!() };
        upload.append(blob).unwrap();
        let acknowledged = Arc::clone(&acknowledged);
        upload
            .finish(Box::new(move |outcome| {
                outcome.unwrap();
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }))
            .unwrap();
    }
    arm(&hook, &stepper);
    while stepper.write() == WriterStep::Worked {}
    assert_eq!(acknowledged.load(Ordering::Relaxed), 40);
    for (position, blob) in batch.iter().enumerate() {
        assert!(engine.contains(&sha256(blob)).unwrap(), "{position} is present");
        assert_eq!(engine.read_all(&sha256(blob), u64::MAX).expect("it is said to be present"), blob, "{position}");
    }
}

fn put(engine: &Engine, blob: &[u8]) {
    engine.put(sha256(blob), blob, Box::new(|outcome| outcome.unwrap()));
}

/// At the sync of the batch, off the lanes' locks, the other threads run: seal, reclaim.
fn arm(hook: &Hook, stepper: &Stepper) {
    let stepper = stepper.clone();
    *hook.lock().unwrap() = Some(Box::new(move || {
        stepper.sync();
        for _ in 0..4 {
            stepper.reclaim();
        }
    }));
}

/// Refused uploads and reclaimed segments.
fn one_off_actions_beside_hot_ones(touch: bool) -> (usize, u64) {
    let mut options = small(32);
    options.lease = Duration::from_secs(600);
    options.lease_floor = Duration::from_secs(600);
    let store = Store::new(options);
    let action = |seed: u64| sha256(&data(seed, 8));
    let value = data(5, 4_000);
    // One segment and a bit of actions that every build asks for.
    for seed in 0..260 {
        store.put_action("", &action(seed), &value, &[]).unwrap();
    }
    let mut refused = 0;
    let mut next = 10_000;
    for _ in 0..400 {
        store.clock.advance(Duration::from_secs(60));
        store.stepper().maintain();
        if touch {
            (0..252).for_each(|seed| drop(store.engine().get_action("", &action(seed)).unwrap()));
        }
        // A quarter of a segment of one-off actions a minute: 10 minutes are 2.5 segments of 31.
        for _ in 0..60 {
            next += 1;
            refused += usize::from(store.put_action("", &action(next), &value, &[]).is_err());
        }
        store.stepper().run_until_idle();
    }
    (refused, store.engine().stats().reclaimed_segments_total)
}

/// Segments of actions are reclaimed strictly in order. One of results that every build asks for kept all younger ones from it.
#[test]
fn results_that_are_asked_for_all_the_time_do_not_stop_reclaim() {
    for touch in [false, true] {
        let (refused, reclaimed) = one_off_actions_beside_hot_ones(touch);
        assert_eq!(refused, 0, "touched: {touch}");
        assert!(reclaimed > 50, "touched: {touch}, {reclaimed} reclaimed");
    }
}

/// Without the touches nobody knows what the floor protects, so everything is protected, as after a crash.
#[test]
fn a_damaged_touch_snapshot_does_not_cost_the_floor() {
    for harm in [false, true] {
        let mut options = small(32);
        options.lease = Duration::from_secs(3600);
        options.lease_floor = Duration::from_secs(600);
        let mut store = Store::new(options);
        let blob = data(1, 50_000);
        let digest = store.put(&blob).unwrap();
        for seed in 2..60 {
            store.put(&data(seed, 50_000)).unwrap();
        }
        store.stepper().run_until_idle();
        store.clock.advance(Duration::from_secs(5 * 3600));
        assert!(store.present(&digest));
        store.stepper().close().unwrap();
        store.crash_after(|folder| {
            if harm {
                let path = folder.join("touches");
                let mut bytes = std::fs::read(&path).unwrap();
                bytes[41] ^= 1;
                std::fs::write(&path, bytes).unwrap();
            }
        });
        assert!(store.report.clean_shutdown);
        for seed in 1_000..2_000 {
            // Refused sooner or later.
            let _ = store.put(&data(seed, 50_000));
            store.stepper().run_until_idle();
        }
        assert!(store.get(&digest).is_ok(), "damaged: {harm}");
    }
}
