//! Opening, closing, dying: what a disk is left with, and what the next process finds.

use super::*;

impl Run<'_> {
    pub(super) fn open(&mut self, crash_after: Option<u32>) -> Checked<bool> {
        self.disk.crash_after(crash_after.map(u64::from));
        let options = self.setup.options(self.segment_count);
        for try_number in 0..2 {
            self.tally.opens += 1;
            let opened = open_store(&self.disk, &options, &self.clock, &mut self.random);
            match opened {
                // The last thing that recovery did may have been the crash, and it went on with what it knew.
                Ok(opened) if self.disk.is_crashed() => {
                    drop(opened);
                    return Ok(false);
                }
                Ok(opened) => {
                    self.seen = opened.0.stats();
                    self.opened = Some(opened);
                    self.disk.take_bytes_peak();
                    return Ok(true);
                }
                Err(_) if self.disk.is_crashed() => return Ok(false),
                Err(error) => {
                    require!(
                        try_number == 0 && self.disk.is_faulty(),
                        "opening",
                        "the store cannot be opened: {error}"
                    );
                    self.disk.heal();
                }
            }
        }
        Ok(false)
    }

    /// The engine goes as a killed process does.
    pub(super) fn drop_engine(&mut self) -> Checked {
        self.release()?;
        self.uploads.clear();
        self.opened = None;
        self.drain()?;
        if let Some((id, Waiting { about, .. })) = std::mem::take(&mut self.waiting).pop_first() {
            return Err(Violation::new(
                "completion",
                format!("completion {id} ({about:?}) neither ran nor was dropped"),
            ));
        }
        Ok(())
    }

    pub(super) fn crash_and_reopen(&mut self, kind: CrashKind, again_after: Option<u32>) -> Checked {
        let (mut kind, mut again_after) = (kind, again_after);
        loop {
            self.tally.crashes += u64::from(self.disk.is_crashed());
            self.drop_engine()?;
            self.next_disk(kind);
            self.look_at_copies()?;
            // Half of the crashes during a recovery are of the other kind.
            let next = match self.random.below(3) {
                0 => CrashKind::Kill,
                _ => CrashKind::Power(Survivors::Sectors(self.random.below(100))),
            };
            self.crash = (next, None);
            if self.open(again_after)? {
                break;
            }
            (kind, again_after) = (next, None);
        }
        self.learn_what_is_there()
    }

    pub(super) fn next_disk(&mut self, kind: CrashKind) {
        self.tally.unsynced_at_crash = self.disk.unsynced_count() as u32;
        let seed = self.random.next_u64();
        let next = self.disk.after_crash(kind, seed);
        self.tally.disk_operations += self.disk.operations();
        self.disk = next;
        if matches!(kind, CrashKind::Power(_)) {
            self.model.power_lost();
        }
        // Whatever was absent may come back: what reclaim dropped is still in the log.
        for blob in self.model.blobs.values_mut().filter(|blob| blob.known == Known::Absent) {
            blob.known = Known::Unknown;
        }
        self.advance_without_engine();
    }

    pub(super) fn advance_without_engine(&mut self) {
        self.clock.advance_ms(self.random.below(2000));
    }

    /// Opens a copy of the disk, looks at everything, opens the copy again: it must be the same.
    pub(super) fn look_at_copies(&mut self) -> Checked {
        let copy = self.disk.copy();
        let options = self.setup.options(self.segment_count);
        let mut first: Option<Vec<(&'static str, u32, bool)>> = None;
        // The first opening may be of a store that was closed in order; the ones after it never are. Where crashes are many, a
        // second recovery is looked at after some of them.
        let rounds = if self.brief && !self.random.chance(1, 8) { 1 } else { 3 };
        for round in 0..rounds {
            self.tally.opens += 1;
            let (engine, _stepper) = open_store(&copy, &options, &self.clock, &mut self.random).map_err(|error| {
                Violation::new("opening", format!("a store cannot be opened after a crash: {error}"))
            })?;
            let mut there: Vec<_> = self
                .model
                .blobs
                .iter()
                .map(|(number, blob)| ("blob", *number, is_stored(&engine, &blob.digest)))
                .collect();
            let now_ms = self.now_ms();
            for (number, action) in &self.model.actions {
                let outcome = engine.get_action(action.instance, &action.digest);
                let found = check_action(*number, &self.model, &self.disk, &outcome, self.setup, now_ms)?;
                there.push(("action", *number, found.is_some()));
            }
            if let Some(first) = &first {
                for (was, is) in first.iter().zip(&there) {
                    require!(was == is, "recovery of a recovery", "{was:?}, and after a second recovery {is:?}");
                }
            }
            for (_, number, stored) in there.iter().filter(|(what, ..)| *what == "blob") {
                self.check_presence(*number, *stored, "a store opened after a crash")?;
                let digest = self.model.blobs[number].digest;
                let outcome = engine.read_all(&digest, u64::MAX);
                let found = check_read(*number, &self.model, &self.disk, &outcome)?;
                require!(
                    found || !stored || self.disk.is_harmed(&digest),
                    "reported and unreadable",
                    "blob {number} ({digest}) is present after a crash and cannot be read"
                );
            }
            first = (round == 1).then_some(there);
        }
        Ok(())
    }

    /// After a start the model takes for granted what the store has, and no more.
    pub(super) fn learn_what_is_there(&mut self) -> Checked {
        let engine = &self.opened.as_ref().expect("it is open").0;
        for (number, blob) in &mut self.model.blobs {
            let stored = is_stored(engine, &blob.digest);
            require!(
                stored || blob.known != Known::Present || self.disk.is_harmed(&blob.digest),
                "presence",
                "blob {number} ({}) is missing after a start",
                blob.digest
            );
            match blob.known {
                Known::Present if stored => {}
                _ => {
                    let absent = if self.disk.is_harmed(&blob.digest) { Known::Unknown } else { Known::Absent };
                    blob.known = if stored { Known::Present } else { absent };
                    blob.durable = blob.data.is_empty();
                    blob.promised_ms = None;
                }
            }
        }
        Ok(())
    }

    pub(super) fn reopen_in_order(&mut self, segment_count: Option<u32>, power_loss: bool) -> Checked {
        self.release()?;
        self.uploads.clear();
        let closed = self.stepper().close();
        let (engine, stepper) = self.opened.take().expect("it is open");
        self.drain()?;
        if self.disk.is_crashed() {
            self.opened = Some((engine, stepper));
            return Ok(());
        }
        require!(self.waiting.is_empty(), "completion", "{} completions did not run at close", self.waiting.len());
        self.opened = Some((engine, stepper));
        self.look_at_changes()?;
        if closed.is_ok() {
            self.model.synced();
        }
        let before = self.segment_count;
        self.segment_count = segment_count.unwrap_or(before);
        if u64::from(self.segment_count) <= self.disk.segment_count() && self.segment_count < before {
            self.model.shrunk();
        }
        let kind =
            if power_loss { CrashKind::Power(Survivors::Sectors(self.random.below(100))) } else { CrashKind::Kill };
        self.crash_and_reopen(kind, None)
    }
}
