//! Section J, asking for a run and what comes back: the stream, what is refused, the action cache, time, platforms, the command's
//! surroundings. A real server and a real worker; the actions are real commands. `execution_outputs` has what commands make,
//! `execution_operations` operations that are shared, cancelled and listed, `execution_faults` what dies on the way.

#![expect(deprecated, reason = "clients of older versions say their platform in the command")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bazel_remote_apis::build::bazel::remote::execution::v2::command::EnvironmentVariable;
use bazel_remote_apis::build::bazel::remote::execution::v2::execution_stage::Value as Stage;
use bazel_remote_apis::build::bazel::remote::execution::v2::{
    Action, ActionResult, Command, Digest, Directory, DirectoryNode, ExecuteRequest, FileNode, SymlinkNode,
};
use cask_index::DigestFunction;
use prost::Message;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::blob::{absent_digest, digest_of, digest_under};
use crate::support::farm::{
    Call, Input, Job, cancel_operation, complained, executing, farm, farm_with, listing, made, processes_with,
    properties, result_of, said, shell, status_of, texts,
};
use crate::support::grpc::{Cache, assert_code, assert_invalid, code};
use crate::support::metrics::Metrics;
use crate::support::process::Server;
use crate::support::worker::{Worker, WorkerOptions};

/// What a FAILED_PRECONDITION names as missing: all in one detail, each once.
#[track_caller]
fn missing_of(status: &Status) -> BTreeSet<String> {
    assert_eq!(status.code(), Code::FailedPrecondition, "{}", status.message());
    let details = status.get_error_details();
    let violations = details.precondition_failure().expect("a PreconditionFailure").violations.clone();
    assert!(violations.iter().all(|violation| violation.r#type == "MISSING"), "{violations:?}");
    let subjects: BTreeSet<_> = violations.iter().map(|violation| violation.subject.clone()).collect();
    assert_eq!(subjects.len(), violations.len(), "each blob is named once");
    subjects
}

fn subject(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.hash, digest.size_bytes)
}

async fn refusal(cache: &Cache, action: &Digest) -> Status {
    match Call::execute(cache, action).await {
        Err(status) => status,
        Ok(call) => {
            let response = call.finish().await;
            panic!("it was taken: {:?}", status_of(&response))
        }
    }
}

#[tokio::test]
async fn j01_an_action_runs_and_its_exit_code_and_output_come_back() {
    let (_server, _worker, cache) = farm().await;
    let result = shell("echo to stdout; echo to stderr >&2").succeed(&cache).await;
    assert_eq!(said(&cache, &result).await, "to stdout\n");
    assert_eq!(complained(&cache, &result).await, "to stderr\n");
    let silent = shell("true").succeed(&cache).await;
    assert_eq!((said(&cache, &silent).await, complained(&cache, &silent).await), (String::new(), String::new()));
}

/// Before any worker is there: the name does not wait for one. What all streams have in common, `Seen::of` and `Call::finish`
/// assert for every test: COMPLETED exactly when done, the stream's end right behind it, no error, metadata of the one type.
#[tokio::test]
async fn j02_j03_j04_j05_the_first_message_names_the_operation_at_once() {
    let server = Server::start(executing(&[]));
    let cache = Cache::connect(&server).await;
    let job = shell("echo done");
    let action = job.store(&cache).await;
    let asked = Instant::now();
    let mut call = Call::execute(&cache, &action).await.expect("Execute");
    let first = call.next().await.expect("a message").expect("a message");
    let elapsed = asked.elapsed();
    assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
    assert_eq!(first.stage(), Stage::Queued);
    assert_eq!(first.metadata.action_digest, Some(action));
    let _worker = Worker::start(&server, &WorkerOptions::default());
    let seen = call.until(Stage::Executing).await;
    assert_eq!(seen.name(), first.name());
    assert_eq!(said(&cache, &result_of(&call.finish().await)).await, "done\n");
}

#[tokio::test]
async fn j06_a_missing_action_is_named() {
    let (_server, _worker, cache) = farm().await;
    let absent = absent_digest(6);
    assert_eq!(missing_of(&refusal(&cache, &absent).await), BTreeSet::from([subject(&absent)]));
}

/// With a gap in every place there is: the command, a folder, files beside it and in others. Then they are uploaded.
#[tokio::test]
async fn j07_j08_all_that_is_missing_is_named_at_once_and_its_upload_is_enough() {
    let (_server, _worker, cache) = farm().await;
    let job = shell("cat a b/c b/d/e")
        .input("a", Input::text("1\n"))
        .input("b/c", Input::text("2\n"))
        .input("b/d/e", Input::text("3\n"))
        .input("x/y", Input::text("4\n"));
    let packed = job.packed();
    // The folder `x` is missing; nobody can know of what is in it.
    let folder = Directory {
        files: vec![FileNode { name: "y".into(), digest: Some(digest_of(b"4\n")), ..Default::default() }],
        ..Default::default()
    };
    let gaps = [packed.command.clone(), digest_of(b"1\n"), digest_of(b"3\n"), digest_of(&folder.encode_to_vec())];
    let mut partial = packed.clone();
    for gap in &gaps {
        assert!(partial.blobs.remove(&gap.hash).is_some(), "a gap is of a blob");
    }
    partial.upload(&cache).await;
    let expected: BTreeSet<_> = gaps.iter().map(subject).collect();
    assert_eq!(missing_of(&refusal(&cache, &packed.action).await), expected);
    // The root alone stands for all below it.
    let rootless =
        Job { command: Command { arguments: texts(&["/bin/true"]), ..Default::default() }, ..Job::default() }
            .input("only/here", Input::text("5\n"))
            .packed();
    let mut partial = rootless.clone();
    partial.blobs.remove(&rootless.root.hash);
    partial.upload(&cache).await;
    assert_eq!(missing_of(&refusal(&cache, &rootless.action).await), BTreeSet::from([subject(&rootless.root)]));

    packed.upload(&cache).await;
    let result = result_of(&Call::execute(&cache, &packed.action).await.expect("Execute").finish().await);
    assert_eq!(said(&cache, &result).await, "1\n2\n3\n");
}

#[tokio::test]
async fn j09_an_action_or_command_that_cannot_be_decoded_is_refused() {
    let (_server, _worker, cache) = farm().await;
    let garbage = cache.store(b"\xff\xff\xff\xff no message").await;
    assert_invalid(&Call::execute(&cache, &garbage).await.map(drop), "garbage for an action");
    let packed = shell("true").packed();
    packed.upload(&cache).await;
    for (what, action) in [
        ("garbage for a command", Action { command_digest: Some(garbage.clone()), ..Default::default() }),
        (
            "garbage for a root",
            Action {
                command_digest: Some(packed.command.clone()),
                input_root_digest: Some(garbage.clone()),
                ..Default::default()
            },
        ),
        ("no command", Action { input_root_digest: Some(packed.root.clone()), ..Default::default() }),
        ("no root", Action { command_digest: Some(packed.command.clone()), ..Default::default() }),
    ] {
        let action = cache.store_message(&action).await;
        assert_invalid(&Call::execute(&cache, &action).await.map(drop), what);
    }
    for (what, command) in [
        ("no arguments", Command::default()),
        ("an empty program", Command { arguments: texts(&["", "x"]), ..Default::default() }),
    ] {
        let job = Job { command, ..Job::default() };
        let action = job.store(&cache).await;
        assert_invalid(&Call::execute(&cache, &action).await.map(drop), what);
    }
}

#[tokio::test]
async fn j10_a_missing_or_malformed_action_digest_is_refused() {
    let server = Server::start(executing(&[]));
    let cache = Cache::connect(&server).await;
    let unset = Call::execute_with(&cache, ExecuteRequest::default()).await.map(drop);
    assert_invalid(&unset, "no digest");
    for (what, hash) in crate::support::blob::malformed_hashes() {
        let outcome = Call::execute(&cache, &Digest { hash, size_bytes: 5 }).await.map(drop);
        assert_invalid(&outcome, what);
    }
    let outcome = Call::execute(&cache.instance("a/blobs"), &absent_digest(1)).await.map(drop);
    assert_invalid(&outcome, "an instance name that cannot be");
}

/// Something that differs from run to run.
const RANDOM: &str = "od -An -N16 -tx1 /dev/urandom";

#[tokio::test]
async fn j11_a_cached_action_is_run_by_nobody() {
    let (_server, mut worker, cache) = farm().await;
    let job = shell(RANDOM);
    let first = job.run(&cache).await;
    assert!(!first.cached_result);
    let in_cache = cache.get_action(&job.packed().action).await.expect("GetActionResult");
    worker.kill();
    let second = job.run(&cache).await;
    assert!(second.cached_result);
    let (first, second) = (result_of(&first), result_of(&second));
    assert_eq!(said(&cache, &first).await, said(&cache, &second).await);
    assert_eq!(said(&cache, &in_cache).await, said(&cache, &first).await);
}

#[tokio::test]
async fn j12_a_skipped_cache_means_a_run_whose_result_replaces_the_cached_one() {
    let (_server, _worker, cache) = farm().await;
    let job = shell(RANDOM);
    let action = job.store(&cache).await;
    let first = result_of(&job.run(&cache).await);
    let request = ExecuteRequest { action_digest: Some(action.clone()), skip_cache_lookup: true, ..Default::default() };
    let response = Call::execute_with(&cache, request).await.expect("Execute").finish().await;
    assert!(!response.cached_result);
    let second = result_of(&response);
    assert_ne!(said(&cache, &first).await, said(&cache, &second).await);
    let cached = cache.get_action(&action).await.expect("GetActionResult");
    assert_eq!(said(&cache, &cached).await, said(&cache, &second).await);
    // A result that somebody put there by hand is not looked at either.
    let by_hand = ActionResult { stdout_raw: b"by hand".to_vec(), ..Default::default() };
    cache.update_action(&action, by_hand).await.expect("UpdateActionResult");
    let request = ExecuteRequest { action_digest: Some(action), skip_cache_lookup: true, ..Default::default() };
    let response = Call::execute_with(&cache, request).await.expect("Execute").finish().await;
    assert_ne!(said(&cache, &result_of(&response)).await, "by hand");
}

/// Fault 32: twice in a row and twice at once, each a run of its own; no entry even for who asks the action cache itself.
#[tokio::test]
async fn j13_an_action_that_is_not_to_be_cached_leaves_no_result_and_is_merged_with_no_other() {
    let (_server, _worker, cache) = farm().await;
    let blocker = block(&cache).await;
    let job = shell(RANDOM).do_not_cache();
    let action = job.store(&cache).await;
    let mut calls = Vec::new();
    for _ in 0..3 {
        let mut call = Call::execute(&cache, &action).await.expect("Execute");
        call.name().await;
        calls.push(call);
    }
    let names: BTreeSet<_> = calls.iter().map(|call| call.seen[0].name().to_owned()).collect();
    assert_eq!(names.len(), 3, "an operation a call");
    blocker.release(&cache).await;
    let mut outputs = BTreeSet::new();
    for call in calls {
        let response = call.finish().await;
        assert!(!response.cached_result);
        outputs.insert(said(&cache, &result_of(&response)).await);
    }
    outputs.insert(said(&cache, &result_of(&job.run(&cache).await)).await);
    assert_eq!(outputs.len(), 4, "a run a call");
    assert_code(&cache.get_action(&action).await, &[Code::NotFound], "GetActionResult");
}

/// An action that keeps a worker busy until it is released.
struct Blocker {
    call: Call,
    name: String,
}

async fn block(cache: &Cache) -> Blocker {
    let mut call = shell("sleep 1000").do_not_cache().begin(cache).await;
    Blocker { name: call.name().await, call }
}

impl Blocker {
    async fn release(self, cache: &Cache) {
        cancel_operation(cache, &self.name).await.expect("CancelOperation");
        assert_eq!(status_of(&self.call.finish().await).0, Code::Cancelled);
    }
}

/// A command that fails is a result, with its output and what it made; it is no entry of the action cache (fault 33).
#[tokio::test]
async fn j15_a_failing_command_is_a_result_and_not_cached() {
    let (_server, _worker, cache) = farm().await;
    for (script, exit_code) in [("echo half; echo x > out; exit 3", 3), ("echo half; echo x > out; kill -9 $$", 137)] {
        let job = shell(script).outputs(&["out"]);
        let response = job.run(&cache).await;
        let result = result_of(&response);
        assert_eq!(result.exit_code, exit_code, "{script}");
        assert_eq!(said(&cache, &result).await, "half\n", "{script}");
        assert_eq!(made(&cache, &result).await, listing(&[("out", "x\n")]), "{script}");
        assert_code(&cache.get_action(&job.packed().action).await, &[Code::NotFound], script);
        assert!(!job.run(&cache).await.cached_result, "{script}");
    }
    // A program that is not there is the command's failure too, as in a shell, or the action's.
    let absent =
        Job { command: Command { arguments: texts(&["/no/such/program"]), ..Default::default() }, ..Job::default() };
    let response = absent.run(&cache).await;
    match status_of(&response) {
        (Code::Ok, _) => assert_ne!(result_of(&response).exit_code, 0),
        (code, message) => {
            assert!(matches!(code, Code::FailedPrecondition | Code::InvalidArgument), "{code:?} {message}");
        }
    }
}

/// Fault 37: the shell, its child in the background and a child that left the session are gone before the answer is there.
#[tokio::test]
async fn j16_a_timeout_kills_all_processes_and_keeps_the_output_so_far() {
    let (_server, _worker, cache) = farm().await;
    let script = "echo before; sleep 1016.25 & setsid sleep 1016.25 & sleep 1016.25; echo after";
    let job = shell(script).outputs(&["out"]).timeout(Duration::from_secs(1));
    let response = job.run(&cache).await;
    let (code, message) = status_of(&response);
    assert_eq!(code, Code::DeadlineExceeded, "{message}");
    assert_eq!(processes_with("1016.25").len(), 0, "killed before the answer");
    let result = response.result.expect("what there is of a result");
    assert_eq!(said(&cache, &result).await, "before\n");
    assert_code(&cache.get_action(&job.packed().action).await, &[Code::NotFound], "GetActionResult");
}

#[tokio::test]
async fn j17_a_timeout_above_the_largest_or_of_no_length_is_refused() {
    let (_server, _worker, cache) = farm_with(&["--execution-timeout-max", "1m"], &WorkerOptions::default()).await;
    let action = shell("true").timeout(Duration::from_secs(61)).store(&cache).await;
    assert_invalid(&Call::execute(&cache, &action).await.map(drop), "61 s of 60");
    for (seconds, nanos) in [(-1, 0), (0, -5), (1, 1_000_000_000), (i64::MAX, 0)] {
        let mut job = shell("true");
        job.action.timeout = Some(bazel_remote_apis::google::protobuf::Duration { seconds, nanos });
        let action = job.store(&cache).await;
        assert_invalid(&Call::execute(&cache, &action).await.map(drop), &format!("{seconds} s {nanos} ns"));
    }
    shell("true").timeout(Duration::from_secs(60)).succeed(&cache).await;
}

/// The only worker is busy for longer than the second action may take.
#[tokio::test]
async fn j18_waiting_for_a_worker_does_not_count_towards_the_timeout() {
    let (_server, _worker, cache) = farm().await;
    let first = shell("sleep 1000").timeout(Duration::from_millis(2500)).begin(&cache).await;
    let second = shell("echo ran").timeout(Duration::from_millis(1500)).store(&cache).await;
    let second = Call::execute(&cache, &second).await.expect("Execute");
    assert_eq!(status_of(&first.finish().await).0, Code::DeadlineExceeded);
    assert_eq!(said(&cache, &result_of(&second.finish().await)).await, "ran\n");
}

/// Fault 54, its last part: what no worker has is refused, with the property in the words, after the patience that was asked for.
#[tokio::test]
async fn j19_a_platform_that_no_worker_has_is_refused_in_the_end() {
    let (server, worker, cache) = farm_with(&["--execution-worker-patience", "100ms"], &WorkerOptions::default()).await;
    for platform in [&[("pool", "none")][..], &[("OSFamily", "amiga")], &[("OSFamily", "linux"), ("OSFamily", "amiga")]]
    {
        let response = shell("true").platform(platform).run(&cache).await;
        let (code, message) = status_of(&response);
        assert_eq!(code, Code::FailedPrecondition, "{message}");
        let (name, value) = platform.last().expect("a property");
        assert!(message.contains(name) && message.contains(value), "{message}");
    }
    // A worker that comes in time has what waits for it; the one that lacks it does nothing.
    drop(worker);
    let server_with_patience = server;
    let options = WorkerOptions { platform: texts(&["pool=none"]), ..WorkerOptions::default() };
    let _worker = Worker::start(&server_with_patience, &options);
    shell("true").platform(&[("pool", "none")]).succeed(&cache).await;
}

/// Two workers that differ in one property, and an action that names one of them in either place, or both.
#[tokio::test]
async fn j20_the_actions_platform_goes_before_the_commands() {
    let server = Server::start(executing(&["--execution-worker-patience", "100ms"]));
    let worker = |name: &str, pool: &str| WorkerOptions {
        name: name.to_owned(),
        platform: vec![format!("pool={pool}")],
        ..WorkerOptions::default()
    };
    let _red = Worker::start(&server, &worker("red", "red"));
    let _blue = Worker::start(&server, &worker("blue", "blue"));
    let cache = Cache::connect(&server).await;
    for (in_action, in_command, expected) in [
        (Some("red"), None, "red"),
        (Some("blue"), None, "blue"),
        (None, Some("red"), "red"),
        (None, Some("blue"), "blue"),
        (Some("red"), Some("blue"), "red"),
        (Some("blue"), Some("green"), "blue"),
    ] {
        let mut job = shell("true").do_not_cache();
        job.action.platform = in_action.map(|pool| properties(&[("pool", pool)]));
        job.command.platform = in_command.map(|pool| properties(&[("pool", pool)]));
        let result = job.succeed(&cache).await;
        let worker = result.execution_metadata.expect("metadata").worker;
        assert!(worker.contains(expected), "{in_action:?} {in_command:?}: {worker}");
    }
    let mut job = shell("true");
    job.action.platform = Some(properties(&[("pool", "green")]));
    job.command.platform = Some(properties(&[("pool", "red")]));
    assert_eq!(status_of(&job.run(&cache).await).0, Code::FailedPrecondition);
}

#[tokio::test]
async fn j21_of_two_values_of_a_property_a_worker_needs_both() {
    let server = Server::start(executing(&["--execution-worker-patience", "100ms"]));
    let cache = Cache::connect(&server).await;
    let wants_both = shell("true").platform(&[("ISA", "x86-64-v9"), ("ISA", "x86-64-vector")]).do_not_cache();
    let one = WorkerOptions { platform: texts(&["ISA=x86-64-v9"]), ..WorkerOptions::default() };
    let _one = Worker::start(&server, &one);
    assert_eq!(status_of(&wants_both.run(&cache).await).0, Code::FailedPrecondition);
    shell("true").platform(&[("ISA", "x86-64-v9")]).succeed(&cache).await;
    let platform = texts(&["ISA=x86-64-vector", "ISA=x86-64-v9"]);
    let _both =
        Worker::start(&server, &WorkerOptions { name: "both".to_owned(), platform, ..WorkerOptions::default() });
    let result = wants_both.succeed(&cache).await;
    assert!(result.execution_metadata.expect("metadata").worker.contains("both"));
}

#[tokio::test]
async fn j27_programs_are_found_as_the_protocol_has_it() {
    let (_server, _worker, cache) = farm().await;
    let run = |arguments: &[&str], path: &str, directory: &str| {
        let variable = EnvironmentVariable { name: "PATH".to_owned(), value: path.to_owned() };
        let command = Command {
            arguments: texts(arguments),
            environment_variables: vec![variable],
            working_directory: directory.to_owned(),
            ..Command::default()
        };
        Job { command, ..Job::default() }
            .input("w/tool", Input::script("#!/bin/sh\necho tool in w, $1\n"))
            .input("w/bin/tool", Input::script("#!/bin/sh\necho tool in w/bin, $1\n"))
            .input("tool", Input::script("#!/bin/sh\necho tool in the root, $1\n"))
    };
    for (arguments, path, directory, expected) in [
        (&["sh", "-c", "echo found"][..], "/nowhere:/usr/bin:/bin", "", "found\n"),
        (&["./tool", "1"], "/usr/bin:/bin", "w", "tool in w, 1\n"),
        (&["./tool", "1"], "/usr/bin:/bin", "", "tool in the root, 1\n"),
        (&["bin/tool", "1"], "/usr/bin:/bin", "w", "tool in w/bin, 1\n"),
        (&["../tool", "1"], "/usr/bin:/bin", "w", "tool in the root, 1\n"),
    ] {
        let result = run(arguments, path, directory).succeed(&cache).await;
        assert_eq!(said(&cache, &result).await, expected, "{arguments:?} from {directory:?}");
    }
    // Not in PATH is not found, though it lies in the working directory.
    let response = run(&["tool"], "/usr/bin:/bin", "w").run(&cache).await;
    match status_of(&response) {
        (Code::Ok, _) => assert_ne!(result_of(&response).exit_code, 0),
        (code, message) => {
            assert!(matches!(code, Code::FailedPrecondition | Code::InvalidArgument), "{code:?} {message}");
        }
    }
}

/// What was given, and of ours only what docs/execution.md and docs/isolation.md list.
#[tokio::test]
async fn j28_the_environment_is_what_was_given() {
    let (_server, _worker, cache) = farm().await;
    let mut job =
        Job { command: Command { arguments: texts(&["/usr/bin/env"]), ..Command::default() }, ..Job::default() };
    let given = [("GREETING", "good day, =and= more"), ("EMPTY", ""), ("PATH", "/usr/bin:/bin")];
    job.command.environment_variables = given
        .iter()
        .map(|(name, value)| EnvironmentVariable { name: (*name).to_owned(), value: (*value).to_owned() })
        .collect();
    let result = job.succeed(&cache).await;
    let printed = said(&cache, &result).await;
    let mut lines: BTreeSet<&str> = printed.lines().collect();
    for (name, value) in given {
        assert!(lines.remove(format!("{name}={value}").as_str()), "{name} in {printed}");
    }
    let ours: BTreeSet<_> = lines.iter().map(|line| line.split('=').next().expect("a name")).collect();
    let documented = BTreeSet::from(["TMPDIR", "HOME", "TEST_TMPDIR", "PWD"]);
    assert!(ours.is_subset(&documented), "{ours:?}");
}

#[tokio::test]
async fn j36_all_times_are_set_and_in_order_and_the_worker_is_named() {
    let (_server, _worker, cache) = farm().await;
    let job = shell("cat in > out").input("in", Input::text("x")).outputs(&["out"]);
    let result = job.succeed(&cache).await;
    let metadata = result.execution_metadata.expect("metadata");
    assert!(metadata.worker.contains("w1"), "{}", metadata.worker);
    let times = [
        ("queued", metadata.queued_timestamp),
        ("worker start", metadata.worker_start_timestamp),
        ("input fetch start", metadata.input_fetch_start_timestamp),
        ("input fetch completed", metadata.input_fetch_completed_timestamp),
        ("execution start", metadata.execution_start_timestamp),
        ("execution completed", metadata.execution_completed_timestamp),
        ("output upload start", metadata.output_upload_start_timestamp),
        ("output upload completed", metadata.output_upload_completed_timestamp),
        ("worker completed", metadata.worker_completed_timestamp),
    ];
    let times = times.map(|(name, time)| {
        let time = time.unwrap_or_else(|| panic!("{name} is not set"));
        (name, (time.seconds, time.nanos))
    });
    for pair in times.windows(2) {
        assert!(pair[0].1 <= pair[1].1, "{:?} is after {:?}", pair[0], pair[1]);
    }
    assert!(metadata.virtual_execution_duration.is_some());
    // The cache keeps them.
    let cached = cache.get_action(&job.packed().action).await.expect("GetActionResult");
    assert_eq!(cached.execution_metadata.expect("metadata").worker, metadata.worker);
}

#[tokio::test]
async fn j37_output_too_large_to_inline_comes_as_a_digest() {
    let (_server, _worker, cache) = farm().await;
    let job = shell("yes abcdefg | head -c 5000000; yes hijklmn | head -c 4500000 >&2");
    let action = job.store(&cache).await;
    let request =
        ExecuteRequest { action_digest: Some(action), inline_stdout: true, inline_stderr: true, ..Default::default() };
    let result = result_of(&Call::execute_with(&cache, request).await.expect("Execute").finish().await);
    for (raw, digest, line, size) in [
        (&result.stdout_raw, &result.stdout_digest, &b"abcdefg\n"[..], 5_000_000),
        (&result.stderr_raw, &result.stderr_digest, b"hijklmn\n", 4_500_000),
    ] {
        assert!(raw.is_empty());
        let digest = digest.as_ref().expect("a digest");
        assert_eq!(digest.size_bytes, size);
        let content = cache.read(digest).await.expect("the output in the CAS");
        assert!(content.chunks(8).all(|chunk| line.starts_with(chunk)), "all of it is as printed");
    }
}

/// Fault 23 for inputs: names that lead elsewhere, and all other ways not to be canonical. Refused before anything is made.
#[tokio::test]
async fn j48_a_directory_that_is_not_canonical_is_refused_and_leads_nowhere() {
    let (_server, _worker, cache) = farm().await;
    let content = cache.store(b"content").await;
    let empty = cache.store_message(&Directory::default()).await;
    let command = cache.store_message(&shell("ls -la").command).await;
    let file = |name: &str| FileNode { name: name.into(), digest: Some(content.clone()), ..Default::default() };
    let folder = |name: &str| DirectoryNode { name: name.into(), digest: Some(empty.clone()) };
    let link = |name: &str| SymlinkNode { name: name.into(), target: "t".into(), ..Default::default() };
    let mut cases: Vec<(String, Directory)> = Vec::new();
    for name in ["", ".", "..", "/", "a/b", "../x", "/etc/x", "a\0b"] {
        cases.push((format!("file {name:?}"), Directory { files: vec![file(name)], ..Default::default() }));
        cases.push((format!("folder {name:?}"), Directory { directories: vec![folder(name)], ..Default::default() }));
        cases.push((format!("link {name:?}"), Directory { symlinks: vec![link(name)], ..Default::default() }));
    }
    for (what, files, directories, symlinks) in [
        ("unsorted files", vec![file("b"), file("a")], vec![], vec![]),
        ("unsorted folders", vec![], vec![folder("b"), folder("a")], vec![]),
        ("unsorted links", vec![], vec![], vec![link("b"), link("a")]),
        ("a file twice", vec![file("a"), file("a")], vec![], vec![]),
        ("a file and a folder", vec![file("a")], vec![folder("a")], vec![]),
        ("a folder and a link", vec![], vec![folder("a")], vec![link("a")]),
        ("a link without a target", vec![], vec![], vec![SymlinkNode { name: "a".into(), ..Default::default() }]),
        ("a file without a digest", vec![FileNode { name: "a".into(), ..Default::default() }], vec![], vec![]),
    ] {
        cases.push((what.to_owned(), Directory { files, directories, symlinks, ..Default::default() }));
    }
    for (what, directory) in cases {
        let bad = cache.store_message(&directory).await;
        let parent = Directory {
            directories: vec![DirectoryNode { name: "in".into(), digest: Some(bad.clone()) }],
            ..Default::default()
        };
        let parent = cache.store_message(&parent).await;
        for root in [bad, parent] {
            let action =
                Action { command_digest: Some(command.clone()), input_root_digest: Some(root), ..Default::default() };
            let action = cache.store_message(&action).await;
            assert_invalid(&Call::execute(&cache, &action).await.map(drop), &what);
        }
    }
}

#[tokio::test]
async fn j49_mixed_digest_functions_are_refused() {
    let (_server, _worker, cache) = farm().await;
    let sha1 = cache.under(DigestFunction::Sha1);
    let command = shell("true").command.encode_to_vec();
    let (command256, command1) = (cache.store(&command).await, sha1.store(&command).await);
    let (root256, root1) = (cache.store(b"").await, digest_under(DigestFunction::Sha1, b""));
    let content1 = sha1.store(b"content").await;
    let folder = Directory {
        files: vec![FileNode { name: "a".into(), digest: Some(content1), ..Default::default() }],
        ..Default::default()
    };
    let mixed_root = cache.store_message(&folder).await;
    for (what, command, root) in [
        ("the command of another", command1.clone(), root256.clone()),
        ("the root of another", command256.clone(), root1),
        ("a file of another", command256, mixed_root),
    ] {
        let action = Action { command_digest: Some(command), input_root_digest: Some(root), ..Default::default() };
        let action = cache.store_message(&action).await;
        assert_invalid(&Call::execute(&cache, &action).await.map(drop), what);
    }
}

/// All of an action under one function, as each function is.
#[tokio::test]
async fn j49_an_action_of_any_one_function_runs() {
    let (_server, _worker, cache) = farm().await;
    for function in [DigestFunction::Sha1, DigestFunction::Sha512, DigestFunction::Blake3] {
        let cache = cache.under(function);
        let mut command = shell("cat in; cp in out").command;
        command.output_paths = texts(&["out"]);
        let content = cache.store(b"content").await;
        let file = FileNode { name: "in".into(), digest: Some(content.clone()), ..Default::default() };
        let root = cache.store_message(&Directory { files: vec![file], ..Default::default() }).await;
        let action = Action {
            command_digest: Some(cache.store_message(&command).await),
            input_root_digest: Some(root),
            ..Default::default()
        };
        let action = cache.store_message(&action).await;
        let request = ExecuteRequest {
            action_digest: Some(action),
            digest_function: i32::from(function.wire_number()),
            ..Default::default()
        };
        let response = Call::execute_with(&cache, request).await.expect("Execute").finish().await;
        let result = result_of(&response);
        assert_eq!(
            result.output_files[0].digest,
            Some(content),
            "{function:?}: digests of results are of the action's function"
        );
        assert_eq!(said(&cache, &result).await, "content", "{function:?}");
    }
}

/// Another program of this machine is reached only where the platform asks for the network. A worker without isolation
/// cannot keep it out and says so by its platform, which has no `network`.
#[tokio::test]
async fn j50_there_is_no_network_unless_it_is_allowed() {
    let (_server, _worker, cache) =
        farm_with(&["--execution-worker-patience", "100ms"], &WorkerOptions::default()).await;
    let probe =
        "cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' ' | sort; cat /proc/net/route | tail -n +2 | wc -l";
    let allowed = shell(probe).platform(&[("network", "on")]).run(&cache).await;
    let without = said(&cache, &shell(probe).succeed(&cache).await).await;
    match status_of(&allowed).0 {
        Code::Ok => {
            let here = std::fs::read_to_string("/proc/net/dev").expect("a list of interfaces");
            let here = here.lines().skip(2).filter(|line| !line.trim().starts_with("lo:")).count();
            let with = said(&cache, &result_of(&allowed)).await;
            assert!(with.lines().count() > here, "the interfaces of this machine: {with}");
            assert_eq!(without, "lo\n0\n", "only a loopback of its own");
        }
        code => assert_eq!(code, Code::FailedPrecondition, "only a sandbox can give and take the network"),
    }
}

#[tokio::test]
async fn j51_small_output_is_inlined_where_it_is_asked_for() {
    let (_server, worker, cache) = farm().await;
    let mut worker = Some(worker);
    let job = shell("echo on stdout; echo on stderr >&2; echo in a > a; echo in b > b").outputs(&["a", "b"]);
    let action = job.store(&cache).await;
    let request = |stdout, stderr, files: &[&str]| ExecuteRequest {
        action_digest: Some(action.clone()),
        inline_stdout: stdout,
        inline_stderr: stderr,
        inline_output_files: texts(files),
        ..Default::default()
    };
    // From a run, and from the cache.
    for _ in 0..2 {
        for (stdout, stderr, files) in [(true, true, &["a"][..]), (true, false, &["a", "b"]), (false, true, &["none"])]
        {
            let response =
                Call::execute_with(&cache, request(stdout, stderr, files)).await.expect("Execute").finish().await;
            let result = result_of(&response);
            let raw = |asked: bool, text: &str| if asked { text.as_bytes().to_vec() } else { Vec::new() };
            if stdout {
                assert_eq!(result.stdout_raw, raw(stdout, "on stdout\n"));
            }
            if stderr {
                assert_eq!(result.stderr_raw, raw(stderr, "on stderr\n"));
            }
            for file in &result.output_files {
                let asked = files.contains(&file.path.as_str());
                assert_eq!(file.contents, raw(asked, &format!("in {}\n", file.path)), "{}", file.path);
                assert!(file.digest.is_some());
            }
        }
        // What follows is from the cache alone.
        drop(worker.take());
    }
}

/// The second time the worker has all files at hand, and asks for next to nothing. (How long a root takes to be made is a bench.)
#[tokio::test]
async fn j53_a_large_input_tree_is_fetched_once() {
    let (server, _worker, cache) = farm().await;
    let mut job = shell("find . -type f | wc -l").do_not_cache();
    for number in 0..10_000 {
        let content = format!("the content of file {number}\n").repeat(60);
        job = job.input(&format!("d{}/f{number}", number % 100), Input::text(&content));
    }
    let mut batches = Vec::new();
    for _ in 0..2 {
        let before = Metrics::of(&server).await.calls("BatchReadBlobs");
        let result = job.succeed(&cache).await;
        batches.push(Metrics::of(&server).await.calls("BatchReadBlobs") - before);
        assert_eq!(said(&cache, &result).await.trim(), "10000");
    }
    // Directories are asked for again, a MiB of them; the 17 MiB of files are not.
    assert!(batches[1] + 4.0 <= batches[0], "batches read: {batches:?}");
}

#[tokio::test]
async fn j54_no_process_outlives_its_action() {
    let (_server, _worker, cache) = farm().await;
    let job = shell("sleep 1054.75 & setsid sleep 1054.75 & (nohup sleep 1054.75 &); echo out");
    let result = job.succeed(&cache).await;
    assert_eq!(said(&cache, &result).await, "out\n");
    assert_eq!(processes_with("1054.75").len(), 0);
}

#[tokio::test]
async fn a03_a_server_that_does_not_execute_says_so() {
    let (_server, cache) = crate::start().await;
    let capabilities = cache.capabilities().await.expect("GetCapabilities");
    assert!(!capabilities.execution_capabilities.is_some_and(|execution| execution.exec_enabled));
    let action = shell("true").store(&cache).await;
    let outcome = Call::execute(&cache, &action).await.map(drop);
    assert_eq!(code(&outcome), Code::Unimplemented);
    let (_server, _worker, cache) = farm().await;
    let execution = cache.capabilities().await.expect("GetCapabilities").execution_capabilities.expect("execution");
    assert!(execution.exec_enabled);
    assert_eq!(execution.digest_functions[0], 1, "SHA256 first");
    let priorities = execution.execution_priority_capabilities.expect("priorities").priorities;
    assert!(priorities.iter().any(|range| range.min_priority <= -10 && range.max_priority >= 10), "{priorities:?}");
}
