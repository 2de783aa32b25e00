//! The cache of input files, by itself.

use std::{
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::Path,
    sync::Arc,
};

use cask_executor::worker::{
    FileCacheLimits,
    file_cache::{Claim, FileCache, FileKey, Flight, Pin},
};

use crate::fake::digest_of;

const ROOMY: FileCacheLimits = FileCacheLimits { bytes_max: 1 << 30, files_max: 1000 };

fn key(content: &str) -> FileKey {
    FileKey { digest: digest_of(content.as_bytes()), is_executable: false }
}

fn claim(cache: &Arc<FileCache>, key: FileKey) -> Claim {
    cache.claim(&[key]).pop().expect("one")
}

fn ours(cache: &Arc<FileCache>, key: FileKey) -> Flight {
    match claim(cache, key) {
        Claim::Ours(flight) => flight,
        _ => panic!("it is not there"),
    }
}

fn here(cache: &Arc<FileCache>, content: &str) -> Option<Pin> {
    match claim(cache, key(content)) {
        Claim::Here(pin) => Some(pin),
        _ => None,
    }
}

fn land(cache: &Arc<FileCache>, content: &str) -> Pin {
    ours(cache, key(content)).land_bytes(content.as_bytes()).expect("landed")
}

/// The file as it comes out.
fn placed(cache: &FileCache, pin: &Pin, folder: &Path, name: &str) -> String {
    let directory = std::fs::File::open(folder).expect("a folder");
    cache.place(pin, directory.as_fd(), name).expect("placed");
    std::fs::read_to_string(folder.join(name)).expect("a file")
}

#[test]
fn the_least_recently_used_go_first_and_pinned_ones_stay() {
    for (bytes_max, files_max) in [(9, 1000), (1 << 30, 3)] {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = FileCache::open(folder.path(), FileCacheLimits { bytes_max, files_max }, true).expect("opened");
        let pinned = land(&cache, "000");
        for content in ["111", "222"] {
            drop(land(&cache, content));
        }
        cache.settle();
        assert_eq!(cache.size(), (9, 3));
        assert!(here(&cache, "111").is_some());
        drop(land(&cache, "333"));
        cache.settle();
        assert_eq!(cache.size(), (9, 3));
        for (content, expected) in [("000", true), ("111", true), ("222", false), ("333", true)] {
            assert_eq!(here(&cache, content).is_some(), expected, "{content}");
        }
        drop(pinned);
        let files = walk(folder.path());
        assert_eq!(files.len(), 3, "{files:?}");
    }
}

#[test]
fn pinned_files_may_be_more_than_the_limit_and_are_let_go_after() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = FileCache::open(folder.path(), FileCacheLimits { bytes_max: 5, files_max: 10 }, true).expect("opened");
    let pins: Vec<_> = ["000", "111", "222"].map(|content| land(&cache, content)).into();
    cache.settle();
    assert_eq!(cache.size(), (9, 3));
    drop(pins);
    cache.settle();
    assert_eq!(cache.size(), (3, 1));
}

#[tokio::test]
async fn a_file_is_fetched_by_the_first_who_wants_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = FileCache::open(folder.path(), ROOMY, true).expect("opened");
    let first = ours(&cache, key("abc"));
    let Claim::Others(mut waiting) = claim(&cache, key("abc")) else { panic!("it is being fetched") };
    assert!(!waiting.has_changed().expect("it is still being fetched"));
    // The first gives up: another takes over.
    drop(first);
    assert!(waiting.changed().await.is_err());
    let second = ours(&cache, key("abc"));
    let Claim::Others(mut waiting) = claim(&cache, key("abc")) else { panic!("it is being fetched") };
    second.land_bytes(b"abc").expect("landed");
    assert!(waiting.changed().await.is_err());
    assert!(here(&cache, "abc").is_some());
}

#[test]
fn a_restart_finds_the_files_and_believes_none_before_it_hashed_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = FileCache::open(folder.path(), ROOMY, true).expect("opened");
    for content in ["good", "bent", "torn"] {
        assert!(land(&cache, content).is_verified());
    }
    drop(ours(&cache, key("never landed")));
    drop(cache);
    for file in walk(folder.path()) {
        let content = std::fs::read_to_string(&file).expect("a file");
        match content.as_str() {
            // As a crash of the machine leaves them: other bytes, fewer bytes.
            "bent" => std::fs::write(&file, "BENT").expect("written"),
            "torn" => std::fs::write(&file, "to").expect("written"),
            _ => {}
        }
    }
    std::fs::write(folder.path().join("ab/stray"), "").expect("a file");
    let cache = FileCache::open(folder.path(), ROOMY, true).expect("opened");
    assert!(here(&cache, "torn").is_none());
    let bent = here(&cache, "bent").expect("its size is right");
    assert!(!bent.is_verified() && !cache.verify(&bent).expect("readable"));
    assert!(here(&cache, "bent").is_none());
    let good = here(&cache, "good").expect("there");
    assert!(!good.is_verified() && cache.verify(&good).expect("readable") && good.is_verified());
    assert_eq!(placed(&cache, &good, folder.path(), "out"), "good");
    assert!(!folder.path().join("ab/stray").exists());
}

#[test]
fn a_file_has_one_mode_and_its_twin_the_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = FileCache::open(folder.path(), ROOMY, true).expect("opened");
    let plain = land(&cache, "abc");
    let program = FileKey { is_executable: true, ..key("abc") };
    let twin = cache.twin(program).expect("the plain one");
    let program = ours(&cache, program).land_twin(&twin).expect("landed");
    for (pin, name, mode) in [(&plain, "plain", 0o444), (&program, "program", 0o555)] {
        assert_eq!(placed(&cache, pin, folder.path(), name), "abc");
        let metadata = std::fs::metadata(folder.path().join(name)).expect("there");
        assert_eq!(metadata.mode() & 0o7777, mode);
        assert_eq!(metadata.nlink(), 2);
    }
}

/// Names in the cache can be guessed from digests, and every action could read the inputs of all others by them.
#[test]
fn nobody_else_enters_the_cache() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("inputs");
    for _ in 0..2 {
        drop(FileCache::open(&place, ROOMY, true).expect("opened"));
        assert_eq!(std::fs::metadata(&place).expect("there").mode() & 0o777, 0o700);
        // As an earlier version left it.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(&place, open).expect("its mode");
    }
}

/// Action writes, truncates, changes the mode: what the next one gets is as it was.
#[test]
fn copies_share_nothing_with_the_cache() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = FileCache::open(folder.path(), ROOMY, false).expect("opened");
    let pin = land(&cache, "original");
    assert_eq!(placed(&cache, &pin, folder.path(), "a"), "original");
    std::fs::remove_file(folder.path().join("a")).expect("removed");
    assert_eq!(placed(&cache, &pin, folder.path(), "a"), "original");
    let mut permissions = std::fs::metadata(folder.path().join("a")).expect("there").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o666);
    std::fs::set_permissions(folder.path().join("a"), permissions).expect("changed");
    std::fs::write(folder.path().join("a"), "harm").expect("written");
    assert_eq!(placed(&cache, &pin, folder.path(), "b"), "original");
    assert_eq!(std::fs::metadata(folder.path().join("b")).expect("there").mode() & 0o777, 0o444);
}

/// ext4 allows 65,000 links of a file, and a tree may name the empty file more often.
#[test]
fn a_file_with_all_its_links_is_renewed() {
    let folder = tempfile::Builder::new().tempdir_in(link_limited()).expect("a folder");
    let cache = FileCache::open(folder.path(), ROOMY, true).expect("opened");
    let pin = land(&cache, "abc");
    let out = folder.path().join("out");
    std::fs::create_dir(&out).expect("a folder");
    let directory = std::fs::File::open(&out).expect("a folder");
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (cache, pin, directory) = (&cache, &pin, &directory);
            scope.spawn(move || {
                for index in 0..35_000 {
                    cache.place(pin, directory.as_fd(), &format!("{thread}-{index}")).expect("placed");
                }
            });
        }
    });
    assert_eq!(std::fs::read_dir(&out).expect("there").count(), 70_000);
    assert_eq!(cache.size(), (3, 1));
    assert_eq!(walk(folder.path()).iter().filter(|file| !file.starts_with(&out)).count(), 1);
    for name in ["0-0", "0-34999", "1-34999"] {
        assert_eq!(std::fs::read_to_string(out.join(name)).expect("a file"), "abc");
    }
}

/// The build folder is more likely to be on a file system that counts links than the one for temporary files.
fn link_limited() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_dir() {
            files.extend(walk(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}
