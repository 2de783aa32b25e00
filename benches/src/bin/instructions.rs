//! Fixed work for `benches/instructions`, which counts the instructions it takes: counts have no noise, so that a change of
//! a tenth is a change of the code.
//!
//! `instructions` lists the rows and how many operations each has; `instructions ROW` does its work. Everything between
//! [`counted`] and its return is counted, in all threads' time of the calling one; what prepares it is not. No hashing:
//! the counter's processor has neither AVX-512 nor the unit for SHA-256.

use std::hint::black_box;
use std::process::ExitCode;

use bytes::Bytes;
use cask_benches::lookup::{FullIndex, Lists, numbered, request_of};
use cask_benches::{blob, digest_of, fill, open};
use cask_engine::format::record::{Encoding, RECORD_HEADER_BYTES_MAX, RecordHeader, RecordKind, RecordPlace};
use cask_engine::{Engine, EngineError, EngineOptions};
use cask_index::{Digest, DigestFunction, Namespace};
use cask_proto::bytestream::WriteRequest;
use cask_proto::digest::{DigestRule, FunctionRule};
use cask_proto::reapi::BatchUpdateBlobsRequest;
use cask_proto::reapi::batch_update_blobs_request::Request;
use cask_proto::wire::{BatchReadAnswer, BatchUpdate, FindMissing, ItemStatus, RawDigest, write_head};
use prost::Message;
use tempfile::TempDir;

/// A row: its name, how many operations it does, and how.
struct Row {
    name: &'static str,
    operations: u64,
    run: fn(u64),
}

const ROWS: [Row; 11] = [
    Row { name: "decode-find-missing/digest", operations: 100_000, run: decode_find_missing },
    Row { name: "find-missing-present/digest", operations: 100_000, run: |count| find_missing(count, 100) },
    Row { name: "find-missing-absent/digest", operations: 100_000, run: |count| find_missing(count, 0) },
    Row { name: "parse-hex/digest", operations: 100_000, run: parse_hex },
    Row { name: "write-head/message", operations: 50_000, run: head_of_write },
    Row { name: "decode-batch-update/blob", operations: 20_000, run: decode_batch_update },
    Row { name: "batch-read-answer/blob", operations: 20_000, run: batch_read_answer },
    Row { name: "engine-find-missing/digest", operations: 100_000, run: engine_find_missing },
    Row { name: "engine-read-4k/blob", operations: 10_000, run: engine_read },
    Row { name: "engine-get-action/action", operations: 10_000, run: engine_get_action },
    Row { name: "record-header/record", operations: 50_000, run: record_header },
];

fn main() -> ExitCode {
    let Some(name) = std::env::args().nth(1) else {
        for row in &ROWS {
            println!("{} {}", row.name, row.operations);
        }
        return ExitCode::SUCCESS;
    };
    let Some(row) = ROWS.iter().find(|row| row.name == name) else {
        eprintln!("there is no row \"{name}\"");
        return ExitCode::from(2);
    };
    (row.run)(row.operations);
    ExitCode::SUCCESS
}

/// What is counted: the script tells the counter this function's name.
#[inline(never)]
fn counted(mut work: impl FnMut()) {
    work();
    // Nothing behind the work would let the call become a jump, whose return nobody sees.
    black_box(());
}

/// Digests of a request.
const BATCH: u64 = 10_000;
/// Digests that a batch of the index has.
const AT_ONCE: usize = 128;

fn decode_find_missing(count: u64) {
    let message = request_of((0..BATCH).map(numbered));
    let (mut digests, mut fields) = (Vec::new(), Vec::new());
    counted(|| {
        for _ in 0..count / BATCH {
            let request = FindMissing::parse(black_box(&message)).expect("well-formed");
            let function = FunctionRule::of_request(request.digest_function, None).expect("known function");
            let mut reader = request.parse_digests(DigestRule::new(function, Namespace::SHARED));
            while reader.next_batch(AT_ONCE, &mut digests, &mut fields).expect("digests") {
                black_box(digests.len());
            }
        }
    });
}

/// Decoding, lookup, touch and answer.
fn find_missing(count: u64, hit_percent: u64) {
    let index = FullIndex::of(50_000).expect("memory for the table");
    let requests = index.requests(BATCH, count, hit_percent);
    let mut lists = Lists::default();
    counted(|| {
        for request in &requests {
            black_box(index.answer(request, &mut lists).len());
        }
    });
}

fn parse_hex(count: u64) {
    let hex: Vec<u8> = numbered(1).hash().iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect();
    counted(|| {
        for _ in 0..count {
            black_box(Digest::parse_hex(DigestFunction::Sha256, black_box(&hex), 100).is_ok());
        }
    });
}

/// The beginning of an upload's message, of which a frame's worth has come.
fn head_of_write(count: u64) {
    let resource_name = format!("main/uploads/1f6ebd5e-7d4c-4d4f-9d7c-6a3a0e4ff1d2/blobs/{}/65536", "ab".repeat(32));
    let data = blob(1, 65_536).into();
    let message = WriteRequest { resource_name, write_offset: 0, finish_write: true, data }.encode_to_vec();
    counted(|| {
        for _ in 0..count {
            black_box(write_head(message.len(), black_box(&message[..16_375])).is_ok());
        }
    });
}

fn decode_batch_update(count: u64) {
    const BLOBS: u64 = 100;
    let requests = (0..BLOBS).map(|number| {
        let (data, digest) = (blob(number, 1024).into(), cask_proto::digest::to_wire(&numbered(number)));
        Request { digest: Some(digest), data, compressor: 0 }
    });
    let message = BatchUpdateBlobsRequest { requests: requests.collect(), ..BatchUpdateBlobsRequest::default() };
    let message = Bytes::from(message.encode_to_vec());
    counted(|| {
        for _ in 0..count / BLOBS {
            black_box(BatchUpdate::parse(black_box(&message)).is_ok());
        }
    });
}

fn batch_read_answer(count: u64) {
    const BLOBS: u64 = 100;
    let (data, hash) = ([Bytes::from(blob(1, 4096))], "ab".repeat(32));
    counted(|| {
        for _ in 0..count / BLOBS {
            let mut answer = BatchReadAnswer::new(BLOBS as usize);
            for _ in 0..BLOBS {
                answer.push(RawDigest { hash: black_box(&hash), size_bytes: 4096 }, &data, &ItemStatus::OK, 0);
            }
            black_box(answer.finish().len());
        }
    });
}

/// A store with as many blobs of `length_bytes`; the folder goes last.
fn store(count: u64, length_bytes: usize) -> (Vec<Digest>, Engine, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // No scrubber, which would work beside what is counted.
    let scrub_period = std::time::Duration::ZERO;
    let options = EngineOptions { index_capacity: Some(50_000), scrub_period, ..EngineOptions::new(64 << 20) };
    let (engine, _) = open(folder.path(), options);
    (fill(&engine, count, length_bytes), engine, folder)
}

fn engine_find_missing(count: u64) {
    let (digests, engine, _folder) = store(1_000, 64);
    let mut absent = Vec::new();
    counted(|| {
        for _ in 0..count / digests.len() as u64 {
            engine.find_missing(black_box(&digests), &mut absent).expect("loaded");
        }
    });
    assert!(absent.is_empty());
}

fn engine_read(count: u64) {
    let (digests, engine, _folder) = store(500, 4096);
    counted(|| {
        for digest in digests.iter().cycle().take(count as usize) {
            let chunk = engine.read(black_box(digest)).expect("present").chunk_at(0, false).expect("readable");
            black_box(chunk.expect("just written, so in memory").len());
        }
    });
}

fn engine_get_action(count: u64) {
    let (outputs, engine, _folder) = store(10, 64);
    let action = digest_of(b"an action");
    let (sender, stored) = std::sync::mpsc::channel::<Result<(), EngineError>>();
    engine.put_action("main", &action, &blob(1, 200), &outputs, Box::new(move |outcome| drop(sender.send(outcome))));
    stored.recv().expect("an answer").expect("stored");
    counted(|| {
        for _ in 0..count {
            black_box(engine.get_action("main", black_box(&action)).expect("a hit").len());
        }
    });
}

/// Encodes and decodes one.
fn record_header(count: u64) {
    let place = RecordPlace { store_id: [7; 16], sequence: 9, offset_bytes: 4096 };
    let header = RecordHeader {
        kind: RecordKind::Blob,
        encoding: Encoding::Raw,
        digest: numbered(1),
        part: None,
        stamp: 0,
        stored_length_bytes: 4096,
        payload_checksum: 1,
    };
    let mut bytes = [0; RECORD_HEADER_BYTES_MAX];
    counted(|| {
        for _ in 0..count {
            black_box(&header).encode_into(&place, &mut bytes);
            black_box(RecordHeader::decode(black_box(&bytes), &place).is_some());
        }
    });
}
