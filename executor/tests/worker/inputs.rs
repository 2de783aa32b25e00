//! Input roots: what is fetched, and what the command finds.

use std::os::unix::fs::MetadataExt as _;

use cask_executor::worker::LinkInputs;
use cask_proto::{digest::to_wire, reapi as re};
use tonic::Code;

use crate::fake::{Farm, Root, sh};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_finds_its_input_as_it_was_described() {
    for link_inputs in [LinkInputs::Always, LinkInputs::Never] {
        let mut farm = Farm::start_with(|options| options.link_inputs = link_inputs).await;
        let mut session = farm.session().await;
        let timed = re::NodeProperties {
            properties: Vec::new(),
            mtime: Some(prost_types::Timestamp { seconds: 1_000_000_000, nanos: 250_000_000 }),
            unix_mode: Some(0o4755),
        };
        let content = Some(to_wire(&farm.server.put("same")));
        let node = |name: &str, is_executable, node_properties| re::FileNode {
            name: name.to_owned(),
            digest: content.clone(),
            is_executable,
            node_properties,
        };
        let below = re::Directory {
            files: vec![node("own", false, Some(timed.clone()))],
            node_properties: Some(re::NodeProperties { unix_mode: None, ..timed }),
            ..re::Directory::default()
        };
        let below = farm.server.put_message(&below);
        let root = re::Directory {
            files: vec![node("plain", false, None), node("program", true, None)],
            directories: vec![
                re::DirectoryNode { name: "below".to_owned(), digest: Some(to_wire(&below)) },
                re::DirectoryNode { name: "void".to_owned(), digest: Some(to_wire(&crate::fake::digest_of(b""))) },
            ],
            symlinks: vec![re::SymlinkNode {
                name: "link".to_owned(),
                target: "../nowhere".to_owned(),
                node_properties: None,
            }],
            node_properties: None,
        };
        let root = farm.server.put_message(&root);
        let script = "stat -c '%n %F %a %s' plain program below void below/own link; stat -c '%.2Y' below/own below; readlink link; cat plain";
        let action = farm.action(&sh(script), root);
        let result = session.execute(action).await.result.expect("a result");
        let expected = "plain regular file 444 4\nprogram regular file 555 4\nbelow directory 777 4096\nvoid directory 777 4096\n\
                        below/own regular file 755 4\nlink symbolic link 777 10\n1000000000.25\n1000000000.25\n../nowhere\nsame";
        let printed = String::from_utf8_lossy(&result.stdout_raw).into_owned();
        // Sizes of directories are the file system's business.
        let sizeless = |text: &str| {
            text.lines()
                .map(|line| {
                    line.split(" directory ")
                        .map(|part| {
                            part.split(' ').next().unwrap_or("").to_owned()
                                + if line.contains(" directory ") { "" } else { line }
                        })
                        .collect::<String>()
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(sizeless(&printed), sizeless(expected), "{link_inputs:?}: {printed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_is_missing_is_said_at_once() {
    let mut farm = Farm::start().await;
    let mut session = farm.session().await;
    let absent = |text: &str| crate::fake::digest_of(text.as_bytes());
    let file =
        |name: &str| re::FileNode { name: name.to_owned(), digest: Some(to_wire(&absent(name))), ..Default::default() };
    let below = re::Directory { files: vec![file("file 2")], ..Default::default() };
    let root = re::Directory {
        files: vec![file("file 1")],
        directories: vec![
            re::DirectoryNode { name: "a".to_owned(), digest: Some(to_wire(&absent("directory"))) },
            re::DirectoryNode { name: "b".to_owned(), digest: Some(to_wire(&farm.server.put_message(&below))) },
        ],
        ..Default::default()
    };
    let root = farm.server.put_message(&root);
    let action = re::Action {
        command_digest: Some(to_wire(&absent("command"))),
        input_root_digest: Some(to_wire(&root)),
        ..Default::default()
    };
    let action = farm.server.put_message(&action);
    let status = session.execute(action).await.status.expect("set");
    assert_eq!(status.code, Code::FailedPrecondition as i32);
    assert_eq!(subjects(&status), subjects_of(&["command", "directory", "file 1", "file 2"]));

    // With all directories there, the files alone.
    let root = re::Directory { files: vec![file("file 1"), file("file 3")], ..Default::default() };
    let root = farm.server.put_message(&root);
    let action = farm.action(&sh("cat 'file 1'"), root);
    let status = session.execute(action).await.status.expect("set");
    assert_eq!(subjects(&status), subjects_of(&["file 1", "file 3"]));
    // Uploaded, all is well.
    farm.server.put("file 1");
    farm.server.put("file 3");
    let result = session.execute(action).await.result.expect("a result");
    assert_eq!(result.stdout_raw, "file 1");

    let status = session.execute(absent("action")).await.status.expect("set");
    assert_eq!(subjects(&status), subjects_of(&["action"]));
}

fn subjects_of(texts: &[&str]) -> Vec<String> {
    let mut subjects: Vec<_> =
        texts.iter().map(|text| format!("blobs/{}", crate::fake::digest_of(text.as_bytes()))).collect();
    subjects.sort();
    subjects
}

/// Of the one detail that there is.
fn subjects(status: &cask_proto::rpc::Status) -> Vec<String> {
    let [detail] = &status.details[..] else { panic!("{status:?}") };
    assert_eq!(detail.type_url, "type.googleapis.com/google.rpc.PreconditionFailure");
    let failure = <tonic_types::pb::PreconditionFailure as prost::Message>::decode(&*detail.value);
    let mut subjects: Vec<_> = failure
        .expect("a precondition failure")
        .violations
        .into_iter()
        .map(|violation| {
            assert_eq!(violation.r#type, "MISSING");
            violation.subject
        })
        .collect();
    subjects.sort();
    subjects
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_tree_is_not_fetched_again() {
    let mut farm = Farm::start().await;
    let mut session = farm.session().await;
    let large = "x".repeat(300_000);
    let mut root = Root::default();
    for index in 0..200 {
        root = root.file(&farm.server, &format!("f{index:03}"), &format!("content {index}"), index % 2 == 0);
    }
    let root = root.file(&farm.server, "large", &large, false).file(&farm.server, "large_program", &large, true);
    let root = root.put(&farm.server);
    let first = farm.action(&sh("cat f* | wc -c; wc -c <large"), root);
    let result = session.execute(first).await.result.expect("a result");
    assert_eq!(result.stdout_raw, "2090\n300000\n");
    let calls = std::mem::take(&mut farm.server.state().calls);
    let reads = |calls: &[String], prefix: &str| calls.iter().filter(|call| call.starts_with(prefix)).count();
    assert_eq!(reads(&calls, "read "), 1, "a large file of two modes is one stream: {calls:?}");
    let second = farm.action(&sh("ls | wc -l"), root);
    let result = session.execute(second).await.result.expect("a result");
    assert_eq!(result.stdout_raw, "202\n");
    let calls = std::mem::take(&mut farm.server.state().calls);
    assert_eq!((reads(&calls, "read "), reads(&calls, "batch_read")), (0, 2), "the action and its command: {calls:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_alters_its_copies_alters_nothing_else() {
    let mut farm = Farm::start_with(|options| options.link_inputs = LinkInputs::Never).await;
    let mut session = farm.session().await;
    let root = Root::default().file(&farm.server, "a", "original", false).put(&farm.server);
    let harm = farm.action(&sh("chmod 666 a; echo harm >a; mv a b; truncate -s 0 b"), root);
    assert_eq!(session.execute(harm).await.result.expect("a result").exit_code, 0);
    let look = farm.action(&sh("cat a; stat -c %a a"), root);
    assert_eq!(session.execute(look).await.result.expect("a result").stdout_raw, "original444\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_are_of_one_file_and_belong_to_the_worker() {
    let mut farm = Farm::start_with(|options| options.link_inputs = LinkInputs::Always).await;
    let mut session = farm.session().await;
    let root = Root::default().file(&farm.server, "a", "same", false).file(&farm.server, "b", "same", false);
    let action = farm.action(&sh("stat -c '%i %u %h' a b"), root.put(&farm.server));
    let result = session.execute(action).await.result.expect("a result");
    let printed = String::from_utf8_lossy(&result.stdout_raw).into_owned();
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines[0], lines[1]);
    let user = std::fs::metadata(farm.path()).expect("there").uid();
    assert!(lines[0].ends_with(&format!(" {user} 3")), "the cache's, and two: {printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_input_is_the_filesystem_root_where_the_program_is_in_it() {
    let mut farm = Farm::start().await;
    let mut session = farm.session().await;
    let bin = Root::default().file(&farm.server, "tool", "", true).put(&farm.server);
    let usr = Root::default().directory("bin", bin).put(&farm.server);
    let root = Root::default().directory("usr", usr).symlink("bin", "/usr/bin").put(&farm.server);
    for (program, path, expected) in [
        ("/usr/bin/tool", "", true),
        ("/bin/tool", "", true),
        ("/usr/../bin/./tool", "", true),
        ("/usr/bin/other", "", false),
        ("/usr/bin", "", false),
        ("usr/bin/tool", "", false),
        ("tool", "/sbin:/bin", true),
        ("tool", "/sbin", false),
    ] {
        let command = re::Command {
            arguments: vec![program.to_owned()],
            environment_variables: vec![re::command::EnvironmentVariable {
                name: "PATH".to_owned(),
                value: path.to_owned(),
            }],
            ..re::Command::default()
        };
        // Not to be run here.
        farm.runner.refusals.lock().expect("not poisoned").push(tonic::Status::invalid_argument("not now"));
        let action = farm.action(&command, root);
        session.execute(action).await;
        assert_eq!(farm.runner.options().input_root_is_filesystem_root, expected, "{program} {path}");
    }
}
