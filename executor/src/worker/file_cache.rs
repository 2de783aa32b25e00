//! [`FileCache`]: input files on the worker's disk, to be linked or copied into the roots of actions.
//!
//! One file for each content and executable bit, mode 0444 or 0555, never written after it got its name. Bounded by bytes and by
//! files, the least recently used go first; what an action is about to use is pinned and stays. A file that several actions want
//! is fetched by the first of them.
//!
//! ```text
//! absent --claim--> coming (one Flight) --land--> here --evict--> absent
//!    ^                  | dropped                  ^ pinned: stays
//!    +------------------+                          +
//! ```
//!
//! Survives restarts: names say what is in a file. What was found at a start is hashed before its first use, since nothing here was
//! synced. Called from blocking threads, except `claim` and `settle`, which only look.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{ErrorKind, Read as _, Write as _},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use cask_index::{Digest, DigestFunction, Hasher};
use cask_proto::digest::FunctionRule;
use parking_lot::Mutex;
use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};
use tokio::sync::watch;

/// Folders that the files are spread over, by the first byte of their hash: one flat folder of a million names is slow to change.
const SHARDS: usize = 256;

/// What a file is, to the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// Of its content.
    pub digest: Digest,
    /// A file that is linked has one mode for all who link it, so there are two of some contents.
    pub is_executable: bool,
}

impl FileKey {
    fn mode(self) -> Mode {
        Mode::from_raw_mode(if self.is_executable { 0o555 } else { 0o444 })
    }

    /// `ab/sha256-ab12...-17-x.5`; the last number tells apart files that had the same content at different times.
    fn path(self, serial: u64) -> String {
        let Self { digest, is_executable } = self;
        let kind = if is_executable { "x" } else { "r" };
        let hash = digest.hash_hex();
        format!("{}/{}-{hash}-{}-{kind}.{serial}", &hash[..2], digest.function().name(), digest.size_bytes())
    }

    fn parse(name: &str) -> Option<(Self, u64)> {
        let (name, serial) = name.split_once('.')?;
        let mut parts = name.split('-');
        let function = DigestFunction::from_name(parts.next()?)?;
        let (hash, size_bytes, kind) = (parts.next()?, parts.next()?, parts.next()?);
        let digest = FunctionRule::Named(function).digest(hash, size_bytes.parse().ok()?).ok()?;
        let is_executable = match kind {
            "x" => true,
            "r" => false,
            _ => return None,
        };
        parts.next().is_none().then_some((Self { digest, is_executable }, serial.parse().ok()?))
    }
}

/// How much a cache may hold.
#[derive(Clone, Copy, Debug)]
pub struct FileCacheLimits {
    /// Bytes of all files; what pinned files have beyond that is let go as soon as they are not.
    pub bytes_max: u64,
    /// Files.
    pub files_max: usize,
}

#[derive(Debug)]
struct Entry {
    key: FileKey,
    /// Part of the file's name; changes when the file has all the links that its file system allows.
    serial: AtomicU64,
    /// Hashed since this process started.
    is_verified: AtomicBool,
    /// Held while the file is replaced by a copy of itself.
    renewal: Mutex<()>,
}

/// What an action pinned.
pub type Pins = HashMap<FileKey, Pin>;

/// A file that is here and stays until this is dropped.
#[derive(Clone, Debug)]
pub struct Pin(Arc<Entry>);

impl Pin {
    /// What it is.
    pub fn key(&self) -> FileKey {
        self.0.key
    }

    /// False for a file that an earlier process left: [`FileCache::verify`] it first.
    pub fn is_verified(&self) -> bool {
        self.0.is_verified.load(Relaxed)
    }
}

enum Slot {
    Here { entry: Arc<Entry>, used: u64 },
    Coming(watch::Receiver<()>),
}

#[derive(Default)]
struct State {
    slots: HashMap<FileKey, Slot>,
    /// By last use, oldest first.
    order: BTreeMap<u64, FileKey>,
    clock: u64,
    bytes: u64,
}

impl State {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn touch(&mut self, key: FileKey) {
        let now = self.tick();
        if let Some(Slot::Here { used, .. }) = self.slots.get_mut(&key) {
            self.order.remove(used);
            *used = now;
            self.order.insert(now, key);
        }
    }

    fn enter(&mut self, entry: Arc<Entry>) {
        let (key, used) = (entry.key, self.tick());
        self.bytes += key.digest.size_bytes();
        self.order.insert(used, key);
        self.slots.insert(key, Slot::Here { entry, used });
    }

    fn leave(&mut self, key: &FileKey) -> Option<Arc<Entry>> {
        match self.slots.remove(key) {
            Some(Slot::Here { entry, used }) => {
                self.order.remove(&used);
                self.bytes -= key.digest.size_bytes();
                Some(entry)
            }
            Some(coming) => {
                self.slots.insert(*key, coming);
                None
            }
            None => None,
        }
    }
}

/// See the module.
pub struct FileCache {
    folder: PathBuf,
    directory: OwnedFd,
    limits: FileCacheLimits,
    links: bool,
    serial: AtomicU64,
    state: Mutex<State>,
}

/// What became of a wish for a file.
pub enum Claim {
    /// It is here.
    Here(Pin),
    /// The caller fetches it.
    Ours(Flight),
    /// Somebody else fetches it: wait, then claim again.
    Others(watch::Receiver<()>),
}

/// The right to bring a file in. Dropped before it landed, it wakes those who wait, and one of them gets the right.
pub struct Flight {
    cache: Arc<FileCache>,
    key: FileKey,
    landed: bool,
    /// Its end is what the others wait for.
    _wake: watch::Sender<()>,
}

impl FileCache {
    /// Opens the cache in a folder, which is made if absent and is nobody else's. With `links`, files are given out as hard links
    /// where that is possible, else as copies. Reads the names of all files there.
    pub fn open(folder: &Path, limits: FileCacheLimits, links: bool) -> std::io::Result<Arc<Self>> {
        std::fs::create_dir_all(folder)?;
        let directory = open_directory(folder)?;
        // The names in it can be guessed, and one action's inputs are not another's to read: a command comes to a file by the link in
        // its root alone.
        rustix::fs::fchmod(&directory, Mode::RWXU)?;
        let mut found = Vec::new();
        for shard in 0..SHARDS {
            let shard = folder.join(format!("{shard:02x}"));
            match std::fs::create_dir(&shard) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => scan(&shard, &mut found)?,
                made => made?,
            }
        }
        let temporary = folder.join("new");
        if let Err(error) = std::fs::remove_dir_all(&temporary)
            && error.kind() != ErrorKind::NotFound
        {
            return Err(error);
        }
        std::fs::create_dir(&temporary)?;
        found.sort_by_key(|(_, serial)| *serial);
        let mut state = State::default();
        let mut serial_last = 0;
        for (key, serial) in found {
            serial_last = serial_last.max(serial);
            // Of two of one content the later counts; a crash left the other.
            if let Some(before) = state.leave(&key) {
                std::fs::remove_file(folder.join(key.path(before.serial.load(Relaxed))))?;
            }
            state.enter(Arc::new(Entry {
                key,
                serial: serial.into(),
                is_verified: false.into(),
                renewal: Mutex::new(()),
            }));
        }
        let cache = Arc::new(Self {
            folder: folder.to_owned(),
            directory,
            limits,
            links,
            serial: (serial_last + 1).into(),
            state: Mutex::new(state),
        });
        cache.settle();
        Ok(cache)
    }

    /// Pins what is here and gives out the right to fetch the rest; in the order of the keys, each of which comes once.
    pub fn claim(self: &Arc<Self>, keys: &[FileKey]) -> Vec<Claim> {
        let mut state = self.state.lock();
        keys.iter()
            .map(|key| match state.slots.get(key) {
                Some(Slot::Here { entry, .. }) => {
                    let pin = Pin(Arc::clone(entry));
                    state.touch(*key);
                    Claim::Here(pin)
                }
                Some(Slot::Coming(waiting)) => Claim::Others(waiting.clone()),
                None => {
                    let (wake, waiting) = watch::channel(());
                    state.slots.insert(*key, Slot::Coming(waiting));
                    Claim::Ours(Flight { cache: Arc::clone(self), key: *key, landed: false, _wake: wake })
                }
            })
            .collect()
    }

    /// The same content with the other mode, if that is here.
    pub fn twin(&self, key: FileKey) -> Option<Pin> {
        let twin = FileKey { is_executable: !key.is_executable, ..key };
        match self.state.lock().slots.get(&twin) {
            Some(Slot::Here { entry, .. }) => Some(Pin(Arc::clone(entry))),
            _ => None,
        }
    }

    /// Lets go what is over the limits and not pinned. To be called after files landed, and after pins were dropped.
    pub fn settle(&self) {
        let mut gone = Vec::new();
        {
            let mut state = self.state.lock();
            let mut looks = state.order.len();
            while looks > 0 && (state.bytes > self.limits.bytes_max || state.order.len() > self.limits.files_max) {
                looks -= 1;
                let Some((_, key)) = state.order.first_key_value().map(|(used, key)| (*used, *key)) else { break };
                match state.slots.get(&key) {
                    // In use right now: there is no later use.
                    Some(Slot::Here { entry, .. }) if Arc::strong_count(entry) > 1 => state.touch(key),
                    _ => gone.extend(state.leave(&key)),
                }
            }
        }
        for entry in gone {
            // What is left over after an error is found by the next start.
            let _ = rustix::fs::unlinkat(&self.directory, entry.key.path(entry.serial.load(Relaxed)), AtFlags::empty());
        }
    }

    /// Hashes a file that an earlier process left. False: it was wrong and is gone.
    pub fn verify(&self, pin: &Pin) -> std::io::Result<bool> {
        let Pin(entry) = pin;
        let digest = entry.key.digest;
        let hash = || -> std::io::Result<bool> {
            let mut file = self.open_entry(entry)?;
            let stat = rustix::fs::fstat(&file)?;
            if stat.st_size as u64 != digest.size_bytes() {
                return Ok(false);
            }
            rustix::fs::fchmod(&file, entry.key.mode())?;
            let mut hasher = Hasher::new(digest.function(), digest.size_bytes());
            let mut buffer = vec![0; 256 * 1024];
            loop {
                let count = file.read(&mut buffer)?;
                if count == 0 {
                    return Ok(hasher.confirms(&digest));
                }
                hasher.update(&buffer[..count]);
            }
        };
        match hash() {
            Ok(true) => {
                entry.is_verified.store(true, Relaxed);
                return Ok(true);
            }
            Ok(false) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let is_ours = {
            let mut state = self.state.lock();
            let same =
                matches!(state.slots.get(&entry.key), Some(Slot::Here { entry: here, .. }) if Arc::ptr_eq(here, entry));
            same && state.leave(&entry.key).is_some()
        };
        if is_ours {
            let _ = rustix::fs::unlinkat(&self.directory, entry.key.path(entry.serial.load(Relaxed)), AtFlags::empty());
        }
        Ok(false)
    }

    /// Puts the file under a new name into a directory on the same file system, as a link where possible.
    pub fn place(&self, pin: &Pin, directory: BorrowedFd<'_>, name: &str) -> std::io::Result<()> {
        let Pin(entry) = pin;
        if !self.links {
            return self.copy(pin, directory, name, entry.key.mode());
        }
        loop {
            let serial = entry.serial.load(Relaxed);
            let path = entry.key.path(serial);
            match rustix::fs::linkat(&self.directory, path, directory, name, AtFlags::empty()) {
                Ok(()) => return Ok(()),
                // No more links on this file: a copy takes its place.
                Err(Errno::MLINK) => self.renew(entry, serial)?,
                // Renewed meanwhile.
                Err(Errno::NOENT) if entry.serial.load(Relaxed) != serial => {}
                Err(Errno::XDEV | Errno::PERM | Errno::OPNOTSUPP) => {
                    return self.copy(pin, directory, name, entry.key.mode());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Puts a copy of the file into a directory.
    pub fn copy(&self, pin: &Pin, directory: BorrowedFd<'_>, name: &str, mode: Mode) -> std::io::Result<()> {
        let source = self.open_entry(&pin.0)?;
        copy_into(source, directory, name, mode)
    }

    fn open_entry(&self, entry: &Entry) -> std::io::Result<File> {
        loop {
            let serial = entry.serial.load(Relaxed);
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(&self.directory, entry.key.path(serial), flags, Mode::empty()) {
                Ok(file) => return Ok(File::from(file)),
                Err(Errno::NOENT) if entry.serial.load(Relaxed) != serial => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn renew(&self, entry: &Entry, full: u64) -> std::io::Result<()> {
        let _one = entry.renewal.lock();
        if entry.serial.load(Relaxed) != full {
            return Ok(());
        }
        let serial = self.serial.fetch_add(1, Relaxed);
        let temporary = format!("new/{serial}");
        copy_into(self.open_entry(entry)?, self.directory.as_fd(), &temporary, entry.key.mode())?;
        rustix::fs::renameat(&self.directory, temporary, &self.directory, entry.key.path(serial))?;
        entry.serial.store(serial, Relaxed);
        rustix::fs::unlinkat(&self.directory, entry.key.path(full), AtFlags::empty())?;
        Ok(())
    }

    /// Bytes and files that are here.
    pub fn size(&self) -> (u64, usize) {
        let state = self.state.lock();
        (state.bytes, state.order.len())
    }
}

impl Flight {
    /// What is to be brought.
    pub fn key(&self) -> FileKey {
        self.key
    }

    /// Where to write the content of a large file, under a name of its own; then [`Flight::land`].
    pub fn temporary(&self) -> std::io::Result<(PathBuf, File)> {
        let serial = self.cache.serial.fetch_add(1, Relaxed);
        let path = self.cache.folder.join("new").join(serial.to_string());
        let file = File::options().write(true).create_new(true).open(&path)?;
        Ok((path, file))
    }

    /// Brings in a file whose content is in memory and verified.
    pub fn land_bytes(self, content: &[u8]) -> std::io::Result<Pin> {
        let (path, mut file) = self.temporary()?;
        let written = file.write_all(content);
        drop(file);
        match written {
            Ok(()) => self.land(&path),
            Err(error) => {
                let _ = std::fs::remove_file(&path);
                Err(error)
            }
        }
    }

    /// Brings in a file that the cache has with the other mode.
    pub fn land_twin(self, twin: &Pin) -> std::io::Result<Pin> {
        let serial = self.cache.serial.fetch_add(1, Relaxed);
        let path = format!("new/{serial}");
        self.cache.copy(twin, self.cache.directory.as_fd(), &path, self.key.mode())?;
        let path = self.cache.folder.join(path);
        self.land(&path)
    }

    /// Brings in a file from where it was written; its content is verified, and nobody has it open for writing.
    pub fn land(mut self, path: &Path) -> std::io::Result<Pin> {
        let (key, cache) = (self.key, Arc::clone(&self.cache));
        let serial = cache.serial.fetch_add(1, Relaxed);
        let moved = rustix::fs::chmod(path, key.mode())
            .and_then(|()| rustix::fs::renameat(rustix::fs::CWD, path, &cache.directory, key.path(serial)));
        if let Err(error) = moved {
            let _ = std::fs::remove_file(path);
            return Err(error.into());
        }
        let entry = Arc::new(Entry { key, serial: serial.into(), is_verified: true.into(), renewal: Mutex::new(()) });
        cache.state.lock().enter(Arc::clone(&entry));
        self.landed = true;
        Ok(Pin(entry))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.landed {
            self.cache.state.lock().slots.remove(&self.key);
        }
    }
}

/// Files of one shard. What has no name of ours, or not the size that its name says, is removed.
fn scan(shard: &Path, found: &mut Vec<(FileKey, u64)>) -> std::io::Result<()> {
    for file in std::fs::read_dir(shard)? {
        let file = file?;
        let parsed = file.file_name().to_str().and_then(FileKey::parse);
        let metadata = file.metadata()?;
        match parsed {
            Some((key, serial)) if metadata.is_file() && metadata.len() == key.digest.size_bytes() => {
                found.push((key, serial));
            }
            _ if metadata.is_file() => std::fs::remove_file(file.path())?,
            _ => {}
        }
    }
    Ok(())
}

fn open_directory(path: &Path) -> std::io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Copies as the file system does it best: shared extents, in the kernel, or through us.
fn copy_into(mut source: File, directory: BorrowedFd<'_>, name: &str, mode: Mode) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut copy = File::from(rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600))?);
    if rustix::fs::ioctl_ficlone(&copy, &source).is_err() {
        std::io::copy(&mut source, &mut copy)?;
    }
    rustix::fs::fchmod(&copy, mode)?;
    Ok(())
}
