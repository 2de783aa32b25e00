//! [`Outbox`]: what is to be sent, gathered so that one write carries many frames.
//!
//! Small bytes are copied into one buffer; long lent ones are kept by reference and written from where they are.

use std::collections::VecDeque;
use std::io::IoSlice;

/// Lent bytes up to this are cheaper copied than written as a piece of their own.
const COPIED_BYTES_MAX: usize = 1024;
/// Pieces given to the kernel at once.
const PIECES_PER_WRITE: usize = 256;

/// Bytes on their way out.
#[derive(Debug, Default)]
pub(crate) struct Outbox<'a> {
    buffer: Vec<u8>,
    /// Where the first buffered piece's bytes lie in `buffer`.
    buffer_begin: usize,
    pieces: VecDeque<Piece<'a>>,
    length_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
enum Piece<'a> {
    /// The next so many bytes of the buffer.
    Buffered(usize),
    Lent(&'a [u8]),
}

impl<'a> Outbox<'a> {
    /// Bytes not written yet.
    #[inline]
    pub(crate) fn length_bytes(&self) -> usize {
        self.length_bytes
    }

    /// Appends a copy.
    #[inline]
    pub(crate) fn copy(&mut self, bytes: &[u8]) {
        self.write(|buffer| buffer.extend_from_slice(bytes));
    }

    /// Appends what `write` appends to the vector it is given.
    #[inline]
    pub(crate) fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.buffer.len();
        write(&mut self.buffer);
        let added = self.buffer.len() - before;
        self.length_bytes += added;
        match self.pieces.back_mut() {
            Some(Piece::Buffered(length)) => *length += added,
            _ => self.pieces.push_back(Piece::Buffered(added)),
        }
    }

    /// Appends bytes that live as long as the run.
    #[inline]
    pub(crate) fn lend(&mut self, bytes: &'a [u8]) {
        if bytes.len() <= COPIED_BYTES_MAX {
            return self.copy(bytes);
        }
        self.length_bytes += bytes.len();
        self.pieces.push_back(Piece::Lent(bytes));
    }

    /// Calls `write` with what is first, and forgets as many bytes as it says it wrote.
    pub(crate) fn send<E>(&mut self, write: impl FnOnce(&[IoSlice<'_>]) -> Result<usize, E>) -> Result<usize, E> {
        if let ([Piece::Buffered(length)], []) = self.pieces.as_slices() {
            // The common case: requests, and no long bodies.
            let written = write(&[IoSlice::new(&self.buffer[self.buffer_begin..self.buffer_begin + length])])?;
            self.forget(written);
            return Ok(written);
        }
        let mut slices = [IoSlice::new(&[]); PIECES_PER_WRITE];
        let mut begin = self.buffer_begin;
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(match *piece {
                Piece::Buffered(length) => {
                    begin += length;
                    &self.buffer[begin - length..begin]
                }
                Piece::Lent(bytes) => bytes,
            });
            count += 1;
        }
        let written = write(&slices[..count])?;
        self.forget(written);
        Ok(written)
    }

    fn forget(&mut self, mut count: usize) {
        self.length_bytes -= count;
        while count > 0 {
            let piece = self.pieces.front_mut().expect("no more is written than there was");
            let length = match piece {
                Piece::Buffered(length) => *length,
                Piece::Lent(bytes) => bytes.len(),
            };
            let gone = length.min(count);
            count -= gone;
            match piece {
                Piece::Buffered(length) => {
                    *length -= gone;
                    self.buffer_begin += gone;
                }
                Piece::Lent(bytes) => *bytes = &bytes[gone..],
            }
            if gone == length {
                self.pieces.pop_front();
            }
        }
        if self.pieces.is_empty() {
            self.buffer.clear();
            self.buffer_begin = 0;
        } else if self.buffer_begin > self.buffer.len() / 2 {
            self.buffer.drain(..self.buffer_begin);
            self.buffer_begin = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_order_however_little_is_taken() {
        let long: Vec<u8> = (0..5000).map(|at| (at % 251) as u8).collect();
        for step in [1, 7, 1023, 1025, 4999, 20_000] {
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            let mut received = Vec::new();
            for round in 0..40u8 {
                outbox.copy(&[round; 9]);
                outbox.lend(&long);
                outbox.lend(&long[..100]);
                expected.extend_from_slice(&[round; 9]);
                expected.extend_from_slice(&long);
                expected.extend_from_slice(&long[..100]);
                take(&mut outbox, step, &mut received);
            }
            while outbox.length_bytes() > 0 {
                take(&mut outbox, step, &mut received);
            }
            assert!(received == expected, "steps of {step}");
        }
    }

    fn take(outbox: &mut Outbox<'_>, step: usize, received: &mut Vec<u8>) {
        let sent: Result<usize, ()> = outbox.send(|slices| {
            let before = received.len();
            received.extend(slices.iter().flat_map(|slice| slice.iter()).take(step));
            Ok(received.len() - before)
        });
        sent.expect("nothing fails");
    }
}
