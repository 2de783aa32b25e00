//! [`Worker`]: one thread's connections and the loop that drives them.
//!
//! ```text
//!   fill every free slot with a request ──▶ write them all at once ──▶ wait ──▶ read ──▶ judge the answers ─┐
//!     ▲                                                                                                     │
//!     └─────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Never blocks but in the one wait for all connections, and in connecting. A connection that is lost is made anew as long as
//! the one before was of use.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Phase;
use crate::fault::Fault;
use crate::process::thread_time;
use crate::tally::Tally;
use crate::traffic::answer::{Answer, Expect};
use crate::traffic::content::scatter;
use crate::traffic::operation::Operation;
use crate::traffic::source::Draw;
use crate::wire::connection::{Connection, Protocol};
use crate::wire::socket::{Socket, WAIT_MAX};
use crate::wire::{End, Inbox, WireError};
use crate::{LoadError, Options, Target};

/// After this long without a byte from any connection, the requests under way have failed.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How long the last requests of a stage are waited for while none is answered. A server may say other things meanwhile, such as pings.
const LAST_ANSWER_WAIT_MAX: Duration = Duration::from_secs(300);

/// One thread's part of the load.
pub(crate) struct Worker<'a> {
    lines: Vec<Line<'a>>,
    /// Where there is more than one connection.
    poll: Option<rustix::fd::OwnedFd>,
    target: Target,
    protocol: Protocol,
    verify: bool,
    connections: usize,
}

/// A connection with what is under way on it.
struct Line<'a> {
    /// Of all connections of the run.
    number: usize,
    /// None once it could not be made again.
    connection: Option<Connection<'a>>,
    calls: Calls,
    /// Places in the phase's sources.
    draws: Vec<Draw>,
    random: u64,
    /// What `epoll` was told.
    waits_for_room: bool,
    /// An answer came since it was made.
    was_of_use: bool,
}

/// Requests under way, by slot.
#[derive(Default)]
struct Calls {
    slots: Vec<Slot>,
    free: Vec<usize>,
}

struct Slot {
    operation: Operation,
    /// Which of the phase's sources it is from.
    source: usize,
    expect: Expect,
    number: u64,
    begun: Instant,
    answer: Answer,
}

/// What the answers are handed to.
struct Judge<'a, 'j> {
    calls: &'j mut Calls,
    tally: &'j mut Tally,
    phase: &'j Phase<'a>,
    verify: bool,
    now: Instant,
    /// Why requests end that end with their connection.
    verdict: Option<Fault>,
}

impl Inbox for Judge<'_, '_> {
    #[inline]
    fn data(&mut self, slot: usize, bytes: &[u8]) {
        let Slot { expect, number, answer, source, .. } = &mut self.calls.slots[slot];
        let source = self.phase.sources[*source].1;
        let known = if self.verify { source.known(&self.phase.stock.content, *number) } else { None };
        answer.take(*expect, bytes, known.map(|(known, tail)| (known, tail(0))));
    }

    fn end(&mut self, slot: usize, end: End<'_>) {
        let Slot { operation, source, expect, number, begun, answer } = &self.calls.slots[slot];
        let source = self.phase.sources[*source].1;
        let known = if self.verify { source.known(&self.phase.stock.content, *number) } else { None };
        let blobs = known.as_ref().map(|(known, tail)| (*known, tail as &dyn Fn(u64) -> _));
        let outcome = answer.judge(*expect, end, blobs);
        let outcome = self.verdict.clone().map_or(outcome, Err);
        self.tally.count(*operation, self.now - *begun, outcome);
        self.calls.free.push(slot);
    }
}

impl<'a> Worker<'a> {
    /// Connects all lines of all threads.
    pub(crate) fn connect_all(options: &Options, protocol: Protocol) -> Result<Vec<Self>, LoadError> {
        raise_file_limit();
        let threads = options.threads.min(options.connections);
        let mut workers: Vec<Self> = (0..threads)
            .map(|_| Self {
                lines: Vec::new(),
                poll: None,
                target: options.target.clone(),
                protocol,
                verify: options.verify,
                connections: options.connections,
            })
            .collect();
        for number in 0..options.connections {
            let worker = &mut workers[number % threads];
            let mut line = Line {
                number,
                connection: None,
                calls: Calls::default(),
                draws: Vec::new(),
                random: scatter(options.seed ^ number as u64),
                waits_for_room: false,
                was_of_use: false,
            };
            let now = Instant::now();
            line.calls.slots.extend((0..options.concurrency).map(|_| Slot::idle(now)));
            line.calls.free.extend((0..options.concurrency).rev());
            worker
                .open(&mut line)
                .map_err(|source| LoadError::Connect { target: options.target.to_string(), source })?;
            worker.lines.push(line);
        }
        for worker in workers.iter_mut().filter(|worker| worker.lines.len() > 1) {
            let failed = |error: Errno| LoadError::Connect { target: options.target.to_string(), source: error.into() };
            let poll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
            for (at, line) in worker.lines.iter().enumerate() {
                if let Some(connection) = &line.connection {
                    let data = epoll::EventData::new_u64(at as u64);
                    epoll::add(&poll, connection, data, epoll::EventFlags::IN).map_err(failed)?;
                }
            }
            worker.poll = Some(poll);
        }
        Ok(workers)
    }

    fn open(&self, line: &mut Line<'a>) -> std::io::Result<()> {
        let socket = Socket::connect(&self.target.place)?;
        let slots = line.calls.slots.len();
        line.connection = Some(Connection::new(self.protocol, socket, &self.target.authority, slots));
        line.was_of_use = false;
        line.waits_for_room = false;
        Ok(())
    }

    /// One stage to its end: what was counted, and when the last answer came.
    pub(crate) fn run(&mut self, phase: &Phase<'a>) -> (Tally, Instant) {
        let cpu = thread_time();
        let mut tally = Tally::default();
        let mut now = Instant::now();
        let (mut last_answer, mut last_byte) = (now, now);
        for line in &mut self.lines {
            line.draws = phase
                .sources
                .iter()
                .map(|(_, source)| Draw::of_connection(line.number, self.connections, source))
                .collect();
        }
        let mut events: Vec<epoll::Event> = Vec::with_capacity(1024);
        let (mut is_over, mut over_since) = (false, None::<Instant>);
        // Lines that something happened to; at first all.
        let mut awake: Vec<usize> = (0..self.lines.len()).collect();
        loop {
            is_over |= phase.end.is_some_and(|end| now >= end);
            for &at in &awake {
                self.send(at, phase, now, &mut is_over, &mut tally);
            }
            if is_over || !self.lines.iter().any(|line| line.connection.is_some()) {
                // Counting is for few lines or for the end, never for each round of many.
                if self.lines.iter().all(|line| line.connection.as_ref().is_none_or(|it| it.under_way() == 0)) {
                    break;
                }
            }
            if self.wait(&mut events, &mut awake).is_err() {
                // The poll itself failed: nothing can be waited for.
                awake = (0..self.lines.len()).collect();
            }
            let (answered, bytes) = (tally.answered, tally.bytes);
            let mut received = 0;
            for &at in &awake {
                received += self.receive(at, phase, &mut now, &mut tally);
            }
            if awake.is_empty() {
                now = Instant::now();
            }
            if tally.answered > answered {
                last_answer = now;
                phase.requests.fetch_add(tally.answered - answered, Ordering::Relaxed);
                phase.bytes.fetch_add(tally.bytes - bytes, Ordering::Relaxed);
            }
            if received > 0 {
                last_byte = now;
            }
            let is_silent = received == 0 && now - last_byte > SILENCE_MAX;
            if is_over && over_since.is_none() {
                over_since = Some(now);
            }
            let is_late = over_since.is_some_and(|since| now - since.max(last_answer) > LAST_ANSWER_WAIT_MAX);
            if is_silent || is_late {
                tally.gave_up = Some(Fault::Silence.detail());
                for at in 0..self.lines.len() {
                    self.close(at, phase, now, Fault::Silence, &mut tally);
                }
            }
        }
        tally.cpu = thread_time().saturating_sub(cpu);
        (tally, last_answer)
    }

    /// Begins requests on a line and writes.
    fn send(&mut self, at: usize, phase: &Phase<'a>, now: Instant, is_over: &mut bool, tally: &mut Tally) {
        let line = &mut self.lines[at];
        let Some(connection) = &mut line.connection else { return };
        while !*is_over && connection.has_room() {
            if let Some(budget) = &phase.budget
                && budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
            {
                *is_over = true;
                break;
            }
            let which = match phase.sources.as_slice() {
                [_] => 0,
                sources => pick(sources.iter().map(|(weight, _)| *weight), &mut line.random),
            };
            let slot = line.calls.free.pop().expect("a connection has as many slots as its line");
            let body = connection.body(slot);
            let stock = phase.stock;
            let call = phase.sources[which].1.next(&mut line.draws[which], &stock.content, &stock.address, body);
            connection.start(slot, call.method);
            let slot = &mut line.calls.slots[slot];
            slot.answer.clear();
            (slot.operation, slot.expect, slot.number) = (call.operation, call.expect, call.number);
            (slot.source, slot.begun) = (which, now);
        }
        if let Err(error) = connection.flush() {
            return self.lost(at, phase, now, &error, tally);
        }
        if connection.is_retiring() && connection.under_way() == 0 {
            return self.lost(at, phase, now, &WireError::Closed, tally);
        }
        if let Some(poll) = &self.poll
            && connection.is_blocked() != line.waits_for_room
        {
            line.waits_for_room = connection.is_blocked();
            let room = if line.waits_for_room { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
            let data = epoll::EventData::new_u64(at as u64);
            // It fails for want of memory alone; the wait then lasts until the next answer.
            let _ = epoll::modify(poll, &*connection, data, epoll::EventFlags::IN | room);
        }
    }

    /// Waits until something happens; to which lines.
    fn wait(&mut self, events: &mut Vec<epoll::Event>, awake: &mut Vec<usize>) -> Result<(), Errno> {
        let Some(poll) = &self.poll else {
            // The only line stays awake. It waits by reading, unless it waits for room, too.
            if let Some(connection) = &self.lines[0].connection
                && connection.is_blocked()
                && let Err(WireError::Socket(error)) = connection.wait()
            {
                return Err(error);
            }
            return Ok(());
        };
        awake.clear();
        let time = Timespec { tv_sec: 0, tv_nsec: WAIT_MAX.as_nanos() as i64 };
        events.clear();
        match epoll::wait(poll, rustix::buffer::spare_capacity(events), Some(&time)) {
            Ok(_) | Err(Errno::INTR) => {
                awake.extend(events.iter().map(|event| event.data.u64() as usize));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Reads a line, and looks at the clock; how many bytes came.
    fn receive(&mut self, at: usize, phase: &Phase<'a>, clock: &mut Instant, tally: &mut Tally) -> usize {
        let waits = self.poll.is_none();
        let line = &mut self.lines[at];
        let Some(connection) = &mut line.connection else { return 0 };
        let received = connection.read(waits && !connection.is_blocked());
        let now = Instant::now();
        *clock = now;
        let answered = tally.answered;
        let verify = self.verify;
        let mut judge = Judge { calls: &mut line.calls, tally, phase, verify, now, verdict: None };
        let received = received.and_then(|received| connection.hand_out(&mut judge).map(|()| received));
        line.was_of_use |= tally.answered > answered;
        received.unwrap_or_else(|error| {
            self.lost(at, phase, now, &error, tally);
            0
        })
    }

    /// A line's connection is over; makes another one where that may help.
    fn lost(&mut self, at: usize, phase: &Phase<'a>, now: Instant, error: &WireError, tally: &mut Tally) {
        let may_help = self.lines[at].was_of_use && !matches!(error, WireError::Protocol(_));
        self.close(at, phase, now, Fault::Lost(error.to_string()), tally);
        if !may_help {
            tally.gave_up = Some(error.to_string());
            return;
        }
        let mut line = self.lines.swap_remove(at);
        if let Err(error) = self.open(&mut line) {
            tally.gave_up = Some(format!("cannot connect again: {error}"));
        }
        if let (Some(poll), Some(connection)) = (&self.poll, &line.connection)
            && epoll::add(poll, connection, epoll::EventData::new_u64(at as u64), epoll::EventFlags::IN).is_err()
        {
            line.connection = None;
        }
        self.lines.push(line);
        let last = self.lines.len() - 1;
        self.lines.swap(at, last);
    }

    fn close(&mut self, at: usize, phase: &Phase<'a>, now: Instant, why: Fault, tally: &mut Tally) {
        let line = &mut self.lines[at];
        let Some(mut connection) = line.connection.take() else { return };
        tally.connections_lost += 1;
        let verify = self.verify;
        let mut judge = Judge { calls: &mut line.calls, tally, phase, verify, now, verdict: Some(why) };
        connection.abandon(&mut judge);
    }
}

/// Each connection is a descriptor, and common limits for those are low. Where the limit cannot be raised, connecting says
/// what is missing.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

impl Slot {
    fn idle(now: Instant) -> Self {
        Self {
            operation: Operation::Read,
            source: 0,
            expect: Expect::Something,
            number: 0,
            begun: now,
            answer: Answer::default(),
        }
    }
}

/// One of the places, as often as their weights say.
fn pick(weights: impl Iterator<Item = u32> + Clone, random: &mut u64) -> usize {
    *random = scatter(*random);
    let total: u64 = weights.clone().map(u64::from).sum();
    let mut left = *random % total.max(1);
    for (at, weight) in weights.enumerate() {
        match left.checked_sub(u64::from(weight)) {
            Some(rest) => left = rest,
            None => return at,
        }
    }
    0
}
