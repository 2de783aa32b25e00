//! Answers are byte for byte what the generated types encode.

use bytes::Bytes;
use cask_proto::wire::{
    BatchReadAnswer, BatchUpdateAnswer, FindMissing, FindMissingAnswer, ItemStatus, READ_RESPONSE_HEAD_BYTES_MAX,
    RawDigest, read_response_head, write_response,
};
use cask_proto::{bytestream, reapi, rpc};
use prost::Message;

use crate::random::Random;

fn digest(random: &mut Random) -> reapi::Digest {
    let hash = ["0", ""][usize::from(random.once_in(8))].repeat([32, 64, 128][random.below(3)]);
    reapi::Digest { hash, size_bytes: random.number() as i64 }
}

fn raw(digest: &reapi::Digest) -> RawDigest<'_> {
    RawDigest { hash: &digest.hash, size_bytes: digest.size_bytes }
}

fn status(random: &mut Random) -> rpc::Status {
    if random.once_in(2) {
        return rpc::Status::default();
    }
    let detail = prost_types::Any { type_url: "type.googleapis.com/x".to_owned(), value: vec![7; random.below(200)] };
    rpc::Status {
        code: random.number() as i32,
        message: "m".repeat(random.below(300)),
        details: vec![detail; random.below(3)],
    }
}

fn details(status: &rpc::Status) -> Vec<u8> {
    rpc::Status { details: status.details.clone(), ..Default::default() }.encode_to_vec()
}

fn data(random: &mut Random) -> Vec<Bytes> {
    let mut piece = || Bytes::from(vec![random.next() as u8; [0, 1, 511, 512, 20_000][random.below(5)]]);
    let count = piece().len() % 4;
    (0..count).map(|_| piece()).collect()
}

#[test]
fn batches() {
    let mut random = Random(1);
    for _ in 0..5000 {
        let mut update = BatchUpdateAnswer::new(3);
        let mut read = BatchReadAnswer::new(3);
        let mut update_expected = reapi::BatchUpdateBlobsResponse::default();
        let mut read_expected = reapi::BatchReadBlobsResponse::default();
        let mut large = Vec::new();
        for _ in 0..random.below(4) {
            let (digest, data, status) = (digest(&mut random), data(&mut random), status(&mut random));
            let details = details(&status);
            let said = ItemStatus { code: status.code, message: &status.message, details: &details };
            let compressor = random.number() as i32;
            let known = (!random.once_in(8)).then(|| digest.clone());
            update.push(known.as_ref().map(raw), &said);
            read.push(raw(&digest), &data, &said, compressor);
            large.extend(data.iter().filter(|piece| piece.len() >= 512).map(|piece| piece.as_ptr()));
            update_expected
                .responses
                .push(reapi::batch_update_blobs_response::Response { digest: known, status: Some(status.clone()) });
            read_expected.responses.push(reapi::batch_read_blobs_response::Response {
                digest: Some(digest),
                data: data.concat().into(),
                status: Some(status),
                compressor,
            });
        }
        assert_eq!(update.length_bytes(), update_expected.encoded_len());
        assert_eq!(update.finish().into_message().concat(), update_expected.encode_to_vec());
        assert_eq!(read.length_bytes(), read_expected.encoded_len());
        let segments = read.finish().into_message();
        assert_eq!(segments.concat(), read_expected.encode_to_vec());
        let pointers: Vec<_> = segments.iter().map(|segment| segment.as_ptr()).collect();
        assert!(large.iter().all(|piece| pointers.contains(piece)), "data was copied");
    }
}

#[test]
fn missing_digests() {
    let mut random = Random(1);
    for _ in 0..2000 {
        let count = random.below(60);
        let missing_in = 1 + random.below(5);
        let request = reapi::FindMissingBlobsRequest {
            instance_name: "main".to_owned(),
            blob_digests: (0..count).map(|_| digest(&mut random)).collect(),
            digest_function: 1,
        };
        // Sometimes with a field in between that is not the list's.
        let encoded = [request.encode_to_vec(), vec![0x78, 1], request.encode_to_vec()].concat();
        let message = Bytes::from(encoded);
        let parsed = FindMissing::parse(&message).expect("well-formed");
        let mut answer = FindMissingAnswer::new(&message);
        let mut expected = reapi::FindMissingBlobsResponse::default();
        for entry in parsed.digests().map(|entry| entry.expect("well-formed")) {
            if random.once_in(missing_in) {
                answer.push(entry.field);
                let digest = reapi::Digest { hash: entry.digest.hash.to_owned(), size_bytes: entry.digest.size_bytes };
                expected.missing_blob_digests.push(digest);
            }
        }
        let segments = answer.finish();
        assert_eq!(segments.len(), expected.encoded_len());
        let segments = segments.into_message();
        assert_eq!(segments.concat(), expected.encode_to_vec());
        if missing_in == 1 && count > 20 {
            // Everything is missing: both parts are slices of the request.
            assert_eq!(segments.len(), 2);
            assert!(segments.iter().all(|segment| message.as_ptr_range().contains(&segment.as_ptr())), "copied");
        }
    }
}

#[test]
fn byte_stream() {
    for length in [0, 1, 127, 128, 16_383, 16_384, 1 << 20, (1 << 21) - 1, 1 << 21] {
        let mut head = [0; READ_RESPONSE_HEAD_BYTES_MAX];
        let head_length = read_response_head(length, &mut head);
        let data = vec![7; length];
        let message = bytestream::ReadResponse { data: data.clone().into() }.encode_to_vec();
        let prefix = [&[0][..], &(message.len() as u32).to_be_bytes()].concat();
        assert!([&head[..head_length], &data].concat() == [prefix, message].concat(), "{length}");
    }
    let longest = read_response_head((1 << 32) - 8, &mut [0; READ_RESPONSE_HEAD_BYTES_MAX]);
    assert_eq!(longest, READ_RESPONSE_HEAD_BYTES_MAX);
    for committed_size in [0, 1, -1, 1 << 40, i64::MAX, i64::MIN] {
        let expected = bytestream::WriteResponse { committed_size }.encode_to_vec();
        assert_eq!(write_response(committed_size).into_message().concat(), expected);
    }
}
