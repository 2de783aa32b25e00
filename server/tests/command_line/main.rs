//! The binary as a person or a script meets it: what wins among flag, variable, file and default; what failures say and
//! exit with; the client commands against a server. The protocols are tested in `contract`.

mod failures;
mod fsck;
mod precedence;
mod round_trip;
mod running;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// `cask` with these arguments and no variable of ours set by whoever runs the tests.
fn cask(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cask"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CASK_")) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(command: &mut Command) -> Output {
    command.output().expect("the binary starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A server that is killed when dropped, and what it printed when it was ready.
struct Server {
    child: Child,
    banner: Vec<String>,
}

impl Server {
    fn start(store: &Path, adjust: impl FnOnce(&mut Command)) -> Self {
        let mut command = cask(&["serve", "--max-size", "64MiB", "--listen", "127.0.0.1:0", "--dir"]);
        command.arg(store).stderr(Stdio::null());
        adjust(&mut command);
        let mut child = command.spawn().expect("the binary starts");
        let lines = BufReader::new(child.stdout.take().expect("a piped stdout")).lines();
        let banner = lines.map_while(Result::ok).take_while(|line| !line.contains("To build with it")).collect();
        Self { child, banner }
    }

    fn line(&self, word: &str) -> &str {
        let found = self.banner.iter().find(|line| line.contains(word));
        found.unwrap_or_else(|| panic!("no {word:?} in {:?}", self.banner))
    }

    fn address(&self) -> &str {
        self.line("listening on").rsplit(' ').next().expect("an address")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
