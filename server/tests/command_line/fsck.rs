//! `cask fsck` as an operator meets it: what it prints, what it exits with, what it does to the store.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use super::{Server, cask, run, text};

fn fsck(arguments: &[&str], folder: &Path) -> Output {
    run(cask(&["fsck"]).args(arguments).arg(folder))
}

/// A stopped store with two blobs, and what one of them holds.
fn store(folder: &Path) -> (PathBuf, Vec<u8>, String) {
    let store = folder.join("store");
    let server = Server::start(&store, |_| {});
    let content: Vec<u8> = (0..10_000_u32).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let files = ["harmed", "whole"].map(|name| folder.join(name));
    fs::write(&files[0], &content).expect("a file");
    fs::write(&files[1], "another").expect("a file");
    let uploaded = run(cask(&["upload"]).args(&files).env("CASK_SERVER", server.address()));
    assert!(uploaded.status.success(), "{}", text(&uploaded.stderr));
    let printed = text(&uploaded.stdout);
    let digest = printed.split_whitespace().next().expect("a digest").to_owned();
    (store, content, digest)
}

/// Changes a byte of the blob where it stands.
fn harm(store: &Path, content: &[u8]) {
    let mut places = 0;
    for entry in fs::read_dir(store.join("segments")).expect("a folder") {
        let path = entry.expect("an entry").path();
        let bytes = fs::read(&path).expect("a file");
        for at in (0..bytes.len()).step_by(64).filter(|at| bytes[*at..].starts_with(content)) {
            let file = fs::OpenOptions::new().write(true).open(&path).expect("a file");
            file.write_all_at(&[content[1000] ^ 1], at as u64 + 1000).expect("a write");
            places += 1;
        }
    }
    assert_eq!(places, 1);
}

#[test]
fn help_and_usage_errors() {
    let output = run(&mut cask(&["fsck", "--help"]));
    assert!(output.status.success());
    for word in ["--repair", "--format", "DIR", "Exit code 0"] {
        assert!(text(&output.stdout).contains(word), "{}", text(&output.stdout));
    }
    for (arguments, advice) in [
        (&["fsck"][..], "<DIR>"),
        (&["fsck", "--format", "xml", "/nowhere"], "invalid value 'xml'"),
        (&["fsck", "--mend", "/nowhere"], "--mend"),
        (&["fsck", "/nowhere/at/all"], "cannot check /nowhere/at/all"),
    ] {
        let output = run(&mut cask(arguments));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(advice), "{arguments:?} said {}", text(&output.stderr));
    }
}

#[test]
fn a_store_in_use_and_a_folder_that_is_none_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = folder.path().join("store");
    let server = Server::start(&store, |_| {});
    let output = fsck(&["--repair"], &store);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("is in use by another process"), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("stop the server first"), "{}", text(&output.stderr));
    drop(server);
    let output = fsck(&[], folder.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("holds no Cask store"), "{}", text(&output.stderr));
    assert_eq!(
        fs::read_dir(folder.path()).expect("a folder").count(),
        1,
        "something was left in a folder that is no store"
    );
}

#[test]
fn a_whole_store_a_damaged_one_and_a_repaired_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (store, content, digest) = store(folder.path());
    let output = fsck(&[], &store);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("2 blobs, 0 large blobs"), "{}", text(&output.stdout));
    assert!(text(&output.stdout).ends_with("\nwhole\n"), "{}", text(&output.stdout));
    assert!(text(&output.stderr).is_empty(), "progress is for terminals");

    harm(&store, &content);
    for _ in 0..2 {
        let output = fsck(&[], &store);
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stdout);
        let line =
            said.lines().find(|line| line.contains(&digest)).unwrap_or_else(|| panic!("{digest} is not in {said}"));
        assert!(line.starts_with("segments/0000"), "{line}");
        assert!(text(&output.stderr).contains("with --repair"), "{}", text(&output.stderr));
    }
    let output = fsck(&["--format", "json"], &store);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&report["clean"], &report["problems"]), (&false.into(), &1.into()), "{report}");
    assert!(report["findings"].as_array().expect("a list").iter().any(|found| found["digest"] == digest), "{report}");

    let output = fsck(&["--repair"], &store);
    assert_eq!(output.status.code(), Some(0), "{} {}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).ends_with("\n1 problem, repaired\n"), "{}", text(&output.stdout));
    assert_eq!(fsck(&[], &store).status.code(), Some(0));

    let server = Server::start(&store, |_| {});
    let output = run(cask(&["find-missing", &digest]).env("CASK_SERVER", server.address()));
    assert_eq!(text(&output.stdout), format!("{digest}\n"), "the damaged blob is a miss, so that it is uploaded again");
}
