//! Requests that cannot be run, wherever they are sent.

use std::fs;
use std::os::unix::fs::symlink;

use cask_executor::runner::{Level, RUN_OPTIONS_HEADER};
use cask_proto::runner::CheckReadinessRequest;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

use super::Trials;
use crate::rig::{Action, Rig};

pub(super) fn add(trials: &mut Trials) {
    trials.at_each_level("requests_that_make_no_sense_are_refused", requests_that_make_no_sense_are_refused);
    trials.once("options_that_cannot_be_read_are_refused", options_that_cannot_be_read_are_refused);
    trials.once("readiness_is_that_a_path_is_there", readiness_is_that_a_path_is_there);
}

/// What is wrong with it.
type Change = fn(&mut Action);

async fn requests_that_make_no_sense_are_refused(level: Level) {
    let rig = Rig::start(level).await;
    let outside = rig.dir.path().join("outside");
    fs::create_dir(&outside).expect("a folder");
    let cases: [(&str, Change); 18] = [
        ("no command", |action| action.request.arguments.clear()),
        ("an empty command", |action| action.request.arguments = vec![String::new()]),
        ("a zero byte in the command", |action| action.request.arguments.push("a\0b".to_owned())),
        ("a variable without a name", |action| variable(action, "", "1")),
        ("a variable with a sign in its name", |action| variable(action, "a=b", "1")),
        ("a zero byte in a variable", |action| variable(action, "a", "\0")),
        ("no input root", |action| action.request.input_root_directory.clear()),
        ("an input root that is not there", |action| action.request.input_root_directory += "/none"),
        ("an input root outside", |action| action.request.input_root_directory = "../outside".to_owned()),
        ("an absolute input root", |action| action.request.input_root_directory = "/tmp".to_owned()),
        ("a working directory that is not there", |action| action.request.working_directory = "none".to_owned()),
        ("a working directory outside", |action| action.request.working_directory = "sub/../../..".to_owned()),
        ("a working directory that is a file", |action| action.request.working_directory = "file".to_owned()),
        ("a working directory that is a link", |action| action.request.working_directory = "link".to_owned()),
        ("a file for stdout that is there", |action| {
            action.request.stdout_path = action.request.input_root_directory.clone() + "/file";
        }),
        ("a file for stderr through a link", |action| {
            action.request.stderr_path = action.request.input_root_directory.clone() + "/link/x";
        }),
        ("a temporary directory outside", |action| action.request.temporary_directory = "../outside".to_owned()),
        ("a timeout before now", |action| {
            action.options.timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 });
        }),
    ];
    for (what, change) in cases {
        let mut action = rig.shell("echo run").input("file", "", 0o444);
        symlink(&outside, action.root().join("link")).expect("a link");
        change(&mut action);
        let status = action.run().await.expect_err(what);
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status}");
        assert_eq!(fs::read_dir(&outside).expect("it is there").count(), 0, "{what}");
    }
}

fn variable(action: &mut Action, name: &str, value: &str) {
    action.request.environment_variables.insert(name.to_owned(), value.to_owned());
}

async fn options_that_cannot_be_read_are_refused() {
    let rig = Rig::start(Level::Host).await;
    let action = rig.shell(":");
    let mut call = Request::new(action.request.clone());
    call.metadata_mut().insert_bin(RUN_OPTIONS_HEADER, MetadataValue::from_bytes(b"\xff\xff"));
    let status = rig.client().run(call).await.expect_err("no options");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    // A worker of another kind sends none.
    let response = rig.client().run(action.request.clone()).await.expect("it runs").into_inner();
    assert_eq!(response.exit_code, 0);
}

async fn readiness_is_that_a_path_is_there() {
    let rig = Rig::start(Level::Host).await;
    fs::write(rig.build_dir().join("ready"), "").expect("a file");
    for (path, code) in [
        ("", None),
        ("ready", None),
        ("not-ready", Some(Code::Unavailable)),
        ("../socket", Some(Code::InvalidArgument)),
        ("/etc", Some(Code::InvalidArgument)),
    ] {
        let answer = rig.client().check_readiness(CheckReadinessRequest { path: path.to_owned() }).await;
        assert_eq!(answer.err().map(|status| status.code()), code, "{path:?}");
    }
}
