//! How much room the folder's filesystem has: decides the default `max_size` and the warning about one that cannot fit.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes of the filesystem a folder is, or will be, on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DiskSpace {
    /// What an unprivileged process may still write.
    pub(crate) free_bytes: u64,
    /// What the folder holds already, in allocated blocks.
    pub(crate) held_bytes: u64,
}

impl DiskSpace {
    /// Measures; the folder need not exist yet, its nearest existing ancestor stands for it. `None` when the filesystem
    /// does not say.
    pub(crate) fn of(folder: &Path) -> Option<Self> {
        let existing = folder.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("."));
        let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
        let statistics = rustix::fs::statvfs(existing).ok()?;
        Some(Self {
            free_bytes: statistics.f_bavail.saturating_mul(statistics.f_frsize),
            held_bytes: allocated_bytes(folder),
        })
    }

    /// What a store in this folder could grow to.
    pub(crate) fn available_bytes(self) -> u64 {
        self.free_bytes.saturating_add(self.held_bytes)
    }
}

/// Sums the files of the folder and its subfolders. Unreadable ones count as nothing: opening the store will complain.
fn allocated_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some(if metadata.is_dir() { allocated_bytes(&entry.path()) } else { metadata.blocks() * 512 })
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_does_not_exist_yet_is_measured_by_its_ancestor() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let space = DiskSpace::of(&parent.path().join("not/yet/there")).expect("a filesystem");
        assert_eq!(space.held_bytes, 0);
        assert!(space.free_bytes > 0);
    }

    #[test]
    fn what_the_folder_holds_counts_as_available() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("segments")).expect("a subfolder");
        fs::write(folder.path().join("segments/0"), vec![1_u8; 100_000]).expect("a file");
        let space = DiskSpace { free_bytes: 7, ..DiskSpace::of(folder.path()).expect("a filesystem") };
        assert!(space.held_bytes >= 100_000, "{space:?}");
        assert_eq!(space.available_bytes(), 7 + space.held_bytes);
    }
}
