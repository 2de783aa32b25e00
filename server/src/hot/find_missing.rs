//! FindMissingBlobs: digests go from the request's bytes to the index, and those that are missing are answered with the request's
//! own bytes.

use bytes::Bytes;
use cask_index::Digest;
use cask_proto::wire::{FindMissing, Segments};

use super::malformed;
use crate::cache::Cache;
use crate::service::request;
use crate::status::{Answer, answer_of};

/// Digests looked up at once: enough to hide the index's latency, few enough to stay in the nearest cache.
const BATCH_DIGESTS: usize = 128;

/// The answer to a request.
pub(super) fn answer(cache: &Cache, message: &Bytes) -> Result<Segments, Answer> {
    let wire = FindMissing::parse(message).map_err(malformed)?;
    let rule = request::digest_rule(cache, wire.instance_name, wire.digest_function)?;
    let mut answer = Segments::new();
    let mut digests: Vec<Digest> = Vec::with_capacity(wire.digest_count.min(BATCH_DIGESTS));
    let mut fields: Vec<&[u8]> = Vec::with_capacity(digests.capacity());
    let mut absent = Vec::new();
    let mut look_up = |digests: &mut Vec<Digest>, fields: &mut Vec<&[u8]>| {
        absent.clear();
        cache.engine().find_missing(digests, &mut absent).map_err(answer_of)?;
        for position in &absent {
            answer.put(fields[*position]);
        }
        digests.clear();
        fields.clear();
        Ok::<_, Answer>(())
    };
    for entry in wire.digests() {
        let entry = entry.map_err(malformed)?;
        digests.push(rule.from_raw(&entry.digest).map_err(answer_of)?);
        fields.push(entry.field);
        if digests.len() == BATCH_DIGESTS {
            look_up(&mut digests, &mut fields)?;
        }
    }
    look_up(&mut digests, &mut fields)?;
    // As long as the list it answers, at most; a client that sends more than it can receive has to send less.
    let (size_bytes, limit_bytes) = (answer.len(), cache.limits().response_size_bytes_max);
    if size_bytes > limit_bytes {
        return Err(Answer::invalid(format!(
            "the answer would have {size_bytes} bytes, over {limit_bytes}; ask for fewer digests at a time"
        )));
    }
    Ok(answer)
}
