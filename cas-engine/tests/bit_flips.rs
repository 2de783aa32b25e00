//! A bit flipped anywhere in a segment file, of a running or a stopped store, costs at most the record it is in: never a
//! wrong byte, never another record, never a panic. And the scrubber finds it before a client does.

#[path = "support/segment_file.rs"]
mod segment_file;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cask_engine::clock::Clock;
use cask_engine::format::record::RecordKind;
use cask_engine::format::superblock::Superblock;
use cask_engine::{Compression, ScrubStep};
use cask_index::Digest;
use segment_file::{Allowed, flip, is_sealed, owner, records};
use support::{MIB, Store, data, segment_files, sha256, small};

const SEGMENT_BYTES: usize = MIB as usize;
const INSTANCE: &str = "main";

/// What was put into a store.
#[derive(Default)]
struct Content {
    blobs: Vec<(Digest, Vec<u8>)>,
    actions: Vec<(Digest, Vec<u8>)>,
}

/// A sealed and an open segment of each kind: small blobs, parts and heads, actions.
fn filled() -> (Store, Content) {
    let mut options = small(32);
    options.scrub_period = Duration::from_secs(14 * 24 * 3600);
    // So that some records are encoded: the even ones of a thousand bytes and more compress.
    options.compression = Compression::Zstd;
    let store = Store::new(options);
    let mut content = Content::default();
    let sizes = [1, 63, 64, 100, 4_000, 30_000, 65_536].into_iter().cycle().take(126);
    let large = [200_000, 131_072, 65_537, 400_000, 500_000, 300_000, 600_000].into_iter();
    for (seed, size) in sizes.chain(large).enumerate() {
        let mut bytes = data(seed as u64 + 1, size);
        if seed % 2 == 0 && size >= 1000 {
            bytes.iter_mut().for_each(|byte| *byte &= 15);
        }
        content.blobs.push((store.put(&bytes).unwrap(), bytes));
    }
    for number in 0..12_u64 {
        let action = sha256(&number.to_le_bytes());
        let value = data(1000 + number, 120_000);
        let closure: Vec<Digest> = content.blobs.iter().take(3).map(|(digest, _)| *digest).collect();
        store.put_action(INSTANCE, &action, &value, &closure).unwrap();
        content.actions.push((action, value));
    }
    store.stepper().run_until_idle();
    (store, content)
}

/// Reads everything; panics at a wrong byte, and at a miss that is not allowed.
fn check(store: &Store, content: &Content, allowed: &Allowed, what: &str) -> Allowed {
    let mut lost = Allowed::new();
    for (digest, bytes) in &content.blobs {
        match store.get(digest) {
            Ok(read) => assert!(read == *bytes, "{what}: wrong bytes of {digest}"),
            Err(_) => {
                lost.insert(digest.to_string());
            }
        }
    }
    for (action, value) in &content.actions {
        match store.engine().get_action(INSTANCE, action) {
            Ok(read) => assert!(read == *value, "{what}: wrong value of {action}"),
            Err(_) => {
                lost.insert(action.to_string());
            }
        }
    }
    // An action that needs a lost blob is a miss with it.
    let needed_is_lost = content.blobs.iter().take(3).any(|(digest, _)| lost.contains(&digest.to_string()));
    if needed_is_lost {
        content.actions.iter().for_each(|(action, _)| {
            lost.remove(&action.to_string());
        });
    }
    assert!(lost.is_subset(allowed), "{what}: lost {lost:?}, and only {allowed:?} may be");
    lost
}

struct Files {
    names: Vec<PathBuf>,
    bytes: Vec<Vec<u8>>,
    superblock: Vec<u8>,
}

impl Files {
    fn of(folder: &Path) -> Self {
        let names = segment_files(folder);
        let bytes = names.iter().map(|name| fs::read(name).unwrap()).collect();
        Self { names, bytes, superblock: fs::read(folder.join("superblock")).unwrap() }
    }

    fn restore(&self, folder: &Path) {
        for (name, bytes) in self.names.iter().zip(&self.bytes) {
            fs::write(name, bytes).unwrap();
        }
        fs::write(folder.join("superblock"), &self.superblock).unwrap();
        for name in segment_files(folder).into_iter().filter(|name| !self.names.contains(name)) {
            fs::remove_file(name).unwrap();
        }
    }
}

/// Offsets worth flipping a bit at, each with a name.
fn regions(file: &[u8], superblock: &Superblock) -> Vec<(String, usize)> {
    let mut regions = Vec::new();
    for copy in [0, 2048] {
        for (name, at) in [
            ("magic", 0),
            ("version", 8),
            ("number", 12),
            ("sequence", 16),
            ("class", 24),
            ("zero", 28),
            ("store id", 32),
            ("opened", 48),
            ("crc", 56),
            ("unused", 60),
            ("end", 2047),
        ] {
            regions.push((format!("segment header at {copy}, {name}"), copy + at));
        }
    }
    let records = records(file, superblock);
    let kinds = [RecordKind::Blob, RecordKind::Part, RecordKind::Head, RecordKind::Action];
    let of_kinds = kinds.iter().filter_map(|kind| records.iter().position(|record| record.header.kind == *kind));
    let chosen: BTreeSet<usize> = [0, records.len() / 2, records.len() - 1].into_iter().chain(of_kinds).collect();
    for number in chosen {
        let record = &records[number];
        let mut fields = vec![0, 2, 3, 4, 5, 6, 7, 8, 16, 20, 24, 32, 63];
        if record.header.length_bytes() == 128 {
            fields.extend([64, 96, 104, 108, 112, 120, 127]);
        }
        let name = format!("record {number} ({:?})", record.header.kind);
        regions.extend(fields.into_iter().map(|at| (format!("{name}, header at {at}"), record.offset + at)));
        let payload = record.offset + record.header.length_bytes();
        if record.payload_end() > payload {
            let middle = (payload + record.payload_end()) / 2;
            for (part, at) in [("first", payload), ("middle", middle), ("last", record.payload_end() - 1)] {
                regions.push((format!("{name}, {part} byte of payload"), at));
            }
        }
        if record.end() > record.payload_end() {
            regions.push((format!("{name}, padding"), record.end() - 1));
        }
    }
    let end = records.last().unwrap().end();
    regions.push(("unused, first byte".to_owned(), end));
    if is_sealed(file) {
        let footer = SEGMENT_BYTES - 64 - 32 * records.len();
        for entry in [0, records.len() - 1] {
            for at in [0, 16, 20, 24, 25, 31] {
                regions.push((format!("footer entry {entry} at {at}"), footer + 32 * entry + at));
            }
        }
    }
    for (name, at) in [
        ("magic", 0),
        ("version", 8),
        ("count", 12),
        ("sequence", 16),
        ("end", 24),
        ("zero", 28),
        ("sealed", 32),
        ("checksum", 40),
        ("crc", 48),
        ("unused", 52),
    ] {
        regions.push((format!("trailer, {name}"), SEGMENT_BYTES - 64 + at));
    }
    regions
}

/// Steps the scrubber from one cycle's end to the next.
fn scrub_all(store: &Store) {
    let before = store.engine().stats().scrub_cycles_total;
    while store.engine().stats().scrub_cycles_total == before {
        let (ScrubStep::Rests { due_ms } | ScrubStep::Verified { due_ms, .. }) = store.stepper().scrub() else {
            panic!("the scrubber is off")
        };
        store.clock.advance(Duration::from_millis(due_ms.saturating_sub(store.clock.now_ms())));
    }
}

struct Case {
    name: String,
    file: usize,
    at: usize,
    bit: u32,
}

fn every_region(files: &Files, superblock: &Superblock) -> Vec<Case> {
    let of_file = |(file, bytes): (usize, &Vec<u8>)| {
        regions(bytes, superblock).into_iter().enumerate().map(move |(number, (name, at))| Case {
            name,
            file,
            at,
            bit: number as u32 % 8,
        })
    };
    files.bytes.iter().enumerate().flat_map(of_file).collect()
}

/// Anywhere in what is used: most of a segment that was just begun is not.
fn sample(files: &Files, superblock: &Superblock, count: usize) -> Vec<Case> {
    let random = data(0x0B17_F11B, count * 16);
    let word = |number: usize| u64::from_le_bytes(random[number * 8..][..8].try_into().unwrap()) as usize;
    let case = |number: usize| {
        let file = word(number * 2) % files.bytes.len();
        let used = records(&files.bytes[file], superblock).last().unwrap().end();
        let choice = word(number * 2 + 1);
        // Half of them where a bit means most: in the structures at both ends.
        let at = match choice % 4 {
            0 => choice / 8 % 4096,
            1 => SEGMENT_BYTES - 1 - choice / 8 % 4096,
            _ => choice / 8 % used,
        };
        Case { name: format!("random {number}"), file, at, bit: (choice % 8) as u32 }
    };
    (0..count).map(case).collect()
}

fn with_every_case(check_case: impl Fn(&mut Store, &Content, &Files, &Superblock, &Case)) {
    let (mut store, content) = filled();
    store.crash();
    let files = Files::of(store.folder.path());
    assert!(files.bytes.iter().filter(|file| is_sealed(file)).count() >= 3, "sealed segments of each kind");
    assert!(files.bytes.iter().filter(|file| !is_sealed(file)).count() >= 3, "open segments of each kind");
    let superblock = Superblock::decode(&files.superblock).unwrap();
    assert!(check(&store, &content, &Allowed::new(), "untouched").is_empty());
    let cases = every_region(&files, &superblock).into_iter().chain(sample(&files, &superblock, 300));
    for mut case in cases {
        let kind = if is_sealed(&files.bytes[case.file]) { "sealed" } else { "open" };
        case.name = format!("{kind} segment {}, {}, bit {} of byte {}", case.file, case.name, case.bit, case.at);
        check_case(&mut store, &content, &files, &superblock, &case);
    }
}

#[test]
fn in_a_stopped_store_it_costs_at_most_its_record() {
    with_every_case(|store, content, files, superblock, case| {
        store.crash_after(|folder| {
            files.restore(folder);
            flip(&files.names[case.file], case.at, case.bit);
        });
        let (allowed, must_be_lost) = owner(&files.bytes[case.file], superblock, case.at);
        let lost = check(store, content, &allowed, &case.name);
        assert_eq!(!lost.is_empty(), must_be_lost, "{}: served from damaged bytes", case.name);
    });
}

#[test]
fn in_a_running_store_it_costs_at_most_its_record_and_is_found_by_the_scrubber() {
    with_every_case(|store, content, files, superblock, case| {
        store.crash_after(|folder| files.restore(folder));
        let original = &files.bytes[case.file];
        let path = &files.names[case.file];
        flip(path, case.at, case.bit);
        let (allowed, must_be_lost) = owner(original, superblock, case.at);
        let sealed = is_sealed(original);
        let before = store.engine().stats();
        scrub_all(store);
        let after = store.engine().stats();
        {
            let found = after.corrupt_records_total - before.corrupt_records_total;
            assert_eq!(found, u64::from(must_be_lost), "{}: damaged records found", case.name);
            for (digest, _) in content.blobs.iter().filter(|(digest, _)| allowed.contains(&digest.to_string())) {
                assert!(!store.present(digest), "{}: still reported present", case.name);
            }
        }
        let lost = check(store, content, &allowed, &case.name);
        assert_eq!(!lost.is_empty(), must_be_lost, "{}: served from damaged bytes", case.name);
        // Header and footer are as they were, wherever the bit was: what means something is written again.
        let now = fs::read(path).unwrap();
        let records = records(original, superblock);
        if sealed && !must_be_lost {
            let footer = SEGMENT_BYTES - 64 - 32 * records.len();
            assert!(now[footer..SEGMENT_BYTES - 12] == original[footer..SEGMENT_BYTES - 12], "{}: footer", case.name);
            assert!(now[..60] == original[..60] && now[2048..2108] == original[2048..2108], "{}: header", case.name);
        }
        store.crash();
        let lost = check(store, content, &allowed, &case.name);
        assert_eq!(!lost.is_empty(), must_be_lost, "{}: after a restart", case.name);
    });
}
