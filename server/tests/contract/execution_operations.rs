//! Section J, operations: shared, overtaken, left and taken up again, looked at, cancelled, listed, deleted (lines J14 and J38 to J45,
//! J52, and faults 36, 43 and 52 of other servers).

use std::collections::BTreeSet;

use bazel_remote_apis::build::bazel::remote::execution::v2::ExecuteResponse;
use bazel_remote_apis::build::bazel::remote::execution::v2::execution_stage::Value as Stage;
use tonic::Code;

use crate::support::blob::uuid;
use crate::support::farm::{
    Call, Seen, cancel_operation, delete_operation, executing, farm, farm_with, get_operation, list_operations,
    processes_with, result_of, said, shell, status_of, wait_operation,
};
use crate::support::grpc::{Cache, assert_code, code};
use crate::support::process::Server;
use crate::support::worker::WorkerOptions;

const RANDOM: &str = "od -An -N16 -tx1 /dev/urandom";

fn started(response: &ExecuteResponse) -> (i64, i32) {
    let metadata = result_of(response).execution_metadata.expect("metadata");
    let start = metadata.execution_start_timestamp.expect("a time");
    (start.seconds, start.nanos)
}

/// Many callers of one action, some before and some while it runs: one run, and an operation each.
#[tokio::test]
async fn j14_identical_actions_at_the_same_time_run_once() {
    let (_server, _worker, cache) = farm().await;
    let mut blocker = shell("sleep 1000").do_not_cache().begin(&cache).await;
    let job = shell(&format!("echo running; sleep 1; {RANDOM}"));
    let action = job.store(&cache).await;
    let mut calls = Vec::new();
    for _ in 0..4 {
        let mut call = Call::execute(&cache, &action).await.expect("Execute");
        call.name().await;
        calls.push(call);
    }
    cancel_operation(&cache, &blocker.name().await).await.expect("CancelOperation");
    assert_eq!(status_of(&blocker.finish().await).0, Code::Cancelled);
    calls[0].until(Stage::Executing).await;
    let mut late = Call::execute(&cache, &action).await.expect("Execute");
    late.name().await;
    calls.push(late);
    let names: BTreeSet<_> = calls.iter().map(|call| call.seen[0].name().to_owned()).collect();
    assert_eq!(names.len(), 5, "an operation a call");
    let mut outputs = BTreeSet::new();
    let mut starts = BTreeSet::new();
    for call in calls {
        let response = call.finish().await;
        starts.insert(started(&response));
        outputs.insert(said(&cache, &result_of(&response)).await);
    }
    assert_eq!((outputs.len(), starts.len()), (1, 1), "one run");
}

/// One worker that is busy; then the urgent one goes first, and the one that has time last, in whichever order they came.
#[tokio::test]
async fn j38_an_urgent_action_overtakes_others() {
    let (_server, _worker, cache) = farm().await;
    let mut blocker = shell("sleep 1000").do_not_cache().begin(&cache).await;
    let mut calls = Vec::new();
    for (number, priority) in [5, 0, -10, 0, 7].into_iter().enumerate() {
        let action = shell(&format!("echo {number}")).store(&cache).await;
        let mut call = Call::execute_at(&cache, &action, priority).await.expect("Execute");
        call.name().await;
        calls.push((priority, call));
    }
    cancel_operation(&cache, &blocker.name().await).await.expect("CancelOperation");
    drop(blocker);
    let mut order = Vec::new();
    for (priority, call) in calls {
        order.push((started(&call.finish().await), priority));
    }
    order.sort_unstable();
    let priorities: Vec<_> = order.into_iter().map(|(_, priority)| priority).collect();
    assert_eq!(priorities, [-10, 0, 0, 5, 7]);
}

#[tokio::test]
async fn j39_a_dropped_stream_is_taken_up_again_and_the_action_goes_on() {
    let (_server, _worker, cache) = farm().await;
    let job = shell(&format!("echo running; sleep 1; {RANDOM}"));
    let mut call = job.begin(&cache).await;
    let name = call.name().await;
    drop(call);
    // From another connection, twice at once.
    let other = cache.clone();
    let (mut one, two) = (
        Call::wait(&other, &name).await.expect("WaitExecution"),
        Call::wait(&cache, &name).await.expect("WaitExecution"),
    );
    let state = one.next().await.expect("a message").expect("the present state comes at once");
    assert_eq!(state.name(), name);
    let (one, two) = (one.finish().await, two.finish().await);
    assert_eq!(started(&one), started(&two));
    let metadata = result_of(&one).execution_metadata.expect("metadata");
    let cached = cache.get_action(&job.packed().action).await.expect("GetActionResult");
    assert_eq!(
        cached.execution_metadata.expect("metadata").execution_start_timestamp,
        metadata.execution_start_timestamp
    );
}

/// Fault 52, its first half: names that were never given, and those of others' making.
#[tokio::test]
async fn j40_an_unknown_operation_is_not_found() {
    let (_server, _worker, cache) = farm().await;
    let mut call = shell("sleep 1000").begin(&cache).await;
    let known = call.name().await;
    let digit = if known.ends_with('0') { '1' } else { '0' };
    let neighbour = format!("{}{digit}", &known[..known.len() - 1]);
    for name in [
        "operations/none".to_owned(),
        String::new(),
        "x".to_owned(),
        uuid(),
        format!("operations/{}", uuid()),
        neighbour,
    ] {
        let outcomes = [
            ("WaitExecution", code(&Call::wait(&cache, &name).await.map(drop))),
            ("GetOperation", code(&get_operation(&cache, &name).await)),
            ("CancelOperation", code(&cancel_operation(&cache, &name).await)),
            ("DeleteOperation", code(&delete_operation(&cache, &name).await)),
            ("WaitOperation", code(&wait_operation(&cache, &name).await)),
        ];
        for (method, found) in outcomes {
            // A name that cannot be one may be told so.
            let allowed = [Code::NotFound, Code::InvalidArgument];
            let is_name = name == known || name.starts_with("operations/");
            assert!(found == Code::NotFound || (!is_name && allowed.contains(&found)), "{method} {name:?}: {found:?}");
        }
    }
    assert_eq!(get_operation(&cache, &known).await.expect("GetOperation").stage(), Stage::Executing);
}

/// Fault 52: the end is not lost on who comes late, however often.
#[tokio::test]
async fn j41_waiting_for_a_finished_operation_gives_its_result_once() {
    let (_server, _worker, cache) = farm().await;
    let mut call = shell("echo done; exit 4").begin(&cache).await;
    let name = call.name().await;
    let response = call.finish().await;
    for _ in 0..3 {
        let mut late = Call::wait(&cache, &name).await.expect("WaitExecution");
        let only = late.next().await.expect("a message").expect("a message");
        assert_eq!(only.response().as_ref(), Some(&response));
        assert!(late.next().await.expect("a clean end").is_none(), "once a call");
        assert_eq!(wait_operation(&cache, &name).await.expect("WaitOperation").response().as_ref(), Some(&response));
    }
}

#[tokio::test]
async fn j42_a_cancelled_operation_ends_as_such_and_its_processes_with_it() {
    let (_server, _worker, cache) = farm().await;
    let job = shell("echo running; sleep 1042.5 & setsid sleep 1042.5; echo after");
    let mut call = job.begin(&cache).await;
    assert_eq!(call.first_line(&cache).await, "running");
    let strays = processes_with("1042.5");
    assert!(!strays.is_empty(), "it runs");
    let name = call.name().await;
    cancel_operation(&cache, &name).await.expect("CancelOperation");
    let response = call.finish().await;
    assert_eq!(status_of(&response).0, Code::Cancelled);
    for stray in strays {
        stray.ended().await;
    }
    assert_eq!(processes_with("1042.5").len(), 0);
    assert_code(&cache.get_action(&job.packed().action).await, &[Code::NotFound], "GetActionResult");
    // Once more changes nothing, and the worker is free.
    cancel_operation(&cache, &name).await.expect("CancelOperation");
    assert_eq!(status_of(&Call::wait(&cache, &name).await.expect("WaitExecution").finish().await).0, Code::Cancelled);
    shell("echo next").succeed(&cache).await;
}

/// Fault 36: what is queued ends without a run; of two who share one, the other has its result.
#[tokio::test]
async fn j42_cancelling_what_is_queued_or_shared() {
    let (_server, _worker, cache) = farm().await;
    let mut blocker = shell("sleep 1000").do_not_cache().begin(&cache).await;
    let queued = shell("echo never").store(&cache).await;
    let mut queued = Call::execute(&cache, &queued).await.expect("Execute");
    cancel_operation(&cache, &queued.name().await).await.expect("CancelOperation");
    let response = queued.finish().await;
    assert_eq!(status_of(&response).0, Code::Cancelled);

    let shared = shell("echo shared").store(&cache).await;
    let mut leaving = Call::execute(&cache, &shared).await.expect("Execute");
    let mut staying = Call::execute(&cache, &shared).await.expect("Execute");
    staying.name().await;
    cancel_operation(&cache, &leaving.name().await).await.expect("CancelOperation");
    assert_eq!(status_of(&leaving.finish().await).0, Code::Cancelled);
    cancel_operation(&cache, &blocker.name().await).await.expect("CancelOperation");
    assert_eq!(status_of(&blocker.finish().await).0, Code::Cancelled);
    assert_eq!(said(&cache, &result_of(&staying.finish().await)).await, "shared\n");

    // Both while it runs: its process goes with the last.
    let job = shell("echo running; sleep 1042.75").store(&cache).await;
    let mut one = Call::execute(&cache, &job).await.expect("Execute");
    let mut two = Call::execute(&cache, &job).await.expect("Execute");
    assert_eq!(one.first_line(&cache).await, "running");
    two.until(Stage::Executing).await;
    cancel_operation(&cache, &one.name().await).await.expect("CancelOperation");
    assert_eq!(status_of(&one.finish().await).0, Code::Cancelled);
    let strays = processes_with("1042.75");
    assert!(!strays.is_empty(), "it runs on for the other");
    cancel_operation(&cache, &two.name().await).await.expect("CancelOperation");
    assert_eq!(status_of(&two.finish().await).0, Code::Cancelled);
    for stray in strays {
        stray.ended().await;
    }
}

/// Fault 36, its last part: a queued action that nobody listens to is given up.
#[tokio::test]
async fn j42_what_nobody_listens_to_any_more_is_not_run() {
    let flags = ["--execution-abandoned-after", "100ms"];
    let (_server, _worker, cache) = farm_with(&flags, &WorkerOptions::default()).await;
    let mut blocker = shell("sleep 1000").do_not_cache().begin(&cache).await;
    let action = shell("echo nobody wants it").store(&cache).await;
    let mut call = Call::execute(&cache, &action).await.expect("Execute");
    let name = call.name().await;
    drop(call);
    // Who lists operations looks on; who asks after one by name wants it.
    while list_operations(&cache, "", 0, "")
        .await
        .expect("ListOperations")
        .operations
        .iter()
        .any(|it| it.name == name && !it.done)
    {
        tokio::task::yield_now().await;
    }
    let end = get_operation(&cache, &name).await.expect("GetOperation");
    assert_eq!(status_of(&end.response().expect("a response")).0, Code::Unavailable);
    cancel_operation(&cache, &blocker.name().await).await.expect("CancelOperation");
}

#[tokio::test]
async fn j43_get_operation_says_what_the_stream_says() {
    let (_server, _worker, cache) = farm().await;
    let mut blocker = shell("sleep 1000").do_not_cache().begin(&cache).await;
    let action = shell("echo running; sleep 1").store(&cache).await;
    let mut call = Call::execute(&cache, &action).await.expect("Execute");
    let name = call.name().await;
    let queued = get_operation(&cache, &name).await.expect("GetOperation");
    assert_eq!((queued.stage(), queued.operation.done), (Stage::Queued, false));
    assert_eq!(queued.operation, call.seen[0].operation);
    cancel_operation(&cache, &blocker.name().await).await.expect("CancelOperation");
    call.until(Stage::Executing).await;
    assert_eq!(get_operation(&cache, &name).await.expect("GetOperation").stage(), Stage::Executing);
    let response = call.finish().await;
    let done = get_operation(&cache, &name).await.expect("GetOperation");
    assert_eq!(done.stage(), Stage::Completed);
    assert_eq!(done.response(), Some(response));
}

#[tokio::test]
async fn j44_list_operations_has_pages() {
    let server = Server::start(executing(&[]));
    let cache = Cache::connect(&server).await;
    let mut names = BTreeSet::new();
    let mut calls = Vec::new();
    for number in 0..25 {
        let action = shell(&format!("echo {number}")).store(&cache).await;
        let mut call = Call::execute(&cache, &action).await.expect("Execute");
        names.insert(call.name().await);
        calls.push(call);
    }
    let other = cache.instance("other");
    let action = shell("echo elsewhere").store(&other).await;
    let mut elsewhere = Call::execute(&other, &action).await.expect("Execute");
    let name_elsewhere = elsewhere.name().await;
    for page_size in [0, 1, 7, 25, 1000] {
        let (mut listed, mut token, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = list_operations(&cache, "", page_size, &token).await.expect("ListOperations");
            assert!(page_size == 0 || page.operations.len() <= page_size as usize);
            pages += 1;
            listed.extend(page.operations.into_iter().map(|operation| Seen::of(operation).name().to_owned()));
            if page.next_page_token.is_empty() {
                break;
            }
            assert_ne!(page.next_page_token, token, "a token leads on");
            token = page.next_page_token;
        }
        assert!(page_size == 0 || pages <= 25 / page_size + 1, "{pages} pages of {page_size}");
        assert_eq!(listed.len(), 25, "each once");
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), names);
    }
    let page = list_operations(&cache, "other", 0, "").await.expect("ListOperations");
    let listed: Vec<_> = page.operations.into_iter().map(|operation| operation.name).collect();
    assert_eq!(listed, [name_elsewhere]);
    for (page_size, token) in [(-1, ""), (0, "no token of ours")] {
        let outcome = list_operations(&cache, "", page_size, token).await;
        assert_code(&outcome, &[Code::InvalidArgument], &format!("{page_size} {token:?}"));
    }
}

/// Forgetting is not cancelling: the run goes on, and its result is cached.
#[tokio::test]
async fn j45_a_deleted_operation_is_not_found() {
    let (_server, _worker, cache) = farm().await;
    let mut call = shell("echo done").begin(&cache).await;
    let name = call.name().await;
    call.finish().await;
    delete_operation(&cache, &name).await.expect("DeleteOperation");
    for outcome in [
        code(&Call::wait(&cache, &name).await.map(drop)),
        code(&get_operation(&cache, &name).await),
        code(&delete_operation(&cache, &name).await),
        code(&cancel_operation(&cache, &name).await),
    ] {
        assert_eq!(outcome, Code::NotFound);
    }
    let job = shell("echo running; sleep 1");
    let mut call = job.begin(&cache).await;
    let name = call.name().await;
    let mut other = Call::execute(&cache, &job.packed().action).await.expect("Execute");
    other.name().await;
    delete_operation(&cache, &name).await.expect("DeleteOperation");
    assert_eq!(code(&get_operation(&cache, &name).await), Code::NotFound);
    result_of(&other.finish().await);
    cache.get_action(&job.packed().action).await.expect("GetActionResult");
}

/// Both outputs, from their beginning, while the command has not ended; then the logs end, and say what the result says.
#[tokio::test]
async fn j52_output_can_be_read_while_the_command_runs() {
    let (_server, _worker, cache) = farm().await;
    let mut call = shell("echo first; echo a complaint >&2; sleep 1052.5").begin(&cache).await;
    let (stdout, stderr) = loop {
        let seen = call.next().await.expect("the stream goes on").expect("the stream goes on");
        let names = (seen.metadata.stdout_stream_name, seen.metadata.stderr_stream_name);
        if !names.0.is_empty() && !names.1.is_empty() {
            break names;
        }
    };
    let mut logs = Vec::new();
    for (name, expected) in [(&stdout, "first\n"), (&stderr, "a complaint\n")] {
        let mut log = cache.read_stream(name, 0, 0).await.expect("Read of the log");
        let mut text = Vec::new();
        while text.len() < expected.len() {
            let more = crate::support::within("more of the log", log.message()).await.expect("Read");
            text.extend_from_slice(&more.expect("no end yet").data);
        }
        assert_eq!(text, expected.as_bytes());
        logs.push(log);
    }
    assert_eq!(get_operation(&cache, &call.name().await).await.expect("GetOperation").stage(), Stage::Executing);
    cancel_operation(&cache, &call.name().await).await.expect("CancelOperation");
    assert_eq!(status_of(&call.finish().await).0, Code::Cancelled);

    let mut call = shell("for n in 1 2 3 4; do echo line $n; sleep 0.4; done").begin(&cache).await;
    let stdout = loop {
        let seen = call.next().await.expect("the stream goes on").expect("the stream goes on");
        if !seen.metadata.stdout_stream_name.is_empty() {
            break seen.metadata.stdout_stream_name;
        }
    };
    let whole = cache.read_range(&stdout, 0, 0).await.expect("the log ends");
    let result = result_of(&call.finish().await);
    assert_eq!(String::from_utf8(whole).expect("text"), said(&cache, &result).await);
}

/// Fault 43: calls that are given up at every point leave nothing behind: the server stays what it was.
#[tokio::test]
async fn calls_that_are_given_up_leave_nothing_behind() {
    let options = WorkerOptions { concurrency: 4, ..WorkerOptions::default() };
    let (server, _worker, cache) = farm_with(&[], &options).await;
    let mut jobs = Vec::new();
    for number in 0..20 {
        jobs.push(shell(&format!("echo {number}")).store(&cache).await);
    }
    let files_before = server.open_file_count();
    for round in 0..50_u32 {
        for (number, action) in jobs.iter().enumerate() {
            let asked = Call::execute(&cache, action);
            // At another point each time: before it is sent, in its course, after its first messages.
            match (round as usize + number) % 3 {
                0 => drop(asked),
                1 => drop(asked.await),
                _ => {
                    if let Ok(mut call) = asked.await {
                        call.name().await;
                    }
                }
            }
        }
    }
    for (number, action) in jobs.iter().enumerate() {
        let response = Call::execute(&cache, action).await.expect("Execute").finish().await;
        assert_eq!(said(&cache, &result_of(&response)).await, format!("{number}\n"));
    }
    let files_after = server.open_file_count();
    assert!(files_after <= files_before + 16, "{files_before} open files, then {files_after}");
}
