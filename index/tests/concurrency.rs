//! The table under real threads: what is never removed is always found, at a place where it really was, whatever happens
//! to its neighbours. The exhaustive search for orders that break it is in `loom.rs`; this one has real caches and sizes.
#![cfg(not(loom))]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use cask_index::{EpochLength, Found, Inserted, Key, Keyer, Location, Table, TableFull, TouchEpoch};

const EPOCHS: EpochLength = EpochLength { length_ms: 10 };
const STAYING_KEYS: u32 = 150;
const COMING_KEYS: u32 = 60;
const WRITERS: u64 = 2;
const ROUNDS: u32 = if cfg!(miri) { 5 } else { 5000 };

/// A key's two homes. Nobody else's record ever stands there.
fn home(key: u32, which: u32) -> Location {
    Location::new(key, 64 * which, 64)
}

fn staying_keys() -> Vec<Key> {
    let keyer = Keyer::new(&[3; 32]);
    (0..STAYING_KEYS).map(|key| keyer.part(0, key)).collect()
}

#[test]
fn what_stays_is_always_found() {
    // Small enough that the stash is in use (at times full, too) and slots are reused at once.
    let table = Table::with_capacity(u64::from(STAYING_KEYS) + WRITERS * u64::from(COMING_KEYS) / 2).unwrap();
    let keyer = Keyer::new(&[3; 32]);
    let staying = staying_keys();
    for (key, &staying) in (0..).zip(&staying) {
        assert_eq!(table.insert(staying, home(key, 0), EPOCHS.epoch_at(0)), Ok(Inserted::New));
    }

    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut readers = Vec::new();
        readers.push(scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for (key, &staying) in (0..).zip(&staying) {
                    let found = table.get(staying).expect("nobody removes it");
                    assert!([home(key, 0), home(key, 1)].contains(&found.location), "{key} is at {found:?}");
                }
            }
        }));
        readers.push(scope.spawn(|| {
            let mut period = 0;
            while !done.load(Ordering::Relaxed) {
                period += 1;
                let absent = |position| panic!("{position} is absent, and nobody removes it");
                table.touch_batch(&staying, EPOCHS.epoch_at(10 * period), absent);
                table.age(EPOCHS, 10 * period);
            }
        }));

        let mut writers = Vec::new();
        writers.push(scope.spawn(|| {
            for round in 0..2 * ROUNDS {
                for (key, &staying) in (0..).zip(&staying) {
                    assert!(table.relocate(staying, home(key, round % 2), home(key, 1 - round % 2)));
                }
            }
        }));
        for writer in 1..=WRITERS {
            let (table, keyer) = (&table, &keyer);
            writers.push(scope.spawn(move || {
                // Another order of coming and going each round. In the odd rounds all leave.
                let mut is_there = [false; COMING_KEYS as usize];
                for round in 0..2 * ROUNDS {
                    for step in 0..COMING_KEYS {
                        let number = (step * 7 + round) % COMING_KEYS;
                        let (key, location) = (keyer.part(writer, number), home(1000 + number, 0));
                        let is_there = &mut is_there[number as usize];
                        if round % 2 == 0 {
                            // Touched by a late toucher or not: nothing may be left of it from the round before.
                            let inserted = table.insert(key, location, TouchEpoch::OLD);
                            assert!(matches!(inserted, Ok(Inserted::New) | Err(TableFull)), "{inserted:?}");
                            *is_there = inserted.is_ok();
                            assert_eq!(table.touch(key, EPOCHS.epoch_at(u64::from(round))), *is_there);
                        } else {
                            assert_eq!(table.remove(key, location), *is_there);
                            assert_eq!(table.get(key), None);
                        }
                    }
                }
            }));
        }
        // Touches the coming keys while they come and go.
        readers.push(scope.spawn(|| {
            let coming: Vec<Key> =
                (0..COMING_KEYS).flat_map(|number| [keyer.part(1, number), keyer.part(2, number)]).collect();
            let mut epoch = 0;
            while !done.load(Ordering::Relaxed) {
                epoch = 1 + epoch % 63;
                table.touch_batch(&coming, TouchEpoch::from_u8(epoch), |_| ());
            }
        }));

        let results: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        results.into_iter().for_each(|result| result.expect("a writer found what it wrote"));
        readers.into_iter().for_each(|reader| reader.join().expect("a reader found what stays"));
    });

    assert_eq!(table.entry_count(), u64::from(STAYING_KEYS), "every other entry is gone, and none came back");
    for (key, &staying) in (0..).zip(&staying) {
        assert!(table.remove(staying, home(key, 0)), "an even number of relocations led it back");
    }
    assert_eq!((table.entry_count(), table.stash_entry_count()), (0, 0));
}

/// Several writers of the same keys: the shard's lock makes one entry of them.
#[test]
fn writers_of_one_key_make_one_entry() {
    let table = Table::with_capacity(1000).unwrap();
    let staying = staying_keys();
    thread::scope(|scope| {
        for which in 0..3 {
            let (table, staying) = (&table, &staying);
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    for (key, &staying) in (0..).zip(staying) {
                        table.insert(staying, home(key, which), TouchEpoch::OLD).expect("room");
                    }
                }
            });
        }
    });
    assert_eq!(table.entry_count(), u64::from(STAYING_KEYS));
    for (key, &staying) in (0..).zip(&staying) {
        let Some(Found { location, .. }) = table.get(staying) else { panic!("{key} is absent") };
        assert!((0..3).any(|which| location == home(key, which)), "{key} is at {location:?}");
        assert!(table.remove(staying, location));
        assert_eq!(table.get(staying), None, "{key} was there twice");
    }
}
