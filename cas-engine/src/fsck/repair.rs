//! Making a store whole: what is sound stays, what is damaged goes for good.
//!
//! The order of the writes is such that a crash after any of them leaves a store that opens, and a second repair ends
//! what the first began:
//!
//! - The superblock loses its mark of an orderly close before anything that the touches speak of changes, and gets it back
//!   at the end, when the touches fit again.
//! - In a segment: its length, then its header, then zeros over what must not be taken for a record, then the footer, each
//!   synced before the next. A half-written footer is no footer; the records are then found by their headers.
//! - A lost superblock took the key seed with it, so the keys in all footers mean nothing any more. All footers go first,
//!   then the new superblock comes (from here on the store opens, by its records), then the footers with new keys.
//!   Action results are dropped: the keys of their closures cannot be made again.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::files::give_length;
use super::segment::{Examined, State, examine};
use super::store::Store;
use crate::engine::SUPERBLOCK_NAME;
use crate::format::footer::{Footer, FooterEntry, TRAILER_BYTES};
use crate::format::record::RecordKind;
use crate::format::segment::SEGMENT_HEADER_BYTES;
use crate::format::superblock::Superblock;
use crate::format::touches::TouchSnapshot;
use crate::touch_snapshot;

/// Zeros are written in pieces of this size.
const ZEROS_BYTES: usize = 64 * 1024;

pub(super) fn repair(
    store: &Store,
    damaged: &[(u32, u64)],
    missing_lives: &[(u32, u64)],
    writes_max: Option<u64>,
) -> io::Result<()> {
    let mut repair = Repair { store, writes_left: writes_max };
    if store.is_trusted { repair.mend(damaged, missing_lives) } else { repair.rebuild() }
}

/// A repair under way: every write goes through it.
struct Repair<'a> {
    store: &'a Store,
    writes_left: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    All,
    AllButActions,
}

impl Repair<'_> {
    fn mend(&mut self, damaged: &[(u32, u64)], missing_lives: &[(u32, u64)]) -> io::Result<()> {
        let store = self.store;
        let was_clean = store.superblock.clean;
        if was_clean {
            self.write_superblock(false)?;
        }
        let mut snapshot = store.snapshot.clone();
        for (number, file_bytes) in damaged {
            let examined = examine(store, *number, *file_bytes, &mut |_| {})?;
            self.write_segment(&examined, Keep::All)?;
            if let Some(snapshot) = &mut snapshot {
                adjust(snapshot, &examined);
            }
        }
        match &mut snapshot {
            Some(snapshot) => {
                missing_lives.iter().for_each(|life| {
                    snapshot.segments.remove(life);
                });
                self.count()?;
                store.folder.replace_small(touch_snapshot::FILE_NAME, &snapshot.encode())?;
            }
            None => self.remove_touches()?,
        }
        if was_clean { self.write_superblock(true) } else { Ok(()) }
    }

    fn rebuild(&mut self) -> io::Result<()> {
        let store = self.store;
        let size_bytes = store.superblock.geometry.segment_size_bytes;
        let trailer_at = u64::from(size_bytes - TRAILER_BYTES);
        let mut footed = Vec::new();
        for (number, file_bytes) in &store.listing.segments {
            let file = store.folder.open_to_write(*number)?;
            if *file_bytes != u64::from(size_bytes) {
                self.count()?;
                give_length(&file, size_bytes)?;
            }
            let mut trailer = [0; TRAILER_BYTES as usize];
            file.read_exact_at(&mut trailer, trailer_at)?;
            if trailer != [0; TRAILER_BYTES as usize] {
                footed.push((*number, Footer::sequence_of(&trailer)));
                self.write_if_other(&file, trailer_at, &[0; TRAILER_BYTES as usize])?;
            }
        }
        self.remove_touches()?;
        self.write_superblock(false)?;
        for (number, _) in &store.listing.segments {
            let mut examined = examine(store, *number, u64::from(size_bytes), &mut |_| {})?;
            // A trailer of an earlier life says nothing of the one that was going on.
            let life = examined.header.map(|header| header.sequence);
            if life.is_some() && footed.contains(&(*number, life)) {
                examined.state = State::Sealed;
            }
            self.write_segment(&examined, Keep::AllButActions)?;
        }
        Ok(())
    }

    fn write_superblock(&mut self, clean: bool) -> io::Result<()> {
        self.count()?;
        let superblock = Superblock { clean, ..self.store.superblock.clone() };
        self.store.folder.replace_small(SUPERBLOCK_NAME, &superblock.encode())
    }

    fn remove_touches(&mut self) -> io::Result<()> {
        if self.store.folder.read_small(touch_snapshot::FILE_NAME)?.is_none() {
            return Ok(());
        }
        self.count()?;
        self.store.folder.remove(touch_snapshot::FILE_NAME)
    }

    fn write_segment(&mut self, examined: &Examined, keep: Keep) -> io::Result<()> {
        let size_bytes = self.store.superblock.geometry.segment_size_bytes;
        let file = self.store.folder.open_to_write(examined.number)?;
        if examined.file_bytes != u64::from(size_bytes) {
            self.count()?;
            give_length(&file, size_bytes)?;
        }
        let Some(header) = &examined.header else { return Ok(()) };
        self.write_if_other(&file, 0, &header.encode(&self.store.superblock.store_id))?;
        let is_kept = |entry: &FooterEntry| keep == Keep::All || entry.kind != RecordKind::Action;
        let (kept, dropped): (Vec<FooterEntry>, Vec<FooterEntry>) =
            examined.sound.iter().partition(|entry| is_kept(entry));
        for range in &examined.zero {
            self.write_zeros(&file, u64::from(range.start), (range.end - range.start) as usize)?;
        }
        for entry in dropped {
            self.write_zeros(&file, u64::from(entry.offset_bytes), entry.length_bytes as usize)?;
        }
        file.sync_all()?;
        if examined.state != State::Sealed {
            return Ok(());
        }
        let end_bytes = kept.last().map_or(SEGMENT_HEADER_BYTES, |entry| entry.offset_bytes + entry.length_bytes);
        let footer = Footer {
            sequence: header.sequence,
            sealed_ms: examined.footer.as_ref().map_or(header.opened_ms, |footer| footer.sealed_ms),
            end_bytes,
            entries: kept,
        };
        let bytes = footer.encode();
        self.write_if_other(&file, u64::from(size_bytes) - bytes.len() as u64, &bytes)
    }

    /// What is there already is not written again.
    fn write_if_other(&mut self, file: &File, at_bytes: u64, bytes: &[u8]) -> io::Result<()> {
        let mut there = vec![0; bytes.len()];
        if file.read_exact_at(&mut there, at_bytes).is_ok() && there == bytes {
            return Ok(());
        }
        self.count()?;
        file.write_all_at(bytes, at_bytes)?;
        file.sync_all()
    }

    fn write_zeros(&mut self, file: &File, at_bytes: u64, length_bytes: usize) -> io::Result<()> {
        self.count()?;
        let zeros = vec![0; ZEROS_BYTES.min(length_bytes)];
        for offset in (0..length_bytes).step_by(ZEROS_BYTES) {
            let piece = &zeros[..ZEROS_BYTES.min(length_bytes - offset)];
            file.write_all_at(piece, at_bytes + offset as u64)?;
        }
        Ok(())
    }

    fn count(&mut self) -> io::Result<()> {
        match &mut self.writes_left {
            Some(0) => return Err(io::Error::other("told to stop here")),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }
}

/// The touches are in the order of the footer, which may list fewer records now.
fn adjust(snapshot: &mut TouchSnapshot, examined: &Examined) {
    let Some(header) = &examined.header else { return };
    let Some(touches) = snapshot.segments.get_mut(&(examined.number, header.sequence)) else { return };
    let before = examined.footer.iter().flat_map(|footer| &footer.entries);
    let positions: HashMap<u32, usize> =
        before.enumerate().map(|(position, entry)| (entry.offset_bytes, position)).collect();
    let touch = |entry: &FooterEntry| touches.get(*positions.get(&entry.offset_bytes)?).copied();
    let kept: Option<Vec<u8>> = examined.sound.iter().map(touch).collect();
    // Which byte was whose is not known: no touches, and all that is there counts.
    *touches = kept.unwrap_or_default();
}
