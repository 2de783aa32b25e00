//! What `cask serve` prints when it is ready: first, for programs, one line a listener; then, for people, the store and
//! what to paste into `.bazelrc`.

use std::fmt;
use std::net::IpAddr;

use cask_engine::OpenReport;

use crate::config::{ByteSize, Config, TimeSpan};
use crate::transport::listen::BoundAddress;

pub(super) struct Banner<'a> {
    pub(super) addresses: &'a [BoundAddress],
    pub(super) config: &'a Config,
    pub(super) report: &'a OpenReport,
    /// What to call this machine where the address is any.
    pub(super) host_name: String,
}

impl fmt::Display for Banner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for address in self.addresses {
            // Stable: scripts and tests wait for this line.
            writeln!(f, "cask: listening on {address}")?;
        }
        let Self { config, report, .. } = self;
        let percent = (report.stored_bytes as f64 / config.max_size.0 as f64) * 100.0;
        let actions = if report.action_count == 1 { "action" } else { "actions" };
        let blobs = if report.blob_count == 1 { "blob" } else { "blobs" };
        let opened = if report.clean_shutdown { "" } else { ", recovered after an unclean end" };
        writeln!(f)?;
        writeln!(f, "  Cask {}", env!("CARGO_PKG_VERSION"))?;
        writeln!(f)?;
        writeln!(f, "  store   {}", config.dir.display())?;
        writeln!(
            f,
            "  holds   {} {blobs} and {} {actions}, {} of {} ({percent:.0} %)",
            Grouped(report.blob_count),
            Grouped(report.action_count),
            ByteSize(report.stored_bytes),
            config.max_size,
        )?;
        writeln!(f, "  opened  in {} ms{opened}", report.elapsed.as_millis())?;
        if report.corrupt_record_count > 0 {
            writeln!(f, "          {} corrupt records were left out", Grouped(report.corrupt_record_count))?;
        }
        writeln!(f, "  leases  {}", leases(config.lease, config.lease_floor))?;
        for warning in &config.warnings {
            writeln!(f, "  note    {warning}")?;
        }
        writeln!(f)?;
        writeln!(f, "  To build with it, add to .bazelrc:")?;
        writeln!(f)?;
        let Some(address) = self.addresses.first() else { return Ok(()) };
        let (grpc, http) = self.bazelrc(address);
        writeln!(f, "    build {grpc}")?;
        writeln!(f)?;
        writeln!(f, "  or, over HTTP:")?;
        writeln!(f)?;
        writeln!(f, "    build {http}")?;
        writeln!(f)?;
        if config.execution.is_some() {
            let server = self.server(address);
            writeln!(f, "  To run its actions here too, start workers, on this machine or others:")?;
            writeln!(f)?;
            writeln!(f, "    cask worker --server {server}")?;
            writeln!(f)?;
            writeln!(f, "  and add to .bazelrc:")?;
            writeln!(f)?;
            writeln!(f, "    build --remote_executor={server}")?;
            writeln!(f)?;
        }
        Ok(())
    }
}

impl Banner<'_> {
    fn bazelrc(&self, address: &BoundAddress) -> (String, String) {
        let over_grpc = format!("--remote_cache={}", self.server(address));
        let over_http = match address {
            BoundAddress::Tcp(_) => over_grpc.replacen("grpc", "http", 1),
            BoundAddress::Unix(path) => {
                format!("--remote_cache=http://localhost --remote_proxy=unix:{}", path.display())
            }
        };
        (over_grpc, over_http)
    }

    /// Where a gRPC client finds this server.
    fn server(&self, address: &BoundAddress) -> String {
        match address {
            BoundAddress::Tcp(address) => {
                let host = match address.ip() {
                    ip if ip.is_unspecified() => self.host_name.clone(),
                    IpAddr::V6(ip) => format!("[{ip}]"),
                    IpAddr::V4(ip) => ip.to_string(),
                };
                let s = if self.config.tls.is_some() { "s" } else { "" };
                format!("grpc{s}://{host}:{}", address.port())
            }
            BoundAddress::Unix(path) => format!("unix:{}", path.display()),
        }
    }
}

fn leases(lease: TimeSpan, floor: TimeSpan) -> String {
    if floor.0.is_zero() {
        format!("{lease} aimed for, none promised: the oldest goes when room is needed")
    } else {
        format!("{lease} aimed for, {floor} promised: uploads are refused before anything younger goes")
    }
}

/// A count with its thousands apart.
struct Grouped(u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (position, digit) in digits.chars().enumerate() {
            if position > 0 && (digits.len() - position).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Settings, Surroundings};

    fn banner_of(addresses: &[&str], floor: &str) -> String {
        banner_with(addresses, Settings { lease_floor: Some(floor.parse().expect("a span")), ..Settings::default() })
    }

    fn banner_with(addresses: &[&str], settings: Settings) -> String {
        let addresses: Vec<_> = addresses
            .iter()
            .map(|text| match text.strip_prefix("unix:") {
                Some(path) => BoundAddress::Unix(path.into()),
                None => BoundAddress::Tcp(text.parse().expect("an address")),
            })
            .collect();
        let settings = Settings { dir: Some("/srv/cask".into()), max_size: Some(ByteSize(50 << 30)), ..settings };
        let surroundings = Surroundings { cache_folder: None, disk_space: &|_| None };
        let config = Config::load(settings, None, &surroundings).expect("a config");
        let report = OpenReport {
            blob_count: 1_234_567,
            action_count: 1,
            stored_bytes: 25 << 30,
            segment_count: 400,
            segment_size_bytes: 64 << 20,
            index_memory_bytes: 0,
            readable_after: Duration::ZERO,
            clean_shutdown: true,
            corrupt_record_count: 0,
            elapsed: Duration::from_millis(35),
        };
        Banner { addresses: &addresses, config: &config, report: &report, host_name: "cachehost".into() }.to_string()
    }

    #[test]
    fn programs_first_then_people() {
        let expected = "\
cask: listening on 127.0.0.1:8980

  Cask VERSION

  store   /srv/cask
  holds   1,234,567 blobs and 1 action, 25 GiB of 50 GiB (50 %)
  opened  in 35 ms
  leases  4h aimed for, 10m promised: uploads are refused before anything younger goes

  To build with it, add to .bazelrc:

    build --remote_cache=grpc://127.0.0.1:8980

  or, over HTTP:

    build --remote_cache=http://127.0.0.1:8980

";
        assert_eq!(banner_of(&["127.0.0.1:8980"], "10m"), expected.replace("VERSION", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn each_listener_has_its_line_and_the_first_is_what_to_paste() {
        for (addresses, lines) in [
            (
                &["0.0.0.0:80", "unix:/run/cask.sock"][..],
                [
                    "cask: listening on 0.0.0.0:80",
                    "cask: listening on unix:/run/cask.sock",
                    "    build --remote_cache=grpc://cachehost:80",
                ],
            ),
            (
                &["[::1]:80"],
                [
                    "cask: listening on [::1]:80",
                    "    build --remote_cache=grpc://[::1]:80",
                    "    build --remote_cache=http://[::1]:80",
                ],
            ),
            (
                &["unix:/a"],
                [
                    "cask: listening on unix:/a",
                    "    build --remote_cache=unix:/a",
                    "    build --remote_cache=http://localhost --remote_proxy=unix:/a",
                ],
            ),
        ] {
            let banner = banner_of(addresses, "10m");
            for line in lines {
                assert!(banner.lines().any(|found| found == line), "no line {line:?} in\n{banner}");
            }
        }
    }

    #[test]
    fn a_server_that_executes_says_how_to_start_a_worker() {
        assert!(!banner_of(&["127.0.0.1:8980"], "10m").contains("cask worker"));
        let banner = |address| banner_with(&[address], Settings { execution: Some(true), ..Settings::default() });
        for (address, server) in [("0.0.0.0:8980", "grpc://cachehost:8980"), ("unix:/a", "unix:/a")] {
            for line in [format!("    cask worker --server {server}"), format!("    build --remote_executor={server}")]
            {
                assert!(banner(address).lines().any(|found| found == line), "{line}");
            }
        }
    }

    #[test]
    fn a_floor_of_zero_promises_nothing() {
        assert!(banner_of(&["127.0.0.1:1"], "0s").contains("none promised"));
    }
}
