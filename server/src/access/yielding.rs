//! A budget whose holders can be asked to give way.
//!
//! What clients hold while their bytes trickle in (a message being received, a part of an upload being filled) must not keep
//! others out for ever. Who waits for such a budget asks, once a second, the holder that has been at its present piece for the
//! longest, if that is longer than the budget's patience. Holders below it are never asked, and nobody is while there is room.
//! A holder watches [`Holding::asked`] where it waits for its client, and ends with an error that clients retry.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::Instant;

use super::limits::{Budget, OverBudget, Permit};

/// How often one waiter asks.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// See the module's head.
#[derive(Debug)]
pub(crate) struct YieldingBudget {
    budget: Budget,
    patience: Duration,
    holders: Arc<Holders>,
}

#[derive(Debug)]
struct Holders {
    created: Instant,
    next_number: AtomicU64,
    by_number: Mutex<HashMap<u64, Arc<Holder>>>,
}

#[derive(Debug)]
struct Holder {
    /// When its present piece began, in milliseconds since `Holders::created`.
    since_ms: AtomicU64,
    is_asked: AtomicBool,
    give_way: Arc<Notify>,
}

/// A place in the budget, held while a client sends. Dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct Holding {
    permit: Option<Permit>,
    number: u64,
    holder: Arc<Holder>,
    holders: Arc<Holders>,
}

impl YieldingBudget {
    /// A holder may take `patience` for a piece before it can be asked to give way.
    pub(crate) fn new(budget: Budget, patience: Duration) -> YieldingBudget {
        let holders =
            Holders { created: Instant::now(), next_number: AtomicU64::new(0), by_number: Mutex::new(HashMap::new()) };
        YieldingBudget { budget, patience, holders: Arc::new(holders) }
    }

    /// Takes `count` now or not at all.
    pub(crate) fn try_take(&self, count: usize) -> Option<Holding> {
        self.budget.try_take(count).map(|permit| self.enlist(permit))
    }

    /// Takes `count`, waiting for it and asking the slowest to give way. Cancel-safe.
    pub(crate) async fn take(&self, count: usize) -> Result<Holding, OverBudget> {
        if let Some(holding) = self.try_take(count) {
            return Ok(holding);
        }
        // Kept over the rounds, so that the place in the queue is.
        let mut permit = std::pin::pin!(self.budget.take(count));
        loop {
            self.ask_slowest();
            match tokio::time::timeout(ASK_INTERVAL, permit.as_mut()).await {
                Ok(taken) => return taken.map(|permit| self.enlist(permit)),
                Err(_elapsed) => {}
            }
        }
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    fn enlist(&self, permit: Permit) -> Holding {
        let number = self.holders.next_number.fetch_add(1, Relaxed);
        let holder = Arc::new(Holder {
            since_ms: AtomicU64::new(self.holders.now_ms()),
            is_asked: AtomicBool::new(false),
            give_way: Arc::default(),
        });
        self.holders.by_number.lock().insert(number, Arc::clone(&holder));
        Holding { permit: Some(permit), number, holder, holders: Arc::clone(&self.holders) }
    }

    /// Walks over all holders; only who finds the budget full comes here.
    fn ask_slowest(&self) {
        let patience_ms = self.patience.as_millis() as u64;
        let Some(since_ms_max) = self.holders.now_ms().checked_sub(patience_ms) else { return };
        let by_number = self.holders.by_number.lock();
        let slowest = by_number
            .values()
            .filter(|holder| !holder.is_asked.load(Relaxed) && holder.since_ms.load(Relaxed) <= since_ms_max)
            .min_by_key(|holder| holder.since_ms.load(Relaxed));
        if let Some(holder) = slowest {
            holder.is_asked.store(true, Relaxed);
            holder.give_way.notify_one();
        }
    }
}

impl Holders {
    fn now_ms(&self) -> u64 {
        self.created.elapsed().as_millis() as u64
    }
}

impl Holding {
    /// The client begins its next piece: the patience runs anew.
    pub(crate) fn begin_piece(&self) {
        self.holder.since_ms.store(self.holders.now_ms(), Relaxed);
    }

    /// Ready when somebody needs the place more. Asked while nobody listened counts.
    pub(crate) fn asked(&self) -> OwnedNotified {
        Arc::clone(&self.holder.give_way).notified_owned()
    }

    /// The client has done its part: what is held now waits for nobody outside, and is not asked any more.
    pub(crate) fn into_permit(mut self) -> Permit {
        self.permit.take().expect("the permit is taken once, here")
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.holders.by_number.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);
    const WAIT_MAX: Duration = Duration::from_secs(10);

    fn budget() -> YieldingBudget {
        YieldingBudget::new(Budget::new("things", 10, WAIT_MAX), PATIENCE)
    }

    /// Holds until asked, then gives way; how long that was.
    async fn hold(holding: Holding) -> Duration {
        let begun = Instant::now();
        holding.asked().await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_that_crawls_gives_way_and_no_other() {
        let budget = budget();
        let oldest = budget.take(4).await.unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        let younger = budget.take(6).await.unwrap();
        let (taken, held) = tokio::join!(budget.take(4), hold(oldest));
        assert!(held + Duration::from_secs(1) >= PATIENCE && held < PATIENCE + ASK_INTERVAL, "{held:?}");
        taken.unwrap();
        assert!(tokio::time::timeout(Duration::ZERO, younger.asked()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn who_keeps_up_is_never_asked_and_the_waiter_is_refused() {
        let budget = budget();
        let holding = budget.take(10).await.unwrap();
        let keeps_up = async {
            let mut asked = std::pin::pin!(holding.asked());
            loop {
                tokio::select! {
                    () = asked.as_mut() => panic!("asked although it keeps up"),
                    () = tokio::time::sleep(PATIENCE / 2) => holding.begin_piece(),
                }
            }
        };
        tokio::select! {
            taken = budget.take(1) => assert_eq!(taken.unwrap_err(), OverBudget { what: "things", limit: 10 }),
            () = keeps_up => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_asked_while_there_is_room_and_none_is_left_on_the_list() {
        let budget = budget();
        let holding = budget.take(3).await.unwrap();
        tokio::time::advance(PATIENCE * 10).await;
        let second = budget.take(7).await.unwrap();
        assert!(tokio::time::timeout(Duration::ZERO, holding.asked()).await.is_err());
        let permit = second.into_permit();
        assert_eq!(budget.holders.by_number.lock().len(), 1);
        drop((permit, holding));
        assert!(budget.holders.by_number.lock().is_empty());
        assert!(budget.try_take(10).is_some());
    }
}
