//! What the benches and measurement programs share: blobs made from numbers, a store filled with them, and the process's
//! own account of itself.

pub mod durable_puts;
pub mod eviction;
pub mod lookup;
pub mod process;
pub mod scheduling;
pub mod targets;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

use cask_engine::clock::SystemClock;
use cask_engine::{Engine, EngineOptions, OpenReport};
use cask_index::{Digest, DigestFunction};
use sha2::Digest as _;

/// Puts that are under way at once while a store is filled: as a busy server has.
const IN_FLIGHT_MAX: usize = 256;

/// Bytes that no other number has and that do not compress.
pub fn blob(number: u64, length_bytes: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length_bytes + 8);
    while bytes.len() < length_bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length_bytes);
    bytes
}

/// The SHA-256 digest of `data`.
///
/// # Panics
/// Never: the hash has the function's length.
pub fn digest_of(data: &[u8]) -> Digest {
    let hash = sha2::Sha256::digest(data);
    Digest::new(DigestFunction::Sha256, &hash, data.len() as u64).expect("SHA-256 hashes have its length")
}

/// Opens the store in `folder` with the machine's clock.
///
/// # Panics
/// When it cannot be opened: a measurement has nothing to go on with.
pub fn open(folder: &Path, options: EngineOptions) -> (Engine, OpenReport) {
    match Engine::open(folder, options, Arc::new(SystemClock::new())) {
        Ok(opened) => opened,
        Err(error) => panic!("cannot open {}: {error}", folder.display()),
    }
}

/// Stores blobs `0..count` of `length_bytes`, many under way at once; returns when all are acknowledged.
///
/// # Panics
/// When one is refused.
pub fn fill(engine: &Engine, count: u64, length_bytes: usize) -> Vec<Digest> {
    let (sender, acknowledged) = mpsc::channel();
    let mut digests = Vec::with_capacity(count as usize);
    let mut under_way = 0;
    let settle = |least: usize, under_way: &mut usize| {
        while *under_way > least {
            let outcome: Result<(), cask_engine::EngineError> = acknowledged.recv().expect("the sender lives");
            outcome.expect("the store takes the blob");
            *under_way -= 1;
        }
    };
    for number in 0..count {
        let data = blob(number, length_bytes);
        let digest = digest_of(&data);
        let sender = sender.clone();
        engine.put(digest, &data, Box::new(move |outcome| drop(sender.send(outcome))));
        digests.push(digest);
        under_way += 1;
        settle(IN_FLIGHT_MAX - 1, &mut under_way);
    }
    settle(0, &mut under_way);
    digests
}
