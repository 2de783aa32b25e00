//! Packing: how many digests or blobs go into one message.

use cask_proto::reapi;
use prost::{Message as _, encoding::encoded_len_varint};

/// Most bytes of one encoded message that we send: what servers and clients accept unless told otherwise (4 MiB), less
/// some slack for the fields around the list.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024 - 64 * 1024;

/// Encoded size of one element of a repeated message field whose number is below 16.
fn element_bytes(message_bytes: usize) -> usize {
    1 + encoded_len_varint(message_bytes as u64) + message_bytes
}

/// What a digest adds to a list of digests.
pub(crate) fn digest_bytes(digest: &reapi::Digest) -> usize {
    element_bytes(digest.encoded_len())
}

/// What a blob adds to a batch update.
pub(crate) fn update_bytes(request: &reapi::batch_update_blobs_request::Request) -> usize {
    element_bytes(request.encoded_len())
}

/// Cuts a list into runs whose sizes sum to at most `budget_bytes` each, in order. An item over the budget gets a run
/// of its own: the caller keeps such items out, or the server says what it thinks of them.
pub(crate) fn runs<T>(items: Vec<T>, budget_bytes: usize, size_of: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut runs = Vec::new();
    let (mut run, mut run_bytes) = (Vec::new(), 0);
    for item in items {
        let item_bytes = size_of(&item);
        if !run.is_empty() && run_bytes + item_bytes > budget_bytes {
            runs.push(std::mem::take(&mut run));
            run_bytes = 0;
        }
        run_bytes += item_bytes;
        run.push(item);
    }
    if !run.is_empty() {
        runs.push(run);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_fill_the_budget_and_do_not_exceed_it() {
        for (items, budget, expected) in [
            (vec![], 10, vec![]),
            (vec![10], 10, vec![vec![10]]),
            (vec![5, 5], 10, vec![vec![5, 5]]),
            (vec![5, 6], 10, vec![vec![5], vec![6]]),
            (vec![1, 11, 1, 1], 10, vec![vec![1], vec![11], vec![1, 1]]),
            (vec![11, 12], 10, vec![vec![11], vec![12]]),
            (vec![0, 0, 0], 0, vec![vec![0, 0, 0]]),
        ] {
            assert_eq!(runs(items.clone(), budget, |item| *item), expected, "{items:?}");
        }
    }

    #[test]
    fn sizes_are_those_of_the_encoded_message() {
        for size_bytes in [0, 1, 1 << 20, i64::MAX] {
            let digest = reapi::Digest { hash: "ab".repeat(32), size_bytes };
            let alone = reapi::FindMissingBlobsRequest { blob_digests: vec![digest.clone()], ..Default::default() };
            assert_eq!(digest_bytes(&digest), alone.encoded_len());
            let request = reapi::batch_update_blobs_request::Request {
                digest: Some(digest),
                data: vec![7; size_bytes.min(1 << 20) as usize].into(),
                compressor: 0,
            };
            let alone = reapi::BatchUpdateBlobsRequest { requests: vec![request.clone()], ..Default::default() };
            assert_eq!(update_bytes(&request), alone.encoded_len());
        }
    }
}
