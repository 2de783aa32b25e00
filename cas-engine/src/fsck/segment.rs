//! Examining one segment: what it says it is, what its records are, and whether the two agree. Nothing is written.
//!
//! The footer is not believed: every place where a record may stand is looked at, every payload is hashed. What is found
//! sound is what a repair would keep (`sound`), what is found damaged and might be taken for a record later is what it
//! would write zeros over (`zero`).

use std::ops::Range;

use cask_index::{Digest, Key, Location};

use super::files::{FileBytes, segment_path};
use super::finding::{Fault, Finding};
use super::store::Store;
use crate::format::footer::{Footer, FooterEntry, TRAILER_BYTES};
use crate::format::record::{RECORD_ALIGNMENT_BYTES, RecordHeader, RecordKind};
use crate::format::segment::{LaneClass, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::scrub::is_content_of;
use crate::touch_snapshot::NO_ENTRY;
use crate::walk::{LifePlace, SegmentBytes, Stands, key_of, look_at, walk};

/// A life whose header is lost is looked for this far beyond the youngest known.
const SEQUENCES_AHEAD: u64 = 1024;

/// What a segment file is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing, or nothing any more.
    Free,
    /// It takes records, or took its last when the store ended.
    Open,
    /// It has, or had, a footer.
    Sealed,
}

/// A record that is all it should be.
pub(super) struct SoundRecord {
    pub(super) key: Key,
    pub(super) header: RecordHeader,
    pub(super) location: Location,
}

/// What an examination came to.
pub(super) struct Examined {
    pub(super) number: u32,
    pub(super) state: State,
    /// The life, as it should be written where it is damaged.
    pub(super) header: Option<SegmentHeader>,
    pub(super) findings: Vec<Finding>,
    pub(super) record_count: u64,
    pub(super) read_bytes: u64,
    pub(super) file_bytes: u64,
    /// As it stands, if it can be read.
    pub(super) footer: Option<Footer>,
    pub(super) sound: Vec<FooterEntry>,
    pub(super) zero: Vec<Range<u32>>,
}

impl Examined {
    fn find(&mut self, offset_bytes: Option<u32>, digest: Option<Digest>, fault: Fault) {
        self.findings.push(Finding {
            path: segment_path(self.number),
            segment: Some(self.number),
            offset_bytes: offset_bytes.map(u64::from),
            digest,
            fault,
        });
    }

    /// Whether a repair has anything to write.
    pub(super) fn is_damaged(&self) -> bool {
        self.findings.iter().any(|finding| finding.fault.is_problem())
    }
}

/// Examines a segment; `on_record` gets every sound record that the store would serve.
pub(super) fn examine(
    store: &Store,
    number: u32,
    file_bytes: u64,
    on_record: &mut dyn FnMut(SoundRecord),
) -> std::io::Result<Examined> {
    let size_bytes = store.superblock.geometry.segment_size_bytes;
    let mut bytes = store.folder.open(number, size_bytes)?;
    let mut found = Examined {
        number,
        state: State::Free,
        header: None,
        findings: Vec::new(),
        record_count: 0,
        read_bytes: 0,
        file_bytes,
        footer: None,
        sound: Vec::new(),
        zero: Vec::new(),
    };
    if file_bytes != u64::from(size_bytes) {
        found.find(None, None, Fault::SegmentLength { found: file_bytes, expected: u64::from(size_bytes) });
    }
    let Some(header) = identify(store, &mut bytes, &mut found) else {
        found.read_bytes = bytes.read_bytes;
        return Ok(found);
    };
    found.header = Some(header);
    read_footer(&mut bytes, &header, size_bytes, &mut found);
    let mut examination = Examination::new(store, &mut found, header.sequence);
    let life = LifePlace { store_id: store.superblock.store_id, sequence: header.sequence };
    let to_bytes = examination.end_bytes(size_bytes);
    walk(&mut bytes, &life, SEGMENT_HEADER_BYTES, to_bytes, |offset_bytes, stands| {
        examination.visit(offset_bytes, stands, on_record);
        true
    });
    examination.end(to_bytes, &mut bytes);
    found.record_count = found.sound.len() as u64;
    found.read_bytes = bytes.read_bytes;
    Ok(found)
}

/// Which life this is; `None` when the segment is free.
fn identify(store: &Store, bytes: &mut FileBytes, found: &mut Examined) -> Option<SegmentHeader> {
    let store_id = &store.superblock.store_id;
    let size_bytes = store.superblock.geometry.segment_size_bytes;
    let number = found.number;
    let block = match bytes.bytes(0, SEGMENT_HEADER_BYTES) {
        Ok(block) => block.to_vec(),
        Err(error) => {
            found.find(Some(0), None, Fault::Unreadable(error.to_string()));
            vec![0xff; SEGMENT_HEADER_BYTES as usize]
        }
    };
    let header = SegmentHeader::decode(&block, number, store_id);
    if let Some(header) = header {
        if store.is_free(number, header.sequence) {
            return None;
        }
        if !header.is_whole(&block, store_id) {
            found.find(Some(0), None, Fault::HeaderDamaged);
        }
        return Some(header);
    }
    if block.iter().all(|byte| *byte == 0) {
        return None;
    }
    // The header is gone. The trailer knows the life, or it is looked for: a record is tied to its life.
    let trailer = bytes.bytes(size_bytes - TRAILER_BYTES, TRAILER_BYTES).ok().and_then(Footer::sequence_of);
    let mut stands_at = |sequence: u64| {
        let life = LifePlace { store_id: *store_id, sequence };
        match look_at(bytes, &life, SEGMENT_HEADER_BYTES, size_bytes - TRAILER_BYTES) {
            Stands::Record { header, .. } | Stands::BadPayload { header } => Some(header.kind),
            _ => None,
        }
    };
    let candidates = trailer.into_iter().chain((1..=store.sequence_max.saturating_add(SEQUENCES_AHEAD)).rev());
    let (sequence, kind) = candidates.into_iter().find_map(|sequence| Some((sequence, stands_at(sequence)?)))?;
    if store.is_free(number, sequence) {
        return None;
    }
    let class = match kind {
        RecordKind::Blob => LaneClass::Small,
        RecordKind::Part | RecordKind::Head => LaneClass::Large,
        RecordKind::Action => LaneClass::Action,
    };
    let fault = if trailer == Some(sequence) { Fault::HeaderDamaged } else { Fault::HeaderLost };
    found.find(Some(0), None, fault);
    Some(SegmentHeader { number, sequence, class, opened_ms: store.superblock.created_ms })
}

fn read_footer(bytes: &mut FileBytes, header: &SegmentHeader, size_bytes: u32, found: &mut Examined) {
    let trailer_at = size_bytes - TRAILER_BYTES;
    let trailer = match bytes.bytes(trailer_at, TRAILER_BYTES) {
        Ok(trailer) => trailer.to_vec(),
        Err(error) => {
            found.state = State::Sealed;
            return found.find(Some(trailer_at), None, Fault::Unreadable(error.to_string()));
        }
    };
    let announced = Footer::announced_bytes(&trailer, header.sequence, size_bytes);
    found.footer = announced.and_then(|length_bytes| {
        let footer = bytes.bytes(size_bytes - length_bytes, length_bytes).ok()?;
        Footer::decode(footer, size_bytes)
    });
    // The end of a segment never takes records: it is empty, or of an earlier life, until it is sealed.
    let is_old = Footer::sequence_of(&trailer).is_some_and(|sequence| sequence < header.sequence);
    let is_open = is_old || trailer.iter().all(|byte| *byte == 0);
    found.state = if is_open { State::Open } else { State::Sealed };
    if !is_open && found.footer.is_none() {
        found.find(Some(trailer_at), None, Fault::FooterDamaged);
    }
}

/// A walk under way.
struct Examination<'a> {
    store: &'a Store,
    found: &'a mut Examined,
    /// What the footer lists, by offset, with positions in it.
    listed: Vec<(usize, FooterEntry)>,
    next_listed: usize,
    gap_from: Option<u32>,
    /// Between records of a segment without footer.
    gaps: Vec<Range<u32>>,
    /// Damaged, and no sound record behind it yet.
    tail: Vec<(u32, RecordHeader, Fault)>,
    touches: Option<&'a [u8]>,
    unreadable_to: u32,
    damaged_count: u64,
}

impl<'a> Examination<'a> {
    fn new(store: &'a Store, found: &'a mut Examined, sequence: u64) -> Self {
        let mut listed: Vec<(usize, FooterEntry)> =
            found.footer.iter().flat_map(|footer| footer.entries.iter().copied().enumerate()).collect();
        listed.sort_by_key(|(_, entry)| entry.offset_bytes);
        let touches = store.touches_of(found.number, sequence);
        Self {
            store,
            found,
            listed,
            next_listed: 0,
            gap_from: None,
            gaps: Vec::new(),
            tail: Vec::new(),
            touches,
            unreadable_to: 0,
            damaged_count: 0,
        }
    }

    /// Where records end at most.
    fn end_bytes(&self, size_bytes: u32) -> u32 {
        let room = size_bytes - TRAILER_BYTES;
        self.found.footer.as_ref().map_or(room, |footer| footer.end_bytes.clamp(SEGMENT_HEADER_BYTES, room))
    }

    fn visit(&mut self, offset_bytes: u32, stands: Stands<'_>, on_record: &mut dyn FnMut(SoundRecord)) {
        match stands {
            Stands::Nothing => {
                self.gap_from.get_or_insert(offset_bytes);
            }
            Stands::Hidden { error } => {
                if offset_bytes != self.unreadable_to {
                    self.found.find(Some(offset_bytes), None, Fault::Unreadable(error.to_string()));
                }
                self.unreadable_to = offset_bytes + RECORD_ALIGNMENT_BYTES as u32;
                self.found.zero.push(offset_bytes..self.unreadable_to);
                self.gap_from.get_or_insert(offset_bytes);
            }
            Stands::Record { header, payload } => {
                let listed = self.listed_at(offset_bytes, true);
                self.judge(offset_bytes, &header, payload, listed, on_record);
            }
            Stands::BadPayload { header } => {
                let listed = self.listed_at(offset_bytes, false);
                self.damaged(offset_bytes, header, Fault::PayloadDamaged, listed.is_some());
            }
            Stands::Unreadable { header, error } => {
                let listed = self.listed_at(offset_bytes, false);
                self.damaged(offset_bytes, header, Fault::Unreadable(error.to_string()), listed.is_some());
            }
        }
    }

    /// What the footer has at the place; what it has before it and the walk has not seen is damaged.
    fn listed_at(&mut self, offset_bytes: u32, is_record: bool) -> Option<(usize, FooterEntry)> {
        let gap_from = self.gap_from.take();
        while let Some((_, entry)) =
            self.listed.get(self.next_listed).copied().filter(|(_, entry)| entry.offset_bytes < offset_bytes)
        {
            let in_gap = gap_from.is_some_and(|from_bytes| entry.offset_bytes >= from_bytes);
            let fault = if in_gap { Fault::RecordHeaderDamaged } else { Fault::FooterEntryWrong };
            self.found.find(Some(entry.offset_bytes), None, fault);
            if in_gap {
                let end_bytes = (entry.offset_bytes + entry.length_bytes).min(offset_bytes);
                self.found.zero.push(entry.offset_bytes..end_bytes);
            }
            self.damaged_count += 1;
            self.next_listed += 1;
        }
        if let Some(from_bytes) = gap_from.filter(|_| self.found.footer.is_none() && is_record) {
            self.gaps.push(from_bytes..offset_bytes);
        }
        let here = self.listed.get(self.next_listed).copied().filter(|(_, entry)| entry.offset_bytes == offset_bytes);
        self.next_listed += usize::from(here.is_some());
        here
    }

    fn judge(
        &mut self,
        offset_bytes: u32,
        header: &RecordHeader,
        payload: &[u8],
        listed: Option<(usize, FooterEntry)>,
        on_record: &mut dyn FnMut(SoundRecord),
    ) {
        let Some(key) = key_of(header, payload, &self.store.keyer) else {
            return self.damaged(offset_bytes, *header, Fault::ActionUndecodable, listed.is_some());
        };
        if header.kind == RecordKind::Blob && !is_content_of(header, payload) {
            return self.damaged(offset_bytes, *header, Fault::ContentWrong, listed.is_some());
        }
        for (offset_bytes, header, fault) in std::mem::take(&mut self.tail) {
            self.found.find(Some(offset_bytes), Some(header.digest), fault);
        }
        if self.store.is_doomed(self.found.number, offset_bytes) {
            self.found.zero.push(offset_bytes..offset_bytes + header.record_length_bytes() as u32);
            return;
        }
        let entry = FooterEntry {
            key,
            offset_bytes,
            length_bytes: header.record_length_bytes() as u32,
            kind: header.kind,
            stamp: header.stamp,
        };
        if self.found.footer.is_some() {
            match listed {
                None => self.found.find(Some(offset_bytes), Some(header.digest), Fault::NotInFooter),
                Some((_, listed)) if self.store.is_trusted && listed != entry => {
                    self.found.find(Some(offset_bytes), Some(header.digest), Fault::FooterEntryWrong);
                }
                Some(_) => {}
            }
        }
        // A gap was one record, mostly.
        let before = self.found.sound.len() + self.damaged_count as usize + self.gaps.len();
        let position = listed.map_or(before, |(position, _)| position);
        let is_live = self.touches.and_then(|touches| touches.get(position)).is_none_or(|touch| *touch != NO_ENTRY);
        self.found.sound.push(entry);
        if is_live {
            let location = Location::new(self.found.number, offset_bytes, entry.length_bytes);
            on_record(SoundRecord { key, header: *header, location });
        }
    }

    fn damaged(&mut self, offset_bytes: u32, header: RecordHeader, fault: Fault, is_listed: bool) {
        // Whatever reads this segment by its headers would take it for a record.
        self.found.zero.push(offset_bytes..offset_bytes + header.record_length_bytes() as u32);
        self.damaged_count += 1;
        if is_listed {
            self.found.find(Some(offset_bytes), Some(header.digest), fault);
        } else if self.found.footer.is_none() {
            self.tail.push((offset_bytes, header, fault));
        }
    }

    fn end(mut self, to_bytes: u32, bytes: &mut FileBytes) {
        self.listed_at(to_bytes, false);
        let is_torn = self.found.state == State::Open && !self.store.superblock.clean;
        for (offset_bytes, header, fault) in std::mem::take(&mut self.tail) {
            let fault = if is_torn && fault == Fault::PayloadDamaged { Fault::TornEnd } else { fault };
            self.found.find(Some(offset_bytes), Some(header.digest), fault);
        }
        let gap_count = self.gaps.len();
        for gap in std::mem::take(&mut self.gaps) {
            if !is_zero(bytes, &gap) {
                self.found.find(Some(gap.start), None, Fault::LogGap { bytes: u64::from(gap.end - gap.start) });
                self.found.zero.push(gap);
            }
        }
        let known = self.touches.filter(|_| self.found.state == State::Open).map_or(0, |touches| touches.len() as u64);
        let seen = self.found.sound.len() as u64 + self.damaged_count;
        if gap_count == 0 && known > seen {
            self.found.find(None, None, Fault::LogEndLost { records: known - seen });
        }
    }
}

/// What the device does not give is not zero.
fn is_zero(bytes: &mut FileBytes, range: &Range<u32>) -> bool {
    range.clone().step_by(RECORD_ALIGNMENT_BYTES).all(|offset_bytes| {
        let piece = bytes.bytes(offset_bytes, RECORD_ALIGNMENT_BYTES as u32);
        piece.is_ok_and(|piece| piece.iter().all(|byte| *byte == 0))
    })
}
