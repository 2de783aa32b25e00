//! What the kernel says of this process.

/// Anonymous memory that is resident (`RssAnon`), in bytes: heap, index, buffers; not the pages of mapped segments.
pub fn anonymous_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kib| kib.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
