//! One comparison a hot request: takes any bytes, panics where the hand codec and the generated type disagree, and says whether both accept.
//!
//! Shared with the fuzz targets, which include this file.
#![allow(unreachable_pub)] // Reachable there.

use bytes::Bytes;
use cask_index::{Digest, DigestFunction};
use cask_proto::digest::{DigestRule, FunctionRule};
use cask_proto::wire::{
    BatchRead, BatchUpdate, DigestFault, FindMissing, GetActionResult, OwnedRawDigest, RawDigest, ReadRequest,
    WireFault, WriteHead, WriteMessage, write_head,
};
use cask_proto::{bytestream, reapi};
use prost::Message;

/// Whether both accept, given what each made of the same bytes.
fn both<Ours, Theirs>(
    ours: Result<Ours, WireFault>,
    theirs: Result<Theirs, prost::DecodeError>,
) -> Option<(Ours, Theirs)> {
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => Some((ours, theirs)),
        (Err(ours), Err(_)) => {
            let text = ours.to_string();
            assert!(!text.is_empty() && text.len() < 100, "{text}");
            None
        }
        (Ok(_), Err(theirs)) => panic!("accepted although: {theirs}"),
        (Err(ours), Ok(_)) => panic!("refused although it is well-formed: {ours}"),
    }
}

fn of(raw: RawDigest<'_>) -> reapi::Digest {
    reapi::Digest { hash: raw.hash.to_owned(), size_bytes: raw.size_bytes }
}

fn of_owned(digest: &OwnedRawDigest) -> reapi::Digest {
    of(digest.raw())
}

/// `FindMissingBlobsRequest`.
pub fn wire_find_missing(data: &[u8]) -> bool {
    let ours = FindMissing::parse(data).and_then(|request| {
        let entries: Result<Vec<_>, _> = request.digests().collect();
        Ok((request, entries?))
    });
    let Some(((request, entries), theirs)) = both(ours, reapi::FindMissingBlobsRequest::decode(data)) else {
        if let Ok(request) = FindMissing::parse(data) {
            // Malformed is malformed, unless a digest before it is wrong.
            let rule = DigestRule::new(FunctionRule::INFERRED, cask_index::Namespace::SHARED);
            parsed_digests(&request, rule, 3, &mut Vec::new()).expect_err("malformed");
        }
        return false;
    };
    assert_eq!(request.instance_name, theirs.instance_name);
    assert_eq!(request.digest_function, theirs.digest_function);
    assert_eq!(request.digest_count, entries.len());
    let digests: Vec<_> = entries.iter().map(|entry| of(entry.digest)).collect();
    assert_eq!(digests, theirs.blob_digests);

    for (entry, digest) in entries.iter().zip(&theirs.blob_digests) {
        let answer = reapi::FindMissingBlobsResponse::decode(entry.field).expect("a field of the answer");
        assert_eq!(answer.missing_blob_digests, std::slice::from_ref(digest));
        for function in [FunctionRule::INFERRED, FunctionRule::Named(DigestFunction::Blake3)] {
            let rule = DigestRule::new(function, cask_index::Namespace::SHARED);
            assert_eq!(rule.from_raw(&entry.digest), rule.from_wire(digest));
        }
    }
    for function in [FunctionRule::INFERRED, FunctionRule::Named(DigestFunction::Sha512)] {
        let rule = DigestRule::new(function, cask_index::Namespace::SHARED);
        let mut parsed = Vec::new();
        let outcome = parsed_digests(&request, rule, 1 + data.len() % 4, &mut parsed);
        let mut expected = Vec::new();
        let expected_outcome = entries.iter().try_for_each(|entry| {
            expected.push((rule.from_raw(&entry.digest)?, entry.field));
            Ok(())
        });
        assert_eq!(outcome, expected_outcome.map_err(DigestFault::Digest));
        assert_eq!(parsed, expected);
    }
    true
}

/// All digests, read `count` at a time, up to a fault.
fn parsed_digests<'m>(
    request: &FindMissing<'m>,
    rule: DigestRule,
    count: usize,
    parsed: &mut Vec<(Digest, &'m [u8])>,
) -> Result<(), DigestFault> {
    let mut reader = request.parse_digests(rule);
    let (mut digests, mut fields) = (Vec::new(), Vec::new());
    loop {
        let outcome = reader.next_batch(count, &mut digests, &mut fields);
        assert!(digests.len() <= count && fields.len() == digests.len());
        parsed.extend(digests.iter().copied().zip(fields.iter().copied()));
        match outcome {
            Ok(true) => assert!(!digests.is_empty()),
            Ok(false) => {
                assert!(digests.is_empty());
                return Ok(());
            }
            Err(fault) => return Err(fault),
        }
    }
}

/// `BatchUpdateBlobsRequest`.
pub fn wire_batch_update(data: &[u8]) -> bool {
    let message = Bytes::copy_from_slice(data);
    let ours = BatchUpdate::parse(&message);
    let Some((ours, theirs)) = both(ours, reapi::BatchUpdateBlobsRequest::decode(data)) else { return false };
    assert_eq!(ours.instance_name(), theirs.instance_name);
    assert_eq!(ours.digest_function, theirs.digest_function);
    let items: Vec<_> = ours
        .items
        .iter()
        .map(|item| reapi::batch_update_blobs_request::Request {
            digest: item.digest.as_ref().map(of_owned),
            data: item.data.clone(),
            compressor: item.compressor,
        })
        .collect();
    assert_eq!(items, theirs.requests);
    for item in &ours.items {
        assert!(item.data.is_empty() || message.as_ptr_range().contains(&item.data.as_ptr()), "data was copied");
    }
    true
}

/// `BatchReadBlobsRequest`.
pub fn wire_batch_read(data: &[u8]) -> bool {
    let Some((ours, theirs)) = both(BatchRead::parse(data), reapi::BatchReadBlobsRequest::decode(data)) else {
        return false;
    };
    assert_eq!(ours.instance_name, theirs.instance_name);
    assert_eq!(ours.digest_function, theirs.digest_function);
    let digests: Vec<_> = ours.digests.iter().map(|&digest| of(digest)).collect();
    assert_eq!(digests, theirs.digests);
    let mut compressors = Vec::new();
    ours.acceptable_compressors(|number| compressors.push(number));
    assert_eq!(compressors, theirs.acceptable_compressors);
    true
}

/// `GetActionResultRequest`.
pub fn wire_get_action_result(data: &[u8]) -> bool {
    let Some((ours, theirs)) = both(GetActionResult::parse(data), reapi::GetActionResultRequest::decode(data)) else {
        return false;
    };
    let ours = reapi::GetActionResultRequest {
        instance_name: ours.instance_name.to_owned(),
        action_digest: ours.action_digest.map(of),
        inline_stdout: ours.inline_stdout,
        inline_stderr: ours.inline_stderr,
        inline_output_files: ours.inline_output_files().map(str::to_owned).collect(),
        digest_function: ours.digest_function,
    };
    assert_eq!(ours, theirs);
    true
}

/// `google.bytestream.ReadRequest`.
pub fn wire_read(data: &[u8]) -> bool {
    let Some((ours, theirs)) = both(ReadRequest::parse(data), bytestream::ReadRequest::decode(data)) else {
        return false;
    };
    assert_eq!(
        (ours.resource_name, ours.read_offset, ours.read_limit),
        (&*theirs.resource_name, theirs.read_offset, theirs.read_limit)
    );
    true
}

/// `google.bytestream.WriteRequest`, whole and from every beginning.
pub fn wire_write(data: &[u8]) -> bool {
    let message = Bytes::copy_from_slice(data);
    let theirs = bytestream::WriteRequest::decode(data);
    let Some((ours, theirs)) = both(WriteMessage::parse(&message), theirs) else {
        for length in 0..=data.len() {
            match write_head(data.len(), &data[..length]) {
                Err(_) | Ok(WriteHead::Irregular) => (),
                Ok(WriteHead::NeedMore) => assert!(length < data.len(), "nothing more will come"),
                Ok(head) => panic!("{head:?} of {length} bytes of a message that is malformed"),
            }
        }
        return false;
    };
    assert_eq!(ours.resource_name, theirs.resource_name);
    assert_eq!(ours.write_offset, theirs.write_offset);
    assert_eq!(ours.finish_write, theirs.finish_write);
    assert_eq!(ours.data, theirs.data);
    assert!(ours.data.is_empty() || message.as_ptr_range().contains(&ours.data.as_ptr()), "data was copied");

    let mut settled = None;
    for length in 0..=data.len() {
        let head = write_head(data.len(), &data[..length]).expect("a part of a well-formed message");
        // What was said once is said of everything longer.
        assert!(settled.is_none_or(|settled| settled == head), "{settled:?}, then {head:?}");
        match head {
            WriteHead::NeedMore => assert!(length < data.len(), "nothing more will come"),
            WriteHead::Irregular => settled = Some(head),
            WriteHead::Streamable { resource_name, write_offset, finish_write, head_bytes, data_bytes } => {
                settled = Some(head);
                assert!(head_bytes <= length, "said of what had not come");
                assert_eq!(head_bytes + data_bytes, data.len());
                assert_eq!(resource_name, theirs.resource_name);
                assert_eq!(write_offset, theirs.write_offset);
                assert_eq!(finish_write, theirs.finish_write);
                assert_eq!(data[head_bytes..], theirs.data);
            }
        }
    }
    true
}
