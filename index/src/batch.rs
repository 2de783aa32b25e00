//! Many keys at once: FindMissing and the closures of action-cache hits.
//!
//! A probe of a large table waits for memory, and a processor can wait for many lines at once. So keys go in groups, and
//! no line is read before a group's worth of other work was done since it was asked for:
//!
//! ```text
//! group n    : probe and touch in the buckets; ask for the stash lines of what is not there   | probe the stash
//! group n + 1: ask for the lines of the buckets                                                |
//! ```
//! No allocation, nothing kept between calls.

use crate::table::Places;
use crate::{Key, Table, TouchEpoch};

/// Keys of a group. Two lines a key under way are more than a core's outstanding misses, so the memory never idles; few
/// enough to stay in the first-level cache until they are read.
const GROUP_KEYS: usize = 32;

impl Table {
    /// For each key in order calls `absent(position)` when it is absent; present ones are touched. Prefetches.
    pub fn touch_batch(&self, keys: &[Key], epoch: TouchEpoch, mut absent: impl FnMut(usize)) {
        // Of the keys whose lines were asked for and not read yet, by position modulo the group's length.
        let mut ahead = [Places::default(); GROUP_KEYS];
        for (places, &key) in ahead.iter_mut().zip(keys) {
            *places = self.places(key);
            self.prefetch_buckets(places);
        }
        let mut not_in_buckets = [(0, Places::default()); GROUP_KEYS];
        for first in (0..keys.len()).step_by(GROUP_KEYS) {
            let mut count = 0;
            for (index, position) in (first..keys.len().min(first + GROUP_KEYS)).enumerate() {
                let places = ahead[index];
                if let Some(&key) = keys.get(position + GROUP_KEYS) {
                    ahead[index] = self.places(key);
                    self.prefetch_buckets(&ahead[index]);
                }
                if !self.touch_in_buckets(&places, epoch) {
                    self.prefetch_stash(&places);
                    not_in_buckets[count] = (position, places);
                    count += 1;
                }
            }
            for (position, places) in &not_in_buckets[..count] {
                if !self.touch_in_stash(places, epoch) {
                    absent(*position);
                }
            }
        }
    }
}
