//! What every way of writing must do, over a real folder.

mod support;

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cask_engine::DiskAdapter;
use cask_engine::disk::folder::FolderDisk;
use cask_engine::disk::{Disk, SegmentFile, SegmentWrite, Until};
use support::{data, uring_is_available};

const SIZE: u32 = 4 << 20;

/// Runs a test over every adapter that this system has.
fn each_adapter(test: impl Fn(&Path, &FolderDisk)) {
    for adapter in [DiskAdapter::Positioned, DiskAdapter::Auto, DiskAdapter::Uring] {
        if adapter == DiskAdapter::Uring && !uring_is_available() {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        test(folder.path(), &FolderDisk::open_with(folder.path(), adapter).unwrap());
    }
}

fn files(disk: &dyn Disk, count: u32) -> Vec<Arc<dyn SegmentFile>> {
    (0..count).map(|number| disk.create_segment(number, SIZE).unwrap()).collect()
}

fn on_disk(folder: &Path, number: u32) -> Vec<u8> {
    std::fs::read(folder.join(format!("segments/{number:08x}"))).unwrap()
}

#[test]
fn what_is_asked_for_is_what_is_used() {
    let way =
        |adapter| FolderDisk::open_with(tempfile::tempdir().unwrap().path(), adapter).map(|disk| disk.way_of_writing());
    assert_eq!(way(DiskAdapter::Positioned).unwrap(), "positioned writes");
    if uring_is_available() {
        assert_eq!(way(DiskAdapter::Uring).unwrap(), "io_uring");
        assert_eq!(way(DiskAdapter::Auto).unwrap(), "positioned writes, io_uring for parallel syncs");
    }
}

/// One batch over more files than a ring has places for: small and large, aligned and not, with pieces of every kind.
#[test]
fn a_batch_writes_exactly_its_ranges_and_the_mapping_shows_them() {
    each_adapter(|folder, disk| {
        let files = files(disk, 20);
        let mut expected = vec![vec![0_u8; SIZE as usize]; files.len()];
        for round in 0..3_usize {
            let blobs: Vec<Vec<u8>> = (0..files.len())
                .map(|number| {
                    let length = [1, 4_095, 70_000, 300_001, 65_536][(number + round) % 5];
                    data((round * 100 + number) as u64, length)
                })
                .collect();
            let offsets: Vec<u32> =
                (0..files.len()).map(|number| (round * 700_000 + number * 4_097 + number % 3) as u32).collect();
            let pieces: Vec<Vec<IoSlice<'_>>> = blobs
                .iter()
                .map(|blob| {
                    let (start, rest) = blob.split_at(blob.len() / 3);
                    [start, &[], rest, &[]].map(IoSlice::new).to_vec()
                })
                .collect();
            let mut batch: Vec<SegmentWrite<'_>> = files
                .iter()
                .enumerate()
                .map(|(number, file)| {
                    let until = if number % 3 == 0 { Until::Written } else { Until::Synced };
                    SegmentWrite::new(&**file, offsets[number], &pieces[number], until)
                })
                .collect();
            assert!(batch.iter().all(|write| write.result.is_err()), "nothing counts as written before it is");
            disk.write_batch(&mut batch);
            for write in &batch {
                write.result.as_ref().unwrap();
            }
            for ((expected, offset), blob) in expected.iter_mut().zip(offsets).zip(&blobs) {
                expected[offset as usize..][..blob.len()].copy_from_slice(blob);
            }
            for (number, (file, expected)) in files.iter().zip(&expected).enumerate() {
                assert!(file.slice(0, SIZE) == expected, "mapping of {number} in round {round}");
                assert!(on_disk(folder, number as u32) == *expected, "file {number} in round {round}");
            }
        }
    });
}

/// The kernel takes 1024 pieces a call, a ring 64 calls at once.
#[test]
fn any_number_of_pieces_is_written() {
    each_adapter(|_, disk| {
        let file = &files(disk, 1)[0];
        for count in [0_usize, 1, 1_023, 1_024, 1_025, 3_000, 64 * 1_024 + 1, 70_000] {
            // Beyond what a ring copies, or each piece would be one of its own in one write.
            let blob = data(count as u64, count * 7);
            let pieces: Vec<IoSlice<'_>> = blob.chunks(7).map(IoSlice::new).collect();
            for until in [Until::Written, Until::Synced] {
                let mut batch = [SegmentWrite::new(&**file, 33, &pieces, until)];
                disk.write_batch(&mut batch);
                batch[0].result.as_ref().unwrap();
                assert!(file.slice(33, blob.len() as u32) == blob, "{count} pieces");
            }
        }
    });
}

#[test]
fn several_writes_to_one_file_and_syncs_without_writes() {
    each_adapter(|folder, disk| {
        let files = files(disk, 2);
        let (one, two, three) = (data(1, 100), data(2, 200_000), data(3, 50));
        let pieces = [[IoSlice::new(&one)], [IoSlice::new(&two)], [IoSlice::new(&three)]];
        let mut batch = [
            SegmentWrite::new(&*files[0], 1_000_000, &pieces[0], Until::Synced),
            SegmentWrite::new(&*files[0], 64, &pieces[1], Until::Synced),
            SegmentWrite::new(&*files[1], 0, &[], Until::Synced),
            SegmentWrite::new(&*files[0], 900_000, &pieces[2], Until::Written),
            SegmentWrite::new(&*files[1], 0, &[], Until::Written),
        ];
        disk.write_batch(&mut batch);
        assert!(batch.iter().all(|write| write.result.is_ok()));
        let bytes = on_disk(folder, 0);
        for (offset, blob) in [(1_000_000, &one), (64, &two), (900_000, &three)] {
            assert!(bytes[offset..].starts_with(blob), "{offset}");
        }
        disk.write_batch(&mut []);
    });
}

/// A small synced write brings the blocks behind it into use; whatever was written there before stays.
#[test]
fn entering_fresh_blocks_changes_nothing_that_was_written() {
    each_adapter(|_, disk| {
        let mut expected = vec![0_u8; SIZE as usize];
        let mut put = |file: &dyn SegmentFile, offset: usize, blob: &[u8], batch: bool| {
            let pieces = [IoSlice::new(blob)];
            if batch {
                let mut batch = [SegmentWrite::new(file, offset as u32, &pieces, Until::Synced)];
                disk.write_batch(&mut batch);
                batch[0].result.as_ref().unwrap();
            } else {
                file.write_at(offset as u32, &pieces).unwrap();
            }
            expected[offset..][..blob.len()].copy_from_slice(blob);
            assert!(file.slice(0, SIZE) == expected, "{offset}, {} bytes", blob.len());
        };
        let file = disk.create_segment(0, SIZE).unwrap();
        put(&*file, 300_000, &data(1, 500), false);
        put(&*file, 0, &data(2, 4_096), true);
        put(&*file, 400_000, &data(3, 4_096), true);
        put(&*file, 404_096, &data(4, 9), false);
        drop(file);
        let file = disk.open_segment(0, SIZE).unwrap();
        put(&*file, 404_105, &data(5, 4_096), true);
        put(&*file, SIZE as usize - 10, &data(6, 10), true);
        drop(file);
        let file = disk.open_segment(0, SIZE).unwrap();
        put(&*file, 500_000, &data(7, 4_096), true);
        put(&*file, SIZE as usize - 4_096, &data(8, 4_000), true);
    });
}

/// One write meets a limit in its middle: it fails, short as it was, and the others of the batch do not suffer.
#[test]
fn one_failing_write_fails_alone_and_is_not_synced() {
    /// The system's limit on a file's size stands in for a full disk: segment files are allocated, so a write to one never
    /// meets that.
    fn beyond_the_limit(disk: &FolderDisk) -> Vec<io::Result<()>> {
        let files = files(disk, 3);
        let blob = data(1, 100_000);
        let pieces = [IoSlice::new(&blob)];
        let limit = rustix::process::Rlimit { current: Some(u64::from(SIZE) / 2), maximum: None };
        rustix::process::setrlimit(rustix::process::Resource::Fsize, limit).unwrap();
        let mut batch = [
            SegmentWrite::new(&*files[0], 0, &pieces, Until::Synced),
            // Half of it fits: a short write, then none.
            SegmentWrite::new(&*files[1], SIZE / 2 - 50_000, &pieces, Until::Synced),
            SegmentWrite::new(&*files[2], 100, &pieces, Until::Synced),
        ];
        disk.write_batch(&mut batch);
        batch.into_iter().map(|write| write.result).collect()
    }

    if std::env::var_os("CASK_TEST_LIMITED").is_none() {
        // The limit holds for a process, and its signal kills who does not ignore it: in a process of its own.
        let this = std::env::current_exe().unwrap();
        let output = std::process::Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
            .arg(this)
            .args(["--exact", "one_failing_write_fails_alone_and_is_not_synced", "--nocapture"])
            .env("CASK_TEST_LIMITED", "yes")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
        return;
    }
    let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    for (folder, adapter) in folders.iter().zip([DiskAdapter::Positioned, DiskAdapter::Auto, DiskAdapter::Uring]) {
        if adapter == DiskAdapter::Uring && !uring_is_available() {
            continue;
        }
        let none = rustix::process::Rlimit { current: None, maximum: None };
        rustix::process::setrlimit(rustix::process::Resource::Fsize, none).unwrap();
        let disk = FolderDisk::open_with(folder.path(), adapter).unwrap();
        let results = beyond_the_limit(&disk);
        assert!(results[0].is_ok() && results[2].is_ok(), "{adapter:?}: {results:?}");
        let error = results[1].as_ref().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge, "{adapter:?}: {error}");
    }
}

/// Writer, syncer and reclaimer use the disk at once, more of them than there are rings.
#[test]
fn threads_write_at_once_without_mixing_their_bytes() {
    each_adapter(|folder, disk| {
        const THREADS: usize = 5;
        let files = files(disk, THREADS as u32);
        std::thread::scope(|scope| {
            for (thread, file) in files.iter().enumerate() {
                scope.spawn(move || {
                    for step in 0..40_u32 {
                        let blob = data(u64::from(step) * 10 + thread as u64, 30_000);
                        let pieces: Vec<IoSlice<'_>> = blob.chunks(1_111).map(IoSlice::new).collect();
                        if thread == 0 {
                            file.write_at(step * 30_000, &pieces).unwrap();
                            file.sync().unwrap();
                        } else {
                            let until = if step % 4 == 0 { Until::Synced } else { Until::Written };
                            let mut batch = [SegmentWrite::new(&**file, step * 30_000, &pieces, until)];
                            disk.write_batch(&mut batch);
                            batch[0].result.as_ref().unwrap();
                        }
                    }
                });
            }
        });
        for thread in 0..THREADS {
            let bytes = on_disk(folder, thread as u32);
            for step in 0..40_usize {
                let blob = data(step as u64 * 10 + thread as u64, 30_000);
                assert!(bytes[step * 30_000..].starts_with(&blob), "thread {thread}, step {step}");
            }
        }
    });
}

/// A file that is not the folder's own is written through its own methods.
#[test]
fn a_foreign_file_in_a_batch_is_written_by_itself() {
    struct Foreign(File, AtomicUsize);
    impl SegmentFile for Foreign {
        fn write_at(&self, offset_bytes: u32, pieces: &[IoSlice<'_>]) -> io::Result<()> {
            let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
            self.0.write_all_at(&bytes, u64::from(offset_bytes))
        }
        fn sync(&self) -> io::Result<()> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        fn slice(&self, _: u32, _: u32) -> &[u8] {
            &[]
        }
        fn is_resident(&self, _: u32, _: u32) -> bool {
            true
        }
        fn make_resident(&self, _: u32, _: u32) -> io::Result<()> {
            Ok(())
        }
    }
    each_adapter(|_, disk| {
        let foreign = Foreign(tempfile::tempfile().unwrap(), AtomicUsize::new(0));
        let own = disk.create_segment(0, SIZE).unwrap();
        let pieces = [IoSlice::new(b"four")];
        let mut batch = [
            SegmentWrite::new(&foreign, 8, &pieces, Until::Synced),
            SegmentWrite::new(&*own, 8, &pieces, Until::Synced),
        ];
        disk.write_batch(&mut batch);
        assert!(batch.iter().all(|write| write.result.is_ok()));
        let mut read = [0; 4];
        foreign.0.read_exact_at(&mut read, 8).unwrap();
        assert_eq!((&read, own.slice(8, 4), foreign.1.load(Ordering::Relaxed)), (b"four", &b"four"[..], 1));
    });
}

/// A mapping that is read in no order has no read-ahead of the kernel's, so bringing in a megabyte of it went to the disk page
/// by page, each time waiting: 256 requests of 4 KiB one after the other, a fifth of what the disk gives.
#[test]
fn a_cold_range_comes_in_large_requests_not_page_by_page() {
    // Where the build is: temporary folders are in memory on many machines, and there nothing is ever cold.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let disk = FolderDisk::open_with(folder.path(), DiskAdapter::Positioned).unwrap();
    let file = disk.create_segment(0, SIZE).unwrap();
    let bytes = data(1, SIZE as usize);
    file.write_at(0, &[IoSlice::new(&bytes)]).unwrap();
    file.sync().unwrap();
    drop(file);
    let path = folder.path().join("segments/00000000");
    rustix::fs::fadvise(File::open(path).unwrap(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let file = disk.open_segment(0, SIZE).unwrap();
    let before = major_faults();
    file.make_resident(100, SIZE - 200).unwrap();
    let faults = major_faults() - before;
    assert!(faults <= 16, "{faults} waits for the disk");
    assert_eq!(file.slice(0, SIZE), bytes);
}

/// Of this thread so far: page faults that had to wait for the disk.
fn major_faults() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    // Behind the name in parentheses, which may hold anything; field 12 of proc(5).
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(9).unwrap().parse().unwrap()
}
