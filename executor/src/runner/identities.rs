//! The users that runs get, one each at a time, when the runner is root.
//!
//! A user is claimed on the machine before its first use, for as long as the runner lives: "kill all processes of this user" must
//! not reach another runner's. The claim is a socket in the abstract namespace, which goes with its process, however that ends.

use std::collections::HashMap;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use parking_lot::Mutex;

use super::options::UserIds;

/// All users of the range are taken.
#[derive(Debug, thiserror::Error)]
#[error("no user between {first} and {last} is free for another run")]
pub(super) struct NoneFree {
    first: u32,
    last: u32,
}

/// Whether this process can become users of the range: it is root, and not one of a user namespace without them.
pub fn are_available(range: UserIds) -> bool {
    let covers = |map: &str| {
        let lines = map.lines().filter_map(|line| {
            let mut fields = line.split_ascii_whitespace().map(str::parse::<u64>);
            Some((fields.next()?.ok()?, fields.nth(1)?.ok()?))
        });
        lines.into_iter().any(|(first, count)| first <= u64::from(range.first) && u64::from(range.last) < first + count)
    };
    rustix::process::geteuid().is_root()
        && ["/proc/self/uid_map", "/proc/self/gid_map"]
            .iter()
            .all(|map| std::fs::read_to_string(map).is_ok_and(|map| covers(&map)))
}

pub(super) struct Identities {
    range: UserIds,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Claimed, and not in use.
    free: Vec<u32>,
    claims: HashMap<u32, UnixListener>,
    /// Those before it were tried.
    next: u32,
}

/// A user in use by one run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) id: u32,
    /// Nobody has used it in this runner's life; a predecessor may have left processes.
    pub(super) is_fresh: bool,
}

impl Identities {
    pub(super) fn new(range: UserIds) -> Self {
        Self { range, state: Mutex::new(State { next: range.first, ..State::default() }) }
    }

    pub(super) fn take(&self) -> Result<Identity, NoneFree> {
        let mut state = self.state.lock();
        if let Some(id) = state.free.pop() {
            return Ok(Identity { id, is_fresh: false });
        }
        while state.next <= self.range.last {
            let id = state.next;
            state.next += 1;
            let claim = SocketAddr::from_abstract_name(format!("cask-runner-user-{id}"))
                .and_then(|address| UnixListener::bind_addr(&address));
            if let Ok(claim) = claim {
                state.claims.insert(id, claim);
                return Ok(Identity { id, is_fresh: true });
            }
        }
        Err(NoneFree { first: self.range.first, last: self.range.last })
    }

    /// For a user whose processes are gone. One whose are not is never given back.
    pub(super) fn give_back(&self, identity: &Identity) {
        self.state.lock().free.push(identity.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_serves_one_run_at_a_time_and_one_runner() {
        let range = UserIds { first: 4_000_000_000, last: 4_000_000_002 };
        let (one, other) = (Identities::new(range), Identities::new(range));
        let first = one.take().expect("three are free");
        let second = other.take().expect("two are free");
        let third = one.take().expect("one is free");
        assert_eq!([first.id, second.id, third.id], [4_000_000_000, 4_000_000_001, 4_000_000_002]);
        assert!(one.take().is_err() && other.take().is_err());
        one.give_back(&first);
        assert!(other.take().is_err(), "it stays the runner's that claimed it");
        assert_eq!(one.take().expect("the first is free again"), Identity { id: first.id, is_fresh: false });
    }
}
