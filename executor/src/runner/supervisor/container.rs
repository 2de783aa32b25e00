//! The container level: the engine's own client runs the command in an image, with nothing but the input root and the run's
//! temporary folder from this machine.
//!
//! The engine's processes are not this process's descendants, so a run is ended by asking the engine for it, by the container's
//! name; `--rm` makes the end of the command the end of everything in it.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::places::{Places, absolute, folder_of};
use super::{Runner, Trouble, Waited, Word, ending_of, failed, launch, send, strays, wait_for};
use crate::runner::kernel::{self, Fork};
use crate::runner::plan::{ContainerPlan, Ending, Plan};

/// What both engines say when they could not start a container; a command may say it, too.
const ENGINE_FAILED: i32 = 125;

pub(super) fn run(plan: &Plan, places: Places, runner: &Runner) -> Result<Ending, Trouble> {
    let container =
        plan.container.as_ref().ok_or_else(|| Trouble::Refused("a container plan without a container".to_owned()))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(failed("become a subreaper"))?;
    let supervisor = rustix::process::getpid();
    let word = Word::new()?;
    // Written by the engine when there is a container: until then an exit code is the engine's.
    let id_file = absolute(plan, &format!("{}/container-id", folder_of(&plan.input_root)));
    let client = match kernel::fork().map_err(failed("fork"))? {
        Fork::Child => {
            let trouble = match become_client(plan, container, &places, &id_file, supervisor) {
                Ok(never) => match never {},
                Err(trouble) => trouble,
            };
            send(word.write.as_fd(), trouble.ending());
            std::process::exit(1);
        }
        Fork::Parent { child } => child,
    };
    drop(places);
    let waited = wait_for(client, runner.life_line.as_fd());
    if !matches!(waited, Ok(Waited::Ended(_))) {
        // One that is not there any more is what is wanted.
        for request in [&["kill"][..], &["rm", "--force"]] {
            let _ = engine(container)
                .args(request)
                .arg(&container.name)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
    }
    strays::end_all(None)?;
    let has_started = fs::remove_file(&id_file).is_ok();
    let ending = match waited? {
        Waited::Ended(status) if status.exit_status() == Some(ENGINE_FAILED) && !has_started && !plan.probe => {
            let said = fs::read_to_string(absolute(plan, &plan.stderr)).unwrap_or_default();
            Ending::Refused(format!("the container could not be started: {}", said.lines().next().unwrap_or_default()))
        }
        Waited::Ended(status) => ending_of(status),
        Waited::Stop => Ending::Stopped(true),
    };
    Ok(word.receive().unwrap_or(ending))
}

fn become_client(
    plan: &Plan,
    container: &ContainerPlan,
    places: &Places,
    id_file: &str,
    supervisor: rustix::process::Pid,
) -> Result<std::convert::Infallible, Trouble> {
    rustix::process::setsid().map_err(failed("start a session"))?;
    super::enter_cgroup(places)?;
    launch::take_streams(places)?;
    super::die_with(supervisor)?;
    let mut client = engine(container);
    if plan.probe {
        client.arg("version");
    } else {
        client.args(arguments(plan, container, id_file));
    }
    let error = client.exec();
    Err(Trouble::Refused(format!("the container engine {:?} cannot be executed: {error}", container.engine)))
}

fn engine(container: &ContainerPlan) -> Command {
    Command::new(&container.engine)
}

fn arguments(plan: &Plan, container: &ContainerPlan, id_file: &str) -> Vec<std::ffi::OsString> {
    use std::os::unix::ffi::OsStringExt;
    let mut arguments: Vec<std::ffi::OsString> = Vec::new();
    let mut add = |parts: &[&str]| arguments.extend(parts.iter().map(Into::into));
    let input_root = absolute(plan, &plan.input_root);
    add(&["run", "--rm", "--name", &container.name, "--cidfile", id_file]);
    add(&["--read-only", "--security-opt", "no-new-privileges", "--cap-drop", "all"]);
    if !plan.network {
        add(&["--network", "none"]);
    }
    if container.memory_bytes_max > 0 {
        add(&["--memory", &container.memory_bytes_max.to_string()]);
    }
    if container.cpu_millis_max > 0 {
        let (whole, thousandths) = (container.cpu_millis_max / 1000, container.cpu_millis_max % 1000);
        add(&["--cpus", &format!("{whole}.{thousandths:03}")]);
    }
    if plan.processes_max > 0 {
        add(&["--pids-limit", &plan.processes_max.to_string()]);
    }
    add(&["--ulimit", "core=0", "--ulimit", &format!("nofile={0}:{0}", plan.open_files_max)]);
    if plan.temporary.is_empty() {
        add(&["--tmpfs", "/tmp"]);
    } else {
        add(&["--volume", &format!("{}:/tmp", absolute(plan, &plan.temporary))]);
    }
    add(&["--volume", &format!("{input_root}:{input_root}")]);
    let working_directory = format!("{input_root}/{}", plan.working_directory);
    add(&["--workdir", working_directory.trim_end_matches('/')]);
    if let Some(id) = plan.own_id {
        add(&["--user", &format!("{id}:{id}")]);
    } else {
        let user = rustix::process::getuid().as_raw();
        let group = rustix::process::getgid().as_raw();
        // Without root podman maps users; the one outside has to be the one inside to write its own folders.
        if container.engine.rsplit('/').next().is_some_and(|name| name.contains("podman")) {
            add(&["--userns", "keep-id"]);
        }
        add(&["--user", &format!("{user}:{group}")]);
    }
    if !plan.environment.contains_key("TMPDIR") {
        add(&["--env", "TMPDIR=/tmp"]);
    }
    for (name, value) in &plan.environment {
        add(&["--env", &format!("{name}={value}")]);
    }
    let mut command = plan.arguments.iter().map(|argument| std::ffi::OsString::from_vec(argument.clone()));
    // An image may have an entry point of its own, which would take the command for its arguments.
    arguments.push("--entrypoint".into());
    arguments.extend(command.next());
    arguments.push(container.image.as_str().into());
    arguments.extend(command);
    arguments
}
