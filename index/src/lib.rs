//! Cask's digest index: the ground floor of the house.
//!
//! A [`Digest`] names a blob, a [`Hasher`] computes it, [`sha256_of_each`] those of many. A [`Keyer`] turns it into a [`Key`], 128 secretly keyed bits, and a [`Table`] maps keys to
//! the [`Location`] of a record and to the [`TouchEpoch`] it was last asked for. Twenty bytes of memory a blob, readers
//! without locks.
//!
//! Read in this order: `digest_function`, `namespace`, `digest`, `hex`, `hasher`, `sha256_lanes` (what a blob is called), `key` (what is looked up), `location`, `touch` (what is found),
//! `memory`, `bucket`, `stash` (where it lies), `table`, `batch` (how it is reached).
//!
//! What is deliberately absent: I/O, async, clocks, logging. The table knows nothing of disks, of segments or of gRPC;
//! time enters as milliseconds that the caller read, and a location is a number that the caller understands.

mod batch;
mod bucket;
mod digest;
mod digest_function;
mod hasher;
mod hex;
mod key;
mod location;
mod memory;
mod namespace;
mod sha256_lanes;
mod sha256_tree;
mod stash;
mod sync;
mod table;
mod touch;

pub use digest::{Digest, DigestError};
pub use digest_function::DigestFunction;
pub use hasher::Hasher;
pub use key::{Key, Keyer};
pub use location::Location;
pub use namespace::Namespace;
pub use sha256_lanes::sha256_of_each;
#[doc(hidden)]
pub use sha256_lanes::{Lanes, sha256_of_each_with};
pub use table::{Found, Inserted, Recovered, Restored, Table, TableFull};
pub use touch::{EpochLength, TouchEpoch};
