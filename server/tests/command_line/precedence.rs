//! Flag over variable over file over default.

use super::Server;

#[test]
fn the_nearest_source_wins() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("cask.toml");
    std::fs::write(&file, "lease = \"3h\"\nlease_floor = \"3m\"\n").expect("a file");
    let cases: [(bool, bool, bool, &str); 4] = [
        (false, false, false, "4h aimed for, 10m promised"),
        (true, false, false, "3h aimed for, 3m promised"),
        (true, true, false, "2h aimed for, 3m promised"),
        (true, true, true, "1h aimed for, 3m promised"),
    ];
    for (number, (with_file, with_variable, with_flag, expected)) in cases.into_iter().enumerate() {
        let server = Server::start(&folder.path().join(number.to_string()), |command| {
            if with_file {
                command.arg("--config").arg(&file);
            }
            if with_variable {
                command.env("CASK_LEASE", "2h");
            }
            if with_flag {
                command.args(["--lease", "1h"]);
            }
        });
        assert!(server.line("leases").contains(expected), "{:?}", server.line("leases"));
    }
}
