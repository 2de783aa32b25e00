//! Section J, what commands make: files, folders, symlinks, where they lie and in which form they come back (lines J22 to J35, and
//! faults 23, 24, 30, 31 and 38 of other servers).

#![expect(deprecated, reason = "clients of API 2.0 have the old lists")]

use std::collections::{BTreeMap, BTreeSet};

use bazel_remote_apis::build::bazel::remote::execution::v2::command::OutputDirectoryFormat;
use bazel_remote_apis::build::bazel::remote::execution::v2::{
    ActionResult, Command, Directory, NodeProperties, OutputDirectory, Tree,
};
use prost::Message;
use tonic::Code;

use crate::support::blob::{digest_of, digest_of_message};
use crate::support::farm::{
    Call, Input, Job, farm, farm_with, listing, made, result_of, said, shell, status_of, texts, tree_of,
};
use crate::support::grpc::{Cache, assert_invalid};
use crate::support::worker::WorkerOptions;

/// A bit of everything.
const MAKE_ALL: &str = "mkdir -p d/sub d/empty; echo f > f; echo x > d/sub/x; chmod +x d/sub/x; : > d/nothing; \
     ln -s f to-file; ln -s d to-folder; ln -s ../gone d/dangling; ln -s missing dangling";

fn folder_of_all(name: &str) -> Vec<(String, &'static str)> {
    let inside =
        [("", "/"), ("/sub", "/"), ("/sub/x", "*x\n"), ("/empty", "/"), ("/nothing", ""), ("/dangling", "-> ../gone")];
    inside.map(|(path, what)| (format!("{name}{path}"), what)).to_vec()
}

fn expected(folders: &[&str], others: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut all = listing(others);
    for folder in folders {
        all.extend(folder_of_all(folder).into_iter().map(|(path, what)| (path, what.to_owned())));
    }
    all
}

/// Fault 38 among them: an empty file, symlinks, an empty folder.
#[tokio::test]
async fn j22_j23_output_paths_are_typed_by_what_is_there_and_absent_ones_are_left_out() {
    let (_server, _worker, cache) = farm().await;
    let job = shell(MAKE_ALL).outputs(&["absent", "d", "dangling", "f", "no/such/folder", "to-file", "to-folder"]);
    let result = job.succeed(&cache).await;
    let others = [("f", "f\n"), ("to-file", "-> f"), ("to-folder", "-> d"), ("dangling", "-> missing")];
    assert_eq!(made(&cache, &result).await, expected(&["d"], &others));
    // All symlinks are in the new list; who reads the old ones finds them by what they point to.
    let links = |list: &[bazel_remote_apis::build::bazel::remote::execution::v2::OutputSymlink]| -> BTreeSet<String> {
        list.iter().map(|link| link.path.clone()).collect()
    };
    assert_eq!(links(&result.output_symlinks), texts(&["dangling", "to-file", "to-folder"]).into_iter().collect());
    let old: BTreeSet<_> =
        links(&result.output_file_symlinks).union(&links(&result.output_directory_symlinks)).cloned().collect();
    assert!(old.is_subset(&links(&result.output_symlinks)), "{old:?}");
    // Without outputs nothing is collected.
    let none = shell(MAKE_ALL).succeed(&cache).await;
    assert_eq!(made(&cache, &none).await, BTreeMap::new());
}

#[tokio::test]
async fn j22_the_old_lists_work_and_count_only_without_the_new_one() {
    let (_server, _worker, cache) = farm().await;
    let mut job = shell(MAKE_ALL);
    job.command.output_files = texts(&["absent", "f", "to-file"]);
    job.command.output_directories = texts(&["d", "no/such"]);
    let result = job.succeed(&cache).await;
    let all = made(&cache, &result).await;
    assert_eq!(all, expected(&["d"], &[("f", "f\n"), ("to-file", "-> f")]));
    let file_links: Vec<_> = result.output_file_symlinks.iter().map(|link| link.path.as_str()).collect();
    assert_eq!(file_links, ["to-file"], "where clients of version 2.0 look");
    job.command.output_paths = texts(&["f"]);
    let both = job.succeed(&cache).await;
    assert_eq!(made(&cache, &both).await, listing(&[("f", "f\n")]));
    // The whole working directory.
    let mut whole = shell("echo 1 > one").directory("w").input("w/in", Input::text("in"));
    whole.command.output_directories = texts(&[""]);
    let result = whole.succeed(&cache).await;
    assert_eq!(made(&cache, &result).await, listing(&[("", "/"), ("/in", "in"), ("/one", "1\n")]));
}

#[tokio::test]
async fn j24_an_output_of_the_wrong_kind_is_a_failed_precondition() {
    let (_server, _worker, cache) = farm().await;
    let mut directory_for_file = shell("mkdir out");
    directory_for_file.command.output_files = texts(&["out"]);
    let mut file_for_directory = shell("echo > out");
    file_for_directory.command.output_directories = texts(&["out"]);
    let special = shell("mkfifo out").outputs(&["out"]);
    let special_inside = shell("mkdir out; mkfifo out/fifo").outputs(&["out"]);
    for (what, job) in [
        ("a directory for a file", directory_for_file),
        ("a file for a directory", file_for_directory),
        ("a fifo", special),
        ("a fifo in a folder", special_inside),
    ] {
        let (code, message) = status_of(&job.run(&cache).await);
        assert_eq!(code, Code::FailedPrecondition, "{what}: {message}");
        assert!(message.contains("out"), "{what}: {message}");
    }
}

#[tokio::test]
async fn j25_the_parents_of_outputs_exist_before_the_command_runs() {
    let (_server, _worker, cache) = farm().await;
    let job =
        shell("echo 1 > a/b/one; mkdir c/d/two; test ! -e c/d/three").outputs(&["a/b/one", "c/d/three", "c/d/two"]);
    let result = job.succeed(&cache).await;
    assert_eq!(made(&cache, &result).await, listing(&[("a/b/one", "1\n"), ("c/d/two", "/")]));
    let mut old = shell("echo 1 > a/b/one; mkdir c/d/two").directory("w").input("w/in", Input::text(""));
    old.command.output_files = texts(&["a/b/one"]);
    old.command.output_directories = texts(&["c/d/two"]);
    let result = old.succeed(&cache).await;
    assert_eq!(made(&cache, &result).await, listing(&[("a/b/one", "1\n"), ("c/d/two", "/")]));
    // Parents that are inputs stay what they were.
    let among_inputs = shell("cat a/in; echo new > a/out").outputs(&["a/out"]).input("a/in", Input::text("in"));
    let result = among_inputs.succeed(&cache).await;
    assert_eq!(said(&cache, &result).await, "in");
}

#[tokio::test]
async fn j26_the_working_directory_is_honoured_and_has_to_exist() {
    let (_server, _worker, cache) = farm().await;
    let job = shell("cat in; echo made > out").directory("a/b").outputs(&["out"]).input("a/b/in", Input::text("in\n"));
    let result = job.succeed(&cache).await;
    assert_eq!(said(&cache, &result).await, "in\n");
    assert_eq!(made(&cache, &result).await, listing(&[("out", "made\n")]));
    let an_empty_one = shell("ls -A | wc -l").directory("a/b").input("a/b", Input::Folder).succeed(&cache).await;
    assert_eq!(said(&cache, &an_empty_one).await.trim(), "0");
    for (what, directory) in [("absent", "a/c"), ("a file", "a/b/in")] {
        let job = shell("true").directory(directory).input("a/b/in", Input::text(""));
        let action = job.store(&cache).await;
        match Call::execute(&cache, &action).await {
            Err(status) => {
                assert!(
                    matches!(status.code(), Code::InvalidArgument | Code::FailedPrecondition),
                    "{what}: {status:?}"
                );
            }
            Ok(call) => {
                let (code, message) = status_of(&call.finish().await);
                assert!(matches!(code, Code::InvalidArgument | Code::FailedPrecondition), "{what}: {code:?} {message}");
            }
        }
    }
    for directory in ["/", "/tmp", "..", "a/../.."] {
        let action = shell("true").directory(directory).input("a/b", Input::Folder).store(&cache).await;
        assert_invalid(&Call::execute(&cache, &action).await.map(drop), directory);
    }
}

#[tokio::test]
async fn j29_the_executable_bit_goes_in_and_out() {
    let (_server, _worker, cache) = farm().await;
    let job = shell("test -x run.sh && test ! -x text && ./run.sh; cp run.sh copied; cp text plain; chmod +x plain; chmod -x copied")
        .outputs(&["copied", "plain", "run.sh", "text"])
        .input("run.sh", Input::script("#!/bin/sh\necho ran\n"))
        .input("text", Input::text("text"));
    let result = job.succeed(&cache).await;
    assert_eq!(said(&cache, &result).await, "ran\n");
    let script = "#!/bin/sh\necho ran\n";
    let starred = format!("*{script}");
    assert_eq!(
        made(&cache, &result).await,
        listing(&[("copied", script), ("plain", "*text"), ("run.sh", &starred), ("text", "text")])
    );
}

/// As the capabilities say: allowed, kept to the letter. What they point to is not looked at.
#[tokio::test]
async fn j30_absolute_symlinks_are_treated_as_advertised() {
    let (_server, _worker, cache) = farm().await;
    let capabilities = cache.capabilities().await.expect("GetCapabilities").cache_capabilities.expect("of the cache");
    let allowed =
        bazel_remote_apis::build::bazel::remote::execution::v2::symlink_absolute_path_strategy::Value::Allowed;
    let job = shell("readlink in; ln -s /etc/hostname out; mkdir d; ln -s /etc d/out")
        .outputs(&["d", "in", "out"])
        .input("in", Input::Symlink("/usr/bin/env"));
    if capabilities.symlink_absolute_path_strategy() == allowed {
        let result = job.succeed(&cache).await;
        assert_eq!(said(&cache, &result).await, "/usr/bin/env\n");
        let expected = [("d", "/"), ("d/out", "-> /etc"), ("in", "-> /usr/bin/env"), ("out", "-> /etc/hostname")];
        assert_eq!(made(&cache, &result).await, listing(&expected));
    } else {
        let action = job.store(&cache).await;
        assert_invalid(&Call::execute(&cache, &action).await.map(drop), "an absolute symlink");
    }
}

/// Fault 23 for outputs.
#[tokio::test]
async fn j31_an_output_path_may_leave_the_working_directory_and_never_the_input_root() {
    let (_server, _worker, cache) = farm().await;
    let job = shell("echo 1 > ../one; echo 2 > ../../two; mkdir -p ../../d; echo 3 > ./three; echo 4 > ../../d/four")
        .directory("a/b")
        .outputs(&["../../d", "../../two", "../one", "./three"])
        .input("a/b", Input::Folder);
    let result = job.succeed(&cache).await;
    let expected =
        [("../../d", "/"), ("../../d/four", "4\n"), ("../../two", "2\n"), ("../one", "1\n"), ("./three", "3\n")];
    assert_eq!(made(&cache, &result).await, listing(&expected), "called as the client called them");
    for path in ["../../../x", "../../..", "/x", "/etc/passwd", "x/../../../../x", "x\0y", "x/"] {
        let mut old = shell("true").directory("a/b").input("a/b", Input::Folder);
        old.command.output_files = texts(&[path]);
        for job in [shell("true").directory("a/b").outputs(&[path]).input("a/b", Input::Folder), old] {
            let action = job.store(&cache).await;
            assert_invalid(&Call::execute(&cache, &action).await.map(drop), path);
        }
    }
    let twice = shell("true").outputs(&["x", "x"]).store(&cache).await;
    assert_invalid(&Call::execute(&cache, &twice).await.map(drop), "an output twice");
}

/// Fault 24: what an action puts in an output's way leads nowhere, and shows nothing of the worker's machine.
#[tokio::test]
async fn outputs_are_not_collected_through_symlinks() {
    let (_server, _worker, cache) = farm().await;
    let outside = tempfile::tempdir().expect("a folder");
    std::fs::write(outside.path().join("secret"), "secret").expect("a file");
    let elsewhere = outside.path().to_str().expect("text");
    for (what, script, outputs) in [
        ("a parent that is a link", format!("ln -s {elsewhere} out"), &["out/secret"][..]),
        ("a parent of a parent", format!("mkdir d; ln -s {elsewhere} d/out"), &["d/out/secret"]),
        ("a parent that was there", format!("rmdir deep/er; ln -s {elsewhere} deep/er"), &["deep/er/secret"]),
        ("a relative way", format!("ln -s ../../../../../../../../../..{elsewhere} out"), &["out/secret"]),
    ] {
        let response = shell(&script).outputs(outputs).run(&cache).await;
        if status_of(&response).0 == Code::Ok {
            let all = made(&cache, &result_of(&response)).await;
            assert!(all.is_empty(), "{what}: {all:?}");
        } else {
            assert_eq!(status_of(&response).0, Code::FailedPrecondition, "{what}");
        }
        let found = cache.is_present(&digest_of(b"secret")).await;
        assert!(!found, "{what}: it was uploaded");
    }
    // The link itself is an output like any other.
    let result = shell(&format!("ln -s {elsewhere} out")).outputs(&["out"]).succeed(&cache).await;
    assert_eq!(made(&cache, &result).await, listing(&[("out", &format!("-> {elsewhere}"))]));
}

fn only_folder(result: &ActionResult) -> &OutputDirectory {
    assert_eq!(result.output_directories.len(), 1);
    &result.output_directories[0]
}

/// The Directory messages below a digest, each fetched from the CAS.
async fn fetched(
    cache: &Cache,
    root: &bazel_remote_apis::build::bazel::remote::execution::v2::Digest,
) -> Vec<Directory> {
    let directory =
        Directory::decode(&cache.read(root).await.expect("a Directory in the CAS")[..]).expect("a Directory");
    let mut all = vec![directory.clone()];
    for child in &directory.directories {
        all.extend(Box::pin(fetched(cache, child.digest.as_ref().expect("a digest"))).await);
    }
    all
}

#[tokio::test]
async fn j32_where_directories_are_asked_for_all_of_them_are_stored() {
    let (_server, _worker, cache) = farm().await;
    for (format, has_tree, has_root) in [
        (OutputDirectoryFormat::TreeOnly, true, None),
        (OutputDirectoryFormat::DirectoryOnly, false, Some(())),
        (OutputDirectoryFormat::TreeAndDirectory, true, Some(())),
    ] {
        let mut job = shell(MAKE_ALL).outputs(&["d"]);
        job.command.output_directory_format = format as i32;
        let result = job.succeed(&cache).await;
        let folder = only_folder(&result);
        if has_tree {
            let tree = tree_of(&cache, folder).await;
            if let Some(root) = &folder.root_directory_digest {
                assert_eq!(*root, digest_of_message(&tree[0]), "{format:?}");
            }
        }
        if has_root.is_some() {
            let root = folder.root_directory_digest.as_ref().expect("a root");
            let all = fetched(&cache, root).await;
            let names: BTreeSet<_> =
                all.iter().flat_map(|folder| folder.files.iter().map(|file| file.name.clone())).collect();
            assert_eq!(names, texts(&["nothing", "x"]).into_iter().collect(), "{format:?}");
            assert_eq!(all.len(), 3, "{format:?}");
        }
        // A hit of it is complete.
        cache.get_action(&job.packed().action).await.expect("GetActionResult");
    }
    let mut unknown = shell(MAKE_ALL).outputs(&["d"]);
    unknown.command.output_directory_format = 77;
    let result = unknown.succeed(&cache).await;
    assert!(only_folder(&result).tree_digest.is_some(), "what is unknown is a Tree");
}

/// The strict encoding: the root, then each other directory once, parents before children, none that is not referred to, and
/// nothing else in the message.
#[tokio::test]
async fn j33_a_tree_that_claims_to_be_sorted_is() {
    let (_server, _worker, cache) = farm().await;
    let script = "mkdir -p d/a/b/c d/z/b/c d/m; echo 1 > d/a/b/c/f; echo 1 > d/z/b/c/f; echo 2 > d/m/g";
    let result = shell(script).outputs(&["d"]).succeed(&cache).await;
    let folder = only_folder(&result);
    assert!(folder.is_topologically_sorted);
    let encoded = cache.read(folder.tree_digest.as_ref().expect("a Tree")).await.expect("the Tree in the CAS");
    let tree = Tree::decode(&encoded[..]).expect("a Tree");
    assert_eq!(tree.encode_to_vec(), encoded, "fields in order, nothing else");
    let digests: Vec<_> = tree.children.iter().map(digest_of_message).collect();
    let distinct: BTreeSet<_> = digests.iter().map(|digest| digest.hash.clone()).collect();
    // a, z (of equal content, so one), m, b, c.
    assert_eq!((digests.len(), distinct.len()), (4, 4), "each directory once");
    let mut known: BTreeSet<String> = BTreeSet::new();
    let children = |directory: &Directory| -> Vec<String> {
        directory.directories.iter().map(|child| child.digest.as_ref().expect("a digest").hash.clone()).collect()
    };
    known.extend(children(tree.root.as_ref().expect("a root")));
    for (digest, directory) in digests.iter().zip(&tree.children) {
        assert!(known.contains(&digest.hash), "a directory stands before all that refer to it");
        known.extend(children(directory));
    }
    for directory in tree.children.iter().chain(&tree.root) {
        let names: Vec<_> = directory.files.iter().map(|file| &file.name).collect();
        assert!(names.is_sorted());
        let names: Vec<_> = directory.directories.iter().map(|child| &child.name).collect();
        assert!(names.is_sorted());
    }
}

#[tokio::test]
async fn j34_a_tree_has_the_same_digest_on_every_run_and_worker() {
    let (server, _worker, cache) = farm().await;
    let options = WorkerOptions { name: "w2".to_owned(), ..WorkerOptions::default() };
    let _another = crate::support::worker::Worker::start(&server, &options);
    let mut digests = BTreeSet::new();
    // Made in different orders: a folder's order on disk is not its order in the Tree.
    for order in ["b a c", "c b a", "a c b", "a b c"] {
        let script = format!("mkdir d; for n in {order}; do mkdir d/$n; echo $n > d/$n/f; echo $n > d/f$n; done");
        let result = shell(&script).outputs(&["d"]).do_not_cache().succeed(&cache).await;
        digests.insert(only_folder(&result).tree_digest.as_ref().expect("a Tree").hash.clone());
    }
    assert_eq!(digests.len(), 1);
}

#[tokio::test]
async fn j35_node_properties_asked_for_come_back_and_unknown_ones_are_refused() {
    let (_server, _worker, cache) = farm().await;
    let script =
        "mkdir d; echo 1 > f; echo 2 > d/g; chmod 640 f; chmod 755 d/g; touch -d '2001-02-03 04:05:06 UTC' f d/g";
    let mut job = shell(script).outputs(&["d", "f"]);
    job.command.output_node_properties = texts(&["mtime", "unix_mode"]);
    let result = job.succeed(&cache).await;
    let check = |properties: &Option<NodeProperties>, mode: u32| {
        let properties = properties.as_ref().expect("node properties");
        assert_eq!(properties.mtime.as_ref().expect("a time").seconds, 981_173_106);
        assert_eq!(properties.unix_mode.as_ref().expect("a mode").value & 0o7777, mode);
    };
    check(&result.output_files[0].node_properties, 0o640);
    let tree = tree_of(&cache, only_folder(&result)).await;
    check(&tree[0].files[0].node_properties, 0o755);
    // Not asked for, not there: they would make every Tree another.
    let plain = shell(script).outputs(&["d", "f"]).succeed(&cache).await;
    assert_eq!(plain.output_files[0].node_properties, None);
    assert_eq!(tree_of(&cache, only_folder(&plain)).await[0].files[0].node_properties, None);
    for unknown in ["owner", "", "MTIME"] {
        let mut job = shell("true").outputs(&["f"]);
        job.command.output_node_properties = texts(&[unknown]);
        let action = job.store(&cache).await;
        assert_invalid(&Call::execute(&cache, &action).await.map(drop), unknown);
    }
}

/// Fault 38, the rest of the table: outputs inside outputs, inputs as outputs, folders of equal content.
#[tokio::test]
async fn outputs_may_lie_in_each_other_and_be_inputs() {
    let (_server, _worker, cache) = farm().await;
    let job = shell("mkdir -p d/e; echo 1 > d/e/f; cp in d/in")
        .outputs(&["d", "d/e", "d/e/f", "in"])
        .input("in", Input::text("in"));
    let result = job.succeed(&cache).await;
    let files: BTreeSet<_> = result.output_files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(files, BTreeSet::from(["d/e/f", "in"]));
    let folders: BTreeSet<_> = result.output_directories.iter().map(|folder| folder.path.as_str()).collect();
    assert_eq!(folders, BTreeSet::from(["d", "d/e"]));
    for folder in &result.output_directories {
        let tree = tree_of(&cache, folder).await;
        assert!(!tree.is_empty());
    }
    let equal = shell("mkdir -p d/a d/b d/c/a; echo x > d/a/f; echo x > d/b/f; echo x > d/c/a/f").outputs(&["d"]);
    let result = equal.succeed(&cache).await;
    assert_eq!(tree_of(&cache, only_folder(&result)).await.len(), 3, "the root, `c`, and one for all that are equal");
}

/// Fault 30: an action that does what it can to its inputs. The next one, and the cache, have them as they were.
#[tokio::test]
async fn an_action_cannot_alter_inputs_for_others() {
    let (_server, _worker, cache) = farm().await;
    let inputs = |job: Job| {
        job.input("text", Input::text("as it was")).input("d/run.sh", Input::script("#!/bin/sh\necho as it was\n"))
    };
    let vandal = "for f in text d/run.sh; do chmod 777 $f; echo vandal >> $f; echo vandal > $f; \
                  mv $f $f.old; echo mine > $f; ln -f $f.old $f.link; echo vandal >> $f.link; truncate -s 0 $f.old; done; \
                  chmod -R 0 d; true";
    let look =
        "cat text; stat -c %A text | cut -c4; ./d/run.sh; stat -c %A d/run.sh | cut -c4; ls -A . d | tr '\\n' ' '";
    let before = inputs(shell(look)).do_not_cache().succeed(&cache).await;
    for _ in 0..3 {
        let _ = inputs(shell(vandal)).do_not_cache().run(&cache).await;
        let after = inputs(shell(look)).do_not_cache().succeed(&cache).await;
        assert_eq!(said(&cache, &after).await, said(&cache, &before).await);
    }
    assert!(said(&cache, &before).await.starts_with("as it was"));
    assert_eq!(cache.read(&digest_of(b"as it was")).await.expect("Read"), b"as it was");
}

/// Fault 31: "text file busy". Files that were written a moment ago, run at once, many at a time.
#[tokio::test]
async fn fresh_executables_run_at_once_and_never_say_text_file_busy() {
    let options = WorkerOptions { concurrency: 16, ..WorkerOptions::default() };
    let (_server, _worker, cache) = farm_with(&[], &options).await;
    let mut running = Vec::new();
    for number in 0..128 {
        let cache = cache.clone();
        running.push(tokio::spawn(async move {
            let script = format!("#!/bin/sh\necho number {number}\n");
            let command = Command { arguments: texts(&["./fresh"]), ..Command::default() };
            let job = Job { command, ..Job::default() }.input("fresh", Input::script(&script));
            let result = job.succeed(&cache).await;
            assert_eq!(said(&cache, &result).await, format!("number {number}\n"));
        }));
    }
    for one in running {
        one.await.expect("it ran");
    }
}
