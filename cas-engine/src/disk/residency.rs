//! What of a mapping was in memory a moment ago.
//!
//! A reader that must not wait asks the kernel whether a range is in memory before it looks, and the question costs more than
//! the look. What was there a moment ago is there still, unless memory is so short that the kernel takes pages that are in use;
//! so the answer is kept, block by block, for as long as that is certain enough. A wrong answer costs one wait for the disk.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// The kernel is asked about so much at once.
const BLOCK_BYTES: usize = 256 << 10;

/// How long an answer is good for.
const GOOD_FOR: Duration = Duration::from_millis(500);

/// When each block of a mapping was last seen in memory.
#[derive(Debug)]
pub(super) struct Residency {
    /// In milliseconds of the machine's uptime, wrapping; 0: never, or not all of it.
    seen_ms: Box<[AtomicU32]>,
    length_bytes: usize,
}

impl Residency {
    /// Nothing is known yet of a mapping of this length.
    pub(super) fn of(length_bytes: usize) -> Self {
        let blocks = length_bytes.div_ceil(BLOCK_BYTES);
        Self { seen_ms: (0..blocks).map(|_| AtomicU32::new(0)).collect(), length_bytes }
    }

    /// Whether the range is in memory; `ask` asks the kernel about a range (first byte, length).
    pub(super) fn of_range(&self, first: usize, length: usize, ask: impl Fn(usize, usize) -> bool) -> bool {
        self.of_range_at(now_ms(), first, length, ask)
    }

    fn of_range_at(&self, now_ms: u32, first: usize, length: usize, ask: impl Fn(usize, usize) -> bool) -> bool {
        let good_for_ms = GOOD_FOR.as_millis() as u32;
        blocks(first, length).all(|block| {
            let seen_ms = self.seen_ms[block].load(Relaxed);
            if seen_ms != 0 && now_ms.wrapping_sub(seen_ms) < good_for_ms {
                return true;
            }
            let begin = block * BLOCK_BYTES;
            let end = (begin + BLOCK_BYTES).min(self.length_bytes);
            if ask(begin, end - begin) {
                self.seen_ms[block].store(now_ms.max(1), Relaxed);
                return true;
            }
            // A part of the block may be there all the same.
            let (begin, end) = (begin.max(first), end.min(first + length));
            (begin, end) != (block * BLOCK_BYTES, self.length_bytes.min((block + 1) * BLOCK_BYTES))
                && ask(begin, end - begin)
        })
    }

    /// The range is about to leave memory.
    pub(super) fn forget(&self, first: usize, length: usize) {
        for block in blocks(first, length) {
            self.seen_ms[block].store(0, Relaxed);
        }
    }
}

/// The blocks that a range touches.
fn blocks(first: usize, length: usize) -> std::ops::Range<usize> {
    if length == 0 { 0..0 } else { first / BLOCK_BYTES..(first + length).div_ceil(BLOCK_BYTES) }
}

/// Precise to a few milliseconds, and cheaper for that.
fn now_ms() -> u32 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    (now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000) as u32
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const LENGTH: usize = 3 * BLOCK_BYTES + 8192;

    #[test]
    fn the_kernel_is_asked_once_in_a_while_about_what_is_there_and_always_about_what_is_not() {
        let residency = Residency::of(LENGTH);
        let asked = RefCell::new(Vec::new());
        // The last two pages of the second block are not there.
        let absent = 2 * BLOCK_BYTES - 8192..2 * BLOCK_BYTES;
        let look = |now_ms, first, length| {
            asked.borrow_mut().clear();
            let is_there = residency.of_range_at(now_ms, first, length, |first, length| {
                asked.borrow_mut().push((first, length));
                first >= absent.end || first + length <= absent.start
            });
            (is_there, asked.borrow().clone())
        };
        let whole = (0, BLOCK_BYTES);
        let second = (BLOCK_BYTES, BLOCK_BYTES);
        for (now_ms, first, length, is_there, questions) in [
            (1000, 4096, 4096, true, vec![whole]),
            (1499, 0, BLOCK_BYTES, true, vec![]),
            (1500, 8192, 1, true, vec![whole]),
            // Near what is not there, and it.
            (1500, BLOCK_BYTES + 4096, 4096, true, vec![second, (BLOCK_BYTES + 4096, 4096)]),
            (1500, absent.start, 4096, false, vec![second, (absent.start, 4096)]),
            (1500, BLOCK_BYTES, BLOCK_BYTES, false, vec![second]),
            // Over a border, and at the end.
            (1600, 2 * BLOCK_BYTES - 4096, 8192, false, vec![second, (2 * BLOCK_BYTES - 4096, 4096)]),
            (1600, 3 * BLOCK_BYTES, 8192, true, vec![(3 * BLOCK_BYTES, 8192)]),
            (1700, 3 * BLOCK_BYTES + 4096, 4096, true, vec![]),
            (1700, 5, 0, true, vec![]),
        ] {
            assert_eq!(look(now_ms, first, length), (is_there, questions), "{first}+{length} at {now_ms}");
        }
        residency.forget(3 * BLOCK_BYTES, 4096);
        assert_eq!(look(1700, 3 * BLOCK_BYTES, 8192).1.len(), 1, "what was let go is asked about");
        // The clock wraps after 49 days.
        assert_eq!(look(u32::MAX, 2 * BLOCK_BYTES, 1).1.len(), 1);
        assert_eq!(look(100, 2 * BLOCK_BYTES, 1).1.len(), 0);
    }
}
