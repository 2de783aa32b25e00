//! Known faults of size, by their numbers: 39 (trees), 42 (what is too large).

use std::collections::BTreeMap;

use bazel_remote_apis::build::bazel::remote::execution::v2::{ActionResult, Digest, Directory};
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use prost::Message;
use tonic::Code;

use super::action_cache::{action, result};
use super::get_tree::directory;
use crate::support::blob::{absent_digest, blob, digest_of_message, with_size};
use crate::support::grpc::{Cache, assert_code, assert_invalid, piece};
use crate::support::http::{request, send, send_raw};
use crate::support::process::Options;
use crate::{start, start_with};

const MIB: usize = 1024 * 1024;

/// A tree under construction: what was stored of it, and what is named and absent.
struct Shape<'a> {
    cache: &'a Cache,
    stored: Vec<Directory>,
}

impl Shape<'_> {
    /// Stores a directory with these children, a file of this name in it.
    async fn put(&mut self, file: &str, children: &[(&str, &Digest)]) -> Digest {
        let new = directory(children, &[file]);
        self.stored.push(new.clone());
        self.cache.store_message(&new).await
    }
}

fn counted(directories: &[Directory]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for one in directories {
        *counts.entry(digest_of_message(one).hash).or_default() += 1;
    }
    counts
}

/// Each directory comes once, in pages of any size and from any page's token on, whatever the shape above it.
#[tokio::test]
async fn fault_39_every_shape_of_tree_is_listed_once_and_resumed_anywhere() {
    let (_server, cache) = start().await;
    for shape in ["a diamond", "a chain", "shared leaves", "a twin beside its parent", "missing children"] {
        let mut tree = Shape { cache: &cache, stored: Vec::new() };
        let root = match shape {
            // 2^30 ways from the root to the leaf.
            "a diamond" => {
                let mut level = tree.put("leaf", &[]).await;
                for number in 0..30 {
                    level = tree.put(&format!("{number}"), &[("a", &level), ("b", &level)]).await;
                }
                level
            }
            "a chain" => {
                let mut level = tree.put("end", &[]).await;
                for number in 0..60 {
                    level = tree.put(&format!("{number}"), &[("next", &level)]).await;
                }
                level
            }
            // The same leaf is last of each branch and first of the next: a token that only names it says too little.
            "shared leaves" => {
                let leaf = tree.put("the leaf", &[]).await;
                let (mut names, mut branches) = (Vec::new(), Vec::new());
                for number in 0..12 {
                    let own = tree.put(&format!("own {number}"), &[("z", &leaf)]).await;
                    branches.push(
                        tree.put(&format!("branch {number}"), &[("a", &leaf), ("own", &own), ("z", &leaf)]).await,
                    );
                    names.push(format!("branch{number:02}"));
                }
                let children: Vec<_> = names.iter().map(String::as_str).zip(&branches).collect();
                tree.put("root", &children).await
            }
            "a twin beside its parent" => {
                let inner = tree.put("inner", &[]).await;
                let outer = tree.put("outer", &[("inner", &inner)]).await;
                tree.put("root", &[("inner", &inner), ("outer", &outer), ("outer again", &outer)]).await
            }
            _ => {
                let below = tree.put("below", &[]).await;
                let (gone, lost) = (absent_digest(3900), absent_digest(3901));
                let middle = tree.put("middle", &[("below", &below), ("gone", &gone)]).await;
                tree.put("root", &[("gone", &gone), ("lost", &lost), ("middle", &middle)]).await
            }
        };
        let all = tree.stored;
        for page_size in [0, 1, 2, 3, 7, 31, 1000] {
            let what = format!("{shape} in pages of {page_size}");
            let pages = cache.tree_pages(&root, page_size, "").await.expect(&what);
            let found: Vec<Directory> = pages.iter().flat_map(|page| page.directories.clone()).collect();
            assert_eq!(counted(&found), counted(&all), "{what}");
            assert_eq!(found[0], *all.last().expect("a root"), "{what}: the root is first");
            let mut seen = 0;
            for page in &pages {
                seen += page.directories.len();
                if page.next_page_token.is_empty() {
                    continue;
                }
                let rest = cache.tree_pages(&root, page_size, &page.next_page_token).await.expect(&what);
                let rest: Vec<Directory> = rest.into_iter().flat_map(|page| page.directories).collect();
                assert!(rest == found[seen..], "{what}: {} come behind the first {seen}", rest.len());
            }
        }
    }
}

/// Whatever is said to be too large is refused for what it says, by every door, before its bytes; and costs nobody else anything.
#[tokio::test]
async fn fault_42_what_is_too_large_is_refused_by_what_it_says() {
    let (server, cache) = start_with(Options::with_max_size("64MiB")).await;
    let capabilities = cache.capabilities().await.expect("GetCapabilities").cache_capabilities.expect("of the cache");
    let largest = capabilities.max_cas_blob_size_bytes;
    assert!((1..64 * MIB as i64).contains(&largest), "the largest blob that is promised fits: {largest}");
    let before = server.anonymous_memory_bytes();
    for claimed in [largest + 1, 64 * MIB as i64 + 1, 1 << 40, i64::MAX - 1, i64::MAX] {
        let digest = with_size(&absent_digest(42), claimed);
        for first in [0, 1, 100_000] {
            // The client sends its first piece and waits.
            let mut write = cache.open_write();
            write.send(piece(&cache.write_name(&digest), 0, &vec![0; first], false)).await;
            assert_invalid(&write.answer().await, &format!("a stream of {claimed}, {first} bytes sent"));
        }
        match cache.batch_update(vec![(digest.clone(), vec![0; 1000])]).await {
            Ok(answer) => assert_eq!(answer, [(digest.clone(), Code::InvalidArgument)], "{claimed}"),
            Err(status) => assert_eq!(status.code(), Code::InvalidArgument, "{claimed}: {status}"),
        }
        assert!(!cache.is_present(&digest).await, "{claimed}");
        assert_code(&cache.read(&digest).await, &[Code::NotFound, Code::InvalidArgument], "a read");
        let status = cache.write_status(&cache.write_name(&digest)).await;
        assert!(!status.is_ok_and(|status| status.complete), "{claimed}");
        let head = format!("PUT /cas/{} HTTP/1.1\r\nHost: cask\r\nContent-Length: {claimed}\r\n", digest.hash);
        let said = send_raw(&server, format!("{head}Expect: 100-continue\r\n\r\n").as_bytes()).await;
        assert!(said.starts_with(b"HTTP/1.1 413"), "{claimed}: {}", String::from_utf8_lossy(&said));
    }
    // What says nothing of its size could be of any: over HTTP that is refused too.
    let unsized_put = Request::put(format!("/cas/{}", absent_digest(42).hash))
        .header(header::TRANSFER_ENCODING, "chunked")
        .body(Full::new(bytes::Bytes::from_static(b"x")))
        .expect("a request");
    let answer = send(&server, unsized_put).await.expect("an answer");
    assert_eq!(answer.status, StatusCode::LENGTH_REQUIRED);
    // A result that no client could receive again.
    let metadata = result(&"w".repeat(5 * MIB));
    assert_invalid(&cache.update_action(&action(42), metadata.clone()).await, "a result of 5 MiB");
    let path = format!("/ac/{}", action(42).hash);
    assert_eq!(
        request(&server, Method::PUT, &path, metadata.encode_to_vec()).await.status,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    assert_code(&cache.get_action(&action(42)).await, &[Code::NotFound], "a refused result");
    let grown = server.anonymous_memory_bytes().saturating_sub(before);
    assert!(grown < 48 * MIB as u64, "refusals left {grown} bytes behind");

    // The largest that is promised goes in, and what was refused left it all its room.
    let (digest, data) = blob(4200, largest as usize);
    assert_eq!(cache.upload(&digest, &data).await.expect("the largest blob"), largest);
    assert!(cache.read(&digest).await.expect("Read") == data);
    let small = ActionResult { stdout_raw: blob(43, MIB).1, ..result("w") };
    cache.update_action(&action(43), small).await.expect("a result beside it");
}
