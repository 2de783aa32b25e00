//! Where the bytes of an upload come from: something that can be read again from any offset, since uploads resume.

use std::{
    future::Future,
    io::{Cursor, SeekFrom},
    path::PathBuf,
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncSeekExt as _};

/// Bytes that can be read more than once.
pub trait BlobSource: Sync {
    /// Reads from an offset to the end.
    type Reader: AsyncRead + Send + Unpin + 'static;

    /// A reader that stands at `offset_bytes`, which is at most the blob's size.
    fn open_at(&self, offset_bytes: u64) -> impl Future<Output = std::io::Result<Self::Reader>> + Send;
}

impl BlobSource for Bytes {
    type Reader = Cursor<Bytes>;

    async fn open_at(&self, offset_bytes: u64) -> std::io::Result<Self::Reader> {
        let mut cursor = Cursor::new(self.clone());
        cursor.set_position(offset_bytes);
        Ok(cursor)
    }
}

/// A file that nobody writes to during the upload. If somebody does, the cache notices that the digest differs.
#[derive(Clone, Debug)]
pub struct FileSource(pub PathBuf);

impl BlobSource for FileSource {
    type Reader = tokio::fs::File;

    async fn open_at(&self, offset_bytes: u64) -> std::io::Result<Self::Reader> {
        let mut file = tokio::fs::File::open(&self.0).await?;
        if offset_bytes > 0 {
            file.seek(SeekFrom::Start(offset_bytes)).await?;
        }
        Ok(file)
    }
}
