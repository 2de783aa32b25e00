//! A bucket: one line of fingerprint words and one of location words, and the orders of memory access that let readers go
//! without locks.
//!
//! ```text
//! fingerprint word   63                                         7   6   5        0
//!                    | fingerprint (57), 0 = the slot is empty    |hit| epoch (6) |
//! ```
//! # Protocol
//! Writers of a slot hold their shard's lock, except that anybody may change the *epoch* and the *hit* bit of a slot by
//! compare-and-exchange of the whole word. An entry never leaves its slot but by being removed.
//!
//! - Insert: location first, then the word (release). Who sees the word sees the location or a later one.
//! - Remove: the word becomes 0. The location stays behind, unreachable.
//! - Relocate and replace: the location changes under the word, and the hit bit is cleared: it says "touched since the
//!   record was written where it is", which is what lets a first-in-first-out log tell what is used from what is only new.
//! - Touch: compare-and-exchange from a word with the fingerprint to the same fingerprint, hit, with another epoch. A removed
//!   slot's word is 0 and a reused slot's has another fingerprint, so a late touch fails; it can neither resurrect an
//!   entry nor damage one.
//! - Get: word, location, then the word again. If the slot was given to another key between, either the second word
//!   tells (location stores release, location loads acquire, and the word was cleared before the location changed), or
//!   the slot has been given back to the first key since; then the location may be another entry's. Callers compare the
//!   full digest in the record, so that is a miss, never a wrong blob.

use crate::key::Fingerprint;
use crate::memory::Line;
use crate::sync::{AtomicU64, Ordering};
use crate::{Found, Location, TouchEpoch};

/// Slots of a bucket: 8 words are a cache line. The model checker gets small buckets, since it tries every interleaving.
pub(crate) const SLOTS: usize = if cfg!(loom) { 2 } else { 8 };

/// What a fingerprint word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word(u64);

/// Where the fingerprint begins.
const FINGERPRINT_AT: u32 = TouchEpoch::BITS + 1;
const HIT: u64 = 1 << TouchEpoch::BITS;
const _: () = assert!(FINGERPRINT_AT + Fingerprint::BITS == u64::BITS);

impl Word {
    const EMPTY: Word = Word(0);

    #[inline]
    fn new(fingerprint: Fingerprint, touched: TouchEpoch, hit: bool) -> Self {
        Word(fingerprint.bits() << FINGERPRINT_AT | u64::from(hit) << TouchEpoch::BITS | u64::from(touched.as_u8()))
    }

    #[inline]
    fn holds(self, fingerprint: Fingerprint) -> bool {
        self.0 >> FINGERPRINT_AT == fingerprint.bits()
    }

    #[inline]
    fn touched(self) -> TouchEpoch {
        TouchEpoch::from_u8(self.0 as u8 & ((1 << TouchEpoch::BITS) - 1))
    }

    #[inline]
    fn is_hit(self) -> bool {
        self.0 & HIT != 0
    }

    /// Whether the fingerprint agrees in all bits but the size's.
    fn holds_hash_of(self, fingerprint: Fingerprint) -> bool {
        self != Self::EMPTY
            && self.0 >> FINGERPRINT_AT >> Fingerprint::SIZE_BITS == fingerprint.bits() >> Fingerprint::SIZE_BITS
    }

    #[inline]
    fn with_touched(self, touched: TouchEpoch) -> Self {
        Word(self.0 >> TouchEpoch::BITS << TouchEpoch::BITS | u64::from(touched.as_u8()))
    }
}

/// Slots of a line with the fingerprint, as a bit set. Without branches: which slot holds a key cannot be predicted.
///
/// The loads are relaxed; who goes on to a slot loads its word again with acquire and looks whether it still matches.
#[inline]
pub(crate) fn slots_with(fingerprints: &Line, fingerprint: Fingerprint) -> u32 {
    slots_where(fingerprints, |word| word.holds(fingerprint))
}

/// Slots of a line whose key is of the same hash and any size, as a bit set.
pub(crate) fn slots_with_hash_of(fingerprints: &Line, fingerprint: Fingerprint) -> u32 {
    slots_where(fingerprints, |word| word.holds_hash_of(fingerprint))
}

/// Empty slots of a line, as a bit set. Stays true for its caller only under the shard's lock.
#[inline]
pub(crate) fn empty_slots(fingerprints: &Line) -> u32 {
    slots_where(fingerprints, |word| word == Word::EMPTY)
}

#[inline]
fn slots_where(fingerprints: &Line, is: impl Fn(Word) -> bool) -> u32 {
    let words = fingerprints.words.iter().enumerate();
    words.fold(0, |slots, (slot, word)| slots | u32::from(is(Word(word.load(Ordering::Relaxed)))) << slot)
}

/// How a line's entries differ from one with this fingerprint that was hit in this epoch, at the least.
#[inline]
pub(crate) fn difference(fingerprints: &Line, fingerprint: Fingerprint, epoch: TouchEpoch) -> Difference {
    let wanted = Word::new(fingerprint, epoch, true);
    let differences = fingerprints.words.iter().map(|word| word.load(Ordering::Relaxed) ^ wanted.0);
    Difference(differences.fold(u64::MAX, u64::min))
}

/// What a look-up that touches has to know of a line, in two thirds of the time that [`slots_with`] takes. Which slot it is seldom
/// matters: either there is none, or it was touched in this epoch before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Difference(u64);

impl Difference {
    /// The entry is there as it should be.
    #[inline]
    pub(crate) fn is_nothing(self) -> bool {
        self.0 == 0
    }

    /// The entry is there.
    #[inline]
    pub(crate) fn is_of_touch(self) -> bool {
        self.0 < 1 << FINGERPRINT_AT
    }
}

/// Sets the epoch and the hit bit of a slot found by [`slots_with`] when they differ; false when the entry has been
/// removed since. For anybody, without the lock.
#[inline]
pub(crate) fn touch(word: &AtomicU64, fingerprint: Fingerprint, epoch: TouchEpoch) -> bool {
    let mut current = Word(word.load(Ordering::Relaxed));
    while current.holds(fingerprint) {
        let touched = Word(current.with_touched(epoch).0 | HIT);
        if current == touched {
            return true;
        }
        // Relaxed: the exchange keeps the release of whoever published the word alive, and says nothing about other
        // memory itself. A failure is somebody else's progress: another touch, a sweep, or the entry's end.
        match word.compare_exchange(current.0, touched.0, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(changed) => current = Word(changed),
        }
    }
    false
}

/// Epochs that a sweep takes off the ring, as a bit set over their numbers.
#[derive(Clone, Copy)]
pub(crate) struct StaleEpochs(pub(crate) u64);

/// Sets the entries of a line with stale epochs to OLD. For anybody, without the lock.
#[inline]
pub(crate) fn sweep(fingerprints: &Line, stale: StaleEpochs) {
    // OLD itself is not stale, so empty words need no look of their own.
    debug_assert_eq!(stale.0 & 1, 0);
    for word in &fingerprints.words {
        let current = Word(word.load(Ordering::Relaxed));
        if stale.0 >> current.touched().as_u8() & 1 == 1 {
            // A failure means that the entry was touched or removed just now: nothing left to sweep.
            let swept = current.with_touched(TouchEpoch::OLD).0;
            let _ = word.compare_exchange(current.0, swept, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// Both words of a slot.
#[derive(Clone, Copy)]
pub(crate) struct Slot<'table> {
    pub(crate) word: &'table AtomicU64,
    pub(crate) location: &'table AtomicU64,
}

impl Slot<'_> {
    /// For anybody, without the lock: the entry, unless the slot is not (any more) the fingerprint's.
    #[inline]
    pub(crate) fn get(self, fingerprint: Fingerprint) -> Option<Found> {
        let word = Word(self.word.load(Ordering::Acquire));
        let location = self.location.load(Ordering::Acquire);
        let same = word.holds(fingerprint) && Word(self.word.load(Ordering::Relaxed)).holds(fingerprint);
        same.then(|| Found { location: Location::from_word(location), touched: word.touched(), hit: word.is_hit() })
    }

    /// Fills an empty slot. Under the lock, as everything below.
    pub(crate) fn publish(self, fingerprint: Fingerprint, location: Location, touched: TouchEpoch) {
        debug_assert_eq!(self.word.load(Ordering::Relaxed), Word::EMPTY.0);
        self.location.store(location.to_word(), Ordering::Release);
        self.word.store(Word::new(fingerprint, touched, false).0, Ordering::Release);
    }

    /// Overwrites the fingerprint's entry; a touch that runs beside it counts as before it.
    pub(crate) fn replace(self, fingerprint: Fingerprint, location: Location, touched: TouchEpoch) -> Found {
        let before = self.location.load(Ordering::Relaxed);
        self.location.store(location.to_word(), Ordering::Release);
        let word = Word(self.word.swap(Word::new(fingerprint, touched, false).0, Ordering::AcqRel));
        debug_assert!(word.holds(fingerprint));
        Found { location: Location::from_word(before), touched: word.touched(), hit: word.is_hit() }
    }

    /// The entry of a slot that holds one.
    pub(crate) fn present(self) -> Found {
        let word = Word(self.word.load(Ordering::Relaxed));
        let location = Location::from_word(self.location.load(Ordering::Relaxed));
        Found { location, touched: word.touched(), hit: word.is_hit() }
    }

    /// Changes the location alone, as a relocation does.
    pub(crate) fn point_to(self, location: Location) {
        self.location.store(location.to_word(), Ordering::Release);
        // An exchange of the word with itself: a reader that sees the new location sees a word no older than this.
        self.word.fetch_and(u64::MAX, Ordering::Release);
    }

    /// Sets epoch and hit bit, unless somebody touched the entry since `present` was read.
    pub(crate) fn set_touched_from(self, fingerprint: Fingerprint, present: Found, touched: TouchEpoch, hit: bool) {
        let expected = Word::new(fingerprint, present.touched, present.hit).0;
        let restored = Word::new(fingerprint, touched, hit).0;
        let _ = self.word.compare_exchange(expected, restored, Ordering::Release, Ordering::Relaxed);
    }

    pub(crate) fn relocate(self, from: Location, to: Location) -> bool {
        let here = self.is_at(from);
        if here {
            self.location.store(to.to_word(), Ordering::Release);
            // A touch beside this counts as before it: what is asked for again soon is hit again soon.
            self.word.fetch_and(!HIT, Ordering::Release);
        }
        here
    }

    pub(crate) fn remove(self, location: Location) -> bool {
        let here = self.is_at(location);
        if here {
            // A store would do: a touch that raced with it stands before it or fails. But the model checker does not know
            // that an exchange follows the very word it read, and takes a store beside it for unordered.
            self.word.swap(Word::EMPTY.0, Ordering::Release);
        }
        here
    }

    /// Removes the entry, whosever it is, when its location is doomed.
    pub(crate) fn remove_if(self, is_doomed: impl Fn(Location) -> bool) -> bool {
        let taken = self.word.load(Ordering::Relaxed) != Word::EMPTY.0;
        taken && {
            let location = Location::from_word(self.location.load(Ordering::Relaxed));
            is_doomed(location) && self.remove(location)
        }
    }

    /// Removes only what nobody touched since `found` was read.
    pub(crate) fn remove_untouched(self, fingerprint: Fingerprint, found: Found) -> bool {
        let expected = Word::new(fingerprint, found.touched, found.hit).0;
        self.is_at(found.location)
            && self.word.compare_exchange(expected, Word::EMPTY.0, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    fn is_at(self, location: Location) -> bool {
        self.location.load(Ordering::Relaxed) == location.to_word()
    }
}
