//! Logs over fixed segments with textbook eviction: first in, first out, with everything or nothing reinserted.

use std::collections::VecDeque;

use super::replay::Cache;
use super::trace::{Object, Trace};

/// What of the oldest segment is written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reinsert {
    /// Nothing: plain FIFO.
    Nothing,
    /// Whatever was asked for since it was written: CLOCK, FIFO-reinsertion.
    Touched,
}

const NOWHERE: u64 = u64::MAX;

/// A log of segments of equal size, one of them open.
pub struct SegmentCache<'a> {
    trace: &'a Trace,
    reinsert: Reinsert,
    segment_bytes: u64,
    segment_count: usize,
    /// Objects written to each segment; the front is the oldest, the back is open.
    segments: VecDeque<Vec<Object>>,
    /// Number of the front segment, counted from the first ever.
    front_number: u64,
    open_bytes: u64,
    /// Segment by number in which each object lives.
    place: Vec<u64>,
    touched: Vec<bool>,
    uploaded_bytes: u64,
    written_bytes: u64,
}

impl<'a> SegmentCache<'a> {
    /// An empty cache.
    pub fn new(trace: &'a Trace, reinsert: Reinsert, size_bytes: u64, segment_bytes: u64) -> Self {
        Self {
            trace,
            reinsert,
            segment_bytes,
            segment_count: (size_bytes / segment_bytes) as usize,
            segments: VecDeque::from([Vec::new()]),
            front_number: 0,
            open_bytes: 0,
            place: vec![NOWHERE; trace.sizes_bytes.len()],
            touched: vec![false; trace.sizes_bytes.len()],
            uploaded_bytes: 0,
            written_bytes: 0,
        }
    }

    fn append(&mut self, object: Object) {
        let bytes = self.trace.record_bytes(object);
        // Larger than what is left: spills into the next segment, as parts do.
        self.open_bytes += bytes;
        self.written_bytes += bytes;
        self.place[object as usize] = self.front_number + self.segments.len() as u64 - 1;
        self.touched[object as usize] = false;
        self.segments.back_mut().expect("one is open").push(object);
        while self.open_bytes >= self.segment_bytes {
            self.open_bytes -= self.segment_bytes;
            self.segments.push_back(Vec::new());
        }
    }

    fn make_room(&mut self) {
        // The segment that reinsertion fills counts too, so a full cache always gives one away.
        while self.segments.len() > self.segment_count {
            let number = self.front_number;
            let oldest = self.segments.pop_front().expect("more than one");
            self.front_number += 1;
            for object in oldest {
                if self.place[object as usize] != number {
                    continue;
                }
                if self.reinsert == Reinsert::Touched && self.touched[object as usize] {
                    self.append(object);
                } else {
                    self.place[object as usize] = NOWHERE;
                }
            }
        }
    }
}

impl Cache for SegmentCache<'_> {
    fn now(&mut self, _: u64) {}

    fn probe(&mut self, blob: Object) -> bool {
        let present = self.place[blob as usize] != NOWHERE;
        self.touched[blob as usize] |= present;
        present
    }

    fn store(&mut self, blob: Object) -> bool {
        self.uploaded_bytes += self.trace.record_bytes(blob);
        self.append(blob);
        self.make_room();
        true
    }

    fn written(&self) -> (u64, u64) {
        (self.uploaded_bytes, self.written_bytes)
    }
}
