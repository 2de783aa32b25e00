//! [`run`]: the stages of a run. Connect, store what will be asked for, warm up, measure.
//!
//! Each stage is the same loop in each [`worker`]'s thread with other requests and another end; connections live through
//! all of them.

mod worker;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use cask_proto::digest::is_inferred_by_length;

use crate::tally::Tally;
use crate::traffic::content::Content;
use crate::traffic::message::Address;
use crate::traffic::source::Source;
use crate::traffic::stock::Stock;
use crate::wire::connection::Protocol;
use crate::{Limit, LoadError, Options, Report, Workload, process};
use worker::Worker;

/// How often progress is told.
const PROGRESS_PERIOD: Duration = Duration::from_millis(250);

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Storing what will be asked for.
    Preparing,
    /// Making the same requests as will be measured.
    WarmingUp,
    /// Measuring.
    Measuring,
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// What it is doing.
    pub stage: Stage,
    /// For how long it has.
    pub elapsed: Duration,
    /// Requests answered since, and how many there will be, where that is known.
    pub requests: u64,
    /// How many there will be, where that is known.
    pub requests_total: Option<u64>,
    /// Bytes of blobs since.
    pub bytes: u64,
}

/// What the threads of one stage share.
pub(crate) struct Phase<'a> {
    pub(crate) stock: &'a Stock,
    /// What is asked for, and how often each source is drawn.
    pub(crate) sources: Vec<(u32, &'a Source)>,
    /// Requests that may still begin, where they are counted.
    pub(crate) budget: Option<AtomicU64>,
    /// When no request begins any more.
    pub(crate) end: Option<Instant>,
    pub(crate) requests: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// Runs `workload` and reports. `tell` is called now and then, from the calling thread.
pub fn run(workload: &Workload, options: &Options, mut tell: impl FnMut(Progress)) -> Result<Report, LoadError> {
    check(workload, options)?;
    if let Some(pid) = options.server_pid {
        process::usage(pid).ok_or(LoadError::NoProcess(pid))?;
    }
    let content = Content::new(options.digest_function, options.seed);
    let address = Address {
        instance: options.instance.as_str().to_owned(),
        function: options.digest_function,
        host: options.target.authority.clone(),
    };
    let stock = Stock::new(workload, content, address)?;
    let protocol =
        if workload.is_http1() { Protocol::Http1 } else { Protocol::Http2 { window_bytes: options.window_bytes } };
    let mut workers = Worker::connect_all(options, protocol)?;

    for (source, requests) in &stock.preparation {
        let limit = Limit::Requests(*requests);
        let (tally, _) = stage(&mut workers, &stock, vec![(1, source)], limit, Stage::Preparing, &mut tell);
        if let Some(reason) = failure(&tally) {
            return Err(LoadError::Preparation { workload: workload.name(), reason });
        }
    }
    let sources = || stock.sources.iter().map(|(weight, source)| (*weight, source)).collect();
    let mut warm_up = Tally::default();
    if !options.warm_up.is_zero() {
        let limit = Limit::Duration(options.warm_up);
        warm_up = stage(&mut workers, &stock, sources(), limit, Stage::WarmingUp, &mut tell).0;
    }
    let usage = || options.server_pid.and_then(process::usage);
    let before = usage();
    let (mut tally, elapsed) = stage(&mut workers, &stock, sources(), options.limit, Stage::Measuring, &mut tell);
    let server = before.zip(usage());
    // A connection that was given up before was not there to be measured.
    tally.connections_lost += warm_up.connections_lost;
    tally.gave_up = warm_up.gave_up.or(tally.gave_up);
    if tally.answered == 0 {
        return Err(LoadError::Unanswered(failure(&tally).unwrap_or_else(|| "the time was too short".to_owned())));
    }
    Ok(Report::new(workload, options, &tally, elapsed, server))
}

fn check(workload: &Workload, options: &Options) -> Result<(), LoadError> {
    let Options { connections, concurrency, threads, window_bytes, .. } = *options;
    match () {
        () if connections == 0 || concurrency == 0 || threads == 0 => {
            Err(LoadError::Options("there must be a connection, a request in flight and a thread at least"))
        }
        () if connections > 100_000 || concurrency > 10_000 || threads > 1024 => {
            Err(LoadError::Options("at most 100,000 connections, 10,000 requests in flight on each, 1,024 threads"))
        }
        () if workload.is_http1() && concurrency > 1 => Err(LoadError::Options(
            "HTTP/1.1 has one request in flight on a connection; ask for more connections instead",
        )),
        () if workload.is_http1() && !is_inferred_by_length(options.digest_function) => Err(LoadError::Options(
            "over HTTP the digest function is known by the hash's length alone, which this one shares with another",
        )),
        () if !(1..1 << 31).contains(&window_bytes) => Err(LoadError::Options("a window has 1 to 2,147,483,647 bytes")),
        () => Ok(()),
    }
}

/// What went wrong, in one sentence, if anything did.
fn failure(tally: &Tally) -> Option<String> {
    match tally.failed.iter().max_by_key(|(_, failed)| failed.count) {
        Some((code, failed)) if failed.detail.is_empty() => Some(code.clone()),
        Some((code, failed)) => Some(format!("{code}: {}", failed.detail)),
        None => tally.gave_up.clone(),
    }
}

/// One stage, in all threads: what was counted, and how long it took.
fn stage<'a>(
    workers: &mut [Worker<'a>],
    stock: &'a Stock,
    sources: Vec<(u32, &'a Source)>,
    limit: Limit,
    stage: Stage,
    tell: &mut impl FnMut(Progress),
) -> (Tally, Duration) {
    let begin = Instant::now();
    let (budget, end, requests_total) = match limit {
        Limit::Requests(count) => (Some(AtomicU64::new(count)), None, Some(count)),
        Limit::Duration(duration) => (None, Some(begin + duration), None),
    };
    let (requests, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let phase = Phase { stock, sources, budget, end, requests, bytes };
    let mut tally = Tally::default();
    let mut last_answer = begin;
    thread::scope(|scope| {
        let (done, all_done) = channel();
        for worker in workers {
            let (phase, done) = (&phase, done.clone());
            scope.spawn(move || {
                // The receiver waits for all of us.
                let _ = done.send(worker.run(phase));
            });
        }
        drop(done);
        loop {
            match all_done.recv_timeout(PROGRESS_PERIOD) {
                Ok((counted, at)) => {
                    tally.merge(counted);
                    last_answer = last_answer.max(at);
                }
                Err(RecvTimeoutError::Timeout) => tell(Progress {
                    stage,
                    elapsed: begin.elapsed(),
                    requests: phase.requests.load(Ordering::Relaxed),
                    requests_total,
                    bytes: phase.bytes.load(Ordering::Relaxed),
                }),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
    });
    (tally, last_answer - begin)
}
