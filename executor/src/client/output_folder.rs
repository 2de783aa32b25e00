//! [`OutputFolder`]: a folder that files are put into at paths which somebody else chose.
//!
//! Nothing is ever written outside of it: each step of a path is opened by itself and never through a symlink, whoever made
//! that. A file or symlink takes the place of an older one at once and whole; a folder that is there already stays, with what
//! it has.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, renameat, symlinkat, unlinkat};
use rustix::io::Errno;

use crate::action::RootPath;

/// Leftovers of processes that had our id before us are skipped, so many of them.
const NAMES_TRIED_MAX: u32 = 1000;

/// A folder to write into. See the module.
#[derive(Debug)]
pub struct OutputFolder {
    path: PathBuf,
    root: OwnedFd,
}

impl OutputFolder {
    /// Opens a folder, and makes it where it is not there. The path to it is the caller's own: symlinks in it are followed.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let root = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { path: path.to_owned(), root })
    }

    /// As it was given to [`OutputFolder::open`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a folder and those above it.
    pub fn make_folder(&self, path: &RootPath) -> std::io::Result<()> {
        self.walk(path.segments()).map(drop)
    }

    /// Makes a symlink, with this text as its target.
    pub fn put_symlink(&self, path: &RootPath, target: &str) -> std::io::Result<()> {
        let (folder, name) = self.place(path)?;
        let ((), made) = fresh(|made| symlinkat(target, &folder, made))?;
        let renamed = renameat(&folder, &made, &folder, name);
        if renamed.is_err() {
            // The failure to rename is what is reported.
            let _ = unlinkat(&folder, &made, AtFlags::empty());
        }
        Ok(renamed?)
    }

    /// Begins a file, to be written to and closed. It is there, whole, after [`NewFile::keep`], and leaves nothing behind
    /// without.
    pub fn begin_file(&self, path: &RootPath, is_executable: bool) -> std::io::Result<(File, NewFile)> {
        let (folder, name) = self.place(path)?;
        let mode = Mode::from_raw_mode(if is_executable { 0o777 } else { 0o666 });
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (file, made) = fresh(|made| openat(&folder, made, flags, mode))?;
        Ok((File::from(file), NewFile { folder, made, name: name.to_owned(), is_kept: false }))
    }

    /// The folder that an entry is to stand in, and its name there.
    fn place<'a>(&self, path: &'a RootPath) -> std::io::Result<(OwnedFd, &'a str)> {
        let (name, folders) = path.segments().split_last().ok_or(Errno::ISDIR)?;
        Ok((self.walk(folders)?, name))
    }

    fn walk(&self, names: &[String]) -> std::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut folder = self.root.try_clone()?;
        for name in names {
            folder = match openat(&folder, name.as_str(), flags, Mode::empty()) {
                Err(Errno::NOENT) => {
                    match mkdirat(&folder, name.as_str(), Mode::from_raw_mode(0o777)) {
                        // Another download makes folders here too.
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(error.into()),
                    }
                    openat(&folder, name.as_str(), flags, Mode::empty())?
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let reason = format!("\"{name}\" is there and is not a folder");
                    return Err(std::io::Error::new(ErrorKind::NotADirectory, reason));
                }
                outcome => outcome?,
            };
        }
        Ok(folder)
    }
}

/// Makes something under a name that nothing has yet.
fn fresh<T>(make: impl Fn(&str) -> Result<T, Errno>) -> std::io::Result<(T, String)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    for _ in 0..NAMES_TRIED_MAX {
        let name = format!(".cask-{}-{}.partial", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        match make(&name) {
            Ok(made) => return Ok((made, name)),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::EXIST.into())
}

/// A file that is not at its place yet.
#[derive(Debug)]
pub struct NewFile {
    folder: OwnedFd,
    made: String,
    name: String,
    is_kept: bool,
}

impl NewFile {
    /// Puts it where it belongs.
    pub fn keep(mut self) -> std::io::Result<()> {
        renameat(&self.folder, &self.made, &self.folder, &self.name)?;
        self.is_kept = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_kept {
            // It may be gone with its folder; nobody waits for it.
            let _ = unlinkat(&self.folder, &self.made, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn at(path: &str) -> RootPath {
        RootPath::ROOT.join("path", path).expect("a path")
    }

    fn put(folder: &OutputFolder, path: &str, content: &str) -> std::io::Result<()> {
        let (mut file, new) = folder.begin_file(&at(path), path.ends_with("sh"))?;
        file.write_all(content.as_bytes())?;
        new.keep()
    }

    fn names(path: &Path) -> Vec<String> {
        let names = std::fs::read_dir(path).expect("a folder");
        let mut names: Vec<_> =
            names.map(|entry| entry.expect("one").file_name().into_string().expect("text")).collect();
        names.sort();
        names
    }

    #[test]
    fn files_and_symlinks_take_the_place_of_older_ones() {
        let outer = tempfile::tempdir().expect("a folder");
        let path = outer.path().join("made/on the way");
        let folder = OutputFolder::open(&path).expect("opened");
        put(&folder, "a/b/run.sh", "first").expect("written");
        put(&folder, "a/b/run.sh", "second").expect("written");
        assert_eq!(std::fs::read(path.join("a/b/run.sh")).expect("there"), b"second");
        assert_eq!(path.join("a/b/run.sh").metadata().expect("there").permissions().mode() & 0o100, 0o100);
        folder.put_symlink(&at("a/b/run.sh"), "/etc/passwd").expect("linked");
        // The link is replaced, not what it points to.
        put(&folder, "a/b/run.sh", "third").expect("written");
        assert!(path.join("a/b/run.sh").symlink_metadata().expect("there").is_file());
        drop(folder.begin_file(&at("a/b/half"), false).expect("begun"));
        assert_eq!(names(&path.join("a/b")), ["run.sh"], "nothing is left of a file that was not kept");
        put(&folder, "a", "x").expect_err("a folder is there");
        put(&folder, "", "x").expect_err("the root is a folder");
        assert_eq!(names(&path), ["a"]);
    }

    #[test]
    fn nothing_is_written_through_a_symlink() {
        let outer = tempfile::tempdir().expect("a folder");
        let path = outer.path().join("inside");
        let folder = OutputFolder::open(&path).expect("opened");
        std::fs::create_dir(outer.path().join("elsewhere")).expect("a folder");
        symlink("../elsewhere", path.join("link")).expect("a link");
        folder.make_folder(&at("deep")).expect("made");
        folder.put_symlink(&at("deep/link"), "../..").expect("linked");
        for through in ["link/x", "link/y/z", "deep/link/x"] {
            let error = put(&folder, through, "out").expect_err(through);
            assert!(error.to_string().contains("\"link\" is there and is not a folder"), "{error}");
            folder.make_folder(&at(through)).expect_err(through);
            folder.put_symlink(&at(through), "x").expect_err(through);
        }
        assert!(names(&outer.path().join("elsewhere")).is_empty());
        assert_eq!(names(outer.path()), ["elsewhere", "inside"]);
    }
}
