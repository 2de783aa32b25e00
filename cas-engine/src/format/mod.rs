//! Bytes on disk. Little-endian, fixed width, every structure with a magic, a version and a checksum; drawn field by
//! field in `docs/on-disk-format.md` and pinned by the golden tests of this folder.
//!
//! Nothing here does I/O: functions from bytes to values and back. Everything read is untrusted until its checksum
//! has been compared.

pub mod action;
pub mod footer;
pub(crate) mod layout;
pub mod record;
pub mod segment;
pub mod superblock;
pub mod touches;

/// Version of all structures on disk; a change of any bumps it.
///
/// 2: payloads may be encoded (`record::Encoding`). 1: as 2, without any that is. Both are read; a store becomes one of
/// version 2 when it is opened.
pub const FORMAT_VERSION: u32 = 2;

/// Whether a structure of this version is understood.
pub(crate) fn is_read(version: u32) -> bool {
    (1..=FORMAT_VERSION).contains(&version)
}
