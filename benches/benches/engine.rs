//! The engine over a real folder: appends, hot reads, FindMissing, action hits, recovery.
//!
//! Rates include everything the engine does for the operation (hashing on appends, checks on reads); the reference for
//! appends is the hash alone, and a bare write with fdatasync, in the same group.

#![allow(missing_docs)] // `criterion_group!` makes public items.

use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use cask_benches::{blob, digest_of, fill, open};
use cask_engine::{Durability, Engine, EngineOptions};
use cask_index::Digest;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const STORE_BYTES: u64 = 1 << 30;

/// A store that keeps nothing by promise, so that appends can go on for ever.
fn options(durability: Durability) -> EngineOptions {
    EngineOptions {
        lease: Duration::ZERO,
        lease_floor: Duration::ZERO,
        durability,
        index_capacity: Some(2_000_000),
        ..EngineOptions::new(STORE_BYTES)
    }
}

/// Appends `iterations` blobs that nobody stored before, `in_flight` at once; returns the time of the puts alone.
fn append(engine: &Engine, first: &mut u64, iterations: u64, length_bytes: usize, in_flight: usize) -> Duration {
    let (sender, acknowledged) = std::sync::mpsc::channel();
    let mut spent = Duration::ZERO;
    let mut left = iterations;
    while left > 0 {
        let batch: Vec<Vec<u8>> =
            (0..left.min(in_flight as u64)).map(|number| blob(*first + number, length_bytes)).collect();
        *first += batch.len() as u64;
        left -= batch.len() as u64;
        let digests: Vec<Digest> = batch.iter().map(|data| digest_of(data)).collect();
        let started = Instant::now();
        for (data, digest) in batch.iter().zip(digests) {
            let sender = sender.clone();
            engine.put(digest, data, Box::new(move |outcome| drop(sender.send(outcome))));
        }
        for _ in &batch {
            acknowledged.recv().expect("an answer").expect("stored");
        }
        spent += started.elapsed();
    }
    spent
}

fn appends(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    let mut first = 0;
    for length_bytes in [4 << 10, 64 << 10, 1 << 20] {
        group.throughput(Throughput::Bytes(length_bytes as u64));
        let data = blob(1, length_bytes);
        group.bench_function(BenchmarkId::new("hash alone", length_bytes), |bencher| {
            bencher.iter(|| digest_of(black_box(&data)));
        });
        group.bench_function(BenchmarkId::new("bare write and fdatasync", length_bytes), |bencher| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let file = std::fs::File::create(folder.path().join("bare")).expect("a file");
            // Over and over the same preallocated range, as a recycled segment is written.
            file.write_all_at(&vec![0; 64 << 20], 0).expect("written");
            let mut offset = 0;
            bencher.iter(|| {
                file.write_all_at(&data, offset).expect("written");
                file.sync_data().expect("synced");
                offset = (offset + data.len() as u64) % (64 << 20);
            });
        });
        for (name, durability, in_flight) in [
            ("written, 64 at once", Durability::Written, 64),
            ("synced, 64 at once", Durability::Synced, 64),
            ("synced, alone", Durability::Synced, 1),
        ] {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let (engine, _) = open(folder.path(), options(durability));
            group.bench_function(BenchmarkId::new(name, length_bytes), |bencher| {
                bencher.iter_custom(|iterations| append(&engine, &mut first, iterations, length_bytes, in_flight));
            });
        }
    }
    group.finish();
}

fn reads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read hot");
    for length_bytes in [4 << 10, 64 << 10, 1 << 20] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (engine, _) = open(folder.path(), options(Durability::Written));
        let digests = fill(&engine, (64 << 20) / length_bytes as u64, length_bytes);
        group.throughput(Throughput::Bytes(length_bytes as u64));
        let mut next = 0;
        group.bench_function(BenchmarkId::new("chunk", length_bytes), |bencher| {
            bencher.iter(|| {
                next = (next + 7919) % digests.len();
                let chunk = engine.read(&digests[next]).expect("present").chunk_at(0, false).expect("readable");
                black_box(chunk.expect("just written, so in memory").len())
            });
        });
    }
    group.finish();
}

fn find_missing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("find missing");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (engine, _) = open(folder.path(), options(Durability::Written));
    let present = fill(&engine, 200_000, 256);
    for (count, hit_percent) in [(1_000, 100), (10_000, 100), (10_000, 50), (10_000, 0)] {
        let asked: Vec<Digest> = (0..count)
            .map(|number| {
                let known = present[number * 7919 % present.len()];
                if number * 100 < count * hit_percent { known } else { digest_of(&number.to_le_bytes()) }
            })
            .collect();
        group.throughput(Throughput::Elements(count as u64));
        let mut absent = Vec::new();
        group.bench_function(BenchmarkId::new(format!("{hit_percent} % present"), count), |bencher| {
            bencher.iter(|| {
                absent.clear();
                engine.find_missing(black_box(&asked), &mut absent).expect("loaded");
                black_box(absent.len())
            });
        });
    }
    group.finish();
}

fn action_hits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("action hit");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (engine, _) = open(folder.path(), options(Durability::Written));
    let outputs = fill(&engine, 1_000, 256);
    for count in [1, 10, 1_000] {
        let action = digest_of(&[count as u8]);
        let (sender, stored) = std::sync::mpsc::channel();
        engine.put_action(
            "main",
            &action,
            &blob(1, 200),
            &outputs[..count],
            Box::new(move |outcome| drop(sender.send(outcome))),
        );
        stored.recv().expect("an answer").expect("stored");
        group.bench_function(BenchmarkId::new("outputs", count), |bencher| {
            bencher.iter(|| engine.get_action("main", black_box(&action)).expect("a hit"));
        });
    }
    group.finish();
}

fn recovery(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("recovery");
    group.sample_size(10);
    let count = 200_000_u64;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (engine, _) = open(folder.path(), options(Durability::Written));
    fill(&engine, count, 256);
    engine.close().expect("closed");
    drop(engine);
    group.throughput(Throughput::Elements(count));
    group.bench_function(BenchmarkId::new("entries", count), |bencher| {
        bencher.iter_custom(|iterations| {
            (0..iterations)
                .map(|_| {
                    let (engine, report) = open(folder.path(), options(Durability::Written));
                    engine.close().expect("closed");
                    report.elapsed
                })
                .sum()
        });
    });
    group.finish();
}

criterion_group!(benches, appends, reads, find_missing, action_hits, recovery);
criterion_main!(benches);
