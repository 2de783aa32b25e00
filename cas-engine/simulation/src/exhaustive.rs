//! All workloads of up to three operations (up to two in mode `Synced`) from a small alphabet, crashed at every disk
//! operation, in every way.
//!
//! Each workload runs on a store that is prepared so that little is missing to the interesting things: nearly full, with a
//! sealed segment next to be reclaimed, two blobs and an action stored. For each disk operation that the workload performs the
//! run is repeated and dies there, and is then opened as after
//! * a kill;
//! * a power loss that keeps every subset of the last [`LAST_WRITES`] unsynced writes, and for each subset once with the last
//!   kept write torn in the middle. (Earlier unsynced writes are kept: a store that loses one of them is a shorter crash.)
//!
//! After every one copies of the disk are opened and looked at as in any run; every [`RECOVERY_EVERY`]th crash dies once more
//! at one of the first disk operations after it. Then the rest of the workload runs on the store.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use cask_engine::Durability;

use crate::checker::Violation;
use crate::disk::{CrashKind, Survivors};
use crate::run::{Prepared, Tally};
use crate::workload::{Operation, Setup};

/// Unsynced writes of which every subset is tried.
pub const LAST_WRITES: u32 = 2;
/// One crash in so many is followed by one during the recovery.
pub const RECOVERY_EVERY: u64 = 5;

/// A workload that broke a promise, as the list of operations that does so.
#[derive(Clone, Debug)]
pub struct Broken {
    /// How the store is opened.
    pub setup: Setup,
    /// What is done to it, preparation and crash included.
    pub operations: Vec<Operation>,
    /// What was seen.
    pub violation: Violation,
}

/// What was tried.
#[derive(Clone, Debug, Default)]
pub struct Extent {
    /// Workloads.
    pub workloads: u64,
    /// Pairs of a workload and a disk operation at which it died.
    pub crash_points: u64,
    /// Ways in which it was found afterwards.
    pub crashes: u64,
}

/// The operations that workloads are made of. Each is a short list.
fn alphabet() -> Vec<Vec<Operation>> {
    vec![
        // A small blob; another goes along so that the batch has two.
        vec![Operation::Put { blob: 101 }, Operation::Put { blob: 102 }, Operation::Write],
        // A large one: parts and head.
        vec![Operation::Put { blob: LARGE }, Operation::Write],
        // An action whose closure is stored already, and one that replaces it.
        vec![Operation::PutAction { action: 1, closure: vec![1, LARGE_STORED], value_bytes: 100 }, Operation::Write],
        // One with a closure that comes with it.
        vec![
            Operation::Put { blob: 103 },
            Operation::PutAction { action: 2, closure: vec![103, LARGE], value_bytes: 3000 },
            Operation::Write,
        ],
        vec![Operation::Sync],
        vec![Operation::Reclaim],
        // Fills and renews lanes: pressure to seal and to reclaim.
        vec![Operation::PutMany { first: 200, count: 9 }, Operation::Settle],
        // A touch of what is oldest.
        vec![Operation::FindMissing { blobs: vec![1, 2, LARGE_STORED] }, Operation::GetAction { action: 1 }],
        vec![Operation::Reopen { segment_count: None, power_loss: false }],
    ]
}

const LARGE: u32 = 110;
const LARGE_STORED: u32 = 10;

fn setup(durability: Durability) -> Setup {
    Setup {
        seed: EXHAUSTIVE_SEED,
        segment_size_bytes: 64 << 10,
        segment_count: 12,
        durability,
        lease_ms: 600_000,
        // After a crash the floor would protect everything, and nothing would be reclaimed.
        lease_floor_ms: 0,
        index_capacity: 1024,
        media_faults: false,
        compresses: false,
    }
}

/// Sizes of blobs follow from it.
const EXHAUSTIVE_SEED: u64 = 77;

/// A store that is nearly full.
fn preparation() -> Vec<Operation> {
    let mut operations = vec![
        Operation::Put { blob: 1 },
        Operation::Put { blob: 2 },
        Operation::Put { blob: LARGE_STORED },
        Operation::PutAction { action: 1, closure: vec![1], value_bytes: 50 },
        Operation::Settle,
    ];
    operations.extend([
        Operation::PutMany { first: 300, count: 110 },
        Operation::Settle,
        Operation::Sync,
        Operation::Advance { ms: 60_000 },
    ]);
    operations
}

fn workloads(length_max: usize) -> Vec<Vec<Operation>> {
    let alphabet = alphabet();
    let mut all: Vec<Vec<usize>> = (0..alphabet.len()).map(|letter| vec![letter]).collect();
    let mut last = all.clone();
    for _ in 1..length_max {
        last = last
            .iter()
            .flat_map(|word| (0..alphabet.len()).map(|letter| [word.as_slice(), &[letter]].concat()))
            .collect();
        all.extend(last.iter().cloned());
    }
    all.iter().map(|word| word.iter().flat_map(|letter| alphabet[*letter].clone()).collect()).collect()
}

fn kinds() -> Vec<CrashKind> {
    let mut kinds = vec![CrashKind::Kill];
    for mask in 0..1 << LAST_WRITES {
        for torn in [false, true] {
            if mask != 0 || !torn {
                kinds.push(CrashKind::Power(Survivors::Writes { mask, count: LAST_WRITES, torn }));
            }
        }
    }
    kinds
}

/// Runs them all, on all cores. Stops after `failures_max` failures.
pub fn exhaustive(length_max: usize, failures_max: usize) -> (Extent, Tally, Vec<Broken>) {
    let mut jobs = Vec::new();
    let prepared = [Durability::Written, Durability::Synced]
        .map(|durability| Prepared::new(setup(durability), &preparation()).expect("the preparation breaks nothing"));
    for (prepared, length_max) in prepared.iter().zip([length_max, length_max.min(2)]) {
        jobs.extend(workloads(length_max).into_iter().map(|workload| (prepared, workload)));
    }
    let next = AtomicUsize::new(0);
    let total = Mutex::new((Extent::default(), Tally::default(), Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((prepared, workload)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if total.lock().unwrap().2.len() >= failures_max {
                        return;
                    }
                    let (extent, tally, broken) = every_crash(prepared, workload);
                    let mut total = total.lock().unwrap();
                    total.0.workloads += 1;
                    total.0.crash_points += extent.crash_points;
                    total.0.crashes += extent.crashes;
                    total.1.add(&tally);
                    total.2.extend(broken);
                }
            });
        }
    });
    total.into_inner().unwrap()
}

/// One workload, crashed everywhere. Stops at the first failure.
fn every_crash(prepared: &Prepared, workload: &[Operation]) -> (Extent, Tally, Option<Broken>) {
    let (mut extent, mut tally) = (Extent::default(), Tally::default());
    for after in 1.. {
        extent.crash_points += 1;
        let mut unsynced = 0;
        for kind in kinds() {
            // Subsets of more writes than there are are the same as smaller ones.
            if let CrashKind::Power(Survivors::Writes { mask, .. }) = kind
                && (unsynced == 0 || mask >> unsynced.min(LAST_WRITES) != 0)
            {
                continue;
            }
            extent.crashes += 1;
            let again_after = extent.crashes.is_multiple_of(RECOVERY_EVERY).then_some(1 + (extent.crashes % 7) as u32);
            let mut operations = vec![Operation::Crash { after, kind, again_after }];
            operations.extend(workload.iter().cloned());
            let (one, outcome) = prepared.run(&operations);
            tally.add(&one);
            if let Err(violation) = outcome {
                let setup = prepared.setup().clone();
                return (extent, tally, Some(Broken { setup, operations, violation }));
            }
            if kind == CrashKind::Kill {
                if one.crashes == 0 {
                    // It had no operation of that number: the workload is over.
                    extent.crash_points -= 1;
                    extent.crashes -= 1;
                    return (extent, tally, None);
                }
                unsynced = one.unsynced_at_crash;
            }
        }
    }
    (extent, tally, None)
}
