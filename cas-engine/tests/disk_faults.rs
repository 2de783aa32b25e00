//! What the engine does when the disk fails under a batch, and what it does not wait for.

mod support;

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cask_engine::clock::Clock;
use cask_engine::disk::folder::FolderDisk;
use cask_engine::disk::{Disk, SegmentFile};
use cask_engine::{BeginUpload, Durability, Engine, EngineError, EngineOptions, Stepper, WriterStep};
use support::{ManualClock, data, sha256, small};

/// What the disk is asked to do, before it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Create,
    Open { segment: u32 },
    Resident { segment: u32, offset_bytes: u32 },
    Write { segment: u32, offset_bytes: u32 },
    Sync { segment: u32 },
}

type Rule = Arc<dyn Fn(Asked) -> io::Result<()> + Send + Sync>;

/// The present rule; it may call the engine, so it is not held while it runs.
#[derive(Clone)]
struct Rules(Arc<Mutex<Rule>>);

impl Rules {
    fn set(&self, rule: impl Fn(Asked) -> io::Result<()> + Send + Sync + 'static) {
        *self.0.lock().unwrap() = Arc::new(rule);
    }

    fn ask(&self, asked: Asked) -> io::Result<()> {
        let rule = Arc::clone(&self.0.lock().unwrap());
        rule(asked)
    }
}

struct RuledDisk(FolderDisk, Rules);
struct RuledFile(u32, Arc<dyn SegmentFile>, Rules);

impl Disk for RuledDisk {
    fn read_small(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.0.read_small(name)
    }
    fn replace_small(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.0.replace_small(name, bytes)
    }
    fn segment_numbers(&self) -> io::Result<Vec<u32>> {
        self.0.segment_numbers()
    }
    fn open_segment(&self, number: u32, size_bytes: u32) -> io::Result<Arc<dyn SegmentFile>> {
        self.1.ask(Asked::Open { segment: number })?;
        Ok(Arc::new(RuledFile(number, self.0.open_segment(number, size_bytes)?, self.1.clone())))
    }
    fn create_segment(&self, number: u32, size_bytes: u32) -> io::Result<Arc<dyn SegmentFile>> {
        self.1.ask(Asked::Create)?;
        Ok(Arc::new(RuledFile(number, self.0.create_segment(number, size_bytes)?, self.1.clone())))
    }
    fn remove_segment(&self, number: u32) -> io::Result<()> {
        self.0.remove_segment(number)
    }
}

impl SegmentFile for RuledFile {
    fn write_at(&self, offset_bytes: u32, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        self.2.ask(Asked::Write { segment: self.0, offset_bytes })?;
        self.1.write_at(offset_bytes, pieces)
    }
    fn sync(&self) -> io::Result<()> {
        self.2.ask(Asked::Sync { segment: self.0 })?;
        self.1.sync()
    }
    fn slice(&self, offset_bytes: u32, length_bytes: u32) -> &[u8] {
        self.1.slice(offset_bytes, length_bytes)
    }
    fn is_resident(&self, offset_bytes: u32, length_bytes: u32) -> bool {
        self.2.ask(Asked::Resident { segment: self.0, offset_bytes }).is_ok()
            && self.1.is_resident(offset_bytes, length_bytes)
    }
    fn make_resident(&self, offset_bytes: u32, length_bytes: u32) -> io::Result<()> {
        self.2.ask(Asked::Resident { segment: self.0, offset_bytes })?;
        self.1.make_resident(offset_bytes, length_bytes)
    }
}

struct Ruled {
    _folder: tempfile::TempDir,
    rules: Rules,
    clock: Arc<ManualClock>,
    engine: Engine,
    stepper: Stepper,
}

type Answer = Arc<Mutex<Option<Result<(), EngineError>>>>;

impl Ruled {
    fn new(durability: Durability) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let rules = Rules(Arc::new(Mutex::new(Arc::new(|_| Ok(())))));
        let disk = Arc::new(RuledDisk(FolderDisk::open(folder.path()).unwrap(), rules.clone()));
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        let options = EngineOptions { durability, scrub_period: Duration::from_secs(86_400), ..small(16) };
        let (engine, stepper, _) =
            Engine::open_stepped(disk, &options, Arc::clone(&clock) as Arc<dyn Clock>, &[7; 56]).unwrap();
        Self { _folder: folder, rules, clock, engine, stepper }
    }

    fn submit(&self, blob: &[u8]) -> Answer {
        let answer = Answer::default();
        let slot = Arc::clone(&answer);
        self.engine.put(sha256(blob), blob, Box::new(move |outcome| *slot.lock().unwrap() = Some(outcome)));
        answer
    }

    fn submit_action(&self, seed: u64) -> Answer {
        let answer = Answer::default();
        let slot = Arc::clone(&answer);
        let done = Box::new(move |outcome| *slot.lock().unwrap() = Some(outcome));
        self.engine.put_action("", &sha256(&data(seed, 8)), b"result", &[], done);
        answer
    }

    fn put(&self, blob: &[u8]) -> Result<(), EngineError> {
        let answer = self.submit(blob);
        while self.stepper.write() == WriterStep::Worked {}
        taken(&answer)
    }

    fn reads(&self, blob: &[u8]) -> bool {
        self.engine.read_all(&sha256(blob), u64::MAX).is_ok_and(|read| read == blob)
    }
}

fn taken(answer: &Answer) -> Result<(), EngineError> {
    answer.lock().unwrap().take().expect("an answer")
}

fn broken() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn is_storage(outcome: &Result<(), EngineError>) -> bool {
    matches!(outcome, Err(EngineError::Storage(_)))
}

/// Of two lanes in one batch one fails, at its write or at its sync: its records are refused and its segment is not
/// written again; the other lane's are stored, and what was stored before stays.
#[test]
fn a_lane_that_fails_in_a_batch_fails_alone() {
    for durability in [Durability::Written, Durability::Synced] {
        for at_sync in [false, true] {
            if at_sync && durability == Durability::Written {
                continue;
            }
            let store = Ruled::new(durability);
            let (before, during, after) = (data(1, 5_000), data(2, 5_000), data(3, 5_000));
            store.put(&before).unwrap();
            taken(&{
                let answer = store.submit_action(1);
                store.stepper.write();
                answer
            })
            .unwrap();
            store.stepper.sync();
            // The small lane came first, so its segment is the first.
            store.rules.set(move |asked| match asked {
                Asked::Write { segment: 0, .. } if !at_sync => Err(broken()),
                Asked::Sync { segment: 0 } if at_sync => Err(broken()),
                _ => Ok(()),
            });
            let (refused, stored) = (store.submit(&during), store.submit_action(2));
            assert_eq!(store.stepper.write(), WriterStep::Worked);
            let what = format!("{durability:?}, at the sync: {at_sync}");
            assert!(is_storage(&taken(&refused)), "{what}");
            taken(&stored).unwrap();
            assert!(!store.reads(&during) && store.reads(&before), "{what}");
            assert_eq!(store.engine.stats().quarantined_segments_total, 1, "{what}");
            let healthy = Arc::new(AtomicU32::new(0));
            let seen = Arc::clone(&healthy);
            store.rules.set(move |asked| {
                assert!(!matches!(asked, Asked::Write { segment: 0, .. } | Asked::Sync { segment: 0 }), "{asked:?}");
                seen.fetch_add(1, Ordering::Relaxed);
                Ok(())
            });
            store.put(&during).unwrap();
            store.put(&after).unwrap();
            store.stepper.sync();
            assert!(store.reads(&during) && store.reads(&after) && store.reads(&before), "{what}");
            assert!(healthy.load(Ordering::Relaxed) > 0);
        }
    }
}

/// Each error at the opening of a segment used to cost that segment until the next start: a store of 16 was gone after 16.
#[test]
fn a_segment_that_could_not_be_opened_is_tried_again_after_a_while() {
    let store = Ruled::new(Durability::Written);
    let opened = Arc::new(Mutex::new(Vec::new()));
    let tried = Arc::clone(&opened);
    store.rules.set(move |asked| match asked {
        Asked::Write { segment, offset_bytes: 0 } => {
            tried.lock().unwrap().push(segment);
            Err(broken())
        }
        _ => Ok(()),
    });
    for seed in 0..3 {
        assert!(is_storage(&store.put(&data(seed, 1_000))));
    }
    assert_eq!(*opened.lock().unwrap(), [0, 1, 2], "another one each time");
    for seed in 0..30 {
        store.clock.advance(Duration::from_secs(40));
        assert!(is_storage(&store.put(&data(seed, 1_000))));
    }
    assert!(opened.lock().unwrap()[3..].iter().all(|segment| *segment < 4), "{opened:?}");
    store.clock.advance(Duration::from_secs(40));
    opened.lock().unwrap().clear();
    let used = Arc::clone(&opened);
    store.rules.set(move |asked| {
        if let Asked::Write { segment, offset_bytes: 0 } = asked {
            used.lock().unwrap().push(segment);
        }
        Ok(())
    });
    // More than the store holds: all of them are in use again.
    for seed in 0..20 * 16 {
        let blob = data(1_000 + seed, 60_000);
        store.put(&blob).unwrap();
        assert!(store.reads(&blob));
        store.stepper.run_until_idle();
    }
    let stats = store.engine.stats();
    assert_eq!((stats.quarantined_segments_total, stats.uploads_refused_total), (0, 0));
    assert!((0..3).all(|segment| opened.lock().unwrap().contains(&segment)), "{opened:?}");
}

/// Runs `call` in another thread while the disk does what it is asked to; a call that waits for the disk never answers.
fn answers_meanwhile(call: impl FnOnce() + Send + 'static) {
    let (sender, answer) = channel();
    std::thread::spawn(move || {
        call();
        sender.send(()).unwrap();
    });
    answer.recv_timeout(Duration::from_secs(20)).expect("it waits for the disk");
}

/// Making a segment file allocates and syncs it; every upload that began meanwhile waited for the ledger's lock.
#[test]
fn uploads_begin_while_a_segment_file_is_made() {
    let store = Ruled::new(Durability::Written);
    let engine = store.engine.clone();
    let made = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&made);
    store.rules.set(move |asked| {
        if asked == Asked::Create {
            seen.fetch_add(1, Ordering::Relaxed);
            let engine = engine.clone();
            answers_meanwhile(move || {
                let begun = engine.begin_upload(sha256(b"meanwhile")).unwrap();
                assert!(matches!(begun, BeginUpload::Upload(_)));
                engine.stats();
            });
        }
        Ok(())
    });
    store.put(&data(1, 1_000)).unwrap();
    assert_eq!(made.load(Ordering::Relaxed), 1);
    // The rule holds the engine, and the engine the rule.
    store.rules.set(|_| Ok(()));
}

/// In mode `written` nobody waits for the device; publishing a record waited for the syncer's fdatasync of its segment.
#[test]
fn written_uploads_are_acknowledged_while_the_syncer_syncs() {
    let store = Ruled::new(Durability::Written);
    store.put(&data(1, 1_000)).unwrap();
    let (stepper, engine) = (store.stepper.clone(), store.engine.clone());
    let synced = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&synced);
    store.rules.set(move |asked| {
        if matches!(asked, Asked::Sync { .. }) && seen.fetch_add(1, Ordering::Relaxed) == 0 {
            let (stepper, engine) = (stepper.clone(), engine.clone());
            answers_meanwhile(move || {
                let (sender, stored) = channel();
                let blob = data(2, 1_000);
                engine.put(sha256(&blob), &blob, Box::new(move |outcome| sender.send(outcome).unwrap()));
                assert_eq!(stepper.write(), WriterStep::Worked);
                stored.recv().unwrap().unwrap();
            });
        }
        Ok(())
    });
    store.stepper.sync();
    assert!(synced.load(Ordering::Relaxed) > 0);
    assert!(store.reads(&data(2, 1_000)));
    store.rules.set(|_| Ok(()));
}

/// Parts that were stored are taken back by a failed sync: the head that comes later must not say that the blob is there.
#[test]
fn a_large_blob_whose_part_was_lost_before_its_head_is_refused() {
    let store = Ruled::new(Durability::Written);
    let blob = data(1, 300_000);
    let digest = sha256(&blob);
    let BeginUpload::Upload(mut upload) = store.engine.begin_upload(digest).unwrap() else { panic!() };
    let mut rest = &blob[..];
    let mut parts = 0;
    while !rest.is_empty() {
        if upload.needs_flush() {
            upload.flush_part(Box::new(|outcome| outcome.unwrap()));
            store.stepper.write();
            parts += 1;
            if parts == 2 {
                store.rules.set(|asked| match asked {
                    Asked::Sync { segment: 0 } => Err(broken()),
                    _ => Ok(()),
                });
                store.stepper.sync();
                store.rules.set(|_| Ok(()));
            }
        }
        let room = upload.part_room_bytes().min(rest.len());
        upload.append(&rest[..room]).unwrap();
        rest = &rest[room..];
    }
    let answer = Answer::default();
    let slot = Arc::clone(&answer);
    upload.finish(Box::new(move |outcome| *slot.lock().unwrap() = Some(outcome))).unwrap();
    store.stepper.write();
    let outcome = taken(&answer);
    assert_eq!(store.engine.stats().quarantined_segments_total, 1);
    assert!(is_storage(&outcome), "{outcome:?}");
    assert!(!store.engine.contains(&digest).unwrap());
}

/// The scrubber meets a lost page in a segment that still takes records; later it is sealed. It was reclaimed again and again,
/// and never became free.
#[test]
fn a_media_error_in_an_open_segment_costs_that_segment_and_no_more() {
    let store = Ruled::new(Durability::Written);
    for seed in 0..4 {
        store.put(&data(seed, 50_000)).unwrap();
    }
    store.rules.set(|asked| match asked {
        Asked::Resident { segment: 0, offset_bytes: 4096 } => Err(broken()),
        _ => Ok(()),
    });
    for _ in 0..5 {
        store.stepper.scrub();
        store.clock.advance(Duration::from_secs(60));
    }
    store.rules.set(|_| Ok(()));
    assert_eq!(store.engine.stats().quarantined_segments_total, 1);
    let mut refused = 0;
    for seed in 100..1_000 {
        let answer = store.submit(&data(seed, 60_000));
        for _ in 0..100 {
            if answer.lock().unwrap().is_some() {
                break;
            }
            store.stepper.write();
            store.stepper.sync();
            store.stepper.reclaim();
        }
        store.clock.advance(Duration::from_secs(1));
        refused += u32::from(!matches!(*answer.lock().unwrap(), Some(Ok(()))));
    }
    let reclaimed = store.engine.stats().reclaimed_segments_total;
    assert!(reclaimed < 100, "{reclaimed} segments were reclaimed for 54 MB");
    assert_eq!(refused, 0);
}

/// Too few descriptors are no loss of data: the start is refused, and the next one finds everything. A segment that the device
/// gives up is left alone, and not taken for one that does not exist.
#[test]
fn a_segment_that_cannot_be_opened_is_never_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let rules = Rules(Arc::new(Mutex::new(Arc::new(|_| Ok(())))));
    let clock = Arc::new(ManualClock::at(1_700_000_000_000));
    let options = small(16);
    let try_open = || {
        let disk = Arc::new(RuledDisk(FolderDisk::open(folder.path()).unwrap(), rules.clone()));
        Engine::open_stepped(disk, &options, Arc::clone(&clock) as Arc<dyn Clock>, &[7; 56])
    };
    let open = || try_open().unwrap();
    let put = |engine: &Engine, stepper: &Stepper, blob: &[u8]| {
        engine.put(sha256(blob), blob, Box::new(|outcome| outcome.unwrap()));
        stepper.run_until_idle();
    };
    let blob = data(1, 50_000);
    {
        let (engine, stepper, _) = open();
        put(&engine, &stepper, &blob);
        stepper.close().unwrap();
    }
    let before = std::fs::read(folder.path().join("segments/00000000")).unwrap();
    for (code, opens) in [(libc::EMFILE, false), (libc::ENOMEM, false), (libc::EACCES, false), (libc::EIO, true)] {
        rules.set(move |asked| match asked {
            Asked::Open { segment: 0 } => Err(io::Error::from_raw_os_error(code)),
            _ => Ok(()),
        });
        let opened = try_open();
        assert_eq!(opened.is_ok(), opens, "error {code}");
        if let Ok((engine, stepper, _)) = opened {
            for seed in 2..40 {
                put(&engine, &stepper, &data(seed, 50_000));
            }
            stepper.close().unwrap();
        }
        assert!(std::fs::read(folder.path().join("segments/00000000")).unwrap() == before, "error {code}");
        rules.set(|_| Ok(()));
        let (engine, stepper, _) = open();
        assert!(engine.contains(&sha256(&blob)).unwrap(), "error {code}");
        stepper.close().unwrap();
    }
}

/// No memory just now is no loss of data: nothing is dropped, and no footer is written of what could be read.
#[test]
fn a_machine_that_is_short_of_memory_loses_nothing() {
    let store = Ruled::new(Durability::Written);
    for seed in 0..60 {
        store.put(&data(seed, 50_000)).unwrap();
    }
    store.stepper.sync();
    let present =
        |store: &Ruled| (0..60).filter(|seed| store.engine.contains(&sha256(&data(*seed, 50_000))).unwrap()).count();
    let before = present(&store);
    store.rules.set(|asked| match asked {
        Asked::Resident { segment: 0, .. } => Err(io::Error::from_raw_os_error(12)),
        _ => Ok(()),
    });
    for _ in 0..3 {
        store.stepper.scrub();
        store.clock.advance(Duration::from_secs(60));
    }
    store.rules.set(|_| Ok(()));
    assert_eq!(before, present(&store));
}
