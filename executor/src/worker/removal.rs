//! Removing a tree that a stranger made: however deep, whatever its modes, never through a symlink, with a fixed number of
//! descriptors.
//!
//! A directory's subdirectories are moved beside the top and queued, so that nothing here is recursive and several threads can
//! share the work.

use std::{
    collections::VecDeque,
    io::ErrorKind,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use parking_lot::{Condvar, Mutex};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode},
    io::Errno,
};

use super::beneath::open_child;

struct Queue {
    names: VecDeque<String>,
    /// Threads that may add names.
    busy: usize,
    failure: Option<std::io::Error>,
}

struct Work<'a> {
    top: BorrowedFd<'a>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// Names of moved directories; one process uses a folder.
static MOVED: AtomicU64 = AtomicU64::new(0);

/// Removes what stands under `name` in `top`, which only this process writes to. Absent is removed.
pub fn remove_tree(top: BorrowedFd<'_>, name: &str, threads: usize) -> std::io::Result<()> {
    match rustix::fs::unlinkat(top, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let work = Work {
        top,
        queue: Mutex::new(Queue { names: VecDeque::from([name.to_owned()]), busy: 0, failure: None }),
        changed: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| run(&work));
        }
        run(&work);
    });
    work.queue.into_inner().failure.map_or(Ok(()), Err)
}

fn run(work: &Work<'_>) {
    let mut queue = work.queue.lock();
    loop {
        let Some(name) = queue.names.pop_front() else {
            if queue.busy == 0 {
                work.changed.notify_all();
                return;
            }
            work.changed.wait(&mut queue);
            continue;
        };
        queue.busy += 1;
        drop(queue);
        let removed = remove_directory(work, &name);
        queue = work.queue.lock();
        queue.busy -= 1;
        if let Err(error) = removed {
            queue.failure.get_or_insert(error);
        }
        work.changed.notify_all();
    }
}

/// Empties and removes one directory beside the top.
fn remove_directory(work: &Work<'_>, name: &str) -> std::io::Result<()> {
    let directory = match open_child(work.top, name) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(work.top, name, Mode::RWXU, AtFlags::empty())?;
            open_child(work.top, name)?
        }
        Err(error) => return Err(error.into()),
    };
    match empty(work, &directory) {
        // Its own mode may be in the way.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            rustix::fs::fchmod(&directory, Mode::RWXU)?;
            empty(work, &directory)?;
        }
        emptied => emptied?,
    }
    Ok(rustix::fs::unlinkat(work.top, name, AtFlags::REMOVEDIR)?)
}

fn empty(work: &Work<'_>, directory: &OwnedFd) -> std::io::Result<()> {
    let mut entries = Dir::read_from(directory)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if entry.file_type() != FileType::Directory {
            match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                // File systems that do not tell types.
                Err(Errno::ISDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(_) => {}
        }
        let moved = format!("gone-{}", MOVED.fetch_add(1, Relaxed));
        match rustix::fs::renameat(directory, name, work.top, &moved) {
            Ok(()) => {}
            // To be moved, a directory has to be writable itself.
            Err(Errno::ACCESS) => {
                rustix::fs::chmodat(directory.as_fd(), name, Mode::RWXU, AtFlags::empty())?;
                rustix::fs::renameat(directory, name, work.top, &moved)?;
            }
            Err(error) => return Err(error.into()),
        }
        work.queue.lock().names.push_back(moved);
        work.changed.notify_one();
    }
    Ok(())
}
