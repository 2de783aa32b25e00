//! Segment files as a test reads and harms them by itself, with no more of the engine than the record header.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use cask_engine::format::record::{RecordHeader, RecordPlace};
use cask_engine::format::superblock::Superblock;

/// A record as the test finds it by itself.
pub struct Record {
    pub offset: usize,
    pub header: RecordHeader,
}

impl Record {
    pub fn end(&self) -> usize {
        self.offset + self.header.record_length_bytes()
    }

    pub fn payload_end(&self) -> usize {
        self.offset + self.header.length_bytes() + self.header.stored_length_bytes as usize
    }
}

pub fn records(file: &[u8], superblock: &Superblock) -> Vec<Record> {
    let sequence = u64::from_le_bytes(file[16..24].try_into().unwrap());
    let mut records = Vec::new();
    let mut offset = 4096;
    while offset + 64 <= file.len() {
        let place = RecordPlace { store_id: superblock.store_id, sequence, offset_bytes: offset as u32 };
        let Some(header) = RecordHeader::decode(&file[offset..], &place) else { break };
        let record = Record { offset, header };
        offset = record.end();
        records.push(record);
    }
    records
}

pub fn is_sealed(file: &[u8]) -> bool {
    &file[file.len() - 64..][..8] == b"CASKFOOT"
}

/// Digests, printed.
pub type Allowed = BTreeSet<String>;

/// Whom a bit at this place belongs to, and whether flipping it must be noticed as a loss.
pub fn owner(file: &[u8], superblock: &Superblock, at: usize) -> (Allowed, bool) {
    let hit = records(file, superblock).into_iter().find(|record| (record.offset..record.end()).contains(&at));
    match hit {
        Some(record) if at < record.payload_end() => ([record.header.digest.to_string()].into(), true),
        _ => (Allowed::new(), false),
    }
}

pub fn flip(path: &Path, at: usize, bit: u32) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << bit], at as u64).unwrap();
}
