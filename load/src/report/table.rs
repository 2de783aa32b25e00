//! A report as a table.

use std::fmt::{self, Write as _};

use super::{Latency, Report};

/// A time as people read it.
fn time(us: f64) -> String {
    match us {
        us if us < 10.0 => format!("{us:.2} us"),
        us if us < 1000.0 => format!("{us:.0} us"),
        us if us < 10_000.0 => format!("{:.2} ms", us / 1e3),
        us if us < 1e6 => format!("{:.0} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// A number as people read it.
fn quantity(number: f64) -> String {
    match number {
        number if number < 10.0 => format!("{number:.2}"),
        number if number < 10_000.0 => format!("{number:.0}"),
        number if number < 1e6 => format!("{:.1} k", number / 1e3),
        number if number < 1e9 => format!("{:.2} M", number / 1e6),
        number => format!("{:.2} G", number / 1e9),
    }
}

/// Bytes as people read them, in powers of 1000 as rates are.
fn bytes_text(bytes: f64) -> String {
    let text = quantity(bytes);
    if text.ends_with(|last: char| last.is_ascii_digit()) { format!("{text} B") } else { format!("{text}B") }
}

/// The table for people.
impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        writeln!(
            formatter,
            "{} at {}: {} x {} in flight, {}, {:.2} s, seed {}\n",
            self.workload,
            self.target,
            plural(self.connections, "connection"),
            self.concurrency,
            plural(self.threads, "thread"),
            self.elapsed_seconds,
            self.seed,
        )?;
        let mut rows = vec![
            ["", "requests", "/s", "digests/s", "bytes/s", "p50", "p90", "p99", "p99.9", "max"]
                .map(str::to_owned)
                .to_vec(),
        ];
        let some = |value: f64, text: String| if value > 0.0 { text } else { "-".to_owned() };
        for row in &self.operations {
            let Latency { p50_us, p90_us, p99_us, p99_9_us, max_us, .. } = row.latency;
            let mut cells = vec![
                row.operation.name().to_owned(),
                row.requests.to_string(),
                quantity(row.requests_per_second),
                some(row.digests_per_second, quantity(row.digests_per_second)),
                some(row.bytes_per_second, bytes_text(row.bytes_per_second)),
            ];
            cells.extend([p50_us, p90_us, p99_us, p99_9_us, max_us].map(time));
            rows.push(cells);
        }
        write_table(formatter, &rows)?;
        let mut line = format!(
            "\nclient  {} CPU a request, {:.0} % busy",
            time(self.client.cpu_us_per_request),
            self.client.busy * 100.0
        );
        if self.client.busy > 0.9 {
            line.push_str(": it may be what limits the run");
        }
        writeln!(formatter, "{line}")?;
        if let Some(server) = &self.server {
            let per_core = quantity(server.requests_per_cpu_second);
            let mut line = format!("server  {} CPU a request ({per_core}/s a core)", time(server.cpu_us_per_request));
            if let Some(ms) = server.cpu_ms_per_gb {
                write!(line, ", {ms:.0} ms a GB")?;
            }
            if let Some(ns) = server.cpu_ns_per_digest {
                write!(line, ", {ns:.0} ns a digest ({}/s a core)", quantity(1e9 / ns.max(1e-9)))?;
            }
            write!(line, ", {:.2} cores", server.cores)?;
            let [resident, own] = [server.resident_bytes, server.anonymous_bytes].map(|bytes| bytes_text(bytes as f64));
            writeln!(formatter, "{line}; {resident} resident, {own} of it its own")?;
        }
        if self.connections_lost > 0 {
            let words = self.gave_up.as_ref().map_or(String::new(), |words| format!(", not all made again: {words}"));
            writeln!(formatter, "lost    {}{words}", plural(self.connections_lost as usize, "connection"))?;
        }
        for (at, error) in self.errors.iter().enumerate() {
            let detail = if error.detail.is_empty() { String::new() } else { format!(": {}", error.detail) };
            let title = if at == 0 { "failed" } else { "" };
            writeln!(formatter, "{title:<8}{} x {}{detail}", error.count, error.code)?;
        }
        Ok(())
    }
}

/// Columns to the right, but the first.
fn write_table(formatter: &mut fmt::Formatter<'_>, rows: &[Vec<String>]) -> fmt::Result {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> =
        (0..columns).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    for row in rows {
        let mut line = format!("{:<width$}", row[0], width = widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            write!(line, "  {cell:>width$}")?;
        }
        writeln!(formatter, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_well() {
        for (number, text) in
            [(0.0, "0.00"), (9.99, "9.99"), (9999.0, "9999"), (1e4, "10.0 k"), (2.5e6, "2.50 M"), (3e9, "3.00 G")]
        {
            assert_eq!(quantity(number), text);
        }
        assert_eq!(bytes_text(12.0), "12 B");
        assert_eq!(bytes_text(2.5e6), "2.50 MB");
        for (us, text) in
            [(0.5, "0.50 us"), (999.0, "999 us"), (1500.0, "1.50 ms"), (15_000.0, "15 ms"), (2e6, "2.00 s")]
        {
            assert_eq!(time(us), text);
        }
    }
}
