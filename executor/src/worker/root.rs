//! Making an input root: directories, files from the cache, symlinks, times and modes where they are asked for.
//!
//! The tree was checked and the files are pinned, so what can go wrong here is the machine. Directories are made first, by one
//! thread, then filled by several. No command runs below the root meanwhile, and no path leads through a symlink.

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};

use cask_proto::reapi::NodeProperties;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, Mode, Timespec, Timestamps, UTIME_OMIT};

use super::{
    beneath::{Obstacle, make_directories, open_child},
    fault::ExecutionFault,
    file_cache::{FileCache, FileKey, Pins},
    input_tree::{InputDirectory, InputTree},
};
use crate::action::{CheckedCommand, RootPath};

/// Directories are the command's to change.
const DIRECTORY_MODE: Mode = Mode::RWXU.union(Mode::RWXG).union(Mode::RWXO);

/// Makes all of a tree below an empty directory. Blocking.
pub fn make_root(
    root: BorrowedFd<'_>,
    tree: &InputTree,
    cache: &FileCache,
    pins: &Pins,
    threads: usize,
) -> std::io::Result<()> {
    for directory in &tree.directories[1..] {
        rustix::fs::mkdirat(root, &directory.path, DIRECTORY_MODE)?;
        rustix::fs::chmodat(root, &directory.path, DIRECTORY_MODE, AtFlags::empty())?;
    }
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let failure = Mutex::new(None);
    let work = || {
        while !failed.load(Relaxed) {
            let Some(directory) = tree.directories.get(next.fetch_add(1, Relaxed)) else { break };
            if let Err(error) = fill(root, directory, cache, pins) {
                failed.store(true, Relaxed);
                failure.lock().get_or_insert(error);
            }
        }
    };
    let threads = threads.min(1 + tree.directories.len() / 16);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    if let Some(error) = failure.into_inner() {
        return Err(error);
    }
    // Children first: what is made in a directory changes its time.
    for directory in tree.directories.iter().rev() {
        if let Some(properties) = &directory.listing.properties {
            let path = if directory.path.is_empty() { "." } else { &directory.path };
            set_mode(root, path, properties)?;
            set_time(root, path, properties)?;
        }
    }
    Ok(())
}

fn fill(root: BorrowedFd<'_>, directory: &InputDirectory, cache: &FileCache, pins: &Pins) -> std::io::Result<()> {
    let listing = &directory.listing;
    if listing.files.is_empty() && listing.symlinks.is_empty() {
        return Ok(());
    }
    let path = if directory.path.is_empty() { "." } else { &directory.path };
    let here = open_child(root, path)?;
    for file in &listing.files {
        let key = FileKey { digest: file.digest, is_executable: file.is_executable };
        let pin = pins.get(&key).expect("every file of the tree was pinned");
        match &file.properties {
            // Others have the file of the cache too; one with a time or mode of its own has to be its own.
            Some(properties) if properties.mtime.is_some() || properties.unix_mode.is_some() => {
                let mode = Mode::from_raw_mode(if file.is_executable { 0o555 } else { 0o444 });
                cache.copy(pin, here.as_fd(), &file.name, mode)?;
                set_mode(here.as_fd(), &file.name, properties)?;
                set_time(here.as_fd(), &file.name, properties)?;
            }
            _ => cache.place(pin, here.as_fd(), &file.name)?,
        }
    }
    for symlink in &listing.symlinks {
        rustix::fs::symlinkat(&symlink.target, &here, &symlink.name)?;
        if let Some(properties) = &symlink.properties {
            set_time(here.as_fd(), &symlink.name, properties)?;
        }
    }
    Ok(())
}

/// The permission bits alone: nobody gets a file of the worker's user that runs as that user. The worker keeps its way in.
fn set_mode(directory: BorrowedFd<'_>, name: &str, properties: &NodeProperties) -> std::io::Result<()> {
    if let Some(mode) = properties.unix_mode {
        let mode = Mode::from_raw_mode(mode & 0o777) | Mode::RUSR;
        rustix::fs::chmodat(directory, name, mode, AtFlags::empty())?;
    }
    Ok(())
}

fn set_time(directory: BorrowedFd<'_>, name: &str, properties: &NodeProperties) -> std::io::Result<()> {
    if let Some(mtime) = &properties.mtime {
        let omitted = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let last_modification =
            Timespec { tv_sec: mtime.seconds, tv_nsec: i64::from(mtime.nanos).clamp(0, 999_999_999) as _ };
        let times = Timestamps { last_access: omitted, last_modification };
        rustix::fs::utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// Makes the directories that the command's outputs are in. Blocking.
pub(crate) fn make_output_parents(root: BorrowedFd<'_>, command: &CheckedCommand) -> Result<(), ExecutionFault> {
    for output in &command.outputs {
        let parent = output.place.parent().unwrap_or(RootPath::ROOT);
        match make_directories(root, parent.segments(), DIRECTORY_MODE) {
            Ok(()) => {}
            Err(Obstacle::NotADirectory(segments)) => {
                return Err(ExecutionFault::invalid(format!(
                    "the output `{}` is to be in `{}`, which is no directory of the input",
                    output.path,
                    parent.segments()[..segments].join("/")
                )));
            }
            Err(Obstacle::Absent) => unreachable!("what is absent is made"),
            Err(Obstacle::Failed(error)) => {
                return Err(ExecutionFault::machine("cannot make the directories of the outputs", &error));
            }
        }
    }
    Ok(())
}
