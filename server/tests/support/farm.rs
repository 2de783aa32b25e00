//! Executing, as a build tool does it: actions made of parts, uploaded whole or with gaps, and operations followed message by
//! message. What must be true of every operation's stream is asserted here, for every test.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bazel_remote_apis::build::bazel::remote::execution::v2::command::EnvironmentVariable;
use bazel_remote_apis::build::bazel::remote::execution::v2::execution_client::ExecutionClient;
use bazel_remote_apis::build::bazel::remote::execution::v2::execution_stage::Value as Stage;
use bazel_remote_apis::build::bazel::remote::execution::v2::{
    Action, ActionResult, Command, Digest, Directory, DirectoryNode, ExecuteOperationMetadata, ExecuteRequest,
    ExecuteResponse, ExecutionPolicy, FileNode, OutputDirectory, Platform, SymlinkNode, WaitExecutionRequest, platform,
};
use bazel_remote_apis::google::longrunning::operations_client::OperationsClient;
use bazel_remote_apis::google::longrunning::{
    CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest, ListOperationsResponse,
    Operation, WaitOperationRequest, operation,
};
use prost::Message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tonic::{Code, Status, Streaming};

use super::blob::digest_of;
use super::grpc::Cache;
use super::process::{Options, Server};
use super::worker::{Worker, WorkerOptions};
use super::{HANG_GUARD, within};

/// A server that executes.
pub(crate) fn executing(flags: &[&'static str]) -> Options {
    Options { flags: [&["--execution"], flags].concat(), ..Options::default() }
}

/// A server that executes, one worker, and a client.
pub(crate) async fn farm() -> (Server, Worker, Cache) {
    farm_with(&[], &WorkerOptions::default()).await
}

pub(crate) async fn farm_with(flags: &[&'static str], worker: &WorkerOptions) -> (Server, Worker, Cache) {
    let server = Server::start(executing(flags));
    let worker = Worker::start(&server, worker);
    let cache = Cache::connect(&server).await;
    (server, worker, cache)
}

/// Something in an input root.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    File(Vec<u8>),
    Executable(Vec<u8>),
    Symlink(&'static str),
    Folder,
}

impl Input {
    pub(crate) fn text(text: &str) -> Self {
        Self::File(text.as_bytes().to_vec())
    }

    pub(crate) fn script(text: &str) -> Self {
        Self::Executable(text.as_bytes().to_vec())
    }
}

/// An action with all that belongs to it. `command` and `action` are as on the wire, but for the digests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Job {
    pub(crate) command: Command,
    pub(crate) action: Action,
    /// By their paths.
    pub(crate) inputs: BTreeMap<String, Input>,
}

pub(crate) fn texts(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

pub(crate) fn properties(pairs: &[(&str, &str)]) -> Platform {
    let property =
        |(name, value): &(&str, &str)| platform::Property { name: (*name).to_owned(), value: (*value).to_owned() };
    Platform { properties: pairs.iter().map(property).collect() }
}

/// What a shell is to do, with the usual PATH.
pub(crate) fn shell(script: &str) -> Job {
    let path = EnvironmentVariable { name: "PATH".to_owned(), value: "/usr/bin:/bin".to_owned() };
    let command = Command {
        arguments: texts(&["/bin/sh", "-c", script]),
        environment_variables: vec![path],
        ..Command::default()
    };
    Job { command, ..Job::default() }
}

impl Job {
    pub(crate) fn outputs(mut self, paths: &[&str]) -> Self {
        self.command.output_paths = texts(paths);
        self
    }

    pub(crate) fn input(mut self, path: &str, input: Input) -> Self {
        self.inputs.insert(path.to_owned(), input);
        self
    }

    pub(crate) fn directory(mut self, working_directory: &str) -> Self {
        working_directory.clone_into(&mut self.command.working_directory);
        self
    }

    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.action.timeout = Some(bazel_remote_apis::google::protobuf::Duration {
            seconds: timeout.as_secs() as i64,
            nanos: timeout.subsec_nanos() as i32,
        });
        self
    }

    pub(crate) fn do_not_cache(mut self) -> Self {
        self.action.do_not_cache = true;
        self
    }

    pub(crate) fn platform(mut self, pairs: &[(&str, &str)]) -> Self {
        self.action.platform = Some(properties(pairs));
        self
    }

    /// All blobs of it, with the root and folders' messages.
    pub(crate) fn packed(&self) -> Packed {
        let mut packed = Packed::default();
        let mut root = Folder::default();
        for (path, input) in &self.inputs {
            root.put(path, input.clone());
        }
        packed.root = root.pack(&mut packed.blobs);
        packed.command = packed.add(&self.command);
        let action = Action {
            command_digest: Some(packed.command.clone()),
            input_root_digest: Some(packed.root.clone()),
            ..self.action.clone()
        };
        packed.action = packed.add(&action);
        packed
    }

    /// Uploads all of it; the action's digest.
    pub(crate) async fn store(&self, cache: &Cache) -> Digest {
        let packed = self.packed();
        packed.upload(cache).await;
        packed.action
    }

    /// Uploads and runs it to its end.
    pub(crate) async fn run(&self, cache: &Cache) -> ExecuteResponse {
        let action = self.store(cache).await;
        Call::execute(cache, &action).await.expect("Execute").finish().await
    }

    /// As `run`, of what must go well.
    pub(crate) async fn succeed(&self, cache: &Cache) -> ActionResult {
        let response = self.run(cache).await;
        let result = result_of(&response);
        assert_eq!(result.exit_code, 0, "{}{}", said(cache, &result).await, complained(cache, &result).await);
        result
    }

    /// Uploads it and waits until a worker has it.
    pub(crate) async fn begin(&self, cache: &Cache) -> Call {
        let action = self.store(cache).await;
        let mut call = Call::execute(cache, &action).await.expect("Execute");
        call.until(Stage::Executing).await;
        call
    }
}

/// The blobs of an action.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packed {
    pub(crate) action: Digest,
    pub(crate) command: Digest,
    pub(crate) root: Digest,
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
}

impl Packed {
    pub(crate) fn add(&mut self, message: &impl Message) -> Digest {
        add(&mut self.blobs, message.encode_to_vec())
    }

    pub(crate) async fn upload(&self, cache: &Cache) {
        let blobs: Vec<_> = self.blobs.values().map(|data| (digest_of(data), data.clone())).collect();
        // Batches of what a message takes.
        let (mut batch, mut batch_bytes) = (Vec::new(), 0);
        for (digest, data) in blobs {
            if data.len() > 1 << 20 {
                cache.upload(&digest, &data).await.expect("Write");
                continue;
            }
            if batch_bytes + data.len() + 200 > 2 << 20 {
                upload_batch(cache, std::mem::take(&mut batch)).await;
                batch_bytes = 0;
            }
            batch_bytes += data.len() + 200;
            batch.push((digest, data));
        }
        if !batch.is_empty() {
            upload_batch(cache, batch).await;
        }
    }
}

async fn upload_batch(cache: &Cache, batch: Vec<(Digest, Vec<u8>)>) {
    for (digest, code) in cache.batch_update(batch).await.expect("BatchUpdateBlobs") {
        assert_eq!(code, Code::Ok, "{digest:?}");
    }
}

fn add(blobs: &mut BTreeMap<String, Vec<u8>>, data: Vec<u8>) -> Digest {
    let digest = digest_of(&data);
    blobs.insert(digest.hash.clone(), data);
    digest
}

#[derive(Default)]
struct Folder {
    entries: BTreeMap<String, Entry>,
}

enum Entry {
    Leaf(Input),
    Folder(Folder),
}

impl Folder {
    fn put(&mut self, path: &str, input: Input) {
        match path.split_once('/') {
            Some((folder, rest)) => {
                match self.entries.entry(folder.to_owned()).or_insert(Entry::Folder(Self::default())) {
                    Entry::Folder(folder) => folder.put(rest, input),
                    Entry::Leaf(_) => panic!("{folder} is a file and a folder"),
                }
            }
            None if matches!(input, Input::Folder) => {
                self.entries.entry(path.to_owned()).or_insert(Entry::Folder(Self::default()));
            }
            None => drop(self.entries.insert(path.to_owned(), Entry::Leaf(input))),
        }
    }

    fn pack(self, blobs: &mut BTreeMap<String, Vec<u8>>) -> Digest {
        let mut directory = Directory::default();
        for (name, entry) in self.entries {
            match entry {
                Entry::Folder(folder) => {
                    let digest = Some(folder.pack(blobs));
                    directory.directories.push(DirectoryNode { name, digest });
                }
                Entry::Leaf(Input::Symlink(target)) => {
                    directory.symlinks.push(SymlinkNode { name, target: target.to_owned(), ..Default::default() });
                }
                Entry::Leaf(Input::File(data)) => {
                    let digest = Some(add(blobs, data));
                    directory.files.push(FileNode { name, digest, ..Default::default() });
                }
                Entry::Leaf(Input::Executable(data)) => {
                    let digest = Some(add(blobs, data));
                    directory.files.push(FileNode { name, digest, is_executable: true, ..Default::default() });
                }
                Entry::Leaf(Input::Folder) => unreachable!("folders are put as such"),
            }
        }
        add(blobs, directory.encode_to_vec())
    }
}

/// One message of an operation's stream.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) operation: Operation,
    pub(crate) metadata: ExecuteOperationMetadata,
}

impl Seen {
    /// Takes a message apart; what is true of all operations is asserted.
    #[track_caller]
    pub(crate) fn of(operation: Operation) -> Self {
        assert!(!operation.name.is_empty(), "an operation has a name");
        let any = operation.metadata.clone().expect("an operation has metadata");
        assert_eq!(any.type_url, "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteOperationMetadata");
        let metadata = ExecuteOperationMetadata::decode(&any.value[..]).expect("metadata of that type");
        assert!(metadata.action_digest.is_some(), "the metadata names the action");
        assert!(!matches!(operation.result, Some(operation::Result::Error(_))), "the error field is never set");
        assert_eq!(operation.done, metadata.stage() == Stage::Completed, "done exactly when COMPLETED: {metadata:?}");
        assert_eq!(operation.done, operation.result.is_some(), "a response exactly when done");
        Self { operation, metadata }
    }

    pub(crate) fn name(&self) -> &str {
        &self.operation.name
    }

    pub(crate) fn stage(&self) -> Stage {
        self.metadata.stage()
    }

    pub(crate) fn response(&self) -> Option<ExecuteResponse> {
        let Some(operation::Result::Response(any)) = &self.operation.result else { return None };
        assert_eq!(any.type_url, "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteResponse");
        Some(ExecuteResponse::decode(&any.value[..]).expect("a response of that type"))
    }
}

/// A call of `Execute` or `WaitExecution` in flight. Dropping it breaks it off, as a client that dies does.
pub(crate) struct Call {
    stream: Streaming<Operation>,
    /// All messages so far.
    pub(crate) seen: Vec<Seen>,
}

pub(crate) fn execution(cache: &Cache) -> ExecutionClient<tonic::transport::Channel> {
    ExecutionClient::new(cache.channel.clone())
}

pub(crate) fn operations(cache: &Cache) -> OperationsClient<tonic::transport::Channel> {
    OperationsClient::new(cache.channel.clone())
}

impl Call {
    pub(crate) async fn execute(cache: &Cache, action: &Digest) -> Result<Self, Status> {
        Self::execute_with(cache, ExecuteRequest { action_digest: Some(action.clone()), ..Default::default() }).await
    }

    pub(crate) async fn execute_at(cache: &Cache, action: &Digest, priority: i32) -> Result<Self, Status> {
        let execution_policy = Some(ExecutionPolicy { priority });
        let request = ExecuteRequest { action_digest: Some(action.clone()), execution_policy, ..Default::default() };
        Self::execute_with(cache, request).await
    }

    /// `request` under the client's instance name.
    pub(crate) async fn execute_with(cache: &Cache, request: ExecuteRequest) -> Result<Self, Status> {
        let request = ExecuteRequest { instance_name: cache.instance.clone(), ..request };
        let stream = within("the answer to Execute", execution(cache).execute(untimed(request))).await?.into_inner();
        Ok(Self { stream, seen: Vec::new() })
    }

    pub(crate) async fn wait(cache: &Cache, name: &str) -> Result<Self, Status> {
        let request = untimed(WaitExecutionRequest { name: name.to_owned() });
        let stream =
            within("the answer to WaitExecution", execution(cache).wait_execution(request)).await?.into_inner();
        Ok(Self { stream, seen: Vec::new() })
    }

    /// The next message; `None` at the stream's end.
    pub(crate) async fn next(&mut self) -> Result<Option<Seen>, Status> {
        let Some(operation) = within("the next message of an operation", self.stream.message()).await? else {
            return Ok(None);
        };
        let seen = Seen::of(operation);
        if let Some(first) = self.seen.first() {
            assert_eq!(first.name(), seen.name(), "one stream is of one operation");
        }
        self.seen.push(seen.clone());
        Ok(Some(seen))
    }

    /// The name, from the first message.
    pub(crate) async fn name(&mut self) -> String {
        if self.seen.is_empty() {
            self.next().await.expect("a first message").expect("a first message");
        }
        self.seen[0].name().to_owned()
    }

    /// Reads on to the first message of this stage, which must come before the end.
    pub(crate) async fn until(&mut self, stage: Stage) -> Seen {
        loop {
            let seen = self.next().await.expect("the stream goes on").expect("the stream goes on");
            if seen.stage() == stage {
                return seen;
            }
            assert!(!seen.operation.done, "done before it was {stage:?}: {:?}", seen.response());
        }
    }

    /// Reads on to the end: the final message, and nothing behind it.
    pub(crate) async fn finish(mut self) -> ExecuteResponse {
        let response = loop {
            let seen =
                self.next().await.expect("the stream goes on").expect("a stream does not end before its operation");
            if let Some(response) = seen.response() {
                break response;
            }
        };
        assert!(self.next().await.expect("a clean end").is_none(), "nothing comes after the end");
        response
    }

    /// Reads on until standard output can be followed, and its first line. The command runs then.
    pub(crate) async fn first_line(&mut self, cache: &Cache) -> String {
        let name = loop {
            let seen = self.next().await.expect("the stream goes on").expect("the stream goes on");
            assert!(!seen.operation.done, "done before it said anything: {:?}", seen.response());
            if !seen.metadata.stdout_stream_name.is_empty() {
                break seen.metadata.stdout_stream_name;
            }
        };
        let mut stream = cache.read_stream(&name, 0, 0).await.expect("Read of the log");
        let mut line = Vec::new();
        while !line.contains(&b'\n') {
            let message = within("more of the log", stream.message()).await.expect("Read").expect("more of the log");
            line.extend_from_slice(&message.data);
        }
        String::from_utf8(line).expect("text").lines().next().expect("a line").to_owned()
    }
}

/// Some actions take longer than the client's own patience with a call.
fn untimed<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(HANG_GUARD * 10);
    request
}

pub(crate) async fn get_operation(cache: &Cache, name: &str) -> Result<Seen, Status> {
    let request = GetOperationRequest { name: name.to_owned() };
    Ok(Seen::of(operations(cache).get_operation(request).await?.into_inner()))
}

pub(crate) async fn cancel_operation(cache: &Cache, name: &str) -> Result<(), Status> {
    operations(cache).cancel_operation(CancelOperationRequest { name: name.to_owned() }).await.map(drop)
}

pub(crate) async fn delete_operation(cache: &Cache, name: &str) -> Result<(), Status> {
    operations(cache).delete_operation(DeleteOperationRequest { name: name.to_owned() }).await.map(drop)
}

pub(crate) async fn wait_operation(cache: &Cache, name: &str) -> Result<Seen, Status> {
    let request = WaitOperationRequest { name: name.to_owned(), timeout: None };
    Ok(Seen::of(operations(cache).wait_operation(request).await?.into_inner()))
}

pub(crate) async fn list_operations(
    cache: &Cache,
    name: &str,
    page_size: i32,
    page_token: &str,
) -> Result<ListOperationsResponse, Status> {
    let request = ListOperationsRequest {
        name: name.to_owned(),
        page_size,
        page_token: page_token.to_owned(),
        ..Default::default()
    };
    Ok(operations(cache).list_operations(request).await?.into_inner())
}

/// The status of a response: its code and its words.
pub(crate) fn status_of(response: &ExecuteResponse) -> (Code, String) {
    let status = response.status.clone().unwrap_or_default();
    (Code::from_i32(status.code), status.message)
}

/// The result of a response whose status must be OK.
#[track_caller]
pub(crate) fn result_of(response: &ExecuteResponse) -> ActionResult {
    let (code, message) = status_of(response);
    assert_eq!(code, Code::Ok, "{message}; {}", response.message);
    response.result.clone().expect("a response that is OK has a result")
}

/// What a command printed, wherever the result has it.
pub(crate) async fn said(cache: &Cache, result: &ActionResult) -> String {
    text(cache, &result.stdout_raw, result.stdout_digest.as_ref()).await
}

pub(crate) async fn complained(cache: &Cache, result: &ActionResult) -> String {
    text(cache, &result.stderr_raw, result.stderr_digest.as_ref()).await
}

async fn text(cache: &Cache, raw: &[u8], digest: Option<&Digest>) -> String {
    let bytes = match digest {
        Some(digest) if raw.is_empty() => cache.read(digest).await.expect("an output in the CAS"),
        _ => raw.to_vec(),
    };
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a result made, as lines by path: files with their content (`*` before that of executables), symlinks with `-> ` and
/// their target, folders unfolded, with a slash.
pub(crate) async fn made(cache: &Cache, result: &ActionResult) -> BTreeMap<String, String> {
    let mut made = BTreeMap::new();
    for file in &result.output_files {
        let content = cache.read(file.digest.as_ref().expect("a digest")).await.expect("an output in the CAS");
        assert!(made.insert(file.path.clone(), shown(&content, file.is_executable)).is_none(), "{} twice", file.path);
    }
    for link in &result.output_symlinks {
        assert!(made.insert(link.path.clone(), format!("-> {}", link.target)).is_none(), "{} twice", link.path);
    }
    for folder in &result.output_directories {
        let tree = tree_of(cache, folder).await;
        assert!(made.insert(folder.path.clone(), "/".to_owned()).is_none(), "{} twice", folder.path);
        unfold(cache, &folder.path, &tree[0], &tree, &mut made).await;
    }
    made
}

fn shown(content: &[u8], is_executable: bool) -> String {
    let star = if is_executable { "*" } else { "" };
    format!("{star}{}", String::from_utf8_lossy(content))
}

/// The directories of a Tree, the root first.
pub(crate) async fn tree_of(cache: &Cache, folder: &OutputDirectory) -> Vec<Directory> {
    let encoded = cache.read(folder.tree_digest.as_ref().expect("a Tree")).await.expect("the Tree in the CAS");
    let tree = bazel_remote_apis::build::bazel::remote::execution::v2::Tree::decode(&encoded[..]).expect("a Tree");
    std::iter::once(tree.root.expect("a root")).chain(tree.children).collect()
}

async fn unfold(
    cache: &Cache,
    path: &str,
    directory: &Directory,
    tree: &[Directory],
    made: &mut BTreeMap<String, String>,
) {
    for file in &directory.files {
        let content = cache.read(file.digest.as_ref().expect("a digest")).await.expect("an output in the CAS");
        made.insert(format!("{path}/{}", file.name), shown(&content, file.is_executable));
    }
    for link in &directory.symlinks {
        made.insert(format!("{path}/{}", link.name), format!("-> {}", link.target));
    }
    for child in &directory.directories {
        let wanted = child.digest.as_ref().expect("a digest");
        let found = tree.iter().find(|candidate| super::blob::digest_of_message(*candidate) == *wanted);
        made.insert(format!("{path}/{}", child.name), "/".to_owned());
        let inner = found.expect("all directories of a Tree are in it");
        Box::pin(unfold(cache, &format!("{path}/{}", child.name), inner, tree, made)).await;
    }
}

/// Paths and what is there, for comparing with `made`.
pub(crate) fn listing(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(path, what)| ((*path).to_owned(), (*what).to_owned())).collect()
}

/// A running process of this machine that can be waited for.
pub(crate) struct Stray(OwnedFd);

/// All processes with this word among their arguments, in whichever namespace they run. A word of a test is its own.
pub(crate) fn processes_with(word: &str) -> Vec<Stray> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("a list of processes").flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        // The worker is given no such word, nor are we.
        if arguments.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes()) {
            // It may have ended since.
            if let Ok(descriptor) = pidfd_open(id, PidfdFlags::empty()) {
                found.push(Stray(descriptor));
            }
        }
    }
    found
}

impl Stray {
    /// Waits for its end.
    pub(crate) async fn ended(self) {
        let wait = tokio::task::spawn_blocking(move || {
            let limit = Timespec { tv_sec: HANG_GUARD.as_secs() as i64, tv_nsec: 0 };
            poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&limit)).expect("a process can be waited for")
        });
        assert_eq!(wait.await.expect("waiting does not panic"), 1, "a process that should have ended runs on");
    }
}
