//! The parts of an open store, and the small operations they share. Each larger one lives in the module named after it,
//! as an `impl Core` of its own: `writer` (append and publish), `syncer` (durability, sealing), `segment::reclaimer`,
//! `touch_snapshot`, `recovery`.
//!
//! `Core` has no threads and never waits for one: everything it does happens in a call, with time from its [`Clock`] and
//! bytes through its [`Disk`]. `background` drives it in production, a test drives it step by step.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cask_index::{Digest, DigestFunction, Found, Key, Keyer, Location, Namespace, Table, TouchEpoch};
use parking_lot::Mutex;

use crate::clock::Clock;
use crate::commit_queue::CommitQueue;
use crate::config::Plan;
use crate::counters::Counters;
use crate::disk::Disk;
use crate::error::EngineError;
use crate::format::record::{RecordHeader, RecordKind, payload_checksum};
use crate::format::segment::LaneClass;
use crate::format::superblock::Superblock;
use crate::large_upload::LargeUploads;
use crate::recovery::Loading;
use crate::scrub::Scrubber;
use crate::segment::horizon::Horizon;
use crate::segment::lane::{Lane, OpenSegment};
use crate::segment::lease::{LeasedShare, RewriteCredit, Window};
use crate::segment::ledger::{Ledger, Shortage};
use crate::segment::reclaimer::ActionPass;
use crate::segment::{Pin, PinnedRange};

/// Entries that came from a crash are protected by the floor until then: nobody knows when they were last touched.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CrashProtection {
    pub(crate) sequence_max: u64,
    pub(crate) until_ms: u64,
}

pub(crate) struct Core {
    pub(crate) plan: Plan,
    pub(crate) superblock: Superblock,
    pub(crate) keyer: Keyer,
    pub(crate) index: Table,
    pub(crate) ledger: Ledger,
    /// By [`LaneClass::index`].
    pub(crate) lanes: [Mutex<Lane>; 4],
    /// Held from planning an append to the action lane to its end: the writer appends there, and reclaim too, and what one
    /// plans the other must not write over. The other lanes have one appender each.
    pub(crate) action_appends: Mutex<()>,
    /// Segments that took their last record and wait for the syncer.
    pub(crate) sealing: Mutex<VecDeque<OpenSegment>>,
    pub(crate) queue: CommitQueue,
    /// Uploads of large blobs under way: their parts have no head yet.
    pub(crate) large_uploads: Arc<LargeUploads>,
    pub(crate) crash_protection: CrashProtection,
    pub(crate) counters: Counters,
    pub(crate) scrubber: Scrubber,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) loading: Loading,
    /// There are segments that could not be opened.
    pub(crate) has_unusable: bool,
    /// As the superblock has it, or as it will have when the store is closed.
    pub(crate) has_namespaces: AtomicBool,
    pub(crate) nonces: AtomicU64,
    /// The last stamp drawn.
    pub(crate) stamps: AtomicU64,
    pub(crate) rewrite_credit: Mutex<RewriteCredit>,
    pub(crate) window: Mutex<Window>,
    pub(crate) leased_share: Mutex<LeasedShare>,
    pub(crate) action_pass: Mutex<ActionPass>,
    pub(crate) horizon: Mutex<Horizon>,
    /// Period of the touch epochs in which maintenance ran last.
    pub(crate) maintained_period: AtomicU64,
    pub(crate) touches_saved_ms: AtomicU64,
}

/// What a look at a record found.
pub(crate) enum Looked {
    /// It is what was asked for, header and payload checked. The range is the payload.
    Payload(RecordHeader, PinnedRange),
    /// Reading would wait for the device and the caller may not.
    NotResident,
    /// Not there (any more).
    Absent,
    /// There, and damaged: it was taken out of the index.
    Corrupt,
    /// There, and it could not be read just now (no memory, say).
    Unreadable(String),
}

/// What a device says of bytes that are lost, and not of a machine that is short of something.
pub(crate) fn is_media_error(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EFAULT | libc::EHWPOISON))
}

/// What stands at a location.
enum Checked {
    Meant(RecordHeader, PinnedRange),
    /// A sound header of something else.
    Another,
    Damaged,
}

/// A stamp is milliseconds and a counter: 44 + 12 bits.
const STAMP_COUNTER_BITS: u32 = 12;

/// A record is looked for again when it moved while it was looked at; reclaim moves a record at most once a rotation.
const LOOKS_MAX: usize = 4;

impl Core {
    pub(crate) fn epoch(&self) -> TouchEpoch {
        self.plan.epochs.epoch_at(self.clock.now_ms())
    }

    pub(crate) fn lane(&self, class: LaneClass) -> &Mutex<Lane> {
        &self.lanes[class.index()]
    }

    /// For an answer of "not there": to be asked before the index is.
    pub(crate) fn require_loaded(&self) -> Result<(), EngineError> {
        if self.loading.is_complete() { Ok(()) } else { Err(EngineError::Loading) }
    }

    /// Touches and answers whether the blob is there. The empty blob always is.
    pub(crate) fn contains(&self, digest: &Digest) -> bool {
        digest.is_empty_blob() || self.index.touch(self.keyer.blob(digest), self.epoch())
    }

    /// Looks up `key`, pins its segment and checks that the record there is the one meant: kind and digest equal,
    /// header and payload checksums right.
    pub(crate) fn look(&self, key: Key, may_block: bool, is_meant: impl Fn(&RecordHeader) -> bool) -> Looked {
        for _ in 0..LOOKS_MAX {
            let Some(Found { location, .. }) = self.index.get(key) else { return Looked::Absent };
            let Some(range) = self.pin(location) else { continue };
            if !range.is_resident() {
                if !may_block {
                    return Looked::NotResident;
                }
                if let Err(error) = range.make_resident() {
                    tracing::error!(event = "read_failed", segment = location.segment(), offset = location.offset_bytes(), %error, "record unreadable");
                    if is_media_error(&error) {
                        self.drop_corrupt(key, location);
                        return Looked::Corrupt;
                    }
                    return Looked::Unreadable(error.to_string());
                }
            }
            match self.check(range, location, &is_meant) {
                Checked::Meant(header, payload) => return Looked::Payload(header, payload),
                // A good record of another digest: the index took a wrong size, or another key, for it. It stays, or
                // whoever searches for such a size could take anybody's blob away.
                Checked::Another if self.index.get(key).is_some_and(|now| now.location == location) => {
                    return Looked::Absent;
                }
                Checked::Another | Checked::Damaged => {}
            }
            // The entry may have moved, and its old place been written over, between lookup and pin.
            if self.index.get(key).is_some_and(|now| now.location == location) {
                self.drop_corrupt(key, location);
                return Looked::Corrupt;
            }
        }
        Looked::Absent
    }

    pub(crate) fn pin(&self, location: Location) -> Option<PinnedRange> {
        let segment = self.ledger.segment(location.segment())?;
        Some(PinnedRange::record(Pin::take(segment)?, location))
    }

    /// The header at a pinned location, if one of this life stands there.
    pub(crate) fn header_at(&self, range: &PinnedRange, location: Location) -> Option<RecordHeader> {
        let place = range.pin.segment().place(self.superblock.store_id, location.offset_bytes());
        let header = RecordHeader::decode(range.header_bytes(), &place)?;
        (header.record_length_bytes() == location.length_bytes() as usize).then_some(header)
    }

    /// The header at a location, waiting for the disk where needed; the pin keeps it true. The record behind it may not be in
    /// memory.
    pub(crate) fn header_of_record(&self, location: Location) -> Option<(RecordHeader, PinnedRange)> {
        let range = self.pin(location)?;
        range.make_header_resident().ok()?;
        let header = self.header_at(&range, location)?;
        Some((header, range))
    }

    fn check(&self, range: PinnedRange, location: Location, is_meant: impl Fn(&RecordHeader) -> bool) -> Checked {
        let Some(header) = self.header_at(&range, location) else { return Checked::Damaged };
        if !is_meant(&header) {
            return Checked::Another;
        }
        let payload = range.narrow(header.length_bytes() as u32, header.stored_length_bytes);
        if payload_checksum(payload.as_ref()) == header.payload_checksum {
            Checked::Meant(header, payload)
        } else {
            Checked::Damaged
        }
    }

    pub(crate) fn drop_corrupt(&self, key: Key, location: Location) {
        if self.index.remove(key, location) {
            self.counters.corrupt_records.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                event = "corrupt_record",
                segment = location.segment(),
                offset = location.offset_bytes(),
                "a record failed its checks and is a miss from now on"
            );
        }
    }

    /// A part of the large blob is gone: it is a miss from now on, so that a client uploads it again. A head that was
    /// replaced meanwhile (evicted, uploaded anew) has another nonce and stays.
    pub(crate) fn forget_head(&self, head_key: Key, nonce: u64) -> bool {
        let Some(Found { location, .. }) = self.index.get(head_key) else { return false };
        let head = self.header_of_record(location);
        let is_same = head.and_then(|(head, _)| head.part).is_some_and(|tag| tag.nonce == nonce);
        is_same && self.index.remove(head_key, location)
    }

    /// The digest of the blob with this hash, its size read from its record.
    pub(crate) fn find_by_hash(&self, namespace: Namespace, function: DigestFunction, hash: &[u8]) -> Option<Digest> {
        let unsized_digest = Digest::new(function, hash, 0).ok()?.within(namespace);
        if function.empty_blob().hash() == hash {
            return Some(function.empty_blob().within(namespace));
        }
        let mut found = None;
        self.index.for_each_of_hash(self.keyer.blob(&unsized_digest), |location| {
            let header = self.pin(location).and_then(|range| {
                range.make_resident().ok()?;
                self.header_at(&range, location)
            });
            if let Some(header) = header.filter(|header| {
                matches!(header.kind, RecordKind::Blob | RecordKind::Head)
                    && header.digest.hash() == hash
                    && header.digest.function() == function
                    && header.digest.namespace() == namespace
            }) {
                found = Some(header.digest);
            }
        });
        found
    }

    /// `Full`, with advice.
    pub(crate) fn full(&self, until_ms: u64) -> EngineError {
        self.counters.uploads_refused.fetch_add(1, Ordering::Relaxed);
        let now_ms = self.clock.now_ms();
        let retry_after = Duration::from_millis(until_ms.saturating_sub(now_ms).max(1000));
        let shortage = if self.ledger.disk_is_full(now_ms) { Shortage::Disk } else { self.ledger.shortage() };
        let max_size_bytes = self.plan.max_size_bytes;
        let advice = match shortage {
            Shortage::Disk => {
                "the store is full: the disk under it has no room for what --max-size allows; free some, or lower --max-size"
                    .to_owned()
            }
            Shortage::Floor => format!(
                "the store is full: everything in it was used within the lease floor of {} s; raise --max-size (now {max_size_bytes} bytes) or lower --lease-floor",
                self.plan.lease_floor_ms / 1000,
            ),
            Shortage::Readers { segments } => format!(
                "the store is full: {segments} of its segments are emptied and slow downloads still hold bytes of them; try again, and if it stays so raise --max-size (now {max_size_bytes} bytes)"
            ),
            Shortage::Reclaim => format!(
                "the store is full: uploads come faster than room is made for them; try again, and if it stays so look for disk errors in the log or raise --max-size (now {max_size_bytes} bytes)"
            ),
        };
        EngineError::Full { retry_after, advice }
    }

    /// Greater than every stamp of this store before, also across restarts (see recovery) and a clock that was set back.
    pub(crate) fn draw_stamp(&self) -> u64 {
        let now = self.clock.now_ms() << STAMP_COUNTER_BITS;
        let next = |last: u64| Some((last + 1).max(now));
        self.stamps.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).map_or(now, |last| (last + 1).max(now))
    }

    /// A number that no other large upload of this store has: parts of two uploads never share keys.
    pub(crate) fn draw_nonce(&self) -> u64 {
        self.nonces.fetch_add(1, Ordering::Relaxed)
    }
}
