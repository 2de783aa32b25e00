//! Who owns what of a run, when the runner is root: its folders belong to the run's user while it runs; files of the input stay
//! the worker's, so no action can alter one, whatever else is linked to it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::{Trouble, failed};

/// How deep an input tree may be: a descriptor is open for each level.
const DEPTH_MAX: u32 = 512;

/// Makes the run's user, and the group of the same number, the owner.
pub(super) fn give(file: BorrowedFd<'_>, id: u32) -> Result<(), Errno> {
    rustix::fs::fchown(file, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))
}

/// Lets the run's group, and nobody else but the owner, pass through the run's folder.
pub(super) fn let_in(build_dir: &OwnedFd, folder: &str, id: u32) -> Result<(), Trouble> {
    let open = |path| {
        rustix::fs::openat(build_dir, path, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    };
    let folder = open(folder).map_err(failed("open the folder of the run"))?;
    rustix::fs::fchown(&folder, None, Some(Gid::from_raw(id)))
        .and_then(|()| rustix::fs::fchmod(&folder, Mode::RWXU | Mode::XGRP))
        .map_err(failed("open the folder of the run to its user"))
}

/// Gives a folder and all folders in it to the run's user.
pub(super) fn give_folders(root: BorrowedFd<'_>, id: u32) -> Result<(), Trouble> {
    give_folder(root, id, 0)
}

fn give_folder(folder: BorrowedFd<'_>, id: u32, depth: u32) -> Result<(), Trouble> {
    let changing = || failed("change the owner of a folder of the input root");
    if depth > DEPTH_MAX {
        return Err(Trouble::Refused(format!("the input root is deeper than {DEPTH_MAX} folders")));
    }
    give(folder, id).map_err(changing())?;
    for entry in Dir::read_from(folder).map_err(changing())? {
        let entry = entry.map_err(changing())?;
        let name = entry.file_name();
        if !matches!(entry.file_type(), FileType::Directory | FileType::Unknown) || name == c"." || name == c".." {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(folder, name, flags, Mode::empty()) {
            Ok(inner) => give_folder(inner.as_fd(), id, depth + 1)?,
            // A file system that does not say what an entry is, and it is no folder.
            Err(Errno::NOTDIR | Errno::LOOP) if entry.file_type() == FileType::Unknown => {}
            Err(errno) => return Err(changing()(errno)),
        }
    }
    Ok(())
}
