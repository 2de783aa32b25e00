//! [`Slots`]: things under small numbers, the lowest free number first, so that what is numbered by them (journal slots,
//! indices of tables) stays dense however long a server runs.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Values under `u32` numbers.
#[derive(Debug)]
pub(super) struct Slots<T> {
    values: Vec<Option<T>>,
    /// Numbers below `values.len()` that hold nothing, each once.
    free: BinaryHeap<Reverse<u32>>,
}

impl<T> Slots<T> {
    pub(super) fn new() -> Self {
        Self { values: Vec::new(), free: BinaryHeap::new() }
    }

    /// Puts a value under the lowest free number.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        if let Some(Reverse(number)) = self.free.pop() {
            self.values[number as usize] = Some(value);
            return number;
        }
        let number = u32::try_from(self.values.len()).expect("bounded by the queue's length");
        self.values.push(Some(value));
        number
    }

    /// Fills an empty table with values under numbers of their own, rising and each once.
    pub(super) fn fill(&mut self, values: impl IntoIterator<Item = (u32, T)>) {
        assert!(self.values.is_empty(), "only an empty table is filled");
        for (number, value) in values {
            while self.values.len() < number as usize {
                self.free.push(Reverse(self.values.len() as u32));
                self.values.push(None);
            }
            assert_eq!(self.values.len(), number as usize, "numbers rise");
            self.values.push(Some(value));
        }
    }

    pub(super) fn remove(&mut self, number: u32) -> T {
        let value = self.values[number as usize].take().expect("a number that is in use");
        self.free.push(Reverse(number));
        value
    }

    pub(super) fn find(&self, number: u32) -> Option<&T> {
        self.values.get(number as usize)?.as_ref()
    }

    pub(super) fn get(&self, number: u32) -> &T {
        self.values[number as usize].as_ref().expect("a number that is in use")
    }

    pub(super) fn get_mut(&mut self, number: u32) -> &mut T {
        self.values[number as usize].as_mut().expect("a number that is in use")
    }

    pub(super) fn len(&self) -> usize {
        self.values.len() - self.free.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let with_number = |(number, value): (usize, &'_ Option<T>)| value.as_ref().map(|_| number as u32);
        self.values.iter().enumerate().filter_map(with_number).map(|number| (number, self.get(number)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_number_is_used_first() {
        let mut slots = Slots::new();
        assert_eq!([slots.insert('a'), slots.insert('b'), slots.insert('c'), slots.insert('d')], [0, 1, 2, 3]);
        assert_eq!((slots.remove(2), slots.remove(0)), ('c', 'a'));
        assert_eq!([slots.insert('e'), slots.insert('f'), slots.insert('g')], [0, 2, 4]);
        assert_eq!(slots.len(), 5);
        assert_eq!(slots.iter().map(|(_, value)| *value).collect::<String>(), "ebfdg");
    }

    #[test]
    fn gaps_of_a_filled_table_are_used() {
        let mut slots = Slots::new();
        slots.fill([(1, 'x'), (4, 'y')]);
        assert_eq!(slots.len(), 2);
        assert_eq!([slots.insert('a'), slots.insert('b'), slots.insert('c'), slots.insert('d')], [0, 2, 3, 5]);
        assert_eq!((slots.find(1), slots.find(9)), (Some(&'x'), None));
    }
}
