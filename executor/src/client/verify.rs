//! Hashing what goes through the client's hands: nothing a cache says about bytes is believed.

use cask_index::{Digest, DigestFunction, Hasher};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::ClientError;

/// Counts and hashes the bytes of one blob.
pub(crate) struct Verifier {
    expected: Digest,
    hasher: Hasher,
    seen_bytes: u64,
}

impl Verifier {
    pub(crate) fn new(expected: Digest) -> Self {
        Self { expected, hasher: Hasher::new(expected.function(), expected.size_bytes()), seen_bytes: 0 }
    }

    pub(crate) fn seen_bytes(&self) -> u64 {
        self.seen_bytes
    }

    /// Refuses bytes behind the blob's end at once, so that a misbehaving cache cannot fill the disk.
    pub(crate) fn update(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.seen_bytes += bytes.len() as u64;
        if self.seen_bytes > self.expected.size_bytes() {
            return Err(self.wrong(format!("more than {} bytes", self.expected.size_bytes())));
        }
        self.hasher.update(bytes);
        Ok(())
    }

    /// True when all bytes were seen and are the right ones.
    pub(crate) fn finish(self) -> Result<(), ClientError> {
        if self.seen_bytes != self.expected.size_bytes() {
            return Err(self.wrong(format!("the stream ended after {} bytes", self.seen_bytes)));
        }
        let expected = self.expected;
        let found = self.hasher.finish(self.seen_bytes);
        if found == expected {
            return Ok(());
        }
        Err(ClientError::WrongBytes { digest: expected, reason: format!("they hash to {found}") })
    }

    fn wrong(&self, reason: String) -> ClientError {
        ClientError::WrongBytes { digest: self.expected, reason }
    }
}

/// The SHA-256 digest of bytes in memory.
pub fn digest_of(bytes: &[u8]) -> Digest {
    Hasher::digest(DigestFunction::Sha256, bytes)
}

/// The SHA-256 digest of all that a reader gives.
pub async fn digest_of_reader(reader: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Digest> {
    let (mut hasher, mut size_bytes) = (Hasher::new(DigestFunction::Sha256, 0), 0);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = reader.read(&mut buffer).await?;
        if count == 0 {
            return Ok(hasher.finish(size_bytes));
        }
        hasher.update(&buffer[..count]);
        size_bytes += count as u64;
    }
}
