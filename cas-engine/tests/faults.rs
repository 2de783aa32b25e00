//! Faults that stores like this one are known for, tried at every place instead of at one: the end of the log torn at each
//! byte, each record damaged in each part of it, one key written, evicted and read by everybody at once, a restart in the middle of
//! an eviction.

mod support;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use cask_engine::clock::SystemClock;
use cask_engine::{Engine, EngineError};
use cask_index::Digest;
use support::{Store, data, segment_files, sha256, small};

const HEADER_BYTES: usize = 64;

/// Where a blob's record begins: its file and offset.
fn record_of(folder: &Path, blob: &[u8]) -> (PathBuf, u64) {
    let probe = &blob[..blob.len().min(64)];
    for path in segment_files(folder) {
        let bytes = std::fs::read(&path).unwrap();
        let starts = bytes.chunks(64).position(|line| line.starts_with(probe));
        if let Some(line) = starts {
            return (path, (line * 64 - HEADER_BYTES) as u64);
        }
    }
    panic!("the blob is in no segment");
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

/// Fault 5. What the disk had before the tail was written is nothing, or something else.
#[test]
fn a_tail_torn_at_any_byte_of_the_last_record_is_a_whole_blob_or_none() {
    let mut store = Store::new(small(16));
    let (first, last) = (data(1, 500), data(2, 300));
    let first_digest = store.put(&first).unwrap();
    let last_digest = store.put(&last).unwrap();
    let (path, start) = record_of(store.folder.path(), &last);
    let length = HEADER_BYTES + last.len();
    let mut whole = vec![0; length];
    std::fs::File::open(&path).unwrap().read_exact_at(&mut whole, start).unwrap();

    for (what, filler) in [("nothing", vec![0; length]), ("something else", data(3, length))] {
        for kept in 0..=length {
            let torn = [&whole[..kept], &filler[kept..]].concat();
            store.crash_after(|_| overwrite(&path, start, &torn));
            assert_eq!(store.get(&first_digest).unwrap(), first, "{kept} bytes kept, then {what}");
            match store.get(&last_digest) {
                Ok(read) => assert!(read == last && torn == whole, "{kept} bytes kept, then {what}"),
                Err(error) => {
                    assert!(matches!(error, EngineError::NotFound), "{kept} bytes kept, then {what}: {error}");
                    assert!(torn != whole, "{kept} bytes kept, then {what}");
                }
            }
            assert_eq!(store.present(&last_digest), torn == whole, "{kept} bytes kept, then {what}");
        }
    }
    store.crash_after(|_| overwrite(&path, start, &data(3, length)));
    store.put_as(last_digest, &last).unwrap();
    assert_eq!(store.get(&last_digest).unwrap(), last);
}

/// Fault 48: whichever record is damaged, in its header or in its payload, in a sealed segment or in the open one.
#[test]
fn a_bit_flipped_in_any_record_loses_that_record_and_no_other() {
    let mut store = Store::new(small(16));
    // Two sealed segments of small blobs and part of a third.
    let blobs: Vec<Vec<u8>> = (0..60).map(|seed| data(seed, 40_000 + seed as usize * 7)).collect();
    let digests: Vec<Digest> = blobs.iter().map(|blob| store.put(blob).unwrap()).collect();
    store.stepper().run_until_idle();
    for (victim, blob) in blobs.iter().enumerate() {
        let (path, start) = record_of(store.folder.path(), blob);
        // Every part of a record in turn, one bit each time.
        let at = [3, 20, 45, 60, HEADER_BYTES + 1, HEADER_BYTES + blob.len() / 2, HEADER_BYTES + blob.len() - 1]
            [victim % 7] as u64;
        let mut byte = [0];
        std::fs::File::open(&path).unwrap().read_exact_at(&mut byte, start + at).unwrap();
        store.crash_after(|_| overwrite(&path, start + at, &[byte[0] ^ 0x04]));
        for (position, digest) in digests.iter().enumerate() {
            let read = store.get(digest);
            if position == victim {
                assert!(matches!(read, Err(EngineError::NotFound)), "record {victim}, byte {at}");
                assert!(!store.present(digest), "record {victim}, byte {at}");
            } else {
                assert!(read.is_ok_and(|read| read == blobs[position]), "record {victim} took {position} with it");
            }
        }
        store.crash_after(|_| overwrite(&path, start + at, &byte));
    }
    assert!(digests.iter().all(|digest| store.get(digest).is_ok()), "all bits are back");
}

/// Fault 6: the map and the disk never disagree on a key that is put, evicted, damaged and read by all at once.
#[test]
fn one_key_put_evicted_damaged_and_read_at_once_is_right_or_absent() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, _) = Engine::open(folder.path(), small(16), Arc::new(SystemClock::new())).unwrap();
    let blobs = [data(1, 5_000), data(2, 150_000)];
    let digests = blobs.clone().map(|blob| sha256(&blob));
    let stop = AtomicBool::new(false);
    let (reads, misses) = (AtomicU64::new(0), AtomicU64::new(0));
    // Chunks are slices of the file: damage done after the check is damage done to the reader's memory, and no fault of the store.
    let looking = RwLock::new(());
    let put = |blob: &[u8]| {
        let (sender, stored) = std::sync::mpsc::channel();
        engine.put(sha256(blob), blob, Box::new(move |outcome| drop(sender.send(outcome))));
        stored.recv().unwrap()
    };
    let check = |position: usize| {
        let _looking = looking.read().unwrap();
        match engine.read_all(&digests[position], 1 << 20) {
            Ok(read) => {
                assert!(read == blobs[position], "wrong bytes");
                reads.fetch_add(1, Ordering::Relaxed);
            }
            // Gone between two parts of it.
            Err(EngineError::NotFound | EngineError::DataLoss(_)) => {
                misses.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => panic!("{error}"),
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    (0..2).for_each(check);
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                blobs.iter().for_each(|blob| put(blob).unwrap());
            }
        });
        // Somebody damages what stands in the files, now here, now there.
        scope.spawn(|| {
            for round in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let files = segment_files(folder.path());
                // None before the first blob.
                let Some(path) = files.get(round % files.len().max(1)) else { continue };
                let bytes = std::fs::read(path).unwrap_or_default();
                let probe = &blobs[round % 2][..64];
                let _nobody_looks = looking.write().unwrap();
                if let Some(line) = bytes.chunks(64).position(|line| line == probe) {
                    overwrite(path, (line * 64) as u64 + 9, &[0xee]);
                }
            }
        });
        // Five times the store, so that everything is evicted again and again.
        for seed in 0..80 * 16 {
            put(&data(1_000 + seed, 60_000)).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(reads.into_inner() > 0 && misses.into_inner() > 0, "both were met");
    for (blob, digest) in blobs.iter().zip(&digests) {
        // Damaged or not: one read tells, and then it can be put.
        let _read = engine.read_all(digest, 1 << 20);
        put(blob).unwrap();
        assert!(engine.read_all(digest, 1 << 20).unwrap() == blob[..]);
        let mut absent = Vec::new();
        engine.find_missing(&[*digest], &mut absent).unwrap();
        assert!(absent.is_empty());
    }
    engine.close().unwrap();
}

/// Fault 47: the same things go in the same order, whether or not the store was restarted in the middle.
#[test]
fn a_restart_does_not_change_what_is_evicted_next() {
    let run = |restarts: bool| {
        let mut store = Store::new(small(16));
        let blobs: Vec<Digest> = (0..80).map(|seed| store.put(&data(seed, 50_000)).unwrap()).collect();
        for digest in blobs.iter().step_by(7) {
            assert!(store.present(digest));
        }
        store.stepper().run_until_idle();
        // Touches are saved once a period.
        store.clock.advance(Duration::from_secs(3600));
        store.stepper().maintain();
        if restarts {
            store.crash();
        }
        let mut gone = Vec::new();
        for seed in 0..400 {
            store.put(&data(10_000 + seed, 50_000)).unwrap();
            store.stepper().run_until_idle();
            // To ask for a blob would be to touch it, and change the order: the count of what went must do.
            gone.push(store.engine().stats().dropped_records_total);
        }
        let kept: Vec<bool> = blobs.iter().map(|digest| store.present(digest)).collect();
        (gone, kept)
    };
    let (gone, kept) = run(false);
    assert!(*gone.last().unwrap() > 0 && kept.contains(&false));
    assert_eq!(run(true), (gone, kept));
}
