//! Rows 7 and 8: blobs of 64 MB uploaded one after the other, beside a raw peer that receives as much, and SHA-256 alone.
//!
//! The server always hashes, so the upload "without hash" is what remains when the hash alone is subtracted. It also
//! stores: the raw peer throws away what it reads.

use cask_load::{Options, Workload};

use super::hash;
use super::hindrance::Hindrance;
use super::line::{Bound, Line, Unit};
use super::raw::Raw;
use super::rounds::in_turn;
use super::scene::Scene;
use super::server::{Counted, Server, turn};

const BLOB_BYTES: u64 = 64_000_000;
/// As Bazel writes.
const MESSAGE_BYTES: usize = 16 << 10;

pub(super) fn measure(scene: &Scene, lines: &mut Vec<Line>) -> Result<(), Hindrance> {
    let raw = Raw::start(scene)?;
    let server = Server::start(scene, "4GiB")?;
    let workload = Workload::Write { size_bytes: BLOB_BYTES, message_bytes: MESSAGE_BYTES };
    let mut seed = 1;
    let [received, hashed, uploaded] = in_turn(
        scene.pace.rounds,
        [&mut || raw.receive(BLOB_BYTES, scene.pace.turn), &mut || Ok(hash::of_a_stream(scene)), &mut || {
            seed += 1;
            turn(&workload, &Options { seed, ..server.options(scene, 1) }, Counted::Gigabytes)
        }],
    )?;
    let beside_hash = uploaded.cpu_ms() - hashed.cpu_ms();
    lines.push(
        Line::new(
            "7",
            "upload of 64 MB without the hash: server CPU against raw receive",
            Bound::AtMost(1.5),
            Unit::Times,
            beside_hash / received.cpu_ms(),
        )
        .that_is(format!("{beside_hash:.0} ms/GB, storing included"))
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
        .that_is(format!("{:.0} ms/GB in all; {:.2} GB/s by the clock", uploaded.cpu_ms(), uploaded.per_second))
        .beside(format!("SHA-256 of a stream {:.0} ms/GB", hashed.cpu_ms())),
    );
    Ok(())
}
