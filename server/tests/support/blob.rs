//! Test data: deterministic bytes from a seed, and their digests.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use bazel_remote_apis::build::bazel::remote::execution::v2::Digest;
use cask_index::{DigestFunction, Hasher};
use prost::Message;
use sha2::{Digest as _, Sha256};

/// SHA-256 of no bytes at all.
pub(crate) const EMPTY_HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// The lowercase hexadecimal SHA-256 of `data`.
pub(crate) fn hash_of(data: &[u8]) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(data) {
        write!(hex, "{byte:02x}").expect("writing to a string cannot fail");
    }
    hex
}

pub(crate) fn digest_of(data: &[u8]) -> Digest {
    Digest { hash: hash_of(data), size_bytes: data.len() as i64 }
}

/// The digest under any function.
pub(crate) fn digest_under(function: DigestFunction, data: &[u8]) -> Digest {
    let digest = Hasher::digest(function, data);
    Digest { hash: digest.hash_hex(), size_bytes: data.len() as i64 }
}

/// The digest of a message's canonical encoding.
pub(crate) fn digest_of_message(message: &impl Message) -> Digest {
    digest_of(&message.encode_to_vec())
}

/// `size` bytes that depend on `seed` alone (a splitmix64 stream): cheap, incompressible, never repeating.
pub(crate) fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut data = Vec::with_capacity(size.next_multiple_of(8));
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    while data.len() < size {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        data.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    data.truncate(size);
    data
}

/// A blob of `size` bytes made from `seed`, with its digest.
pub(crate) fn blob(seed: u64, size: usize) -> (Digest, Vec<u8>) {
    let data = bytes(seed, size);
    (digest_of(&data), data)
}

pub(crate) fn empty_digest() -> Digest {
    Digest { hash: EMPTY_HASH.to_owned(), size_bytes: 0 }
}

/// A digest that nothing was ever stored under.
pub(crate) fn absent_digest(seed: u64) -> Digest {
    blob(seed ^ 0xab5e_0000_0000_0000, 24).0
}

/// The same hash under another size.
pub(crate) fn with_size(digest: &Digest, size_bytes: i64) -> Digest {
    Digest { hash: digest.hash.clone(), size_bytes }
}

/// The same size under another hash.
pub(crate) fn with_hash(digest: &Digest, hash: &str) -> Digest {
    Digest { hash: hash.to_owned(), size_bytes: digest.size_bytes }
}

/// Hashes no server may take for a SHA-256, with a word on why.
pub(crate) fn malformed_hashes() -> Vec<(&'static str, String)> {
    let good = hash_of(b"a hash to be spoilt");
    vec![
        ("empty", String::new()),
        ("uppercase", good.to_uppercase()),
        ("one character short", good[..63].to_owned()),
        ("one character long", format!("{good}0")),
        ("not hexadecimal", format!("g{}", &good[1..])),
        ("a slash inside", format!("{}/{}", &good[..31], &good[32..])),
        ("a way up", format!("../{}", &good[3..])),
        ("a NUL inside", format!("{}\0{}", &good[..31], &good[32..])),
        ("not ASCII", format!("é{}", &good[2..])),
        ("a blank in front", format!(" {}", &good[1..])),
    ]
}

/// A fresh version 4 UUID; unique within the process, which is all an upload's name asks for.
pub(crate) fn uuid() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{:08x}-{:04x}-4000-8000-{:012x}", std::process::id(), number >> 48, number & 0xffff_ffff_ffff)
}
