//! `cask bench` as a person or a script meets it: each workload against a server, and against what is none.
//!
//! Requests are counted instead of timed, so nothing here depends on a clock. Received bytes are compared, so that these
//! are end-to-end tests of the server's hot paths, too, by a client that shares nothing with its HTTP stack.

#[path = "../support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::metrics::Metrics;
use support::process::{Options, Server};

fn bench(server: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cask"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CASK_")) {
        command.env_remove(name);
    }
    command.arg("bench").args(arguments).args(["--server", server]).stdin(Stdio::null());
    command.output().expect("the binary starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The report of a run in which every request went well.
fn report(server: &str, arguments: &[&str]) -> Value {
    let output = bench(server, &[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["errors"], Value::Array(vec![]), "{arguments:?}");
    report
}

/// The one row of a report.
fn row<'r>(report: &'r Value, operation: &str) -> &'r Value {
    let rows = report["operations"].as_array().expect("rows");
    let found = rows.iter().find(|row| row["operation"] == operation);
    found.unwrap_or_else(|| panic!("no row of {operation} in {report}"))
}

fn grpc(server: &Server) -> String {
    format!("grpc://{}", server.address())
}

#[test]
fn each_workload_is_answered_and_checked() {
    let server = Server::start(Options::with_max_size("512MiB"));
    for (arguments, requests, digests, bytes) in [
        (&["find-missing", "--batch", "50", "--blobs", "500", "--hit-rate", "0.7"][..], 40, 2000, 0),
        (&["find-missing", "--batch", "3", "--blobs", "100", "--hit-rate", "0"], 40, 120, 0),
        (&["read", "--size", "4KiB", "--blobs", "20"], 50, 0, 50 * 4096),
        (&["read", "--size", "3MiB", "--blobs", "3", "--concurrency", "2"], 8, 0, 8 * (3 << 20)),
        (&["read", "--size", "0"], 5, 0, 0),
        (&["read", "--size", "300000", "--window", "10KB"], 10, 0, 3_000_000),
        (&["write", "--size", "4KiB"], 50, 0, 50 * 4096),
        (&["write", "--size", "0"], 5, 0, 0),
        (&["write", "--size", "3000001", "--message", "1MiB", "--concurrency", "3"], 7, 0, 7 * 3_000_001),
        (&["batch-read", "--size", "1000", "--batch", "30"], 20, 600, 600_000),
        (&["batch-update", "--size", "1000", "--batch", "30"], 20, 600, 600_000),
        (&["batch-update", "--size", "7", "--batch", "3"], 20, 60, 420),
        (&["action-hit", "--actions", "20", "--outputs", "3"], 50, 0, 0),
        (&["action-miss"], 50, 0, 0),
        (&["action-update"], 50, 0, 0),
        (&["http-get", "--size", "5000", "--blobs", "10"], 30, 0, 150_000),
        (&["http-get", "--size", "5MiB", "--blobs", "2"], 4, 0, 4 * (5 << 20)),
        (&["http-put", "--size", "5000"], 30, 0, 150_000),
    ] {
        let count = requests.to_string();
        let report = report(&grpc(&server), &[arguments, &["--requests", &count, "--verify"]].concat());
        let row = row(&report, arguments[0]);
        let found = [&row["requests"], &row["digests"], &row["bytes"]].map(|value| value.as_u64().expect("a number"));
        assert_eq!(found, [requests, digests, bytes], "{arguments:?}");
        let latency = &row["latency"];
        let [p50, p99, max] = ["p50_us", "p99_us", "max_us"].map(|name| latency[name].as_f64().expect("a number"));
        assert!(0.0 < p50 && p50 <= p99 && p99 <= max, "{arguments:?}: {latency}");
    }
}

#[test]
fn builds_of_all_kinds_at_once_over_many_connections() {
    let server = Server::start(Options::with_max_size("1GiB"));
    let arguments = ["mixed", "--requests", "3000", "--connections", "5", "--threads", "2", "--verify"];
    let report = report(&grpc(&server), &arguments);
    let all: u64 =
        report["operations"].as_array().expect("rows").iter().map(|row| row["requests"].as_u64().unwrap()).sum();
    assert_eq!(all, 3000);
    // Of a hundred actions that are looked up ninety are found: about 1236 of 3000 requests look up what is there.
    let hits = row(&report, "action-hit")["requests"].as_u64().expect("a number");
    assert!((1000..1500).contains(&hits), "{hits}");
    for operation in ["action-miss", "read", "find-missing", "write", "action-update"] {
        assert!(row(&report, operation)["requests"].as_u64() > Some(0));
    }
}

#[test]
fn instances_functions_and_sockets() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = format!("unix:{}", folder.path().join("cask.sock").display());
    let flags = vec!["--listen", &*Box::leak(socket.clone().into_boxed_str())];
    let server = Server::start(Options { flags, ..Options::default() });
    for server in [grpc(&server), socket] {
        for arguments in [
            &["read", "--digest-function", "blake3"][..],
            &["write", "--digest-function", "blake3", "--instance", "team/a"],
            &["find-missing", "--digest-function", "sha1", "--instance", "team/a", "--hit-rate", "0.5"],
            &["batch-read", "--digest-function", "sha256tree"],
            &["batch-update", "--digest-function", "sha512"],
            &["action-hit", "--digest-function", "gitsha1", "--instance", "team b"],
            &["http-get", "--digest-function", "md5", "--instance", "team b"],
        ] {
            report(&server, &[arguments, &["--requests", "20", "--verify", "--connections", "2"]].concat());
        }
    }
}

#[test]
fn the_servers_own_costs_are_reported() {
    let server = Server::start(Options::default());
    let pid = server.pid().as_raw_nonzero().to_string();
    let report = report(&grpc(&server), &["write", "--size", "1MiB", "--requests", "20", "--server-pid", &pid]);
    let server = &report["server"];
    for cost in ["cpu_seconds", "cpu_us_per_request", "cpu_ms_per_gb", "cores", "resident_bytes", "anonymous_bytes"] {
        assert!(server[cost].as_f64() > Some(0.0), "{cost} in {server}");
    }
    assert!(report["client"]["cpu_us_per_request"].as_f64() > Some(0.0));
}

#[tokio::test]
async fn the_same_seed_makes_the_same_blobs() {
    let server = Server::start(Options::default());
    let upload = |seed: &str| {
        report(&grpc(&server), &["batch-update", "--requests", "2", "--batch", "5", "--seed", seed]);
    };
    let mut entries = Vec::new();
    for seed in ["7", "7", "8"] {
        upload(seed);
        entries.push(Metrics::of(&server).await.count("cask_entries"));
    }
    assert_eq!(entries, [10, 10, 20]);
}

#[test]
fn what_is_refused_is_counted_by_code_and_said_in_one_sentence() {
    let server = Server::start(Options { flags: vec!["--instances", "known"], ..Options::default() });
    let grpc = grpc(&server);
    // What is asked for cannot be stored first.
    for (arguments, says) in [
        (&["read", "--instance", "unknown"][..], "cannot store what read asks for: INVALID_ARGUMENT"),
        (&["http-get", "--instance", "unknown"], "cannot store what http-get asks for: HTTP 400"),
    ] {
        let output = bench(&grpc, &[arguments, &["--requests", "5"]].concat());
        let said = text(&output.stderr);
        assert!(said.contains(says), "{said}");
        assert_eq!((output.status.code(), said.lines().count(), output.stdout.len()), (Some(1), 1, 0), "{said}");
    }
    // Nothing has to be stored: each request is refused, and the report says so.
    let output = bench(&grpc, &["write", "--instance", "unknown", "--requests", "5", "--json"]);
    let said = text(&output.stderr);
    assert!(said.contains("5 of 5 requests failed, INVALID_ARGUMENT: "), "{said}");
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["errors"][0]["code"], "INVALID_ARGUMENT");
    assert_eq!(report["errors"][0]["count"], 5);
    let table = text(&bench(&grpc, &["write", "--instance", "unknown", "--requests", "5"]).stdout);
    assert!(table.contains("failed  5 x INVALID_ARGUMENT: "), "{table}");
}

#[test]
fn where_nobody_listens_the_sentence_names_the_address() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("grpc://{}", free.local_addr().expect("an address"));
    drop(free);
    for server in [address.as_str(), "unix:/nowhere/cask.sock"] {
        let output = bench(server, &["find-missing", "--requests", "5"]);
        let said = text(&output.stderr);
        assert!(said.starts_with(&format!("cask: cannot connect to {server}: ")), "{said}");
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    }
}

/// Answers each connection with `bytes`, after the beginning of what it says.
fn impostor(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(bytes);
            let _ = stream.shutdown(Shutdown::Write);
            // Closing with bytes unread would reset the connection, and lose what was said.
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    });
    address.to_string()
}

#[test]
fn what_speaks_another_protocol_is_told_apart() {
    const SETTINGS_AND_GOAWAY: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];
    for (bytes, workload, says) in [
        (&b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"[..], "write", "answers in HTTP/1.1"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "write", "does not begin with SETTINGS"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "http-put", "does not answer in HTTP/1.1"),
        (b"", "write", "the server closed the connection"),
        (b"", "http-put", "the server closed the connection"),
        (SETTINGS_AND_GOAWAY, "write", "the server closed the connection"),
    ] {
        let output = bench(&format!("grpc://{}", impostor(bytes)), &[workload, "--requests", "5"]);
        let said = text(&output.stderr);
        assert!(said.contains(says), "{workload}: {said}");
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    }
}

#[tokio::test]
async fn a_server_that_goes_ends_the_run() {
    let mut server = Server::start(Options::default());
    let mut command = Command::new(env!("CARGO_BIN_EXE_cask"));
    command.args(["bench", "action-miss", "--duration", "1h", "--connections", "3", "--server", &grpc(&server)]);
    let run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    // Ours and the three.
    while Metrics::of(&server).await.count("cask_connections") < 4 {}
    server.kill();
    let output = run.wait_with_output().expect("it ends");
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
}

#[test]
fn what_is_asked_wrongly_is_refused_with_advice_and_exit_code_2() {
    for (arguments, says) in [
        (&["read", "--server", "127.0.0.1:8980"][..], "begins with none of grpc://, http:// and unix:"),
        (&["read", "--server", "grpcs://a:1"], "measure the port that is clear text"),
        (&["read", "--size", "4K"], "write KiB"),
        (&["read", "--concurrency", "0"], "it must be 1 at least"),
        (&["read", "--requests", "5", "--duration", "5s"], "cannot be used with"),
        (&["read", "--digest-function", "crc32"], "the functions are sha256, blake3"),
        (&["read", "--window", "3GiB"], "a window has"),
        (&["read", "--instance", "a/blobs"], "--instance \"a/blobs\""),
        (&["read", "--server-pid", "4000000000"], "there is no process 4000000000"),
        (&["find-missing", "--hit-rate", "1.5"], "a number from 0 to 1 is wanted"),
        (&["find-missing", "--blobs", "1000000000"], "ask for less"),
        (&["http-get", "--concurrency", "2"], "ask for more connections instead"),
        (&["http-get", "--digest-function", "blake3"], "over HTTP the digest function"),
        (&["rad"], "'read'"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cask"));
        let output =
            command.env_remove("CASK_SERVER").arg("bench").args(arguments).output().expect("the binary starts");
        let said = text(&output.stderr);
        assert!(said.contains(says), "{arguments:?} said {said:?}");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}
