//! Faults other cache servers are known for, each as a test; the numbers are those of our list of them.
//!
//! More of them, by what they are of: `batch_faults`, `compression_faults`, `name_faults`, `size_faults`,
//! `stream_faults`. docs/faults.md has all.

use std::fs;

use bazel_remote_apis::build::bazel::remote::execution::v2::{
    ActionResult, Digest, Directory, DirectoryNode, FileNode, OutputDirectory, OutputSymlink, Tree,
};
use http::Method;
use prost::Message;
use tonic::Code;

use super::action_cache::{action, output_file, result};
use crate::support::blob::{
    EMPTY_HASH, absent_digest, blob, bytes, digest_of, digest_of_message, malformed_hashes, uuid, with_hash, with_size,
};
use crate::support::damage::{self, RECORD_HEADER_BYTES};
use crate::support::grpc::{
    Cache, assert_code, assert_invalid, assert_right_or_gone, piece, write_messages, write_messages_from,
};
use crate::support::http::request;
use crate::support::metrics::Metrics;
use crate::support::process::{Options, Server};
use crate::{start, start_with};

const MIB: usize = 1024 * 1024;

/// One result of each kind of reference, of which only that kind's blob is to be lost.
struct Kind {
    what: &'static str,
    action: Digest,
    result: ActionResult,
    victim: Vec<u8>,
}

/// A result that refers to blobs in every way there is; all of them are stored.
async fn rich_result(cache: &Cache, seed: u64) -> (ActionResult, [(&'static str, Vec<u8>); 10]) {
    let content = |number: u64| bytes(seed * 100 + number, 3000);
    let node = |name: &str, data: &[u8]| FileNode {
        name: name.to_owned(),
        digest: Some(digest_of(data)),
        ..FileNode::default()
    };
    let directory = |file: FileNode, child: Option<&Directory>| Directory {
        files: vec![file],
        directories: child
            .map(|child| DirectoryNode { name: "child".to_owned(), digest: Some(digest_of_message(child)) })
            .into_iter()
            .collect(),
        ..Directory::default()
    };
    let tree_child = directory(node("deep", &content(2)), None);
    let tree_root = directory(node("top", &content(1)), Some(&tree_child));
    // Their own names, so that no two kinds share a message.
    let tree = Tree { root: Some(tree_root), children: vec![tree_child] };
    let leaf = directory(node("leaf", &content(4)), None);
    let root = directory(node("trunk", &content(3)), Some(&leaf));
    let blobs = [
        ("an output file", content(0)),
        ("a file in a Tree's root", content(1)),
        ("a file in a Tree's child", content(2)),
        ("a Tree", tree.encode_to_vec()),
        ("a file below a root_directory_digest", content(3)),
        ("a file deep below a root_directory_digest", content(4)),
        ("the Directory of a root_directory_digest", root.encode_to_vec()),
        ("a Directory below a root_directory_digest", leaf.encode_to_vec()),
        ("stdout", content(5)),
        ("stderr", content(6)),
    ];
    for (_, data) in &blobs {
        cache.store(data).await;
    }
    let result = ActionResult {
        output_files: vec![output_file("file", &digest_of(&blobs[0].1))],
        output_directories: vec![
            OutputDirectory {
                path: "tree".to_owned(),
                tree_digest: Some(digest_of(&blobs[3].1)),
                ..OutputDirectory::default()
            },
            OutputDirectory {
                path: "directories".to_owned(),
                root_directory_digest: Some(digest_of(&blobs[6].1)),
                ..OutputDirectory::default()
            },
        ],
        // Symlinks refer to no blob: where they lead is of no interest.
        output_symlinks: vec![OutputSymlink {
            path: "link".to_owned(),
            target: "nowhere/at/all".to_owned(),
            ..OutputSymlink::default()
        }],
        stdout_digest: Some(digest_of(&blobs[8].1)),
        stderr_digest: Some(digest_of(&blobs[9].1)),
        ..result("w")
    };
    (result, blobs)
}

/// Faults 1 and 2: a result is a miss as soon as one blob is lost, whichever way it refers to it.
#[tokio::test]
async fn fault_01_a_lost_blob_of_any_kind_makes_a_miss() {
    let (mut server, cache) = start().await;
    let mut kinds = Vec::new();
    for position in 0..10 {
        let (result, blobs) = rich_result(&cache, 0x0100 + position as u64).await;
        let (what, victim) = blobs[position].clone();
        let action = action(0x0100 + position as u64);
        cache.update_action(&action, result.clone()).await.expect(what);
        kinds.push(Kind { what, action, result, victim });
    }
    let (untouched, _) = rich_result(&cache, 0x0200).await;
    cache.update_action(&action(0x0200), untouched.clone()).await.expect("UpdateActionResult");

    server = server.stop().await;
    for kind in &kinds {
        assert!(damage::flip_a_bit(&server, &kind.victim, kind.victim.len() / 2) > 0, "{}", kind.what);
    }
    server.start_again();
    let cache = Cache::connect(&server).await;
    assert_eq!(cache.get_action(&action(0x0200)).await.expect("an undamaged result"), untouched);
    for kind in &kinds {
        // The damage is found by whoever reads it.
        assert_code(&cache.read(&digest_of(&kind.victim)).await, &[Code::NotFound], kind.what);
        assert_code(&cache.get_action(&kind.action).await, &[Code::NotFound], kind.what);
    }
    for kind in &kinds {
        cache.store(&kind.victim).await;
        assert_eq!(cache.get_action(&kind.action).await.expect(kind.what), kind.result, "{}", kind.what);
    }
}

/// A Tree that is not read again cannot be found damaged.
#[tokio::test]
async fn fault_02_a_hundred_hits_read_no_tree() {
    // The scrubber reads everything once, and on a busy machine it begins late enough to find what is damaged here.
    let options = Options { flags: vec!["--scrub-period", "0s"], ..Options::default() };
    let (server, cache) = start_with(options).await;
    let (result, blobs) = rich_result(&cache, 0x0300).await;
    cache.update_action(&action(0x0300), result.clone()).await.expect("UpdateActionResult");
    let opened = [&blobs[3].1, &blobs[6].1, &blobs[7].1];
    for message in opened {
        assert!(damage::flip_a_bit(&server, message, message.len() / 2) > 0);
    }
    for _ in 0..100 {
        assert_eq!(cache.get_action(&action(0x0300)).await.expect("GetActionResult"), result);
    }
    assert!(Metrics::of(&server).await.get("cask_corrupt_records_total") < 1.0);
    // Had one been read, it would have been a miss:
    assert_code(&cache.read(&digest_of(opened[0])).await, &[Code::NotFound], "the damaged Tree");
    assert_code(&cache.get_action(&action(0x0300)).await, &[Code::NotFound], "its result");
}

#[tokio::test]
async fn fault_03_what_a_hit_promised_can_be_downloaded_while_the_store_is_overrun() {
    let (_server, cache) = start_with(Options::with_max_size("64MiB")).await;
    let (result, blobs) = rich_result(&cache, 0x0400).await;
    cache.update_action(&action(0x0400), result.clone()).await.expect("UpdateActionResult");
    assert_eq!(cache.get_action(&action(0x0400)).await.expect("GetActionResult"), result);
    let mut refused = 0;
    // Twice the store. The floor is ten minutes, so uploads give way and not what was promised.
    for seed in 0..128 {
        let (digest, data) = blob(0x0401_0000 + seed, MIB);
        if let Err(status) = cache.upload(&digest, &data).await {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
            refused += 1;
        }
        let (what, data) = &blobs[seed as usize % blobs.len()];
        assert!(cache.read(&digest_of(data)).await.expect(what) == *data, "{what}");
    }
    assert!(refused > 0, "128 MiB went into 64");
    assert_eq!(cache.get_action(&action(0x0400)).await.expect("GetActionResult"), result);
}

#[tokio::test]
async fn fault_04_no_result_outlives_what_it_inlined() {
    let (mut server, cache) = start().await;
    for round in 0..5 {
        let cache = if round == 0 { cache.clone() } else { Cache::connect(&server).await };
        let stdout = bytes(400 + round, 50_000);
        let put = ActionResult { stdout_raw: stdout.clone(), ..result("w") };
        cache.update_action(&action(round), put).await.expect("UpdateActionResult");
        server.kill_and_restart();
        let cache = Cache::connect(&server).await;
        // Acknowledged, so it survives a kill; and a hit keeps what it says.
        let found = cache.get_action(&action(round)).await.expect("GetActionResult");
        let kept = match found.stdout_digest {
            Some(digest) if found.stdout_raw.is_empty() => cache.read(&digest).await.expect("Read"),
            _ => found.stdout_raw,
        };
        assert!(kept == stdout, "round {round}");
    }
}

#[tokio::test]
async fn fault_04_a_result_whose_output_was_lost_on_disk_becomes_a_miss() {
    let (mut server, cache) = start().await;
    let data = bytes(450, 50_000);
    let file = cache.store(&data).await;
    let put = ActionResult { output_files: vec![output_file("out", &file)], ..result("w") };
    cache.update_action(&action(45), put).await.expect("UpdateActionResult");
    server.kill();
    assert!(damage::flip_a_bit(&server, &data, 25_000) > 0, "the blob's bytes are in a segment");
    server.start_again();
    let cache = Cache::connect(&server).await;
    assert_right_or_gone(&cache.read(&file).await, &data, "a damaged output");
    assert_code(&cache.get_action(&action(45)).await, &[Code::NotFound], "its result after a read found the damage");
}

/// The end of the log after a power cut: from some byte of the last record on there is nothing.
#[tokio::test]
async fn fault_05_a_torn_tail_is_never_served() {
    let size = 70_000;
    for kept in [0, 1, 8, 40, 63, 64, 65, 4096, RECORD_HEADER_BYTES + size - 1] {
        let mut server = Server::start(Options::default());
        let cache = Cache::connect(&server).await;
        let (first, first_data) = blob(500, 100_000);
        cache.upload(&first, &first_data).await.expect("Write");
        let (last, last_data) = blob(501, size as usize);
        cache.upload(&last, &last_data).await.expect("Write");
        server.kill();
        let places = damage::places_of(&server, &last_data);
        assert!(!places.is_empty(), "the blob's bytes are in a segment");
        for place in places {
            let torn = place.offset - RECORD_HEADER_BYTES + kept;
            damage::overwrite(&place.path, torn, &vec![0; (place.offset + size - torn) as usize]);
        }
        server.start_again();

        let cache = Cache::connect(&server).await;
        let what = format!("{kept} bytes of the last record kept");
        assert!(cache.read(&first).await.expect(&what) == first_data, "{what}: the record before it");
        assert_right_or_gone(&cache.read(&last).await, &last_data, &what);
        assert!(!cache.is_present(&last).await, "{what}");
        cache.upload(&last, &last_data).await.expect(&what);
        assert!(cache.read(&last).await.expect(&what) == last_data, "{what}");
    }
}

#[tokio::test]
async fn fault_05_a_file_cut_short_is_never_served_wrong() {
    for kept in [0, 32, 64, 5000] {
        let mut server = Server::start(Options::default());
        let cache = Cache::connect(&server).await;
        let (first, first_data) = blob(510, 100_000);
        cache.upload(&first, &first_data).await.expect("Write");
        let (last, last_data) = blob(511, 70_000);
        cache.upload(&last, &last_data).await.expect("Write");
        server.kill();
        let places = damage::places_of(&server, &last_data);
        assert!(!places.is_empty(), "the blob's bytes are in a segment");
        for place in places {
            damage::truncate(&place.path, place.offset - RECORD_HEADER_BYTES + kept);
        }
        server.start_again();
        let cache = Cache::connect(&server).await;
        assert_right_or_gone(&cache.read(&first).await, &first_data, "before the cut");
        assert_right_or_gone(&cache.read(&last).await, &last_data, "behind the cut");
        cache.upload(&last, &last_data).await.expect("Write");
        assert!(cache.read(&last).await.expect("Read") == last_data);
    }
}

/// A segment of a running server is written over, then deleted, then cut to nothing.
#[tokio::test]
async fn fault_07_harm_to_a_segment_of_a_running_server_is_a_miss_after_the_first_read() {
    let (mut server, cache) = start().await;
    let mut stored = Vec::new();
    for seed in 0..40 {
        let (digest, data) = blob(0x0700 + seed, 400_000);
        cache.upload(&digest, &data).await.expect("Write");
        stored.push((digest, data));
    }
    let holds = |server: &Server, path: &std::path::Path, data: &[u8]| {
        damage::places_of(server, &data[..4096]).iter().any(|place| place.path == path)
    };
    for harm in ["written over", "cut to nothing"] {
        let path = damage::places_of(&server, &stored[20].1[..4096])[0].path.clone();
        let length = fs::metadata(&path).expect("a segment").len();
        let harmed: Vec<_> = stored.iter().filter(|(_, data)| holds(&server, &path, data)).cloned().collect();
        assert!(!harmed.is_empty() && harmed.len() < stored.len());
        match harm {
            "written over" => damage::overwrite(&path, 0, &bytes(7, length as usize)),
            _ => damage::truncate(&path, 0),
        }
        for (digest, data) in &stored {
            let is_harmed = harmed.iter().any(|(other, _)| other == digest);
            let read = cache.read(digest).await;
            assert_right_or_gone(&read, data, harm);
            assert_eq!(read.is_err(), is_harmed, "{harm}");
            assert_eq!(cache.is_present(digest).await, !is_harmed, "{harm}: after the first read");
        }
        assert!(server.is_alive(), "{harm}");
        damage::truncate(&path, length);
        for (digest, data) in &harmed {
            cache.upload(digest, data).await.expect(harm);
            assert!(cache.read(digest).await.expect(harm) == *data, "{harm}");
        }
    }

    // Deleted: the running server has it open, so nothing is lost before it ends.
    let path = damage::places_of(&server, &stored[20].1[..4096])[0].path.clone();
    fs::remove_file(&path).expect("a segment");
    for (digest, data) in &stored {
        assert!(cache.read(digest).await.expect("Read") == *data);
    }
    server.kill_and_restart();
    let cache = Cache::connect(&server).await;
    let mut gone = 0;
    for (digest, data) in &stored {
        let read = cache.read(digest).await;
        assert_right_or_gone(&read, data, "deleted");
        assert_eq!(cache.is_present(digest).await, read.is_ok());
        gone += u32::from(read.is_err());
    }
    assert!(gone > 0 && gone < 40, "{gone} blobs went with one segment");
}

/// A client whose connection died unseen tries again on another, while the server still waits on the first.
#[tokio::test]
async fn fault_11_a_retry_beside_a_dead_connection_succeeds() {
    let (server, cache) = start().await;
    for sent in [1000, MIB + 1000] {
        let (digest, data) = blob(1100 + sent as u64, 2 * MIB);
        let name = cache.write_name(&digest);
        let mut dead = cache.open_write();
        dead.send(piece(&name, 0, &data[..sent], false)).await;
        cache.write_status(&name).await.expect("QueryWriteStatus");

        let again = Cache::connect(&server).await;
        let mut last = None;
        for _ in 0..1000 {
            let status = again.write_status(&name).await.expect("QueryWriteStatus");
            let from = usize::try_from(status.committed_size).expect("a committed size is not negative");
            assert!(from <= sent);
            let outcome = again.write(write_messages_from(&name, &data, from, 64 * 1024)).await;
            let through = outcome.is_ok();
            last = Some(outcome);
            if through {
                break;
            }
        }
        assert_eq!(last.expect("a try").expect("Write"), data.len() as i64);
        assert!(again.read(&digest).await.expect("Read") == data);
        drop(dead);
    }
}

#[tokio::test]
async fn fault_11_an_upload_begins_anew_after_a_restart() {
    let (mut server, cache) = start().await;
    let (digest, data) = blob(1150, 3 * MIB);
    let name = cache.write_name(&digest);
    let mut call = cache.open_write();
    call.send(piece(&name, 0, &data[..MIB + 5], false)).await;
    cache.write_status(&name).await.expect("QueryWriteStatus");
    drop(call);
    server.kill_and_restart();
    let cache = Cache::connect(&server).await;
    let status = cache.write_status(&name).await.expect("QueryWriteStatus");
    assert!(!status.complete);
    let from = usize::try_from(status.committed_size).expect("a committed size is not negative");
    let committed = cache.write(write_messages_from(&name, &data, from, 100_000)).await;
    assert_eq!(committed.expect("Write"), data.len() as i64);
    assert!(cache.read(&digest).await.expect("Read") == data);
}

#[tokio::test]
async fn fault_12_a_status_for_unknown_partial_and_complete() {
    let (_server, cache) = start().await;
    let (digest, data) = blob(12, 300_000);
    let name = cache.write_name(&digest);
    let status = cache.write_status(&name).await.expect("unknown");
    assert_eq!((status.committed_size, status.complete), (0, false));
    let mut call = cache.open_write();
    call.send(piece(&name, 0, &data[..100_000], false)).await;
    let status = cache.write_status(&name).await.expect("partial");
    assert!((0..=100_000).contains(&status.committed_size) && !status.complete, "{status:?}");
    call.send(piece("", 100_000, &data[100_000..], true)).await;
    call.answer().await.expect("Write");
    let status = cache.write_status(&name).await.expect("complete");
    assert_eq!((status.committed_size, status.complete), (300_000, true));
}

#[tokio::test]
async fn fault_18_one_write_message_may_be_as_long_as_a_batch() {
    let (_server, cache) = start().await;
    let limit = cache.batch_limit_bytes().await;
    let (digest, data) = blob(18, limit);
    let committed = cache.write(vec![piece(&cache.write_name(&digest), 0, &data, true)]).await;
    assert_eq!(committed.expect("Write"), limit as i64);
    assert!(cache.read(&digest).await.expect("Read") == data);
    // The same batched in very many small blobs: what frames them comes on top of the limit.
    let small: Vec<_> = (0..20_000).map(|seed| blob(0x1800_0000 + seed, limit / 20_000)).collect();
    let answer = cache.batch_update(small).await.expect("a batch within the limit");
    assert!(answer.iter().all(|(_, status)| *status == Code::Ok));
}

#[tokio::test]
async fn fault_19_the_empty_hash_with_a_size_is_invalid() {
    let (server, cache) = start().await;
    let lie = Digest { hash: EMPTY_HASH.to_owned(), size_bytes: 5 };
    let answer = cache.batch_update(vec![(lie.clone(), b"12345".to_vec()), (lie.clone(), Vec::new())]).await;
    let codes: Vec<_> = answer.expect("BatchUpdateBlobs").into_iter().map(|(_, status)| status).collect();
    assert_eq!(codes, [Code::InvalidArgument; 2]);
    for data in [&b"12345"[..], b""] {
        let outcome = cache.write(write_messages(&cache.write_name(&lie), data, 10)).await;
        assert_invalid(&outcome, "a write of the empty hash with a size");
    }
    match cache.find_missing(std::slice::from_ref(&lie)).await {
        Ok(missing) => assert_eq!(missing, std::slice::from_ref(&lie)),
        Err(status) => assert_eq!(status.code(), Code::InvalidArgument, "{status}"),
    }
    assert_code(&cache.read(&lie).await, &[Code::NotFound, Code::InvalidArgument], "a read");
    let answer = cache.batch_read(&[lie]).await.expect("BatchReadBlobs");
    let status = answer[0].status.clone().expect("a status");
    assert!(matches!(Code::from_i32(status.code), Code::NotFound | Code::InvalidArgument), "{status:?}");
    // And a hash with no size that is not the empty one.
    let lie = with_size(&absent_digest(19), 0);
    assert!(!cache.is_present(&lie).await);
    assert_invalid(&cache.write(vec![piece(&cache.write_name(&lie), 0, b"", true)]).await, "a write of nothing");
    assert!(!request(&server, Method::PUT, &format!("/cas/{}", lie.hash), "").await.status.is_success());
}

#[tokio::test]
async fn fault_20_one_byte_more_or_less_is_another_blob() {
    let (_server, cache) = start().await;
    for (seed, size) in [1, 2, 1000, MIB, 2 * MIB].into_iter().enumerate() {
        let (digest, data) = blob(2000 + seed as u64, size);
        for _ in 0..2 {
            for claimed in [size as i64 - 1, size as i64 + 1] {
                let wrong = with_size(&digest, claimed);
                assert_invalid(&cache.upload(&wrong, &data).await, &format!("{size} bytes claimed as {claimed}"));
                assert!(!cache.is_present(&wrong).await, "{size} bytes claimed as {claimed}");
                let found = cache.read(&wrong).await;
                assert_code(&found, &[Code::NotFound, Code::InvalidArgument], &format!("{size} read as {claimed}"));
            }
            // Once more with the right one stored.
            cache.upload(&digest, &data).await.expect("Write");
        }
        assert!(cache.read(&digest).await.expect("Read") == data);
    }
}

#[tokio::test]
async fn fault_22_a_hash_is_checked_wherever_it_comes_in() {
    let (mut server, cache) = start().await;
    let before = list(&server);
    for (what, hash) in malformed_hashes() {
        let bad = with_hash(&digest_of(b"x"), &hash);
        assert_invalid(&cache.find_missing(std::slice::from_ref(&bad)).await, what);
        assert_invalid(&cache.tree(&bad, 0).await, what);
        assert_invalid(&cache.get_action(&bad).await, what);
        assert_invalid(&cache.update_action(&bad, result("w")).await, what);
        let stdout = ActionResult { stdout_digest: Some(bad.clone()), ..result("w") };
        assert_invalid(&cache.update_action(&action(22), stdout).await, what);
        assert_invalid(&cache.read(&bad).await, what);
        assert_invalid(&cache.write(vec![piece(&cache.write_name(&bad), 0, b"x", true)]).await, what);
        assert_invalid(&cache.write_status(&cache.write_name(&bad)).await, what);
        let answer = cache.batch_update(vec![(bad.clone(), b"x".to_vec())]).await.expect(what);
        assert_eq!(answer, [(bad.clone(), Code::InvalidArgument)], "{what}");
        let answer = cache.batch_read(&[bad]).await.expect(what);
        let status = answer[0].status.clone().expect("a status");
        assert_eq!(Code::from_i32(status.code), Code::InvalidArgument, "{what}");
    }
    for path in ["/cas/../../../../etc/passwd", "/cas/..%2f..%2fetc%2fpasswd", "/../cas/x", "/ac/./x", "//cas//x"] {
        for method in [Method::GET, Method::PUT] {
            let answer = request(&server, method, path, "x").await;
            assert!(answer.status.is_client_error(), "{path}: {}", answer.status);
        }
    }
    assert_eq!(list(&server), before, "nothing of all that made a file");
    assert!(server.is_alive());
}

/// The names of all files in the store.
fn list(server: &Server) -> Vec<String> {
    let mut names = Vec::new();
    let mut folders = vec![server.store()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a readable folder") {
            let path = entry.expect("a folder entry").path();
            names.push(path.display().to_string());
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    names.sort();
    names
}

#[tokio::test]
async fn fault_40_strange_files_and_a_smaller_limit_do_not_stop_a_start() {
    let (mut server, cache) = start().await;
    let mut stored = Vec::new();
    for seed in 0..40 {
        let (digest, data) = blob(4000 + seed, 2 * MIB);
        cache.upload(&digest, &data).await.expect("Write");
        stored.push((digest, data));
    }
    server = server.stop().await;
    fs::create_dir(server.store().join("lost+found")).expect("a folder");
    fs::write(server.store().join("notes.txt"), "somebody's").expect("a file");
    fs::write(server.store().join("segments").join(".nfs0001"), "left over").expect("a file");
    server.start_again();
    let cache = Cache::connect(&server).await;
    for (digest, data) in &stored {
        assert!(cache.read(digest).await.expect("Read") == *data);
    }
    server = server.stop().await;

    server.set_max_size("128MiB");
    server.start_again();
    let cache = Cache::connect(&server).await;
    for (digest, data) in &stored {
        assert_right_or_gone(&cache.read(digest).await, data, "after the limit was lowered");
    }
    server = server.stop().await;
    server.set_max_size("512MiB");
    server.start_again();
    let cache = Cache::connect(&server).await;
    for (digest, data) in &stored {
        assert_right_or_gone(&cache.read(digest).await, data, "after the limit was raised");
    }
    let (digest, data) = blob(4999, 2 * MIB);
    cache.upload(&digest, &data).await.expect("Write");
    assert!(cache.read(&digest).await.expect("Read") == data);
}

/// Calls cut off at every stage give back what they held: files, memory, room for uploads.
#[tokio::test]
async fn fault_43_cancelled_calls_give_everything_back() {
    let (server, cache) = start().await;
    let (stored, data) = blob(43, 4 * MIB);
    cache.upload(&stored, &data).await.expect("Write");
    let files_before = server.open_file_count();
    for round in 0..150 {
        let (digest, data) = blob(0x4300_0000 + round, 200_000);
        let mut write = cache.open_write();
        let name = format!("uploads/{}/blobs/{}/{}", uuid(), digest.hash, digest.size_bytes);
        for message in write_messages(&name, &data, 50_000).into_iter().take(round as usize % 5) {
            write.send(message).await;
        }
        let read = cache.read_stream(&cache.read_name(&stored), (round as i64) * 1000, 0).await.expect("Read");
        drop(read);
        drop(write);
    }
    assert!(cache.read(&stored).await.expect("Read") == data);
    let files_after = server.open_file_count();
    assert!(files_after <= files_before + 16, "{files_before} open files grew to {files_after}");
}
