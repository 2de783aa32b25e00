//! Finished tasks that are remembered: for a time, and up to a number of bytes; the oldest are forgotten first. One that is
//! listened to is remembered as long as that goes on.

use std::collections::BTreeSet;
use std::time::Duration;

use super::JournalSlot;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Retention {
    /// By the time when they are forgotten. Only those that nobody listens to.
    unheard: BTreeSet<(Duration, JournalSlot)>,
    /// Of all that are remembered.
    bytes: usize,
}

impl Retention {
    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    pub(super) fn subtract(&mut self, bytes: usize) {
        self.bytes -= bytes;
    }

    /// Nobody listens (any more).
    pub(super) fn unheard(&mut self, forget_at: Duration, slot: JournalSlot) {
        self.unheard.insert((forget_at, slot));
    }

    /// Somebody listens, or it is forgotten.
    pub(super) fn remove(&mut self, forget_at: Duration, slot: JournalSlot) {
        self.unheard.remove(&(forget_at, slot));
    }

    pub(super) fn first(&self) -> Option<Duration> {
        self.unheard.first().map(|(forget_at, _)| *forget_at)
    }

    /// One whose time is over.
    pub(super) fn due(&self, now: Duration) -> Option<JournalSlot> {
        self.unheard.first().filter(|(forget_at, _)| *forget_at <= now).map(|(_, slot)| *slot)
    }

    /// One that is too much, but never the newest: whoever waited for it has had no chance to read it.
    pub(super) fn excess(&self, bytes_max: usize, newest: JournalSlot) -> Option<JournalSlot> {
        let mut by_age = self.unheard.iter().map(|(_, slot)| *slot);
        if self.bytes > bytes_max { by_age.find(|slot| *slot != newest) } else { None }
    }
}
