//! The engine as its callers see it, over a real folder, one step at a time.

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cask_engine::{BeginUpload, Completion, EngineError, NamespaceError, ReclaimStep, Verified, WriterStep};
use cask_index::{Digest, DigestFunction, Hasher, Namespace};
use support::{MIB, Store, data, segment_files, sha256, small};

const PART: usize = 64 * 1024;
/// Sizes at every edge: empty, alignment, part, several parts, larger than a segment.
const SIZES: [usize; 13] =
    [0, 1, 63, 64, 65, 4095, PART - 1, PART, PART + 1, 2 * PART, 5 * PART + 7, 1024 * 1024, 3 * 1024 * 1024 + 5];

#[test]
fn blobs_of_every_size_read_back_and_survive_a_crash() {
    let mut store = Store::new(small(32));
    let blobs: Vec<(Digest, Vec<u8>)> = SIZES
        .iter()
        .enumerate()
        .map(|(seed, size)| {
            let blob = data(seed as u64 + 1, *size);
            (store.put(&blob).unwrap(), blob)
        })
        .collect();
    for round in 0..3 {
        for (digest, blob) in &blobs {
            assert!(store.present(digest), "{digest} in round {round}");
            assert_eq!(store.get(digest).unwrap(), *blob, "{digest} in round {round}");
        }
        store.crash();
        assert!(!store.report.clean_shutdown);
        assert_eq!(store.report.corrupt_record_count, 0);
        assert_eq!(store.report.blob_count, SIZES.len() as u64 - 1, "the empty blob is never stored");
    }
}

#[test]
fn chunks_start_anywhere_and_end_at_their_part() {
    let store = Store::new(small(32));
    let blob = data(1, 3 * PART + 100);
    let digest = store.put(&blob).unwrap();
    let reader = store.engine().read(&digest).unwrap();
    for offset in [0, 1, PART - 1, PART, 2 * PART + 17, 3 * PART, 3 * PART + 99, 3 * PART + 100] {
        let chunk = reader.chunk_at(offset as u64, true).unwrap().unwrap();
        let end = blob.len().min((offset / PART + 1) * PART);
        assert_eq!(chunk, &blob[offset..end], "offset {offset}");
    }
}

#[test]
fn size_is_part_of_a_blobs_identity() {
    let store = Store::new(small(32));
    let digest = store.put(b"four").unwrap();
    for size in [0, 3, 5, 1 << 40] {
        let other = Digest::new(DigestFunction::Sha256, digest.hash(), size).unwrap();
        assert!(!store.present(&other), "size {size}");
        assert!(matches!(store.engine().read(&other), Err(EngineError::NotFound)), "size {size}");
    }
    assert_eq!(
        store.engine().find_by_hash(Namespace::SHARED, DigestFunction::Sha256, digest.hash()).unwrap(),
        Some(digest)
    );
    assert_eq!(store.engine().find_by_hash(Namespace::SHARED, DigestFunction::Sha256, &[1; 32]).unwrap(), None);
}

#[test]
fn equal_hashes_of_two_functions_never_alias() {
    let store = Store::new(small(32));
    let digest = store.put(b"one hash, two functions").unwrap();
    for function in [DigestFunction::Blake3, DigestFunction::Sha256Tree] {
        let other = Digest::new(function, digest.hash(), digest.size_bytes()).unwrap();
        assert!(!store.present(&other));
        assert_eq!(store.engine().find_by_hash(Namespace::SHARED, function, digest.hash()).unwrap(), None);
        assert!(matches!(store.engine().read(&other), Err(EngineError::NotFound)));
    }
    // The content hashes to something else under BLAKE3, and to the same under SHA256TREE, being of one leaf.
    let under = |function| Digest::new(function, digest.hash(), digest.size_bytes()).unwrap();
    let content = b"one hash, two functions";
    let other = store.put_as(under(DigestFunction::Blake3), content);
    assert!(matches!(other, Err(EngineError::Mismatch { .. })));
    store.put_as(under(DigestFunction::Sha256Tree), content).unwrap();
    assert!(!store.present(&under(DigestFunction::Blake3)));
}

/// Small and large blobs of every function, in two namespaces: each is found where it was put and nowhere else, before and after
/// the store was opened again.
#[test]
fn every_function_in_every_namespace_is_a_blob_of_its_own() {
    let mut store = Store::new(small(64));
    let apart = store.engine().namespace("team/a").unwrap();
    assert_ne!(apart, Namespace::SHARED);
    let mut stored = Vec::new();
    for (seed, function) in DigestFunction::ALL.into_iter().enumerate() {
        for (content, namespace) in
            [(data(seed as u64, 1000), Namespace::SHARED), (data(100 + seed as u64, 2 * PART + 7), apart)]
        {
            let digest = Hasher::digest(function, &content).within(namespace);
            store.put_as(digest, &content).unwrap();
            stored.push((digest, content));
        }
    }
    for _ in 0..2 {
        for (digest, content) in &stored {
            assert_eq!(store.get(digest).unwrap(), content[..], "{digest}");
            let elsewhere = if digest.namespace() == apart { Namespace::SHARED } else { apart };
            assert!(!store.present(&digest.within(elsewhere)), "{digest}");
            let found = |namespace| store.engine().find_by_hash(namespace, digest.function(), digest.hash()).unwrap();
            assert_eq!((found(digest.namespace()), found(elsewhere)), (Some(*digest), None), "{digest}");
        }
        store.crash();
        assert_eq!(store.engine().namespace("team/a").unwrap(), apart);
        assert_ne!(store.engine().namespace("team/b").unwrap(), apart);
    }
}

/// Which tenant has which number is never guessed: not when the file is gone, not when it is damaged.
#[test]
fn a_lost_file_of_namespaces_is_not_made_anew() {
    for harm in [|path: &Path| fs::remove_file(path), |path: &Path| fs::write(path, b"cask-namespaces 1\n")] {
        let mut store = Store::new(small(32));
        store.engine().namespace("team/a").unwrap();
        store.crash_after(|folder| harm(&folder.join("namespaces")).unwrap());
        for name in ["team/a", "team/b"] {
            assert!(matches!(store.engine().namespace(name), Err(NamespaceError::Damaged)), "{name}");
        }
    }
}

#[test]
fn content_that_does_not_match_is_refused_and_nothing_is_stored() {
    let store = Store::new(small(32));
    for size in [10, 3 * PART] {
        let blob = data(5, size);
        let digest = sha256(&blob);
        let mut other = blob.clone();
        other[size / 2] ^= 1;
        for (what, sent) in [("another", other.as_slice()), ("less", &blob[..size - 1]), ("more", &data(5, size + 1))] {
            assert!(matches!(store.put_as(digest, sent), Err(EngineError::Mismatch { .. })), "{what} of {size}");
            assert!(!store.present(&digest), "{what} of {size}");
        }
        store.put_as(digest, &blob).unwrap();
    }
    assert_eq!(store.engine().stats().uploads_open, 0);
}

/// The one-call put answers exactly once: stored, refused at the start, refused at the end.
#[test]
fn a_whole_put_always_answers() {
    let store = Store::new(small(32));
    let blob = data(1, 2 * PART + 5);
    let digest = sha256(&blob);
    for (what, digest, data, stored) in [
        ("wrong", digest, &data(2, 2 * PART + 5)[..], false),
        ("short", digest, &blob[1..], false),
        ("long", digest, &[&blob[..], b"x"].concat()[..], false),
        ("right", digest, &blob[..], true),
        ("again", digest, &blob[..], true),
        ("empty", sha256(b""), b"", true),
    ] {
        let (sender, answer) = std::sync::mpsc::channel();
        store.engine().put(digest, data, Box::new(move |outcome| sender.send(outcome).unwrap()));
        while store.stepper().write() == WriterStep::Worked {}
        assert_eq!(answer.try_recv().unwrap().is_ok(), stored, "{what}");
        assert!(answer.try_recv().is_err(), "{what}: one answer");
        assert_eq!(store.present(&digest), stored, "{what}");
    }
}

#[test]
fn a_blob_over_the_limit_is_refused_before_a_byte_is_sent() {
    let mut options = small(32);
    options.blob_size_bytes_max = Some(1000);
    let store = Store::new(options);
    assert!(matches!(
        store.engine().begin_upload(sha256(&data(1, 1001))).map(|_| ()),
        Err(EngineError::TooLarge { size_bytes: 1001, limit_bytes: 1000 })
    ));
    store.put(&data(1, 1000)).unwrap();
}

/// Two builders upload the same blob at once: the first to finish satisfies both, and one record is stored.
#[test]
fn racing_duplicates_share_one_record() {
    for size in [100, 2 * PART] {
        let store = Store::new(small(32));
        let blob = data(3, size);
        let digest = sha256(&blob);
        let begin = || match store.engine().begin_upload(digest).unwrap() {
            BeginUpload::Upload(upload) => upload,
            BeginUpload::Present => panic!("not stored yet"),
        };
        let (mut one, mut two, slow) = (begin(), begin(), begin());
        for upload in [&mut one, &mut two] {
            for piece in blob.chunks(PART) {
                if upload.needs_flush() {
                    upload.flush_part(Box::new(|outcome| outcome.unwrap()));
                }
                upload.append(piece).unwrap();
            }
        }
        let (first, second) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
        one.finish(Box::new(move |outcome| first.0.send(outcome).unwrap())).unwrap();
        two.finish(Box::new(move |outcome| second.0.send(outcome).unwrap())).unwrap();
        while store.stepper().write() == WriterStep::Worked {}
        first.1.try_recv().unwrap().unwrap();
        second.1.try_recv().unwrap().unwrap();
        assert_eq!(store.get(&digest).unwrap(), blob);
        let stats = store.engine().stats();
        if size <= PART {
            assert_eq!((stats.entry_count, stats.appended_bytes_total), (1, 192));
        }
        drop(slow);
        assert_eq!(store.engine().stats().uploads_open, 0);
    }
}

#[test]
fn an_abandoned_large_upload_is_never_visible_and_its_parts_are_reclaimed() {
    let mut store = Store::new(small(16));
    let blob = data(4, 4 * PART);
    let digest = sha256(&blob);
    let BeginUpload::Upload(mut upload) = store.engine().begin_upload(digest).unwrap() else { panic!() };
    for piece in blob.chunks(PART).take(3) {
        if upload.needs_flush() {
            upload.flush_part(Box::new(|outcome| outcome.unwrap()));
        }
        upload.append(piece).unwrap();
    }
    store.stepper().run_until_idle();
    assert_eq!(store.engine().stats().entry_count, 2, "two parts were flushed");
    drop(upload);
    assert!(!store.present(&digest));
    store.crash();
    assert!(!store.present(&digest));
    for seed in 0..40 * 16 {
        store.put(&data(100 + seed, PART)).unwrap();
    }
    let mut sizes = Vec::new();
    store.engine().find_missing(&[digest], &mut sizes).unwrap();
    assert_eq!(sizes, [0]);
    assert!(store.engine().stats().entry_count <= 15 * 16, "the parts are gone");
}

/// Fault 43 in small: pins of readers hold a segment back, and nothing else.
#[test]
fn a_slow_reader_keeps_its_bytes_while_the_store_rotates() {
    let store = Store::new(small(16));
    let blob = data(9, PART);
    let digest = store.put(&blob).unwrap();
    let chunk = store.engine().read(&digest).unwrap().chunk_at(0, true).unwrap().unwrap();
    for seed in 0..40 * 16 {
        store.put(&data(1000 + seed, PART)).unwrap();
    }
    // The store was written more than twice over; without the pin other blobs would stand in these bytes.
    assert_eq!(chunk, blob);
}

#[test]
fn the_folder_never_exceeds_its_bound_and_what_is_touched_stays() {
    let store = Store::new(small(16));
    let kept = store.put(&data(1, 10_000)).unwrap();
    let untouched = store.put(&data(2, 10_000)).unwrap();
    let large = store.put(&data(3, 3 * PART)).unwrap();
    for seed in 0..5 * 16 * 16 {
        store.put(&data(1000 + seed, PART)).unwrap();
        assert!(store.present(&kept) && store.present(&large), "after {seed}");
        if seed % 50 == 0 {
            assert!(store.disk_bytes() <= 16 * MIB, "{} bytes after {seed}", store.disk_bytes());
        }
    }
    assert_eq!(store.get(&kept).unwrap(), data(1, 10_000));
    assert_eq!(store.get(&large).unwrap(), data(3, 3 * PART));
    assert!(!store.present(&untouched));
    let stats = store.engine().stats();
    assert_eq!(stats.uploads_refused_total, 0);
    assert!(stats.reinserted_bytes_total * 3 < stats.appended_bytes_total, "write amplification {stats:?}");
}

#[test]
fn within_the_floor_uploads_are_refused_and_nothing_is_lost() {
    let mut options = small(16);
    options.lease_floor = Duration::from_secs(600);
    options.lease = Duration::from_secs(4 * 3600);
    let store = Store::new(options);
    let mut stored = Vec::new();
    let refused = loop {
        let blob = data(stored.len() as u64, PART);
        match store.put(&blob) {
            Ok(digest) => stored.push(digest),
            Err(error) => break error,
        }
        assert!(stored.len() < 20 * 16, "a full store never refused");
    };
    let EngineError::Full { retry_after, advice } = refused else { panic!("{refused}") };
    assert!(retry_after >= Duration::from_secs(60) && retry_after <= Duration::from_secs(1800), "{retry_after:?}");
    assert!(advice.contains("--max-size"), "{advice}");
    for digest in &stored {
        assert!(store.present(digest), "{digest} was lost within the floor");
    }
    assert!(matches!(store.engine().begin_upload(sha256(b"new")).map(|_| ()), Err(EngineError::Full { .. })));
    assert_eq!(store.engine().stats().lease_broken_total, 0);

    // When the floor of the first ones is over there is room again, at the price of leases, and it is counted.
    store.clock.advance(retry_after + Duration::from_secs(1200));
    for seed in 0..32 {
        store.put(&data(10_000 + seed, PART)).unwrap();
    }
    assert!(store.engine().stats().lease_broken_total > 0);
}

/// Reclaim has emptied segments, and slow readers hold bytes of them: the refusal must not blame the lease floor.
#[test]
fn a_store_that_readers_hold_says_so_when_it_refuses() {
    let store = Store::new(small(16));
    let mut held = Vec::new();
    let refused = (0..40 * 16).find_map(|seed| {
        let blob = data(seed, PART);
        let (sender, answer) = std::sync::mpsc::channel();
        store.engine().put(sha256(&blob), &blob, Box::new(move |outcome| sender.send(outcome).unwrap()));
        for _ in 0..100 {
            if store.stepper().write() == WriterStep::WaitsForSpace {
                store.stepper().sync();
                store.stepper().reclaim();
                store.clock.advance(Duration::from_secs(1));
            }
        }
        match answer.try_recv().expect("an answer within 100 s") {
            Ok(()) => {
                held.push(store.engine().read(&sha256(&blob)).unwrap().chunk_at(0, true).unwrap().unwrap());
                None
            }
            Err(error) => Some(error),
        }
    });
    let Some(EngineError::Full { advice, .. }) = refused else { panic!("{refused:?}") };
    assert!(advice.contains("downloads") && !advice.contains("floor"), "{advice}");
    // When they let go there is room again.
    held.clear();
    store.clock.advance(Duration::from_secs(2));
    store.put(&data(100_000, PART)).unwrap();
}

#[test]
fn an_action_is_a_hit_only_while_its_closure_is_complete() {
    let mut store = Store::new(small(16));
    let (output, tree) = (store.put(b"output").unwrap(), store.put(&data(8, 3 * PART)).unwrap());
    let empty = sha256(b"");
    let action = sha256(b"the action");
    assert!(matches!(store.engine().get_action("main", &action), Err(EngineError::NotFound)));
    store.put_action("main", &action, b"first", &[output, tree, empty]).unwrap();
    store.put_action("main", &action, b"result", &[output, tree, empty, output]).unwrap();
    let absent = sha256(b"never uploaded");
    store.put_action("main", &absent, b"incomplete", &[output, absent]).unwrap();
    for _ in 0..2 {
        assert_eq!(store.engine().get_action("main", &action).unwrap(), "result");
        for (instance, action) in [("other", &action), ("", &action), ("main", &absent), ("main", &output)] {
            assert!(matches!(store.engine().get_action(instance, action), Err(EngineError::NotFound)), "{instance}");
        }
        store.crash();
    }
    assert_eq!(store.report.action_count, 2);
    // A hit leases the whole closure: it stays while everything else is rotated out.
    for seed in 0..5 * 16 * 16 {
        store.put(&data(1000 + seed, PART)).unwrap();
        store.engine().get_action("main", &action).unwrap();
    }
    assert_eq!(store.get(&tree).unwrap(), data(8, 3 * PART));
}

#[test]
fn an_action_too_large_for_a_record_is_refused() {
    let store = Store::new(small(16));
    let limit = store.engine().action_value_size_bytes_max();
    let action = sha256(b"action");
    store.put_action("", &action, &vec![1; limit], &[]).unwrap();
    assert!(matches!(store.put_action("", &action, &vec![1; limit + 4097], &[]), Err(EngineError::TooLarge { .. })));
    assert_eq!(store.engine().get_action("", &action).unwrap().len(), limit);
}

/// Faults 5 and 48: a damaged record is a miss, and only it.
#[test]
fn a_flipped_bit_loses_one_record_and_is_never_served() {
    let mut store = Store::new(small(16));
    let blobs: Vec<Vec<u8>> = (0..20).map(|seed| data(seed, 3000)).collect();
    let digests: Vec<Digest> = blobs.iter().map(|blob| store.put(blob).unwrap()).collect();
    store.stepper().run_until_idle();
    let victim = 7;
    for (what, at) in [("payload", 1500), ("header", -30)] {
        store.crash_after(|folder| {
            for path in segment_files(folder) {
                let bytes = std::fs::read(&path).unwrap();
                if let Some(start) = bytes.windows(64).position(|window| window == &blobs[victim][..64]) {
                    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
                    let place = start.checked_add_signed(at).unwrap();
                    file.write_all_at(&[bytes[place] ^ 0x10], place as u64).unwrap();
                }
            }
        });
        assert_eq!(store.report.blob_count, 19, "{what}");
        for (position, digest) in digests.iter().enumerate() {
            match store.get(digest) {
                Ok(read) => assert!(position != victim && read == blobs[position], "{what} {position}"),
                Err(error) => {
                    assert!(position == victim && matches!(error, EngineError::NotFound), "{what} {position}")
                }
            }
        }
    }
}

#[test]
fn damage_under_a_running_store_is_a_miss_that_can_be_uploaded_again() {
    let store = Store::new(small(16));
    for size in [3000, 3 * PART] {
        let blob = data(11, size);
        let digest = store.put(&blob).unwrap();
        for path in store.segment_files() {
            let bytes = std::fs::read(&path).unwrap();
            let last = &blob[size - 64..];
            if let Some(start) = bytes.windows(64).position(|window| window == last) {
                std::fs::OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .unwrap()
                    .write_all_at(&[0xAA; 8], start as u64)
                    .unwrap();
            }
        }
        assert!(matches!(store.get(&digest), Err(EngineError::NotFound | EngineError::DataLoss(_))), "{size}");
        assert!(!store.present(&digest), "found missing after the failed read");
        store.put_as(digest, &blob).unwrap();
        assert_eq!(store.get(&digest).unwrap(), blob);
    }
}

#[test]
fn sealed_segments_come_back_from_their_footers() {
    let mut store = Store::new(small(32));
    let digests: Vec<Digest> = (0..6000).map(|seed| store.put(&data(seed, 1000)).unwrap()).collect();
    store.stepper().run_until_idle();
    for _ in 0..2 {
        store.crash();
        assert_eq!(store.report.blob_count, 6000);
        assert!(digests.iter().all(|digest| store.present(digest)));
    }
    assert_eq!(store.get(&digests[5]).unwrap(), data(5, 1000));
}

#[test]
fn max_size_may_be_lowered_and_raised_at_a_restart() {
    let mut store = Store::new(small(32));
    let digests: Vec<Digest> = (0..24 * 15).map(|seed| store.put(&data(seed, PART)).unwrap()).collect();
    store.stepper().run_until_idle();
    store.options.max_size_bytes = 16 * MIB;
    store.crash();
    assert!(store.disk_bytes() <= 16 * MIB, "{}", store.disk_bytes());
    assert!(store.present(digests.last().unwrap()) && !store.present(&digests[0]), "the oldest go first");
    store.options.max_size_bytes = 48 * MIB;
    store.crash();
    for seed in 0..40 * 15 {
        store.put(&data(50_000 + seed, PART)).unwrap();
    }
    assert!(store.disk_bytes() > 16 * MIB && store.disk_bytes() <= 48 * MIB);
}

#[test]
fn reclaim_is_idle_while_there_is_room() {
    let store = Store::new(small(16));
    store.put(&data(1, 1000)).unwrap();
    assert_eq!(store.stepper().reclaim(), ReclaimStep::Idle);
}

#[test]
fn a_full_index_is_relieved_by_reclaim() {
    let mut options = small(16);
    options.index_capacity = Some(10_000);
    let store = Store::new(options);
    for seed in 0..30_000 {
        store.put(&data(seed, 200)).unwrap();
        store.stepper().run_until_idle();
    }
    let stats = store.engine().stats();
    assert!((5_000..10_000).contains(&stats.entry_count), "{stats:?}");
    assert!(store.present(&sha256(&data(29_999, 200))) && !store.present(&sha256(&data(0, 200))), "oldest first");
}

/// What comes of a blob does not depend on what it is verified with, nor on whether it is.
#[test]
fn blobs_verified_together_fare_as_each_alone() {
    let stores = [(); 3].map(|()| Store::new(small(32)));
    let big = data(1, 3 * PART + 7);
    let present = data(2, 1000);
    for store in &stores {
        store.put(&present).unwrap();
    }
    let of = |function, data: &[u8]| Hasher::digest(function, data);
    let isolated = |store: &Store| store.engine().namespace("isolated").unwrap();
    assert!(stores.iter().all(|store| isolated(store) == isolated(&stores[0])));
    let mut blobs: Vec<(Digest, Vec<u8>)> = (0..40)
        .map(|seed| data(10 + seed, 100 * seed as usize))
        .map(|blob| (sha256(&blob), blob))
        .chain(DigestFunction::ALL.map(|function| (of(function, b"of all functions"), b"of all functions".to_vec())))
        .collect();
    blobs.extend([
        (sha256(b"the right size"), b"the wrong hash".to_vec()),
        (of(DigestFunction::Blake3, b"the right size"), b"the wrong hash".to_vec()),
        (sha256(b"a byte too few"), b"a byte too fe".to_vec()),
        (sha256(b"a byte too many"), b"a byte too many!".to_vec()),
        (sha256(b"missing"), Vec::new()),
        (sha256(b""), Vec::new()),
        // Nobody looks at what is sent of a blob that is there.
        (sha256(&present), b"something else".to_vec()),
        (sha256(b"twice in one batch"), b"twice in one batch".to_vec()),
        (sha256(b"twice in one batch"), b"twice in one batch".to_vec()),
        (sha256(b"shared").within(isolated(&stores[0])), b"shared".to_vec()),
        (sha256(&big), big.clone()),
        (sha256(&data(3, 3 * PART + 7)), big.clone()),
        (sha256(&data(4, 2 * PART)), data(4, PART)),
        (sha256(&big).with_size_bytes(1 << 50), big),
    ]);
    let together: Vec<(Digest, &[u8])> = blobs.iter().map(|(digest, data)| (*digest, &data[..])).collect();
    let verified = stores[0].engine().verify_each(&together);
    assert_eq!(verified.len(), blobs.len());
    let mut refused = 0;
    for ((digest, data), verified) in blobs.iter().zip(verified) {
        let outcome = match verified {
            Ok(Some(verified)) => stores[0].wait(|done| verified.submit(done)),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        let alone = stores[1].wait(|done| stores[1].engine().put(*digest, data, done));
        let streamed = stores[2].put_as(*digest, data);
        let text = |outcome: &Result<(), EngineError>| outcome.as_ref().map_err(EngineError::to_string).copied();
        assert_eq!(text(&outcome), text(&alone), "{digest}");
        assert_eq!(outcome.is_ok(), streamed.is_ok(), "{digest}");
        refused += u32::from(outcome.is_err());
        if outcome.is_ok() && *digest != sha256(&present) {
            assert_eq!(stores[0].get(digest).unwrap(), *data, "{digest}");
        } else {
            assert_eq!(stores[0].present(digest), *digest == sha256(&present), "{digest}");
        }
    }
    assert_eq!(refused, 8);
    let stored = |store: &Store| {
        // Parts of what was refused are written all the same.
        store.stepper().run_until_idle();
        (store.engine().stats().entry_count, store.engine().stats().appended_bytes_total)
    };
    assert_eq!(stored(&stores[0]), stored(&stores[1]));
}

#[test]
fn blobs_submitted_together_are_one_write_and_each_is_answered() {
    let store = Store::new(small(32));
    let blobs: Vec<Vec<u8>> =
        (0..20).map(|seed| data(50 + seed, 3000)).chain([data(50, 3000), data(90, 2 * PART)]).collect();
    let verify = || {
        let blobs: Vec<(Digest, &[u8])> = blobs.iter().map(|blob| (sha256(blob), &blob[..])).collect();
        store.engine().verify_each(&blobs)
    };
    let told = Arc::new(Mutex::new(Vec::new()));
    let submit = |verified: Vec<Result<Option<Verified>, EngineError>>| {
        let submitted = verified.into_iter().flatten().flatten().enumerate().map(|(number, verified)| {
            let told = Arc::clone(&told);
            let done: Completion = Box::new(move |outcome| told.lock().unwrap().push((number, outcome.is_ok())));
            (verified, done)
        });
        store.engine().submit_each(submitted.collect());
    };
    let (first, second) = (verify(), verify());
    submit(first);
    assert_eq!(told.lock().unwrap().len(), 0, "nothing was written");
    assert_eq!(store.stepper().write(), WriterStep::Worked);
    assert_eq!(store.stepper().write(), WriterStep::Idle, "one step wrote all of them");
    let mut numbers = std::mem::take(&mut *told.lock().unwrap());
    numbers.sort_unstable();
    assert_eq!(numbers, (0..22).map(|number| (number, true)).collect::<Vec<_>>());
    // Stored meanwhile: answered at once, and not stored again.
    let appended = store.engine().stats().appended_bytes_total;
    submit(second);
    assert_eq!(std::mem::take(&mut *told.lock().unwrap()).len(), 22);
    assert_eq!(store.stepper().write(), WriterStep::Idle);
    assert_eq!(store.engine().stats().appended_bytes_total, appended);
    for blob in &blobs {
        assert_eq!(store.get(&sha256(blob)).unwrap(), *blob);
    }
}

#[test]
fn what_is_submitted_to_a_closed_store_is_refused_one_by_one() {
    let store = Store::new(small(32));
    let blobs: Vec<Vec<u8>> = (0..5).map(|seed| data(50 + seed, 3000)).collect();
    let verified = store.engine().verify_each(&blobs.iter().map(|blob| (sha256(blob), &blob[..])).collect::<Vec<_>>());
    store.stepper().close().unwrap();
    let told = Arc::new(Mutex::new(0));
    let submitted = verified.into_iter().map(|verified| {
        let told = Arc::clone(&told);
        let done: Completion = Box::new(move |outcome| {
            assert!(matches!(outcome, Err(EngineError::Closed)), "{outcome:?}");
            *told.lock().unwrap() += 1;
        });
        (verified.unwrap().unwrap(), done)
    });
    store.engine().submit_each(submitted.collect());
    assert_eq!(*told.lock().unwrap(), 5);
}
