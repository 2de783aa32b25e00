//! FastCDC as the API has it: the 2020 paper with normalization level 2, a chunk of at least a quarter and at most four times the
//! average. The crate `fastcdc`, which the API names as an implementation, makes the cuts; here are the parameters.

use fastcdc::v2020::{self, Normalization};

/// FastCDC with one average size, and no seed.
#[derive(Clone, Debug)]
pub struct FastCdc {
    average_size_bytes: usize,
    /// Which bits of the hash are zero at a cut before the average size, and behind it.
    strict_mask: u64,
    loose_mask: u64,
}

impl FastCdc {
    /// # Panics
    /// When the average is no power of two from 1 KiB to 4 MiB: the paper has masks for powers of two, and the API begins, the
    /// crate ends there.
    pub fn new(average_size_bytes: usize) -> Self {
        assert!(average_size_bytes.is_power_of_two(), "an average of {average_size_bytes} bytes is no power of two");
        assert!((1 << 10..=4 << 20).contains(&average_size_bytes), "an average of {average_size_bytes} bytes");
        let (strict_mask, loose_mask) = v2020::select_masks(average_size_bytes, Normalization::Level2);
        Self { average_size_bytes, strict_mask, loose_mask }
    }

    /// No chunk but the last is shorter.
    pub fn min_size_bytes(&self) -> usize {
        self.average_size_bytes / 4
    }

    /// No chunk is longer.
    pub fn max_size_bytes(&self) -> usize {
        self.average_size_bytes * 4
    }

    /// The length of the chunk at the start of `window`, which holds `max_size_bytes` or ends with the blob.
    pub(crate) fn chunk_bytes(&self, window: &[u8]) -> usize {
        let (_hash, chunk_bytes) = v2020::cut(
            window,
            self.min_size_bytes(),
            self.average_size_bytes,
            self.max_size_bytes(),
            self.strict_mask,
            self.loose_mask,
            self.strict_mask << 1,
            self.loose_mask << 1,
        );
        chunk_bytes
    }
}
