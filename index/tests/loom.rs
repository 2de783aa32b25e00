//! Every interleaving, and every value that the memory model lets a load see, of two or three threads at one table.
//! Run with `RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test -p cask-index --release --test loom`.
//!
//! Under loom buckets have two slots and a table has two buckets and two stash buckets; keys are made by hand so that all
//! of them have the same places.
#![cfg(loom)]

use cask_index::{EpochLength, Found, Inserted, Key, Location, Table, TouchEpoch};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread::{self, JoinHandle};

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

const OLD: TouchEpoch = TouchEpoch::OLD;
const BUCKET_SLOTS: u64 = 4;

fn table(entries: &[(u64, u32)]) -> Arc<Table> {
    let table = Table::with_capacity(1).unwrap();
    assert_eq!(table.slot_count(), BUCKET_SLOTS);
    for &(number, segment) in entries {
        assert_eq!(table.insert(key(number), at(segment), OLD), Ok(Inserted::New));
    }
    Arc::new(table)
}

/// Fills the buckets, so that the next entry goes to the stash.
fn table_with_full_buckets() -> Arc<Table> {
    let entries: Vec<_> = (0..BUCKET_SLOTS).map(|number| (100 + number, 1)).collect();
    table(&entries)
}

fn spawn<T: 'static>(table: &Arc<Table>, body: impl FnOnce(&Table) -> T + 'static) -> JoinHandle<T> {
    let table = table.clone();
    thread::spawn(move || body(&table))
}

fn found(segment: u32, touched: TouchEpoch) -> Option<Found> {
    Some(Found { location: at(segment), touched })
}

/// Who is told a location may read what was written before it was stored: an insert, a replacement, a relocation.
#[test]
fn a_location_is_published_with_what_stands_there() {
    fn check(before: fn() -> Arc<Table>, publish: fn(&Table)) {
        loom::model(move || {
            let table = before();
            let record = Arc::new(AtomicU64::new(0));
            let written = record.clone();
            let writer = spawn(&table, move |table| {
                written.store(1, Ordering::Relaxed);
                publish(table);
            });
            if table.get(key(1)).is_some_and(|found| found.location == at(7)) {
                assert_eq!(record.load(Ordering::Relaxed), 1);
            }
            writer.join().unwrap();
            assert_eq!(table.get(key(1)), found(7, OLD));
        });
    }
    let insert: fn(&Table) = |table| assert!(table.insert(key(1), at(7), OLD).is_ok());
    check(|| table(&[]), insert);
    check(|| table(&[(1, 6)]), insert);
    check(|| table(&[(1, 6)]), |table| assert!(table.relocate(key(1), at(6), at(7))));
    check(table_with_full_buckets, insert);
}

/// A touch that comes late neither resurrects an entry nor damages the slot's next one.
#[test]
fn a_touch_beside_removal_and_reuse() {
    loom::model(|| {
        let table = table(&[(1, 1)]);
        let toucher = spawn(&table, |table| table.touch(key(1), epoch(5)));
        assert!(table.remove(key(1), at(1)));
        assert_eq!(table.get(key(1)), None);
        assert_eq!(table.insert(key(2), at(2), epoch(3)), Ok(Inserted::New));
        toucher.join().unwrap();
        assert_eq!(table.get(key(1)), None);
        assert_eq!(table.get(key(2)), found(2, epoch(3)));
        assert_eq!(table.entry_count(), 1);
    });
}

/// A reader that meets the reuse of a slot sees the entry or nothing, never another one's location.
#[test]
fn a_get_beside_removal_and_reuse() {
    loom::model(|| {
        let table = table(&[(1, 1)]);
        let reader = spawn(&table, |table| table.get(key(1)));
        assert!(table.remove(key(1), at(1)));
        assert_eq!(table.insert(key(2), at(2), epoch(3)), Ok(Inserted::New));
        let seen = reader.join().unwrap();
        assert!(seen.is_none() || seen == found(1, OLD), "{seen:?}");
    });
}

/// What is never removed is never missed while it moves house and is touched; and neither loses the other's work.
#[test]
fn relocation_beside_touch_and_get() {
    loom::model(|| {
        let table = table(&[(1, 1)]);
        let relocator = spawn(&table, |table| table.relocate(key(1), at(1), at(2)));
        let reader = spawn(&table, |table| table.get(key(1)));
        assert!(table.touch(key(1), epoch(5)));
        let seen = reader.join().unwrap().expect("nobody removes it");
        assert!([at(1), at(2)].contains(&seen.location) && [OLD, epoch(5)].contains(&seen.touched), "{seen:?}");
        assert!(relocator.join().unwrap());
        assert_eq!(table.get(key(1)), found(2, epoch(5)));
    });
}

/// Neighbours come and go; what stays is found, in the buckets and in the stash.
#[test]
fn what_stays_is_found_beside_neighbours() {
    fn check(before: fn() -> Arc<Table>) {
        loom::model(move || {
            let table = before();
            assert_eq!(table.insert(key(1), at(1), OLD), Ok(Inserted::New));
            let writer = spawn(&table, |table| {
                assert_eq!(table.insert(key(2), at(2), OLD), Ok(Inserted::New));
                assert!(table.remove(key(2), at(2)));
            });
            assert!(table.touch(key(1), epoch(5)));
            assert_eq!(table.get(key(1)), found(1, epoch(5)));
            writer.join().unwrap();
            assert_eq!(table.get(key(2)), None);
        });
    }
    check(|| table(&[]));
    check(table_with_full_buckets);
}

/// A key leaves a bucket and comes back to the other, or to the stash: a reader may miss it only because it was away.
#[test]
fn an_insert_that_is_done_is_seen() {
    fn check(before: fn() -> Arc<Table>) {
        loom::model(move || {
            let table = before();
            let done = Arc::new(AtomicU64::new(0));
            let is_done = done.clone();
            let writer = spawn(&table, move |table| {
                assert_eq!(table.insert(key(1), at(1), OLD), Ok(Inserted::New));
                is_done.store(1, Ordering::Release);
            });
            let must_be_there = done.load(Ordering::Acquire) == 1;
            let seen = table.get(key(1));
            assert!(seen == found(1, OLD) || (seen.is_none() && !must_be_there), "{seen:?}");
            writer.join().unwrap();
        });
    }
    check(|| table(&[]));
    check(table_with_full_buckets);
}

/// Two writers of one key make one entry: one finds it new, the other replaces it.
#[test]
fn two_inserts_of_one_key() {
    fn check(before: fn() -> Arc<Table>, other_entries: u64) {
        loom::model(move || {
            let table = before();
            let other = spawn(&table, |table| table.insert(key(1), at(2), epoch(2)).unwrap());
            let mine = table.insert(key(1), at(1), epoch(1)).unwrap();
            let (first, second) = (found(1, epoch(1)).unwrap(), found(2, epoch(2)).unwrap());
            let last = match (mine, other.join().unwrap()) {
                (Inserted::New, Inserted::Replaced(before)) if before == first => second,
                (Inserted::Replaced(before), Inserted::New) if before == second => first,
                neither => panic!("{neither:?}"),
            };
            assert_eq!(table.get(key(1)), Some(last));
            assert_eq!(table.entry_count(), other_entries + 1);
        });
    }
    check(|| table(&[]), 0);
    check(table_with_full_buckets, BUCKET_SLOTS);
}

/// The lease floor in small: either the touch was first and the entry stays, or it is told that the entry is gone.
#[test]
fn nothing_is_dropped_that_was_just_touched() {
    loom::model(|| {
        let table = table(&[(1, 1)]);
        let toucher = spawn(&table, |table| table.touch(key(1), epoch(5)));
        let removed = table.remove_untouched(key(1), at(1), OLD);
        let touched = toucher.join().unwrap();
        assert_ne!(removed, touched);
        assert_eq!(table.get(key(1)), if touched { found(1, epoch(5)) } else { None });
    });
}

/// A sweep takes old touches off the ring and never a new one.
#[test]
fn a_sweep_beside_a_touch() {
    loom::model(|| {
        let epochs = EpochLength { length_ms: 1 };
        let table = table(&[]);
        table.insert(key(1), at(1), epochs.epoch_at(0)).unwrap();
        table.insert(key(2), at(2), epochs.epoch_at(0)).unwrap();
        let toucher = spawn(&table, move |table| table.touch(key(1), epochs.epoch_at(51)));
        // A period behind the toucher.
        table.age(epochs, 50);
        assert!(toucher.join().unwrap());
        assert_eq!(table.get(key(1)), found(1, epochs.epoch_at(51)));
        assert_eq!(table.get(key(2)), found(2, OLD));
    });
}
