//! From the bytes of a FindMissingBlobs request to digests: the generated types, and the hand codec that the edge uses.

#![allow(missing_docs)] // `criterion_group!` makes public items.

use std::hint::black_box;

use bytes::Bytes;
use cask_benches::digest_of;
use cask_index::{Digest, DigestFunction, Namespace};
use cask_proto::digest::{DigestRule, FunctionRule, to_wire};
use cask_proto::reapi::FindMissingBlobsRequest;
use cask_proto::wire::FindMissing;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;

fn request(count: u64) -> Bytes {
    let blob_digests = (0..count).map(|number| to_wire(&digest_of(&number.to_le_bytes()))).collect();
    let request = FindMissingBlobsRequest {
        instance_name: "main".to_owned(),
        blob_digests,
        digest_function: i32::from(DigestFunction::Sha256.wire_number()),
    };
    request.encode_to_vec().into()
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
        let mut digests: Vec<Digest> = Vec::new();
        group.bench_function(BenchmarkId::new("hand codec", count), |bencher| {
            bencher.iter(|| {
                let request = FindMissing::parse(black_box(&bytes)).expect("well-formed");
                let function = FunctionRule::of_request(request.digest_function, None).expect("known function");
                let rule = DigestRule::new(function, Namespace::SHARED);
                digests.clear();
                for entry in request.digests() {
                    let entry = entry.expect("well-formed");
                    digests.push(rule.from_raw(&entry.digest).expect("a digest"));
                }
                black_box(digests.len())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
