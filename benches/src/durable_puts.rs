//! What a put costs on the way to the disk, hashing not counted, beside a bare write of the same bytes with fdatasync.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use cask_engine::clock::SystemClock;
use cask_engine::{BeginUpload, DiskAdapter, Durability, Engine, EngineOptions};

use crate::process::cpu_time;
use crate::{blob, digest_of};

/// What is put, how, and how often a round.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// For people.
    pub name: &'static str,
    /// When a put is acknowledged.
    pub durability: Durability,
    /// Bytes of each blob.
    pub length_bytes: usize,
    /// Puts under way at once.
    pub in_flight: usize,
    /// Puts a round.
    pub puts: usize,
    /// Every second put is an action result: a lane of its own.
    pub actions: bool,
}

impl Case {
    /// Blobs alone.
    pub const fn new(
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
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// For one writer the median, else the mean.
    pub wall: Duration,
    /// Of all threads.
    pub cpu: Duration,
}

/// One write after the other to a file whose blocks were all written before.
///
/// # Panics
/// When the disk fails.
pub fn bare(folder: &Path, case: &Case) -> Cost {
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

/// The puts of a round to a store of its own: first a tenth of them unmeasured. `first` numbers blobs, no two alike.
///
/// # Panics
/// When the store fails.
pub fn puts(folder: &Path, adapter: DiskAdapter, case: &Case, first: &mut u64) -> Cost {
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
            let BeginUpload::Upload(mut upload) = engine.begin_upload(digest).expect("begun") else {
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
    let wall = if case.in_flight == 1 { median(&mut times) } else { wall / puts.max(1) as u32 };
    Cost { wall, cpu: cpu / puts.max(1) as u32 }
}

/// The middle one; zero of none.
fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
