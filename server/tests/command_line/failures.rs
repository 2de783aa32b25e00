//! Each failure is one sentence that says what to do; 2 for what was asked wrongly, 1 for what could not be done.

use std::net::TcpListener;

use super::{cask, run, text};

#[test]
fn no_arguments_print_the_help() {
    let output = run(&mut cask(&[]));
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("cask [COMMAND]"), "{}", text(&output.stdout));
}

#[test]
fn what_is_asked_wrongly_is_refused_with_advice_and_exit_code_2() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("a file");
        path.to_str().expect("a readable path").to_owned()
    };
    let typo = file("typo.toml", "max-size = \"1GiB\"");
    let absent = folder.path().join("absent.toml").to_str().expect("a readable path").to_owned();
    for (arguments, advice) in [
        (&["serve", "--lease", "4"][..], "4 of what? add a unit: 4s, 4m, 4h or 4d"),
        (&["serve", "--max-size", "50G"], "write GiB (powers of 1024) or GB (powers of 1000)"),
        (&["serve", "--max-size", "0"], "--max-size must be at least 1"),
        (&["serve", "--listen", "8980"], "write HOST:PORT"),
        (&["serve", "--lease", "1m", "--lease-floor", "2m"], "raise --lease or lower --lease-floor"),
        (&["serve", "--tls-key", &typo], "TLS needs both --tls-certificate and --tls-key"),
        (&["serve", "--tls-certificate", &typo, "--tls-key", &typo], "there is no certificate in"),
        (&["serve", "--tls-certificate", &absent, "--tls-key", &typo], "cannot read"),
        (&["serve", "--config", &typo], "unknown key \"max-size\"; did you mean \"max_size\"?"),
        (&["serve", "--config", &absent], "cannot read the configuration"),
        (&["download", "abc"], "write HASH/SIZE"),
        (&["capabilities", "--server", "ftp://a"], "begins with neither grpc:// nor http://"),
        (&["capabilities", "--instance", "a/blobs"], "--instance \"a/blobs\""),
        (&["sevre"], "serve"),
    ] {
        let output = run(&mut cask(arguments));
        let said = text(&output.stderr);
        assert!(said.contains(advice), "{arguments:?} said {said:?}");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn what_cannot_be_done_here_says_what_would_help_and_exits_with_1() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("a readable path").to_owned();
    let foreign = path("foreign");
    std::fs::create_dir(&foreign).expect("a folder");
    std::fs::write(path("foreign/thesis.tex"), "years of work").expect("a file");
    let file = path("file");
    std::fs::write(&file, "").expect("a file");
    let fresh = path("fresh");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address").to_string();

    for (listen, dir, advice) in [
        (
            taken.as_str(),
            fresh.as_str(),
            "is in use by another program; stop it, or choose another address with --listen",
        ),
        ("127.0.0.1:0", &foreign, "holds no Cask store"),
        ("127.0.0.1:0", &file, "name another with --dir"),
        ("192.0.2.1:1", &fresh, "no address of this machine"),
    ] {
        let output = run(&mut cask(&["serve", "--max-size", "64MiB", "--listen", listen, "--dir", dir]));
        let said = text(&output.stderr);
        assert!(said.contains(advice), "{listen} {dir} said {said:?}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(output.status.code(), Some(1), "{said}");
    }
    assert_eq!(std::fs::read(path("foreign/thesis.tex")).expect("still there"), b"years of work");
}

#[test]
fn a_usage_error_leaves_no_trace() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let mut command = cask(&["serve", "--max-size", "64MiB", "--listen", "not an address"]);
    // Parsing fails before anything is made, whatever the folder.
    command.env("HOME", home.path()).env_remove("XDG_CACHE_HOME");
    assert_eq!(run(&mut command).status.code(), Some(2));
    assert!(std::fs::read_dir(home.path()).expect("a folder").next().is_none());
}
