//! What the store keeps of a finished log: its pieces in order, and the secret that its writer had.

use cask_index::{Digest, DigestFunction};
use prost::Message;

/// A stored piece and where it ends in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) digest: Digest,
    pub(super) end: u64,
}

/// A log that is not written to any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FinishedLog {
    pub(super) secret: String,
    pub(super) pieces: Vec<Piece>,
}

/// Bytes of a piece in a record, and those of its key in the record's closure.
pub(super) const PIECE_RECORD_BYTES: usize = 32 + 5 + 8 + 16;

/// As stored. Numbers are never given another meaning.
#[derive(Clone, PartialEq, Message)]
struct LogRecord {
    #[prost(string, tag = "1")]
    secret: String,
    #[prost(message, repeated, tag = "2")]
    pieces: Vec<PieceRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct PieceRecord {
    /// SHA-256.
    #[prost(bytes = "vec", tag = "1")]
    hash: Vec<u8>,
    #[prost(uint64, tag = "2")]
    size_bytes: u64,
}

impl FinishedLog {
    pub(super) fn size_bytes(&self) -> u64 {
        self.pieces.last().map_or(0, |piece| piece.end)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let piece =
            |piece: &Piece| PieceRecord { hash: piece.digest.hash().to_vec(), size_bytes: piece.digest.size_bytes() };
        LogRecord { secret: self.secret.clone(), pieces: self.pieces.iter().map(piece).collect() }.encode_to_vec()
    }

    /// `None`: not what [`FinishedLog::encode`] makes. The pieces are in the namespace of `like`.
    pub(super) fn decode(bytes: &[u8], like: &Digest) -> Option<Self> {
        let record = LogRecord::decode(bytes).ok()?;
        let mut end = 0_u64;
        let mut pieces = Vec::with_capacity(record.pieces.len());
        for piece in record.pieces {
            let digest = Digest::new(DigestFunction::Sha256, &piece.hash, piece.size_bytes).ok()?;
            end = end.checked_add(piece.size_bytes)?;
            pieces.push(Piece { digest: digest.within(like.namespace()), end });
        }
        Some(Self { secret: record.secret, pieces })
    }
}

#[cfg(test)]
mod tests {
    use cask_index::{Hasher, Namespace};

    use super::*;

    #[test]
    fn a_record_leads_back_and_rubbish_does_not() {
        let like = DigestFunction::Sha256.empty_blob().within(Namespace::from_number(3));
        let digest = |content: &[u8]| Hasher::digest(DigestFunction::Sha256, content).within(like.namespace());
        let pieces = vec![Piece { digest: digest(b"one"), end: 3 }, Piece { digest: digest(b"three"), end: 8 }];
        let log = FinishedLog { secret: "s".to_owned(), pieces };
        assert_eq!(FinishedLog::decode(&log.encode(), &like), Some(log.clone()));
        assert_eq!((log.size_bytes(), FinishedLog::default().size_bytes()), (8, 0));
        let mut short = log.encode();
        short.pop();
        assert_eq!(FinishedLog::decode(&short, &like), None);
    }
}
