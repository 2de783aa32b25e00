//! What holds between records: a large blob has all its parts and hashes to its digest, an action result finds the blobs
//! it needs.
//!
//! Memory: the keys of all live blobs, in a hash set (20 to 40 bytes a blob, less than twice what the index of the running
//! store takes), and about 100 bytes a part, a head and an action. Nothing of the records themselves is kept.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use cask_index::{Hasher, Key, Location};
use parking_lot::Mutex;

use super::files::{FileBytes, segment_path};
use super::finding::{Fault, Finding};
use super::segment::SoundRecord;
use super::store::Store;
use crate::encoding;
use crate::format::action::ActionPayload;
use crate::format::record::{PartTag, RecordHeader, RecordKind};
use crate::walk::SegmentBytes;

const SHARDS: usize = 64;

/// A head or an action: of several under a key, the one with the greatest stamp counts.
#[derive(Clone, Copy)]
struct Stamped {
    header: RecordHeader,
    location: Location,
}

/// Filled from all threads while segments are examined.
pub(super) struct Catalog {
    blobs: Vec<Mutex<HashSet<Key>>>,
    parts: Mutex<HashMap<Key, Stamped>>,
    heads: Mutex<HashMap<Key, Stamped>>,
    actions: Mutex<HashMap<Key, Stamped>>,
}

/// What the second look came to.
#[derive(Default)]
pub(super) struct Relations {
    pub(super) findings: Vec<Finding>,
    /// Heads that must go.
    pub(super) doomed: Vec<(u32, u32)>,
    pub(super) blob_count: u64,
    pub(super) large_count: u64,
    pub(super) action_count: u64,
    pub(super) incomplete_action_count: u64,
    pub(super) read_bytes: u64,
}

impl Catalog {
    pub(super) fn new() -> Self {
        Self {
            blobs: (0..SHARDS).map(|_| Mutex::default()).collect(),
            parts: Mutex::default(),
            heads: Mutex::default(),
            actions: Mutex::default(),
        }
    }

    fn shard(&self, key: Key) -> &Mutex<HashSet<Key>> {
        // Keys are mixed: any byte will do.
        &self.blobs[usize::from(key.to_bytes()[0]) % SHARDS]
    }

    pub(super) fn add(&self, record: SoundRecord) {
        let SoundRecord { key, header, location } = record;
        let stamped = Stamped { header, location };
        let newest = |map: &Mutex<HashMap<Key, Stamped>>| {
            let mut map = map.lock();
            let kept = map.entry(key).or_insert(stamped);
            if stamped.header.stamp > kept.header.stamp {
                *kept = stamped;
            }
        };
        match header.kind {
            RecordKind::Blob => {
                self.shard(key).lock().insert(key);
            }
            RecordKind::Part => newest(&self.parts),
            RecordKind::Head => newest(&self.heads),
            RecordKind::Action => newest(&self.actions),
        }
    }

    /// The second look, with all records known.
    pub(super) fn relate(self, store: &Store, threads: usize) -> Relations {
        let blob_count: usize = self.blobs.iter().map(|shard| shard.lock().len()).sum();
        let mut relations = Relations { blob_count: blob_count as u64, ..Relations::default() };
        let heads: Vec<(Key, Stamped)> = std::mem::take(&mut *self.heads.lock()).into_iter().collect();
        let parts = std::mem::take(&mut *self.parts.lock());
        let merged = Mutex::new(Relations::default());
        in_parallel(&heads, threads, |work| {
            let mut reader = Reader { store, open: None, read_bytes: 0 };
            let mut own = Relations::default();
            while let Some((key, head)) = work.next() {
                if check_large(store, &parts, &mut reader, head, &mut own) {
                    own.large_count += 1;
                    self.shard(*key).lock().insert(*key);
                }
            }
            own.read_bytes = reader.read_bytes;
            merged.lock().merge(own);
        });
        relations.merge(std::mem::take(&mut *merged.lock()));
        if !store.is_trusted {
            // The keys of their closures were made with a seed that is lost.
            return relations;
        }
        let actions: Vec<Stamped> = std::mem::take(&mut *self.actions.lock()).into_values().collect();
        relations.action_count = actions.len() as u64;
        in_parallel(&actions, threads, |work| {
            let mut reader = Reader { store, open: None, read_bytes: 0 };
            let mut own = Relations::default();
            while let Some(action) = work.next() {
                self.check_action(&mut reader, action, &mut own);
            }
            merged.lock().merge(own);
        });
        relations.merge(merged.into_inner());
        relations
    }

    fn check_action(&self, reader: &mut Reader<'_>, action: &Stamped, relations: &mut Relations) {
        let payload = reader.payload(action).map(Bytes::copy_from_slice);
        let Some(payload) = payload.as_ref().and_then(ActionPayload::decode) else { return };
        let (mut needed, mut missing) = (0, 0);
        for key in payload.closure() {
            needed += 1;
            missing += u32::from(!self.shard(key).lock().contains(&key));
        }
        if missing > 0 {
            relations.incomplete_action_count += 1;
            relations.find(action, Fault::ActionIncomplete { missing, needed });
        }
    }
}

/// Whether the large blob is whole.
fn check_large(
    store: &Store,
    parts: &HashMap<Key, Stamped>,
    reader: &mut Reader<'_>,
    head: &Stamped,
    relations: &mut Relations,
) -> bool {
    let digest = head.header.digest;
    let part_count = digest.size_bytes().div_ceil(u64::from(store.superblock.geometry.part_size_bytes));
    let tag = head.header.part.unwrap_or_default();
    let part = |number: u32| {
        let is_it = |part: &&Stamped| {
            part.header.digest == digest && part.header.part == Some(PartTag { nonce: tag.nonce, number })
        };
        parts.get(&store.keyer.part(tag.nonce, number)).filter(is_it)
    };
    let missing = (0..tag.number).filter(|number| part(*number).is_none()).count() as u32;
    if missing > 0 || u64::from(tag.number) != part_count {
        // Where the store ended without an orderly close, such a head may be one that was evicted long ago, or whose
        // parts a power cut took; opening leaves it out.
        let is_evicted = missing == tag.number;
        if store.knows_what_is_live() || !is_evicted {
            relations.find(head, Fault::PartsMissing { missing, parts: tag.number });
            relations.doom(head);
        }
        return false;
    }
    let mut hasher = Hasher::new(digest.function(), digest.size_bytes());
    for number in 0..tag.number {
        let Some(part) = part(number) else { return false };
        let Some(payload) = reader.payload(part) else { return false };
        let raw = encoding::decode_record(&part.header, payload, store.superblock.geometry.part_size_bytes);
        // What does not decode leaves bytes out.
        hasher.update(raw.as_deref().unwrap_or_default());
    }
    let is_whole = hasher.confirms(&digest);
    if !is_whole {
        relations.find(head, Fault::LargeContentWrong);
        relations.doom(head);
    }
    is_whole
}

impl Relations {
    fn find(&mut self, record: &Stamped, fault: Fault) {
        let number = record.location.segment();
        self.findings.push(Finding {
            path: segment_path(number),
            segment: Some(number),
            offset_bytes: Some(u64::from(record.location.offset_bytes())),
            digest: Some(record.header.digest),
            fault,
        });
    }

    fn doom(&mut self, record: &Stamped) {
        self.doomed.push((record.location.segment(), record.location.offset_bytes()));
    }

    fn merge(&mut self, other: Self) {
        self.findings.extend(other.findings);
        self.doomed.extend(other.doomed);
        self.blob_count += other.blob_count;
        self.large_count += other.large_count;
        self.action_count += other.action_count;
        self.incomplete_action_count += other.incomplete_action_count;
        self.read_bytes += other.read_bytes;
    }
}

/// Payloads by location; parts of a blob stand beside each other, so one file is kept open.
struct Reader<'a> {
    store: &'a Store,
    open: Option<(u32, FileBytes)>,
    read_bytes: u64,
}

impl Reader<'_> {
    fn payload(&mut self, record: &Stamped) -> Option<&[u8]> {
        let number = record.location.segment();
        if self.open.as_ref().is_none_or(|(open, _)| *open != number) {
            let size_bytes = self.store.superblock.geometry.segment_size_bytes;
            self.open = Some((number, self.store.folder.open(number, size_bytes).ok()?));
        }
        let (_, file) = self.open.as_mut()?;
        let at_bytes = record.location.offset_bytes() + record.header.length_bytes() as u32;
        self.read_bytes += u64::from(record.header.stored_length_bytes);
        file.bytes(at_bytes, record.header.stored_length_bytes).ok()
    }
}

/// Items for whoever is free.
pub(super) struct Work<'a, T> {
    items: &'a [T],
    next: &'a AtomicUsize,
}

impl<'a, T> Work<'a, T> {
    pub(super) fn next(&self) -> Option<&'a T> {
        self.items.get(self.next.fetch_add(1, Ordering::Relaxed))
    }
}

pub(super) fn in_parallel<T: Sync>(items: &[T], threads: usize, run: impl Fn(Work<'_, T>) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(items.len()) {
            scope.spawn(|| run(Work { items, next: &next }));
        }
    });
}

/// Bytes read, told to whoever wants to know.
pub(super) struct Meter<'a> {
    pub(super) total_bytes: u64,
    pub(super) read_bytes: AtomicU64,
    pub(super) told: Option<&'a (dyn Fn(super::Progress) + Sync)>,
}

impl Meter<'_> {
    pub(super) fn add(&self, bytes: u64) {
        let read_bytes = self.read_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(told) = self.told {
            told(super::Progress { read_bytes, total_bytes: self.total_bytes });
        }
    }
}
