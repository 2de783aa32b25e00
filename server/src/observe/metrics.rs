//! `/metrics`: the Prometheus text exposition of the engine's counters and the edge's. Each line of help says what a
//! change means or what to do, not what the name already says.

mod execution;

use std::fmt::Write;

use cask_engine::EngineStats;

use self::Kind::{Counter, Gauge};
use super::requests::RequestCounts;
use crate::asset::{AssetStats, Assets};
use crate::cache::Cache;
use crate::execution::{Execution, ExecutionStats};

/// The media type of the exposition format.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

/// What the edge holds for its clients.
#[derive(Clone, Debug)]
pub(crate) struct EdgeGauges {
    /// Name, used, limit.
    budgets: [(&'static str, usize, usize); 10],
    parked_uploads: usize,
    parked_bytes: usize,
    open_logs: usize,
    assets: AssetStats,
    /// Where there is execution.
    execution: Option<ExecutionStats>,
}

impl EdgeGauges {
    pub(crate) fn of(cache: &Cache, assets: &Assets, execution: Option<&Execution>) -> EdgeGauges {
        let (parked_uploads, parked_bytes) = cache.parked();
        let budgets = cache.budgets().all().map(|(name, budget)| (name, budget.used(), budget.limit()));
        EdgeGauges {
            budgets,
            parked_uploads,
            parked_bytes,
            open_logs: cache.open_log_count(),
            assets: assets.stats(),
            execution: execution.map(Execution::stats),
        }
    }
}

/// The whole page.
pub(crate) fn exposition(
    stats: &EngineStats,
    edge: &EdgeGauges,
    requests: &RequestCounts,
    started_unix_seconds: f64,
) -> String {
    let mut page = Page { text: String::with_capacity(8 * 1024) };
    page.single(
        "cask_start_time_seconds",
        Gauge,
        "When this process began to serve, as Unix time.",
        started_unix_seconds,
    );
    page.family("cask_build_info", Gauge, "Always 1; the version is in the label.");
    page.sample("cask_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);

    for (name, kind, help, value) in engine_metrics(stats) {
        page.single(name, kind, help, value as f64);
    }

    page.family(
        "cask_budget_used",
        Gauge,
        "What clients hold now of each budget. At its limit requests wait, then are refused: RESOURCE_EXHAUSTED.",
    );
    for (budget, used, _) in edge.budgets {
        page.sample("cask_budget_used", &[("budget", budget)], used as f64);
    }
    page.family("cask_budget_limit", Gauge, "What there is of each budget.");
    for (budget, _, limit) in edge.budgets {
        page.sample("cask_budget_limit", &[("budget", budget)], limit as f64);
    }
    page.single(
        "cask_parked_uploads",
        Gauge,
        "Interrupted uploads kept for their clients to resume.",
        edge.parked_uploads as f64,
    );
    page.single("cask_parked_bytes", Gauge, "Bytes of staging that they hold.", edge.parked_bytes as f64);
    asset_metrics(&mut page, &edge.assets);
    if let Some(stats) = &edge.execution {
        execution::execution_metrics(&mut page, stats);
    }
    page.single(
        "cask_logs_open",
        Gauge,
        "Log streams that are being written; each holds up to 128 KiB.",
        edge.open_logs as f64,
    );
    page.single(
        "cask_connections",
        Gauge,
        "Connections open now; at max_connections further ones wait.",
        requests.connections_open() as f64,
    );
    page.single(
        "cask_connections_total",
        Counter,
        "Connections accepted. A rate near the request rate means clients do not keep them.",
        requests.connections_total() as f64,
    );
    page.single(
        "cask_requests_in_flight",
        Gauge,
        "Requests being answered now, gRPC and HTTP.",
        requests.in_flight() as f64,
    );
    page.family(
        "cask_grpc_requests_total",
        Counter,
        "gRPC calls ended, by code. CANCELLED counts calls their clients gave up.",
    );
    for (service, method, code, count) in requests.grpc() {
        page.sample(
            "cask_grpc_requests_total",
            &[("service", service), ("method", method), ("code", code)],
            count as f64,
        );
    }
    page.family("cask_http_requests_total", Counter, "HTTP requests answered, by status.");
    for (route, method, code, count) in requests.http() {
        page.sample("cask_http_requests_total", &[("route", route), ("method", method), ("code", code)], count as f64);
    }
    page.text
}

fn asset_metrics(page: &mut Page, stats: &AssetStats) {
    // Taken apart so that a new count cannot be forgotten here.
    let AssetStats { lookups, fetches, fetches_joined, received_bytes, fetches_under_way, spooled_bytes } = stats;
    page.family(
        "cask_asset_lookups_total",
        Counter,
        "URIs looked up by Fetch. stale: older than the client accepts, which is each time where Bazel knows no checksum.",
    );
    for (result, count) in lookups {
        page.sample("cask_asset_lookups_total", &[("result", result)], *count as f64);
    }
    page.family(
        "cask_asset_fetches_total",
        Counter,
        "Fetches from origins that ended. denied: see asset_origins; mismatch: an origin's content is not what clients expect; unstored: see cask_uploads_refused_total.",
    );
    for (outcome, count) in fetches {
        page.sample("cask_asset_fetches_total", &[("outcome", outcome)], *count as f64);
    }
    page.single(
        "cask_asset_fetches_joined_total",
        Counter,
        "Requests that waited for a fetch another one had begun.",
        *fetches_joined as f64,
    );
    page.single("cask_asset_received_bytes_total", Counter, "Bytes received from origins.", *received_bytes as f64);
    page.single(
        "cask_asset_fetches_under_way",
        Gauge,
        "Fetches from origins under way; those above 32 wait. Staying there: origins are slow, lower asset_timeout.",
        *fetches_under_way as f64,
    );
    page.single(
        "cask_asset_spooled_bytes",
        Gauge,
        "Bytes of fetches that wait for their digest, on disk beside the store; at most twice asset_max_size.",
        *spooled_bytes as f64,
    );
}

/// The engine's values by their metrics' names without the prefix.
pub(super) fn engine_values(stats: &EngineStats) -> impl Iterator<Item = (&'static str, u64)> {
    engine_metrics(stats).into_iter().map(|(name, _, _, value)| (name.trim_start_matches("cask_"), value))
}

fn engine_metrics(stats: &EngineStats) -> [(&'static str, Kind, &'static str, u64); 25] {
    // Taken apart so that a new counter of the engine cannot be forgotten here.
    let EngineStats {
        entry_count,
        index_memory_bytes,
        index_complete,
        disk_bytes,
        max_size_bytes,
        segments_free,
        segments_total,
        segments_max,
        uploads_open,
        pins,
        appended_bytes_total,
        reinserted_bytes_total,
        reclaimed_segments_total,
        spared_segments_total,
        dropped_records_total,
        lease_broken_total,
        horizon_ms,
        uploads_refused_total,
        corrupt_records_total,
        quarantined_segments_total,
        scrubbed_bytes_total,
        scrubbed_records_total,
        scrub_cycles_total,
        scrub_cycle_ended_ms,
        restored_structures_total,
    } = *stats;
    [
        ("cask_entries", Gauge, "Entries in the index: blobs and action results.", entry_count),
        ("cask_index_memory_bytes", Gauge, "Memory reserved by the index.", index_memory_bytes),
        (
            "cask_index_complete",
            Gauge,
            "0 while the index is filled after a start: reads are served, FindMissing and uploads are not yet.",
            u64::from(index_complete),
        ),
        ("cask_disk_bytes", Gauge, "Bytes the store takes on disk; never above cask_max_size_bytes.", disk_bytes),
        ("cask_max_size_bytes", Gauge, "The limit set by max_size.", max_size_bytes),
        (
            "cask_segments_free",
            Gauge,
            "Segments ready to be written. Staying at 0 means writes outrun reclaim.",
            segments_free,
        ),
        ("cask_segments", Gauge, "Segments the store has.", segments_total),
        ("cask_segments_max", Gauge, "Segments that max_size has room for.", segments_max),
        ("cask_uploads_open", Gauge, "Uploads the engine is taking in now.", uploads_open),
        ("cask_pins", Gauge, "Chunks of blobs being sent now; each keeps its segment from being reused.", pins),
        ("cask_appended_bytes_total", Counter, "Bytes of new records written.", appended_bytes_total),
        (
            "cask_reinserted_bytes_total",
            Counter,
            "Bytes rewritten to keep what is leased or in use. Over a third of cask_appended_bytes_total: raise max_size.",
            reinserted_bytes_total,
        ),
        ("cask_reclaimed_segments_total", Counter, "Segments emptied for reuse.", reclaimed_segments_total),
        (
            "cask_spared_segments_total",
            Counter,
            "Times a segment was left for another turn because most of it is in use. Over cask_reclaimed_segments_total: raise max_size.",
            spared_segments_total,
        ),
        ("cask_dropped_records_total", Counter, "Records evicted.", dropped_records_total),
        (
            "cask_lease_broken_total",
            Counter,
            "Records evicted before their lease ended (never before its floor). Growing: raise max_size or lower lease.",
            lease_broken_total,
        ),
        (
            "cask_horizon_seconds",
            Gauge,
            "What was used within this time is there: the least time since its last use at which a record was evicted in the last hour or two, and until one is, the time since the start. Below the lease while cask_lease_broken_total grows: raise max_size.",
            horizon_ms / 1000,
        ),
        (
            "cask_uploads_refused_total",
            Counter,
            "Uploads refused for want of room. Growing: raise max_size or lower lease_floor.",
            uploads_refused_total,
        ),
        (
            "cask_corrupt_records_total",
            Counter,
            "Records found corrupt and treated as missing. Growing: look at the disk.",
            corrupt_records_total,
        ),
        (
            "cask_quarantined_segments_total",
            Counter,
            "Segments set aside after a failed write or a failed read of the scrubber. Growing: replace the disk.",
            quarantined_segments_total,
        ),
        (
            "cask_scrubbed_bytes_total",
            Counter,
            "Bytes read to be checked. Standing still with scrub_period set: nothing is stored, or a cycle rests.",
            scrubbed_bytes_total,
        ),
        ("cask_scrubbed_records_total", Counter, "Blobs and action results checked.", scrubbed_records_total),
        ("cask_scrub_cycles_total", Counter, "Times that everything stored was checked.", scrub_cycles_total),
        (
            "cask_scrub_cycle_end_time_seconds",
            Gauge,
            "When everything had been checked last, as Unix time; 0: not since the start. Older than twice scrub_period: the disk is too slow for it.",
            scrub_cycle_ended_ms / 1000,
        ),
        (
            "cask_restored_structures_total",
            Counter,
            "Segment headers and footers found damaged and written again. Growing: look at the disk.",
            restored_structures_total,
        ),
    ]
}

struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Counter => "counter",
            Gauge => "gauge",
        };
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Label values are our own names: nothing in them needs escaping.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(name);
        for (position, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.text, "{}{label}=\"{text}\"", if position == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn single(&mut self, name: &str, kind: Kind, help: &str, value: f64) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{Method, StatusCode};

    use super::super::requests::HttpRoute;
    use super::*;

    #[test]
    fn each_sample_stands_under_its_help_and_type_once() {
        let requests = Arc::new(RequestCounts::new(&[]));
        requests.count_http(HttpRoute::Cas, &Method::GET, StatusCode::NOT_FOUND);
        drop(requests.begin_grpc("/nobody/knows"));
        let stats = EngineStats { disk_bytes: 50 << 30, ..EngineStats::default() };
        let assets = AssetStats { lookups: vec![("hit", 4)], ..AssetStats::default() };
        let execution = Some(ExecutionStats { runs: vec![("failed", 5)], ..ExecutionStats::default() });
        let edge = EdgeGauges {
            budgets: [("things", 3, 10); 10],
            parked_uploads: 1,
            parked_bytes: 2,
            open_logs: 3,
            assets,
            execution,
        };
        let page = exposition(&stats, &edge, &requests, 1_700_000_000.5);

        let mut families = std::collections::HashSet::new();
        let mut current = "";
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                current = rest.split_once(' ').expect("a help text").0;
                assert!(families.insert(current), "{current} twice");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                assert_eq!(name, current);
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            } else {
                let name = line.split(['{', ' ']).next().expect("a name");
                assert_eq!(name, current);
            }
        }
        for line in [
            "cask_start_time_seconds 1700000000.5",
            "cask_disk_bytes 53687091200",
            r#"cask_budget_used{budget="things"} 3"#,
            r#"cask_asset_lookups_total{result="hit"} 4"#,
            r#"cask_execution_runs_total{outcome="failed"} 5"#,
            r#"cask_grpc_requests_total{service="unknown",method="unknown",code="CANCELLED"} 1"#,
            r#"cask_http_requests_total{route="cas",method="GET",code="404"} 1"#,
        ] {
            assert!(page.lines().any(|found| found == line), "no line {line}");
        }
    }
}
