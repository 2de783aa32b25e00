//! Damage done to a stopped server's files: what a bad disk or a power cut leaves behind.
//!
//! Blobs are found by their bytes, so that the tests know of the files' layout only that a record is aligned to
//! 64 bytes, its header of 64 bytes included.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::process::Server;

const RECORD_ALIGN_BYTES: usize = 64;
/// The header that stands in front of a record's payload.
pub(crate) const RECORD_HEADER_BYTES: u64 = 64;

/// A place in a segment file.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    /// Of the first byte looked for.
    pub(crate) offset: u64,
}

/// Where `data` stands in the store's segments.
pub(crate) fn places_of(server: &Server, data: &[u8]) -> Vec<Place> {
    let mut places = Vec::new();
    for path in server.segment_files() {
        let content = fs::read(&path).expect("a readable segment");
        for offset in (0..content.len()).step_by(RECORD_ALIGN_BYTES) {
            if content[offset..].starts_with(data) {
                places.push(Place { path: path.clone(), offset: offset as u64 });
            }
        }
    }
    places
}

/// Flips a bit of byte `at` in each copy of `data` in the store's segments; how many there were.
pub(crate) fn flip_a_bit(server: &Server, data: &[u8], at: usize) -> usize {
    let places = places_of(server, data);
    for place in &places {
        overwrite(&place.path, place.offset + at as u64, &[data[at] ^ 0x10]);
    }
    places.len()
}

pub(crate) fn overwrite(path: &Path, offset: u64, data: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).expect("a writable segment");
    file.write_all_at(data, offset).expect("a write");
}

pub(crate) fn truncate(path: &Path, length: u64) {
    let file = OpenOptions::new().write(true).open(path).expect("a writable segment");
    file.set_len(length).expect("a file cut short");
}
