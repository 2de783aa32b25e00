//! Names of log streams <-> typed values.
//!
//! ```text
//! read    [instance/]logstreams/id
//! write   [instance/]logstreams/id/secret
//! ```
//! Whoever knows the second may append; the first is for readers. Neither holds a word that blob names are made of, so that a
//! `ByteStream` name is of the one kind or the other.

use std::fmt;

use crate::InstanceName;
use crate::error::{WireError, excerpt};

const SEGMENT: &str = "logstreams";

/// A log stream: its instance and its id within that.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LogName {
    /// The parent it was created under.
    pub instance: InstanceName,
    /// 32 lowercase hexadecimal digits.
    pub id: String,
}

/// The two kinds of name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogResource {
    /// To read from.
    Read(LogName),
    /// To append to; the second is the secret, 32 lowercase hexadecimal digits.
    Write(LogName, String),
}

impl LogResource {
    /// `None` when the name is not of a log stream, but perhaps of a blob.
    pub fn parse(name: &str) -> Option<Result<Self, WireError>> {
        let segments: Vec<&str> = name.split('/').collect();
        // The last segment of that name, so that an instance may be called so too.
        let at = segments.iter().rposition(|segment| *segment == SEGMENT)?;
        let instance = match InstanceName::parse(&segments[..at].join("/")) {
            // A slash with nothing before it is an instance of one empty segment, not the absent instance.
            Ok(instance) if at > 0 && instance == InstanceName::EMPTY => {
                return Some(Err(WireError::InstanceSegmentEmpty(excerpt(name))));
            }
            Ok(instance) => instance,
            Err(WireError::InstanceReserved(_)) => return None,
            Err(error) => return Some(Err(error)),
        };
        let is_token =
            |token: &str| token.len() == 32 && token.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let name_of = |id: &str| LogName { instance, id: id.to_owned() };
        Some(match segments[at + 1..] {
            [id] if is_token(id) => Ok(Self::Read(name_of(id))),
            [id, secret] if is_token(id) && is_token(secret) => Ok(Self::Write(name_of(id), secret.to_owned())),
            _ => Err(WireError::NotALogName(excerpt(name))),
        })
    }
}

impl fmt::Display for LogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.instance.as_str().is_empty() {
            write!(f, "{}/", self.instance)?;
        }
        write!(f, "{SEGMENT}/{}", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn names_of_logs_are_told_from_names_of_blobs() {
        for instance in ["", "main", "a/b", "logstreams"] {
            let name = LogName { instance: InstanceName::parse(instance).unwrap(), id: ID.to_owned() };
            assert_eq!(LogResource::parse(&name.to_string()), Some(Ok(LogResource::Read(name.clone()))));
            let write = LogResource::Write(name.clone(), ID.to_owned());
            assert_eq!(LogResource::parse(&format!("{name}/{ID}")), Some(Ok(write)));
        }
        for blob in ["", "blobs/x/3", "a/blobs/logstreams/3", "uploads/logstreams/blobs/x/3", "actions/logstreams/x"] {
            assert_eq!(LogResource::parse(blob), None, "{blob}");
        }
        for malformed in [
            "logstreams",
            "logstreams/",
            "logstreams/abc",
            "/logstreams/ID",
            "logstreams/ID/",
            "logstreams/ID/x",
            "logstreams/ID/ID/ID",
        ] {
            let malformed = malformed.replace("ID", ID);
            assert!(matches!(LogResource::parse(&malformed), Some(Err(_))), "{malformed}");
        }
    }
}
