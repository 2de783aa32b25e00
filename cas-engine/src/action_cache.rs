//! Action results: an opaque value, and the keys of every blob it needs.
//!
//! A result is only as good as its blobs: the closure is stored with it once, and a hit is one batch of probes that
//! also leases all of it. A closure with a gap makes a miss, whatever took the blob away; so records need no order
//! against the blobs they name, and none is ever reported whose blobs are gone.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use cask_index::{Digest, Key};

use crate::commit_queue::{Completion, Publish, Submission};
use crate::core::{Core, Looked};
use crate::error::EngineError;
use crate::format::action::{self, ActionPayload};
use crate::format::record::{Encoding, RecordHeader, RecordKind};
use crate::format::segment::LaneClass;
use crate::upload::header_of;

thread_local! {
    /// Keys of the closure being probed: a hit allocates nothing once the thread is warm.
    static CLOSURE: RefCell<Vec<Key>> = const { RefCell::new(Vec::new()) };
}

impl Core {
    pub(crate) fn put_action(
        self: &Arc<Self>,
        instance: &str,
        action: &Digest,
        value: &[u8],
        closure: &[Digest],
        done: Completion,
    ) {
        match self.action_submission(instance, action, value, closure) {
            Ok(submission) => self.queue.submit(Submission { done: Some(done), ..submission }, false),
            Err(error) => done(Err(error)),
        }
    }

    fn action_submission(
        &self,
        instance: &str,
        action: &Digest,
        value: &[u8],
        closure: &[Digest],
    ) -> Result<Submission, EngineError> {
        self.require_loaded()?;
        let mut keys: Vec<Key> =
            closure.iter().filter(|digest| !digest.is_empty_blob()).map(|digest| self.keyer.blob(digest)).collect();
        keys.sort_unstable();
        keys.dedup();
        let size_bytes = action::payload_bytes(instance, keys.len(), value.len());
        let limit_bytes = u64::from(self.plan.geometry.action_payload_bytes_max());
        if size_bytes > limit_bytes {
            return Err(EngineError::TooLarge { size_bytes, limit_bytes });
        }
        if let Some(until_ms) = self.ledger.exhausted_until_ms(self.clock.now_ms()) {
            return Err(self.full(until_ms));
        }
        let payload = action::encode(instance, &keys, value);
        Ok(Submission {
            class: LaneClass::Action,
            key: self.keyer.action(instance, action),
            header: RecordHeader {
                stamp: self.draw_stamp(),
                ..header_of(RecordKind::Action, Encoding::Raw, *action, None, &payload)
            },
            payload,
            publish: Publish::Entry,
            done: None,
        })
    }

    /// `None`: it has to come from the disk, which only happens when `may_block` is false.
    pub(crate) fn get_action(
        &self,
        instance: &str,
        action: &Digest,
        may_block: bool,
    ) -> Result<Option<Bytes>, EngineError> {
        // Not even a hit is one before that: a later result may not have been entered yet.
        self.require_loaded()?;
        let key = self.keyer.action(instance, action);
        let looked = self.look(key, may_block, |header| header.kind == RecordKind::Action && header.digest == *action);
        let range = match looked {
            Looked::Payload(_, range) => range,
            Looked::NotResident => return Ok(None),
            _ => return Err(EngineError::NotFound),
        };
        let payload = ActionPayload::decode(&Bytes::from_owner(range)).filter(|payload| payload.is_of(instance));
        let Some(payload) = payload else { return Err(EngineError::NotFound) };
        let mut complete = true;
        CLOSURE.with_borrow_mut(|keys| {
            keys.clear();
            keys.extend(payload.closure());
            self.index.touch_batch(keys, self.epoch(), |_| complete = false);
        });
        if !complete {
            return Err(EngineError::NotFound);
        }
        self.index.touch(key, self.epoch());
        Ok(Some(payload.value))
    }
}
