//! Known faults of names and keys, by their numbers: 21 (digest functions), 23 and 24 (paths and symlinks), 49 (resource
//! names), 50 (actions and blobs).
//!
//! Of 23 and 24 the half that a cache has: what a result says of its outputs. Names inside input trees, working directories,
//! and what happens when outputs are collected wait for the workers.

use bazel_remote_apis::build::bazel::remote::execution::v2::{
    ActionResult, Digest, OutputDirectory, OutputSymlink, Tree,
};
use cask_index::DigestFunction;
use http::{Method, StatusCode};
use prost::Message;
use tonic::Code;

use super::action_cache::{action, output_file, result};
use crate::start;
use crate::support::blob::{bytes, digest_of, digest_under, uuid};
use crate::support::grpc::{Cache, assert_code, assert_invalid, write_messages};
use crate::support::http::request;
use crate::support::process::Server;

/// Where a blob or a result of this function is over HTTP.
fn http_path(kind: &str, function: DigestFunction, hash: &str) -> String {
    match function {
        DigestFunction::Blake3 | DigestFunction::GitSha1 | DigestFunction::Sha256Tree => {
            format!("/{kind}/{}/{hash}", function.name())
        }
        _ => format!("/{kind}/{hash}"),
    }
}

/// Nothing is found under `other` of what was stored under a function of equal length, by any door.
async fn assert_unknown(server: &Server, cache: &Cache, other: DigestFunction, digest: &Digest, what: &str) {
    let under = cache.under(other);
    assert!(!under.is_present(digest).await, "{what}");
    assert_code(&under.read(digest).await, &[Code::NotFound], what);
    assert_code(&under.tree(digest, 0).await, &[Code::NotFound], what);
    assert_code(&under.get_action(digest).await, &[Code::NotFound], what);
    let items = under.batch_read(std::slice::from_ref(digest)).await.expect(what);
    assert_eq!(Code::from_i32(items[0].status.as_ref().expect("a status").code), Code::NotFound, "{what}");
    let status = under.write_status(&under.write_name(digest)).await.expect(what);
    assert!(!status.complete, "{what}");
    for kind in ["cas", "ac"] {
        let answer = request(server, Method::GET, &http_path(kind, other, &digest.hash), "").await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{what}: over HTTP");
    }
}

/// The same bytes of a hash under two functions: not in the index, not in results, not on the disk.
#[tokio::test]
async fn fault_21_functions_of_equal_length_never_alias() {
    use DigestFunction::{Blake3, GitSha1, Sha1, Sha256, Sha256Tree};
    let (mut server, cache) = start().await;
    let mut stored = Vec::new();
    for family in [&[Sha256, Blake3, Sha256Tree][..], &[Sha1, GitSha1]] {
        for &function in family {
            // Of one record and of several. SHA256TREE of up to 1024 bytes is SHA-256: there the hashes are the same too.
            for size in [600, 5000, 3 << 20] {
                let data = bytes(2100 + u64::from(function.wire_number()) * 7 + size as u64, size);
                let digest = digest_under(function, &data);
                let under = cache.under(function);
                under.upload(&digest, &data).await.expect("Write");
                let put = ActionResult { output_files: vec![output_file("out", &digest)], ..result(function.name()) };
                under.update_action(&digest, put).await.expect("UpdateActionResult");
                for &other in family.iter().filter(|other| **other != function) {
                    let what = format!("{size} bytes of {} asked for under {}", function.name(), other.name());
                    assert_unknown(&server, &cache, other, &digest, &what).await;
                    stored.push((function, other, digest.clone(), data.clone(), what));
                }
            }
        }
    }
    server.kill_and_restart();
    let cache = Cache::connect(&server).await;
    for (function, other, digest, data, what) in &stored {
        let what = format!("{what}, after a restart");
        assert_unknown(&server, &cache, *other, digest, &what).await;
        let under = cache.under(*function);
        assert!(under.read(digest).await.expect(&what) == *data, "{what}");
        let found = under.get_action(digest).await.expect(&what);
        assert_eq!(found.execution_metadata.expect("metadata").worker, function.name(), "{what}");
        // Nor can the bytes be stored under the other function, but where it gives the same hash.
        let outcome = cache.under(*other).upload(digest, data).await;
        if digest_under(*other, data) == *digest {
            outcome.expect(&what);
        } else {
            assert_invalid(&outcome, &what);
        }
    }
}

fn symlinks(path: &str, target: &str) -> Vec<OutputSymlink> {
    vec![OutputSymlink { path: path.to_owned(), target: target.to_owned(), ..OutputSymlink::default() }]
}

/// A client joins output paths to its own folder. In every list of a result, over both protocols.
#[tokio::test]
#[expect(deprecated, reason = "clients of API 2.0 read the old lists")]
async fn fault_23_no_result_names_an_output_outside_its_folder() {
    let (server, cache) = start().await;
    let file = cache.store(b"an output").await;
    let tree = cache.store_message(&Tree::default()).await;
    let in_each_list = |path: &str| {
        let directory = |tree_digest: Option<Digest>, root_directory_digest: Option<Digest>| OutputDirectory {
            path: path.to_owned(),
            tree_digest,
            root_directory_digest,
            ..OutputDirectory::default()
        };
        let (of_tree, of_root) = (directory(Some(tree.clone()), None), directory(None, Some(tree.clone())));
        [
            ("a file", ActionResult { output_files: vec![output_file(path, &file)], ..result("w") }),
            ("a Tree", ActionResult { output_directories: vec![of_tree], ..result("w") }),
            ("a root directory", ActionResult { output_directories: vec![of_root], ..result("w") }),
            ("a symlink", ActionResult { output_symlinks: symlinks(path, "t"), ..result("w") }),
            ("an old symlink to a file", ActionResult { output_file_symlinks: symlinks(path, "t"), ..result("w") }),
            ("an old symlink", ActionResult { output_directory_symlinks: symlinks(path, "t"), ..result("w") }),
        ]
    };
    let wanted = action(2300);
    let http = format!("/ac/{}", wanted.hash);
    for path in ["/", "/etc/passwd", "//x", "..", "../x", "a/..", "a/../../x", "a/b/../../../x", "\0", "a\0b", "a/\0"] {
        for (what, bad) in in_each_list(path) {
            let good_beside = ActionResult { stdout_raw: b"said".to_vec(), ..bad };
            assert_invalid(&cache.update_action(&wanted, good_beside.clone()).await, &format!("{what} at {path:?}"));
            let answer = request(&server, Method::PUT, &http, good_beside.encode_to_vec()).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{what} at {path:?}");
        }
    }
    for (what, bad) in in_each_list("") {
        // An output directory may be the whole working directory; nothing else is named by nothing.
        let is_directory = !bad.output_directories.is_empty();
        let updated = cache.update_action(&action(2301), bad).await;
        assert_code(
            &updated,
            &[if is_directory { Code::Ok } else { Code::InvalidArgument }],
            &format!("{what} at \"\""),
        );
    }
    assert_code(&cache.get_action(&wanted).await, &[Code::NotFound], "nothing of it is stored");
    for (number, path) in
        ["a", "...", "..a/b..", "a b/c", "é/ü", "-", "~", "a\\..\\b", "%2e%2e/x"].into_iter().enumerate()
    {
        for (what, good) in in_each_list(path) {
            let wanted = action(2310 + number as u64);
            cache.update_action(&wanted, good).await.unwrap_or_else(|status| panic!("{what} at {path:?}: {status}"));
            cache.get_action(&wanted).await.unwrap_or_else(|status| panic!("{what} at {path:?}: {status}"));
        }
    }
}

/// A symlink is text to a cache: it comes back as it was put, wherever it leads, and nobody here goes there.
#[tokio::test]
#[expect(deprecated, reason = "clients of API 2.0 read the old lists")]
async fn fault_24_a_symlink_is_kept_as_it_is_and_never_followed() {
    let (server, cache) = start().await;
    let store = server.store().display().to_string();
    let targets =
        ["/etc/passwd", "../../../../etc/shadow", "/proc/self/root", "loop", ".", "..", "/", &store, "a/b", "\u{1}"];
    for (number, target) in targets.into_iter().enumerate() {
        let put = ActionResult {
            output_symlinks: symlinks("loop", target),
            output_file_symlinks: symlinks("old/file", target),
            output_directory_symlinks: symlinks("old/directory", target),
            ..result("w")
        };
        let wanted = action(2400 + number as u64);
        cache.update_action(&wanted, put.clone()).await.expect(target);
        assert_eq!(cache.get_action(&wanted).await.expect(target), put);
        let answer = request(&server, Method::GET, &format!("/ac/{}", wanted.hash), "").await;
        assert_eq!(ActionResult::decode(answer.body).expect(target), put);
    }
}

/// Which names are names. Rows are templates: `H` is the hash of a stored blob, `S` its size, `U` an upload's id.
#[tokio::test]
async fn fault_49_resource_names_are_parsed_to_the_letter() {
    let (_server, cache) = start().await;
    let data = bytes(49, 1234);
    let digest = cache.store(&data).await;
    let blake3 = cache.under(DigestFunction::Blake3).store(&data).await;
    let fill = |template: &str| {
        let segments = template.split('/').map(|segment| match segment {
            "H" => digest.hash.clone(),
            "B" => blake3.hash.clone(),
            "S" => digest.size_bytes.to_string(),
            "U" => uuid(),
            other => other.to_owned(),
        });
        segments.collect::<Vec<_>>().join("/")
    };
    let reads = [
        (Code::Ok, &["blobs/H/S", "main/blobs/H/S", "a/b/c/blobs/H/S", "Blobs/blobs/H/S", "upload/blobs/H/S"][..]),
        (
            Code::Ok,
            &["blob/blobs/H/S", "BLOBS/uploads2/blobs/H/S", "é ü/blobs/H/S", "a.b/-/blobs/H/S", "blobs/blake3/B/S"],
        ),
        // Each of these words ends the instance's name.
        (
            Code::InvalidArgument,
            &["blobs/blobs/H/S", "uploads/blobs/H/S", "actions/blobs/H/S", "actionResults/blobs/H/S"],
        ),
        (Code::InvalidArgument, &["operations/blobs/H/S", "capabilities/blobs/H/S", "a/compressed-blobs/blobs/H/S"]),
        (
            Code::InvalidArgument,
            &["", "/", "blobs", "blobs/", "blobs/H", "blobs/H/", "blobs//S", "H/S", "/H/S", "a/H/S"],
        ),
        (
            Code::InvalidArgument,
            &["/blobs/H/S", "//blobs/H/S", "a//blobs/H/S", "/a/blobs/H/S", "a/./blobs/H/S", "../blobs/H/S"],
        ),
        (Code::InvalidArgument, &["blobs/H/S/", "blobs/H/S/file.txt", "blobs//H/S", "blobs/H//S", "blobs/H/S/H/S"]),
        (
            Code::InvalidArgument,
            &["BLOBS/H/S", "blobs/BLAKE3/B/S", "blobs/Blake3/B/S", "blobs/blake4/B/S", "blobs/blake3/blake3/B/S"],
        ),
        (Code::InvalidArgument, &["compressed-blobs/H/S", "compressed-blobs//H/S", "compressed-blobs/ZSTD/H/S"]),
        (
            Code::InvalidArgument,
            &["compressed-blobs/identity/H/S", "compressed-blobs/zstd/zstd/H/S", "compressed-blobs/zstd/H"],
        ),
        (Code::InvalidArgument, &["compressed-blobs/zstd/blake3/B", "blobs/zstd/H/S", "uploads/U/blobs/H/S"]),
        (Code::NotFound, &["blobs/B/S", "blobs/blake3/H/S", "blobs/sha256tree/H/S", "blobs/H/1"]),
    ];
    for (expected, templates) in reads {
        for template in templates {
            let found = cache.read_range(&fill(template), 0, 0).await;
            assert_code(&found, &[expected], template);
            assert!(found.is_err() || found.is_ok_and(|found| found == data), "{template}");
        }
    }

    // A write may say more behind the size, and then says nothing by it.
    let writes = [
        (
            Code::Ok,
            &[
                "uploads/U/blobs/H/S",
                "uploads/U/blobs/H/S/",
                "uploads/U/blobs/H/S/file.txt",
                "uploads/U/blobs/H/S/a/b/c",
            ][..],
        ),
        (
            Code::Ok,
            &["uploads/U/blobs/H/S/blobs/H/1", "uploads/U/blobs/H/S/uploads/U/blobs/H/S", "uploads/U/blobs/H/S//"],
        ),
        (
            Code::Ok,
            &[
                "a/b/uploads/U/blobs/H/S",
                "uploads/U/blobs/blake3/B/S",
                "a/uploads/U/blobs/blake3/B/S/../x",
                "uploads/1/blobs/H/S",
            ],
        ),
        (
            Code::InvalidArgument,
            &["blobs/H/S", "uploads/blobs/H/S", "uploads//blobs/H/S", "uploads/U/H/S", "uploads/U/U/blobs/H/S"],
        ),
        (
            Code::InvalidArgument,
            &["/uploads/U/blobs/H/S", "a//uploads/U/blobs/H/S", "blobs/uploads/U/blobs/H/S", "Uploads/U/blobs/H/S"],
        ),
        (
            Code::InvalidArgument,
            &["uploads/U/uploads/U/blobs/H/S", "operations/uploads/U/blobs/H/S", "uploads/U/Blobs/H/S"],
        ),
        (
            Code::InvalidArgument,
            &["uploads/U/blobs/H", "uploads/U/blobs/H/", "uploads/U/blobs/H/file.txt/S", "uploads/U/blobs/BLAKE3/B/S"],
        ),
        (
            Code::InvalidArgument,
            &[
                "uploads/U/compressed-blobs/H/S",
                "uploads/U/compressed-blobs/Zstd/H/S",
                "uploads/U/compressed-blobs/zstd/B",
            ],
        ),
        (Code::InvalidArgument, &["uploads/U/blobs/B/S", "uploads/U/blobs/blake3/H/S", "uploads/U/blobs/H/1"]),
    ];
    for (expected, templates) in writes {
        for template in templates {
            let name = fill(template);
            // The bytes do not fit a name of another digest; where nothing but the digest is wrong, a status may be asked for.
            let outcome = cache.write(write_messages(&name, &data, 1000)).await;
            assert_code(&outcome, &[expected], template);
            assert!(outcome.is_err() || outcome.is_ok_and(|committed| committed == 1234), "{template}");
            let status = cache.write_status(&name).await;
            match expected {
                Code::Ok => assert!(status.is_ok_and(|status| status.complete), "{template}"),
                _ => assert!(!status.is_ok_and(|status| status.complete), "{template}"),
            }
        }
    }
}

/// A blob and a result under one and the same hash, put in either order by either protocol.
#[tokio::test]
async fn fault_50_an_action_and_a_blob_of_one_hash_never_mix() {
    let (mut server, cache) = start().await;
    // The blob is itself a valid result, so that no parser keeps the two apart.
    let cases: Vec<_> = (0..8_u64)
        .map(|number| {
            let blob = ActionResult { exit_code: 1, ..result(&format!("the blob {number}")) }.encode_to_vec();
            (number, digest_of(&blob), blob, ActionResult { exit_code: 2, ..result(&format!("the result {number}")) })
        })
        .collect();
    for (number, digest, blob, put) in &cases {
        let (cas, ac) = (format!("/cas/{}", digest.hash), format!("/ac/{}", digest.hash));
        let (action_first, blob_over_http, action_over_http) = (number & 1 != 0, number & 2 != 0, number & 4 != 0);
        for is_action in [action_first, !action_first] {
            if is_action {
                assert_code(&cache.get_action(digest).await, &[Code::NotFound], "a blob is no result");
                assert_eq!(request(&server, Method::GET, &ac, "").await.status, StatusCode::NOT_FOUND);
                if action_over_http {
                    assert!(request(&server, Method::PUT, &ac, put.encode_to_vec()).await.status.is_success());
                } else {
                    cache.update_action(digest, put.clone()).await.expect("UpdateActionResult");
                }
            } else {
                assert!(!cache.is_present(digest).await, "a result is no blob");
                assert_code(&cache.read(digest).await, &[Code::NotFound], "a result is no blob");
                assert_eq!(request(&server, Method::GET, &cas, "").await.status, StatusCode::NOT_FOUND);
                if blob_over_http {
                    assert!(request(&server, Method::PUT, &cas, blob.clone()).await.status.is_success());
                } else {
                    cache.upload(digest, blob).await.expect("Write");
                }
            }
        }
        // What is no result is refused where results go and taken where blobs go.
        let garbage = b"\xff\xff\xff\xff".to_vec();
        assert_eq!(request(&server, Method::PUT, &ac, garbage.clone()).await.status, StatusCode::BAD_REQUEST);
        let path = format!("/cas/{}", digest_of(&garbage).hash);
        assert!(request(&server, Method::PUT, &path, garbage).await.status.is_success());
    }
    for round in 0..2 {
        let cache = Cache::connect(&server).await;
        for (number, digest, blob, put) in &cases {
            let what = format!("case {number}, round {round}");
            assert_eq!(cache.read(digest).await.expect(&what), *blob, "{what}");
            assert_eq!(cache.get_action(digest).await.expect(&what), *put, "{what}");
            let answer = request(&server, Method::GET, &format!("/cas/{}", digest.hash), "").await;
            assert_eq!(answer.body, *blob, "{what}");
            let answer = request(&server, Method::GET, &format!("/ac/{}", digest.hash), "").await;
            assert_eq!(ActionResult::decode(answer.body).expect(&what), *put, "{what}");
        }
        server.kill_and_restart();
    }
}
