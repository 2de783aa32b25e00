//! What the kernel says of processor time and memory, of this thread and of the server's process.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Processor time of the calling thread so far.
pub(crate) fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What a process has used so far, and what it holds now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Processor time of all threads that live, exact to the nanosecond.
    pub(crate) exact: Option<Duration>,
    /// In user code and in the kernel, in ticks of 10 ms, of threads that have ended, too.
    pub(crate) user: Duration,
    pub(crate) system: Duration,
    /// Resident memory, and the part of it that is the process's own: heap and stacks, no mapped files.
    pub(crate) resident_bytes: u64,
    pub(crate) anonymous_bytes: u64,
}

/// Asks the kernel; `None` where there is no such process, or not on this machine.
pub(crate) fn usage(pid: u32) -> Option<Usage> {
    /// What `/proc` counts time in: always 100 on Linux's common machines.
    const TICKS_PER_SECOND: u64 = 100;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; fields 14 and 15 of proc(5) are counted from behind it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || Some(Duration::from_millis(fields.next()?.parse::<u64>().ok()? * 1000 / TICKS_PER_SECOND));
    let (user, system) = (ticks()?, ticks()?);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kibibytes.unwrap_or(0) * 1024
    };
    Some(Usage {
        exact: tasks_time(pid),
        user,
        system,
        resident_bytes: bytes("VmRSS:"),
        anonymous_bytes: bytes("RssAnon:"),
    })
}

/// The sum over all threads of what the scheduler counts; `None` where the kernel does not say.
fn tasks_time(pid: u32) -> Option<Duration> {
    let mut sum = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let path = task.ok()?.path().join("schedstat");
        // A thread may end between the listing and the look at it.
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        sum += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    // Kernels that do not count say 0.
    (sum > 0).then(|| Duration::from_nanos(sum))
}

impl Usage {
    /// Processor time used since `before`: exact where no thread ended meanwhile, else in ticks.
    pub(crate) fn time_since(&self, before: &Usage) -> Duration {
        let ticks = (self.user + self.system).saturating_sub(before.user + before.system);
        let exact = self.exact.zip(before.exact).and_then(|(after, before)| after.checked_sub(before));
        // A thread that ended took its count with it.
        exact.filter(|exact| *exact + Duration::from_millis(50) >= ticks).unwrap_or(ticks)
    }
}
