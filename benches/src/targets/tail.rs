//! Row `tail`: how long a FindMissing of 10,000 digests takes on a server of one core that also sends a blob of 64 MB again
//! and again, takes uploads, and evicts to make room for them.

use std::thread;
use std::time::Duration;

use cask_load::{Limit, Options, Report, Workload};

use super::cores::yielding;
use super::hindrance::Hindrance;
use super::line::{Bound, Line, Unit};
use super::scene::Scene;
use super::server::{Server, load};

const STORE: &str = "512MiB";
const STORE_BYTES: f64 = 512.0 * 1024.0 * 1024.0;

pub(super) fn measure(scene: &Scene, lines: &mut Vec<Line>) -> Result<(), Hindrance> {
    // What is asked for stays: it was asked for last. Uploads are never refused.
    let server = Server::start_with(scene, STORE, &["--lease", "1h", "--lease-floor", "0s"])?;
    let time = if scene.pace.is_quick { Duration::from_secs(2) } else { Duration::from_secs(8) };
    let probe = Workload::FindMissing { batch: 10_000, hit_rate: 1.0, blobs: 20_000 };
    let limited = |time| Options { limit: Limit::Duration(time), warm_up: Duration::ZERO, ..server.options(scene, 1) };
    let alone = load(&probe, &limited(time / 2))?;
    let background = limited(time + Duration::from_secs(2));
    let reader = Workload::Read { size_bytes: 64_000_000, blobs: 1 };
    let writer = Workload::Write { size_bytes: 1 << 20, message_bytes: 64 << 10 };
    let (beside, read, written) = thread::scope(|scope| {
        // At the lowest priority: on the client's core the prober must not wait for them.
        let reading = scope.spawn(|| yielding(|| load(&reader, &background)));
        let writing = scope.spawn(|| yielding(|| load(&writer, &background)));
        thread::sleep(Duration::from_secs(1));
        let beside = load(&probe, &limited(time));
        let joined = |outcome: thread::Result<_>| outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (beside, joined(reading.join()), joined(writing.join()))
    });
    let (beside, read, written) = (beside?, read?, written?);
    let turned_over = written.operations.iter().map(|row| row.bytes as f64).sum::<f64>() / STORE_BYTES;
    if turned_over < 1.0 {
        let lacking = format!("only {:.0} % of the store was written: nothing had to be evicted", turned_over * 100.0);
        return Err(Hindrance::Lacking(lacking));
    }
    let rate = |report: &Report| report.operations.iter().map(|row| row.bytes_per_second).sum::<f64>() / 1e9;
    let latency = |report: &Report| report.operations.first().map(|row| row.latency);
    if let Some((beside, alone)) = latency(&beside).zip(latency(&alone)) {
        let what = "FindMissing of 10 k digests beside a 64 MB read and eviction: 99 of 100 within";
        lines.push(
            Line::new("tail", what, Bound::AtMost(5.0), Unit::Milliseconds, beside.p99_us / 1e3)
                .that_is(format!(
                    "half within {:.2} ms; read {:.2} GB/s, written {:.2} GB/s, the store {turned_over:.1} times over",
                    beside.p50_us / 1e3,
                    rate(&read),
                    rate(&written),
                ))
                .beside(format!("alone {:.2} ms, half within {:.2} ms", alone.p99_us / 1e3, alone.p50_us / 1e3)),
        );
    }
    Ok(())
}
