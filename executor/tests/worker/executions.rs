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
