//! Ten thousand calls cut off at random points leave nothing behind: no place in a budget, no buffer, no descriptor, no pin on a
//! segment, no thread.
//!
//! Every method and the HTTP protocol are called, and cut off in every way a client has: the stream is reset, a deadline
//! passes, the connection goes, half a message comes and no more. What is cut and how follows from a seed; where exactly is up to the
//! scheduler. `CASK_CANCELLATIONS` (10,000) and `CASK_CANCELLATION_SEED` (1) come from the environment.

#[path = "../support/mod.rs"]
mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bazel_remote_apis::build::bazel::remote::execution::v2::{
    ActionResult, Digest, Directory, DirectoryNode, FileNode, OutputDirectory, OutputFile, Tree,
};
use bytes::Bytes;
use futures_util::StreamExt;
use http::Request;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::blob::{absent_digest, blob, digest_of};
use support::grpc::{Cache, piece, write_messages};
use support::http::grpc_frame;
use support::metrics::Metrics;
use support::process::{Options, Server};
use support::{HANG_GUARD, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const MIB: usize = 1024 * 1024;
const WORKERS: u64 = 24;
/// How far anonymous memory may have grown: what an allocator keeps for itself, far below what the calls carried.
const MEMORY_GROWTH_BYTES_MAX: u64 = 160 * MIB as u64;

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text:?}")),
        Err(_) => default,
    }
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Mostly a fraction of what a call takes, sometimes more.
    fn a_moment(&mut self) -> Duration {
        let micros_max = [50, 300, 1500, 6000][self.below(4) as usize];
        Duration::from_micros(self.below(micros_max))
    }
}

/// What is in the store to be read, and which uploads were cut off.
struct World {
    small: Digest,
    /// Several parts.
    large: Digest,
    root: Digest,
    action: Digest,
    /// Bytes to upload, of no digest that is claimed for them.
    junk: Vec<u8>,
    write_names: Mutex<Vec<String>>,
}

async fn furnish(cache: &Cache) -> World {
    let (large, large_data) = blob(1, 5 * MIB);
    cache.upload(&large, &large_data).await.expect("Write");
    let small = cache.store(&blob(2, 30_000).1).await;
    let file = FileNode { name: "f".to_owned(), digest: Some(small.clone()), ..FileNode::default() };
    let leaf = Directory { files: vec![file], ..Directory::default() };
    let mut root = Directory::default();
    for number in 0..200 {
        let mut child = leaf.clone();
        child.files[0].name = format!("f{number}");
        let digest = Some(cache.store_message(&child).await);
        root.directories.push(DirectoryNode { name: format!("d{number:03}"), digest });
    }
    let tree = cache.store_message(&Tree { root: Some(leaf), children: Vec::new() }).await;
    let action = digest_of(b"an action");
    let root = cache.store_message(&root).await;
    cache.update_action(&action, result(&small, &tree)).await.expect("UpdateActionResult");
    World { small, large, root, action, junk: blob(3, 6 * MIB).1, write_names: Mutex::default() }
}

fn result(file: &Digest, tree: &Digest) -> ActionResult {
    ActionResult {
        output_files: vec![OutputFile { path: "o".to_owned(), digest: Some(file.clone()), ..OutputFile::default() }],
        output_directories: vec![OutputDirectory {
            path: "d".to_owned(),
            tree_digest: Some(tree.clone()),
            ..OutputDirectory::default()
        }],
        ..ActionResult::default()
    }
}

/// One call over gRPC, of any method. What comes of it is of no interest.
async fn call(cache: &Cache, world: &World, random: &mut Random) {
    match random.below(11) {
        0 => drop(cache.read(&world.large).await),
        1 => {
            // Read a little, then stop reading and hold on to the stream.
            if let Ok(mut stream) = cache.read_stream(&cache.read_name(&world.large), 0, 0).await {
                let _first = stream.message().await;
                std::future::pending::<()>().await;
            }
        }
        2 | 3 => {
            let size = [100, 20_000, 300_000, 2 * MIB, 6 * MIB][random.below(5) as usize];
            let digest = Digest { size_bytes: size as i64, ..absent_digest(random.next()) };
            let name = cache.write_name(&digest);
            world.write_names.lock().expect("no panic holds it").push(name.clone());
            let piece_bytes = [16 * 1024, 100_000, 2 * MIB][random.below(3) as usize];
            let mut messages = write_messages(&name, &world.junk[..size], piece_bytes);
            messages.truncate(random.below(messages.len() as u64 + 1) as usize);
            let messages = tokio_stream::iter(messages).chain(futures_util::stream::pending());
            drop(cache.byte_stream().write(messages).await);
        }
        4 => {
            let (digest, data) = blob(random.next(), [10, 5000, 100_000, MIB + 5][random.below(4) as usize]);
            let name = cache.write_name(&digest);
            world.write_names.lock().expect("no panic holds it").push(name.clone());
            drop(cache.write(write_messages(&name, &data, 64 * 1024)).await);
        }
        5 => {
            let digests: Vec<_> = (0..random.below(5000)).map(|_| world.small.clone()).collect();
            drop(cache.find_missing(&digests).await);
        }
        6 => {
            let blobs = (0..random.below(20)).map(|_| blob(random.next(), 40_000)).collect();
            drop(cache.batch_update(blobs).await);
        }
        7 => drop(cache.batch_read(&vec![world.small.clone(); random.below(100) as usize]).await),
        8 => drop(cache.tree(&world.root, 1 + random.below(50) as i32).await),
        9 => {
            drop(cache.get_action(&world.action).await);
            drop(cache.write_status(&cache.write_name(&world.small)).await);
        }
        _ => {
            let stdout_raw = world.junk[..random.below(200_000) as usize].to_vec();
            let put = ActionResult { stdout_raw, ..result(&world.small, &world.root) };
            drop(cache.update_action(&absent_digest(random.next()), put).await);
        }
    }
}

/// A part of a message to a method of any kind, on a connection of its own, and no more.
async fn half_a_message(server: &Server, world: &World, random: &mut Random) {
    let path = [
        "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs",
        "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs",
        "/build.bazel.remote.execution.v2.ActionCache/UpdateActionResult",
        "/google.bytestream.ByteStream/Write",
        "/google.bytestream.ByteStream/Read",
    ][random.below(5) as usize];
    let length = [10, 60_000, 3 * MIB][random.below(3) as usize];
    let mut half = grpc_frame(&world.junk[..length]);
    half.truncate(random.below(half.len() as u64) as usize);
    let stream = TcpStream::connect(server.address()).await.expect("the server takes a connection");
    let Ok((mut sender, connection)) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await
    else {
        return;
    };
    let driver = tokio::spawn(connection);
    let body = tokio_stream::iter([Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(half)))])
        .chain(futures_util::stream::pending());
    let request = Request::post(format!("http://{}{path}", server.address()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(StreamBody::new(body))
        .expect("a well-formed request");
    let outcome = tokio::time::timeout(random.a_moment() * 3, sender.send_request(request)).await;
    if random.below(2) == 0 {
        // The connection goes with the stream open.
        driver.abort();
    }
    drop((outcome, sender));
    let _ended = driver.await;
}

/// An HTTP/1.1 request whose client goes in the middle of asking or of being answered.
async fn half_over_http(server: &Server, world: &World, random: &mut Random) {
    let mut stream = TcpStream::connect(server.address()).await.expect("the server takes a connection");
    let size = [10, 50_000, 3 * MIB][random.below(3) as usize];
    let digest = absent_digest(random.next());
    let (head, body) = match random.below(4) {
        0 => (format!("GET /cas/{} HTTP/1.1\r\nHost: cask\r\n\r\n", world.large.hash), 0),
        1 => (format!("GET /ac/{} HTTP/1.1\r\nHost: cask\r\n\r\n", world.action.hash), 0),
        2 => (format!("PUT /cas/{} HTTP/1.1\r\nHost: cask\r\nContent-Length: {size}\r\n\r\n", digest.hash), size),
        _ => (format!("PUT /ac/{} HTTP/1.1\r\nHost: cask\r\nContent-Length: {size}\r\n\r\n", digest.hash), size),
    };
    let mut bytes = [head.as_bytes(), &world.junk[..body]].concat();
    if random.below(3) > 0 {
        bytes.truncate(random.below(bytes.len() as u64) as usize);
    }
    let talk = async {
        let _ = stream.write_all(&bytes).await;
        let mut some = vec![0; random.below(300_000) as usize + 1];
        let _ = stream.read_exact(&mut some).await;
    };
    let _ = tokio::time::timeout(Duration::from_millis(3), talk).await;
}

async fn work(server: Arc<Server>, world: Arc<World>, seed: u64, rounds: u64) {
    let mut random = Random(seed);
    let mut steady = Cache::connect(&server).await;
    let hurried = Cache::connect_with_deadline(&server, Duration::from_millis(2)).await;
    for _ in 0..rounds {
        let moment = random.a_moment();
        match random.below(20) {
            // The stream is reset.
            0..11 => drop(tokio::time::timeout(moment, call(&steady, &world, &mut random)).await),
            11..14 => {
                // Its own deadline ends the call, or what holds on to a stream is ended a little later.
                drop(tokio::time::timeout(moment * 4, call(&hurried, &world, &mut random)).await);
            }
            14 => {
                // The connection goes, with two calls on it.
                let (mut first, mut second) = (Random(random.next()), Random(random.next()));
                let both =
                    async { tokio::join!(call(&steady, &world, &mut first), call(&steady, &world, &mut second)) };
                drop(tokio::time::timeout(moment, both).await);
                steady = Cache::connect(&server).await;
            }
            15 | 16 => half_a_message(&server, &world, &mut random).await,
            _ => half_over_http(&server, &world, &mut random).await,
        }
    }
}

/// Descriptors beside those of the segments, which the store makes as it grows.
fn other_open_files(server: &Server, metrics: &Metrics) -> usize {
    server.open_file_count() - metrics.get("cask_segments") as usize
}

/// What has to be as it was before the first call.
async fn still_held(server: &Server, files_max: usize, threads_max: usize) -> Vec<String> {
    let metrics = Metrics::of(server).await;
    let mut held: Vec<String> =
        metrics.budgets_in_use().into_iter().map(|(name, value)| format!("{name} {value}")).collect();
    for name in ["cask_uploads_open", "cask_pins", "cask_parked_uploads", "cask_parked_bytes"] {
        if metrics.get(name) != 0.0 {
            held.push(format!("{name} {}", metrics.get(name)));
        }
    }
    let (files, threads) = (other_open_files(server, &metrics), server.thread_count());
    if files > files_max {
        held.push(format!("{files} open files, before {files_max}"));
    }
    if threads > threads_max {
        held.push(format!("{threads} threads, before {threads_max}"));
    }
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_cancelled_calls_leave_nothing_behind() {
    let (total, seed) = (setting("CASK_CANCELLATIONS", 10_000), setting("CASK_CANCELLATION_SEED", 1));
    let server = Arc::new(Server::start(Options::with_max_size("1GiB")));
    let world = {
        let cache = Cache::connect(&server).await;
        Arc::new(furnish(&cache).await)
    };
    // A fiftieth first, so that what is made once and kept is there.
    storm(&server, &world, seed, total / 50).await;
    forget_interrupted_uploads(&server, &world).await;
    settle(&server, usize::MAX, usize::MAX).await;
    let files = other_open_files(&server, &Metrics::of(&server).await);
    let (threads, memory) = (server.thread_count(), server.anonymous_memory_bytes());

    storm(&server, &world, seed + 1, total).await;
    let metrics = Metrics::of(&server).await;
    // Or there would have been nothing to leak.
    assert!(metrics.cancelled_calls() > total as f64 / 10.0, "{} calls were cut off", metrics.cancelled_calls());
    assert!(metrics.get("cask_parked_uploads") <= 1024.0 && metrics.get("cask_parked_bytes") <= 64.0 * MIB as f64);
    forget_interrupted_uploads(&server, &world).await;
    settle(&server, files, threads).await;
    let grown = server.anonymous_memory_bytes().saturating_sub(memory);
    assert!(grown <= MEMORY_GROWTH_BYTES_MAX, "{total} cancelled calls cost {} MiB", grown / MIB as u64);

    let cache = Cache::connect(&server).await;
    assert_eq!(cache.read(&world.large).await.expect("Read"), blob(1, 5 * MIB).1);
    assert_eq!(cache.get_action(&world.action).await.expect("GetActionResult").output_files.len(), 1);
}

async fn storm(server: &Arc<Server>, world: &Arc<World>, seed: u64, total: u64) {
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let seed = seed.wrapping_mul(1_000_003).wrapping_add(worker);
        workers.spawn(work(Arc::clone(server), Arc::clone(world), seed, total.div_ceil(WORKERS)));
    }
    while let Some(outcome) = workers.join_next().await {
        outcome.expect("a worker does not panic");
    }
}

/// Uploads that were cut off are parked for their clients. Ends each by finishing it at once, far too short.
async fn forget_interrupted_uploads(server: &Server, world: &World) {
    let cache = Cache::connect(server).await;
    let names = std::mem::take(&mut *world.write_names.lock().expect("no panic holds it"));
    for name in names {
        drop(cache.write(vec![piece(&name, 0, &[], true)]).await);
    }
}

/// Polls until nothing is held.
async fn settle(server: &Server, files: usize, threads: usize) {
    let begun = Instant::now();
    loop {
        let held = within("the metrics", still_held(server, files, threads)).await;
        if held.is_empty() {
            return;
        }
        assert!(begun.elapsed() < HANG_GUARD, "still held after {HANG_GUARD:?}: {held:#?}");
        tokio::task::yield_now().await;
    }
}
