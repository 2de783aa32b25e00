//! The targets, each measured beside its reference in the same run: what the program `targets` does.
//!
//! A [`Family`] measures rows that need the same things: a [`server`] of its own, pinned to one core, with the load
//! client on another; a [`raw`] peer in the server's place, which does nothing but the system calls; or the engine alone.
//! Reference and measured take turns for several short rounds, and medians count. What comes out are [`Line`]s of a
//! [`table`].
//!
//! Machines are noisy, so rates "of a core" are computed from processor time: what one core would give that did nothing
//! else. Nothing here is a test: a missed target is printed, not failed. A family that cannot measure here says why.

pub mod cores;
pub mod document;
pub mod hindrance;
pub mod line;
pub mod raw;
pub mod rounds;
pub mod scene;
pub mod server;
pub mod soak;
pub mod table;

mod cold;
mod direct;
mod durable;
mod engine;
mod find_missing;
mod hash;
mod idle;
mod large_read;
mod small;
mod tail;
mod upload;

use hindrance::Hindrance;
use line::Line;
use scene::Scene;

/// Rows that are measured together.
pub struct Family {
    /// Their names: numbers of the table in the design, or words where it has none.
    pub rows: &'static [&'static str],
    /// What they are about, for the line that says why they could not be measured.
    pub what: &'static str,
    measure: fn(&Scene, &mut Vec<Line>) -> Result<(), Hindrance>,
}

/// All of them, in the table's order.
pub const FAMILIES: [Family; 10] = [
    Family { rows: &["1"], what: "ByteStream.Read of 64 MB", measure: large_read::measure },
    Family { rows: &["2", "3"], what: "4 KiB reads and action hits", measure: small::measure },
    Family { rows: &["4"], what: "FindMissing end to end", measure: find_missing::measure },
    Family { rows: &["5", "6", "16"], what: "index and engine alone", measure: engine::measure },
    Family { rows: &["7", "8"], what: "uploads as streams", measure: upload::measure },
    Family { rows: &["9"], what: "SHA-256 of many small uploads", measure: hash::measure },
    Family { rows: &["10", "11"], what: "durable puts", measure: durable::measure },
    Family { rows: &["12"], what: "cold reads of 1 MiB", measure: cold::measure },
    Family { rows: &["tail"], what: "FindMissing beside a large read and eviction", measure: tail::measure },
    Family { rows: &["idle"], what: "idle connections", measure: idle::measure },
];

impl Family {
    /// Whether one of its rows is among `only`, or all are wanted.
    pub fn is_wanted(&self, only: &[String]) -> bool {
        only.is_empty() || self.rows.iter().any(|row| only.iter().any(|wanted| wanted == row))
    }

    /// Its lines; at least one a row, if only to say why there is no more.
    pub fn measure(&self, scene: &Scene) -> Vec<Line> {
        let mut lines = Vec::new();
        if let Err(hindrance) = (self.measure)(scene, &mut lines) {
            for row in self.rows {
                if !lines.iter().any(|line| line.row == *row) {
                    lines.push(Line::hindered(row, self.what, &hindrance));
                }
            }
        }
        lines
    }
}
