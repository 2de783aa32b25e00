//! `docs/targets.md`: the part of it that the program owns stands between two markers, the rest is written by people.

use std::fmt::Write as _;
use std::fs;

use super::line::Line;
use super::table;

/// The first line of the part that is generated, and the one behind it.
const BEGIN: &str = "<!-- begin: written by `targets --write` -->";
const END: &str = "<!-- end: written by `targets --write` -->";

/// Which document.
pub fn path() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("docs").join("targets.md")
}

/// Puts `lines` and what the machine was like into the document.
pub fn write(conditions: &str, lines: &[Line]) -> Result<(), String> {
    let path = path();
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let old = fs::read_to_string(&path).map_err(|error| failed(&error))?;
    let mut part = String::new();
    let _ = write!(part, "{conditions}\n\n{}\n{}.\n", table::markdown(lines), table::summary(lines));
    let new =
        replaced(&old, &part).ok_or_else(|| failed(&format!("there is no \"{BEGIN}\" with \"{END}\" behind it")))?;
    fs::write(&path, new).map_err(|error| failed(&error))
}

/// `document` with `part` between the markers; `None` where there are none.
fn replaced(document: &str, part: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{part}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_markers_changes() {
        let document = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = replaced(&document, "new\n").expect("markers");
        assert_eq!(new, format!("before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"));
        assert_eq!(replaced(&new, "new\n"), Some(new.clone()), "again is the same");
        for broken in ["", BEGIN, END, &format!("{END}{BEGIN}")] {
            assert_eq!(replaced(broken, "new"), None, "{broken}");
        }
    }

    #[test]
    fn the_document_has_the_markers() {
        let document = fs::read_to_string(path()).expect("docs/targets.md");
        assert!(replaced(&document, "").is_some());
    }
}
