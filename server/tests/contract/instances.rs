//! Instances: several segments, lists, isolation (lines A9, A10, A17, I16).

use bazel_remote_apis::build::bazel::remote::execution::v2::{ActionResult, Directory, FileNode, OutputFile};
use http::{Method, StatusCode};
use tonic::Code;

use crate::start_with;
use crate::support::blob::{blob, bytes, digest_of, hash_of};
use crate::support::grpc::Cache;
use crate::support::grpc::{assert_invalid, code};
use crate::support::http::request;
use crate::support::process::{Options, Server};

async fn with_instances(list: &'static str) -> (Server, Cache) {
    start_with(Options { flags: vec!["--instances", list], ..Options::default() }).await
}

#[tokio::test]
async fn a09_an_instance_that_is_not_on_the_list_is_invalid_for_every_method() {
    let (server, cache) = with_instances("main;team/a").await;
    for served in ["main", "team/a"] {
        let served = cache.instance(served);
        served.capabilities().await.expect("GetCapabilities");
        let digest = served.store(b"shared").await;
        assert_eq!(served.read(&digest).await.expect("Read"), b"shared");
    }
    for unknown in ["", "team", "team/a/b", "other"] {
        let unknown = cache.instance(unknown);
        let (digest, data) = blob(1, 100);
        assert_invalid(&unknown.capabilities().await, "GetCapabilities");
        assert_invalid(&unknown.find_missing(std::slice::from_ref(&digest)).await, "FindMissingBlobs");
        assert_invalid(&unknown.batch_update(vec![(digest.clone(), data.clone())]).await, "BatchUpdateBlobs");
        assert_invalid(&unknown.batch_read(std::slice::from_ref(&digest)).await, "BatchReadBlobs");
        assert_invalid(&unknown.tree(&digest, 0).await, "GetTree");
        assert_invalid(&unknown.read(&digest).await, "Read");
        assert_invalid(&unknown.upload(&digest, &data).await, "Write");
        assert_invalid(&unknown.write_status(&unknown.write_name(&digest)).await, "QueryWriteStatus");
        assert_invalid(&unknown.get_action(&digest).await, "GetActionResult");
        assert_invalid(&unknown.update_action(&digest, ActionResult::default()).await, "UpdateActionResult");
    }
    let path = format!("/other/cas/{}", hash_of(b"shared"));
    assert_eq!(request(&server, Method::GET, &path, Vec::new()).await.status, StatusCode::BAD_REQUEST);
}

/// Blobs of an isolated instance and those of the others: neither sees the other's, by any method, before and after a kill.
#[tokio::test]
async fn a17_an_isolated_instance_shares_nothing() {
    let (mut server, mut cache) = with_instances("secret/team,cas=isolated;apart,cas=isolated;*").await;
    let (data, large) = (bytes(1, 3000), bytes(2, 3 << 20));
    for _ in 0..2 {
        let secret = cache.instance("secret/team");
        let digest = secret.store(&data).await;
        secret.upload(&digest_of(&large), &large).await.expect("Write");
        let file = FileNode { name: "f".to_owned(), digest: Some(digest.clone()), ..Default::default() };
        let root = secret.store_message(&Directory { files: vec![file], ..Default::default() }).await;
        let output = OutputFile { path: "out".to_owned(), digest: Some(digest.clone()), ..Default::default() };
        let result = ActionResult { output_files: vec![output], ..Default::default() };
        secret.update_action(&digest, result.clone()).await.expect("UpdateActionResult");
        for own in [&digest, &digest_of(&large), &root] {
            assert!(secret.is_present(own).await);
        }
        assert_eq!(secret.read(&digest_of(&large)).await.expect("Read"), large);
        assert_eq!(secret.tree(&root, 0).await.expect("GetTree").len(), 1);
        secret.get_action(&digest).await.expect("GetActionResult");
        let path = format!("/secret/team/cas/{}", digest.hash);
        assert_eq!(request(&server, Method::GET, &path, Vec::new()).await.body, data);

        for other in ["", "apart", "secret"] {
            let (other, what) = (cache.instance(other), other);
            for foreign in [&digest, &digest_of(&large), &root] {
                assert!(!other.is_present(foreign).await, "{what}");
                assert_eq!(code(&other.read(foreign).await), Code::NotFound, "{what}");
            }
            let items = other.batch_read(std::slice::from_ref(&digest)).await.expect("BatchReadBlobs");
            assert_eq!(Code::from_i32(items[0].status.as_ref().expect("a status").code), Code::NotFound, "{what}");
            assert_eq!(code(&other.tree(&root, 0).await), Code::NotFound, "{what}");
            let status = other.write_status(&other.write_name(&digest)).await.expect("QueryWriteStatus");
            assert!(!status.complete, "{what}");
            // Its own result over the same blob is a miss, since the blob is not there.
            other.update_action(&digest, result.clone()).await.expect("UpdateActionResult");
            assert_eq!(code(&other.get_action(&digest).await), Code::NotFound, "{what}");
        }
        let path = format!("/cas/{}", digest.hash);
        assert_eq!(request(&server, Method::GET, &path, Vec::new()).await.status, StatusCode::NOT_FOUND);
        server.kill();
        server.start_again();
        cache = Cache::connect(&server).await;
    }
}

#[tokio::test]
async fn i16_results_are_apart_by_instance_and_blobs_are_shared() {
    let (_server, cache) = with_instances("a;b").await;
    let (a, b) = (cache.instance("a"), cache.instance("b"));
    let digest = a.store(b"shared").await;
    a.update_action(&digest, ActionResult { exit_code: 1, ..Default::default() }).await.expect("UpdateActionResult");
    assert!(b.is_present(&digest).await);
    assert_eq!(code(&b.get_action(&digest).await), Code::NotFound);
}

/// Results that somebody else fills: read by all, stored by nobody, and the capabilities say so. Blobs are taken all the same.
#[tokio::test]
async fn a14_read_only_action_results_are_advertised_and_refused_for_good() {
    let (server, cache) = with_instances("shown,actions=read-only;*").await;
    let (shown, digest) = (cache.instance("shown"), digest_of(b"an action"));
    for (cache, update_enabled) in [(&shown, false), (&cache, true)] {
        let capabilities =
            cache.capabilities().await.expect("GetCapabilities").cache_capabilities.expect("of the cache");
        let updates = capabilities.action_cache_update_capabilities.expect("of updates");
        assert_eq!(updates.update_enabled, update_enabled);
    }
    let outcome = shown.update_action(&digest, ActionResult { exit_code: 1, ..Default::default() }).await;
    assert_eq!(code(&outcome), Code::PermissionDenied);
    let path = format!("/shown/ac/{}", digest.hash);
    assert_eq!(request(&server, Method::PUT, &path, vec![0x20, 1]).await.status, StatusCode::FORBIDDEN);
    assert_eq!(code(&shown.get_action(&digest).await), Code::NotFound);
    shown.store(b"a blob").await;
}
