//! What a worker has around it, in the test's process: a server with blobs, logs and sessions, and a runner.

pub(crate) mod blobs;
pub(crate) mod runner;
pub(crate) mod sessions;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use cask_executor::worker::{
    self, Ended, FileCacheLimits, InputRootAsRoot, LinkInputs, RunnerSource, WorkerError, WorkerLimits, WorkerOptions,
};
use cask_index::{Digest, DigestFunction, Hasher};
use cask_proto::{InstanceName, digest::to_wire, reapi as re};
use prost::Message;
use tokio::{sync::mpsc, task::JoinHandle};

use runner::FakeRunner;
use sessions::FakeSession;

/// No test waits longer for anything that should happen.
pub(crate) const SOON: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(crate) struct State {
    pub(crate) blobs: HashMap<String, Bytes>,
    /// Read names of logs, and what was written to them; the second says whether it is finished.
    pub(crate) logs: HashMap<String, (Vec<u8>, bool)>,
    /// What was asked for: `find_missing 3`, `batch_read 2`, `read HASH/SIZE`, `write HASH/SIZE`, `batch_update 2`.
    pub(crate) calls: Vec<String>,
    /// Tool names of the request metadata that came along with calls of blobs.
    pub(crate) tools: Vec<String>,
    /// Digests that `Read` and `BatchReadBlobs` wait with until the test lets them go.
    pub(crate) gate: Option<Arc<tokio::sync::Semaphore>>,
    /// What workers are told instead of a stream.
    pub(crate) refusal: Option<tonic::Status>,
}

/// A server.
#[derive(Clone)]
pub(crate) struct FakeServer {
    state: Arc<Mutex<State>>,
    opened: mpsc::UnboundedSender<FakeSession>,
}

/// A worker and all that is around it.
pub(crate) struct Farm {
    pub(crate) server: FakeServer,
    pub(crate) sessions: mpsc::UnboundedReceiver<FakeSession>,
    pub(crate) runner: FakeRunner,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) asks: mpsc::Sender<()>,
    pub(crate) worker: JoinHandle<Result<Ended, WorkerError>>,
    pub(crate) options: WorkerOptions,
}

impl FakeServer {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<FakeSession>) {
        let (opened, sessions) = mpsc::unbounded_channel();
        (Self { state: Arc::default(), opened }, sessions)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with the lock")
    }

    /// Serves on a free port, until the test's runtime ends.
    pub(crate) async fn serve(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(self.router().serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)));
        format!("grpc://{address}")
    }

    pub(crate) fn put(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = digest_of(&bytes);
        self.state().blobs.insert(digest.to_string(), bytes);
        digest
    }

    pub(crate) fn put_message(&self, message: &impl Message) -> Digest {
        self.put(message.encode_to_vec())
    }

    pub(crate) fn blob(&self, digest: &re::Digest) -> Bytes {
        let key = format!("{}/{}", digest.hash, digest.size_bytes);
        if digest.size_bytes == 0 {
            return Bytes::new();
        }
        self.state().blobs.get(&key).cloned().unwrap_or_else(|| panic!("{key} was not uploaded"))
    }

    pub(crate) fn message<M: Message + Default>(&self, digest: &re::Digest) -> M {
        M::decode(self.blob(digest)).expect("a message of its kind")
    }
}

pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Hasher::digest(DigestFunction::Sha256, bytes)
}

impl Farm {
    /// A farm whose worker runs.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut WorkerOptions)) -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder"), change).await
    }

    /// One whose worker has its folder in this one.
    pub(crate) async fn start_in(folder: tempfile::TempDir, change: impl FnOnce(&mut WorkerOptions)) -> Self {
        let (server, sessions) = FakeServer::new();
        let dir = folder.path().join("worker");
        let socket = folder.path().join("runner.sock");
        let runner = FakeRunner::serve(&socket, &worker::build_folder(&dir));
        let mut options = WorkerOptions {
            server: server.serve().await,
            instance: InstanceName::parse("test").expect("a name"),
            name: "the worker".to_owned(),
            dir,
            concurrency: 2,
            platforms: vec![re::Platform::default()],
            file_cache: FileCacheLimits { bytes_max: 1 << 30, files_max: 100_000 },
            link_inputs: LinkInputs::Auto,
            input_root_as_root: InputRootAsRoot::Auto,
            runner: RunnerSource::Address(format!("unix:{}", socket.display())),
            drain_timeout: SOON,
            limits: WorkerLimits::default(),
        };
        change(&mut options);
        let (asks, asked) = mpsc::channel(2);
        let worker = tokio::spawn(worker::run(options.clone(), asked, || {}));
        Self { server, sessions, runner, folder, asks, worker, options }
    }

    /// The next stream that the worker opens, welcomed: all it holds is its own.
    pub(crate) async fn session(&mut self) -> FakeSession {
        let mut session = self.opened().await;
        let kept = session.hello.held_lease_ids.clone();
        session.welcome(kept);
        session
    }

    /// The next stream that the worker opens, its hello heard.
    pub(crate) async fn opened(&mut self) -> FakeSession {
        let mut session = soon(self.sessions.recv()).await.expect("the server lives");
        session.hear_hello().await;
        session
    }

    /// Executes one action from the assignment to the result.
    pub(crate) async fn execute(&mut self, action: Digest) -> re::ExecuteResponse {
        let mut session = self.session().await;
        let response = session.execute(action).await;
        // The stream goes, so that the next execution gets the next one.
        drop(session);
        response
    }

    /// An action of this command over this root, in the server.
    pub(crate) fn action(&self, command: &re::Command, root: Digest) -> Digest {
        let command = self.server.put_message(command);
        self.server.put_message(&re::Action {
            command_digest: Some(to_wire(&command)),
            input_root_digest: Some(to_wire(&root)),
            ..re::Action::default()
        })
    }

    pub(crate) fn build_folder(&self) -> std::path::PathBuf {
        worker::build_folder(&self.options.dir)
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// A shell script as a command.
pub(crate) fn sh(script: &str) -> re::Command {
    let arguments = ["/bin/sh", "-ec", script].map(str::to_owned).to_vec();
    re::Command { arguments, ..re::Command::default() }
}

pub(crate) fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("this happens soon")
}

/// A directory of files, other directories and symlinks, in the server.
#[derive(Default)]
pub(crate) struct Root(re::Directory);

impl Root {
    pub(crate) fn file(mut self, server: &FakeServer, name: &str, content: &str, is_executable: bool) -> Self {
        let digest = Some(to_wire(&server.put(content.to_owned())));
        self.0.files.push(re::FileNode { name: name.to_owned(), digest, is_executable, node_properties: None });
        self
    }

    pub(crate) fn directory(mut self, name: &str, digest: Digest) -> Self {
        self.0.directories.push(re::DirectoryNode { name: name.to_owned(), digest: Some(to_wire(&digest)) });
        self
    }

    pub(crate) fn symlink(mut self, name: &str, target: &str) -> Self {
        let (name, target) = (name.to_owned(), target.to_owned());
        self.0.symlinks.push(re::SymlinkNode { name, target, node_properties: None });
        self
    }

    pub(crate) fn put(self, server: &FakeServer) -> Digest {
        server.put_message(&self.0)
    }
}
