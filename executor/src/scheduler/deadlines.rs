//! What is looked at when: one set of (time, matter). Each matter has one entry at most. An entry may be early (what it waits for
//! was put off meanwhile; then it is entered again when its time comes), never late.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::platform::KindIndex;
use super::pool::PoolIndex;
use super::{JournalSlot, SessionId};

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Matter {
    /// Does the worker live, does it come back?
    Worker(SessionId),
    /// Is there a worker for the kind?
    Kind(PoolIndex, KindIndex),
    /// Does anybody listen to the task?
    Task(JournalSlot),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    by_time: BTreeSet<(Duration, Matter)>,
    time_of: HashMap<Matter, Duration>,
}

impl Deadlines {
    /// Looks at the matter at `time` at the latest.
    pub(super) fn at_latest(&mut self, time: Duration, matter: Matter) {
        if self.time_of.get(&matter).is_none_or(|entered| time < *entered) {
            self.remove(matter);
            self.time_of.insert(matter, time);
            self.by_time.insert((time, matter));
        }
    }

    pub(super) fn remove(&mut self, matter: Matter) {
        if let Some(time) = self.time_of.remove(&matter) {
            self.by_time.remove(&(time, matter));
        }
    }

    pub(super) fn first(&self) -> Option<Duration> {
        self.by_time.first().map(|(time, _)| *time)
    }

    /// Takes one matter whose time has come.
    pub(super) fn pop_due(&mut self, now: Duration) -> Option<Matter> {
        if self.first()? > now {
            return None;
        }
        let (_, matter) = self.by_time.pop_first()?;
        self.time_of.remove(&matter);
        Some(matter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matter_is_looked_at_once_at_its_earliest_time() {
        let at = Duration::from_secs;
        let (worker, task) = (Matter::Worker(SessionId(1)), Matter::Task(JournalSlot(1)));
        let mut deadlines = Deadlines::default();
        deadlines.at_latest(at(5), worker);
        deadlines.at_latest(at(9), worker);
        deadlines.at_latest(at(7), task);
        deadlines.at_latest(at(3), task);
        assert_eq!(deadlines.first(), Some(at(3)));
        assert_eq!((deadlines.pop_due(at(2)), deadlines.pop_due(at(9))), (None, Some(task)));
        assert_eq!((deadlines.pop_due(at(9)), deadlines.pop_due(at(9))), (Some(worker), None));
    }
}
