//! Playing a trace against a cache, and the account of it.

use super::trace::{Event, Object, Trace};

/// A cache under test. Sizes are known to it from the trace it was made for.
pub trait Cache {
    /// Time goes on.
    fn now(&mut self, at_ms: u64);
    /// Whether the blob is there; a touch if it is.
    fn probe(&mut self, blob: Object) -> bool;
    /// Whether the action's record and all outputs are there; a touch of all of them if they are.
    fn probe_action(&mut self, record: Object, outputs: &[Object]) -> bool {
        // Both sides are evaluated: an incomplete closure still touches what is there.
        let absent = outputs.iter().filter(|output| !self.probe(**output)).count();
        absent == 0 && self.probe(record)
    }
    /// Reads a blob that was just said to be there.
    fn read(&mut self, _blob: Object) {}
    /// Uploads a blob that was just said to be missing. False: refused.
    fn store(&mut self, blob: Object) -> bool;
    /// Stores an action's record.
    fn store_action(&mut self, record: Object, _outputs: &[Object]) -> bool {
        self.store(record)
    }
    /// Bytes of records uploaded and bytes of records written, so far.
    fn written(&self) -> (u64, u64);
}

/// What came of a replay. Counts start after the warm-up.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Objects asked for: actions, their outputs, probed blobs.
    pub requests: u64,
    /// Of them there.
    pub hits: u64,
    /// Their bytes.
    pub requested_bytes: u64,
    /// Of them there.
    pub hit_bytes: u64,
    /// Records' bytes that clients uploaded.
    pub uploaded_bytes: u64,
    /// Records' bytes that were written.
    pub written_bytes: u64,
    /// The largest write amplification over any tenth of the replay.
    pub amplification_max: f64,
    /// Uploads refused.
    pub refused: u64,
    /// Objects found missing sooner after they were last said to be there than the floor.
    pub floor_violations: u64,
    /// The same for the lease.
    pub lease_violations: u64,
}

impl Outcome {
    /// Share of requests.
    pub fn hit_ratio(&self) -> f64 {
        self.hits as f64 / self.requests.max(1) as f64
    }

    /// Share of bytes.
    pub fn byte_hit_ratio(&self) -> f64 {
        self.hit_bytes as f64 / self.requested_bytes.max(1) as f64
    }

    /// Bytes written for each byte uploaded.
    pub fn amplification(&self) -> f64 {
        self.written_bytes as f64 / self.uploaded_bytes.max(1) as f64
    }
}

/// The promise that is checked on the way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Promise {
    /// The floor, in milliseconds.
    pub floor_ms: u64,
    /// The target, in milliseconds.
    pub lease_ms: u64,
}

/// The first part of the trace fills the cache and is not counted.
const WARM_UP: (usize, usize) = (1, 4);
/// Write amplification is also looked at over pieces of the replay: a bound that holds only on average is not held.
const PIECES: usize = 10;

/// Plays the whole trace.
pub fn replay(trace: &Trace, promise: Promise, cache: &mut dyn Cache) -> Outcome {
    let mut player = Player {
        trace,
        promise,
        cache,
        told_ms: vec![0; trace.sizes_bytes.len()],
        outcome: Outcome::default(),
        now_ms: 0,
    };
    let warm = trace.events.len() * WARM_UP.0 / WARM_UP.1;
    let piece = (trace.events.len() - warm).div_ceil(PIECES).max(1);
    let (mut at_warm, mut at_piece) = ((0, 0), (0, 0));
    let mut amplification_max = 0.0_f64;
    for (position, (at_ms, event)) in trace.events.iter().enumerate() {
        if position >= warm && (position - warm).is_multiple_of(piece) {
            let written = player.cache.written();
            if position == warm {
                player.outcome = Outcome::default();
                at_warm = written;
            } else {
                amplification_max = amplification_max.max(ratio(at_piece, written));
            }
            at_piece = written;
        }
        player.now_ms = at_ms + 1;
        player.cache.now(*at_ms);
        match event {
            Event::Action(action) => player.action(*action),
            Event::Probe(batch) => player.batch(&trace.batches[*batch as usize]),
        }
    }
    let (uploaded, written) = player.cache.written();
    Outcome {
        uploaded_bytes: uploaded - at_warm.0,
        written_bytes: written - at_warm.1,
        amplification_max: amplification_max.max(ratio(at_piece, (uploaded, written))),
        ..player.outcome
    }
}

fn ratio(before: (u64, u64), after: (u64, u64)) -> f64 {
    (after.1 - before.1) as f64 / (after.0 - before.0).max(1) as f64
}

struct Player<'a> {
    trace: &'a Trace,
    promise: Promise,
    cache: &'a mut dyn Cache,
    /// When each object was last said to be there; 0: never.
    told_ms: Vec<u64>,
    outcome: Outcome,
    now_ms: u64,
}

impl Player<'_> {
    fn action(&mut self, number: u32) {
        let trace = self.trace;
        let action = &trace.actions[number as usize];
        if self.cache.probe_action(action.record, &action.outputs) {
            self.count(action.record, true);
            for output in &action.outputs {
                self.count(*output, true);
                self.cache.read(*output);
            }
            return;
        }
        for blob in &action.outputs {
            let present = self.cache.probe(*blob);
            self.count(*blob, present);
            if !present {
                self.upload(*blob);
            }
        }
        for blob in &action.uploads {
            if !self.cache.probe(*blob) {
                self.upload(*blob);
            }
        }
        self.outcome.requests += 1;
        self.outcome.requested_bytes += trace.record_bytes(action.record);
        self.outcome.refused += u64::from(!self.cache.store_action(action.record, &action.outputs));
    }

    fn batch(&mut self, blobs: &[Object]) {
        for blob in blobs {
            let present = self.cache.probe(*blob);
            self.count(*blob, present);
            if !present {
                self.upload(*blob);
            }
        }
    }

    fn upload(&mut self, blob: Object) {
        if self.cache.store(blob) {
            self.told_ms[blob as usize] = self.now_ms;
        } else {
            self.outcome.refused += 1;
            self.told_ms[blob as usize] = 0;
        }
    }

    fn count(&mut self, object: Object, present: bool) {
        let bytes = self.trace.record_bytes(object);
        self.outcome.requests += 1;
        self.outcome.requested_bytes += bytes;
        let told_ms = &mut self.told_ms[object as usize];
        if present {
            self.outcome.hits += 1;
            self.outcome.hit_bytes += bytes;
            *told_ms = self.now_ms;
        } else if *told_ms > 0 {
            let since_ms = self.now_ms - *told_ms;
            self.outcome.floor_violations += u64::from(since_ms < self.promise.floor_ms);
            self.outcome.lease_violations += u64::from(since_ms < self.promise.lease_ms);
        }
    }
}
