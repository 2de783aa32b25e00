//! The table against a `HashMap`, one operation after the other, down to tables so small that stashes are used and the
//! table fills up.
#![cfg(not(loom))]

use std::collections::HashMap;

use cask_index::{EpochLength, Found, Inserted, Key, Keyer, Location, Table, TableFull, TouchEpoch};
use proptest::collection::vec;
use proptest::prelude::*;

const EPOCHS: EpochLength = EpochLength { length_ms: 1000 };

/// Keys and locations are numbers in a small range, so that sequences meet themselves.
#[derive(Clone, Debug)]
enum Operation {
    Insert { key: usize, location: u32 },
    Get { key: usize },
    Touch { key: usize },
    TouchBatch { keys: Vec<usize> },
    Relocate { key: usize, from: Guess, to: u32 },
    Remove { key: usize, location: Guess },
    RemoveUntouched { key: usize, location: Guess, touched_is_right: bool, hit_is_right: bool },
    RemoveLocated { below: u32, modulus: u32 },
    Age { after_periods: u64 },
}

/// The location an operation names: the entry's, or one that may be wrong.
#[derive(Clone, Copy, Debug)]
enum Guess {
    Right,
    Other(u32),
}

fn operations(key_count: usize) -> impl Strategy<Value = Vec<Operation>> {
    let key = move || 0..key_count;
    let location = || 0..50_u32;
    let guess = || prop_oneof![3 => Just(Guess::Right), 1 => (0..50_u32).prop_map(Guess::Other)];
    let operation = prop_oneof![
        8 => (key(), location()).prop_map(|(key, location)| Operation::Insert { key, location }),
        2 => key().prop_map(|key| Operation::Get { key }),
        2 => key().prop_map(|key| Operation::Touch { key }),
        1 => vec(key(), 0..40).prop_map(|keys| Operation::TouchBatch { keys }),
        2 => (key(), guess(), location()).prop_map(|(key, from, to)| Operation::Relocate { key, from, to }),
        2 => (key(), guess()).prop_map(|(key, location)| Operation::Remove { key, location }),
        2 => (key(), guess(), any::<bool>(), any::<bool>()).prop_map(|(key, location, touched_is_right, hit_is_right)| {
            Operation::RemoveUntouched { key, location, touched_is_right, hit_is_right }
        }),
        1 => (0..10_u32, 2..9_u32).prop_map(|(below, modulus)| Operation::RemoveLocated { below, modulus }),
        2 => (0..=8_u64).prop_map(|after_periods| Operation::Age { after_periods }),
    ];
    vec(operation, 0..if cfg!(miri) { 60 } else { 600 })
}

#[derive(Clone, Copy)]
struct Entry {
    location: Location,
    /// The period of the last touch; `None` once swept.
    touched_period: Option<u64>,
    /// Touched since it was inserted or relocated.
    hit: bool,
}

/// What the table must be, and the table.
struct Pair {
    table: Table,
    keys: Vec<Key>,
    entries: HashMap<usize, Entry>,
    period: u64,
    entry_count_max: u64,
}

fn location(number: u32) -> Location {
    Location::new(number, number * 64, 64)
}

fn now_ms(period: u64) -> u64 {
    period * EPOCHS.length_ms + 1
}

impl Pair {
    fn new(entry_count_max: u64, key_count: usize) -> Self {
        let keyer = Keyer::new(&[1; 32]);
        let keys = (0..key_count).map(|number| keyer.part(0, number as u32)).collect();
        let table = Table::with_capacity(entry_count_max).unwrap();
        Pair { table, keys, entries: HashMap::new(), period: 1000, entry_count_max }
    }

    fn epoch(&self) -> TouchEpoch {
        EPOCHS.epoch_at(now_ms(self.period))
    }

    fn expected(&self, key: usize) -> Option<Found> {
        self.entries.get(&key).map(|entry| Found {
            location: entry.location,
            touched: entry.touched_period.map_or(TouchEpoch::OLD, |period| EPOCHS.epoch_at(now_ms(period))),
            hit: entry.hit,
        })
    }

    fn resolve(&self, key: usize, guess: Guess) -> Location {
        match (guess, self.entries.get(&key)) {
            (Guess::Right, Some(entry)) => entry.location,
            (Guess::Right, None) => location(0),
            (Guess::Other(number), _) => location(number),
        }
    }

    fn touched(&mut self, key: usize) -> bool {
        let touched_period = Some(self.period);
        let entry = self.entries.get_mut(&key);
        entry.map(|entry| *entry = Entry { touched_period, hit: true, ..*entry }).is_some()
    }

    fn apply(&mut self, operation: &Operation) -> Result<(), TestCaseError> {
        match *operation {
            Operation::Insert { key, location: number } => {
                let before = self.expected(key);
                let inserted = self.table.insert(self.keys[key], location(number), self.epoch());
                if inserted == Err(TableFull) {
                    self.check_full()?;
                    prop_assert_eq!(before, None, "an entry that is there needs no room");
                    return Ok(());
                }
                prop_assert_eq!(inserted, Ok(before.map_or(Inserted::New, Inserted::Replaced)));
                let entry = Entry { location: location(number), touched_period: Some(self.period), hit: false };
                self.entries.insert(key, entry);
            }
            Operation::Get { key } => prop_assert_eq!(self.table.get(self.keys[key]), self.expected(key)),
            Operation::Touch { key } => {
                prop_assert_eq!(self.table.touch(self.keys[key], self.epoch()), self.touched(key));
            }
            Operation::TouchBatch { ref keys } => {
                let batch: Vec<Key> = keys.iter().map(|&key| self.keys[key]).collect();
                let mut absent = Vec::new();
                self.table.touch_batch(&batch, self.epoch(), |position| absent.push(position));
                let expected: Vec<usize> = (0..keys.len()).filter(|&position| !self.touched(keys[position])).collect();
                prop_assert_eq!(absent, expected);
            }
            Operation::Relocate { key, from, to } => {
                let from = self.resolve(key, from);
                let entry = self.entries.get_mut(&key).filter(|entry| entry.location == from);
                let expected =
                    entry.map(|entry| *entry = Entry { location: location(to), hit: false, ..*entry }).is_some();
                prop_assert_eq!(self.table.relocate(self.keys[key], from, location(to)), expected);
            }
            Operation::Remove { key, location } => {
                let location = self.resolve(key, location);
                let expected = self.entries.get(&key).is_some_and(|entry| entry.location == location);
                if expected {
                    self.entries.remove(&key);
                }
                prop_assert_eq!(self.table.remove(self.keys[key], location), expected);
            }
            Operation::RemoveUntouched { key, location, touched_is_right, hit_is_right } => {
                let location = self.resolve(key, location);
                let (right, hit) =
                    self.expected(key).map_or((TouchEpoch::OLD, false), |found| (found.touched, found.hit));
                let wrong = TouchEpoch::from_u8((right.as_u8() + 1) % 64);
                let touched = if touched_is_right { right } else { wrong };
                let found = Found { location, touched, hit: hit == hit_is_right };
                let expected = touched_is_right
                    && hit_is_right
                    && self.entries.get(&key).is_some_and(|entry| entry.location == location);
                if expected {
                    self.entries.remove(&key);
                }
                prop_assert_eq!(self.table.remove_untouched(self.keys[key], found), expected);
            }
            Operation::RemoveLocated { below, modulus } => {
                let is_doomed =
                    |location: Location| location.segment() < below * 5 && location.segment().is_multiple_of(modulus);
                let before = self.entries.len();
                self.entries.retain(|_, entry| !is_doomed(entry.location));
                prop_assert_eq!(self.table.remove_located(is_doomed), (before - self.entries.len()) as u64);
            }
            Operation::Age { after_periods } => {
                self.period += after_periods;
                self.table.age(EPOCHS, now_ms(self.period));
                for entry in self.entries.values_mut() {
                    let age = entry.touched_period.map(|period| self.period - period);
                    if age.is_some_and(|age| age > u64::from(EpochLength::AGE_PERIODS_MAX)) {
                        entry.touched_period = None;
                    }
                }
            }
        }
        prop_assert_eq!(self.table.entry_count(), self.entries.len() as u64);
        Ok(())
    }

    /// In a table of two buckets every slot is every key's, so "full" means full. Larger ones keep what they promised.
    fn check_full(&self) -> Result<(), TestCaseError> {
        let entry_count = self.entries.len() as u64;
        if self.table.slot_count() == 16 {
            prop_assert_eq!(entry_count, self.table.slot_count() + self.table.stash_slot_count());
        } else {
            prop_assert!(entry_count > self.entry_count_max, "full at {}", entry_count);
        }
        Ok(())
    }
}

fn check(entry_count_max: u64, key_count: usize, operations: &[Operation]) -> Result<(), TestCaseError> {
    let mut pair = Pair::new(entry_count_max, key_count);
    operations.iter().try_for_each(|operation| pair.apply(operation))?;
    for key in 0..key_count {
        prop_assert_eq!(pair.table.get(pair.keys[key]), pair.expected(key), "key {}", key);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 256 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// 32 slots with the stash, for 45 keys.
    #[test]
    fn a_table_that_fills_up(operations in operations(45)) {
        check(1, 45, &operations)?;
    }

    /// Twice as many keys as the table was made for.
    #[test]
    fn a_small_table(operations in operations(80)) {
        check(40, 80, &operations)?;
    }

    #[test]
    fn a_roomy_table(operations in operations(60)) {
        check(1000, 60, &operations)?;
    }
}

/// A full store's life: the oldest entry leaves, a new one comes, for long. Slots come free wherever the oldest stand, so
/// pairs of full buckets are common (every 40th insert); the stash has to hold what they refuse.
#[test]
fn a_full_table_goes_on_for_ever() {
    let (entry_count, rounds): (u32, u32) = if cfg!(miri) { (200, 2) } else { (20_000, 6) };
    let keyer = Keyer::new(&[2; 32]);
    let table = Table::with_capacity(u64::from(entry_count)).unwrap();
    let mut stash_entry_count_max = 0;
    for number in 0..entry_count * rounds {
        if let Some(oldest) = number.checked_sub(entry_count) {
            assert!(table.remove(keyer.part(0, oldest), location(oldest % 50)));
        }
        assert_eq!(table.insert(keyer.part(0, number), location(number % 50), TouchEpoch::OLD), Ok(Inserted::New));
        stash_entry_count_max = stash_entry_count_max.max(table.stash_entry_count());
    }
    for number in entry_count * (rounds - 1)..entry_count * rounds {
        assert_eq!(table.get(keyer.part(0, number)).map(|found| found.location), Some(location(number % 50)));
    }
    if !cfg!(miri) {
        assert!(stash_entry_count_max > 200, "the test is to reach the stash");
        assert!(2 * stash_entry_count_max < table.stash_slot_count() + 200, "{stash_entry_count_max} stashed");
    }
}
