//! What a sandbox sees of the machine: the file system and the network, made by the first process of the sandbox in its own
//! mount and network namespaces.
//!
//! ```text
//! input root elsewhere                              input root as /
//!   /            the host's, read-only                /       the input root
//!   hidden ones  empty                                /dev    a few devices
//!   /dev         a few devices, /dev/shm of its own   /proc   of the sandbox
//!   /proc        of the sandbox                       /tmp    the run's own
//!   /tmp, /var/tmp  the run's own
//!   input root   where it is, writable
//! ```
//! The mounts inside are made by the kernel's rules for less privileged namespaces: none that came from outside can be taken
//! away again to see what is under it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change, move_mount,
    open_tree, unmount,
};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::places::{absolute, folder_of};
use super::{Trouble, failed};
use crate::runner::kernel;
use crate::runner::plan::Plan;

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
/// What a small file system in memory is given: it holds names, never content.
const COVER: &std::ffi::CStr = c"mode=755,size=1m";

/// Makes the view. The working directory of the caller is the folder of the run, and somewhere inside afterwards.
pub(super) fn make(plan: &Plan) -> Result<(), Trouble> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(failed("separate the mounts from the host's"))?;
    let input_root = take_mount(&from_folder(plan, &plan.input_root))?;
    // A mount is put in one place: one for each.
    let take_temporary = || match plan.temporary.as_str() {
        "" => Ok(None),
        path => take_mount(&from_folder(plan, path)).map(Some),
    };
    let (temporary, second_temporary) = (take_temporary()?, take_temporary()?);
    let mut devices = Vec::new();
    for name in DEVICES {
        match open_tree(CWD, format!("/dev/{name}"), OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        {
            Ok(device) => devices.push((name, device)),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(format!("take /dev/{name}"))(errno)),
        }
    }
    if plan.root_is_filesystem_root {
        let name = from_folder(plan, &plan.input_root);
        put_mount(&input_root, &name)?;
        rustix::process::chdir(name.as_str()).map_err(failed("enter the input root"))?;
        make_devices(devices)?;
        put_temporary(temporary.as_ref(), "tmp")?;
        // Before the host's /proc is out of sight: the kernel gives a new one only to who sees a whole one.
        mount_proc()?;
        rustix::process::pivot_root(".", ".").map_err(failed("make the input root the root"))?;
        unmount(".", UnmountFlags::DETACH).map_err(failed("leave the host's root"))?;
        return rustix::process::chdir("/").map_err(failed("enter the root"));
    }
    let target = absolute(plan, &plan.input_root);
    let shown = plan.shown.iter().map(|path| Ok((path, take_mount(path)?))).collect::<Result<Vec<_>, Trouble>>()?;
    rustix::process::chdir("/").map_err(failed("enter the root"))?;
    for path in &plan.hidden {
        match mount("tmpfs", path.as_str(), "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, COVER) {
            // In one that is hidden already, or not there.
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(failed(format!("hide {path}"))(errno)),
        }
    }
    make_devices(devices)?;
    // What is placed in one of the three after they are there; elsewhere before the host's folders are read-only, as it may need
    // new ones in hidden folders.
    let is_in_own = |path: &str| ["/tmp", "/var/tmp", "/dev/shm"].iter().any(|own| is_in(path, own));
    let places = || shown.iter().map(|(path, _)| path.as_str()).chain([target.as_str()]);
    places().filter(|path| !is_in_own(path)).try_for_each(make_folders)?;
    rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|root| kernel::make_read_only(root.as_fd()))
        .map_err(failed("make the host's files read-only"))?;
    put_temporary(temporary.as_ref(), "tmp")?;
    if rustix::fs::access("/var/tmp", rustix::fs::Access::EXISTS).is_ok() {
        put_temporary(second_temporary.as_ref(), "var/tmp")?;
    }
    mount("tmpfs", "dev/shm", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=1777")
        .map_err(failed("make /dev/shm"))?;
    places().filter(|path| is_in_own(path)).try_for_each(make_folders)?;
    for (path, mount) in &shown {
        kernel::make_read_only(mount.as_fd()).map_err(failed(format!("make {path} read-only")))?;
        put_mount(mount, path)?;
    }
    put_mount(&input_root, &target)?;
    mount_proc()
}

/// Where the command starts.
pub(super) fn working_directory(plan: &Plan) -> String {
    let root = if plan.root_is_filesystem_root { String::new() } else { absolute(plan, &plan.input_root) };
    format!("{root}/{}", plan.working_directory)
}

/// A path of the build folder as seen from the folder of the run, or absolute when it is not in there.
fn from_folder(plan: &Plan, path: &str) -> String {
    let folder = folder_of(&plan.input_root);
    let inside =
        if folder.is_empty() { Some(path) } else { path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')) };
    inside.map_or_else(|| absolute(plan, path), ToOwned::to_owned)
}

fn is_in(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A mount of what is at a path, in nobody's tree yet.
fn take_mount(path: &str) -> Result<OwnedFd, Trouble> {
    let path = if path.is_empty() { "." } else { path };
    open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .map_err(failed(format!("take {path}")))
}

fn put_mount(mount: &OwnedFd, path: &str) -> Result<(), Trouble> {
    move_mount(mount, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed(format!("mount on {path}")))
}

/// The run's own temporary folder, or one in memory when the request names none.
fn put_temporary(temporary: Option<&OwnedFd>, path: &str) -> Result<(), Trouble> {
    let Some(temporary) = temporary else {
        return mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=1777")
            .map_err(failed(format!("make /{path}")));
    };
    put_mount(temporary, path)
}

/// `dev`, below the working directory.
fn make_devices(devices: Vec<(&str, OwnedFd)>) -> Result<(), Trouble> {
    let making = || failed("make /dev");
    mount("tmpfs", "dev", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, COVER).map_err(making())?;
    for (name, device) in devices {
        let path = format!("dev/{name}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        rustix::fs::open(path.as_str(), flags, Mode::RUSR | Mode::WUSR).map_err(making())?;
        put_mount(&device, &path)?;
    }
    for (name, target) in DEVICE_LINKS {
        rustix::fs::symlink(target, format!("dev/{name}")).map_err(making())?;
    }
    for name in ["pts", "shm"] {
        rustix::fs::mkdir(format!("dev/{name}"), Mode::from_raw_mode(0o755)).map_err(making())?;
    }
    mount("devpts", "dev/pts", "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, c"newinstance,ptmxmode=0666,mode=620")
        .map_err(making())
}

fn mount_proc() -> Result<(), Trouble> {
    mount("proc", "proc", "proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None).map_err(|errno| {
        match errno {
            Errno::PERM => {
                failed("mount /proc (a container that hides parts of its own /proc allows none inside)")(errno)
            }
            errno => failed("mount /proc")(errno),
        }
    })
}

/// All folders on the way to a path, and it.
fn make_folders(path: &str) -> Result<(), Trouble> {
    let ends = path.char_indices().skip(1).filter(|(_, c)| *c == '/').map(|(at, _)| at).chain([path.len()]);
    for end in ends {
        match rustix::fs::mkdir(&path[..end], Mode::from_raw_mode(0o755)) {
            // Read-only, or not ours: where it exists none the worse, else the mount says what is wrong.
            Ok(()) | Err(Errno::EXIST | Errno::ROFS | Errno::ACCESS) => {}
            Err(errno) => return Err(failed(format!("make {path}"))(errno)),
        }
    }
    Ok(())
}

/// Raises the loopback device: an empty network namespace has one, and it is down.
pub(super) fn raise_loopback() -> Result<(), Trouble> {
    const LOOPBACK_INDEX: u32 = 1;
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST_ACK: u16 = 1 | 4;
    const IFF_UP: u32 = 1;
    const MESSAGE_BYTES: u32 = 32;
    let mut message = Vec::with_capacity(MESSAGE_BYTES as usize);
    // nlmsghdr: length, type, flags, sequence, sender.
    message.extend(MESSAGE_BYTES.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    message.extend([0; 8]);
    // ifinfomsg: family, padding, type, index, flags, which of them.
    message.extend([0; 4]);
    message.extend(LOOPBACK_INDEX.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    let raising = || failed("raise the loopback device");
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // The protocol of routes is number 0.
        None,
    )
    .map_err(raising())?;
    rustix::net::sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).map_err(raising())?;
    let mut answer = [0; 512];
    let (received, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty()).map_err(raising())?;
    // nlmsghdr, then the negative error number.
    let error =
        answer.get(16..20).filter(|_| received >= 20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match error {
        Some(0) => Ok(()),
        Some(negative) => Err(raising()(Errno::from_raw_os_error(-negative))),
        None => Err(raising()(Errno::BADMSG)),
    }
}
