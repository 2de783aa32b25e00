//! The storage engine under simulation: the real engine, stepped, on a disk and a clock that obey a seed.
//!
//! A run draws a setup and a list of operations from its seed, carries them out on a store, and compares all that the store
//! says with a reference model, through faults, crashes, power losses and recoveries. Equal seeds give equal runs.
//!
//! Read in this order: `disk` (the fault model), `workload` (what is done), `model` (what is promised), `run` (what is
//! checked), `shrink` and `exhaustive`.
//!
//! Deliberately absent: threads inside a run, wall time, any knowledge of the engine beyond its public calls and the format
//! of a record's header.

pub mod checker;
pub mod clock;
pub mod disk;
pub mod exhaustive;
pub mod leases;
pub mod memory;
pub mod model;
pub mod random;
pub mod run;
pub mod search;
pub mod shrink;
pub mod workload;

pub use checker::Violation;
pub use clock::SimClock;
pub use disk::{CrashKind, Fault, FaultCounts, SimDisk, Survivors};
pub use exhaustive::{Broken, Extent, exhaustive};
pub use leases::{PhaseReport, leases};
pub use run::{Prepared, Tally, run};
pub use search::{Failure, run_caught, run_seed, search};
pub use shrink::shrink;
pub use workload::{Flaw, Operation, Setup, operations, setup};
