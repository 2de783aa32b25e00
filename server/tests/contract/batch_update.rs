//! Section C: `BatchUpdateBlobs`.
//!
//! C8, C10 and C11 ask for compression: they are in `compression`.

use bazel_remote_apis::build::bazel::remote::execution::v2::{BatchUpdateBlobsRequest, batch_update_blobs_request};
use bazel_remote_apis::build::bazel::remote::execution::v2::{compressor, digest_function};
use tonic::Code;

use crate::start;
use crate::support::blob::{blob, bytes, digest_of, empty_digest, malformed_hashes, with_hash, with_size};
use crate::support::grpc::{assert_invalid, update_item};

#[tokio::test]
async fn c01_two_good_blobs_are_stored() {
    let (_server, cache) = start().await;
    let (one, one_data) = blob(11, 10);
    let (two, two_data) = blob(12, 100_000);
    let answer = cache.batch_update(vec![(one.clone(), one_data.clone()), (two.clone(), two_data.clone())]).await;
    assert_eq!(answer.expect("BatchUpdateBlobs"), [(one.clone(), Code::Ok), (two.clone(), Code::Ok)]);
    assert_eq!(cache.read(&one).await.expect("Read"), one_data);
    assert_eq!(cache.read(&two).await.expect("Read"), two_data);
}

#[tokio::test]
async fn c02_one_answer_for_each_request_in_order() {
    let (_server, cache) = start().await;
    let blobs: Vec<_> = (0..500).map(|seed| blob(200 + seed, seed as usize)).collect();
    let answer = cache.batch_update(blobs.clone()).await.expect("BatchUpdateBlobs");
    let expected: Vec<_> = blobs.into_iter().map(|(digest, _)| (digest, Code::Ok)).collect();
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn c03_a_wrong_hash_fails_alone() {
    let (_server, cache) = start().await;
    let (good, good_data) = blob(31, 1000);
    let (claimed, _) = blob(32, 1000);
    let answer = cache.batch_update(vec![(claimed.clone(), bytes(33, 1000)), (good.clone(), good_data)]).await;
    assert_eq!(answer.expect("BatchUpdateBlobs"), [(claimed.clone(), Code::InvalidArgument), (good.clone(), Code::Ok)]);
    assert_eq!(cache.find_missing(&[good, claimed.clone()]).await.expect("FindMissingBlobs"), [claimed]);
}

#[tokio::test]
async fn c04_a_wrong_size_is_invalid() {
    let (_server, cache) = start().await;
    let (good, data) = blob(41, 1000);
    for size in [0, 999, 1001] {
        let wrong = with_size(&good, size);
        let answer = cache.batch_update(vec![(wrong.clone(), data.clone())]).await.expect("BatchUpdateBlobs");
        assert_eq!(answer, [(wrong.clone(), Code::InvalidArgument)]);
        assert!(!cache.is_present(&wrong).await);
    }
    assert!(!cache.is_present(&good).await, "the right digest was never uploaded");
    // The same once the right one is stored.
    cache.store(&data).await;
    let wrong = with_size(&good, 999);
    let answer = cache.batch_update(vec![(wrong.clone(), data)]).await.expect("BatchUpdateBlobs");
    assert_eq!(answer, [(wrong, Code::InvalidArgument)]);
}

#[tokio::test]
async fn c05_a_malformed_digest_fails_alone() {
    let (_server, cache) = start().await;
    for (number, (what, hash)) in malformed_hashes().into_iter().enumerate() {
        let (good, data) = blob(500 + number as u64, 300);
        let bad = with_hash(&good, &hash);
        let answer = cache.batch_update(vec![(bad.clone(), data.clone()), (good.clone(), data)]).await;
        assert_eq!(answer.expect(what), [(bad, Code::InvalidArgument), (good.clone(), Code::Ok)], "{what}");
        assert!(cache.is_present(&good).await, "{what}");
    }
    let (good, data) = blob(550, 300);
    let negative = with_size(&good, -1);
    let answer = cache.batch_update(vec![(negative.clone(), data.clone()), (good.clone(), data)]).await;
    assert_eq!(answer.expect("BatchUpdateBlobs"), [(negative, Code::InvalidArgument), (good, Code::Ok)]);
}

#[tokio::test]
async fn c05_an_item_without_a_digest_harms_no_other() {
    let (_server, cache) = start().await;
    let (good, data) = blob(56, 300);
    let without = batch_update_blobs_request::Request { digest: None, data: data.clone(), compressor: 0 };
    let request = BatchUpdateBlobsRequest {
        requests: vec![without, update_item(good.clone(), data)],
        ..BatchUpdateBlobsRequest::default()
    };
    let answer = cache.cas().batch_update_blobs(request).await.expect("BatchUpdateBlobs").into_inner();
    let codes: Vec<_> = answer.responses.iter().map(|item| item.status.as_ref().map(|status| status.code)).collect();
    assert_eq!(codes, [Some(Code::InvalidArgument as i32), Some(Code::Ok as i32)]);
    assert!(cache.is_present(&good).await);
}

#[tokio::test]
async fn c06_over_the_limit_is_invalid_and_stores_nothing() {
    let (_server, cache) = start().await;
    let limit = cache.batch_limit_bytes().await;
    for (number, total) in [limit + 1, limit * 2].into_iter().enumerate() {
        let seed = 60 + number as u64 * 2;
        let (one, one_data) = blob(seed, total / 2);
        let (two, two_data) = blob(seed + 1, total - total / 2);
        let answer = cache.batch_update(vec![(one.clone(), one_data), (two.clone(), two_data)]).await;
        assert_invalid(&answer, &format!("{total} bytes where {limit} are allowed"));
        assert_eq!(cache.find_missing(&[one.clone(), two.clone()]).await.expect("FindMissingBlobs"), [one, two]);
    }
}

#[tokio::test]
async fn c07_a_digest_twice_gets_two_answers() {
    let (_server, cache) = start().await;
    let (digest, data) = blob(70, 5000);
    let answer = cache.batch_update(vec![(digest.clone(), data.clone()), (digest.clone(), data.clone())]).await;
    assert_eq!(answer.expect("BatchUpdateBlobs"), [(digest.clone(), Code::Ok), (digest.clone(), Code::Ok)]);
    assert_eq!(cache.read(&digest).await.expect("Read"), data);
}

#[tokio::test]
async fn c09_an_unsupported_compressor_is_refused_by_item() {
    let (_server, cache) = start().await;
    let capabilities = cache.capabilities().await.expect("GetCapabilities").cache_capabilities.unwrap_or_default();
    for (number, value) in
        [compressor::Value::Zstd as i32, compressor::Value::Deflate as i32, compressor::Value::Brotli as i32, 17, -3]
            .into_iter()
            .enumerate()
    {
        if capabilities.supported_batch_update_compressors.contains(&value) {
            continue;
        }
        let (odd, odd_data) = blob(900 + number as u64 * 2, 300);
        let (good, good_data) = blob(901 + number as u64 * 2, 300);
        let compressed =
            batch_update_blobs_request::Request { digest: Some(odd.clone()), data: odd_data, compressor: value };
        let answer = cache.batch_update_items(vec![compressed, update_item(good.clone(), good_data)]).await;
        assert_eq!(answer.expect("BatchUpdateBlobs"), [(odd.clone(), Code::InvalidArgument), (good.clone(), Code::Ok)]);
        assert_eq!(cache.find_missing(&[odd.clone(), good]).await.expect("FindMissingBlobs"), [odd]);
    }
}

#[tokio::test]
async fn c12_the_empty_blob_can_be_uploaded() {
    let (_server, cache) = start().await;
    let answer = cache.batch_update(vec![(empty_digest(), Vec::new())]).await.expect("BatchUpdateBlobs");
    assert_eq!(answer, [(empty_digest(), Code::Ok)]);
}

#[tokio::test]
async fn c13_a_blob_can_be_uploaded_again() {
    let (_server, cache) = start().await;
    for _ in 0..3 {
        assert_eq!(cache.store(&bytes(130, 2000)).await, digest_of(&bytes(130, 2000)));
    }
    assert_eq!(cache.read(&digest_of(&bytes(130, 2000))).await.expect("Read"), bytes(130, 2000));
}

#[tokio::test]
async fn c14_a_blob_over_the_largest_size_is_invalid() {
    let (_server, cache) = start().await;
    let capabilities = cache.capabilities().await.expect("GetCapabilities").cache_capabilities.unwrap_or_default();
    let over = match capabilities.max_cas_blob_size_bytes {
        0 => 1 << 50,
        limit => limit + 1,
    };
    let (digest, data) = blob(140, 100);
    // The claim alone is over the batch's limit too, so that the whole call may be refused.
    match cache.batch_update(vec![(with_size(&digest, over), data)]).await {
        Ok(answer) => assert_eq!(answer, [(with_size(&digest, over), Code::InvalidArgument)]),
        Err(status) => assert_eq!(status.code(), Code::InvalidArgument, "{status}"),
    }
}

#[tokio::test]
async fn c15_no_requests_no_answers() {
    let (_server, cache) = start().await;
    assert_eq!(cache.batch_update(vec![]).await.expect("BatchUpdateBlobs"), []);
}

#[tokio::test]
async fn c_the_digest_function_may_be_named() {
    let (_server, cache) = start().await;
    let (digest, data) = blob(151, 300);
    let request = |function: i32| BatchUpdateBlobsRequest {
        requests: vec![update_item(digest.clone(), data.clone())],
        digest_function: function,
        ..BatchUpdateBlobsRequest::default()
    };
    let answer = cache.cas().batch_update_blobs(request(digest_function::Value::Vso as i32)).await;
    match answer {
        Ok(answer) => {
            let status = answer.into_inner().responses[0].status.clone().unwrap_or_default();
            assert_eq!(Code::from_i32(status.code), Code::InvalidArgument, "{status:?}");
        }
        Err(status) => assert_eq!(status.code(), Code::InvalidArgument, "{status}"),
    }
    assert!(!cache.is_present(&digest).await);
    let answer = cache.cas().batch_update_blobs(request(digest_function::Value::Sha256 as i32)).await;
    assert_eq!(answer.expect("BatchUpdateBlobs").into_inner().responses.len(), 1);
    assert!(cache.is_present(&digest).await);
}
