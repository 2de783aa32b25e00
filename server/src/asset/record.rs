//! What is stored of an asset: under which key, and what it says.
//!
//! The key is a hash of everything that identifies the asset: kind, digest function, URI and qualifiers without headers. Neither
//! URI nor qualifiers are stored themselves, for either may hold a secret (a signed URL).

use bytes::{Buf, BufMut, Bytes};
use cask_index::{Digest, DigestFunction, Hasher};
use prost::Message;

use super::AssetKind;

/// The first byte of a stored record. Numbers are never reused.
const FORMAT: u8 = 1;

/// What is known of an asset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Of the blob, or of the root directory.
    pub(super) digest: Digest,
    pub(super) source: Source,
    /// When it was pushed, or when its fetch from the origin began: Unix time.
    pub(super) obtained_ms: u64,
    /// From when on it must not be handed out any more.
    pub(super) expires_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Somebody vouched for it: it is what its URI and all its qualifiers say.
    Pushed,
    /// What the origin answered without any header of a client's, or what has the checksum asked for.
    Fetched,
}

/// The stored form, after the byte for the format.
#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(bytes = "bytes", tag = "1")]
    hash: Bytes,
    #[prost(uint64, tag = "2")]
    size_bytes: u64,
    /// As on the wire.
    #[prost(int32, tag = "3")]
    function: i32,
    #[prost(uint64, tag = "4")]
    obtained_ms: u64,
    /// 0: never.
    #[prost(uint64, tag = "5")]
    expires_ms: u64,
    #[prost(bool, tag = "6")]
    is_pushed: bool,
}

impl Record {
    pub(super) fn encode(&self) -> Vec<u8> {
        let stored = Stored {
            hash: Bytes::copy_from_slice(self.digest.hash()),
            size_bytes: self.digest.size_bytes(),
            function: i32::from(self.digest.function().wire_number()),
            obtained_ms: self.obtained_ms,
            expires_ms: self.expires_ms.unwrap_or(0),
            is_pushed: self.source == Source::Pushed,
        };
        let mut value = Vec::with_capacity(1 + stored.encoded_len());
        value.put_u8(FORMAT);
        stored.encode_raw(&mut value);
        value
    }

    /// `None` for what this version cannot read. The digest is in the shared namespace.
    pub(super) fn decode(mut value: Bytes) -> Option<Record> {
        if !value.has_remaining() || value.get_u8() != FORMAT {
            return None;
        }
        let stored = Stored::decode(value).ok()?;
        let function = DigestFunction::from_wire_number(stored.function)?;
        Some(Record {
            digest: Digest::new(function, &stored.hash, stored.size_bytes).ok()?,
            source: if stored.is_pushed { Source::Pushed } else { Source::Fetched },
            obtained_ms: stored.obtained_ms,
            expires_ms: (stored.expires_ms != 0).then_some(stored.expires_ms),
        })
    }
}

/// What a record is stored under.
pub(super) fn key(kind: AssetKind, function: DigestFunction, uri: &str, identity: &[(String, String)]) -> Digest {
    let pairs = identity.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
    hash("asset", kind, function, std::iter::once(uri).chain(pairs))
}

/// Where it is noted that something was pushed for a URI with qualifiers of these names, whatever their values.
pub(super) fn names_key<'a>(
    kind: AssetKind,
    function: DigestFunction,
    uri: &'a str,
    names: impl Iterator<Item = &'a str>,
) -> Digest {
    hash("names", kind, function, std::iter::once(uri).chain(names))
}

/// Unambiguous, because each part stands behind its length.
fn hash<'a>(
    purpose: &'a str,
    kind: AssetKind,
    function: DigestFunction,
    parts: impl Iterator<Item = &'a str>,
) -> Digest {
    let kind = match kind {
        AssetKind::Blob => "blob",
        AssetKind::Directory => "directory",
    };
    let mut text = Vec::new();
    for part in [purpose, kind, function.name()].into_iter().chain(parts) {
        text.put_u64_le(part.len() as u64);
        text.put_slice(part.as_bytes());
    }
    Hasher::digest(DigestFunction::Sha256, &text).with_size_bytes(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_record_comes_back_and_what_is_none_does_not() {
        for (source, expires_ms) in [(Source::Pushed, None), (Source::Fetched, Some(7))] {
            let digest = Hasher::digest(DigestFunction::Blake3, b"content");
            let record = Record { digest, source, obtained_ms: 1_700_000_000_000, expires_ms };
            assert_eq!(Record::decode(record.encode().into()), Some(record));
        }
        for bytes in [&b""[..], b"\x00", b"\x02\x08\x01", b"\x01", b"\x01\xff\xff"] {
            assert_eq!(Record::decode(Bytes::copy_from_slice(bytes)), None, "{bytes:?}");
        }
    }

    #[test]
    fn everything_that_identifies_an_asset_is_in_its_key() {
        let identity = pairs(&[("a", "1"), ("b", "2")]);
        let mut keys = vec![
            key(AssetKind::Blob, DigestFunction::Sha256, "u", &identity),
            key(AssetKind::Directory, DigestFunction::Sha256, "u", &identity),
            key(AssetKind::Blob, DigestFunction::Blake3, "u", &identity),
            key(AssetKind::Blob, DigestFunction::Sha256, "v", &identity),
            key(AssetKind::Blob, DigestFunction::Sha256, "u", &[]),
            key(AssetKind::Blob, DigestFunction::Sha256, "u", &pairs(&[("a", "1"), ("b", "3")])),
            key(AssetKind::Blob, DigestFunction::Sha256, "u", &pairs(&[("a", "1b"), ("", "2")])),
            key(AssetKind::Blob, DigestFunction::Sha256, "ua", &pairs(&[("", "1"), ("b", "2")])),
            names_key(AssetKind::Blob, DigestFunction::Sha256, "u", ["a", "1", "b", "2"].into_iter()),
        ];
        keys.sort_by_key(|key| key.hash().to_vec());
        keys.dedup();
        assert_eq!(keys.len(), 9);
    }
}
