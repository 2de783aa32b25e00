//! What a level keeps apart: inputs from their readers, runs from each other, a sandbox from the machine.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use cask_executor::runner::Level;

use super::{Trials, is_root};
use crate::rig::{Action, Rig, mark, marked, until};

pub(super) fn add(trials: &mut Trials) {
    trials.at_each_level("inputs_cannot_be_altered_through_their_links", inputs_cannot_be_altered_through_their_links);
    trials.at_each_level("runs_do_not_see_each_other", runs_do_not_see_each_other);
    trials.at_each_level("folders_of_the_input_belong_to_the_command", folders_of_the_input_belong_to_the_command);
    trials.once("sandbox::tmp_is_its_own", tmp_is_its_own);
    trials.once("sandbox::the_network_is_an_empty_one_unless_asked_for", the_network_is_an_empty_one_unless_asked_for);
    trials.once(
        "sandbox::the_machine_is_read_only_and_hides_what_is_hidden",
        the_machine_is_read_only_and_hides_what_is_hidden,
    );
    trials.once("sandbox::nothing_of_the_workers_folder_is_seen", nothing_of_the_workers_folder_is_seen);
    trials.once("sandbox::the_input_root_can_be_the_root", the_input_root_can_be_the_root);
    trials.once("sandbox::a_command_is_who_it_was_told", a_command_is_who_it_was_told);
    trials.once("sandbox::nothing_opens_a_way_out", nothing_opens_a_way_out);
}

/// Fault: an action that writes to, changes the mode of, or cuts a hard-linked input changes the cache and other actions.
async fn inputs_cannot_be_altered_through_their_links(level: Level) {
    if !is_root("inputs_cannot_be_altered_through_their_links") {
        return;
    }
    let rig = Rig::start(level).await;
    let cached = rig.dir.path().join("cached");
    fs::write(&cached, "as it was").expect("a cached file");
    fs::set_permissions(&cached, fs::Permissions::from_mode(0o555)).expect("its mode");
    let before = fs::metadata(&cached).expect("it is there");
    let action = rig.shell(
        "echo bad >>f; echo bad >f; chmod 777 f; chmod u+w f; truncate -s 0 f; touch -d 2001-01-01 f; chown $(id -u) f; \
         mv f g; echo bad >>g; chmod 777 g; truncate -s 1 g; ln g h; echo bad >>h; dd if=/dev/zero of=g conv=notrunc count=1; \
         setfattr -n user.x -v y g; cp g new; chmod u+w new; echo mine >>new; cat new; rm -f g h; ls; test -w new",
    );
    fs::hard_link(&cached, action.root().join("f")).expect("a link");
    let ended = action.run().await.expect("it runs");
    assert_eq!((ended.exit_code, ended.stdout.as_str()), (0, "as it wasmine\nnew\n"), "{}", ended.stderr);
    let after = fs::metadata(&cached).expect("it is there");
    assert_eq!(fs::read_to_string(&cached).expect("it can be read"), "as it was");
    assert_eq!(
        (before.mode(), before.uid(), before.gid(), before.mtime(), before.len()),
        (after.mode(), after.uid(), after.gid(), after.mtime(), after.len())
    );
}

async fn runs_do_not_see_each_other(level: Level) {
    if level == Level::Host && !is_root("runs_do_not_see_each_other at the host level") {
        return;
    }
    let rig = Rig::start(level).await;
    let mark = mark();
    let other = rig.shell(&format!("echo secret >made; chmod 777 made; echo secret >$TMPDIR/made; sleep {mark}"));
    let secret = other.root().join("made");
    let kept = rig.shell("echo secret >made");
    kept.run().await.expect("it runs");
    let other = tokio::spawn(async move { other.run().await });
    until("the other run's file", || secret.exists()).await;
    for place in
        [secret.display().to_string(), kept.root().join("made").display().to_string(), "../../0/root/made".to_owned()]
    {
        let action =
            rig.shell(&format!("cat {place}; echo bad >{place}; echo bad >{place}x; ls $(dirname {place}); ls ../.."));
        let ended = action.run().await.expect("it runs");
        assert!(!ended.stdout.contains("made"), "{place}: {}", ended.stdout);
        assert!(!ended.stdout.contains("secret"), "{place}: {}", ended.stdout);
    }
    for place in [&secret, &kept.root().join("made")] {
        assert_eq!(fs::read_to_string(place).expect("it is there"), "secret\n");
    }
    // Nor can one end the other.
    let pids: Vec<_> = marked(&mark).iter().map(ToString::to_string).collect();
    assert!(!pids.is_empty());
    let ended = rig.shell(&format!("kill -KILL {}", pids.join(" "))).run().await.expect("it runs");
    assert_ne!(ended.exit_code, 0);
    assert!(!marked(&mark).is_empty(), "it still runs");
    other.abort();
    until("the end of the other", || marked(&mark).is_empty()).await;
}

/// As tools expect that unpack into, or set the times of, a folder that is there.
async fn folders_of_the_input_belong_to_the_command(level: Level) {
    let rig = Rig::start(level).await;
    let action = rig
        .shell("chmod 755 . a a/b && touch -d 2001-01-01 a a/b && touch a/b/new && rm a/b/file && test -O a/b")
        .input("a/b/file", "", 0o444);
    let ended = action.run().await.expect("it runs");
    assert_eq!(ended.exit_code, 0, "{}", ended.stderr);
}

async fn tmp_is_its_own() {
    let rig = Rig::start(Level::Sandbox).await;
    let name = format!("cask-{}", mark());
    let action = rig.shell(&format!(
        "test -z \"$(ls /tmp)\" || ls /tmp; for d in /tmp /var/tmp /dev/shm; do echo x >$d/{name} || exit 1; done"
    ));
    let ended = action.run().await.expect("it runs");
    assert_eq!((ended.exit_code, ended.stderr.as_str()), (0, ""));
    if !rig.dir.path().starts_with("/tmp") {
        assert_eq!(ended.stdout, "");
    }
    for folder in ["/tmp", "/var/tmp", "/dev/shm"] {
        assert!(!Path::new(folder).join(&name).exists(), "{folder}");
    }
    assert!(action.folder.join("tmp").join(&name).exists());
    // Without a temporary folder of the worker there is one in memory.
    let mut action = rig.shell("echo x >/tmp/x && echo x >/var/tmp/x && cat /tmp/x");
    action.request.temporary_directory.clear();
    assert_eq!(action.run().await.expect("it runs").stdout, "x\n");
}

async fn the_network_is_an_empty_one_unless_asked_for() {
    let rig = Rig::start(Level::Sandbox).await;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port} && echo connected; grep -c : /proc/net/dev");
    let mut action = rig.action(&["/bin/bash", "-c", &script]);
    let ended = action.run().await.expect("it runs");
    assert_eq!(ended.stdout, "1\n", "the loopback device alone: {}", ended.stderr);
    // Up: a connection is refused, not unreachable.
    assert!(ended.stderr.contains("refused"), "{}", ended.stderr);
    action = rig.action(&["/bin/bash", "-c", &script]);
    action.options.network = true;
    assert!(action.run().await.expect("it runs").stdout.starts_with("connected\n"));
    // Names without an address, too: the abstract sockets of the machine are those of its network.
    let ended = rig.shell("cat /proc/net/unix").run().await.expect("it runs");
    assert!(!ended.stdout.contains('@'), "{}", ended.stdout);
}

async fn the_machine_is_read_only_and_hides_what_is_hidden() {
    let outside = crate::rig::folder();
    fs::write(outside.path().join("there"), "").expect("a file");
    fs::create_dir(outside.path().join("shown")).expect("a folder");
    fs::write(outside.path().join("shown/there"), "shown").expect("a file");
    let hidden = outside.path().to_owned();
    let rig = Rig::start_with(Level::Sandbox, |options| {
        options.hidden.push(hidden.clone());
        options.shown.push(hidden.join("shown"));
    })
    .await;
    let ended = rig
        .shell(&format!(
            "for p in / /etc /usr /run /home /root /dev {0}/shown; do (echo bad >$p/cask-test) 2>/dev/null && echo $p can be written; done; \
             ls /run /home /root; ls {0}; cat {0}/shown/there; ls {1}; hostname; echo /proc/[0-9]*; ls -d /usr/bin /etc/passwd",
            outside.path().display(),
            rig.build_dir().display()
        ))
        .run()
        .await
        .expect("it runs");
    assert_eq!(
        ended.stdout, "/home:\n\n/root:\n\n/run:\nshown\nshown0\ncask\n/proc/1 /proc/2\n/etc/passwd\n/usr/bin\n",
        "{}",
        ended.stderr
    );
}

/// Only the build folder was hidden: the kept inputs of all actions, beside it, could be read by every command.
async fn nothing_of_the_workers_folder_is_seen() {
    let rig = Rig::start_with(Level::Sandbox, |options| {
        let folder = options.build_dir.parent().expect("a folder around it").to_owned();
        fs::create_dir(folder.join("inputs")).expect("a folder");
        options.hidden.push(folder);
    })
    .await;
    let action = rig.shell(&format!("ls {0}; pwd; cat f; echo made >{1}/made", rig.dir.path().display(), "$PWD"));
    fs::write(action.root().join("f"), "an input\n").expect("an input");
    let ended = action.run().await.expect("it runs");
    let expected = format!("build\n{}\nan input\n", action.root().display());
    assert_eq!((ended.exit_code, ended.stdout), (0, expected), "{}", ended.stderr);
    assert_eq!(fs::read_to_string(action.root().join("made")).expect("made"), "made\n");
}

/// What BuildStream's commands need: a root of their own, with /dev, /proc and /tmp in it, and nothing of these left in the outputs.
async fn the_input_root_can_be_the_root() {
    let rig = Rig::start(Level::Sandbox).await;
    let script = "echo /*; pwd; echo x >/made; echo x >/tmp/x; test -c /dev/null && echo /dev/*; test -d /proc/self && echo $$; \
                  cd sub && read line <file && echo $line";
    for with_tmp in [false, true] {
        let mut action = with_a_shell(rig.action(&["/bin/sh", "-c", script])).input("sub/file", "as it was\n", 0o444);
        if with_tmp {
            action = action.input("tmp/kept", "kept", 0o444);
        }
        action.options.input_root_is_filesystem_root = true;
        let ended = action.run().await.expect("it runs");
        let lines: Vec<_> = ended.stdout.lines().collect();
        let root: Vec<_> = lines[0].split(' ').filter(|name| !name.starts_with("/lib")).collect();
        assert_eq!(root, ["/bin", "/dev", "/proc", "/sub", "/tmp"], "{}", ended.stderr);
        assert_eq!(lines[1], "/");
        assert!(lines[2].contains("/dev/null") && lines[2].contains("/dev/urandom"), "{}", lines[2]);
        assert_eq!(lines[3..], ["2", "as it was"]);
        assert_eq!(ended.exit_code, 0, "{}", ended.stderr);
        let mut left: Vec<_> = names(&action.root());
        left.retain(|name| !name.starts_with("lib"));
        let expected: &[&str] = if with_tmp { &["bin", "made", "sub", "tmp"] } else { &["bin", "made", "sub"] };
        assert_eq!(left, expected);
        if with_tmp {
            assert_eq!(names(&action.root().join("tmp")), ["kept"]);
        }
    }
    // The working directory counts from there, and a root that cannot be mounted on is refused.
    let mut action = with_a_shell(rig.action(&["/bin/sh", "-c", "pwd"])).input("sub/file", "", 0o444);
    action.options.input_root_is_filesystem_root = true;
    action.request.working_directory = "sub".to_owned();
    assert_eq!(action.run().await.expect("it runs").stdout, "/sub\n");
    let mut action = rig.action(&["/bin/sh"]).input("proc", "", 0o444);
    action.options.input_root_is_filesystem_root = true;
    assert_eq!(action.run().await.expect_err("it cannot be").code(), tonic::Code::InvalidArgument);
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    names
}

/// Copies this machine's shell and what it is linked to into the input root.
fn with_a_shell(action: Action) -> Action {
    let linked = Command::new("ldd").arg("/bin/sh").output().expect("ldd runs").stdout;
    let linked = String::from_utf8(linked).expect("text");
    for path in linked.split_whitespace().filter(|word| word.starts_with('/')).chain(["/bin/sh"]) {
        let place = action.root().join(&path[1..]);
        fs::create_dir_all(place.parent().expect("it is in the root")).expect("its folder");
        fs::copy(path, place).expect("a copy");
    }
    action
}

async fn a_command_is_who_it_was_told() {
    let rig = Rig::start(Level::Sandbox).await;
    for (user, group, expected) in [(None, None, "1000 1000"), (Some(0), Some(0), "0 0"), (Some(7), Some(8), "7 8")] {
        let mut action =
            rig.shell("echo $(id -u) $(id -G); echo x >made; stat -c '%u %g' made; grep CapEff /proc/self/status");
        (action.options.user_id, action.options.group_id) = (user, group);
        let ended = action.run().await.expect("it runs");
        assert_eq!(ended.stdout, format!("{expected}\n{expected}\nCapEff:\t0000000000000000\n"), "{}", ended.stderr);
    }
}

/// The command can make namespaces inside its own; that gives it back nothing of the machine.
async fn nothing_opens_a_way_out() {
    let rig = Rig::start(Level::Sandbox).await;
    let other = rig.shell("echo secret >made");
    other.run().await.expect("it runs");
    let build_dir = rig.build_dir().display().to_string();
    for script in [
        format!("umount {build_dir}; umount /run; umount -l /proc; cat {build_dir}/0/root/made"),
        format!(
            "unshare --user --map-root-user --mount sh -c 'umount {build_dir}; umount -l {build_dir}; mount -o remount,rw /; echo bad >/cask-test; cat {build_dir}/0/root/made'"
        ),
        format!(
            "cat /proc/1/root{build_dir}/0/root/made; cat /proc/1/cwd/../0/root/made; cat /proc/1/fd/*/made; ls /proc/1/fd /proc/1/cwd/"
        ),
        "cat ../../0/root/made".to_owned(),
        "kill -KILL 1; kill -TERM 1; kill -STOP 1; exit 7".to_owned(),
    ] {
        let ended = rig.shell(&script).run().await.expect("it runs");
        assert!(!ended.stdout.contains("secret") && !ended.stdout.contains("made"), "{script}: {}", ended.stdout);
        assert_ne!(ended.exit_code, 0, "{script}");
    }
    assert!(!Path::new("/cask-test").exists());
}
