//! `checksum.sri`: what the bytes of an asset must hash to, in the notation of W3C's Subresource Integrity.
//!
//! A value is a list, separated by blanks, of `algorithm-base64`, each perhaps followed by `?options`, which say nothing. As the
//! W3C has it, only the hashes of the strongest algorithm listed count, and the content must match one of them: a list can
//! be extended by a stronger hash without becoming weaker. What is unknown is skipped; a list of nothing else
//! cannot be verified. SHA-1 is beyond the W3C's list; build tools still have such checksums.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use cask_index::{DigestFunction, Hasher};

/// Padding is often forgotten and says nothing.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// From weak to strong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Algorithm {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

/// What content must match one of. Never without a hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Integrity {
    algorithm: Algorithm,
    accepted: Vec<Vec<u8>>,
}

/// A hash that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not of the form algorithm-base64 with a hash of the algorithm's length")]
pub(crate) struct MalformedHash(String);

impl Integrity {
    /// Parses a value; `None` when none of its algorithms is known.
    pub(crate) fn parse(value: &str) -> Result<Option<Integrity>, MalformedHash> {
        let mut strongest: Option<Integrity> = None;
        for token in value.split_ascii_whitespace() {
            let malformed = || MalformedHash(token.chars().take(120).collect());
            let (name, hash) = token.split_once('-').ok_or_else(malformed)?;
            let Some(algorithm) = Algorithm::of_name(name) else { continue };
            let hash = hash.split_once('?').map_or(hash, |(hash, _options)| hash);
            let hash = BASE64.decode(hash).map_err(|_| malformed())?;
            if hash.len() != algorithm.function().hash_length_bytes() {
                return Err(malformed());
            }
            match &mut strongest {
                Some(integrity) if integrity.algorithm > algorithm => {}
                Some(integrity) if integrity.algorithm == algorithm => integrity.accepted.push(hash),
                weaker => *weaker = Some(Integrity { algorithm, accepted: vec![hash] }),
            }
        }
        Ok(strongest)
    }

    /// The hash that content must have under `function`, where that is the only one accepted: with the content's size it makes
    /// the digest before a byte has come.
    pub(crate) fn only_hash(&self, function: DigestFunction) -> Option<&[u8]> {
        match self.accepted.as_slice() {
            [hash] if self.algorithm.function() == function => Some(hash),
            _ => None,
        }
    }

    pub(crate) fn check(&self) -> IntegrityCheck<'_> {
        // The size matters to GITSHA1 alone.
        let hasher = Hasher::new(self.algorithm.function(), 0);
        IntegrityCheck { integrity: self, hasher }
    }
}

impl Algorithm {
    fn of_name(name: &str) -> Option<Algorithm> {
        [
            ("sha1", Algorithm::Sha1),
            ("sha256", Algorithm::Sha256),
            ("sha384", Algorithm::Sha384),
            ("sha512", Algorithm::Sha512),
        ]
        .into_iter()
        .find_map(|(known, algorithm)| known.eq_ignore_ascii_case(name).then_some(algorithm))
    }

    fn function(self) -> DigestFunction {
        match self {
            Algorithm::Sha1 => DigestFunction::Sha1,
            Algorithm::Sha256 => DigestFunction::Sha256,
            Algorithm::Sha384 => DigestFunction::Sha384,
            Algorithm::Sha512 => DigestFunction::Sha512,
        }
    }
}

/// Content being checked, piece by piece.
pub(crate) struct IntegrityCheck<'a> {
    integrity: &'a Integrity,
    hasher: Hasher,
}

impl IntegrityCheck<'_> {
    pub(crate) fn update(&mut self, data: &[u8]) {
        self.hasher.update(data);
    }

    /// Whether it was one of the contents that are accepted.
    pub(crate) fn passes(self) -> bool {
        let digest = self.hasher.finish(0);
        self.integrity.accepted.iter().any(|hash| hash == digest.hash())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Of "hello world".
    const SHA1: &str = "sha1-Kq5sNclPz7QV2+lfQIuc6R7oRu0=";
    const SHA256: &str = "sha256-uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=";
    const SHA384: &str = "sha384-/b2OdaZ/KfcBpOBAOF4uI5hjA+oQI5IRr5B/y7g1eLPkF8txzmRu/QgZ3YwIjeG9";
    const SHA512: &str =
        "sha512-MJ7MSJwS1utMxA9QyQLytNDtd+5RGnx6m808qG1M2G+YndNbxf9JlnDaNCVbRbDP2DDoH2Bdz33FVC6TrpzXbw==";
    const OTHER_SHA256: &str = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    const OTHER_SHA1: &str = "sha1-AAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    fn passes(value: &str) -> bool {
        let integrity = Integrity::parse(value).unwrap().unwrap();
        let mut check = integrity.check();
        check.update(b"hello ");
        check.update(b"world");
        check.passes()
    }

    #[test]
    fn the_strongest_listed_decides_and_one_of_its_hashes_is_enough() {
        for (value, expected) in [
            (SHA1.to_owned(), true),
            (SHA256.to_owned(), true),
            (SHA384.to_owned(), true),
            (SHA512.to_owned(), true),
            (SHA256.trim_end_matches('=').to_owned(), true),
            (format!("{SHA256}?ct=text/plain"), true),
            (SHA256.replace("sha256", "SHA256"), true),
            (OTHER_SHA256.to_owned(), false),
            (format!("{OTHER_SHA256}  {SHA256}"), true),
            (format!("{SHA256}\n{OTHER_SHA256}"), true),
            (format!("{OTHER_SHA1} {SHA256}"), true),
            (format!("{SHA1} {OTHER_SHA256}"), false),
            (format!("{SHA512} {OTHER_SHA256} {SHA384}"), true),
            (format!("blake3-abc {SHA384}"), true),
        ] {
            assert_eq!(passes(&value), expected, "{value}");
        }
    }

    #[test]
    fn what_cannot_be_a_hash_is_refused_and_what_is_unknown_cannot_be_verified() {
        for malformed in ["sha256", "sha256-", "sha256-x", &SHA256[..30], &SHA512.replace("512", "256"), "sha1-!!!"] {
            assert!(Integrity::parse(malformed).is_err(), "{malformed}");
        }
        for unverifiable in ["", "  ", "blake3-abc", "md5-abc crc-x"] {
            assert_eq!(Integrity::parse(unverifiable), Ok(None), "{unverifiable}");
        }
    }

    #[test]
    fn a_hash_tells_the_digest_only_when_it_is_the_only_one_of_that_function() {
        let of = |value: &str| Integrity::parse(value).unwrap().unwrap();
        assert_eq!(of(SHA256).only_hash(DigestFunction::Sha256).unwrap()[..2], [0xb9, 0x4d]);
        assert_eq!(of(&format!("{SHA1} {SHA256}")).only_hash(DigestFunction::Sha256).unwrap()[..2], [0xb9, 0x4d]);
        assert!(of(SHA256).only_hash(DigestFunction::Blake3).is_none());
        assert!(of(&format!("{SHA256} {SHA512}")).only_hash(DigestFunction::Sha256).is_none());
        assert!(of(&format!("{SHA256} {OTHER_SHA256}")).only_hash(DigestFunction::Sha256).is_none());
    }
}
