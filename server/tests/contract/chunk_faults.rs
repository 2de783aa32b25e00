//! Known faults of splicing, by their number: 53.

use bazel_remote_apis::build::bazel::remote::execution::v2::{
    Digest, RegisterChunkMappingRequest, SpliceBlobRequest, digest_function,
};
use tonic::{Code, Status};

use crate::start;
use crate::support::blob::{absent_digest, blob, bytes, digest_of, malformed_hashes, with_hash, with_size};
use crate::support::grpc::{Cache, assert_code};

const MIB: usize = 1024 * 1024;

/// Splices by the unary method or by the streaming one, a chunk a message.
async fn splice(cache: &Cache, is_unary: bool, blob: Option<&Digest>, chunks: &[Digest]) -> Result<(), Status> {
    if is_unary {
        let request = SpliceBlobRequest {
            blob_digest: blob.cloned(),
            chunk_digests: chunks.to_vec(),
            ..SpliceBlobRequest::default()
        };
        return cache.cas().splice_blob(request).await.map(|_| ());
    }
    let first = RegisterChunkMappingRequest {
        blob_digest: blob.cloned(),
        digest_function: digest_function::Value::Sha256.into(),
        ..RegisterChunkMappingRequest::default()
    };
    let rest = chunks.iter().map(|chunk| RegisterChunkMappingRequest {
        chunk_digests: vec![chunk.clone()],
        ..RegisterChunkMappingRequest::default()
    });
    let messages: Vec<_> = std::iter::once(first).chain(rest).collect();
    cache.cas().register_chunk_mapping(tokio_stream::iter(messages)).await.map(|_| ())
}

/// Nothing is published that was not verified: whatever a list of chunks says, the blob is its bytes or absent.
#[tokio::test]
async fn fault_53_a_splice_is_verified_before_it_is_seen() {
    let (mut server, cache) = start().await;
    let before = server.anonymous_memory_bytes();
    for is_unary in [true, false] {
        for (seed, sizes) in [(53_000, [1000, 2000, 3000]), (53_100, [300_000, 1, 900_000])] {
            let seed = seed + u64::from(is_unary);
            let parts: Vec<Vec<u8>> = sizes.iter().zip(0..).map(|(size, at)| bytes(seed + 10 * at, *size)).collect();
            let mut chunks = Vec::new();
            for part in &parts {
                chunks.push(cache.store(part).await);
            }
            let data = parts.concat();
            let digest = digest_of(&data);
            let size = digest.size_bytes;
            let with = |at: usize, chunk: Digest| {
                let mut chunks = chunks.clone();
                chunks[at] = chunk;
                chunks
            };
            let (invalid, missing) = (&[Code::InvalidArgument][..], &[Code::NotFound][..]);
            let either = &[Code::InvalidArgument, Code::NotFound][..];
            let huge = with_size(&absent_digest(1), i64::MAX);
            let mut rows = vec![
                ("no blob", None, chunks.clone(), invalid),
                ("no chunks", Some(digest.clone()), vec![], invalid),
                (
                    "an absent chunk",
                    Some(digest.clone()),
                    with(1, with_size(&absent_digest(seed), sizes[1] as i64)),
                    missing,
                ),
                (
                    "another order",
                    Some(digest.clone()),
                    vec![chunks[1].clone(), chunks[0].clone(), chunks[2].clone()],
                    invalid,
                ),
                ("a chunk too few", Some(digest.clone()), chunks[..2].to_vec(), invalid),
                ("a chunk too many", Some(digest.clone()), [&chunks[..], &chunks[..1]].concat(), invalid),
                (
                    "a chunk of another size",
                    Some(digest.clone()),
                    with(0, with_size(&chunks[0], chunks[0].size_bytes + 1)),
                    either,
                ),
                ("a negative chunk", Some(digest.clone()), with(0, with_size(&chunks[0], -1)), invalid),
                (
                    "a sum that overflows",
                    Some(digest.clone()),
                    vec![huge.clone(), huge.clone(), chunks[0].clone()],
                    either,
                ),
                (
                    "a sum that wraps around",
                    Some(with_size(&digest, i64::MAX - 1)),
                    vec![huge.clone(), huge.clone()],
                    either,
                ),
                ("a blob of a negative size", Some(with_size(&digest, -size)), chunks.clone(), invalid),
                ("another blob of this size", Some(blob(seed + 5, size as usize).0), chunks.clone(), invalid),
                ("more than any blob", Some(with_size(&digest, 1 << 50)), vec![chunks[2].clone(); 10_000], invalid),
            ];
            for (what, hash) in malformed_hashes() {
                rows.push((what, Some(digest.clone()), with(2, with_hash(&chunks[2], &hash)), invalid));
            }
            for (what, blob, chunks, expected) in rows {
                let what = format!("{what}, {size} bytes, unary: {is_unary}");
                assert_code(&splice(&cache, is_unary, blob.as_ref(), &chunks).await, expected, &what);
                assert!(!cache.is_present(&digest).await, "{what}");
                if let Some(blob) = blob.filter(|blob| blob.size_bytes >= 0) {
                    assert!(!cache.is_present(&blob).await, "{what}");
                }
            }
            splice(&cache, is_unary, Some(&digest), &chunks).await.expect("the chunks themselves");
            // Of a blob that is there nothing is made, whatever is said of it.
            let done = [Code::Ok, Code::AlreadyExists];
            assert_code(&splice(&cache, is_unary, Some(&digest), &chunks).await, &done, "once more");
            let outcome = splice(&cache, is_unary, Some(&digest), &chunks[..2]).await;
            assert_code(&outcome, &[Code::Ok, Code::AlreadyExists, Code::InvalidArgument], "with too few chunks");
            assert!(cache.read(&digest).await.expect("Read") == data);
            let range = cache.read_range(&cache.read_name(&digest), 999, 2002).await.expect("Read");
            assert!(range == data[999..3001]);
        }
    }
    let grown = server.anonymous_memory_bytes().saturating_sub(before);
    assert!(grown < 64 * MIB as u64, "splices left {grown} bytes behind");
    assert!(server.is_alive());
}
