//! `BatchUpdateBlobs` and `BatchReadBlobs`: many small blobs in one message, each with an outcome of its own.

use bytes::Bytes;
use cask_index::Digest;
use cask_proto::digest::DigestRule;
use cask_proto::wire::{BatchRead, BatchReadAnswer, BatchUpdate, BatchUpdateAnswer, ItemStatus, RawDigest, UpdateItem};
use cask_proto::{Compressor, rpc};
use prost::Message;

use super::{Reply, malformed};
use crate::cache::Cache;
use crate::service::request;
use crate::status::{Answer, answer_of};

/// Bytes that one item of a batch answer takes beside its data and its digest: tags, lengths and a short status.
const ITEM_OVERHEAD_BYTES: usize = 64;

/// The same for an answer of codes alone.
const ITEM_CODE_BYTES: usize = 16;

/// The answer to `BatchUpdateBlobs`.
pub(super) async fn update(cache: &Cache, message: &Bytes) -> Result<cask_proto::wire::Segments, Answer> {
    let request = BatchUpdate::parse(message).map_err(malformed)?;
    let rule = request::digest_rule(cache, request.instance_name(), request.digest_function)?;
    check_total(cache, "carries", request.items.iter().map(item_bytes))?;
    check_answer(cache, &request.items)?;
    // All items are handed over before the first is waited for, so that they share group commits; those that come as they are, are
    // hashed together. An item that has to wait for staging budget waits for other items at most, which are on their way already.
    let items: Vec<_> = request.items.iter().map(|item| named(rule, item)).collect();
    let plain = items.iter().zip(&request.items).filter_map(|(named, item)| match named {
        Ok((digest, Compressor::Identity)) => Some((*digest, item.data.clone())),
        _ => None,
    });
    let mut begun = cache.begin_puts(plain.collect()).await.into_iter();
    let mut puts = Vec::with_capacity(items.len());
    for (named, item) in items.into_iter().zip(&request.items) {
        puts.push(match named {
            Ok((_, Compressor::Identity)) => begun.next().expect("an outcome for each blob").map_err(answer_of),
            Ok((digest, _)) => cache.begin_put_zstd(digest, item.data.clone()).await.map_err(answer_of),
            Err(answer) => Err(answer),
        });
    }
    let mut outcomes = Vec::with_capacity(puts.len());
    for put in puts {
        outcomes.push(match put {
            Ok(put) => put.stored().await.map_err(answer_of),
            Err(answer) => Err(answer),
        });
    }
    let answer = update_answer(&request.items, &outcomes, ItemOutcome::of);
    if answer.length_bytes() <= cache.limits().response_size_bytes_max {
        return Ok(answer.finish());
    }
    // The codes say what is to be done; what went wrong has to be asked for with fewer blobs.
    Ok(update_answer(&request.items, &outcomes, ItemOutcome::without_words_of).finish())
}

fn update_answer(
    items: &[UpdateItem],
    outcomes: &[Result<(), Answer>],
    outcome_of: impl Fn(&Answer) -> ItemOutcome,
) -> BatchUpdateAnswer {
    let mut answer = BatchUpdateAnswer::new(items.len());
    for (item, outcome) in items.iter().zip(outcomes) {
        let digest = item.digest.as_ref().map(|digest| digest.raw());
        match outcome {
            Ok(()) => answer.push(digest, &ItemStatus::OK),
            Err(refusal) => answer.push(digest, &outcome_of(refusal).status()),
        }
    }
    answer
}

/// The answer to `BatchReadBlobs`.
pub(super) async fn read(cache: &Cache, message: &Bytes) -> Result<Reply, Answer> {
    let request = BatchRead::parse(message).map_err(malformed)?;
    let rule = request::digest_rule(cache, request.instance_name, request.digest_function)?;
    let digests: Vec<_> = request.digests.iter().map(|wire| rule.from_raw(wire).map_err(answer_of)).collect();
    let total_bytes = digests.iter().flatten().map(Digest::size_bytes).fold(0, u64::saturating_add);
    check_total(cache, "asks for", std::iter::once(total_bytes))?;
    let overhead_bytes = request.digests.iter().map(item_overhead_bytes).sum::<usize>();
    let room = cache.answer_room(total_bytes as usize + overhead_bytes).await.map_err(answer_of)?;
    let mut room_bytes = data_room(cache, overhead_bytes, request.digests.len())?;
    // What a client lists beside it is its own business: plain bytes are always acceptable.
    let mut takes_zstd = false;
    request.acceptable_compressors(|number| takes_zstd |= number == Compressor::Zstd.wire_number());
    let mut answer = BatchReadAnswer::new(digests.len());
    for (digest, wire) in digests.into_iter().zip(&request.digests) {
        let outcome = match digest {
            Ok(digest) => read_item(cache, &digest, takes_zstd, &mut room_bytes).await,
            Err(answer) => Err(answer),
        };
        match outcome {
            Ok((data, compressor)) => answer.push(*wire, &[data], &ItemStatus::OK, compressor.wire_number()),
            Err(refusal) => answer.push(*wire, &[], &ItemOutcome::of(&refusal).status(), 0),
        }
    }
    Ok(Reply { room: Some(room), ..Reply::new(answer.finish()) })
}

/// An item's refusal, as its status carries it.
struct ItemOutcome {
    code: i32,
    message: String,
    details: Vec<u8>,
}

impl ItemOutcome {
    fn of(answer: &Answer) -> Self {
        let rpc::Status { code, message, details } = answer.clone().into();
        // The details alone, as fields of a status.
        let details = rpc::Status { code: 0, message: String::new(), details }.encode_to_vec();
        Self { code, message, details }
    }

    fn without_words_of(answer: &Answer) -> Self {
        Self { message: String::new(), ..Self::of(answer) }
    }

    fn status(&self) -> ItemStatus<'_> {
        ItemStatus { code: self.code, message: &self.message, details: &self.details }
    }
}

/// Refuses a batch of which not even the codes would fit an answer.
fn check_answer(cache: &Cache, items: &[UpdateItem]) -> Result<(), Answer> {
    let item_bytes =
        |item: &UpdateItem| ITEM_CODE_BYTES + item.digest.as_ref().map_or(0, |digest| digest.raw().length_bytes());
    if items.iter().map(item_bytes).sum::<usize>() > cache.limits().response_size_bytes_max {
        return Err(Answer::invalid(format!("{} blobs are too many for one batch; send fewer", items.len())));
    }
    Ok(())
}

/// Refuses a batch over the advertised limit as a whole.
fn check_total(cache: &Cache, verb: &'static str, sizes: impl Iterator<Item = u64>) -> Result<(), Answer> {
    let limit_bytes = cache.limits().batch_total_size_bytes_max;
    let total_bytes = sizes.fold(0, u64::saturating_add);
    if total_bytes > limit_bytes {
        return Err(Answer::invalid(format!(
            "the batch {verb} {total_bytes} bytes, the limit is {limit_bytes}; use ByteStream for large blobs"
        )));
    }
    Ok(())
}

/// What an item is, and how it comes.
fn named(rule: DigestRule, item: &UpdateItem) -> Result<(Digest, Compressor), Answer> {
    let digest = item.digest.as_ref().map(|digest| digest.raw());
    let digest = rule.from_raw_field("digest", digest.as_ref()).map_err(answer_of)?;
    let compressor = Compressor::from_wire_number(item.compressor).map_err(answer_of)?;
    request::served_compressor(compressor)?;
    Ok((digest, compressor))
}

/// Bytes of data that a batch answer has room for beside the digests and statuses of its items. The advertised limit is on blob
/// bytes alone, so a batch of very many tiny blobs can be within it and not fit a message.
fn data_room(cache: &Cache, overhead_bytes: usize, count: usize) -> Result<usize, Answer> {
    let limits = cache.limits();
    let one_blob_of_the_limit = limits.batch_total_size_bytes_max as usize + 2 * ITEM_OVERHEAD_BYTES;
    let message_bytes = limits.response_size_bytes_max.max(one_blob_of_the_limit);
    message_bytes
        .checked_sub(overhead_bytes)
        .ok_or_else(|| Answer::invalid(format!("{count} digests are too many for one batch; ask for fewer")))
}

/// The blob as zstd where it is stored so and the client takes it, else as it is.
async fn read_item(
    cache: &Cache,
    digest: &Digest,
    takes_zstd: bool,
    room_bytes: &mut usize,
) -> Result<(Bytes, Compressor), Answer> {
    if digest.size_bytes() > *room_bytes as u64 {
        return Err(Answer::exhausted("the answer has no more room; ask for this blob again"));
    }
    let (data, compressor) = if takes_zstd {
        cache.read_whole_either(digest, *room_bytes as u64).await.map_err(answer_of)?
    } else {
        (cache.read_whole(digest, *room_bytes as u64).await.map_err(answer_of)?, Compressor::Identity)
    };
    *room_bytes -= data.len();
    Ok((data, compressor))
}

/// Bytes of blob that an item carries: of a compressed one it is the digest that says, and that bounds what it is decoded to.
fn item_bytes(item: &UpdateItem) -> u64 {
    let sent_bytes = item.data.len() as u64;
    if item.compressor == Compressor::Identity.wire_number() {
        return sent_bytes;
    }
    let promised_bytes = item.digest.as_ref().and_then(|digest| u64::try_from(digest.raw().size_bytes).ok());
    sent_bytes.max(promised_bytes.unwrap_or(0))
}

fn item_overhead_bytes(wire: &RawDigest<'_>) -> usize {
    wire.length_bytes() + ITEM_OVERHEAD_BYTES
}
