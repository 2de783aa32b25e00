//! The simulated disk, and what can go wrong with it.
//!
//! # Fault model
//! A segment file has two images: the *cache* (what every read sees) and the *durable* one. A write changes the cache and
//! is remembered as unsynced; a sync makes the durable image of every sector written since the last one equal to the cache.
//!
//! * **Kill**: the cache survives as it is.
//! * **Power loss**: of the unsynced writes any subset has reached the disk, in any order, torn at sectors of 512 bytes. Each
//!   sector has, independently, the content it had after the last sync or after any write to it since (a page cache writes
//!   whole sectors, so a later write to one carries the earlier ones along). The cache is then what is durable.
//! * **Crash at any operation**: operations that change something are counted (reads change nothing, so a crash at one is a
//!   crash before the next of these). At the chosen one a part of it is applied and it fails; every later call fails.
//!   A write: any prefix of its sectors is in the cache. A sync: any subset is durable. A small file: the old or the new one.
//!   A segment file: there or not.
//! * **A sync fails** with EIO, as Linux does it: any subset of the unsynced sectors is durable, all are taken for clean from
//!   then on and stay visible in the cache, and the next sync says OK without writing them. A later write to a sector makes it
//!   unsynced again.
//! * **A write fails** with EIO: a prefix of its sectors may be in the cache.
//! * **A lost write** says OK and changes nothing, in neither image (as if evicted and read back at once).
//! * **A misdirected write** says OK and lands at another sector boundary behind the header of any segment file.
//! * **A bit flips** at rest, in both images. **A page of 4 KiB becomes unreadable** (the kernel reads whole pages):
//!   `make_resident` of it gives EIO until some of it is written again, and `slice` of it panics, where a process would die of
//!   SIGBUS.
//! * **No space**: `create_segment` and `replace_small` fail and change nothing, until space comes back.
//! * **Slow**: an operation lets the clock advance.
//!
//! Small files are replaced atomically and durably, and segment files made and removed durably, as the contract in
//! `cask_engine::disk` says. The first 4 KiB of a segment file (its header) suffer bit flips, torn and failed writes, but no lost
//! or misdirected ones and no unreadable page: nothing else names the life of an unsealed segment.
//!
//! Media faults are noted with the digests of the records they hit ([`SimDisk::is_harmed`]): these, and only these, may be
//! missing afterwards.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard};

use cask_engine::disk::{Disk, SegmentFile};
use cask_engine::format::record::{RECORD_HEADER_BYTES_MAX, RecordHeader, RecordPlace};
use cask_engine::format::superblock::Superblock;
use cask_index::Digest;

use crate::clock::SimClock;
use crate::memory::Memory;
use crate::random::Random;

/// Unit of tearing.
pub const SECTOR_BYTES: usize = 512;
/// Unit of what cannot be read.
const PAGE_BYTES: usize = 4096;
/// The header block of a segment file.
const HEADER_BYTES: usize = 4096;
const HEADER_COPY_AT: usize = 2048;
const RECORD_STEP_BYTES: usize = 64;

/// A fault to come or to happen now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The next sync fails.
    SyncFails,
    /// The next write fails.
    WriteFails,
    /// The next write is lost.
    LostWrite,
    /// The next write goes elsewhere.
    MisdirectedWrite,
    /// One bit of a segment file flips now; the number chooses which.
    BitFlip(u64),
    /// As `BitFlip`, in a header block or the last kilobyte (where a footer ends).
    StructureFlip(u64),
    /// One page becomes unreadable now.
    BadPage(u64),
    /// The disk is full from now on.
    NoSpace,
    /// There is space again.
    SpaceAgain,
    /// Each of the next four operations takes so many milliseconds.
    Slow(u32),
}

/// How often each kind of fault happened; `+` sums.
#[derive(Clone, Debug, Default)]
pub struct FaultCounts(BTreeMap<&'static str, u64>);

impl FaultCounts {
    /// One more.
    pub fn note(&mut self, kind: &'static str) {
        *self.0.entry(kind).or_default() += 1;
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        for (kind, count) in &other.0 {
            *self.0.entry(kind).or_default() += count;
        }
    }

    /// By kind.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().map(|(kind, count)| (*kind, *count))
    }
}

/// What a power loss leaves of the unsynced writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Survivors {
    /// 0: nothing. Else each file keeps nothing, everything, or each sector on its own, as the crash's seed has it.
    Sectors(u64),
    /// Whole writes: bit i of the mask is the i-th of the last unsynced writes, counted from the end of all files' writes; the
    /// others are kept. `torn`: of the last write that is kept only the first half of its sectors.
    Writes {
        /// Bit set: kept.
        mask: u32,
        /// How many of the last writes the mask speaks of.
        count: u32,
        /// The last kept one is torn.
        torn: bool,
    },
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CrashKind {
    /// The process dies, the machine goes on.
    Kill,
    /// The machine loses power.
    Power(Survivors),
}

/// A write that no sync has covered yet.
struct Unsynced {
    /// Order among the writes of all files.
    ticket: u64,
    offset: usize,
    data: Vec<u8>,
}

struct ImageState {
    /// Shared between copies until one is written.
    durable: Arc<Vec<u8>>,
    unsynced: Vec<Unsynced>,
    /// Sectors whose durable content differs from the cache although no sync will write them.
    tainted: BTreeSet<usize>,
    /// Pages.
    unreadable: BTreeSet<usize>,
    /// What the header said before a bit of it flipped.
    sequence: Option<u64>,
}

struct Image {
    number: u32,
    cache: Memory,
    state: Mutex<ImageState>,
}

fn sectors(offset: usize, length: usize) -> std::ops::Range<usize> {
    offset / SECTOR_BYTES..(offset + length).div_ceil(SECTOR_BYTES)
}

fn pages(offset: usize, length: usize) -> std::ops::Range<usize> {
    offset / PAGE_BYTES..(offset + length).div_ceil(PAGE_BYTES)
}

impl Image {
    fn new(number: u32, durable: Arc<Vec<u8>>) -> Self {
        let cache = Memory::new(&durable);
        Self::with_cache(number, cache, durable)
    }

    fn with_cache(number: u32, cache: Memory, durable: Arc<Vec<u8>>) -> Self {
        let state = ImageState {
            durable,
            unsynced: Vec::new(),
            tainted: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            sequence: None,
        };
        Self { number, cache, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, ImageState> {
        self.state.lock().unwrap()
    }

    fn bytes(&self) -> &[u8] {
        self.cache.read(0, self.cache.len())
    }

    fn write(&self, ticket: u64, offset: usize, data: &[u8]) {
        let mut state = self.state();
        self.cache.write(offset, data);
        if offset == 0 {
            state.sequence = None;
        }
        if !state.unreadable.is_empty() {
            for page in pages(offset, data.len()) {
                state.unreadable.remove(&page);
            }
        }
        state.unsynced.push(Unsynced { ticket, offset, data: data.to_vec() });
    }

    /// The sectors that unsynced writes touch.
    fn dirty(state: &ImageState) -> BTreeSet<usize> {
        state.unsynced.iter().flat_map(|write| sectors(write.offset, write.data.len())).collect()
    }

    fn sync(&self) {
        let mut state = self.state();
        for sector in Self::dirty(&state) {
            let at = sector * SECTOR_BYTES;
            let cached = self.cache.read(at, SECTOR_BYTES);
            Arc::make_mut(&mut state.durable)[at..at + SECTOR_BYTES].copy_from_slice(cached);
            state.tainted.remove(&sector);
        }
        state.unsynced.clear();
    }

    /// Some of the unsynced sectors reach the disk.
    fn sync_some(&self, random: &mut Random) {
        let mut state = self.state();
        let choice = random.below(4);
        for sector in Self::dirty(&state) {
            let writes: Vec<usize> = (0..state.unsynced.len())
                .filter(|index| {
                    let write = &state.unsynced[*index];
                    sectors(write.offset, write.data.len()).contains(&sector)
                })
                .collect();
            let kept = match choice {
                0 => 0,
                1 => writes.len(),
                _ => random.index(writes.len() + 1),
            };
            Self::apply(&mut state, sector, &writes[..kept]);
        }
    }

    /// Applies writes, in order, to one sector of the durable image.
    fn apply(state: &mut ImageState, sector: usize, writes: &[usize]) {
        let (start, end) = (sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES);
        for index in writes {
            let write = &state.unsynced[*index];
            let (from, to) = (start.max(write.offset), end.min(write.offset + write.data.len()));
            Arc::make_mut(&mut state.durable)[from..to]
                .copy_from_slice(&write.data[from - write.offset..to - write.offset]);
        }
    }

    /// A sync that fails: some sectors reach the disk, none is unsynced any more.
    fn fail_sync(&self, random: &mut Random) {
        self.sync_some(random);
        let mut state = self.state();
        for sector in Self::dirty(&state) {
            let at = sector * SECTOR_BYTES;
            if state.durable[at..at + SECTOR_BYTES] != *self.cache.read(at, SECTOR_BYTES) {
                state.tainted.insert(sector);
            }
        }
        state.unsynced.clear();
    }

    fn is_kept(write: &Unsynced, last_ticket_first: &[u64], survivors: (u32, u32)) -> bool {
        let (mask, count) = survivors;
        match last_ticket_first.iter().position(|ticket| *ticket == write.ticket) {
            Some(position) if (position as u32) < count => mask >> position & 1 == 1,
            _ => true,
        }
    }

    /// What a power loss leaves.
    fn after_power_loss(&self, survivors: Survivors, random: &mut Random, last_ticket_first: &[u64]) -> Image {
        match survivors {
            Survivors::Sectors(0) => {}
            Survivors::Sectors(_) => self.sync_some(random),
            Survivors::Writes { mask, count, torn } => {
                let mut state = self.state();
                let last_kept = last_ticket_first
                    .iter()
                    .take(count as usize)
                    .enumerate()
                    .find_map(|(position, ticket)| (mask >> position & 1 == 1).then_some(*ticket));
                for sector in Self::dirty(&state) {
                    let covers = |write: &Unsynced| sectors(write.offset, write.data.len()).contains(&sector);
                    let is_torn_off = |write: &Unsynced| {
                        let range = sectors(write.offset, write.data.len());
                        torn && Some(write.ticket) == last_kept && sector >= range.start + range.len().div_ceil(2)
                    };
                    // The newest kept write of a sector carries the earlier ones along.
                    let newest = state.unsynced.iter().rposition(|write| {
                        covers(write) && Self::is_kept(write, last_ticket_first, (mask, count)) && !is_torn_off(write)
                    });
                    let Some(newest) = newest else { continue };
                    let writes: Vec<usize> = (0..=newest).filter(|index| covers(&state.unsynced[*index])).collect();
                    Self::apply(&mut state, sector, &writes);
                }
            }
        }
        let state = self.state();
        let image = Image::new(self.number, Arc::clone(&state.durable));
        image.state().unreadable = state.unreadable.clone();
        image.state().sequence = state.sequence;
        image
    }

    /// The life in the header, as it was before any bit flipped.
    fn sequence(&self) -> u64 {
        if let Some(sequence) = self.state().sequence {
            return sequence;
        }
        // The header stands there twice; a torn one may have only the copy.
        let at = if self.cache.read(0, 8) == b"CASKSEGM" { 0 } else { HEADER_COPY_AT };
        u64::from_le_bytes(self.cache.read(at + 16, 8).try_into().expect("8 bytes"))
    }

    /// A copy that reads the same and can be opened and thrown away; every write of it is durable.
    fn copy(&self) -> Image {
        let state = self.state();
        let image = Image::with_cache(self.number, Memory::new(self.bytes()), Arc::clone(&state.durable));
        image.state().unreadable = state.unreadable.clone();
        image
    }
}

/// A record found in a segment file.
#[derive(Clone, Copy, Debug)]
struct FoundRecord {
    digest: Digest,
    offset: usize,
    length: usize,
}

/// Records of a life in `bytes`, which stand at `base` in their segment file.
fn records(bytes: &[u8], base: usize, store_id: [u8; 16], sequence: u64) -> Vec<FoundRecord> {
    let mut found = Vec::new();
    let mut at = 0;
    while at + RECORD_STEP_BYTES <= bytes.len() {
        let offset = base + at;
        let place = RecordPlace { store_id, sequence, offset_bytes: offset as u32 };
        let end = bytes.len().min(at + RECORD_HEADER_BYTES_MAX);
        match RecordHeader::decode(&bytes[at..end], &place) {
            Some(header) => {
                let length = header.record_length_bytes();
                found.push(FoundRecord { digest: header.digest, offset, length });
                at += length.max(RECORD_STEP_BYTES);
            }
            None => at += RECORD_STEP_BYTES,
        }
    }
    found
}

struct State {
    small: BTreeMap<String, Vec<u8>>,
    segments: BTreeMap<u32, Arc<Image>>,
    /// Operations that change something, so far.
    operations: u64,
    crash_at: Option<u64>,
    crashed: bool,
    armed: Vec<Fault>,
    no_space: bool,
    slow: (u32, u32),
    random: Random,
    ticket: u64,
    bytes_peak: u64,
    harmed: HashSet<Digest>,
    counts: FaultCounts,
    /// Errors given to the engine, apart from those of a crash.
    errors: u64,
    trace: u64,
}

struct Shared {
    state: Mutex<State>,
    clock: Arc<SimClock>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// What is to become of an operation.
enum Course {
    Normal,
    CrashHere,
    Fails,
    Lost,
    Misdirected,
}

fn crashed() -> io::Error {
    io::Error::other("the simulated machine is down")
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

fn enospc() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOSPC)
}

impl State {
    fn note(&mut self, kind: u64, number: u64, detail: u64) {
        if std::env::var_os("SIMULATE_VERBOSE").is_some() {
            println!("    disk operation {kind} {} {} {detail:x}", number >> 32, number & 0xffff_ffff);
        }
        for word in [kind, number, detail] {
            self.trace = (self.trace.rotate_left(5) ^ word).wrapping_mul(0x517C_C1B7_2722_0A95);
        }
    }

    /// Counts an operation and says how it goes.
    fn begin(&mut self, clock: &SimClock, is_sync: bool, is_write_of_records: bool) -> io::Result<Course> {
        if self.crashed {
            return Err(crashed());
        }
        self.operations += 1;
        if self.slow.0 > 0 {
            self.slow.0 -= 1;
            clock.advance_ms(u64::from(self.slow.1));
            self.counts.note("slow operation");
        }
        if self.crash_at == Some(self.operations) {
            self.crashed = true;
            return Ok(Course::CrashHere);
        }
        let position = self.armed.iter().position(|fault| match fault {
            Fault::SyncFails => is_sync,
            Fault::WriteFails => !is_sync,
            Fault::LostWrite | Fault::MisdirectedWrite => is_write_of_records,
            _ => false,
        });
        let Some(position) = position else { return Ok(Course::Normal) };
        let course = match self.armed.remove(position) {
            Fault::SyncFails => {
                self.counts.note("failed sync");
                Course::Fails
            }
            Fault::WriteFails => {
                self.counts.note("failed write");
                Course::Fails
            }
            Fault::LostWrite => {
                self.counts.note("lost write");
                Course::Lost
            }
            _ => {
                self.counts.note("misdirected write");
                Course::Misdirected
            }
        };
        if matches!(course, Course::Fails) {
            self.errors += 1;
        }
        Ok(course)
    }

    fn bytes(&self) -> u64 {
        let small: usize = self.small.values().map(Vec::len).sum();
        let segments: usize = self.segments.values().map(|image| image.cache.len()).sum();
        (small + segments) as u64
    }

    fn store_id(&self) -> [u8; 16] {
        self.small
            .get("superblock")
            .and_then(|bytes| Superblock::decode(bytes).ok())
            .map_or([0; 16], |superblock| superblock.store_id)
    }

    /// Notes the digests of the records in a file that overlap a range.
    fn harm(&mut self, image: &Image, offset: usize, length: usize) {
        let found = records(image.bytes(), 0, self.store_id(), image.sequence());
        if std::env::var_os("SIMULATE_VERBOSE").is_some() {
            println!("harm segment {} life {} at {offset} + {length}", image.number, image.sequence());
            for record in &found {
                println!("    {} + {} {}", record.offset, record.length, record.digest);
            }
        }
        let overlapping =
            found.iter().filter(|record| record.offset < offset + length && offset < record.offset + record.length);
        self.harmed.extend(overlapping.map(|record| record.digest));
    }

    fn choose_image(&self, random: &mut Random) -> Option<Arc<Image>> {
        let position = random.index(self.segments.len());
        self.segments.values().nth(position).cloned()
    }
}

/// A disk that is as bad as it is told to be. One engine opens it once: what a crash leaves is another `SimDisk`.
pub struct SimDisk {
    shared: Arc<Shared>,
}

impl SimDisk {
    /// An empty disk.
    pub fn new(clock: Arc<SimClock>, seed: u64) -> Arc<Self> {
        Self::of(clock, seed, BTreeMap::new(), BTreeMap::new())
    }

    fn of(
        clock: Arc<SimClock>,
        seed: u64,
        small: BTreeMap<String, Vec<u8>>,
        segments: BTreeMap<u32, Arc<Image>>,
    ) -> Arc<Self> {
        let state = State {
            small,
            segments,
            operations: 0,
            crash_at: None,
            crashed: false,
            armed: Vec::new(),
            no_space: false,
            slow: (0, 0),
            random: Random::new(seed),
            ticket: 0,
            bytes_peak: 0,
            harmed: HashSet::new(),
            counts: FaultCounts::default(),
            errors: 0,
            trace: seed,
        };
        Arc::new(Self { shared: Arc::new(Shared { state: Mutex::new(state), clock }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The machine goes down at the `after`-th operation from now (1 is the next); `None`: it does not.
    pub fn crash_after(&self, after: Option<u64>) {
        let mut state = self.state();
        state.crash_at = after.map(|after| state.operations + after);
    }

    /// Down from now on.
    pub fn crash_now(&self) {
        self.state().crashed = true;
    }

    /// True once it is down.
    pub fn is_crashed(&self) -> bool {
        self.state().crashed
    }

    /// Errors that the engine was given, apart from those of a crash.
    pub fn errors(&self) -> u64 {
        self.state().errors
    }

    /// True when a media fault hit a record of this blob or action.
    pub fn is_harmed(&self, digest: &Digest) -> bool {
        self.state().harmed.contains(digest)
    }

    /// Largest sum of all files' bytes since the last call, and forgets it.
    pub fn take_bytes_peak(&self) -> u64 {
        let mut state = self.state();
        let now = state.bytes();
        std::mem::replace(&mut state.bytes_peak, now).max(now)
    }

    /// Number of segment files.
    pub fn segment_count(&self) -> u64 {
        self.state().segments.len() as u64
    }

    /// A hash of all operations so far.
    pub fn trace(&self) -> u64 {
        self.state().trace
    }

    /// Faults so far.
    pub fn counts(&self) -> FaultCounts {
        self.state().counts.clone()
    }

    /// True when a fault is armed that has not happened, or the disk is full.
    pub fn is_faulty(&self) -> bool {
        let state = self.state();
        !state.armed.is_empty() || state.no_space
    }

    /// Armed faults do not happen, there is space, everything is fast.
    pub fn heal(&self) {
        let mut state = self.state();
        state.armed.clear();
        state.no_space = false;
        state.slow = (0, 0);
    }

    /// Lets a fault happen, now or at the next operation it fits.
    pub fn inject(&self, fault: Fault) {
        let mut state = self.state();
        match fault {
            Fault::SyncFails | Fault::WriteFails | Fault::LostWrite | Fault::MisdirectedWrite => {
                state.armed.push(fault)
            }
            Fault::NoSpace => state.no_space = true,
            Fault::SpaceAgain => state.no_space = false,
            Fault::Slow(ms) => state.slow = (4, ms),
            Fault::BitFlip(seed) | Fault::StructureFlip(seed) => {
                let mut random = Random::new(seed);
                let Some(image) = state.choose_image(&mut random) else { return };
                let size = image.cache.len();
                let at = match fault {
                    Fault::BitFlip(_) => HEADER_BYTES + random.index(size - HEADER_BYTES),
                    _ if random.chance(1, 2) => random.index(64),
                    _ => size - 1 - random.index(1024),
                };
                state.harm(&image, at, 1);
                if at < HEADER_BYTES {
                    let sequence = image.sequence();
                    image.state().sequence = Some(sequence);
                }
                let flipped = image.cache.read(at, 1)[0] ^ 1 << random.below(8);
                image.cache.write(at, &[flipped]);
                let mut inside = image.state();
                Arc::make_mut(&mut inside.durable)[at] = flipped;
                for write in &mut inside.unsynced {
                    if (write.offset..write.offset + write.data.len()).contains(&at) {
                        write.data[at - write.offset] = flipped;
                    }
                }
                drop(inside);
                state.counts.note(if matches!(fault, Fault::BitFlip(_)) {
                    "flipped bit"
                } else {
                    "flipped bit in a header or footer"
                });
            }
            Fault::BadPage(seed) => {
                let mut random = Random::new(seed);
                let Some(image) = state.choose_image(&mut random) else { return };
                let first = HEADER_BYTES / PAGE_BYTES;
                let page = first + random.index(image.cache.len() / PAGE_BYTES - first);
                state.harm(&image, page * PAGE_BYTES, PAGE_BYTES);
                image.state().unreadable.insert(page);
                state.counts.note("unreadable page");
            }
        }
    }

    /// The disk that the next process finds. The engine that had this one is gone.
    pub fn after_crash(&self, kind: CrashKind, seed: u64) -> Arc<Self> {
        let mut state = self.state();
        state.crashed = true;
        let mut random = Random::new(seed);
        let segments = match kind {
            CrashKind::Kill => state.segments.clone(),
            CrashKind::Power(survivors) => {
                let mut tickets: Vec<u64> = state
                    .segments
                    .values()
                    .flat_map(|image| image.state().unsynced.iter().map(|write| write.ticket).collect::<Vec<_>>())
                    .collect();
                tickets.sort_unstable_by(|a, b| b.cmp(a));
                let images: Vec<Arc<Image>> = state.segments.values().cloned().collect();
                for image in &images {
                    let tainted: Vec<usize> = image.state().tainted.iter().copied().collect();
                    for sector in tainted {
                        state.harm(image, sector * SECTOR_BYTES, SECTOR_BYTES);
                    }
                }
                let images = images
                    .iter()
                    .map(|image| (image.number, Arc::new(image.after_power_loss(survivors, &mut random, &tickets))));
                images.collect()
            }
        };
        let next = Self::of(Arc::clone(&self.shared.clock), seed, state.small.clone(), segments);
        let mut fresh = next.state();
        fresh.harmed = state.harmed.clone();
        fresh.counts = state.counts.clone();
        fresh.no_space = state.no_space;
        fresh.ticket = state.ticket;
        fresh.trace = state.trace;
        drop(fresh);
        next
    }

    /// Prints which records stand where.
    pub fn dump(&self) {
        let state = self.state();
        for image in state.segments.values() {
            let inside = image.state();
            let (unreadable, tainted, unsynced) =
                (inside.unreadable.clone(), inside.tainted.clone(), inside.unsynced.len());
            drop(inside);
            println!(
                "segment {} life {} unreadable {unreadable:?} tainted {tainted:?} unsynced {unsynced}",
                image.number,
                image.sequence()
            );
            for record in records(image.bytes(), 0, state.store_id(), image.sequence()) {
                println!("    {} + {} {}", record.offset, record.length, record.digest);
            }
        }
    }

    /// Number of unsynced writes.
    pub fn unsynced_count(&self) -> usize {
        self.state().segments.values().map(|image| image.state().unsynced.len()).sum()
    }

    /// A disk of the same content, for an engine whose doings are thrown away.
    pub fn copy(&self) -> Arc<Self> {
        self.copy_at(&self.shared.clock)
    }

    /// The same, on another clock.
    pub fn copy_at(&self, clock: &Arc<SimClock>) -> Arc<Self> {
        let state = self.state();
        let segments = state.segments.iter().map(|(number, image)| (*number, Arc::new(image.copy()))).collect();
        Self::of(Arc::clone(clock), 0, state.small.clone(), segments)
    }

    fn file(&self, image: Arc<Image>) -> Arc<dyn SegmentFile> {
        Arc::new(SimFile { shared: Arc::clone(&self.shared), image })
    }
}

impl Disk for SimDisk {
    fn read_small(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let state = self.state();
        if state.crashed {
            return Err(crashed());
        }
        Ok(state.small.get(name).cloned())
    }

    fn replace_small(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let course = state.begin(&self.shared.clock, true, false)?;
        state.note(1, bytes.len() as u64, name.len() as u64);
        if state.no_space && !matches!(course, Course::CrashHere) {
            state.counts.note("no space");
            state.errors += 1;
            return Err(enospc());
        }
        // Both stand beside each other for a moment.
        let with_both = state.bytes() + bytes.len() as u64;
        state.bytes_peak = state.bytes_peak.max(with_both);
        let replaces = match course {
            Course::Fails => false,
            Course::CrashHere => state.random.chance(1, 2),
            _ => true,
        };
        if replaces {
            state.small.insert(name.to_owned(), bytes.to_vec());
        }
        match course {
            Course::CrashHere => Err(crashed()),
            Course::Fails => Err(eio()),
            _ => Ok(()),
        }
    }

    fn segment_numbers(&self) -> io::Result<Vec<u32>> {
        let state = self.state();
        if state.crashed {
            return Err(crashed());
        }
        Ok(state.segments.keys().copied().collect())
    }

    fn open_segment(&self, number: u32, size_bytes: u32) -> io::Result<Arc<dyn SegmentFile>> {
        let state = self.state();
        if state.crashed {
            return Err(crashed());
        }
        let image = state.segments.get(&number).cloned().ok_or(io::ErrorKind::NotFound)?;
        assert_eq!(image.cache.len(), size_bytes as usize, "segments keep their size");
        drop(state);
        Ok(self.file(image))
    }

    fn create_segment(&self, number: u32, size_bytes: u32) -> io::Result<Arc<dyn SegmentFile>> {
        let mut state = self.state();
        let course = state.begin(&self.shared.clock, false, false)?;
        state.note(2, u64::from(number), u64::from(size_bytes));
        if matches!(course, Course::Normal) && state.no_space {
            state.counts.note("no space");
            state.errors += 1;
            return Err(enospc());
        }
        let makes = match course {
            Course::Fails => false,
            Course::CrashHere => state.random.chance(1, 2),
            _ => true,
        };
        let image = Arc::new(Image::new(number, Arc::new(vec![0; size_bytes as usize])));
        if makes {
            let before = state.segments.insert(number, Arc::clone(&image));
            assert!(before.is_none(), "segment {number} was made over an existing one");
            let bytes = state.bytes();
            state.bytes_peak = state.bytes_peak.max(bytes);
        }
        match course {
            Course::CrashHere => Err(crashed()),
            Course::Fails => Err(eio()),
            _ => {
                drop(state);
                Ok(self.file(image))
            }
        }
    }

    fn remove_segment(&self, number: u32) -> io::Result<()> {
        let mut state = self.state();
        let course = state.begin(&self.shared.clock, true, false)?;
        state.note(3, u64::from(number), 0);
        let removes = match course {
            Course::Fails => false,
            Course::CrashHere => state.random.chance(1, 2),
            _ => true,
        };
        if removes {
            state.segments.remove(&number);
        }
        match course {
            Course::CrashHere => Err(crashed()),
            Course::Fails => Err(eio()),
            _ => Ok(()),
        }
    }
}

struct SimFile {
    shared: Arc<Shared>,
    image: Arc<Image>,
}

impl SegmentFile for SimFile {
    fn write_at(&self, offset_bytes: u32, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let offset = offset_bytes as usize;
        let data: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        let mut state = self.shared.state();
        let course = state.begin(&self.shared.clock, false, offset >= HEADER_BYTES)?;
        let checksum = xxhash_rust::xxh3::xxh3_64(&data);
        state.note(4, u64::from(self.image.number) << 32 | offset as u64, checksum);
        state.ticket += 1;
        let ticket = state.ticket;
        match course {
            Course::Normal => {
                self.image.write(ticket, offset, &data);
                Ok(())
            }
            Course::CrashHere | Course::Fails => {
                // Torn inside the first, or any later, sector boundary: a prefix is there.
                let range = sectors(offset, data.len());
                let end = (range.start + state.random.index(range.len() + 1)) * SECTOR_BYTES;
                let kept = end.saturating_sub(offset).min(data.len());
                if kept > 0 {
                    self.image.write(ticket, offset, &data[..kept]);
                }
                Err(if matches!(course, Course::Fails) { eio() } else { crashed() })
            }
            Course::Lost => {
                let store_id = state.store_id();
                let lost = records(&data, offset, store_id, self.image.sequence());
                state.harmed.extend(lost.iter().map(|record| record.digest));
                Ok(())
            }
            Course::Misdirected => {
                let store_id = state.store_id();
                let lost = records(&data, offset, store_id, self.image.sequence());
                state.harmed.extend(lost.iter().map(|record| record.digest));
                let mut random = Random::new(state.random.next_u64());
                let victim = state.choose_image(&mut random).expect("a file is being written");
                let room = victim.cache.len().saturating_sub(HEADER_BYTES + data.len()) / SECTOR_BYTES;
                let at = HEADER_BYTES + random.index(room + 1) * SECTOR_BYTES;
                let length = data.len().min(victim.cache.len() - at);
                state.harm(&victim, at, length);
                victim.write(ticket, at, &data[..length]);
                Ok(())
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.shared.state();
        let course = state.begin(&self.shared.clock, true, false)?;
        state.note(5, u64::from(self.image.number), 0);
        match course {
            Course::CrashHere => {
                let mut random = Random::new(state.random.next_u64());
                // Durable or not: what is left unsynced is decided again if the power goes, and may only grow.
                if random.chance(1, 2) {
                    self.image.sync_some(&mut random);
                }
                Err(crashed())
            }
            Course::Fails => {
                let mut random = Random::new(state.random.next_u64());
                self.image.fail_sync(&mut random);
                Err(eio())
            }
            _ => {
                self.image.sync();
                Ok(())
            }
        }
    }

    fn slice(&self, offset_bytes: u32, length_bytes: u32) -> &[u8] {
        let (offset, length) = (offset_bytes as usize, length_bytes as usize);
        let inside = self.image.state();
        if !inside.unreadable.is_empty() {
            let bad = pages(offset, length).find(|page| inside.unreadable.contains(page));
            assert!(bad.is_none(), "SIGBUS: page {bad:?} of segment {} is unreadable", self.image.number);
        }
        drop(inside);
        self.image.cache.read(offset, length)
    }

    fn is_resident(&self, offset_bytes: u32, length_bytes: u32) -> bool {
        let inside = self.image.state();
        inside.unreadable.is_empty()
            || !pages(offset_bytes as usize, length_bytes as usize).any(|page| inside.unreadable.contains(&page))
    }

    fn make_resident(&self, offset_bytes: u32, length_bytes: u32) -> io::Result<()> {
        if self.shared.state().crashed {
            return Err(crashed());
        }
        if self.is_resident(offset_bytes, length_bytes) { Ok(()) } else { Err(eio()) }
    }
}
