//! FindMissingBlobs: digests go from the request's bytes to the index, and those that are missing are answered with the request's
//! own bytes.

use std::cell::RefCell;

use bytes::Bytes;
use cask_index::Digest;
use cask_proto::wire::{DigestFault, FindMissing, FindMissingAnswer, Segments};

use super::malformed;
use crate::cache::Cache;
use crate::service::request;
use crate::status::{Answer, answer_of};

/// Digests looked up at once: enough to hide the index's latency, few enough to stay in the nearest cache.
const BATCH_DIGESTS: usize = 128;

thread_local! {
    /// Digests being looked up, and the positions of those that are absent: a request allocates neither.
    static BATCH: RefCell<(Vec<Digest>, Vec<usize>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// The answer to a request.
pub(super) fn answer(cache: &Cache, message: &Bytes) -> Result<Segments, Answer> {
    let wire = FindMissing::parse(message).map_err(malformed)?;
    let rule = request::digest_rule(cache, wire.instance_name, wire.digest_function)?;
    let mut answer = FindMissingAnswer::new(message);
    let mut reader = wire.parse_digests(rule);
    let mut fields = Vec::with_capacity(wire.digest_count.min(BATCH_DIGESTS));
    BATCH.with_borrow_mut(|(digests, absent)| {
        while reader.next_batch(BATCH_DIGESTS, digests, &mut fields).map_err(refused)? {
            absent.clear();
            cache.engine().find_missing(digests, absent).map_err(answer_of)?;
            for position in absent.iter() {
                answer.push(fields[*position]);
            }
        }
        Ok::<_, Answer>(())
    })?;
    let answer = answer.finish();
    // As long as the list it answers, at most; a client that sends more than it can receive has to send less.
    let (size_bytes, limit_bytes) = (answer.len(), cache.limits().response_size_bytes_max);
    if size_bytes > limit_bytes {
        return Err(Answer::invalid(format!(
            "the answer would have {size_bytes} bytes, over {limit_bytes}; ask for fewer digests at a time"
        )));
    }
    Ok(answer)
}

fn refused(fault: DigestFault) -> Answer {
    match fault {
        DigestFault::Message(fault) => malformed(fault),
        DigestFault::Digest(error) => answer_of(error),
    }
}
