//! One io_uring: chains of writes, each ended by an fdatasync or not, run to their end in one call.
//!
//! ```text
//!   chain 1   write_fixed ──link──▶ fdatasync            (small: copied into the registered arena)
//!   chain 2   writev ──link──▶ writev ──link──▶ fdatasync  (large: no copy, 1024 pieces each)
//!   chain 3   fdatasync                                   (chains run side by side)
//! ```
//! Invariants: `run` returns only when the kernel has answered for everything that it took, so no buffer of a caller is
//! read after the call (a guard waits even if it unwinds). A sync is reported as done only when it ran after every byte
//! of its chain.
//!
//! Called by `uring` alone, which finishes by position what the ring left undone. It retries nothing and judges nothing.
//! Unsafe code: handing pointers to the kernel.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};

use io_uring::squeue::{self, Flags};
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, Probe, opcode};
use memmap2::MmapMut;

use super::positioned::{PIECES_PER_WRITE_MAX, bytes_of};

/// Operations under way at once: three lanes need six; a batch of tiny records needs a write for each 1024 pieces.
const ENTRIES: usize = 64;
/// Registered files: the open segments of all lanes, several times over.
const FILES: usize = 16;
/// Registered memory. With `ENTRIES` small it stays below the usual limit of locked memory (8 MiB).
const ARENA_BYTES: usize = 256 * 1024;
/// Writes up to this size are copied into the arena: less work for the kernel than looking up their pieces' pages.
const COPIED_BYTES_MAX: usize = 64 * 1024;
/// How often the kernel may refuse to take work for want of memory before the ring is given up.
const REFUSALS_MAX: u32 = 1000;

/// A write, a sync, or a sync that follows a write.
pub(super) struct Chain<'a> {
    pub(super) file: &'a File,
    /// Names the file for ever, as its descriptor does not.
    pub(super) file_id: u64,
    pub(super) offset_bytes: u32,
    pub(super) pieces: &'a [IoSlice<'a>],
    pub(super) sync: bool,
}

/// What became of a chain. Errors are numbers of the operating system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// Bytes from the start without a gap.
    pub(super) written_bytes: usize,
    /// Why it stopped there; `None` also where the kernel only wrote less than asked, or was interrupted.
    pub(super) write_error: Option<i32>,
    /// `None`: no sync ran after the last byte.
    pub(super) sync: Option<Result<(), i32>>,
}

/// One operation of a chain.
struct Step {
    /// Position of its chain in the round.
    chain: usize,
    what: What,
    /// What the kernel answered.
    result: Option<i32>,
}

enum What {
    Write { bytes: usize },
    Sync,
}

/// See the module's head.
pub(super) struct Ring {
    // Before the arena: the kernel lets go of the memory before it is given back.
    uring: IoUring,
    arena: MmapMut,
    arena_is_registered: bool,
    /// Which file is registered where; empty where the kernel has no sparse tables (before 5.19).
    files: Vec<Option<u64>>,
    next_file: usize,
    is_broken: bool,
}

impl Ring {
    /// Sets a ring up.
    ///
    /// # Errors
    /// Why this system has none: not built in, forbidden, too old, no memory.
    pub(super) fn new() -> io::Result<Self> {
        // The second for kernels before 5.19.
        let uring = IoUring::builder()
            .setup_coop_taskrun()
            .setup_submit_all()
            .build(ENTRIES as u32)
            .or_else(|_| IoUring::new(ENTRIES as u32))?;
        let mut probe = Probe::new();
        uring.submitter().register_probe(&mut probe)?;
        for needed in [opcode::WriteFixed::CODE, opcode::Writev::CODE, opcode::Fsync::CODE] {
            if !probe.is_supported(needed) {
                return Err(io::Error::new(io::ErrorKind::Unsupported, format!("operation {needed} is not supported")));
            }
        }
        let mut arena = MmapMut::map_anon(ARENA_BYTES)?;
        let iovec = libc::iovec { iov_base: arena.as_mut_ptr().cast(), iov_len: ARENA_BYTES };
        // SAFETY: the arena is page-aligned memory of that length which lives until after the ring (field order), and
        // nobody but `submit` touches it.
        let arena_is_registered = unsafe { uring.submitter().register_buffers(&[iovec]) }.is_ok();
        let files = match uring.submitter().register_files_sparse(FILES as u32) {
            Ok(()) => vec![None; FILES],
            Err(_) => Vec::new(),
        };
        Ok(Self { uring, arena, arena_is_registered, files, next_file: 0, is_broken: false })
    }

    /// True when the kernel refused to go on: what `run` is asked for from now on stays undone.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Runs all chains, side by side as far as there is room, and waits for them.
    pub(super) fn run(&mut self, chains: &[Chain<'_>]) -> Vec<Done> {
        let mut done = vec![Done::default(); chains.len()];
        let mut first = 0;
        while first < chains.len() && !self.is_broken {
            let count = fitting(&chains[first..]);
            if count == 0 {
                // More pieces than the ring has entries: undone, and so the caller's.
                first += 1;
                continue;
            }
            let mut under_way = self.submit(&chains[first..first + count]);
            under_way.finish();
            let (is_broken, split) = (under_way.is_broken, under_way.split);
            for (position, done) in done[first..first + count].iter_mut().enumerate() {
                *done = tell(under_way.steps.iter().filter(|step| step.chain == position), split);
            }
            drop(under_way);
            self.is_broken = is_broken;
            first += count;
        }
        done
    }

    /// Hands the chains to the kernel. They fit.
    fn submit<'a>(&'a mut self, chains: &'a [Chain<'a>]) -> UnderWay<'a> {
        let mut steps = Vec::with_capacity(ENTRIES);
        let mut entries = Vec::with_capacity(ENTRIES);
        let mut arena_end = 0;
        let mut files_used = [false; FILES];
        for (position, chain) in chains.iter().enumerate() {
            let first_entry = entries.len();
            let (file, flags) = self.target(chain, &mut files_used);
            let mut offset = u64::from(chain.offset_bytes);
            let total = bytes_of(chain.pieces);
            if self.arena_is_registered && (1..=COPIED_BYTES_MAX.min(ARENA_BYTES - arena_end)).contains(&total) {
                let copy = &mut self.arena[arena_end..arena_end + total];
                let mut rest = &mut *copy;
                for piece in chain.pieces {
                    let (start, tail) = rest.split_at_mut(piece.len());
                    start.copy_from_slice(piece);
                    rest = tail;
                }
                arena_end += total;
                let write = opcode::WriteFixed::new(file, copy.as_ptr(), total as u32, 0);
                entries.push(write.offset(offset).build().flags(flags));
                steps.push(Step { chain: position, what: What::Write { bytes: total }, result: None });
            } else {
                for group in chain.pieces.chunks(PIECES_PER_WRITE_MAX) {
                    let bytes = bytes_of(group);
                    if bytes == 0 {
                        continue;
                    }
                    // `IoSlice` has the layout of an iovec: the standard library promises it on Unix.
                    let (pieces, count) = (group.as_ptr().cast::<libc::iovec>(), group.len() as u32);
                    entries.push(opcode::Writev::new(file, pieces, count).offset(offset).build().flags(flags));
                    steps.push(Step { chain: position, what: What::Write { bytes }, result: None });
                    offset += bytes as u64;
                }
            }
            if chain.sync {
                entries.push(opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build().flags(flags));
                steps.push(Step { chain: position, what: What::Sync, result: None });
            }
            for entry in entries[first_entry..].iter_mut().rev().skip(1) {
                *entry = entry.clone().flags(Flags::IO_LINK);
            }
        }
        let under_way =
            UnderWay { uring: &mut self.uring, steps, pushed: 0, completed: 0, split: false, is_broken: false };
        under_way.push(entries)
    }

    /// Where a chain's operations go: the file's place in the table of registered files, or its descriptor.
    fn target(&mut self, chain: &Chain<'_>, used: &mut [bool; FILES]) -> (Fd, Flags) {
        let place = self.files.iter().position(|file| *file == Some(chain.file_id)).or_else(|| {
            // Not one that this very round writes to.
            let place =
                (0..self.files.len()).map(|step| (self.next_file + step) % FILES).find(|place| !used[*place])?;
            self.next_file = (place + 1) % FILES;
            self.files[place] = None;
            self.uring.submitter().register_files_update(place as u32, &[chain.file.as_raw_fd()]).ok()?;
            self.files[place] = Some(chain.file_id);
            Some(place)
        });
        match place {
            Some(place) => {
                used[place] = true;
                (Fd(place as RawFd), Flags::FIXED_FILE)
            }
            None => (Fd(chain.file.as_raw_fd()), Flags::empty()),
        }
    }
}

/// Operations that the kernel has; dropping it waits for them.
struct UnderWay<'a> {
    uring: &'a mut IoUring,
    steps: Vec<Step>,
    pushed: usize,
    completed: usize,
    /// The kernel did not take everything at once, so a chain may have been cut, and its parts run side by side.
    split: bool,
    is_broken: bool,
}

impl UnderWay<'_> {
    fn push(mut self, entries: Vec<squeue::Entry>) -> Self {
        let mut queue = self.uring.submission();
        for (position, entry) in entries.into_iter().enumerate() {
            // SAFETY: every pointer in the entry is into the arena, which the ring owns, or into pieces that the caller
            // of `run` lends for longer than this guard lives, as it does the open files; and the guard's drop waits
            // until the kernel has answered.
            unsafe { queue.push(&entry.user_data(position as u64)) }.expect("as many entries as `fitting` allows");
            self.pushed += 1;
        }
        drop(queue);
        self
    }

    fn reap(&mut self) {
        for completion in self.uring.completion() {
            self.steps[completion.user_data() as usize].result = Some(completion.result());
            self.completed += 1;
        }
    }

    /// Submits and waits until everything that the kernel took is answered.
    fn finish(&mut self) {
        let mut refusals = 0;
        loop {
            self.reap();
            let not_taken = self.uring.submission().len();
            // What a broken ring did not take will never be taken: the ring is closed before it is entered again.
            let answered = self.completed + if self.is_broken { not_taken } else { 0 };
            if answered == self.pushed {
                return;
            }
            if self.is_broken {
                // The kernel still works on what it has, and answers in shared memory.
                std::thread::yield_now();
                continue;
            }
            match self.uring.submit_and_wait(self.pushed - self.completed) {
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN | libc::EBUSY) if refusals < REFUSALS_MAX => {
                        refusals += 1;
                        std::thread::yield_now();
                    }
                    _ => {
                        tracing::error!(event = "disk_ring_broken", %error, "io_uring_enter failed");
                        self.is_broken = true;
                    }
                },
            }
            self.split |= !self.uring.submission().is_empty();
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.finish();
    }
}

/// How many of the chains, from the first, find room in the ring together.
fn fitting(chains: &[Chain<'_>]) -> usize {
    let mut entries = 0;
    chains
        .iter()
        .take_while(|chain| {
            entries += chain.pieces.len().div_ceil(PIECES_PER_WRITE_MAX) + usize::from(chain.sync);
            entries <= ENTRIES
        })
        .count()
}

/// What the answers to a chain's operations amount to.
fn tell<'a>(steps: impl Iterator<Item = &'a Step>, split: bool) -> Done {
    let mut done = Done::default();
    let mut complete = true;
    for step in steps {
        match (&step.what, step.result) {
            (What::Write { bytes }, Some(written @ 0..)) if complete => {
                done.written_bytes += written as usize;
                complete = written as usize == *bytes;
            }
            (What::Write { .. }, result) => {
                let error = result.filter(|_| complete).map(|negative| -negative);
                // Interrupted or not begun: nothing is wrong with the disk.
                done.write_error =
                    error.filter(|error| !matches!(*error, libc::EINTR | libc::EAGAIN | libc::ECANCELED));
                complete = false;
                if done.write_error.is_some() {
                    return done;
                }
            }
            // Beside or before a write, or not at all.
            (What::Sync, None) => {}
            (What::Sync, Some(0)) if !complete || split => {}
            (What::Sync, Some(result)) => match -result {
                0 => done.sync = Some(Ok(())),
                libc::ECANCELED | libc::EAGAIN => {}
                error => done.sync = Some(Err(error)),
            },
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// `None`, and a line that no harness catches, where the kernel forbids it.
    fn ring() -> Option<Ring> {
        let ring = Ring::new();
        if let Err(error) = &ring {
            writeln!(std::io::stderr(), "SKIPPED: no io_uring to test: {error}").unwrap();
        }
        ring.ok()
    }

    fn chain<'a>(file: &'a File, file_id: u64, pieces: &'a [IoSlice<'a>], sync: bool) -> Chain<'a> {
        Chain { file, file_id, offset_bytes: 0, pieces, sync }
    }

    #[test]
    fn what_the_kernel_answers_is_told_without_wishes() {
        let write = |bytes, result| (What::Write { bytes }, result);
        let told = |steps: Vec<(What, Option<i32>)>, split| {
            let steps: Vec<Step> = steps.into_iter().map(|(what, result)| Step { chain: 0, what, result }).collect();
            tell(steps.iter(), split)
        };
        let done = |written_bytes, write_error, sync| Done { written_bytes, write_error, sync };
        let (io, canceled) = (-libc::EIO, -libc::ECANCELED);
        for (what, steps, expected) in [
            ("all", vec![write(9, Some(9)), (What::Sync, Some(0))], done(9, None, Some(Ok(())))),
            ("only a sync", vec![(What::Sync, Some(0))], done(0, None, Some(Ok(())))),
            ("a failed sync", vec![write(9, Some(9)), (What::Sync, Some(io))], done(9, None, Some(Err(libc::EIO)))),
            ("a failed write", vec![write(9, Some(io)), (What::Sync, Some(canceled))], done(0, Some(libc::EIO), None)),
            (
                "a failed write and a sync that ran all the same",
                vec![write(9, Some(io)), (What::Sync, Some(0))],
                done(0, Some(libc::EIO), None),
            ),
            ("a short write", vec![write(9, Some(4)), (What::Sync, Some(canceled))], done(4, None, None)),
            ("a short write and a sync", vec![write(9, Some(4)), (What::Sync, Some(0))], done(4, None, None)),
            (
                "a short write, a failed sync",
                vec![write(9, Some(4)), (What::Sync, Some(io))],
                done(4, None, Some(Err(libc::EIO))),
            ),
            (
                "a gap",
                vec![write(9, Some(9)), write(9, Some(0)), write(9, Some(9)), (What::Sync, Some(0))],
                done(9, None, None),
            ),
            ("interrupted", vec![write(9, Some(-libc::EINTR)), (What::Sync, Some(canceled))], done(0, None, None)),
            ("not begun", vec![write(9, Some(-libc::EAGAIN)), (What::Sync, None)], done(0, None, None)),
            ("never taken", vec![write(9, None), (What::Sync, None)], done(0, None, None)),
            ("a sync not begun", vec![write(9, Some(9)), (What::Sync, Some(-libc::EAGAIN))], done(9, None, None)),
            (
                "an interrupted sync",
                vec![write(9, Some(9)), (What::Sync, Some(-libc::EINTR))],
                done(9, None, Some(Err(libc::EINTR))),
            ),
        ] {
            assert_eq!(told(steps, false), expected, "{what}");
        }
        // A chain that was cut: the sync may have run beside the write.
        assert_eq!(told(vec![write(9, Some(9)), (What::Sync, Some(0))], true), done(9, None, None));
    }

    #[test]
    fn files_take_turns_in_the_table_and_one_that_refuses_fails_alone() {
        let Some(mut ring) = ring() else { return };
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<File> =
            (0..FILES + 5).map(|number| File::create_new(folder.path().join(number.to_string())).unwrap()).collect();
        for round in 0..3_u8 {
            let contents: Vec<[u8; 3]> = (0..files.len() as u8).map(|number| [round, number, 7]).collect();
            let pieces: Vec<[IoSlice<'_>; 1]> = contents.iter().map(|content| [IoSlice::new(content)]).collect();
            let chains: Vec<Chain<'_>> = files
                .iter()
                .zip(&pieces)
                .enumerate()
                .map(|(number, (file, pieces))| chain(file, number as u64 + 1, pieces, number % 2 == 0))
                .collect();
            for (number, done) in ring.run(&chains).into_iter().enumerate() {
                let sync = (number % 2 == 0).then_some(Ok(()));
                assert_eq!(done, Done { written_bytes: 3, write_error: None, sync }, "{number} in round {round}");
            }
            for (number, content) in contents.iter().enumerate() {
                assert_eq!(std::fs::read(folder.path().join(number.to_string())).unwrap(), content);
            }
        }
        let read_only = File::open(folder.path().join("0")).unwrap();
        for content in [vec![1; 10], vec![1; 2 * COPIED_BYTES_MAX]] {
            let pieces = [IoSlice::new(&content)];
            let done = ring.run(&[chain(&read_only, 100, &pieces, true), chain(&files[1], 2, &pieces, true)]);
            assert_eq!(done[0], Done { written_bytes: 0, write_error: Some(libc::EBADF), sync: None });
            assert_eq!(done[1], Done { written_bytes: content.len(), write_error: None, sync: Some(Ok(())) });
        }
    }

    #[test]
    fn more_chains_than_entries_run_and_a_chain_that_never_fits_is_left() {
        let Some(mut ring) = ring() else { return };
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..=255).collect();
        let all: Vec<IoSlice<'_>> = (0..(ENTRIES + 1) * PIECES_PER_WRITE_MAX).map(|_| IoSlice::new(&bytes)).collect();
        let mut chains: Vec<Chain<'_>> = (0..200_u32)
            .map(|number| Chain {
                file: &file,
                file_id: 1,
                offset_bytes: number * 256,
                pieces: &all[..1],
                sync: number % 7 == 0,
            })
            .collect();
        chains.insert(100, chain(&file, 1, &all, true));
        let done = ring.run(&chains);
        assert_eq!(done[100], Done::default());
        assert!(done.iter().enumerate().all(|(number, done)| number == 100 || done.written_bytes == 256));
        let mut read = vec![0; 200 * 256];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read.chunks(256).all(|chunk| chunk == bytes));
    }

    /// The kernel reads a buffer as long as the write is under way: who drops the guard waits for that.
    #[test]
    fn dropping_what_is_under_way_waits_for_the_kernel() {
        let Some(mut ring) = ring() else { return };
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut writer = File::from(OwnedFd::from(writer));
        // SAFETY: asks for a number.
        let capacity = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_GETPIPE_SZ) } as usize;
        let full = vec![1_u8; capacity];
        writer.write_all(&full).unwrap();
        let dropped = AtomicBool::new(false);
        let (started, starts) = std::sync::mpsc::channel();
        let mut first = vec![0; capacity];
        std::thread::scope(|scope| {
            let (writer, dropped) = (&writer, &dropped);
            scope.spawn(move || {
                // Not copied, and more than the pipe takes: under way until somebody reads.
                let mut content = vec![7_u8; 2 * COPIED_BYTES_MAX];
                let pieces = [IoSlice::new(&content)];
                let chains = [chain(writer, 1, &pieces, false)];
                let under_way = ring.submit(&chains);
                under_way.uring.submit().unwrap();
                started.send(()).unwrap();
                drop(under_way);
                dropped.store(true, Ordering::SeqCst);
                content.fill(0);
            });
            starts.recv().unwrap();
            assert!(!dropped.load(Ordering::SeqCst), "nobody has read yet");
            reader.read_exact(&mut first).unwrap();
        });
        drop(writer);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        assert!(first == full && !rest.is_empty());
        assert!(rest.iter().all(|byte| *byte == 7), "the buffer was given back too early");
    }
}
