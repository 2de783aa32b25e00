//! [`Body`]: the bytes of one request, some its own, most of them lent.
//!
//! What is lent outlives the run, so that neither a blob of 64 MiB nor a list of 10,000 digests is copied for a request.

/// A request's bytes in pieces. Reused from request to request.
#[derive(Debug, Default)]
pub(crate) struct Body<'a> {
    own: Vec<u8>,
    pieces: Vec<Piece<'a>>,
    length_bytes: usize,
    /// Where the next byte to be sent lies: a piece, and bytes of it that are gone.
    at: (usize, usize),
}

#[derive(Clone, Copy, Debug)]
enum Piece<'a> {
    Own { begin: usize, end: usize },
    Lent(&'a [u8]),
}

/// Bytes of a body, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'a, 'b> {
    /// To be copied: they are gone when the body is used again.
    Own(&'b [u8]),
    /// Good for as long as the run.
    Lent(&'a [u8]),
}

impl<'a> Body<'a> {
    /// Nothing, again.
    pub(crate) fn clear(&mut self) {
        self.own.clear();
        self.pieces.clear();
        self.length_bytes = 0;
        self.at = (0, 0);
    }

    /// Bytes not sent yet.
    #[inline]
    pub(crate) fn left_bytes(&self) -> usize {
        self.length_bytes
    }

    /// Appends bytes that are written by `write`.
    pub(crate) fn own(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.own.len();
        write(&mut self.own);
        let end = self.own.len();
        self.length_bytes += end - begin;
        match self.pieces.last_mut() {
            Some(Piece::Own { end: last, .. }) => *last = end,
            _ => self.pieces.push(Piece::Own { begin, end }),
        }
    }

    /// Appends bytes that live as long as the run.
    pub(crate) fn lent(&mut self, bytes: &'a [u8]) {
        self.length_bytes += bytes.len();
        self.pieces.push(Piece::Lent(bytes));
    }

    /// Takes the next `count` bytes, at most those that are left.
    #[inline]
    pub(crate) fn take(&mut self, mut count: usize, mut each: impl FnMut(Part<'a, '_>)) {
        count = count.min(self.length_bytes);
        self.length_bytes -= count;
        while count > 0 {
            let (piece, gone) = self.at;
            let length = match self.pieces[piece] {
                Piece::Own { begin, end } => {
                    let bytes = &self.own[begin + gone..end];
                    let bytes = &bytes[..bytes.len().min(count)];
                    each(Part::Own(bytes));
                    bytes.len()
                }
                Piece::Lent(bytes) => {
                    let bytes = &bytes[gone..];
                    let bytes = &bytes[..bytes.len().min(count)];
                    each(Part::Lent(bytes));
                    bytes.len()
                }
            };
            count -= length;
            let whole = match self.pieces[piece] {
                Piece::Own { begin, end } => end - begin,
                Piece::Lent(bytes) => bytes.len(),
            };
            self.at = if gone + length == whole { (piece + 1, 0) } else { (piece, gone + length) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_in_order_however_they_are_cut() {
        let lent = b"lent bytes".as_slice();
        for step in 1..30 {
            let mut body = Body::default();
            body.own(|out| out.extend_from_slice(b"own, "));
            body.own(|out| out.extend_from_slice(b"more, "));
            body.lent(lent);
            body.own(|out| out.extend_from_slice(b", end"));
            let mut all = Vec::new();
            while body.left_bytes() > 0 {
                let before = body.left_bytes();
                body.take(step, |part| match part {
                    Part::Own(bytes) | Part::Lent(bytes) => all.extend_from_slice(bytes),
                });
                assert_eq!(body.left_bytes(), before.saturating_sub(step));
            }
            assert_eq!(all, b"own, more, lent bytes, end");
        }
    }
}
