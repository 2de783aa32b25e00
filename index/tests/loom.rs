//! Interleavings of two threads at one table, and every value that the memory model lets a load see.
//! Run with `RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test -p cask-index --release --test loom`.
//!
//! Under loom buckets have two slots and a table has two buckets and two stash buckets; keys are made by hand so that all
//! of them have the same places.
#![cfg(loom)]

use std::ops::Deref;

use cask_index::{EpochLength, Found, Inserted, Key, Location, Recovered, Restored, Table, TouchEpoch};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

/// Keys with equal buckets; key 1 goes to the first slot of an empty table, and so does key 2 if 1 has left it.
fn key(number: u64) -> Key {
    Key::from_bytes(u128::from(number).to_le_bytes())
}

fn at(segment: u32) -> Location {
    Location::new(segment, 64, 64)
}

fn epoch(number: u8) -> TouchEpoch {
    TouchEpoch::from_u8(number)
}

fn found(segment: u32, touched: TouchEpoch) -> Option<Found> {
    Some(Found { location: at(segment), touched, hit: false })
}

fn hit(segment: u32, touched: TouchEpoch) -> Option<Found> {
    found(segment, touched).map(|found| Found { hit: true, ..found })
}

const OLD: TouchEpoch = TouchEpoch::OLD;
const BUCKET_SLOTS: u64 = 4;

/// A table, and a word outside that the threads may speak through.
struct World {
    table: Table,
    flag: AtomicU64,
}

impl Deref for World {
    type Target = Table;

    fn deref(&self) -> &Table {
        &self.table
    }
}

#[derive(Clone, Copy)]
enum Before {
    Empty,
    /// Key 1 at location 1.
    One,
    /// The next entry goes to the stash.
    FullBuckets,
    /// Key 1 at location 1, in the stash.
    OneInStash,
}

impl Before {
    fn world(self) -> Arc<World> {
        let table = Table::with_capacity(1).unwrap();
        assert_eq!(table.slot_count(), BUCKET_SLOTS);
        let insert = |number, segment| assert_eq!(table.insert(key(number), at(segment), OLD), Ok(Inserted::New));
        if matches!(self, Before::FullBuckets | Before::OneInStash) {
            (100..100 + BUCKET_SLOTS).for_each(|number| insert(number, 99));
        }
        if matches!(self, Before::One | Before::OneInStash) {
            insert(1, 1);
        }
        Arc::new(World { table, flag: AtomicU64::new(0) })
    }
}

/// Runs `left` beside `right` and then `check` with what they returned. Twice, since loom begins with the main thread and
/// does not go back before everything that the other one did.
fn explore<L: Send + 'static, R: Send + 'static>(
    before: Before,
    left: fn(&World) -> L,
    right: fn(&World) -> R,
    check: fn(&World, L, R),
) {
    loom::model(move || {
        let world = before.world();
        let shared = world.clone();
        let right = thread::spawn(move || right(&shared));
        let left = left(&world);
        check(&world, left, right.join().unwrap());
    });
    loom::model(move || {
        let world = before.world();
        let shared = world.clone();
        let left = thread::spawn(move || left(&shared));
        let right = right(&world);
        check(&world, left.join().unwrap(), right);
    });
}

/// Who is told a location may read what was written before it was stored: an insert, a replacement, a relocation.
#[test]
fn a_location_is_published_with_what_stands_there() {
    fn reader(world: &World) {
        if world.get(key(1)).is_some_and(|found| found.location == at(7)) {
            assert_eq!(world.flag.load(Ordering::Relaxed), 1, "the record was not there");
        }
    }
    fn inserter(world: &World) {
        world.flag.store(1, Ordering::Relaxed);
        world.insert(key(1), at(7), OLD).unwrap();
    }
    fn relocator(world: &World) {
        world.flag.store(1, Ordering::Relaxed);
        assert!(world.relocate(key(1), at(1), at(7)));
    }
    let check = |world: &World, (), ()| assert_eq!(world.get(key(1)), found(7, OLD));
    for before in [Before::Empty, Before::One, Before::FullBuckets, Before::OneInStash] {
        explore(before, inserter, reader, check);
    }
    for before in [Before::One, Before::OneInStash] {
        explore(before, relocator, reader, check);
    }
}

/// Who knows that an insert is done sees the entry.
#[test]
fn an_insert_that_is_done_is_seen() {
    fn inserter(world: &World) {
        assert_eq!(world.insert(key(1), at(1), OLD), Ok(Inserted::New));
        world.flag.store(1, Ordering::Release);
    }
    fn reader(world: &World) {
        let is_done = world.flag.load(Ordering::Acquire) == 1;
        let seen = world.get(key(1));
        assert!(seen == found(1, OLD) || (seen.is_none() && !is_done), "{seen:?}");
    }
    for before in [Before::Empty, Before::FullBuckets] {
        explore(before, inserter, reader, |_, (), ()| ());
    }
}

/// A touch that comes late neither resurrects an entry nor damages the slot's next one.
#[test]
fn a_touch_beside_removal_and_reuse() {
    fn remover(world: &World) {
        assert!(world.remove(key(1), at(1)));
        assert_eq!(world.get(key(1)), None);
        assert_eq!(world.insert(key(2), at(2), epoch(3)), Ok(Inserted::New));
    }
    let check = |world: &World, (), _: bool| {
        assert_eq!(world.get(key(1)), None);
        assert_eq!(world.get(key(2)), found(2, epoch(3)));
    };
    for before in [Before::One, Before::OneInStash] {
        explore(before, remover, |world| world.touch(key(1), epoch(5)), check);
    }
}

/// A reader that meets the reuse of a slot sees the entry or nothing, never another one's location.
#[test]
fn a_get_beside_removal_and_reuse() {
    fn remover(world: &World) {
        assert!(world.remove(key(1), at(1)));
        assert_eq!(world.insert(key(2), at(2), epoch(3)), Ok(Inserted::New));
    }
    let check = |_: &World, (), seen: Option<Found>| assert!(seen.is_none() || seen == found(1, OLD), "{seen:?}");
    for before in [Before::One, Before::OneInStash] {
        explore(before, remover, |world| world.get(key(1)), check);
    }
}

/// What is never removed is never missed while it moves house.
#[test]
fn a_get_beside_relocation() {
    let relocator = |world: &World| assert!(world.relocate(key(1), at(1), at(2)));
    let check =
        |_: &World, (), seen: Option<Found>| assert!(seen == found(1, OLD) || seen == found(2, OLD), "{seen:?}");
    for before in [Before::One, Before::OneInStash] {
        explore(before, relocator, |world| world.get(key(1)), check);
    }
}

/// Neither loses the other's work.
#[test]
fn a_touch_beside_relocation() {
    let relocator = |world: &World| assert!(world.relocate(key(1), at(1), at(2)));
    let toucher = |world: &World| assert!(world.touch(key(1), epoch(5)));
    // The touch counts as before or after the relocation, which clears the hit; the epoch is never lost.
    explore(Before::One, relocator, toucher, |world, (), ()| {
        let seen = world.get(key(1));
        assert!(seen == found(2, epoch(5)) || seen == hit(2, epoch(5)), "{seen:?}");
    });
}

/// Recovery finds a newer record of a key beside readers: they see one place or the other, and their touch stays.
#[test]
fn a_touch_beside_a_restore() {
    let restorer = |world: &World| {
        let entry = Recovered { key: key(1), location: at(2), touched: epoch(3), hit: false };
        let younger = |present: TouchEpoch| present.as_u8() < 3;
        assert_eq!(world.restore(&entry, |_| true, younger), Ok(Restored::Replaced(at(1))));
    };
    let toucher = |world: &World| {
        assert!(world.touch(key(1), epoch(5)));
        world.get(key(1))
    };
    explore(Before::One, restorer, toucher, |world, (), seen| {
        assert_eq!(world.get(key(1)), hit(2, epoch(5)));
        assert!(seen == hit(1, epoch(5)) || seen == hit(2, epoch(5)), "{seen:?}");
    });
}

/// Neighbours come and go; what stays is found, in the buckets and in the stash.
#[test]
fn what_stays_is_found_beside_neighbours() {
    fn neighbour(world: &World) {
        assert_eq!(world.insert(key(2), at(2), OLD), Ok(Inserted::New));
        assert!(world.remove(key(2), at(2)));
        assert_eq!(world.get(key(2)), None);
    }
    fn reader(world: &World) {
        assert!(world.touch(key(1), epoch(5)));
        assert_eq!(world.get(key(1)), hit(1, epoch(5)));
    }
    for before in [Before::One, Before::OneInStash] {
        explore(before, neighbour, reader, |_, (), ()| ());
    }
}

/// Two writers of one key make one entry: one finds it new, the other replaces it.
#[test]
fn two_inserts_of_one_key() {
    fn check(world: &World, left: Inserted, right: Inserted) {
        let (first, second) = (found(1, epoch(1)).unwrap(), found(2, epoch(2)).unwrap());
        let last = match (left, right) {
            (Inserted::New, Inserted::Replaced(before)) if before == first => second,
            (Inserted::Replaced(before), Inserted::New) if before == second => first,
            neither => panic!("{neither:?}"),
        };
        assert_eq!(world.get(key(1)), Some(last));
        assert!(world.remove(key(1), last.location));
        assert_eq!(world.get(key(1)), None, "it was there twice");
    }
    for before in [Before::Empty, Before::FullBuckets] {
        explore(
            before,
            |world| world.insert(key(1), at(1), epoch(1)).unwrap(),
            |world| world.insert(key(1), at(2), epoch(2)).unwrap(),
            check,
        );
    }
}

/// The lease floor in small: either the touch was first and the entry stays, or it is told that the entry is gone.
#[test]
fn nothing_is_dropped_that_was_just_touched() {
    explore(
        Before::One,
        |world| world.remove_untouched(key(1), found(1, OLD).unwrap()),
        |world| world.touch(key(1), epoch(5)),
        |world, removed, touched| {
            assert_ne!(removed, touched);
            assert_eq!(world.get(key(1)), if touched { hit(1, epoch(5)) } else { None });
        },
    );
}

/// A sweep takes old touches off the ring and never a new one, though its clock is a period behind the toucher's.
#[test]
fn a_sweep_beside_a_touch() {
    const EPOCHS: EpochLength = EpochLength { length_ms: 1 };
    fn sweep(world: &World) {
        world.age(EPOCHS, 50);
    }
    fn touch(world: &World) {
        assert!(world.touch(key(1), EPOCHS.epoch_at(0)));
        assert!(world.touch(key(1), EPOCHS.epoch_at(51)));
    }
    explore(Before::One, sweep, touch, |world, (), ()| {
        assert_eq!(world.get(key(1)), hit(1, EPOCHS.epoch_at(51)));
        assert!(world.touch(key(1), EPOCHS.epoch_at(0)));
        world.age(EPOCHS, 50);
        assert_eq!(world.get(key(1)), hit(1, OLD));
    });
}
