//! What clients ask: presence, bytes, chunks that are held, action results.

use super::*;

impl Run<'_> {
    pub(super) fn find_missing(&mut self, numbers: &[u32]) -> Checked {
        let digests: Vec<Digest> = numbers.iter().map(|number| self.model.blob(self.setup, *number).digest).collect();
        let mut absent = Vec::new();
        self.engine()
            .find_missing(&digests, &mut absent)
            .map_err(|error| Violation::new("error kind", format!("find_missing: {error}")))?;
        let now_ms = self.now_ms();
        for (position, number) in numbers.iter().enumerate() {
            let is_absent = absent.contains(&position);
            self.tally.note(u64::from(is_absent));
            self.check_presence(*number, !is_absent, "find_missing")?;
            if is_absent {
                self.found_absent(*number);
            } else {
                self.model.blob_reported(*number, now_ms);
            }
        }
        Ok(())
    }

    pub(super) fn check_presence(&self, number: u32, present: bool, what: &str) -> Checked {
        let blob = &self.model.blobs[&number];
        require!(
            present || blob.known != Known::Present || self.disk.is_harmed(&blob.digest),
            "presence",
            "{what} says that blob {number} ({}) is missing; it was promised {:?} ms ago, durable {}",
            blob.digest,
            blob.promised_ms.map(|promised_ms| self.now_ms() - promised_ms),
            blob.durable
        );
        require!(
            !present || blob.whole,
            "partial blob",
            "{what} says that blob {number} ({}) is there, which was never sent completely",
            blob.digest
        );
        require!(
            !present || blob.known != Known::Absent,
            "presence",
            "{what} says that blob {number} ({}) is there, which was absent and not uploaded since",
            blob.digest
        );
        Ok(())
    }

    pub(super) fn read(&mut self, number: u32) -> Checked {
        let digest = self.model.blob(self.setup, number).digest;
        let outcome = self.engine().read_all(&digest, u64::MAX);
        let found = check_read(number, &self.model, &self.disk, &outcome)?;
        self.tally.note(u64::from(found));
        let now_ms = self.now_ms();
        if found {
            self.check_presence(number, true, "read")?;
            self.model.blob_reported(number, now_ms);
        } else {
            self.found_absent(number);
        }
        Ok(())
    }

    /// It was just found missing: and so it stays, unless a damaged record of it is still about.
    pub(super) fn found_absent(&mut self, number: u32) {
        let blob = self.model.blobs.get_mut(&number).expect("it was asked for");
        blob.known = if self.disk.is_harmed(&blob.digest) { Known::Unknown } else { Known::Absent };
    }

    pub(super) fn hold(&mut self, number: u32, at: u32) -> Checked {
        if self.held.len() >= HELD_MAX || self.disk.is_faulty() {
            return Ok(());
        }
        let digest = self.model.blob(self.setup, number).digest;
        let size_bytes = digest.size_bytes();
        let offset = u64::from(at) % size_bytes.max(1);
        let Ok(blob) = self.engine().read(&digest) else {
            return self.check_presence(number, false, "read");
        };
        let chunk = match blob.chunk_at(offset, false) {
            Ok(None) => blob.chunk_at(offset, true),
            answer => answer,
        };
        match chunk {
            Ok(Some(chunk)) => {
                let expected = &self.model.blobs[&number].data[offset as usize..];
                require!(
                    expected.starts_with(&chunk) && (!chunk.is_empty() || expected.is_empty()),
                    "wrong bytes",
                    "a chunk of blob {number} at {offset} is not what was stored"
                );
                let now_ms = self.now_ms();
                self.check_presence(number, true, "chunk_at")?;
                self.model.blob_reported(number, now_ms);
                let copy = chunk.to_vec();
                self.held.push(Held { digest, chunk, copy });
                Ok(())
            }
            Ok(None) => Err(Violation::new("read", "a look that may block did not answer".to_owned())),
            Err(error) => {
                check_read(number, &self.model, &self.disk, &Err(error))?;
                self.found_absent(number);
                Ok(())
            }
        }
    }

    pub(super) fn check_held(&self) -> Checked {
        for held in &self.held {
            require!(
                held.chunk == held.copy,
                "pinned range written",
                "a chunk of {} changed while it was held",
                held.digest
            );
        }
        Ok(())
    }

    pub(super) fn release(&mut self) -> Checked {
        self.check_held()?;
        self.held.clear();
        Ok(())
    }

    pub(super) fn put_action(&mut self, number: u32, closure: &[u32], value_bytes: usize) {
        let digests: Vec<Digest> = closure.iter().map(|blob| self.model.blob(self.setup, *blob).digest).collect();
        let position = self.model.put(number, closure.to_vec(), value_bytes);
        let action = &self.model.actions[&number];
        let (instance, digest, value) = (action.instance, action.digest, action.puts[position].value.clone());
        let errors = self.disk.errors();
        let done = self.completion(About::Action(number, position), errors);
        self.engine().put_action(instance, &digest, &value, &digests, done);
    }

    pub(super) fn get_action(&mut self, number: u32) -> Checked {
        let action = self.model.action(number);
        let (instance, digest) = (action.instance, action.digest);
        let outcome = self.engine().get_action(instance, &digest);
        let now_ms = self.now_ms();
        match check_action(number, &self.model, &self.disk, &outcome, self.setup, now_ms)? {
            Some(position) => {
                self.tally.note(position as u64);
                self.model.action_reported(number, position, now_ms);
                let closure = self.model.actions[&number].puts[position].closure.clone();
                for blob in closure {
                    let digest = self.model.blob(self.setup, blob).digest;
                    self.check_presence(blob, true, "an action's closure")?;
                    self.model.blob_reported(blob, now_ms);
                    let outcome = self.engine().read_all(&digest, u64::MAX);
                    require!(
                        check_read(blob, &self.model, &self.disk, &outcome)? || self.disk.is_harmed(&digest),
                        "closure",
                        "action {number} was a hit, and its blob {blob} cannot be read"
                    );
                }
            }
            None => {
                let action = self.model.actions.get_mut(&number).expect("just asked for");
                action.confirmed = false;
            }
        }
        Ok(())
    }
}
