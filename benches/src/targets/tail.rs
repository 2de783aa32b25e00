//! Row `tail`: how long a FindMissing of 10,000 digests takes on a server of one core that also sends a blob of 64 MB again
//! and again, takes uploads, and evicts to make room for them.

use std::thread;
use std::time::{Duration, Instant};

use cask_load::{Limit, Options, Report, Workload};

use super::cores::yielding;
use super::hindrance::Hindrance;
use super::line::{Bound, Line, Unit};
use super::scene::Scene;
use super::server::{Server, load};

const STORE: &str = "2GiB";
const STORE_BYTES: u64 = 2 << 30;
const UPLOAD_BYTES: u64 = 1 << 20;

pub(super) fn measure(scene: &Scene, lines: &mut Vec<Line>) -> Result<(), Hindrance> {
    // What is asked for again and again stays, since it is the last to go, and uploads are never refused.
    let server = Server::start_with(scene, STORE, &["--lease", "1h", "--lease-floor", "0s"])?;
    let time = if scene.pace.is_quick { Duration::from_secs(2) } else { Duration::from_secs(8) };
    let probe = Workload::FindMissing { batch: 10_000, hit_rate: 1.0, blobs: 20_000 };
    let limited = |time| Options { limit: Limit::Duration(time), warm_up: Duration::ZERO, ..server.options(scene, 1) };
    let alone = load(&probe, &limited(time / 2))?;
    // A store that is full has to make room for everything that comes.
    let writer = Workload::Write { size_bytes: UPLOAD_BYTES, message_bytes: 64 << 10 };
    let limit = Limit::Requests(STORE_BYTES / UPLOAD_BYTES);
    load(&writer, &Options { limit, seed: 2, warm_up: Duration::ZERO, ..server.options(scene, 8) })?;
    let background = limited(time + Duration::from_secs(2));
    let (beside, read, written) = thread::scope(|scope| {
        // At the lowest priority: on the client's core the prober must not wait for them.
        let reading = scope.spawn(|| yielding(|| read_for(&background, time + Duration::from_secs(2))));
        let writing = scope.spawn(|| yielding(|| load(&writer, &background)));
        thread::sleep(Duration::from_secs(1));
        let beside = load(&probe, &limited(time));
        (beside, joined(reading.join()), joined(writing.join()))
    });
    let (beside, written, read_bytes_per_second) = (beside?, written?, read?);
    let evicted = written.operations.iter().map(|row| row.bytes as f64).sum::<f64>() / 1e9;
    let rate = |report: &Report| report.operations.iter().map(|row| row.bytes_per_second).sum::<f64>() / 1e9;
    let latency = |report: &Report| report.operations.first().map(|row| row.latency);
    if let Some((beside, alone)) = latency(&beside).zip(latency(&alone)) {
        let what = "FindMissing of 10 k digests beside a 64 MB read and eviction: 99 of 100 within";
        lines.push(
            Line::new("tail", what, Bound::AtMost(5.0), Unit::Milliseconds, beside.p99_us / 1e3)
                .that_is(format!(
                    "half within {:.2} ms; read {:.2} GB/s, written {:.2} GB/s, {evicted:.1} GB evicted for that",
                    beside.p50_us / 1e3,
                    read_bytes_per_second / 1e9,
                    rate(&written),
                ))
                .beside(format!("alone {:.2} ms, half within {:.2} ms", alone.p99_us / 1e3, alone.p50_us / 1e3)),
        );
    }
    Ok(())
}

fn joined<T>(outcome: thread::Result<T>) -> T {
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Reads a large blob again and again, and stores it anew should it be evicted; bytes a second.
fn read_for(options: &Options, time: Duration) -> Result<f64, Hindrance> {
    let workload = Workload::Read { size_bytes: 64_000_000, blobs: 1 };
    let begin = Instant::now();
    let mut bytes = 0;
    while begin.elapsed() < time {
        let options = Options { limit: Limit::Duration(Duration::from_secs(1)), ..options.clone() };
        // What fails here only makes the load less, which the rate tells.
        let report = cask_load::run(&workload, &options, |_| ())?;
        bytes += report.operations.iter().map(|row| row.bytes).sum::<u64>();
    }
    Ok(bytes as f64 / begin.elapsed().as_secs_f64())
}
