//! The runner as a process of a machine: other users, killed runners, many runs, missing features, container engines.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use cask_executor::runner::{Isolation, Level, Runner, RunnerOptions};
use tonic::Code;

use super::{LEVELS, Trials, is_root};
use crate::rig::{Action, Rig, folder, mark, marked, until};

pub(super) fn add(trials: &mut Trials) {
    trials.at_each_level("no_process_outlives_a_killed_runner", no_process_outlives_a_killed_runner);
    trials.at_each_level("a_killed_supervisor_leaves_nothing", a_killed_supervisor_leaves_nothing);
    trials.at_each_level("many_runs_leave_nothing_in_the_runner", many_runs_leave_nothing_in_the_runner);
    trials.at_each_level("a_runner_without_root_runs_commands", a_runner_without_root_runs_commands);
    trials.at_each_level("fresh_executables_are_never_busy", fresh_executables_are_never_busy);
    trials.at_each_level("runs_wait_for_a_place", runs_wait_for_a_place);
    trials.once("host::a_limit_of_processes_is_the_runs_own", a_limit_of_processes_is_the_runs_own);
    trials.once("auto_falls_back_where_namespaces_are_forbidden", auto_falls_back_where_namespaces_are_forbidden);
    trials.once("container::the_engine_gets_what_was_asked_for", the_engine_gets_what_was_asked_for);
    trials.once("cgroup::a_run_is_in_a_group_that_goes_with_it", a_run_is_in_a_group_that_goes_with_it);
    trials.once("the_socket_of_a_killed_runner_is_taken_over", the_socket_of_a_killed_runner_is_taken_over);
}

async fn no_process_outlives_a_killed_runner(level: Level) {
    let (mut rig, _) = Rig::process(level.name(), None, &[]).await;
    let mark = mark();
    let action = rig.shell(&"trap '' TERM HUP; (setsid sleep MARK &); sleep MARK & sleep MARK".replace("MARK", &mark));
    let call = tokio::spawn(async move { action.run().await });
    until("the start of three processes", || marked(&mark).len() == 3).await;
    rig.kill_runner();
    until("the end of all processes", || marked(&mark).is_empty()).await;
    assert!(call.await.expect("the call ends").is_err());
}

/// A command of the supervisor's own user can kill it. What that leaves is ended all the same.
async fn a_killed_supervisor_leaves_nothing(level: Level) {
    const SOMEBODY: u32 = 61_501;
    let owner = is_root("a_killed_supervisor_leaves_nothing with another user").then_some(SOMEBODY);
    for owner in [None, owner] {
        let (rig, _) = Rig::process(level.name(), owner, &[]).await;
        let mark = mark();
        let script = "trap '' TERM HUP; (setsid sleep MARK &); sleep MARK & sleep MARK";
        let action = rig.shell(&script.replace("MARK", &mark));
        let call = tokio::spawn(async move { action.run().await });
        until("the start of three processes", || marked(&mark).len() == 3).await;
        let children = fs::read_dir(format!("/proc/{}/task", rig.runner_pid())).expect("the runner runs").flatten();
        let children = children.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
        let supervisor = children.collect::<String>().trim().parse().ok().and_then(rustix::process::Pid::from_raw);
        let supervisor = supervisor.expect("one child");
        rustix::process::kill_process(supervisor, rustix::process::Signal::KILL).expect("it runs");
        assert_eq!(call.await.expect("the call ends").expect_err("the run failed").code(), Code::Internal);
        until("the end of all processes", || marked(&mark).is_empty()).await;
        assert_eq!(rig.shell("exit 4").run().await.expect("it runs").exit_code, 4);
    }
}

async fn many_runs_leave_nothing_in_the_runner(level: Level) {
    let (rig, _) = Rig::process(level.name(), None, &[]).await;
    let runner = format!("/proc/{}", rig.runner_pid());
    // But for sockets: it keeps one for each user that runs have had, as many as there were runs at once.
    let open = || {
        let open = fs::read_dir(format!("{runner}/fd")).expect("the runner runs").flatten();
        let targets = open.filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.filter(|target| !target.to_string_lossy().starts_with("socket:")).count()
    };
    let children = || {
        let tasks = fs::read_dir(format!("{runner}/task")).expect("the runner runs").flatten();
        tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default()).collect::<String>()
    };
    rig.shell(":").run().await.expect("it runs");
    let (before, children_before) = (open(), children());
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..1000 {
        let mut action = rig.shell(if number % 10 == 0 { "exec sleep 100 2>/dev/null" } else { "sleep 100 & exit 0" });
        tasks.spawn(async move {
            // Every tenth is dropped, at a different moment each; of these some before they begin.
            if number % 20 == 0 {
                let _ = tokio::time::timeout(std::time::Duration::from_micros(number * 20), action.run()).await;
            } else if number % 10 == 0 {
                action.options.timeout = Some(prost_types::Duration { seconds: 0, nanos: number as i32 * 10_000 });
                assert_eq!(action.run().await.expect_err("it takes too long").code(), Code::DeadlineExceeded);
            } else {
                assert_eq!(action.run().await.expect("it runs").exit_code, 0);
            }
        });
        if tasks.len() >= 16 {
            tasks.join_next().await.expect("there are some").expect("no run fails");
        }
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("no run fails");
    }
    until("the end of all supervisors", || children() == children_before).await;
    assert!(open() <= before + 2, "{before} descriptors before, {} after", open());
    let strays: Vec<_> = fs::read_dir(rig.build_dir())
        .expect("it is there")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .filter(|name| name.parse::<u64>().is_err())
        .collect();
    assert_eq!(strays, Vec::<String>::new());
}

async fn a_runner_without_root_runs_commands(level: Level) {
    const SOMEBODY: u32 = 61_500;
    if !is_root("a_runner_without_root_runs_commands") {
        return;
    }
    let (mut rig, _) = Rig::process(level.name(), Some(SOMEBODY), &[]).await;
    let mark = mark();
    let script =
        "(setsid sleep MARK &); sleep MARK & echo x >made; echo x >$TMPDIR/made; grep -c . /proc/self/uid_map; exit 3";
    let action = rig.shell(&script.replace("MARK", &mark));
    let ended = action.run().await.expect("it runs");
    assert_eq!((ended.exit_code, ended.stdout.as_str()), (3, "1\n"), "{}", ended.stderr);
    assert_eq!(marked(&mark), Vec::<u32>::new());
    assert_eq!(
        std::os::unix::fs::MetadataExt::uid(&fs::metadata(action.root().join("made")).expect("an output")),
        SOMEBODY
    );
    let action = rig.shell(&"trap '' TERM HUP; (setsid sleep MARK &); sleep MARK & sleep MARK".replace("MARK", &mark));
    let call = tokio::spawn(async move { action.run().await });
    until("the start of three processes", || marked(&mark).len() == 3).await;
    rig.kill_runner();
    until("the end of all processes", || marked(&mark).is_empty()).await;
    assert!(call.await.expect("the call ends").is_err());
}

/// Fault (golang#22315): "text file busy", when who writes executables also forks. The runner forks, and writes none.
async fn fresh_executables_are_never_busy(level: Level) {
    const AT_ONCE: usize = 64;
    let runs = std::env::var("CASK_TEST_ETXTBSY_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(1000);
    let (rig, _) = Rig::process(level.name(), None, &[]).await;
    let program = fs::read("/bin/true").expect("a program");
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..runs {
        let action = Action::make(&rig.build_dir(), &number.to_string(), &["./fresh"], rig.client());
        let place = action.root().join("fresh");
        let program = program.clone();
        tasks.spawn(async move {
            tokio::task::spawn_blocking(move || {
                fs::write(&place, program)?;
                fs::set_permissions(&place, fs::Permissions::from_mode(0o555))
            })
            .await
            .expect("no panic")
            .expect("an executable");
            let ended = action.run().await.expect("it runs");
            assert_eq!(ended.exit_code, 0, "{}", ended.stderr);
            fs::remove_dir_all(&action.folder).expect("it can be removed");
        });
        if tasks.len() >= AT_ONCE {
            tasks.join_next().await.expect("there are some").expect("no run fails");
        }
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("no run fails");
    }
}

async fn runs_wait_for_a_place(level: Level) {
    let rig = Rig::start_with(level, |options| options.concurrency = 2).await;
    let marks = [mark(), mark()];
    let running: Vec<_> = marks
        .iter()
        .map(|mark| {
            let action = rig.shell(&format!("sleep {mark}"));
            tokio::spawn(async move { action.run().await })
        })
        .collect();
    until("two runs", || marks.iter().all(|mark| !marked(mark).is_empty())).await;
    let third = rig.shell("echo run");
    let stdout = third.folder.join("stdout");
    let mut third = Box::pin(third.run());
    // However long it is polled, it has not begun before there is a place.
    for _ in 0..100 {
        assert!(futures_util::poll!(&mut third).is_pending());
        tokio::task::yield_now().await;
    }
    assert!(!stdout.exists());
    running[0].abort();
    assert_eq!(third.await.expect("it runs").stdout, "run\n");
    running[1].abort();
    until("the end of all", || marks.iter().all(|mark| marked(mark).is_empty())).await;
}

async fn a_limit_of_processes_is_the_runs_own() {
    if !is_root("a_limit_of_processes_is_the_runs_own") {
        return;
    }
    let rig = Rig::start(Level::Host).await;
    let mut action = rig.shell("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 100 & done; wait");
    action.options.processes_max = 5;
    let ended = action.run().await.expect("it runs");
    assert_ne!(ended.exit_code, 0);
    assert!(ended.stderr.contains("fork"), "{}", ended.stderr);
    let action = rig.shell("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0 & done; wait");
    assert_eq!(action.run().await.expect("it runs").exit_code, 0);
}

async fn auto_falls_back_where_namespaces_are_forbidden() {
    // A namespace in which no further user namespaces are allowed; its root is nobody outside it.
    let forbid = "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$@\"";
    let wrapper = ["unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh"];
    let (rig, level) = Rig::process("auto", None, &wrapper).await;
    // A root without other users: whoever starts it must not take commands for somebody else.
    assert_eq!(level, "host");
    let ended = rig.shell("echo run").run().await.expect("it runs");
    assert_eq!((ended.exit_code, ended.stdout.as_str()), (0, "run\n"), "{}", ended.stderr);
    let (_, level) = Rig::process("auto", None, &[]).await;
    let own_users = if rustix::process::geteuid().is_root() { " own-users" } else { "" };
    assert_eq!(level, format!("sandbox{own_users}"));
}

/// With a program in the place of an engine: no daemon, no images. It shows what an engine is told, and that it is told to stop.
async fn the_engine_gets_what_was_asked_for() {
    let engine = folder();
    let program = engine.path().join("fake-docker");
    fs::write(
        &program,
        r#"#!/bin/sh
printf '%s\n' "$@" >>"$0.told"; echo >>"$0.told"
case $1 in
version) exit 0 ;;
kill) kill -KILL -$(cat "$0.pid"); exit 0 ;;
rm) exit 0 ;;
esac
shift
while [ $# -gt 0 ]; do
  case $1 in
  --rm|--read-only) shift ;;
  --cidfile) echo id >"$2"; shift 2 ;;
  --workdir) cd "$2"; shift 2 ;;
  --entrypoint) entry=$2; shift 2 ;;
  --*) shift 2 ;;
  *) break ;;
  esac
done
[ "$1" = broken ] && { echo "no such image" >&2; rm -f ../container-id; exit 125; }
shift
echo $$ >"$0.pid"
exec "$entry" "$@"
"#,
    )
    .expect("an engine");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("its mode");
    let told = || {
        let told = fs::read_to_string(program.with_extension("told")).unwrap_or_default();
        let _ = fs::remove_file(program.with_extension("told"));
        told
    };
    let rig = Rig::start_with(Level::Container, |options| {
        options.container.engine = program.clone();
        options.container.image = Some("default".to_owned());
        options.container.allowed_images = vec!["team/*".to_owned(), "broken".to_owned()];
        options.processes_max = 50;
        options.cpu_millis_max = 1500;
    })
    .await;
    assert_eq!(told(), "version\n\n");
    let mut action = rig.shell("echo $0; pwd; exit 3").input("sub/x", "", 0o444);
    action.request.working_directory = "sub".to_owned();
    action.options.container_image = "team/gcc".to_owned();
    action.options.memory_bytes_max = 1 << 30;
    let ended = action.run().await.expect("it runs");
    let root = action.root().display().to_string();
    assert_eq!((ended.exit_code, ended.stdout), (3, format!("/bin/sh\n{root}/sub\n")), "{}", ended.stderr);
    let told_to_run = told();
    for expected in [
        "run\n--rm\n--name\ncask-",
        "--read-only\n--security-opt\nno-new-privileges\n--cap-drop\nall\n--network\nnone\n--memory\n1073741824\n--cpus\n1.500\n--pids-limit\n50\n",
        &format!(
            "--volume\n{}:/tmp\n--volume\n{root}:{root}\n--workdir\n{root}/sub\n--user\n",
            action.folder.join("tmp").display()
        ),
        "--env\nTMPDIR=/tmp\n--env\nPATH=/usr/bin:/bin\n--entrypoint\n/bin/sh\nteam/gcc\n-c\necho $0; pwd; exit 3\n\n",
    ] {
        assert!(told_to_run.contains(expected), "{expected}\nin\n{told_to_run}");
    }
    assert!(!action.folder.join("container-id").exists());
    // Without an image the default; with the network no word about it.
    let mut action = rig.shell(":");
    action.options.network = true;
    action.run().await.expect("it runs");
    let told_to_run = told();
    assert!(told_to_run.contains("\ndefault\n") && !told_to_run.contains("--network"), "{told_to_run}");
    for image in ["others/gcc", "--privileged", "broken"] {
        let mut action = rig.shell(":");
        action.options.container_image = image.to_owned();
        assert_eq!(action.run().await.expect_err(image).code(), Code::InvalidArgument);
    }
    told();
    let mark = mark();
    let mut action = rig.shell(&format!("sleep {mark} & sleep {mark}"));
    action.options.timeout = Some(prost_types::Duration { seconds: 0, nanos: 300_000_000 });
    assert_eq!(action.run().await.expect_err("it takes too long").code(), Code::DeadlineExceeded);
    assert_eq!(marked(&mark), Vec::<u32>::new());
    assert!(told().contains("kill\ncask-"));
}

async fn a_run_is_in_a_group_that_goes_with_it() {
    const DIRS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let Some(dir) = DIRS
        .iter()
        .map(std::path::Path::new)
        .find(|dir| dir.join("cgroup.procs").exists() && dir.join("cgroup.controllers").exists())
    else {
        println!("SKIPPED: control groups of version 2 are not mounted");
        return;
    };
    let dir = dir.join(format!("cask-test-{}", mark()));
    if let Err(error) = fs::create_dir(&dir) {
        println!("SKIPPED: no control group can be made: {error}");
        return;
    }
    for level in LEVELS {
        let rig = Rig::start_with(level, |options| options.cgroup = Some(dir.clone())).await;
        let inside = dir.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        let ended = rig.shell("grep ^0:: /proc/self/cgroup; sleep 100 &").run().await.expect("it runs");
        assert!(ended.stdout.contains(&format!("{inside}/cask-")), "{}", ended.stdout);
        let left: Vec<_> =
            fs::read_dir(&dir).expect("it is there").flatten().filter(|entry| entry.path().is_dir()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    fs::remove_dir(&dir).expect("it is empty");
}

async fn the_socket_of_a_killed_runner_is_taken_over() {
    let (mut rig, _) = Rig::process("host", None, &[]).await;
    rig.kill_runner();
    let socket = rig.dir.path().join("socket");
    assert!(socket.exists());
    let options = || {
        let mut options = RunnerOptions::new(rig.build_dir());
        options.isolation = Isolation::Only(Level::Host);
        options
    };
    let runner = Runner::start(options(), &socket).await.expect("nobody listens");
    assert_eq!(fs::metadata(&socket).expect("a socket").permissions().mode() & 0o777, 0o600);
    assert!(Runner::start(options(), &socket).await.is_err(), "one that is served is not");
    drop(runner);
}
