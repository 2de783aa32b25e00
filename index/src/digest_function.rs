//! The digest functions of the Remote Execution API that Cask can store blobs under. Facts only: numbers, names, lengths
//! and the digest of the empty blob. [`Hasher`](crate::Hasher) computes them.

use crate::Digest;

/// A digest function of the Remote Execution API; discriminants are the wire numbers.
///
/// Not here: UNKNOWN (0), VSO (4, a Windows-only block hash) and MURMUR3 (7, not collision resistant).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DigestFunction {
    /// SHA-256, what nearly every client uses.
    Sha256 = 1,
    /// SHA-1.
    Sha1 = 2,
    /// MD5.
    Md5 = 3,
    /// SHA-384.
    Sha384 = 5,
    /// SHA-512.
    Sha512 = 6,
    /// SHA-256 as a Merkle tree over 1 KiB chunks; equals SHA-256 for blobs of at most one chunk.
    Sha256Tree = 8,
    /// BLAKE3 with 32 bytes of output.
    Blake3 = 9,
    /// SHA-1 over git's blob header and the content.
    GitSha1 = 10,
}

impl DigestFunction {
    /// Every function, in the order of the wire numbers.
    pub const ALL: [DigestFunction; 8] = [
        DigestFunction::Sha256,
        DigestFunction::Sha1,
        DigestFunction::Md5,
        DigestFunction::Sha384,
        DigestFunction::Sha512,
        DigestFunction::Sha256Tree,
        DigestFunction::Blake3,
        DigestFunction::GitSha1,
    ];

    /// Length of a hash in bytes; its hex form has twice as many characters.
    pub const fn hash_length_bytes(self) -> usize {
        match self {
            DigestFunction::Md5 => 16,
            DigestFunction::Sha1 | DigestFunction::GitSha1 => 20,
            DigestFunction::Sha256 | DigestFunction::Sha256Tree | DigestFunction::Blake3 => 32,
            DigestFunction::Sha384 => 48,
            DigestFunction::Sha512 => 64,
        }
    }

    /// The number of the `DigestFunction.Value` enum on the wire. Also stored in record headers, so it never changes.
    pub const fn wire_number(self) -> u8 {
        self as u8
    }

    /// The function of a wire number; `None` for UNKNOWN and for functions that Cask does not store.
    pub fn from_wire_number(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|function| i32::from(function.wire_number()) == number)
    }

    /// Lowercase name, as it stands in resource names: `sha256`, `blake3`, `gitsha1`...
    pub const fn name(self) -> &'static str {
        match self {
            DigestFunction::Sha256 => "sha256",
            DigestFunction::Sha1 => "sha1",
            DigestFunction::Md5 => "md5",
            DigestFunction::Sha384 => "sha384",
            DigestFunction::Sha512 => "sha512",
            DigestFunction::Sha256Tree => "sha256tree",
            DigestFunction::Blake3 => "blake3",
            DigestFunction::GitSha1 => "gitsha1",
        }
    }

    /// The function of a lowercase name, the inverse of [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|function| function.name() == name)
    }

    /// The digest of the empty blob, which a cache must hold without anybody uploading it.
    pub fn empty_blob(self) -> Digest {
        Digest::from_parts(self, self.empty_hash(), 0)
    }

    const fn empty_hash(self) -> &'static [u8] {
        match self {
            DigestFunction::Sha256 | DigestFunction::Sha256Tree => &EMPTY_SHA256,
            DigestFunction::Sha1 => &EMPTY_SHA1,
            DigestFunction::Md5 => &EMPTY_MD5,
            DigestFunction::Sha384 => &EMPTY_SHA384,
            DigestFunction::Sha512 => &EMPTY_SHA512,
            DigestFunction::Blake3 => &EMPTY_BLAKE3,
            DigestFunction::GitSha1 => &EMPTY_GITSHA1,
        }
    }
}

const EMPTY_SHA256: [u8; 32] = hex(b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
const EMPTY_SHA1: [u8; 20] = hex(b"da39a3ee5e6b4b0d3255bfef95601890afd80709");
const EMPTY_MD5: [u8; 16] = hex(b"d41d8cd98f00b204e9800998ecf8427e");
const EMPTY_SHA384: [u8; 48] =
    hex(b"38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b");
const EMPTY_SHA512: [u8; 64] =
    hex(b"cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e");
const EMPTY_BLAKE3: [u8; 32] = hex(b"af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
/// SHA-1 of `blob 0` and a zero byte.
const EMPTY_GITSHA1: [u8; 20] = hex(b"e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");

/// Hex constants read at compile time; a typing error does not compile.
const fn hex<const LENGTH: usize>(text: &[u8]) -> [u8; LENGTH] {
    const fn nibble(character: u8) -> u8 {
        match character {
            b'0'..=b'9' => character - b'0',
            b'a'..=b'f' => character - b'a' + 10,
            _ => panic!("not lowercase hexadecimal"),
        }
    }
    assert!(text.len() == 2 * LENGTH);
    let mut bytes = [0; LENGTH];
    let mut index = 0;
    while index < LENGTH {
        bytes[index] = nibble(text[2 * index]) << 4 | nibble(text[2 * index + 1]);
        index += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::Digest as _;

    #[test]
    fn empty_blobs_are_what_the_functions_compute() {
        for function in DigestFunction::ALL {
            let expected: Vec<u8> = match function {
                DigestFunction::Sha256 | DigestFunction::Sha256Tree => sha2::Sha256::digest(b"").to_vec(),
                DigestFunction::Sha1 => sha1::Sha1::digest(b"").to_vec(),
                DigestFunction::Md5 => md5::Md5::digest(b"").to_vec(),
                DigestFunction::Sha384 => sha2::Sha384::digest(b"").to_vec(),
                DigestFunction::Sha512 => sha2::Sha512::digest(b"").to_vec(),
                DigestFunction::Blake3 => blake3::hash(b"").as_bytes().to_vec(),
                DigestFunction::GitSha1 => sha1::Sha1::digest(b"blob 0\0").to_vec(),
            };
            assert_eq!(expected.len(), function.hash_length_bytes(), "{function:?}");
            let empty = function.empty_blob();
            assert_eq!(empty, Digest::new(function, &expected, 0).unwrap(), "{function:?}");
            assert!(empty.is_empty_blob(), "{function:?}");
        }
    }

    #[test]
    fn wire_numbers_and_names_lead_back() {
        let table = [
            (DigestFunction::Sha256, 1, "sha256"),
            (DigestFunction::Sha1, 2, "sha1"),
            (DigestFunction::Md5, 3, "md5"),
            (DigestFunction::Sha384, 5, "sha384"),
            (DigestFunction::Sha512, 6, "sha512"),
            (DigestFunction::Sha256Tree, 8, "sha256tree"),
            (DigestFunction::Blake3, 9, "blake3"),
            (DigestFunction::GitSha1, 10, "gitsha1"),
        ];
        assert_eq!(table.map(|(function, ..)| function), DigestFunction::ALL);
        for (function, number, name) in table {
            assert_eq!(i32::from(function.wire_number()), number);
            assert_eq!(DigestFunction::from_wire_number(number), Some(function));
            assert_eq!(function.name(), name);
            assert_eq!(DigestFunction::from_name(name), Some(function));
        }
        for unknown in [i32::MIN, -1, 0, 4, 7, 11, 257, i32::MAX] {
            assert_eq!(DigestFunction::from_wire_number(unknown), None, "{unknown}");
        }
        assert_eq!(DigestFunction::from_name("SHA256"), None);
    }
}
