//! The sandbox level: namespaces of the run's own, made without privileges and without a helper program.
//!
//! The supervisor becomes the run's user when it was root, so that nothing after it depends on privileges; it makes a user
//! namespace with one user in it, and in that all the others. A first process in the PID namespace makes the view of the file
//! system, starts the command and reaps; when it ends the kernel kills everything in the namespace, and the supervisor's wait
//! returns after the last.

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, Signal, WaitOptions};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

use super::places::Places;
use super::{Runner, Trouble, Waited, Word, ending_of, failed, host, launch, send, view, wait_for};
use crate::runner::kernel::{self, Fork};
use crate::runner::plan::{Ending, Plan};

/// What every sandbox calls itself.
const HOST_NAME: &[u8] = b"cask";

pub(super) fn run(plan: &Plan, places: Places, runner: &Runner) -> Result<Ending, Trouble> {
    // Relative paths from here lead to the run's places in every mount namespace, whatever is above is closed to the run's user.
    rustix::process::fchdir(&places.folder).map_err(failed("enter the folder of the run"))?;
    launch::take_limits(plan)?;
    if let Some(id) = plan.own_id {
        host::become_user(id).map_err(failed("become the run's user"))?;
        // Undone by the change of the user; without it the files in /proc that describe the namespace are root's.
        rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)
            .map_err(failed("stay the owner of /proc/self"))?;
    }
    enter_namespaces(plan)?;
    let supervisor = rustix::process::getpid();
    let word = Word::new()?;
    let init = match kernel::fork().map_err(failed("fork"))? {
        Fork::Child => {
            let ending = be_first(plan, &places, supervisor, &word).unwrap_or_else(|trouble| trouble.ending());
            send(word.write.as_fd(), ending);
            std::process::exit(0);
        }
        Fork::Parent { child } => child,
    };
    drop(places);
    match wait_for(init, runner.life_line.as_fd())? {
        Waited::Ended(status) => Ok(word.receive().unwrap_or_else(|| ending_of(status))),
        Waited::Stop => {
            // Its end is everybody's: the kernel lets the wait return when the namespace is empty.
            rustix::process::kill_process(init, Signal::KILL).map_err(failed("end the sandbox"))?;
            rustix::process::waitpid(Some(init), WaitOptions::empty()).map_err(failed("wait for the sandbox's end"))?;
            Ok(Ending::Stopped(true))
        }
    }
}

fn enter_namespaces(plan: &Plan) -> Result<(), Trouble> {
    let user = rustix::process::getuid().as_raw();
    let group = rustix::process::getgid().as_raw();
    let mut namespaces = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS;
    if !plan.network {
        namespaces |= UnshareFlags::NEWNET;
    }
    kernel::unshare(namespaces).map_err(failed("make namespaces"))?;
    // Without this an unprivileged process may map no group: it could shed one that denies it something.
    write_about_self("setgroups", "deny")?;
    write_about_self("uid_map", &format!("{} {user} 1", plan.inner_user))?;
    write_about_self("gid_map", &format!("{} {group} 1", plan.inner_group))
}

fn write_about_self(name: &str, text: &str) -> Result<(), Trouble> {
    std::fs::write(format!("/proc/self/{name}"), text)
        .map_err(|error| failed(format!("write {name}"))(Errno::from_io_error(&error).unwrap_or(Errno::IO)))
}

/// The life of PID 1 inside.
fn be_first(plan: &Plan, places: &Places, supervisor: Pid, word: &Word) -> Result<Ending, Trouble> {
    super::die_with(supervisor)?;
    rustix::process::setsid().map_err(failed("start a session"))?;
    super::enter_cgroup(places)?;
    rustix::system::sethostname(HOST_NAME).map_err(failed("set the host's name"))?;
    if !plan.network {
        view::raise_loopback()?;
    }
    view::make(plan)?;
    // Nobody inside looks into this process: what it has open is the host's.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("close the first process"))?;
    let command = match kernel::fork().map_err(failed("fork"))? {
        Fork::Child => {
            let code = become_command(plan, places).unwrap_or_else(|trouble| {
                send(word.write.as_fd(), trouble.ending());
                1
            });
            std::process::exit(code);
        }
        Fork::Parent { child } => child,
    };
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == command => return Ok(ending_of(status)),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(failed("wait for the command")(errno)),
        }
    }
}

fn become_command(plan: &Plan, places: &Places) -> Result<i32, Trouble> {
    rustix::process::setsid().map_err(failed("start a session"))?;
    launch::take_streams(places)?;
    drop_capabilities()?;
    rustix::thread::set_no_new_privs(true).map_err(failed("give up new privileges"))?;
    // By its path: a descriptor from outside would lead back to the file system outside.
    rustix::process::chdir(view::working_directory(plan).as_str()).map_err(failed("enter the working directory"))?;
    Ok(launch::execute(plan, Some("/tmp")))
}

fn drop_capabilities() -> Result<(), Trouble> {
    for capability in CapabilitySet::all().iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // A kernel that does not know it has not given it either.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(failed("drop capabilities")(errno)),
        }
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).map_err(failed("drop capabilities"))
}
