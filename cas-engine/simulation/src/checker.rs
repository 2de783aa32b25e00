//! What a checker has to say when a promise was broken.

use std::fmt;

/// A broken promise: which checker saw it, and what.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The checker's name.
    pub checker: &'static str,
    /// What it saw.
    pub detail: String,
    /// The operation after which it was seen.
    pub operation: Option<(usize, String)>,
}

impl Violation {
    /// Seen by `checker`.
    pub fn new(checker: &'static str, detail: String) -> Self {
        Self { checker, detail, operation: None }
    }

    /// ... after the operation at `position`.
    #[must_use]
    pub fn at(mut self, position: usize, operation: &impl fmt::Debug) -> Self {
        self.operation.get_or_insert_with(|| (position, format!("{operation:?}")));
        self
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.checker, self.detail)?;
        match &self.operation {
            Some((position, operation)) => write!(f, " (after operation {position}: {operation})"),
            None => Ok(()),
        }
    }
}
