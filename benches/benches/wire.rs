//! From the bytes of a FindMissingBlobs request to digests, by the generated types and by the hand codec that the edge uses; and to the whole
//! answer against a large index.

#![allow(missing_docs)] // `criterion_group!` makes public items.

use std::hint::black_box;

use bytes::Bytes;
use cask_benches::digest_of;
use cask_benches::lookup::{FullIndex, Lists, request_of};
use cask_index::{Digest, Namespace};
use cask_proto::digest::{DigestRule, FunctionRule};
use cask_proto::reapi::FindMissingBlobsRequest;
use cask_proto::wire::FindMissing;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;

fn request(count: u64) -> Bytes {
    request_of((0..count).map(|number| digest_of(&number.to_le_bytes())))
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode FindMissing");
    for count in [100, 1_000, 10_000] {
        let bytes = request(count);
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::new("generated types", count), |bencher| {
            bencher.iter(|| {
                let request = FindMissingBlobsRequest::decode(black_box(bytes.clone())).expect("well-formed");
                let rule = FunctionRule::of_request(request.digest_function, None).expect("known function");
                let digests: Vec<Digest> =
                    request.blob_digests.iter().map(|digest| rule.from_wire(digest).expect("a digest")).collect();
                black_box(digests.len())
            });
        });
        // A handler keeps its list of digests from one request to the next.
        let (mut digests, mut fields) = (Vec::new(), Vec::new());
        group.bench_function(BenchmarkId::new("hand codec", count), |bencher| {
            bencher.iter(|| {
                let request = FindMissing::parse(black_box(&bytes)).expect("well-formed");
                let function = FunctionRule::of_request(request.digest_function, None).expect("known function");
                let rule = DigestRule::new(function, Namespace::SHARED);
                let mut reader = request.parse_digests(rule);
                reader.next_batch(usize::MAX, &mut digests, &mut fields).expect("digests");
                black_box(digests.len())
            });
        });
    }
    group.finish();
}

/// Entries of the index.
const ENTRIES: u64 = 10_000_000;
/// Digests asked for before one comes again: their lines are in no cache then.
const ASKED: u64 = 1_000_000;

fn answer(criterion: &mut Criterion) {
    let index = FullIndex::of(ENTRIES).expect("memory for the table");
    let mut group = criterion.benchmark_group(format!("find missing of {}M", ENTRIES / 1_000_000));
    for count in [1_000, 10_000] {
        for hit_percent in [0, 50, 100] {
            let requests = index.requests(count, ASKED, hit_percent);
            let mut requests = requests.iter().cycle();
            group.throughput(Throughput::Elements(count));
            group.bench_function(BenchmarkId::new(count.to_string(), format!("{hit_percent}% hits")), |bencher| {
                let mut lists = Lists::default();
                bencher.iter(|| index.answer(requests.next().expect("endless"), &mut lists).len());
            });
        }
    }
    group.finish();
}

criterion_group!(benches, decode, answer);
criterion_main!(benches);
