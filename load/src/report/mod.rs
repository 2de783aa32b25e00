//! [`Report`]: what a run found, for people (`table`) and for programs (JSON).

mod table;

use std::time::Duration;

use serde::Serialize;

use crate::process::Usage;
use crate::tally::{Row, Tally};
use crate::{Operation, Options, Workload};

/// What a run found. Latencies are of requests that went well, from the moment they were handed to the socket's queue to
/// the end of their answers.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The workload's name.
    pub workload: String,
    /// The server's address.
    pub target: String,
    /// What contents were made from.
    pub seed: u64,
    /// Connections, and requests under way on each.
    pub connections: usize,
    /// Requests under way on each connection.
    pub concurrency: usize,
    /// Threads of the client.
    pub threads: usize,
    /// From the first request to the last answer, in seconds.
    pub elapsed_seconds: f64,
    /// A row for each kind of request.
    pub operations: Vec<OperationReport>,
    /// Requests that failed, by code, the most frequent first.
    pub errors: Vec<ErrorReport>,
    /// Connections that ended while they were used.
    pub connections_lost: u64,
    /// Why a connection was given up before the end, where one was: from then on there was less load than was asked for.
    pub gave_up: Option<String>,
    /// What the client itself used.
    pub client: ClientReport,
    /// What the server used, where its process is known.
    pub server: Option<ServerReport>,
}

/// Requests of one kind that went well.
#[derive(Clone, Debug, Serialize)]
pub struct OperationReport {
    /// Their kind.
    pub operation: Operation,
    /// How many.
    pub requests: u64,
    /// How many a second.
    pub requests_per_second: f64,
    /// Digests in all of them.
    pub digests: u64,
    /// Digests a second.
    pub digests_per_second: f64,
    /// Bytes of blobs in all of them.
    pub bytes: u64,
    /// Bytes of blobs a second.
    pub bytes_per_second: f64,
    /// How long they took.
    pub latency: Latency,
}

/// How long requests took, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// The arithmetic mean.
    pub mean_us: f64,
    /// Half took no longer.
    pub p50_us: f64,
    /// Nine of ten took no longer.
    pub p90_us: f64,
    /// 99 of 100 took no longer.
    pub p99_us: f64,
    /// 999 of 1,000 took no longer.
    pub p99_9_us: f64,
    /// The slowest.
    pub max_us: f64,
}

/// Requests that failed in one way.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorReport {
    /// The status, or what happened instead of one.
    pub code: String,
    /// How many.
    pub count: u64,
    /// What the server said to the first of them.
    pub detail: String,
}

/// What the client used.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ClientReport {
    /// Processor time of the threads that made the requests.
    pub cpu_seconds: f64,
    /// The same for each request.
    pub cpu_us_per_request: f64,
    /// The share of the threads' time that they were busy: near 1, the client is what limits the run.
    pub busy: f64,
}

/// What the server used while it was measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ServerReport {
    /// Processor time of all its threads, in user code and in the kernel.
    pub cpu_seconds: f64,
    /// Of that, in the kernel; in ticks of 10 ms.
    pub system_seconds: f64,
    /// Processor time for each request.
    pub cpu_us_per_request: f64,
    /// Requests for each second of processor time: what one core would do, were it busy with nothing else. Unlike the
    /// rate, this hardly changes when other programs are running.
    pub requests_per_cpu_second: f64,
    /// Processor time for a thousand million bytes of blobs, where all requests were of one kind, and that had blobs.
    pub cpu_ms_per_gb: Option<f64>,
    /// Processor time for each digest, in nanoseconds, where all requests were of one kind, and that had digests.
    pub cpu_ns_per_digest: Option<f64>,
    /// Processors' worth of time it used.
    pub cores: f64,
    /// Resident memory at the end, mapped files included.
    pub resident_bytes: u64,
    /// Resident memory that is its own, at the end.
    pub anonymous_bytes: u64,
}

impl Report {
    pub(crate) fn new(
        workload: &Workload,
        options: &Options,
        tally: &Tally,
        elapsed: Duration,
        server: Option<(Usage, Usage)>,
    ) -> Self {
        let seconds = elapsed.as_secs_f64().max(1e-9);
        let each = |total: f64| total / (tally.answered.max(1) as f64);
        let sum = |part: fn(&Row) -> u64| tally.rows.values().map(part).sum::<u64>();
        // What a byte costs is told where all requests move bytes, and not of a mixture.
        let is_one_kind = tally.rows.len() == 1;
        let (bytes, digests) = (sum(|row| row.work.bytes), sum(|row| row.work.digests));
        let operations = tally.rows.iter().map(|(operation, row)| {
            let requests = row.latency.len();
            OperationReport {
                operation: *operation,
                requests,
                requests_per_second: requests as f64 / seconds,
                digests: row.work.digests,
                digests_per_second: row.work.digests as f64 / seconds,
                bytes: row.work.bytes,
                bytes_per_second: row.work.bytes as f64 / seconds,
                latency: Latency::new(row),
            }
        });
        let mut errors: Vec<ErrorReport> = tally
            .failed
            .iter()
            .map(|(code, failed)| ErrorReport {
                code: code.clone(),
                count: failed.count,
                detail: failed.detail.clone(),
            })
            .collect();
        errors.sort_by_key(|error| std::cmp::Reverse(error.count));
        let client_seconds = tally.cpu.as_secs_f64();
        Self {
            workload: workload.name().to_owned(),
            target: options.target.to_string(),
            seed: options.seed,
            connections: options.connections,
            concurrency: options.concurrency,
            threads: options.threads.min(options.connections),
            elapsed_seconds: seconds,
            operations: operations.collect(),
            errors,
            connections_lost: tally.connections_lost,
            gave_up: tally.gave_up.clone(),
            client: ClientReport {
                cpu_seconds: client_seconds,
                cpu_us_per_request: each(client_seconds * 1e6),
                busy: client_seconds / seconds / options.threads.min(options.connections) as f64,
            },
            server: server.map(|(before, after)| {
                let cpu = after.time_since(&before).as_secs_f64();
                ServerReport {
                    cpu_seconds: cpu,
                    system_seconds: after.system.saturating_sub(before.system).as_secs_f64(),
                    cpu_us_per_request: each(cpu * 1e6),
                    requests_per_cpu_second: tally.answered as f64 / cpu.max(1e-9),
                    cpu_ms_per_gb: (is_one_kind && bytes > 0).then(|| cpu * 1e3 / (bytes as f64 / 1e9)),
                    cpu_ns_per_digest: (is_one_kind && digests > 0).then(|| cpu * 1e9 / digests as f64),
                    cores: cpu / seconds,
                    resident_bytes: after.resident_bytes,
                    anonymous_bytes: after.anonymous_bytes,
                }
            }),
        }
    }

    /// How many requests failed.
    pub fn error_count(&self) -> u64 {
        self.errors.iter().map(|error| error.count).sum()
    }

    /// How many requests went well.
    pub fn request_count(&self) -> u64 {
        self.operations.iter().map(|operation| operation.requests).sum()
    }

    /// As JSON, on one line; docs/benchmarking.md says what is in it.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and texts can be written")
    }
}

impl Latency {
    fn new(row: &Row) -> Self {
        let at = |quantile| row.latency.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            mean_us: row.latency.mean() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p99_9_us: at(0.999),
            max_us: row.latency.max() as f64 / 1e3,
        }
    }
}
