//! What of a command's leavings becomes which output: a table against the API's specification.

use cask_proto::reapi::{self as re, command::OutputDirectoryFormat};
use tonic::Code;

use crate::{
    fake::{Farm, Root, sh, texts},
    rendering::render,
};

/// `output_paths`.
fn paths(paths: &[&str], script: &str) -> re::Command {
    re::Command { output_paths: texts(paths), ..sh(script) }
}

/// The lists of version 2.0.
fn lists(files: &[&str], directories: &[&str], script: &str) -> re::Command {
    re::Command { output_files: texts(files), output_directories: texts(directories), ..sh(script) }
}

fn formatted(format: OutputDirectoryFormat, script: &str) -> re::Command {
    re::Command { output_directory_format: format as i32, ..paths(&["d"], script) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_are_what_the_specification_says() {
    let mut farm = Farm::start().await;
    let mut session = farm.session().await;
    let some = "mkdir -p d/e/f; echo 1 >d/a; cp d/a d/e/a; ln -s nowhere d/e/l";
    let some_text = "{ a = 1\n, e/ { a = 1\n, f/ {}, l -> nowhere } }";
    let twice = "mkdir -p d/x/s d/y/s d/s; echo 1 >d/x/s/a; cp d/x/s/a d/y/s/a; cp d/x/s/a d/s/a";
    let in_w = |command: re::Command| re::Command { working_directory: "w".to_owned(), ..command };
    for (what, command, expected) in [
        ("a file", paths(&["a"], "echo 1 >a"), vec!["file a = 1\n".to_owned()]),
        ("an executable file", paths(&["a"], "echo 1 >a; chmod 755 a"), vec!["file a* = 1\n".to_owned()]),
        ("an empty file", paths(&["a"], ": >a"), vec!["file a = ".to_owned()]),
        ("an absent one is left out", paths(&["a", "b"], "echo 1 >b"), vec!["file b = 1\n".to_owned()]),
        ("an absent parent is left out", paths(&["p/q/a"], "rmdir p/q p"), vec![]),
        ("parents are there before the run", paths(&["p/q/a"], "echo 1 >p/q/a"), vec!["file p/q/a = 1\n".to_owned()]),
        ("parents of the old lists", lists(&["p/a"], &["q/r/d"], "echo 1 >p/a; mkdir q/r/d"), {
            vec!["file p/a = 1\n".to_owned(), "dir q/r/d {}".to_owned()]
        }),
        ("an output directory itself is not", paths(&["d"], "test ! -e d"), vec![]),
        ("a directory", paths(&["d"], some), vec![format!("dir d {some_text}")]),
        ("an empty directory", paths(&["d"], "mkdir d"), vec!["dir d {}".to_owned()]),
        ("a directory that stands there several times", paths(&["d"], twice), {
            vec!["dir d { s/ { a = 1\n }, x/ { s/ { a = 1\n } }, y/ { s/ { a = 1\n } } }".to_owned()]
        }),
        ("an output in an output", paths(&["d", "d/a"], "echo 1 >d/a"), {
            vec!["file d/a = 1\n".to_owned(), "dir d { a = 1\n }".to_owned()]
        }),
        ("names in the order of their bytes", paths(&["d"], "mkdir d; : >d/b; : >d/B; : >d/a-; : >d/a"), {
            vec!["dir d { B = , a = , a- = , b =  }".to_owned()]
        }),
        ("links of all kinds", paths(&["f", "g", "h"], "ln -s a f; ln -s /etc g; ln -s ../../.. h"), {
            vec!["link f -> a".to_owned(), "link g -> /etc".to_owned(), "link h -> ../../..".to_owned()]
        }),
        ("links in the old lists", lists(&["f"], &["d"], "ln -s x f; ln -s y d"), {
            ["link f -> x", "link d -> y", "file link f -> x", "dir link d -> y"].map(str::to_owned).to_vec()
        }),
        (
            "the new list counts where both are",
            { re::Command { output_paths: texts(&["a"]), ..lists(&["b"], &[], "echo 1 >a; echo 2 >b") } },
            vec!["file a = 1\n".to_owned()],
        ),
        ("below the working directory", in_w(paths(&["a"], "echo 1 >a")), vec!["file a = 1\n".to_owned()]),
        ("beside the working directory", in_w(paths(&["../o/a"], "echo 1 >../o/a")), {
            vec!["file ../o/a = 1\n".to_owned()]
        }),
        ("the whole working directory", in_w(lists(&[], &[""], "echo 1 >a")), {
            vec!["dir  { a = 1\n, old = 0\n }".to_owned()]
        }),
        ("directories alone", formatted(OutputDirectoryFormat::DirectoryOnly, some), {
            vec![format!("directories d {some_text}")]
        }),
        ("trees and directories", formatted(OutputDirectoryFormat::TreeAndDirectory, some), {
            vec![format!("both d {some_text}")]
        }),
        (
            "a format of later versions is a tree",
            re::Command { output_directory_format: 77, ..paths(&["d"], "mkdir d") },
            { vec!["dir d {}".to_owned()] },
        ),
        ("after a failure, too", paths(&["a"], "echo 1 >a; exit 3"), vec!["file a = 1\n".to_owned()]),
    ] {
        let root = Root::default().file(&farm.server, "w_marker", "", false);
        let root = root.directory("w", Root::default().file(&farm.server, "old", "0\n", false).put(&farm.server));
        let action = farm.action(&command, root.put(&farm.server));
        let response = session.execute(action).await;
        assert_eq!(response.status.clone().unwrap_or_default().code, Code::Ok as i32, "{what}: {response:?}");
        assert_eq!(render(&farm.server, &response.result.expect("a result")), expected, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_an_output_is_named() {
    let mut farm = Farm::start().await;
    let mut session = farm.session().await;
    for (what, command, word) in [
        ("a directory for a file", lists(&["a"], &[], "mkdir a"), "`a`"),
        ("a file for a directory", lists(&[], &["d"], ": >d"), "`d`"),
        ("a pipe", paths(&["p"], "mkfifo p"), "`p` is a pipe"),
        ("a pipe below", paths(&["d"], "mkdir d; mkfifo d/p"), "`d/p` is a pipe"),
        ("a name that is not UTF-8", paths(&["d"], "mkdir d; : >d/$(printf '\\377')"), "not UTF-8"),
        ("a directory that is none any more", paths(&["d/a"], "rmdir d; : >d"), "`d`"),
    ] {
        let script_printed = re::Command {
            arguments: texts(&["/bin/sh", "-ec", &format!("echo hi; {}", command.arguments[2])]),
            ..command
        };
        let action = farm.action(&script_printed, Root::default().put(&farm.server));
        let response = session.execute(action).await;
        let status = response.status.expect("set");
        assert_eq!(status.code, Code::FailedPrecondition as i32, "{what}: {status:?}");
        assert!(status.message.contains(word), "{what}: {}", status.message);
        let partial = response.result.expect("what it printed");
        assert_eq!(partial.stdout_raw, "hi\n", "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_properties_come_when_they_are_asked_for() {
    let mut farm = Farm::start().await;
    let mut session = farm.session().await;
    let script = "mkdir -m 750 d; echo 1 >d/a; chmod 640 d/a; touch -d @1000000000.5 d/a; ln -s x d/l; cp -p d/a b; touch -d @5 d";
    for (wanted, mtime, mode) in [
        (&["mtime"][..], true, false),
        (&["unix_mode"], false, true),
        (&["mtime", "unix_mode"], true, true),
        (&[], false, false),
    ] {
        let command = re::Command { output_node_properties: texts(wanted), ..paths(&["b", "d"], script) };
        let action = farm.action(&command, Root::default().put(&farm.server));
        let result = session.execute(action).await.result.expect("a result");
        let of_file = re::NodeProperties {
            properties: Vec::new(),
            mtime: mtime.then_some(prost_types::Timestamp { seconds: 1_000_000_000, nanos: 500_000_000 }),
            unix_mode: mode.then_some(0o640),
        };
        let of_file = (mtime || mode).then_some(of_file);
        assert_eq!(result.output_files[0].node_properties, of_file);
        let tree: re::Tree = farm.server.message(result.output_directories[0].tree_digest.as_ref().expect("set"));
        let root = tree.root.expect("set");
        assert_eq!(root.files[0].node_properties, of_file);
        let of_directory = root.node_properties.unwrap_or_default();
        assert_eq!(of_directory.mtime.map(|time| time.seconds), mtime.then_some(5));
        assert_eq!(of_directory.unix_mode, mode.then_some(0o750));
        assert_eq!(root.symlinks[0].node_properties.is_some(), mtime);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_missing_is_uploaded() {
    let mut farm = Farm::start().await;
    let mut session = farm.session().await;
    // Larger than a batch, and than what is kept in memory.
    let script = "head -c 300000 /dev/zero >large; echo 1 >small; : >empty; cp small same";
    let command = paths(&["large", "small", "empty", "same"], script);
    let action = farm.action(&command, Root::default().put(&farm.server));
    let first = session.execute(action).await;
    let calls = std::mem::take(&mut farm.server.state().calls);
    assert_eq!(calls.iter().filter(|call| call.starts_with("write ")).count(), 1, "{calls:?}");
    assert!(calls.contains(&"find_missing 2".to_owned()) && calls.contains(&"batch_update 1".to_owned()), "{calls:?}");
    let second = session.execute(action).await;
    let calls = std::mem::take(&mut farm.server.state().calls);
    assert!(!calls.iter().any(|call| call.starts_with("write ") || call.starts_with("batch_update")), "{calls:?}");
    assert_eq!(first.result.expect("set").output_files, second.result.expect("set").output_files);
}
