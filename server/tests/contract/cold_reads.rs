//! What is not in memory is fetched beside the threads that serve connections: a fault on one of those would hold up everybody it
//! serves. The kernel counts who waited for the disk; that is the stall detector.

use std::collections::BTreeMap;
use std::fs;

use rustix::fs::Advice;

use crate::support::blob::blob;
use crate::support::grpc::Cache;
use crate::support::process::{Options, Server};

const BLOB_BYTES: usize = 3 << 20;
const BLOBS: u64 = 12;

/// What a memory file system is known by; see statfs(2).
const TMPFS: i64 = 0x0102_1994;

/// How often threads of each name have waited for a page from the disk.
fn waits_by_thread_name(server: &Server) -> BTreeMap<String, u64> {
    let mut waits = BTreeMap::new();
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid().as_raw_nonzero())).expect("the process has threads");
    for task in tasks {
        let stat = task.expect("a thread").path().join("stat");
        // A thread may end between the listing and the look at it.
        let Ok(stat) = fs::read_to_string(stat) else { continue };
        let (head, fields) = stat.rsplit_once(')').expect("the name is in parentheses");
        let name = head.split_once('(').expect("the name is in parentheses").1;
        // The state is the third field of the line, major faults are the twelfth.
        let major_faults: u64 = fields.split_whitespace().nth(9).expect("a count").parse().expect("a number");
        *waits.entry(name.to_owned()).or_default() += major_faults;
    }
    waits
}

/// What the process has had read from disks.
fn bytes_from_disk(server: &Server) -> u64 {
    let counts =
        fs::read_to_string(format!("/proc/{}/io", server.pid().as_raw_nonzero())).expect("the process has counts");
    let line = counts.lines().find_map(|line| line.strip_prefix("read_bytes: ")).expect("a count of that name");
    line.parse().expect("a number")
}

#[tokio::test]
async fn a_cold_read_waits_for_the_disk_beside_the_thread_of_its_connection() {
    // On a disk: what is in a memory file system cannot be cold.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
    if rustix::fs::statfs(folder.path()).expect("a file system").f_type == TMPFS {
        eprintln!("skipped: the build folder is in memory");
        return;
    }
    let flags = vec!["--threads", "1", "--scrub-period", "0s"];
    let mut server = Server::over(folder.path().join("store"), Options { flags, ..Options::default() });
    server.start_again();
    let cache = Cache::connect(&server).await;
    let blobs: Vec<_> = (0..BLOBS).map(|seed| blob(0xc01d + seed, BLOB_BYTES)).collect();
    for (digest, data) in &blobs {
        cache.upload(digest, data).await.expect("Write");
    }
    drop(cache);
    server = server.stop().await;
    for path in server.segment_files() {
        let file = fs::File::open(path).expect("a segment");
        file.sync_all().expect("a sync");
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).expect("advice");
    }
    server.start_again();
    let cache = Cache::connect(&server).await;
    // What the way to an answer brings in by itself, such as pages of the program, is not what is asked about.
    cache.find_missing(&[blobs[0].0.clone()]).await.expect("FindMissingBlobs");
    let (before, read_before) = (waits_by_thread_name(&server), bytes_from_disk(&server));
    for (digest, data) in &blobs {
        // In the middle of it other calls of the thread are served.
        let (read, found) = tokio::join!(cache.read(digest), cache.find_missing(std::slice::from_ref(digest)));
        assert!(read.expect("Read") == *data, "other bytes");
        assert!(found.expect("FindMissingBlobs").is_empty());
    }
    let after = waits_by_thread_name(&server);
    let waited = |name: &str| {
        let count = |waits: &BTreeMap<String, u64>| waits.get(name).copied().unwrap_or(0);
        count(&after) - count(&before)
    };
    let read_bytes = bytes_from_disk(&server) - read_before;
    assert!(read_bytes > BLOBS * BLOB_BYTES as u64 / 2, "{read_bytes} bytes were cold, so nothing was seen");
    assert_eq!(waited("cask-edge-0"), 0, "the thread that serves connections waited for the disk");
}
