//! A worker's input root of 10,000 files that are in its cache: made, and removed. The folders are below the build folder, so on
//! its file system; `CASK_BENCH_DIR` names another.

use std::collections::HashMap;
use std::hint::black_box;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cask_executor::action::{CheckedDirectory, DirectoryEntry, FileEntry};
use cask_executor::worker::file_cache::{Claim, FileCache, FileKey, Pin};
use cask_executor::worker::input_tree::InputTree;
use cask_executor::worker::removal::remove_tree;
use cask_executor::worker::root::make_root;
use cask_executor::worker::{FileCacheLimits, InputLimits};
use cask_index::{Digest, DigestFunction, Hasher};
use criterion::{Criterion, criterion_group, criterion_main};

const FILES: usize = 10_000;
const DIRECTORIES: usize = 500;
const FILE_BYTES: usize = 4096;

struct Stage {
    folder: tempfile::TempDir,
    cache: Arc<FileCache>,
    tree: InputTree,
    pins: HashMap<FileKey, Pin>,
}

impl Stage {
    fn new(links: bool) -> Self {
        let parent = std::env::var_os("CASK_BENCH_DIR").map_or(env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
        let folder = tempfile::tempdir_in(parent).expect("a folder");
        let limits = FileCacheLimits { bytes_max: u64::MAX, files_max: usize::MAX };
        let cache = FileCache::open(&folder.path().join("cache"), limits, links).expect("opened");
        let mut listings: HashMap<Digest, Arc<CheckedDirectory>> = HashMap::new();
        let mut pins = HashMap::new();
        let mut root = CheckedDirectory::default();
        for index in 0..DIRECTORIES {
            let mut directory = CheckedDirectory::default();
            for file in 0..FILES / DIRECTORIES {
                let content = format!("{:0width$}", index * FILES + file, width = FILE_BYTES);
                let digest = digest_of(content.as_bytes());
                let key = FileKey { digest, is_executable: file == 0 };
                pins.insert(key, land(&cache, key, content.as_bytes()));
                let name = format!("file_{file:02}.h");
                directory.files.push(FileEntry { name, digest, is_executable: key.is_executable, properties: None });
            }
            let digest = digest_of(format!("directory {index}").as_bytes());
            listings.insert(digest, Arc::new(directory));
            root.directories.push(DirectoryEntry { name: format!("package_{index:03}"), digest });
        }
        let digest = digest_of(b"root");
        listings.insert(digest, Arc::new(root));
        let tree = InputTree::spread(digest, &listings, &InputLimits::default()).expect("a tree");
        Self { folder, cache, tree, pins }
    }

    fn make(&self, name: &str, threads: usize) {
        let path = self.folder.path().join(name);
        std::fs::create_dir(&path).expect("made");
        make_root(open(&path).as_fd(), &self.tree, &self.cache, &self.pins, threads).expect("made");
    }

    fn remove(&self, name: &str, threads: usize) {
        remove_tree(open(self.folder.path()).as_fd(), name, threads).expect("removed");
    }
}

fn digest_of(bytes: &[u8]) -> Digest {
    Hasher::digest(DigestFunction::Sha256, bytes)
}

fn open(path: &Path) -> OwnedFd {
    std::fs::File::open(path).expect("a folder").into()
}

fn land(cache: &Arc<FileCache>, key: FileKey, content: &[u8]) -> Pin {
    match cache.claim(&[key]).pop() {
        Some(Claim::Ours(flight)) => flight.land_bytes(content).expect("landed"),
        _ => panic!("each file is of its own"),
    }
}

fn roots(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("root_of_10k_files");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    for (kind, links) in [("links", true), ("copies", false)] {
        let stage = Stage::new(links);
        for threads in [1, 2, 4] {
            group.bench_function(format!("make/{kind}/{threads}"), |bencher| {
                bencher.iter_custom(|rounds| {
                    let mut time = Duration::ZERO;
                    for _ in 0..rounds {
                        let begun = Instant::now();
                        stage.make(black_box("root"), threads);
                        time += begun.elapsed();
                        stage.remove("root", 2);
                    }
                    time
                });
            });
            group.bench_function(format!("remove/{kind}/{threads}"), |bencher| {
                bencher.iter_custom(|rounds| {
                    let mut time = Duration::ZERO;
                    for _ in 0..rounds {
                        stage.make("root", 2);
                        let begun = Instant::now();
                        stage.remove(black_box("root"), threads);
                        time += begun.elapsed();
                    }
                    time
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, roots);
criterion_main!(benches);
