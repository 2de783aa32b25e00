//! How much of its answers a connection takes in hand between two sends.
//!
//! HTTP/2 below takes up to a megabyte of every stream whose client grants the window, whether the socket takes anything or
//! not, and what it has taken is out of reach: paid back to the budgets as sent, and still memory. So a stream asks here
//! before it hands a piece over:
//!
//! ```text
//! open --pieces of ROOM_BYTES--> exhausted --the connection has sent all it had--> open
//!                                          --the socket is full--> exhausted until it takes more
//! ```
//! A connection whose client does not read then holds `ROOM_BYTES`, and what its streams' own windows hold back: a piece
//! each. Streams that wait take turns. Used by the tasks of one connection, on one thread, so the lock is never waited for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// What streams may hand over between two sends. Several times what goes out in one system call.
const ROOM_BYTES: usize = 1 << 20;
/// How many streams are woken when there is room. Each takes a piece of some 64 KiB, if it takes one at all.
const WOKEN_MAX: usize = 32;

/// What the streams of one connection have in common. Clones are the same one.
#[derive(Clone, Default)]
pub(super) struct Outbox(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    room_bytes: usize,
    waiting: VecDeque<(u64, Waker)>,
    next_number: u64,
    /// The connection's task, to be woken when room is wanted; `None` while it will run by itself.
    connection: Option<Waker>,
}

impl Outbox {
    /// All that was handed over and could be sent is sent.
    pub(super) fn open(&self, cx: &Context<'_>) {
        let mut state = self.0.lock();
        state.room_bytes = ROOM_BYTES;
        if !state.connection.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.connection = Some(cx.waker().clone());
        }
        for _ in 0..WOKEN_MAX {
            let Some((_, waker)) = state.waiting.pop_front() else { break };
            waker.wake();
        }
    }

    /// The socket is full.
    pub(super) fn close(&self) {
        let mut state = self.0.lock();
        state.room_bytes = 0;
        state.connection = None;
    }
}

/// One stream's place among those of its connection.
pub(super) struct Turn {
    outbox: Outbox,
    /// While it waits, or was woken and has not come yet.
    number: Option<u64>,
}

impl Turn {
    pub(super) fn new(outbox: Outbox) -> Self {
        Self { outbox, number: None }
    }

    /// Ready when a piece may be handed over.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.outbox.0.lock();
        if state.room_bytes > 0 {
            if let Some(number) = self.number.take() {
                state.waiting.retain(|(waiting, _)| *waiting != number);
                // It may have nothing to hand over just now: where room ends is found out by who needs it.
                if let Some((_, waker)) = state.waiting.pop_front() {
                    waker.wake();
                }
            }
            return Poll::Ready(());
        }
        if let Some(connection) = state.connection.take() {
            connection.wake();
        }
        let place = self.number.and_then(|number| state.waiting.iter_mut().find(|(waiting, _)| *waiting == number));
        if let Some((_, waker)) = place {
            waker.clone_from(cx.waker());
        } else {
            let number = state.next_number;
            state.next_number += 1;
            state.waiting.push_back((number, cx.waker().clone()));
            self.number = Some(number);
        }
        Poll::Pending
    }

    /// So much was handed over.
    pub(super) fn took(&self, bytes: usize) {
        let mut state = self.outbox.0.lock();
        state.room_bytes = state.room_bytes.saturating_sub(bytes);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut state = self.outbox.0.lock();
        let waiting_before = state.waiting.len();
        state.waiting.retain(|(waiting, _)| *waiting != number);
        // It was woken in vain: the next one comes in its place.
        if state.waiting.len() == waiting_before
            && let Some((_, waker)) = state.waiting.pop_front()
        {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    /// A task: its waker, and how often it was woken.
    fn task() -> (Waker, Arc<Woken>) {
        let woken = Arc::new(Woken::default());
        (Waker::from(Arc::clone(&woken)), woken)
    }

    fn has_room(turn: &mut Turn, waker: &Waker) -> bool {
        turn.poll_room(&mut Context::from_waker(waker)).is_ready()
    }

    #[test]
    fn room_is_given_once_between_two_sends() {
        let outbox = Outbox::default();
        let (connection, _) = task();
        let (waker, woken) = task();
        let mut turn = Turn::new(outbox.clone());
        outbox.open(&Context::from_waker(&connection));
        assert!(has_room(&mut turn, &waker));
        turn.took(ROOM_BYTES - 1);
        assert!(has_room(&mut turn, &waker));
        turn.took(64 << 10);
        assert!(!has_room(&mut turn, &waker));
        outbox.open(&Context::from_waker(&connection));
        assert_eq!(woken.0.load(Relaxed), 1);
        assert!(has_room(&mut turn, &waker));
        outbox.close();
        assert!(!has_room(&mut turn, &waker));
    }

    /// Pieces that a stream's own window holds back make no work for the connection, so it would never send.
    #[test]
    fn who_finds_no_room_wakes_the_connection_unless_the_socket_is_full() {
        let outbox = Outbox::default();
        let (connection, connection_woken) = task();
        let (waker, _) = task();
        let mut turn = Turn::new(outbox.clone());
        outbox.open(&Context::from_waker(&connection));
        turn.took(ROOM_BYTES);
        assert!(!has_room(&mut turn, &waker));
        assert_eq!(connection_woken.0.load(Relaxed), 1);
        outbox.close();
        assert!(!has_room(&mut turn, &waker));
        assert_eq!(connection_woken.0.load(Relaxed), 1);
    }

    #[test]
    fn who_is_woken_and_gone_makes_room_for_the_next() {
        let outbox = Outbox::default();
        let (connection, _) = task();
        let mut waiting: Vec<_> = (0..WOKEN_MAX + 2)
            .map(|_| {
                let ((waker, woken), mut turn) = (task(), Turn::new(outbox.clone()));
                assert!(!has_room(&mut turn, &waker));
                (turn, woken)
            })
            .collect();
        let woken =
            |waiting: &[(Turn, Arc<Woken>)]| waiting.iter().map(|(_, woken)| woken.0.load(Relaxed)).sum::<usize>();
        outbox.open(&Context::from_waker(&connection));
        assert_eq!(woken(&waiting), WOKEN_MAX);
        // One that still waits goes: nobody is woken for it. One that was woken goes: the last one is.
        drop(waiting.remove(WOKEN_MAX));
        assert_eq!(woken(&waiting), WOKEN_MAX);
        drop(waiting.remove(0));
        assert_eq!(waiting[WOKEN_MAX - 1].1.0.load(Relaxed), 1);
    }

    /// Cold reads and followers of logs wait in line like the others and have nothing to hand over when they are woken. Hot reads behind
    /// them slept until something else happened to their connection.
    #[test]
    fn who_is_woken_and_has_nothing_lets_the_next_one_come() {
        let outbox = Outbox::default();
        let (connection, _) = task();
        let mut waiting: Vec<_> = (0..WOKEN_MAX + 2)
            .map(|_| {
                let ((waker, woken), mut turn) = (task(), Turn::new(outbox.clone()));
                assert!(!has_room(&mut turn, &waker));
                (turn, waker, woken)
            })
            .collect();
        outbox.open(&Context::from_waker(&connection));
        let (turn, waker, _) = &mut waiting[0];
        assert!(has_room(turn, waker));
        assert_eq!(waiting[WOKEN_MAX].2.0.load(Relaxed), 1);
        let (turn, waker, _) = &mut waiting[1];
        assert!(has_room(turn, waker));
        turn.took(ROOM_BYTES);
        assert_eq!(waiting[WOKEN_MAX + 1].2.0.load(Relaxed), 1);
    }
}
