//! `fsck`: each kind of damage is found and named, nothing is written without being asked to, and a repair leaves a store
//! that opens, that serves exactly what is sound, and in which a second check finds nothing. Also when the repair is cut
//! short after any of its writes.

#[path = "support/segment_file.rs"]
mod segment_file;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use cask_engine::clock::SystemClock;
use cask_engine::format::record::{RecordKind, RecordPlace, payload_checksum};
use cask_engine::format::superblock::Superblock;
use cask_engine::fsck::{CheckOptions, Fault, Report, check};
use cask_engine::{Engine, EngineError, EngineOptions, OpenError};
use cask_index::Digest;
use segment_file::{Allowed, flip, is_sealed, owner, records};
use support::{MIB, data, segment_files, sha256, small};

const SEGMENT_BYTES: usize = MIB as usize;
const INSTANCE: &str = "main";

fn options() -> EngineOptions {
    EngineOptions { scrub_period: std::time::Duration::ZERO, ..small(32) }
}

fn open(folder: &Path) -> Engine {
    Engine::open(folder, options(), Arc::new(SystemClock::new())).unwrap().0
}

fn wait(call: impl FnOnce(cask_engine::Completion)) {
    let (sender, done) = mpsc::channel::<Result<(), EngineError>>();
    call(Box::new(move |outcome| sender.send(outcome).unwrap()));
    done.recv().unwrap().unwrap();
}

/// A stopped store and what is in it.
struct Sample {
    folder: tempfile::TempDir,
    blobs: Vec<(Digest, Vec<u8>)>,
    actions: Vec<(Digest, Vec<u8>)>,
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Orderly,
    Killed,
}

/// Sealed and open segments of small blobs, of large ones, of actions; some actions written twice.
fn sample(end: End) -> Sample {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    let (mut blobs, mut actions) = (Vec::new(), Vec::new());
    let sizes = [1, 64, 100, 4_000, 65_536].into_iter().cycle().take(80);
    for (seed, size) in sizes.chain([200_000, 131_072, 65_537, 400_000, 500_000]).enumerate() {
        let mut bytes = data(seed as u64 + 1, size);
        bytes[0] = seed as u8;
        let digest = sha256(&bytes);
        wait(|done| engine.put(digest, &bytes, done));
        blobs.push((digest, bytes));
    }
    let closure: Vec<Digest> = blobs.iter().take(3).map(|(digest, _)| *digest).collect();
    for number in (0..12_u64).chain([11, 10]) {
        let action = sha256(&number.to_le_bytes());
        let value = data(1000 + number, 120_000);
        wait(|done| engine.put_action(INSTANCE, &action, &value, &closure, done));
        if !actions.iter().any(|(known, _)| *known == action) {
            actions.push((action, value));
        }
    }
    // The syncer gives full segments their footers.
    engine.close().unwrap();
    drop(engine);
    if end == End::Killed {
        // As a killed process leaves the same files.
        let path = folder.path().join("superblock");
        let superblock = Superblock::decode(&fs::read(&path).unwrap()).unwrap();
        fs::write(path, Superblock { clean: false, ..superblock }.encode()).unwrap();
        fs::remove_file(folder.path().join("touches")).unwrap();
    }
    Sample { folder, blobs, actions }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("segments")).unwrap();
    for path in segment_files(from) {
        fs::copy(&path, to.join("segments").join(path.file_name().unwrap())).unwrap();
    }
    for name in ["superblock", "touches", "lock"] {
        if from.join(name).exists() {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

fn all_files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for folder in [folder.to_owned(), folder.join("segments")] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                files.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    files
}

impl Sample {
    fn segments(&self) -> Vec<Vec<u8>> {
        segment_files(self.folder.path()).iter().map(|path| fs::read(path).unwrap()).collect()
    }

    fn superblock(&self) -> Superblock {
        Superblock::decode(&fs::read(self.folder.path().join("superblock")).unwrap()).unwrap()
    }

    /// What an engine over the folder does not serve. Panics at a wrong byte.
    fn lost(&self, folder: &Path, what: &str) -> Allowed {
        let engine = open(folder);
        let mut lost = Allowed::new();
        for (digest, bytes) in &self.blobs {
            match engine.read_all(digest, u64::MAX) {
                Ok(read) => assert!(read == *bytes, "{what}: wrong bytes of {digest}"),
                Err(_) => {
                    lost.insert(digest.to_string());
                }
            }
        }
        let needed_is_lost = self.blobs.iter().take(3).any(|(digest, _)| lost.contains(&digest.to_string()));
        for (action, value) in &self.actions {
            match engine.get_action(INSTANCE, action) {
                Ok(read) => assert!(read == *value, "{what}: wrong value of {action}"),
                Err(_) if needed_is_lost => {}
                Err(_) => {
                    lost.insert(action.to_string());
                }
            }
        }
        lost
    }
}

fn dry(folder: &Path) -> Report {
    let before = all_files(folder);
    let report = check(folder, CheckOptions::default()).unwrap();
    assert!(all_files(folder) == before, "a check wrote something");
    report
}

fn repair(folder: &Path) -> Report {
    check(folder, CheckOptions { repair: true, ..CheckOptions::default() }).unwrap()
}

fn faults(report: &Report) -> Vec<&Fault> {
    report.findings.iter().map(|finding| &finding.fault).collect()
}

/// One kind of damage: what it does, what is to be found, whom it costs.
struct Case {
    name: String,
    harm: Box<dyn Fn(&Path)>,
    is_found: fn(&Fault) -> bool,
    lost: Allowed,
}

/// The first segment that is sealed (or not) and has a record of the kind, and that record's number.
fn record_of(sample: &Sample, sealed: bool, kind: RecordKind) -> (usize, usize) {
    let superblock = sample.superblock();
    let segments = sample.segments();
    let position =
        segments.iter().enumerate().filter(|(_, file)| is_sealed(file) == sealed).find_map(|(number, file)| {
            let records = records(file, &superblock);
            // Not the first of the log: what stands before it is looked at too.
            let of_kind = records.iter().enumerate().filter(|(_, record)| record.header.kind == kind);
            let (position, _) = of_kind.min_by_key(|(position, _)| position.abs_diff(1))?;
            Some((number, position))
        });
    position.unwrap_or_else(|| panic!("no {kind:?} in a segment that is sealed: {sealed}"))
}

fn in_segment(number: usize, harm: impl Fn(&Path) + 'static) -> Box<dyn Fn(&Path)> {
    Box::new(move |folder| harm(&segment_files(folder)[number]))
}

fn write(path: &Path, at: usize, bytes: &[u8]) {
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at as u64).unwrap();
}

fn cases(sample: &Sample) -> Vec<Case> {
    let superblock = sample.superblock();
    let segments = sample.segments();
    let mut cases = Vec::new();
    let mut add = |name: &str, harm: Box<dyn Fn(&Path)>, is_found: fn(&Fault) -> bool, lost: Allowed| {
        cases.push(Case { name: name.to_owned(), harm, is_found, lost });
    };
    let actions: Allowed = sample.actions.iter().map(|(digest, _)| digest.to_string()).collect();
    add(
        "superblock missing",
        Box::new(|folder| fs::remove_file(folder.join("superblock")).unwrap()),
        |fault| matches!(fault, Fault::SuperblockMissing),
        actions.clone(),
    );
    add(
        "superblock damaged",
        Box::new(|folder| flip(&folder.join("superblock"), 40, 1)),
        |fault| matches!(fault, Fault::SuperblockDamaged(_)),
        actions,
    );
    if sample.folder.path().join("touches").exists() {
        add(
            "touches damaged",
            Box::new(|folder| flip(&folder.join("touches"), 60, 1)),
            |fault| matches!(fault, Fault::TouchesDamaged),
            Allowed::new(),
        );
        let number = segments.iter().position(|file| is_sealed(file)).unwrap();
        let lost = records(&segments[number], &superblock);
        let lost = lost.iter().map(|record| record.header.digest.to_string());
        add(
            "segment file gone",
            in_segment(number, |path| fs::remove_file(path).unwrap()),
            |fault| matches!(fault, Fault::SegmentMissing),
            lost.collect(),
        );
    }
    for sealed in [true, false] {
        let kind = if sealed { "sealed" } else { "open" };
        let of_state = segments.iter().position(|file| is_sealed(file) == sealed).unwrap();
        add(
            &format!("{kind} file too long"),
            in_segment(of_state, |path| {
                fs::OpenOptions::new().write(true).open(path).unwrap().set_len(MIB + 4096).unwrap();
            }),
            |fault| matches!(fault, Fault::SegmentLength { .. }),
            Allowed::new(),
        );
        let cut_at = SEGMENT_BYTES / 3;
        let behind = |record: &&segment_file::Record| record.end() > cut_at;
        let lost = records(&segments[of_state], &superblock);
        add(
            &format!("{kind} file cut short"),
            in_segment(of_state, move |path| {
                fs::OpenOptions::new().write(true).open(path).unwrap().set_len(cut_at as u64).unwrap();
            }),
            |fault| matches!(fault, Fault::SegmentLength { .. }),
            lost.iter().filter(behind).map(|record| record.header.digest.to_string()).collect(),
        );
        add(
            &format!("{kind} segment, a header"),
            in_segment(of_state, |path| flip(path, 20, 1)),
            |fault| matches!(fault, Fault::HeaderDamaged),
            Allowed::new(),
        );
        add(
            &format!("{kind} segment, both headers"),
            in_segment(of_state, |path| write(path, 0, &[0xee; 4096])),
            |fault| matches!(fault, Fault::HeaderDamaged | Fault::HeaderLost),
            Allowed::new(),
        );
        for kind in [RecordKind::Blob, RecordKind::Part, RecordKind::Head, RecordKind::Action] {
            let (number, position) = record_of(sample, sealed, kind);
            let record = &records(&segments[number], &superblock)[position];
            let name = format!("{} {kind:?}", if sealed { "sealed" } else { "open" });
            let lost: Allowed = [record.header.digest.to_string()].into();
            let at = record.offset;
            add(
                &format!("{name}, header"),
                in_segment(number, move |path| flip(path, at + 40, 3)),
                |fault| matches!(fault, Fault::RecordHeaderDamaged | Fault::LogGap { .. } | Fault::LogEndLost { .. }),
                lost.clone(),
            );
            if record.header.stored_length_bytes > 0 {
                let at = record.payload_end() - 1;
                add(
                    &format!("{name}, payload"),
                    in_segment(number, move |path| flip(path, at, 3)),
                    |fault| matches!(fault, Fault::PayloadDamaged | Fault::TornEnd),
                    lost.clone(),
                );
            }
            if matches!(kind, RecordKind::Blob | RecordKind::Part) {
                // As a machine would that changed a byte before the record was made: the checksums are right.
                let header = record.header;
                let (at, from, to) = (record.offset, record.offset + header.length_bytes(), record.payload_end());
                let mut payload = segments[number][from..to].to_vec();
                payload[0] ^= 1;
                let sequence = u64::from_le_bytes(segments[number][16..24].try_into().unwrap());
                let place = RecordPlace { store_id: superblock.store_id, sequence, offset_bytes: at as u32 };
                let header = cask_engine::format::record::RecordHeader {
                    payload_checksum: payload_checksum(&payload),
                    ..header
                };
                let mut forged = vec![0; header.length_bytes()];
                header.encode_into(&place, &mut forged);
                forged.extend(payload);
                add(
                    &format!("{name}, content"),
                    in_segment(number, move |path| write(path, at, &forged)),
                    |fault| matches!(fault, Fault::ContentWrong | Fault::LargeContentWrong),
                    lost,
                );
            }
        }
    }
    let sealed = segments.iter().position(|file| is_sealed(file)).unwrap();
    let footer_at = SEGMENT_BYTES - 64 - 32 * records(&segments[sealed], &superblock).len();
    for (name, at) in
        [("footer entry", footer_at + 40), ("trailer", SEGMENT_BYTES - 64 + 18), ("trailer magic", SEGMENT_BYTES - 64)]
    {
        add(
            name,
            in_segment(sealed, move |path| flip(path, at, 2)),
            |fault| matches!(fault, Fault::FooterDamaged),
            Allowed::new(),
        );
    }
    cases
}

fn both_ends(test: impl Fn(&Sample, &Path, &str)) {
    for (end, name) in [(End::Orderly, "closed"), (End::Killed, "killed")] {
        let sample = sample(end);
        let folder = tempfile::tempdir().unwrap();
        test(&sample, folder.path(), name);
    }
}

fn fresh(sample: &Sample, folder: &Path) {
    fs::remove_dir_all(folder).unwrap();
    copy(sample.folder.path(), folder);
}

#[test]
fn a_whole_store_is_clean_and_counted() {
    both_ends(|sample, folder, name| {
        fresh(sample, folder);
        let report = dry(folder);
        assert_eq!(report.problem_count, 0, "{name}: {:?}", report.findings);
        assert_eq!((report.blob_count, report.large_blob_count), (80, 5), "{name}");
        assert_eq!((report.action_count, report.incomplete_action_count), (12, 0), "{name}");
        assert_eq!(report.findings.iter().any(|finding| finding.fault == Fault::Unclean), name == "killed");
        let before = all_files(folder);
        assert!(repair(folder).is_clean());
        assert!(all_files(folder) == before, "{name}: a repair of a whole store wrote something");
        assert!(sample.lost(folder, name).is_empty());
    });
}

#[test]
fn each_kind_of_damage_is_found_and_repaired() {
    both_ends(|sample, folder, end| {
        for Case { name, harm, is_found, lost } in cases(sample) {
            let what = format!("{end}, {name}");
            fresh(sample, folder);
            harm(folder);
            let report = dry(folder);
            // Nobody knows of the last record of a log that was not closed but the record itself.
            let is_unknowable = end == "killed" && name.starts_with("open") && name.ends_with("header");
            let is_found = faults(&report).into_iter().any(is_found);
            assert!(is_found || is_unknowable, "{what}: found {:?}", report.findings);
            let report = repair(folder);
            assert_eq!(report.repair_failure, None, "{what}");
            assert!(report.is_clean(), "{what}: left {:?}", dry(folder).findings);
            let again = dry(folder);
            assert_eq!(again.problem_count, 0, "{what}: {:?}", again.findings);
            let served = sample.lost(folder, &what);
            // A large blob or an action of a lost segment may have records elsewhere too.
            assert!(served.is_subset(&lost), "{what}: lost {served:?}, and only {lost:?} may be");
            if name.contains("content") || name.contains("payload") || name.contains("header") {
                let is_superseded = name.contains("Action") && served.is_empty();
                assert!(
                    is_superseded || served == lost || name.contains("segment"),
                    "{what}: {served:?} is not {lost:?}"
                );
            }
            let after = dry(folder);
            assert_eq!(after.problem_count, 0, "{what}, after the store was used: {:?}", after.findings);
        }
    });
}

#[test]
fn a_repair_that_is_cut_short_leaves_a_store_that_opens_and_is_ended_by_the_next() {
    both_ends(|sample, folder, end| {
        // How a store ended changes the writes around a repair, not those in a segment.
        let is_tried =
            |case: &Case| end == "closed" || case.name.contains("Blob") || case.name.starts_with("superblock");
        for Case { name, harm, lost, .. } in cases(sample).into_iter().filter(is_tried) {
            for writes in 0.. {
                let what = format!("{end}, {name}, cut short after {writes} writes");
                fresh(sample, folder);
                harm(folder);
                let options = CheckOptions { repair: true, writes_max: Some(writes), ..CheckOptions::default() };
                let report = check(folder, options).unwrap();
                let ended = report.repair_failure.is_none();
                let copied = tempfile::tempdir().unwrap();
                copy(folder, copied.path());
                let opened = Engine::open(copied.path(), self::options(), Arc::new(SystemClock::new()));
                match opened {
                    // Right checksums over wrong bytes are what only hashing finds; until the repair is done they are served.
                    Ok(_) if name.contains("content") && !ended => {}
                    // Such a segment is free to the engine until its header is back.
                    Ok(_) if name == "open segment, both headers" && !ended => {}
                    Ok((engine, _)) => {
                        drop(engine);
                        let served = sample.lost(copied.path(), &what);
                        assert!(served.is_subset(&lost), "{what}: lost {served:?}, and only {lost:?} may be");
                    }
                    // It did not open before either.
                    Err(OpenError::DamagedSuperblock { .. }) if name.starts_with("superblock") => {}
                    Err(error) => panic!("{what}: {error}"),
                }
                assert!(repair(folder).is_clean(), "{what}: {:?}", dry(folder).findings);
                let served = sample.lost(folder, &what);
                assert!(served.is_subset(&lost), "{what}: lost {served:?}, and only {lost:?} may be");
                if ended {
                    break;
                }
            }
        }
    });
}

#[test]
fn random_bits_are_found_or_mean_nothing() {
    both_ends(|sample, folder, end| {
        let superblock = sample.superblock();
        let segments = sample.segments();
        let random = data(0xF5C4, 120 * 16);
        for number in 0..120 {
            let word = |at: usize| u64::from_le_bytes(random[number * 16 + at..][..8].try_into().unwrap()) as usize;
            let file = word(0) % segments.len();
            let at = match word(8) % 4 {
                0 => word(8) / 4 % 4096,
                1 => SEGMENT_BYTES - 1 - word(8) / 4 % 3000,
                _ => word(8) / 4 % SEGMENT_BYTES,
            };
            let what = format!("{end}, bit of byte {at} in segment {file}");
            fresh(sample, folder);
            flip(&segment_files(folder)[file], at, number as u32 % 8);
            let (allowed, must_be_lost) = owner(&segments[file], &superblock, at);
            let report = repair(folder);
            assert!(report.is_clean(), "{what}: {:?}", dry(folder).findings);
            assert!(report.problem_count > 0 || !must_be_lost || end == "killed", "{what}: not found");
            let served = sample.lost(folder, &what);
            assert!(served.is_subset(&allowed), "{what}: lost {served:?}, and only {allowed:?} may be");
        }
    });
}

#[test]
fn strays_are_named_and_no_problem() {
    let sample = sample(End::Orderly);
    let folder = sample.folder.path();
    for name in ["notes", "superblock.new", "segments/README"] {
        fs::write(folder.join(name), "x").unwrap();
    }
    let report = dry(folder);
    assert_eq!(report.problem_count, 0);
    assert_eq!(faults(&report), [&Fault::StrayFile, &Fault::StrayFile, &Fault::Leftover]);
}

#[test]
fn what_cannot_be_checked_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    assert!(matches!(check(&at("absent"), CheckOptions::default()), Err(OpenError::Io { .. })));
    fs::create_dir(at("other")).unwrap();
    fs::write(at("other/thesis.tex"), "years of work").unwrap();
    assert!(matches!(check(&at("other"), CheckOptions::default()), Err(OpenError::NotAStore { .. })));
    assert_eq!(fs::read_dir(at("other")).unwrap().count(), 1, "a lock was left in somebody's folder");
    let engine = open(&at("used"));
    assert!(matches!(check(&at("used"), CheckOptions::default()), Err(OpenError::InUse { .. })));
    drop(engine);
    fs::remove_file(at("used/superblock")).unwrap();
    for path in segment_files(&at("used")) {
        fs::remove_file(path).unwrap();
    }
    assert!(matches!(check(&at("used"), CheckOptions::default()), Err(OpenError::DamagedSuperblock { .. })));
}

/// Blobs that an action result needs and that were evicted make it a miss, not a fault of the store.
#[test]
fn actions_with_gaps_are_counted_and_no_problem() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    let absent = sha256(b"never stored");
    for number in 0..4_u64 {
        let closure: &[Digest] = if number == 0 { &[absent] } else { &[] };
        let action = sha256(&number.to_le_bytes());
        wait(|done| engine.put_action(INSTANCE, &action, b"value", closure, done));
    }
    engine.close().unwrap();
    drop(engine);
    let report = dry(folder.path());
    assert_eq!((report.action_count, report.incomplete_action_count, report.problem_count), (4, 1, 0));
    assert!(faults(&report).contains(&&Fault::ActionIncomplete { missing: 1, needed: 1 }));
}

/// A damaged record that a scan leaves out shifted the touches of those behind it, and one of them was taken for dropped.
#[test]
fn a_closed_store_that_was_damaged_loses_no_more_when_it_is_just_opened() {
    let sample = sample(End::Orderly);
    let folder = tempfile::tempdir().unwrap();
    let is_opened = |case: &Case| {
        !case.name.starts_with("superblock")
            && !case.name.ends_with("content")
            && case.name != "open segment, both headers"
    };
    for Case { name, harm, lost, .. } in cases(&sample).into_iter().filter(is_opened) {
        fresh(&sample, folder.path());
        harm(folder.path());
        let served = sample.lost(folder.path(), &name);
        assert!(served.is_subset(&lost), "{name}: lost {served:?}, and only {lost:?} may be");
    }
}
