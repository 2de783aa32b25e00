//! [`Digest`]: the name of a blob, parsed once at the edge. Inside the house no hex string and no signed size exists.
//!
//! Invariants: the hash has exactly the function's length and the bytes behind it are zero (so equality, hashing and the
//! key mix may look at all 64). Size is part of identity: the right hash with a wrong size is another digest.

use std::fmt;

use crate::{DigestFunction, Namespace, hex};

/// Bytes of the longest hash (SHA-512).
pub(crate) const HASH_BYTES_MAX: usize = 64;

/// Why some bytes are not a digest. All of these are the client's fault (INVALID_ARGUMENT).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The hash is too short or too long for its function.
    #[error("hash has {found} characters, {function:?} needs {expected}")]
    HashLength {
        /// The function the hash was given for.
        function: DigestFunction,
        /// Hex characters that were given.
        found: usize,
        /// Hex characters that the function's hashes have.
        expected: usize,
    },
    /// The hash holds a character outside `0-9a-f`; uppercase is not accepted, since a digest has one spelling.
    #[error("hash is not lowercase hexadecimal")]
    NotHex,
    /// The size is below zero.
    #[error("size {0} is negative")]
    NegativeSize(i64),
}

/// A blob's name: digest function, hash and size in bytes, and the namespace it is looked up in. Plain data, 80 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest {
    function: DigestFunction,
    namespace: Namespace,
    size_bytes: u64,
    /// Zero behind the function's hash length.
    hash: [u8; HASH_BYTES_MAX],
}

const _: () = assert!(size_of::<Digest>() == 80);

impl Digest {
    /// From a raw hash. [`DigestError::HashLength`] counts hex characters, as everywhere.
    #[inline]
    pub fn new(function: DigestFunction, hash: &[u8], size_bytes: u64) -> Result<Self, DigestError> {
        let expected = function.hash_length_bytes();
        if hash.len() != expected {
            return Err(DigestError::HashLength { function, found: 2 * hash.len(), expected: 2 * expected });
        }
        Ok(Self::from_parts(function, hash, size_bytes))
    }

    /// From the wire: a lowercase hex hash and a signed size.
    #[inline]
    pub fn parse_hex(function: DigestFunction, hash_hex: &[u8], size_bytes: i64) -> Result<Self, DigestError> {
        let expected = 2 * function.hash_length_bytes();
        if hash_hex.len() != expected {
            return Err(DigestError::HashLength { function, found: hash_hex.len(), expected });
        }
        let mut digest =
            Digest { function, namespace: Namespace::SHARED, size_bytes: size_bytes as u64, hash: [0; HASH_BYTES_MAX] };
        if !hex::decode(hash_hex, &mut digest.hash[..expected / 2]) {
            return Err(DigestError::NotHex);
        }
        if size_bytes < 0 {
            return Err(DigestError::NegativeSize(size_bytes));
        }
        Ok(digest)
    }

    /// The hash that 64 hexadecimal characters spell, for [`new`](Self::new): most hashes have that length, and a list of digests is decoded
    /// faster when nothing else is decided between one and the next. `None` where [`parse_hex`](Self::parse_hex) says what is wrong.
    #[inline]
    pub fn hash_of_hex(hash_hex: &[u8; 64]) -> Option<[u8; 32]> {
        let mut hash = [0; 32];
        hex::decode(hash_hex, &mut hash).then_some(hash)
    }

    /// For hashes whose length is known to be right.
    #[inline]
    pub(crate) fn from_parts(function: DigestFunction, hash: &[u8], size_bytes: u64) -> Self {
        let mut padded = [0; HASH_BYTES_MAX];
        padded[..function.hash_length_bytes()].copy_from_slice(hash);
        Digest { function, namespace: Namespace::SHARED, size_bytes, hash: padded }
    }

    /// The same hash with another size.
    #[inline]
    #[must_use]
    pub fn with_size_bytes(self, size_bytes: u64) -> Self {
        Self { size_bytes, ..self }
    }

    /// The same content in another namespace. A digest is made in the shared one.
    #[inline]
    #[must_use]
    pub fn within(self, namespace: Namespace) -> Self {
        Self { namespace, ..self }
    }

    /// Where it is looked up.
    #[inline]
    pub fn namespace(&self) -> Namespace {
        self.namespace
    }

    /// The function the hash was computed with.
    #[inline]
    pub fn function(&self) -> DigestFunction {
        self.function
    }

    /// Exactly `function().hash_length_bytes()` bytes.
    #[inline]
    pub fn hash(&self) -> &[u8] {
        &self.hash[..self.function.hash_length_bytes()]
    }

    /// The hash with zeros behind it.
    #[inline]
    pub(crate) fn padded_hash(&self) -> &[u8; HASH_BYTES_MAX] {
        &self.hash
    }

    /// Size of the blob.
    #[inline]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Lowercase hex of the hash.
    pub fn hash_hex(&self) -> String {
        let mut buffer = [0; 2 * HASH_BYTES_MAX];
        hex::encode(self.hash(), &mut buffer).to_owned()
    }

    /// True for the digest of the empty blob under its function, in any namespace (not for another hash that claims size 0).
    #[inline]
    pub fn is_empty_blob(&self) -> bool {
        self.size_bytes == 0 && self.hash == self.function.empty_blob().hash
    }
}

/// `<hex>/<size>`, as in resource names.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buffer = [0; 2 * HASH_BYTES_MAX];
        write!(f, "{}/{}", hex::encode(self.hash(), &mut buffer), self.size_bytes)
    }
}

/// As [`Display`](fmt::Display): logs and test failures want the digest, not 64 numbers.
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn parse(function: DigestFunction, hex: &str, size_bytes: i64) -> Result<String, DigestError> {
        Digest::parse_hex(function, hex.as_bytes(), size_bytes).map(|digest| digest.to_string())
    }

    #[test]
    fn what_parses_and_what_does_not() {
        use DigestFunction::{Md5, Sha1, Sha256, Sha512};
        let length = |function, found, expected| Err(DigestError::HashLength { function, found, expected });
        let with_first = |character: char| format!("{character}{}", &ABC[1..]);
        let with_last = |character: char| format!("{}{character}", &ABC[..63]);

        assert_eq!(parse(Sha256, ABC, 3), Ok(format!("{ABC}/3")));
        assert_eq!(parse(Sha256, ABC, 0), Ok(format!("{ABC}/0")));
        assert_eq!(parse(Sha256, ABC, i64::MAX), Ok(format!("{ABC}/{}", i64::MAX)));
        assert_eq!(parse(Sha256, ABC, -1), Err(DigestError::NegativeSize(-1)));
        assert_eq!(parse(Sha256, ABC, i64::MIN), Err(DigestError::NegativeSize(i64::MIN)));
        assert_eq!(parse(Sha256, "", 3), length(Sha256, 0, 64));
        assert_eq!(parse(Sha256, &ABC[1..], 3), length(Sha256, 63, 64));
        assert_eq!(parse(Sha256, &format!("{ABC}0"), 3), length(Sha256, 65, 64));
        assert_eq!(parse(Sha1, ABC, 3), length(Sha1, 64, 40));
        assert_eq!(parse(Md5, ABC, 3), length(Md5, 64, 32));
        assert_eq!(parse(Sha512, ABC, 3), length(Sha512, 64, 128));
        assert_eq!(parse(Sha256, &ABC.to_uppercase(), 3), Err(DigestError::NotHex));
        for bad in ['A', 'F', 'g', '/', ':', '`', '@', 'G', ' ', '\0', '\u{7f}'] {
            assert_eq!(parse(Sha256, &with_first(bad), 3), Err(DigestError::NotHex), "{bad:?}");
            assert_eq!(parse(Sha256, &with_last(bad), 3), Err(DigestError::NotHex), "{bad:?}");
        }
    }

    /// Every byte at every position: exactly the sixteen characters are taken.
    #[test]
    fn only_sixteen_bytes_are_hex() {
        for byte in 0..=u8::MAX {
            for position in [0, 1, 30, 31, 32, 39] {
                let mut hex = *b"0123456789abcdef0123456789abcdef01234567";
                hex[position] = byte;
                let parsed = Digest::parse_hex(DigestFunction::Sha1, &hex, 0);
                assert_eq!(parsed.is_ok(), matches!(byte, b'0'..=b'9' | b'a'..=b'f'), "{byte} at {position}");
            }
        }
    }

    #[test]
    fn raw_hashes_need_the_exact_length() {
        for function in DigestFunction::ALL {
            for length in 0..=HASH_BYTES_MAX {
                let digest = Digest::new(function, &[7; HASH_BYTES_MAX][..length], 1);
                assert_eq!(digest.is_ok(), length == function.hash_length_bytes(), "{function:?} {length}");
            }
        }
        let error = Digest::new(DigestFunction::Sha1, &[0; 32], 1).unwrap_err();
        assert_eq!(error.to_string(), "hash has 64 characters, Sha1 needs 40");
    }

    #[test]
    fn size_and_function_are_identity() {
        let digest = |function, size| Digest::new(function, &[7; 32], size).unwrap();
        assert_ne!(digest(DigestFunction::Sha256, 3), digest(DigestFunction::Sha256, 4));
        assert_ne!(digest(DigestFunction::Sha256, 3), digest(DigestFunction::Blake3, 3));
        assert!(!digest(DigestFunction::Sha256, 0).is_empty_blob());
        let empty = DigestFunction::Sha256.empty_blob();
        assert!(!Digest::new(DigestFunction::Sha256, empty.hash(), 1).unwrap().is_empty_blob());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]
        #[test]
        fn hex_leads_back(function in proptest::sample::select(&DigestFunction::ALL),
                          bytes in proptest::array::uniform32(any::<u8>()),
                          size_bytes in 0..=i64::MAX) {
            let hash: Vec<u8> = bytes.iter().cycle().take(function.hash_length_bytes()).copied().collect();
            let digest = Digest::new(function, &hash, size_bytes as u64).unwrap();
            prop_assert_eq!(digest.hash(), &hash[..]);
            let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            prop_assert_eq!(digest.hash_hex(), hex.as_str());
            prop_assert_eq!(Digest::parse_hex(function, hex.as_bytes(), size_bytes).unwrap(), digest);
        }
    }
}
