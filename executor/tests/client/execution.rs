//! Executing, against a server that follows a script: each call of `Execute` or `WaitExecution` plays the next scene.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use cask_executor::{
    ClientError,
    client::{ExecuteOptions, Execution, ExecutionEvent, RemoteCache, RetryPolicy, Stage, digest_of},
};
use cask_index::Digest;
use cask_proto::{
    InstanceName, longrunning,
    longrunning::operations_server::{Operations, OperationsServer},
    reapi as re,
    reapi::execution_server::{Execution as ExecutionService, ExecutionServer},
    rpc,
};
use prost::Message as _;
use tokio_stream::{Stream, StreamExt as _, wrappers::TcpListenerStream};
use tonic::{Code, Request, Response, Status, transport::Server};
use tonic_types::{ErrorDetails, PreconditionViolation, StatusExt as _};

/// What a call does.
type Scene = Vec<Line>;

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there are a handful")]
enum Line {
    /// The operation of this name, in a stage.
    Stage(&'static str, re::execution_stage::Value),
    /// A worker's logs have names.
    Logs(&'static str, &'static str),
    /// The operation is done.
    Done(re::ExecuteResponse),
    /// As the API does not allow it.
    DoneWithError(Status),
    /// The stream, or where nothing came before it the call, ends with this.
    Fail(Status),
    /// Nothing more is said.
    Hang,
}

use Line::{Done, DoneWithError, Fail, Hang, Logs};
use re::execution_stage::Value::{CacheCheck, Executing, Queued};

#[derive(Default)]
struct State {
    execute: VecDeque<Scene>,
    wait: VecDeque<Scene>,
    cancel: VecDeque<Status>,
    log: Vec<String>,
}

#[derive(Clone, Default)]
struct Script(Arc<Mutex<State>>);

type Answers = std::pin::Pin<Box<dyn Stream<Item = Result<longrunning::Operation, Status>> + Send>>;

impl Script {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics with the lock")
    }

    fn new(execute: Vec<Scene>, wait: Vec<Scene>) -> Self {
        let state = State { execute: execute.into(), wait: wait.into(), ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    async fn execution(&self, options: &ExecuteOptions) -> Execution {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let server = Server::builder()
            .add_service(ExecutionServer::new(self.clone()))
            .add_service(OperationsServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let retry = RetryPolicy { attempts_max: 3, delay_first: Duration::ZERO, ..RetryPolicy::default() };
        let instance = InstanceName::parse("test").expect("a name");
        RemoteCache::over(endpoint.connect().await.expect("it listens"), instance, retry).execute(action(), options)
    }

    fn play(scene: Option<Scene>) -> Result<Response<Answers>, Status> {
        let mut scene: VecDeque<Line> = scene.unwrap_or_else(|| vec![Fail(Status::data_loss("off script"))]).into();
        if let Some(Fail(status)) = scene.front() {
            return Err(status.clone());
        }
        let hangs = scene.iter().any(|line| matches!(line, Hang));
        let (mut name, mut metadata) = (String::new(), re::ExecuteOperationMetadata::default());
        let mut answers = Vec::new();
        for line in scene.drain(..) {
            let mut result = None;
            match line {
                Line::Stage(operation, stage) => {
                    operation.clone_into(&mut name);
                    metadata.stage = stage as i32;
                }
                Logs(stdout, stderr) => {
                    stdout.clone_into(&mut metadata.stdout_stream_name);
                    stderr.clone_into(&mut metadata.stderr_stream_name);
                }
                Done(response) => {
                    metadata.stage = re::execution_stage::Value::Completed as i32;
                    result = Some(longrunning::operation::Result::Response(any(&response)));
                }
                DoneWithError(status) => result = Some(longrunning::operation::Result::Error(rpc_status(&status))),
                Fail(status) => {
                    answers.push(Err(status));
                    break;
                }
                Hang => break,
            }
            let done = result.is_some();
            answers.push(Ok(longrunning::Operation {
                name: name.clone(),
                metadata: Some(any(&metadata)),
                done,
                result,
            }));
        }
        let answers = tokio_stream::iter(answers);
        Ok(Response::new(if hangs { Box::pin(answers.chain(tokio_stream::pending())) } else { Box::pin(answers) }))
    }
}

fn any<M: prost::Name>(message: &M) -> prost_types::Any {
    prost_types::Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

fn rpc_status(status: &Status) -> rpc::Status {
    let mut decoded = rpc::Status::decode(status.details()).expect("a status is its own details");
    decoded.code = status.code() as i32;
    status.message().clone_into(&mut decoded.message);
    decoded
}

#[tonic::async_trait]
impl ExecutionService for Script {
    type ExecuteStream = Answers;
    type WaitExecutionStream = Answers;

    async fn execute(&self, request: Request<re::ExecuteRequest>) -> Result<Response<Answers>, Status> {
        let request = request.into_inner();
        let mut state = self.state();
        assert_eq!(request.action_digest.expect("set").hash, action().hash_hex());
        assert_eq!(request.instance_name, "test");
        let skip = if request.skip_cache_lookup { " skip" } else { "" };
        let priority = request.execution_policy.map_or(String::new(), |policy| format!(" {}", policy.priority));
        state.log.push(format!("execute{priority}{skip}"));
        Self::play(state.execute.pop_front())
    }

    async fn wait_execution(&self, request: Request<re::WaitExecutionRequest>) -> Result<Response<Answers>, Status> {
        let mut state = self.state();
        state.log.push(format!("wait {}", request.into_inner().name));
        Self::play(state.wait.pop_front())
    }
}

#[tonic::async_trait]
impl Operations for Script {
    async fn cancel_operation(
        &self,
        request: Request<longrunning::CancelOperationRequest>,
    ) -> Result<Response<()>, Status> {
        let mut state = self.state();
        state.log.push(format!("cancel {}", request.into_inner().name));
        state.cancel.pop_front().map_or(Ok(Response::new(())), Err)
    }

    async fn list_operations(
        &self,
        _: Request<longrunning::ListOperationsRequest>,
    ) -> Result<Response<longrunning::ListOperationsResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn get_operation(
        &self,
        _: Request<longrunning::GetOperationRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn delete_operation(&self, _: Request<longrunning::DeleteOperationRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn wait_operation(
        &self,
        _: Request<longrunning::WaitOperationRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        Err(Status::unimplemented("not used"))
    }
}

fn action() -> Digest {
    digest_of(b"an action")
}

fn fine() -> Line {
    let result = re::ActionResult { exit_code: 7, ..Default::default() };
    Done(re::ExecuteResponse { result: Some(result), ..Default::default() })
}

fn ended(status: &Status) -> Line {
    Done(re::ExecuteResponse { status: Some(rpc_status(status)), ..Default::default() })
}

fn away() -> Line {
    Fail(Status::unavailable("on cue"))
}

/// As `ended`, told as a response; any status has to be its own details to be taken apart again.
fn status(code: Code) -> Status {
    Status::with_error_details(code, "on cue", ErrorDetails::new())
}

fn missing(subjects: &[&str]) -> Status {
    let violation = |subject: &&str| PreconditionViolation::new("MISSING", *subject, "");
    let violations: Vec<_> = subjects.iter().map(violation).collect();
    Status::with_error_details(
        Code::FailedPrecondition,
        "inputs are missing",
        ErrorDetails::with_precondition_failure(violations),
    )
}

fn later() -> Status {
    let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(1)));
    Status::with_error_details(Code::ResourceExhausted, "the queue is full", details)
}

/// What happened, as words: the stages, what was missing, and the end.
async fn story(script: &Script) -> String {
    let mut execution = script.execution(&ExecuteOptions::default()).await;
    let mut story = Vec::new();
    loop {
        match execution.next().await {
            Ok(ExecutionEvent::Changed(state)) => story.push(format!("{:?}", state.stage)),
            Ok(ExecutionEvent::Missing(digests)) => story.push(format!("missing {}", digests.len())),
            Ok(ExecutionEvent::Done(response)) => {
                let code = Code::from(response.status.clone().unwrap_or_default().code);
                let exit = response.result.map_or("none".to_owned(), |result| result.exit_code.to_string());
                story.push(format!("done {code:?} {exit}"));
                break;
            }
            Err(error) => {
                let name = match error {
                    ClientError::Unavailable { .. } => "unavailable".to_owned(),
                    ClientError::Refused { code, .. } => format!("refused {code:?}"),
                    ClientError::NoSpace { .. } => "no space".to_owned(),
                    ClientError::NotFound(what) => format!("{what} is not found"),
                    other => other.to_string(),
                };
                story.push(name);
                break;
            }
        }
    }
    format!("{} | {}", script.state().log.join(", "), story.join(", "))
}

#[tokio::test]
async fn an_execution_goes_on_over_whatever_breaks() {
    use Line::Stage;
    let queued = || Stage("a", Queued);
    let running = || Stage("a", Executing);
    for (what, execute, wait, expected) in [
        ("all is well", vec![vec![queued(), running(), fine()]], vec![], "execute | Queued, Executing, done Ok 7"),
        ("cached", vec![vec![Stage("a", CacheCheck), fine()]], vec![], "execute | CacheCheck, done Ok 7"),
        ("done at once", vec![vec![fine()]], vec![], "execute | done Ok 7"),
        // A keep-alive is no news.
        (
            "keep-alives",
            vec![vec![queued(), queued(), running(), running(), fine()]],
            vec![],
            "execute | Queued, Executing, done Ok 7",
        ),
        (
            "back in the queue",
            vec![vec![queued(), running(), queued(), running(), fine()]],
            vec![],
            "execute | Queued, Executing, Queued, Executing, done Ok 7",
        ),
        (
            "a busy server",
            vec![vec![away()], vec![Fail(later())], vec![fine()]],
            vec![],
            "execute, execute, execute | done Ok 7",
        ),
        (
            "an absent server",
            vec![vec![away()], vec![away()], vec![away()]],
            vec![],
            "execute, execute, execute | unavailable",
        ),
        (
            "a broken stream",
            vec![vec![queued(), away()]],
            vec![
                vec![running(), Fail(Status::internal("reset"))],
                vec![running(), Fail(Status::deadline_exceeded("a proxy's"))],
                vec![fine()],
            ],
            "execute, wait a, wait a, wait a | Queued, Executing, done Ok 7",
        ),
        (
            "an early end",
            vec![vec![queued()]],
            vec![vec![queued(), running()], vec![fine()]],
            "execute, wait a, wait a | Queued, Executing, done Ok 7",
        ),
        // Nothing new in three streams: not for ever.
        (
            "streams without news",
            vec![vec![queued(), away()]],
            vec![vec![queued(), away()], vec![queued(), away()], vec![fine()]],
            "execute, wait a, wait a | Queued, unavailable",
        ),
        (
            "forgotten",
            vec![vec![queued(), away()], vec![Stage("b", Queued), fine()]],
            vec![vec![Fail(Status::not_found("no such operation"))]],
            "execute, wait a, execute | Queued, Queued, done Ok 7",
        ),
        (
            "no WaitExecution",
            vec![vec![queued(), away()], vec![Stage("b", Queued), fine()]],
            vec![vec![Fail(Status::unimplemented("no such method"))]],
            "execute, wait a, execute | Queued, Queued, done Ok 7",
        ),
        (
            "forgotten again and again",
            vec![vec![queued(), away()]; 5],
            vec![vec![Fail(Status::not_found("no such operation"))]; 5],
            "execute, wait a, execute, wait a, execute, wait a, execute, wait a | Queued, Queued, Queued, Queued, operation a is not found",
        ),
        (
            "the server's failure",
            vec![vec![queued(), ended(&status(Code::Unavailable))], vec![queued(), ended(&later())], vec![fine()]],
            vec![],
            "execute, execute, execute | Queued, Queued, done Ok 7",
        ),
        (
            "the server's failures",
            vec![vec![queued(), running(), ended(&status(Code::Unavailable))]; 4],
            vec![],
            "execute, execute, execute | Queued, Executing, Queued, Executing, Queued, Executing, unavailable",
        ),
        (
            "the action's own failure",
            vec![vec![queued(), ended(&status(Code::DeadlineExceeded))]],
            vec![],
            "execute | Queued, done DeadlineExceeded none",
        ),
        (
            "cancelled",
            vec![vec![queued(), ended(&status(Code::Cancelled))]],
            vec![],
            "execute | Queued, done Cancelled none",
        ),
        (
            "an error where none may be",
            vec![vec![queued(), DoneWithError(status(Code::Unavailable))], vec![fine()]],
            vec![],
            "execute, execute | Queued, done Ok 7",
        ),
        (
            "another such",
            vec![vec![queued(), DoneWithError(status(Code::InvalidArgument))]],
            vec![],
            "execute | Queued, refused InvalidArgument",
        ),
        ("refused", vec![vec![Fail(Status::invalid_argument("no"))]], vec![], "execute | refused InvalidArgument"),
        (
            "no advice on a full queue",
            vec![vec![Fail(Status::resource_exhausted("full"))]],
            vec![],
            "execute | no space",
        ),
    ] {
        assert_eq!(story(&Script::new(execute, wait)).await, expected, "{what}");
    }
}

#[tokio::test]
async fn missing_blobs_are_the_callers_to_upload_twice_at_most() {
    let digest = digest_of(b"a file");
    let name = format!("blobs/{digest}");
    let named = format!("some/instance/blobs/blake3/{digest}");
    let both = missing(&[&name, &named]);
    let scene = || vec![Fail(missing(&[&name]))];
    let at_a_worker = || vec![Line::Stage("a", Queued), ended(&both)];
    for (execute, expected) in [
        (vec![scene(), vec![fine()]], "execute, execute | missing 1, done Ok 7"),
        (
            vec![scene(), at_a_worker(), vec![fine()]],
            "execute, execute, execute | missing 1, Queued, missing 2, done Ok 7",
        ),
        (
            vec![scene(), scene(), scene()],
            "execute, execute, execute | missing 1, missing 1, refused FailedPrecondition",
        ),
        // Other complaints are not helped by an upload.
        (vec![vec![Fail(missing(&[&name, "the moon"]))]], "execute | refused FailedPrecondition"),
        (vec![vec![Fail(status(Code::FailedPrecondition))]], "execute | refused FailedPrecondition"),
    ] {
        assert_eq!(story(&Script::new(execute.clone(), vec![])).await, expected, "{execute:?}");
    }
}

#[tokio::test]
async fn what_is_asked_for_is_what_was_wanted_and_names_of_logs_are_passed_on() {
    let script = Script::new(
        vec![vec![Line::Stage("a", Executing), Logs("out", "err"), away()]],
        vec![vec![Line::Stage("a", Executing), Logs("out", "err"), fine()]],
    );
    let mut execution = script.execution(&ExecuteOptions { priority: -3, skip_cache_lookup: true }).await;
    assert!(execution.cancel().is_none(), "there is nothing to cancel yet");
    let mut last = None;
    while let ExecutionEvent::Changed(state) = execution.next().await.expect("an event") {
        last = Some(state);
    }
    let last = last.expect("a state");
    assert_eq!((last.stage, last.name.as_str()), (Stage::Executing, "a"));
    assert_eq!((last.stdout_stream_name.as_str(), last.stderr_stream_name.as_str()), ("out", "err"));
    assert_eq!(script.state().log, ["execute -3 skip", "wait a"]);
}

#[tokio::test]
async fn cancelling_is_repeated_where_the_way_broke_and_done_where_there_is_nothing_left() {
    for (answers, calls, fails) in [
        (vec![], 1, false),
        (vec![Status::unavailable("on cue")], 2, false),
        (vec![Status::not_found("gone")], 1, false),
        (vec![Status::unimplemented("no such method")], 1, true),
    ] {
        let script = Script::new(vec![vec![Line::Stage("a", Queued), Hang]], vec![]);
        script.state().cancel = answers.into();
        let mut execution = script.execution(&ExecuteOptions::default()).await;
        execution.next().await.expect("a name");
        let outcome = execution.cancel().expect("a name to cancel by").await;
        assert_eq!(outcome.is_err(), fails, "{outcome:?}");
        assert_eq!(script.state().log, [vec!["execute"], vec!["cancel a"; calls]].concat());
    }
}

/// `next` is dropped again and again, as in a loop that waits for other things too: no call is made twice and nothing is lost.
#[tokio::test]
async fn waiting_can_be_given_up_and_taken_up_again_at_any_point() {
    let script = Script::new(
        vec![vec![Line::Stage("a", Queued), away()]],
        vec![vec![Line::Stage("a", Executing), away()], vec![fine()]],
    );
    let mut execution = script.execution(&ExecuteOptions::default()).await;
    let mut stages = Vec::new();
    loop {
        // Polled once at a time.
        let event = tokio::select! {
            biased;
            event = execution.next() => event.expect("an event"),
            () = tokio::task::yield_now() => continue,
        };
        match event {
            ExecutionEvent::Changed(state) => stages.push(state.stage),
            ExecutionEvent::Done(_) => break,
            ExecutionEvent::Missing(_) => panic!("nothing is missing"),
        }
    }
    assert_eq!(stages, [Stage::Queued, Stage::Executing]);
    assert_eq!(script.state().log, ["execute", "wait a", "wait a"]);
}
