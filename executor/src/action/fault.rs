//! What can be wrong with an action. All of it is the client's doing and permanent: `INVALID_ARGUMENT`.

use cask_proto::WireError;

/// Longest piece of client text that a fault repeats.
const EXCERPT_CHARS_MAX: usize = 80;

/// Why an action, its command or a directory of its input is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActionFault {
    /// The blob is no message of its kind.
    #[error("the {0} cannot be decoded")]
    Undecodable(&'static str),
    /// A digest in it is none, or is of another digest function than the action's.
    #[error("{0}: {1}")]
    Digest(&'static str, WireError),
    /// A name in a directory that is no single segment of a path.
    #[error("`{0}` is no name of a file: it is empty, `.` or `..`, has a slash or a NUL in it, or more than 255 bytes")]
    Name(String),
    /// The canonical form of a directory is sorted.
    #[error("the names in a directory are not sorted: `{0}` stands before `{1}`")]
    Unsorted(String, String),
    /// One name for two things.
    #[error("a directory has two entries of the name `{0}`")]
    Duplicate(String),
    /// Empty, with a NUL in it, or longer than a symlink can be.
    #[error("the symlink `{0}` has no target, or one with a NUL in it or of more than 4095 bytes")]
    SymlinkTarget(String),
    /// A path that is absolute, ends in a slash, has a NUL or too long a name in it, or leads out of the input root.
    #[error("{what} `{path}` {fault}")]
    Path {
        /// Which path.
        what: &'static str,
        /// The path.
        path: String,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// Two outputs of one path.
    #[error("the output `{0}` is asked for twice")]
    OutputTwice(String),
    /// No argument, an empty program name, or a NUL.
    #[error("the command's arguments {0}")]
    Arguments(&'static str),
    /// An environment variable that cannot be.
    #[error("the environment variable `{0}` {1}")]
    Variable(String, &'static str),
    /// A node property that is not returned here.
    #[error("the node property `{0}` is not supported; `mtime` and `unix_mode` are")]
    NodeProperty(String),
    /// Negative or out of range.
    #[error("the action's timeout is no length of time")]
    Timeout,
}

/// A piece of client text for an error message.
pub(super) fn excerpt(text: &str) -> String {
    let mut chars = text.escape_debug();
    let mut excerpt: String = chars.by_ref().take(EXCERPT_CHARS_MAX).collect();
    if chars.next().is_some() {
        excerpt.push('…');
    }
    excerpt
}
