//! What is done to a store in one run: its options and a list of operations, both drawn from the seed before anything runs,
//! so that any subset of the list can be run again.
//!
//! Operations name blobs, actions and open uploads by number; a number that means nothing at that moment (an upload that was
//! never opened, say) makes the operation do nothing. So a shrunk list is as valid as the whole.

use std::time::Duration;

use cask_engine::{Compression, Durability, EngineOptions};

use crate::disk::{CrashKind, Fault, Survivors};
use crate::random::{Random, mix_seed};

/// Instances that actions are stored under.
pub const INSTANCES: [&str; 2] = ["", "team/a"];

/// How the store is opened in a run.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The seed of everything.
    pub seed: u64,
    /// Bytes of a segment file.
    pub segment_size_bytes: u32,
    /// How many segments `max_size` allows at first.
    pub segment_count: u32,
    /// When uploads are acknowledged.
    pub durability: Durability,
    /// Target of the leases.
    pub lease_ms: u64,
    /// Their floor.
    pub lease_floor_ms: u64,
    /// Room in the index.
    pub index_capacity: u64,
    /// Media faults are among the operations: bytes may be lost that were promised.
    pub media_faults: bool,
    /// The store compresses, and every second blob can be.
    pub compresses: bool,
}

impl Setup {
    /// Options for a store of `segment_count` segments.
    pub fn options(&self, segment_count: u32) -> EngineOptions {
        let segments = u64::from(segment_count) * u64::from(self.segment_size_bytes);
        // What `Plan` keeps for metadata on top, and half a segment to spare.
        let metadata = 64 * 1024 + 4 * self.index_capacity.max(1024);
        let max_size_bytes =
            (segments + metadata).min(segments * 32 / 31 + 32) + u64::from(self.segment_size_bytes) / 2;
        EngineOptions {
            lease: Duration::from_millis(self.lease_ms),
            lease_floor: Duration::from_millis(self.lease_floor_ms),
            durability: self.durability,
            compression: if self.compresses { Compression::Zstd } else { Compression::Off },
            segment_size_bytes: Some(self.segment_size_bytes),
            index_capacity: Some(self.index_capacity),
            ..EngineOptions::new(max_size_bytes)
        }
    }

    /// Payload bytes of a part.
    pub fn part_size_bytes(&self) -> usize {
        self.segment_size_bytes as usize / 16
    }

    /// The size of a blob, by its number.
    pub fn blob_size_bytes(&self, blob: u32) -> usize {
        if blob >= TINY_BLOBS_FIRST {
            // Small and all different.
            return 5 + (blob % 50) as usize;
        }
        let part = self.part_size_bytes();
        let mut random = Random::new(mix_seed(self.seed, u64::from(blob)));
        if blob == 3 {
            // There are few blobs of one byte.
            return 1;
        }
        let edges = [0, 9, 63, 64, 65, part - 1, part, part + 1, 2 * part, 2 * part + 1, 3 * part - 1, 5 * part];
        match random.below(10) {
            0..2 => random.pick(&edges),
            2..5 => 9 + random.index(2000),
            5..8 => 9 + random.index(part - 8),
            8 => part + random.index(3 * part),
            _ => 2 * part + random.index(6 * part),
        }
    }
}

/// What is wrong with a streaming upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// Nothing.
    None,
    /// A byte differs.
    Content,
    /// The stream is longer than the digest says.
    TooLong,
    /// It ends early.
    TooShort,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A whole blob in one call.
    Put {
        /// Its number.
        blob: u32,
    },
    /// Several, one after the other.
    PutMany {
        /// The number of the first.
        first: u32,
        /// How many.
        count: u32,
    },
    /// Begins a streaming upload.
    Open {
        /// The blob's number.
        blob: u32,
        /// What will be wrong with it.
        flaw: Flaw,
    },
    /// Appends to an open upload.
    Feed {
        /// Which of the open ones, modulo their number.
        upload: u32,
        /// At most so many bytes.
        bytes: u32,
    },
    /// Feeds the rest and finishes it.
    Finish {
        /// Which.
        upload: u32,
    },
    /// Drops it.
    Abandon {
        /// Which.
        upload: u32,
    },
    /// Stores an action result.
    PutAction {
        /// The action's number.
        action: u32,
        /// Blobs it needs.
        closure: Vec<u32>,
        /// Bytes of the value.
        value_bytes: u32,
    },
    /// Asks for one.
    GetAction {
        /// Its number.
        action: u32,
    },
    /// Asks which are missing.
    FindMissing {
        /// Blobs asked for.
        blobs: Vec<u32>,
    },
    /// Reads a whole blob.
    Read {
        /// Its number.
        blob: u32,
    },
    /// Takes a chunk and keeps it.
    Hold {
        /// The blob's number.
        blob: u32,
        /// Decides where the chunk begins.
        at: u32,
    },
    /// Lets all held chunks go.
    Release,
    /// Time passes.
    Advance {
        /// Milliseconds.
        ms: u64,
    },
    /// A step of the writer.
    Write,
    /// A step of the syncer.
    Sync,
    /// A step of the reclaimer.
    Reclaim,
    /// A step of the maintenance.
    Maintain,
    /// Fair steps until every upload has its answer.
    Settle,
    /// After faults are over and leases have run out, an upload must succeed.
    Liveness,
    /// Closes in order and opens again.
    Reopen {
        /// Segments allowed from now on; `None`: as before.
        segment_count: Option<u32>,
        /// Power is lost between the two.
        power_loss: bool,
    },
    /// The process or the machine dies at the `after`-th disk operation from now; 0: at once.
    Crash {
        /// Which disk operation.
        after: u32,
        /// How.
        kind: CrashKind,
        /// The recovery dies at this disk operation of its own, once.
        again_after: Option<u32>,
    },
    /// A fault of the disk.
    Fault(Fault),
}

/// Blobs from this number on are tiny: for filling the index.
pub const TINY_BLOBS_FIRST: u32 = 1 << 24;

/// Draws a run's setup.
pub fn setup(seed: u64) -> Setup {
    let mut random = Random::new(mix_seed(seed, 1));
    let segment_size_bytes = random.pick(&[64 << 10, 64 << 10, 64 << 10, 128 << 10]);
    let lease_floor_ms = random.pick(&[0, 0, 1_000, 60_000, 600_000]);
    let lease_ms = lease_floor_ms.max(random.pick(&[0, 10_000, 600_000, 4 * 3_600_000]));
    Setup {
        seed,
        segment_size_bytes,
        segment_count: 12 + random.pick(&[0, 0, 1, 4, 12, 28]),
        durability: random.pick(&[Durability::Written, Durability::Synced]),
        lease_ms,
        lease_floor_ms,
        index_capacity: random.pick(&[1024, 1024, 4096]),
        media_faults: random.chance(1, 3),
        // Not drawn from `random`, so that what a seed was before is what it is.
        compresses: mix_seed(seed, 1 << 42).is_multiple_of(2),
    }
}

/// Draws a run's operations.
pub fn operations(setup: &Setup, count: usize) -> Vec<Operation> {
    let mut random = Random::new(mix_seed(setup.seed, 2));
    let mut draw = Draw { setup, newest: 8, tiny: TINY_BLOBS_FIRST, random: &mut random };
    // How eager a run is differs between seeds: some crash all the time, some never, some only fill.
    let crash_weight = draw.random.pick(&[0, 3, 10, 30]);
    let fault_weight = if setup.media_faults { draw.random.pick(&[5, 15, 40]) } else { 0 };
    let trouble_weight = draw.random.pick(&[0, 0, 8, 25]);
    let step_weight = draw.random.pick(&[60, 150, 300]);
    let weights = [
        120,
        40,
        60,
        120,
        50,
        10,
        60,
        60,
        50,
        50,
        15,
        8,
        40,
        step_weight,
        40,
        4,
        10,
        crash_weight,
        fault_weight,
        trouble_weight,
        3,
    ];
    (0..count).map(|_| draw.operation(&weights)).collect()
}

struct Draw<'a> {
    setup: &'a Setup,
    newest: u32,
    tiny: u32,
    random: &'a mut Random,
}

impl Draw<'_> {
    /// Mostly one of the last ones, sometimes a new one, sometimes an old one.
    fn blob(&mut self) -> u32 {
        match self.random.below(10) {
            0..3 => {
                self.newest += 1;
                self.newest
            }
            3..8 => self.newest - self.random.below(u64::from(self.newest.min(12))) as u32,
            _ => self.random.below(u64::from(self.newest) + 1) as u32,
        }
    }

    fn operation(&mut self, weights: &[u32]) -> Operation {
        match self.random.weighted(weights) {
            0 => Operation::Put { blob: self.blob() },
            1 => {
                if self.random.chance(1, 6) {
                    let (first, count) = (self.tiny, 50 + self.random.below(250) as u32);
                    self.tiny += if self.random.chance(3, 4) { count } else { 0 };
                    return Operation::PutMany { first, count };
                }
                let count = 3 + self.random.below(15) as u32;
                self.newest += count;
                Operation::PutMany { first: self.newest - count + 1, count }
            }
            2 => {
                let flaw = match self.random.below(12) {
                    0 => Flaw::Content,
                    1 => Flaw::TooLong,
                    2 => Flaw::TooShort,
                    _ => Flaw::None,
                };
                Operation::Open { blob: self.blob(), flaw }
            }
            3 => Operation::Feed {
                upload: self.random.below(8) as u32,
                bytes: 1 + self.random.below(2 * self.setup.part_size_bytes() as u64) as u32,
            },
            4 => Operation::Finish { upload: self.random.below(8) as u32 },
            5 => Operation::Abandon { upload: self.random.below(8) as u32 },
            6 => {
                let closure = (0..self.random.below(5)).map(|_| self.blob()).collect();
                let value_bytes = self.random.pick(&[0, 10, 200, 3000, 8000]);
                Operation::PutAction { action: self.random.below(12) as u32, closure, value_bytes }
            }
            7 => Operation::GetAction { action: self.random.below(12) as u32 },
            8 => Operation::FindMissing { blobs: (0..=self.random.below(20)).map(|_| self.blob()).collect() },
            9 => Operation::Read { blob: self.blob() },
            10 => Operation::Hold { blob: self.blob(), at: self.random.next_u64() as u32 },
            11 => Operation::Release,
            12 => {
                let floor = self.setup.lease_floor_ms;
                let lease = self.setup.lease_ms;
                let typical = self.random.pick(&[1, 100, 5_000, 11_000, floor / 3, floor + 1, lease / 20, lease / 2]);
                Operation::Advance { ms: self.random.below(typical + 1) + 1 }
            }
            13 => self.random.pick(&[0, 0, 0, 1, 2, 2]).into(),
            14 => Operation::Settle,
            15 => Operation::Liveness,
            16 => Operation::Reopen {
                segment_count: self.random.chance(1, 3).then(|| 12 + self.random.below(30) as u32),
                power_loss: self.random.chance(1, 2),
            },
            17 => self.crash(),
            18 => {
                let seed = self.random.next_u64();
                Operation::Fault(match self.random.below(6) {
                    0 => Fault::LostWrite,
                    1 => Fault::MisdirectedWrite,
                    2 | 3 => Fault::BitFlip(seed),
                    4 => Fault::StructureFlip(seed),
                    _ => Fault::BadPage(seed),
                })
            }
            19 => {
                let ms = self.random.below(20_000) as u32;
                Operation::Fault(self.random.pick(&[
                    Fault::SyncFails,
                    Fault::WriteFails,
                    Fault::NoSpace,
                    Fault::SpaceAgain,
                    Fault::SpaceAgain,
                    Fault::Slow(ms),
                ]))
            }
            _ => Operation::Maintain,
        }
    }

    fn crash(&mut self) -> Operation {
        let kind = if self.random.chance(1, 2) {
            CrashKind::Kill
        } else {
            CrashKind::Power(Survivors::Sectors(self.random.below(1000)))
        };
        Operation::Crash {
            after: self.random.below(30) as u32,
            kind,
            again_after: self.random.chance(1, 3).then(|| 1 + self.random.below(4) as u32),
        }
    }
}

impl From<u32> for Operation {
    fn from(step: u32) -> Self {
        match step {
            0 => Self::Write,
            1 => Self::Sync,
            _ => Self::Reclaim,
        }
    }
}
