//! Section E: `GetTree`.

use std::collections::HashSet;

use bazel_remote_apis::build::bazel::remote::execution::v2::{
    Digest, Directory, DirectoryNode, FileNode, GetTreeRequest,
};
use prost::Message;
use tonic::Code;

use crate::start;
use crate::support::blob::{absent_digest, bytes, digest_of, digest_of_message, empty_digest};
use crate::support::grpc::{Cache, assert_code, assert_invalid, code};
use crate::support::within;

/// A canonical Directory; each file holds its own name.
pub(crate) fn directory(children: &[(&str, &Digest)], files: &[&str]) -> Directory {
    Directory {
        files: files
            .iter()
            .map(|&name| FileNode {
                name: name.to_owned(),
                digest: Some(digest_of(name.as_bytes())),
                ..FileNode::default()
            })
            .collect(),
        directories: children
            .iter()
            .map(|&(name, digest)| DirectoryNode { name: name.to_owned(), digest: Some(digest.clone()) })
            .collect(),
        ..Directory::default()
    }
}

/// Stores a root with two children, one of which has a child: the root's digest and all four.
async fn three_levels(cache: &Cache) -> (Digest, Vec<Directory>) {
    let leaf = directory(&[], &["leaf.txt"]);
    let left = directory(&[("leaf", &digest_of_message(&leaf))], &["left.txt"]);
    let right = directory(&[], &["right.txt"]);
    let root = directory(&[("left", &digest_of_message(&left)), ("right", &digest_of_message(&right))], &[]);
    let all = vec![root.clone(), left, right, leaf];
    for one in &all {
        cache.store_message(one).await;
    }
    (digest_of_message(&root), all)
}

fn hashes(directories: &[Directory]) -> HashSet<String> {
    directories.iter().map(|one| digest_of_message(one).hash).collect()
}

#[tokio::test]
async fn e01_a_root_alone() {
    let (_server, cache) = start().await;
    let root = directory(&[], &["a", "b"]);
    let digest = cache.store_message(&root).await;
    assert_eq!(cache.tree(&digest, 0).await.expect("GetTree"), [root]);
}

#[tokio::test]
async fn e01_the_empty_directory_needs_no_upload() {
    let (_server, cache) = start().await;
    assert_eq!(cache.tree(&empty_digest(), 0).await.expect("GetTree"), [Directory::default()]);
}

#[tokio::test]
async fn e02_three_levels_root_first() {
    let (_server, cache) = start().await;
    let (root, all) = three_levels(&cache).await;
    let found = cache.tree(&root, 0).await.expect("GetTree");
    assert_eq!(found[0], all[0], "the root comes first");
    assert_eq!(found.len(), all.len());
    assert_eq!(hashes(&found), hashes(&all));
}

#[tokio::test]
async fn e03_a_missing_root_is_not_found() {
    let (_server, cache) = start().await;
    assert_code(&cache.tree(&absent_digest(3), 0).await, &[Code::NotFound], "a root that is not stored");
}

#[tokio::test]
async fn e04_a_missing_child_is_skipped() {
    let (_server, cache) = start().await;
    let here = directory(&[], &["here"]);
    let here_digest = cache.store_message(&here).await;
    let root = directory(&[("gone", &absent_digest(4)), ("here", &here_digest)], &[]);
    let digest = cache.store_message(&root).await;
    let found = cache.tree(&digest, 0).await.expect("GetTree");
    assert_eq!(found, [root, here]);
}

/// A root with `count` children.
async fn wide(cache: &Cache, count: usize) -> (Digest, Vec<Directory>) {
    let mut all = Vec::new();
    let mut children = Vec::new();
    for number in 0..count {
        let child = directory(&[], &[&format!("file{number:04}")]);
        children.push((format!("child{number:04}"), cache.store_message(&child).await));
        all.push(child);
    }
    let children: Vec<_> = children.iter().map(|(name, digest)| (name.as_str(), digest)).collect();
    let root = directory(&children, &[]);
    let digest = cache.store_message(&root).await;
    all.insert(0, root);
    (digest, all)
}

#[tokio::test]
async fn e05_small_pages_reach_everything() {
    let (_server, cache) = start().await;
    let (root, all) = wide(&cache, 20).await;
    for page_size in [1, 2, 7, 21, 1000] {
        let pages = cache.tree_pages(&root, page_size, "").await.expect("GetTree");
        for page in &pages {
            assert!(page.directories.len() <= page_size as usize, "a page of {}", page.directories.len());
        }
        let found = cache.tree(&root, page_size).await.expect("GetTree");
        assert_eq!(found.len(), all.len(), "pages of {page_size}");
        assert_eq!(hashes(&found), hashes(&all), "pages of {page_size}");
    }
}

#[tokio::test]
async fn e06_the_last_received_token_resumes() {
    let (_server, cache) = start().await;
    let (root, all) = wide(&cache, 20).await;
    let whole: Vec<_> = cache.tree(&root, 3).await.expect("GetTree");
    // The listing breaks off after each of its pages in turn.
    for kept in 1..7 {
        let request = GetTreeRequest { root_digest: Some(root.clone()), page_size: 3, ..GetTreeRequest::default() };
        let mut found = Vec::new();
        let mut token = String::new();
        let mut stream = cache.cas().get_tree(request).await.expect("GetTree").into_inner();
        for _ in 0..kept {
            let Some(page) = within("a page", stream.message()).await.expect("a page") else { break };
            found.extend(page.directories);
            token = page.next_page_token;
        }
        drop(stream);
        while !token.is_empty() {
            let pages = cache.tree_pages(&root, 3, &token).await.expect("GetTree from a token");
            let next = pages.last().expect("a page behind a token").next_page_token.clone();
            found.extend(pages.into_iter().flat_map(|page| page.directories));
            token = next;
        }
        assert_eq!(hashes(&found), hashes(&all), "broken off after {kept} pages");
        assert_eq!(found, whole, "the order is stable across the pages of one listing");
    }
}

#[tokio::test]
async fn e07_a_garbage_token_is_invalid() {
    let (_server, cache) = start().await;
    let (root, _) = three_levels(&cache).await;
    for token in ["garbage", "\u{0}", "-1", "99999999999999999999", "AAAA", &"x".repeat(10_000)] {
        assert_invalid(&cache.tree_pages(&root, 1, token).await, &token[..token.len().min(20)]);
    }
}

#[tokio::test]
async fn e08_a_diamond_of_thirty_levels_is_thirty_one_directories() {
    let (_server, cache) = start().await;
    // 2^30 ways from the root to the leaf.
    let mut level = directory(&[], &["leaf"]);
    let mut all = vec![level.clone()];
    for _ in 0..30 {
        let below = cache.store_message(&level).await;
        level = directory(&[("a", &below), ("b", &below)], &[]);
        all.push(level.clone());
    }
    let root = cache.store_message(&level).await;
    let found = within("a diamond", cache.tree(&root, 0)).await.expect("GetTree");
    assert_eq!(found.len(), 31);
    assert_eq!(hashes(&found), hashes(&all));
    let found = within("a diamond in pages", cache.tree(&root, 4)).await.expect("GetTree");
    assert_eq!(found.len(), 31);
}

#[tokio::test]
async fn e08_a_chain_of_ten_thousand_levels_breaks_nothing() {
    let (mut server, cache) = start().await;
    let mut level = directory(&[], &["leaf"]);
    let mut stored = vec![(digest_of_message(&level), level.encode_to_vec())];
    for _ in 0..10_000 {
        let below = digest_of_message(&level);
        level = directory(&[("d", &below)], &[]);
        stored.push((digest_of_message(&level), level.encode_to_vec()));
    }
    let root = digest_of_message(&level);
    for batch in stored.chunks(5_000) {
        cache.batch_update(batch.to_vec()).await.expect("BatchUpdateBlobs");
    }
    match within("a deep chain", cache.tree(&root, 0)).await {
        Ok(found) => assert_eq!(found.len(), 10_001),
        // A bound on depth is fine as long as it says so.
        Err(status) => assert!(
            matches!(status.code(), Code::InvalidArgument | Code::ResourceExhausted | Code::FailedPrecondition),
            "{status}"
        ),
    }
    assert!(server.is_alive());
    cache.capabilities().await.expect("a server that is well");
}

#[tokio::test]
async fn e09_a_large_tree_is_split_over_messages() {
    let (_server, cache) = start().await;
    let mut children = Vec::new();
    for number in 0..80 {
        // Some 100 KiB each, 8 MiB in all.
        let names: Vec<String> =
            (0..900).map(|file| format!("child{number:03}-file{file:05}-{}", "n".repeat(24))).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        children.push((format!("child{number:03}"), cache.store_message(&directory(&[], &names)).await));
    }
    let children: Vec<_> = children.iter().map(|(name, digest)| (name.as_str(), digest)).collect();
    let root = cache.store_message(&directory(&children, &[])).await;
    for page_size in [0, 10_000] {
        // The client takes no message above 4 MiB.
        let found = cache.tree(&root, page_size).await.expect("GetTree");
        assert_eq!(found.len(), 81);
    }
}

/// Fault 39: a hundred thousand directories in a thousand pages, the listing's own memory being two sets of digests.
#[tokio::test]
async fn e09_a_hundred_thousand_directories_cost_little_memory() {
    let (server, cache) = start().await;
    let mut branches = Vec::new();
    for branch in 0..320 {
        let leaves: Vec<Directory> = (0..312).map(|leaf| directory(&[], &[&format!("{branch}-{leaf}")])).collect();
        let names: Vec<String> = (0..312).map(|leaf| format!("{leaf:03}")).collect();
        let digests: Vec<Digest> = leaves.iter().map(digest_of_message).collect();
        let children: Vec<_> = names.iter().map(String::as_str).zip(&digests).collect();
        let mut batch: Vec<_> = digests.iter().cloned().zip(leaves.iter().map(Message::encode_to_vec)).collect();
        let above = directory(&children, &[]);
        branches.push((format!("{branch:03}"), digest_of_message(&above)));
        batch.push((digest_of_message(&above), above.encode_to_vec()));
        cache.batch_update(batch).await.expect("BatchUpdateBlobs");
    }
    let children: Vec<_> = branches.iter().map(|(name, digest)| (name.as_str(), digest)).collect();
    let root = cache.store_message(&directory(&children, &[])).await;

    let before = server.anonymous_memory_bytes();
    let request = GetTreeRequest { root_digest: Some(root), page_size: 100, ..GetTreeRequest::default() };
    let mut stream = cache.cas().get_tree(request).await.expect("GetTree").into_inner();
    let (mut pages, mut directories, mut most) = (0, 0, before);
    while let Some(page) = within("a page", stream.message()).await.expect("a page") {
        (pages, directories) = (pages + 1, directories + page.directories.len());
        if pages % 100 == 0 {
            most = most.max(server.anonymous_memory_bytes());
        }
    }
    assert_eq!((pages, directories), (1002, 1 + 320 + 320 * 312));
    assert!(most - before < 64 << 20, "{} MiB more", (most - before) >> 20);
}

#[tokio::test]
async fn e10_a_root_that_is_no_directory_is_refused() {
    let (_server, cache) = start().await;
    for data in [bytes(10, 1000), b"\x0a\xff".to_vec(), b"\x0b".to_vec()] {
        let digest = cache.store(&data).await;
        let answer = cache.tree(&digest, 0).await;
        assert_invalid(&answer, &format!("{:02x?}", &data[..1]));
    }
}

#[tokio::test]
async fn e11_a_negative_page_size_is_invalid() {
    let (_server, cache) = start().await;
    let (root, _) = three_levels(&cache).await;
    assert_invalid(&cache.tree_pages(&root, -1, "").await, "page_size -1");
}

#[tokio::test]
async fn e12_the_last_page_has_no_token() {
    let (_server, cache) = start().await;
    let (root, all) = three_levels(&cache).await;
    for page_size in [0, 4, 5] {
        let pages = cache.tree_pages(&root, page_size, "").await.expect("GetTree");
        let count: usize = pages.iter().map(|page| page.directories.len()).sum();
        let last = pages.last().expect("at least one page");
        assert!(count < all.len() || last.next_page_token.is_empty(), "pages of {page_size}");
        assert!(count == all.len() || !last.next_page_token.is_empty(), "pages of {page_size}: cut off in silence");
    }
}

#[tokio::test]
async fn e_a_malformed_root_digest_is_invalid() {
    let (_server, cache) = start().await;
    let answer = cache.cas().get_tree(GetTreeRequest::default()).await;
    let outcome = match answer {
        Ok(answer) => within("the end of a tree", answer.into_inner().message()).await.map(|_| ()),
        Err(status) => Err(status),
    };
    assert_eq!(code(&outcome), Code::InvalidArgument, "no root digest at all");
    let bad = Digest { hash: "xyz".to_owned(), size_bytes: 1 };
    assert_invalid(&cache.tree(&bad, 0).await, "a malformed root digest");
}
