//! A full disk under the real binary: reads go on, writes are refused with advice, nothing half-stored is seen, and when there
//! is room again writes go on without a restart.
//!
//! The disk is a small tmpfs. Each test runs itself once more in a mount namespace of its own (`unshare`), as root or, where that is
//! not allowed, as root of a user namespace of its own; so mounts never outlive a test. Where neither is allowed the test says
//! "skipped" on standard error and passes.

#[path = "../support/mod.rs"]
mod support;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bazel_remote_apis::build::bazel::remote::execution::v2::Digest;
use http::Method;
use support::blob::{blob, bytes};
use support::grpc::{Cache, assert_code};
use support::process::{Options, Server};
use support::{HANG_GUARD, damage, http::request};
use tempfile::TempDir;
use tonic::{Code, Status};
use tonic_types::StatusExt;

const MIB: usize = 1024 * 1024;
/// Set in the process that runs in a namespace of its own.
const INSIDE: &str = "CASK_TEST_INSIDE_NAMESPACE";
const BLOB_BYTES: usize = 700_000;

/// Runs `test` in a mount namespace; `name` is that of the test function, which the inner process is told to run.
fn in_namespace(name: &str, test: impl AsyncFnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        return runtime.expect("a runtime").block_on(test());
    }
    for unshare in [&["--mount"][..], &["--user", "--map-root-user", "--mount"]] {
        // Mounting is what may be forbidden, also where a namespace can be had.
        let probe = Command::new("unshare")
            .args(unshare)
            .args(["sh", "-c", "mount -t tmpfs none /tmp"])
            .stderr(Stdio::null())
            .status();
        if !probe.is_ok_and(|status| status.success()) {
            continue;
        }
        let inner = Command::new("unshare")
            .args(unshare)
            .arg(std::env::current_exe().expect("the test's own path"))
            .args(["--exact", name, "--nocapture"])
            .env(INSIDE, "1")
            .output()
            .expect("unshare runs, it just did");
        assert!(
            inner.status.success(),
            "{}\n{}",
            String::from_utf8_lossy(&inner.stdout),
            String::from_utf8_lossy(&inner.stderr)
        );
        return;
    }
    // Written past the capture of the test harness, so that it is seen.
    let _ =
        writeln!(std::io::stderr(), "skipped: {name}: a tmpfs cannot be mounted here, not even in a user namespace");
}

/// A small disk, mounted at a folder of its own.
struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    fn mount(size_mib: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Self { folder };
        disk.run_mount(&["-t", "tmpfs", "-o", &format!("size={size_mib}m"), "none"]);
        disk
    }

    fn grow(&self, size_mib: usize) {
        self.run_mount(&["-o", &format!("remount,size={size_mib}m")]);
    }

    fn run_mount(&self, arguments: &[&str]) {
        let status = Command::new("mount").args(arguments).arg(self.folder.path()).status().expect("mount runs");
        assert!(status.success(), "mount {arguments:?}: {status}");
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// Takes all that is left on the disk, down to the last block.
    fn fill(&self) -> PathBuf {
        let path = self.folder.path().join("somebody-elses");
        let mut file = File::create(&path).expect("an empty file takes no block");
        for piece in [MIB, 4096, 1] {
            while file.write(&vec![0x55; piece]).is_ok_and(|written| written > 0) {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: what is still open goes with its process.
        let _ = Command::new("umount").arg("--lazy").arg(self.folder.path()).status();
    }
}

struct Filled {
    stored: Vec<(u64, Digest)>,
    refused: Vec<(Digest, Vec<u8>)>,
}

fn assert_full(status: &Status) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.get_details_retry_info().is_some(), "a refusal for want of room carries RetryInfo: {status}");
}

/// Uploads until three were refused.
async fn fill_store(cache: &Cache, seed: u64) -> Filled {
    let mut filled = Filled { stored: Vec::new(), refused: Vec::new() };
    for seed in seed..seed + 1000 {
        let (digest, data) = blob(seed, BLOB_BYTES);
        match cache.upload(&digest, &data).await {
            Ok(_) => filled.stored.push((seed, digest)),
            Err(status) => {
                assert_full(&status);
                filled.refused.push((digest, data));
            }
        }
        if filled.refused.len() == 3 {
            return filled;
        }
    }
    panic!("700 MB went onto a small disk");
}

/// Each blob that was acknowledged is whole, each that was refused is absent by every way of asking.
async fn assert_all_or_nothing(server: &Server, cache: &Cache, filled: &Filled) {
    for (seed, digest) in &filled.stored {
        let data = cache.read(digest).await.unwrap_or_else(|status| panic!("blob {seed} is gone: {status}"));
        assert!(data == bytes(*seed, BLOB_BYTES));
    }
    let stored: Vec<_> = filled.stored.iter().map(|(_, digest)| digest.clone()).collect();
    assert_eq!(cache.find_missing(&stored).await.expect("FindMissingBlobs"), []);
    let refused: Vec<_> = filled.refused.iter().map(|(digest, _)| digest.clone()).collect();
    assert_eq!(cache.find_missing(&refused).await.expect("FindMissingBlobs"), refused);
    for digest in &refused {
        assert_code(&cache.read(digest).await, &[Code::NotFound], "a refused blob");
        assert_eq!(request(server, Method::HEAD, &format!("/cas/{}", digest.hash), "").await.status, 404);
    }
}

/// Tries again as a client does, until there is room.
async fn upload_when_there_is_room(cache: &Cache, digest: &Digest, data: &[u8]) {
    let deadline = Instant::now() + HANG_GUARD;
    loop {
        match cache.upload(digest, data).await {
            Ok(_) => break,
            Err(status) => {
                assert_full(&status);
                assert!(Instant::now() < deadline, "there is room, and uploads are still refused: {status}");
                let wait = status.get_details_retry_info().and_then(|info| info.retry_delay).unwrap_or_default();
                tokio::time::sleep(wait.min(Duration::from_secs(1))).await;
            }
        }
    }
    assert!(cache.read(digest).await.expect("Read") == data);
}

#[test]
fn a_disk_smaller_than_the_limit_refuses_writes_and_serves_reads() {
    in_namespace("a_disk_smaller_than_the_limit_refuses_writes_and_serves_reads", async || {
        let disk = SmallDisk::mount(40);
        let mut server = Server::over(disk.store(), Options::with_max_size("256MiB"));
        server.start_again();
        let cache = Cache::connect(&server).await;
        let filled = fill_store(&cache, 100).await;
        assert!(filled.stored.len() >= 20, "only {} blobs went in", filled.stored.len());
        assert_all_or_nothing(&server, &cache, &filled).await;
        let (digest, data) = filled.refused[0].clone();
        let put = request(&server, Method::PUT, &format!("/cas/{}", digest.hash), data).await;
        assert_eq!(put.status, 507);
        assert!(put.headers.contains_key("retry-after"));
        let refused = vec![filled.refused[1].clone()];
        let answer = cache.batch_update(refused).await.expect("BatchUpdateBlobs");
        assert_eq!(answer[0].1, Code::ResourceExhausted, "in a batch the item is refused, not the call");

        disk.grow(160);
        for (digest, data) in &filled.refused {
            upload_when_there_is_room(&cache, digest, data).await;
        }
        let filled = Filled { stored: filled.stored, refused: Vec::new() };
        assert_all_or_nothing(&server, &cache, &filled).await;
        // And after a kill everything is where it was.
        server.kill_and_restart();
        let cache = Cache::connect(&server).await;
        assert_all_or_nothing(&server, &cache, &filled).await;
    });
}

#[test]
fn a_plain_cache_on_a_small_disk_evicts_and_goes_on() {
    in_namespace("a_plain_cache_on_a_small_disk_evicts_and_goes_on", async || {
        let disk = SmallDisk::mount(80);
        let mut server = Server::over(disk.store(), Options::without_leases("256MiB"));
        server.start_again();
        let cache = Cache::connect(&server).await;
        for seed in 300..600 {
            let (digest, data) = blob(seed, BLOB_BYTES);
            upload_when_there_is_room(&cache, &digest, &data).await;
        }
    });
}

#[test]
fn a_disk_filled_by_somebody_else_is_a_pause_and_no_more() {
    in_namespace("a_disk_filled_by_somebody_else_is_a_pause_and_no_more", async || {
        let disk = SmallDisk::mount(120);
        let mut server = Server::over(disk.store(), Options::with_max_size("256MiB"));
        server.start_again();
        let cache = Cache::connect(&server).await;
        let (first, first_data) = blob(7, BLOB_BYTES);
        cache.upload(&first, &first_data).await.expect("Write");
        let strangers = disk.fill();
        let filled = fill_store(&cache, 700).await;
        assert_all_or_nothing(&server, &cache, &filled).await;
        assert!(cache.read(&first).await.expect("Read") == first_data);

        fs::remove_file(strangers).expect("a file");
        for (digest, data) in &filled.refused {
            upload_when_there_is_room(&cache, digest, data).await;
        }
        // Ended in order and started again.
        drop(cache);
        server = server.stop().await;
        server.start_again();
        let cache = Cache::connect(&server).await;
        let all = Filled { stored: filled.stored, refused: Vec::new() };
        assert_all_or_nothing(&server, &cache, &all).await;
    });
}

#[test]
fn a_store_on_a_full_disk_starts_and_serves() {
    in_namespace("a_store_on_a_full_disk_starts_and_serves", async || {
        let disk = SmallDisk::mount(80);
        let mut server = Server::over(disk.store(), Options::with_max_size("256MiB"));
        server.start_again();
        let cache = Cache::connect(&server).await;
        let mut filled = Filled { stored: Vec::new(), refused: Vec::new() };
        for seed in 800..820 {
            let (digest, data) = blob(seed, BLOB_BYTES);
            cache.upload(&digest, &data).await.expect("Write");
            filled.stored.push((seed, digest));
        }
        drop(cache);
        // After an orderly end, and then after a kill.
        server = server.stop().await;
        let strangers = disk.fill();
        for _ in 0..2 {
            server.start_again();
            let cache = Cache::connect(&server).await;
            assert_all_or_nothing(&server, &cache, &filled).await;
            server.kill();
        }

        // A segment cut short whose blocks somebody else has taken meanwhile: it does not stop the start, and costs the blob that
        // was cut off and no other, not even in the same segment.
        let (seed, victim) = filled.stored.pop().expect("a blob");
        let place =
            damage::places_of(&server, &bytes(seed, BLOB_BYTES)[..4096]).pop().expect("the blob is in a segment");
        damage::truncate(&place.path, place.offset);
        disk.fill();
        server.start_again();
        let cache = Cache::connect(&server).await;
        assert!(server.log_text().contains("segment_not_reserved"), "{}", server.log_text());
        assert_all_or_nothing(&server, &cache, &filled).await;
        assert!(!cache.is_present(&victim).await);
        assert_code(&cache.read(&victim).await, &[Code::NotFound], "the blob that was cut off");

        fs::remove_file(strangers).expect("a file");
        upload_when_there_is_room(&cache, &victim, &bytes(seed, BLOB_BYTES)).await;
    });
}

#[test]
fn a_new_store_on_a_full_disk_is_refused_with_a_word() {
    in_namespace("a_new_store_on_a_full_disk_is_refused_with_a_word", async || {
        let disk = SmallDisk::mount(4);
        disk.fill();
        let server = Server::over(disk.store(), Options::with_max_size("64MiB"));
        let (status, printed) = server.run_another();
        assert!(!status.success(), "a store was made on a full disk");
        assert!(printed.contains("superblock") && printed.contains("No space left"), "a word on why: {printed}");
        assert!(!Path::new(&disk.store()).join("superblock").exists());
    });
}
