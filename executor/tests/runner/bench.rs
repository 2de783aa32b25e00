//! How fast empty runs are. Not a test: it is run when it is named.

use std::time::Instant;

use cask_executor::runner::Level;

use crate::rig::{Rig, runtime};

const RUNS: usize = 1000;

pub(crate) fn bench() {
    runtime().block_on(async {
        for level in [Level::Host, Level::Sandbox] {
            for at_once in [1, 8] {
                let rig = Rig::start(level).await;
                let actions: Vec<_> = (0..RUNS).map(|_| rig.action(&["/bin/true"])).collect();
                let actions = std::sync::Arc::new(actions);
                let before = cpu_seconds();
                let began = Instant::now();
                let tasks: Vec<_> = (0..at_once)
                    .map(|first| {
                        let actions = actions.clone();
                        tokio::spawn(async move {
                            for action in actions.iter().skip(first).step_by(at_once) {
                                assert_eq!(action.call().await.expect("it runs").exit_code, 0);
                            }
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await.expect("no run fails");
                }
                let seconds = began.elapsed().as_secs_f64();
                println!(
                    "{:8} {at_once} at once: {:6.0} runs/s, {:.2} ms of processor time a run",
                    level.name(),
                    RUNS as f64 / seconds,
                    (cpu_seconds() - before) * 1000.0 / RUNS as f64
                );
            }
        }
    });
}

/// Of this process and all it has waited for, which a run's processes are. What the kernel does later, taking namespaces down, is
/// not in it.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("/proc");
    let fields = stat.rsplit(')').next().expect("fields").split_ascii_whitespace();
    // utime, stime, cutime, cstime, in hundredths
    fields.skip(11).take(4).map(|field| field.parse::<f64>().expect("a number")).sum::<f64>() / 100.0
}
