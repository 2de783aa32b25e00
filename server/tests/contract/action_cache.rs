//! Section I: the action cache.
//!
//! Left out: I19's strict mode (not a setting yet; what holds without it is tested).

use bazel_remote_apis::build::bazel::remote::execution::v2::{
    ActionResult, Digest, ExecutedActionMetadata, GetActionResultRequest, OutputDirectory, OutputFile, OutputSymlink,
    Tree, UpdateActionResultRequest, digest_function,
};
use prost::Message;
use tonic::Code;

use super::find_missing::eviction_wave;
use super::get_tree::directory;
use crate::support::blob::{absent_digest, blob, bytes, digest_of, digest_of_message, malformed_hashes, with_hash};
use crate::support::grpc::{Cache, assert_code, assert_invalid};
use crate::support::process::Options;
use crate::{start, start_with};

const MIB: usize = 1024 * 1024;

pub(crate) fn output_file(path: &str, digest: &Digest) -> OutputFile {
    OutputFile { path: path.to_owned(), digest: Some(digest.clone()), ..OutputFile::default() }
}

fn output_tree(path: &str, digest: &Digest) -> OutputDirectory {
    OutputDirectory { path: path.to_owned(), tree_digest: Some(digest.clone()), ..OutputDirectory::default() }
}

fn symlink(path: &str, target: &str) -> OutputSymlink {
    OutputSymlink { path: path.to_owned(), target: target.to_owned(), ..OutputSymlink::default() }
}

/// A result that names itself, so that two can be told apart.
pub(crate) fn result(worker: &str) -> ActionResult {
    let metadata = ExecutedActionMetadata { worker: worker.to_owned(), ..ExecutedActionMetadata::default() };
    ActionResult { execution_metadata: Some(metadata), ..ActionResult::default() }
}

pub(crate) fn action(seed: u64) -> Digest {
    blob(0xac00_0000 + seed, 142).0
}

/// A Tree of a root with one file, and a directory with another: the message and the two files' contents.
fn two_level_tree(name: &str) -> (Tree, [Vec<u8>; 2]) {
    let (top, deep) = (format!("{name}-top"), format!("{name}-deep"));
    let child = directory(&[], &[&deep]);
    let root = directory(&[("sub", &digest_of_message(&child))], &[&top]);
    (Tree { root: Some(root), children: vec![child] }, [top.into_bytes(), deep.into_bytes()])
}

#[tokio::test]
async fn i01_a_miss_is_not_found() {
    let (_server, cache) = start().await;
    assert_code(&cache.get_action(&action(1)).await, &[Code::NotFound], "an action never seen");
}

#[tokio::test]
async fn i02_what_was_put_comes_back() {
    let (_server, cache) = start().await;
    let file = cache.store(b"an output").await;
    let (tree, contents) = two_level_tree("i02");
    for content in contents {
        cache.store(&content).await;
    }
    let tree = cache.store_message(&tree).await;
    let stdout = cache.store(b"said").await;
    let stderr = cache.store(b"complained").await;
    let put = ActionResult {
        output_files: vec![
            OutputFile { is_executable: true, ..output_file("bin/tool", &file) },
            output_file("out/file", &file),
        ],
        output_directories: vec![output_tree("out/tree", &tree)],
        exit_code: 3,
        stdout_digest: Some(stdout),
        stderr_digest: Some(stderr),
        ..result("a worker")
    };
    let answer = cache.update_action(&action(2), put.clone()).await.expect("UpdateActionResult");
    assert_eq!(answer, put);
    assert_eq!(cache.get_action(&action(2)).await.expect("GetActionResult"), put);
    // The same under the function's name.
    let request = GetActionResultRequest {
        action_digest: Some(action(2)),
        digest_function: digest_function::Value::Sha256 as i32,
        ..GetActionResultRequest::default()
    };
    assert_eq!(cache.get_action_with(request).await.expect("GetActionResult"), put);
}

#[tokio::test]
async fn i02_a_result_survives_kill_and_restart() {
    let (mut server, cache) = start().await;
    let file = cache.store(b"an output").await;
    let put = ActionResult { output_files: vec![output_file("out", &file)], ..result("a worker") };
    cache.update_action(&action(20), put.clone()).await.expect("UpdateActionResult");
    server.kill_and_restart();
    let cache = Cache::connect(&server).await;
    assert_eq!(cache.get_action(&action(20)).await.expect("GetActionResult"), put);
    server = server.stop().await;
    server.start_again();
    let cache = Cache::connect(&server).await;
    assert_eq!(cache.get_action(&action(20)).await.expect("GetActionResult"), put);
}

#[tokio::test]
async fn i03_the_last_writer_wins() {
    let (mut server, cache) = start().await;
    for round in 0..5 {
        let put = ActionResult { exit_code: round, ..result(&format!("worker {round}")) };
        cache.update_action(&action(3), put.clone()).await.expect("UpdateActionResult");
        assert_eq!(cache.get_action(&action(3)).await.expect("GetActionResult"), put);
    }
    server.kill_and_restart();
    let cache = Cache::connect(&server).await;
    assert_eq!(cache.get_action(&action(3)).await.expect("GetActionResult").exit_code, 4);
}

/// Stores a result that lacks one blob, if the server takes it, and expects a miss until that blob is there.
async fn check_incomplete(cache: &Cache, what: &str, seed: u64, result: ActionResult, absent: &[u8]) {
    let digest = digest_of(absent);
    assert!(!cache.is_present(&digest).await, "{what}: the blob is absent to begin with");
    let updated = cache.update_action(&action(seed), result.clone()).await;
    // Refusing what is incomplete from the start is as good.
    assert_code(&updated, &[Code::Ok, Code::FailedPrecondition, Code::InvalidArgument, Code::NotFound], what);
    assert_code(&cache.get_action(&action(seed)).await, &[Code::NotFound], what);
    cache.store(absent).await;
    cache.update_action(&action(seed), result.clone()).await.expect(what);
    assert_eq!(cache.get_action(&action(seed)).await.expect(what), result, "{what}");
}

#[tokio::test]
async fn i04_an_absent_output_file_is_a_miss() {
    let (_server, cache) = start().await;
    let here = cache.store(b"i04 here").await;
    let gone = digest_of(b"i04 gone");
    let files = vec![output_file("a", &here), output_file("b", &gone)];
    let incomplete = ActionResult { output_files: files, ..result("w") };
    check_incomplete(&cache, "an absent output file", 40, incomplete, b"i04 gone").await;
    let incomplete = ActionResult { stdout_digest: Some(digest_of(b"i04 stdout")), ..result("w") };
    check_incomplete(&cache, "an absent stdout", 41, incomplete, b"i04 stdout").await;
    let incomplete = ActionResult { stderr_digest: Some(digest_of(b"i04 stderr")), ..result("w") };
    check_incomplete(&cache, "an absent stderr", 42, incomplete, b"i04 stderr").await;
}

#[tokio::test]
async fn i05_an_absent_file_inside_a_tree_is_a_miss() {
    let (_server, cache) = start().await;
    for (number, name) in ["i05-one", "i05-two"].into_iter().enumerate() {
        let (tree, [top, deep]) = two_level_tree(name);
        let (present, absent) = if number == 0 { (top, deep) } else { (deep, top) };
        cache.store(&present).await;
        let tree = cache.store_message(&tree).await;
        let incomplete = ActionResult { output_directories: vec![output_tree("out", &tree)], ..result("w") };
        check_incomplete(&cache, "an absent file in a tree", 50 + number as u64, incomplete, &absent).await;
    }
}

#[tokio::test]
async fn i05_directory_blobs_inside_a_tree_are_not_asked_for() {
    let (_server, cache) = start().await;
    // Bazel and Pants upload the Tree and the files, never the Directory messages on their own.
    let (tree, contents) = two_level_tree("i05-bazel");
    for content in contents {
        cache.store(&content).await;
    }
    let tree = cache.store_message(&tree).await;
    let put = ActionResult { output_directories: vec![output_tree("out", &tree)], ..result("w") };
    cache.update_action(&action(55), put.clone()).await.expect("UpdateActionResult");
    assert_eq!(cache.get_action(&action(55)).await.expect("GetActionResult"), put);
}

#[tokio::test]
async fn i06_an_absent_tree_is_a_miss() {
    let (_server, cache) = start().await;
    let (tree, contents) = two_level_tree("i06");
    for content in contents {
        cache.store(&content).await;
    }
    let incomplete =
        ActionResult { output_directories: vec![output_tree("out", &digest_of_message(&tree))], ..result("w") };
    check_incomplete(&cache, "an absent tree", 60, incomplete, &tree.encode_to_vec()).await;
}

#[tokio::test]
async fn i06_a_root_directory_digest_counts_too() {
    let (_server, cache) = start().await;
    let (tree, contents) = two_level_tree("i06-root");
    for content in contents {
        cache.store(&content).await;
    }
    let root = tree.root.clone().expect("a root");
    for child in &tree.children {
        cache.store_message(child).await;
    }
    let only_root = OutputDirectory {
        path: "out".to_owned(),
        root_directory_digest: Some(digest_of_message(&root)),
        ..OutputDirectory::default()
    };
    let incomplete = ActionResult { output_directories: vec![only_root], ..result("w") };
    check_incomplete(&cache, "an absent root directory", 61, incomplete, &root.encode_to_vec()).await;

    // The same with a child Directory that is absent.
    let deep = directory(&[], &["i06-root-top"]);
    let root = directory(&[("deep", &digest_of_message(&deep))], &[]);
    let only_root = OutputDirectory {
        path: "out".to_owned(),
        root_directory_digest: Some(cache.store_message(&root).await),
        ..OutputDirectory::default()
    };
    let incomplete = ActionResult { output_directories: vec![only_root], ..result("w") };
    check_incomplete(&cache, "an absent directory below a root", 62, incomplete, &deep.encode_to_vec()).await;
}

#[tokio::test]
async fn i07_nothing_is_inlined_unasked() {
    let (_server, cache) = start().await;
    let stdout = cache.store(b"said").await;
    let stderr = cache.store(b"complained").await;
    let file = cache.store(b"an output").await;
    let put = ActionResult {
        stdout_digest: Some(stdout.clone()),
        stderr_digest: Some(stderr),
        output_files: vec![output_file("out", &file)],
        ..result("w")
    };
    cache.update_action(&action(7), put.clone()).await.expect("UpdateActionResult");
    let found = cache.get_action(&action(7)).await.expect("GetActionResult");
    assert_eq!(found, put);
    assert_eq!((found.stdout_raw, found.stdout_digest), (Vec::new(), Some(stdout)));
}

#[tokio::test]
async fn i08_small_output_is_inlined_where_asked() {
    let (_server, cache) = start().await;
    let stdout = cache.store(b"said").await;
    let stderr = cache.store(b"complained").await;
    let put = ActionResult { stdout_digest: Some(stdout.clone()), stderr_digest: Some(stderr.clone()), ..result("w") };
    cache.update_action(&action(8), put).await.expect("UpdateActionResult");
    for (inline_stdout, inline_stderr) in [(true, false), (false, true), (true, true)] {
        let request = GetActionResultRequest {
            action_digest: Some(action(8)),
            inline_stdout,
            inline_stderr,
            ..GetActionResultRequest::default()
        };
        let found = cache.get_action_with(request).await.expect("GetActionResult");
        let expected = |asked: bool, data: &'static [u8]| if asked { data } else { b"" };
        assert_eq!(found.stdout_raw, expected(inline_stdout, b"said"));
        assert_eq!(found.stderr_raw, expected(inline_stderr, b"complained"));
        assert_eq!((found.stdout_digest.as_ref(), found.stderr_digest.as_ref()), (Some(&stdout), Some(&stderr)));
    }
}

#[tokio::test]
async fn i09_what_would_not_fit_is_not_inlined() {
    let (_server, cache) = start().await;
    let stdout = cache.store(&bytes(90, 3 * MIB)).await;
    let stderr = cache.store(&bytes(91, 3 * MIB)).await;
    let (huge, huge_data) = blob(92, 6 * MIB);
    cache.upload(&huge, &huge_data).await.expect("Write");
    let put = ActionResult {
        stdout_digest: Some(stdout.clone()),
        stderr_digest: Some(stderr.clone()),
        output_files: vec![output_file("huge", &huge)],
        ..result("w")
    };
    cache.update_action(&action(9), put).await.expect("UpdateActionResult");
    let request = GetActionResultRequest {
        action_digest: Some(action(9)),
        inline_stdout: true,
        inline_stderr: true,
        inline_output_files: vec!["huge".to_owned()],
        ..GetActionResultRequest::default()
    };
    // The client takes no message above 4 MiB.
    let found = cache.get_action_with(request).await.expect("GetActionResult");
    assert!(found.stdout_raw.is_empty() || found.stdout_raw == bytes(90, 3 * MIB), "inlined in full or not at all");
    assert!(found.stderr_raw.is_empty() || found.stderr_raw == bytes(91, 3 * MIB), "inlined in full or not at all");
    assert_eq!(found.output_files[0].contents, b"");
    assert_eq!(found.output_files[0].digest.as_ref(), Some(&huge));
    assert_eq!((found.stdout_digest, found.stderr_digest), (Some(stdout), Some(stderr)));
}

#[tokio::test]
async fn i10_files_are_inlined_by_their_exact_path() {
    let (_server, cache) = start().await;
    let one = cache.store(b"content one").await;
    let two = cache.store(b"content two").await;
    let put = ActionResult {
        output_files: vec![output_file("out/a.d", &one), output_file("out/a.d.jdeps", &two)],
        ..result("w")
    };
    cache.update_action(&action(10), put).await.expect("UpdateActionResult");
    for (asked, expected) in [
        (vec!["out/a.d"], [&b"content one"[..], b""]),
        (vec!["out/a.d.jdeps", "out/none"], [b"", b"content two"]),
        (vec!["out", "a.d", "out/a", "/out/a.d", "OUT/A.D"], [b"", b""]),
    ] {
        let request = GetActionResultRequest {
            action_digest: Some(action(10)),
            inline_output_files: asked.iter().map(|&path| path.to_owned()).collect(),
            ..GetActionResultRequest::default()
        };
        let found = cache.get_action_with(request).await.expect("GetActionResult");
        let contents: Vec<_> = found.output_files.iter().map(|file| file.contents.as_slice()).collect();
        assert_eq!(contents, expected, "{asked:?}");
        assert!(found.output_files.iter().all(|file| file.digest.is_some()), "digests stay");
    }
}

#[tokio::test]
async fn i11_what_a_client_inlined_stays_retrievable() {
    let (_server, cache) = start().await;
    let put = ActionResult {
        stdout_raw: b"said without a digest".to_vec(),
        stderr_raw: bytes(11, 100_000),
        output_files: vec![OutputFile {
            contents: b"i11 contents".to_vec(),
            ..output_file("out", &digest_of(b"i11 contents"))
        }],
        ..result("w")
    };
    cache.update_action(&action(11), put).await.expect("UpdateActionResult");
    let found = cache.get_action(&action(11)).await.expect("GetActionResult");
    for (raw, digest, expected) in [
        (found.stdout_raw, found.stdout_digest, b"said without a digest".to_vec()),
        (found.stderr_raw, found.stderr_digest, bytes(11, 100_000)),
    ] {
        if raw.is_empty() {
            assert_eq!(cache.read(&digest.expect("a digest where nothing is inline")).await.expect("Read"), expected);
        } else {
            assert_eq!(raw, expected);
        }
    }
    let file = &found.output_files[0];
    if file.contents.is_empty() {
        let digest = file.digest.as_ref().expect("a digest where nothing is inline");
        assert_eq!(cache.read(digest).await.expect("Read"), b"i11 contents");
    } else {
        assert_eq!(file.contents, b"i11 contents");
    }
}

#[tokio::test]
async fn i11_inlined_bytes_that_lie_are_never_stored() {
    let (_server, cache) = start().await;
    let claimed = digest_of(b"i11 honest bytes");
    let put =
        ActionResult { stdout_raw: b"i11 other bytes!".to_vec(), stdout_digest: Some(claimed.clone()), ..result("w") };
    let updated = cache.update_action(&action(12), put).await;
    assert_code(&updated, &[Code::Ok, Code::InvalidArgument, Code::FailedPrecondition], "inlined bytes that lie");
    assert_code(&cache.get_action(&action(12)).await, &[Code::NotFound], "the digest's blob is absent");
    assert!(!cache.is_present(&claimed).await);
}

#[tokio::test]
async fn i12_a_default_result_is_not_stored_empty() {
    let (_server, cache) = start().await;
    match cache.update_action(&action(120), ActionResult::default()).await {
        Ok(answer) => {
            assert!(answer.encoded_len() > 0);
            let found = cache.get_action(&action(120)).await.expect("GetActionResult");
            assert!(found.encoded_len() > 0, "an empty message looks like no result");
        }
        Err(status) => assert_eq!(status.code(), Code::InvalidArgument, "{status}"),
    }
}

#[tokio::test]
async fn i13_an_action_digest_is_needed() {
    let (_server, cache) = start().await;
    assert_invalid(&cache.get_action_with(GetActionResultRequest::default()).await, "no digest to get");
    let update = |action_digest, action_result| UpdateActionResultRequest {
        action_digest,
        action_result,
        ..UpdateActionResultRequest::default()
    };
    let mut client = cache.action_cache();
    let outcome = client.update_action_result(update(None, Some(result("w")))).await;
    assert_invalid(&outcome, "no digest to update");
    let outcome = client.update_action_result(update(Some(action(13)), None)).await;
    assert_invalid(&outcome, "no result to store");
    for (what, hash) in malformed_hashes() {
        let bad = with_hash(&action(13), &hash);
        assert_invalid(&cache.get_action(&bad).await, what);
        assert_invalid(&cache.update_action(&bad, result("w")).await, what);
        let with_bad_output = ActionResult { output_files: vec![output_file("out", &bad)], ..result("w") };
        assert_invalid(&cache.update_action(&action(13), with_bad_output).await, what);
    }
}

#[tokio::test]
async fn i14_every_result_has_metadata() {
    let (_server, cache) = start().await;
    let bare = ActionResult { exit_code: 1, ..ActionResult::default() };
    let answer = cache.update_action(&action(14), bare).await.expect("UpdateActionResult");
    assert!(answer.execution_metadata.is_some());
    let found = cache.get_action(&action(14)).await.expect("GetActionResult");
    assert!(found.execution_metadata.is_some(), "Buck2 takes no result without it");
    assert_eq!(found.exit_code, 1);
}

#[tokio::test]
#[expect(deprecated, reason = "clients of API 2.0 read the old lists")]
async fn i15_symlinks_survive_a_round_trip() {
    let (_server, cache) = start().await;
    let put = ActionResult {
        output_symlinks: vec![symlink("new", "target"), symlink("up", "../../elsewhere")],
        output_file_symlinks: vec![symlink("old-file", "file")],
        output_directory_symlinks: vec![symlink("old-directory", "directory")],
        ..result("w")
    };
    cache.update_action(&action(15), put.clone()).await.expect("UpdateActionResult");
    assert_eq!(cache.get_action(&action(15)).await.expect("GetActionResult"), put);
}

#[tokio::test]
async fn i16_instances_do_not_share_results() {
    let (_server, cache) = start().await;
    let (a, b) = (cache.instance("a"), cache.instance("a/b"));
    a.update_action(&action(16), result("in a")).await.expect("UpdateActionResult");
    for other in [&b, &cache] {
        assert_code(&other.get_action(&action(16)).await, &[Code::NotFound], "another instance's result");
    }
    b.update_action(&action(16), result("in b")).await.expect("UpdateActionResult");
    assert_eq!(a.get_action(&action(16)).await.expect("GetActionResult"), result("in a"));
    assert_eq!(b.get_action(&action(16)).await.expect("GetActionResult"), result("in b"));
}

#[tokio::test]
async fn i17_functions_of_equal_length_do_not_alias() {
    let (_server, cache) = start().await;
    cache.update_action(&action(17), result("w")).await.expect("UpdateActionResult");
    for function in [digest_function::Value::Blake3 as i32, digest_function::Value::Sha256tree as i32, 99] {
        let request = GetActionResultRequest {
            action_digest: Some(action(17)),
            digest_function: function,
            ..GetActionResultRequest::default()
        };
        let outcome = cache.get_action_with(request).await;
        assert_code(&outcome, &[Code::NotFound, Code::InvalidArgument], &format!("function {function}"));
    }
}

#[tokio::test]
async fn i18_a_hit_keeps_what_it_refers_to() {
    let (_server, cache) = start_with(Options::without_leases("64MiB")).await;
    let file = cache.store(&bytes(180, 40_000)).await;
    let (tree, contents) = two_level_tree("i18");
    let mut needed = vec![file.clone()];
    for content in contents {
        needed.push(cache.store(&content).await);
    }
    needed.push(cache.store_message(&tree).await);
    let put = ActionResult {
        output_files: vec![output_file("out", &file)],
        output_directories: vec![output_tree("tree", &needed[3])],
        ..result("w")
    };
    cache.update_action(&action(18), put.clone()).await.expect("UpdateActionResult");
    eviction_wave(&cache, 160 * MIB as u64, async || {
        let found = cache.get_action(&action(18)).await.expect("a result that is asked for all the time");
        assert_eq!(found, put);
    })
    .await;
    assert_eq!(cache.find_missing(&needed).await.expect("FindMissingBlobs"), []);
    assert_eq!(cache.read(&file).await.expect("Read"), bytes(180, 40_000));
}

#[tokio::test]
async fn i19_an_absent_action_is_no_obstacle_by_default() {
    let (_server, cache) = start().await;
    assert!(!cache.is_present(&action(19)).await);
    cache.update_action(&action(19), result("w")).await.expect("UpdateActionResult");
    assert_eq!(cache.get_action(&action(19)).await.expect("GetActionResult"), result("w"));
}

#[tokio::test]
async fn i20_output_paths_stay_inside() {
    let (_server, cache) = start().await;
    let file = cache.store(b"an output").await;
    let tree = cache.store_message(&Tree { root: Some(directory(&[], &[])), children: vec![] }).await;
    for path in ["/out", "../out", "out/../../up", "out/..", ".."] {
        for (what, bad) in [
            ("a file", ActionResult { output_files: vec![output_file(path, &file)], ..result("w") }),
            ("a directory", ActionResult { output_directories: vec![output_tree(path, &tree)], ..result("w") }),
            ("a symlink", ActionResult { output_symlinks: vec![symlink(path, "target")], ..result("w") }),
        ] {
            assert_invalid(&cache.update_action(&action(200), bad).await, &format!("{what} at {path:?}"));
        }
    }
    assert_code(&cache.get_action(&action(200)).await, &[Code::NotFound], "nothing of it is stored");
    let good = ActionResult { output_files: vec![output_file("..out/a..b/c.", &file)], ..result("w") };
    cache.update_action(&action(200), good).await.expect("dots that lead nowhere");
}

#[tokio::test]
async fn i_a_tree_that_is_no_tree_makes_no_hit() {
    let (_server, cache) = start().await;
    let garbage = cache.store(&bytes(210, 1000)).await;
    let bad = ActionResult { output_directories: vec![output_tree("out", &garbage)], ..result("w") };
    let updated = cache.update_action(&action(210), bad).await;
    assert_code(&updated, &[Code::Ok, Code::InvalidArgument, Code::FailedPrecondition], "garbage for a tree");
    assert_code(&cache.get_action(&action(210)).await, &[Code::NotFound], "garbage for a tree");
}

#[tokio::test]
async fn i_a_result_of_a_thousand_outputs_is_a_hit() {
    let (_server, cache) = start().await;
    let mut blobs = Vec::new();
    let mut files = Vec::new();
    for seed in 0..1000 {
        let (digest, data) = blob(0x1000_0000 + seed, 64);
        files.push(output_file(&format!("out/{seed:04}"), &digest));
        blobs.push((digest, data));
    }
    let last = blobs.pop().expect("a thousand blobs");
    cache.batch_update(blobs).await.expect("BatchUpdateBlobs");
    let put = ActionResult { output_files: files, ..result("w") };
    check_incomplete(&cache, "one of a thousand is absent", 220, put, &last.1).await;
    assert_code(&cache.get_action(&absent_digest(220)).await, &[Code::NotFound], "another action");
}
