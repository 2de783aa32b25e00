//! Fetches under way, so that those who ask for the same at the same time share one.
//!
//! A fetch is a task of its own: who began it may go, and the others still get what it brings; when all have gone it goes on, and what
//! it brings is there when one of them asks again. It ends by itself when the last moment that anybody gave it has passed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

/// What makes two fetches the same.
pub(super) type FlightKey = [u8; 32];

/// All fetches under way that bring a `T`.
pub(super) struct Flights<T> {
    by_key: Arc<Mutex<HashMap<FlightKey, Flight<T>>>>,
}

struct Flight<T> {
    /// Unix time.
    began_ms: u64,
    deadline: watch::Sender<Instant>,
    outcome: watch::Receiver<Option<T>>,
}

/// How a fetch that was asked for is waited for.
pub(super) struct Boarded<T> {
    outcome: watch::Receiver<Option<T>>,
    /// False for the one that began it.
    pub(super) is_shared: bool,
}

/// Why there is no outcome.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stranded {
    /// The one who waits gave it no longer.
    TimedOut,
    /// The task ended without one: it panicked, or the server is going down.
    Lost,
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    pub(super) fn new() -> Flights<T> {
        Flights { by_key: Arc::default() }
    }

    /// Joins the fetch of this key if one is under way that began at `not_before_ms` or later, else begins `fetch`, which is
    /// told when it has to end. Either way it gets until `deadline`.
    pub(super) fn board<F>(
        &self,
        key: FlightKey,
        now_ms: u64,
        not_before_ms: u64,
        deadline: Instant,
        fetch: impl FnOnce(watch::Receiver<Instant>) -> F,
    ) -> Boarded<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut by_key = self.by_key.lock();
        if let Entry::Occupied(flight) = by_key.entry(key)
            && flight.get().began_ms >= not_before_ms
        {
            flight.get().deadline.send_if_modified(|present| {
                let is_later = deadline > *present;
                *present = deadline.max(*present);
                is_later
            });
            return Boarded { outcome: flight.get().outcome.clone(), is_shared: true };
        }
        let (deadline, deadline_seen) = watch::channel(deadline);
        let (tell, outcome) = watch::channel(None);
        by_key.insert(key, Flight { began_ms: now_ms, deadline, outcome: outcome.clone() });
        drop(by_key);
        let landing = Landing { by_key: Arc::clone(&self.by_key), key, outcome: outcome.clone() };
        let fetch = fetch(deadline_seen);
        tokio::spawn(async move {
            let brought = fetch.await;
            // Off the list first: who comes now begins anew.
            drop(landing);
            let _ = tell.send(Some(brought));
        });
        Boarded { outcome, is_shared: false }
    }

    /// Whether the key is on the list, or has a place on a list of so many.
    pub(super) fn has_room_for(&self, key: &FlightKey, count_max: usize) -> bool {
        let by_key = self.by_key.lock();
        by_key.len() < count_max || by_key.contains_key(key)
    }

    pub(super) fn count(&self) -> usize {
        self.by_key.lock().len()
    }
}

impl<T: Clone> Boarded<T> {
    /// Waits for the outcome until `deadline`. Cancel-safe.
    pub(super) async fn outcome(mut self, deadline: Instant) -> Result<T, Stranded> {
        match tokio::time::timeout_at(deadline, self.outcome.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => Ok(outcome.clone().expect("waited for until there is one")),
            Ok(Err(_)) => Err(Stranded::Lost),
            Err(_) => Err(Stranded::TimedOut),
        }
    }
}

/// Ready when the last moment has passed, however often it is put off meanwhile.
pub(super) async fn passed(mut deadline: watch::Receiver<Instant>) {
    loop {
        let present = *deadline.borrow_and_update();
        tokio::select! {
            () = tokio::time::sleep_until(present) => return,
            changed = deadline.changed() => {
                if changed.is_err() {
                    // Nobody can put it off any more: a later flight has taken the place on the list.
                    return tokio::time::sleep_until(present).await;
                }
            }
        }
    }
}

/// Takes a flight off the list, also when its task panics; one that took its place stays.
struct Landing<T> {
    by_key: Arc<Mutex<HashMap<FlightKey, Flight<T>>>>,
    key: FlightKey,
    outcome: watch::Receiver<Option<T>>,
}

impl<T> Drop for Landing<T> {
    fn drop(&mut self) {
        let mut by_key = self.by_key.lock();
        if by_key.get(&self.key).is_some_and(|flight| flight.outcome.same_channel(&self.outcome)) {
            by_key.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    const KEY: FlightKey = [1; 32];

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test(start_paused = true)]
    async fn who_began_a_fetch_may_go_and_the_others_get_it() {
        let flights = Flights::<u32>::new();
        let (finish, finished) = oneshot::channel();
        let leader = flights.board(KEY, 10, 0, soon(), |_| async move { finished.await.expect("a result") });
        let follower = flights.board(KEY, 11, 10, soon(), |_| async { unreachable!("one is under way") });
        let other = flights.board([2; 32], 11, 0, soon(), |_| async { 2 });
        assert!(!leader.is_shared && follower.is_shared && !other.is_shared);
        drop(leader);
        finish.send(7).expect("the fetch goes on");
        assert_eq!((follower.outcome(soon()).await, other.outcome(soon()).await), (Ok(7), Ok(2)));
        assert_eq!(flights.count(), 0);
        assert!(!flights.board(KEY, 12, 0, soon(), |_| async { 8 }).is_shared, "what has ended is not joined");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_began_too_early_is_not_joined_and_its_end_does_not_hide_the_later_one() {
        let flights = Flights::<u32>::new();
        let (finish, finished) = oneshot::channel();
        let early = flights.board(KEY, 10, 0, soon(), |_| async move { finished.await.expect("a result") });
        let late = flights.board(KEY, 20, 20, soon(), |_| std::future::pending());
        assert!(!late.is_shared);
        finish.send(1).expect("the early one goes on");
        assert_eq!(early.outcome(soon()).await, Ok(1));
        assert!(flights.board(KEY, 21, 20, soon(), |_| async { 3 }).is_shared);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fetch_ends_when_the_last_who_waits_has_given_up() {
        let flights = Flights::<&str>::new();
        let (short, long) = (Instant::now() + Duration::from_secs(1), Instant::now() + Duration::from_secs(5));
        let fetch = |deadline| async {
            passed(deadline).await;
            "ended"
        };
        let hasty = flights.board(KEY, 1, 0, short, fetch);
        let patient = flights.board(KEY, 1, 0, long, |_| async { "not begun" });
        assert_eq!(hasty.outcome(short).await, Err(Stranded::TimedOut));
        assert_eq!(flights.count(), 1);
        assert_eq!(patient.outcome(long + Duration::from_secs(1)).await, Ok("ended"));
        assert_eq!(Instant::now(), long);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fetch_that_panics_strands_nobody_for_ever() {
        let flights = Flights::<u32>::new();
        let boarded = flights.board(KEY, 1, 0, soon(), |_| async { panic!("on purpose") });
        assert_eq!(boarded.outcome(soon()).await, Err(Stranded::Lost));
        assert_eq!(flights.count(), 0);
    }
}
