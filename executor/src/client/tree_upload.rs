//! [`InputTree`]: a folder as the API sees it, on its way into a cache.
//!
//! The same folder gives the same digest everywhere: names are sorted by their bytes, and of a file only its content and
//! whether it can be executed count. Symlinks are kept as they are and never followed; empty folders are there too. What the
//! API has no place for (devices, sockets, names that are not text) is an error that names the file.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cask_index::{Digest, DigestFunction, Hasher};
use cask_proto::{digest::to_wire, reapi};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use prost::Message;

use super::{RemoteCache, source::FileSource, verify::digest_of};
use crate::ClientError;

/// Files up to this size travel in batches.
const BATCHED_BYTES_MAX: u64 = 128 * 1024;
/// What one task reads into memory before it sends it.
const PACK_BYTES_MAX: u64 = 3 * 1024 * 1024;
/// Packs and large files under way at the same time.
const UPLOADS_MAX: usize = 4;
/// How deep folders may lie.
const DEPTH_MAX: usize = 512;

/// Why a folder cannot be an input.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Something in it cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// As the walk reached it.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Names and targets of symlinks are text on the wire.
    #[error("{path:?} has a name or a target that is not UTF-8")]
    NotText {
        /// As the walk reached it.
        path: PathBuf,
    },
    /// Neither file nor folder nor symlink.
    #[error("{path} is neither a file nor a folder nor a symlink")]
    Special {
        /// As the walk reached it.
        path: PathBuf,
    },
    /// Folders lie in folders deeper than any build needs.
    #[error("{path} lies deeper than {DEPTH_MAX} folders")]
    TooDeep {
        /// As the walk reached it.
        path: PathBuf,
    },
}

/// Where the bytes of a blob are.
#[derive(Clone, Debug)]
enum Content {
    Memory(Bytes),
    File(PathBuf),
}

/// A folder and what else an action needs, by digest. Holds messages, and of files their paths: they must stay as they are
/// until they are uploaded, and the cache notices if they do not.
#[derive(Clone, Debug)]
pub struct InputTree {
    root: Digest,
    blobs: HashMap<Digest, Content>,
}

/// What [`RemoteCache::upload_tree`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uploaded {
    /// Blobs that the cache did not have.
    pub blob_count: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl InputTree {
    /// Reads all of a folder and hashes it. Waits for the disk: not for a thread that has other things to do.
    pub fn read(folder: &Path) -> Result<Self, TreeError> {
        let mut blobs = HashMap::new();
        let root = read_folder(folder, 0, &mut blobs)?;
        Ok(Self { root, blobs })
    }

    /// A folder with nothing in it.
    pub fn empty() -> Self {
        let mut tree = Self { root: digest_of(b""), blobs: HashMap::new() };
        tree.add(&reapi::Directory::default());
        tree
    }

    /// Of the root's Directory.
    pub fn root(&self) -> Digest {
        self.root
    }

    /// Adds a message to what is uploaded with the folder.
    pub fn add(&mut self, message: &impl Message) -> Digest {
        keep(message, &mut self.blobs)
    }

    /// All digests, sorted: the same tree asks the same way.
    pub fn digests(&self) -> Vec<Digest> {
        let mut digests: Vec<_> = self.blobs.keys().copied().collect();
        digests.sort_unstable_by(|one, other| one.hash().cmp(other.hash()));
        digests
    }

    /// Whether these are all ours, so that uploading helps.
    pub fn has_all(&self, digests: &[Digest]) -> bool {
        digests.iter().all(|digest| self.blobs.contains_key(digest))
    }
}

fn keep(message: &impl Message, blobs: &mut HashMap<Digest, Content>) -> Digest {
    let encoded = Bytes::from(message.encode_to_vec());
    let digest = digest_of(&encoded);
    blobs.insert(digest, Content::Memory(encoded));
    digest
}

fn read_folder(path: &Path, depth: usize, blobs: &mut HashMap<Digest, Content>) -> Result<Digest, TreeError> {
    if depth > DEPTH_MAX {
        return Err(TreeError::TooDeep { path: path.to_owned() });
    }
    let failed = |source| TreeError::Read { path: path.to_owned(), source };
    let mut directory = reapi::Directory::default();
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().into_string().map_err(|_| TreeError::NotText { path: entry.path() })?;
        names.push(name);
    }
    // By bytes, as the canonical form has them.
    names.sort_unstable();
    for name in names {
        let path = path.join(&name);
        let failed = |source| TreeError::Read { path: path.clone(), source };
        let metadata = path.symlink_metadata().map_err(failed)?;
        if metadata.is_dir() {
            let digest = read_folder(&path, depth + 1, blobs)?;
            directory.directories.push(reapi::DirectoryNode { name, digest: Some(to_wire(&digest)) });
        } else if metadata.is_symlink() {
            let target = fs::read_link(&path).map_err(failed)?.into_os_string().into_string();
            let target = target.map_err(|_| TreeError::NotText { path: path.clone() })?;
            directory.symlinks.push(reapi::SymlinkNode { name, target, node_properties: None });
        } else if metadata.is_file() {
            let digest = digest_of_file(&path).map_err(failed)?;
            blobs.entry(digest).or_insert(Content::File(path));
            let is_executable = metadata.permissions().mode() & 0o111 != 0;
            let digest = Some(to_wire(&digest));
            directory.files.push(reapi::FileNode { name, digest, is_executable, node_properties: None });
        } else {
            return Err(TreeError::Special { path });
        }
    }
    Ok(keep(&directory, blobs))
}

fn digest_of_file(path: &Path) -> std::io::Result<Digest> {
    let mut file = File::open(path)?;
    let (mut hasher, mut size_bytes) = (Hasher::new(DigestFunction::Sha256, 0), 0);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hasher.finish(size_bytes));
        }
        hasher.update(&buffer[..count]);
        size_bytes += count as u64;
    }
}

/// What one task uploads.
enum Parcel {
    Pack(Vec<(Digest, Content)>),
    File(Digest, PathBuf),
}

impl RemoteCache {
    /// Uploads what the cache does not have of a tree.
    pub async fn upload_tree(&self, tree: &InputTree) -> Result<Uploaded, ClientError> {
        let missing = self.find_missing(&tree.digests()).await?;
        let mut uploaded = Uploaded::default();
        let (mut parcels, mut pack, mut pack_bytes) = (Vec::new(), Vec::new(), 0);
        for digest in missing {
            let content = tree.blobs.get(&digest).cloned();
            let content =
                content.ok_or_else(|| ClientError::Answer(format!("{digest} is missing, and was not asked for")))?;
            uploaded.blob_count += 1;
            uploaded.bytes += digest.size_bytes();
            match content {
                Content::File(path) if digest.size_bytes() > BATCHED_BYTES_MAX => {
                    parcels.push(Parcel::File(digest, path));
                }
                content => {
                    if pack_bytes + digest.size_bytes() > PACK_BYTES_MAX && !pack.is_empty() {
                        parcels.push(Parcel::Pack(std::mem::take(&mut pack)));
                        pack_bytes = 0;
                    }
                    pack_bytes += digest.size_bytes();
                    pack.push((digest, content));
                }
            }
        }
        if !pack.is_empty() {
            parcels.push(Parcel::Pack(pack));
        }
        let uploads = parcels.into_iter().map(|parcel| self.upload_parcel(parcel));
        stream::iter(uploads).buffer_unordered(UPLOADS_MAX).try_collect::<()>().await?;
        Ok(uploaded)
    }

    async fn upload_parcel(&self, parcel: Parcel) -> Result<(), ClientError> {
        let pack = match parcel {
            Parcel::File(digest, path) => return self.upload_blob(digest, &FileSource(path)).await,
            Parcel::Pack(pack) => pack,
        };
        let mut blobs = Vec::with_capacity(pack.len());
        for (digest, content) in pack {
            let bytes = match content {
                Content::Memory(bytes) => bytes,
                Content::File(path) => {
                    let read = tokio::fs::read(path).await;
                    read.map_err(|source| ClientError::Source { digest, source })?.into()
                }
            };
            blobs.push((digest, bytes));
        }
        self.upload_blobs(blobs).await
    }
}
