//! Row 12: blobs of 1 MiB that the page cache does not have, each read once, 32 in flight, beside `O_DIRECT` reads of the same
//! files; and what other clients of the same network thread feel of it.
//!
//! Each turn stops the server, lets go of the segments' pages, and starts it again. Network threads must not take a single
//! major fault; how long a small FindMissing on another connection takes meanwhile is the stall that a client would see,
//! beside the same over blobs in memory, which shows what the machine does to it.

use std::path::Path;
use std::thread;
use std::time::Duration;

use cask_load::{Limit, Options, Report, Workload};

use super::cores::yielding;
use super::direct;
use super::hindrance::Hindrance;
use super::line::{Bound, Line, Unit};
use super::rounds::{Sample, median};
use super::scene::Scene;
use super::server::{Counted, NETWORK_THREAD, Server, load, turn};

const BLOB_BYTES: u64 = 1 << 20;
const IN_FLIGHT: usize = 32;
/// Small requests between looks at whether the reads are done.
const PROBES: u64 = 100;

pub(super) fn measure(scene: &Scene, lines: &mut Vec<Line>) -> Result<(), Hindrance> {
    direct::on_disk(&scene.folder)?;
    let blobs: usize = if scene.pace.is_quick { 192 } else { 1024 };
    let mut server = Server::start(scene, "4GiB")?;
    let workload = Workload::Read { size_bytes: BLOB_BYTES, blobs };
    // Stores them, and reads one.
    let once = Options { limit: Limit::Requests(1), warm_up: Duration::ZERO, ..server.options(scene, IN_FLIGHT) };
    load(&workload, &once)?;
    let (mut reference, mut cold, mut stalls, mut hot_stalls, mut faults) = (vec![], vec![], vec![], vec![], 0);
    for _ in 0..scene.pace.rounds.min(3) {
        let mut raw = None;
        server.restart(scene, |store| {
            let segments = direct::files_of(&store.join("segments"))?;
            direct::forget(&segments)?;
            raw = Some(direct::read(&segments, blobs as u64 * BLOB_BYTES, IN_FLIGHT)?);
            Ok(())
        })?;
        reference.extend(raw);
        let before = major_faults_of_network_threads(server.pid());
        cold.push(read_all(scene, &server, &workload, blobs)?);
        faults += major_faults_of_network_threads(server.pid()) - before;
        // Once more with somebody beside it, whose requests the processor time above must not count.
        server.restart(scene, |store| direct::forget(&direct::files_of(&store.join("segments"))?))?;
        let before = major_faults_of_network_threads(server.pid());
        stalls.push(slowest_beside(scene, &server, &workload, blobs)?);
        faults += major_faults_of_network_threads(server.pid()) - before;
        hot_stalls.push(slowest_beside(scene, &server, &workload, blobs)?);
    }
    let middle = |samples: &[Sample]| median(samples.iter().map(|sample| sample.per_second));
    let cpu_ms = median(cold.iter().map(Sample::cpu_ms));
    lines.push(
        Line::new(
            "12",
            "cold reads of 1 MiB, 32 in flight: share of O_DIRECT at depth 32",
            Bound::AtLeast(0.9),
            Unit::Share,
            middle(&cold) / middle(&reference),
        )
        .that_is(format!("{:.2} GB/s, {cpu_ms:.0} ms/GB", middle(&cold)))
        .beside(format!("{:.2} GB/s", middle(&reference))),
    );
    let what = "the same: major faults of network threads";
    lines.push(Line::new("12", what, Bound::AtMost(0.0), Unit::Count, faults as f64));
    let what = "the same: slowest FindMissing of 1 digest beside them";
    let hot = median(hot_stalls.into_iter());
    lines.push(
        Line::new("12", what, Bound::AtMost(1.0), Unit::Milliseconds, median(stalls.into_iter()))
            .beside(format!("beside the same blobs in memory {hot:.2} ms")),
    );
    Ok(())
}

/// Reads every blob once; counted in gigabytes.
fn read_all(scene: &Scene, server: &Server, workload: &Workload, blobs: usize) -> Result<Sample, Hindrance> {
    let limit = Limit::Requests(blobs as u64);
    let options = Options { limit, warm_up: Duration::ZERO, ..server.options(scene, IN_FLIGHT) };
    turn(workload, &options, Counted::Gigabytes)
}

/// The slowest small request on another connection while every blob is read once, in milliseconds.
fn slowest_beside(scene: &Scene, server: &Server, workload: &Workload, blobs: usize) -> Result<f64, Hindrance> {
    thread::scope(|scope| {
        // At the lowest priority: on the client's core the prober must not wait for it.
        let reader = scope.spawn(|| yielding(|| read_all(scene, server, workload, blobs)));
        let probe = Workload::FindMissing { batch: 1, hit_rate: 0.0, blobs: 100 };
        let mut slowest: f64 = 0.0;
        while !reader.is_finished() {
            let limit = Limit::Requests(PROBES);
            let options = Options { limit, warm_up: Duration::ZERO, server_pid: None, ..server.options(scene, 1) };
            slowest = slowest.max(slowest_ms(&load(&probe, &options)?));
        }
        reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(slowest)
    })
}

fn slowest_ms(report: &Report) -> f64 {
    report.operations.iter().map(|row| row.latency.max_us / 1e3).fold(0.0, f64::max)
}

/// Page faults that had to wait for the disk, of the threads that serve connections.
fn major_faults_of_network_threads(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| major_faults(&task.path())).sum()
}

fn major_faults(task: &Path) -> Option<u64> {
    let name = std::fs::read_to_string(task.join("comm")).ok()?;
    let stat = std::fs::read_to_string(task.join("stat")).ok()?;
    // Behind the name in parentheses, which may hold anything; field 12 of proc(5).
    let count = stat.rsplit_once(')')?.1.split_whitespace().nth(9)?.parse().ok()?;
    name.starts_with(NETWORK_THREAD).then_some(count)
}
