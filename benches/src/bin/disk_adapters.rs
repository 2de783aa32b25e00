//! The ways of writing, side by side in one run: what a durable 4 KiB put and an append of 1 MiB cost in time and CPU,
//! against a bare write with fdatasync of the same bytes. Decides what `DiskAdapter::Auto` is.
//!
//! `cargo run --release -p cask-benches --bin disk_adapters`, with `CASK_BENCH_DIR` for the disk to measure. Rounds are
//! interleaved (reference, then each adapter), the median of all counts.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use cask_benches::process::cpu_time;
use cask_benches::{blob, digest_of};
use cask_engine::clock::SystemClock;
use cask_engine::{DiskAdapter, Durability, Engine, EngineOptions};

const ADAPTERS: [DiskAdapter; 3] = [DiskAdapter::Positioned, DiskAdapter::Uring, DiskAdapter::Auto];
const ROUNDS: usize = 11;
const KIB_4: usize = 4 << 10;
const MIB: usize = 1 << 20;

/// What is put, how, and how often a round.
struct Case {
    name: &'static str,
    durability: Durability,
    length_bytes: usize,
    in_flight: usize,
    puts: usize,
    /// Every second put is an action result: a lane of its own.
    actions: bool,
}

const CASES: [Case; 9] = [
    Case::new("4 KiB synced, 1 writer", Durability::Synced, KIB_4, 1, 150),
    Case::new("4 KiB synced, 32 writers", Durability::Synced, KIB_4, 32, 1_600),
    Case::new("4 KiB synced, 256 writers", Durability::Synced, KIB_4, 256, 5_120),
    Case { actions: true, ..Case::new("4 KiB synced, 32 writers, two lanes", Durability::Synced, KIB_4, 32, 1_600) },
    Case::new("4 KiB written, 1 writer", Durability::Written, KIB_4, 1, 1_500),
    Case::new("4 KiB written, 256 writers", Durability::Written, KIB_4, 256, 5_120),
    Case::new("1 MiB synced, 1 writer", Durability::Synced, MIB, 1, 30),
    Case::new("1 MiB synced, 32 writers", Durability::Synced, MIB, 32, 96),
    Case::new("1 MiB written, 32 writers", Durability::Written, MIB, 32, 96),
];

impl Case {
    const fn new(
        name: &'static str,
        durability: Durability,
        length_bytes: usize,
        in_flight: usize,
        puts: usize,
    ) -> Self {
        Self { name, durability, length_bytes, in_flight, puts, actions: false }
    }
}

/// Of one put, hashing not counted.
#[derive(Clone, Copy)]
struct Cost {
    /// For one writer the median, else the mean.
    wall: Duration,
    cpu: Duration,
}

fn main() {
    let folder = std::env::var_os("CASK_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    println!("in {}, median of {ROUNDS} rounds; times of one put in us, without hashing", folder.display());
    println!("{:40}{:>22}{:>22}{:>22}{:>22}", "", "bare write, fdatasync", "positioned", "uring", "auto");
    println!("{:40}{}", "", format!("{:>12}{:>10}", "wall", "cpu").repeat(4));
    let mut first = 0;
    for case in &CASES {
        let mut costs = vec![Vec::new(); 1 + ADAPTERS.len()];
        for _ in 0..ROUNDS {
            costs[0].push(bare(&folder, case));
            for (adapter, costs) in ADAPTERS.into_iter().zip(&mut costs[1..]) {
                costs.push(puts(&folder, adapter, case, &mut first));
            }
        }
        print!("{:40}", case.name);
        for mut of_one in costs {
            of_one.sort_by_key(|cost| cost.wall);
            let Cost { wall, .. } = of_one[ROUNDS / 2];
            of_one.sort_by_key(|cost| cost.cpu);
            let Cost { cpu, .. } = of_one[ROUNDS / 2];
            print!("{:>12.1}{:>10.1}", wall.as_secs_f64() * 1e6, cpu.as_secs_f64() * 1e6);
        }
        println!();
    }
}

/// One write after the other to a file whose blocks were all written before.
fn bare(folder: &Path, case: &Case) -> Cost {
    const FILE_BYTES: u64 = 64 << 20;
    let folder = tempfile::tempdir_in(folder).expect("a temporary folder");
    let file = File::create(folder.path().join("bare")).expect("a file");
    file.write_all_at(&vec![0; FILE_BYTES as usize], 0).expect("written");
    file.sync_all().expect("synced");
    let data = blob(1, case.length_bytes);
    let count = case.puts.min(150);
    let mut times = Vec::with_capacity(count);
    let cpu = cpu_time();
    for number in 0..count as u64 {
        let offset = number * data.len() as u64 % FILE_BYTES;
        let started = Instant::now();
        file.write_all_at(&data, offset).expect("written");
        if case.durability == Durability::Synced {
            file.sync_data().expect("synced");
        }
        times.push(started.elapsed());
    }
    Cost { wall: median(&mut times), cpu: cpu_time().saturating_sub(cpu) / count as u32 }
}

/// The puts of a round to a store of its own: first a tenth of them unmeasured.
fn puts(folder: &Path, adapter: DiskAdapter, case: &Case, first: &mut u64) -> Cost {
    let folder = tempfile::tempdir_in(folder).expect("a temporary folder");
    let options = EngineOptions {
        lease: Duration::ZERO,
        lease_floor: Duration::ZERO,
        durability: case.durability,
        disk_adapter: adapter,
        index_capacity: Some(200_000),
        ..EngineOptions::new(1 << 30)
    };
    let (engine, _) = Engine::open(folder.path(), options, Arc::new(SystemClock::new())).expect("a store");
    run(&engine, case, case.puts / 10, first);
    run(&engine, case, case.puts, first)
}

fn run(engine: &Engine, case: &Case, puts: usize, first: &mut u64) -> Cost {
    let (mut wall, mut cpu, mut times) = (Duration::ZERO, Duration::ZERO, Vec::new());
    let mut left = puts;
    while left > 0 {
        let count = left.min(case.in_flight);
        left -= count;
        // Verified before the clock starts: what remains is the way to the disk.
        let mut uploads = Vec::with_capacity(count);
        let (sender, acknowledged) = channel();
        for number in 0..count {
            *first += 1;
            let data = blob(*first, case.length_bytes);
            let digest = digest_of(&data);
            if case.actions && number % 2 == 1 {
                uploads.push((None, digest, data));
                continue;
            }
            let cask_engine::BeginUpload::Upload(mut upload) = engine.begin_upload(digest).expect("begun") else {
                unreachable!("no blob twice");
            };
            let room = upload.part_room_bytes().min(data.len());
            upload.append(&data[..room]).expect("appended");
            uploads.push((Some(upload), digest, data[room..].to_vec()));
        }
        let (started, cpu_started) = (Instant::now(), cpu_time());
        for (upload, digest, data) in uploads {
            let sender = sender.clone();
            let done = Box::new(move |outcome| drop(sender.send(outcome)));
            match upload {
                Some(upload) => upload.finish(done).expect("right"),
                None => engine.put_action("", &digest, &data, &[], done),
            }
        }
        for _ in 0..count {
            acknowledged.recv().expect("an answer").expect("stored");
        }
        let took = started.elapsed();
        wall += took;
        cpu += cpu_time().saturating_sub(cpu_started);
        times.push(took);
    }
    let wall = if case.in_flight == 1 { median(&mut times) } else { wall / puts as u32 };
    Cost { wall, cpu: cpu / puts as u32 }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
