//! The leases of one bot session.
//!
//! ```text
//!   offer ──▶ Offered ──bot: ACTIVE──▶ Active ──bot: COMPLETED──▶ gone (Finished)
//!                │                       │ bot leaves it out: gone (Dropped)
//!                │ cancel                │ cancel
//!                └──────▶ Cancelled ◀────┘   until the bot says so too, or leaves it out
//! ```
//! A bot that leaves out an offered lease has not heard of it: its update and the offer crossed.

use std::collections::BTreeMap;

use cask_proto::bots::{Lease, LeaseState};
use cask_proto::rpc;
use prost_types::Any;

/// Most leases that a session is told about: a bot that makes up more is not believed.
const LEASES_MAX: usize = 4096;

/// What a bot session holds, and what both sides know of it. At most as many as the bot's capacity, and those cancelled.
#[derive(Debug, Default)]
pub struct BotLeases {
    by_id: BTreeMap<String, Held>,
}

#[derive(Debug)]
enum Held {
    Offered { payload: Any },
    Active,
    Cancelled,
}

/// What an update of the bot said.
#[derive(Clone, Debug, PartialEq)]
pub enum Happened {
    /// It has begun.
    Started {
        /// Which.
        lease: String,
    },
    /// It is done with it, or could not do it.
    Finished {
        /// Which.
        lease: String,
        /// Of the lease: OK even where the command failed.
        status: rpc::Status,
        /// What it made of it.
        result: Option<Any>,
    },
    /// It does not know any more that it had it.
    Dropped {
        /// Which.
        lease: String,
    },
}

impl BotLeases {
    /// The scheduler gives the bot a lease.
    pub fn offer(&mut self, lease: String, payload: Any) {
        self.by_id.insert(lease, Held::Offered { payload });
    }

    /// A lease of the bot's earlier session that is its still.
    pub fn adopt(&mut self, lease: String) {
        self.by_id.insert(lease, Held::Active);
    }

    /// The scheduler takes a lease back. The bot is told, whether it has heard of it or not.
    pub fn cancel(&mut self, lease: &str) {
        if let Some(held) = self.by_id.get_mut(lease) {
            *held = Held::Cancelled;
        }
    }

    /// Takes what the bot says of all its leases. What it says of leases that are none of its is answered with CANCELLED.
    pub fn update(&mut self, said: Vec<Lease>) -> Vec<Happened> {
        let mut happened = Vec::new();
        let mut unheard: Vec<String> = self.by_id.keys().cloned().collect();
        for lease in said {
            unheard.retain(|id| *id != lease.id);
            let is_over = matches!(lease.state(), LeaseState::Completed | LeaseState::Cancelled);
            let has_room = self.by_id.len() < LEASES_MAX;
            match self.by_id.get_mut(&lease.id) {
                Some(Held::Cancelled) if is_over => {
                    self.by_id.remove(&lease.id);
                }
                Some(held @ (Held::Offered { .. } | Held::Active)) => match lease.state() {
                    LeaseState::Completed => {
                        self.by_id.remove(&lease.id);
                        let status = lease.status.unwrap_or_default();
                        happened.push(Happened::Finished { lease: lease.id, status, result: lease.result });
                    }
                    LeaseState::Active if matches!(held, Held::Offered { .. }) => {
                        *held = Held::Active;
                        happened.push(Happened::Started { lease: lease.id });
                    }
                    // Bots may not cancel; one that does will not run it.
                    LeaseState::Cancelled => {
                        self.by_id.remove(&lease.id);
                        happened.push(Happened::Dropped { lease: lease.id });
                    }
                    LeaseState::Active | LeaseState::Pending | LeaseState::Unspecified => {}
                },
                // Of another session or given to another bot meanwhile.
                None if !is_over && has_room => {
                    self.by_id.insert(lease.id, Held::Cancelled);
                }
                // Told already, or nothing to tell.
                Some(Held::Cancelled) | None => {}
            }
        }
        for id in unheard {
            match self.by_id.get(&id) {
                Some(Held::Active) => {
                    self.by_id.remove(&id);
                    happened.push(Happened::Dropped { lease: id });
                }
                Some(Held::Cancelled) => {
                    self.by_id.remove(&id);
                }
                Some(Held::Offered { .. }) | None => {}
            }
        }
        happened
    }

    /// All leases as the bot is to see them.
    pub fn answer(&self) -> Vec<Lease> {
        let lease = |(id, held): (&String, &Held)| {
            let (state, payload) = match held {
                Held::Offered { payload } => (LeaseState::Pending, Some(payload.clone())),
                Held::Active => (LeaseState::Active, None),
                Held::Cancelled => (LeaseState::Cancelled, None),
            };
            Lease { id: id.clone(), state: state.into(), payload, ..Lease::default() }
        };
        self.by_id.iter().map(lease).collect()
    }

    /// Whether the bot has something to hear: an offer, or a cancellation.
    pub fn has_news(&self) -> bool {
        self.by_id.values().any(|held| !matches!(held, Held::Active))
    }

    /// Leases that run or are offered.
    pub fn live(&self) -> impl Iterator<Item = &str> {
        self.by_id.iter().filter(|(_, held)| !matches!(held, Held::Cancelled)).map(|(id, _)| id.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(id: &str, state: LeaseState) -> Lease {
        Lease { id: id.to_owned(), state: state.into(), ..Lease::default() }
    }

    fn states(leases: &BotLeases) -> Vec<(String, LeaseState)> {
        leases.answer().into_iter().map(|lease| (lease.id.clone(), lease.state())).collect()
    }

    fn with_active(id: &str) -> BotLeases {
        let mut leases = BotLeases::default();
        leases.offer(id.to_owned(), Any::default());
        leases.update(vec![said(id, LeaseState::Active)]);
        leases
    }

    #[test]
    fn a_lease_goes_from_offered_to_finished() {
        let mut leases = BotLeases::default();
        leases.offer("a".to_owned(), Any { type_url: "x".to_owned(), value: Vec::new() });
        assert!(leases.has_news());
        assert_eq!(leases.answer()[0].payload.as_ref().expect("a payload").type_url, "x");
        // The bot's update was on its way when the offer was made.
        assert_eq!(leases.update(Vec::new()), []);
        assert_eq!(states(&leases), [("a".to_owned(), LeaseState::Pending)]);

        let started = leases.update(vec![said("a", LeaseState::Active)]);
        assert_eq!(started, [Happened::Started { lease: "a".to_owned() }]);
        assert!(!leases.has_news());
        assert_eq!(leases.update(vec![said("a", LeaseState::Active)]), []);
        assert_eq!(leases.live().collect::<Vec<_>>(), ["a"]);

        let result = Some(Any::default());
        let finished = leases.update(vec![Lease { result: result.clone(), ..said("a", LeaseState::Completed) }]);
        let status = rpc::Status::default();
        assert_eq!(finished, [Happened::Finished { lease: "a".to_owned(), status, result }]);
        assert_eq!(states(&leases), []);
        // Said again: nothing happens twice.
        assert_eq!(leases.update(vec![said("a", LeaseState::Completed)]), []);
        assert_eq!(states(&leases), []);
    }

    #[test]
    fn a_bot_that_forgets_a_lease_has_dropped_it() {
        let dropped = [Happened::Dropped { lease: "a".to_owned() }];
        assert_eq!(with_active("a").update(Vec::new()), dropped);
        assert_eq!(with_active("a").update(vec![said("a", LeaseState::Cancelled)]), dropped);
    }

    #[test]
    fn a_cancelled_lease_is_told_until_the_bot_heard() {
        for over in [vec![], vec![said("a", LeaseState::Completed)], vec![said("a", LeaseState::Cancelled)]] {
            let mut leases = with_active("a");
            leases.cancel("a");
            assert!(leases.has_news());
            assert_eq!(leases.update(vec![said("a", LeaseState::Active)]), []);
            assert_eq!(states(&leases), [("a".to_owned(), LeaseState::Cancelled)]);
            assert_eq!(leases.live().count(), 0);
            // What it made of it is nobody's any more.
            assert_eq!(leases.update(over), []);
            assert_eq!(states(&leases), []);
        }
    }

    #[test]
    fn a_lease_of_somebody_else_is_cancelled() {
        let mut leases = with_active("a");
        leases.update(vec![said("a", LeaseState::Active), said("b", LeaseState::Active)]);
        assert_eq!(states(&leases), [("a".to_owned(), LeaseState::Active), ("b".to_owned(), LeaseState::Cancelled)]);
        assert_eq!(leases.update(vec![said("a", LeaseState::Active), said("c", LeaseState::Completed)]), []);
        assert_eq!(states(&leases), [("a".to_owned(), LeaseState::Active)]);
    }
}
