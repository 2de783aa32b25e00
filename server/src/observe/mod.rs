//! What an operator sees: logs, counters, metrics and the plain pages.

pub(crate) mod invocation;
pub(crate) mod log;
pub(crate) mod metrics;
pub(crate) mod pages;
pub(crate) mod requests;
