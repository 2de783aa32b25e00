//! Object caches over one list: LRU, the ideal the engine is held to, and SIEVE, for orientation. They pay nothing for
//! moving objects about, so they write what is uploaded and no more.

use super::replay::Cache;
use super::trace::{Object, Trace};

/// Which object goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The least recently used.
    Lru,
    /// SIEVE (NSDI '24): a hand goes from the oldest to the newest and takes the first that was not asked for since it
    /// last came by.
    Sieve,
}

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Link {
    newer: u32,
    older: u32,
    present: bool,
    visited: bool,
}

/// A cache of objects in one list, newest first.
pub struct ListCache<'a> {
    trace: &'a Trace,
    order: Order,
    size_bytes: u64,
    used_bytes: u64,
    uploaded_bytes: u64,
    links: Vec<Link>,
    newest: u32,
    oldest: u32,
    hand: u32,
}

impl<'a> ListCache<'a> {
    /// An empty cache.
    pub fn new(trace: &'a Trace, order: Order, size_bytes: u64) -> Self {
        let link = Link { newer: NONE, older: NONE, present: false, visited: false };
        Self {
            trace,
            order,
            size_bytes,
            used_bytes: 0,
            uploaded_bytes: 0,
            links: vec![link; trace.sizes_bytes.len()],
            newest: NONE,
            oldest: NONE,
            hand: NONE,
        }
    }

    fn unlink(&mut self, object: Object) {
        let Link { newer, older, .. } = self.links[object as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.links[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.links[older as usize].newer = newer,
        }
    }

    fn link_newest(&mut self, object: Object) {
        let before = std::mem::replace(&mut self.newest, object);
        self.links[object as usize] = Link { newer: NONE, older: before, present: true, visited: false };
        match before {
            NONE => self.oldest = object,
            before => self.links[before as usize].newer = object,
        }
    }

    fn evict(&mut self) {
        let mut victim = self.oldest;
        if self.order == Order::Sieve {
            if self.hand != NONE {
                victim = self.hand;
            }
            while std::mem::replace(&mut self.links[victim as usize].visited, false) {
                victim = match self.links[victim as usize].newer {
                    NONE => self.oldest,
                    newer => newer,
                };
            }
            self.hand = self.links[victim as usize].newer;
        }
        self.unlink(victim);
        self.links[victim as usize].present = false;
        self.used_bytes -= self.trace.record_bytes(victim);
    }
}

impl Cache for ListCache<'_> {
    fn now(&mut self, _: u64) {}

    fn probe(&mut self, blob: Object) -> bool {
        if !self.links[blob as usize].present {
            return false;
        }
        match self.order {
            Order::Lru => {
                self.unlink(blob);
                self.link_newest(blob);
            }
            Order::Sieve => self.links[blob as usize].visited = true,
        }
        true
    }

    fn store(&mut self, blob: Object) -> bool {
        let bytes = self.trace.record_bytes(blob);
        if bytes > self.size_bytes {
            return false;
        }
        self.uploaded_bytes += bytes;
        if self.links[blob as usize].present {
            // An action's record, written again because its closure had a gap.
            self.probe(blob);
            return true;
        }
        while self.used_bytes + bytes > self.size_bytes {
            self.evict();
        }
        self.used_bytes += bytes;
        self.link_newest(blob);
        true
    }

    fn written(&self) -> (u64, u64) {
        (self.uploaded_bytes, self.uploaded_bytes)
    }
}
