//! Collecting what a command made, by the specification of the API: which of the wanted outputs are there, what they are, what has
//! to be uploaded.
//!
//! The root may be hostile. It is read from directory descriptors, a segment at a time; no symlink is followed, nothing but regular
//! files is read, nothing is waited for. Depth, number and size are bounded.

use std::{
    collections::HashMap,
    fs::File,
    io::Read as _,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
};

use bytes::Bytes;
use cask_index::{Digest, DigestFunction, Hasher};
use cask_proto::{
    digest::to_wire,
    reapi::{
        self, Directory, DirectoryNode, FileNode, NodeProperties, OutputDirectory, OutputFile, OutputSymlink,
        SymlinkNode, command::OutputDirectoryFormat,
    },
};
use rustix::{
    fs::{AtFlags, Dir, FileType, Stat},
    io::Errno,
};

use super::{
    beneath::{Obstacle, WRONG_TYPE, open_child, open_directory, open_file},
    fault::ExecutionFault,
    output_upload::{Content, OutputUpload, PlacedFile},
    tree::Directories,
};
use crate::action::{CheckedCommand, OutputKind, OutputWish, RootPath};

/// Files up to this size are kept in memory between hashing and uploading,
const HELD_FILE_BYTES_MAX: u64 = 128 * 1024;
/// as long as they have no more than this in all.
const HELD_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Bounds on what one command may leave.
#[derive(Clone, Debug)]
pub struct OutputLimits {
    /// Files, directories and symlinks in all outputs.
    pub nodes_max: usize,
    /// Directories below each other in one output.
    pub depth_max: usize,
    /// Bytes of all files, as far as they say.
    pub bytes_max: u64,
}

impl Default for OutputLimits {
    fn default() -> Self {
        Self { nodes_max: 1_000_000, depth_max: 256, bytes_max: 256 << 30 }
    }
}

/// What a command left, as far as it was wanted.
pub(crate) struct Outputs {
    /// With the outputs' fields set.
    pub(crate) result: reapi::ActionResult,
    /// All blobs that the result names.
    pub(crate) upload: OutputUpload,
}

/// Collects the outputs of a command below its input root. Blocking.
pub(crate) fn collect(
    root: &Arc<OwnedFd>,
    command: &CheckedCommand,
    function: DigestFunction,
    limits: &OutputLimits,
) -> Result<Outputs, ExecutionFault> {
    let mut collector = Collector {
        command,
        function,
        limits,
        nodes: 0,
        bytes: 0,
        held_bytes: 0,
        directories: Directories::new(function),
        upload: OutputUpload::default(),
        root,
        result: reapi::ActionResult::default(),
    };
    for wish in &command.outputs {
        collector.output(root.as_fd(), wish)?;
    }
    Ok(Outputs { result: collector.result, upload: collector.upload })
}

struct Collector<'a> {
    root: &'a Arc<OwnedFd>,
    command: &'a CheckedCommand,
    function: DigestFunction,
    limits: &'a OutputLimits,
    nodes: usize,
    bytes: u64,
    held_bytes: u64,
    directories: Directories,
    upload: OutputUpload,
    result: reapi::ActionResult,
}

impl Collector<'_> {
    fn output(&mut self, root: BorrowedFd<'_>, wish: &OutputWish) -> Result<(), ExecutionFault> {
        let path = &wish.path;
        let (Some(parent), Some(name)) = (wish.place.parent(), wish.place.name()) else {
            return self.output_directory(root, wish);
        };
        let parent = match open_directory(root, parent.segments()) {
            Ok(parent) => parent,
            Err(Obstacle::Absent) => return Ok(()),
            Err(Obstacle::NotADirectory(segments)) => {
                let at = wish.place.segments()[..segments].join("/");
                return Err(ExecutionFault::precondition(format!(
                    "the output `{path}` cannot be collected: the command left something else than a directory at `{at}`"
                )));
            }
            Err(Obstacle::Failed(error)) => return Err(unreadable(path, &error)),
        };
        let stat = match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(unreadable(path, &error.into())),
        };
        match (FileType::from_raw_mode(stat.st_mode), wish.kind) {
            (FileType::RegularFile, OutputKind::Directory) => Err(ExecutionFault::precondition(format!(
                "the output `{path}` is to be a directory, and the command left a file there"
            ))),
            (FileType::Directory, OutputKind::File) => Err(ExecutionFault::precondition(format!(
                "the output `{path}` is to be a file, and the command left a directory there"
            ))),
            (FileType::RegularFile, _) => {
                let file = self.file(parent.as_fd(), name, &wish.place.to_string())?;
                self.result.output_files.push(OutputFile {
                    path: path.clone(),
                    digest: Some(to_wire(&file.digest)),
                    is_executable: file.is_executable,
                    contents: Bytes::new(),
                    node_properties: file.properties,
                });
                Ok(())
            }
            (FileType::Directory, _) => {
                let directory = open_child(parent.as_fd(), name).map_err(|error| unreadable(path, &error.into()))?;
                self.output_directory(directory.as_fd(), wish)
            }
            (FileType::Symlink, kind) => {
                self.count(path)?;
                let symlink = OutputSymlink {
                    path: path.clone(),
                    target: target(parent.as_fd(), name, path)?,
                    node_properties: self.properties(&stat, false),
                };
                match kind {
                    OutputKind::Any => {}
                    OutputKind::File => self.result.output_file_symlinks.push(symlink.clone()),
                    OutputKind::Directory => self.result.output_directory_symlinks.push(symlink.clone()),
                }
                self.result.output_symlinks.push(symlink);
                Ok(())
            }
            (other, _) => Err(strange(path, other)),
        }
    }

    fn output_directory(&mut self, directory: BorrowedFd<'_>, wish: &OutputWish) -> Result<(), ExecutionFault> {
        let root = self.directory(directory, &wish.place.to_string(), 1)?;
        let format = self.command.directory_format;
        let mut output = OutputDirectory { path: wish.path.clone(), ..OutputDirectory::default() };
        if format != OutputDirectoryFormat::DirectoryOnly {
            let tree = self.directories.tree(root);
            let digest = Hasher::digest(self.function, &tree);
            output.tree_digest = Some(to_wire(&digest));
            output.is_topologically_sorted = true;
            self.upload.add(digest, Content::Memory(tree));
        }
        if format != OutputDirectoryFormat::TreeOnly {
            output.root_directory_digest = Some(to_wire(&root));
            for (digest, encoded) in self.directories.below(root) {
                self.upload.add(digest, Content::Memory(encoded));
            }
        }
        self.result.output_directories.push(output);
        Ok(())
    }

    /// A directory and all below it; `path` is from the input root, and `depth` bounds the recursion.
    fn directory(&mut self, directory: BorrowedFd<'_>, path: &str, depth: usize) -> Result<Digest, ExecutionFault> {
        if depth > self.limits.depth_max {
            return Err(ExecutionFault::precondition(format!(
                "the output `{path}` is more than {} directories deep",
                self.limits.depth_max
            )));
        }
        self.count(path)?;
        let failed = |error: Errno| unreadable(path, &error.into());
        let stat = rustix::fs::fstat(directory).map_err(failed)?;
        let mut message = Directory { node_properties: self.properties(&stat, true), ..Directory::default() };
        let mut children = HashMap::new();
        let mut entries = Dir::read_from(directory).map_err(failed)?;
        while let Some(entry) = entries.read() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(name) = name.to_str() else {
                return Err(ExecutionFault::precondition(format!(
                    "the output `{path}` has an entry whose name is not UTF-8: {:?}",
                    name.to_string_lossy()
                )));
            };
            let below = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
            let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| unreadable(&below, &error.into()))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => {
                    let file = self.file(directory, name, &below)?;
                    message.files.push(FileNode {
                        name: name.to_owned(),
                        digest: Some(to_wire(&file.digest)),
                        is_executable: file.is_executable,
                        node_properties: file.properties,
                    });
                }
                FileType::Directory => {
                    let child = open_child(directory, name).map_err(|error| unreadable(&below, &error.into()))?;
                    let digest = self.directory(child.as_fd(), &below, depth + 1)?;
                    message.directories.push(DirectoryNode { name: name.to_owned(), digest: Some(to_wire(&digest)) });
                    children.insert(name.to_owned(), digest);
                }
                FileType::Symlink => {
                    self.count(&below)?;
                    message.symlinks.push(SymlinkNode {
                        name: name.to_owned(),
                        target: target(directory, name, &below)?,
                        node_properties: self.properties(&stat, false),
                    });
                }
                other => return Err(strange(&below, other)),
            }
        }
        Ok(self.directories.add(message, &children))
    }

    fn file(&mut self, directory: BorrowedFd<'_>, name: &str, path: &str) -> Result<FoundFile, ExecutionFault> {
        self.count(path)?;
        let file = match open_file(directory, name) {
            Ok(file) => file,
            Err(WRONG_TYPE | Errno::LOOP) => {
                return Err(ExecutionFault::precondition(format!(
                    "the output `{path}` changed while it was collected"
                )));
            }
            Err(error) => return Err(unreadable(path, &error.into())),
        };
        let stat = rustix::fs::fstat(&file).map_err(|error| unreadable(path, &error.into()))?;
        self.bytes = self.bytes.saturating_add(stat.st_size as u64);
        if self.bytes > self.limits.bytes_max {
            return Err(ExecutionFault::precondition(format!(
                "with `{path}` the outputs have more than {} bytes",
                self.limits.bytes_max
            )));
        }
        let size_bytes = stat.st_size as u64;
        let hold = size_bytes <= HELD_FILE_BYTES_MAX && self.held_bytes + size_bytes <= HELD_BYTES_MAX;
        let (digest, content) =
            hash(self.function, File::from(file), size_bytes, hold).map_err(|error| unreadable(path, &error))?;
        self.held_bytes += content.as_ref().map_or(0, |content| content.len() as u64);
        let place = RootPath::ROOT
            .join("the output", path)
            .map_err(|_| ExecutionFault::precondition(format!("the output `{path}` has a name that cannot be said")))?;
        let source = PlacedFile { top: Arc::clone(self.root), place };
        self.upload.add(digest, content.map_or(Content::File(source), Content::Memory));
        let is_executable = stat.st_mode & 0o111 != 0;
        Ok(FoundFile { digest, is_executable, properties: self.properties(&stat, true) })
    }

    fn count(&mut self, path: &str) -> Result<(), ExecutionFault> {
        self.nodes += 1;
        if self.nodes > self.limits.nodes_max {
            return Err(ExecutionFault::precondition(format!(
                "with `{path}` the outputs are more than {} files, directories and symlinks",
                self.limits.nodes_max
            )));
        }
        Ok(())
    }

    /// Those that the client asked for. A symlink's mode says nothing.
    fn properties(&self, stat: &Stat, has_mode: bool) -> Option<NodeProperties> {
        let mtime = self
            .command
            .wants_mtime
            .then_some(prost_types::Timestamp { seconds: stat.st_mtime, nanos: stat.st_mtime_nsec as i32 });
        let unix_mode = (self.command.wants_unix_mode && has_mode).then_some(stat.st_mode & 0o7777);
        (mtime.is_some() || unix_mode.is_some()).then(|| NodeProperties {
            mtime,
            unix_mode,
            ..NodeProperties::default()
        })
    }
}

/// Hashes to the end, but no further than the file said it goes; with `hold` the content comes, too.
pub(crate) fn hash(
    function: DigestFunction,
    file: File,
    size_bytes: u64,
    hold: bool,
) -> std::io::Result<(Digest, Option<Bytes>)> {
    let mut file = file.take(size_bytes);
    if hold {
        let mut content = Vec::with_capacity(size_bytes as usize);
        file.read_to_end(&mut content)?;
        return Ok((Hasher::digest(function, &content), Some(content.into())));
    }
    let mut hasher = Hasher::new(function, size_bytes);
    let mut buffer = vec![0; 256 * 1024];
    let mut seen_bytes = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((hasher.finish(seen_bytes), None));
        }
        hasher.update(&buffer[..count]);
        seen_bytes += count as u64;
    }
}

struct FoundFile {
    digest: Digest,
    is_executable: bool,
    properties: Option<NodeProperties>,
}

/// As it stands there, wherever it leads.
fn target(directory: BorrowedFd<'_>, name: &str, path: &str) -> Result<String, ExecutionFault> {
    let target =
        rustix::fs::readlinkat(directory, name, Vec::new()).map_err(|error| unreadable(path, &error.into()))?;
    target.into_string().map_err(|_| {
        ExecutionFault::precondition(format!("the target of the symlink `{path}` in the outputs is not UTF-8"))
    })
}

/// The command may have left what its own user cannot read: that is its doing. The rest is the machine.
fn unreadable(path: &str, error: &std::io::Error) -> ExecutionFault {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::NotFound => {
            ExecutionFault::precondition(format!("the output `{path}` cannot be read: {error}"))
        }
        _ => ExecutionFault::machine(&format!("the output `{path}` cannot be read"), error),
    }
}

fn strange(path: &str, file_type: FileType) -> ExecutionFault {
    let kind = match file_type {
        FileType::Socket => "a socket",
        FileType::Fifo => "a pipe",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "neither a file, a directory nor a symlink",
    };
    ExecutionFault::precondition(format!("the output `{path}` is {kind}, which cannot be stored"))
}
