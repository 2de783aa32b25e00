//! How commands start and end: codes, signals, arguments, environment, streams, and that nothing is left of them.

use std::collections::BTreeMap;

use cask_executor::runner::Level;
use prost_types::Duration;
use tonic::Code;

use super::Trials;
use crate::rig::{Rig, mark, marked, until};

pub(super) fn add(trials: &mut Trials) {
    trials.at_each_level("commands_end_as_a_shell_would_say", commands_end_as_a_shell_would_say);
    trials.at_each_level("the_environment_is_what_was_given", the_environment_is_what_was_given);
    trials.at_each_level("the_command_is_looked_up_by_the_rules", the_command_is_looked_up_by_the_rules);
    trials.at_each_level("resource_usage_counts_what_was_waited_for", resource_usage_counts_what_was_waited_for);
    trials.at_each_level(
        "background_processes_do_not_outlive_their_action",
        background_processes_do_not_outlive_their_action,
    );
    trials.at_each_level("a_timeout_ends_grandchildren_too", a_timeout_ends_grandchildren_too);
    trials.at_each_level("a_dropped_call_ends_everything", a_dropped_call_ends_everything);
    trials.at_each_level("too_much_output_ends_the_command", too_much_output_ends_the_command);
}

async fn commands_end_as_a_shell_would_say(level: Level) {
    let rig = Rig::start(level).await;
    // Script, exit code, signal, stdout, what stderr has in it.
    for (script, code, signal, stdout, stderr) in [
        (":", 0, "", "", ""),
        ("exit 3", 3, "", "", ""),
        ("exit 255", 255, "", "", ""),
        ("echo out; echo err >&2", 0, "", "out\n", "err\n"),
        // Opened anew by its name, each stream goes on where it is.
        ("echo 1; echo 2 >>/dev/stdout; echo 3; echo 4 >/dev/stderr", 0, "", "1\n2\n3\n", "4\n"),
        ("kill -TERM $$", 143, "TERM", "", ""),
        ("kill -KILL $$", 137, "KILL", "", ""),
        ("kill -SEGV $$", 139, "SEGV", "", ""),
        ("sh -c 'kill -KILL $$'; exit 5", 5, "", "", ""),
        // Standard input is empty.
        ("cat", 0, "", "", ""),
        ("umask; ulimit -c", 0, "", "0022\n0\n", ""),
        // Nothing is open but the streams; 3 is the folder that `ls` reads.
        ("echo $(ls /proc/self/fd)", 0, "", "0 1 2 3\n", ""),
        (
            "grep NoNewPrivs /proc/self/status; grep CapEff /proc/self/status",
            0,
            "",
            "NoNewPrivs:\t1\nCapEff:\t0000000000000000\n",
            "",
        ),
        // A session and a group of its own.
        ("set -- $(cat /proc/$$/stat); test $1 = $5 && test $1 = $6", 0, "", "", ""),
        ("trap '' PIPE; trap", 0, "", "trap -- '' PIPE\n", ""),
        // But for the two that are the C library's own.
        ("test $((0x$(sed -n 's/SigIgn:.//p' /proc/self/status) & 0x7fffffff)) = 0", 0, "", "", ""),
    ] {
        let ended = rig.shell(script).run().await.unwrap_or_else(|status| panic!("{script}: {status}"));
        assert_eq!(
            (ended.exit_code, ended.usage.termination_signal.as_str()),
            (code, signal),
            "{script}: {}",
            ended.stderr
        );
        assert_eq!(ended.stdout, stdout, "{script}");
        assert!(ended.stderr.contains(stderr), "{script}: {}", ended.stderr);
    }
}

async fn the_environment_is_what_was_given(level: Level) {
    let rig = Rig::start(level).await;
    let mut action = rig.action(&["/usr/bin/env"]);
    action.request.environment_variables = BTreeMap::from(
        [("A", "1"), ("EMPTY", ""), ("LINES", "a\nb=c")].map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let ended = action.run().await.expect("it runs");
    let temporary = match level {
        Level::Sandbox => "/tmp".to_owned(),
        _ => action.folder.join("tmp").display().to_string(),
    };
    let mut lines: Vec<_> = ended.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A=1", "EMPTY=", "LINES=a", format!("TMPDIR={temporary}").as_str(), "b=c"]);
    // What is given counts.
    let mut action = rig.shell("echo $TMPDIR");
    action.request.environment_variables.insert("TMPDIR".to_owned(), "/elsewhere".to_owned());
    assert_eq!(action.run().await.expect("it runs").stdout, "/elsewhere\n");
}

async fn the_command_is_looked_up_by_the_rules(level: Level) {
    let rig = Rig::start(level).await;
    let script = "#!/bin/sh\necho $0 $@; pwd\n";
    // Arguments, working directory, PATH, exit code, beginning of stdout, what stderr has in it.
    for (arguments, working_directory, path, code, stdout, stderr) in [
        (&["./x", "1"][..], "sub", "/bin", 0, "./x 1\nROOT/sub\n", ""),
        (&["sub/x"], "", "/bin", 0, "sub/x\nROOT\n", ""),
        (&["sub/x"], "sub", "/bin", 127, "", "sub/x: not found"),
        // Of the folders in PATH, relative ones count from the working directory.
        (&["x"], "", "sub:/bin", 0, "sub/x\nROOT\n", ""),
        (&["x"], "sub", "/bin", 127, "", "x: not found"),
        (&["true"], "", "/usr/bin:/bin", 0, "", ""),
        (&["true"], "", "/nowhere", 127, "", "true: not found"),
        (&["/nowhere/true"], "", "/bin", 127, "", "/nowhere/true: not found"),
        (&["/etc/passwd"], "", "/bin", 126, "", "/etc/passwd: not executable"),
        (&["/etc"], "", "/bin", 126, "", "/etc: not executable"),
        (&["./plain"], "", "/bin", 126, "", "./plain: not executable"),
        // As a shell does it, and `execvp`.
        (&["./no-interpreter"], "", "/bin", 0, "by the shell\n", ""),
    ] {
        let mut action = rig.action(arguments).input("sub/x", script, 0o555).input("plain", script, 0o444).input(
            "no-interpreter",
            "echo by the shell\n",
            0o555,
        );
        action.request.working_directory = working_directory.to_owned();
        action.request.environment_variables = BTreeMap::from([("PATH".to_owned(), path.to_owned())]);
        let ended = action.run().await.unwrap_or_else(|status| panic!("{arguments:?}: {status}"));
        assert_eq!(ended.exit_code, code, "{arguments:?} in {working_directory:?}: {}", ended.stderr);
        assert_eq!(ended.stdout.replace(&action.root().display().to_string(), "ROOT"), stdout, "{arguments:?}");
        assert!(ended.stderr.contains(stderr), "{arguments:?}: {}", ended.stderr);
    }
}

async fn resource_usage_counts_what_was_waited_for(level: Level) {
    let rig = Rig::start(level).await;
    // The work is done by a child of the command.
    let ended = rig.shell("sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; :").run().await.expect("it runs");
    let time = ended.usage.user_time.expect("a time");
    assert!(time.seconds > 0 || time.nanos > 20_000_000, "{time:?}");
    assert!(ended.usage.maximum_resident_set_size > 500_000 && ended.usage.page_reclaims > 0, "{:?}", ended.usage);
}

async fn background_processes_do_not_outlive_their_action(level: Level) {
    let rig = Rig::start(level).await;
    for script in [
        "sleep MARK & exit 0",
        "(sleep MARK & sleep MARK &) & exit 0",
        "setsid sleep MARK & exit 0",
        "setsid sh -c 'setsid sleep MARK & setsid sleep MARK & exit 0' & sleep 0.05; exit 0",
        "trap '' TERM HUP INT; (trap '' TERM HUP INT; setsid setsid setsid sleep MARK) & exit 0",
        "sh -c 'while :; do setsid sleep MARK & sleep 0.01; done' & sleep 0.1; exit 0",
        "sh -c 'kill -STOP $$; sleep MARK' & exit 0",
    ] {
        let mark = mark();
        let ended = rig.shell(&format!("echo begun; {}", script.replace("MARK", &mark))).run().await.expect("it runs");
        assert_eq!((ended.exit_code, ended.stdout.as_str()), (0, "begun\n"), "{script}");
        assert_eq!(marked(&mark), Vec::<u32>::new(), "{script}");
    }
}

async fn a_timeout_ends_grandchildren_too(level: Level) {
    let rig = Rig::start(level).await;
    let mark = mark();
    let script = "echo before; sleep MARK & (setsid sleep MARK &); trap '' TERM; sleep MARK";
    let mut action = rig.shell(&script.replace("MARK", &mark));
    action.options.timeout = Some(Duration { seconds: 0, nanos: 300_000_000 });
    let status = action.run().await.expect_err("it takes too long");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert_eq!(marked(&mark), Vec::<u32>::new());
    assert_eq!(action.read("stdout"), "before\n");
    // One that is soon enough is not touched by its timeout.
    let mut action = rig.shell("exit 4");
    action.options.timeout = Some(Duration { seconds: 600, nanos: 0 });
    assert_eq!(action.run().await.expect("it runs").exit_code, 4);
}

async fn a_dropped_call_ends_everything(level: Level) {
    let rig = Rig::start(level).await;
    let mark = mark();
    let action = rig.shell(&"(setsid sleep MARK &); sleep MARK & sleep MARK".replace("MARK", &mark));
    tokio::select! {
        ended = action.run() => panic!("it ends by itself: {ended:?}"),
        () = until("the start of three processes", || marked(&mark).len() == 3) => {}
    }
    until("the end of all processes", || marked(&mark).is_empty()).await;
    // The runner goes on.
    assert_eq!(rig.shell("exit 4").run().await.expect("it runs").exit_code, 4);
}

async fn too_much_output_ends_the_command(level: Level) {
    let rig = Rig::start_with(level, |options| options.output_bytes_max = 1 << 20).await;
    for script in ["yes MARK", "yes MARK >&2", "sleep MARK & yes MARK"] {
        let mark = mark();
        let action = rig.shell(&script.replace("MARK", &mark));
        let status = action.run().await.expect_err("it writes too much");
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert_eq!(marked(&mark), Vec::<u32>::new());
    }
    let ended = rig.shell("head -c 1000000 /dev/zero").run().await.expect("it runs");
    assert_eq!((ended.exit_code, ended.stdout.len()), (0, 1_000_000));
}
