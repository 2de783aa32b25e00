//! From the bytes of a FindMissingBlobs request to digests, by the generated types and by the hand codec that the edge uses; and to the whole
//! answer against a large index.

#![allow(missing_docs)] // `criterion_group!` makes public items.

use std::hint::black_box;

use bytes::Bytes;
use cask_benches::{blob, digest_of};
use cask_index::{Digest, DigestFunction, Key, Keyer, Location, Namespace, Table, TouchEpoch};
use cask_proto::digest::{DigestRule, FunctionRule, to_wire};
use cask_proto::reapi::FindMissingBlobsRequest;
use cask_proto::wire::{FindMissing, FindMissingAnswer, Segments};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;

fn request(count: u64) -> Bytes {
    request_of((0..count).map(|number| digest_of(&number.to_le_bytes())))
}

fn request_of(digests: impl Iterator<Item = Digest>) -> Bytes {
    let blob_digests = digests.map(|digest| to_wire(&digest)).collect();
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

/// A digest that no other number has, without hashing anything.
fn numbered(number: u64) -> Digest {
    Digest::new(DigestFunction::Sha256, &blob(number, 32), 4096 + number % 1000).expect("32 bytes")
}

/// Decodes, looks up, touches and answers, as a handler does.
fn find_missing<'m>(message: &'m Bytes, keyer: &Keyer, table: &Table, lists: &mut Lists<'m>) -> Segments {
    let request = FindMissing::parse(message).expect("well-formed");
    let function = FunctionRule::of_request(request.digest_function, None).expect("known function");
    let rule = DigestRule::new(function, Namespace::SHARED);
    let mut missing = FindMissingAnswer::new(message);
    let mut reader = request.parse_digests(rule);
    let Lists { digests, keys, fields } = lists;
    while reader.next_batch(BATCH_DIGESTS, digests, fields).expect("digests") {
        keys.clear();
        keys.extend(digests.iter().map(|digest| keyer.blob(digest)));
        table.touch_batch(keys, TouchEpoch::from_u8(1), |position| missing.push(fields[position]));
    }
    missing.finish()
}

/// Digests looked up at once.
const BATCH_DIGESTS: usize = 128;

#[derive(Default)]
struct Lists<'m> {
    digests: Vec<Digest>,
    keys: Vec<Key>,
    fields: Vec<&'m [u8]>,
}

fn answer(criterion: &mut Criterion) {
    let keyer = Keyer::new(&[7; 32]);
    let table = Table::with_capacity(ENTRIES).expect("memory for the table");
    for number in 0..ENTRIES {
        table.insert(keyer.blob(&numbered(number)), Location::new(1, 64, 4096), TouchEpoch::OLD).expect("room");
    }
    let mut group = criterion.benchmark_group(format!("find missing of {}M", ENTRIES / 1_000_000));
    for count in [1_000, 10_000] {
        for hit_percent in [0, 50, 100] {
            let requests: Vec<Bytes> = (0..ASKED / count)
                .map(|index| {
                    request_of((0..count).map(|position| {
                        // Spread over the index, and outside it where a miss is due.
                        let number = (index * count + position) * 0x9E37_79B9 % ENTRIES;
                        numbered(number + if position % 100 < hit_percent { 0 } else { ENTRIES })
                    }))
                })
                .collect();
            let mut requests = requests.iter().cycle();
            group.throughput(Throughput::Elements(count));
            group.bench_function(BenchmarkId::new(count.to_string(), format!("{hit_percent}% hits")), |bencher| {
                let mut lists = Lists::default();
                bencher.iter(|| find_missing(requests.next().expect("endless"), &keyer, &table, &mut lists).len());
            });
        }
    }
    group.finish();
}

criterion_group!(benches, decode, answer);
criterion_main!(benches);
