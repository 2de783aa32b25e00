//! Section L, its HTTP half: the cache protocol of plain HTTP/1.1, on the same port.
//!
//! Left out: L18 (credentials: no access control yet).

use std::sync::Arc;

use bazel_remote_apis::build::bazel::remote::execution::v2::ActionResult;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use prost::Message;
use tokio::task::JoinSet;

use super::action_cache::{action, output_file, result};
use crate::support::blob::{absent_digest, blob, bytes, digest_of, empty_digest, malformed_hashes};
use crate::support::grpc::{Cache, code};
use crate::support::http::{request, send};
use crate::support::process::{Options, Server};
use crate::{start, start_with};

const MIB: usize = 1024 * 1024;

/// The statuses Bazel takes for a stored blob.
#[track_caller]
fn assert_stored(status: StatusCode) {
    assert!([200, 201, 202, 204].contains(&status.as_u16()), "{status}");
}

async fn put(server: &Server, path: &str, data: &[u8]) -> StatusCode {
    request(server, Method::PUT, path, data.to_vec()).await.status
}

#[tokio::test]
async fn l16_blobs_go_round() {
    let (server, cache) = start().await;
    for prefix in ["", "/an-instance", "/an/instance/of/several"] {
        for (seed, size) in [1, 1000, MIB, 5 * MIB + 3].into_iter().enumerate() {
            let (digest, data) = blob(1600 + seed as u64 + prefix.len() as u64 * 10, size);
            let path = format!("{prefix}/cas/{}", digest.hash);
            assert_eq!(request(&server, Method::GET, &path, "").await.status, StatusCode::NOT_FOUND);
            assert_stored(put(&server, &path, &data).await);
            let answer = request(&server, Method::GET, &path, "").await;
            assert_eq!(answer.status, StatusCode::OK);
            assert!(answer.body == data, "{size} bytes came back changed");
            // And by the other door, both ways.
            assert!(cache.read(&digest).await.expect("Read") == data);
            let (other, other_data) = blob(1700 + seed as u64 + prefix.len() as u64 * 10, size);
            cache.upload(&other, &other_data).await.expect("Write");
            let answer = request(&server, Method::GET, &format!("{prefix}/cas/{}", other.hash), "").await;
            assert_eq!(answer.status, StatusCode::OK);
            assert!(answer.body == other_data, "{size} bytes came back changed");
        }
    }
}

#[tokio::test]
async fn l16_a_wrong_hash_is_a_bad_request() {
    let (server, cache) = start().await;
    for size in [0, 100, 2 * MIB] {
        let claimed = absent_digest(16 + size as u64);
        let path = format!("/cas/{}", claimed.hash);
        let answer = request(&server, Method::PUT, &path, bytes(16, size)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{size} bytes of another hash");
        assert!(answer.body.len() < 10 * 1024, "clients read no long error");
        assert_eq!(request(&server, Method::GET, &path, "").await.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(cache.find_missing(&[digest_of(&bytes(16, 100))]).await.expect("FindMissingBlobs").len(), 1);
}

#[tokio::test]
async fn l16_a_malformed_hash_is_no_key() {
    let (server, _cache) = start().await;
    for (what, hash) in malformed_hashes() {
        // Percent signs are not undone in a cache's paths, so an escaped byte is one more wrong character.
        let hash = hash.replace('\0', "%00").replace('é', "%C3%A9").replace(' ', "%20");
        for kind in ["cas", "ac"] {
            let path = format!("/{kind}/{hash}");
            for method in [Method::GET, Method::PUT, Method::HEAD] {
                let answer = request(&server, method.clone(), &path, "").await;
                let allowed = [StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND];
                assert!(allowed.contains(&answer.status), "{what}: {method} {path} answered {}", answer.status);
            }
        }
    }
}

#[tokio::test]
async fn l16_the_empty_blob_is_always_there() {
    let (server, _cache) = start().await;
    let path = format!("/cas/{}", empty_digest().hash);
    let answer = request(&server, Method::GET, &path, "").await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 0));
    assert_stored(put(&server, &path, b"").await);
}

#[tokio::test]
async fn l16_blobs_survive_a_kill() {
    let (mut server, _cache) = start().await;
    let (digest, data) = blob(166, 300_000);
    let path = format!("/cas/{}", digest.hash);
    assert_stored(put(&server, &path, &data).await);
    server.kill_and_restart();
    let answer = request(&server, Method::GET, &path, "").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.body == data);
}

#[tokio::test]
async fn l17_results_are_shared_with_grpc_both_ways() {
    let (server, cache) = start().await;
    let file = cache.store(b"an output").await;
    let wanted = ActionResult { output_files: vec![output_file("out", &file)], ..result("by http") };
    for (number, instance) in ["", "main", "a/b"].into_iter().enumerate() {
        let cache = cache.instance(instance);
        let prefix = if instance.is_empty() { String::new() } else { format!("/{instance}") };

        let by_http = action(170 + number as u64);
        let path = format!("{prefix}/ac/{}", by_http.hash);
        assert_eq!(request(&server, Method::GET, &path, "").await.status, StatusCode::NOT_FOUND);
        assert_stored(put(&server, &path, &wanted.encode_to_vec()).await);
        assert_eq!(cache.get_action(&by_http).await.expect("GetActionResult"), wanted, "instance {instance:?}");
        let answer = request(&server, Method::GET, &path, "").await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(ActionResult::decode(answer.body).expect("an ActionResult"), wanted);

        let by_grpc = action(180 + number as u64);
        cache.update_action(&by_grpc, wanted.clone()).await.expect("UpdateActionResult");
        let answer = request(&server, Method::GET, &format!("{prefix}/ac/{}", by_grpc.hash), "").await;
        assert_eq!(answer.status, StatusCode::OK, "instance {instance:?}");
        assert_eq!(ActionResult::decode(answer.body).expect("an ActionResult"), wanted);
    }
    // An instance's results are its own here too.
    let path = format!("/elsewhere/ac/{}", action(180).hash);
    assert_eq!(request(&server, Method::GET, &path, "").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn l17_a_result_must_parse() {
    let (server, cache) = start().await;
    let path = format!("/ac/{}", action(190).hash);
    for garbage in [&b"\xff\xff\xff\xff"[..], b"\x12\x7f", b"{\"json\": true}"] {
        assert_eq!(put(&server, &path, garbage).await, StatusCode::BAD_REQUEST);
    }
    assert_eq!(request(&server, Method::GET, &path, "").await.status, StatusCode::NOT_FOUND);
    assert!(cache.get_action(&action(190)).await.is_err());
}

#[tokio::test]
async fn l17_a_result_is_shown_as_json_to_who_asks_for_it() {
    let (server, cache) = start().await;
    cache
        .update_action(&action(195), ActionResult { exit_code: 7, ..result("json") })
        .await
        .expect("UpdateActionResult");
    let url = format!("/ac/{}", action(195).hash);
    for (accept, is_json) in [("application/json", true), ("*/*", false)] {
        let asked = Request::get(&url).header(header::ACCEPT, accept).body(Full::default()).expect("a request");
        let answer = send(&server, asked).await.expect("an answer");
        assert_eq!((answer.status, answer.headers[header::VARY].as_bytes()), (StatusCode::OK, &b"accept"[..]));
        let text = String::from_utf8_lossy(&answer.body);
        assert_eq!(text.contains("\"exitCode\": 7"), is_json, "{accept}: {text}");
        let named = answer.headers[header::CONTENT_TYPE] == "application/json";
        assert_eq!(named, is_json, "{accept}");
    }
}

#[tokio::test]
async fn l17_an_incomplete_result_is_a_miss() {
    let (server, cache) = start().await;
    let absent = digest_of(b"l17 absent output");
    let incomplete = ActionResult { output_files: vec![output_file("out", &absent)], ..result("by http") };
    let path = format!("/ac/{}", action(191).hash);
    put(&server, &path, &incomplete.encode_to_vec()).await;
    assert_eq!(request(&server, Method::GET, &path, "").await.status, StatusCode::NOT_FOUND);
    cache.store(b"l17 absent output").await;
    assert_stored(put(&server, &path, &incomplete.encode_to_vec()).await);
    assert_eq!(request(&server, Method::GET, &path, "").await.status, StatusCode::OK);
}

#[tokio::test]
async fn l17_action_keys_and_blob_keys_never_mix() {
    let (server, cache) = start().await;
    let stored = result("a result").encode_to_vec();
    let digest = digest_of(&stored);
    assert_stored(put(&server, &format!("/cas/{}", digest.hash), &stored).await);
    let found = request(&server, Method::GET, &format!("/ac/{}", digest.hash), "").await;
    assert_eq!(found.status, StatusCode::NOT_FOUND, "a blob is no result");
    assert_stored(put(&server, &format!("/ac/{}", action(192).hash), &stored).await);
    let found = request(&server, Method::GET, &format!("/cas/{}", action(192).hash), "").await;
    assert_eq!(found.status, StatusCode::NOT_FOUND, "a result is no blob");
    assert_ne!(code(&cache.read(&action(192)).await), tonic::Code::Ok);
}

#[tokio::test]
async fn l19_identical_puts_at_once_are_fine() {
    let (server, cache) = start().await;
    let server = Arc::new(server);
    for (seed, size) in [1000, 3 * MIB].into_iter().enumerate() {
        let (digest, data) = blob(1900 + seed as u64, size);
        let path = format!("/cas/{}", digest.hash);
        let mut puts = JoinSet::new();
        for _ in 0..8 {
            let (server, path, data) = (Arc::clone(&server), path.clone(), data.clone());
            puts.spawn(async move { put(&server, &path, &data).await });
        }
        for status in puts.join_all().await {
            assert_stored(status);
        }
        assert!(cache.read(&digest).await.expect("Read") == data);
        assert_stored(put(&server, &path, &data).await);
    }
}

#[tokio::test]
async fn l20_head_tells_the_length() {
    let (server, cache) = start().await;
    let digest = cache.store(&bytes(20, 12_345)).await;
    let answer = request(&server, Method::HEAD, &format!("/cas/{}", digest.hash), "").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers.get("content-length").expect("a length"), "12345");
    assert_eq!(answer.body.len(), 0);
    let answer = request(&server, Method::HEAD, &format!("/cas/{}", absent_digest(20).hash), "").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);

    cache.update_action(&action(20), result("w")).await.expect("UpdateActionResult");
    let answer = request(&server, Method::HEAD, &format!("/ac/{}", action(20).hash), "").await;
    assert_eq!(answer.status, StatusCode::OK);
    let answer = request(&server, Method::HEAD, &format!("/ac/{}", action(21).hash), "").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn l_a_full_store_refuses_over_http_too() {
    let (server, _cache) = start_with(Options::with_max_size("64MiB")).await;
    let mut statuses = Vec::new();
    for seed in 0..80 {
        let (digest, data) = blob(0x7000 + seed, MIB);
        let status = put(&server, &format!("/cas/{}", digest.hash), &data).await;
        statuses.push(status);
        if !status.is_success() {
            // Never a status that blames the client for good.
            let allowed =
                [StatusCode::INSUFFICIENT_STORAGE, StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS];
            assert!(allowed.contains(&status), "{status}");
            return;
        }
    }
    panic!("80 MiB went into 64: {statuses:?}");
}

#[tokio::test]
async fn l_http_and_grpc_share_one_port_and_one_moment() {
    let (server, _cache) = start_with(Options::default()).await;
    // Both protocols on fresh connections, in turns.
    for round in 0..5 {
        let cache = Cache::connect(&server).await;
        let (digest, data) = blob(0x8000 + round, 1000);
        assert_stored(put(&server, &format!("/cas/{}", digest.hash), &data).await);
        assert_eq!(cache.read(&digest).await.expect("Read"), data);
    }
}
