//! The table: lines for people, on a terminal and in Markdown.

use std::fmt::Write as _;

use super::line::{Line, Verdict};

const HEADS: [&str; 6] = ["row", "what", "target", "measured", "reference", "met?"];

fn cells(line: &Line) -> [&str; 6] {
    [line.row, &line.what, &line.target, &line.measured, &line.reference, line.verdict.name()]
}

/// In columns, each line ended.
pub fn text(lines: &[Line]) -> String {
    let rows: Vec<[&str; 6]> = std::iter::once(HEADS).chain(lines.iter().map(cells)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let padded: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text += padded.join("  ").trim_end();
        text += "\n";
    }
    text
}

/// As a table of Markdown.
pub fn markdown(lines: &[Line]) -> String {
    let mut text = format!("| {} |\n|{}\n", HEADS.join(" | "), "---|".repeat(HEADS.len()));
    for line in lines {
        let _ = writeln!(text, "| {} |", cells(line).map(|cell| cell.replace('|', "\\|")).join(" | "));
    }
    text
}

/// How many targets are met, missed and not measured, in a sentence.
pub fn summary(lines: &[Line]) -> String {
    let count = |verdict: Verdict| lines.iter().filter(|line| line.verdict == verdict).count();
    format!(
        "{} targets met, {} missed, {} not measured",
        count(Verdict::Met),
        count(Verdict::Missed),
        count(Verdict::Unmeasured)
    )
}

#[cfg(test)]
mod tests {
    use super::super::hindrance::Hindrance;
    use super::super::line::{Bound, Unit};
    use super::*;

    #[test]
    fn lines_become_columns_and_markdown() {
        let lines = [
            Line::new("1", "reads", Bound::AtLeast(0.9), Unit::Share, 0.5).that_is("half").beside("all"),
            Line::hindered("idle", "idle connections", &Hindrance::Lacking("a|b".to_owned())),
        ];
        let expected = concat!(
            "row   what              target   measured     reference  met?\n",
            "1     reads             >= 90 %  50 % (half)  all        NO\n",
            "idle  idle connections           a|b                     not measured\n",
        );
        assert_eq!(text(&lines), expected);
        let expected = concat!(
            "| row | what | target | measured | reference | met? |\n|---|---|---|---|---|---|\n",
            "| 1 | reads | >= 90 % | 50 % (half) | all | NO |\n",
            "| idle | idle connections |  | a\\|b |  | not measured |\n",
        );
        assert_eq!(markdown(&lines), expected);
        assert_eq!(summary(&lines), "0 targets met, 1 missed, 1 not measured");
    }
}
