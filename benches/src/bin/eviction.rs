//! Hit ratio and write amplification of the engine beside textbook caches, on a generated and a recorded workload.
//!
//! `eviction [--json FILE] [--workload NAME] [--share PERCENT]... [--quick]`: prints a table. Fails when the engine misses its
//! targets: a hit ratio within 1.5 points of object LRU at a write amplification of 1.2, 1.33 over any tenth of the
//! replay, and not one violation of the lease floor.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use cask_benches::eviction::engine::EngineCache;
use cask_benches::eviction::generated::{Company, generate};
use cask_benches::eviction::lists::{ListCache, Order};
use cask_benches::eviction::recorded::{Recording, Teams};
use cask_benches::eviction::replay::Promise;
use cask_benches::eviction::segments::{Reinsert, SegmentCache};
use cask_benches::eviction::{Outcome, Trace, replay};

const TRACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/traces/bazel.trace");
const SHARES_PERCENT: [u64; 4] = [5, 10, 20, 40];
const MINUTE_MS: u64 = 60_000;
const NO_PROMISE: Promise = Promise { floor_ms: 0, lease_ms: 0 };
const LEASES: Promise = Promise { floor_ms: 10 * MINUTE_MS, lease_ms: 4 * 60 * MINUTE_MS };

const POINTS_MAX: f64 = 1.5;
const AMPLIFICATION_MAX: f64 = 1.2;
const AMPLIFICATION_ANY_TIME_MAX: f64 = 1.33;

struct Arguments {
    json: Option<String>,
    workload: Option<String>,
    shares: Vec<u64>,
    policies: Vec<String>,
    quick: bool,
}

struct Row {
    workload: &'static str,
    share: u64,
    policy: &'static str,
    outcome: Outcome,
    lease_broken: u64,
    seconds: f64,
}

fn main() -> ExitCode {
    let Some(arguments) = arguments() else {
        eprintln!(
            "usage: eviction [--json FILE] [--workload generated|bazel] [--share PERCENT]... [--policy NAME]... [--quick]"
        );
        return ExitCode::from(2);
    };
    let mut rows = Vec::new();
    println!(
        "{:<10} {:>5} {:<14} {:>8} {:>8} {:>7} {:>7} {:>8} {:>7} {:>8} {:>8} {:>6}",
        "workload", "size", "policy", "hits %", "bytes %", "WA", "WA max", "refused", "floor", "lease", "broken", "s"
    );
    for (name, make) in [("generated", generated as fn(bool) -> Trace), ("bazel", recorded)] {
        if arguments.workload.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        let trace = make(arguments.quick);
        println!(
            "# {name}: {} events over {:.1} days, footprint {:.0} MB in {} objects",
            trace.events.len(),
            trace.duration_ms() as f64 / 86.4e6,
            trace.footprint_bytes() as f64 / 1e6,
            trace.sizes_bytes.len()
        );
        for share in &arguments.shares {
            measure(name, &trace, *share, &arguments.policies, &mut rows);
        }
    }
    if let Some(path) = &arguments.json
        && let Err(error) = std::fs::write(path, json(&rows))
    {
        eprintln!("cannot write {path}: {error}");
        return ExitCode::FAILURE;
    }
    let failures = failures(&rows);
    for failure in &failures {
        eprintln!("{failure}");
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn arguments() -> Option<Arguments> {
    let mut parsed = Arguments { json: None, workload: None, shares: Vec::new(), policies: Vec::new(), quick: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => parsed.json = Some(arguments.next()?),
            "--workload" => parsed.workload = Some(arguments.next()?),
            "--share" => parsed.shares.push(arguments.next()?.parse().ok()?),
            "--policy" => parsed.policies.push(arguments.next()?),
            "--quick" => parsed.quick = true,
            _ => return None,
        }
    }
    if parsed.shares.is_empty() {
        parsed.shares = if parsed.quick { vec![20] } else { SHARES_PERCENT.to_vec() };
    }
    Some(parsed)
}

fn generated(quick: bool) -> Trace {
    let company = Company::MIDDLING;
    generate(if quick { Company { days: 3, developers: 30, commits_a_day: 60, ..company } } else { company })
}

fn recorded(quick: bool) -> Trace {
    let text = std::fs::read_to_string(TRACE).unwrap_or_else(|error| panic!("cannot read {TRACE}: {error}"));
    let recording = Recording::parse(&text).unwrap_or_else(|error| panic!("{TRACE}: {error}"));
    recording.played_by(Teams {
        count: if quick { 16 } else { 40 },
        shared: 0.1,
        members: 6,
        pause_ms: 30 * MINUTE_MS,
        scale: 8,
        seed: 1,
    })
}

fn measure(workload: &'static str, trace: &Trace, share: u64, only: &[String], rows: &mut Vec<Row>) {
    let size_bytes = trace.footprint_bytes() * share / 100;
    // As many segments as a store of some hundred gigabytes has, as far as the smallest segment allows.
    let segment_bytes = (size_bytes / 512).next_power_of_two().clamp(SEGMENT_BYTES_MIN, 1 << 20) as u32;
    let list = |order| ListCache::new(trace, order, size_bytes);
    let segments = |reinsert| SegmentCache::new(trace, reinsert, size_bytes, u64::from(segment_bytes));
    for policy in ["lru", "sieve", "fifo", "clock", "cask", "cask leased"] {
        if !only.is_empty() && !only.iter().any(|name| name == policy) {
            continue;
        }
        let started = Instant::now();
        let promise = if policy == "cask leased" { LEASES } else { NO_PROMISE };
        let mut lease_broken = 0;
        let outcome = match policy {
            "lru" => replay(trace, LEASES, &mut list(Order::Lru)),
            "sieve" => replay(trace, LEASES, &mut list(Order::Sieve)),
            "fifo" => replay(trace, LEASES, &mut segments(Reinsert::Nothing)),
            "clock" => replay(trace, LEASES, &mut segments(Reinsert::Touched)),
            _ => {
                let mut cache = EngineCache::new(trace, size_bytes, segment_bytes, promise);
                let outcome = replay(trace, LEASES, &mut cache);
                let stats = cache.stats();
                lease_broken = stats.lease_broken_total;
                if std::env::var_os("EVICTION_STATS").is_some() {
                    println!("{stats:?} steps {}", cache.reclaim_steps());
                }
                outcome
            }
        };
        let row = Row { workload, share, policy, outcome, lease_broken, seconds: started.elapsed().as_secs_f64() };
        print(&row);
        rows.push(row);
    }
}

const SEGMENT_BYTES_MIN: u64 = 64 << 10;

fn print(row: &Row) {
    let Row { workload, share, policy, outcome, lease_broken, seconds } = row;
    println!(
        "{workload:<10} {share:>3} % {policy:<14} {:>8.2} {:>8.2} {:>7.3} {:>7.3} {:>8} {:>7} {:>8} {lease_broken:>8} {seconds:>6.1}",
        outcome.hit_ratio() * 100.0,
        outcome.byte_hit_ratio() * 100.0,
        outcome.amplification(),
        outcome.amplification_max,
        outcome.refused,
        outcome.floor_violations,
        outcome.lease_violations,
    );
}

fn failures(rows: &[Row]) -> Vec<String> {
    let mut failures = Vec::new();
    for row in rows.iter().filter(|row| row.policy.starts_with("cask")) {
        let Row { workload, share, policy, outcome, .. } = row;
        let ideal = rows.iter().find(|other| (other.workload, other.share, other.policy) == (workload, *share, "lru"));
        if let Some(ideal) = ideal {
            let points = (ideal.outcome.hit_ratio() - outcome.hit_ratio()) * 100.0;
            if points > POINTS_MAX {
                failures.push(format!("{workload} {share} % {policy}: {points:.2} points below object LRU"));
            }
        }
        if outcome.amplification() > AMPLIFICATION_MAX || outcome.amplification_max > AMPLIFICATION_ANY_TIME_MAX {
            let (mean, most) = (outcome.amplification(), outcome.amplification_max);
            failures.push(format!("{workload} {share} % {policy}: write amplification {mean:.3}, at most {most:.3}"));
        }
        if *policy == "cask leased" && outcome.floor_violations > 0 {
            failures.push(format!("{workload} {share} % {policy}: {} floor violations", outcome.floor_violations));
        }
    }
    failures
}

fn json(rows: &[Row]) -> String {
    let mut text = String::from("[\n");
    for (position, row) in rows.iter().enumerate() {
        let Row { workload, share, policy, outcome, lease_broken, seconds } = row;
        let _ = write!(
            text,
            "{}  {{\"workload\": \"{workload}\", \"size_percent\": {share}, \"policy\": \"{policy}\", \"hit_ratio\": {:.5}, \
             \"byte_hit_ratio\": {:.5}, \"write_amplification\": {:.4}, \"write_amplification_max\": {:.4}, \
             \"requests\": {}, \"uploaded_bytes\": {}, \"refused\": {}, \"floor_violations\": {}, \
             \"lease_violations\": {}, \"lease_broken\": {lease_broken}, \"seconds\": {seconds:.1}}}",
            if position == 0 { "" } else { ",\n" },
            outcome.hit_ratio(),
            outcome.byte_hit_ratio(),
            outcome.amplification(),
            outcome.amplification_max,
            outcome.requests,
            outcome.uploaded_bytes,
            outcome.refused,
            outcome.floor_violations,
            outcome.lease_violations,
        );
    }
    text.push_str("\n]\n");
    text
}
