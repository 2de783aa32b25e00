//! Section B: `FindMissingBlobs`.

use bazel_remote_apis::build::bazel::remote::execution::v2::{Digest, FindMissingBlobsRequest, digest_function};
use tonic::Code;

use crate::support::blob::{
    absent_digest, blob, bytes, digest_of, empty_digest, malformed_hashes, with_hash, with_size,
};
use crate::support::damage;
use crate::support::grpc::{Cache, assert_code, assert_invalid, assert_right_or_gone, code};
use crate::support::process::Options;
use crate::{start, start_with};

#[tokio::test]
async fn b01_nothing_asked_nothing_missing() {
    let (_server, cache) = start().await;
    assert_eq!(cache.find_missing(&[]).await.expect("FindMissingBlobs"), []);
}

#[tokio::test]
async fn b02_an_unknown_digest_is_listed() {
    let (_server, cache) = start().await;
    let unknown = absent_digest(2);
    assert_eq!(cache.find_missing(std::slice::from_ref(&unknown)).await.expect("FindMissingBlobs"), [unknown]);
}

#[tokio::test]
async fn b03_a_stored_digest_is_not_listed() {
    let (_server, cache) = start().await;
    let by_batch = cache.store(b"by batch").await;
    let (by_stream, data) = blob(3, 3_000_000);
    cache.upload(&by_stream, &data).await.expect("Write");
    let unknown = absent_digest(3);
    let missing = cache.find_missing(&[by_batch, unknown.clone(), by_stream]).await.expect("FindMissingBlobs");
    assert_eq!(missing, [unknown]);
}

#[tokio::test]
async fn b04_the_empty_blob_is_always_there() {
    use digest_function::Value;
    // The digest of no bytes under each function; GITSHA1 hashes git's header, SHA256TREE and VSO their own way.
    let empty_hashes = [
        (Value::Sha256, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (Value::Sha1, "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        (Value::Md5, "d41d8cd98f00b204e9800998ecf8427e"),
        (
            Value::Sha384,
            "38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b",
        ),
        (
            Value::Sha512,
            "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
        ),
        (Value::Sha256tree, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (Value::Blake3, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"),
        (Value::Gitsha1, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
    ];
    let (_server, cache) = start().await;
    let capabilities = cache.capabilities().await.expect("GetCapabilities");
    let advertised = capabilities.cache_capabilities.expect("cache capabilities").digest_functions;
    for (function, hash) in empty_hashes {
        let digest = Digest { hash: hash.to_owned(), size_bytes: 0 };
        let missing = cache.find_missing_under(function as i32, &[digest]).await;
        if advertised.contains(&(function as i32)) {
            assert_eq!(missing.expect("an advertised function"), [], "{function:?}");
        } else {
            assert_invalid(&missing, function.as_str_name());
        }
    }
    assert_eq!(cache.find_missing(&[empty_digest()]).await.expect("FindMissingBlobs"), [], "the function left unset");
}

#[tokio::test]
async fn b05_stored_hash_with_wrong_size_is_listed() {
    let (_server, cache) = start().await;
    let stored = cache.store(&bytes(5, 1000)).await;
    for size in [0, 1, 999, 1001, 1_000_000, i64::MAX] {
        let wrong = with_size(&stored, size);
        match cache.find_missing(std::slice::from_ref(&wrong)).await {
            Ok(missing) => assert_eq!(missing, [wrong], "size {size}"),
            Err(status) => assert_eq!(status.code(), Code::InvalidArgument, "size {size}: {status}"),
        }
    }
    assert!(cache.is_present(&stored).await);
}

#[tokio::test]
async fn b06_a_malformed_hash_is_invalid() {
    let (_server, cache) = start().await;
    let good = cache.store(b"a neighbour that is fine").await;
    for (what, hash) in malformed_hashes() {
        let digest = with_hash(&good, &hash);
        assert_invalid(&cache.find_missing(std::slice::from_ref(&digest)).await, what);
        assert_invalid(&cache.find_missing(&[good.clone(), digest.clone()]).await, what);
        let function = digest_function::Value::Sha256 as i32;
        assert_invalid(&cache.find_missing_under(function, &[digest]).await, what);
    }
}

#[tokio::test]
async fn b07_a_negative_size_is_invalid() {
    let (_server, cache) = start().await;
    let stored = cache.store(b"something").await;
    for size in [-1, i64::MIN] {
        assert_invalid(&cache.find_missing(&[with_size(&stored, size)]).await, "a negative size");
    }
}

#[tokio::test]
async fn b08_a_digest_may_come_twice() {
    let (_server, cache) = start().await;
    let stored = cache.store(b"something").await;
    let unknown = absent_digest(8);
    let asked = [unknown.clone(), stored.clone(), unknown.clone(), stored];
    let missing = cache.find_missing(&asked).await.expect("FindMissingBlobs");
    assert!(missing == [unknown.clone()] || missing == [unknown.clone(), unknown], "{missing:?}");
}

#[tokio::test]
async fn b09_fourteen_thousand_digests_in_one_call() {
    let (_server, cache) = start().await;
    let mut asked = Vec::new();
    let mut expected = Vec::new();
    let mut stored = Vec::new();
    for seed in 0..14_000 {
        let (digest, data) = blob(seed, 24);
        if seed % 7 == 0 {
            stored.push((digest.clone(), data));
        } else {
            expected.push(digest.clone());
        }
        asked.push(digest);
    }
    for (_, status) in cache.batch_update(stored).await.expect("BatchUpdateBlobs") {
        assert_eq!(status, Code::Ok);
    }
    assert_eq!(cache.find_missing(&asked).await.expect("FindMissingBlobs"), expected);
}

#[tokio::test]
async fn b10_functions_of_equal_length_do_not_alias() {
    let (_server, cache) = start().await;
    let stored = cache.store(b"stored under SHA256").await;
    for function in [digest_function::Value::Blake3, digest_function::Value::Sha256tree] {
        match cache.find_missing_under(function as i32, std::slice::from_ref(&stored)).await {
            Ok(missing) => assert_eq!(missing, std::slice::from_ref(&stored), "{function:?}"),
            Err(status) => assert_eq!(status.code(), Code::InvalidArgument, "{function:?}: {status}"),
        }
    }
}

#[tokio::test]
async fn b11_an_unadvertised_function_is_invalid() {
    let (_server, cache) = start().await;
    let stored = cache.store(b"something").await;
    for function in [digest_function::Value::Vso as i32, digest_function::Value::Murmur3 as i32, 11, 99, -1] {
        let answer = cache.find_missing_under(function, std::slice::from_ref(&stored)).await;
        assert_invalid(&answer, &format!("function {function}"));
        // The field counts even where there is nothing to look up.
        let request = FindMissingBlobsRequest { digest_function: function, ..FindMissingBlobsRequest::default() };
        let answer = cache.cas().find_missing_blobs(request).await;
        assert_code(&answer, &[Code::InvalidArgument, Code::Ok], &format!("function {function}, no digests"));
    }
    // Left unset, the function is told by the hash's length: 32 hex digits cannot be anything that is served.
    let nothing_served = with_hash(&stored, &stored.hash[..40]);
    let advertised = cache.capabilities().await.expect("GetCapabilities").cache_capabilities.unwrap_or_default();
    if !advertised.digest_functions.contains(&(digest_function::Value::Sha1 as i32)) {
        assert_invalid(&cache.find_missing(&[nothing_served]).await, "a hash of 40 digits");
    }
}

/// Writes `total_bytes` of fresh blobs, small and larger ones, through the store, calling `between` after every two MiB.
pub(crate) async fn eviction_wave(cache: &Cache, total_bytes: u64, mut between: impl AsyncFnMut()) {
    const BATCH_BYTES: u64 = 2 * 1024 * 1024;
    // 2 MiB in all. Stores keep small and large blobs apart, and each kind has to push out its like.
    const SIZES_KIB: [usize; 19] = [512, 256, 256, 256, 256, 256, 32, 32, 32, 32, 32, 16, 16, 16, 16, 8, 8, 8, 8];
    let mut seed = 0x3a7e_0000;
    for _ in 0..total_bytes / BATCH_BYTES {
        let mut blobs = Vec::with_capacity(SIZES_KIB.len());
        for size_kib in SIZES_KIB {
            blobs.push(blob(seed, size_kib * 1024));
            seed += 1;
        }
        for (digest, status) in cache.batch_update(blobs).await.expect("a batch of the wave") {
            assert_eq!(status, Code::Ok, "{digest:?}");
        }
        between().await;
    }
}

#[tokio::test]
async fn b12_what_is_touched_survives_a_wave_that_evicts_its_peers() {
    let (_server, cache) = start_with(Options::without_leases("64MiB")).await;
    let touched = cache.store(&bytes(120, 50_000)).await;
    let mut peers = Vec::new();
    for seed in 121..141 {
        peers.push(cache.store(&bytes(seed, 50_000)).await);
    }
    eviction_wave(&cache, 192 * 1024 * 1024, async || {
        assert!(cache.is_present(&touched).await, "a blob that is asked for all the time was evicted");
    })
    .await;
    assert_eq!(cache.read(&touched).await.expect("a touched blob"), bytes(120, 50_000));
    let missing = cache.find_missing(&peers).await.expect("FindMissingBlobs");
    let kept: Vec<_> = (0..peers.len()).filter(|&number| !missing.contains(&peers[number])).collect();
    assert_eq!(kept, [], "three times the store went through and untouched blobs are still there");
}

#[tokio::test]
async fn b13_a_blob_damaged_on_disk_is_missing_and_nothing_else_is() {
    for at in [0, 1_000, 69_999] {
        let (mut server, cache) = start().await;
        let mut neighbours = Vec::new();
        for seed in 130..135 {
            neighbours.push((cache.store(&bytes(seed, 70_000)).await, bytes(seed, 70_000)));
        }
        let (victim, data) = neighbours.remove(2);
        server = server.stop().await;
        assert!(damage::flip_a_bit(&server, &data, at) > 0, "the blob's bytes are in a segment");
        server.start_again();

        let cache = Cache::connect(&server).await;
        let read = cache.read(&victim).await;
        assert_ne!(code(&read), Code::Ok, "damaged at {at}, served all the same");
        assert_right_or_gone(&read, &data, "the damaged blob");
        assert!(!cache.is_present(&victim).await, "damaged at {at}: reported present after a failed read");
        for (digest, data) in &neighbours {
            assert_eq!(&cache.read(digest).await.expect("a neighbour of the damaged blob"), data);
        }
        // The client brings it again, and all is well.
        assert_eq!(cache.store(&data).await, victim);
        assert_eq!(cache.read(&victim).await.expect("the blob stored anew"), data);
    }
}

#[tokio::test]
async fn b13_damage_is_never_served_by_a_batch_or_over_a_long_blob() {
    let (mut server, cache) = start().await;
    let (long, long_data) = blob(136, 3_500_000);
    cache.upload(&long, &long_data).await.expect("Write");
    let small = cache.store(&bytes(137, 5_000)).await;
    server = server.stop().await;
    // Here begins a later part of the long blob, whatever power of two a part's size is.
    let part = &long_data[3 * 1024 * 1024..][..10_000];
    assert!(damage::flip_a_bit(&server, part, 4_321) > 0, "the blob's last part is in a segment");
    assert!(damage::flip_a_bit(&server, &bytes(137, 5_000), 4_999) > 0, "the blob's bytes are in a segment");
    server.start_again();

    let cache = Cache::connect(&server).await;
    assert_right_or_gone(&cache.read(&long).await, &long_data, "a long blob with a damaged part");
    assert_ne!(code(&cache.read(&long).await), Code::Ok);
    let answer = cache.batch_read(std::slice::from_ref(&small)).await.expect("BatchReadBlobs");
    let status = answer[0].status.as_ref().expect("a status");
    assert!(matches!(Code::from_i32(status.code), Code::NotFound | Code::DataLoss), "{status:?}");
    assert_eq!(answer[0].data, b"", "no bytes come with an error");
    assert_eq!(
        cache.find_missing(&[digest_of(&long_data), small.clone()]).await.expect("FindMissingBlobs"),
        [digest_of(&long_data), small]
    );
}
