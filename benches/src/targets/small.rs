//! Rows 2 and 3: small answers, 16 requests in flight on one connection, beside a raw peer that answers as many bytes for
//! as many bytes. The figure is what a whole core would give; what the clock said stands beside it.

use cask_load::Workload;

use super::hindrance::Hindrance;
use super::line::{Bound, Line, Unit};
use super::raw::Raw;
use super::rounds::{Sample, in_turn};
use super::scene::Scene;
use super::server::{Counted, Server, turn};

const IN_FLIGHT: usize = 16;

/// One kind of request.
struct Case {
    row: &'static str,
    what: &'static str,
    workload: Workload,
    least_per_second: f64,
    /// What goes over the wire, heads of frames included.
    request_bytes: usize,
    answer_bytes: usize,
}

pub(super) fn measure(scene: &Scene, lines: &mut Vec<Line>) -> Result<(), Hindrance> {
    let raw = Raw::start(scene)?;
    let server = Server::start(scene, "1GiB")?;
    let options = server.options(scene, IN_FLIGHT);
    let cases = [
        Case {
            row: "2",
            what: "4 KiB reads, 16 in flight, per core",
            workload: Workload::Read { size_bytes: 4096, blobs: 1000 },
            least_per_second: 130e3,
            request_bytes: 130,
            answer_bytes: 4_170,
        },
        Case {
            row: "3",
            what: "action hits, 16 in flight, per core",
            workload: Workload::ActionHit { actions: 1000, outputs: 1 },
            least_per_second: 130e3,
            request_bytes: 120,
            answer_bytes: 200,
        },
        Case {
            row: "3",
            what: "FindMissing of 1 digest, 16 in flight, per core",
            workload: Workload::FindMissing { batch: 1, hit_rate: 1.0, blobs: 1000 },
            least_per_second: 130e3,
            request_bytes: 120,
            answer_bytes: 60,
        },
    ];
    for case in &cases {
        let [reference, measured] = in_turn(
            scene.pace.rounds,
            [&mut || raw.answer(case.request_bytes, case.answer_bytes, IN_FLIGHT, scene.pace.turn), &mut || {
                turn(&case.workload, &options, Counted::Requests)
            }],
        )?;
        lines.push(
            Line::new(
                case.row,
                case.what,
                Bound::AtLeast(case.least_per_second),
                Unit::PerSecond,
                measured.per_core_second(),
            )
            .that_is(both(&measured))
            .beside(format!(
                "raw ping-pong {} ({})",
                Unit::PerSecond.write(reference.per_core_second()),
                both(&reference)
            )),
        );
    }
    Ok(())
}

/// Processor time of one, and the rate by the clock.
pub(super) fn both(sample: &Sample) -> String {
    format!("{:.2} us each; {} by the clock", sample.cpu_us(), Unit::PerSecond.write(sample.per_second))
}
