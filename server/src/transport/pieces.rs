//! Bytes on their way out that lie in several places.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

/// A list of slices, in order; none is empty.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    first: Bytes,
    /// Mostly none, which takes no memory.
    others: VecDeque<Bytes>,
    remaining_bytes: usize,
}

impl From<Bytes> for Pieces {
    fn from(bytes: Bytes) -> Self {
        Self { remaining_bytes: bytes.len(), first: bytes, others: VecDeque::new() }
    }
}

impl From<Vec<Bytes>> for Pieces {
    fn from(slices: Vec<Bytes>) -> Self {
        let remaining_bytes = slices.iter().map(Bytes::len).sum();
        let mut others = VecDeque::from(slices);
        let first = others.pop_front().unwrap_or_default();
        Self { first, others, remaining_bytes }
    }
}

impl From<[Bytes; 2]> for Pieces {
    fn from([first, second]: [Bytes; 2]) -> Self {
        let remaining_bytes = first.len() + second.len();
        Self { first, others: VecDeque::from([second]), remaining_bytes }
    }
}

impl Pieces {
    /// Takes the first `bytes` out; at most as many as remain.
    pub(super) fn split_to(&mut self, bytes: usize) -> Self {
        assert!(bytes <= self.remaining_bytes, "so much does not remain");
        if bytes == self.remaining_bytes {
            return std::mem::take(self);
        }
        self.remaining_bytes -= bytes;
        if bytes < self.first.len() {
            return self.first.split_to(bytes).into();
        }
        let mut taken: Self = std::mem::take(&mut self.first).into();
        while taken.remaining_bytes < bytes {
            let mut next = self.others.pop_front().expect("so much remains");
            let part = next.split_to(next.len().min(bytes - taken.remaining_bytes));
            taken.remaining_bytes += part.len();
            taken.others.push_back(part);
            self.first = next;
        }
        if self.first.is_empty() {
            self.first = self.others.pop_front().unwrap_or_default();
        }
        taken
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.remaining_bytes
    }

    fn chunk(&self) -> &[u8] {
        &self.first
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        if self.remaining_bytes == 0 {
            return 0;
        }
        let all = std::iter::once(&self.first).chain(&self.others);
        slices.iter_mut().zip(all).map(|(slice, bytes)| *slice = IoSlice::new(bytes)).count()
    }

    fn advance(&mut self, bytes: usize) {
        if bytes < self.first.len() {
            self.first.advance(bytes);
            self.remaining_bytes -= bytes;
        } else {
            drop(self.split_to(bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_anywhere_the_bytes_stay_and_so_do_their_places() {
        let slices: Vec<Bytes> =
            ["a", "bcd", "ef", "ghijk"].iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect();
        let whole = slices.concat();
        for first in 0..=whole.len() {
            for second in first..=whole.len() {
                let mut rest = Pieces::from(slices.clone());
                let head = rest.split_to(first);
                let middle = rest.split_to(second - first);
                let mut found = Vec::new();
                for mut piece in [head, middle, rest] {
                    let mut lengths = [IoSlice::new(&[]); 8];
                    let count = piece.chunks_vectored(&mut lengths);
                    assert_eq!(lengths[..count].iter().map(|slice| slice.len()).sum::<usize>(), piece.remaining());
                    assert!(lengths[..count].iter().all(|slice| !slice.is_empty()));
                    while piece.has_remaining() {
                        found.push(piece.chunk()[0]);
                        piece.advance(1);
                    }
                }
                assert_eq!(found, whole, "cut at {first} and {second}");
            }
        }
        let mut uncut = Pieces::from(slices.clone());
        assert_eq!(uncut.split_to(4).others[0].as_ptr(), slices[1].as_ptr(), "nothing is copied");
    }
}
