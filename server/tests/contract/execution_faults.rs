//! Section J, what dies on the way: workers and servers, with SIGKILL, at each stage of an action (lines J46 and J47, faults 34, 35
//! and 43 of other servers). Exactly one result each time, and a bounded number of attempts.

use std::collections::BTreeSet;

use bazel_remote_apis::build::bazel::remote::execution::v2::execution_stage::Value as Stage;
use tonic::Code;

use crate::support::damage::flip_a_bit;
use crate::support::farm::{Call, Input, executing, farm_with, processes_with, result_of, said, shell, status_of};
use crate::support::grpc::{Cache, code};
use crate::support::process::Server;
use crate::support::worker::{Worker, WorkerOptions};

/// Soon enough for a test, and longer than a stall of a busy machine.
const QUICK: [&str; 4] = ["--execution-reconnect-grace", "100ms", "--execution-worker-timeout", "5s"];

fn named(name: &str) -> WorkerOptions {
    WorkerOptions { name: name.to_owned(), ..WorkerOptions::default() }
}

/// Its processes die with the worker; the action is queued again and goes to the next, under the same name.
#[tokio::test]
async fn j46_when_a_worker_dies_the_action_is_queued_again() {
    let (server, mut first, cache) = farm_with(&QUICK, &named("first")).await;
    let mut call = shell("echo running; test -e /proc/self && sleep 2; echo done").begin(&cache).await;
    assert_eq!(call.first_line(&cache).await, "running");
    first.kill();
    call.until(Stage::Queued).await;
    let _second = Worker::start(&server, &named("second"));
    call.until(Stage::Executing).await;
    let result = result_of(&call.finish().await);
    assert_eq!(said(&cache, &result).await, "running\ndone\n");
    assert!(result.execution_metadata.expect("metadata").worker.contains("second"));
}

#[tokio::test]
async fn j46_j54_the_processes_of_a_killed_worker_go_with_it() {
    let (_server, mut worker, cache) = farm_with(&QUICK, &named("first")).await;
    let mut call = shell("echo running; sleep 1046.5 & setsid sleep 1046.5").begin(&cache).await;
    assert_eq!(call.first_line(&cache).await, "running");
    let strays = processes_with("1046.5");
    assert!(!strays.is_empty(), "it runs");
    worker.kill();
    for stray in strays {
        stray.ended().await;
    }
    call.until(Stage::Queued).await;
}

/// An action that takes its worker with it: after so many workers it is given up, with a code that says that trying again might help.
#[tokio::test]
async fn j46_after_so_many_lost_workers_it_is_given_up() {
    let flags = [&QUICK[..], &["--execution-attempts", "3"]].concat();
    let server = Server::start(executing(&flags));
    let cache = Cache::connect(&server).await;
    let action = shell("echo running; sleep 1000").store(&cache).await;
    let mut call = Call::execute(&cache, &action).await.expect("Execute");
    for number in 0..3 {
        let mut worker = Worker::start(&server, &named(&format!("w{number}")));
        call.until(Stage::Executing).await;
        worker.kill();
        if number < 2 {
            call.until(Stage::Queued).await;
        }
    }
    let (code, message) = status_of(&call.finish().await);
    assert_eq!(code, Code::Unavailable, "{message}");
}

/// The worker finishes what it runs and takes no more; then it ends by itself, and nothing is lost.
#[tokio::test]
async fn a_worker_that_is_told_to_end_finishes_what_it_runs() {
    let (server, first, cache) = farm_with(&QUICK, &named("first")).await;
    let mut running = shell("echo running; sleep 1; echo done").begin(&cache).await;
    assert_eq!(running.first_line(&cache).await, "running");
    first.terminate();
    let waiting = shell("echo waited").store(&cache).await;
    let waiting = Call::execute(&cache, &waiting).await.expect("Execute");
    let result = result_of(&running.finish().await);
    assert!(result.execution_metadata.expect("metadata").worker.contains("first"));
    let (status, _first) = first.ended().await;
    assert!(status.success(), "{status}");
    let _second = Worker::start(&server, &named("second"));
    let result = result_of(&waiting.finish().await);
    assert!(result.execution_metadata.expect("metadata").worker.contains("second"));
}

/// Fault 35: queued and running actions survive the server, under their names; the worker finishes what it runs meanwhile and hands it
/// in afterwards.
#[tokio::test]
async fn j47_after_a_restart_of_the_server_clients_can_finish() {
    let folder = tempfile::tempdir().expect("a folder");
    // By a name that the next process has too: the worker comes back to it.
    let socket = format!("unix:{}", folder.path().join("socket").display());
    let listen: &'static str = Box::leak(socket.clone().into_boxed_str());
    let mut server = Server::start(executing(&[&QUICK[..], &["--listen", listen]].concat()));
    let _worker = Worker::start(&server, &WorkerOptions { server: Some(socket), ..named("w1") });
    let cache = Cache::connect(&server).await;
    let mut running = shell("echo running; sleep 2; echo done").begin(&cache).await;
    assert_eq!(running.first_line(&cache).await, "running");
    let running_name = running.name().await;
    let mut queued = Vec::new();
    for number in 0..50 {
        let action = shell(&format!("echo {number}")).store(&cache).await;
        let mut call = Call::execute(&cache, &action).await.expect("Execute");
        queued.push((number, call.name().await, call));
    }
    server.kill_and_restart();
    let broken = running.next().await.expect_err("the stream breaks with the server");
    assert!(
        matches!(broken.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled),
        "{broken:?}"
    );
    let cache = Cache::connect(&server).await;
    let response = Call::wait(&cache, &running_name).await.expect("the operation is known").finish().await;
    assert_eq!(said(&cache, &result_of(&response)).await, "running\ndone\n");
    for (number, name, _) in queued {
        let response = Call::wait(&cache, &name).await.expect("the operation is known").finish().await;
        assert_eq!(said(&cache, &result_of(&response)).await, format!("{number}\n"));
    }
}

/// Its client is told to come back, which it can: the action goes on after the restart.
#[tokio::test]
async fn j47_a_server_that_is_told_to_end_lets_go_of_its_clients() {
    let mut options = executing(&QUICK);
    options.drain_timeout = Some("1h".to_owned());
    let server = Server::start(options);
    let cache = Cache::connect(&server).await;
    let action = shell("echo later").store(&cache).await;
    let mut call = Call::execute(&cache, &action).await.expect("Execute");
    let name = call.name().await;
    server.terminate();
    let end = loop {
        match call.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a stream does not end before its operation"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::Unavailable, "{end:?}");
    let (status, mut server) = server.ended().await;
    assert!(status.success(), "{status}");
    server.start_again();
    let _worker = Worker::start(&server, &named("w1"));
    let cache = Cache::connect(&server).await;
    let response = Call::wait(&cache, &name).await.expect("the operation is known").finish().await;
    assert_eq!(said(&cache, &result_of(&response)).await, "later\n");
}

/// Inputs that go between the server's look and the worker's: told as missing, and their upload is enough.
#[tokio::test]
async fn j07_inputs_that_are_gone_when_the_worker_comes_are_told_as_missing() {
    let server = Server::start(executing(&[]));
    let cache = Cache::connect(&server).await;
    let content = "a file that will be damaged on the disk";
    let job = shell("cat in").input("in", Input::text(content));
    let action = job.store(&cache).await;
    let mut call = Call::execute(&cache, &action).await.expect("Execute");
    call.name().await;
    assert!(flip_a_bit(&server, content.as_bytes(), 3) > 0);
    let _worker = Worker::start(&server, &named("w1"));
    let response = call.finish().await;
    let status = response.status.expect("a status");
    assert_eq!(status.code, Code::FailedPrecondition as i32, "{}", status.message);
    assert_eq!(status.details.len(), 1);
    assert!(status.details[0].type_url.ends_with("google.rpc.PreconditionFailure"));
    let result = job.succeed(&cache).await;
    assert!(said(&cache, &result).await.starts_with("a file"));
}

/// Several workers that come and go under a stream of actions: each has its result, once.
#[tokio::test]
async fn j46_workers_that_come_and_go_lose_nothing() {
    let server = Server::start(executing(&[&QUICK[..], &["--execution-attempts", "20"]].concat()));
    let cache = Cache::connect(&server).await;
    let options = |name: String| WorkerOptions { name, concurrency: 4, ..WorkerOptions::default() };
    let mut workers: Vec<_> = (0..2).map(|number| Worker::start(&server, &options(format!("w{number}")))).collect();
    let mut calls = Vec::new();
    for number in 0..60 {
        let action = shell(&format!("sleep 0.2; echo {number}")).store(&cache).await;
        let call = Call::execute(&cache, &action).await.expect("Execute");
        calls.push(tokio::spawn(async move { (number, call.finish().await) }));
    }
    for round in 0..4 {
        let mut victim = workers.remove(0);
        victim.kill();
        workers.push(Worker::start(&server, &options(format!("w{}", round + 2))));
    }
    let mut finished = BTreeSet::new();
    for call in calls {
        let (number, response) = call.await.expect("it ends");
        assert_eq!(said(&cache, &result_of(&response)).await, format!("{number}\n"));
        finished.insert(number);
    }
    assert_eq!(finished.len(), 60);
}

/// The port of workers is the server's own: a server without execution has none, and one instance's worker gets nothing of another.
#[tokio::test]
async fn a_worker_runs_the_actions_of_its_instance_only() {
    let flags = ["--execution-worker-patience", "100ms"];
    let options = WorkerOptions { instance: "one".to_owned(), ..WorkerOptions::default() };
    let (_server, _worker, cache) = farm_with(&flags, &options).await;
    let (one, two) = (cache.instance("one"), cache.instance("two"));
    let result = shell("echo ran").succeed(&one).await;
    assert_eq!(said(&one, &result).await, "ran\n");
    assert_eq!(status_of(&shell("echo ran").run(&two).await).0, Code::FailedPrecondition);
    assert_eq!(code(&two.get_action(&shell("echo ran").packed().action).await), Code::NotFound);
}
