//! What builds ask of a cache, in order and with times.

/// A blob or an action's record; an index into [`Trace::sizes_bytes`].
pub type Object = u32;

/// Something a build asks for.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// The action's result and, where it is there, all its outputs; else the action is run and its outputs uploaded.
    Action(u32),
    /// `FindMissing` over [`Trace::batches`] of this number; what is missing is uploaded.
    Probe(u32),
}

/// An action and what it makes.
#[derive(Clone, Debug)]
pub struct Action {
    /// Its record.
    pub record: Object,
    /// Its closure.
    pub outputs: Box<[Object]>,
    /// What is uploaded with the outputs when it had to be run: the messages that describe it, inputs.
    pub uploads: Box<[Object]>,
}

/// Demands of builds over time.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// Bytes of payload of each object.
    pub sizes_bytes: Vec<u32>,
    /// Every action that is ever asked for.
    pub actions: Vec<Action>,
    /// Lists of blobs that are probed together.
    pub batches: Vec<Box<[Object]>>,
    /// Milliseconds since the start and what is asked for then, in order.
    pub events: Vec<(u64, Event)>,
}

/// A record's bytes on disk: header, payload, padding.
pub fn record_bytes(payload_bytes: u32) -> u64 {
    (64 + u64::from(payload_bytes)).next_multiple_of(64)
}

impl Trace {
    /// Bytes of an object's record.
    pub fn record_bytes(&self, object: Object) -> u64 {
        record_bytes(self.sizes_bytes[object as usize])
    }

    /// Bytes of all objects that are asked for.
    pub fn footprint_bytes(&self) -> u64 {
        let mut asked = vec![false; self.sizes_bytes.len()];
        for (_, event) in &self.events {
            match event {
                Event::Action(action) => {
                    let action = &self.actions[*action as usize];
                    asked[action.record as usize] = true;
                    action.outputs.iter().for_each(|output| asked[*output as usize] = true);
                }
                Event::Probe(batch) => {
                    self.batches[*batch as usize].iter().for_each(|blob| asked[*blob as usize] = true);
                }
            }
        }
        (0..).zip(&asked).filter(|(_, asked)| **asked).map(|(object, _)| self.record_bytes(object)).sum()
    }

    /// The last event's time.
    pub fn duration_ms(&self) -> u64 {
        self.events.last().map_or(0, |(at_ms, _)| *at_ms)
    }
}
