//! What a check knows of the store as a whole before it looks at its records: superblock, touches, lives.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;

use cask_index::Keyer;

use super::files::{Listing, StoreFolder};
use super::finding::{Fault, Finding};
use crate::config::Geometry;
use crate::engine::SUPERBLOCK_NAME;
use crate::error::OpenError;
use crate::format::FORMAT_VERSION;
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::format::superblock::{Superblock, SuperblockError};
use crate::format::touches::TouchSnapshot;
use crate::touch_snapshot;

/// See the module's head.
pub(super) struct Store {
    pub(super) folder: StoreFolder,
    pub(super) listing: Listing,
    /// As it is, or made from the segments where it is lost.
    pub(super) superblock: Superblock,
    /// The superblock is the store's own: its seed made the keys in footers and closures.
    pub(super) is_trusted: bool,
    pub(super) keyer: Keyer,
    pub(super) snapshot: Option<TouchSnapshot>,
    /// The youngest life that a header speaks of.
    pub(super) sequence_max: u64,
    /// Lives by segment, as their headers say.
    lives: HashMap<u32, u64>,
    /// Sound records that must go all the same: heads of large blobs that are not whole.
    pub(super) doomed: HashSet<(u32, u32)>,
}

impl Store {
    /// Locks the folder and finds out what store it is.
    pub(super) fn open(path: &Path, findings: &mut Vec<Finding>) -> Result<Self, OpenError> {
        let folder = StoreFolder::lock(path)?;
        let failed = |source| OpenError::Io { action: "read", path: path.to_owned(), source };
        let listing = folder.list().map_err(failed)?;
        let mut find = |path: &Path, fault| {
            findings.push(Finding { path: path.to_owned(), segment: None, offset_bytes: None, digest: None, fault });
        };
        listing.strays.iter().for_each(|path| find(path, Fault::StrayFile));
        listing.leftovers.iter().for_each(|path| find(path, Fault::Leftover));
        let damage = match folder.read_small(SUPERBLOCK_NAME).map_err(failed)? {
            None => Err(Fault::SuperblockMissing),
            Some(bytes) => match Superblock::decode(&bytes) {
                Ok(superblock) => Ok(superblock),
                Err(SuperblockError::Damaged(reason)) => Err(Fault::SuperblockDamaged(reason.to_owned())),
                Err(SuperblockError::Newer(found)) => {
                    return Err(OpenError::NewerFormat { folder: path.to_owned(), found, supported: FORMAT_VERSION });
                }
            },
        };
        let is_trusted = damage.is_ok();
        let superblock = match damage {
            Ok(superblock) => superblock,
            Err(fault) => {
                let reason =
                    format!("{fault}, and no segment says what store it was; nothing can be saved, remove the folder");
                let made = superblock_of_segments(&folder, &listing).map_err(failed)?;
                let made = made.ok_or(OpenError::DamagedSuperblock { folder: path.to_owned(), reason })?;
                find(Path::new(SUPERBLOCK_NAME), fault);
                made
            }
        };
        if is_trusted && !superblock.clean {
            find(Path::new(SUPERBLOCK_NAME), Fault::Unclean);
        }
        let touches = folder.read_small(touch_snapshot::FILE_NAME).map_err(failed)?;
        let snapshot = touches.as_deref().and_then(TouchSnapshot::decode);
        if touches.is_some() && snapshot.is_none() {
            find(Path::new(touch_snapshot::FILE_NAME), Fault::TouchesDamaged);
        }
        let mut store = Self {
            keyer: Keyer::new(&superblock.key_seed),
            folder,
            listing,
            superblock,
            is_trusted,
            snapshot,
            sequence_max: 0,
            lives: HashMap::new(),
            doomed: HashSet::new(),
        };
        store.read_lives();
        Ok(store)
    }

    fn read_lives(&mut self) {
        let Self { folder, listing, superblock, lives, .. } = self;
        for (number, _) in &listing.segments {
            let header = folder.open(*number, superblock.geometry.segment_size_bytes).ok().and_then(|mut bytes| {
                let block = bytes.bytes_exact(0, SEGMENT_HEADER_BYTES).ok()?;
                SegmentHeader::decode(block, *number, &superblock.store_id)
            });
            lives.extend(header.map(|header| (*number, header.sequence)));
        }
        let known = self.known_snapshot().into_iter().flat_map(|snapshot| snapshot.segments.keys());
        let known = known.map(|(_, sequence)| *sequence).max().unwrap_or(0);
        self.sequence_max = self.lives.values().copied().max().unwrap_or(0).max(known);
    }

    /// The snapshot, where it says which segments were in use and which records were dropped.
    fn known_snapshot(&self) -> Option<&TouchSnapshot> {
        let is_clean = self.is_trusted && self.superblock.clean;
        self.snapshot.as_ref().filter(|snapshot| is_clean && !snapshot.segments.is_empty())
    }

    /// Whether it is certain which records the store would serve.
    pub(super) fn knows_what_is_live(&self) -> bool {
        self.known_snapshot().is_some()
    }

    /// An orderly close knew that nothing in this life is in use any more.
    pub(super) fn is_free(&self, number: u32, sequence: u64) -> bool {
        self.known_snapshot().is_some_and(|snapshot| !snapshot.segments.contains_key(&(number, sequence)))
    }

    /// A byte a record, as an orderly close left them.
    pub(super) fn touches_of(&self, number: u32, sequence: u64) -> Option<&[u8]> {
        self.known_snapshot()?.segments.get(&(number, sequence)).map(Vec::as_slice)
    }

    /// Lives that an orderly close left and no file holds.
    pub(super) fn missing_lives(&self, found: &HashMap<u32, u64>) -> Vec<(u32, u64)> {
        let known = self.known_snapshot().into_iter().flat_map(|snapshot| snapshot.segments.keys());
        known.filter(|(number, sequence)| found.get(number) != Some(sequence)).copied().collect()
    }

    pub(super) fn is_doomed(&self, number: u32, offset_bytes: u32) -> bool {
        self.doomed.contains(&(number, offset_bytes))
    }
}

/// The superblock that the segments give away: whose they are by the most headers, how large by the most lengths. The key
/// seed cannot be known again.
fn superblock_of_segments(folder: &StoreFolder, listing: &Listing) -> io::Result<Option<Superblock>> {
    let mut ids: HashMap<[u8; 16], (usize, u64)> = HashMap::new();
    let mut lengths: HashMap<u64, usize> = HashMap::new();
    for (number, length_bytes) in &listing.segments {
        *lengths.entry(*length_bytes).or_default() += 1;
        let mut bytes = folder.open(*number, SEGMENT_HEADER_BYTES)?;
        let Ok(block) = bytes.bytes_exact(0, SEGMENT_HEADER_BYTES) else { continue };
        let Some(store_id) = SegmentHeader::store_id_of(block) else { continue };
        let opened_ms = SegmentHeader::decode(block, *number, &store_id).map_or(u64::MAX, |header| header.opened_ms);
        let (count, oldest_ms) = ids.entry(store_id).or_insert((0, u64::MAX));
        *count += 1;
        *oldest_ms = opened_ms.min(*oldest_ms);
    }
    let most = ids.into_iter().max_by_key(|(store_id, (count, _))| (*count, *store_id));
    let Some((store_id, (_, created_ms))) = most else { return Ok(None) };
    let sizes = lengths
        .into_iter()
        .filter_map(|(length_bytes, count)| Some((count, Geometry::new(u32::try_from(length_bytes).ok()?).ok()?)));
    let Some((_, geometry)) = sizes.max_by_key(|(count, geometry)| (*count, geometry.segment_size_bytes)) else {
        return Ok(None);
    };
    let mut key_seed = [0; 32];
    let mut filled = 0;
    while filled < key_seed.len() {
        filled += rustix::rand::getrandom(&mut key_seed[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(Some(Superblock {
        store_id,
        key_seed,
        geometry,
        created_ms: created_ms.min(u64::MAX >> 1),
        clean: false,
        has_namespaces: false,
    }))
}
