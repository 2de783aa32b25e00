//! Known faults of batches, by their numbers: 14 to 17.

use bazel_remote_apis::build::bazel::remote::execution::v2::{Digest, batch_update_blobs_request, compressor};
use tokio::task::JoinSet;
use tonic::Code;

use crate::start;
use crate::support::blob::{
    absent_digest, blob, bytes, digest_of, empty_digest, malformed_hashes, with_hash, with_size,
};
use crate::support::grpc::{Cache, assert_invalid, update_item};

const MIB: usize = 1024 * 1024;

/// A compressor that is not served is an error of its item: neither passed over in silence nor taken for plain bytes.
#[tokio::test]
async fn fault_14_no_item_in_an_unserved_compressor_is_acknowledged() {
    let (_server, cache) = start().await;
    let capabilities = cache.capabilities().await.expect("GetCapabilities").cache_capabilities.expect("of the cache");
    let served = capabilities.supported_batch_update_compressors;
    let (mut items, mut expected) = (Vec::new(), Vec::new());
    for (number, value) in [1, 2, 3, 4, 17, 1000, -1, i32::MAX, i32::MIN].into_iter().enumerate() {
        if served.contains(&value) {
            continue;
        }
        // The digest of the bytes as they are sent: a server that ignores the field would store them.
        let (odd, data) = blob(1400 + number as u64, 500);
        items.push(batch_update_blobs_request::Request { digest: Some(odd.clone()), data, compressor: value });
        expected.push((odd, Code::InvalidArgument));
        let (good, data) = blob(1450 + number as u64, 500);
        items.push(update_item(good.clone(), data));
        expected.push((good, Code::Ok));
    }
    // And of nothing, and of a blob that is stored already: the compressor is looked at first.
    let stored = cache.store(b"stored").await;
    for (digest, data) in [(empty_digest(), &b""[..]), (stored, b"stored")] {
        items.push(batch_update_blobs_request::Request {
            digest: Some(digest.clone()),
            data: data.to_vec(),
            compressor: compressor::Value::Brotli as i32,
        });
        expected.push((digest, Code::InvalidArgument));
    }
    assert_eq!(cache.batch_update_items(items).await.expect("BatchUpdateBlobs"), expected);
    for (digest, status) in &expected[..expected.len() - 2] {
        assert_eq!(cache.is_present(digest).await, *status == Code::Ok, "{digest:?}");
    }
}

/// Whatever an item comes to and in whichever form it is answered, it says so.
#[tokio::test]
async fn fault_15_every_item_read_has_a_status() {
    use compressor::Value::{Brotli, Deflate, Identity, Zstd};
    let (_server, cache) = start().await;
    let stored = [vec![b'a'; 50_000], bytes(15, 50_000), b"x".to_vec()];
    let mut asked = vec![(empty_digest(), Code::Ok)];
    for data in &stored {
        asked.push((cache.store(data).await, Code::Ok));
    }
    asked.push((absent_digest(15), Code::NotFound));
    asked.push((with_size(&digest_of(&stored[0]), -1), Code::InvalidArgument));
    for (_, hash) in malformed_hashes() {
        asked.push((with_hash(&digest_of(&stored[0]), &hash), Code::InvalidArgument));
    }
    let digests: Vec<Digest> = asked.iter().map(|(digest, _)| digest.clone()).collect();
    for accepted in [&[][..], &[Identity], &[Zstd], &[Brotli, Deflate], &[Deflate, Zstd, Identity]] {
        let answer = cache.batch_read_accepting(&digests, accepted).await.expect("BatchReadBlobs");
        assert_eq!(answer.len(), asked.len(), "{accepted:?}");
        for (item, (digest, expected)) in answer.iter().zip(&asked) {
            assert_eq!(item.digest.as_ref(), Some(digest), "{accepted:?}");
            let status = item.status.as_ref().unwrap_or_else(|| panic!("{accepted:?}: {digest:?} has no status"));
            assert_eq!(Code::from_i32(status.code), *expected, "{accepted:?}: {digest:?}");
            let has_data = *expected == Code::Ok && digest.size_bytes > 0;
            assert_eq!(!item.data.is_empty(), has_data, "{accepted:?}: {digest:?}");
            let form = compressor::Value::try_from(item.compressor).expect("a compressor of the API");
            assert!(form == Identity || accepted.contains(&form), "{accepted:?}: {digest:?} came in {form:?}");
        }
    }
}

/// Each way in which an item can be wrong, among good ones, at each place.
#[tokio::test]
async fn fault_16_one_bad_item_fails_alone() {
    let (_server, cache) = start().await;
    let bad = |seed: u64| {
        let (digest, data) = blob(seed, 700);
        let mut bad = vec![
            ("bytes of another hash", digest.clone(), bytes(seed + 1, 700)),
            ("one byte more", digest.clone(), [&data[..], b"x"].concat()),
            ("one byte less", digest.clone(), data[1..].to_vec()),
            ("no bytes", digest.clone(), Vec::new()),
            ("a smaller size", with_size(&digest, 699), data.clone()),
            ("no size", with_size(&digest, 0), data.clone()),
            ("a negative size", with_size(&digest, -700), data.clone()),
        ];
        bad.extend(malformed_hashes().into_iter().map(|(what, hash)| (what, with_hash(&digest, &hash), data.clone())));
        bad
    };
    for position in 0..bad(0).len() {
        let seed = 16_000 + 10 * position as u64;
        let (what, digest, data) = bad(seed).swap_remove(position);
        let good = [blob(seed + 2, 300), blob(seed + 3, 300)];
        for place in 0..3 {
            let mut items = good.to_vec();
            items.insert(place, (digest.clone(), data.clone()));
            let expected: Vec<_> = (0..3)
                .map(|at| (items[at].0.clone(), if at == place { Code::InvalidArgument } else { Code::Ok }))
                .collect();
            let answer = cache.batch_update(items).await;
            assert_eq!(answer.unwrap_or_else(|status| panic!("{what} at {place}: {status}")), expected, "{what}");
        }
        // And reading: what cannot be a digest is its item's fault, what is absent is missing.
        let answer = cache.batch_read(&[good[0].0.clone(), digest.clone(), good[1].0.clone()]).await.expect(what);
        let codes: Vec<_> =
            answer.iter().map(|item| item.status.clone().expect("a status").code).map(Code::from_i32).collect();
        assert_eq!((codes[0], codes[2]), (Code::Ok, Code::Ok), "{what}");
        assert!(matches!(codes[1], Code::InvalidArgument | Code::NotFound), "{what}: {:?}", codes[1]);
        assert_eq!((&answer[0].data, &answer[2].data), (&good[0].1, &good[1].1), "{what}");
    }
}

/// What a batch asks for is counted before a byte of it is read, and what many batches have in memory at once is in a budget.
#[tokio::test]
async fn fault_17_asking_for_very_much_at_once_costs_no_memory() {
    let (mut server, cache) = start().await;
    let limit = cache.batch_limit_bytes().await;
    let large = cache.store(&bytes(17, MIB)).await;
    let (half, half_data) = blob(170, limit / 2);
    cache.upload(&half, &half_data).await.expect("Write");
    let before = server.anonymous_memory_bytes();
    let too_much = [
        ("ten thousand stored", vec![large.clone(); 10_000]),
        ("ten thousand absent", (0..10_000).map(|seed| with_size(&absent_digest(seed), MIB as i64)).collect()),
        ("one beyond everything", vec![with_size(&absent_digest(1), i64::MAX)]),
        (
            "two whose sum overflows",
            vec![with_size(&absent_digest(1), i64::MAX), with_size(&absent_digest(2), i64::MAX)],
        ),
        ("a byte over the limit", vec![half.clone(), half.clone(), with_size(&absent_digest(1), limit as i64 % 2 + 1)]),
    ];
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        for (what, digests) in too_much.clone() {
            let cache = cache.clone();
            calls.spawn(async move { assert_invalid(&cache.batch_read(&digests).await, what) });
        }
    }
    calls.join_all().await;
    let grown = server.anonymous_memory_bytes().saturating_sub(before);
    assert!(grown < 64 * MIB as u64, "refusals took {grown} bytes");

    // As much as is allowed, asked for by very many who do not take it yet.
    let asked = vec![half.clone(); 2];
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        let client = Cache::connect(&server).await;
        for _ in 0..12 {
            let (client, asked) = (client.clone(), asked.clone());
            calls.spawn(async move { client.batch_read(&asked).await.map(|items| items.len()) });
        }
    }
    for outcome in calls.join_all().await {
        match outcome {
            Ok(count) => assert_eq!(count, 2),
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status}"),
        }
    }
    // 96 answers are 380 MiB; the budget is 256.
    let grown = server.anonymous_memory_bytes().saturating_sub(before);
    assert!(grown < 320 * MIB as u64, "answers took {grown} bytes");
    assert!(server.is_alive());
    assert_eq!(cache.batch_read(&[half]).await.expect("BatchReadBlobs")[0].data, half_data);
}
