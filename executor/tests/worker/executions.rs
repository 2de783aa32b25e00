//! Actions from their assignment to their result.

use cask_proto::reapi as re;
use tonic::Code;

use crate::fake::{Farm, Root, sh, texts};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_action_runs_from_assignment_to_result() {
    let mut farm = Farm::start().await;
    let below = Root::default().file(&farm.server, "script", "echo run; echo beside >&2; cat ../data > ../out", true);
    let below = below.put(&farm.server);
    let root = Root::default().file(&farm.server, "data", "words", false).directory("bin", below).put(&farm.server);
    let command =
        re::Command { output_paths: texts(&["../out"]), working_directory: "bin".to_owned(), ..sh("sh ./script") };
    let action = farm.action(&command, root);
    let response = farm.execute(action).await;
    assert_eq!(response.status.clone().unwrap_or_default().code, Code::Ok as i32, "{response:?}");
    let result = response.result.expect("a result");
    assert_eq!(
        (result.exit_code, &result.stdout_raw[..], &result.stderr_raw[..]),
        (0, &b"run\n"[..], &b"beside\n"[..])
    );
    assert_eq!(farm.server.blob(result.stdout_digest.as_ref().expect("set")), "run\n");
    let [output] = &result.output_files[..] else { panic!("{result:?}") };
    assert_eq!(output.path, "../out");
    assert_eq!(farm.server.blob(output.digest.as_ref().expect("set")), "words");

    let metadata = result.execution_metadata.expect("set");
    assert_eq!(metadata.worker, "the worker");
    let times = [
        metadata.queued_timestamp,
        metadata.worker_start_timestamp,
        metadata.input_fetch_start_timestamp,
        metadata.input_fetch_completed_timestamp,
        metadata.execution_start_timestamp,
        metadata.execution_completed_timestamp,
        metadata.output_upload_start_timestamp,
        metadata.output_upload_completed_timestamp,
        metadata.worker_completed_timestamp,
    ];
    let times: Vec<_> =
        times.into_iter().map(|time| time.map(|time| (time.seconds, time.nanos)).expect("set")).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(metadata.auxiliary_metadata.len(), 1);
    assert!(metadata.virtual_execution_duration.is_some());
}

/// An action that runs `script` over nothing.
fn scripted(farm: &Farm, script: &str) -> cask_index::Digest {
    farm.action(&sh(script), Root::default().put(&farm.server))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_fails_has_a_result() {
    let mut farm = Farm::start().await;
    let action = scripted(&farm, "echo why >&2; exit 7");
    let response = farm.execute(action).await;
    assert_eq!(response.status.expect("set").code, Code::Ok as i32);
    let result = response.result.expect("a result");
    assert_eq!((result.exit_code, &result.stderr_raw[..]), (7, &b"why\n"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_takes_too_long_has_what_it_printed() {
    let mut farm = Farm::start().await;
    let mut session = farm.session().await;
    let action = scripted(&farm, "echo so far; while :; do sleep 1; done");
    let timeout = Some(prost_types::Duration { seconds: 0, nanos: 300_000_000 });
    session.assign_with("one", action, |assignment| assignment.timeout = timeout);
    let finished = session.finished().await;
    assert!(!finished.worker_fault);
    let response = finished.response.expect("set");
    let status = response.status.expect("set");
    assert_eq!((status.code, status.message.contains("0.3 s")), (Code::DeadlineExceeded as i32, true), "{status:?}");
    let result = response.result.expect("what there is");
    assert_eq!(farm.server.blob(result.stdout_digest.as_ref().expect("set")), "so far\n");
    assert_ne!(result.exit_code, 0);
    assert_eq!(farm.runner.options().timeout, timeout);
    farm.runner.wait_for(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_printed_can_be_read_while_it_runs() {
    let mut farm = Farm::start().await;
    let go = farm.path().join("go");
    let mut session = farm.session().await;
    let action =
        scripted(&farm, &format!("echo early; while [ ! -e {} ]; do sleep 0.01; done; echo late", go.display()));
    session.assign("one", action);
    let name = loop {
        let progress = session.progressed().await;
        if !progress.stdout_stream_name.is_empty() {
            assert!(progress.stderr_stream_name.is_empty(), "nothing was printed there");
            break progress.stdout_stream_name;
        }
    };
    std::fs::write(&go, "").expect("a file");
    let response = session.finished().await.response.expect("set");
    assert_eq!(response.result.expect("set").stdout_raw, "early\nlate\n");
    let (log, is_finished) = farm.server.state().logs[&name].clone();
    assert_eq!((String::from_utf8_lossy(&log).into_owned(), is_finished), ("early\nlate\n".to_owned(), true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_command_has_no_log_streams() {
    let mut farm = Farm::start().await;
    let action = scripted(&farm, "echo early");
    farm.execute(action).await;
    assert!(farm.server.state().logs.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_that_is_printed_comes_as_a_digest() {
    let mut farm = Farm::start().await;
    let mut session = farm.session().await;
    for (bytes, is_raw) in [(0, true), (65_536, true), (65_537, false), (3_000_000, false)] {
        let action = scripted(&farm, &format!("head -c {bytes} /dev/zero"));
        let result = session.execute(action).await.result.expect("a result");
        let digest = result.stdout_digest.expect("set");
        assert_eq!(digest.size_bytes, bytes);
        assert_eq!(farm.server.blob(&digest).len(), bytes as usize);
        assert_eq!(result.stdout_raw.len(), if is_raw { bytes as usize } else { 0 });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_runner_refuses_is_told_from_what_it_cannot_do() {
    let mut farm = Farm::start().await;
    let mut session = farm.session().await;
    let action = scripted(&farm, "echo ran");
    for (code, expected) in [
        (Code::InvalidArgument, Some(Code::InvalidArgument)),
        (Code::FailedPrecondition, Some(Code::FailedPrecondition)),
        (Code::NotFound, Some(Code::FailedPrecondition)),
        (Code::DeadlineExceeded, Some(Code::DeadlineExceeded)),
        (Code::Unavailable, None),
        (Code::Internal, None),
        (Code::ResourceExhausted, None),
    ] {
        farm.runner.refusals.lock().expect("not poisoned").push(tonic::Status::new(code, "on cue"));
        session.assign("one", action);
        let finished = session.finished().await;
        session.acknowledge("one");
        assert_eq!(finished.worker_fault, expected.is_none(), "{code:?}");
        let status = finished.response.expect("set").status.expect("set");
        if let Some(expected) = expected {
            assert_eq!(status.code, expected as i32, "{code:?}");
        }
    }
    // A worker whose runner failed goes on.
    assert_eq!(session.execute(action).await.result.expect("set").stdout_raw, "ran\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_cannot_be_decoded_are_refused() {
    let mut farm = Farm::start().await;
    let mut session = farm.session().await;
    let garbage = farm.server.put("\u{ff}\u{ff}garbage");
    let command = farm.server.put_message(&sh("true"));
    let root = Root::default().put(&farm.server);
    for (command, root) in [(garbage, root), (command, garbage)] {
        let action = re::Action {
            command_digest: Some(cask_proto::digest::to_wire(&command)),
            input_root_digest: Some(cask_proto::digest::to_wire(&root)),
            ..re::Action::default()
        };
        let action = farm.server.put_message(&action);
        assert_eq!(session.execute(action).await.status.expect("set").code, Code::InvalidArgument as i32);
    }
    assert_eq!(session.execute(garbage).await.status.expect("set").code, Code::InvalidArgument as i32);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_made_on_behalf_of_the_client() {
    let mut farm = Farm::start().await;
    let mut session = farm.session().await;
    let root = Root::default().file(&farm.server, "f", &"x".repeat(200_000), false).put(&farm.server);
    let command = re::Command { output_paths: texts(&["o"]), ..sh("head -c 200000 /dev/zero >o; echo 1") };
    let action = farm.action(&command, root);
    let tool_details = Some(re::ToolDetails { tool_name: "bazel".to_owned(), tool_version: "1".to_owned() });
    let metadata = re::RequestMetadata { tool_details, ..re::RequestMetadata::default() };
    session.assign_with("one", action, |assignment| assignment.request_metadata = Some(metadata));
    assert_eq!(session.finished().await.response.expect("set").status.expect("set").code, 0);
    let state = farm.server.state();
    assert_eq!(state.calls.len(), state.tools.len(), "{:?} {:?}", state.calls, state.tools);
    assert!(state.tools.iter().all(|tool| tool == "bazel"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_platform_asks_reaches_the_runner() {
    let mut farm = Farm::start().await;
    let mut session = farm.session().await;
    let action = scripted(&farm, "true");
    let property =
        |(name, value): (&str, &str)| re::platform::Property { name: name.to_owned(), value: value.to_owned() };
    let properties = [("OSFamily", "linux"), ("network", "on"), ("unixUID", "1000"), ("container-image", "docker://x")];
    let platform = re::Platform { properties: properties.map(property).to_vec() };
    session.assign_with("one", action, |assignment| assignment.platform = Some(platform));
    session.finished().await;
    session.acknowledge("one");
    let options = farm.runner.options();
    assert_eq!((options.network, options.user_id, options.group_id), (true, Some(1000), None));
    assert_eq!(options.container_image, "docker://x");
    session.execute(action).await;
    assert!(!farm.runner.options().network);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_that_the_runner_leaves_are_handed_in() {
    let mut farm = Farm::start().await;
    farm.runner.server_logs.lock().expect("not poisoned").push(("strace".to_owned(), "calls".to_owned()));
    let action = scripted(&farm, "true");
    let response = farm.execute(action).await;
    let log = &response.server_logs["strace"];
    assert!(log.human_readable);
    assert_eq!(farm.server.blob(log.digest.as_ref().expect("set")), "calls");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_command_is_ended_and_its_folder_removed() {
    let mut farm = Farm::start_with(|options| options.concurrency = 1).await;
    let mut session = farm.session().await;
    let endless = scripted(&farm, "while :; do : >a; rm a; done");
    // More often than there are places for folders.
    for round in 0..6 {
        session.assign(&format!("lease {round}"), endless);
        farm.runner.wait_for(1).await;
        session.cancel(&format!("lease {round}"));
        farm.runner.wait_for(0).await;
    }
    let action = scripted(&farm, "echo next");
    assert_eq!(session.execute(action).await.result.expect("set").stdout_raw, "next\n");
}

/// A result over 4 MiB broke the worker's stream, and was sent again to the next one, for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_no_stream_carries_is_refused() {
    let mut farm = Farm::start().await;
    let paths = (0..1300).map(|n| format!("l{n}")).collect();
    let script =
        "t=$(printf %4000s | tr ' ' t); i=0; while [ $i -lt 1300 ]; do ln -s $t l$i; i=$((i+1)); done; echo made";
    let command = re::Command { output_paths: paths, ..sh(script) };
    let action = farm.action(&command, Root::default().put(&farm.server));
    let mut session = farm.session().await;
    let response = session.execute(action).await;
    let status = response.status.expect("set");
    assert_eq!(status.code, Code::FailedPrecondition as i32, "{status:?}");
    let result = response.result.expect("what is known of it");
    assert!(result.stdout_digest.is_some() && result.execution_metadata.is_some());
    let action = scripted(&farm, "echo next");
    assert_eq!(session.execute(action).await.result.expect("set").stdout_raw, "next\n");
}
