//! What of a mapping was in memory a moment ago.
//!
//! A reader that must not wait asks the kernel whether a range is in memory before it looks, and the question costs more than
//! the look. What was there a moment ago is there still, unless memory is so short that the kernel takes pages that are in use;
//! so the answer is kept, a block of pages at a time, for as long as that is certain enough. A wrong answer costs one wait for the
//! disk.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::time::Duration;

/// The kernel is asked about so many pages at once: as many as a word has bits.
const BLOCK_PAGES: usize = 64;

/// How long an answer is good for.
const GOOD_FOR: Duration = Duration::from_millis(500);

/// Which pages of a mapping were last seen in memory, and when.
#[derive(Debug)]
pub(super) struct Residency {
    blocks: Box<[Block]>,
    page_bytes: usize,
    length_bytes: usize,
}

#[derive(Debug, Default)]
struct Block {
    /// A bit a page.
    pages: AtomicU64,
    /// When the kernel was asked about the block, in milliseconds of the machine's uptime, wrapping; 0: never.
    asked_ms: AtomicU32,
}

impl Residency {
    /// Nothing is known yet of a mapping of this length.
    pub(super) fn of(length_bytes: usize, page_bytes: usize) -> Self {
        let count = length_bytes.div_ceil(BLOCK_PAGES * page_bytes);
        Self { blocks: (0..count).map(|_| Block::default()).collect(), page_bytes, length_bytes }
    }

    /// Whether a range is in memory (first byte, length; from a page's beginning). `ask` asks the kernel about at most 64 pages,
    /// by first byte and length: a bit for each that is there.
    pub(super) fn of_range(&self, first: usize, length: usize, ask: impl Fn(usize, usize) -> u64) -> bool {
        self.of_range_at(now_ms(), first, length, ask)
    }

    fn of_range_at(&self, now_ms: u32, first: usize, length: usize, ask: impl Fn(usize, usize) -> u64) -> bool {
        let block_bytes = BLOCK_PAGES * self.page_bytes;
        self.numbers(first, length).all(|number| {
            let block = &self.blocks[number];
            let begin = number * block_bytes;
            let end = (begin + block_bytes).min(self.length_bytes);
            let (wanted_begin, wanted_end) = (first.max(begin), (first + length).min(end));
            let skipped = (wanted_begin - begin) / self.page_bytes;
            let wanted = bits((wanted_end - wanted_begin).div_ceil(self.page_bytes)) << skipped;
            let asked_ms = block.asked_ms.load(Acquire);
            if asked_ms == 0 || now_ms.wrapping_sub(asked_ms) >= GOOD_FOR.as_millis() as u32 {
                let pages = ask(begin, end - begin);
                block.pages.store(pages, Relaxed);
                block.asked_ms.store(now_ms.max(1), Release);
                return pages & wanted == wanted;
            }
            if block.pages.load(Relaxed) & wanted == wanted {
                return true;
            }
            // Written or brought in since.
            let pages = ask(wanted_begin, wanted_end - wanted_begin) << skipped;
            block.pages.fetch_or(pages, Relaxed);
            pages & wanted == wanted
        })
    }

    /// The range has been told to leave memory.
    pub(super) fn forget(&self, first: usize, length: usize) {
        for number in self.numbers(first, length) {
            self.blocks[number].asked_ms.store(0, Relaxed);
        }
    }

    /// The blocks that a range touches.
    fn numbers(&self, first: usize, length: usize) -> std::ops::Range<usize> {
        let block_bytes = BLOCK_PAGES * self.page_bytes;
        if length == 0 { 0..0 } else { first / block_bytes..(first + length).div_ceil(block_bytes) }
    }
}

/// So many ones.
fn bits(count: usize) -> u64 {
    if count >= BLOCK_PAGES { u64::MAX } else { (1 << count) - 1 }
}

/// Precise to a few milliseconds, and cheaper for that.
fn now_ms() -> u32 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    (now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000) as u32
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    const PAGE: usize = 4096;
    const BLOCK: usize = BLOCK_PAGES * PAGE;
    const LENGTH: usize = 3 * BLOCK + 2 * PAGE;

    #[test]
    fn the_kernel_is_asked_once_in_a_while_about_what_is_there_and_always_about_what_is_not() {
        let residency = Residency::of(LENGTH, PAGE);
        let questions = RefCell::new(Vec::new());
        // The last two pages of the second block are not there at first.
        let absent = Cell::new((2 * BLOCK - 2 * PAGE, 2 * BLOCK));
        let look = |now_ms, first, length| {
            questions.borrow_mut().clear();
            let is_there = residency.of_range_at(now_ms, first, length, |first, length| {
                questions.borrow_mut().push((first, length));
                let (begin, end) = absent.get();
                let is_there = |page: usize| (first + page * PAGE < begin || first + page * PAGE >= end) as u64;
                (0..length.div_ceil(PAGE)).map(|page| is_there(page) << page).sum()
            });
            (is_there, questions.borrow().clone())
        };
        let (first_block, second_block) = ((0, BLOCK), (BLOCK, BLOCK));
        for (now_ms, first, length, is_there, questions) in [
            (1000, PAGE, PAGE, true, vec![first_block]),
            (1499, 0, BLOCK, true, vec![]),
            (1500, 2 * PAGE, 1, true, vec![first_block]),
            // Near what is not there, and it.
            (1500, BLOCK + PAGE, PAGE, true, vec![second_block]),
            (1600, BLOCK + 7 * PAGE, 3 * PAGE, true, vec![]),
            (1600, 2 * BLOCK - 2 * PAGE, PAGE, false, vec![(2 * BLOCK - 2 * PAGE, PAGE)]),
            (1600, 2 * BLOCK - 4 * PAGE, 3 * PAGE, false, vec![(2 * BLOCK - 4 * PAGE, 3 * PAGE)]),
            // Over a border, and at the end.
            (1600, 2 * BLOCK - PAGE, 2 * PAGE, false, vec![(2 * BLOCK - PAGE, PAGE)]),
            (1600, 3 * BLOCK, 2 * PAGE, true, vec![(3 * BLOCK, 2 * PAGE)]),
            (1700, 3 * BLOCK + PAGE, PAGE, true, vec![]),
            (1700, 5 * PAGE, 0, true, vec![]),
        ] {
            assert_eq!(look(now_ms, first, length), (is_there, questions), "{first}+{length} at {now_ms}");
        }
        absent.set((0, 0));
        let page = 2 * BLOCK - 2 * PAGE;
        assert_eq!(look(1800, page, PAGE), (true, vec![(page, PAGE)]), "it has been written meanwhile");
        assert_eq!(look(1800, page, PAGE), (true, vec![]));
        residency.forget(3 * BLOCK, PAGE);
        assert_eq!(look(1800, 3 * BLOCK, 2 * PAGE).1.len(), 1, "what was let go is asked about");
        // The clock wraps after 49 days.
        assert_eq!(look(u32::MAX, 2 * BLOCK, 1).1.len(), 1);
        assert_eq!(look(100, 2 * BLOCK, 1).1.len(), 0);
    }
}
