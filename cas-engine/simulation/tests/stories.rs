//! What the simulation found in the engine, each as the short run that showed it, named for its story.

use cask_engine::Durability;
use cask_simulation::{CrashKind, Fault, Operation, Setup, Survivors, run, run_seed};

fn setup(seed: u64, durability: Durability, lease_ms: u64, lease_floor_ms: u64) -> Setup {
    Setup {
        seed,
        segment_size_bytes: 128 << 10,
        segment_count: 16,
        durability,
        lease_ms,
        lease_floor_ms,
        index_capacity: 1024,
        media_faults: true,
        compresses: false,
    }
}

fn check(setup: &Setup, operations: &[Operation]) {
    if let (_, Err(violation)) = run(setup, operations) {
        panic!("{violation}");
    }
}

fn many(first: u32, count: u32) -> Operation {
    Operation::PutMany { first, count }
}

const REOPEN: Operation = Operation::Reopen { segment_count: None, power_loss: false };

/// A record that was durable before a restart counted as unsynced after it.
#[test]
fn a_failed_write_after_a_restart_costs_nothing_that_was_durable() {
    let setup = setup(19, Durability::Synced, 14_400_000, 0);
    let fault = Operation::Fault(Fault::WriteFails);
    check(&setup, &[Operation::Put { blob: 105 }, REOPEN, fault, Operation::Put { blob: 106 }, Operation::Write]);
}

/// The batch was synced before its acknowledgement, and its segment, full by then, still counted it as unsynced.
#[test]
fn a_full_segment_that_was_synced_with_its_last_batch_loses_nothing_when_its_seal_fails() {
    let setup = setup(26, Durability::Synced, 600_000, 0);
    for count in 10..30 {
        let fault = Operation::Fault(Fault::SyncFails);
        check(&setup, &[many(118, count), Operation::Write, fault, Operation::Sync]);
    }
}

/// A killed process left a segment header that the kernel had failed to write; the next one appended to that segment, synced,
/// and acknowledged.
#[test]
fn a_header_that_never_reached_the_disk_costs_no_synced_blob() {
    for seed in 0..40 {
        let setup = Setup { segment_size_bytes: 64 << 10, ..setup(seed, Durability::Synced, 600_000, 0) };
        check(
            &setup,
            &[
                Operation::Fault(Fault::SyncFails),
                many(90, 12),
                Operation::Write,
                REOPEN,
                many(139, 13),
                Operation::Reopen { segment_count: None, power_loss: true },
            ],
        );
    }
}

/// One bit of the first block of the segment that is being written.
#[test]
fn a_damaged_header_of_an_unsealed_segment_costs_nothing() {
    for seed in 0..20 {
        let setup = setup(131, Durability::Written, 14_400_000, 1000);
        let put = Operation::PutAction { action: 10, closure: vec![], value_bytes: 10 };
        check(
            &setup,
            &[put, Operation::Put { blob: 4 }, Operation::Write, Operation::Fault(Fault::StructureFlip(seed))],
        );
    }
}

#[test]
fn an_unreadable_page_of_an_unsealed_segment_hides_only_what_stands_in_it() {
    for seed in 0..40 {
        let setup = setup(13, Durability::Synced, 600_000, 600_000);
        let fault = Operation::Fault(Fault::BadPage(seed));
        check(&setup, &[Operation::Put { blob: 8 }, Operation::Settle, many(16, 8), Operation::Settle, fault]);
    }
}

/// After a crash the floor protects everything; a record that reclaim moved lost that, and an orderly close took it from all.
/// (Seed 32 and 299 of the first runs.) The store was also rewritten for ever when all of it was protected (seed 42).
#[test]
fn protection_after_a_crash_outlives_reclaim_and_an_orderly_close() {
    for seed in [32, 42, 96, 121, 189, 294, 299] {
        let (_, outcome) = run_seed(seed, 600);
        assert!(outcome.is_ok(), "seed {seed}: {}", outcome.unwrap_err());
    }
}

/// Reclaim failed to make the copy of a part durable, and took the head of the blob away, whose parts still stood where they were.
/// (Seed 93.)
#[test]
fn a_large_blob_survives_a_failed_move_of_a_part() {
    let (_, outcome) = run_seed(93, 600);
    assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
}

#[test]
fn a_power_loss_after_a_kill_spares_what_was_reported_in_between() {
    let setup = setup(5, Durability::Synced, 600_000, 0);
    let crash = |kind| Operation::Crash { after: 0, kind, again_after: None };
    for seed in 0..20 {
        check(
            &setup,
            &[
                many(1, 6),
                Operation::Crash { after: 4, kind: CrashKind::Kill, again_after: None },
                Operation::Write,
                Operation::FindMissing { blobs: (1..7).collect() },
                crash(CrashKind::Power(Survivors::Sectors(seed))),
            ],
        );
    }
}

/// Equal seeds, equal runs: without it no failure could be replayed.
#[test]
fn a_seed_does_the_same_twice() {
    for seed in 500..504 {
        assert_eq!(run_seed(seed, 200).0.trace, run_seed(seed, 200).0.trace);
    }
}

/// A part was stored, and a failed sync took it back before the head came: the head was entered all the same, and said of a
/// blob that it was there which nobody could read. (Seeds 935 and 1733.)
#[test]
fn a_large_blob_that_lost_a_part_on_its_way_is_refused() {
    for seed in [935, 1733] {
        let (_, outcome) = run_seed(seed, 600);
        assert!(outcome.is_ok(), "seed {seed}: {}", outcome.unwrap_err());
    }
}

/// Segments of which the floor protected all but a sixteenth were moved for ever: as much was lost again at the end of each new
/// one, where the next record did not fit. (Seed 907.)
#[test]
fn what_is_nearly_all_protected_is_not_moved_for_ever() {
    let (_, outcome) = run_seed(907, 600);
    assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
}

/// Of the simulator itself: blobs whose segment fails as the machine goes down are there again after a kill, so nothing is
/// asked of the dying process any more.
#[test]
fn a_process_that_dies_amid_many_uploads_is_not_asked_what_it_has() {
    let setup = Setup {
        segment_size_bytes: 64 << 10,
        segment_count: 12,
        media_faults: false,
        compresses: false,
        ..setup(9, Durability::Written, 0, 0)
    };
    let tiny = |position: u32| many((1 << 24) + 256 * position, 250);
    let crash = Operation::Crash { after: 6, kind: CrashKind::Kill, again_after: Some(1) };
    let mut operations: Vec<_> = (1..7).map(tiny).collect();
    operations.extend([crash, Operation::Put { blob: 14 }, tiny(6)]);
    check(&setup, &operations);
}

/// What a rescan finds of a segment with a damaged footer may be fewer records than the touches speak of, byte by byte: a good one
/// was taken for dropped.
#[test]
fn a_damaged_footer_of_a_closed_store_does_not_shift_its_touches() {
    for seed in [20637, 20113, 20132, 20148] {
        let (_, outcome) = run_seed(seed, 600);
        assert!(outcome.is_ok(), "seed {seed}: {}", outcome.unwrap_err());
    }
}

/// An upload of which a part had failed was queued all the same, and whoever uploaded the blob meanwhile waited for it and failed
/// with it.
#[test]
fn nobody_waits_for_an_upload_that_is_known_to_have_failed() {
    let (_, outcome) = run_seed(51968, 600);
    assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
}
