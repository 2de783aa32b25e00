//! `cask run` and `cask execute` against a server and a worker: as if the command ran here.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::{Server, cask, run, text};

/// A server that executes and a worker; the latter is killed when dropped.
struct Farm {
    server: Server,
    worker: Child,
    folder: tempfile::TempDir,
}

impl Farm {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Root's worker runs commands as others, who have to pass it.
        let passable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), passable).expect("its mode");
        let server = Server::start(&folder.path().join("store"), |command| {
            command.arg("--execution");
        });
        let mut command =
            cask(&["worker", "--server", &format!("grpc://{}", server.address()), "--concurrency", "2", "--dir"]);
        command.arg(folder.path().join("worker")).stderr(Stdio::null());
        let mut worker = command.spawn().expect("the binary starts");
        let mut lines = BufReader::new(worker.stdout.take().expect("a piped stdout")).lines();
        assert!(lines.any(|line| line.expect("text").contains(" is connected to ")), "the worker connects");
        Self { server, worker, folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("text").to_owned()
    }

    /// What a client command printed on both outputs, and its exit code.
    fn ask(&self, arguments: &[&str]) -> (String, String, Option<i32>) {
        let output = run(cask(arguments).env("CASK_SERVER", self.server.address()).current_dir(self.folder.path()));
        (text(&output.stdout), text(&output.stderr), output.status.code())
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        let _ = self.worker.kill();
        let _ = self.worker.wait();
    }
}

fn file(path: &str, content: &str) {
    let path = Path::new(path);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    std::fs::write(path, content).expect("written");
}

#[test]
fn a_command_runs_as_if_it_ran_here() {
    let farm = Farm::start();
    file(&farm.path("in/src/one"), "1\n");
    file(&farm.path("in/two"), "2\n");
    let script = "cat one ../two; echo complaint >&2; mkdir -p made/deep; echo x > made/deep/x; chmod +x made/deep/x; \
                  ln -s one link; echo $COLOR > ../beside";
    let (stdout, stderr, code) = farm.ask(&[
        "run",
        "--input",
        "in",
        "--working-directory",
        "src",
        "--output",
        "made",
        "--output",
        "link",
        "--output",
        "../beside",
        "--output",
        "absent",
        "--output-dir",
        "out",
        "--env",
        "COLOR=red",
        "--",
        "/bin/sh",
        "-c",
        script,
    ]);
    assert_eq!((stdout.as_str(), code), ("1\n2\n", Some(0)), "{stderr}");
    assert_eq!(stderr, "complaint\ncask: the command did not make absent\n");
    let read = |name: &str| std::fs::read_to_string(farm.path(name)).expect(name);
    assert_eq!((read("out/src/made/deep/x"), read("out/beside")), ("x\n".to_owned(), "red\n".to_owned()));
    assert_eq!(std::fs::read_link(farm.path("out/src/link")).expect("a link"), Path::new("one"));
    let mode = std::fs::metadata(farm.path("out/src/made/deep/x")).expect("there").permissions();
    let mode = std::os::unix::fs::PermissionsExt::mode(&mode);
    assert_eq!(mode & 0o100, 0o100);
}

/// Codes of the command are the command's; ours come with a line of ours.
#[test]
fn it_ends_as_the_command_did() {
    let farm = Farm::start();
    for code in [0, 1, 2, 3, 124, 125, 255] {
        let exit = format!("exit {code}");
        let (stdout, stderr, found) = farm.ask(&["run", "--", "/bin/sh", "-c", &exit]);
        assert_eq!((stdout.as_str(), stderr.as_str(), found), ("", "", Some(code)));
    }
    for (arguments, code, said) in [
        (&["run", "--timeout", "500ms", "--", "/bin/sh", "-c", "echo before; sleep 1000"][..], 124, "cask: timed out"),
        (&["run", "--input", "/no/such/folder", "--", "true"], 125, "cannot read /no/such/folder"),
        (&["run", "--output", "../x", "--", "true"], 125, "leads out of the input root"),
        (&["run", "--env", "X", "--", "true"], 125, "write NAME=VALUE"),
        (&["run"], 125, "COMMAND"),
        (&["run", "--server", "grpc://127.0.0.1:1", "--", "true"], 125, "cannot connect"),
        (&["execute", "abc"], 125, "write HASH/SIZE"),
    ] {
        let (_, stderr, found) = farm.ask(arguments);
        assert_eq!(found, Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    }
    let absent = format!("{}/5", "ab".repeat(32));
    let (_, stderr, code) = farm.ask(&["execute", &absent]);
    assert_eq!(code, Some(125));
    assert!(stderr.contains("1 blobs are not in the cache") && stderr.contains(&absent), "{stderr}");
}

#[test]
fn a_cached_result_is_used_unless_it_is_not_wanted() {
    let farm = Farm::start();
    let random = ["--", "/bin/sh", "-c", "od -An -N16 -tx1 /dev/urandom"];
    let ask = |flags: &[&str]| farm.ask(&[&["run"], flags, &random[..]].concat()).0;
    let first = ask(&[]);
    assert_eq!(first.len(), 49, "{first}");
    assert_eq!(ask(&[]), first);
    let second = ask(&["--skip-cache"]);
    assert_ne!(second, first);
    assert_eq!(ask(&[]), second);
    assert_ne!(ask(&["--no-cache"]), second);
    assert_ne!(ask(&["--no-cache"]), ask(&["--no-cache"]));
}

/// The output is there while the command runs, and ^C ends it everywhere.
#[test]
fn output_is_live_and_an_interrupt_cancels() {
    let farm = Farm::start();
    let mut command = cask(&["run", "--", "/bin/sh", "-c", "echo one; echo two; sleep 1000; echo three"]);
    let mut child = command.env("CASK_SERVER", farm.server.address()).spawn().expect("the binary starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    for expected in ["one", "two"] {
        assert_eq!(lines.next().expect("a line").expect("text"), expected);
    }
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("an id")).expect("not zero");
    kill_process(pid, Signal::INT).expect("it runs");
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    assert_eq!(child.wait().expect("it ends").code(), Some(130), "{said}");
    assert!(said.contains("cask: cancelling") && said.contains("cask: cancelled"), "{said}");
    assert!(lines.next().is_none(), "nothing is printed twice");
    // Its worker is free again: both places of it.
    for _ in 0..2 {
        assert_eq!(farm.ask(&["run", "--no-cache", "--", "/bin/sh", "-c", "echo ran"]).0, "ran\n");
    }
}

/// Everything that was printed, once and in order, though half of it came through a log and half with the result.
#[test]
fn nothing_is_lost_or_doubled_between_the_log_and_the_result() {
    let farm = Farm::start();
    let script = "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); [ $((i % 50)) = 0 ] && sleep 0.4; done; \
                  seq 1000000 1200000";
    let (stdout, stderr, code) = farm.ask(&["run", "--", "/bin/sh", "-c", script]);
    assert_eq!(code, Some(0), "{stderr}");
    let expected: Vec<String> =
        (0..200).map(|n| format!("line {n}")).chain((1_000_000..=1_200_000).map(|n: u32| n.to_string())).collect();
    let found: Vec<&str> = stdout.lines().collect();
    assert_eq!(found.len(), expected.len());
    assert!(found == expected, "in order");
}

/// An action that `cask run` left in the cache, by its digest.
#[test]
fn an_action_in_the_cache_is_executed_by_its_digest() {
    let farm = Farm::start();
    // The same message as anybody would make: a command, an empty root.
    let (_, stderr, code) =
        farm.ask(&["run", "--output", "out", "--output-dir", "first", "--", "/bin/sh", "-c", "echo made > out"]);
    assert_eq!(code, Some(0), "{stderr}");
    let action = action_of_made();
    file(&farm.path("action"), "");
    std::fs::write(farm.path("action"), &action).expect("written");
    let (digest, stderr, code) = farm.ask(&["upload", "action"]);
    assert_eq!(code, Some(0), "{stderr}");
    let digest = digest.split_whitespace().next().expect("a digest").to_owned();
    let (_, stderr, code) = farm.ask(&["execute", &digest, "--skip-cache", "--output-dir", "second"]);
    assert_eq!(code, Some(0), "{stderr}");
    for folder in ["first", "second"] {
        assert_eq!(std::fs::read_to_string(farm.path(&format!("{folder}/out"))).expect("there"), "made\n");
    }
}

/// The Action of that command, encoded by types that are not ours.
fn action_of_made() -> Vec<u8> {
    use bazel_remote_apis::build::bazel::remote::execution::v2::{Action, Command, Digest};
    use prost::Message as _;
    let digest_of = |bytes: &[u8]| {
        let digest = cask_index::Hasher::digest(cask_index::DigestFunction::Sha256, bytes);
        Digest { hash: digest.hash_hex(), size_bytes: bytes.len() as i64 }
    };
    let arguments = ["/bin/sh", "-c", "echo made > out"].map(str::to_owned).to_vec();
    let command = Command { arguments, output_paths: vec!["out".to_owned()], ..Command::default() };
    let action = Action {
        command_digest: Some(digest_of(&command.encode_to_vec())),
        input_root_digest: Some(digest_of(b"")),
        ..Action::default()
    };
    action.encode_to_vec()
}
