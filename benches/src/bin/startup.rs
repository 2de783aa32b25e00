//! Start-up with a million blobs of 1 KB, or so many of that size, after a crash and after an orderly close; and what as
//! many index entries cost.
//!
//! `startup [COUNT [BLOB_BYTES]]` fills a store in a temporary folder from a process of its own, which then dies without
//! warning, and opens it here. Prints figures beside their targets; fails only if the memory, which does not depend on the
//! machine's mood, is over its target.

use std::path::Path;
use std::process::{Command, ExitCode};

use cask_benches::{digest_of, fill, open, process};
use cask_engine::EngineOptions;
use cask_index::{Keyer, Location, Table, TouchEpoch};

const COUNT: u64 = 1_000_000;
const BLOB_BYTES: usize = 1024;
/// For 10 million blobs on two cores, and at least this much for fewer.
const START_SECONDS_MAX: f64 = 3.0;
const START_SECONDS_MIN: f64 = 1.0;
const INDEX_BYTES_MAX: u64 = 40_000_000;

/// How much there is of what.
#[derive(Clone, Copy)]
struct Fill {
    count: u64,
    blob_bytes: usize,
}

impl Fill {
    /// Of a store in which nothing need be reclaimed.
    fn options(self) -> EngineOptions {
        let record_bytes = (self.blob_bytes as u64 + 64).next_multiple_of(64) + 32;
        let max_size_bytes = (self.count * record_bytes * 5 / 4).max(1 << 30);
        EngineOptions { index_capacity: Some(self.count), ..EngineOptions::new(max_size_bytes) }
    }

    fn start_seconds_max(self) -> f64 {
        (START_SECONDS_MAX * self.count as f64 / 10e6).max(START_SECONDS_MIN)
    }
}

fn parse(count: &str, blob_bytes: &str) -> Fill {
    Fill { count: count.parse().expect("a count of blobs"), blob_bytes: blob_bytes.parse().expect("bytes of a blob") }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[1..] {
        ["--fill", folder, count, blob_bytes] => fill_and_die(Path::new(folder), parse(count, blob_bytes)),
        [] => measure(Fill { count: COUNT, blob_bytes: BLOB_BYTES }),
        [count] => measure(Fill { blob_bytes: BLOB_BYTES, ..parse(count, "0") }),
        [count, blob_bytes] => measure(parse(count, blob_bytes)),
        _ => {
            eprintln!("usage: startup [COUNT [BLOB_BYTES]]");
            ExitCode::from(2)
        }
    }
}

/// Dies as under kill -9, every blob acknowledged.
fn fill_and_die(folder: &Path, what: Fill) -> ExitCode {
    let (engine, _) = open(folder, what.options());
    fill(&engine, what.count, what.blob_bytes);
    std::process::abort();
}

fn measure(what: Fill) -> ExitCode {
    let Fill { count, blob_bytes } = what;
    let index_bytes = index_bytes(count);
    println!("{:<42} {:>14}   target", "", "measured");
    let per_entry = index_bytes as f64 / count as f64;
    println!(
        "{:<42} {:>11.1} MB   < {} MB ({per_entry:.1} B an entry)",
        format!("index of {count} entries, resident"),
        index_bytes as f64 / 1e6,
        INDEX_BYTES_MAX * count / COUNT / 1_000_000
    );

    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = std::env::current_exe().expect("this program has a path");
    let mut child = Command::new(program);
    child.arg("--fill").arg(folder.path()).args([count.to_string(), blob_bytes.to_string()]);
    let died = child.status().expect("a child");
    assert!(!died.success(), "the filling process dies at its end");
    for when in ["after a crash", "after an orderly close"] {
        let (memory_before, cpu_before) = (process::anonymous_memory_bytes(), process::cpu_seconds());
        let (engine, report) = open(folder.path(), what.options());
        let cpu_seconds = process::cpu_seconds() - cpu_before;
        let memory_bytes = process::anonymous_memory_bytes().saturating_sub(memory_before);
        assert_eq!(report.blob_count, count, "every acknowledged blob is back");
        assert!(engine.contains(&digest_of(&cask_benches::blob(count / 2, blob_bytes))).expect("loaded"));
        println!(
            "{:<42} {:>12.3} s   < {} s (reads after {:.3} s; processor {cpu_seconds:.2} s; memory + {:.1} MB)",
            format!("open {count} blobs of {blob_bytes} B {when}"),
            report.elapsed.as_secs_f64(),
            what.start_seconds_max(),
            report.readable_after.as_secs_f64(),
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
