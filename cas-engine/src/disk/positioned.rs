//! Writing by position, one system call after the other: what always works, and what every other way falls back to.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;

use rustix::io::Errno;

/// The kernel takes at most this many pieces a call.
pub(super) const PIECES_PER_WRITE_MAX: usize = 1024;

/// Writes the pieces, one after the other, from `offset_bytes` on, but for their first `done_bytes`, which are written.
pub(super) fn write(file: &File, offset_bytes: u32, pieces: &[IoSlice<'_>], done_bytes: usize) -> io::Result<()> {
    let mut skip = done_bytes;
    let mut offset = u64::from(offset_bytes) + done_bytes as u64;
    for group in pieces.chunks(PIECES_PER_WRITE_MAX) {
        let group_bytes = bytes_of(group);
        if skip >= group_bytes {
            skip -= group_bytes;
            continue;
        }
        let mut group = group.to_vec();
        let mut rest = group.as_mut_slice();
        IoSlice::advance_slices(&mut rest, skip);
        skip = 0;
        while !rest.is_empty() {
            match rustix::io::pwritev(file.as_fd(), rest, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Makes all completed writes durable.
pub(super) fn sync(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fdatasync(file)?)
}

/// Bytes of the pieces together.
pub(super) fn bytes_of(pieces: &[IoSlice<'_>]) -> usize {
    pieces.iter().map(|piece| piece.len()).sum()
}
