//! Control groups (version 2) below a folder that is the runner's own: a group for each run, with its limits.
//!
//! What a machine lets this folder do is found out once; a limit whose controller is not there is not set, and said at the start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The kernel's word for this much time of each of these is one processor.
const CPU_PERIOD_US: u64 = 100_000;
/// A group whose processes have just died is busy for a moment.
const REMOVE_ATTEMPTS: u32 = 50;
const REMOVE_INTERVAL: Duration = Duration::from_millis(2);

pub(super) struct Cgroups {
    dir: PathBuf,
    next: AtomicU64,
}

/// Of one run; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "bounds are last in names")]
pub(super) struct Limits {
    pub(super) memory_bytes_max: u64,
    pub(super) processes_max: u64,
    pub(super) cpu_millis_max: u64,
}

/// Of one run. Dropped, it kills what is in it and goes.
pub(super) struct Cgroup {
    dir: PathBuf,
}

impl Cgroups {
    /// Tries the folder. Returns also the controllers that runs cannot be limited by.
    pub(super) fn open(dir: &Path) -> io::Result<(Self, Vec<&'static str>)> {
        let cgroups = Self { dir: fs::canonicalize(dir)?, next: AtomicU64::new(0) };
        let mut missing = Vec::new();
        for controller in ["memory", "pids", "cpu"] {
            // One at a time: one that is not there must not take the others along.
            if fs::write(cgroups.dir.join("cgroup.subtree_control"), format!("+{controller}")).is_err() {
                missing.push(controller);
            }
        }
        let trial = cgroups.make(Limits::default())?;
        if !trial.dir.join("cgroup.kill").exists() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "it has no cgroup.kill (Linux 5.14)"));
        }
        Ok((cgroups, missing))
    }

    /// A group for a run, with those of the limits that can be set here.
    pub(super) fn make(&self, limits: Limits) -> io::Result<Cgroup> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let dir = self.dir.join(format!("cask-{}-{number}", std::process::id()));
        fs::create_dir(&dir)?;
        let cgroup = Cgroup { dir };
        cgroup.limit("memory.max", limits.memory_bytes_max, |bytes| bytes.to_string())?;
        // Swapping instead would be the same memory elsewhere. Absent without swap.
        cgroup.limit("memory.swap.max", limits.memory_bytes_max, |_| "0".to_owned())?;
        cgroup.limit("pids.max", limits.processes_max, |count| count.to_string())?;
        cgroup.limit("cpu.max", limits.cpu_millis_max, |millis| {
            format!("{} {CPU_PERIOD_US}", (millis * CPU_PERIOD_US / 1000).max(1000))
        })?;
        Ok(cgroup)
    }
}

impl Cgroup {
    fn limit(&self, file: &str, value: u64, text: impl FnOnce(u64) -> String) -> io::Result<()> {
        if value == 0 {
            return Ok(());
        }
        match fs::OpenOptions::new().write(true).open(self.dir.join(file)) {
            Ok(mut opened) => io::Write::write_all(&mut opened, text(value).as_bytes()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // A file system of control groups lets nobody make a file; asking to open one that is not there is refused so.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What a process writes "0" to, to be in it.
    pub(super) fn procs(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.dir.join("cgroup.kill"), "1");
        for _ in 0..REMOVE_ATTEMPTS {
            match fs::remove_dir(&self.dir) {
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                    std::thread::sleep(REMOVE_INTERVAL);
                }
                _ => return,
            }
        }
    }
}
