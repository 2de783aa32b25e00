//! A server under attack, and what has to hold of it: others are served, memory stays below a bound, and in the end everything
//! is given back.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bazel_remote_apis::build::bazel::remote::execution::v2::Digest;

use crate::support::blob::{absent_digest, blob};
use crate::support::grpc::Cache;
use crate::support::metrics::Metrics;
use crate::support::process::{Options, Server};
use crate::support::within;

pub(crate) const MIB: u64 = 1 << 20;

/// How often the ordinary client makes its calls while an attack runs.
const ROUNDS: u64 = 10;

/// The server has one thread: what keeps it busy keeps everybody waiting.
pub(crate) struct Siege {
    pub(crate) server: Arc<Server>,
    pub(crate) cache: Cache,
    present: Digest,
    data: Vec<u8>,
    /// Of the server, before the attack.
    memory_bytes: u64,
    connections: u64,
}

/// How far an attack has come: told by the attacker, in whatever it counts.
#[derive(Clone, Default)]
pub(crate) struct Progress(Arc<AtomicU64>);

impl Progress {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Siege {
    pub(crate) async fn lay() -> Self {
        Self::lay_with(Options::default()).await
    }

    pub(crate) async fn lay_with(mut options: Options) -> Self {
        options.flags.extend(["--threads", "1"]);
        let server = Arc::new(Server::start(options));
        let cache = Cache::connect(&server).await;
        let (present, data) = blob(1, 20_000);
        cache.upload(&present, &data).await.expect("Write");
        let mut siege = Self { server, cache, present, data, memory_bytes: 0, connections: 0 };
        // What is made once, on first use, is there before memory is measured.
        for round in 0..3 {
            siege.ordinary_calls(1_000_000 + round).await;
        }
        siege.connections = siege.connections_open().await;
        siege.memory_bytes = siege.server.anonymous_memory_bytes();
        siege
    }

    /// What a build does: asks, reads and writes, on a connection it has and on a new one.
    pub(crate) async fn ordinary_calls(&self, round: u64) {
        let fresh = within("a new connection", Cache::connect(&self.server)).await;
        for (number, cache) in [&self.cache, &fresh].into_iter().enumerate() {
            let absent = absent_digest(round);
            let missing = cache.find_missing(&[self.present.clone(), absent.clone()]).await;
            assert_eq!(missing.expect("FindMissingBlobs"), [absent]);
            assert!(cache.read(&self.present).await.expect("Read") == self.data);
            let (digest, data) = blob(10_000 + round * 2 + number as u64, 3_000);
            assert_eq!(cache.upload(&digest, &data).await.expect("Write"), 3_000);
        }
    }

    pub(crate) fn grown_bytes(&self) -> u64 {
        self.server.anonymous_memory_bytes().saturating_sub(self.memory_bytes)
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        within("the metrics", Metrics::of(&self.server)).await
    }

    /// Beside the one that asks.
    pub(crate) async fn connections_open(&self) -> u64 {
        self.metrics().await.count("cask_connections") - 1
    }

    #[track_caller]
    pub(crate) fn assert_grown_below(&self, bytes_max: u64, what: &str) {
        let grown = self.grown_bytes();
        assert!(grown < bytes_max, "{what}: memory grew by {} KiB, at most {} KiB", grown >> 10, bytes_max >> 10);
    }

    /// Serves ordinary clients while what was done already holds on; memory stays below the bound.
    pub(crate) async fn endure(&self, bytes_max: u64) {
        for round in 0..ROUNDS {
            within("ordinary calls under attack", self.ordinary_calls(round)).await;
            self.assert_grown_below(bytes_max, "under attack");
        }
    }

    /// Runs attackers side by side until the ordinary client has made its calls and each has come as far as `enough`.
    pub(crate) async fn endure_attackers<F>(
        &self,
        attackers: usize,
        enough: u64,
        bytes_max: u64,
        attack: impl Fn(Arc<Server>, Progress) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut running = tokio::task::JoinSet::new();
        let mut progress = Vec::new();
        for _ in 0..attackers {
            let told = Progress::default();
            running.spawn(attack(Arc::clone(&self.server), told.clone()));
            progress.push(told);
        }
        let mut round = 0;
        let mut longest = std::time::Duration::ZERO;
        let endured = async {
            while round < ROUNDS || progress.iter().any(|told| told.get() < enough) {
                let begun = std::time::Instant::now();
                self.ordinary_calls(round).await;
                longest = longest.max(begun.elapsed());
                self.assert_grown_below(bytes_max, "under attack");
                round += 1;
                if let Some(ended) = running.try_join_next() {
                    ended.expect("an attacker does not fail");
                    panic!("an attacker gave up");
                }
            }
        };
        within("ordinary calls under attack", endured).await;
        println!(
            "{round} rounds of ordinary calls, the longest {longest:?}, beside {} frames or so; memory grew by {} KiB",
            progress.iter().map(Progress::get).sum::<u64>(),
            self.grown_bytes() >> 10
        );
        running.shutdown().await;
    }

    /// The attackers are gone: nothing is held for them, and everything goes on.
    pub(crate) async fn lift(self) {
        let given_back = async {
            loop {
                let metrics = self.metrics().await;
                let mut held: Vec<String> =
                    metrics.budgets_in_use().into_iter().map(|(name, value)| format!("{name} {value}")).collect();
                for (name, base) in [
                    ("cask_connections", self.connections + 1),
                    // The one that asks.
                    ("cask_requests_in_flight", 1),
                    ("cask_uploads_open", 0),
                    ("cask_pins", 0),
                ] {
                    if metrics.count(name) > base {
                        held.push(format!("{name} {}", metrics.count(name)));
                    }
                }
                if held.is_empty() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        within("everything to be given back", given_back).await;
        self.ordinary_calls(2_000_000).await;
        let mut server = Arc::into_inner(self.server).expect("the attackers are gone");
        assert!(server.is_alive());
    }
}
