//! Folders on their way up and results on their way down.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use bytes::Bytes;
use cask_executor::{
    action::RootPath,
    client::{InputTree, OutputError, OutputFolder, OutputPlacement, RemoteCache, TreeError, Uploaded, digest_of},
};
use cask_index::{Digest, DigestFunction};
use cask_proto::{digest::to_wire, reapi as re};
use prost::Message as _;

use super::{bytes_of, fake::Fake};

fn write(path: &Path, content: &[u8], mode: u32) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(path, content).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
}

/// What lies below a folder: of files their content and whether they can be executed, of symlinks their target.
fn listing(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("named").to_str().expect("text").to_owned();
        let metadata = path.symlink_metadata().expect("there");
        if metadata.is_symlink() {
            found.insert(name, format!("-> {}", fs::read_link(&path).expect("a link").display()));
        } else if metadata.is_dir() {
            found.insert(name.clone(), "/".to_owned());
            found.extend(listing(&path).into_iter().map(|(inner, what)| (format!("{name}/{inner}"), what)));
        } else {
            let executable = if metadata.permissions().mode() & 0o100 != 0 { "*" } else { "" };
            let content = String::from_utf8_lossy(&fs::read(&path).expect("readable")).into_owned();
            found.insert(name, format!("{executable}{content}"));
        }
    }
    found
}

fn directory_in(fake: &Fake, digest: &Digest) -> re::Directory {
    let blob = fake.state().blobs.get(&digest.to_string()).cloned().expect("uploaded");
    re::Directory::decode(blob).expect("a directory")
}

#[tokio::test]
async fn a_folder_goes_up_in_canonical_form_and_only_what_is_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write(&root.join("b/deep/run.sh"), b"#!/bin/sh", 0o755);
    write(&root.join("b/deep/text"), b"text", 0o640);
    write(&root.join("B"), b"", 0o600);
    write(&root.join("é"), &bytes_of(200_000, 1), 0o644);
    write(&root.join("a"), b"text", 0o644);
    fs::create_dir_all(root.join("empty/inner")).expect("made");
    symlink("../no/such", root.join("link")).expect("linked");
    symlink("b", root.join("to a folder")).expect("linked");

    let tree = InputTree::read(root).expect("read");
    let fake = Fake::default();
    let cache = fake.serve().await;
    let uploaded = cache.upload_tree(&tree).await.expect("uploaded");
    // Two files of one content and two empty folders are a blob each, and the empty ones are the same blob.
    assert_eq!(uploaded.blob_count, 8);
    let top = directory_in(&fake, &tree.root());
    let names: Vec<_> = top.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["B", "a", "é"], "sorted by bytes");
    let names: Vec<_> = top.directories.iter().map(|directory| directory.name.as_str()).collect();
    assert_eq!(names, ["b", "empty"]);
    let links: Vec<_> = top.symlinks.iter().map(|link| (link.name.as_str(), link.target.as_str())).collect();
    assert_eq!(links, [("link", "../no/such"), ("to a folder", "b")]);
    assert_eq!(uploaded.bytes, fake.state().blobs.values().map(|blob| blob.len() as u64).sum::<u64>());

    assert_eq!(cache.upload_tree(&tree).await.expect("uploaded"), Uploaded::default());
    write(&root.join("b/deep/text"), b"changed", 0o640);
    let changed = InputTree::read(root).expect("read");
    assert_eq!(cache.upload_tree(&changed).await.expect("uploaded").blob_count, 4, "the file and the folders above it");

    // The same content elsewhere, made in another order and with other modes, is the same tree.
    let other = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(other.path().join("empty/inner")).expect("made");
    symlink("b", other.path().join("to a folder")).expect("linked");
    symlink("../no/such", other.path().join("link")).expect("linked");
    write(&other.path().join("a"), b"text", 0o600);
    write(&other.path().join("é"), &bytes_of(200_000, 1), 0o444);
    write(&other.path().join("B"), b"", 0o644);
    write(&other.path().join("b/deep/text"), b"text", 0o644);
    write(&other.path().join("b/deep/run.sh"), b"#!/bin/sh", 0o710);
    assert_eq!(InputTree::read(other.path()).expect("read").root(), tree.root());
}

type Case<'a> = (&'a str, &'a dyn Fn(&Path), fn(&TreeError) -> bool);

#[test]
fn what_the_api_has_no_place_for_is_named() {
    use std::os::unix::ffi::OsStrExt as _;
    let not_text = std::ffi::OsStr::from_bytes(b"caf\xe9");
    let cases: [Case<'_>; 4] = [
        ("a name that is not text", &|root| fs::write(root.join(not_text), "").expect("written"), |error| {
            matches!(error, TreeError::NotText { .. })
        }),
        ("a target that is not text", &|root| symlink(not_text, root.join("link")).expect("linked"), |error| {
            matches!(error, TreeError::NotText { .. })
        }),
        (
            "a socket",
            &|root| drop(std::os::unix::net::UnixListener::bind(root.join("socket")).expect("bound")),
            |error| matches!(error, TreeError::Special { .. }),
        ),
        ("folders in folders", &|root| fs::create_dir_all(root.join("d/".repeat(600))).expect("made"), |error| {
            matches!(error, TreeError::TooDeep { .. })
        }),
    ];
    for (what, make, is_right) in cases {
        let outer = tempfile::tempdir().expect("a folder");
        make(outer.path());
        let error = InputTree::read(outer.path()).expect_err(what);
        assert!(is_right(&error), "{what}: {error}");
        assert!(error.to_string().contains(outer.path().to_str().expect("text")), "{error} names the file");
    }
    let error = InputTree::read(Path::new("/no/such/folder")).expect_err("absent");
    assert!(matches!(error, TreeError::Read { .. }), "{error}");
}

fn file(name: &str, digest: &Digest, is_executable: bool) -> re::FileNode {
    re::FileNode { name: name.to_owned(), digest: Some(to_wire(digest)), is_executable, node_properties: None }
}

fn link(name: &str, target: &str) -> re::SymlinkNode {
    re::SymlinkNode { name: name.to_owned(), target: target.to_owned(), node_properties: None }
}

fn child(name: &str, directory: &re::Directory) -> re::DirectoryNode {
    let digest = digest_of(&directory.encode_to_vec());
    re::DirectoryNode { name: name.to_owned(), digest: Some(to_wire(&digest)) }
}

fn put(fake: &Fake, content: &[u8]) -> Digest {
    let digest = digest_of(content);
    fake.state().blobs.insert(digest.to_string(), Bytes::copy_from_slice(content));
    digest
}

fn output(path: &str, digest: &Digest, is_executable: bool) -> re::OutputFile {
    re::OutputFile { path: path.to_owned(), digest: Some(to_wire(digest)), is_executable, ..Default::default() }
}

fn output_link(path: &str, target: &str) -> re::OutputSymlink {
    re::OutputSymlink { path: path.to_owned(), target: target.to_owned(), node_properties: None }
}

async fn download(cache: &RemoteCache, result: &re::ActionResult, into: &Path, from: &str) -> Result<(), OutputError> {
    let folder = OutputFolder::open(into).expect("opened");
    let working_directory = RootPath::ROOT.join("it", from).expect("a path");
    let placement = OutputPlacement { folder: &folder, working_directory, function: DigestFunction::Sha256 };
    cache.download_outputs(result, &placement).await
}

/// Files, symlinks (in old fields and new ones), folders as Trees and as Directories, below and beside the working directory.
#[tokio::test]
async fn results_come_down_to_where_they_belong() {
    let fake = Fake::default();
    let (script, text) = (put(&fake, b"#!/bin/sh"), put(&fake, b"text"));
    let inlined = digest_of(b"inlined");
    let inner = re::Directory { files: vec![file("run.sh", &script, true)], ..Default::default() };
    let empty = re::Directory::default();
    let top = re::Directory {
        files: vec![file("t", &text, false)],
        directories: vec![child("one", &inner), child("three", &empty), child("two", &inner)],
        symlinks: vec![link("up", "../..")],
        ..Default::default()
    };
    let tree = re::Tree { root: Some(top.clone()), children: vec![inner.clone(), empty.clone()] };
    let tree = put(&fake, &tree.encode_to_vec());
    put(&fake, &inner.encode_to_vec());
    let root = put(&fake, &top.encode_to_vec());
    put(&fake, b"");
    let mut with_content = output("in", &inlined, false);
    with_content.contents = Bytes::from_static(b"inlined");
    let result = re::ActionResult {
        output_files: vec![output("a/b/x.sh", &script, true), output("../beside", &text, false), with_content],
        output_symlinks: vec![output_link("l", "/etc/passwd")],
        output_file_symlinks: vec![output_link("l", "/etc/passwd"), output_link("old", "x")],
        output_directory_symlinks: vec![output_link("older", "y")],
        output_directories: vec![
            re::OutputDirectory { path: "tree".to_owned(), tree_digest: Some(to_wire(&tree)), ..Default::default() },
            re::OutputDirectory {
                path: "only".to_owned(),
                root_directory_digest: Some(to_wire(&root)),
                ..Default::default()
            },
        ],
        ..Default::default()
    };
    let outer = tempfile::tempdir().expect("a folder");
    let cache = fake.serve().await;
    // Twice: the second time all of it is there already.
    for _ in 0..2 {
        download(&cache, &result, outer.path(), "w").await.expect("downloaded");
        let mut expected: BTreeMap<String, String> = [
            ("beside", "text"),
            ("w", "/"),
            ("w/a", "/"),
            ("w/a/b", "/"),
            ("w/a/b/x.sh", "*#!/bin/sh"),
            ("w/in", "inlined"),
            ("w/l", "-> /etc/passwd"),
            ("w/old", "-> x"),
            ("w/older", "-> y"),
        ]
        .map(|(path, what)| (path.to_owned(), what.to_owned()))
        .into();
        for top in ["tree", "only"] {
            for (path, what) in [
                ("", "/"),
                ("/t", "text"),
                ("/one", "/"),
                ("/one/run.sh", "*#!/bin/sh"),
                ("/two", "/"),
                ("/two/run.sh", "*#!/bin/sh"),
                ("/three", "/"),
                ("/up", "-> ../.."),
            ] {
                expected.insert(format!("w/{top}{path}"), what.to_owned());
            }
        }
        assert_eq!(listing(outer.path()), expected);
    }
}

/// Whatever a server says: nothing outside the folder, and nothing at all of a result that is refused.
#[tokio::test]
async fn results_that_lead_elsewhere_write_nothing() {
    let fake = Fake::default();
    let text = put(&fake, b"text");
    let tree_of = |directory: re::Directory, children: Vec<re::Directory>| {
        let tree = put(&fake, &re::Tree { root: Some(directory), children }.encode_to_vec());
        re::OutputDirectory { path: "tree".to_owned(), tree_digest: Some(to_wire(&tree)), ..Default::default() }
    };
    let files = |name: &str| re::Directory { files: vec![file(name, &text, false)], ..Default::default() };
    let mut cases: Vec<(String, re::ActionResult)> = Vec::new();
    for name in ["..", ".", "", "a/b", "/etc/x", "../x", "a\0"] {
        cases.push((
            format!("a tree's name {name:?}"),
            re::ActionResult { output_directories: vec![tree_of(files(name), vec![])], ..Default::default() },
        ));
    }
    for path in ["../../x", "/x", "a/../../../x", "a\0"] {
        cases.push((
            format!("a file's path {path:?}"),
            re::ActionResult { output_files: vec![output(path, &text, false)], ..Default::default() },
        ));
        cases.push((
            format!("a link's path {path:?}"),
            re::ActionResult { output_symlinks: vec![output_link(path, "x")], ..Default::default() },
        ));
    }
    // A name twice, as a link out and as the folder to be filled behind it.
    let twice = re::Directory {
        directories: vec![child("out", &files("x"))],
        symlinks: vec![link("out", "../..")],
        ..Default::default()
    };
    let twice = tree_of(twice, vec![files("x")]);
    cases.push(("a name twice".to_owned(), re::ActionResult { output_directories: vec![twice], ..Default::default() }));
    let absent = re::Directory { directories: vec![child("gone", &files("x"))], ..Default::default() };
    cases.push((
        "an absent directory".to_owned(),
        re::ActionResult { output_directories: vec![tree_of(absent, vec![])], ..Default::default() },
    ));
    // Thirty directories, each with the next one twice: a thousand million places.
    let mut directories = vec![files("x")];
    for _ in 0..30 {
        let below = directories.last().expect("the first");
        let twice = vec![child("a", below), child("b", below)];
        directories.push(re::Directory { directories: twice, ..Default::default() });
    }
    let bomb = tree_of(directories.pop().expect("the top"), directories);
    cases.push(("a bomb".to_owned(), re::ActionResult { output_directories: vec![bomb], ..Default::default() }));

    let cache = fake.serve().await;
    for (what, mut result) in cases {
        let outer = tempfile::tempdir().expect("a folder");
        let inside = outer.path().join("inside");
        // One that would be written, were the result not looked at before.
        result.output_files.push(output("fine", &text, false));
        let error = download(&cache, &result, &inside, "w").await.expect_err(&what);
        assert!(matches!(error, OutputError::Refused(_) | OutputError::Malformed(_)), "{what}: {error}");
        assert_eq!(listing(outer.path()).into_keys().collect::<Vec<_>>(), ["inside"], "{what}");
    }
}

/// A link that an output made, and another output behind it: the link is not followed.
#[tokio::test]
async fn an_output_is_not_written_behind_another_s_symlink() {
    let fake = Fake::default();
    let text = put(&fake, b"text");
    let result = re::ActionResult {
        output_files: vec![output("way/x", &text, false)],
        output_symlinks: vec![output_link("way", "..")],
        ..Default::default()
    };
    let outer = tempfile::tempdir().expect("a folder");
    let error = download(&fake.serve().await, &result, &outer.path().join("inside"), "").await.expect_err("refused");
    assert!(matches!(error, OutputError::Write { .. }), "{error}");
    let paths: Vec<_> = listing(outer.path()).into_keys().collect();
    assert_eq!(paths, ["inside", "inside/way"]);
}

/// A blob that does not come leaves no half file, and the one that was there stays.
#[tokio::test]
async fn a_download_that_fails_leaves_what_was_there() {
    let fake = Fake::default();
    let outer = tempfile::tempdir().expect("a folder");
    write(&outer.path().join("x"), b"old", 0o644);
    let absent = digest_of(b"absent");
    let result = re::ActionResult { output_files: vec![output("x", &absent, false)], ..Default::default() };
    let error = download(&fake.serve().await, &result, outer.path(), "").await.expect_err("absent");
    assert!(matches!(error, OutputError::Client(_)), "{error}");
    assert_eq!(listing(outer.path()), BTreeMap::from([("x".to_owned(), "old".to_owned())]));
}

#[tokio::test]
async fn a_log_is_followed_over_breaks_to_its_end() {
    use super::fake::ReadFault::BreakAfter;
    use tonic::Code;
    let fake = Fake::default();
    let content = bytes_of(300_000, 9);
    let digest = put(&fake, &content);
    fake.state().read_faults = vec![
        BreakAfter(0, Code::Unavailable),
        BreakAfter(100_000, Code::Internal),
        BreakAfter(0, Code::Unavailable),
        BreakAfter(7, Code::Unavailable),
    ]
    .into();
    // The fake knows blobs' names only; to the reader a name is a name.
    let mut log = fake.serve().await.follow_log(format!("test/blobs/{digest}"));
    let mut seen = Vec::new();
    while let Some(bytes) = log.next().await.expect("more") {
        assert!(!bytes.is_empty());
        seen.extend_from_slice(&bytes);
        assert_eq!(log.read_bytes(), seen.len() as u64);
    }
    assert!(seen == content);
    assert_eq!(fake.state().log, ["read 0", "read 0", "read 100000", "read 100000", "read 100007"]);
    assert!(log.next().await.expect("the end stays").is_none());
    let mut absent = fake.serve().await.follow_log(format!("test/blobs/{}", digest_of(b"absent")));
    absent.next().await.expect_err("there is none");
    assert!(absent.next().await.expect("the end").is_none());
}
