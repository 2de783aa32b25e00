//! SIGKILL in the middle of a storm of uploads, again and again over one store.
//!
//! The kill falls after a fixed number of acknowledgements, so that each round is cut at another point of the log.
//! Afterwards an acknowledged blob must be there byte for byte, and any other must be whole or absent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bazel_remote_apis::build::bazel::remote::execution::v2::{
    ActionResult, Digest, ExecutedActionMetadata, OutputFile,
};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tonic::Code;

use crate::setting;
use crate::support::blob::{blob, bytes, digest_of};
use crate::support::grpc::{Cache, assert_code, assert_right_or_gone};
use crate::support::process::{Options, Server, disk_use};
use crate::support::within;

const MIB: usize = 1024 * 1024;
const CLIENT_COUNT: u64 = 2;
const UPLOADERS_PER_CLIENT: u64 = 4;

/// The sizes of a storm, in turns: nothing, tiny, around the steps of buffers and parts, several parts.
const SIZES: [usize; 17] = [
    0,
    1,
    100,
    4096,
    64 * 1024 + 1,
    20_000,
    700,
    MIB + 1,
    63,
    300_000,
    40_000,
    3 * MIB,
    5000,
    64,
    MIB,
    150_000,
    2 * MIB + 77_777,
];

/// One upload of a storm; its content is a function of the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Item(u64);

impl Item {
    fn data(self) -> Vec<u8> {
        bytes(0x5708_0000 + self.0, SIZES[(self.0 % SIZES.len() as u64) as usize])
    }

    /// The action whose output this blob is, for those that have one.
    fn action(self) -> Option<(Digest, ActionResult)> {
        if !self.0.is_multiple_of(5) {
            return None;
        }
        let worker = format!("storm worker {}", self.0);
        let result = ActionResult {
            output_files: vec![OutputFile {
                path: "out".to_owned(),
                digest: Some(digest_of(&self.data())),
                ..OutputFile::default()
            }],
            execution_metadata: Some(ExecutedActionMetadata { worker, ..ExecutedActionMetadata::default() }),
            ..ActionResult::default()
        };
        Some((blob(0x5709_0000 + self.0, 100).0, result))
    }
}

/// What the uploaders of one storm did.
#[derive(Default)]
struct Tally {
    /// Handed out so far; the next item's number.
    next: AtomicU64,
    acknowledged_count: AtomicU64,
    blobs_acknowledged: Mutex<Vec<Item>>,
    blobs_in_doubt: Mutex<Vec<Item>>,
    actions_acknowledged: Mutex<Vec<Item>>,
    actions_in_doubt: Mutex<Vec<Item>>,
    enough: Notify,
}

impl Tally {
    fn acknowledge(&self, list: &Mutex<Vec<Item>>, item: Item, kill_after: u64) {
        list.lock().expect("no uploader panics with the list").push(item);
        if self.acknowledged_count.fetch_add(1, Ordering::Relaxed) + 1 == kill_after {
            self.enough.notify_one();
        }
    }
}

fn take(list: &Mutex<Vec<Item>>) -> Vec<Item> {
    std::mem::take(&mut list.lock().expect("no uploader panics with the list"))
}

/// Uploads items until the server is gone: small ones by batch or by stream in turns, large ones by stream.
async fn upload_until_killed(cache: Cache, tally: Arc<Tally>, kill_after: u64) {
    loop {
        let number = tally.next.fetch_add(1, Ordering::Relaxed);
        // Every seventh item is another uploader's too: both race for one blob.
        let item = Item(if number % 7 == 6 { number - 1 } else { number });
        let data = item.data();
        let digest = digest_of(&data);
        let outcome = if data.len() <= MIB && number.is_multiple_of(2) {
            cache.batch_update(vec![(digest, data)]).await.map(|answer| assert_eq!(answer[0].1, Code::Ok))
        } else {
            let size = data.len() as i64;
            cache.upload(&digest, &data).await.map(|committed| assert_eq!(committed, size))
        };
        if outcome.is_err() {
            // It may have been stored all the same, the answer lost.
            tally.blobs_in_doubt.lock().expect("no uploader panics with the list").push(item);
            return;
        }
        tally.acknowledge(&tally.blobs_acknowledged, item, kill_after);

        if let Some((action, result)) = item.action() {
            if cache.update_action(&action, result).await.is_err() {
                tally.actions_in_doubt.lock().expect("no uploader panics with the list").push(item);
                return;
            }
            tally.acknowledge(&tally.actions_acknowledged, item, kill_after);
        }
    }
}

/// One storm, ended by SIGKILL after `kill_after` acknowledgements; the server is down afterwards.
async fn storm(server: &mut Server, tally: &Arc<Tally>, kill_after: u64) {
    tally.acknowledged_count.store(0, Ordering::Relaxed);
    let mut uploaders = JoinSet::new();
    for _ in 0..CLIENT_COUNT {
        let cache = Cache::connect(server).await;
        for _ in 0..UPLOADERS_PER_CLIENT {
            uploaders.spawn(upload_until_killed(cache.clone(), Arc::clone(tally), kill_after));
        }
    }
    tokio::select! {
        () = within("enough acknowledgements", tally.enough.notified()) => {}
        // Uploaders end by the kill alone.
        Some(ended) = uploaders.join_next() => {
            ended.expect("an uploader does not panic");
            panic!("an upload was refused by a running server:\n{}", server.log_text());
        }
    }
    server.kill();
    while let Some(ended) = within("the uploaders to see the kill", uploaders.join_next()).await {
        ended.expect("an uploader does not panic");
    }
}

/// Reads an acknowledged blob back, which must be there.
async fn check_kept(cache: &Cache, item: Item) {
    let data = item.data();
    let found = cache.read(&digest_of(&data)).await;
    assert!(
        found.unwrap_or_else(|status| panic!("{item:?} was acknowledged and is gone: {status}")) == data,
        "{item:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_storm() {
    let rounds = setting("CASK_STORM_ROUNDS", 50);
    // Room for all of it: nothing may be evicted, whatever the leases.
    let mut server = Server::start(Options::with_max_size("4GiB"));
    let tally = Arc::new(Tally::default());
    let mut kept: Vec<Item> = Vec::new();
    let mut actions_kept: Vec<Item> = Vec::new();

    for round in 0..rounds {
        storm(&mut server, &tally, 1 + (round * 13) % 60).await;
        server.start_again();
        let cache = Cache::connect(&server).await;

        let acknowledged = take(&tally.blobs_acknowledged);
        for &item in &acknowledged {
            check_kept(&cache, item).await;
        }
        for item in take(&tally.blobs_in_doubt) {
            let data = item.data();
            assert_right_or_gone(&cache.read(&digest_of(&data)).await, &data, &format!("round {round}, {item:?}"));
        }
        actions_kept.extend(take(&tally.actions_acknowledged));
        for &item in &actions_kept {
            let (action, result) = item.action().expect("an item with an action");
            let found = cache.get_action(&action).await;
            assert_eq!(found.unwrap_or_else(|status| panic!("round {round}, {item:?}: {status}")), result);
        }
        for item in take(&tally.actions_in_doubt) {
            let (action, result) = item.action().expect("an item with an action");
            let found = cache.get_action(&action).await;
            assert_code(&found, &[Code::Ok, Code::NotFound], "an action in doubt");
            if let Ok(found) = found {
                assert_eq!(found, result, "round {round}, {item:?}");
            }
        }

        // All earlier rounds: each blob is there by its digest, and an eighth of them is read each time.
        kept.extend(acknowledged);
        let digests: Vec<Digest> = kept.iter().map(|item| digest_of(&item.data())).collect();
        assert_eq!(cache.find_missing(&digests).await.expect("FindMissingBlobs"), [], "round {round}");
        for &item in kept.iter().skip((round % 8) as usize).step_by(8) {
            check_kept(&cache, item).await;
        }
    }

    server = server.stop().await;
    server.start_again();
    let cache = Cache::connect(&server).await;
    for &item in &kept {
        check_kept(&cache, item).await;
    }
    assert!(kept.len() as u64 > rounds * 10, "only {} blobs in {rounds} storms", kept.len());
    assert!(!actions_kept.is_empty());
}

/// The same on a store so small that segments are reclaimed all the while: blobs go, but no byte is ever wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_storm_while_reclaiming() {
    const MAX_SIZE_MIB: u64 = 64;
    let rounds = setting("CASK_STORM_ROUNDS", 50).div_ceil(3);
    let mut server = Server::start(Options::without_leases(&format!("{MAX_SIZE_MIB}MiB")));
    let tally = Arc::new(Tally::default());
    let mut seen: Vec<Item> = Vec::new();
    for round in 0..rounds {
        storm(&mut server, &tally, 40 + (round * 17) % 60).await;
        let used = disk_use(&server.store());
        assert!(used.length_bytes <= MAX_SIZE_MIB * MIB as u64, "round {round}: {used:?}");
        assert!(used.allocated_bytes <= MAX_SIZE_MIB * MIB as u64, "round {round}: {used:?}");
        server.start_again();
        let cache = Cache::connect(&server).await;
        for list in [&tally.blobs_acknowledged, &tally.blobs_in_doubt] {
            seen.extend(take(list));
        }
        let newest = seen.len().saturating_sub(300);
        for &item in &seen[newest..] {
            let data = item.data();
            assert_right_or_gone(&cache.read(&digest_of(&data)).await, &data, &format!("round {round}, {item:?}"));
        }
        let mut actions = take(&tally.actions_acknowledged);
        actions.extend(take(&tally.actions_in_doubt));
        for item in actions {
            let (action, result) = item.action().expect("an item with an action");
            // A hit is a promise: its output is there.
            match cache.get_action(&action).await {
                Ok(found) => {
                    assert_eq!(found, result, "round {round}, {item:?}");
                    check_kept(&cache, item).await;
                }
                Err(status) => assert_eq!(status.code(), Code::NotFound, "{status}"),
            }
        }
    }
}
