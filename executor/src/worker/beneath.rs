//! Going down from a directory descriptor, one segment at a time, never through a symlink: whoever may change what is below, what
//! is reached is below.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

/// Why a place could not be reached.
#[derive(Debug)]
pub(crate) enum Obstacle {
    /// Nothing of this name, here or before.
    Absent,
    /// A segment on the way is no directory; so many segments lead to it.
    NotADirectory(usize),
    /// The machine.
    Failed(std::io::Error),
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a directory below another; the other itself for no segments.
pub(crate) fn open_directory(top: BorrowedFd<'_>, segments: &[String]) -> Result<OwnedFd, Obstacle> {
    let mut here = top.try_clone_to_owned().map_err(Obstacle::Failed)?;
    for (depth, segment) in segments.iter().enumerate() {
        here = match open_child(here.as_fd(), segment) {
            Ok(child) => child,
            Err(Errno::NOENT) => return Err(Obstacle::Absent),
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(Obstacle::NotADirectory(depth + 1)),
            Err(error) => return Err(Obstacle::Failed(error.into())),
        };
    }
    Ok(here)
}

/// Makes directories that are not there, with this mode whatever the process's mask is.
pub(crate) fn make_directories(top: BorrowedFd<'_>, segments: &[String], mode: Mode) -> Result<(), Obstacle> {
    let failed = |error: Errno| Obstacle::Failed(error.into());
    let mut here = top.try_clone_to_owned().map_err(Obstacle::Failed)?;
    for (depth, segment) in segments.iter().enumerate() {
        match rustix::fs::mkdirat(&here, segment, mode) {
            Ok(()) => rustix::fs::chmodat(&here, segment, mode, AtFlags::empty()).map_err(failed)?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(error)),
        }
        here = match open_child(here.as_fd(), segment) {
            Ok(child) => child,
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(Obstacle::NotADirectory(depth + 1)),
            Err(error) => return Err(failed(error)),
        };
    }
    Ok(())
}

/// A directory in a directory.
pub(crate) fn open_child(directory: BorrowedFd<'_>, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(directory, name, DIRECTORY, Mode::empty())
}

/// A regular file in a directory, to be read. `WRONGTYPE` for anything else, without waiting for anybody: a pipe is opened as if
/// somebody had the other end.
pub(crate) fn open_file(directory: BorrowedFd<'_>, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile { Ok(file) } else { Err(WRONG_TYPE) }
}

/// What [`open_file`] says of a directory, a device, a pipe or a socket.
pub(crate) const WRONG_TYPE: Errno = Errno::MEDIUMTYPE;
