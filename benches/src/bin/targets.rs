//! Cask's targets, each measured beside its reference in the same run.
//!
//! `cargo run --release -p cask-benches --bin targets`; `--help` says what else there is. Exit codes: 0 when everything
//! could be measured (met or not), 1 when something could not, 2 when the command line is wrong.

use std::path::PathBuf;
use std::process::ExitCode;

use cask_benches::targets::cores::Cores;
use cask_benches::targets::line::{Line, Verdict};
use cask_benches::targets::scene::{Pace, Scene};
use cask_benches::targets::{FAMILIES, document, raw, soak, table};
use clap::Parser;

/// Measure Cask's targets, each beside its reference in the same run.
#[derive(Debug, Parser)]
#[command(name = "targets", after_help = "Needs the server's release binary: cargo build --release")]
struct Arguments {
    /// A look in under a minute: short turns, small stores
    #[arg(long)]
    quick: bool,

    /// Only these rows: numbers of the table, or tail, idle
    #[arg(long, value_name = "ROW,ROW", value_delimiter = ',')]
    only: Vec<String>,

    /// Print the lines as JSON
    #[arg(long)]
    json: bool,

    /// Put the table into docs/targets.md
    #[arg(long, conflicts_with_all = ["quick", "only"])]
    write: bool,

    /// The server's binary [default: the one that was built beside this program]
    #[arg(long, value_name = "PATH")]
    cask: Option<PathBuf>,

    /// Where stores and files are made; the disk rows measure its disk [default: the folder for temporary files]
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,

    /// Entries of the index when it is measured alone, 24 bytes each; the target is about 100 million
    #[arg(long, value_name = "COUNT", default_value_t = 10_000_000)]
    entries: u64,

    /// Instead of the table: a mixed load for so many seconds, with the server's memory
    #[arg(long, value_name = "SECONDS", conflicts_with_all = ["only", "write", "json"])]
    soak: Option<u64>,
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(raw::PEER_ARGUMENT) {
        return raw::serve();
    }
    let arguments = Arguments::parse();
    let wrong = |text: String| {
        eprintln!("targets: {text}");
        ExitCode::from(2)
    };
    if let Some(row) =
        arguments.only.iter().find(|row| !FAMILIES.iter().any(|family| family.rows.contains(&row.as_str())))
    {
        let rows: Vec<&str> = FAMILIES.iter().flat_map(|family| family.rows).copied().collect();
        return wrong(format!("there is no row \"{row}\"; there are {}", rows.join(", ")));
    }
    let scene = match scene(&arguments) {
        Ok(scene) => scene,
        Err(text) => return wrong(text),
    };
    if let Some(seconds) = arguments.soak {
        return match soak::run(&scene, std::time::Duration::from_secs(seconds)) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(hindrance) => {
                eprintln!("targets: {hindrance}");
                ExitCode::FAILURE
            }
        };
    }
    let before = load_average();
    let mut lines: Vec<Line> = Vec::new();
    for family in FAMILIES.iter().filter(|family| family.is_wanted(&arguments.only)) {
        eprintln!("measuring {} ...", family.what);
        let measured = family.measure(&scene);
        lines.extend(
            measured
                .into_iter()
                .filter(|line| arguments.only.is_empty() || arguments.only.iter().any(|row| row == line.row)),
        );
    }
    let conditions = conditions(&scene, before);
    if arguments.json {
        let json = serde_json::json!({ "conditions": conditions, "lines": lines });
        println!("{json:#}");
    } else {
        println!("{conditions}\n\n{}\n{}", table::text(&lines), table::summary(&lines));
    }
    if arguments.write
        && let Err(text) = document::write(&conditions, &lines)
    {
        return wrong(text);
    }
    let unmeasured = lines.iter().any(|line| line.verdict == Verdict::Unmeasured);
    if unmeasured { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn scene(arguments: &Arguments) -> Result<Scene, String> {
    let program = std::env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
    let cask = arguments.cask.clone().unwrap_or_else(|| program.with_file_name("cask"));
    if !cask.is_file() {
        return Err(format!(
            "there is no {}; build it with `cargo build --release`, or give --cask PATH",
            cask.display()
        ));
    }
    let folder = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    if !folder.is_dir() {
        return Err(format!("there is no folder {}", folder.display()));
    }
    Ok(Scene {
        cores: Cores::take().ok_or("the kernel does not say which processors there are")?,
        program,
        cask,
        folder,
        pace: if arguments.quick { Pace::QUICK } else { Pace::FULL },
        entries: if arguments.quick { arguments.entries.min(2_000_000) } else { arguments.entries },
    })
}

/// What one has to know of the machine to read the figures.
fn conditions(scene: &Scene, load_before: f64) -> String {
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processor
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, model)| model.trim()));
    format!(
        "{}; server on one core, client on {}; {} turns of {} ms each, medians. Runnable tasks (load average) {load_before:.1} before and {:.1} after the run, of which the run itself makes about two.",
        model.unwrap_or("unknown processor"),
        if scene.cores.is_shared() { "the same, the only one there is" } else { "another" },
        scene.pace.rounds,
        scene.pace.turn.as_millis(),
        load_average(),
    )
}

/// Of the last minute.
fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}
