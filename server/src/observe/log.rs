//! Structured logs on standard error. Each line carries `event`, a stable name to search and alert by; texts may change.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::config::LogFormat;

/// Says what is logged, in the syntax of `tracing`: `debug`, `info,cask_engine=debug,h2=trace`.
pub(crate) const FILTER_VARIABLE: &str = "CASK_LOG";

/// Starts logging for this process and makes panics log lines too. A filter that does not parse is an error's text.
pub(crate) fn start(format: LogFormat) -> Result<(), String> {
    let filter = match std::env::var(FILTER_VARIABLE) {
        Ok(filter) => EnvFilter::try_new(directives(&filter))
            .map_err(|error| format!("{FILTER_VARIABLE}=\"{filter}\": {error}"))?,
        Err(_) => EnvFilter::new("info"),
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        // They would go to standard error by a way that panics when it is closed.
        .log_internal_errors(false);
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

/// A level alone is meant for Cask: the transport's libraries log every HTTP/2 frame at `debug`, fifteen lines a call, and nobody would
/// find anything between them. Who names them gets them.
fn directives(filter: &str) -> String {
    match filter.trim().parse::<LevelFilter>() {
        Ok(level) if level > LevelFilter::INFO => format!("info,cask={level}"),
        _ => filter.to_owned(),
    }
}

/// A panic is a broken invariant in one request; it ends that request, not the server, so it must not go unseen.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic
            .payload()
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.payload().downcast_ref::<String>().map(String::as_str))
            .unwrap_or("(no message)");
        let trace = std::backtrace::Backtrace::capture();
        tracing::error!(event = "panic", place, message, %trace, "a broken invariant ended what it was part of; please report this");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_alone_leaves_the_frames_of_the_transport_out() {
        for (filter, expected) in [
            ("debug", "info,cask=debug"),
            (" TRACE ", "info,cask=trace"),
            ("info", "info"),
            ("warn", "warn"),
            ("off", "off"),
            ("cask_engine=debug", "cask_engine=debug"),
            ("debug,h2=info", "debug,h2=info"),
        ] {
            assert_eq!(directives(filter), expected, "{filter}");
            assert!(EnvFilter::try_new(directives(filter)).is_ok(), "{filter}");
        }
    }
}
