//! Cutting blobs into chunks, beside the hash that each chunk needs anyway: with the advertised parameters, over content that does
//! not repeat itself, and over zeroes, of which no function finds a place to cut.

#![allow(missing_docs)] // `criterion_group!` makes public items.

use std::hint::black_box;

use cask_benches::{blob, digest_of};
use cask_chunking::{Chunker, Cutter, FastCdc, RepMaxCdc};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const BLOB_BYTES: usize = 64 << 20;

/// What the server reads a blob in.
const PIECE_BYTES: usize = 1 << 20;

fn chunk_count(chunker: Chunker, data: &[u8]) -> usize {
    let mut cutter = Cutter::new(chunker, data.len() as u64);
    let mut count = 0;
    for mut piece in data.chunks(PIECE_BYTES) {
        while !piece.is_empty() {
            piece = &piece[cutter.feed(piece)..];
            while cutter.next_chunk().is_some() {
                count += 1;
            }
        }
    }
    cutter.end();
    while cutter.next_chunk().is_some() {
        count += 1;
    }
    count
}

fn cuts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cut");
    group.sample_size(20);
    group.throughput(Throughput::Bytes(BLOB_BYTES as u64));
    let chunkers = [
        ("FastCDC", Chunker::FastCdc(FastCdc::new(512 << 10))),
        ("RepMaxCDC", Chunker::RepMaxCdc(RepMaxCdc::new(256 << 10, 2 << 20))),
    ];
    for (content, data) in [("random", blob(1, BLOB_BYTES)), ("zeroes", vec![0; BLOB_BYTES])] {
        for (name, chunker) in &chunkers {
            group.bench_function(BenchmarkId::new(*name, content), |bencher| {
                bencher.iter(|| chunk_count(chunker.clone(), black_box(&data)));
            });
        }
        group.bench_function(BenchmarkId::new("SHA-256 alone", content), |bencher| {
            bencher.iter(|| digest_of(black_box(&data)));
        });
    }
    group.finish();
}

criterion_group!(benches, cuts);
criterion_main!(benches);
