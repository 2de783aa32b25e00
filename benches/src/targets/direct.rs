//! What the disk itself gives: `O_DIRECT` in pieces of 1 MiB, many at once, past the page cache. The reference of what is
//! durable and of what is cold.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rustix::fs::{Advice, OFlags, fadvise, statfs};

use super::hindrance::Hindrance;
use super::rounds::Sample;
use crate::process::cpu_time;

/// Bytes of a request, and how memory for it is aligned.
const PIECE_BYTES: usize = 1 << 20;
const ALIGNMENT_BYTES: usize = 4096;
/// `statfs` of a file system in memory.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// A hindrance where `folder` is in memory: there is no disk to measure.
pub(super) fn on_disk(folder: &Path) -> Result<(), Hindrance> {
    let kind = statfs(folder).map_err(|error| Hindrance::to("look at the file system")(error.into()))?.f_type;
    if kind as i64 == TMPFS_MAGIC {
        return Err(Hindrance::Lacking(format!("{} is in memory; --dir names a folder on a disk", folder.display())));
    }
    Ok(())
}

/// Files of `folder`, sorted.
pub(super) fn files_of(folder: &Path) -> Result<Vec<PathBuf>, Hindrance> {
    let listed = std::fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut paths: Vec<PathBuf> = listed.map_err(Hindrance::to("list the store's segments"))?;
    paths.sort();
    Ok(paths)
}

/// Writes what is dirty, and lets go of all pages that the kernel keeps of these files. Nobody may have them mapped.
pub(super) fn forget(paths: &[PathBuf]) -> Result<(), Hindrance> {
    for path in paths {
        let forgotten = File::open(path).and_then(|file| {
            file.sync_all()?;
            Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
        });
        forgotten.map_err(Hindrance::to("drop a segment's pages"))?;
    }
    Ok(())
}

/// Reads `bytes` of the files from their beginning, `depth` requests at once; counted in gigabytes.
pub(super) fn read(paths: &[PathBuf], bytes: u64, depth: usize) -> Result<Sample, Hindrance> {
    let failed = Hindrance::to("read past the page cache");
    let mut files = Vec::new();
    for path in paths {
        let file = direct(OpenOptions::new().read(true)).open(path).map_err(&failed)?;
        let pieces = file.metadata().map_err(&failed)?.len() / PIECE_BYTES as u64;
        files.extend((0..pieces).map(|piece| (file.try_clone(), piece * PIECE_BYTES as u64)));
    }
    files.truncate((bytes / PIECE_BYTES as u64) as usize);
    let total = files.len() as f64 * PIECE_BYTES as f64 / 1e9;
    at_depth(depth, files.len() as u64, total, |piece, buffer| {
        let (file, offset) = &files[piece as usize];
        let file = file.as_ref().map_err(|error| io::Error::from(error.kind()))?;
        file.read_exact_at(buffer, *offset)
    })
    .map_err(failed)
}

/// Writes a new file of `bytes`, whose blocks were all written before, `depth` requests at once, and syncs it; counted in gigabytes.
pub(super) fn write(folder: &Path, bytes: u64, depth: usize) -> Result<Sample, Hindrance> {
    let failed = Hindrance::to("write past the page cache");
    let folder = tempfile::tempdir_in(folder).map_err(&failed)?;
    let path = folder.path().join("direct");
    let file = direct(OpenOptions::new().write(true).create(true)).open(path).map_err(&failed)?;
    let pieces = bytes / PIECE_BYTES as u64;
    let put = |piece: u64, buffer: &mut [u8]| file.write_all_at(buffer, piece * PIECE_BYTES as u64);
    let total = pieces as f64 * PIECE_BYTES as f64 / 1e9;
    at_depth(depth, pieces, total, put).map_err(&failed)?;
    file.sync_all().map_err(&failed)?;
    let begin = Instant::now();
    let sample = at_depth(depth, pieces, total, put).map_err(&failed)?;
    file.sync_data().map_err(&failed)?;
    Ok(Sample { per_second: total / begin.elapsed().as_secs_f64(), ..sample })
}

fn direct(options: &mut OpenOptions) -> &mut OpenOptions {
    options.custom_flags(OFlags::DIRECT.bits() as i32)
}

/// Does `each` piece in `depth` threads, `total` gigabytes in all.
fn at_depth(
    depth: usize,
    pieces: u64,
    total: f64,
    each: impl Fn(u64, &mut [u8]) -> io::Result<()> + Sync,
) -> io::Result<Sample> {
    let next = AtomicU64::new(0);
    let (begin, cpu) = (Instant::now(), cpu_time());
    let work = || -> io::Result<()> {
        // Aligned without asking the allocator for it: the first aligned place in a buffer that is larger.
        let mut bytes = vec![0_u8; PIECE_BYTES + ALIGNMENT_BYTES];
        let start = bytes.as_ptr().align_offset(ALIGNMENT_BYTES);
        let buffer = &mut bytes[start..start + PIECE_BYTES];
        loop {
            let piece = next.fetch_add(1, Ordering::Relaxed);
            if piece >= pieces {
                return Ok(());
            }
            each(piece, buffer)?;
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..depth).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    Ok(Sample::new(total, seconds, cpu_time().saturating_sub(cpu).as_secs_f64()))
}
