//! The worker against a server and a runner in the test's own process.

mod executions;
mod fake;
