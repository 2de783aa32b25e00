//! Checking one live record: its header against the index, its payload against checksum and digest.
//!
//! A blob is hashed whole, decoded if it is stored encoded. A large one is hashed through its head, part after part, one pinned at a time; parts are
//! checked with their head only, so each byte is read once a cycle. What fails is taken out of the index.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cask_index::{Digest, Hasher, Key, Location};

use super::Reading;
use crate::core::{Core, Looked, is_media_error};
use crate::encoding;
use crate::format::footer::FooterEntry;
use crate::format::record::{PartTag, RecordHeader, RecordKind, payload_checksum};
use crate::segment::lane::location_of;
use crate::segment::{PinnedRange, Segment};
use crate::walk::key_of;

/// A large blob under way.
pub(super) struct LargeCheck {
    head_key: Key,
    digest: Digest,
    tag: PartTag,
    next_part: u32,
    hasher: Hasher,
}

impl Core {
    /// Checks what the entry speaks of, if it is live. A head gives the large blob to go on with.
    pub(super) fn scrub_record(&self, number: u32, entry: &FooterEntry, reading: &mut Reading) -> Option<LargeCheck> {
        let location = location_of(number, entry);
        let is_live = self.index.get(entry.key).is_some_and(|found| found.location == location);
        if !is_live || entry.kind == RecordKind::Part {
            return None;
        }
        let range = self.pin(location)?;
        self.counters.scrubbed_records.fetch_add(1, Ordering::Relaxed);
        if !self.bring_in(entry.key, location, &range, reading) {
            return None;
        }
        let header = self.header_at(&range, location).filter(|header| self.is_sound(header, range.as_ref(), entry));
        let Some(header) = header else {
            self.drop_corrupt(entry.key, location);
            return None;
        };
        let tag = header.part.filter(|_| header.kind == RecordKind::Head)?;
        let hasher = Hasher::new(header.digest.function(), header.digest.size_bytes());
        Some(LargeCheck { head_key: entry.key, digest: header.digest, tag, next_part: 0, hasher })
    }

    fn is_sound(&self, header: &RecordHeader, record: &[u8], entry: &FooterEntry) -> bool {
        let payload = &record[header.length_bytes()..][..header.stored_length_bytes as usize];
        header.kind == entry.kind
            && payload_checksum(payload) == header.payload_checksum
            && key_of(header, payload, &self.keyer) == Some(entry.key)
            && (header.kind != RecordKind::Blob || is_content_of(header, payload))
            && (header.kind != RecordKind::Head || self.has_the_parts_of(header))
    }

    fn has_the_parts_of(&self, head: &RecordHeader) -> bool {
        let part_count = head.digest.size_bytes().div_ceil(u64::from(self.plan.geometry.part_size_bytes));
        head.part.is_some_and(|tag| u64::from(tag.number) == part_count)
    }

    /// Hashes the next part; true when there is nothing more to do for this blob.
    pub(super) fn scrub_part(&self, large: &mut LargeCheck, reading: &mut Reading) -> bool {
        let number = large.next_part;
        if number == large.tag.number {
            self.judge_content(large);
            return true;
        }
        let key = self.keyer.part(large.tag.nonce, number);
        if let Some(found) = self.index.get(key)
            && let Some(range) = self.pin(found.location)
        {
            // What it has to say is said below: an entry that it dropped is absent.
            self.bring_in(key, found.location, &range, reading);
        }
        let is_part = |header: &RecordHeader| {
            header.kind == RecordKind::Part
                && header.digest == large.digest
                && header.part == Some(PartTag { nonce: large.tag.nonce, number })
        };
        match self.look(key, true, is_part) {
            Looked::Payload(header, payload) => {
                let part_size_bytes = self.plan.geometry.part_size_bytes;
                let Some(raw) = encoding::decode_record(&header, payload.as_ref(), part_size_bytes) else {
                    if let Some(found) = self.index.get(key) {
                        self.drop_corrupt(key, found.location);
                    }
                    self.forget_large(large);
                    return true;
                };
                large.hasher.update(&raw);
                large.next_part += 1;
                false
            }
            // Evicted meanwhile, then the head is gone or another; or lost, then the blob is.
            Looked::Absent | Looked::Corrupt => {
                self.forget_large(large);
                true
            }
            // Nothing is known of it today; the next cycle comes.
            Looked::NotResident | Looked::Unreadable(_) => true,
        }
    }

    fn forget_large(&self, large: &LargeCheck) {
        if self.forget_head(large.head_key, large.tag.nonce) {
            tracing::error!(event = "large_blob_lost_a_part", digest = %large.digest, part = large.next_part, "it is a miss from now on");
        }
    }

    fn judge_content(&self, large: &LargeCheck) {
        if large.hasher.clone().confirms(&large.digest) {
            return;
        }
        let Some(found) = self.index.get(large.head_key) else { return };
        let head = self.header_of_record(found.location);
        if head.and_then(|(head, _)| head.part).is_some_and(|tag| tag.nonce == large.tag.nonce) {
            self.drop_corrupt(large.head_key, found.location);
        }
    }

    /// Waits for the device. False when there is nothing to look at: the range cannot be read, and if the bytes are lost
    /// its entry is dropped and the segment is not written again.
    fn bring_in(&self, key: Key, location: Location, range: &PinnedRange, reading: &mut Reading) -> bool {
        reading.bytes += u64::from(location.length_bytes());
        if range.is_resident() {
            return true;
        }
        let Some(segment) = self.ledger.segment(location.segment()) else { return false };
        reading.brought.push((Arc::clone(segment), location.offset_bytes(), location.length_bytes()));
        match range.make_resident() {
            Ok(()) => true,
            Err(error) => {
                if is_media_error(&error) {
                    self.drop_corrupt(key, location);
                    self.retire(segment, &error);
                }
                false
            }
        }
    }

    /// The device lost bytes of a sealed segment: what can be read of it stays readable, and it is never written again
    /// in this process (a restart asks the device anew).
    pub(super) fn retire(&self, segment: &Segment, error: &io::Error) {
        if self.ledger.quarantined_segments().contains(&segment.number()) {
            return;
        }
        self.ledger.quarantine(segment.number());
        self.counters.quarantined_segments.fetch_add(1, Ordering::Relaxed);
        tracing::error!(event = "segment_quarantined", segment = segment.number(), %error, "the device lost a part of it");
    }
}

/// Whether a blob's payload decodes to the blob of the digest.
pub(crate) fn is_content_of(header: &RecordHeader, payload: &[u8]) -> bool {
    let Some(raw) = encoding::decode(header.encoding, payload, header.digest.size_bytes()) else { return false };
    Hasher::digest(header.digest.function(), &raw).within(header.digest.namespace()) == header.digest
}
