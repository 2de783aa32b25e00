//! Section H: splitting and splicing, in the unary and in the streaming form.

use bazel_remote_apis::build::bazel::remote::execution::v2::chunking_function::Value as Function;
use bazel_remote_apis::build::bazel::remote::execution::v2::digest_function::Value as Sha;
use bazel_remote_apis::build::bazel::remote::execution::v2::{
    Digest, GetChunkMappingRequest, GetChunkMappingResponse, RegisterChunkMappingRequest, SpliceBlobRequest,
    SplitBlobRequest,
};
use cask_chunking::{Chunker, Cutter, FastCdc, RepMaxCdc};
use cask_index::DigestFunction;
use http::Method;
use tonic::{Code, Status};

use crate::support::blob::{absent_digest, blob, bytes, digest_of, digest_under, empty_digest, with_hash, with_size};
use crate::support::damage;
use crate::support::grpc::{Cache, assert_code, assert_invalid, code};
use crate::support::http::request;
use crate::support::metrics::Metrics;
use crate::support::process::Options;
use crate::support::within;
use crate::{start, start_with};

const KIB: usize = 1024;
const MIB: usize = 1024 * 1024;

/// What is advertised.
const FAST_CDC_AVERAGE_BYTES: usize = 512 * KIB;
const FAST_CDC_MAX_BYTES: usize = 4 * FAST_CDC_AVERAGE_BYTES;
const REP_MAX_CDC_MIN_BYTES: usize = 256 * KIB;
const REP_MAX_CDC_HORIZON_BYTES: usize = 2048 * KIB;

async fn split(cache: &Cache, blob: &Digest, function: Function) -> Result<(Vec<Digest>, i32), Status> {
    let request = SplitBlobRequest {
        instance_name: cache.instance.clone(),
        blob_digest: Some(blob.clone()),
        digest_function: 0,
        chunking_function: function.into(),
    };
    split_with(cache, request).await
}

async fn split_with(cache: &Cache, request: SplitBlobRequest) -> Result<(Vec<Digest>, i32), Status> {
    let answer = within("the answer to a SplitBlob", cache.cas().split_blob(request)).await?.into_inner();
    Ok((answer.chunk_digests, answer.chunking_function))
}

/// The messages of a `GetChunkMapping`.
async fn mapping(cache: &Cache, blob: &Digest, function: Function) -> Result<Vec<GetChunkMappingResponse>, Status> {
    let request = GetChunkMappingRequest {
        instance_name: cache.instance.clone(),
        blob_digest: Some(blob.clone()),
        digest_function: 0,
        chunking_function: function.into(),
    };
    let mut stream = cache.cas().get_chunk_mapping(request).await?.into_inner();
    let mut messages = Vec::new();
    while let Some(message) = within("the next message of a GetChunkMapping", stream.message()).await? {
        messages.push(message);
    }
    Ok(messages)
}

async fn splice(cache: &Cache, blob: &Digest, chunks: &[Digest], function: Function) -> Result<Digest, Status> {
    let request = SpliceBlobRequest {
        instance_name: cache.instance.clone(),
        blob_digest: Some(blob.clone()),
        chunk_digests: chunks.to_vec(),
        digest_function: 0,
        chunking_function: function.into(),
    };
    let answer = within("the answer to a SpliceBlob", cache.cas().splice_blob(request)).await?;
    Ok(answer.into_inner().blob_digest.expect("the answer names the blob"))
}

async fn register(cache: &Cache, messages: Vec<RegisterChunkMappingRequest>) -> Result<(), Status> {
    let call = cache.clone();
    let call = async move { call.cas().register_chunk_mapping(tokio_stream::iter(messages)).await };
    within("the answer to a RegisterChunkMapping", call).await.map(drop)
}

/// The first message of a `RegisterChunkMapping` of a SHA-256 blob.
fn first_message(blob: &Digest, chunks: &[Digest]) -> RegisterChunkMappingRequest {
    RegisterChunkMappingRequest {
        blob_digest: Some(blob.clone()),
        chunk_digests: chunks.to_vec(),
        digest_function: Sha::Sha256.into(),
        ..Default::default()
    }
}

fn more(chunks: &[Digest]) -> RegisterChunkMappingRequest {
    RegisterChunkMappingRequest { chunk_digests: chunks.to_vec(), ..Default::default() }
}

/// Stores pieces of `data` that end at the given places, and the rest; their digests.
async fn store_pieces(cache: &Cache, data: &[u8], ends: &[usize]) -> Vec<Digest> {
    let mut digests = Vec::new();
    let mut start = 0;
    for end in ends.iter().copied().chain([data.len()]) {
        digests.push(cache.store(&data[start..end]).await);
        start = end;
    }
    digests
}

/// A stored blob of `size` bytes.
async fn stored(cache: &Cache, seed: u64, size: usize) -> (Digest, Vec<u8>) {
    let (digest, data) = blob(seed, size);
    cache.upload(&digest, &data).await.expect("Write");
    (digest, data)
}

/// The chunks' bytes in their order, each read and compared with its digest.
async fn together(cache: &Cache, function: DigestFunction, chunks: &[Digest]) -> Vec<u8> {
    let mut data = Vec::new();
    for chunk in chunks {
        let piece = cache.read(chunk).await.unwrap_or_else(|status| panic!("chunk {chunk:?}: {status}"));
        assert_eq!(digest_under(function, &piece), *chunk);
        data.extend_from_slice(&piece);
    }
    data
}

/// Where the chunking crate, which is held to the published vectors, cuts.
fn cut(chunker: Chunker, function: DigestFunction, data: &[u8]) -> Vec<Digest> {
    let mut cutter = Cutter::new(chunker, data.len() as u64);
    let mut digests = Vec::new();
    let mut rest = data;
    loop {
        rest = &rest[cutter.feed(rest)..];
        if rest.is_empty() {
            cutter.end();
        }
        while let Some(chunk) = cutter.next_chunk() {
            digests.push(digest_under(function, chunk));
        }
        if rest.is_empty() {
            return digests;
        }
    }
}

fn chunker(function: Function) -> Chunker {
    match function {
        Function::FastCdc2020 | Function::Unknown => Chunker::FastCdc(FastCdc::new(FAST_CDC_AVERAGE_BYTES)),
        Function::RepMaxCdc => Chunker::RepMaxCdc(RepMaxCdc::new(REP_MAX_CDC_MIN_BYTES, REP_MAX_CDC_HORIZON_BYTES)),
    }
}

#[tokio::test]
async fn h01_the_flags_are_up_and_the_parameters_beside_them() {
    let (_server, cache) = start().await;
    let capabilities = cache.capabilities().await.expect("GetCapabilities");
    let cas = capabilities.cache_capabilities.expect("cache capabilities");
    assert!(cas.split_blob_support && cas.splice_blob_support);
    let fast_cdc = cas.fast_cdc_2020_params.expect("FastCDC");
    assert_eq!((fast_cdc.avg_chunk_size_bytes, fast_cdc.seed), (FAST_CDC_AVERAGE_BYTES as u64, 0));
    let rep_max_cdc = cas.rep_max_cdc_params.expect("RepMaxCDC");
    assert_eq!(rep_max_cdc.min_chunk_size_bytes, REP_MAX_CDC_MIN_BYTES as u64);
    assert_eq!(rep_max_cdc.horizon_size_bytes, REP_MAX_CDC_HORIZON_BYTES as u64);
    let high = capabilities.high_api_version.expect("a version");
    assert_eq!((high.major, high.minor), (2, 12), "the unary form came with 2.12");
}

#[tokio::test]
async fn h02_a_spliced_blob_is_a_blob_like_any_other() {
    let (server, cache) = start().await;
    for (seed, size, ends) in [(1, 1000, [10, 900]), (2, 5 * MIB, [MIB, 3 * MIB]), (3, 2 * MIB + 1, [1, 2 * MIB])] {
        let (digest, data) = blob(seed, size);
        let chunks = store_pieces(&cache, &data, &ends).await;
        assert!(!cache.is_present(&digest).await);
        assert_eq!(splice(&cache, &digest, &chunks, Function::Unknown).await.expect("SpliceBlob"), digest);
        assert!(cache.is_present(&digest).await);
        assert_eq!(cache.read(&digest).await.expect("Read"), data);
        let tail = cache.read_range(&cache.read_name(&digest), size as i64 - 5, 3).await.expect("Read");
        assert_eq!(tail, data[size - 5..size - 2]);
        let path = format!("/cas/{}", digest.hash);
        assert_eq!(request(&server, Method::GET, &path, Vec::new()).await.body, data);
        // In the pieces it came in.
        let (split_chunks, function) = split(&cache, &digest, Function::Unknown).await.expect("SplitBlob");
        assert_eq!((split_chunks, function), (chunks, Function::Unknown.into()));
    }
}

#[tokio::test]
async fn h03_a_missing_chunk_is_not_found_and_named() {
    let (_server, cache) = start().await;
    let (digest, data) = blob(1, 30_000);
    let mut chunks = store_pieces(&cache, &data, &[10_000, 20_000]).await;
    let absent = absent_digest(5);
    chunks[1] = with_size(&absent, chunks[1].size_bytes);
    let outcome = splice(&cache, &digest, &chunks, Function::Unknown).await;
    assert_code(&outcome, &[Code::NotFound], "SpliceBlob");
    assert!(outcome.unwrap_err().message().contains(&absent.hash));
    let outcome = register(&cache, vec![first_message(&digest, &chunks)]).await;
    assert_code(&outcome, &[Code::NotFound], "RegisterChunkMapping");
    assert!(!cache.is_present(&digest).await);
}

#[tokio::test]
async fn h04_chunks_of_another_blob_are_invalid_whether_or_not_the_blob_is_there() {
    let (_server, cache) = start().await;
    let (digest, data) = blob(1, 3 * MIB);
    let (_, other) = blob(2, 3 * MIB);
    let wrong = store_pieces(&cache, &other, &[MIB, 2 * MIB]).await;
    let right = store_pieces(&cache, &data, &[MIB, 2 * MIB]).await;
    let swapped = [right[1].clone(), right[0].clone(), right[2].clone()];
    for is_present in [false, true] {
        for chunks in [&wrong[..], &swapped] {
            for function in [Function::Unknown, Function::FastCdc2020] {
                assert_invalid(&splice(&cache, &digest, chunks, function).await, "SpliceBlob");
            }
            assert_invalid(&register(&cache, vec![first_message(&digest, chunks)]).await, "RegisterChunkMapping");
        }
        assert_eq!(cache.is_present(&digest).await, is_present);
        if is_present {
            // Nobody is given what was refused.
            let (chunks, _) = split(&cache, &digest, Function::Unknown).await.expect("SplitBlob");
            assert_eq!(together(&cache, DigestFunction::Sha256, &chunks).await, data);
        } else {
            cache.upload(&digest, &data).await.expect("Write");
        }
    }
}

#[tokio::test]
async fn h05_chunks_that_do_not_sum_up_are_invalid() {
    let (_server, cache) = start().await;
    let (digest, data) = stored(&cache, 1, 30_000).await;
    let chunks = store_pieces(&cache, &data, &[10_000, 20_000]).await;
    let huge = with_size(&absent_digest(1), i64::MAX);
    for (what, chunks) in [
        ("one too few", &chunks[..2]),
        ("one too many", &[&chunks[..], &chunks[..1]].concat()),
        ("none", &[]),
        ("a sum beyond 64 bits", &[huge.clone(), huge.clone(), huge.clone()]),
        ("a size that wraps round to the right one", &[huge.clone(), huge.clone(), with_size(&huge, 30_002)]),
    ] {
        for blob in [&digest, &with_hash(&digest, &absent_digest(2).hash)] {
            assert_invalid(&splice(&cache, blob, chunks, Function::Unknown).await, what);
            assert_invalid(&register(&cache, vec![first_message(blob, chunks)]).await, what);
        }
    }
}

#[tokio::test]
async fn h06_a_blob_that_is_not_named_is_invalid() {
    let (_server, cache) = start().await;
    let chunks = vec![cache.store(b"a chunk").await];
    let splice = SpliceBlobRequest { chunk_digests: chunks, ..Default::default() };
    assert_invalid(&cache.cas().splice_blob(splice).await, "SpliceBlob");
    assert_invalid(&cache.cas().split_blob(SplitBlobRequest::default()).await, "SplitBlob");
    assert_invalid(&cache.cas().get_chunk_mapping(GetChunkMappingRequest::default()).await, "GetChunkMapping");
}

#[tokio::test]
async fn h07_the_empty_blob_can_be_spliced_from_nothing() {
    let (_server, cache) = start().await;
    let empty = empty_digest();
    for chunks in [vec![empty.clone()], vec![], vec![empty.clone(), empty.clone()]] {
        assert_eq!(splice(&cache, &empty, &chunks, Function::Unknown).await.expect("SpliceBlob"), empty);
        register(&cache, vec![first_message(&empty, &chunks)]).await.expect("RegisterChunkMapping");
    }
    // Elsewhere the empty blob adds nothing either.
    let (digest, data) = blob(1, 2000);
    let pieces = store_pieces(&cache, &data, &[1000]).await;
    let with_empty = [empty.clone(), pieces[0].clone(), empty.clone(), pieces[1].clone()];
    splice(&cache, &digest, &with_empty, Function::Unknown).await.expect("SpliceBlob");
    assert_eq!(cache.read(&digest).await.expect("Read"), data);
    assert_eq!(split(&cache, &digest, Function::Unknown).await.expect("SplitBlob").0, pieces);
}

#[tokio::test]
async fn h08_a_blob_that_is_there_can_be_spliced_again() {
    let (_server, cache) = start().await;
    let (digest, data) = stored(&cache, 1, 3 * MIB).await;
    let chunks = store_pieces(&cache, &data, &[MIB, 2 * MIB]).await;
    for _ in 0..2 {
        splice(&cache, &digest, &chunks, Function::Unknown).await.expect("SpliceBlob");
    }
    assert_eq!(split(&cache, &digest, Function::Unknown).await.expect("SplitBlob").0, chunks);
    assert_eq!(cache.read(&digest).await.expect("Read"), data);
    splice(&cache, &digest, std::slice::from_ref(&digest), Function::Unknown).await.expect("SpliceBlob of itself");
}

#[tokio::test]
async fn h09_what_is_absent_cannot_be_split() {
    let (_server, cache) = start().await;
    for absent in [absent_digest(1), with_size(&absent_digest(1), 100 << 20)] {
        assert_code(&split(&cache, &absent, Function::Unknown).await, &[Code::NotFound], "SplitBlob");
        assert_code(&mapping(&cache, &absent, Function::Unknown).await, &[Code::NotFound], "GetChunkMapping");
    }
}

#[tokio::test]
async fn h10_the_chunks_together_are_the_blob_and_all_of_them_are_there() {
    let (_server, cache) = start().await;
    for (seed, size) in [(1, 2 * MIB + 1), (2, 9 * MIB + 77), (3, 24 * MIB)] {
        let (digest, data) = stored(&cache, seed, size).await;
        for function in [Function::FastCdc2020, Function::RepMaxCdc] {
            let (chunks, answered) = split(&cache, &digest, function).await.expect("SplitBlob");
            assert_eq!(answered, i32::from(function));
            assert!(chunks.len() > 1);
            assert_eq!(cache.find_missing(&chunks).await.expect("FindMissingBlobs"), []);
            assert!(together(&cache, DigestFunction::Sha256, &chunks).await == data);
            // And again, from what is remembered.
            assert_eq!(split(&cache, &digest, function).await.expect("SplitBlob").0, chunks);
        }
    }
    // What is not longer than a chunk is one.
    let (small, _) = stored(&cache, 4, FAST_CDC_MAX_BYTES).await;
    let (tiny, _) = stored(&cache, 5, 100).await;
    for (blob, function) in [
        (&small, Function::FastCdc2020),
        (&tiny, Function::FastCdc2020),
        (&tiny, Function::RepMaxCdc),
        (&tiny, Function::Unknown),
        (&empty_digest(), Function::FastCdc2020),
    ] {
        assert_eq!(split(&cache, blob, function).await.expect("SplitBlob").0, std::slice::from_ref(blob));
    }
}

#[tokio::test]
async fn h11_chunks_are_cut_where_the_functions_cut_and_never_too_long() {
    let (_server, cache) = start().await;
    // Of zeroes FastCDC never finds a place to cut.
    let (random, zeroes) = (bytes(1, 20 * MIB), vec![0; 9 * MIB]);
    for data in [random, zeroes] {
        let digest = digest_of(&data);
        cache.upload(&digest, &data).await.expect("Write");
        for (function, chunk_bytes_max) in
            [(Function::FastCdc2020, FAST_CDC_MAX_BYTES), (Function::RepMaxCdc, 2 * REP_MAX_CDC_MIN_BYTES - 1)]
        {
            let (chunks, _) = split(&cache, &digest, function).await.expect("SplitBlob");
            assert_eq!(chunks, cut(chunker(function), DigestFunction::Sha256, &data), "{function:?}");
            assert!(chunks.iter().all(|chunk| (1..=chunk_bytes_max as i64).contains(&chunk.size_bytes)));
        }
    }
}

/// A list whose sizes a function never makes is not given to those who ask for that function.
#[tokio::test]
async fn h11_a_client_cannot_pass_off_its_own_cuts_as_a_functions() {
    let (_server, cache) = start().await;
    let (digest, data) = blob(1, 8 * MIB);
    cache.upload(&digest, &data).await.expect("Write");
    for ends in [&[3 * MIB, 6 * MIB][..], &[100, 200, 3 * MIB]] {
        let mut chunks = Vec::new();
        let mut start = 0;
        for end in ends.iter().copied().chain([data.len()]) {
            let piece = &data[start..end];
            cache.upload(&digest_of(piece), piece).await.expect("Write");
            chunks.push(digest_of(piece));
            start = end;
        }
        for function in [Function::FastCdc2020, Function::RepMaxCdc] {
            splice(&cache, &digest, &chunks, function).await.expect("SpliceBlob");
            let (chunks, answered) = split(&cache, &digest, function).await.expect("SplitBlob");
            assert_eq!(answered, i32::from(function));
            assert_eq!(chunks, cut(chunker(function), DigestFunction::Sha256, &data), "{function:?}");
        }
    }
}

#[tokio::test]
async fn h12_no_function_is_any_function() {
    let (_server, cache) = start().await;
    let (digest, data) = stored(&cache, 1, 5 * MIB).await;
    let (chunks, function) = split(&cache, &digest, Function::Unknown).await.expect("SplitBlob");
    assert_eq!(function, i32::from(Function::FastCdc2020), "what was chosen is told");
    assert_eq!(chunks, cut(chunker(Function::FastCdc2020), DigestFunction::Sha256, &data));
    // One that came with a later API is as good as none.
    let request = SplitBlobRequest { blob_digest: Some(digest.clone()), chunking_function: 99, ..Default::default() };
    assert_eq!(split_with(&cache, request).await.expect("SplitBlob"), (chunks, function));
    let (digest, data) = blob(2, 2000);
    let chunks = store_pieces(&cache, &data, &[1000]).await;
    let request = SpliceBlobRequest {
        blob_digest: Some(digest),
        chunk_digests: chunks,
        chunking_function: 99,
        ..Default::default()
    };
    cache.cas().splice_blob(request).await.expect("SpliceBlob");
}

/// Chunks are evicted like all blobs, in whatever order. A list is answered only when all of it is there: else the blob is split again, or
/// is gone itself. (No lease holds what was answered here, so it may be evicted before it is read; but not time and again.)
#[tokio::test]
async fn h13_a_list_never_has_a_hole() {
    let (_server, cache) = start_with(Options::without_leases("64MiB")).await;
    let (digest, data) = stored(&cache, 1, 5 * MIB).await;
    let (mut chunks, _) = split(&cache, &digest, Function::FastCdc2020).await.expect("SplitBlob");
    let mut split_again = 0;
    for round in 0..40 {
        stored(&cache, 1000 + round, 5 * MIB).await;
        let have_gone = !cache.find_missing(&chunks).await.expect("FindMissingBlobs").is_empty();
        let mut attempts = 0;
        loop {
            attempts += 1;
            assert!(attempts < 20, "round {round}: a list with a hole is given over and over");
            match split(&cache, &digest, Function::FastCdc2020).await {
                Ok((found, _)) => chunks = found,
                Err(status) if status.code() == Code::NotFound => {
                    cache.upload(&digest, &data).await.expect("Write");
                    continue;
                }
                Err(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                    continue;
                }
            }
            if let Some(read) = read_all(&cache, &chunks).await {
                assert!(read == data);
                break;
            }
        }
        split_again += usize::from(have_gone);
    }
    assert!(split_again > 0, "no chunk was ever evicted: the test is too kind");
}

/// The chunks' bytes in their order; `None` when one of them is not there any more.
async fn read_all(cache: &Cache, chunks: &[Digest]) -> Option<Vec<u8>> {
    let mut data = Vec::new();
    for chunk in chunks {
        match cache.read(chunk).await {
            Ok(piece) => data.extend_from_slice(&piece),
            Err(status) => {
                assert_eq!(status.code(), Code::NotFound, "{status}");
                return None;
            }
        }
    }
    Some(data)
}

#[tokio::test]
async fn h14_chunks_are_of_the_blobs_digest_function() {
    let (_server, cache) = start().await;
    let data = bytes(1, 3 * MIB);
    for function in DigestFunction::ALL {
        let cache = cache.under(function);
        let digest = digest_under(function, &data);
        cache.upload(&digest, &data).await.expect("Write");
        let request = SplitBlobRequest {
            blob_digest: Some(digest.clone()),
            digest_function: i32::from(function.wire_number()),
            ..Default::default()
        };
        let (chunks, _) = split_with(&cache, request).await.expect("SplitBlob");
        assert_eq!(chunks, cut(chunker(Function::FastCdc2020), function, &data), "{function:?}");
        assert!(together(&cache, function, &chunks).await == data, "{function:?}");

        let (digest, pieces) = (digest_under(function, &data[..2000]), [&data[..700], &data[700..2000]]);
        let request = SpliceBlobRequest {
            blob_digest: Some(digest.clone()),
            chunk_digests: vec![cache.store(pieces[0]).await, cache.store(pieces[1]).await],
            digest_function: i32::from(function.wire_number()),
            ..Default::default()
        };
        cache.cas().splice_blob(request).await.expect("SpliceBlob");
        assert_eq!(cache.read(&digest).await.expect("Read"), data[..2000]);
    }
    // A chunk of another function than the blob's is none.
    let request = SpliceBlobRequest {
        blob_digest: Some(digest_of(&data)),
        chunk_digests: vec![digest_under(DigestFunction::Sha512, &data)],
        ..Default::default()
    };
    assert_invalid(&cache.cas().splice_blob(request).await, "SpliceBlob");
}

#[tokio::test]
async fn h15_the_streaming_form_gives_the_same_list() {
    let (_server, cache) = start().await;
    let (digest, _) = stored(&cache, 1, 9 * MIB).await;
    for function in [Function::FastCdc2020, Function::RepMaxCdc, Function::Unknown] {
        let messages = mapping(&cache, &digest, function).await.expect("GetChunkMapping");
        let (chunks, answered) = split(&cache, &digest, function).await.expect("SplitBlob");
        assert_eq!(messages[0].chunking_function, answered);
        let streamed: Vec<Digest> = messages.into_iter().flat_map(|message| message.chunk_digests).collect();
        assert_eq!(streamed, chunks);
    }
}

/// The client takes messages of up to 4 MiB, as most do.
#[tokio::test]
async fn h15_a_list_too_long_for_one_message_comes_in_several() {
    let (_server, cache) = start_with(Options::with_max_size("1GiB")).await;
    let piece = bytes(1, 16);
    let data = piece.repeat(60_000);
    let (chunk, digest) = (cache.store(&piece).await, digest_of(&data));
    let chunks = vec![chunk; 60_000];
    let mut messages = vec![first_message(&digest, &[])];
    messages.extend(chunks.chunks(10_000).map(more));
    register(&cache, messages).await.expect("RegisterChunkMapping");
    assert_eq!(cache.read(&digest).await.expect("Read"), data);

    let outcome = split(&cache, &digest, Function::Unknown).await;
    assert_code(&outcome, &[Code::FailedPrecondition], "SplitBlob");
    assert!(outcome.unwrap_err().message().contains("GetChunkMapping"));
    let messages = mapping(&cache, &digest, Function::Unknown).await.expect("GetChunkMapping");
    assert!(messages.len() > 1);
    let streamed: Vec<Digest> = messages.into_iter().flat_map(|message| message.chunk_digests).collect();
    assert!(streamed == chunks);
}

#[tokio::test]
async fn h16_a_mapping_is_registered_in_messages_and_the_first_says_of_what() {
    let (_server, cache) = start().await;
    let (digest, data) = blob(1, 30_000);
    let chunks = store_pieces(&cache, &data, &[10_000, 20_000]).await;
    let first = first_message(&digest, &chunks[..1]);
    for (what, messages) in [
        ("no messages", vec![]),
        ("no blob", vec![RegisterChunkMappingRequest { blob_digest: None, ..first.clone() }, more(&chunks[1..])]),
        ("no digest function", vec![RegisterChunkMappingRequest { digest_function: 0, ..first.clone() }]),
        ("an unknown function", vec![RegisterChunkMappingRequest { digest_function: 77, ..first.clone() }]),
        ("a blob in the second message only", vec![more(&chunks[..1]), first.clone()]),
        ("a malformed chunk", vec![first.clone(), more(&[with_hash(&chunks[1], "abc")])]),
    ] {
        assert_invalid(&register(&cache, messages).await, what);
    }
    assert!(!cache.is_present(&digest).await);
    // Empty messages are welcome anywhere, and what later ones say beside the chunks is not looked at.
    let late = RegisterChunkMappingRequest {
        instance_name: "elsewhere//".to_owned(),
        blob_digest: Some(absent_digest(1)),
        chunk_digests: chunks[1..2].to_vec(),
        digest_function: 99,
        chunking_function: 99,
    };
    let messages = vec![first, more(&[]), late, more(&[]), more(&chunks[2..]), more(&[])];
    register(&cache, messages).await.expect("RegisterChunkMapping");
    assert_eq!(cache.read(&digest).await.expect("Read"), data);
    assert_eq!(split(&cache, &digest, Function::Unknown).await.expect("SplitBlob").0, chunks);
}

#[tokio::test]
async fn h16_a_mapping_that_is_broken_off_is_not_registered() {
    let (server, cache) = start().await;
    let (digest, data) = blob(1, 30_000);
    let chunks = store_pieces(&cache, &data, &[10_000, 20_000]).await;
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let mut client = cache.cas();
    let call = tokio::spawn(async move {
        client.register_chunk_mapping(tokio_stream::wrappers::ReceiverStream::new(receiver)).await
    });
    sender.send(first_message(&digest, &chunks)).await.expect("the call takes it");
    call.abort();
    let given_back = async {
        while !Metrics::of(&server).await.budgets_in_use().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    within("the budgets to be given back", given_back).await;
    assert!(!cache.is_present(&digest).await);
}

/// What would make a server hold more than it should: a list without an end, and a blob of more chunks than a list may have.
#[tokio::test]
async fn fault_53_lists_are_bounded_and_nothing_is_published_unverified() {
    let (_server, cache) = start().await;
    let piece = bytes(1, 4);
    let chunk = cache.store(&piece).await;
    let digest = with_size(&absent_digest(1), 4 * 300_000);
    let mut messages = vec![first_message(&digest, &[])];
    messages.extend(std::iter::repeat_n(more(&vec![chunk; 10_000]), 30));
    let outcome = register(&cache, messages).await;
    assert_invalid(&outcome, "300,000 chunks");
    assert!(outcome.unwrap_err().message().contains("more than"), "refused for its length, before anything is read");
    assert!(!cache.is_present(&digest).await);
    // The sums are in H5, missing chunks in H3, a digest that differs in H4, a blob that is there in H8.
}

/// A chunk that went bad on the disk is as good as absent: what is spliced from it is refused by name, and a split makes it anew.
#[tokio::test]
async fn h13_a_damaged_chunk_is_never_served_and_is_made_anew() {
    let (server, cache) = start_with(Options::with_max_size("1GiB")).await;
    let (digest, data) = stored(&cache, 1, 5 * MIB).await;
    let (chunks, _) = split(&cache, &digest, Function::RepMaxCdc).await.expect("SplitBlob");
    let first_bytes = chunks[0].size_bytes as usize;
    let second = &data[first_bytes..first_bytes + chunks[1].size_bytes as usize];
    let mut server = server.stop().await;
    assert_eq!(damage::flip_a_bit(&server, second, 7), 1);
    server.start_again();
    let cache = Cache::connect(&server).await;

    let whole = blob(2, 1000).1;
    let (head, tail) = (cache.store(&whole).await, &chunks[1]);
    let spliced = digest_of(&[&whole[..], second].concat());
    let outcome = splice(&cache, &spliced, &[head, tail.clone()], Function::Unknown).await;
    assert_code(&outcome, &[Code::NotFound], "SpliceBlob");
    assert!(outcome.unwrap_err().message().contains(&tail.hash));

    let (again, _) = split(&cache, &digest, Function::RepMaxCdc).await.expect("SplitBlob");
    assert_eq!(again, chunks);
    assert!(together(&cache, DigestFunction::Sha256, &again).await == data);
}

/// Chunks and mappings of an isolated instance are its own.
#[tokio::test]
async fn an_isolated_instance_splits_and_splices_apart() {
    let flags = vec!["--instances", "secret,cas=isolated;*"];
    let (_server, cache) = start_with(Options { flags, ..Options::default() }).await;
    let secret = cache.instance("secret");
    let (digest, data) = stored(&secret, 1, 5 * MIB).await;
    let (chunks, _) = split(&secret, &digest, Function::Unknown).await.expect("SplitBlob");
    assert_eq!(secret.find_missing(&chunks).await.expect("FindMissingBlobs"), []);
    assert_eq!(cache.find_missing(&chunks).await.expect("FindMissingBlobs"), chunks);
    assert_eq!(code(&split(&cache, &digest, Function::Unknown).await), Code::NotFound);
    assert_eq!(code(&splice(&cache, &digest, &chunks, Function::FastCdc2020).await), Code::NotFound);
    // The same blob there, with a mapping of its own.
    cache.upload(&digest, &data).await.expect("Write");
    let own = store_pieces(&cache, &data, &[2 * MIB, 4 * MIB]).await;
    splice(&cache, &digest, &own, Function::Unknown).await.expect("SpliceBlob");
    assert_eq!(split(&cache, &digest, Function::Unknown).await.expect("SplitBlob").0, own);
    assert_eq!(split(&secret, &digest, Function::Unknown).await.expect("SplitBlob").0, chunks);
}

/// A blob many times longer than the window it is cut in: memory does not grow with it, nor after the client has gone.
#[tokio::test]
async fn splitting_a_large_blob_holds_little_and_ends_with_its_client() {
    const BLOB_BYTES: usize = 160 * MIB;
    let (server, cache) = start_with(Options::with_max_size("1GiB")).await;
    let (digest, data) = stored(&cache, 1, BLOB_BYTES).await;
    let before = server.anonymous_memory_bytes();
    let splitting = cache.clone();
    let asked = digest.clone();
    let call = tokio::spawn(async move { split(&splitting, &asked, Function::RepMaxCdc).await });
    let mut grown_bytes = 0;
    while !call.is_finished() {
        grown_bytes = grown_bytes.max(server.anonymous_memory_bytes().saturating_sub(before));
        tokio::task::yield_now().await;
    }
    let (chunks, _) = call.await.expect("no panic").expect("SplitBlob");
    assert!(grown_bytes < 64 * MIB as u64, "splitting {BLOB_BYTES} bytes held {} MiB", grown_bytes / MIB as u64);
    assert_eq!(chunks, cut(chunker(Function::RepMaxCdc), DigestFunction::Sha256, &data));

    // The client leaves at once; what its call held is given back.
    let call = tokio::spawn(async move { split(&cache, &digest, Function::FastCdc2020).await });
    let begun = async {
        while Metrics::of(&server).await.get("cask_budget_used{budget=\"chunkings\"}") == 0.0 && !call.is_finished() {
            tokio::task::yield_now().await;
        }
    };
    within("the split to begin", begun).await;
    call.abort();
    let given_back = async {
        while !Metrics::of(&server).await.budgets_in_use().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    within("the budgets to be given back", given_back).await;
}
