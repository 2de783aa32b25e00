//! Inputs and commands that mean harm: nothing leaves the root, nothing outside is read or written.

use cask_proto::{digest::to_wire, reapi as re};
use tonic::Code;

use crate::fake::{Farm, Root, digest_of, sh, texts};

fn file(name: &str) -> re::FileNode {
    re::FileNode { name: name.to_owned(), digest: Some(to_wire(&digest_of(b""))), ..re::FileNode::default() }
}

fn symlink(name: &str, target: &str) -> re::SymlinkNode {
    re::SymlinkNode { name: name.to_owned(), target: target.to_owned(), node_properties: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_no_names_are_refused_before_anything_is_made() {
    let mut farm = Farm::start().await;
    let mut session = farm.session().await;
    let empty = Root::default().put(&farm.server);
    let directory = |name: &str| re::DirectoryNode { name: name.to_owned(), digest: Some(to_wire(&empty)) };
    let long = "n".repeat(256);
    let mut roots: Vec<(String, re::Directory)> = Vec::new();
    for name in ["..", ".", "", "/", "/etc/passwd", "a/b", "../a", "a\0b", &long] {
        roots.push((format!("file {name:?}"), re::Directory { files: vec![file(name)], ..Default::default() }));
        roots.push((
            format!("directory {name:?}"),
            re::Directory { directories: vec![directory(name)], ..Default::default() },
        ));
        roots.push((
            format!("symlink {name:?}"),
            re::Directory { symlinks: vec![symlink(name, "x")], ..Default::default() },
        ));
    }
    for (what, root) in [
        ("twice", re::Directory { files: vec![file("a"), file("a")], ..Default::default() }),
        (
            "in two lists",
            re::Directory { files: vec![file("a")], directories: vec![directory("a")], ..Default::default() },
        ),
        ("through a link", {
            re::Directory {
                symlinks: vec![symlink("a", "/etc")],
                directories: vec![directory("a")],
                ..Default::default()
            }
        }),
        ("unsorted", re::Directory { files: vec![file("b"), file("a")], ..Default::default() }),
    ] {
        roots.push((what.to_owned(), root));
    }
    for (what, root) in roots {
        let root = farm.server.put_message(&root);
        // Beside a good directory, and below one: the whole tree is looked at before anything is made.
        for root in [root, Root::default().directory("deep", root).put(&farm.server)] {
            let action = farm.action(&sh("echo ran"), root);
            let response = session.execute(action).await;
            assert_eq!(response.status.expect("set").code, Code::InvalidArgument as i32, "{what}");
            assert!(response.result.is_none(), "{what}");
        }
    }
    assert_eq!(farm.runner.run_count(), 0);
    let made = std::fs::read_dir(farm.build_folder()).expect("there").count();
    assert_eq!(made, 0, "nothing was made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_out_of_the_root_are_refused() {
    let mut farm = Farm::start().await;
    let mut session = farm.session().await;
    for command in [
        re::Command { output_paths: texts(&["../a"]), ..sh("true") },
        re::Command { output_paths: texts(&["/etc/passwd"]), ..sh("true") },
        re::Command { output_files: texts(&["a/../../b"]), ..sh("true") },
        re::Command { output_directories: texts(&["../.."]), ..sh("true") },
        re::Command { working_directory: "/".to_owned(), ..sh("true") },
        re::Command { working_directory: "..".to_owned(), ..sh("true") },
        re::Command { working_directory: "absent".to_owned(), ..sh("true") },
        re::Command { working_directory: "link".to_owned(), ..sh("true") },
        // The parent of an output is a link of the input, which may lead anywhere.
        re::Command { output_paths: texts(&["link/a"]), ..sh("true") },
        re::Command { output_paths: texts(&["file/a"]), ..sh("true") },
    ] {
        let root = Root::default().file(&farm.server, "file", "", false).symlink("link", "/tmp").put(&farm.server);
        let action = farm.action(&command, root);
        let response = session.execute(action).await;
        assert_eq!(
            response.status.clone().expect("set").code,
            Code::InvalidArgument as i32,
            "{command:?} {response:?}"
        );
    }
    assert_eq!(farm.runner.run_count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_are_not_looked_for_through_links_that_the_command_made() {
    let mut farm = Farm::start().await;
    let mut session = farm.session().await;
    let outside = farm.path().join("outside");
    std::fs::create_dir(&outside).expect("a folder");
    std::fs::write(outside.join("secret"), "secret").expect("a file");
    let outside = outside.display();
    for (output, script) in [
        ("out/secret", format!("rmdir out; ln -s {outside} out")),
        ("out/deep/secret", format!("rm -r out; mkdir out; ln -s {outside} out/deep")),
        ("a/../out/secret", format!("rmdir out; ln -s {outside} out")),
    ] {
        let action = farm
            .action(&re::Command { output_paths: texts(&[output]), ..sh(&script) }, Root::default().put(&farm.server));
        let response = session.execute(action).await;
        assert_eq!(
            response.status.clone().expect("set").code,
            Code::FailedPrecondition as i32,
            "{output}: {response:?}"
        );
        assert!(response.result.expect("what it printed").output_files.is_empty());
    }
    // In an output directory the link is what is there; what it leads to is not read.
    let command = re::Command {
        output_paths: texts(&["d", "f"]),
        ..sh(&format!("mkdir d; ln -s {outside} d/l; ln -s {outside}/secret f"))
    };
    let action = farm.action(&command, Root::default().put(&farm.server));
    let result = session.execute(action).await.result.expect("a result");
    assert_eq!(result.output_symlinks[0].target, format!("{outside}/secret"));
    let state = farm.server.state();
    assert!(!state.blobs.values().any(|blob| &blob[..] == b"secret"), "the secret was uploaded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trees_that_explode_are_refused() {
    let mut farm = Farm::start().await;
    let mut session = farm.session().await;
    // Forty directories, 2^40 paths.
    let mut doubled = Root::default().put(&farm.server);
    for _ in 0..40 {
        doubled = Root::default().directory("a", doubled).directory("b", doubled).put(&farm.server);
    }
    let mut deep = Root::default().put(&farm.server);
    for _ in 0..600 {
        deep = Root::default().directory("d", deep).put(&farm.server);
    }
    let mut long = Root::default().put(&farm.server);
    for _ in 0..20 {
        long = Root::default().directory(&"n".repeat(250), long).put(&farm.server);
    }
    for root in [doubled, deep, long] {
        let action = farm.action(&sh("true"), root);
        let response = session.execute(action).await;
        assert_eq!(response.status.expect("set").code, Code::InvalidArgument as i32);
    }
    assert_eq!(farm.runner.run_count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_command_leaves_is_removed_however_deep_and_closed_it_is() {
    let mut farm = Farm::start().await;
    let mut session = farm.session().await;
    let script = "i=0; while [ $i -lt 300 ]; do mkdir d; cd d; i=$((i+1)); done; : >f; chmod 000 .; cd /; ";
    let action = farm.action(&sh(script), Root::default().put(&farm.server));
    let response = session.execute(action).await;
    assert_eq!(response.result.expect("a result").exit_code, 0);
    // A folder's place is free when it is gone: so many more than there are places cannot run otherwise.
    for _ in 0..2 * farm.options.concurrency {
        session.execute(action).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_too_deep_to_be_an_output_is_named() {
    let mut farm = Farm::start().await;
    let script = "mkdir o; cd o; i=0; while [ $i -lt 300 ]; do mkdir d; cd d; i=$((i+1)); done";
    let command = re::Command { output_paths: texts(&["o"]), ..sh(script) };
    let action = farm.action(&command, Root::default().put(&farm.server));
    let status = farm.execute(action).await.status.expect("set");
    assert_eq!(status.code, Code::FailedPrecondition as i32);
    assert!(status.message.contains("256 directories deep"), "{}", status.message);
}
