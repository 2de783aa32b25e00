//! [`Hindrance`]: why a row could not be measured. It goes into the table in place of figures.

use std::io;

use cask_load::LoadError;

/// Why a row could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum Hindrance {
    /// This machine, or this run, does not have what it takes.
    #[error("{0}")]
    Lacking(String),
    /// The kernel refused something.
    #[error("cannot {action}: {source}")]
    Refused {
        /// What was to be done.
        action: &'static str,
        /// The kernel's words.
        source: io::Error,
    },
    /// The load client came to no report.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl Hindrance {
    /// For `map_err` of what was to be done.
    pub fn to(action: &'static str) -> impl Fn(io::Error) -> Hindrance {
        move |source| Hindrance::Refused { action, source }
    }
}
