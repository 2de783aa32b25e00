//! Opening a store: what is answered while the index fills, and what damage and a failing disk may cost.

mod support;

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use cask_engine::clock::{Clock, SystemClock};
use cask_engine::disk::folder::FolderDisk;
use cask_engine::disk::{Disk, SegmentFile};
use cask_engine::{Engine, EngineError, EngineOptions, Stepper};
use cask_index::{Digest, DigestFunction, Namespace};
use support::{MIB, Store, data, segment_files, sha256, small};

const PART: usize = 64 * 1024;
const SEGMENT_BYTES: u64 = MIB;

/// A read that is about to happen: of a footer in the second step of opening, or of records.
#[derive(Clone, Copy, Debug)]
struct Read {
    number: u32,
    offset_bytes: u32,
    length_bytes: u32,
}

impl Read {
    /// Trailers alone are read in the first step.
    fn is_footer(self) -> bool {
        self.length_bytes > 64
            && u64::from(self.offset_bytes + self.length_bytes) == SEGMENT_BYTES
            && self.offset_bytes > 0
    }

    fn covers(self, number: u32, offset_bytes: u32) -> bool {
        let range = self.offset_bytes..self.offset_bytes + self.length_bytes;
        self.number == number && range.contains(&offset_bytes)
    }
}

type OnRead = Arc<dyn Fn(Read) -> io::Result<()> + Send + Sync>;

/// The real disk, with somebody asked before each read.
struct WatchedDisk {
    disk: FolderDisk,
    on_read: OnRead,
    /// Cannot be opened.
    broken: Option<u32>,
}

struct WatchedFile {
    number: u32,
    file: Arc<dyn SegmentFile>,
    on_read: OnRead,
}

impl Disk for WatchedDisk {
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
        if self.broken == Some(number) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let file = self.disk.open_segment(number, size_bytes)?;
        Ok(Arc::new(WatchedFile { number, file, on_read: Arc::clone(&self.on_read) }))
    }

    fn create_segment(&self, number: u32, size_bytes: u32) -> io::Result<Arc<dyn SegmentFile>> {
        self.disk.create_segment(number, size_bytes)
    }

    fn remove_segment(&self, number: u32) -> io::Result<()> {
        self.disk.remove_segment(number)
    }
}

impl SegmentFile for WatchedFile {
    fn write_at(&self, offset_bytes: u32, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        self.file.write_at(offset_bytes, pieces)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn slice(&self, offset_bytes: u32, length_bytes: u32) -> &[u8] {
        self.file.slice(offset_bytes, length_bytes)
    }

    fn is_resident(&self, offset_bytes: u32, length_bytes: u32) -> bool {
        self.file.is_resident(offset_bytes, length_bytes)
    }

    fn make_resident(&self, offset_bytes: u32, length_bytes: u32) -> io::Result<()> {
        (self.on_read)(Read { number: self.number, offset_bytes, length_bytes })?;
        self.file.make_resident(offset_bytes, length_bytes)
    }
}

struct StoppedClock;

impl Clock for StoppedClock {
    fn now_ms(&self) -> u64 {
        1_700_000_000_000
    }
}

/// The store's folder once its engine is gone as by kill -9.
struct Left {
    folder: tempfile::TempDir,
    options: EngineOptions,
    /// In the order they were written.
    blobs: Vec<Vec<u8>>,
    action: Digest,
}

/// Five sealed segments and an open one, by default.
fn left_behind(options: EngineOptions, blob_count: u64) -> Left {
    let store = Store::new(options.clone());
    let blobs: Vec<Vec<u8>> = (0..blob_count).map(|seed| data(seed, PART - 100)).collect();
    blobs.iter().for_each(|blob| {
        store.put(blob).unwrap();
    });
    let action = sha256(b"action");
    store.put_action("i", &action, b"value", &[sha256(&blobs[0])]).unwrap();
    store.stepper().run_until_idle();
    let folder = abandon(store);
    Left { folder, options, blobs, action }
}

/// The folder of a store whose engine is gone, nothing said.
fn abandon(store: Store) -> tempfile::TempDir {
    let Store { folder, .. } = store;
    folder
}

impl Left {
    fn open_watched(&self, on_read: OnRead, broken: Option<u32>) -> (Engine, Stepper) {
        let disk = WatchedDisk { disk: FolderDisk::open(self.folder.path()).unwrap(), on_read, broken };
        Engine::open_unloaded(Arc::new(disk), &self.options, Arc::new(StoppedClock), &[7; 56]).unwrap()
    }

    fn present(&self, engine: &Engine) -> Vec<bool> {
        let is_there = |blob: &Vec<u8>| match engine.read_all(&sha256(blob), u64::MAX) {
            Ok(bytes) => {
                assert_eq!(bytes, blob);
                true
            }
            Err(EngineError::NotFound) => false,
            Err(error) => panic!("{error}"),
        };
        self.blobs.iter().map(is_there).collect()
    }
}

fn outcome_of(call: impl FnOnce(cask_engine::Completion)) -> Result<(), EngineError> {
    let (sender, outcome) = std::sync::mpsc::channel();
    call(Box::new(move |result| sender.send(result).unwrap()));
    outcome.try_recv().expect("answered at once")
}

#[test]
fn what_is_known_is_read_and_nothing_is_called_missing_before_the_index_is_complete() {
    let left = left_behind(small(16), 80);
    let (newest, oldest) = (left.blobs[79].clone(), left.blobs[0].clone());
    let action = left.action;
    let engine: Arc<Mutex<Option<Engine>>> = Arc::default();
    let looked = Arc::new(AtomicU64::new(0));
    let on_read: OnRead = {
        let (engine, looked, newest, oldest) =
            (Arc::clone(&engine), Arc::clone(&looked), newest.clone(), oldest.clone());
        Arc::new(move |read: Read| {
            // The newest segments go first: at the third footer the last blobs are in, the first are not.
            let Some(engine) = engine.lock().unwrap().clone() else { return Ok(()) };
            if !read.is_footer() || looked.fetch_add(1, Ordering::Relaxed) != 2 {
                return Ok(());
            }
            let is_loading = |error: EngineError| matches!(error, EngineError::Loading);
            let (known, unknown) = (sha256(&newest), sha256(&oldest));
            assert_eq!(engine.read_all(&known, u64::MAX).expect("it is in the index"), newest);
            assert!(engine.contains(&known).unwrap());
            assert!(engine.contains(&unknown).is_err_and(is_loading));
            assert!(engine.read(&unknown).map(|_| ()).is_err_and(is_loading));
            assert!(
                engine.find_by_hash(Namespace::SHARED, DigestFunction::Sha256, unknown.hash()).is_err_and(is_loading)
            );
            assert!(engine.get_action("i", &action).is_err_and(is_loading));
            assert!(engine.begin_upload(unknown).map(|_| ()).is_err_and(is_loading));
            assert!(outcome_of(|done| engine.put(unknown, &oldest, done)).is_err_and(is_loading));
            assert!(outcome_of(|done| engine.put_action("i", &action, b"v", &[], done)).is_err_and(is_loading));
            let mut absent = vec![77];
            assert!(engine.find_missing(&[known, unknown], &mut absent).is_err_and(is_loading));
            assert_eq!(absent, [77], "as it was");
            engine.find_missing(&[known], &mut absent).expect("nothing is missing of what was asked");
            assert!(!engine.stats().index_complete);
            Ok(())
        })
    };
    let (opened, stepper) = left.open_watched(on_read, None);
    *engine.lock().unwrap() = Some(opened.clone());
    let report = stepper.load();
    *engine.lock().unwrap() = None;
    assert!(looked.load(Ordering::Relaxed) > 3, "the footers were read in the second step");
    assert_eq!((report.blob_count, report.action_count), (80, 1));
    assert!(opened.stats().index_complete);
    assert!(left.present(&opened).into_iter().all(|present| present));
    assert_eq!(opened.get_action("i", &action).unwrap(), b"value".as_slice());
    assert!(!opened.contains(&sha256(b"never stored")).unwrap());
}

#[test]
fn a_touch_while_the_index_fills_counts() {
    let mut options = small(16);
    options.lease = std::time::Duration::from_secs(4 * 3600);
    let left = left_behind(options, 80);
    let engine: Arc<Mutex<Option<Engine>>> = Arc::default();
    let newest = sha256(&left.blobs[79]);
    let on_read: OnRead = {
        let engine = Arc::clone(&engine);
        Arc::new(move |read: Read| {
            if let Some(engine) = engine.lock().unwrap().as_ref().filter(|_| read.is_footer()) {
                let _ = engine.contains(&newest);
            }
            Ok(())
        })
    };
    let (opened, stepper) = left.open_watched(on_read, None);
    *engine.lock().unwrap() = Some(opened.clone());
    stepper.load();
    *engine.lock().unwrap() = None;
    // Twice the store: only what was hit is kept.
    for seed in 0..32 * 16 {
        opened.put(
            sha256(&data(1_000 + seed, 60_000)),
            &data(1_000 + seed, 60_000),
            Box::new(|outcome| outcome.unwrap()),
        );
        stepper.run_until_idle();
    }
    assert!(opened.contains(&newest).unwrap());
    assert!(!opened.contains(&sha256(&left.blobs[78])).unwrap());
}

/// Many threads and one find the same store, also one in which reclaim left records twice.
#[test]
fn the_order_in_which_segments_are_entered_does_not_matter() {
    let options = small(16);
    let mut store = Store::new(options.clone());
    let hot: Vec<Vec<u8>> = (0..20).map(|seed| data(seed, 9_000)).collect();
    let action = sha256(b"action");
    for round in 0..60_u64 {
        for blob in &hot {
            store.put(blob).unwrap();
        }
        for seed in 0..8 {
            store.put(&data(1_000 + round * 8 + seed, 60_000)).unwrap();
        }
        store.put_action("i", &action, &round.to_le_bytes(), &[sha256(&hot[0])]).unwrap();
        store.stepper().run_until_idle();
    }
    store.crash();
    let one = (store.report.blob_count, store.report.action_count, store.report.stored_bytes);
    assert_eq!(store.engine().get_action("i", &action).unwrap(), 59_u64.to_le_bytes().as_slice());
    let folder = abandon(store);
    let clock = Arc::new(SystemClock::new());
    let (engine, report) = Engine::open(folder.path(), options, clock).unwrap();
    assert!(!report.clean_shutdown, "the crash is still to be recovered from");
    assert_eq!((report.blob_count, report.action_count, report.stored_bytes), one);
    assert_eq!(engine.get_action("i", &action).unwrap(), 59_u64.to_le_bytes().as_slice());
    for blob in &hot {
        assert_eq!(engine.read_all(&sha256(blob), u64::MAX).unwrap(), blob);
    }
}

#[test]
fn a_store_closed_while_it_loads_is_as_it_was() {
    let left = left_behind(small(16), 80);
    for orderly in [false, true] {
        if orderly {
            let clock = Arc::new(SystemClock::new());
            Engine::open(left.folder.path(), left.options.clone(), clock).unwrap().0.close().unwrap();
        }
        for _ in 0..10 {
            let clock = Arc::new(SystemClock::new());
            let engine = Engine::start(left.folder.path(), left.options.clone(), clock).unwrap();
            engine.close().unwrap();
        }
        let clock = Arc::new(SystemClock::new());
        let (engine, report) = Engine::open(left.folder.path(), left.options.clone(), clock).unwrap();
        assert_eq!((report.blob_count, report.action_count), (80, 1));
        assert!(report.clean_shutdown || !orderly);
        assert!(left.present(&engine).into_iter().all(|present| present));
    }
}

#[test]
fn a_damaged_footer_costs_nothing_and_is_written_anew() {
    let left = left_behind(small(16), 80);
    let path = segment_files(left.folder.path()).remove(0);
    let sound = std::fs::read(&path).unwrap();
    let mut damaged = sound.clone();
    // In the entries, which stand before the trailer.
    let at = sound.len() - 64 - 20;
    damaged[at] ^= 0x10;
    std::fs::write(&path, &damaged).unwrap();
    let (engine, stepper) = left.open_watched(Arc::new(|_| Ok(())), None);
    assert_eq!(stepper.load().corrupt_record_count, 0);
    assert!(left.present(&engine).into_iter().all(|present| present));
    stepper.run_until_idle();
    let mended = std::fs::read(&path).unwrap();
    assert!(mended[..sound.len() - 64] == sound[..sound.len() - 64], "records and entries are as they were");
}

/// One sector of an open segment cannot be read: its records are misses, those before and behind it are not, and the
/// segment is not written any more.
#[test]
fn an_unreadable_sector_costs_the_records_on_it() {
    let left = left_behind(small(16), 10);
    let number = 0;
    let bad_offset = 4096 + 3 * PART as u32 + 5_000;
    let on_read: OnRead =
        Arc::new(
            move |read: Read| {
                if read.covers(number, bad_offset) { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
            },
        );
    let (engine, stepper) = left.open_watched(on_read, None);
    stepper.load();
    let present = left.present(&engine);
    assert_eq!(present.iter().filter(|present| !**present).count(), 1, "{present:?}");
    let written = data(5_000, 1_000);
    engine.put(sha256(&written), &written, Box::new(|outcome| outcome.unwrap()));
    stepper.run_until_idle();
    assert_eq!(engine.read_all(&sha256(&written), u64::MAX).unwrap(), written);
    assert_eq!(left.present(&engine), present);
    assert!(engine.stats().segments_total >= 3, "the new record went to another segment");
}

/// A file that cannot even be opened costs its own blobs.
#[test]
fn a_segment_that_cannot_be_opened_does_not_stop_a_start() {
    let left = left_behind(small(16), 80);
    let (engine, stepper) = left.open_watched(Arc::new(|_| Ok(())), Some(2));
    stepper.load();
    let present = left.present(&engine);
    let lost = present.iter().filter(|present| !**present).count();
    assert!((10..20).contains(&lost), "{lost} lost with one of six segments");
}
