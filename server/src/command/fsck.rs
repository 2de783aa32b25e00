//! `cask fsck`: checks the store of a stopped server, and repairs it when asked to.
//!
//! Exit codes: 0 when the store is whole, or was made whole; 1 when there are problems (left); 2 when it could not be
//! checked, as when a server has it open. What was found goes to standard output, a line each; how far the check is goes to
//! standard error when somebody looks.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use cask_engine::OpenError;
use cask_engine::fsck::{CheckOptions, Fault, Finding, Progress, Report, check};
use serde_json::json;

use super::Failure;
use crate::config::ByteSize;

/// Check the store of a stopped server: every record, footer and header.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Nothing is written without --repair. Exit code 0: the store is whole, or was made so. 1: there are problems. 2: it could \
                        not be checked."
)]
pub(crate) struct FsckArguments {
    /// Folder of the store
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    /// Keep what is sound, drop what is damaged, make the store whole
    #[arg(long)]
    repair: bool,

    /// Name action results that miss a blob, too
    #[arg(long)]
    verbose: bool,

    /// How the report is printed: text or json
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text", hide_possible_values = true)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

pub(super) fn run(arguments: &FsckArguments) -> Result<(), Failure> {
    let progress = std::io::stderr().is_terminal().then(ProgressLine::default);
    let tell = |told: Progress| {
        if let Some(line) = &progress {
            line.tell(told);
        }
    };
    let options = CheckOptions { repair: arguments.repair, progress: Some(&tell), ..CheckOptions::default() };
    let checked = check(&arguments.dir, options);
    if let Some(line) = &progress {
        line.clear();
    }
    let report = checked.map_err(|error| {
        Failure::Usage(match error {
            OpenError::InUse { .. } => format!("{error}; stop the server first, it checks an open store by itself"),
            other => format!("cannot check {}: {other}", arguments.dir.display()),
        })
    })?;
    let text = match arguments.format {
        Format::Text => in_lines(&report, arguments),
        Format::Json => in_json(&report),
    };
    let mut output = std::io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .map_err(|error| Failure::Run(format!("cannot print the report: {error}")))?;
    if report.is_clean() {
        return Ok(());
    }
    let dir = arguments.dir.display();
    Err(Failure::Run(match (&report.repair_failure, report.problems_left) {
        (Some(error), _) => format!("the repair of {dir} could not go on: {error}; what it did so far is sound"),
        (None, Some(left)) => format!("{} left in {dir}", problems(left)),
        (None, None) => format!("{} in {dir}; with --repair they are dealt with", problems(report.problem_count)),
    }))
}

fn problems(count: u64) -> String {
    if count == 1 { "1 problem".to_owned() } else { format!("{count} problems") }
}

/// A line a finding, then what was seen in all.
fn in_lines(report: &Report, arguments: &FsckArguments) -> String {
    let is_shown = |finding: &&Finding| arguments.verbose || !matches!(finding.fault, Fault::ActionIncomplete { .. });
    let line = |finding: &Finding| {
        let remedy = finding.fault.is_problem().then(|| format!("; --repair {}", finding.fault.remedy()));
        format!("{finding}{}", remedy.unwrap_or_default())
    };
    let mut lines: Vec<String> = report.findings.iter().filter(is_shown).map(line).collect();
    if report.findings_left_out > 0 {
        lines.push(format!("and {} more", report.findings_left_out));
    }
    lines.push(format!(
        "{}: {} blobs, {} large blobs, {} action results ({} of them miss a blob) in {} segments ({} free); {} read",
        arguments.dir.display(),
        report.blob_count,
        report.large_blob_count,
        report.action_count,
        report.incomplete_action_count,
        report.segment_count,
        report.free_segment_count,
        ByteSize(report.read_bytes),
    ));
    lines.push(match (report.problem_count, report.problems_left) {
        (0, _) => "whole".to_owned(),
        (count, None) => format!("{}, nothing was changed", problems(count)),
        (count, Some(0)) => format!("{}, repaired", problems(count)),
        (count, Some(left)) => format!("{}, {left} left after the repair", problems(count)),
    });
    lines.join("\n") + "\n"
}

fn in_json(report: &Report) -> String {
    let finding = |finding: &Finding| {
        json!({
            "path": finding.path,
            "segment": finding.segment,
            "offset": finding.offset_bytes,
            "digest": finding.digest.map(|digest| digest.to_string()),
            "problem": finding.fault.is_problem(),
            "what": finding.fault.to_string(),
            "meaning": finding.fault.meaning(),
            "repair": finding.fault.remedy(),
        })
    };
    let report = json!({
        "clean": report.is_clean(),
        "problems": report.problem_count,
        "problems_left": report.problems_left,
        "repair_failure": report.repair_failure,
        "blobs": report.blob_count,
        "large_blobs": report.large_blob_count,
        "actions": report.action_count,
        "incomplete_actions": report.incomplete_action_count,
        "segments": report.segment_count,
        "free_segments": report.free_segment_count,
        "read_bytes": report.read_bytes,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "findings_left_out": report.findings_left_out,
    });
    format!("{report}\n")
}

/// One line on a terminal, written over at each percent.
#[derive(Default)]
struct ProgressLine {
    /// One more than the percent shown.
    shown: AtomicU64,
}

impl ProgressLine {
    fn tell(&self, Progress { read_bytes, total_bytes }: Progress) {
        let percent = (read_bytes * 100).checked_div(total_bytes).unwrap_or(100).min(100);
        if self.shown.swap(percent + 1, Ordering::Relaxed) != percent + 1 {
            let _ = write!(std::io::stderr(), "\rchecked {percent} % of {} ", ByteSize(total_bytes));
        }
    }

    fn clear(&self) {
        if self.shown.load(Ordering::Relaxed) > 0 {
            let _ = write!(std::io::stderr(), "\r{:40}\r", "");
        }
    }
}
