//! The sealed segments, in the order in which reclaim looks at them.
//!
//! A segment is sealed with the last turn and moves up as those before it are reclaimed (first in, first out). One that
//! is too good to be emptied gets another turn, where it stands: it costs no write. One that the floor protects rests
//! until a time. Each of these is a step in an ordered map, however many segments there are.
//!
//! Segments that hold action results have no turns but their order of age, and only the oldest of them can be looked at.
//! An action's result may be written again under its key, and the older record stays on the disk, dead, until its segment
//! is written over. Were the younger one's segment written over first, a crash would bring the older one back as the
//! present result. For blobs that is harmless: whatever comes back under a digest has its content.

use std::collections::{BTreeMap, HashMap};

use super::ledger::Sealed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Queued { turn: u64 },
    Resting { until_ms: u64, turn: u64 },
    OfActions { sequence: u64 },
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    next_turn: u64,
    queued: BTreeMap<u64, Sealed>,
    resting: BTreeMap<(u64, u64), Sealed>,
    /// By sequence, with their turns.
    of_actions: BTreeMap<u64, (u64, Sealed)>,
    places: HashMap<u32, Place>,
}

impl Turns {
    /// Takes a segment in, with the last turn.
    pub(crate) fn add(&mut self, sealed: Sealed) {
        let turn = self.draw();
        let place = if sealed.holds_actions {
            self.of_actions.insert(sealed.sequence, (turn, sealed));
            Place::OfActions { sequence: sealed.sequence }
        } else {
            self.queued.insert(turn, sealed);
            Place::Queued { turn }
        };
        let before = self.places.insert(sealed.number, place);
        assert!(before.is_none(), "segment {} was sealed twice", sealed.number);
    }

    fn draw(&mut self) -> u64 {
        self.next_turn += 1;
        self.next_turn
    }

    /// The first `count` that may be looked at now.
    pub(crate) fn first(&mut self, count: usize, now_ms: u64) -> Vec<Sealed> {
        while let Some(entry) = self.resting.first_entry().filter(|entry| entry.key().0 <= now_ms) {
            let ((_, turn), sealed) = entry.remove_entry();
            self.places.insert(sealed.number, Place::Queued { turn });
            self.queued.insert(turn, sealed);
        }
        let mut first: Vec<(u64, Sealed)> =
            self.queued.iter().take(count).map(|(turn, sealed)| (*turn, *sealed)).collect();
        let oldest_of_actions = self.of_actions.first_key_value().map(|(_, entry)| *entry);
        first.extend(oldest_of_actions.filter(|(_, sealed)| sealed.retry_at_ms <= now_ms));
        first.sort_unstable_by_key(|(turn, _)| *turn);
        first.into_iter().take(count).map(|(_, sealed)| sealed).collect()
    }

    /// Gives a segment the last turn again. One of actions keeps its place: see the module's head.
    pub(crate) fn requeue(&mut self, number: u32) {
        let Some(Place::Queued { turn }) = self.places.get(&number).copied() else { return };
        let sealed = self.queued.remove(&turn).expect("its place says so");
        let turn = self.draw();
        self.queued.insert(turn, sealed);
        self.places.insert(number, Place::Queued { turn });
    }

    /// Not to be looked at before `until_ms`; its turn is kept.
    pub(crate) fn rest(&mut self, number: u32, until_ms: u64) {
        match self.places.get(&number).copied() {
            Some(Place::Queued { turn }) => {
                let sealed = self.queued.remove(&turn).expect("its place says so");
                self.resting.insert((until_ms, turn), Sealed { retry_at_ms: until_ms, ..sealed });
                self.places.insert(number, Place::Resting { until_ms, turn });
            }
            Some(Place::OfActions { sequence }) => {
                self.of_actions.get_mut(&sequence).expect("its place says so").1.retry_at_ms = until_ms;
            }
            Some(Place::Resting { .. }) | None => {}
        }
    }

    /// The earliest time at which there is one to look at; 0 when there is one already, `None` when none is sealed.
    pub(crate) fn earliest_ms(&self) -> Option<u64> {
        if !self.queued.is_empty() {
            return Some(0);
        }
        let resting = self.resting.first_key_value().map(|((until_ms, _), _)| *until_ms);
        let of_actions = self.of_actions.first_key_value().map(|(_, (_, sealed))| sealed.retry_at_ms);
        resting.into_iter().chain(of_actions).min()
    }

    /// Takes a segment out, if it is in.
    pub(crate) fn remove(&mut self, number: u32) -> Option<Sealed> {
        match self.places.remove(&number)? {
            Place::Queued { turn } => self.queued.remove(&turn),
            Place::Resting { until_ms, turn } => self.resting.remove(&(until_ms, turn)),
            Place::OfActions { sequence } => self.of_actions.remove(&sequence).map(|(_, sealed)| sealed),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Sealed> + '_ {
        let of_actions = self.of_actions.values().map(|(_, sealed)| sealed);
        self.queued.values().chain(self.resting.values()).chain(of_actions).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(number: u32, holds_actions: bool) -> Sealed {
        Sealed { number, sequence: 100 + u64::from(number), sealed_ms: 0, retry_at_ms: 0, holds_actions }
    }

    fn turns(segments: &[(u32, bool)]) -> Turns {
        let mut turns = Turns::default();
        segments.iter().for_each(|(number, holds_actions)| turns.add(sealed(*number, *holds_actions)));
        turns
    }

    fn first(turns: &mut Turns, count: usize, now_ms: u64) -> Vec<u32> {
        turns.first(count, now_ms).iter().map(|sealed| sealed.number).collect()
    }

    #[test]
    fn first_in_first_out_until_one_gets_another_turn() {
        let mut turns = turns(&[(3, false), (1, false), (2, false)]);
        assert_eq!(first(&mut turns, 8, 0), [3, 1, 2]);
        turns.requeue(3);
        assert_eq!(first(&mut turns, 2, 0), [1, 2]);
        turns.remove(1);
        assert_eq!(first(&mut turns, 8, 0), [2, 3]);
    }

    #[test]
    fn one_that_rests_comes_back_to_its_turn() {
        let mut turns = turns(&[(1, false), (2, false), (3, false)]);
        turns.rest(1, 50);
        turns.rest(2, 40);
        turns.rest(2, 99);
        assert_eq!((first(&mut turns, 8, 39), turns.earliest_ms()), (vec![3], Some(0)));
        turns.remove(3);
        assert_eq!((first(&mut turns, 8, 39), turns.earliest_ms()), (vec![], Some(40)));
        assert_eq!(first(&mut turns, 8, 50), [1, 2]);
        turns.rest(2, 60);
        turns.remove(2);
        turns.remove(1);
        assert!(turns.is_empty() && turns.earliest_ms().is_none() && turns.iter().next().is_none());
    }

    /// A crash must never bring an old action result back over a newer one's remains.
    #[test]
    fn of_the_segments_with_actions_only_the_oldest_is_looked_at() {
        let mut turns = turns(&[(5, true), (1, false), (2, true), (7, true)]);
        // Age is the sequence, whatever the order of sealing.
        assert_eq!(first(&mut turns, 8, 0), [1, 2]);
        turns.requeue(2);
        turns.rest(2, 10);
        assert_eq!(first(&mut turns, 8, 9), [1]);
        assert_eq!(first(&mut turns, 8, 10), [1, 2]);
        turns.remove(2);
        assert_eq!(first(&mut turns, 8, 9), [5, 1]);
    }

    /// A store of 10,000 segments that the floor protects: a look takes the few it may look at, and what comes of it is
    /// found again by number, not by search.
    #[test]
    fn ten_thousand_segments_are_looked_at_a_few_at_a_time() {
        let segments: Vec<(u32, bool)> = (0..10_000).map(|number| (number, number % 5 == 0)).collect();
        let mut turns = turns(&segments);
        let mut looks = 0;
        loop {
            let looked_at = turns.first(8, 0);
            if looked_at.is_empty() {
                break;
            }
            assert!(looked_at.len() <= 8);
            looked_at.iter().for_each(|sealed| turns.rest(sealed.number, 1000 + u64::from(sealed.number)));
            looks += 1;
        }
        assert_eq!(looks, 1001, "8,000 without actions, 8 at a time, and one of those with");
        assert_eq!(turns.earliest_ms(), Some(1000));
        assert_eq!(first(&mut turns, 8, 1007), [0, 1, 2, 3, 4, 6, 7]);
    }
}
