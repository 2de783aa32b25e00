//! Finished tasks that are remembered: for a time, and up to a number of bytes; the oldest are forgotten first. One that is
//! listened to is remembered as long as that goes on. What was run and what was known already are remembered apart: of the latter
//! there is far more, it comes from the action cache, and whoever asked was told at once.

use std::collections::BTreeSet;
use std::time::Duration;

use super::JournalSlot;
use super::task::Finished;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Retentions {
    pub(super) run: Retention,
    pub(super) known: Retention,
}

impl Retentions {
    pub(super) fn first(&self) -> Option<Duration> {
        self.run.first().into_iter().chain(self.known.first()).min()
    }

    /// One whose time is over.
    pub(super) fn due(&self, now: Duration) -> Option<JournalSlot> {
        self.run.due(now).or_else(|| self.known.due(now))
    }

    /// Where a result belongs.
    pub(super) fn of(&mut self, finished: &Finished) -> &mut Retention {
        // What was run is in the journal, and nothing else is.
        if finished.is_journalled { &mut self.run } else { &mut self.known }
    }
}

/// Results of one kind.
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

    fn first(&self) -> Option<Duration> {
        self.unheard.first().map(|(forget_at, _)| *forget_at)
    }

    fn due(&self, now: Duration) -> Option<JournalSlot> {
        self.unheard.first().filter(|(forget_at, _)| *forget_at <= now).map(|(_, slot)| *slot)
    }

    /// One that is too much, but never the newest: whoever waited for it has had no chance to read it.
    pub(super) fn excess(&self, bytes_max: usize, newest: JournalSlot) -> Option<JournalSlot> {
        let mut by_age = self.unheard.iter().map(|(_, slot)| *slot);
        if self.bytes > bytes_max { by_age.find(|slot| *slot != newest) } else { None }
    }
}
