//! Every request, many times.

use cask_proto::{bytestream, reapi};
use prost::Message;

use crate::compare;
use crate::random::Random;
use crate::spelling::{Speller, declared};

type Compare = fn(&[u8]) -> bool;

const REQUESTS: [(&str, Compare); 6] = [
    ("build.bazel.remote.execution.v2.FindMissingBlobsRequest", compare::wire_find_missing),
    ("build.bazel.remote.execution.v2.BatchUpdateBlobsRequest", compare::wire_batch_update),
    ("build.bazel.remote.execution.v2.BatchReadBlobsRequest", compare::wire_batch_read),
    ("build.bazel.remote.execution.v2.GetActionResultRequest", compare::wire_get_action_result),
    ("google.bytestream.ReadRequest", compare::wire_read),
    ("google.bytestream.WriteRequest", compare::wire_write),
];

/// Messages of each request and of each kind.
const MESSAGES: usize = 40_000;

/// Runs `MESSAGES` inputs for each request and holds the share of accepted ones in a range, so that neither side goes untested.
fn check(shares: std::ops::Range<f64>, mut input: impl FnMut(&mut Random, &str) -> Vec<u8>) {
    for (name, compare) in REQUESTS {
        let mut random = Random(0xca5c);
        let accepted = (0..MESSAGES).filter(|_| compare(&input(&mut random, name))).count();
        let share = accepted as f64 / MESSAGES as f64;
        assert!(shares.contains(&share), "{share} of {name} are accepted");
    }
}

fn spelled(random: &mut Random, name: &str, fault_in: usize) -> Vec<u8> {
    thread_local!(static DECLARED: std::cell::RefCell<Option<(String, prost_reflect::MessageDescriptor)>> = const { std::cell::RefCell::new(None) });
    // Decoding the descriptors takes longer than everything else here.
    let declared = DECLARED.with_borrow_mut(|kept| {
        if kept.as_ref().is_none_or(|(kept, _)| kept != name) {
            *kept = Some((name.to_owned(), declared(name)));
        }
        kept.as_ref().expect("just set").1.clone()
    });
    Speller { random, fault_in }.message(&declared)
}

#[test]
fn every_spelling_of_a_well_formed_message() {
    // What is not accepted lies too deep.
    check(0.9..1.0, |random, name| spelled(random, name, usize::MAX));
}

#[test]
fn messages_with_one_fault_or_two() {
    check(0.2..0.9, |random, name| spelled(random, name, 40));
}

#[test]
fn mutated_messages() {
    check(0.05..0.9, |random, name| {
        let mut message = spelled(random, name, usize::MAX);
        for _ in 0..=random.below(3) {
            let at = random.below(message.len() + 1);
            let end = at + random.below(message.len() - at + 1).min(80);
            match random.below(6) {
                0 if at < message.len() => message[at] ^= 1 << random.below(8),
                1 if at < message.len() => message[at] = random.next() as u8,
                2 => message.insert(at, random.next() as u8),
                3 => drop(message.drain(at..end)),
                4 => {
                    let copied = message[at..end].to_vec();
                    message.splice(at..at, copied);
                }
                _ => message.truncate(at),
            }
        }
        message
    });
}

#[test]
fn random_bytes() {
    // Short ones, of bytes that are keys and lengths more often than chance has it.
    check(0.001..0.5, |random, _| {
        let length = random.below(24);
        let mut byte = || {
            let any = random.next() as u8;
            if random.once_in(3) { any } else { any & 0x1f }
        };
        (0..length).map(|_| byte()).collect()
    });
}

/// What encoders write is streamed as soon as the length of the data has come.
#[test]
fn an_upload_is_streamed_from_the_data_on() {
    use cask_proto::wire::{WriteHead, write_head};
    for data_bytes in [0, 1, 127, 128, 16_383, 16_384, 100_000] {
        let mut message = bytestream::WriteRequest {
            resource_name: "main/uploads/id/blobs/hash/5".to_owned(),
            write_offset: 70_000,
            finish_write: true,
            data: vec![7; data_bytes].into(),
        };
        let encoded = message.encode_to_vec();
        message.data = bytes::Bytes::new();
        let head_bytes = encoded.len() - data_bytes;
        for length in 0..=head_bytes + data_bytes.min(1) {
            let expected = if length < head_bytes {
                WriteHead::NeedMore
            } else {
                WriteHead::Streamable {
                    resource_name: &message.resource_name,
                    write_offset: 70_000,
                    finish_write: true,
                    head_bytes,
                    data_bytes,
                }
            };
            assert_eq!(write_head(encoded.len(), &encoded[..length]), Ok(expected), "{length} of {}", encoded.len());
        }
    }
}

/// A head that never ends is not read again with each of its bytes.
#[test]
fn a_head_without_end_is_irregular() {
    use cask_proto::wire::{WriteHead, write_head};
    let message = [0x20, 1].repeat(1 << 20);
    for (so_far, expected) in [
        (0, WriteHead::NeedMore),
        (4095, WriteHead::NeedMore),
        (4096, WriteHead::Irregular),
        (1 << 20, WriteHead::Irregular),
    ] {
        assert_eq!(write_head(message.len(), &message[..so_far]), Ok(expected), "{so_far}");
    }
    // A name of a megabyte.
    let message = bytestream::WriteRequest { resource_name: "n".repeat(1 << 20), ..Default::default() }.encode_to_vec();
    assert_eq!(write_head(message.len(), &message[..4095]), Ok(WriteHead::NeedMore));
    assert_eq!(write_head(message.len(), &message[..4096]), Ok(WriteHead::Irregular));
}

/// Two bytes of a message become an element of eighty.
#[test]
fn lists_of_nothing_are_refused_and_lists_of_digests_are_not() {
    use cask_proto::wire::{BatchRead, BatchUpdate};
    let nothing = bytes::Bytes::from([0x12, 0].repeat(2_000_000));
    let refused = "it is nothing but empty fields";
    assert_eq!(BatchUpdate::parse(&nothing).map(drop).unwrap_err().to_string(), refused);
    assert_eq!(BatchRead::parse(&nothing).map(drop).unwrap_err().to_string(), refused);

    let digest = reapi::Digest { hash: "0".repeat(64), size_bytes: 1 };
    let request = reapi::BatchReadBlobsRequest { digests: vec![digest; 100_000], ..Default::default() };
    let request = request.encode_to_vec();
    assert_eq!(BatchRead::parse(&request).expect("a long list").digests.len(), 100_000);
}
