//! Opening and closing: what is refused and how it says so, what an orderly close keeps.

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cask_engine::clock::SystemClock;
use cask_engine::{Engine, EngineOptions, OpenError, OpenReport};
use cask_index::Digest;
use support::{MIB, data, sha256, small};

fn open(folder: &Path, options: &EngineOptions) -> Result<(Engine, OpenReport), OpenError> {
    Engine::open(folder, options.clone(), Arc::new(SystemClock::new()))
}

fn put(engine: &Engine, blob: &[u8]) -> Digest {
    let digest = sha256(blob);
    let (sender, stored) = std::sync::mpsc::channel();
    engine.put(digest, blob, Box::new(move |outcome| sender.send(outcome).unwrap()));
    stored.recv().unwrap().unwrap();
    digest
}

/// What is wrong with a folder, and a word of the message that tells the operator.
#[test]
fn folders_that_are_no_store_of_ours_are_refused_in_words_and_left_alone() {
    type Harm = fn(&Path);
    let cases: [(&str, Harm, &str); 5] = [
        ("another program's", |folder| fs::write(folder.join("notes.txt"), "mine").unwrap(), "holds no Cask store"),
        ("superblock lost", |folder| fs::remove_file(folder.join("superblock")).unwrap(), "damaged superblock"),
        (
            "superblock damaged",
            |folder| {
                let path = folder.join("superblock");
                let mut bytes = fs::read(&path).unwrap();
                bytes[20] ^= 1;
                fs::write(path, bytes).unwrap();
            },
            "damaged superblock",
        ),
        (
            "of a newer version",
            |folder| {
                let path = folder.join("superblock");
                let mut bytes = fs::read(&path).unwrap();
                bytes[8] = 200;
                fs::write(path, bytes).unwrap();
            },
            "format 200",
        ),
        ("superblock empty", |folder| fs::write(folder.join("superblock"), "").unwrap(), "damaged superblock"),
    ];
    for (what, harm, words) in cases {
        let folder = tempfile::tempdir().unwrap();
        if what != "another program's" {
            let (engine, _) = open(folder.path(), &small(16)).unwrap();
            put(&engine, b"something to lose");
            engine.close().unwrap();
        }
        harm(folder.path());
        let before = listing(folder.path());
        let Err(error) = open(folder.path(), &small(16)) else { panic!("{what}: opened") };
        assert!(error.to_string().contains(words), "{what}: {error}");
        assert_eq!(listing(folder.path()), before, "{what}: something was changed");
    }
}

fn listing(folder: &Path) -> Vec<(String, u64)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name() != "lock")
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.metadata().unwrap().len()))
        .collect();
    files.sort();
    files
}

#[test]
fn a_store_is_open_once() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, _) = open(folder.path(), &small(16)).unwrap();
    assert!(matches!(open(folder.path(), &small(16)).map(|_| ()), Err(OpenError::InUse { .. })));
    engine.close().unwrap();
    drop(engine);
    open(folder.path(), &small(16)).unwrap();
}

/// Fault 40: stray files and a fresh file system's own folder do not stop a start.
#[test]
fn stray_files_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("lost+found")).unwrap();
    let (engine, _) = open(folder.path(), &small(16)).unwrap();
    let digest = put(&engine, b"blob");
    drop(engine);
    for stray in ["segments/README", "segments/zzzzzzzz", "notes", "segments/ffffffff"] {
        fs::write(folder.path().join(stray), "stray").unwrap();
    }
    let (engine, report) = open(folder.path(), &small(16)).unwrap();
    assert_eq!(report.blob_count, 1);
    assert!(engine.contains(&digest).unwrap());
    assert_eq!(fs::read(folder.path().join("segments/README")).unwrap(), b"stray");
}

#[test]
fn an_orderly_close_is_known_and_a_closed_engine_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, report) = open(folder.path(), &small(16)).unwrap();
    assert!(report.clean_shutdown && report.blob_count == 0);
    let digest = put(&engine, &data(1, 300_000));
    engine.close().unwrap();
    engine.close().unwrap();
    assert!(matches!(engine.begin_upload(sha256(b"late")).map(|_| ()), Err(cask_engine::EngineError::Closed)));
    drop(engine);
    let (engine, report) = open(folder.path(), &small(16)).unwrap();
    assert!(report.clean_shutdown && report.blob_count == 1);
    assert_eq!(engine.read_all(&digest, MIB).unwrap(), data(1, 300_000));
}

/// Fault 47: who was hit before a restart is kept after it, without being asked for again.
#[test]
fn the_order_of_eviction_survives_an_orderly_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, _) = open(folder.path(), &small(16)).unwrap();
    let blobs: Vec<Digest> = (0..20).map(|seed| put(&engine, &data(seed, 5_000))).collect();
    let hit = |position: usize| position.is_multiple_of(5);
    for (_, digest) in blobs.iter().enumerate().filter(|(position, _)| hit(*position)) {
        assert!(engine.contains(digest).unwrap());
    }
    engine.close().unwrap();
    drop(engine);
    let (engine, _) = open(folder.path(), &small(16)).unwrap();
    // Twice the store: nothing written before is there any more but what was kept for its hit before the restart.
    for seed in 0..32 * 16 {
        put(&engine, &data(1_000 + seed, 60_000));
    }
    for (position, digest) in blobs.iter().enumerate() {
        let mut absent = Vec::new();
        engine.find_missing(&[*digest], &mut absent).unwrap();
        assert_eq!(absent.is_empty(), hit(position), "blob {position}");
    }
}

#[test]
fn options_that_cannot_work_say_what_would() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = EngineOptions::new(MIB);
    let Err(error) = open(folder.path(), &tiny) else { panic!("opened") };
    assert!(error.to_string().contains("raise it to"), "{error}");
    let crossed = EngineOptions { lease: Duration::from_secs(1), lease_floor: Duration::from_secs(2), ..small(16) };
    let Err(error) = open(folder.path(), &crossed) else { panic!("opened") };
    assert!(error.to_string().contains("lease floor"), "{error}");
}
