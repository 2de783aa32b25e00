//! Rows 7 and 8: blobs of 64 MB uploaded one after the other, beside a raw peer that receives as much, and SHA-256 alone.
//!
//! The server always hashes, so an upload "without hash" is what its network thread used, less the hash alone: the raw peer
//! stores nothing, and storing is the work of another thread. Both together are row 8.

use std::time::Duration;

use cask_load::{Options, Workload};

use super::hash;
use super::hindrance::Hindrance;
use super::line::{Bound, Line, Unit};
use super::raw::Raw;
use super::rounds::{in_turn, median};
use super::scene::Scene;
use super::server::{Counted, NETWORK_THREAD, Server, load, sample};
use crate::process::named_threads_time;

const BLOB_BYTES: u64 = 64_000_000;
/// As Bazel writes.
const MESSAGE_BYTES: usize = 16 << 10;

pub(super) fn measure(scene: &Scene, lines: &mut Vec<Line>) -> Result<(), Hindrance> {
    let raw = Raw::start(scene)?;
    // Small, so that it soon overwrites what is in memory, as a store that has been full for long does.
    let server = Server::start(scene, "1GiB")?;
    let workload = Workload::Write { size_bytes: BLOB_BYTES, message_bytes: MESSAGE_BYTES };
    let (mut seed, mut network_ms) = (1, Vec::new());
    let [received, hashed, uploaded] = in_turn(
        scene.pace.rounds,
        [&mut || raw.receive(BLOB_BYTES, scene.pace.turn), &mut || Ok(hash::of_a_stream(scene)), &mut || {
            seed += 1;
            // Nothing else may happen between the two looks at the network thread.
            let options = Options { seed, warm_up: Duration::ZERO, ..server.options(scene, 1) };
            let before = named_threads_time(server.pid(), NETWORK_THREAD);
            let report = load(&workload, &options)?;
            let network = named_threads_time(server.pid(), NETWORK_THREAD).saturating_sub(before);
            let sample = sample(&report, Counted::Gigabytes)?;
            network_ms.push(network.as_secs_f64() * 1e3 / (sample.per_second * report.elapsed_seconds));
            Ok(sample)
        }],
    )?;
    let network_ms = median(network_ms.into_iter()) - hashed.cpu_ms();
    let beside_hash = uploaded.cpu_ms() - hashed.cpu_ms();
    lines.push(
        Line::new(
            "7",
            "upload of 64 MB without hash and storing: CPU against raw receive",
            Bound::AtMost(1.5),
            Unit::Times,
            network_ms / received.cpu_ms(),
        )
        .that_is(format!("{network_ms:.0} ms/GB of the network thread"))
        .beside(format!("{:.0} ms/GB", received.cpu_ms())),
    );
    lines.push(
        Line::new(
            "8",
            "upload of 64 MB: server CPU over the hash alone",
            Bound::AtMost(300.0),
            Unit::MillisecondsPerGb,
            beside_hash,
        )
        .that_is(format!(
            "{:.0} ms/GB in all, of them storing {:.0}; {:.2} GB/s by the clock",
            uploaded.cpu_ms(),
            beside_hash - network_ms,
            uploaded.per_second
        ))
        .beside(format!("SHA-256 of a stream {:.0} ms/GB", hashed.cpu_ms())),
    );
    Ok(())
}
