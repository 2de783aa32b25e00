//! Checking a stopped store, and repairing it.
//!
//! ```text
//! lock -> superblock, touches, lives (`store`) -> every segment, in parallel (`segment`) -> what holds between records
//! (`catalog`) -> findings.   With repair: write (`repair`), and check again.
//! ```
//! A check writes nothing at all. It streams: a window of a few MiB a thread, and the keys of what is there (see
//! `catalog` for the bound). A repair keeps every sound record and drops the others for good; see `repair` for the order
//! of its writes, any prefix of which leaves a store that opens.

mod catalog;
mod files;
mod finding;
mod repair;
mod segment;
mod store;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;

pub use finding::{Fault, Finding};

use self::catalog::{Catalog, Meter, in_parallel};
use self::segment::{State, examine};
use self::store::Store;
use crate::error::OpenError;

/// Findings that a report holds; the rest is counted.
const FINDINGS_MAX: usize = 100_000;

/// How a store is checked.
#[derive(Clone, Copy, Default)]
pub struct CheckOptions<'a> {
    /// Write what makes it whole.
    pub repair: bool,
    /// A repair stops after so many writes: for tests of what one leaves that is interrupted.
    pub writes_max: Option<u64>,
    /// Told how far the check is, from any thread.
    pub progress: Option<&'a (dyn Fn(Progress) + Sync)>,
}

/// How far a check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read; with large blobs it may end above the total.
    pub read_bytes: u64,
    /// Bytes of segment files.
    pub total_bytes: u64,
}

/// What a check came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was found before anything was repaired, in order of path and offset.
    pub findings: Vec<Finding>,
    /// Found, and not in `findings` because there are so many.
    pub findings_left_out: u64,
    /// Findings that are damage.
    pub problem_count: u64,
    /// After a repair: problems that a second check still finds.
    pub problems_left: Option<u64>,
    /// Why the repair could not go on, if it could not.
    pub repair_failure: Option<String>,
    /// Segment files.
    pub segment_count: u64,
    /// Segment files that hold nothing.
    pub free_segment_count: u64,
    /// Sound records, also of what was superseded or dropped.
    pub record_count: u64,
    /// Blobs of one record.
    pub blob_count: u64,
    /// Large blobs that are whole.
    pub large_blob_count: u64,
    /// Action results; 0 when the superblock is lost.
    pub action_count: u64,
    /// Those of them that are misses because a blob they need is not there.
    pub incomplete_action_count: u64,
    /// Bytes read.
    pub read_bytes: u64,
}

impl Report {
    /// True when the store is whole: nothing was found, or nothing is left.
    pub fn is_clean(&self) -> bool {
        self.repair_failure.is_none() && self.problems_left.unwrap_or(self.problem_count) == 0
    }
}

/// What a repair has to know of a check.
struct Checked {
    report: Report,
    /// Segments with problems, by number.
    damaged: Vec<(u32, u64)>,
    missing_lives: Vec<(u32, u64)>,
    store: Store,
}

/// Checks the stopped store in `folder`, and repairs it where the options say so.
///
/// # Errors
/// `NotAStore`, `InUse`, `NewerFormat`, `Io`; `DamagedSuperblock` when nothing is left to make a new one from.
pub fn check(folder: &Path, options: CheckOptions<'_>) -> Result<Report, OpenError> {
    let Checked { mut report, damaged, missing_lives, store } = check_once(folder, options)?;
    if !options.repair || report.problem_count == 0 {
        return Ok(report);
    }
    let repaired = repair::repair(&store, &damaged, &missing_lives, options.writes_max);
    drop(store);
    report.repair_failure = repaired.err().map(|error| error.to_string());
    report.problems_left = Some(check_once(folder, CheckOptions { repair: false, ..options })?.report.problem_count);
    Ok(report)
}

fn check_once(folder: &Path, options: CheckOptions<'_>) -> Result<Checked, OpenError> {
    let (mut report, mut findings) = (Report::default(), Vec::new());
    let mut store = Store::open(folder, &mut findings)?;
    report.take(findings);
    let meter = Meter {
        total_bytes: store.listing.segments.iter().map(|(_, bytes)| bytes).sum(),
        read_bytes: AtomicU64::new(0),
        told: options.progress,
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let catalog = Catalog::new();
    let shared = Mutex::new((&mut report, Vec::new(), HashMap::new(), None));
    in_parallel(&store.listing.segments, threads, |work| {
        while let Some((number, file_bytes)) = work.next() {
            let examined = examine(&store, *number, *file_bytes, &mut |record| catalog.add(record));
            let mut shared = shared.lock();
            let (report, damaged, lives, failure) = &mut *shared;
            match examined {
                Ok(examined) => {
                    meter.add(examined.file_bytes);
                    report.segment_count += 1;
                    report.free_segment_count += u64::from(examined.state == State::Free);
                    report.record_count += examined.record_count;
                    report.read_bytes += examined.read_bytes;
                    lives.extend(examined.header.map(|header| (*number, header.sequence)));
                    if examined.is_damaged() {
                        damaged.push((*number, *file_bytes));
                    }
                    report.take(examined.findings);
                }
                Err(error) => *failure = Some((*number, error)),
            }
        }
    });
    let (_, mut damaged, lives, failure) = shared.into_inner();
    if let Some((number, source)) = failure {
        let path = folder.join(files::segment_path(number));
        return Err(OpenError::Io { action: "open", path, source });
    }
    let relations = catalog.relate(&store, threads);
    report.read_bytes += relations.read_bytes;
    report.blob_count = relations.blob_count;
    report.large_blob_count = relations.large_count;
    report.action_count = relations.action_count;
    report.incomplete_action_count = relations.incomplete_action_count;
    report.take(relations.findings);
    for (number, _) in &relations.doomed {
        let listed = store.listing.segments.iter().find(|(listed, _)| listed == number);
        damaged.extend(listed.filter(|_| !damaged.iter().any(|(known, _)| known == number)).copied().as_slice());
    }
    store.doomed = relations.doomed.into_iter().collect();
    let missing_lives = store.missing_lives(&lives);
    report.take(missing_lives.iter().map(|(number, _)| Finding {
        path: files::segment_path(*number),
        segment: Some(*number),
        offset_bytes: None,
        digest: None,
        fault: Fault::SegmentMissing,
    }));
    report.findings.sort_by(|a, b| (&a.path, a.offset_bytes).cmp(&(&b.path, b.offset_bytes)));
    damaged.sort_unstable();
    Ok(Checked { report, damaged, missing_lives, store })
}

impl Report {
    fn take(&mut self, findings: impl IntoIterator<Item = Finding>) {
        for finding in findings {
            self.problem_count += u64::from(finding.fault.is_problem());
            if self.findings.len() < FINDINGS_MAX {
                self.findings.push(finding);
            } else {
                self.findings_left_out += 1;
            }
        }
    }
}
