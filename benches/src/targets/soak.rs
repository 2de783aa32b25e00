//! The soak: everything at once for as long as it is asked for, while the server's memory is watched. It must not grow.

use std::thread;
use std::time::{Duration, Instant};

use cask_load::{Limit, Options, Workload};

use super::hindrance::Hindrance;
use super::rounds::median;
use super::scene::Scene;
use super::server::Server;
use crate::process::{anonymous_memory_of, resident_memory_of};

/// The first part fills the store, warms caches and allocators, and does not count.
const WARMING_SHARE: f64 = 0.25;
/// Memory may grow by the larger of these from the first third of what counts to the last: it goes up and down with the load.
const GROWTH_SHARE_MAX: f64 = 0.1;
const GROWTH_BYTES_MAX: f64 = 10e6;
/// What is shorter shows the load's ups and downs only.
const TELLING_SECONDS: f64 = 600.0;
/// Each workload is begun anew after this long, with other blobs.
const SLICE: Duration = Duration::from_secs(20);

/// What goes on at once, each on a connection of its own, with so many requests in flight.
const WORKLOADS: [(Workload, usize); 5] = [
    (Workload::Mixed { hit_rate: 0.9 }, 16),
    (Workload::FindMissing { batch: 1_000, hit_rate: 0.0, blobs: 50_000 }, 2),
    (Workload::Read { size_bytes: 64_000_000, blobs: 1 }, 1),
    (Workload::Write { size_bytes: 3_000_000, message_bytes: 64 << 10 }, 1),
    (Workload::BatchUpdate { size_bytes: 4_096, batch: 50 }, 1),
];

/// One look at the server.
struct Look {
    seconds: f64,
    anonymous_bytes: f64,
    resident_bytes: f64,
}

/// Runs for `time`, prints what it sees, and says whether memory stayed flat.
pub fn run(scene: &Scene, time: Duration) -> Result<bool, Hindrance> {
    let server = Server::start_with(scene, "4GiB", &["--lease", "10m", "--lease-floor", "0s"])?;
    let (begin, mut looks, mut requests) = (Instant::now(), Vec::new(), 0);
    thread::scope(|scope| {
        let loads: Vec<_> = WORKLOADS
            .iter()
            .map(|(workload, concurrency)| scope.spawn(|| go_on(scene, &server, workload, *concurrency, begin + time)))
            .collect();
        let mut told = 0;
        while loads.iter().any(|load| !load.is_finished()) {
            thread::sleep(Duration::from_millis(500));
            let look = Look {
                seconds: begin.elapsed().as_secs_f64(),
                anonymous_bytes: anonymous_memory_of(server.pid()) as f64,
                resident_bytes: resident_memory_of(server.pid()) as f64,
            };
            if look.seconds as u64 / 30 > told {
                told = look.seconds as u64 / 30;
                println!(
                    "{:6.0} s  anonymous {:7.1} MB  resident {:7.1} MB",
                    look.seconds,
                    look.anonymous_bytes / 1e6,
                    look.resident_bytes / 1e6
                );
            }
            looks.push(look);
        }
        for load in loads {
            requests += load.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok::<(), Hindrance>(())
    })?;
    Ok(tell(&looks, requests))
}

/// Makes requests until `end`: how many went well.
fn go_on(
    scene: &Scene,
    server: &Server,
    workload: &Workload,
    concurrency: usize,
    end: Instant,
) -> Result<u64, Hindrance> {
    let (mut seed, mut requests) = (1, 0);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left < Duration::from_millis(100) {
            return Ok(requests);
        }
        seed += 1;
        let options = Options {
            limit: Limit::Duration(left.min(SLICE)),
            warm_up: Duration::ZERO,
            seed,
            server_pid: None,
            ..server.options(scene, concurrency)
        };
        let report = cask_load::run(workload, &options, |_| ())?;
        requests += report.operations.iter().map(|row| row.requests).sum::<u64>();
        // A blob may have gone since the client stored it: the store is small, and what was not asked for the longest goes
        // first. That is no matter of memory.
        if let Some(error) = report.errors.first() {
            println!("          {} x {} of {}: {}", error.count, error.code, workload.name(), error.detail);
        }
    }
}

fn tell(looks: &[Look], requests: u64) -> bool {
    let seconds = looks.last().map_or(0.0, |look| look.seconds);
    let counted: Vec<&Look> = looks.iter().filter(|look| look.seconds >= seconds * WARMING_SHARE).collect();
    let third = counted.len() / 3;
    let middle = |looks: &[&Look]| median(looks.iter().map(|look| look.anonymous_bytes));
    let (early, late) = (middle(&counted[..third]), middle(&counted[counted.len() - third..]));
    let slope = slope(counted.iter().map(|look| (look.seconds, look.anonymous_bytes)));
    let resident = slope_of_resident(&counted);
    let flat = late - early <= GROWTH_BYTES_MAX.max(early * GROWTH_SHARE_MAX);
    println!(
        "{requests} requests in {seconds:.0} s; anonymous memory {:.1} MB early, {:.1} MB late: {:+.2} MB an hour ({:+.2} MB with mapped pages); {}",
        early / 1e6,
        late / 1e6,
        slope * 3600.0 / 1e6,
        resident * 3600.0 / 1e6,
        match flat {
            _ if seconds < TELLING_SECONDS => "too short to tell, ten minutes would do",
            true => "flat",
            false => "IT GROWS",
        },
    );
    flat || seconds < TELLING_SECONDS
}

fn slope_of_resident(looks: &[&Look]) -> f64 {
    slope(looks.iter().map(|look| (look.seconds, look.resident_bytes)))
}

/// Of the line that fits best; 0 where there is none.
fn slope(points: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let count = points.clone().count().max(1) as f64;
    let (x_sum, y_sum) = points.clone().fold((0.0, 0.0), |(xs, ys), (x, y)| (xs + x, ys + y));
    let (x_mean, y_mean) = (x_sum / count, y_sum / count);
    let (mut with, mut of) = (0.0, 0.0);
    for (x, y) in points {
        with += (x - x_mean) * (y - y_mean);
        of += (x - x_mean).powi(2);
    }
    if of > 0.0 { with / of } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_of_the_best_line_and_growth_is_told_from_noise() {
        assert!((slope([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)].into_iter()) - 2.0).abs() < 1e-9);
        assert!(slope(std::iter::empty()) == 0.0);
        let looks = |bytes: fn(f64) -> f64| -> Vec<Look> {
            let at = |second: u32| f64::from(second);
            let look = |second| Look { seconds: at(second), anonymous_bytes: bytes(at(second)), resident_bytes: 0.0 };
            (0..1000).map(look).collect()
        };
        assert!(tell(&looks(|second| 100e6 + (second % 7.0) * 1e6), 1), "noise");
        assert!(tell(&looks(|second| 100e6 + second.min(240.0) * 1e6), 1), "it warms up");
        assert!(!tell(&looks(|second| 100e6 + second * 1e5), 1), "it grows");
    }
}
