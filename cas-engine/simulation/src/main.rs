//! `simulate`: runs the engine under simulation and prints, for whatever breaks, the command that breaks it again.

use std::process::ExitCode;
use std::time::Instant;

use cask_simulation::{Broken, Failure, Tally, exhaustive, leases, operations, run_caught, search, setup, shrink};
use clap::Parser;

/// Runs Cask's storage engine on a simulated disk and clock, with faults and crashes, and checks every promise it makes.
///
/// A run is a function of its seed: the store's options, what is done to it, which disk operation fails, where it crashes,
/// what a power loss leaves. A failing seed prints the command that replays it and the shortest list of operations that
/// still fails.
#[derive(Parser)]
#[command(name = "simulate")]
struct Arguments {
    /// How many seeds to run, on all cores
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// The first of them
    #[arg(long, value_name = "S", default_value_t = 1)]
    first: u64,
    /// Replays one seed
    #[arg(long, value_name = "N", conflicts_with = "seeds")]
    seed: Option<u64>,
    /// With --seed: only these operations, by position, as the shrinker prints them
    #[arg(long, value_name = "K,K,...", value_delimiter = ',', requires = "seed")]
    operations: Vec<usize>,
    /// Operations of a run
    #[arg(long, value_name = "N", default_value_t = 600)]
    length: usize,
    /// Stops after so many failing seeds
    #[arg(long, value_name = "N", default_value_t = 5)]
    failures: usize,
    /// All workloads of up to so many operations (3 at most), crashed at every disk operation
    #[arg(long, value_name = "LENGTH", num_args = 0..=1, default_missing_value = "3")]
    exhaustive: Option<usize>,
    /// Many millions of touches under upload pressure: floor and target of the leases
    #[arg(long)]
    leases: bool,
    /// With --leases: a lease broken while capacity suffices fails the run (the floor always does)
    #[arg(long)]
    strict: bool,
    /// With --leases: how many
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    touches: u64,
    /// Does not shrink what fails
    #[arg(long)]
    no_shrink: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A panic is reported as what it is: a finding of a seed.
    std::panic::set_hook(Box::new(|_| {}));
    if arguments.exhaustive.is_some() && !run_exhaustive(&arguments) {
        return ExitCode::FAILURE;
    }
    if arguments.leases && !run_leases(&arguments) {
        return ExitCode::FAILURE;
    }
    let ok = match (arguments.seed, arguments.seeds) {
        (Some(seed), _) => replay(seed, &arguments),
        (None, Some(count)) => run_seeds(count, &arguments),
        (None, None) if arguments.exhaustive.is_some() || arguments.leases => true,
        (None, None) => {
            eprintln!("nothing to do; try --seeds 1000, or --help");
            false
        }
    };
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(tally: &Tally) {
    println!(
        "  {} operations, {} disk operations, {} crashes, {} openings, {} segments reclaimed, {} uploads refused, trace {:016x}",
        tally.operations,
        tally.disk_operations,
        tally.crashes,
        tally.opens,
        tally.reclaimed_segments,
        tally.refused,
        tally.trace
    );
    for (kind, count) in tally.faults.iter() {
        println!("  {count:>9} {kind}");
    }
}

fn run_seeds(count: u64, arguments: &Arguments) -> bool {
    let started = Instant::now();
    let (tally, mut failures) = search(arguments.first, count, arguments.length, arguments.failures);
    println!("{count} seeds from {} in {:.1} s", arguments.first, started.elapsed().as_secs_f64());
    print(&tally);
    failures.sort_by_key(|failure| failure.seed);
    for failure in &failures {
        report(failure, arguments);
    }
    println!(
        "{}",
        if failures.is_empty() {
            "no promise was broken".to_owned()
        } else {
            format!("{} seeds FAILED", failures.len())
        }
    );
    failures.is_empty()
}

fn run_leases(arguments: &Arguments) -> bool {
    let started = Instant::now();
    let outcome = std::panic::catch_unwind(|| leases(arguments.touches, arguments.strict));
    match outcome {
        Ok(Ok(phases)) => {
            let touches: u64 = phases.iter().map(|phase| phase.touches).sum();
            println!("{touches} touches in {:.1} s", started.elapsed().as_secs_f64());
            for phase in phases {
                println!("  {phase:?}");
            }
            println!("no floor was broken");
            true
        }
        Ok(Err(violation)) => {
            println!("FAILED: {violation}\n  {COMMAND} --leases --touches {}", arguments.touches);
            false
        }
        Err(panic) => {
            println!(
                "FAILED: {:?}\n  {COMMAND} --leases --touches {}",
                panic.downcast_ref::<&str>(),
                arguments.touches
            );
            false
        }
    }
}

fn run_exhaustive(arguments: &Arguments) -> bool {
    let started = Instant::now();
    let (extent, tally, broken) = exhaustive(arguments.exhaustive.unwrap_or(3), arguments.failures);
    println!(
        "{} workloads, {} crash points, {} crashes in {:.1} s",
        extent.workloads,
        extent.crash_points,
        extent.crashes,
        started.elapsed().as_secs_f64()
    );
    print(&tally);
    for Broken { setup, operations, violation } in &broken {
        println!("\nFAILED ({:?}): {violation}", setup.durability);
        for (position, operation) in operations.iter().enumerate() {
            println!("  {position:>5} {operation:?}");
        }
        println!("  {COMMAND} --exhaustive");
    }
    println!("{}", if broken.is_empty() { "no promise was broken" } else { "FAILED" });
    broken.is_empty()
}

fn report(failure: &Failure, arguments: &Arguments) {
    println!("\nseed {} FAILED: {}", failure.seed, failure.violation);
    if arguments.no_shrink {
        println!("  {} --seed {} --length {}", COMMAND, failure.seed, arguments.length);
        return;
    }
    let setup = setup(failure.seed);
    let all = operations(&setup, arguments.length);
    let kept = shrink(&setup, &all, failure.violation.checker);
    let list: Vec<String> = kept.iter().map(ToString::to_string).collect();
    println!("  {} --seed {} --length {} --operations {}", COMMAND, failure.seed, arguments.length, list.join(","));
    println!("  {setup:?}");
    for position in &kept {
        println!("  {position:>5} {:?}", all[*position]);
    }
    let shortest: Vec<_> = kept.iter().map(|position| all[*position].clone()).collect();
    if let (_, Err(violation)) = run_caught(&setup, &shortest) {
        println!("  {violation}");
    }
}

const COMMAND: &str = "cargo run --release -p cask-simulation --bin simulate --";

fn replay(seed: u64, arguments: &Arguments) -> bool {
    let setup = setup(seed);
    let all = operations(&setup, arguments.length);
    let list: Vec<_> = if arguments.operations.is_empty() {
        all
    } else {
        arguments.operations.iter().filter_map(|position| all.get(*position).cloned()).collect()
    };
    println!("{setup:?}");
    let (tally, outcome) = run_caught(&setup, &list);
    print(&tally);
    match outcome {
        Ok(()) => {
            println!("no promise was broken");
            true
        }
        Err(violation) => {
            println!("FAILED: {violation}");
            false
        }
    }
}
