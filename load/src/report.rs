//! [`Report`]: what a run found, for people and for programs.

use std::fmt::{self, Write as _};
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
    /// Processor time for a thousand million bytes of blobs, where there were blobs.
    pub cpu_ms_per_gb: Option<f64>,
    /// Processor time for each digest, in nanoseconds, where there were digests.
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
                    cpu_ms_per_gb: (bytes > 0).then(|| cpu * 1e3 / (bytes as f64 / 1e9)),
                    cpu_ns_per_digest: (digests > 0).then(|| cpu * 1e9 / digests as f64),
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

/// A time as people read it.
fn time(us: f64) -> String {
    match us {
        us if us < 10.0 => format!("{us:.2} us"),
        us if us < 1000.0 => format!("{us:.0} us"),
        us if us < 10_000.0 => format!("{:.2} ms", us / 1e3),
        us if us < 1e6 => format!("{:.0} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// A number as people read it.
pub(crate) fn quantity(number: f64) -> String {
    match number {
        number if number < 10.0 => format!("{number:.2}"),
        number if number < 10_000.0 => format!("{number:.0}"),
        number if number < 1e6 => format!("{:.1} k", number / 1e3),
        number if number < 1e9 => format!("{:.2} M", number / 1e6),
        number => format!("{:.2} G", number / 1e9),
    }
}

/// Bytes as people read them, in powers of 1000 as rates are.
pub(crate) fn bytes_text(bytes: f64) -> String {
    let text = quantity(bytes);
    if text.ends_with(|last: char| last.is_ascii_digit()) { format!("{text} B") } else { format!("{text}B") }
}

/// The table for people.
impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        writeln!(
            formatter,
            "{} at {}: {} x {} in flight, {}, {:.2} s, seed {}\n",
            self.workload,
            self.target,
            plural(self.connections, "connection"),
            self.concurrency,
            plural(self.threads, "thread"),
            self.elapsed_seconds,
            self.seed,
        )?;
        let mut rows = vec![
            ["", "requests", "/s", "digests/s", "bytes/s", "p50", "p90", "p99", "p99.9", "max"]
                .map(str::to_owned)
                .to_vec(),
        ];
        let some = |value: f64, text: String| if value > 0.0 { text } else { "-".to_owned() };
        for row in &self.operations {
            let Latency { p50_us, p90_us, p99_us, p99_9_us, max_us, .. } = row.latency;
            let mut cells = vec![
                row.operation.name().to_owned(),
                row.requests.to_string(),
                quantity(row.requests_per_second),
                some(row.digests_per_second, quantity(row.digests_per_second)),
                some(row.bytes_per_second, bytes_text(row.bytes_per_second)),
            ];
            cells.extend([p50_us, p90_us, p99_us, p99_9_us, max_us].map(time));
            rows.push(cells);
        }
        write_table(formatter, &rows)?;
        let mut line = format!(
            "\nclient  {} CPU a request, {:.0} % busy",
            time(self.client.cpu_us_per_request),
            self.client.busy * 100.0
        );
        if self.client.busy > 0.9 {
            line.push_str(": it may be what limits the run");
        }
        writeln!(formatter, "{line}")?;
        if let Some(server) = &self.server {
            let mut line = format!("server  {} CPU a request", time(server.cpu_us_per_request));
            if let Some(ms) = server.cpu_ms_per_gb {
                write!(line, ", {ms:.0} ms a GB")?;
            }
            if let Some(ns) = server.cpu_ns_per_digest {
                write!(line, ", {ns:.0} ns a digest")?;
            }
            write!(line, ", {:.2} cores", server.cores)?;
            let [resident, own] = [server.resident_bytes, server.anonymous_bytes].map(|bytes| bytes_text(bytes as f64));
            writeln!(formatter, "{line}; {resident} resident, {own} of it its own")?;
        }
        if self.connections_lost > 0 {
            writeln!(formatter, "lost    {}", plural(self.connections_lost as usize, "connection"))?;
        }
        for (at, error) in self.errors.iter().enumerate() {
            let detail = if error.detail.is_empty() { String::new() } else { format!(": {}", error.detail) };
            let title = if at == 0 { "failed" } else { "" };
            writeln!(formatter, "{title:<8}{} x {}{detail}", error.count, error.code)?;
        }
        Ok(())
    }
}

/// Columns to the right, but the first.
fn write_table(formatter: &mut fmt::Formatter<'_>, rows: &[Vec<String>]) -> fmt::Result {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> =
        (0..columns).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    for row in rows {
        let mut line = format!("{:<width$}", row[0], width = widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            write!(line, "  {cell:>width$}")?;
        }
        writeln!(formatter, "{}", line.trim_end())?;
    }
    Ok(())
}
