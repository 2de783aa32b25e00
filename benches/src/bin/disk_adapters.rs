//! The ways of writing, side by side in one run: what a durable 4 KiB put and an append of 1 MiB cost in time and CPU,
//! against a bare write with fdatasync of the same bytes. Decides what `DiskAdapter::Auto` is.
//!
//! `cargo run --release -p cask-benches --bin disk_adapters`, with `CASK_BENCH_DIR` for the disk to measure. Rounds are
//! interleaved (reference, then each adapter), the median of all counts.

use std::path::PathBuf;

use cask_benches::durable_puts::{Case, Cost, bare, puts};
use cask_engine::{DiskAdapter, Durability};

const ADAPTERS: [DiskAdapter; 3] = [DiskAdapter::Positioned, DiskAdapter::Uring, DiskAdapter::Auto];
const ROUNDS: usize = 11;
const KIB_4: usize = 4 << 10;
const MIB: usize = 1 << 20;

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
