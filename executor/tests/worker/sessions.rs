//! The worker's stream: leases outlive it.

use cask_executor::worker::{Ended, RunnerCommand, RunnerSource};
use cask_proto::workers::from_worker::Message;

use crate::fake::{Farm, Root, sh, soon};

/// Runs until the file `go` is there.
const WAITS: &str = "while [ ! -e \"$GO\" ]; do sleep 0.01; done; echo done";

fn waiting(farm: &Farm, go: &std::path::Path) -> cask_index::Digest {
    let script = WAITS.replace("$GO", &go.display().to_string());
    farm.action(&sh(&script), Root::default().put(&farm.server))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_goes_on_without_a_stream_and_its_result_is_handed_in() {
    let mut farm = Farm::start().await;
    let go = farm.path().join("go");
    let session = farm.session().await;
    let action = waiting(&farm, &go);
    session.assign("one", action);
    farm.runner.wait_for(1).await;
    drop(session);
    std::fs::write(&go, "").expect("a file");
    farm.runner.wait_for(0).await;
    let mut session = farm.opened().await;
    assert_eq!(session.hello.held_lease_ids, ["one"]);
    session.welcome(vec!["one".to_owned()]);
    let finished = session.finished().await;
    assert_eq!(finished.lease_id, "one");
    assert_eq!(finished.response.clone().expect("set").result.expect("set").stdout_raw, "done\n");
    // Not acknowledged: it comes once more.
    drop(session);
    let mut session = farm.opened().await;
    assert_eq!(session.hello.held_lease_ids, ["one"]);
    session.welcome(vec!["one".to_owned()]);
    assert_eq!(session.finished().await, finished);
    session.acknowledge("one");
    drop(session);
    let mut session = farm.opened().await;
    // What was acknowledged may be named when the two crossed each other.
    session.welcome(Vec::new());
    drop(session);
    assert!(farm.opened().await.hello.held_lease_ids.is_empty());
    assert_eq!(farm.runner.run_count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_does_not_count_on_is_ended() {
    let mut farm = Farm::start().await;
    let go = farm.path().join("never");
    let session = farm.session().await;
    let process_id = session.hello.process_id.clone();
    let action = waiting(&farm, &go);
    session.assign("one", action);
    session.assign("two", action);
    farm.runner.wait_for(2).await;
    drop(session);
    let mut session = farm.opened().await;
    assert_eq!(session.hello.process_id, process_id);
    session.welcome(vec!["two".to_owned()]);
    farm.runner.wait_for(1).await;
    session.cancel("two");
    farm.runner.wait_for(0).await;
    // Nothing is said of either; the next is heard at once.
    let action = farm.action(&sh("echo next"), Root::default().put(&farm.server));
    assert_eq!(session.execute(action).await.result.expect("set").stdout_raw, "next\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_it_can_do_goes_back() {
    let mut farm = Farm::start_with(|options| options.concurrency = 1).await;
    let go = farm.path().join("go");
    let mut session = farm.session().await;
    assert_eq!(session.hello.concurrency, 1);
    let action = waiting(&farm, &go);
    session.assign("one", action);
    session.assign("two", action);
    let refused = session.finished().await;
    assert_eq!((refused.lease_id.as_str(), refused.worker_fault), ("two", true));
    std::fs::write(&go, "").expect("a file");
    let finished = session.finished().await;
    assert_eq!((finished.lease_id.as_str(), finished.worker_fault), ("one", false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_worker_finishes_and_ends() {
    for by_server in [false, true] {
        let mut farm = Farm::start().await;
        let go = farm.path().join("go");
        let mut session = farm.session().await;
        let action = waiting(&farm, &go);
        session.assign("one", action);
        farm.runner.wait_for(1).await;
        if by_server {
            session.drain();
        } else {
            farm.asks.send(()).await.expect("the worker lives");
            loop {
                match session.hear().await {
                    Some(Message::Drain(_)) => break,
                    Some(Message::Progress(_)) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        std::fs::write(&go, "").expect("a file");
        assert_eq!(session.finished().await.lease_id, "one");
        // Not before the server has the result.
        assert!(!farm.worker.is_finished());
        session.acknowledge("one");
        assert_eq!(soon(farm.worker).await.expect("no panic").expect("no error"), Ended::Drained);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_ask_ends_at_once() {
    let mut farm = Farm::start().await;
    let go = farm.path().join("never");
    let session = farm.session().await;
    session.assign("one", waiting(&farm, &go));
    farm.runner.wait_for(1).await;
    farm.asks.send(()).await.expect("the worker lives");
    farm.asks.send(()).await.expect("the worker lives");
    assert_eq!(soon(farm.worker).await.expect("no panic").expect("no error"), Ended::CutOff { leases: 1 });
    farm.runner.wait_for(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_worker_drains_without_a_server() {
    let mut farm = Farm::start().await;
    drop(farm.session().await);
    farm.asks.send(()).await.expect("the worker lives");
    assert_eq!(soon(farm.worker).await.expect("no panic").expect("no error"), Ended::Drained);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_says_that_it_lives() {
    let mut farm = Farm::start().await;
    let go = farm.path().join("go");
    let mut session = farm.session().await;
    session.assign("one", waiting(&farm, &go));
    farm.runner.wait_for(1).await;
    let progress = session.progressed().await;
    assert_eq!(progress.lease_id, "one");
    let metadata = progress.partial_metadata.expect("set");
    assert!(metadata.execution_start_timestamp.is_some() && metadata.execution_completed_timestamp.is_none());
    std::fs::write(&go, "").expect("a file");
    session.finished().await;
    assert!(session.heartbeats > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_do_not_share_a_folder() {
    let mut farm = Farm::start().await;
    let _session = farm.session().await;
    let (_asks, asked) = tokio::sync::mpsc::channel(1);
    let second = cask_executor::worker::run(farm.options.clone(), asked, || {}).await;
    assert!(second.expect_err("the folder is in use").to_string().contains("another worker"));
}

/// Waiting for a child closed its input, which told it to end: a worker started a runner twice a second, and each lost what it ran.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_that_the_worker_started_lives_as_long_as_the_worker() {
    let notes = tempfile::tempdir().expect("a folder");
    let notes = notes.path().join("notes");
    let script = format!("echo started >>{0}; echo level sandbox; cat; echo ended >>{0}", notes.display());
    let mut farm = Farm::start_with(|options| {
        // The test's own runner listens; the child only lives.
        let RunnerSource::Address(address) = options.runner.clone() else { panic!("set by the farm") };
        let arguments = vec!["-c".into(), script.into()];
        let command = RunnerCommand { program: "/bin/sh".into(), arguments };
        options.runner = RunnerSource::Child { command, address };
    })
    .await;
    let mut session = farm.session().await;
    let platform = &session.hello.platforms[0];
    assert!(platform.properties.iter().any(|property| property.name == "unixUID" && property.value == "*"));
    let action = farm.action(&sh("sleep 0.3"), Root::default().put(&farm.server));
    session.execute(action).await;
    assert_eq!(std::fs::read_to_string(&notes).expect("notes"), "started\n");
    farm.asks.send(()).await.expect("the worker lives");
    assert_eq!(soon(farm.worker).await.expect("no panic").expect("no error"), Ended::Drained);
}

/// A root of a user namespace with one user ran commands as itself, over links into its cache: they could alter the inputs of others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inputs_are_links_only_where_the_runner_has_users_for_commands() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    for (words, links) in [("host", 1), ("sandbox", 1), ("sandbox own-users", 2)] {
        let script = format!("echo level {words}; cat");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("its mode");
        let mut farm = Farm::start_in(folder, |options| {
            let RunnerSource::Address(address) = options.runner.clone() else { panic!("set by the farm") };
            let arguments = vec!["-c".into(), script.into()];
            let command = RunnerCommand { program: "/bin/sh".into(), arguments };
            options.runner = RunnerSource::Child { command, address };
        })
        .await;
        let mut session = farm.session().await;
        let root = Root::default().file(&farm.server, "input", "words", false).put(&farm.server);
        let action = farm.action(&sh("test $(stat -c %h input) = 1 || exit 2"), root);
        let result = session.execute(action).await.result.expect("a result");
        assert_eq!(result.exit_code, if links == 1 { 0 } else { 2 }, "{words}");
        assert_eq!(farm.folder.path().join("worker/inputs").metadata().expect("there").mode() & 0o777, 0o700);
    }
}

/// Root's default folder was in its home: commands ran as others and could not come to their temporary folder.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_commands_cannot_reach_is_refused_at_the_start() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o750)).expect("its mode");
    let farm = Farm::start_in(folder, |options| {
        let RunnerSource::Address(address) = options.runner.clone() else { panic!("set by the farm") };
        let arguments = vec!["-c".into(), "echo level host own-users; cat".into()];
        let command = RunnerCommand { program: "/bin/sh".into(), arguments };
        options.runner = RunnerSource::Child { command, address };
    })
    .await;
    let folder = farm.folder.path().canonicalize().expect("it is there");
    let refused = soon(farm.worker).await.expect("no panic").expect_err("the folder is closed").to_string();
    assert!(refused.contains(&format!("cannot pass the folder {},", folder.display())), "{refused}");
}

/// A worker that could never be let in tried for ever, and looked as if it waited for its server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_never_let_in_says_so_and_ends() {
    for (refusal, words) in [
        (tonic::Status::invalid_argument("concurrency has to be 1 to 1024"), "concurrency has to be"),
        (tonic::Status::unimplemented("no such service"), "start it with --execution"),
        (tonic::Status::permission_denied("not you"), "not you"),
    ] {
        // Let in once, it comes back whatever it hears.
        let mut farm = Farm::start().await;
        let session = farm.session().await;
        farm.server.state().refusal = Some(refusal);
        let (_asks, asked) = tokio::sync::mpsc::channel(1);
        let mut options = farm.options.clone();
        options.dir = farm.path().join("second");
        let second = soon(cask_executor::worker::run(options, asked, || {})).await;
        let error = second.expect_err("it is not let in").to_string();
        assert!(error.contains(words), "{error}");
        drop(session);
        farm.server.state().refusal = None;
        drop(farm.session().await);
    }
}
