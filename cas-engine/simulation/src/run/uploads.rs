//! Uploads: whole, streamed and abandoned, and what became of them.

use super::*;

impl Run<'_> {
    pub(super) fn completion(&mut self, about: About, errors: u64) -> Completion {
        let id = self.next_id;
        self.next_id += 1;
        self.waiting.insert(id, Waiting { about, errors });
        let mut ticket = Ticket { id, outcomes: Arc::clone(&self.outcomes), ran: false };
        let clock = Arc::clone(&self.clock);
        Box::new(move |outcome| {
            ticket.ran = true;
            // The promise runs from here: the step that gave it may take its time with something else.
            ticket.outcomes.lock().unwrap().push((ticket.id, Outcome::Ran(outcome, clock.now_ms())));
        })
    }

    pub(super) fn upload_index(&self, upload: u32) -> Option<usize> {
        (!self.uploads.is_empty()).then(|| upload as usize % self.uploads.len())
    }

    pub(super) fn put(&mut self, number: u32) -> Checked {
        self.open_upload(number, Flaw::None)?;
        match self.uploads.last() {
            Some(upload) if upload.blob == number && upload.position == 0 => self.finish_upload(self.uploads.len() - 1),
            _ => Ok(()),
        }
    }

    pub(super) fn open_upload(&mut self, number: u32, flaw: Flaw) -> Checked {
        if self.uploads.len() > UPLOADS_MAX {
            return Ok(());
        }
        let errors = self.disk.errors();
        let now_ms = self.now_ms();
        let blob = self.model.blob(self.setup, number);
        let (digest, known) = (blob.digest, blob.known);
        let (mut data, flaw) = (blob.data.to_vec(), if blob.data.is_empty() { Flaw::None } else { flaw });
        match flaw {
            Flaw::None => {}
            Flaw::Content => {
                let middle = data.len() / 2;
                data[middle] ^= 1;
            }
            Flaw::TooLong => data.push(7),
            Flaw::TooShort => {
                data.pop();
            }
        }
        match self.engine().begin_upload(digest) {
            Ok(BeginUpload::Present) => {
                require!(
                    known != Known::Absent,
                    "presence",
                    "an upload of blob {number} ({digest}) found it present, which it is not"
                );
                self.model.blob_reported(number, now_ms);
            }
            Ok(BeginUpload::Upload(upload)) => {
                require!(
                    known != Known::Present || self.disk.is_harmed(&digest),
                    "presence",
                    "an upload of blob {number} ({digest}) did not find it, and it is to be there"
                );
                self.found_absent(number);
                self.uploads.push(OpenUpload { blob: number, upload, data, position: 0, flaw, errors });
            }
            Err(error) => self.check_refusal(&error, errors, "begin_upload")?,
        }
        Ok(())
    }

    /// True while it goes on.
    pub(super) fn feed(&mut self, index: usize, bytes: usize) -> Checked<bool> {
        let mut left = bytes;
        loop {
            let (needs_flush, errors) = (self.uploads[index].upload.needs_flush(), self.uploads[index].errors);
            if needs_flush {
                let done = self.completion(About::Part, errors);
                self.uploads[index].upload.flush_part(done);
                self.model.keys_max += 1;
            }
            let one = &mut self.uploads[index];
            let room = one.upload.part_room_bytes().min(left).min(one.data.len() - one.position);
            if room == 0 {
                return Ok(true);
            }
            match one.upload.append(&one.data[one.position..one.position + room]) {
                Ok(()) => {
                    one.position += room;
                    left -= room;
                }
                Err(EngineError::Mismatch { .. }) if one.flaw == Flaw::TooLong => {
                    self.uploads.remove(index);
                    return Ok(false);
                }
                Err(error) => {
                    return Err(Violation::new("upload", format!("append to blob {}: {error}", one.blob)));
                }
            }
        }
    }

    pub(super) fn finish_upload(&mut self, index: usize) -> Checked {
        if !self.feed(index, usize::MAX)? {
            return Ok(());
        }
        let OpenUpload { blob, upload, flaw, errors, .. } = self.uploads.remove(index);
        let large = upload.digest().size_bytes() > self.setup.part_size_bytes() as u64;
        self.model.keys_max += 1 + u64::from(large);
        if flaw == Flaw::None {
            self.model.blobs.get_mut(&blob).expect("it was opened").whole = true;
        }
        let done = self.completion(About::Blob(blob), errors);
        let id = self.next_id - 1;
        match (upload.finish(done), flaw) {
            (Ok(()), Flaw::None) => Ok(()),
            (Err(EngineError::Mismatch { .. }), Flaw::Content | Flaw::TooShort) => {
                self.waiting.remove(&id);
                self.outcomes.lock().unwrap().retain(|(other, _)| *other != id);
                Ok(())
            }
            (outcome, flaw) => Err(Violation::new("upload", format!("finish of blob {blob}, {flaw:?}: {outcome:?}"))),
        }
    }

    /// A refusal must be of a kind that the situation allows.
    pub(super) fn check_refusal(&mut self, error: &EngineError, errors: u64, what: &str) -> Checked {
        match error {
            EngineError::Full { retry_after, advice } => {
                self.tally.refused += 1;
                require!(
                    !retry_after.is_zero() && !advice.is_empty(),
                    "advice",
                    "{what} was refused with {retry_after:?} and {advice:?}"
                );
                Ok(())
            }
            EngineError::Storage(text) => {
                require!(
                    self.disk.errors() > errors || self.disk.is_crashed(),
                    "a failure without a fault",
                    "{what} failed with {text:?}, and the disk gave no error since it began"
                );
                Ok(())
            }
            other => Err(Violation::new("error kind", format!("{what}: {other}"))),
        }
    }

    /// Answers that have come since.
    pub(super) fn drain(&mut self) -> Checked {
        let outcomes = std::mem::take(&mut *self.outcomes.lock().unwrap());
        for (id, outcome) in outcomes {
            let Some(Waiting { about, errors }) = self.waiting.remove(&id) else {
                return Err(Violation::new("completion", format!("completion {id} ran twice")));
            };
            self.tally.note(match &outcome {
                Outcome::Ran(Ok(()), _) => 1,
                Outcome::Ran(Err(_), _) => 2,
                Outcome::Dropped => 3,
            });
            match (about, outcome) {
                (_, Outcome::Dropped) => {
                    require!(self.opened.is_none(), "completion", "the completion of {about:?} was dropped unused");
                    match about {
                        About::Blob(blob) => {
                            let blob = self.model.blobs.get_mut(&blob).expect("it was mentioned");
                            if blob.known == Known::Absent {
                                blob.known = Known::Unknown;
                            }
                        }
                        About::Action(..) | About::Part => {}
                    }
                }
                (About::Blob(blob), Outcome::Ran(Ok(()), now_ms)) => self.model.blob_reported(blob, now_ms),
                (About::Action(action, position), Outcome::Ran(Ok(()), now_ms)) => {
                    self.model.action_reported(action, position, now_ms);
                }
                (About::Part, Outcome::Ran(Ok(()), _)) => {}
                (_, Outcome::Ran(Err(EngineError::Closed), _)) if self.opened.is_none() => {}
                (_, Outcome::Ran(Err(error), _)) => self.check_refusal(&error, errors, &format!("{about:?}"))?,
            }
        }
        Ok(())
    }
}
