//! What the supervisor asks of the kernel and no crate offers as a safe function.
//!
//! The only module of this crate with unsafe code; docs/unsafe.md lists its blocks. Everything here is for a process of one
//! thread, which a supervisor is: it does its work before the binary starts any other.

#![expect(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

/// Which side of a fork this is.
pub(super) enum Fork {
    Child,
    Parent { child: Pid },
}

/// Splits this process in two.
///
/// # Panics
///
/// With other threads running: the child would inherit their locks, held by nobody.
pub(super) fn fork() -> Result<Fork, Errno> {
    debug_assert_eq!(threads(), 1, "only a process of one thread may fork without executing");
    // SAFETY: there is one thread (see above), so no lock of the allocator or of the standard library can be held by
    // another one; the child may do whatever its parent may.
    let pid = unsafe { libc::fork() };
    match Pid::from_raw(pid) {
        _ if pid < 0 => Err(last_error()),
        None => Ok(Fork::Child),
        Some(child) => Ok(Fork::Parent { child }),
    }
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

/// Gives this process namespaces of its own.
pub(super) fn unshare(namespaces: UnshareFlags) -> Result<(), Errno> {
    assert!(!namespaces.contains(UnshareFlags::FILES), "descriptors stay shared");
    // SAFETY: what is unsafe about it are descriptors that are no longer shared among threads; they stay as they are.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
}

/// Lets no descriptor from `first` on survive an exec, whoever opened it and however.
pub(super) fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: changes a flag of descriptors; takes no pointer.
    let result = unsafe { libc::close_range(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

/// Gives every signal its default meaning again, which a runner started by `nohup` would not have passed on. That `SIGPIPE` is
/// ignored is undone by the standard library's exec.
pub(super) fn default_signals() {
    for signal in 1..=31 {
        // SAFETY: installs no function. SIGKILL and SIGSTOP are refused, which changes nothing.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Makes a mount, and all below it, read-only and without set-user-ID.
pub(super) fn make_read_only(mount: BorrowedFd<'_>) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path ends with a zero; the attributes are a struct of the size that is given, which the kernel only reads.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_RECURSIVE | libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

/// What a process's children used that it has waited for, and theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) user_time: Duration,
    pub(super) system_time: Duration,
    pub(super) resident_bytes_max: i64,
    pub(super) page_reclaims: i64,
    pub(super) page_faults: i64,
    pub(super) swaps: i64,
    pub(super) block_inputs: i64,
    pub(super) block_outputs: i64,
    pub(super) messages_sent: i64,
    pub(super) messages_received: i64,
    pub(super) signals_received: i64,
    pub(super) voluntary_switches: i64,
    pub(super) involuntary_switches: i64,
}

/// What all children of this process used that it has waited for, with what those had waited for.
pub(super) fn usage_of_children() -> Result<Usage, Errno> {
    let mut raw = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to memory for one `rusage`, which the kernel fills; all of its fields are integers, for which
    // zero is a value even if it does not.
    let raw = unsafe {
        if libc::getrusage(libc::RUSAGE_CHILDREN, raw.as_mut_ptr()) != 0 {
            return Err(last_error());
        }
        raw.assume_init()
    };
    let duration = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    Ok(Usage {
        user_time: duration(raw.ru_utime),
        system_time: duration(raw.ru_stime),
        // The kernel counts in KiB.
        resident_bytes_max: raw.ru_maxrss.saturating_mul(1024),
        page_reclaims: raw.ru_minflt,
        page_faults: raw.ru_majflt,
        swaps: raw.ru_nswap,
        block_inputs: raw.ru_inblock,
        block_outputs: raw.ru_oublock,
        messages_sent: raw.ru_msgsnd,
        messages_received: raw.ru_msgrcv,
        signals_received: raw.ru_nsignals,
        voluntary_switches: raw.ru_nvcsw,
        involuntary_switches: raw.ru_nivcsw,
    })
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}
