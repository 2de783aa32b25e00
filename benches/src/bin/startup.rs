//! Start-up with a million blobs of 1 KB, after a crash and after an orderly close; and what a million index entries cost.
//!
//! `startup [COUNT]` fills a store in a temporary folder from a process of its own, which then dies without warning, and
//! opens it here. Prints figures beside their targets; fails only if the memory, which does not depend on the machine's
//! mood, is over its target.

use std::path::Path;
use std::process::{Command, ExitCode};

use cask_benches::{digest_of, fill, open, process};
use cask_engine::EngineOptions;
use cask_index::{Keyer, Location, Table, TouchEpoch};

const COUNT: u64 = 1_000_000;
const BLOB_BYTES: usize = 1024;
const STORE_BYTES: u64 = 2 << 30;
const START_SECONDS_MAX: f64 = 1.0;
const INDEX_BYTES_MAX: u64 = 40_000_000;

fn options(count: u64) -> EngineOptions {
    EngineOptions { index_capacity: Some(count), ..EngineOptions::new(STORE_BYTES) }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[1..] {
        ["--fill", folder, count] => fill_and_die(Path::new(folder), count.parse().expect("a count")),
        [] => measure(COUNT),
        [count] => measure(count.parse().expect("a count of blobs")),
        _ => {
            eprintln!("usage: startup [COUNT]");
            ExitCode::from(2)
        }
    }
}

/// Dies as under kill -9, every blob acknowledged.
fn fill_and_die(folder: &Path, count: u64) -> ExitCode {
    let (engine, _) = open(folder, options(count));
    fill(&engine, count, BLOB_BYTES);
    std::process::abort();
}

fn measure(count: u64) -> ExitCode {
    let index_bytes = index_bytes(count);
    println!("{:<42} {:>14}   target", "", "measured");
    let per_entry = index_bytes as f64 / count as f64;
    println!(
        "{:<42} {:>11.1} MB   < {} MB ({per_entry:.1} B an entry)",
        format!("index of {count} entries, resident"),
        index_bytes as f64 / 1e6,
        INDEX_BYTES_MAX / 1_000_000
    );

    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = std::env::current_exe().expect("this program has a path");
    let died = Command::new(program).arg("--fill").arg(folder.path()).arg(count.to_string()).status().expect("a child");
    assert!(!died.success(), "the filling process dies at its end");
    for what in ["after a crash", "after an orderly close"] {
        let memory_before = process::anonymous_memory_bytes();
        let (engine, report) = open(folder.path(), options(count));
        let memory_bytes = process::anonymous_memory_bytes().saturating_sub(memory_before);
        assert_eq!(report.blob_count, count, "every acknowledged blob is back");
        assert!(engine.contains(&digest_of(&cask_benches::blob(count / 2, BLOB_BYTES))).expect("loaded"));
        println!(
            "{:<42} {:>12.3} s   < {START_SECONDS_MAX} s (memory + {:.1} MB)",
            format!("open {count} blobs of {BLOB_BYTES} B {what}"),
            report.elapsed.as_secs_f64(),
            memory_bytes as f64 / 1e6
        );
        engine.close().expect("the store closes");
    }
    if index_bytes > INDEX_BYTES_MAX * count / COUNT {
        eprintln!("the index takes more memory than its target");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Resident memory that a table of `count` entries, made for as many, adds to this process.
fn index_bytes(count: u64) -> u64 {
    let before = process::anonymous_memory_bytes();
    let keyer = Keyer::new(&[7; 32]);
    let table = Table::with_capacity(count).expect("memory for the index");
    for number in 0..count {
        let location = Location::new((number >> 16) as u32, (number as u32 & 0xFFFF) * 64, 64);
        table.insert(keyer.part(0, number as u32), location, TouchEpoch::OLD).expect("room in the index");
    }
    let bytes = process::anonymous_memory_bytes().saturating_sub(before);
    assert_eq!(table.entry_count(), count);
    bytes
}
