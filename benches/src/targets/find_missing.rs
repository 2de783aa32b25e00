//! Row 4: FindMissingBlobs end to end, in digests a second of a whole core, beside a raw peer that receives requests of as
//! many bytes.

use cask_load::Workload;

use super::hindrance::Hindrance;
use super::line::{Bound, Line, Unit};
use super::raw::Raw;
use super::rounds::in_turn;
use super::scene::Scene;
use super::server::{Counted, Server, turn};

/// What a client that counts on batches has in flight.
const IN_FLIGHT: usize = 4;
/// A digest of SHA-256 in a request, its size of two digits.
const DIGEST_BYTES: usize = 70;
const LEAST_PER_SECOND: f64 = 25e6;

pub(super) fn measure(scene: &Scene, lines: &mut Vec<Line>) -> Result<(), Hindrance> {
    let raw = Raw::start(scene)?;
    let server = Server::start(scene, "2GiB")?;
    let blobs = if scene.pace.is_quick { 20_000 } else { 100_000 };
    let options = server.options(scene, IN_FLIGHT);
    for (batch, hit_rate) in [(1_000, 1.0), (10_000, 1.0), (1_000, 0.5)] {
        let workload = Workload::FindMissing { batch, hit_rate, blobs };
        let missing = ((1.0 - hit_rate) * batch as f64) as usize;
        let [reference, measured] = in_turn(
            scene.pace.rounds,
            [
                &mut || {
                    let mut sample =
                        raw.answer(batch * DIGEST_BYTES, 60 + missing * DIGEST_BYTES, IN_FLIGHT, scene.pace.turn)?;
                    sample.per_second *= batch as f64;
                    sample.cpu_seconds /= batch as f64;
                    Ok(sample)
                },
                &mut || turn(&workload, &options, Counted::Digests),
            ],
        )?;
        let what = format!(
            "FindMissing of {} k digests, {:.0} % there, 4 in flight: digests per core",
            batch / 1000,
            hit_rate * 100.0
        );
        lines.push(
            Line::new("4", what, Bound::AtLeast(LEAST_PER_SECOND), Unit::PerSecond, measured.per_core_second())
                .that_is(format!("{} by the clock", Unit::PerSecond.write(measured.per_second)))
                .beside(format!("raw ping-pong {}", Unit::PerSecond.write(reference.per_core_second()))),
        );
    }
    Ok(())
}
