//! A store under any list of operations: uploads, reads, steps of the engine's own work, crashes, faults of the disk, and
//! the recoveries after them. The input is such a list; the simulator carries it out and compares all that the store says
//! with a reference model.
//!
//! Input: four bytes of setup, then four bytes an operation: what, and three arguments. Every input means something, so a
//! changed byte changes one operation. The seeds under `fuzz/corpus` are named for what they do.

use cask_engine::Durability;
use cask_simulation::workload::TINY_BLOBS_FIRST;
use cask_simulation::{CrashKind, Fault, Flaw, Operation, Setup, Survivors, run};

/// What comes after these is ignored: long runs are the simulator's own business, a fuzzer needs many short ones.
const OPERATIONS_MAX: usize = 60;

/// Runs the operations. True when the store crashed on the way and what it promised was there afterwards.
///
/// # Panics
/// A promise was broken, or the engine panicked.
pub fn engine_operations(data: &[u8]) -> bool {
    let (setup, operations) = parse(data);
    let (tally, outcome) = run(&setup, &operations);
    if let Err(violation) = outcome {
        panic!("{violation}\n{setup:?}\n{operations:#?}");
    }
    // Each run ends with one.
    tally.crashes > 1
}

fn parse(data: &[u8]) -> (Setup, Vec<Operation>) {
    let mut words = data.chunks(4).map(|chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        word
    });
    let setup = setup(words.next().unwrap_or_default());
    let operations = words.take(OPERATIONS_MAX).map(|word| operation(&setup, word)).collect();
    (setup, operations)
}

/// Small stores: reclaim has to work within a few uploads.
fn setup([seed, flags, leases, _]: [u8; 4]) -> Setup {
    let floor = [0, 1_000, 60_000, 600_000][usize::from(leases / 4 % 4)];
    Setup {
        seed: u64::from(seed),
        segment_size_bytes: 64 << 10,
        segment_count: [12, 13, 16, 24][usize::from(flags / 4 % 4)],
        durability: if flags & 1 == 0 { Durability::Written } else { Durability::Synced },
        lease_ms: [0, 10_000, 600_000, 4 * 3_600_000][usize::from(leases % 4)].max(floor),
        lease_floor_ms: floor,
        index_capacity: 1024,
        media_faults: flags & 2 != 0,
        compresses: leases & 16 != 0,
    }
}

fn operation(setup: &Setup, [what, a, b, c]: [u8; 4]) -> Operation {
    let blob = u32::from(a % 64);
    let upload = u32::from(a % 8);
    let action = u32::from(a % 12);
    let wide = u16::from_le_bytes([b, c]);
    match what % 32 {
        0..=2 => Operation::Put { blob },
        3 | 4 => Operation::PutMany { first: blob, count: 3 + u32::from(b % 15) },
        5 => Operation::PutMany { first: TINY_BLOBS_FIRST + 32 * u32::from(a), count: 50 + u32::from(b) },
        6 => Operation::Open { blob, flaw: flaw(b) },
        7 | 8 => Operation::Feed { upload, bytes: 1 + u32::from(wide) % (2 * setup.part_size_bytes() as u32) },
        9 => Operation::Finish { upload },
        10 => Operation::Abandon { upload },
        11 => Operation::PutAction {
            action,
            closure: blobs(u32::from(b), u16::from(c % 16)),
            value_bytes: [0, 10, 3000, 8000][usize::from(c / 16 % 4)],
        },
        12 => Operation::GetAction { action },
        13 => Operation::FindMissing { blobs: blobs(blob, wide) },
        14 => Operation::Read { blob },
        15 => Operation::Hold { blob, at: u32::from(wide) },
        16 => Operation::Release,
        17 | 18 => Operation::Advance { ms: 1 + time_span_ms(setup, a) * u64::from(b) / 255 },
        19 | 20 => Operation::Write,
        21 => Operation::Sync,
        22 | 23 => Operation::Reclaim,
        24 => Operation::Maintain,
        26 => Operation::Reopen { segment_count: (a % 3 == 0).then(|| 12 + u32::from(b % 30)), power_loss: c % 2 == 1 },
        27 | 28 => Operation::Crash {
            after: u32::from(a % 30),
            kind: crash_kind(b),
            again_after: (c % 3 == 0).then(|| 1 + u32::from(c / 3 % 4)),
        },
        29 => Operation::Fault(trouble(a, wide)),
        30 if setup.media_faults => Operation::Fault(media_fault(a, u64::from(wide))),
        25 | 30 => Operation::Settle,
        _ => Operation::Liveness,
    }
}

fn flaw(choice: u8) -> Flaw {
    match choice % 8 {
        0 => Flaw::Content,
        1 => Flaw::TooLong,
        2 => Flaw::TooShort,
        _ => Flaw::None,
    }
}

/// Up to sixteen from `first` on: a bit each.
fn blobs(first: u32, mask: u16) -> Vec<u32> {
    (0..16).filter(|bit| mask >> bit & 1 == 1).map(|bit| (first + bit) % 64).collect()
}

/// From an instant to more than the lease.
fn time_span_ms(setup: &Setup, choice: u8) -> u64 {
    let (lease, floor) = (setup.lease_ms, setup.lease_floor_ms);
    [1, 100, 11_000, floor + 1, lease / 20, lease / 2, lease + 1, 60_000][usize::from(choice % 8)]
}

fn crash_kind(choice: u8) -> CrashKind {
    let rest = choice / 4;
    match choice % 4 {
        0 => CrashKind::Kill,
        1 | 2 => CrashKind::Power(Survivors::Sectors(u64::from(rest))),
        _ => CrashKind::Power(Survivors::Writes { mask: u32::from(rest % 16), count: 4, torn: rest & 16 != 0 }),
    }
}

/// What a disk does that is no loss of what it has.
fn trouble(choice: u8, wide: u16) -> Fault {
    match choice % 6 {
        0 => Fault::SyncFails,
        1 => Fault::WriteFails,
        2 => Fault::NoSpace,
        3 | 4 => Fault::SpaceAgain,
        _ => Fault::Slow(u32::from(wide) % 20_000),
    }
}

fn media_fault(choice: u8, seed: u64) -> Fault {
    match choice % 6 {
        0 => Fault::LostWrite,
        1 => Fault::MisdirectedWrite,
        2 | 3 => Fault::BitFlip(seed),
        4 => Fault::StructureFlip(seed),
        _ => Fault::BadPage(seed),
    }
}
