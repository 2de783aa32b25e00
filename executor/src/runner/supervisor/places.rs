//! The places of a run, opened beneath the build folder without following a symbolic link.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{Trouble, failed, ownership};
use crate::runner::plan::Plan;

/// What a sandbox mounts on when the input root is `/`.
const MOUNT_POINTS: [&str; 3] = ["proc", "dev", "tmp"];

pub(super) struct Places {
    /// The folder of the run, in which its input root is.
    pub(super) folder: OwnedFd,
    pub(super) working_directory: OwnedFd,
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    /// The file that lets a process into the run's control group.
    pub(super) cgroup: Option<OwnedFd>,
}

impl Places {
    /// Opens everything, makes the files of the two streams, and gives what the command may write to its user. Adds to
    /// `mount_points` the folders that were made in the input root, also when it fails afterwards.
    pub(super) fn open(plan: &Plan, mount_points: &mut Vec<String>) -> Result<Self, Trouble> {
        let build_dir = rustix::fs::open(
            plan.build_dir.as_str(),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(failed("open the build folder"))?;
        let folder_path = folder_of(&plan.input_root);
        let folder = open_folder(&build_dir, folder_path, OFlags::PATH, "folder of the input root")?;
        let input_root = open_folder(&build_dir, &plan.input_root, OFlags::RDONLY, "input root")?;
        let working_directory = open_folder(&input_root, &plan.working_directory, OFlags::PATH, "working directory")?;
        let writable = [(&plan.temporary, "temporary directory"), (&plan.server_logs, "server logs directory")];
        let mut owned = Vec::new();
        for (path, what) in writable.iter().filter(|(path, _)| !path.is_empty()) {
            owned.push(open_folder(&build_dir, path, OFlags::RDONLY, what)?);
        }
        let stdout = make_file(&build_dir, &plan.stdout, "stdout")?;
        let stderr = if plan.stderr == plan.stdout {
            rustix::io::fcntl_dupfd_cloexec(&stdout, 3).map_err(failed("share stdout with stderr"))?
        } else {
            make_file(&build_dir, &plan.stderr, "stderr")?
        };
        let stdin = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed("open /dev/null"))?;
        let cgroup = match plan.cgroup_procs.as_str() {
            "" => None,
            path => {
                let opened = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
                Some(opened.map_err(failed("open the control group"))?)
            }
        };
        if plan.root_is_filesystem_root {
            for name in MOUNT_POINTS {
                make_mount_point(&input_root, name, mount_points)?;
            }
        }
        if let Some(id) = plan.own_id {
            let give = |file: &OwnedFd| {
                ownership::give(file.as_fd(), id).map_err(failed("change the owner of a file of the run"))
            };
            give(&stdout)?;
            give(&stderr)?;
            owned.iter().try_for_each(give)?;
            ownership::give_folders(input_root.as_fd(), id)?;
            if !folder_path.is_empty() {
                ownership::let_in(&build_dir, folder_path, id)?;
            }
        }
        Ok(Self { folder, working_directory, stdin, stdout, stderr, cgroup })
    }
}

/// The folder in which a path's last component is; empty for the build folder.
pub(super) fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Nothing on the way is a symbolic link, and the end is beneath the beginning.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

fn open_folder(from: &OwnedFd, path: &str, flags: OFlags, what: &str) -> Result<OwnedFd, Trouble> {
    let name = if path.is_empty() { "." } else { path };
    rustix::fs::openat2(from, name, flags | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), BENEATH).map_err(
        |errno| match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG => {
                Trouble::Refused(format!("the {what}, {path:?}, is not a folder: {errno}"))
            }
            errno => failed(format!("open the {what}, {path:?}"))(errno),
        },
    )
}

fn make_file(from: &OwnedFd, path: &str, what: &str) -> Result<OwnedFd, Trouble> {
    // Appending: what opens `/dev/stdout` again writes where the others are, not over them.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    rustix::fs::openat2(from, path, flags, mode, BENEATH).map_err(|errno| match errno {
        Errno::EXIST | Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::ISDIR | Errno::NAMETOOLONG => {
            Trouble::Refused(format!("the file for {what}, {path:?}, cannot be made: {errno}"))
        }
        errno => failed(format!("make the file for {what}, {path:?}"))(errno),
    })
}

fn make_mount_point(input_root: &OwnedFd, name: &str, made: &mut Vec<String>) -> Result<(), Trouble> {
    match rustix::fs::mkdirat(input_root, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => {
            made.push(name.to_owned());
            Ok(())
        }
        Err(Errno::EXIST) => {
            let there = rustix::fs::statat(input_root, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed(format!("look at /{name} of the input root")))?;
            if rustix::fs::FileType::from_raw_mode(there.st_mode) == rustix::fs::FileType::Directory {
                Ok(())
            } else {
                Err(Trouble::Refused(format!("/{name} of the input root is not a folder, and has to be mounted on")))
            }
        }
        Err(errno) => Err(failed(format!("make /{name} in the input root"))(errno)),
    }
}

/// A path of the build folder, absolute.
pub(super) fn absolute(plan: &Plan, path: &str) -> String {
    if path.is_empty() { plan.build_dir.clone() } else { format!("{}/{path}", plan.build_dir.trim_end_matches('/')) }
}
