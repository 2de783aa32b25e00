//! Encoded payloads: what is stored as zstd, that every way of reading gives the blob, and that damage is a miss.

#[path = "support/segment_file.rs"]
mod segment_file;
mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use cask_engine::clock::Clock;
use cask_engine::format::record::{Encoding, RecordHeader, RecordKind, RecordPlace, payload_checksum};
use cask_engine::format::superblock::Superblock;
use cask_engine::fsck;
use cask_engine::{BeginUpload, Compression, EngineError, EngineOptions, ScrubStep};
use cask_index::Digest;
use segment_file::records;
use support::{MIB, Store, data, sha256, small};

const PART: usize = 64 * 1024;

/// Compresses to a third or so; never repeats as a whole.
fn text(seed: u64, length: usize) -> Vec<u8> {
    let words = ["object ", "linker ", "symbol ", "section ", "0x", "\n\t.align ", "relocation ", "debug_info "];
    data(seed, length).iter().flat_map(|byte| words[usize::from(byte % 8)].bytes()).take(length).collect()
}

fn compressing(max_size_mib: u64) -> EngineOptions {
    EngineOptions { compression: Compression::Zstd, ..small(max_size_mib) }
}

fn zstd(raw: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(raw, 3).unwrap()
}

/// Stores a blob of one record as a client's zstd stream.
fn put_zstd(store: &Store, digest: Digest, stream: &[u8]) -> Result<(), EngineError> {
    let BeginUpload::Upload(upload) = store.engine().begin_upload(digest)? else { return Ok(()) };
    let mut refused = Ok(());
    let outcome = store.wait(|done| refused = upload.finish_zstd(stream.to_vec(), done));
    refused.and(outcome)
}

/// Its records in order: encoding, and the payloads one after another.
fn stored(store: &Store, digest: &Digest) -> (Vec<Encoding>, Vec<u8>) {
    let blob = store.engine().read(digest).unwrap();
    let (mut encodings, mut payloads, mut at) = (Vec::new(), Vec::new(), 0);
    while at < digest.size_bytes() {
        let chunk = blob.stored_at(at, true).unwrap().unwrap();
        assert_eq!(chunk.raw_range().start, at);
        at = chunk.raw_range().end;
        encodings.push(chunk.encoding());
        payloads.extend_from_slice(&blob.as_stored(chunk));
    }
    (encodings, payloads)
}

#[test]
fn a_clients_stream_is_kept_as_it_came_and_read_either_way() {
    let mut store = Store::new(small(32));
    let mut blobs = Vec::new();
    for (seed, length) in [(1, 600), (2, 5_000), (3, PART)] {
        let raw = text(seed, length);
        // Two frames, as a client may send them.
        let (front, back) = raw.split_at(length / 3);
        let stream = [zstd(front), zstd(back)].concat();
        put_zstd(&store, sha256(&raw), &stream).unwrap();
        blobs.push((raw, stream));
    }
    for round in 0..2 {
        for (raw, stream) in &blobs {
            let digest = sha256(raw);
            assert_eq!(store.get(&digest).unwrap(), *raw, "round {round}");
            assert_eq!(stored(&store, &digest), (vec![Encoding::Zstd], stream.clone()), "round {round}");
            let reader = store.engine().read(&digest).unwrap();
            for offset in [0, 1, raw.len() / 2, raw.len() - 1, raw.len()] {
                let chunk = reader.chunk_at(offset as u64, true).unwrap().unwrap();
                assert_eq!(chunk, &raw[offset..], "offset {offset}");
            }
        }
        store.crash();
        assert_eq!(store.report.corrupt_record_count, 0);
    }
}

#[test]
fn a_stream_that_does_not_pay_or_not_everyone_can_read_is_not_kept() {
    let store = Store::new(small(32));
    let raw = text(1, PART);
    let wide = {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.window_log(25).unwrap();
        std::io::Write::write_all(&mut encoder, &raw).unwrap();
        encoder.finish().unwrap()
    };
    let noise = data(2, 10_000);
    put_zstd(&store, sha256(&noise), &zstd(&noise)).unwrap();
    assert_eq!(stored(&store, &sha256(&noise)), (vec![Encoding::Raw], noise));
    // It came compressed, so it is stored compressed, with frames of the store's own.
    put_zstd(&store, sha256(&raw), &wide).unwrap();
    let (encodings, payload) = stored(&store, &sha256(&raw));
    assert_eq!(encodings, [Encoding::Zstd]);
    assert_ne!(payload, wide);
    assert_eq!(store.get(&sha256(&raw)).unwrap(), raw);
}

#[test]
fn a_stream_that_is_not_the_blob_is_refused_and_nothing_is_stored() {
    let store = Store::new(compressing(32));
    let raw = text(1, 20_000);
    let digest = sha256(&raw);
    let stream = zstd(&raw);
    let bomb = zstd(&vec![0; 50 << 20]);
    for (what, sent) in [
        ("garbage", &raw[..]),
        ("nothing", b""),
        ("cut", &stream[..stream.len() - 1]),
        ("trailing bytes", &[&stream[..], b"x"].concat()),
        ("another", &zstd(&text(2, 20_000))),
        ("shorter", &zstd(&raw[1..])),
        ("longer", &zstd(&text(1, 20_001))),
        ("twice", &[&stream[..], &stream[..]].concat()),
        ("a bomb", &bomb),
    ] {
        assert!(matches!(put_zstd(&store, digest, sent), Err(EngineError::Mismatch { .. })), "{what}");
        assert!(!store.present(&digest), "{what}");
    }
    put_zstd(&store, digest, &stream).unwrap();
    assert_eq!(store.engine().stats().uploads_open, 0);
}

#[test]
fn what_comes_as_it_is_is_compressed_part_by_part_where_that_pays() {
    let mut store = Store::new(compressing(32));
    let mixed = [text(1, 2 * PART), data(2, PART), text(3, 1000)].concat();
    let digest = store.put(&mixed).unwrap();
    let noise = store.put(&data(4, 3 * PART)).unwrap();
    let small = text(5, 4000);
    let small_digest = store.put(&small).unwrap();
    for round in 0..2 {
        use Encoding::{Raw, Zstd};
        let (encodings, payloads) = stored(&store, &digest);
        assert_eq!(encodings, [Zstd, Zstd, Raw, Zstd], "round {round}");
        assert!(payloads.len() < mixed.len() * 2 / 3);
        assert_eq!(stored(&store, &noise).0, [Raw; 3]);
        assert_eq!(stored(&store, &small_digest).0, [Zstd]);
        assert_eq!(store.get(&digest).unwrap(), mixed);
        let reader = store.engine().read(&digest).unwrap();
        for offset in [0, 1, PART - 1, PART, PART + 17, 2 * PART + 5, 3 * PART, 3 * PART + 999] {
            let chunk = reader.chunk_at(offset as u64, true).unwrap().unwrap();
            let end = mixed.len().min((offset / PART + 1) * PART);
            assert_eq!(chunk, &mixed[offset..end], "offset {offset}");
        }
        drop(reader);
        store.crash();
    }
}

#[test]
fn a_large_encoded_record_is_not_decoded_by_a_thread_that_may_not_wait() {
    // Parts of 1 MiB.
    let store = Store::new(EngineOptions { segment_size_bytes: Some(16 << 20), ..compressing(256) });
    for (length, at_once) in [(64 << 10, true), ((64 << 10) + 1, false), (3 << 20, false)] {
        let raw = text(length as u64, length);
        let digest = store.put(&raw).unwrap();
        let reader = store.engine().read(&digest).unwrap();
        assert_eq!(reader.chunk_at(5, false).unwrap().is_some(), at_once, "{length}");
        assert!(reader.stored_at(5, false).unwrap().is_some(), "as it is stored it is there at once");
        assert_eq!(reader.chunk_at(5, true).unwrap().unwrap(), &raw[5..raw.len().min(1 << 20)]);
    }
}

#[test]
fn encoded_records_go_through_reclaim_as_they_are() {
    let store = Store::new(EngineOptions { lease: Duration::from_secs(3600), ..compressing(16) });
    let kept: Vec<Vec<u8>> = (0..20).map(|seed| text(seed, 3000 + 9000 * seed as usize)).collect();
    let forms: Vec<_> = kept.iter().map(|raw| stored(&store, &store.put(raw).unwrap())).collect();
    assert!(forms.iter().all(|(encodings, _)| encodings[0] == Encoding::Zstd));
    for seed in 1000..1400 {
        store.put(&data(seed, 50_000)).unwrap();
        for raw in &kept {
            assert!(store.present(&sha256(raw)));
        }
        store.clock.advance(Duration::from_secs(20));
        store.stepper().run_until_idle();
    }
    assert!(store.engine().stats().reinserted_bytes_total > 0, "reclaim has moved something");
    for (raw, form) in kept.iter().zip(&forms) {
        assert_eq!(store.get(&sha256(raw)).unwrap(), *raw);
        assert_eq!(stored(&store, &sha256(raw)), *form);
    }
}

/// Forges the first record that `is_it` takes: another payload of the same length, all checksums right.
fn forge(folder: &Path, is_it: impl Fn(&RecordHeader) -> bool, with: impl Fn(&mut Vec<u8>)) {
    let superblock = Superblock::decode(&fs::read(folder.join("superblock")).unwrap()).unwrap();
    for path in support::segment_files(folder) {
        let content = fs::read(&path).unwrap();
        let Some(record) = records(&content, &superblock).into_iter().find(|record| is_it(&record.header)) else {
            continue;
        };
        let mut payload = content[record.offset + record.header.length_bytes()..record.payload_end()].to_vec();
        with(&mut payload);
        let sequence = u64::from_le_bytes(content[16..24].try_into().unwrap());
        let place = RecordPlace { store_id: superblock.store_id, sequence, offset_bytes: record.offset as u32 };
        let header = RecordHeader { payload_checksum: payload_checksum(&payload), ..record.header };
        let mut bytes = vec![0; header.length_bytes()];
        header.encode_into(&place, &mut bytes);
        bytes.extend(payload);
        fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&bytes, record.offset as u64).unwrap();
        return;
    }
    panic!("there is no such record");
}

fn scrub(store: &Store) {
    let before = store.engine().stats().scrub_cycles_total;
    while store.engine().stats().scrub_cycles_total == before {
        match store.stepper().scrub() {
            ScrubStep::Rests { due_ms } | ScrubStep::Verified { due_ms, .. } => {
                store.clock.advance(Duration::from_millis(due_ms.saturating_sub(store.clock.now_ms())));
            }
            ScrubStep::Off => panic!("the scrubber is off"),
        }
    }
}

#[test]
fn sound_encoded_records_are_sound_to_the_scrubber_and_to_fsck() {
    let mut options = compressing(16);
    options.scrub_period = Duration::from_secs(14 * 24 * 3600);
    let store = Store::new(options);
    let raws = [text(1, 5_000), text(2, 3 * PART + 700), [text(3, PART), data(4, PART)].concat()];
    for raw in &raws {
        store.put(raw).unwrap();
    }
    let sent = text(5, 40_000);
    put_zstd(&store, sha256(&sent), &zstd(&sent)).unwrap();
    scrub(&store);
    let stats = store.engine().stats();
    assert_eq!((stats.corrupt_records_total, stats.scrubbed_records_total), (0, 4));
    assert!(raws.iter().chain([&sent]).all(|raw| store.present(&sha256(raw))));
    store.stepper().close().unwrap();
    let copy = tempfile::tempdir().unwrap();
    copy_folder(store.folder.path(), copy.path());
    let report = fsck::check(copy.path(), fsck::CheckOptions::default()).unwrap();
    assert!(report.is_clean(), "{report:?}");
}

/// What a faulty machine wrote: a stream with the right checksum that does not decode, or decodes to something else.
#[test]
fn a_stored_stream_that_is_not_its_blob_is_a_miss_for_readers_the_scrubber_and_fsck() {
    let raws = [text(1, 5_000), text(2, 3 * PART)];
    let other = zstd(&text(9, 5_000));
    type Harm<'a> = &'a dyn Fn(&mut Vec<u8>);
    let harms: [(&str, Harm<'_>); 3] = [
        ("no magic", &|payload| payload[0] ^= 1),
        ("a frame less", &|payload| {
            let length = payload.len();
            // A skippable frame of the whole length: a valid stream of nothing.
            payload[..4].copy_from_slice(&0x184D_2A50_u32.to_le_bytes());
            payload[4..8].copy_from_slice(&(length as u32 - 8).to_le_bytes());
        }),
        ("another content", &|payload| {
            if payload.len() >= other.len() + 8 {
                let rest = (payload.len() - other.len() - 8) as u32;
                payload[..other.len()].copy_from_slice(&other);
                payload[other.len()..other.len() + 4].copy_from_slice(&0x184D_2A50_u32.to_le_bytes());
                payload[other.len() + 4..other.len() + 8].copy_from_slice(&rest.to_le_bytes());
            } else {
                let last = payload.len() - 1;
                payload[last / 2] ^= 1;
            }
        }),
    ];
    for raw in &raws {
        let digest = sha256(raw);
        let kind = if raw.len() > PART { RecordKind::Part } else { RecordKind::Blob };
        let is_it = |header: &RecordHeader| header.kind == kind && header.encoding == Encoding::Zstd;
        for (what, harm) in harms {
            let what = format!("{what} of {}", raw.len());
            let mut options = compressing(16);
            options.scrub_period = Duration::from_secs(14 * 24 * 3600);
            let mut store = Store::new(options);
            store.put(raw).unwrap();
            store.crash_after(|folder| forge(folder, is_it, harm));
            assert_eq!(store.report.corrupt_record_count, 0, "{what}: its checksums are right");

            let report = {
                let copy = tempfile::tempdir().unwrap();
                copy_folder(store.folder.path(), copy.path());
                fsck::check(copy.path(), fsck::CheckOptions::default()).unwrap()
            };
            assert!(report.findings.iter().any(|finding| finding.digest == Some(digest)), "{what}: {report:?}");

            scrub(&store);
            assert!(!store.present(&digest), "{what}: the scrubber finds it");
            assert_eq!(store.engine().stats().corrupt_records_total, 1, "{what}");
            store.put(raw).unwrap();
            assert_eq!(store.get(&digest).unwrap(), *raw, "{what}: and it can be stored anew");
        }

        // Who reads before the scrubber comes by sees a miss too, never other bytes.
        let mut store = Store::new(compressing(16));
        store.put(raw).unwrap();
        store.crash_after(|folder| forge(folder, is_it, harms[0].1));
        assert!(matches!(store.get(&digest), Err(EngineError::NotFound)));
        assert_eq!(store.engine().stats().corrupt_records_total, 1);
        assert!(!store.present(&digest));
    }
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.metadata().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Damage to a later part is found when some of the blob is out already: that is a loss and not a miss.
#[test]
fn a_part_that_does_not_decode_midway_is_data_loss() {
    let mut store = Store::new(compressing(16));
    let raw = text(1, 3 * PART);
    let digest = store.put(&raw).unwrap();
    let is_second = |header: &RecordHeader| header.part.is_some_and(|tag| tag.number == 1);
    store.crash_after(|folder| forge(folder, is_second, |payload| payload[0] ^= 1));
    let reader = store.engine().read(&digest).unwrap();
    assert_eq!(reader.chunk_at(0, true).unwrap().unwrap(), &raw[..PART]);
    assert!(matches!(reader.chunk_at(PART as u64, true), Err(EngineError::DataLoss(_))));
    assert!(!store.present(&digest));
}

/// A store as version 1 left it: the same structures, all of them saying 1, nothing encoded.
#[test]
fn a_store_of_version_1_is_opened_and_becomes_one_of_version_2() {
    const VERSION_AT: usize = 8;
    let restamp = |bytes: &mut [u8], crc_at: usize| {
        if bytes[VERSION_AT] == 2 {
            bytes[VERSION_AT] = 1;
            let crc = crc32c::crc32c(&bytes[..crc_at]);
            bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        }
    };
    let mut store = Store::new(EngineOptions { lease: Duration::from_secs(3600), ..small(16) });
    let blobs: Vec<Vec<u8>> = (0..40).map(|seed| text(seed, 50_000 + 40_000 * (seed as usize % 3))).collect();
    for blob in &blobs {
        store.put(blob).unwrap();
    }
    store.stepper().run_until_idle();
    store.stepper().close().unwrap();
    store.crash_after(|folder| {
        let path = folder.join("superblock");
        let mut superblock = fs::read(&path).unwrap();
        restamp(&mut superblock, 80);
        fs::write(&path, superblock).unwrap();
        let path = folder.join("touches");
        let mut touches = fs::read(&path).unwrap();
        touches[VERSION_AT] = 1;
        let checksum_at = touches.len() - 8;
        let checksum = xxhash_rust::xxh3::xxh3_64(&touches[..checksum_at]);
        touches[checksum_at..].copy_from_slice(&checksum.to_le_bytes());
        fs::write(&path, touches).unwrap();
        for path in support::segment_files(folder) {
            let mut content = fs::read(&path).unwrap();
            let trailer_at = content.len() - 64;
            restamp(&mut content[..2048], 56);
            restamp(&mut content[2048..4096], 56);
            restamp(&mut content[trailer_at..], 48);
            fs::write(&path, content).unwrap();
        }
    });
    assert_eq!(store.report.blob_count, blobs.len() as u64);
    assert!(store.report.clean_shutdown);
    for blob in &blobs {
        assert_eq!(store.get(&sha256(blob)).unwrap(), *blob);
    }
    let superblock = fs::read(store.folder.path().join("superblock")).unwrap();
    assert_eq!(superblock[VERSION_AT], 2, "an older program would not understand what is written from now on");
    store.options.compression = Compression::Zstd;
    store.crash();
    let fresh = text(77, 30_000);
    let digest = store.put(&fresh).unwrap();
    assert_eq!(stored(&store, &digest).0, [Encoding::Zstd]);
    for blob in &blobs {
        assert_eq!(store.get(&sha256(blob)).unwrap(), *blob);
    }
}

#[test]
fn the_store_takes_less_disk_for_what_compresses() {
    let length = 4 * MIB as usize;
    let appended = |options| {
        let store = Store::new(options);
        store.put(&text(1, length)).unwrap();
        store.engine().stats().appended_bytes_total
    };
    assert!(appended(compressing(16)) < appended(small(16)) / 2);
}
