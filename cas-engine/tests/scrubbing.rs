//! The scrubber: its pace, what it finds, what it leaves alone.

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use cask_engine::ScrubStep;
use cask_engine::clock::Clock;
use cask_index::Digest;
use support::{MIB, Store, data, sha256, small};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A store with a few sealed segments of small blobs, and large ones.
fn filled(scrub_period: Duration) -> (Store, Vec<(Digest, Vec<u8>)>) {
    let mut options = small(32);
    options.scrub_period = scrub_period;
    let store = Store::new(options);
    let mut blobs = Vec::new();
    for (seed, size) in (0..80).map(|seed| (seed, 50_000)).chain((100..110).map(|seed| (seed, 300_000))) {
        let bytes = data(seed, size);
        blobs.push((store.put(&bytes).unwrap(), bytes));
    }
    store.stepper().run_until_idle();
    (store, blobs)
}

/// Takes steps, each when it is due, until a cycle ends; gives the bytes read and the time it took.
fn cycle(store: &Store) -> (u64, Duration) {
    let before = store.engine().stats().scrub_cycles_total;
    let (began_ms, mut read) = (store.clock.now_ms(), 0);
    loop {
        let due = match store.stepper().scrub() {
            ScrubStep::Off => panic!("the scrubber is off"),
            ScrubStep::Rests { due_ms } => due_ms,
            ScrubStep::Verified { read_bytes, due_ms } => {
                read += read_bytes;
                due_ms
            }
        };
        if store.engine().stats().scrub_cycles_total > before {
            return (read, Duration::from_millis(store.clock.now_ms() - began_ms));
        }
        store.clock.advance(Duration::from_millis(due - store.clock.now_ms()));
    }
}

fn harm(store: &Store, bytes: &[u8], with: impl Fn(&mut [u8])) -> usize {
    let mut places = 0;
    for path in store.segment_files() {
        let content = fs::read(&path).unwrap();
        for offset in (0..content.len()).step_by(64).filter(|offset| content[*offset..].starts_with(bytes)) {
            let mut harmed = bytes.to_vec();
            with(&mut harmed);
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&harmed, offset as u64).unwrap();
            places += 1;
        }
    }
    places
}

#[test]
fn a_cycle_reads_everything_that_is_sealed_once_and_not_faster_than_it_must() {
    let (store, blobs) = filled(14 * DAY);
    let (read, took) = cycle(&store);
    let stored: u64 = blobs.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    assert!(read > stored / 2 && read < stored * 11 / 10, "{read} of {stored}");
    // A small store is read at the least pace there is, 1 MiB a second.
    let expected = Duration::from_millis(read * 1000 / MIB);
    assert!(took <= expected && took + Duration::from_secs(6) > expected, "{took:?} for {read} bytes");
    let stats = store.engine().stats();
    assert_eq!((stats.scrubbed_bytes_total, stats.scrub_cycles_total), (read, 1));
    assert_eq!(stats.scrub_cycle_ended_ms, store.clock.now_ms());
    assert_eq!((stats.corrupt_records_total, stats.restored_structures_total), (0, 0));

    // And then it rests until the period is over.
    let ScrubStep::Rests { due_ms } = store.stepper().scrub() else { panic!("it goes on at once") };
    let rest = Duration::from_millis(due_ms - store.clock.now_ms());
    assert!(rest > 13 * DAY && rest <= 14 * DAY, "{rest:?}");
    store.clock.advance(rest);
    assert_eq!(cycle(&store).0, read);
}

#[test]
fn a_store_too_large_for_the_least_pace_is_read_in_its_period() {
    // 5 segments in 2 seconds: faster than 1 MiB a second.
    let (store, _) = filled(Duration::from_secs(2));
    let (read, took) = cycle(&store);
    assert!(took <= Duration::from_secs(2), "{took:?} for {read} bytes");
}

#[test]
fn never_means_never() {
    let (store, _) = filled(Duration::ZERO);
    assert_eq!(store.stepper().scrub(), ScrubStep::Off);
    store.clock.advance(400 * DAY);
    assert_eq!(store.stepper().scrub(), ScrubStep::Off);
}

#[test]
fn an_empty_store_rests() {
    let store = Store::new(small(16));
    assert!(matches!(store.stepper().scrub(), ScrubStep::Rests { due_ms } if due_ms > store.clock.now_ms()));
}

/// What has the right checksums and the wrong bytes (written by a faulty machine) is only found by hashing.
#[test]
fn content_is_hashed_and_not_only_summed() {
    let (store, blobs) = filled(14 * DAY);
    let (digest, bytes) = &blobs[0];
    let other = data(7777, bytes.len());
    // As a machine would that took one blob for the other before it made the record.
    let mut found = false;
    for path in store.segment_files() {
        let content = fs::read(&path).unwrap();
        let Some(at) = (4096..content.len()).step_by(64).find(|at| content[*at..].starts_with(bytes)) else { continue };
        let header_at = at - 64;
        let superblock = fs::read(store.folder.path().join("superblock")).unwrap();
        let place = cask_engine::format::record::RecordPlace {
            store_id: superblock[16..32].try_into().unwrap(),
            sequence: u64::from_le_bytes(content[16..24].try_into().unwrap()),
            offset_bytes: header_at as u32,
        };
        let mut header = cask_engine::format::record::RecordHeader::decode(&content[header_at..], &place).unwrap();
        assert_eq!(header.digest, *digest);
        header.payload_checksum = cask_engine::format::record::payload_checksum(&other);
        let mut forged = vec![0; 64];
        header.encode_into(&place, &mut forged);
        forged.extend_from_slice(&other);
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&forged, header_at as u64).unwrap();
        found = true;
    }
    assert!(found);
    cycle(&store);
    assert!(!store.present(digest), "the wrong bytes are still offered");
    assert_eq!(store.engine().stats().corrupt_records_total, 1);
}

#[test]
fn a_large_blob_that_lost_a_part_loses_its_head_and_no_other() {
    let (store, blobs) = filled(14 * DAY);
    let large: Vec<_> = blobs.iter().filter(|(_, bytes)| bytes.len() > 65_536).collect();
    let (digest, bytes) = large[2];
    // The third of its five parts.
    assert_eq!(harm(&store, &bytes[131_072..][..65_536], |part| part[40_000] ^= 4), 1);
    assert!(store.present(digest));
    cycle(&store);
    for (other, bytes) in &blobs {
        assert_eq!(store.present(other), other != digest);
        if other != digest {
            assert_eq!(store.get(other).unwrap(), *bytes);
        }
    }
    assert_eq!(store.engine().stats().corrupt_records_total, 1);
    // It can be stored again.
    assert_eq!(store.put(bytes).unwrap(), *digest);
    assert_eq!(store.get(digest).unwrap(), *bytes);
}

/// Scrubbing is no use: it must not keep alive what nobody asks for, nor what it is itself about to drop.
#[test]
fn what_is_scrubbed_is_not_thereby_kept() {
    let (store, blobs) = filled(14 * DAY);
    cycle(&store);
    for seed in 0..40 * 16 {
        store.put(&data(10_000 + seed, 65_000)).unwrap();
    }
    // The open segment of large blobs has no reason to go.
    let small = blobs.iter().filter(|(_, bytes)| bytes.len() <= 65_536);
    let kept = small.filter(|(digest, _)| store.present(digest)).count();
    assert_eq!(kept, 0, "scrubbing counted as use");
}

/// The visit's segment is reclaimed, and used again, while the visit is under way.
#[test]
fn a_segment_that_is_reclaimed_under_a_visit_ends_it() {
    let (store, _) = filled(Duration::from_secs(10));
    let mut stored = Vec::new();
    for seed in 0..60 * 16 {
        let bytes = data(20_000 + seed, 65_000);
        stored.push((store.put(&bytes).unwrap(), bytes));
        if seed % 3 == 0
            && let ScrubStep::Rests { due_ms } | ScrubStep::Verified { due_ms, .. } = store.stepper().scrub()
        {
            store.clock.advance(Duration::from_millis(due_ms.saturating_sub(store.clock.now_ms()).min(5_000)));
        }
    }
    let stats = store.engine().stats();
    assert!(stats.reclaimed_segments_total > 30 && stats.scrubbed_records_total > 100, "{stats:?}");
    assert_eq!((stats.corrupt_records_total, stats.restored_structures_total), (0, 0));
    for (digest, bytes) in stored.iter().filter(|(digest, _)| store.present(digest)) {
        assert_eq!(store.get(digest).unwrap(), *bytes);
    }
}

/// A footer that rotted under a running store kept reclaim from its segment for ever.
#[test]
fn a_rotten_footer_does_not_keep_its_segment_from_being_reclaimed() {
    let (store, _) = filled(Duration::ZERO);
    for path in store.segment_files() {
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut trailer = [0; 64];
        file.read_exact_at(&mut trailer, MIB - 64).unwrap();
        if trailer.starts_with(b"CASKFOOT") {
            trailer[17] ^= 1;
            file.write_all_at(&trailer, MIB - 64).unwrap();
        }
    }
    for seed in 0..80 * 16 {
        store.put(&data(30_000 + seed, 65_000)).unwrap();
    }
    let stats = store.engine().stats();
    assert!(stats.restored_structures_total >= 5, "{stats:?}");
    assert!(stats.reclaimed_segments_total > 40, "{stats:?}");
}

/// A record whose header and whose footer rotted together would stand in the index for ever: nobody finds it again.
#[test]
fn what_a_rotten_footer_hides_leaves_the_index() {
    let (store, blobs) = filled(14 * DAY);
    let (digest, bytes) = &blobs[3];
    let mut harmed = 0;
    for path in store.segment_files() {
        let content = fs::read(&path).unwrap();
        let Some(at) = (4096..content.len()).step_by(64).find(|at| content[*at..].starts_with(bytes)) else { continue };
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[0xff; 8], at as u64 - 60).unwrap();
        file.write_all_at(&[0xff; 8], MIB - 60).unwrap();
        harmed += 1;
    }
    assert_eq!(harmed, 1);
    cycle(&store);
    for (other, _) in &blobs {
        assert_eq!(store.present(other), other != digest);
    }
    let stats = store.engine().stats();
    assert_eq!((stats.corrupt_records_total, stats.restored_structures_total), (1, 1));
    assert_eq!(stats.entry_count, store.engine().stats().entry_count);
    assert_eq!(store.put(bytes).unwrap(), sha256(bytes));
}
