//! The cache over a real engine whose background work is stepped by the test: nothing is written before the test says so, and
//! time stands still, so what is in flight, paid for and waited for can be looked at.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cask_engine::clock::Clock;
use cask_engine::disk::folder::FolderDisk;
use cask_engine::{Compression, Engine, EngineError, EngineOptions, Stepper};
use cask_index::{Digest, DigestFunction, Hasher};
use cask_proto::digest::to_wire;
use cask_proto::reapi::{ActionResult, Directory, FileNode, OutputDirectory, OutputFile, Tree};
use cask_proto::{InstanceName, UploadId, WriteName};
use prost::Message;
use sha2::Digest as _;
use tempfile::TempDir;
use tokio::time::timeout;

use super::{ActionError, Cache, InlineOptions, LogError, StartError, Wire};
use crate::access::instances::Instances;
use crate::access::limits::Limits;

/// A part of the small store's blobs: a sixteenth of a 1 MiB segment.
const PART: usize = 64 * 1024;
/// Room for two parts, what one session may hold.
const STAGED_BYTES_MAX: usize = 2 * PART;
const A_WHILE: Duration = Duration::from_secs(1);
const BUDGET_WAIT_MAX: Duration = Duration::from_secs(3);

struct StoppedClock(AtomicU64);

impl Clock for StoppedClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Fixture {
    cache: Cache,
    stepper: Stepper,
    folder: TempDir,
}

fn disk(folder: &TempDir) -> Arc<FolderDisk> {
    Arc::new(FolderDisk::open(folder.path()).unwrap())
}

fn clock() -> Arc<StoppedClock> {
    Arc::new(StoppedClock(AtomicU64::new(1_700_000_000_000)))
}

fn options() -> EngineOptions {
    EngineOptions::new(32 << 20)
}

fn limits() -> Limits {
    Limits {
        staged_bytes_max: STAGED_BYTES_MAX,
        concurrent_uploads_max: 4,
        budget_wait_max: BUDGET_WAIT_MAX,
        ..Limits::default()
    }
}

impl Fixture {
    fn new() -> Fixture {
        Self::with(&options(), limits())
    }

    fn with(options: &EngineOptions, limits: Limits) -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let (engine, stepper, _) = Engine::open_stepped(disk(&folder), options, clock(), &[7; 56]).unwrap();
        assert_eq!(engine.part_size_bytes(), PART);
        Fixture { cache: Cache::new(engine, Instances::default(), limits), stepper, folder }
    }

    /// Runs `work` to its end, and the engine whenever `work` waits.
    async fn drive<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            match timeout(Duration::from_millis(1), &mut work).await {
                Ok(outcome) => return outcome,
                Err(_waits) => self.stepper.run_until_idle(),
            }
        }
    }

    /// The same store after a crash, its index still to be filled.
    fn reopened(self) -> Fixture {
        let Fixture { cache, stepper, folder } = self;
        drop((cache, stepper));
        let (engine, stepper) = Engine::open_unloaded(disk(&folder), &options(), clock(), &[7; 56]).unwrap();
        Fixture { cache: Cache::new(engine, Instances::default(), limits()), stepper, folder }
    }

    async fn store(&self, data: &[u8]) -> Digest {
        let digest = digest_of(data);
        self.drive(self.cache.put(digest, Bytes::copy_from_slice(data))).await.unwrap();
        digest
    }

    async fn read(&self, digest: &Digest, offset: u64, limit: Option<u64>) -> Vec<u8> {
        let mut stream = self.cache.read(digest, offset, limit, Wire::Plain).unwrap();
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next_chunk().await.unwrap() {
            assert!(!chunk.is_empty());
            bytes.extend_from_slice(&chunk);
        }
        assert_eq!(stream.remaining_bytes(), 0);
        bytes
    }

    /// Waits for what compresses in the background, and for the engine.
    async fn settle(&self) {
        let turns = 2 * std::thread::available_parallelism().map_or(1, usize::from);
        let all = self.cache.shared.coders.acquire_many(turns as u32).await.unwrap();
        self.stepper.run_until_idle();
        drop(all);
    }

    /// Every budget is full again and the engine knows of no upload.
    fn assert_nothing_held(&self) {
        let budgets = &self.cache.shared.budgets;
        let staged_bytes = budgets.staged_bytes.budget();
        assert!(staged_bytes.try_take(staged_bytes.limit()).is_some(), "staged bytes leaked");
        assert_eq!(budgets.decoded_bytes.used(), 0, "decoded bytes leaked");
        assert!(budgets.uploads.try_take(4).is_some(), "an upload slot leaked");
        assert_eq!(self.cache.engine().stats().uploads_open, 0);
    }
}

fn digest_of(data: &[u8]) -> Digest {
    Digest::new(DigestFunction::Sha256, &sha2::Sha256::digest(data), data.len() as u64).unwrap()
}

/// Bytes that differ from place to place and from `seed` to `seed`.
fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

fn name(upload: &str, digest: Digest) -> WriteName {
    WriteName {
        instance: InstanceName::EMPTY,
        upload_id: UploadId::parse(upload).unwrap(),
        digest,
        compressor: cask_proto::Compressor::Identity,
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_has_one_part_in_flight_and_holds_two() {
    let fixture = Fixture::new();
    let data = content(1, 3 * PART + 100);
    let mut session = fixture.cache.begin_upload(digest_of(&data)).await.unwrap().unwrap();
    // Nothing is written by the engine yet: one part goes on its way, the second is filled and waits for it.
    assert!(timeout(A_WHILE, session.write(&data)).await.is_err());
    assert_eq!(session.received_bytes(), 2 * PART as u64);
    assert!(fixture.cache.shared.budgets.staged_bytes.budget().try_take(1).is_none());
    // The write was cancelled where it stood; the session goes on exactly there.
    fixture.drive(session.write(&data[2 * PART..])).await.unwrap();
    fixture.drive(session.finish()).await.unwrap();
    assert_eq!(fixture.read(&digest_of(&data), 0, None).await, data);
    fixture.assert_nothing_held();
}

#[tokio::test(start_paused = true)]
async fn a_session_dropped_anywhere_leaks_nothing() {
    let data = content(2, 3 * PART);
    for written in [0, 1, PART - 1, PART, PART + 1, 2 * PART] {
        let fixture = Fixture::new();
        let mut session = fixture.cache.begin_upload(digest_of(&data)).await.unwrap().unwrap();
        let _cut = timeout(A_WHILE, session.write(&data[..written])).await;
        drop(session);
        fixture.stepper.run_until_idle();
        fixture.assert_nothing_held();
        assert!(!fixture.cache.engine().contains(&digest_of(&data)).expect("loaded"), "cut after {written} bytes");
    }
    // Cut while it waits for the end: whether stored or not, nothing is held.
    let fixture = Fixture::new();
    let mut session = fixture.cache.begin_upload(digest_of(&data)).await.unwrap().unwrap();
    fixture.drive(session.write(&data)).await.unwrap();
    assert!(timeout(A_WHILE, session.finish()).await.is_err());
    fixture.stepper.run_until_idle();
    fixture.assert_nothing_held();
}

#[tokio::test(start_paused = true)]
async fn content_that_does_not_match_is_refused_and_leaks_nothing() {
    let fixture = Fixture::new();
    let data = content(3, PART + 10);
    let mut wrong = data.clone();
    wrong[5] ^= 1;
    for bad in [&wrong[..], &data[..PART], &[&data[..], b"x"].concat()] {
        let mut session = fixture.cache.begin_upload(digest_of(&data)).await.unwrap().unwrap();
        let outcome = async {
            session.write(bad).await?;
            session.finish().await
        };
        let error = fixture.drive(outcome).await.unwrap_err();
        assert!(matches!(error, EngineError::Mismatch { .. }), "{error}");
        fixture.stepper.run_until_idle();
        fixture.assert_nothing_held();
    }
    assert!(!fixture.cache.engine().contains(&digest_of(&data)).expect("loaded"));
}

#[tokio::test(start_paused = true)]
async fn a_full_staging_budget_refuses_with_advice_after_a_bounded_wait() {
    let fixture = Fixture::new();
    let (first, second) = (content(4, 3 * PART), content(5, PART));
    let mut holder = fixture.cache.begin_upload(digest_of(&first)).await.unwrap().unwrap();
    assert!(timeout(A_WHILE, holder.write(&first)).await.is_err());
    let mut session = fixture.cache.begin_upload(digest_of(&second)).await.unwrap().unwrap();
    let asked = tokio::time::Instant::now();
    let error = session.write(&second).await.unwrap_err();
    assert!(matches!(error, EngineError::Full { .. }), "{error}");
    assert_eq!(asked.elapsed(), BUDGET_WAIT_MAX);
    drop((session, holder));
    fixture.stepper.run_until_idle();
    fixture.assert_nothing_held();
}

#[tokio::test(start_paused = true)]
async fn large_uploads_that_crawl_do_not_keep_small_ones_out() {
    let fixture = Fixture::new();
    let (large, small) = (content(4, 3 * PART), content(5, 1000));
    let mut holder = fixture.cache.begin_upload(digest_of(&large)).await.unwrap().unwrap();
    assert!(timeout(A_WHILE, holder.write(&large)).await.is_err());
    assert!(fixture.cache.shared.budgets.staged_bytes.budget().try_take(1).is_none());
    let mut session = fixture.cache.begin_upload(digest_of(&small)).await.unwrap().unwrap();
    session.write(&small).await.unwrap();
    drop(holder);
    fixture.drive(session.finish()).await.unwrap();
    fixture.assert_nothing_held();
}

fn with_digests(blobs: &[Vec<u8>]) -> Vec<(Digest, Bytes)> {
    blobs.iter().map(|data| (digest_of(data), Bytes::copy_from_slice(data))).collect()
}

#[tokio::test(start_paused = true)]
async fn blobs_put_together_are_all_handed_over_at_once_and_fare_each_on_its_own() {
    for compression in [Compression::Off, Compression::Zstd] {
        let limits = Limits { staged_bytes_max: 32 * PART, ..limits() };
        let fixture = Fixture::with(&EngineOptions { compression, ..options() }, limits);
        let present = content(70, 500);
        fixture.store(&present).await;
        let sizes = [0, 1, 64, 1000, 1000, 5000, 20_000, PART, PART - 1, 2 * PART + 1];
        let blobs: Vec<Vec<u8>> = sizes.iter().zip(71..).map(|(&size, seed)| content(seed, size)).collect();
        let mut batch = with_digests(&blobs);
        let wrong = [
            (digest_of(b"wrong hash"), Bytes::from_static(b"hash wrong")),
            (digest_of(b"too short"), Bytes::from_static(b"too shor")),
            (digest_of(&content(90, 3 * PART)), Bytes::from(content(91, 3 * PART))),
        ];
        batch.extend(wrong.clone());
        batch.push((Hasher::digest(DigestFunction::Blake3, &present), Bytes::from(present.clone())));
        batch.push((digest_of(&present), Bytes::from_static(b"nobody looks")));
        // Nothing is written before the test says so: if any were waited for, this would not come back.
        let puts = timeout(A_WHILE, fixture.cache.begin_puts(batch.clone())).await.unwrap();
        assert_eq!(puts.len(), batch.len());
        for (put, (digest, data)) in puts.into_iter().zip(&batch) {
            let stored = async { put?.stored().await };
            let outcome = fixture.drive(stored).await;
            if wrong.iter().any(|(of_wrong, _)| of_wrong == digest) {
                assert!(matches!(outcome, Err(EngineError::Mismatch { .. })), "{outcome:?}");
                assert!(!fixture.cache.engine().contains(digest).unwrap());
            } else {
                outcome.unwrap();
                let expected = if *digest == digest_of(&present) { &present[..] } else { data };
                assert!(fixture.read(digest, 0, None).await == expected, "{digest}");
            }
        }
        fixture.settle().await;
        fixture.assert_nothing_held();
    }
}

/// Tasks that come at the same time bring blobs one by one; whoever is cut off takes its own back and nobody else's.
#[tokio::test(start_paused = true)]
async fn small_blobs_gather_and_fare_each_on_its_own() {
    let fixture = Fixture::new();
    let blobs: Vec<Vec<u8>> = (0..100).map(|seed| content(200 + seed, 10 * seed as usize)).collect();
    let put = |(digest, data)| {
        let cache = fixture.cache.clone();
        tokio::spawn(async move { cache.put_small(digest, data).await })
    };
    let puts: Vec<_> = with_digests(&blobs).into_iter().map(put).collect();
    let wrong = put((digest_of(b"wrong hash"), Bytes::from_static(b"hash wrong")));
    let wrong_size = put((digest_of(b"wrong size"), Bytes::from_static(b"wrong")));
    let again = put((digest_of(&blobs[1]), Bytes::copy_from_slice(&blobs[1])));
    // Cut off while it waits for the others: it was polled once.
    let lost = content(199, 777);
    let mut cut_off = Box::pin(fixture.cache.put_small(digest_of(&lost), Bytes::copy_from_slice(&lost)));
    assert!(futures_util::poll!(cut_off.as_mut()).is_pending());
    drop(cut_off);
    // And while it waits for the engine.
    let kept = content(198, 778);
    let kept_put = fixture.cache.put_small(digest_of(&kept), Bytes::copy_from_slice(&kept));
    assert!(timeout(A_WHILE, kept_put).await.is_err());
    fixture.stepper.run_until_idle();
    for put in puts.into_iter().chain([again]) {
        fixture.drive(put).await.unwrap().unwrap();
    }
    for wrong in [wrong, wrong_size] {
        let outcome = fixture.drive(wrong).await.unwrap();
        assert!(matches!(outcome, Err(EngineError::Mismatch { .. })), "{outcome:?}");
    }
    for blob in blobs.iter().chain([&kept]) {
        assert!(fixture.read(&digest_of(blob), 0, None).await == *blob);
    }
    assert!(!fixture.cache.engine().contains(&digest_of(&lost)).unwrap());
    assert_eq!(fixture.cache.shared.budgets.small_staged_bytes.budget().used(), 0, "staged bytes leaked");
    fixture.assert_nothing_held();
}

/// It is not kept from it by blobs of its own that it has not given away yet.
#[tokio::test(start_paused = true)]
async fn a_batch_of_more_than_may_be_staged_goes_through() {
    let fixture = Fixture::new();
    let blobs: Vec<Vec<u8>> = (0..7).map(|seed| content(80 + seed, PART - seed as usize)).collect();
    for put in fixture.drive(fixture.cache.begin_puts(with_digests(&blobs))).await {
        fixture.drive(put.unwrap().stored()).await.unwrap();
    }
    for blob in &blobs {
        assert!(fixture.cache.engine().contains(&digest_of(blob)).unwrap());
    }
    fixture.assert_nothing_held();
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_finds_no_room_is_refused_blob_by_blob_and_one_cut_off_leaks_nothing() {
    let fixture = Fixture::new();
    let blobs: Vec<Vec<u8>> =
        [PART, 1000, PART, PART, 1001].iter().zip(90..).map(|(&size, seed)| content(seed, size)).collect();
    let puts = fixture.cache.begin_puts(with_digests(&blobs)).await;
    // Two parts fill the budget and nothing is written; small ones have a budget of their own.
    let refused: Vec<bool> = puts.iter().map(|put| matches!(put, Err(EngineError::Full { .. }))).collect();
    assert_eq!(refused, [false, false, false, true, false]);
    drop(puts);
    fixture.stepper.run_until_idle();
    fixture.assert_nothing_held();

    let blobs: Vec<Vec<u8>> = (0..4).map(|seed| content(100 + seed, PART)).collect();
    assert!(timeout(A_WHILE, fixture.cache.begin_puts(with_digests(&blobs))).await.is_err(), "it waits for room");
    fixture.stepper.run_until_idle();
    fixture.assert_nothing_held();
    let stored = |blob: &Vec<u8>| fixture.cache.engine().contains(&digest_of(blob)).unwrap();
    assert_eq!(blobs.iter().map(stored).collect::<Vec<_>>(), [true, true, false, false]);
}

/// A client that sends a byte now and then holds memory that others wait for.
#[tokio::test(start_paused = true)]
async fn a_part_that_crawls_gives_way_to_who_waits() {
    let fixture = Fixture::new();
    let blobs = [content(20, PART), content(21, PART), content(22, 2 * PART)];
    let mut slow = fixture.cache.begin_upload(digest_of(&blobs[0])).await.unwrap().unwrap();
    slow.write(&blobs[0][..1]).await.unwrap();
    tokio::time::sleep(fixture.cache.limits().piece_patience).await;
    let mut younger = fixture.cache.begin_upload(digest_of(&blobs[1])).await.unwrap().unwrap();
    younger.write(&blobs[1][..1]).await.unwrap();
    // A trickle does not help it: what counts is when the part was begun.
    slow.write(&blobs[0][1..2]).await.unwrap();
    assert!(timeout(A_WHILE, slow.asked_to_end()).await.is_err(), "nobody waits yet");

    let mut waiting = fixture.cache.begin_upload(digest_of(&blobs[2])).await.unwrap().unwrap();
    let gives_way = async {
        slow.asked_to_end().await;
        drop(slow);
    };
    let (written, ()) = tokio::join!(waiting.write(&blobs[2][..10]), gives_way);
    written.unwrap();
    assert!(timeout(A_WHILE, younger.asked_to_end()).await.is_err(), "the younger one keeps its place");
    drop((younger, waiting));
    fixture.assert_nothing_held();
}

#[tokio::test(start_paused = true)]
async fn what_is_parked_is_swept_by_one_task() {
    let fixture = Fixture::new();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for seed in 30..60 {
        let data = content(seed, 1000);
        let mut upload = fixture.cache.start_upload(name("u", digest_of(&data)), 0).await.unwrap().unwrap();
        upload.write(&data[..10]).await.unwrap();
        drop(upload);
    }
    assert_eq!(fixture.cache.parked(), (30, 30 * 1000));
    assert_eq!(tasks(), before + 1);
    tokio::time::sleep(fixture.cache.limits().parked_age_max + A_WHILE).await;
    assert_eq!((fixture.cache.parked(), tasks()), ((0, 0), before));
    fixture.assert_nothing_held();
}

/// A blob that came another way leaves nothing of the upload that was cut off before.
#[tokio::test(start_paused = true)]
async fn what_is_parked_of_a_blob_that_is_there_is_forgotten_when_its_client_comes_back() {
    let fixture = Fixture::new();
    let data = content(61, 1000);
    let upload = || fixture.cache.start_upload(name("u", digest_of(&data)), 0);
    let mut cut_off = upload().await.unwrap().unwrap();
    cut_off.write(&data[..10]).await.unwrap();
    drop(cut_off);
    fixture.store(&data).await;
    assert_eq!(fixture.cache.parked().0, 1);
    assert!(upload().await.unwrap().is_none());
    fixture.assert_nothing_held();
}

#[tokio::test(start_paused = true)]
async fn parked_uploads_make_room_for_live_ones() {
    let fixture = Fixture::new();
    let (first, second) = (content(6, PART), content(7, 2 * PART));
    let mut upload = fixture.cache.start_upload(name("u", digest_of(&first)), 0).await.unwrap().unwrap();
    upload.write(&first[..10]).await.unwrap();
    drop(upload);
    assert_eq!(fixture.cache.query_upload(&name("u", digest_of(&first))), Some(10));
    let mut session = fixture.cache.begin_upload(digest_of(&second)).await.unwrap().unwrap();
    fixture.drive(session.write(&second)).await.unwrap();
    fixture.drive(session.finish()).await.unwrap();
    assert_eq!(fixture.cache.query_upload(&name("u", digest_of(&first))), None);
    fixture.assert_nothing_held();
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_upload_goes_on_where_it_stopped() {
    for cut in [1, PART, PART + 1, 3 * PART] {
        let fixture = Fixture::new();
        let data = content(8, 3 * PART);
        let digest = digest_of(&data);
        let mut upload = fixture.cache.start_upload(name("u", digest), 0).await.unwrap().unwrap();
        fixture.drive(upload.write(&data[..cut])).await.unwrap();
        drop(upload);
        let wrong = fixture.cache.start_upload(name("u", digest), cut as u64 + 1).await;
        assert!(matches!(wrong, Err(StartError::Offset { .. })), "cut at {cut}");
        let other = fixture.cache.start_upload(name("other", digest), cut as u64).await;
        assert!(matches!(other, Err(StartError::Offset { received_bytes: 0, .. })), "cut at {cut}");
        let mut upload = fixture.cache.start_upload(name("u", digest), cut as u64).await.unwrap().unwrap();
        assert_eq!(upload.received_bytes(), cut as u64);
        fixture.drive(upload.write(&data[cut..])).await.unwrap();
        fixture.drive(upload.finish()).await.unwrap();
        assert_eq!(fixture.read(&digest, 0, None).await, data);
        assert_eq!(fixture.cache.query_upload(&name("u", digest)), None);
        fixture.assert_nothing_held();
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_still_open_hands_over_to_the_one_that_goes_on() {
    let fixture = Fixture::new();
    let data = content(9, 200);
    let digest = digest_of(&data);
    let mut old = fixture.cache.start_upload(name("u", digest), 0).await.unwrap().unwrap();
    old.write(&data[..50]).await.unwrap();
    assert_eq!(fixture.cache.query_upload(&name("u", digest)), Some(50));
    // These arrive after the answer above was given.
    old.write(&data[50..80]).await.unwrap();
    let give_way = async {
        old.give_way().await;
        drop(old);
    };
    let (resumed, ()) = tokio::join!(fixture.cache.start_upload(name("u", digest), 50), give_way);
    let mut new = resumed.unwrap().unwrap();
    new.write(&data[50..60]).await.unwrap();
    // Cut short among what it repeats, the upload stands where it stood and goes on from there.
    assert_eq!(new.received_bytes(), 80);
    drop(new);
    let mut new = fixture.cache.start_upload(name("u", digest), 80).await.unwrap().unwrap();
    new.write(&data[80..]).await.unwrap();
    fixture.drive(new.finish()).await.unwrap();
    assert_eq!(fixture.read(&digest, 0, None).await, data);
    fixture.assert_nothing_held();
}

#[tokio::test(start_paused = true)]
async fn an_upload_is_known_by_its_name_until_its_blob_is_present() {
    let fixture = Fixture::new();
    let data = content(16, 200);
    let digest = digest_of(&data);
    let mut upload = fixture.cache.start_upload(name("u", digest), 0).await.unwrap().unwrap();
    upload.write(&data).await.unwrap();
    let finish = upload.finish();
    tokio::pin!(finish);
    assert!(timeout(A_WHILE, &mut finish).await.is_err());
    assert_eq!(fixture.cache.query_upload(&name("u", digest)), Some(200));
    // Somebody wants to go on with what is being stored: it is there in the end, so there is nothing to send.
    let resume = fixture.cache.start_upload(name("u", digest), 200);
    tokio::pin!(resume);
    assert!(timeout(A_WHILE, &mut resume).await.is_err());
    fixture.stepper.run_until_idle();
    finish.await.unwrap();
    assert!(resume.await.unwrap().is_none());
    assert_eq!(fixture.cache.query_upload(&name("u", digest)), None);
    fixture.assert_nothing_held();
}

#[tokio::test(start_paused = true)]
async fn an_upload_cut_short_while_it_is_stored_is_forgotten() {
    let fixture = Fixture::new();
    let data = content(17, 200);
    let digest = digest_of(&data);
    let mut upload = fixture.cache.start_upload(name("u", digest), 0).await.unwrap().unwrap();
    upload.write(&data).await.unwrap();
    assert!(timeout(A_WHILE, upload.finish()).await.is_err());
    assert_eq!(fixture.cache.query_upload(&name("u", digest)), None);
    fixture.stepper.run_until_idle();
    assert!(fixture.cache.start_upload(name("u", digest), 200).await.unwrap().is_none());
    fixture.assert_nothing_held();
}

#[tokio::test(start_paused = true)]
async fn a_parked_upload_is_freed_when_nobody_comes_back() {
    let fixture = Fixture::new();
    let data = content(10, PART);
    let mut upload = fixture.cache.start_upload(name("u", digest_of(&data)), 0).await.unwrap().unwrap();
    upload.write(&data[..10]).await.unwrap();
    drop(upload);
    assert_eq!(fixture.cache.engine().stats().uploads_open, 1);
    tokio::time::sleep(fixture.cache.limits().parked_age_max + A_WHILE).await;
    fixture.assert_nothing_held();
}

#[tokio::test(start_paused = true)]
async fn any_range_of_a_blob_is_exactly_that() {
    let fixture = Fixture::new();
    for length in [0, 1, PART - 1, PART, PART + 1, 3 * PART + 77] {
        let data = content(11, length);
        let digest = fixture.store(&data).await;
        for offset in [0, 1, PART - 1, PART, PART + 1, length / 2, length] {
            for limit in [None, Some(1), Some(PART - 1), Some(PART), Some(2 * PART), Some(usize::MAX)] {
                if offset > length {
                    continue;
                }
                let end = limit.map_or(length, |limit| offset.saturating_add(limit).min(length));
                let found = fixture.read(&digest, offset as u64, limit.map(|limit| limit as u64)).await;
                assert!(found == data[offset..end], "{length} bytes from {offset}, at most {limit:?}");
            }
        }
        assert_eq!(fixture.cache.read_whole(&digest, length as u64).await.unwrap(), data);
    }
}

/// Bytes that compress.
fn text(seed: u64, length: usize) -> Vec<u8> {
    content(seed, length).into_iter().map(|byte| byte % 16).collect()
}

fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(data, 3).unwrap()
}

/// Room for a decoder, its window and two parts.
fn roomy() -> Limits {
    Limits { staged_bytes_max: 32 * PART, ..limits() }
}

#[tokio::test]
async fn decoded_bytes_are_paid_for_until_the_reader_has_taken_them() {
    let decoded_bytes_max = 3 * PART;
    let wait_max = Duration::from_millis(50);
    let fixture = Fixture::with(&options(), Limits { decoded_bytes_max, budget_wait_max: wait_max, ..roomy() });
    let data = text(70, 4 * PART);
    let digest = digest_of(&data);
    let mut upload = fixture.cache.begin_compressed_upload(digest).await.unwrap().unwrap();
    fixture.drive(upload.write(&zstd(&data))).await.unwrap();
    fixture.drive(upload.finish()).await.unwrap();

    let budget = &fixture.cache.shared.budgets.decoded_bytes;
    let mut stream = fixture.cache.read(&digest, 0, None, Wire::Plain).unwrap();
    let mut taken = Vec::new();
    for part in 1..=3 {
        taken.push(stream.next_chunk().await.unwrap().unwrap());
        assert_eq!(budget.used(), part * PART);
    }
    // A slice of a chunk keeps all of it.
    let slice = taken[0].slice(..1);
    taken.remove(0);
    assert_eq!(budget.used(), decoded_bytes_max);
    assert!(matches!(stream.next_chunk().await, Err(EngineError::Full { .. })), "waited for and refused");
    drop(slice);
    assert_eq!(stream.next_chunk().await.unwrap().unwrap(), &data[3 * PART..], "the stream is where it was");
    drop((taken, stream));
    assert_eq!(budget.used(), 0);
    // As it is stored it costs nothing.
    let mut stream = fixture.cache.read(&digest, 0, None, Wire::Zstd).unwrap();
    let mut wire = Vec::new();
    while let Some(chunk) = stream.next_chunk().await.unwrap() {
        assert_eq!(budget.used(), 0);
        wire.extend_from_slice(&chunk);
    }
    assert_eq!(zstd::stream::decode_all(&wire[..]).unwrap(), data);
    fixture.assert_nothing_held();
}

#[tokio::test]
async fn a_compressed_upload_that_ends_anywhere_gives_everything_back() {
    for (seed, length) in [(80, PART / 2), (81, PART), (82, PART + 1), (83, 5 * PART)] {
        let fixture = Fixture::with(&options(), roomy());
        let data = text(seed, length);
        let digest = digest_of(&data);
        let streams = [zstd(&data), data.chunks(10).flat_map(zstd).collect::<Vec<u8>>()];
        for stream in &streams {
            for cut in [0, 1, 20, stream.len() / 2, stream.len() - 1] {
                let mut upload = fixture.cache.begin_compressed_upload(digest).await.unwrap().unwrap();
                for piece in stream[..cut].chunks(1000) {
                    fixture.drive(upload.write(piece)).await.unwrap();
                }
                assert_eq!(upload.received_bytes(), cut as u64);
                if cut % 2 == 0 {
                    let outcome = fixture.drive(upload.finish()).await;
                    assert!(matches!(outcome, Err(EngineError::Mismatch { .. })), "cut at {cut} of {length}");
                } else {
                    drop(upload);
                }
                fixture.settle().await;
                fixture.assert_nothing_held();
                assert!(!fixture.cache.engine().contains(&digest).unwrap());
            }
        }
        for (position, stream) in streams.iter().enumerate() {
            let Some(mut upload) = fixture.cache.begin_compressed_upload(digest).await.unwrap() else {
                assert_eq!(position, 1);
                continue;
            };
            fixture.drive(upload.write(stream)).await.unwrap();
            fixture.drive(upload.finish()).await.unwrap();
        }
        assert_eq!(fixture.read(&digest, 0, None).await, data);
        fixture.assert_nothing_held();
    }
}

#[tokio::test]
async fn a_window_that_could_never_be_paid_for_is_refused_for_good() {
    let fixture = Fixture::with(&options(), roomy());
    let data = text(90, 5 * PART);
    let streamed = |window_log| {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.window_log(window_log).unwrap();
        std::io::Write::write_all(&mut encoder, &data).unwrap();
        encoder.finish().unwrap()
    };
    for (window_log, is_taken) in [(22, false), (20, true)] {
        let mut upload = fixture.cache.begin_compressed_upload(digest_of(&data)).await.unwrap().unwrap();
        let written = fixture.drive(upload.write(&streamed(window_log))).await;
        if is_taken {
            written.unwrap();
            fixture.drive(upload.finish()).await.unwrap();
        } else {
            assert!(matches!(written, Err(EngineError::Mismatch { .. })), "2^{window_log}");
            drop(upload);
        }
        fixture.assert_nothing_held();
    }
}

#[tokio::test]
async fn a_store_that_compresses_takes_and_gives_every_range() {
    let compression = cask_engine::Compression::Zstd;
    let fixture = Fixture::with(&EngineOptions { compression, ..options() }, roomy());
    for length in [1, 1000, PART, PART + 1, 3 * PART + 77] {
        let data = text(100 + length as u64, length);
        let digest = digest_of(&data);
        let mut session = fixture.cache.begin_upload(digest).await.unwrap().unwrap();
        fixture.drive(session.write(&data)).await.unwrap();
        fixture.drive(session.finish()).await.unwrap();
        for offset in [0, 1, PART - 1, PART, PART + 1, length / 2, length] {
            for limit in [None, Some(1), Some(PART), Some(2 * PART)] {
                if offset <= length {
                    let end = limit.map_or(length, |limit| offset.saturating_add(limit).min(length));
                    let found = fixture.read(&digest, offset as u64, limit.map(|limit| limit as u64)).await;
                    assert!(found == data[offset..end], "{length} bytes from {offset}, at most {limit:?}");
                }
            }
        }
        assert_eq!(fixture.cache.read_whole(&digest, length as u64).await.unwrap(), data);
        fixture.assert_nothing_held();
    }
    assert!(fixture.cache.engine().stats().appended_bytes_total < (4 * PART) as u64, "some of it was compressed");
}

#[tokio::test(start_paused = true)]
async fn a_result_is_served_while_all_of_it_is_there_and_not_before() {
    let fixture = Fixture::new();
    let (file, inner) = (content(12, 100), content(13, 100));
    let node = FileNode { name: "f".to_owned(), digest: Some(to_wire(&digest_of(&inner))), ..FileNode::default() };
    let directory = Directory { files: vec![node], ..Directory::default() };
    let tree = Tree { root: Some(directory), children: Vec::new() }.encode_to_vec();
    let output = OutputFile { path: "o".to_owned(), digest: Some(to_wire(&digest_of(&file))), ..OutputFile::default() };
    let outputs = OutputDirectory {
        path: "d".to_owned(),
        tree_digest: Some(to_wire(&digest_of(&tree))),
        ..OutputDirectory::default()
    };
    let result =
        ActionResult { output_files: vec![output], output_directories: vec![outputs], ..ActionResult::default() };

    let action = digest_of(b"action");
    let is_hit = async || match fixture.cache.get_action_result("i", &action, InlineOptions::default()).await {
        Ok(_) => true,
        Err(ActionError::Engine(EngineError::NotFound)) => false,
        Err(error) => panic!("{error}"),
    };
    assert!(!is_hit().await);
    // Put before anything it refers to: a hit only when the last of it has come, whatever comes first.
    let stored = fixture.drive(fixture.cache.put_action_result("i", &action, result.clone())).await.unwrap();
    assert!(stored.execution_metadata.is_some());
    for blob in [&file, &tree, &inner] {
        assert!(!is_hit().await);
        fixture.store(blob).await;
    }
    assert!(is_hit().await);
    let found = fixture.cache.get_action_result("i", &action, InlineOptions::default()).await.unwrap();
    assert_eq!(found, stored);
    // Another instance and another action know nothing of it; the action's size is not part of the key.
    assert!(fixture.cache.get_action_result("j", &action, InlineOptions::default()).await.is_err());
    assert!(fixture.cache.get_action_result("i", &digest_of(b"other"), InlineOptions::default()).await.is_err());
    let unsized_action = Digest::new(action.function(), action.hash(), 0).unwrap();
    assert!(fixture.cache.get_action_result("i", &unsized_action, InlineOptions::default()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_a_client_inlined_is_moved_to_the_store_and_inlined_on_demand() {
    let fixture = Fixture::new();
    let (out, contents) = (content(14, 100), content(15, PART + 1));
    let file = OutputFile { path: "f".to_owned(), contents: Bytes::from(contents.clone()), ..OutputFile::default() };
    let result = ActionResult {
        stdout_raw: Bytes::from(out.clone()),
        output_files: vec![file.clone()],
        ..ActionResult::default()
    };
    let action = digest_of(b"action");
    let stored = fixture.drive(fixture.cache.put_action_result("", &action, result.clone())).await.unwrap();
    assert_eq!(stored.stdout_digest, Some(to_wire(&digest_of(&out))));
    assert!(stored.stdout_raw.is_empty() && stored.output_files[0].contents.is_empty());
    assert_eq!(fixture.read(&digest_of(&contents), 0, None).await, contents);

    let inline = InlineOptions { stdout: true, stderr: true, output_files: vec!["f".to_owned(), "g".to_owned()] };
    let found = fixture.cache.get_action_result("", &action, inline).await.unwrap();
    assert_eq!((&found.stdout_raw[..], &found.output_files[0].contents[..]), (&out[..], &contents[..]));
    assert_eq!(found.stdout_digest, stored.stdout_digest);

    // Bytes that are not those of their digest are refused before anything is stored.
    let liar = OutputFile { digest: Some(to_wire(&digest_of(&out))), ..file };
    let refused = ActionResult { output_files: vec![liar], ..ActionResult::default() };
    let error = fixture.drive(fixture.cache.put_action_result("", &action, refused)).await.unwrap_err();
    assert!(matches!(error, ActionError::Invalid(_)), "{error}");
}

/// While the index is filled after a start nothing is called missing, on either protocol: clients are told to come again.
#[tokio::test(start_paused = true)]
async fn before_the_index_is_complete_clients_are_told_to_come_again() {
    use http::{Request, StatusCode};

    let fixture = Fixture::new();
    let digest = fixture.store(b"stored before the crash").await;
    let fixture = fixture.reopened();
    let find_missing = || {
        let mut absent = Vec::new();
        fixture.cache.engine().find_missing(&[digest], &mut absent).map(|()| absent).map_err(crate::status::grpc)
    };
    let get = || async {
        let uri = format!("/cas/{}", digest.hash_hex());
        let request = Request::get(uri).body(http_body_util::Empty::<Bytes>::new()).unwrap();
        crate::http_cache::HttpCache::new(fixture.cache.clone()).answer(request).await.1.status()
    };
    assert_eq!(find_missing().unwrap_err().code(), tonic::Code::Unavailable);
    assert_eq!(get().await, StatusCode::SERVICE_UNAVAILABLE);
    let error = fixture.cache.put(digest_of(b"new"), Bytes::from_static(b"new")).await.unwrap_err();
    assert!(matches!(error, EngineError::Loading), "{error}");

    fixture.stepper.load();
    assert!(find_missing().unwrap().is_empty());
    assert_eq!(get().await, StatusCode::OK);
}

/// A log that nobody writes to any more gives way to a new one, and who waits for it is told so.
#[tokio::test(start_paused = true)]
async fn an_idle_log_gives_way_and_its_readers_are_told() {
    let fixture = Fixture::with(&options(), Limits { open_logs_max: 2, ..limits() });
    let (cache, namespace) = (&fixture.cache, cask_index::Namespace::SHARED);
    let create = || cache.create_log(InstanceName::EMPTY, namespace);
    let (idle, busy) = (create().unwrap(), create().unwrap());
    assert!(matches!(create(), Err(LogError::TooMany { limit: 2 })), "both are young");
    let mut reader = cache.read_log(&idle.name, namespace, 0, None).await.unwrap();
    tokio::time::advance(Duration::from_secs(601)).await;
    cache.append_log(&busy.name, &busy.secret, 0, b"still here").await.unwrap();
    create().expect("the idle one's place");
    assert!(matches!(timeout(A_WHILE, reader.next_chunk()).await.unwrap(), Err(LogError::Unknown)));
    assert!(matches!(cache.append_log(&idle.name, &idle.secret, 0, b"x").await, Err(LogError::Unknown)));
    assert_eq!(cache.log_status(&busy.name, namespace, &busy.secret).await.unwrap(), (10, false));
    assert!(matches!(create(), Err(LogError::TooMany { limit: 2 })), "both were written to or made just now");
}
