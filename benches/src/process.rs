//! What the kernel says of this process.

/// Anonymous memory that is resident (`RssAnon`), in bytes: heap, index, buffers; not the pages of mapped segments.
pub fn anonymous_memory_bytes() -> u64 {
    status_bytes("self", "RssAnon:")
}

/// The same of another process; 0 where there is none.
pub fn anonymous_memory_of(pid: u32) -> u64 {
    status_bytes(&pid.to_string(), "RssAnon:")
}

/// All resident memory of another process, mapped files included; 0 where there is none.
pub fn resident_memory_of(pid: u32) -> u64 {
    status_bytes(&pid.to_string(), "VmRSS:")
}

fn status_bytes(process: &str, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(name));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kib| kib.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Processor time of all threads so far, user and system. The kernel counts in hundredths of a second.
pub fn cpu_seconds() -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in parentheses, may hold anything; the fields are counted from behind it: 14 and 15 of proc(5).
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / TICKS_PER_SECOND
}

/// CPU time of all threads so far, in user code and in the kernel on their behalf.
pub fn cpu_time() -> std::time::Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    std::time::Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// CPU time so far of the threads of `pid` that live, as the scheduler counts it; zero where the kernel does not say.
pub fn threads_time(pid: u32) -> std::time::Duration {
    named_threads_time(pid, "")
}

/// The same of threads whose names begin with `name`.
pub fn named_threads_time(pid: u32, name: &str) -> std::time::Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    // A thread may end between the listing and the look at it.
    let nanoseconds = |task: std::path::PathBuf| {
        std::fs::read_to_string(task.join("comm")).ok().filter(|comm| comm.starts_with(name))?;
        std::fs::read_to_string(task.join("schedstat")).ok()?.split_whitespace().next()?.parse::<u64>().ok()
    };
    std::time::Duration::from_nanos(tasks.filter_map(|task| nanoseconds(task.path())).sum())
}

/// CPU time of the calling thread so far.
pub fn thread_time() -> std::time::Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    std::time::Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
