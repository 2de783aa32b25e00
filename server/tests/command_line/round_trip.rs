//! Upload, ask, download: files come back as they were.

use std::path::Path;

use super::{Server, cask, run, text};

/// Runs a client command against the server and gives its output, which must be a success.
fn ask(server: &Server, arguments: &[&str]) -> String {
    let output = run(cask(arguments).env("CASK_SERVER", server.address()));
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a readable path")
}

#[test]
fn files_come_back_as_they_were() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(&folder.path().join("store"), |_| {});
    let (large, empty) = (folder.path().join("large"), folder.path().join("empty"));
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(&large, &content).expect("a file");
    std::fs::write(&empty, b"").expect("a file");

    let printed = ask(&server, &["upload", path(&large), path(&empty), path(&large)]);
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines.len(), 3, "one line a file");
    assert_eq!(lines[0], lines[2]);
    let (digest, name) = lines[0].split_once("  ").expect("a digest and a name");
    assert_eq!(name, path(&large));
    assert!(digest.ends_with("/12000000"), "{digest}");

    let absent = format!("{}/5", "ab".repeat(32));
    assert_eq!(ask(&server, &["find-missing", digest, &absent]), format!("{absent}\n"));

    let back = folder.path().join("back");
    ask(&server, &["download", digest, "--output", path(&back)]);
    assert!(std::fs::read(&back).expect("a file") == content, "the blob came back changed");

    let output =
        run(cask(&["download", &absent, "-o", path(&folder.path().join("none"))]).env("CASK_SERVER", server.address()));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("is not in the cache"), "{}", text(&output.stderr));
    let mut names: Vec<_> =
        std::fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
    names.sort();
    assert_eq!(names, ["back", "empty", "large", "store"], "a failed download leaves no file");
}

#[test]
fn capabilities_are_told_in_lines() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(&folder.path().join("store"), |_| {});
    let printed = ask(&server, &["capabilities"]);
    assert!(printed.contains("digest functions   SHA256, BLAKE3, "), "{printed}");
    assert!(printed.contains("compressors        zstd\n"), "{printed}");
    assert!(printed.contains("remote execution   no\n"), "{printed}");
}
