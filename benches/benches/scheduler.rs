//! The scheduler alone: what an action costs from its submission to its result, in a farm of 10,000 workers.
//!
//! Each action is submitted, written to the journal, assigned, and finished, and every message and record is made and dropped
//! again. What the network, the disk and the workers add is not in it.

#![allow(missing_docs)] // `criterion_group!` makes public items.

use cask_benches::scheduling::Farm;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const WORKERS: u32 = 10_000;

fn actions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scheduler");
    group.throughput(Throughput::Elements(1));
    for queued in [0, 1_000, 100_000] {
        let mut farm = Farm::new(WORKERS, 1);
        let running = if queued == 0 { WORKERS / 2 } else { WORKERS };
        for _ in 0..running + queued {
            farm.submit();
        }
        group.bench_function(BenchmarkId::new("action", format!("{queued} queued")), |bencher| {
            bencher.iter(|| {
                farm.submit();
                farm.finish();
            });
        });
        assert_eq!(farm.queued(), queued as usize, "as many wait as before");
    }
    let mut farm = Farm::new(WORKERS, 1);
    let mut worker = 0;
    group.bench_function("heartbeat of an idle worker", |bencher| {
        bencher.iter(|| {
            worker += 1;
            farm.beat(worker);
        });
    });
    group.finish();
}

criterion_group!(benches, actions);
criterion_main!(benches);
