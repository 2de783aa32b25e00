//! [`ChunkList`]: the digests of a blob's chunks in their order, packed.
//!
//! ```text
//! | hash | size (8) | hash | size (8) | ···
//! ```
//! All are of the blob's function and namespace, so a list of 100,000 takes 4 MB and not 8, and is what is stored.

use cask_index::Digest;

use super::ChunkingError;

const SIZE_BYTES: usize = 8;

/// See the module's head.
#[derive(Clone, Debug)]
pub(crate) struct ChunkList {
    blob: Digest,
    packed: Vec<u8>,
    /// Bytes of all chunks; `None`: more than can be counted.
    total_bytes: Option<u64>,
}

impl ChunkList {
    /// An empty list for the chunks of `blob`.
    pub(crate) fn new(blob: Digest) -> Self {
        Self { blob, packed: Vec::new(), total_bytes: Some(0) }
    }

    /// The list of one: the blob itself.
    pub(super) fn whole(blob: Digest) -> Self {
        let mut list = Self::new(blob);
        list.push(&blob);
        list
    }

    /// From what [`packed`](Self::packed) gave; `None`: it is no list, or none of this blob.
    pub(super) fn unpack(blob: Digest, packed: &[u8]) -> Option<Self> {
        let mut list = Self { blob, packed: packed.to_vec(), total_bytes: Some(0) };
        if !packed.len().is_multiple_of(list.entry_bytes()) {
            return None;
        }
        let total_bytes = list.iter().try_fold(0_u64, |total, chunk| total.checked_add(chunk.size_bytes()));
        list.total_bytes = total_bytes;
        list.check_sizes().is_ok().then_some(list)
    }

    /// Appends a digest of the blob's function and namespace.
    pub(crate) fn push(&mut self, chunk: &Digest) {
        debug_assert_eq!((chunk.function(), chunk.namespace()), (self.blob.function(), self.blob.namespace()));
        self.packed.extend_from_slice(chunk.hash());
        self.packed.extend_from_slice(&chunk.size_bytes().to_le_bytes());
        self.total_bytes = self.total_bytes.and_then(|total| total.checked_add(chunk.size_bytes()));
    }

    /// The blob whose chunks these are.
    pub(crate) fn blob(&self) -> Digest {
        self.blob
    }

    pub(crate) fn len(&self) -> usize {
        self.packed.len() / self.entry_bytes()
    }

    pub(super) fn packed(&self) -> &[u8] {
        &self.packed
    }

    /// Bytes of memory that it takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.packed.capacity()
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = Digest> + '_ {
        self.range(0, self.len())
    }

    /// Those from one position to before another.
    pub(crate) fn range(&self, from: usize, to: usize) -> impl ExactSizeIterator<Item = Digest> + '_ {
        let entry_bytes = self.entry_bytes();
        self.packed[from * entry_bytes..to * entry_bytes].chunks_exact(entry_bytes).map(move |entry| {
            let (hash, size) = entry.split_at(entry_bytes - SIZE_BYTES);
            let size_bytes = u64::from_le_bytes(size.try_into().expect("eight bytes"));
            let digest = Digest::new(self.blob.function(), hash, size_bytes).expect("a hash of the function's length");
            digest.within(self.blob.namespace())
        })
    }

    /// Whether the chunks have as many bytes as the blob.
    pub(super) fn check_sizes(&self) -> Result<(), ChunkingError> {
        let total = self.total_bytes;
        if total == Some(self.blob.size_bytes()) {
            return Ok(());
        }
        let found = total.map_or_else(|| "more than 2^64".to_owned(), |total| total.to_string());
        Err(ChunkingError::SizesDiffer { blob: self.blob, found })
    }

    fn entry_bytes(&self) -> usize {
        self.blob.function().hash_length_bytes() + SIZE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use cask_index::{DigestFunction, Hasher, Namespace};

    use super::*;

    #[test]
    fn what_is_packed_is_read_as_it_was() {
        for function in DigestFunction::ALL {
            let of = |content: &[u8]| Hasher::digest(function, content).within(Namespace::from_number(3));
            let chunks = [of(b"some"), of(b"chunks"), of(b""), of(b"some")];
            let mut list = ChunkList::new(of(b"somechunkssome"));
            for chunk in &chunks {
                list.push(chunk);
            }
            let read = ChunkList::unpack(list.blob(), list.packed()).unwrap();
            assert!(read.iter().eq(chunks), "{function:?}");
            assert!(read.range(1, 3).eq(chunks[1..3].iter().copied()));
            assert_eq!(read.len(), 4);
            // Of another blob, or not whole.
            assert!(ChunkList::unpack(of(b"another blob"), list.packed()).is_none());
            assert!(ChunkList::unpack(list.blob(), &list.packed()[1..]).is_none());
        }
    }

    #[test]
    fn sizes_that_do_not_sum_up_are_told_even_where_the_sum_overflows() {
        let digest = |size_bytes| DigestFunction::Sha256.empty_blob().with_size_bytes(size_bytes);
        for (sizes, fits) in
            [(&[2, 5][..], true), (&[7], true), (&[2, 4], false), (&[], false), (&[8, u64::MAX], false)]
        {
            let mut list = ChunkList::new(digest(7));
            for size in sizes {
                list.push(&digest(*size));
            }
            assert_eq!(list.check_sizes().is_ok(), fits, "{sizes:?}");
        }
    }
}
