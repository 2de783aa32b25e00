//! [`BuildFolder`]: where actions run, and [`ActionFolder`]: the part of it that one action has.
//!
//! ```text
//! <build>/<name>/root          input root, the command's own from the run on
//!               /stdout, stderr  made by the runner
//!               /tmp
//!               /server_logs
//! ```
//! Names are random: the folders above `root` can be passed by whoever runs commands, and not be listed. What an action leaves is
//! removed in the background once its folder is dropped; what a worker that was killed left, by the next one.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustix::fs::{AtFlags, Mode, OFlags};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::removal::remove_tree;

/// A command whose run was dropped may write for a moment longer: a removal that found something new is tried again.
const REMOVAL_ATTEMPTS: u32 = 8;
const REMOVAL_PAUSE: Duration = Duration::from_millis(50);
const REMOVAL_THREADS: usize = 2;

/// For everybody who knows the name.
const PASSABLE: Mode = Mode::RWXU.union(Mode::XGRP).union(Mode::XOTH);
/// The command's own, whoever it runs as.
const OPEN: Mode = Mode::RWXU.union(Mode::RWXG).union(Mode::RWXO);

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct BuildFolder {
    directory: Arc<OwnedFd>,
    /// For folders that are there, those that are being removed among them.
    places: Arc<Semaphore>,
    remover: mpsc::UnboundedSender<Left>,
}

/// A name, and its place until it is gone; what another process left has none.
type Left = (String, Option<OwnedSemaphorePermit>);

impl BuildFolder {
    /// Opens the folder, which is to hold so many actions', and starts to remove what is in it. Blocking; within a runtime.
    pub(crate) fn open(path: &Path, folders_max: usize) -> std::io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = Arc::new(rustix::fs::open(path, flags, Mode::empty())?);
        rustix::fs::fchmod(&*directory, PASSABLE)?;
        // Bounded by the places.
        let (remover, names) = mpsc::unbounded_channel();
        for left in std::fs::read_dir(path)? {
            if let Ok(name) = left?.file_name().into_string() {
                let _ = remover.send((name, None));
            }
        }
        tokio::spawn(remove_all(Arc::clone(&directory), names));
        Ok(Self { directory, places: Arc::new(Semaphore::new(folders_max)), remover })
    }

    /// Waits until there is a place for one more folder: actions come no faster than their folders go.
    pub(crate) async fn place(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.places).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Makes the folder of one action, without its input. Blocking.
    pub(crate) fn action_folder(&self, place: OwnedSemaphorePermit) -> std::io::Result<ActionFolder> {
        let name = uuid::Uuid::new_v4().simple().to_string();
        make(self.directory.as_fd(), &name, PASSABLE)?;
        let mut folder = ActionFolder {
            name,
            directory: Arc::clone(&self.directory),
            root: Arc::clone(&self.directory),
            remover: self.remover.clone(),
            place: Some(place),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        folder.directory = Arc::new(rustix::fs::openat(&self.directory, &folder.name, flags, Mode::empty())?);
        for part in ["root", "tmp", "server_logs"] {
            make(folder.directory.as_fd(), part, OPEN)?;
        }
        folder.root = Arc::new(rustix::fs::openat(&folder.directory, "root", flags, Mode::empty())?);
        Ok(folder)
    }
}

fn make(directory: BorrowedFd<'_>, name: &str, mode: Mode) -> std::io::Result<()> {
    rustix::fs::mkdirat(directory, name, mode)?;
    // Whatever the process's mask is.
    Ok(rustix::fs::chmodat(directory, name, mode, AtFlags::empty())?)
}

/// One action's folder; removed after this is dropped.
#[derive(Debug)]
pub(crate) struct ActionFolder {
    name: String,
    directory: Arc<OwnedFd>,
    root: Arc<OwnedFd>,
    remover: mpsc::UnboundedSender<Left>,
    place: Option<OwnedSemaphorePermit>,
}

impl ActionFolder {
    /// The name of a part of it, from the build folder down.
    pub(crate) fn relative(&self, part: &str) -> String {
        format!("{}/{part}", self.name)
    }

    /// The folder itself, which the command cannot change.
    pub(crate) fn directory(&self) -> &Arc<OwnedFd> {
        &self.directory
    }

    /// The input root. It stays what it is whatever the command puts in its place.
    pub(crate) fn root(&self) -> &Arc<OwnedFd> {
        &self.root
    }
}

impl Drop for ActionFolder {
    fn drop(&mut self) {
        // Fails when the runtime is gone; then the next start removes it.
        let _ = self.remover.send((std::mem::take(&mut self.name), self.place.take()));
    }
}

async fn remove_all(directory: Arc<OwnedFd>, mut names: mpsc::UnboundedReceiver<Left>) {
    while let Some((name, _place)) = names.recv().await {
        for attempt in 1..=REMOVAL_ATTEMPTS {
            let (directory, name) = (Arc::clone(&directory), name.clone());
            let removal = tokio::task::spawn_blocking(move || remove_tree(directory.as_fd(), &name, REMOVAL_THREADS));
            match removal.await {
                Ok(Ok(())) | Err(_) => break,
                Ok(Err(error)) if attempt == REMOVAL_ATTEMPTS => {
                    tracing::warn!(event = "worker.left_behind", %error, "an action's folder could not be removed");
                }
                Ok(Err(_)) => tokio::time::sleep(REMOVAL_PAUSE * attempt).await,
            }
        }
    }
}
