//! Which message is in which lane: [`Work`].
//!
//! A lane is at a message, and a message at a block. All lanes go on together, as many blocks as the one has left that is done
//! first; a lane without message does what another does, and nobody looks at it. The last blocks of a message, which have its
//! length and padding, are made when it enters a lane.

use sha2::block_api::compress256;

use super::{BLOCK_BYTES, Block, INITIAL_STATE, State};

/// Bytes behind a message: one bit, and its length in bits.
const PADDING_BYTES_MIN: usize = 1 + size_of::<u64>();

/// States that take blocks together, `LANES` of them.
pub(super) trait LaneStates<const LANES: usize> {
    /// The state of one lane.
    fn get(&self, lane: usize) -> State;

    /// Puts a state into a lane.
    fn set(&mut self, lane: usize, state: State);

    /// Compresses the blocks of each lane into its state; as many in each lane.
    fn compress(&mut self, blocks: &[&[Block]; LANES]);
}

/// One message, by the sha2 crate.
#[derive(Default)]
pub(super) struct One(State);

impl LaneStates<1> for One {
    fn get(&self, _: usize) -> State {
        self.0
    }

    fn set(&mut self, _: usize, state: State) {
        self.0 = state;
    }

    fn compress(&mut self, [blocks]: &[&[Block]; 1]) {
        compress256(&mut self.0, blocks);
    }
}

/// A message that is not done.
struct Unfinished<'a> {
    message: &'a [u8],
    position: usize,
    blocks_done: usize,
    state: State,
}

/// Blocks of a message of `length_bytes` with what is put behind it.
fn block_count(length_bytes: usize) -> usize {
    (length_bytes + PADDING_BYTES_MIN).div_ceil(BLOCK_BYTES)
}

impl Unfinished<'_> {
    fn blocks_left(&self) -> usize {
        block_count(self.message.len()) - self.blocks_done
    }
}

/// A message in a lane.
struct Occupied<'a> {
    unfinished: Unfinished<'a>,
    /// The message's whole blocks.
    body: &'a [Block],
    /// The one or two blocks behind them.
    tail: [Block; 2],
}

impl<'a> Occupied<'a> {
    fn enter(unfinished: Unfinished<'a>) -> Self {
        let message = unfinished.message;
        let (body, rest) = message.as_chunks();
        let mut tail = [[0; BLOCK_BYTES]; 2];
        let bytes = tail.as_flattened_mut();
        bytes[..rest.len()].copy_from_slice(rest);
        bytes[rest.len()] = 0x80;
        let end = (block_count(message.len()) - body.len()) * BLOCK_BYTES;
        bytes[end - size_of::<u64>()..end].copy_from_slice(&(8 * message.len() as u64).to_be_bytes());
        Self { unfinished, body, tail }
    }

    /// The blocks to come, as far as they are one after another in memory; at least one.
    fn blocks(&self) -> &[Block] {
        let done = self.unfinished.blocks_done;
        match self.body.get(done..) {
            Some(blocks) if !blocks.is_empty() => blocks,
            _ => &self.tail[done - self.body.len()..block_count(self.unfinished.message.len()) - self.body.len()],
        }
    }
}

/// Messages to be hashed, and where their hashes go.
pub(super) struct Work<'a, 'hashes> {
    /// The longest last.
    waiting: Vec<Unfinished<'a>>,
    hashes: &'hashes mut [[u8; 32]],
}

impl<'a, 'hashes> Work<'a, 'hashes> {
    pub(super) fn new(messages: &[&'a [u8]], hashes: &'hashes mut [[u8; 32]]) -> Self {
        let unfinished = |(position, &message)| Unfinished { message, position, blocks_done: 0, state: INITIAL_STATE };
        Self { waiting: messages.iter().enumerate().map(unfinished).collect(), hashes }
    }

    /// Hashes with so many lanes until fewer than `from` messages are left, which may be at any of their blocks then.
    pub(super) fn run<const LANES: usize>(&mut self, mut states: impl LaneStates<LANES>, from: usize) {
        if self.waiting.len() < from {
            return;
        }
        self.waiting.sort_unstable_by_key(Unfinished::blocks_left);
        let mut lanes: [Option<Occupied<'a>>; LANES] = std::array::from_fn(|_| None);
        let mut occupied_count = 0;
        loop {
            for (lane, slot) in lanes.iter_mut().enumerate().filter(|(_, slot)| slot.is_none()) {
                let Some(unfinished) = self.waiting.pop() else { break };
                states.set(lane, unfinished.state);
                *slot = Some(Occupied::enter(unfinished));
                occupied_count += 1;
            }
            if occupied_count < from {
                break;
            }
            let blocks = lanes.each_ref().map(|slot| slot.as_ref().map(Occupied::blocks));
            let shortest = blocks.iter().flatten().min_by_key(|blocks| blocks.len());
            let &shortest = shortest.expect("a lane has a message, or there would be fewer than `from`");
            states.compress(&blocks.map(|blocks| &blocks.unwrap_or(shortest)[..shortest.len()]));
            let block_count = shortest.len();
            for (lane, slot) in lanes.iter_mut().enumerate() {
                let Some(Occupied { unfinished, .. }) = slot else { continue };
                unfinished.blocks_done += block_count;
                if unfinished.blocks_left() == 0 {
                    let (words, _) = self.hashes[unfinished.position].as_chunks_mut();
                    for (bytes, word) in words.iter_mut().zip(states.get(lane)) {
                        *bytes = word.to_be_bytes();
                    }
                    *slot = None;
                    occupied_count -= 1;
                }
            }
        }
        for (lane, Occupied { mut unfinished, .. }) in
            lanes.into_iter().enumerate().filter_map(|(lane, slot)| Some((lane, slot?)))
        {
            unfinished.state = states.get(lane);
            self.waiting.push(unfinished);
        }
    }
}
