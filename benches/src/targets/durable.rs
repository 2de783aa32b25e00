//! Rows 10 and 11: durable puts of 4 KiB beside a bare write with fdatasync, durable puts of 1 MiB beside what the disk
//! takes in sequence. The engine alone; hashing and the copy into the buffer that goes with it are not counted.

use cask_engine::{DiskAdapter, Durability};

use super::direct;
use super::hindrance::Hindrance;
use super::line::{Bound, Line, Unit};
use super::rounds::{Sample, in_turn};
use super::scene::Scene;
use crate::durable_puts::{Case, Cost, bare, puts};

const KIB_4: usize = 4 << 10;
const MIB: usize = 1 << 20;
/// More turns than elsewhere: they are short, and disks are moodier than processors.
const ROUNDS: usize = 7;

pub(super) fn measure(scene: &Scene, lines: &mut Vec<Line>) -> Result<(), Hindrance> {
    direct::on_disk(&scene.folder)?;
    let quick = if scene.pace.is_quick { 4 } else { 1 };
    let rounds = if scene.pace.is_quick { scene.pace.rounds } else { ROUNDS };
    let mut first = 0;
    let mut small = |in_flight, count: usize| {
        let case = Case::new("", Durability::Synced, KIB_4, in_flight, count / quick);
        in_turn(
            rounds,
            [&mut || Ok(sample(bare(&scene.folder, &case))), &mut || {
                Ok(sample(puts(&scene.folder, DiskAdapter::Auto, &case, &mut first)))
            }],
        )
    };
    let us = |sample: &Sample| 1e6 / sample.per_second;
    let [reference, alone] = small(1, 150)?;
    lines.push(
        Line::new(
            "10",
            "durable 4 KiB put, 1 writer: time against bare write + fdatasync",
            Bound::AtMost(1.3),
            Unit::Times,
            us(&alone) / us(&reference),
        )
        .that_is(format!("{:.0} us, {:.0} us of CPU", us(&alone), alone.cpu_us()))
        .beside(format!("{:.0} us", us(&reference))),
    );
    for (writers, count, least) in [(32, 1_600, 9.0), (256, 5_120, 15.0)] {
        let [reference, many] = small(writers, count)?;
        lines.push(
            Line::new(
                "10",
                format!("durable 4 KiB puts, {writers} writers: rate against bare write + fdatasync"),
                Bound::AtLeast(least),
                Unit::Times,
                many.per_second / reference.per_second,
            )
            .that_is(format!("{:.1} k/s, {:.1} us of CPU each", many.per_second / 1e3, many.cpu_us()))
            .beside(format!("{:.1} k/s", reference.per_second / 1e3)),
        );
    }
    let case = Case::new("", Durability::Synced, MIB, 32, 192 / quick);
    let [reference, large] = in_turn(
        rounds,
        [&mut || direct::write(&scene.folder, 256 << 20, 8), &mut || {
            Ok(sample(puts(&scene.folder, DiskAdapter::Auto, &case, &mut first)))
        }],
    )?;
    let rate = large.per_second * MIB as f64 / 1e9;
    lines.push(
        Line::new(
            "11",
            "durable 1 MiB puts, 32 writers: share of the disk's sequential rate",
            Bound::AtLeast(0.8),
            Unit::Share,
            rate / reference.per_second,
        )
        .that_is(format!("{rate:.2} GB/s"))
        .beside(format!("O_DIRECT, 8 at once, {:.2} GB/s", reference.per_second)),
    );
    lines.push(Line::new(
        "11",
        "the same: CPU of a put beside hashing",
        Bound::AtMost(80.0),
        Unit::Microseconds,
        large.cpu_us(),
    ));
    Ok(())
}

fn sample(cost: Cost) -> Sample {
    Sample { per_second: 1.0 / cost.wall.as_secs_f64().max(1e-9), cpu_seconds: cost.cpu.as_secs_f64() }
}
