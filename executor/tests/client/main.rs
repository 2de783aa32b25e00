//! The client where it has something to decide: resuming, repeating, packing, verifying. Against a cache in memory that
//! fails on cue.

mod execution;
mod fake;
mod trees;

use bytes::Bytes;
use cask_executor::{
    ClientError,
    client::{FileSource, RemoteCache, digest_of, digest_of_reader},
};
use cask_index::{Digest, DigestFunction};
use cask_proto::InstanceName;
use fake::{Fake, Query, ReadFault, WriteFault};
use tonic::Code;

/// Bytes without a period that a chunk size could hide.
fn bytes_of(length: usize, seed: u32) -> Bytes {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

const BLOB_BYTES: usize = 1_000_000;

#[tokio::test]
async fn uploads_resume_where_the_cache_says_it_stands() {
    use WriteFault::{KeepThenAnswer, KeepThenFail, SayItIsThere, StoreThenFail};
    let away = Code::Unavailable;
    for (faults, query, expected) in [
        (vec![], Query::Honest, "write 0"),
        (vec![KeepThenFail(300_000, away)], Query::Honest, "write 0, query, write 300000"),
        (vec![KeepThenFail(0, away)], Query::Honest, "write 0, query, write 0"),
        // All bytes arrived but not the message that says so: only the end is sent.
        (vec![KeepThenFail(BLOB_BYTES, away)], Query::Honest, "write 0, query, write 1000000"),
        (
            vec![KeepThenFail(300_000, away), KeepThenFail(300_001, Code::Internal), KeepThenFail(900_000, away)],
            Query::Honest,
            "write 0, query, write 300000, query, write 300001, query, write 900000",
        ),
        (vec![KeepThenAnswer(500_000)], Query::Honest, "write 0, query, write 500000"),
        // The blob is stored, only the answer was lost.
        (vec![StoreThenFail(away)], Query::Honest, "write 0, query"),
        (vec![SayItIsThere], Query::Honest, "write 0"),
        // Caches that cannot resume.
        (vec![KeepThenFail(300_000, away)], Query::NotFound, "write 0, query, write 0"),
        (vec![KeepThenFail(300_000, away)], Query::Unimplemented, "write 0, query, write 0"),
    ] {
        let there_already = matches!(faults.first(), Some(SayItIsThere));
        let (fake, blob) = (Fake::default(), bytes_of(BLOB_BYTES, 1));
        fake.state().write_faults = faults.clone().into();
        fake.state().query = query;
        let cache = fake.serve().await;
        let digest = digest_of(&blob);
        cache.upload_blob(digest, &blob).await.unwrap_or_else(|error| panic!("{faults:?}: {error}"));
        assert_eq!(fake.state().log.join(", "), expected, "{faults:?}, {query:?}");
        if !there_already {
            assert_eq!(fake.state().blobs.get(&digest.to_string()), Some(&blob), "{faults:?}");
        }
    }
}

#[tokio::test]
async fn uploads_give_up_on_errors_that_stay_and_after_attempts_without_progress() {
    let blob = bytes_of(BLOB_BYTES, 2);
    let digest = digest_of(&blob);

    let fake = Fake::default();
    fake.state().write_faults = vec![WriteFault::KeepThenFail(0, Code::InvalidArgument)].into();
    let error = fake.serve().await.upload_blob(digest, &blob).await.expect_err("refused");
    assert!(matches!(error, ClientError::Refused { code: Code::InvalidArgument, .. }), "{error}");
    assert_eq!(fake.state().log, ["write 0"]);

    let fake = Fake::default();
    fake.state().write_faults = vec![WriteFault::KeepThenFail(0, Code::ResourceExhausted)].into();
    let error = fake.serve().await.upload_blob(digest, &blob).await.expect_err("full");
    assert!(matches!(error, ClientError::NoSpace { .. }), "{error}");

    // A cache that keeps nothing, and one that goes back and forth over the same ground: neither makes progress for
    // ever.
    for (query, expected) in [
        (Query::NotFound, "write 0, query, write 0, query, write 0"),
        (Query::Honest, "write 0, query, write 1000, query, write 10, query, write 1000"),
    ] {
        let fake = Fake::default();
        let kept = [1000, 10, 1000, 10, 1000].map(|count| WriteFault::KeepThenFail(count, Code::Unavailable));
        fake.state().write_faults = kept.to_vec().into();
        fake.state().query = query;
        let error = fake.serve().await.upload_blob(digest, &blob).await.expect_err("away");
        assert!(matches!(error, ClientError::Unavailable { attempts: 3, .. }), "{query:?}: {error}");
        assert_eq!(fake.state().log.join(", "), expected, "{query:?}");
    }
}

#[tokio::test]
async fn blobs_of_any_size_come_back_from_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    for (seed, length) in [0, 1, 256 * 1024, 256 * 1024 + 1, 3_000_000].into_iter().enumerate() {
        let (fake, blob) = (Fake::default(), bytes_of(length, seed as u32));
        let cache = fake.serve().await;
        let path = folder.path().join(length.to_string());
        std::fs::write(&path, &blob).expect("a file");
        let mut file = tokio::fs::File::open(&path).await.expect("just written");
        let digest = digest_of_reader(&mut file).await.expect("readable");
        assert_eq!(digest, digest_of(&blob));
        cache.upload_blob(digest, &FileSource(path)).await.expect("uploaded");
        let mut sink = Vec::new();
        cache.download_blob(digest, &mut sink).await.expect("downloaded");
        assert!(sink == blob, "{length} bytes");
    }
}

#[tokio::test]
async fn a_source_that_shrank_or_vanished_is_reported_as_such() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("shrank");
    std::fs::write(&path, bytes_of(BLOB_BYTES, 3).slice(..BLOB_BYTES - 1)).expect("a file");
    for source in [FileSource(path), FileSource(folder.path().join("vanished"))] {
        let fake = Fake::default();
        let digest = digest_of(&bytes_of(BLOB_BYTES, 3));
        let error = fake.serve().await.upload_blob(digest, &source).await.expect_err("cannot be read");
        assert!(matches!(error, ClientError::Source { .. }), "{source:?}: {error}");
        assert!(fake.state().blobs.is_empty());
    }
}

#[tokio::test]
async fn downloads_resume_where_they_broke_off() {
    use ReadFault::BreakAfter;
    let away = Code::Unavailable;
    for (faults, expected) in [
        (vec![], "read 0"),
        (vec![BreakAfter(300_000, away)], "read 0, read 300000"),
        (vec![BreakAfter(0, away), BreakAfter(0, Code::Internal)], "read 0, read 0, read 0"),
        (
            vec![
                BreakAfter(0, away),
                BreakAfter(0, away),
                BreakAfter(10, away),
                BreakAfter(0, away),
                BreakAfter(90, away),
            ],
            "read 0, read 0, read 0, read 10, read 10, read 100",
        ),
        // Broken off behind the last byte: there is nothing left to ask for.
        (vec![BreakAfter(BLOB_BYTES, away)], "read 0"),
    ] {
        let (fake, blob) = (Fake::default(), bytes_of(BLOB_BYTES, 4));
        let digest = digest_of(&blob);
        fake.state().blobs.insert(digest.to_string(), blob.clone());
        fake.state().read_faults = faults.clone().into();
        let mut sink = Vec::new();
        fake.serve().await.download_blob(digest, &mut sink).await.unwrap_or_else(|error| panic!("{faults:?}: {error}"));
        assert!(sink == blob, "{faults:?}");
        assert_eq!(fake.state().log.join(", "), expected, "{faults:?}");
    }
}

#[tokio::test]
async fn wrong_bytes_are_never_a_success() {
    for fault in
        [ReadFault::EndAfter(BLOB_BYTES - 1), ReadFault::EndAfter(0), ReadFault::OtherBytes, ReadFault::OneByteMore]
    {
        let (fake, blob) = (Fake::default(), bytes_of(BLOB_BYTES, 5));
        let digest = digest_of(&blob);
        fake.state().blobs.insert(digest.to_string(), blob);
        fake.state().read_faults = vec![fault.clone()].into();
        let error = fake.serve().await.download_blob(digest, &mut Vec::new()).await.expect_err("wrong bytes");
        assert!(matches!(error, ClientError::WrongBytes { .. }), "{fault:?}: {error}");
        assert_eq!(fake.state().log, ["read 0"], "asking again would not help");
    }
    let cache = Fake::default().serve().await;
    let absent = digest_of(b"absent");
    let error = cache.download_blob(absent, &mut Vec::new()).await.expect_err("absent");
    assert!(matches!(error, ClientError::NotFound(_)), "{error}");
}

fn blobs(sizes: &[usize]) -> Vec<(Digest, Bytes)> {
    let blob = |(seed, size): (usize, &usize)| {
        let bytes = bytes_of(*size, seed as u32 + 100);
        (digest_of(&bytes), bytes)
    };
    sizes.iter().enumerate().map(blob).collect()
}

#[tokio::test]
async fn small_blobs_share_batches_within_the_cache_s_limit_and_large_ones_stream() {
    let limit = 10_000;
    for (batch_bytes_max, sizes, expected) in [
        (limit, &[][..], ""),
        (limit, &[0], "batch 1"),
        (limit, &[100; 5], "batch 5"),
        (limit, &[4000; 5], "batch 2, batch 2, batch 1"),
        (limit, &[100, 9_990, 100], "write 0, batch 2"),
        // No limit told: that of a message.
        (0, &[3_000_000, 900_000, 900_000], "batch 2, batch 1"),
        (0, &[4_200_000, 5], "write 0, batch 1"),
        (i64::MAX, &[4_200_000, 5], "write 0, batch 1"),
    ] {
        let fake = Fake::default();
        fake.state().batch_bytes_max = batch_bytes_max;
        let blobs = blobs(sizes);
        fake.serve().await.upload_blobs(blobs.clone()).await.expect("uploaded");
        let state = fake.state();
        assert_eq!(state.log.join(", "), expected, "{sizes:?} under {batch_bytes_max}");
        for (digest, bytes) in blobs {
            assert!(state.blobs.get(&digest.to_string()) == Some(&bytes), "{digest}");
        }
        let message_bytes_max = state.message_bytes.iter().copied().max().unwrap_or(0);
        assert!(message_bytes_max <= 4 * 1024 * 1024 - 64 * 1024 + 100, "{message_bytes_max}");
    }
}

#[tokio::test]
async fn only_the_blobs_of_a_batch_that_failed_on_the_way_are_sent_again() {
    let fake = Fake::default();
    fake.state().batch_faults = vec![
        vec![],
        vec![Code::Ok, Code::Unavailable, Code::Ok, Code::Aborted],
        vec![Code::Internal],
        vec![Code::Internal],
    ]
    .into();
    let blobs = blobs(&[10, 20, 30, 40]);
    fake.serve().await.upload_blobs(blobs.clone()).await.expect("uploaded");
    assert_eq!(fake.state().log.join(", "), "batch 4, batch 4, batch 2, batch 1, batch 1");
    assert_eq!(fake.state().blobs.len(), 4);

    let fake = Fake::default();
    fake.state().batch_faults = vec![vec![Code::Unavailable, Code::InvalidArgument]].into();
    let error = fake.serve().await.upload_blobs(blobs.clone()).await.expect_err("refused");
    let ClientError::Refused { code: Code::InvalidArgument, message } = error else { panic!("{error}") };
    assert!(message.contains(&blobs[1].0.to_string()), "{message} names the blob");
    assert_eq!(fake.state().log, ["batch 4"]);
}

#[tokio::test]
async fn find_missing_splits_by_encoded_size_and_by_function() {
    let fake = Fake::default();
    let digest = |function, number: u32| {
        let mut hash = vec![0; 32];
        hash[..4].copy_from_slice(&number.to_le_bytes());
        Digest::new(function, &hash, u64::from(number)).expect("32 bytes")
    };
    let mut digests: Vec<_> = (0..60_000).map(|number| digest(DigestFunction::Sha256, number)).collect();
    digests.extend((0..3).map(|number| digest(DigestFunction::Blake3, number)));
    for present in [0, 31_000, 59_999] {
        fake.state().blobs.insert(digests[present].to_string(), Bytes::new());
    }
    fake.state().find_missing_failures = 2;
    let missing = fake.serve().await.find_missing(&digests).await.expect("answered");
    // The fake does not tell functions apart, so one BLAKE3 digest counts as present as well.
    let expected: Vec<_> =
        digests.iter().filter(|d| !fake.state().blobs.contains_key(&d.to_string())).copied().collect();
    assert_eq!(missing.len(), 59_999);
    assert!(missing == expected);
    let state = fake.state();
    let functions: Vec<_> = state.log.iter().map(|line| line.rsplit(' ').next().expect("a word")).collect();
    assert_eq!(functions, ["1", "1", "1", "1", "9"], "two failures, two full messages, one of the other function");
    assert!(state.message_bytes.iter().all(|bytes| *bytes <= 4 * 1024 * 1024), "{:?}", state.message_bytes);
    assert!(state.message_bytes[2] > 3_900_000, "messages are filled: {:?}", state.message_bytes);
}

#[tokio::test]
async fn addresses_that_cannot_be_a_cache_s_are_refused_with_a_reason() {
    for (endpoint, reason) in [
        ("grpcs://cache:443", "TLS is not supported yet"),
        ("https://cache", "TLS is not supported yet"),
        ("unix:socket", "the path of a socket is absolute"),
        ("ftp://cache", "it begins with neither grpc:// nor http://"),
        ("grpc://", ""),
        ("a b", ""),
    ] {
        let error = RemoteCache::connect(endpoint, InstanceName::EMPTY).await.expect_err(endpoint);
        assert!(matches!(error, ClientError::Endpoint { .. }), "{endpoint}: {error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}
