//! Section D: `BatchReadBlobs`.
//!
//! D5 and D6 ask for compression: they are in `compression`.

use bazel_remote_apis::build::bazel::remote::execution::v2::compressor;
use tonic::Code;

use crate::start;
use crate::support::blob::{absent_digest, blob, bytes, empty_digest, malformed_hashes, with_hash, with_size};
use crate::support::grpc::{assert_code, assert_invalid};

#[tokio::test]
async fn d01_stored_blobs_come_back() {
    let (_server, cache) = start().await;
    let small = cache.store(b"x").await;
    let large = cache.store(&bytes(1, 2_000_000)).await;
    let answer = cache.batch_read(&[large.clone(), small.clone()]).await.expect("BatchReadBlobs");
    assert_eq!(answer.len(), 2);
    assert_eq!((answer[0].digest.as_ref(), &answer[0].data), (Some(&large), &bytes(1, 2_000_000)));
    assert_eq!((answer[1].digest.as_ref(), &answer[1].data[..]), (Some(&small), &b"x"[..]));
}

#[tokio::test]
async fn d02_an_absent_blob_is_missed_by_item() {
    let (_server, cache) = start().await;
    let stored = cache.store(b"here").await;
    let absent = absent_digest(2);
    let wrong_size = with_size(&stored, 5);
    let answer = cache.batch_read(&[absent.clone(), stored, wrong_size]).await.expect("BatchReadBlobs");
    let codes: Vec<_> = answer.iter().map(|item| item.status.as_ref().map(|status| status.code)).collect();
    assert_eq!(codes, [Some(Code::NotFound as i32), Some(Code::Ok as i32), Some(Code::NotFound as i32)]);
    assert_eq!(answer[0].digest.as_ref(), Some(&absent));
    assert_eq!(answer[1].data, b"here");
}

#[tokio::test]
async fn d03_the_empty_blob_reads_empty() {
    let (_server, cache) = start().await;
    let answer = cache.batch_read(&[empty_digest()]).await.expect("BatchReadBlobs");
    assert_eq!(answer[0].status.as_ref().map(|status| status.code), Some(0));
    assert_eq!(answer[0].data, b"");
}

#[tokio::test]
async fn d04_over_the_limit_is_invalid() {
    let (_server, cache) = start().await;
    let limit = cache.batch_limit_bytes().await;
    let one = cache.store(&bytes(41, limit / 2 + 1)).await;
    let two = cache.store(&bytes(42, limit / 2 + 1)).await;
    assert_invalid(&cache.batch_read(&[one.clone(), two]).await, "two blobs over the limit together");
    let claimed = with_size(&one, limit as i64 + 1);
    assert_invalid(&cache.batch_read(&[claimed]).await, "one digest over the limit");
    // Sizes that would wrap around a sum do not slip under it.
    let huge = with_size(&one, i64::MAX);
    assert_invalid(&cache.batch_read(&[huge.clone(), huge.clone(), huge]).await, "sizes past 64 bits together");
    let exact = cache.store(&bytes(43, limit)).await;
    let answer = cache.batch_read(&[exact]).await.expect("a batch of exactly the limit");
    assert_eq!(answer[0].data, bytes(43, limit));
}

#[tokio::test]
async fn d07_a_digest_twice_gets_two_answers() {
    let (_server, cache) = start().await;
    let stored = cache.store(b"twice").await;
    let absent = absent_digest(7);
    let answer = cache.batch_read(&[stored.clone(), absent.clone(), stored, absent]).await.expect("BatchReadBlobs");
    let codes: Vec<_> = answer.iter().map(|item| item.status.as_ref().map_or(-1, |status| status.code)).collect();
    assert_eq!(codes, [0, Code::NotFound as i32, 0, Code::NotFound as i32]);
    assert_eq!((&answer[0].data[..], &answer[2].data[..]), (&b"twice"[..], &b"twice"[..]));
}

#[tokio::test]
async fn d08_a_malformed_digest_fails_alone() {
    let (_server, cache) = start().await;
    let good = cache.store(b"good").await;
    let mut spoilt: Vec<_> =
        malformed_hashes().into_iter().map(|(what, hash)| (what, with_hash(&good, &hash))).collect();
    spoilt.push(("a negative size", with_size(&good, -1)));
    for (what, bad) in spoilt {
        let answer = cache.batch_read(&[bad.clone(), good.clone()]).await.expect(what);
        let codes: Vec<_> = answer.iter().map(|item| item.status.as_ref().map_or(-1, |status| status.code)).collect();
        assert_eq!(codes, [Code::InvalidArgument as i32, 0], "{what}");
        assert_eq!(answer[0].digest.as_ref(), Some(&bad), "{what}: the digest is echoed");
        assert_eq!(answer[1].data, b"good", "{what}");
    }
}

#[tokio::test]
async fn d09_success_has_a_status_too() {
    let (_server, cache) = start().await;
    let stored = cache.store(b"fine").await;
    for compressors in [&[][..], &[compressor::Value::Zstd]] {
        let answer = cache.batch_read_accepting(&[stored.clone(), empty_digest()], compressors).await;
        for item in answer.expect("BatchReadBlobs") {
            assert_eq!(item.status.expect("a status on success").code, 0);
        }
    }
}

#[tokio::test]
async fn d10_no_answer_outgrows_a_default_client() {
    let (_server, cache) = start().await;
    // Under the limit by their sizes, over 4 MiB with what frames them.
    let (digest, data) = blob(10, 100);
    cache.store(&data).await;
    let asked = vec![digest; 30_000];
    let answer = cache.batch_read(&asked).await;
    // The client's own complaint about a message too long is OUT_OF_RANGE.
    assert_code(&answer, &[Code::Ok, Code::InvalidArgument, Code::ResourceExhausted], "30,000 small blobs");
    if let Ok(items) = answer {
        assert_eq!(items.len(), asked.len());
        for item in items {
            match item.status.map(|status| Code::from_i32(status.code)) {
                Some(Code::Ok) => assert_eq!(item.data, data),
                other => assert_eq!(other, Some(Code::ResourceExhausted)),
            }
        }
    }
}

#[tokio::test]
async fn d_an_empty_request_gets_an_empty_answer() {
    let (_server, cache) = start().await;
    assert_eq!(cache.batch_read(&[]).await.expect("BatchReadBlobs"), []);
}
