//! Hashing what goes through the client's hands: nothing a cache says about bytes is believed.

use cask_index::{Digest, DigestFunction};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::ClientError;

/// Counts and hashes the bytes of one blob.
pub(crate) struct Verifier {
    expected: Digest,
    hasher: Sha256,
    seen_bytes: u64,
}

impl Verifier {
    pub(crate) fn new(expected: Digest) -> Result<Self, ClientError> {
        match expected.function() {
            DigestFunction::Sha256 => Ok(Self { expected, hasher: Sha256::new(), seen_bytes: 0 }),
            other => Err(ClientError::FunctionUnsupported(other)),
        }
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
        let hash = self.hasher.finalize();
        if hash.as_slice() == expected.hash() {
            return Ok(());
        }
        let found = sha256(&hash, expected.size_bytes());
        Err(ClientError::WrongBytes { digest: expected, reason: format!("they hash to {found}") })
    }

    fn wrong(&self, reason: String) -> ClientError {
        ClientError::WrongBytes { digest: self.expected, reason }
    }
}

fn sha256(hash: &[u8], size_bytes: u64) -> Digest {
    Digest::new(DigestFunction::Sha256, hash, size_bytes).expect("SHA-256 has 32 bytes")
}

/// The SHA-256 digest of bytes in memory.
pub fn digest_of(bytes: &[u8]) -> Digest {
    sha256(&Sha256::digest(bytes), bytes.len() as u64)
}

/// The SHA-256 digest of all that a reader gives.
pub async fn digest_of_reader(reader: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Digest> {
    let (mut hasher, mut size_bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = reader.read(&mut buffer).await?;
        if count == 0 {
            return Ok(sha256(&hasher.finalize(), size_bytes));
        }
        hasher.update(&buffer[..count]);
        size_bytes += count as u64;
    }
}
