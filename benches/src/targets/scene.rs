//! [`Scene`]: where and how thoroughly is measured.

use std::path::PathBuf;
use std::time::Duration;

use super::cores::Cores;

/// Where and how thoroughly is measured.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Who runs where.
    pub cores: Cores,
    /// This program, which is its own peer in raw measurements.
    pub program: PathBuf,
    /// The server's binary.
    pub cask: PathBuf,
    /// Where stores and files are made: on the disk that is to be measured.
    pub folder: PathBuf,
    /// How thoroughly.
    pub pace: Pace,
    /// Entries of the index when it is measured alone.
    pub entries: u64,
}

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How often reference and measured take turns.
    pub rounds: usize,
    /// How long each turn is.
    pub turn: Duration,
    /// How long the same is done unmeasured before a turn.
    pub warm_up: Duration,
    /// Whether everything else is small, too.
    pub is_quick: bool,
}

impl Pace {
    /// Five turns of a second.
    pub const FULL: Pace =
        Pace { rounds: 5, turn: Duration::from_secs(1), warm_up: Duration::from_millis(150), is_quick: false };
    /// Three turns of a quarter: for a look, not for a claim.
    pub const QUICK: Pace =
        Pace { rounds: 3, turn: Duration::from_millis(250), warm_up: Duration::from_millis(50), is_quick: true };
}
