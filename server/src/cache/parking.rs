//! Where interrupted uploads wait to be resumed.
//!
//! ```text
//!            open               park                     claim at the right offset
//! (unknown) ------> Live ------------------> Parked ------------------------------> Live
//!                    |  close (stored, failed)  |  too old, too many, too much, opened anew
//!                    v                          v
//!                (unknown)                  (unknown)
//! ```
//! Uploads are known by their whole name: instance, upload id and digest, because clients reuse one id for several blobs. At most one
//! entry a name: a writer that opens a known name anew takes the name over, and the one before goes on without being resumable.
//! Parked uploads are bounded in number, in bytes and in age; the oldest go first. Generic over what is parked, so that its rules
//! are tested without an engine. The lock is held for map work only: what is thrown out is dropped after it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cask_proto::WriteName;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Registry of the uploads that can be resumed or asked about.
pub(crate) struct Parking<S> {
    count_max: usize,
    bytes_max: usize,
    age_max: Duration,
    names: Mutex<Names<S>>,
}

struct Names<S> {
    entries: HashMap<Arc<WriteName>, Entry<S>>,
    /// The parked ones by ticket, which is the order they were parked in.
    parked: BTreeMap<u64, Arc<WriteName>>,
    parked_bytes: usize,
    next_ticket: u64,
    /// Somebody frees in time what nobody comes back for.
    is_swept: bool,
}

enum Entry<S> {
    Live { ticket: u64, live: Arc<Live> },
    Parked(Parked<S>),
}

struct Parked<S> {
    ticket: u64,
    staged: S,
    held_bytes: usize,
    since: Instant,
    live: Arc<Live>,
}

/// What is known of an upload beside its bytes.
struct Live {
    received_bytes: AtomicU64,
    /// The last answer to a query: a client may resume there even when more has arrived since.
    told_bytes: AtomicU64,
    /// Another stream wants to go on with this upload.
    give_way: Notify,
    /// Closed when the writer is gone.
    gone: watch::Receiver<()>,
}

/// A writer's hold on its name.
pub(crate) struct Ticket {
    number: u64,
    name: Arc<WriteName>,
    live: Arc<Live>,
    _gone: watch::Sender<()>,
}

/// What a writer that wants to go on at some offset finds.
pub(crate) enum Claim<S> {
    /// Nothing is known: the upload never began, ended, or was thrown out.
    Unknown,
    /// Another offset is expected.
    Elsewhere { received_bytes: u64 },
    /// Somebody still writes; wait for it, then claim again.
    Live(Handover),
    /// Go on; the first `overlap_bytes` of what comes are here already.
    Resumed { staged: S, ticket: Ticket, overlap_bytes: u64 },
}

/// Waits for a writer that was asked to give way.
pub(crate) struct Handover {
    gone: watch::Receiver<()>,
}

impl<S> Parking<S> {
    pub(crate) fn new(count_max: usize, bytes_max: usize, age_max: Duration) -> Parking<S> {
        let names = Names {
            entries: HashMap::new(),
            parked: BTreeMap::new(),
            parked_bytes: 0,
            next_ticket: 0,
            is_swept: false,
        };
        Parking { count_max, bytes_max, age_max, names: Mutex::new(names) }
    }

    /// How many uploads are parked, and the bytes that they hold.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let names = self.names.lock();
        (names.parked.len(), names.parked_bytes)
    }

    /// True when something is parked and nobody sweeps: the caller does from now on.
    pub(crate) fn begin_sweep(&self) -> bool {
        let mut names = self.names.lock();
        !names.parked.is_empty() && !std::mem::replace(&mut names.is_swept, true)
    }

    /// Throws out what is too old. `Some`: when to come again; `None`: nothing is parked, and the sweep has ended.
    pub(crate) fn sweep(&self) -> Option<Instant> {
        drop(self.expire());
        let mut names = self.names.lock();
        let next = names.oldest_since().map(|since| since + self.age_max);
        names.is_swept = next.is_some();
        next
    }

    /// A writer begins at offset 0, whatever was known of the name.
    pub(crate) fn open(&self, name: WriteName) -> Ticket {
        let name = Arc::new(name);
        let mut names = self.names.lock();
        let before = names.forget(&name);
        let ticket = names.enlist(name, 0, 0);
        drop(names);
        drop(before);
        ticket
    }

    /// A writer wants to go on at `offset`.
    pub(crate) fn claim(&self, name: &WriteName, offset: u64) -> Claim<S> {
        let expired = self.expire();
        let mut names = self.names.lock();
        let claim = match names.entries.get(name) {
            None => Claim::Unknown,
            Some(Entry::Live { live, .. }) => {
                live.give_way.notify_one();
                Claim::Live(Handover { gone: live.gone.clone() })
            }
            Some(Entry::Parked(parked)) => {
                let received_bytes = parked.live.received_bytes.load(Ordering::Relaxed);
                let told_bytes = parked.live.told_bytes.load(Ordering::Relaxed);
                if offset == received_bytes || offset == told_bytes {
                    let (name, parked) = names.take_parked(name).expect("the entry was just found parked");
                    let ticket = names.enlist(name, received_bytes, told_bytes);
                    Claim::Resumed { staged: parked.staged, ticket, overlap_bytes: received_bytes - offset }
                } else {
                    Claim::Elsewhere { received_bytes }
                }
            }
        };
        drop(names);
        drop(expired);
        claim
    }

    /// Bytes received of an upload that is live or parked. The answer is remembered as a place to resume at.
    pub(crate) fn query(&self, name: &WriteName) -> Option<u64> {
        drop(self.expire());
        let names = self.names.lock();
        let (Entry::Live { live, .. } | Entry::Parked(Parked { live, .. })) = names.entries.get(name)?;
        let received_bytes = live.received_bytes.load(Ordering::Relaxed);
        live.told_bytes.store(received_bytes, Ordering::Relaxed);
        Some(received_bytes)
    }

    /// The writer is interrupted and gives up its ticket: `staged` waits for whoever comes back, unless somebody took the name over.
    #[expect(clippy::needless_pass_by_value, reason = "the ticket's end tells those who wait for it")]
    pub(crate) fn park(&self, ticket: Ticket, staged: S, held_bytes: usize) {
        let mut thrown_out = self.expire();
        let mut names = self.names.lock();
        if names.is_live(&ticket) {
            let parked = Parked {
                ticket: ticket.number,
                staged,
                held_bytes,
                since: Instant::now(),
                live: Arc::clone(&ticket.live),
            };
            names.parked_bytes += held_bytes;
            names.parked.insert(ticket.number, Arc::clone(&ticket.name));
            names.entries.insert(Arc::clone(&ticket.name), Entry::Parked(parked));
            while names.parked.len() > self.count_max || names.parked_bytes > self.bytes_max {
                thrown_out.extend(names.take_oldest());
            }
        } else {
            thrown_out.push(staged);
        }
        drop(names);
        drop(thrown_out);
    }

    /// The writer is done, with or without success: the name is unknown again.
    #[expect(clippy::needless_pass_by_value, reason = "the ticket's end tells those who wait for it")]
    pub(crate) fn close(&self, ticket: Ticket) {
        let mut names = self.names.lock();
        if names.is_live(&ticket) {
            names.entries.remove(&ticket.name);
        }
    }

    /// The blob has come another way: what is parked under the name goes. A live writer stays.
    pub(crate) fn forget(&self, name: &WriteName) {
        let parked = self.names.lock().take_parked(name);
        drop(parked);
    }

    /// Throws out the upload parked longest ago; false when none is parked.
    pub(crate) fn drop_oldest(&self) -> bool {
        let oldest = self.names.lock().take_oldest();
        oldest.is_some()
    }

    /// Takes out what has been parked for too long.
    fn expire(&self) -> Vec<S> {
        let now = Instant::now();
        let mut names = self.names.lock();
        let mut expired = Vec::new();
        while let Some(since) = names.oldest_since()
            && now.duration_since(since) >= self.age_max
        {
            expired.extend(names.take_oldest());
        }
        expired
    }
}

impl<S> Names<S> {
    fn enlist(&mut self, name: Arc<WriteName>, received_bytes: u64, told_bytes: u64) -> Ticket {
        let number = self.next_ticket;
        self.next_ticket += 1;
        let (leave, gone) = watch::channel(());
        let live = Arc::new(Live {
            received_bytes: AtomicU64::new(received_bytes),
            told_bytes: AtomicU64::new(told_bytes),
            give_way: Notify::new(),
            gone,
        });
        self.entries.insert(Arc::clone(&name), Entry::Live { ticket: number, live: Arc::clone(&live) });
        Ticket { number, name, live, _gone: leave }
    }

    fn is_live(&self, ticket: &Ticket) -> bool {
        matches!(self.entries.get(&ticket.name), Some(Entry::Live { ticket: number, .. }) if *number == ticket.number)
    }

    fn take_parked(&mut self, name: &WriteName) -> Option<(Arc<WriteName>, Parked<S>)> {
        let (name, entry) = self.entries.remove_entry(name)?;
        match entry {
            Entry::Parked(parked) => {
                self.parked.remove(&parked.ticket);
                self.parked_bytes -= parked.held_bytes;
                Some((name, parked))
            }
            live @ Entry::Live { .. } => {
                self.entries.insert(name, live);
                None
            }
        }
    }

    /// Removes the name, whatever it is; gives back what was parked under it.
    fn forget(&mut self, name: &WriteName) -> Option<S> {
        let parked = self.take_parked(name).map(|(_, parked)| parked.staged);
        self.entries.remove(name);
        parked
    }

    fn oldest_since(&self) -> Option<Instant> {
        let (_, name) = self.parked.first_key_value()?;
        match self.entries.get(name) {
            Some(Entry::Parked(parked)) => Some(parked.since),
            _ => unreachable!("a parked name has a parked entry"),
        }
    }

    fn take_oldest(&mut self) -> Option<S> {
        let name = Arc::clone(self.parked.first_key_value()?.1);
        self.take_parked(&name).map(|(_, parked)| parked.staged)
    }
}

impl Ticket {
    pub(crate) fn set_received_bytes(&self, received_bytes: u64) {
        self.live.received_bytes.store(received_bytes, Ordering::Relaxed);
    }

    /// Returns when another stream wants to go on with this upload. Cancel-safe.
    pub(crate) async fn give_way(&self) {
        self.live.give_way.notified().await;
    }
}

impl Handover {
    /// Returns when the writer is gone, its upload parked or ended.
    pub(crate) async fn gone(mut self) {
        // Nothing is ever sent: the channel ends with the writer's ticket.
        while self.gone.changed().await.is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE_MAX: Duration = Duration::from_secs(60);

    fn parking() -> Parking<&'static str> {
        Parking::new(3, 100, AGE_MAX)
    }

    fn name(upload: &str, blob: u8) -> WriteName {
        WriteName::parse(&format!("uploads/{upload}/blobs/{}/1000", format!("{blob:02x}").repeat(32))).unwrap()
    }

    /// Opens, receives and parks.
    fn park(parking: &Parking<&'static str>, name: WriteName, staged: &'static str, received: u64, held: usize) {
        let ticket = parking.open(name);
        ticket.set_received_bytes(received);
        parking.park(ticket, staged, held);
    }

    /// What a claim finds, in a form that can be compared; a resumed upload is closed again.
    fn claimed(parking: &Parking<&'static str>, name: &WriteName, offset: u64) -> String {
        match parking.claim(name, offset) {
            Claim::Unknown => "unknown".to_owned(),
            Claim::Elsewhere { received_bytes } => format!("elsewhere {received_bytes}"),
            Claim::Live(_) => "live".to_owned(),
            Claim::Resumed { staged, ticket, overlap_bytes } => {
                parking.close(ticket);
                format!("{staged} overlap {overlap_bytes}")
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_parked_upload_is_resumed_where_it_stopped_and_nowhere_else() {
        let parking = parking();
        assert_eq!(parking.query(&name("u", 1)), None);
        park(&parking, name("u", 1), "first", 40, 10);
        for wrong_offset in [1, 39, 41, 1000] {
            assert_eq!(claimed(&parking, &name("u", 1), wrong_offset), "elsewhere 40");
        }
        assert_eq!(parking.query(&name("u", 1)), Some(40));
        assert_eq!(claimed(&parking, &name("u", 1), 40), "first overlap 0");
        assert_eq!(claimed(&parking, &name("u", 1), 40), "unknown");
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_arrive_after_a_query_do_not_spoil_its_answer() {
        let parking = parking();
        let ticket = parking.open(name("u", 1));
        ticket.set_received_bytes(16);
        assert_eq!(parking.query(&name("u", 1)), Some(16));
        ticket.set_received_bytes(48);
        parking.park(ticket, "staged", 10);
        assert_eq!(claimed(&parking, &name("u", 1), 16), "staged overlap 32");
    }

    #[tokio::test(start_paused = true)]
    async fn one_upload_id_for_two_blobs_is_two_uploads() {
        let parking = parking();
        park(&parking, name("u", 1), "one", 10, 1);
        park(&parking, name("u", 2), "two", 20, 1);
        assert_eq!(claimed(&parking, &name("u", 2), 20), "two overlap 0");
        assert_eq!(claimed(&parking, &name("u", 1), 10), "one overlap 0");
    }

    #[tokio::test(start_paused = true)]
    async fn opening_anew_forgets_what_was_parked_and_a_displaced_writer_parks_nothing() {
        let parking = parking();
        park(&parking, name("u", 1), "old", 10, 1);
        let displaced = parking.open(name("u", 1));
        let newest = parking.open(name("u", 1));
        displaced.set_received_bytes(77);
        parking.park(displaced, "displaced", 1);
        newest.set_received_bytes(5);
        assert_eq!(parking.query(&name("u", 1)), Some(5));
        parking.park(newest, "newest", 1);
        assert_eq!(claimed(&parking, &name("u", 1), 5), "newest overlap 0");
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_go_first_when_there_are_too_many_or_too_much_is_held() {
        let parking = parking();
        for blob in 1..=4 {
            park(&parking, name("u", blob), "staged", 7, 10);
        }
        assert_eq!(claimed(&parking, &name("u", 1), 7), "unknown");
        park(&parking, name("u", 5), "large", 7, 85);
        for (blob, expected) in [(2, "unknown"), (3, "unknown"), (4, "staged overlap 0"), (5, "large overlap 0")] {
            assert_eq!(claimed(&parking, &name("u", blob), 7), expected, "blob {blob}");
        }
        assert!(!parking.drop_oldest());
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_came_back_for_expires() {
        let parking = parking();
        park(&parking, name("u", 1), "older", 7, 10);
        tokio::time::advance(AGE_MAX / 2).await;
        park(&parking, name("u", 2), "younger", 7, 10);
        tokio::time::advance(AGE_MAX / 2).await;
        assert_eq!(parking.query(&name("u", 1)), None);
        assert_eq!(parking.query(&name("u", 2)), Some(7));
        tokio::time::advance(AGE_MAX / 2).await;
        assert_eq!(parking.expire(), ["younger"]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_sweep_at_a_time_lives_while_something_is_parked() {
        let parking = parking();
        assert!(!parking.begin_sweep(), "nothing is parked");
        park(&parking, name("u", 1), "older", 7, 10);
        let begun = Instant::now();
        assert!(parking.begin_sweep());
        tokio::time::advance(AGE_MAX / 2).await;
        park(&parking, name("u", 2), "younger", 7, 10);
        assert!(!parking.begin_sweep(), "it is swept already");
        assert_eq!(parking.sweep(), Some(begun + AGE_MAX));
        tokio::time::advance(AGE_MAX / 2).await;
        assert_eq!(parking.sweep(), Some(begun + AGE_MAX / 2 * 3));
        assert_eq!(parking.counts(), (1, 10));
        tokio::time::advance(AGE_MAX / 2).await;
        assert_eq!(parking.sweep(), None);
        park(&parking, name("u", 3), "newest", 7, 10);
        assert!(parking.begin_sweep());
    }

    #[tokio::test(start_paused = true)]
    async fn a_live_writer_is_asked_to_give_way_and_hands_over() {
        let parking = parking();
        let ticket = parking.open(name("u", 1));
        ticket.set_received_bytes(30);
        let Claim::Live(handover) = parking.claim(&name("u", 1), 30) else { panic!("the writer is live") };
        ticket.give_way().await;
        parking.park(ticket, "staged", 1);
        handover.gone().await;
        assert_eq!(claimed(&parking, &name("u", 1), 30), "staged overlap 0");
    }

    #[tokio::test(start_paused = true)]
    async fn the_books_balance_after_any_traffic() {
        let parking = parking();
        for round in 0..50u8 {
            park(&parking, name("u", round % 5), "staged", 7, usize::from(round % 7) * 10);
            if round % 3 == 0 {
                claimed(&parking, &name("u", round % 4), 7);
            }
            let names = parking.names.lock();
            let parked: Vec<_> = names
                .entries
                .values()
                .filter_map(|entry| match entry {
                    Entry::Parked(parked) => Some(parked.held_bytes),
                    Entry::Live { .. } => None,
                })
                .collect();
            assert_eq!(parked.len(), names.parked.len());
            assert_eq!(parked.iter().sum::<usize>(), names.parked_bytes);
            assert!(names.parked.len() <= 3 && names.parked_bytes <= 100);
        }
    }
}
