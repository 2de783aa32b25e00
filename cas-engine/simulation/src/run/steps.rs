//! The engine's background work, one step at a time, and that it gets somewhere.

use super::*;

impl Run<'_> {
    pub(super) fn step_write(&mut self) -> Checked {
        let step = self.stepper().write();
        self.tally.note(step as u64);
        self.drain()?;
        self.look_at_changes()
    }

    pub(super) fn step_sync(&mut self) -> Checked {
        self.drain()?;
        self.stepper().sync();
        self.drain()?;
        if !self.disk.is_crashed() {
            // What failed under the sync leaves the index first.
            self.look_at_changes()?;
            self.model.synced();
        }
        Ok(())
    }

    pub(super) fn step_reclaim(&mut self) -> Checked<ReclaimStep> {
        let step = self.stepper().reclaim();
        self.tally.note(u64::from(step == ReclaimStep::Reclaimed));
        if self.verbose {
            let stats = self.engine().stats();
            println!("{} reclaim {step:?}, {} waiting, {stats:?}", self.now_ms() % 100_000_000, self.waiting.len());
        }
        self.drain()?;
        self.look_at_changes()?;
        Ok(step)
    }

    pub(super) fn settle(&mut self) -> Checked {
        for _ in 0..SETTLE_ROUNDS_MAX {
            self.step_write()?;
            if self.waiting.is_empty() || self.disk.is_crashed() {
                return Ok(());
            }
            self.step_sync()?;
            self.step_reclaim()?;
            if self.disk.is_crashed() {
                return Ok(());
            }
            self.advance(SETTLE_ROUND_MS);
        }
        let waiting: Vec<About> = self.waiting.values().map(|waiting| waiting.about).collect();
        Err(Violation::new("progress", format!("no answer after {SETTLE_ROUNDS_MAX} fair rounds: {waiting:?}")))
    }

    /// Faults are over, nobody reads, every floor has run out: the store must take an upload.
    pub(super) fn liveness(&mut self) -> Checked {
        self.disk.heal();
        self.disk.crash_after(None);
        self.release()?;
        self.uploads.clear();
        self.settle()?;
        self.advance(self.setup.lease_floor_ms + 2 * self.epoch_ms() + 20_000);
        let mut last = String::new();
        for _ in 0..LIVENESS_TRIES_MAX {
            self.liveness_blob += 1;
            let number = self.liveness_blob;
            self.put(number)?;
            self.settle()?;
            if self.model.blobs[&number].known == Known::Present {
                return Ok(());
            }
            last = format!("{:?}", self.engine().stats());
            for _ in 0..4 {
                self.step_sync()?;
                self.step_reclaim()?;
            }
            self.advance(11_000);
        }
        Err(Violation::new("liveness", format!("{LIVENESS_TRIES_MAX} uploads were refused or failed: {last}")))
    }

    pub(super) fn epoch_ms(&self) -> u64 {
        self.setup.lease_ms.div_ceil(47).max(5000)
    }

    /// As in production, the maintenance runs at least once a period.
    pub(super) fn advance(&mut self, ms: u64) {
        let mut left = ms;
        while left > 0 {
            let pace = left.min(4 * self.epoch_ms());
            self.clock.advance_ms(pace);
            left -= pace;
            if left > 0 && !self.disk.is_crashed() {
                self.stepper().maintain();
            }
        }
    }

    pub(super) fn fault(&mut self, fault: Fault) -> Checked {
        if matches!(
            fault,
            Fault::BitFlip(_)
                | Fault::StructureFlip(_)
                | Fault::BadPage(_)
                | Fault::LostWrite
                | Fault::MisdirectedWrite
        ) {
            // A fault may hit what is held; nobody promises anything then.
            self.release()?;
        }
        self.disk.inject(fault);
        Ok(())
    }
}
