//! [`RootPath`]: a place below an input root.

use std::fmt;

use super::ActionFault;
use super::fault::excerpt;

/// The longest name that a file system of a worker can give: with a longer one all of them would fail.
pub(super) const NAME_BYTES_MAX: usize = 255;

/// A path from the input root down, as segments none of which is empty, `.` or `..`, has a slash or a NUL in it or is longer than a
/// name can be. The root itself
/// has no segment. Whether what stands there is a directory, or a symlink that leads elsewhere, it does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RootPath {
    segments: Vec<String>,
}

impl RootPath {
    /// The input root.
    pub const ROOT: Self = Self { segments: Vec::new() };

    /// Follows `path` from here, by its letters alone: `.` stays, `..` goes up. `what` names the path in the fault.
    ///
    /// # Errors
    /// [`ActionFault::Path`] for a path that is absolute, ends in a slash, has a NUL or too long a name in it or leads out of the root.
    pub fn join(&self, what: &'static str, path: &str) -> Result<Self, ActionFault> {
        let refused = |fault| ActionFault::Path { what, path: excerpt(path), fault };
        if path.starts_with('/') {
            return Err(refused("is absolute"));
        }
        if path.ends_with('/') {
            return Err(refused("ends in a slash"));
        }
        if path.contains('\0') {
            return Err(refused("has a NUL in it"));
        }
        let mut segments = self.segments.clone();
        for segment in path.split('/') {
            match segment {
                // A doubled slash is one.
                "" | "." => {}
                ".." => {
                    segments.pop().ok_or_else(|| refused("leads out of the input root"))?;
                }
                name if name.len() > NAME_BYTES_MAX => return Err(refused("has a name of more than 255 bytes in it")),
                name => segments.push(name.to_owned()),
            }
        }
        Ok(Self { segments })
    }

    /// The segments, from the root down.
    pub fn segments(&self) -> &[String] {
        &self.segments
    }

    /// The directory that this is in; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        let (_, parents) = self.segments.split_last()?;
        Some(Self { segments: parents.to_vec() })
    }

    /// The last segment; `None` for the root.
    pub fn name(&self) -> Option<&str> {
        self.segments.last().map(String::as_str)
    }
}

/// With slashes; the root is the empty string.
impl fmt::Display for RootPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.segments.join("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_followed_by_their_letters() {
        let from = RootPath::ROOT.join("", "a/b").expect("a path");
        for (path, expected) in [
            ("", "a/b"),
            (".", "a/b"),
            ("c", "a/b/c"),
            ("c/./d", "a/b/c/d"),
            ("c//d", "a/b/c/d"),
            ("..", "a"),
            ("../..", ""),
            ("../../x/y", "x/y"),
            ("c/../d", "a/b/d"),
            ("...", "a/b/..."),
        ] {
            assert_eq!(from.join("output", path).expect(path).to_string(), expected, "{path}");
        }
    }

    #[test]
    fn a_path_out_of_the_root_is_refused() {
        let from = RootPath::ROOT.join("", "a/b").expect("a path");
        let long = format!("c/{}/d", "n".repeat(256));
        for path in ["/", "/a", "a/", "../../..", "c/../../../../a/b", "a\0b", &long] {
            assert!(matches!(from.join("output", path), Err(ActionFault::Path { .. })), "{path:?}");
        }
        assert!(from.join("output", &long.replacen('n', "", 1)).is_ok());
    }
}
