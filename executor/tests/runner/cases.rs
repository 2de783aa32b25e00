//! The list of tests.

use cask_executor::runner::Level;

use crate::rig::{Rig, runtime};

pub(crate) type Trial = Box<dyn FnOnce() + std::panic::UnwindSafe>;

pub(crate) fn all() -> Vec<(String, Trial)> {
    let mut trials: Vec<(String, Trial)> = Vec::new();
    for level in [Level::Host, Level::Sandbox] {
        trials.push((format!("{}::hello", level.name()), Box::new(move || runtime().block_on(hello(level)))));
    }
    if std::env::args().any(|argument| argument == "bench") {
        trials.push(("bench".to_owned(), Box::new(crate::bench::bench)));
    }
    trials
}

async fn hello(level: Level) {
    let rig = Rig::start(level).await;
    let action = rig.shell("echo out; echo err >&2; pwd; id; ls -la . / /dev /tmp; cat /proc/self/mounts; env; ps ax | head -5; touch made; exit 3");
    let ended = action.run().await.expect("it runs");
    println!("{}\n{}\n{:?}", ended.stdout, ended.stderr, ended.usage);
    assert_eq!(ended.exit_code, 3);
}
