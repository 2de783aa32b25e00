//! Rows 5, 6 and 16: the index and the engine alone, no socket. FindMissing from a request's bytes to its answer's beside
//! the same by the generated types; the index's memory; an action hit with 1,000 outputs.

use std::time::{Duration, Instant};

use cask_engine::EngineOptions;

use super::hindrance::Hindrance;
use super::line::{Bound, Line, Unit};
use super::rounds::{Sample, in_turn, median};
use super::scene::Scene;
use crate::lookup::{FullIndex, Lists};
use crate::process::{anonymous_memory_bytes, thread_time};
use crate::{blob, digest_of, fill, open};

const BATCH_DIGESTS: u64 = 1_000;
/// Digests asked for before one comes again: their lines are in no cache then.
const ASKED: u64 = 1_000_000;
const OUTPUTS: u64 = 1_000;

pub(super) fn measure(scene: &Scene, lines: &mut Vec<Line>) -> Result<(), Hindrance> {
    scene.cores.on_measured(|| {
        index(scene, lines)?;
        action_hit(scene, lines)
    })
}

fn index(scene: &Scene, lines: &mut Vec<Line>) -> Result<(), Hindrance> {
    let entries = scene.entries;
    let before = anonymous_memory_bytes();
    let lacking = || Hindrance::Lacking(format!("no memory for an index of {entries} entries"));
    let index = FullIndex::of(entries).ok_or_else(lacking)?;
    let bytes_each = anonymous_memory_bytes().saturating_sub(before) as f64 / entries as f64;
    for hit_percent in [100, 50, 0] {
        let requests = index.requests(BATCH_DIGESTS, ASKED.min(entries), hit_percent);
        let (mut next, mut next_generated) = (requests.iter().cycle(), requests.iter().cycle());
        let mut lists = Lists::default();
        let turn = scene.pace.turn / 2;
        let [generated, by_hand] = in_turn(
            scene.pace.rounds,
            [
                &mut || {
                    Ok(digests(turn, || index.answer_by_generated_types(next_generated.next().expect("endless")).len()))
                },
                &mut || Ok(digests(turn, || index.answer(next.next().expect("endless"), &mut lists).len())),
            ],
        )?;
        let what = format!(
            "FindMissing, engine alone, {} M entries, {hit_percent} % there: digests per core",
            entries / 1_000_000
        );
        lines.push(
            Line::new("5", what, Bound::AtLeast(18e6), Unit::PerSecond, by_hand.per_core_second())
                .that_is(format!("{} by the clock", Unit::PerSecond.write(by_hand.per_second)))
                .beside(format!("generated types {}", Unit::PerSecond.write(generated.per_core_second()))),
        );
    }
    let what = format!("index memory, {} M entries in a table made for as many: a blob", entries / 1_000_000);
    lines.push(Line::new("6", what, Bound::AtMost(24.0), Unit::Bytes, bytes_each));
    Ok(())
}

/// Answers requests until the time is over; counted in digests.
fn digests(time: Duration, mut answer: impl FnMut() -> usize) -> Sample {
    let (begin, cpu, mut requests) = (Instant::now(), thread_time(), 0_u64);
    while begin.elapsed() < time {
        std::hint::black_box(answer());
        requests += 1;
    }
    let cpu = thread_time().saturating_sub(cpu).as_secs_f64();
    Sample::new((requests * BATCH_DIGESTS) as f64, begin.elapsed().as_secs_f64(), cpu)
}

fn action_hit(scene: &Scene, lines: &mut Vec<Line>) -> Result<(), Hindrance> {
    const HITS: u32 = 2_000;
    let folder = tempfile::tempdir_in(&scene.folder).map_err(Hindrance::to("make a folder for a store"))?;
    let options = EngineOptions { index_capacity: Some(100_000), ..EngineOptions::new(1 << 28) };
    let (engine, _) = open(folder.path(), options);
    let outputs = fill(&engine, OUTPUTS, 256);
    let action = digest_of(b"an action");
    let (sender, stored) = std::sync::mpsc::channel();
    let done = Box::new(move |outcome: Result<(), cask_engine::EngineError>| drop(sender.send(outcome)));
    engine.put_action("main", &action, &blob(1, 200), &outputs, done);
    let refused = |error: String| Hindrance::Lacking(format!("the engine refuses an action result: {error}"));
    stored.recv().map_err(|error| refused(error.to_string()))?.map_err(|error| refused(error.to_string()))?;
    let mut times = Vec::new();
    for _ in 0..scene.pace.rounds {
        let cpu = thread_time();
        for _ in 0..HITS {
            let hit = engine.get_action("main", std::hint::black_box(&action));
            std::hint::black_box(hit.map_err(|error| refused(error.to_string()))?);
        }
        times.push(thread_time().saturating_sub(cpu).as_secs_f64() * 1e6 / f64::from(HITS));
    }
    let what = "action hit with 1,000 outputs, engine time";
    lines.push(Line::new("16", what, Bound::AtMost(50.0), Unit::Microseconds, median(times.into_iter())));
    Ok(())
}
