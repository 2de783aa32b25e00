//! The worker against a server and a runner in the test's own process.

mod executions;
mod fake;
mod file_cache;
mod hostile;
mod inputs;
mod outputs;
mod rendering;
mod sessions;
