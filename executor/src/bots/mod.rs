//! The Remote Workers API ("Bots") in the scheduler's terms: what a bot's session is to the scheduler, and what the scheduler's
//! messages are to a bot. Pure: the service in the server calls it.
//!
//! A bot says all its leases in each update and is told all of them in each answer; the scheduler speaks of one lease at a time.
//! [`BotLeases`] stands between them.

mod leases;
mod worker;

pub use self::leases::{BotLeases, Happened};
pub use self::worker::{capacity, platforms};
