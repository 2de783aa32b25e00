//! [`Hasher`]: the digest functions, fed piece by piece.
//!
//! One enum and no trait object: hashing is inline on the thread that receives the bytes. Called by whoever verifies or
//! names content; knows no I/O.

use sha2::Digest as _;

use crate::sha256_tree::Sha256Tree;
use crate::{Digest, DigestFunction};

/// A running hash under one digest function.
#[derive(Clone)]
pub struct Hasher {
    function: DigestFunction,
    state: State,
}

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha1(sha1::Sha1),
    Md5(md5::Md5),
    Sha384(Box<sha2::Sha384>),
    Sha512(Box<sha2::Sha512>),
    Sha256Tree(Box<Sha256Tree>),
    /// Boxed: its state is 2 KB.
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    /// For content of `size_bytes`, which GITSHA1 hashes before the first byte. Content of another size hashes to something
    /// else there, so check the size before the hash.
    pub fn new(function: DigestFunction, size_bytes: u64) -> Self {
        let state = match function {
            DigestFunction::Sha256 => State::Sha256(sha2::Sha256::new()),
            DigestFunction::Sha1 => State::Sha1(sha1::Sha1::new()),
            DigestFunction::GitSha1 => State::Sha1(sha1::Sha1::new_with_prefix(format!("blob {size_bytes}\0"))),
            DigestFunction::Md5 => State::Md5(md5::Md5::new()),
            DigestFunction::Sha384 => State::Sha384(Box::default()),
            DigestFunction::Sha512 => State::Sha512(Box::default()),
            DigestFunction::Sha256Tree => State::Sha256Tree(Box::default()),
            DigestFunction::Blake3 => State::Blake3(Box::default()),
        };
        Self { function, state }
    }

    /// Feeds the next bytes.
    #[inline]
    pub fn update(&mut self, data: &[u8]) {
        match &mut self.state {
            State::Sha256(hasher) => hasher.update(data),
            State::Sha1(hasher) => hasher.update(data),
            State::Md5(hasher) => hasher.update(data),
            State::Sha384(hasher) => hasher.update(data),
            State::Sha512(hasher) => hasher.update(data),
            State::Sha256Tree(hasher) => hasher.update(data),
            State::Blake3(hasher) => {
                hasher.update(data);
            }
        }
    }

    /// The digest of the `size_bytes` bytes that were fed, in the shared namespace.
    pub fn finish(self, size_bytes: u64) -> Digest {
        let of = |hash: &[u8]| Digest::from_parts(self.function, hash, size_bytes);
        match self.state {
            State::Sha256(hasher) => of(&hasher.finalize()),
            State::Sha1(hasher) => of(&hasher.finalize()),
            State::Md5(hasher) => of(&hasher.finalize()),
            State::Sha384(hasher) => of(&hasher.finalize()),
            State::Sha512(hasher) => of(&hasher.finalize()),
            State::Sha256Tree(hasher) => of(&hasher.finish()),
            State::Blake3(hasher) => of(hasher.finalize().as_bytes()),
        }
    }

    /// Whether what was fed is the content of `digest`, whatever namespace that is in. The caller has counted the bytes.
    pub fn confirms(self, digest: &Digest) -> bool {
        self.finish(digest.size_bytes()).hash() == digest.hash()
    }

    /// The digest of content that is in memory, in the shared namespace.
    pub fn digest(function: DigestFunction, content: &[u8]) -> Digest {
        let size_bytes = content.len() as u64;
        let mut hasher = Self::new(function, size_bytes);
        hasher.update(content);
        hasher.finish(size_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of "abc", as the functions' own publications have it (GITSHA1: `git hash-object`; SHA256TREE: one leaf).
    #[test]
    fn published_vectors() {
        for (function, expected) in [
            (DigestFunction::Sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (DigestFunction::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (DigestFunction::Md5, "900150983cd24fb0d6963f7d28e17f72"),
            (
                DigestFunction::Sha384,
                "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
            ),
            (
                DigestFunction::Sha512,
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                 2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            ),
            (DigestFunction::Sha256Tree, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (DigestFunction::Blake3, "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"),
            (DigestFunction::GitSha1, "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f"),
        ] {
            assert_eq!(Hasher::digest(function, b"abc").to_string(), format!("{expected}/3"), "{function:?}");
        }
    }

    #[test]
    fn pieces_hash_as_the_whole() {
        let content: Vec<u8> = (0..10_000).map(|position| (position % 241) as u8).collect();
        for function in DigestFunction::ALL {
            let whole = Hasher::digest(function, &content);
            assert_eq!(Hasher::digest(function, &[]), function.empty_blob());
            for step in [1, 63, 64, 1000, 4096] {
                let mut hasher = Hasher::new(function, content.len() as u64);
                content.chunks(step).for_each(|piece| hasher.update(piece));
                assert_eq!(hasher.finish(content.len() as u64), whole, "{function:?} in steps of {step}");
            }
        }
    }
}
