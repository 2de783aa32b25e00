//! [`Operation`]: the kinds of requests, as rows of a report.

use serde::Serialize;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Asks which of many blobs are missing.
    FindMissing,
    /// Reads a blob as a stream.
    Read,
    /// Uploads a blob as a stream.
    Write,
    /// Reads several blobs in one answer.
    BatchRead,
    /// Uploads several blobs in one request.
    BatchUpdate,
    /// Asks for an action's result that is there.
    ActionHit,
    /// Asks for an action's result that is not there.
    ActionMiss,
    /// Stores an action's result.
    ActionUpdate,
    /// Reads a blob over HTTP/1.1.
    HttpGet,
    /// Uploads a blob over HTTP/1.1.
    HttpPut,
}

impl Operation {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::FindMissing => "find-missing",
            Self::Read => "read",
            Self::Write => "write",
            Self::BatchRead => "batch-read",
            Self::BatchUpdate => "batch-update",
            Self::ActionHit => "action-hit",
            Self::ActionMiss => "action-miss",
            Self::ActionUpdate => "action-update",
            Self::HttpGet => "http-get",
            Self::HttpPut => "http-put",
        }
    }
}
