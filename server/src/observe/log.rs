//! Structured logs on standard error. Each line carries `event`, a stable name to search and alert by; texts may change.

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Says what is logged, in the syntax of `tracing`: `debug`, `cask=debug,h2=info`.
pub(crate) const FILTER_VARIABLE: &str = "CASK_LOG";

/// Starts logging for this process and makes panics log lines too. A filter that does not parse is an error's text.
pub(crate) fn start(format: LogFormat) -> Result<(), String> {
    let filter = match std::env::var(FILTER_VARIABLE) {
        Ok(filter) => {
            EnvFilter::try_new(&filter).map_err(|error| format!("{FILTER_VARIABLE}=\"{filter}\": {error}"))?
        }
        Err(_) => EnvFilter::new("info"),
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second subscriber cannot be set; a process has one, and keeps the first.
    let _ = match format {
        LogFormat::Text => {
            use std::io::IsTerminal;
            tracing::subscriber::set_global_default(lines.with_ansi(std::io::stderr().is_terminal()).finish())
        }
        LogFormat::Json => tracing::subscriber::set_global_default(lines.json().flatten_event(true).finish()),
    };
    log_panics();
    Ok(())
}

/// A panic is a broken invariant in one request; it ends that request, not the server, so it must not go unseen.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("(no message)");
        let trace = std::backtrace::Backtrace::capture();
        tracing::error!(event = "panic", place, message, %trace, "a broken invariant ended a request; please report this");
    }));
}
