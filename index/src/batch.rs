//! Many keys at once: FindMissing and the closures of action-cache hits.
//!
//! A probe of a large table waits for memory, and a processor can wait for a dozen lines at once. So the lines of a key
//! are asked for some keys before it is looked up. No allocation, nothing kept between calls.

use crate::{Key, Table, TouchEpoch};

/// Keys whose lines are under way: two lines a key, more than a core's outstanding misses, so the memory never idles.
const KEYS_AHEAD: usize = 16;

impl Table {
    /// For each key in order calls `absent(position)` when it is absent; present ones are touched. Prefetches.
    pub fn touch_batch(&self, keys: &[Key], epoch: TouchEpoch, mut absent: impl FnMut(usize)) {
        let (first, _) = keys.split_at(keys.len().min(KEYS_AHEAD));
        first.iter().for_each(|&key| self.prefetch(self.places(key)));
        for (position, &key) in keys.iter().enumerate() {
            if let Some(&ahead) = keys.get(position + KEYS_AHEAD) {
                self.prefetch(self.places(ahead));
            }
            if !self.touch_at(self.places(key), epoch) {
                absent(position);
            }
        }
    }
}
