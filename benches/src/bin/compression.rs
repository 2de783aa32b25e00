//! What compression costs and saves, on files as builds have them: processor time of uploads and reads a GB of blob, with either
//! setting and both forms on the wire, beside the hash and the codec alone. Decides the default of `--compression`.
//!
//! `cargo run --release -p cask-benches --bin compression -- NAME=FOLDER...`: each folder is a set of blobs, its files of
//! up to 64 MiB, so many that they come to 192 MiB. Of three rounds the median counts.

use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use cask_benches::process::cpu_time;
use cask_benches::{digest_of, open};
use cask_engine::{BeginUpload, Compression, Engine, EngineOptions};
use cask_index::Digest;

const SET_BYTES_MAX: u64 = 192 << 20;
const FILE_BYTES_MAX: u64 = 64 << 20;
const ROUNDS: usize = 3;

struct Blob {
    digest: Digest,
    raw: Vec<u8>,
    /// As a client sends it.
    stream: Vec<u8>,
}

fn main() {
    let sets: Vec<String> = std::env::args().skip(1).collect();
    if sets.is_empty() {
        eprintln!("name sets of files: NAME=FOLDER...");
        std::process::exit(2);
    }
    println!(
        "{:<12} {:>7} {:>9} {:>7} {:>9} {:>9} {:>9} {:>9} {:>16} {:>10}",
        "set", "MiB", "setting", "stored", "hash", "upload", "zstd up", "read", "zstd read", "wire share"
    );
    for set in sets {
        let (name, folder) = set.split_once('=').unwrap_or(("set", &set));
        let blobs = blobs_of(Path::new(folder));
        for compression in [Compression::Off, Compression::Zstd] {
            measure(name, &blobs, compression);
        }
    }
    println!("processor milliseconds a GB of blob (hash: alone); stored and wire share: of the blobs' bytes;");
    println!("stored and reads: of what was uploaded as it is, in brackets, of what came as zstd: a GB of wire bytes");
    println!("beside a GB of plain reads of blobs as long as those streams, and the wire share");
}

fn blobs_of(folder: &Path) -> Vec<Blob> {
    let (mut blobs, mut folders, mut bytes) = (Vec::<Blob>::new(), vec![folder.to_owned()], 0);
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<_> = std::fs::read_dir(&folder).into_iter().flatten().flatten().collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if metadata.is_file()
                && (1..=FILE_BYTES_MAX).contains(&metadata.len())
                && bytes + metadata.len() <= SET_BYTES_MAX
                && let Ok(raw) = std::fs::read(entry.path())
            {
                bytes += raw.len() as u64;
                let stream = zstd::bulk::compress(&raw, 3).expect("zstd compresses anything");
                blobs.push(Blob { digest: digest_of(&raw), raw, stream });
            }
        }
    }
    blobs.sort_by_key(|blob| blob.digest.hash().to_vec());
    blobs.dedup_by_key(|blob| blob.digest);
    blobs
}

/// Processor milliseconds of `work`, a GB of `bytes`.
fn per_gb(bytes: u64, mut work: impl FnMut(usize)) -> f64 {
    let mut spent: Vec<Duration> = (0..ROUNDS)
        .map(|round| {
            let before = cpu_time();
            work(round);
            cpu_time().saturating_sub(before)
        })
        .collect();
    spent.sort_unstable();
    spent[ROUNDS / 2].as_secs_f64() * 1000.0 / (bytes as f64 / 1e9)
}

fn fresh(compression: Compression) -> (tempfile::TempDir, Engine) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = EngineOptions { compression, scrub_period: Duration::ZERO, ..EngineOptions::new(2 << 30) };
    let (engine, _) = open(folder.path(), options);
    (folder, engine)
}

fn upload(engine: &Engine, blobs: &[Blob]) {
    for blob in blobs {
        let (sender, stored) = channel();
        engine.put(blob.digest, &blob.raw, Box::new(move |outcome| drop(sender.send(outcome))));
        stored.recv().expect("an answer").expect("stored");
    }
}

/// As the server does: a small blob's stream whole, a large one's decoded as it arrives.
fn upload_zstd(engine: &Engine, blobs: &[Blob]) {
    for blob in blobs {
        let BeginUpload::Upload(mut upload) = engine.begin_upload(blob.digest).expect("begun") else { continue };
        let (sender, stored) = channel();
        let done = Box::new(move |outcome| drop(sender.send(outcome)));
        if upload.is_one_record() {
            upload.finish_zstd(blob.stream.clone(), done).expect("the blob's stream");
        } else {
            upload.prefer_compressed();
            let mut decoder = cask_engine::encoding::ZstdDecoder::new(27).expect("a decoder");
            let (mut rest, mut decoded) = (&blob.stream[..], vec![0; 64 << 10]);
            while upload.received_bytes() < blob.digest.size_bytes() {
                let step = decoder.step(rest, &mut decoded).expect("the blob's stream");
                rest = &rest[step.read_bytes..];
                let mut raw = &decoded[..step.written_bytes];
                while !raw.is_empty() {
                    if upload.needs_flush() {
                        upload.flush_part(Box::new(|_| {}));
                    }
                    let (piece, tail) = raw.split_at(raw.len().min(upload.part_room_bytes()));
                    upload.append(piece).expect("no more than promised");
                    raw = tail;
                }
            }
            upload.finish(done).expect("the blob's stream");
        }
        stored.recv().expect("an answer").expect("stored");
    }
}

/// What goes to a reader of plain bytes; all of it.
fn read(engine: &Engine, blobs: &[Blob]) -> u64 {
    let mut read_bytes = 0;
    for blob in blobs {
        let reader = engine.read(&blob.digest).expect("present");
        let mut at = 0;
        while at < blob.digest.size_bytes() {
            let chunk = reader.chunk_at(at, true).expect("readable").expect("it may wait");
            at += chunk.len() as u64;
            read_bytes += chunk.len() as u64;
        }
    }
    read_bytes
}

/// What goes to a reader of zstd; bytes as they are stored, framed ones counted without their headers.
fn read_zstd(engine: &Engine, blobs: &[Blob]) -> u64 {
    let mut wire_bytes = 0;
    for blob in blobs {
        let reader = engine.read(&blob.digest).expect("present");
        let mut at = 0;
        while at < blob.digest.size_bytes() {
            let stored = reader.stored_at(at, true).expect("readable").expect("it may wait");
            at = stored.raw_range().end;
            wire_bytes += reader.as_stored(stored).len() as u64;
        }
    }
    wire_bytes
}

fn measure(name: &str, blobs: &[Blob], compression: Compression) {
    let raw_bytes: u64 = blobs.iter().map(|blob| blob.digest.size_bytes()).sum();
    let hash = per_gb(raw_bytes, |_| blobs.iter().for_each(|blob| assert_eq!(digest_of(&blob.raw), blob.digest)));
    let stores: Vec<_> = (0..ROUNDS).map(|_| fresh(compression)).collect();
    let put = per_gb(raw_bytes, |round| upload(&stores[round].1, blobs));
    let engine = &stores[0].1;
    let stored_share = engine.stats().appended_bytes_total as f64 / raw_bytes as f64;
    let get = per_gb(raw_bytes, |_| assert_eq!(read(engine, blobs), raw_bytes));
    let wire_bytes = read_zstd(engine, blobs);
    let get_zstd = per_gb(raw_bytes, |_| assert_eq!(read_zstd(engine, blobs), wire_bytes));
    let wire_share = wire_bytes as f64 / raw_bytes as f64;
    drop(stores);

    let stores: Vec<_> = (0..ROUNDS).map(|_| fresh(compression)).collect();
    let put_zstd = per_gb(raw_bytes, |round| upload_zstd(&stores[round].1, blobs));
    let engine = &stores[0].1;
    let sent_bytes = read_zstd(engine, blobs);
    let a_wire_gb = per_gb(sent_bytes, |_| assert_eq!(read_zstd(engine, blobs), sent_bytes));
    // As many blobs that are as long as those streams, and stored as they are.
    let twins: Vec<Blob> = (blobs.iter().enumerate())
        .map(|(number, blob)| {
            let raw = cask_benches::blob(number as u64, read_zstd(engine, std::slice::from_ref(blob)) as usize);
            Blob { digest: digest_of(&raw), raw, stream: Vec::new() }
        })
        .collect();
    let (_folder, engine) = fresh(Compression::Off);
    upload(&engine, &twins);
    let a_plain_gb = per_gb(sent_bytes, |_| assert_eq!(read(&engine, &twins), sent_bytes));
    println!(
        "{name:<12} {:>7} {:>9} {stored_share:>7.2} {hash:>9.0} {put:>9.0} {put_zstd:>9.0} {get:>9.0} {:>16} {wire_share:>5.2} [{:.2}]",
        raw_bytes >> 20,
        format!("{compression:?}").to_lowercase(),
        format!("{get_zstd:.0} [{a_wire_gb:.0}:{a_plain_gb:.0}]"),
        sent_bytes as f64 / raw_bytes as f64,
    );
}
