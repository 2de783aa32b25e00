//! Execution as the server does it: admission, the queue, operations, and what workers may say. The worker here is scripted; what
//! real ones make of actions is tested elsewhere.

use bazel_remote_apis::build::bazel::remote::execution::v2::execution_client::ExecutionClient;
use bazel_remote_apis::build::bazel::remote::execution::v2::{
    Action, Command, Digest, ExecuteOperationMetadata, ExecuteRequest, ExecuteResponse, ExecutionPolicy,
    WaitExecutionRequest, execution_stage::Value as Stage,
};
use bazel_remote_apis::google::longrunning::operations_client::OperationsClient;
use bazel_remote_apis::google::longrunning::{
    CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest, Operation,
    WaitOperationRequest, operation,
};
use bazel_remote_apis::google::protobuf::Duration;
use cask_proto::workers::Progress;
use cask_proto::workers::from_worker::Message as FromWorkerMessage;
use prost::Message;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use crate::get_tree::directory;
use crate::scripted_worker::{ScriptedWorker, exited, hello, our_digest, platform};
use crate::start_with;
use crate::support::blob::{absent_digest, digest_of, digest_of_message, empty_digest};
use crate::support::grpc::{Cache, assert_code, assert_invalid};
use crate::support::process::{Options, Server};
use crate::support::within;

fn options(flags: &[&'static str]) -> Options {
    let flags = [&["--execution"], flags].concat();
    Options { flags, ..Options::default() }
}

async fn start() -> (Server, Cache) {
    start_with(options(&[])).await
}

fn execution(cache: &Cache) -> ExecutionClient<Channel> {
    ExecutionClient::new(cache.channel.clone())
}

fn operations(cache: &Cache) -> OperationsClient<Channel> {
    OperationsClient::new(cache.channel.clone())
}

fn command(argument: &str) -> Command {
    Command { arguments: vec!["run".to_owned(), argument.to_owned()], ..Command::default() }
}

/// Stores an action without inputs that differs from others by its argument.
async fn action(cache: &Cache, argument: &str) -> Digest {
    action_with(cache, argument, Action::default()).await
}

async fn action_with(cache: &Cache, argument: &str, action: Action) -> Digest {
    let command = cache.store_message(&command(argument)).await;
    let action = Action { command_digest: Some(command), input_root_digest: Some(empty_digest()), ..action };
    cache.store_message(&action).await
}

fn request(cache: &Cache, action: &Digest) -> ExecuteRequest {
    ExecuteRequest {
        instance_name: cache.instance.clone(),
        action_digest: Some(action.clone()),
        ..ExecuteRequest::default()
    }
}

/// An operation as its stream tells it.
struct Running {
    stream: Streaming<Operation>,
    name: String,
    /// What was said last.
    last: Option<Operation>,
}

async fn execute(cache: &Cache, action: &Digest) -> Running {
    execute_with(cache, request(cache, action)).await.expect("Execute")
}

async fn execute_with(cache: &Cache, request: ExecuteRequest) -> Result<Running, Status> {
    let stream = within("Execute", execution(cache).execute(request)).await?.into_inner();
    Ok(Running::new(stream).await)
}

async fn wait(cache: &Cache, name: &str) -> Result<Running, Status> {
    let request = WaitExecutionRequest { name: name.to_owned() };
    let stream = within("WaitExecution", execution(cache).wait_execution(request)).await?.into_inner();
    Ok(Running { stream, name: name.to_owned(), last: None })
}

impl Running {
    async fn new(stream: Streaming<Operation>) -> Self {
        let mut running = Self { stream, name: String::new(), last: None };
        running.name = running.next().await.expect("the first message").name;
        running
    }

    async fn next(&mut self) -> Option<Operation> {
        let message = within("the next state", self.stream.message()).await.expect("the stream goes on");
        if let Some(message) = &message {
            check_form(message);
            assert!(self.last.as_ref().is_none_or(|last| !last.done), "nothing comes behind the final state");
            self.last = Some(message.clone());
        }
        message
    }

    /// Waits for a state of this stage; the present one may be of it.
    async fn stage(&mut self, wanted: Stage) -> Operation {
        loop {
            if let Some(last) = self.last.clone().filter(|last| stage(last) == wanted) {
                return last;
            }
            self.next().await.expect("the stage comes");
        }
    }

    /// The response, behind which the stream ends.
    async fn response(mut self) -> ExecuteResponse {
        while self.next().await.is_some() {}
        response(&self.last.expect("a final state"))
    }
}

fn metadata(operation: &Operation) -> ExecuteOperationMetadata {
    let metadata = operation.metadata.as_ref().expect("metadata");
    assert_eq!(metadata.type_url, "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteOperationMetadata");
    ExecuteOperationMetadata::decode(&metadata.value[..]).expect("metadata")
}

fn stage(operation: &Operation) -> Stage {
    metadata(operation).stage()
}

fn response(operation: &Operation) -> ExecuteResponse {
    match &operation.result {
        Some(operation::Result::Response(response)) => {
            assert_eq!(response.type_url, "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteResponse");
            ExecuteResponse::decode(&response.value[..]).expect("a response")
        }
        other => panic!("not a response: {other:?}"),
    }
}

/// What holds for every message of every operation.
fn check_form(operation: &Operation) {
    let metadata = metadata(operation);
    assert!(metadata.action_digest.is_some() && metadata.digest_function != 0);
    assert_eq!(operation.done, metadata.stage() == Stage::Completed);
    assert_eq!(operation.done, operation.result.is_some());
    assert!(!matches!(operation.result, Some(operation::Result::Error(_))), "error is never set");
    assert!(metadata.partial_execution_metadata.expect("partial metadata").queued_timestamp.is_some());
}

fn code_of(response: &ExecuteResponse) -> Code {
    response.status.as_ref().map_or(Code::Ok, |status| Code::from_i32(status.code))
}

#[tokio::test]
async fn without_the_flag_nothing_is_executed_and_nothing_promised() {
    let (_server, cache) = start_with(Options::default()).await;
    let action = action(&cache, "x").await;
    assert_code(&execute_with(&cache, request(&cache, &action)).await.map(drop), &[Code::Unimplemented], "Execute");
    assert!(cache.capabilities().await.expect("capabilities").execution_capabilities.is_none());
}

#[tokio::test]
async fn with_the_flag_execution_is_advertised() {
    let (_server, cache) = start().await;
    let capabilities = cache.capabilities().await.expect("capabilities");
    let execution = capabilities.execution_capabilities.expect("execution capabilities");
    assert!(execution.exec_enabled);
    assert_eq!(execution.digest_functions, capabilities.cache_capabilities.expect("of the cache").digest_functions);
    assert_eq!(execution.digest_function, execution.digest_functions[0]);
    assert_eq!(execution.supported_node_properties, ["mtime", "unix_mode"]);
    let priorities = execution.execution_priority_capabilities.expect("priorities").priorities;
    assert_eq!((priorities[0].min_priority, priorities[0].max_priority), (i32::MIN, i32::MAX));
}

#[tokio::test]
async fn an_action_goes_to_a_worker_and_its_result_comes_back_and_is_cached() {
    let (_server, cache) = start().await;
    let action = action(&cache, "one").await;
    let mut running = execute(&cache, &action).await;
    assert!(running.name.starts_with("operations/"), "{}", running.name);
    let (mut worker, welcome) = ScriptedWorker::join(&cache.channel, hello("w")).await;
    assert!(welcome.heartbeat_interval.is_some() && welcome.kept_lease_ids.is_empty());
    let assignment = worker.assignment().await;
    assert_eq!(assignment.action_digest, Some(our_digest(&action)));
    assert_eq!(assignment.timeout.expect("a timeout").seconds, 3600);
    assert!(assignment.queued_timestamp.is_some());
    running.stage(Stage::Executing).await;

    let stdout = cache.store(b"hello").await;
    let mut ran = exited(0);
    ran.result.as_mut().expect("a result").stdout_digest = Some(our_digest(&stdout));
    worker.finish(&assignment.lease_id, ran).await;
    worker.acknowledged(&assignment.lease_id).await;
    let response = running.response().await;
    assert_eq!((code_of(&response), response.cached_result), (Code::Ok, false));
    let result = response.result.expect("a result");
    assert_eq!(result.stdout_digest, Some(stdout));
    let metadata = result.execution_metadata.expect("metadata");
    assert_eq!(metadata.worker, "scripted");
    assert!(metadata.queued_timestamp.is_some());
    assert!(cache.get_action(&action).await.is_ok(), "a result of a run that ended well is cached");

    // Nobody runs it a second time.
    let again = execute_with(&cache, request(&cache, &action)).await.expect("Execute");
    let response = wait(&cache, &again.name).await.expect("WaitExecution").response().await;
    assert!(response.cached_result);
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_the_calls_status() {
    let (_server, cache) = start().await;
    let execute = async |request: ExecuteRequest| execute_with(&cache, request).await.map(drop);
    assert_invalid(&execute(ExecuteRequest::default()).await, "no action digest");
    let garbage = cache.store(b"\xff\xff\xff").await;
    assert_invalid(&execute(request(&cache, &garbage)).await, "no Action");
    let too_long = Action { timeout: Some(seconds(25 * 3600)), ..Action::default() };
    let too_long = action_with(&cache, "long", too_long).await;
    assert_invalid(&execute(request(&cache, &too_long)).await, "a timeout above the largest");

    let mut unsorted = directory(&[], &["b", "a"]);
    for name in ["a", "b"] {
        cache.store(name.as_bytes()).await;
    }
    for (what, directory) in [
        ("unsorted", unsorted.clone()),
        ("a way up", directory(&[], &["../x"])),
        ("twice", {
            unsorted.files[1] = unsorted.files[0].clone();
            unsorted
        }),
    ] {
        let root = cache.store_message(&directory).await;
        let command = cache.store_message(&command("x")).await;
        let action = Action { command_digest: Some(command), input_root_digest: Some(root), ..Action::default() };
        let action = cache.store_message(&action).await;
        assert_invalid(&execute(request(&cache, &action)).await, what);
    }
}

fn seconds(seconds: i64) -> Duration {
    Duration { seconds, nanos: 0 }
}

/// The subjects of the one detail of a refusal.
fn missing(outcome: Result<Running, Status>) -> Vec<String> {
    let status = outcome.err().expect("a refusal");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    let details = status.get_error_details_vec();
    assert_eq!(details.len(), 1, "one detail");
    let violations = status.get_details_precondition_failure().expect("a precondition failure").violations;
    assert!(violations.iter().all(|violation| violation.r#type == "MISSING"));
    let mut subjects: Vec<_> = violations.into_iter().map(|violation| violation.subject).collect();
    subjects.sort();
    subjects
}

fn subjects(digests: &[&Digest]) -> Vec<String> {
    let mut subjects: Vec<_> =
        digests.iter().map(|digest| format!("blobs/{}/{}", digest.hash, digest.size_bytes)).collect();
    subjects.sort();
    subjects
}

#[tokio::test]
async fn all_that_is_missing_is_told_at_once_and_what_was_sent_then_is_enough() {
    let (_server, cache) = start().await;
    let absent = absent_digest(1);
    assert_eq!(missing(execute_with(&cache, request(&cache, &absent)).await), subjects(&[&absent]));

    let command = command("x");
    let leaf = directory(&[], &["deep file"]);
    let middle = directory(&[("gone", &absent_digest(2)), ("leaf", &digest_of_message(&leaf))], &[]);
    let root = directory(&[("middle", &digest_of_message(&middle))], &["file", "present"]);
    let stored = [cache.store_message(&root).await, cache.store_message(&leaf).await, cache.store(b"present").await];
    let action = Action {
        command_digest: Some(digest_of_message(&command)),
        input_root_digest: Some(stored[0].clone()),
        ..Action::default()
    };
    let action = cache.store_message(&action).await;
    let absent = [&digest_of_message(&command), &digest_of_message(&middle), &digest_of(b"file")];
    assert_eq!(missing(execute_with(&cache, request(&cache, &action)).await), subjects(&absent));
    cache.store_message(&command).await;
    cache.store_message(&middle).await;
    cache.store(b"file").await;
    let absent = [&absent_digest(2), &digest_of(b"deep file")];
    assert_eq!(missing(execute_with(&cache, request(&cache, &action)).await), subjects(&absent));

    cache.store(b"deep file").await;
    let complete = directory(&[("leaf", &digest_of_message(&leaf))], &["file", "present"]);
    let root = cache.store_message(&complete).await;
    let action = Action {
        command_digest: Some(digest_of_message(&command)),
        input_root_digest: Some(root),
        ..Action::default()
    };
    let action = cache.store_message(&action).await;
    execute(&cache, &action).await;
}

/// A directory of thirty levels, each with two names for the next, is little to look at and very much to make.
#[tokio::test]
async fn an_input_tree_that_no_worker_could_make_is_refused() {
    let (_server, cache) = start().await;
    let mut child = empty_digest();
    cache.store(b"").await;
    for _ in 0..30 {
        child = cache.store_message(&directory(&[("a", &child), ("b", &child)], &[])).await;
    }
    let command = cache.store_message(&command("x")).await;
    let action = Action { command_digest: Some(command), input_root_digest: Some(child), ..Action::default() };
    let action = cache.store_message(&action).await;
    assert_invalid(&execute_with(&cache, request(&cache, &action)).await.map(drop), "2^30 directories");
}

#[tokio::test]
async fn identical_actions_share_a_run_unless_they_object() {
    let (_server, cache) = start().await;
    let (mut worker, _) =
        ScriptedWorker::join(&cache.channel, cask_proto::workers::Hello { concurrency: 4, ..hello("w") }).await;
    let shared = action(&cache, "shared").await;
    let one = execute(&cache, &shared).await;
    let other = execute(&cache, &shared).await;
    assert_ne!(one.name, other.name);
    let assignment = worker.assignment().await;
    worker.finish(&assignment.lease_id, exited(0)).await;
    worker.acknowledged(&assignment.lease_id).await;
    assert_eq!(one.response().await, other.response().await);

    let apart = action_with(&cache, "apart", Action { do_not_cache: true, ..Action::default() }).await;
    let (one, other) = (execute(&cache, &apart).await, execute(&cache, &apart).await);
    let (first, second) = (worker.assignment().await, worker.assignment().await);
    assert_ne!(first.lease_id, second.lease_id);
    for (lease, code) in [(&first.lease_id, 0), (&second.lease_id, 0)] {
        worker.finish(lease, exited(code)).await;
        worker.acknowledged(lease).await;
    }
    assert!(!one.response().await.cached_result && !other.response().await.cached_result);
    assert_code(&cache.get_action(&apart).await, &[Code::NotFound], "an action that is not to be cached");
}

#[tokio::test]
async fn only_what_ended_well_is_cached() {
    let (_server, cache) = start().await;
    let (mut worker, _) = ScriptedWorker::join(&cache.channel, hello("w")).await;
    let timed_out = {
        let status = cask_proto::rpc::Status { code: Code::DeadlineExceeded as i32, ..Default::default() };
        cask_proto::reapi::ExecuteResponse { status: Some(status), ..exited(0) }
    };
    for (what, ran, code) in [("fails", exited(1), Code::Ok), ("is too slow", timed_out, Code::DeadlineExceeded)] {
        let action = action(&cache, what).await;
        let running = execute(&cache, &action).await;
        let assignment = worker.assignment().await;
        worker.finish(&assignment.lease_id, ran).await;
        worker.acknowledged(&assignment.lease_id).await;
        let response = running.response().await;
        assert_eq!(code_of(&response), code, "{what}");
        assert!(response.result.is_some(), "{what}: what there is of a result comes along");
        assert_code(&cache.get_action(&action).await, &[Code::NotFound], what);
    }
}

#[tokio::test]
async fn a_cached_result_is_run_again_where_the_cache_is_not_to_be_looked_at() {
    let (_server, cache) = start().await;
    let (mut worker, _) = ScriptedWorker::join(&cache.channel, hello("w")).await;
    let action = action(&cache, "again").await;
    for (number, output) in [b"first", b"again"].into_iter().enumerate() {
        let running =
            execute_with(&cache, ExecuteRequest { skip_cache_lookup: number > 0, ..request(&cache, &action) }).await;
        let assignment = worker.assignment().await;
        let mut ran = exited(0);
        ran.result.as_mut().expect("a result").stdout_raw = bytes::Bytes::from_static(output);
        worker.finish(&assignment.lease_id, ran).await;
        worker.acknowledged(&assignment.lease_id).await;
        assert!(!running.expect("Execute").response().await.cached_result);
        let cached = cache.get_action(&action).await.expect("a result");
        assert_eq!(cached.stdout_digest, Some(digest_of(output)));
        assert!(cache.is_present(&digest_of(output)).await, "what a worker puts beside the digest is stored");
    }
}

/// A worker that names blobs that nobody has is at fault, not the action.
#[tokio::test]
async fn a_result_with_outputs_that_are_not_there_is_run_again() {
    let (_server, cache) = start().await;
    let (mut worker, _) = ScriptedWorker::join(&cache.channel, hello("w")).await;
    let action = action(&cache, "liar").await;
    let running = execute(&cache, &action).await;
    let first = worker.assignment().await;
    let mut ran = exited(0);
    ran.result.as_mut().expect("a result").stdout_digest = Some(our_digest(&absent_digest(3)));
    worker.finish(&first.lease_id, ran).await;
    worker.acknowledged(&first.lease_id).await;
    // Others come first until it says that it is well.
    worker.heartbeat(&[]).await;
    let second = worker.assignment().await;
    assert_ne!(first.lease_id, second.lease_id);
    assert_eq!(second.attempt, 1);
    worker.finish(&second.lease_id, exited(0)).await;
    assert_eq!(running.response().await.result.expect("a result").exit_code, 0);
}

/// What is too large for a client is the action's fault and told once; the worker's stream goes on.
#[tokio::test]
async fn a_result_above_four_mebibytes_ends_its_action_and_not_the_workers_stream() {
    use cask_proto::{reapi, rpc};

    const LARGE: usize = 5 << 20;
    let (_server, cache) = start().await;
    let (mut worker, _) = ScriptedWorker::join(&cache.channel, hello("w")).await;
    let large_output = {
        let mut ran = exited(0);
        ran.result.as_mut().expect("a result").stdout_raw = vec![b'x'; LARGE].into();
        ran
    };
    let many_links = {
        let mut ran = exited(0);
        let link = |number: usize| reapi::OutputSymlink {
            path: format!("link-{number}"),
            target: "t".repeat(4000),
            ..reapi::OutputSymlink::default()
        };
        ran.result.as_mut().expect("a result").output_symlinks = (0..LARGE / 4000).map(link).collect();
        ran
    };
    let long_reason = {
        let details = vec![prost_types::Any { type_url: "x/Reason".to_owned(), value: vec![0; LARGE] }];
        let status = rpc::Status { code: Code::FailedPrecondition as i32, details, ..rpc::Status::default() };
        reapi::ExecuteResponse { status: Some(status), ..reapi::ExecuteResponse::default() }
    };
    for (what, ran, code) in [
        ("output", large_output, Code::Ok),
        ("links", many_links, Code::FailedPrecondition),
        ("reason", long_reason, Code::FailedPrecondition),
    ] {
        let running = execute(&cache, &action(&cache, what).await).await;
        let assignment = worker.assignment().await;
        worker.finish(&assignment.lease_id, ran).await;
        worker.acknowledged(&assignment.lease_id).await;
        let response = running.response().await;
        assert_eq!(code_of(&response), code, "{what}");
        assert!(response.encoded_len() < 4 << 20, "{what}");
    }
}

#[tokio::test]
async fn outputs_are_inlined_for_the_call_that_asks() {
    let (_server, cache) = start().await;
    let (mut worker, _) = ScriptedWorker::join(&cache.channel, hello("w")).await;
    let action = action(&cache, "inline").await;
    let plain = execute(&cache, &action).await;
    let with = execute_with(&cache, ExecuteRequest { inline_stdout: true, ..request(&cache, &action) }).await;
    let stdout = cache.store(b"some output").await;
    let assignment = worker.assignment().await;
    let mut ran = exited(3);
    ran.result.as_mut().expect("a result").stdout_digest = Some(our_digest(&stdout));
    worker.finish(&assignment.lease_id, ran).await;
    let (plain, with) = (plain.response().await, with.expect("Execute").response().await);
    assert_eq!(plain.result.expect("a result").stdout_raw, b"");
    let with = with.result.expect("a result");
    assert_eq!((with.stdout_raw.as_slice(), with.stdout_digest), (&b"some output"[..], Some(stdout)));
}

#[tokio::test]
async fn a_dropped_stream_is_taken_up_again_and_cancels_nothing() {
    let (_server, cache) = start().await;
    let (mut worker, _) = ScriptedWorker::join(&cache.channel, hello("w")).await;
    let action = action(&cache, "dropped").await;
    let running = execute(&cache, &action).await;
    let name = running.name.clone();
    let assignment = worker.assignment().await;
    drop(running);
    let mut again = wait(&cache, &name).await.expect("WaitExecution");
    assert_eq!(stage(&again.next().await.expect("the present state")), Stage::Executing);
    worker.finish(&assignment.lease_id, exited(0)).await;
    worker.acknowledged(&assignment.lease_id).await;
    again.stage(Stage::Completed).await;
    assert!(again.next().await.is_none());
    // And once more: what is done comes once, and the stream ends.
    let response = wait(&cache, &name).await.expect("WaitExecution").response().await;
    assert_eq!(response.result.expect("a result").exit_code, 0);
    for unknown in ["", "operations/00000000000000000000000000000000", "nonsense", &format!("other/{name}")] {
        assert_code(&wait(&cache, unknown).await.map(drop), &[Code::NotFound], unknown);
    }
}

#[tokio::test]
async fn operations_are_got_waited_for_cancelled_and_deleted() {
    let (_server, cache) = start().await;
    let action = action(&cache, "operation").await;
    let mut running = execute(&cache, &action).await;
    let name = running.name.clone();
    let get = async |name: &str| {
        operations(&cache)
            .get_operation(GetOperationRequest { name: name.to_owned() })
            .await
            .map(tonic::Response::into_inner)
    };
    let got = get(&name).await.expect("GetOperation");
    check_form(&got);
    assert_eq!((got.name.as_str(), stage(&got)), (name.as_str(), Stage::Queued));
    let waited = WaitOperationRequest { name: name.clone(), timeout: Some(seconds(0)) };
    let waited = operations(&cache).wait_operation(waited).await.expect("WaitOperation").into_inner();
    assert!(!waited.done);

    let (mut worker, _) = ScriptedWorker::join(&cache.channel, hello("w")).await;
    let assignment = worker.assignment().await;
    running.stage(Stage::Executing).await;
    let cancel = CancelOperationRequest { name: name.clone() };
    operations(&cache).cancel_operation(cancel).await.expect("CancelOperation");
    let last = running.stage(Stage::Completed).await;
    assert_eq!(code_of(&response(&last)), Code::Cancelled);
    worker.cancelled(&assignment.lease_id).await;
    assert_eq!(get(&name).await.expect("GetOperation"), last);
    assert_code(&cache.get_action(&action).await, &[Code::NotFound], "a cancelled action");

    let delete = DeleteOperationRequest { name: name.clone() };
    operations(&cache).delete_operation(delete.clone()).await.expect("DeleteOperation");
    assert_code(&get(&name).await, &[Code::NotFound], "a deleted operation");
    assert_code(&wait(&cache, &name).await.map(drop), &[Code::NotFound], "a deleted operation");
    assert_code(&operations(&cache).delete_operation(delete).await, &[Code::NotFound], "a deleted operation");
}

#[tokio::test]
async fn a_cancelled_operation_leaves_the_run_to_those_who_share_it() {
    let (_server, cache) = start().await;
    let (mut worker, _) = ScriptedWorker::join(&cache.channel, hello("w")).await;
    let action = action(&cache, "two").await;
    let (one, other) = (execute(&cache, &action).await, execute(&cache, &action).await);
    let assignment = worker.assignment().await;
    let cancel = CancelOperationRequest { name: one.name.clone() };
    operations(&cache).cancel_operation(cancel).await.expect("CancelOperation");
    assert_eq!(code_of(&one.response().await), Code::Cancelled);
    worker.finish(&assignment.lease_id, exited(0)).await;
    worker.acknowledged(&assignment.lease_id).await;
    assert_eq!(code_of(&other.response().await), Code::Ok);
}

#[tokio::test]
async fn operations_are_listed_by_instance_in_pages() {
    let (_server, cache) = start().await;
    let mut names = Vec::new();
    let mut streams = Vec::new();
    for number in 0..5 {
        let action = action(&cache, &number.to_string()).await;
        let running = execute(&cache, &action).await;
        names.push(running.name.clone());
        streams.push(running);
    }
    let elsewhere = cache.instance("elsewhere");
    let other = execute(&elsewhere, &action(&elsewhere, "0").await).await;
    assert!(other.name.starts_with("elsewhere/operations/"));
    names.sort();
    for collection in ["", "operations"] {
        let mut listed = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListOperationsRequest {
                name: collection.to_owned(),
                page_size: 2,
                page_token,
                ..ListOperationsRequest::default()
            };
            let page = operations(&cache).list_operations(request).await.expect("ListOperations").into_inner();
            assert!(page.operations.len() <= 2);
            listed.extend(page.operations.into_iter().map(|operation| operation.name));
            if page.next_page_token.is_empty() {
                break;
            }
            page_token = page.next_page_token;
        }
        assert_eq!(listed, names);
    }
    for (name, page_token, page_size) in [("a//b", "", 0), ("", "rubbish", 0), ("", "", -1)] {
        let request = ListOperationsRequest {
            name: name.to_owned(),
            page_token: page_token.to_owned(),
            page_size,
            ..ListOperationsRequest::default()
        };
        assert_invalid(&operations(&cache).list_operations(request).await, name);
    }
}

#[tokio::test]
async fn progress_is_passed_on() {
    let (_server, cache) = start().await;
    let (mut worker, _) = ScriptedWorker::join(&cache.channel, hello("w")).await;
    let mut running = execute(&cache, &action(&cache, "progress").await).await;
    let assignment = worker.assignment().await;
    let progress = Progress {
        lease_id: assignment.lease_id.clone(),
        stdout_stream_name: "logstreams/one".to_owned(),
        ..Progress::default()
    };
    worker.progress(progress).await;
    loop {
        let operation = running.next().await.expect("it goes on");
        if metadata(&operation).stdout_stream_name == "logstreams/one" {
            break;
        }
    }
}

#[tokio::test]
async fn a_lost_worker_costs_an_attempt_and_the_last_one_the_action() {
    let (_server, cache) = start_with(options(&["--execution-attempts=2", "--execution-reconnect-grace=0s"])).await;
    let mut running = execute(&cache, &action(&cache, "lost").await).await;
    for attempt in 0..2 {
        let (mut worker, _) = ScriptedWorker::join(&cache.channel, hello(&format!("worker {attempt}"))).await;
        assert_eq!(worker.assignment().await.attempt, attempt);
        running.stage(Stage::Executing).await;
    }
    let response = running.response().await;
    assert_eq!(code_of(&response), Code::Unavailable, "trying again may find a better worker");
}

#[tokio::test]
async fn a_worker_that_comes_back_goes_on() {
    let (_server, cache) = start().await;
    let mut running = execute(&cache, &action(&cache, "back").await).await;
    let (mut worker, _) = ScriptedWorker::join(&cache.channel, hello("w")).await;
    let lease = worker.assignment().await.lease_id;
    running.stage(Stage::Executing).await;
    drop(worker);
    let back = cask_proto::workers::Hello { held_lease_ids: vec![lease.clone()], ..hello("w") };
    let (mut worker, welcome) = ScriptedWorker::join(&cache.channel, back).await;
    assert_eq!(welcome.kept_lease_ids, std::slice::from_ref(&lease));
    worker.finish(&lease, exited(0)).await;
    worker.acknowledged(&lease).await;
    assert_eq!(code_of(&running.response().await), Code::Ok);
}

#[tokio::test]
async fn a_worker_has_a_say_in_its_own_leases_only() {
    let (_server, cache) = start().await;
    let running = execute(&cache, &action(&cache, "mine").await).await;
    let (mut owner, _) = ScriptedWorker::join(&cache.channel, hello("owner")).await;
    let lease = owner.assignment().await.lease_id;
    let (mut thief, _) = ScriptedWorker::join(&cache.channel, hello("thief")).await;
    thief.finish(&lease, exited(0)).await;
    thief.cancelled(&lease).await;
    thief.progress(Progress { lease_id: lease.clone(), ..Progress::default() }).await;
    thief.cancelled(&lease).await;
    thief.heartbeat(&[&lease]).await;
    thief.cancelled(&lease).await;
    let mut back = hello("second thief");
    back.held_lease_ids = vec![lease.clone()];
    let (_second, welcome) = ScriptedWorker::join(&cache.channel, back).await;
    assert_eq!(welcome.kept_lease_ids, [""; 0]);
    owner.finish(&lease, exited(5)).await;
    owner.acknowledged(&lease).await;
    assert_eq!(running.response().await.result.expect("a result").exit_code, 5);
}

#[tokio::test]
async fn a_session_that_makes_no_sense_is_ended() {
    let (_server, cache) = start().await;
    let wrong = |change: fn(&mut cask_proto::workers::Hello)| {
        let mut hello = hello("w");
        change(&mut hello);
        FromWorkerMessage::Hello(hello)
    };
    for (what, message) in [
        ("no hello", Some(FromWorkerMessage::Drain(cask_proto::workers::Drain {}))),
        ("nothing", None),
        ("no room", Some(wrong(|hello| hello.concurrency = 0))),
        ("no name", Some(wrong(|hello| hello.worker_name.clear()))),
        ("no process", Some(wrong(|hello| hello.process_id.clear()))),
        ("an instance that is none", Some(wrong(|hello| hello.instance_name = "a//b".to_owned()))),
        ("a lease that is none", Some(wrong(|hello| hello.held_lease_ids = vec!["x".to_owned()]))),
    ] {
        let mut worker = ScriptedWorker::open(&cache.channel).await;
        worker.send(cask_proto::workers::FromWorker { message }).await;
        assert_invalid(&worker.answer().await, what);
    }
    for (what, message) in [
        ("hello twice", FromWorkerMessage::Hello(hello("w"))),
        ("a lease that is none", FromWorkerMessage::Finished(cask_proto::workers::Finished::default())),
    ] {
        let (mut worker, _) = ScriptedWorker::join(&cache.channel, hello("w")).await;
        worker.say(message).await;
        assert_invalid(&worker.answer().await, what);
    }
}

#[tokio::test]
async fn a_platform_that_nobody_has_is_waited_for_and_given_up() {
    let (_server, cache) = start_with(options(&["--execution-worker-patience=100ms"])).await;
    let (_worker, _) = ScriptedWorker::join(&cache.channel, hello("w")).await;
    let strange = Action { platform: Some(oracle_platform(&[("OSFamily", "plan9")])), ..Action::default() };
    let running = execute(&cache, &action_with(&cache, "strange", strange).await).await;
    assert_eq!(code_of(&running.response().await), Code::FailedPrecondition);
}

fn oracle_platform(properties: &[(&str, &str)]) -> bazel_remote_apis::build::bazel::remote::execution::v2::Platform {
    crate::scripted_worker::ours(&platform(properties))
}

#[tokio::test]
async fn the_actions_platform_counts_before_the_commands() {
    let (_server, cache) = start().await;
    let mut special = hello("special");
    special.platforms = vec![platform(&[("OSFamily", "linux"), ("pool", "special")])];
    let (mut worker, _) = ScriptedWorker::join(&cache.channel, special).await;
    let wants = |pool: &str| Some(oracle_platform(&[("OSFamily", "linux"), ("pool", pool)]));
    #[expect(deprecated, reason = "clients of older versions say it there")]
    let with_platform = async |argument: &str, of_command, of_action| {
        let command = Command { platform: of_command, ..command(argument) };
        let command = cache.store_message(&command).await;
        let action = Action {
            command_digest: Some(command),
            input_root_digest: Some(empty_digest()),
            platform: of_action,
            ..Action::default()
        };
        cache.store_message(&action).await
    };
    let both = with_platform("both", wants("other"), wants("special")).await;
    let command_only = with_platform("command", wants("special"), None).await;
    for action in [both, command_only] {
        let running = execute(&cache, &action).await;
        let assignment = worker.assignment().await;
        let pool = assignment.platform.expect("a platform").properties.into_iter().find(|it| it.name == "pool");
        assert_eq!(pool.expect("a pool").value, "special");
        worker.finish(&assignment.lease_id, exited(0)).await;
        worker.acknowledged(&assignment.lease_id).await;
        running.response().await;
    }
}

#[tokio::test]
async fn an_urgent_action_overtakes() {
    let (_server, cache) = start().await;
    let mut waiting = Vec::new();
    for (argument, priority) in [("late", 7), ("usual", 0), ("urgent", -10)] {
        let action = action(&cache, argument).await;
        let request =
            ExecuteRequest { execution_policy: Some(ExecutionPolicy { priority }), ..request(&cache, &action) };
        waiting.push((action, execute_with(&cache, request).await.expect("Execute")));
    }
    let (mut worker, _) = ScriptedWorker::join(&cache.channel, hello("w")).await;
    for (action, running) in waiting.into_iter().rev() {
        let assignment = worker.assignment().await;
        assert_eq!(assignment.action_digest, Some(our_digest(&action)));
        worker.finish(&assignment.lease_id, exited(0)).await;
        worker.acknowledged(&assignment.lease_id).await;
        running.response().await;
    }
}

/// A queued action, one that runs and one that is done survive a kill of the server, under their names.
#[tokio::test]
async fn a_restart_loses_nothing() {
    let (mut server, cache) = start().await;
    let (mut worker, _) = ScriptedWorker::join(&cache.channel, hello("w")).await;
    let done = execute(&cache, &action(&cache, "done").await).await;
    let assignment = worker.assignment().await;
    worker.finish(&assignment.lease_id, exited(4)).await;
    worker.acknowledged(&assignment.lease_id).await;
    let done_name = done.name.clone();
    done.response().await;
    let mut runs = execute(&cache, &action(&cache, "runs").await).await;
    let lease = worker.assignment().await.lease_id;
    runs.stage(Stage::Executing).await;
    // Its record goes to the journal behind the others', and the answer comes when it is there.
    let waits = execute(&cache, &action(&cache, "waits").await).await;

    server.kill_and_restart();
    let cache = Cache::connect(&server).await;
    let response = wait(&cache, &done_name).await.expect("WaitExecution").response().await;
    assert_eq!(response.result.expect("a result").exit_code, 4);
    let mut runs_again = wait(&cache, &runs.name).await.expect("WaitExecution");
    runs_again.next().await.expect("the present state");
    let waits_again = wait(&cache, &waits.name).await.expect("WaitExecution");

    let back = cask_proto::workers::Hello { held_lease_ids: vec![lease.clone()], ..hello("w") };
    let (mut worker, welcome) = ScriptedWorker::join(&cache.channel, back).await;
    assert_eq!(welcome.kept_lease_ids, std::slice::from_ref(&lease), "the worker has run it all the time");
    worker.finish(&lease, exited(0)).await;
    worker.acknowledged(&lease).await;
    let assignment = worker.assignment().await;
    worker.finish(&assignment.lease_id, exited(0)).await;
    assert_eq!(code_of(&runs_again.response().await), Code::Ok);
    assert_eq!(code_of(&waits_again.response().await), Code::Ok);
}

#[tokio::test]
async fn a_drain_lets_workers_and_waiting_clients_go_at_once() {
    let (server, cache) = start().await;
    let (mut worker, _) = ScriptedWorker::join(&cache.channel, hello("w")).await;
    let mut running = execute(&cache, &action(&cache, "drained").await).await;
    let lease = worker.assignment().await.lease_id;
    running.stage(Stage::Executing).await;
    server.terminate();
    let (status, mut server) = within("a drain that waits for nobody", server.ended()).await;
    assert!(status.success());
    assert_code(&worker.answer().await, &[Code::Unavailable], "the worker's stream");
    let end = loop {
        match within("the end", running.stream.message()).await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert_code(&end, &[Code::Unavailable], "the client's stream");

    server.start_again();
    let cache = Cache::connect(&server).await;
    let again = wait(&cache, &running.name).await.expect("WaitExecution");
    let back = cask_proto::workers::Hello { held_lease_ids: vec![lease.clone()], ..hello("w") };
    let (worker, welcome) = ScriptedWorker::join(&cache.channel, back).await;
    assert_eq!(welcome.kept_lease_ids, std::slice::from_ref(&lease));
    worker.finish(&lease, exited(0)).await;
    assert_eq!(code_of(&again.response().await), Code::Ok);
}

#[tokio::test]
async fn a_full_queue_is_said_so() {
    let (_server, cache) = start_with(options(&["--execution-queue-max=2"])).await;
    let mut waiting = Vec::new();
    for argument in ["a", "b"] {
        waiting.push(execute(&cache, &action(&cache, argument).await).await);
    }
    let over = request(&cache, &action(&cache, "c").await);
    assert_code(&execute_with(&cache, over).await.map(drop), &[Code::ResourceExhausted], "one too many");
}
