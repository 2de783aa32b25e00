//! The digest index alone: hex decoding, keys, lookups, inserts and batched touches, at sizes beyond the caches.
//!
//! Rates are per element (digest, key). Tables are filled as a store that has been full for long is: at capacity, after
//! every entry was replaced once in order of age, so that stashes are in use.

#![allow(missing_docs)] // `criterion_group!` makes public items.

use std::hint::black_box;

use cask_index::{Digest, DigestFunction, Key, Keyer, Lanes, Location, Table, TouchEpoch, sha256_of_each_with};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const SIZES: [u32; 2] = [1_000_000, 10_000_000];

fn keyer() -> Keyer {
    Keyer::new(&[7; 32])
}

fn key(keyer: &Keyer, number: u32) -> Key {
    keyer.part(0, number)
}

fn location(number: u32) -> Location {
    Location::new(number % Location::SEGMENT_COUNT_MAX, 64, 4096)
}

/// Holds the keys `entry_count..2 * entry_count`.
fn full_table(keyer: &Keyer, entry_count: u32) -> Table {
    let table = Table::with_capacity(u64::from(entry_count)).expect("memory for the table");
    for number in 0..2 * entry_count {
        if let Some(oldest) = number.checked_sub(entry_count) {
            assert!(table.remove(key(keyer, oldest), location(oldest)));
        }
        table.insert(key(keyer, number), location(number), TouchEpoch::OLD).expect("room for the entries");
    }
    table
}

/// `count` keys in random order, of which `hit_percent` are in a full table of `entry_count`.
fn asked_keys(keyer: &Keyer, entry_count: u32, count: usize, hit_percent: u32) -> Vec<Key> {
    let mut random = Random(1);
    let mut draw = || {
        let present = random.below(100) < hit_percent;
        let number = random.below(entry_count) + if present { entry_count } else { 2 * entry_count };
        key(keyer, number)
    };
    (0..count).map(|_| draw()).collect()
}

/// A multiplicative congruential generator: enough to visit a table in no order.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (((self.0 >> 32) * u64::from(bound)) >> 32) as u32
    }
}

/// Enough keys that a bench does not learn their lines by heart.
const ASKED_KEYS: usize = 1 << 20;

fn digests(c: &mut Criterion) {
    let mut group = c.benchmark_group("digest");
    let hexes: Vec<Vec<u8>> = {
        let mut random = Random(3);
        let mut hex = || (0..64).map(|_| b"0123456789abcdef"[random.below(16) as usize]).collect();
        (0..1024).map(|_| hex()).collect()
    };
    group.throughput(Throughput::Elements(hexes.len() as u64));
    group.bench_function("parse_hex sha256", |b| {
        b.iter(|| {
            for hex in &hexes {
                black_box(Digest::parse_hex(DigestFunction::Sha256, black_box(hex), 4096)).expect("hex");
            }
        });
    });
    let keyer = keyer();
    let digests: Vec<Digest> =
        hexes.iter().map(|hex| Digest::parse_hex(DigestFunction::Sha256, hex, 4096).expect("hex")).collect();
    group.bench_function("key sha256", |b| {
        b.iter(|| {
            for digest in &digests {
                black_box(keyer.blob(digest));
            }
        });
    });
    group.bench_function("parse_hex and key sha256", |b| {
        b.iter(|| {
            for hex in &hexes {
                let digest = Digest::parse_hex(DigestFunction::Sha256, black_box(hex), 4096).expect("hex");
                black_box(keyer.blob(&digest));
            }
        });
    });
    group.finish();
}

fn table(c: &mut Criterion) {
    let keyer = keyer();
    for entry_count in SIZES {
        let table = full_table(&keyer, entry_count);
        let mut group = c.benchmark_group(format!("table of {}M", entry_count / 1_000_000));

        group.throughput(Throughput::Elements(1));
        for (name, hit_percent) in [("get hit", 100), ("get miss", 0)] {
            let asked = asked_keys(&keyer, entry_count, ASKED_KEYS, hit_percent);
            let mut asked = asked.iter().cycle();
            group.bench_function(name, |b| b.iter(|| table.get(*asked.next().expect("endless"))));
        }

        let mut next = 2 * entry_count;
        group.bench_function("insert and remove the oldest", |b| {
            b.iter(|| {
                let oldest = next - entry_count;
                assert!(table.remove(key(&keyer, oldest), location(oldest)));
                table.insert(key(&keyer, next), location(next), TouchEpoch::OLD).expect("room");
                next += 1;
            });
        });
        // Back to what `asked_keys` expects.
        for number in (2 * entry_count..next).rev() {
            assert!(table.remove(key(&keyer, number), location(number)));
            let oldest = number - entry_count;
            table.insert(key(&keyer, oldest), location(oldest), TouchEpoch::OLD).expect("room");
        }

        for batch_length in [1_000, 10_000] {
            group.throughput(Throughput::Elements(batch_length as u64));
            for hit_percent in [0, 50, 90, 100] {
                let asked = asked_keys(&keyer, entry_count, ASKED_KEYS, hit_percent);
                let mut batches = asked.chunks_exact(batch_length).cycle();
                let id = BenchmarkId::new(format!("touch_batch {batch_length}"), format!("{hit_percent}% hits"));
                // Epoch 1 everywhere after the first round: the steady state, in which a touch finds its epoch set.
                table.touch_batch(&asked, TouchEpoch::from_u8(1), |_| ());
                group.bench_function(id, |b| {
                    b.iter(|| {
                        let mut absent = 0;
                        let keys = batches.next().expect("endless");
                        table.touch_batch(keys, TouchEpoch::from_u8(1), |_| absent += 1);
                        absent
                    });
                });
            }
            // The first touch of a period writes.
            let asked = asked_keys(&keyer, entry_count, ASKED_KEYS, 100);
            let mut batches = asked.chunks_exact(batch_length).cycle();
            let mut epoch = 1;
            group.bench_function(
                BenchmarkId::new(format!("touch_batch {batch_length}"), "100% hits, new epoch"),
                |b| {
                    b.iter(|| {
                        epoch = 1 + epoch % 63;
                        table.touch_batch(batches.next().expect("endless"), TouchEpoch::from_u8(epoch), |_| ());
                    });
                },
            );
        }
        group.finish();
    }

    let mut group = c.benchmark_group("fill");
    let entry_count = SIZES[0];
    let keys: Vec<Key> = (0..entry_count).map(|number| key(&keyer, number)).collect();
    group.sample_size(10).throughput(Throughput::Elements(keys.len() as u64));
    group.bench_function("insert 1M into a new table", |b| {
        let new_table = || Table::with_capacity(u64::from(entry_count)).expect("memory for the table");
        let fill = |table: Table| {
            for &key in &keys {
                table.insert(key, location(1), TouchEpoch::OLD).expect("room");
            }
            table
        };
        b.iter_batched(new_table, fill, BatchSize::PerIteration);
    });
    group.finish();
}

/// 64 messages at once by what a processor may have, beside one after another by the sha2 crate. What the processor at hand does not
/// have is left out by `sha256_of_each_with` too, so there two rows are alike.
fn hashes(c: &mut Criterion) {
    let mut group = c.benchmark_group("sha256 of 64");
    for length_bytes in [1 << 10, 4 << 10, 16 << 10, 64 << 10] {
        let messages: Vec<Vec<u8>> = (0..64).map(|number| cask_benches::blob(number, length_bytes)).collect();
        let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
        let mut hashes = [[0; 32]; 64];
        group.throughput(Throughput::Bytes(64 * length_bytes as u64));
        for (name, lanes) in [
            ("sixteen lanes", Lanes { sixteen: true, two: true }),
            ("two lanes", Lanes { sixteen: false, two: true }),
            ("one lane", Lanes { sixteen: false, two: false }),
        ] {
            group.bench_function(BenchmarkId::new(name, length_bytes), |bencher| {
                bencher.iter(|| sha256_of_each_with(lanes, black_box(&messages), &mut hashes));
            });
        }
        group.bench_function(BenchmarkId::new("hash alone", length_bytes), |bencher| {
            bencher.iter(|| {
                for message in &messages {
                    black_box(cask_benches::digest_of(black_box(message)));
                }
            });
        });
    }
    group.finish();
}

criterion_group!(index, digests, table, hashes);
criterion_main!(index);
