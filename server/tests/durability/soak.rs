//! Several times its size written through a store.
//!
//! Without a lease floor the store runs for ever inside its bound: nothing is refused, what is asked for all the time
//! stays, memory is flat. With the floor the store refuses what it has no room for, with advice, and keeps everything.

use bazel_remote_apis::build::bazel::remote::execution::v2::Digest;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::setting;
use crate::support::blob::{bytes, digest_of};
use crate::support::grpc::Cache;
use crate::support::process::{Options, Server, disk_use};

const MIB: u64 = 1024 * 1024;
/// The sizes that go through, in turns; all of one turn together are some 5 MiB.
const SIZES: [usize; 12] = [
    1000,
    40_000,
    250_000,
    MIB as usize,
    16 * 1024,
    600_000,
    3000,
    2 * MIB as usize + 50_000,
    100_000,
    64,
    800_000,
    64 * 1024,
];
const UPLOADER_COUNT: usize = 4;

fn max_size_mib() -> u64 {
    setting("CASK_SOAK_MIB", 64)
}

/// One blob of the flood; its content is a function of the number.
#[derive(Clone, Copy, Debug)]
struct Piece(u64);

impl Piece {
    fn size(self) -> usize {
        SIZES[(self.0 % SIZES.len() as u64) as usize]
    }

    fn data(self) -> Vec<u8> {
        bytes(0x50a4_0000 + self.0, self.size())
    }

    /// Small ones by batch, large ones by stream.
    async fn upload(self, cache: &Cache) -> (Digest, Result<(), Status>) {
        let data = self.data();
        let digest = digest_of(&data);
        if data.len() < 512 * 1024 {
            match cache.batch_update(vec![(digest.clone(), data)]).await {
                Ok(answer) if answer[0].1 == Code::Ok => (digest, Ok(())),
                Ok(answer) => (digest, Err(Status::new(answer[0].1, "by item"))),
                Err(status) => (digest, Err(status)),
            }
        } else {
            let outcome = cache.upload(&digest, &data).await;
            (digest, outcome.map(|committed| assert_eq!(committed, data.len() as i64)))
        }
    }
}

#[track_caller]
fn assert_inside_bound(server: &Server, max_size_bytes: u64, after_bytes: u64) {
    let used = disk_use(&server.store());
    assert!(
        used.length_bytes <= max_size_bytes && used.allocated_bytes <= max_size_bytes,
        "{used:?} where {max_size_bytes} bytes are allowed, after {after_bytes}"
    );
}

/// Uploads `pieces` a few at a time; the outcomes in no order.
async fn pour(cache: &Cache, pieces: Vec<Piece>) -> Vec<(Piece, Digest, Result<(), Status>)> {
    let mut outcomes = Vec::with_capacity(pieces.len());
    let mut uploads = JoinSet::new();
    for piece in pieces {
        if uploads.len() == UPLOADER_COUNT {
            outcomes.push(uploads.join_next().await.expect("an upload").expect("an upload does not panic"));
        }
        let cache = cache.clone();
        uploads.spawn(async move {
            let (digest, outcome) = piece.upload(&cache).await;
            (piece, digest, outcome)
        });
    }
    outcomes.extend(uploads.join_all().await);
    outcomes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak() {
    let max_size_bytes = max_size_mib() * MIB;
    let server = Server::start(Options::without_leases(&format!("{}MiB", max_size_mib())));
    let cache = Cache::connect(&server).await;

    // A thirty-second of the store, written in one go and asked for all the time, as a build's tools are.
    let mut working_set = Vec::new();
    let mut size_bytes = 0;
    while size_bytes < max_size_bytes / 32 {
        let seed = working_set.len() as u64;
        let data = bytes(0x3057_0000 + seed, [500, 20_000, 90_000, 400_000][seed as usize % 4]);
        size_bytes += data.len() as u64;
        working_set.push((seed, cache.store(&data).await));
    }
    let asked: Vec<Digest> = working_set.iter().map(|(_, digest)| digest.clone()).collect();

    let step_bytes = (max_size_bytes / 32).max(2 * MIB);
    let mut next = 0;
    let mut poured_bytes = 0;
    let mut memory_when_full = None;
    let mut memory_peak = 0;
    let mut newest = Vec::new();
    while poured_bytes < 5 * max_size_bytes {
        let mut pieces = Vec::new();
        let step_end = poured_bytes + step_bytes;
        while poured_bytes < step_end {
            pieces.push(Piece(next));
            poured_bytes += Piece(next).size() as u64;
            next += 1;
        }
        newest.clone_from(&pieces);
        for (piece, _, outcome) in pour(&cache, pieces).await {
            outcome.unwrap_or_else(|status| panic!("{piece:?} was refused after {poured_bytes} bytes: {status}"));
        }
        assert_inside_bound(&server, max_size_bytes, poured_bytes);
        let missing = cache.find_missing(&asked).await.expect("FindMissingBlobs");
        assert_eq!(missing, [], "of the working set, after {poured_bytes} bytes");
        let memory = server.anonymous_memory_bytes();
        if poured_bytes >= max_size_bytes * 3 / 2 {
            memory_when_full.get_or_insert(memory);
            memory_peak = memory_peak.max(memory);
        }
    }

    for (seed, digest) in working_set {
        let data = cache.read(&digest).await.expect("a blob of the working set");
        assert!(data == bytes(0x3057_0000 + seed, data.len()), "a blob of the working set changed");
    }
    for piece in newest {
        let found = cache.read(&digest_of(&piece.data())).await.expect("a blob of the last step");
        assert!(found == piece.data(), "{piece:?}");
    }
    let oldest = digest_of(&Piece(3).data());
    assert_eq!(
        cache.find_missing(&[oldest]).await.expect("FindMissingBlobs").len(),
        1,
        "the first blobs are long gone"
    );
    let grown = memory_peak.saturating_sub(memory_when_full.expect("a look at the memory"));
    assert!(grown < 48 * MIB, "anonymous memory grew by {grown} bytes after the store was full");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_under_the_default_floor() {
    let max_size_bytes = max_size_mib() * MIB;
    let server = Server::start(Options::with_max_size(&format!("{}MiB", max_size_mib())));
    let cache = Cache::connect(&server).await;

    let mut taken = Vec::new();
    let mut taken_bytes = 0;
    let mut refused = Vec::new();
    let mut next = 0;
    // Far past the first refusal: the store must stay as it is, not crumble.
    while next * 430_000 < 2 * max_size_bytes {
        let pieces: Vec<_> = (next..next + 24).map(Piece).collect();
        next += 24;
        for (piece, digest, outcome) in pour(&cache, pieces).await {
            match outcome {
                Ok(()) => {
                    taken.push((piece, digest));
                    taken_bytes += piece.size() as u64;
                }
                Err(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted, "{piece:?}: {status}");
                    // A batch tells by item, where this client keeps the code alone.
                    let by_item = status.message() == "by item";
                    assert!(by_item || status.get_details_retry_info().is_some(), "no advice with {status}");
                    refused.push((piece, digest));
                }
            }
        }
        assert_inside_bound(&server, max_size_bytes, taken_bytes);
    }
    assert!(refused.len() > 10, "{taken_bytes} bytes went into {max_size_bytes} and {} were refused", refused.len());
    assert!(taken_bytes > max_size_bytes / 2, "only {taken_bytes} bytes went into {max_size_bytes}");

    for (piece, digest) in &taken {
        let found = cache.read(digest).await;
        let found = found.unwrap_or_else(|status| panic!("{piece:?} was lost within the floor: {status}"));
        assert!(found == piece.data(), "{piece:?}");
    }
    // Some small ones were refused and taken later by no one: they are plainly absent.
    let absent: Vec<_> = refused.iter().map(|(_, digest)| digest.clone()).collect();
    assert_eq!(cache.find_missing(&absent).await.expect("FindMissingBlobs").len(), absent.len());
}
