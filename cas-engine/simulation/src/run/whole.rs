//! Checks of the whole after each operation: what went, and why; counters against a recount.

use super::*;

impl Run<'_> {
    /// Something was dropped, quarantined or found corrupt since the last look: who is gone, and was that allowed?
    pub(super) fn look_at_changes(&mut self) -> Checked {
        let stats = self.engine().stats();
        let seen = std::mem::replace(&mut self.seen, stats.clone());
        let dropped = stats.dropped_records_total != seen.dropped_records_total;
        let quarantined = stats.quarantined_segments_total != seen.quarantined_segments_total;
        let corrupt = stats.corrupt_records_total != seen.corrupt_records_total;
        self.tally.reclaimed_segments += stats.reclaimed_segments_total - seen.reclaimed_segments_total;
        if !dropped && !quarantined && !corrupt {
            return Ok(());
        }
        // Segments that failed because the machine went down did not fail: what was written is there after a kill.
        let crashed = self.disk.is_crashed();
        let quarantined = quarantined && !crashed;
        let now_ms = self.now_ms();
        let floor_ms = self.setup.lease_floor_ms;
        let (engine, disk) = (&self.opened.as_ref().expect("it is open").0, &self.disk);
        for (number, blob) in &mut self.model.blobs {
            if blob.known != Known::Present || is_stored(engine, &blob.digest) {
                continue;
            }
            let age_ms = blob.promised_ms.map(|promised_ms| now_ms - promised_ms);
            let in_floor = age_ms.is_some_and(|age_ms| age_ms < floor_ms);
            if crashed && (!dropped || in_floor) {
                continue;
            }
            let excused = disk.is_harmed(&blob.digest) || (quarantined && !blob.durable) || (dropped && !in_floor);
            require!(
                excused,
                if in_floor && dropped { "lease floor" } else { "lost" },
                "blob {number} ({}) is gone: promised {age_ms:?} ms ago, floor {floor_ms} ms, durable {}, dropped {dropped}, quarantined {quarantined}, corrupt {corrupt}",
                blob.digest,
                blob.durable
            );
            // A damaged record may still be in the index, unseen by whoever looks at its header.
            blob.known = if disk.is_harmed(&blob.digest) { Known::Unknown } else { Known::Absent };
        }
        if quarantined {
            self.model.quarantined();
        }
        if dropped {
            for action in self.model.actions.values_mut() {
                action.confirmed = false;
            }
        }
        Ok(())
    }

    pub(super) fn check_stats(&mut self) -> Checked {
        let stats = self.engine().stats();
        let files = self.disk.segment_count();
        let segment_bytes = u64::from(self.setup.segment_size_bytes);
        require!(
            stats.uploads_open == self.uploads.len() as u64,
            "recount",
            "{} uploads are open, stats say {}",
            self.uploads.len(),
            stats.uploads_open
        );
        require!(
            stats.segments_total == files && stats.disk_bytes == files * segment_bytes,
            "recount",
            "{files} segment files of {segment_bytes} bytes, stats say {stats:?}"
        );
        require!(
            stats.segments_free <= stats.segments_total && stats.segments_total <= stats.segments_max,
            "recount",
            "{stats:?}"
        );
        let peak = self.disk.take_bytes_peak();
        require!(
            peak <= stats.max_size_bytes,
            "max size",
            "{peak} bytes on the disk, {} are allowed",
            stats.max_size_bytes
        );
        let part = self.setup.part_size_bytes();
        let known: u64 = self
            .model
            .blobs
            .values()
            .filter(|blob| blob.known == Known::Present && !blob.data.is_empty() && !self.disk.is_harmed(&blob.digest))
            .map(|blob| if blob.data.len() > part { 1 + blob.data.len().div_ceil(part) as u64 } else { 1 })
            .sum();
        require!(
            known <= stats.entry_count && stats.entry_count <= self.model.keys_max,
            "recount",
            "{} entries in the index; at least {known}, at most {} are known of",
            stats.entry_count,
            self.model.keys_max
        );
        Ok(())
    }
}
