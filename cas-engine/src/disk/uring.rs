//! Writing through io_uring: which writes of a batch go to a ring, and what becomes of what a ring left undone.
//!
//! A ring serves one caller at a time, so there are as many as callers that write in batches (writer, syncer); whoever
//! finds none writes by position instead of waiting. Single writes never come here: a ring brings them nothing.

use std::fs::{self, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;

use parking_lot::Mutex;

use super::folder::FolderFile;
use super::ring::{Chain, Done, Ring};
use super::{SegmentWrite, Until, positioned};

/// The writer's and the syncer's.
const RINGS: usize = 2;
/// Ends as the names do that a folder without superblock may hold (see `folder`).
const PROBE_NAME: &str = "probe.new";

/// What a ring is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RingUse {
    /// Every write of a batch, with its fdatasync linked behind it.
    Everything,
    /// Several fdatasyncs at once; the writes before them are positioned ones.
    ParallelSyncs,
}

impl RingUse {
    /// The pieces of a write that are a ring's to write.
    fn pieces<'a>(self, write: &SegmentWrite<'a>) -> &'a [IoSlice<'a>] {
        match self {
            Self::Everything => write.pieces,
            Self::ParallelSyncs => &[],
        }
    }
}

/// See the module's head.
pub(super) struct Uring {
    rings: Mutex<Vec<Ring>>,
    ring_use: RingUse,
}

impl Uring {
    /// Sets rings up and writes, syncs and reads back a scratch file in `folder` with each.
    ///
    /// # Errors
    /// What stands in the way, in words.
    pub(super) fn probe(folder: &Path, ring_use: RingUse) -> Result<Self, String> {
        let rings: Result<Vec<Ring>, String> = (0..RINGS)
            .map(|_| {
                let mut ring = Ring::new().map_err(|error| format!("io_uring cannot be set up: {error}"))?;
                try_out(&mut ring, folder)?;
                Ok(ring)
            })
            .collect();
        Ok(Self { rings: Mutex::new(rings?), ring_use })
    }

    pub(super) fn ring_use(&self) -> RingUse {
        self.ring_use
    }

    pub(super) fn write_batch(&self, writes: &mut [SegmentWrite<'_>]) {
        let mut left: Vec<(&mut SegmentWrite<'_>, &FolderFile)> = Vec::with_capacity(writes.len());
        for write in writes {
            let Some(file) = FolderFile::of(write.file) else {
                write.run();
                continue;
            };
            match self.ring_use {
                RingUse::Everything => left.push((write, file)),
                RingUse::ParallelSyncs => {
                    write.result = write.run_write();
                    if write.result.is_ok() && write.until == Until::Synced {
                        left.push((write, file));
                    }
                }
            }
        }
        let done = if self.ring_use == RingUse::ParallelSyncs && left.len() < 2 {
            vec![Done::default(); left.len()]
        } else {
            let chains: Vec<Chain<'_>> = left
                .iter()
                .map(|(write, file)| Chain {
                    file: file.file(),
                    file_id: file.id(),
                    offset_bytes: write.offset_bytes,
                    pieces: self.ring_use.pieces(write),
                    sync: write.until == Until::Synced,
                })
                .collect();
            self.run(&chains)
        };
        for ((write, file), done) in left.into_iter().zip(done) {
            write.result = settle(file, write.offset_bytes, self.ring_use.pieces(write), write.until, &done);
        }
    }

    /// Nothing is done where no ring is free.
    fn run(&self, chains: &[Chain<'_>]) -> Vec<Done> {
        let ring = self.rings.lock().pop();
        let Some(mut ring) = ring else { return vec![Done::default(); chains.len()] };
        let done = ring.run(chains);
        if !ring.is_broken() {
            self.rings.lock().push(ring);
        }
        done
    }
}

/// Finishes by position what a ring began, unless the disk refused.
fn settle(file: &FolderFile, offset_bytes: u32, pieces: &[IoSlice<'_>], until: Until, done: &Done) -> io::Result<()> {
    if let Some(error) = done.write_error {
        return Err(io::Error::from_raw_os_error(error));
    }
    positioned::write(file.file(), offset_bytes, pieces, done.written_bytes)?;
    match (until, done.sync) {
        (Until::Written, _) | (Until::Synced, Some(Ok(()))) => Ok(()),
        (Until::Synced, Some(Err(error))) => Err(io::Error::from_raw_os_error(error)),
        (Until::Synced, None) => positioned::sync(file.file()),
    }
}

fn try_out(ring: &mut Ring, folder: &Path) -> Result<(), String> {
    const SCRATCH: &[u8] = b"cask writes this to see whether io_uring works here";
    let path = folder.join(PROBE_NAME);
    let tried = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path).and_then(|file| {
        let pieces = [IoSlice::new(&SCRATCH[..7]), IoSlice::new(&SCRATCH[7..])];
        let done = ring.run(&[Chain { file: &file, file_id: 0, offset_bytes: 64, pieces: &pieces, sync: true }]);
        let mut read = [0; SCRATCH.len()];
        file.read_exact_at(&mut read, 64)?;
        Ok((done, read))
    });
    let _ = fs::remove_file(&path);
    let (done, read) = tried.map_err(|error| format!("a scratch file could not be written: {error}"))?;
    let expected = Done { written_bytes: SCRATCH.len(), write_error: None, sync: Some(Ok(())) };
    if done != [expected] || read != SCRATCH {
        return Err(format!("a scratch write through io_uring came to {done:?}"));
    }
    Ok(())
}
