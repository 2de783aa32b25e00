//! Every digest function through every door, and instances that prefer one (lines A2, B10, F17, I17 and what follows from them).

use bazel_remote_apis::build::bazel::remote::execution::v2::{ActionResult, Directory, DirectoryNode, OutputFile};
use cask_index::DigestFunction;
use http::{Method, StatusCode};
use tonic::Code;

use crate::support::blob::{bytes, digest_under};
use crate::support::grpc::{assert_invalid, code, write_messages};
use crate::support::http::request;
use crate::support::process::Options;
use crate::{start, start_with};

#[tokio::test]
async fn a02_every_function_the_api_names_and_a_cache_can_trust_is_advertised() {
    let (_server, cache) = start().await;
    let capabilities = cache.capabilities().await.expect("GetCapabilities").cache_capabilities.expect("of the cache");
    let mut advertised = capabilities.digest_functions;
    assert_eq!(advertised[..2], [1, 9], "SHA256 first, then BLAKE3");
    advertised.sort_unstable();
    assert_eq!(advertised, [1, 2, 3, 5, 6, 8, 9, 10]);
}

/// Batch, stream, read, list, result and HTTP: under each function, one blob of one part and one of several.
#[tokio::test]
async fn f17_a_blob_of_any_function_goes_through_every_door() {
    let (server, cache) = start().await;
    for function in DigestFunction::ALL {
        let (cache, what) = (cache.under(function), function.name());
        let (small, large) = (bytes(1, 3000), bytes(2, 3 << 20));
        let small_digest = cache.store(&small).await;
        let large_digest = digest_under(function, &large);
        assert_eq!(cache.find_missing(&[small_digest.clone(), large_digest.clone()]).await.unwrap().len(), 1, "{what}");
        assert_eq!(cache.upload(&large_digest, &large).await.expect("Write"), large.len() as i64, "{what}");
        for (digest, data) in [(&small_digest, &small), (&large_digest, &large)] {
            assert!(cache.is_present(digest).await, "{what}");
            assert!(cache.read(digest).await.expect("Read") == *data, "{what}");
        }
        // The content under another digest of the same function.
        let wrong = digest_under(function, b"something else, of another length");
        let outcome = cache.write(write_messages(&cache.write_name(&wrong), &small[..33], 1000)).await;
        assert_invalid(&outcome, what);
        let empty = digest_under(function, b"");
        assert!(cache.is_present(&empty).await, "{what}");
        assert_eq!(cache.read(&empty).await.expect("Read"), b"", "{what}");

        let file = OutputFile { path: "out".to_owned(), digest: Some(large_digest.clone()), ..Default::default() };
        let result = ActionResult { output_files: vec![file], stdout_raw: b"said".to_vec(), ..Default::default() };
        let stored = cache.update_action(&small_digest, result).await.expect("UpdateActionResult");
        assert_eq!(stored.stdout_digest, Some(digest_under(function, b"said")), "{what}");
        assert_eq!(cache.get_action(&small_digest).await.expect("GetActionResult"), stored, "{what}");

        let segment = match function {
            DigestFunction::Blake3 | DigestFunction::GitSha1 | DigestFunction::Sha256Tree => format!("{what}/"),
            _ => String::new(),
        };
        let path = format!("/cas/{segment}{}", large_digest.hash);
        let answer = request(&server, Method::GET, &path, Vec::new()).await;
        assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, large.len()), "{path}");
        let put = bytes(3, 500);
        let path = format!("/cas/{segment}{}", digest_under(function, &put).hash);
        assert_eq!(request(&server, Method::PUT, &path, put.clone()).await.status, StatusCode::OK, "{path}");
        assert!(cache.is_present(&digest_under(function, &put)).await, "{path}");
        let path = format!("/cas/{segment}{}", digest_under(function, b"other").hash);
        assert_eq!(request(&server, Method::PUT, &path, put).await.status, StatusCode::BAD_REQUEST, "{path}");
    }
}

#[tokio::test]
async fn e_a_tree_is_listed_under_its_own_function() {
    let (_server, cache) = start().await;
    let cache = cache.under(DigestFunction::Blake3);
    let leaf = cache.store_message(&Directory::default()).await;
    let child = DirectoryNode { name: "sub".to_owned(), digest: Some(leaf) };
    let root = cache.store_message(&Directory { directories: vec![child], ..Default::default() }).await;
    assert_eq!(cache.tree(&root, 0).await.expect("GetTree").len(), 2);
}

/// One hash under functions of equal length: what is stored under one says nothing of the other.
#[tokio::test]
async fn b10_i17_equal_hashes_of_two_functions_are_two_blobs_and_two_actions() {
    let (_server, cache) = start().await;
    let pairs = [
        (DigestFunction::Sha256, DigestFunction::Blake3),
        (DigestFunction::Blake3, DigestFunction::Sha256),
        (DigestFunction::Sha1, DigestFunction::GitSha1),
        (DigestFunction::GitSha1, DigestFunction::Sha1),
    ];
    for (seed, (stored_under, other)) in pairs.into_iter().enumerate() {
        let digest = cache.under(stored_under).store(&bytes(1000 + seed as u64, 5000)).await;
        let other_cache = cache.under(other);
        assert!(!other_cache.is_present(&digest).await, "{other:?}");
        assert_eq!(code(&other_cache.read(&digest).await), Code::NotFound, "{other:?}");
        cache
            .under(stored_under)
            .update_action(&digest, ActionResult { exit_code: 3, ..Default::default() })
            .await
            .unwrap();
        assert_eq!(code(&other_cache.get_action(&digest).await), Code::NotFound, "{other:?}");
    }
}

/// Buck2 sends BLAKE3 hashes and names no function, neither in requests nor in resource names.
#[tokio::test]
async fn an_instance_may_prefer_a_function_for_clients_that_name_none() {
    let options = Options { flags: vec!["--instances", "buck,digest-function=blake3;*"], ..Options::default() };
    let (_server, cache) = start_with(options).await;
    let (buck, data) = (cache.instance("buck"), bytes(1, 5000));
    let digest = digest_under(DigestFunction::Blake3, &data);
    assert!(buck.find_missing(std::slice::from_ref(&digest)).await.unwrap() == [digest.clone()]);
    assert_eq!(buck.upload(&digest, &data).await.expect("Write"), 5000);
    assert!(buck.is_present(&digest).await);
    assert_eq!(buck.read(&digest).await.expect("Read"), data);
    let capabilities = buck.capabilities().await.expect("GetCapabilities").cache_capabilities.expect("of the cache");
    assert_eq!(capabilities.digest_functions[..2], [9, 1], "its own first");
    // The others still mean SHA256, and one that names it is understood in the same instance.
    assert!(!cache.is_present(&digest).await);
    let sha256 = buck.under(DigestFunction::Sha256).store(&data).await;
    assert!(cache.is_present(&sha256).await);
}
