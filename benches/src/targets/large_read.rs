//! Row 1: blobs of 64 MB, RAM-hot, read one after the other by a client of Bazel's kind (window 1 MiB, frames of 16 KiB),
//! beside a raw sender of such frames.
//!
//! Two raw senders: one that writes each frame by itself, as HTTP/2 libraries do, which is the design's reference; and one
//! that writes up to 1 MiB at once, which is the least there can be.

use cask_load::Workload;

use super::hindrance::Hindrance;
use super::line::{Bound, Line, Unit};
use super::raw::Raw;
use super::rounds::in_turn;
use super::scene::Scene;
use super::server::{Counted, Server, turn};

const BLOB_BYTES: u64 = 64_000_000;
/// Frames of 16 KiB in 1 MiB.
const MIB_FRAMES: u64 = 64;

pub(super) fn measure(scene: &Scene, lines: &mut Vec<Line>) -> Result<(), Hindrance> {
    let raw = Raw::start(scene)?;
    let server = Server::start(scene, "1GiB")?;
    let workload = Workload::Read { size_bytes: BLOB_BYTES, blobs: 2 };
    let options = server.options(scene, 1);
    let time = scene.pace.turn;
    let [by_frame, by_mib, read] = in_turn(
        scene.pace.rounds,
        [&mut || raw.send(BLOB_BYTES, 1, time), &mut || raw.send(BLOB_BYTES, MIB_FRAMES, time), &mut || {
            turn(&workload, &options, Counted::Gigabytes)
        }],
    )?;
    for (sender, how) in [(by_frame, "a writev a frame"), (by_mib, "a writev for up to 1 MiB")] {
        let share = read.per_second / sender.per_second;
        lines.push(
            Line::new(
                "1",
                format!("Read 64 MB, RAM-hot: share of raw TCP, {how}"),
                Bound::AtLeast(0.9),
                Unit::Share,
                share,
            )
            .that_is(format!("{:.2} GB/s", read.per_second))
            .beside(format!("{:.2} GB/s", sender.per_second)),
        );
        let times = read.cpu_seconds / sender.cpu_seconds;
        lines.push(
            Line::new("1", format!("the same: server CPU against raw, {how}"), Bound::AtMost(1.2), Unit::Times, times)
                .that_is(format!("{:.0} ms/GB", read.cpu_ms()))
                .beside(format!("{:.0} ms/GB", sender.cpu_ms())),
        );
    }
    Ok(())
}
