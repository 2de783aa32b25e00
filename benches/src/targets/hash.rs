//! Row 9: SHA-256 of whole small blobs, as many as a batch has, in the lanes of the processor; beside the same one after
//! another. And what streams pay for it, which the upload rows subtract.

use std::time::{Duration, Instant};

use cask_index::{DigestFunction, Hasher, Lanes, sha256_of_each_with};
use cask_load::Workload;

use super::hindrance::Hindrance;
use super::line::{Bound, Line, Unit};
use super::rounds::{Sample, in_turn};
use super::scene::Scene;
use super::server::{Counted, Server, turn};
use crate::blob;
use crate::process::thread_time;

/// Blobs of a batch, and their size.
const BLOBS: usize = 100;
const BLOB_BYTES: usize = 4096;
/// How much a stream hashes at once: a DATA frame or a few.
const PIECE_BYTES: usize = 64 << 10;

pub(super) fn measure(scene: &Scene, lines: &mut Vec<Line>) -> Result<(), Hindrance> {
    let data: Vec<Vec<u8>> = (0..BLOBS as u64).map(|number| blob(number, BLOB_BYTES)).collect();
    let messages: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let time = scene.pace.turn / 4;
    let with = |lanes| {
        let mut hashes = vec![[0; 32]; BLOBS];
        scene.cores.on_measured(|| {
            Ok(gigabytes(time, BLOBS * BLOB_BYTES, || sha256_of_each_with(lanes, &messages, &mut hashes)))
        })
    };
    let one = Lanes { sixteen: false, two: false };
    let two = Lanes { sixteen: false, two: true };
    let all = Lanes { sixteen: true, two: true };
    let [alone, in_two, in_all] =
        in_turn(scene.pace.rounds, [&mut || with(one), &mut || with(two), &mut || with(all)])?;
    let reference = format!("one after another {:.0} ms/GB", alone.cpu_ms());
    let what = "SHA-256 of 100 blobs of 4 KiB at once";
    if has("avx512f") {
        lines.push(
            Line::new("9", format!("{what}, AVX-512"), Bound::AtMost(220.0), Unit::MillisecondsPerGb, in_all.cpu_ms())
                .beside(&reference),
        );
    } else {
        let lacking = Hindrance::Lacking("this processor has no AVX-512".to_owned());
        lines.push(Line::hindered("9", what, &lacking));
    }
    if has("sha_ni") {
        lines.push(
            Line::new("9", format!("{what}, SHA-NI"), Bound::AtMost(340.0), Unit::MillisecondsPerGb, in_two.cpu_ms())
                .beside(&reference),
        );
    } else {
        let lacking = Hindrance::Lacking("this processor has no SHA-NI".to_owned());
        lines.push(Line::hindered("9", what, &lacking));
    }
    // Small, so that it soon overwrites what is in memory, as a store that has been full for long does.
    let server = Server::start(scene, "1GiB")?;
    let workload = Workload::BatchUpdate { size_bytes: BLOB_BYTES as u64, batch: BLOBS };
    let mut seed = 1;
    let [uploaded] = in_turn(
        scene.pace.rounds,
        [&mut || {
            seed += 1;
            let options = cask_load::Options { seed, ..server.options(scene, 4) };
            turn(&workload, &options, Counted::Gigabytes)
        }],
    )?;
    let what = "the whole upload of such batches, server CPU";
    lines.push(
        Line::new("9", what, Bound::None, Unit::MillisecondsPerGb, uploaded.cpu_ms())
            .that_is(format!(
                "{:.2} us a blob; {:.2} GB/s by the clock",
                uploaded.cpu_us() * 4.096e-6,
                uploaded.per_second
            ))
            .beside(format!("of it hashing {:.0} ms/GB", in_all.cpu_ms())),
    );
    Ok(())
}

/// SHA-256 as streams are hashed, on the core of what is measured; counted in gigabytes.
pub(super) fn of_a_stream(scene: &Scene) -> Sample {
    let piece = blob(1, PIECE_BYTES);
    scene.cores.on_measured(|| {
        let mut hasher = Hasher::new(DigestFunction::Sha256, 0);
        gigabytes(scene.pace.turn / 4, PIECE_BYTES, || hasher.update(&piece))
    })
}

/// Does `once` until the time is over, each time `bytes` more.
fn gigabytes(time: Duration, bytes: usize, mut once: impl FnMut()) -> Sample {
    let (begin, cpu, mut count) = (Instant::now(), thread_time(), 0_u64);
    while begin.elapsed() < time {
        once();
        count += 1;
    }
    let cpu = thread_time().saturating_sub(cpu).as_secs_f64();
    Sample::new((count * bytes as u64) as f64 / 1e9, begin.elapsed().as_secs_f64(), cpu)
}

/// Whether the kernel names this among what the processor can do.
fn has(flag: &str) -> bool {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = text.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    flags.split_whitespace().any(|word| word == flag)
}
