//! All lanes against the sha2 crate.

use proptest::prelude::*;
use sha2::Digest as _;

use super::schedule::LaneStates;
use super::*;

const NO_LANES: Lanes = Lanes { sixteen: false, two: false };

/// What a processor may have.
const PROCESSORS: [Lanes; 4] = [
    Lanes { sixteen: true, two: true },
    Lanes { sixteen: true, two: false },
    Lanes { sixteen: false, two: true },
    NO_LANES,
];

/// Lanes without instructions of their own, so that the order of work is tested on any machine, and under miri.
#[derive(Default)]
struct Four([One; 4]);

impl LaneStates<4> for Four {
    fn get(&self, lane: usize) -> State {
        self.0[lane].get(0)
    }

    fn set(&mut self, lane: usize, state: State) {
        self.0[lane].set(0, state);
    }

    fn compress(&mut self, blocks: &[&[Block]; 4]) {
        let count = blocks[0].len();
        assert!(count > 0 && blocks.iter().all(|blocks| blocks.len() == count), "as many in each lane");
        for (state, blocks) in self.0.iter_mut().zip(blocks) {
            state.compress(&[*blocks]);
        }
    }
}

/// Bytes that differ from message to message and within one.
fn message(number: usize, length_bytes: usize) -> Vec<u8> {
    (0..length_bytes).map(|position| (position * 31 + position / 251 + number * 17) as u8).collect()
}

fn check(lengths: &[usize]) {
    let messages: Vec<Vec<u8>> = lengths.iter().enumerate().map(|(number, &length)| message(number, length)).collect();
    let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    let expected: Vec<[u8; 32]> = messages.iter().map(|message| sha2::Sha256::digest(message).into()).collect();
    let hashes_of = |hash: &dyn Fn(&mut [[u8; 32]])| {
        let mut hashes = vec![[0; 32]; messages.len()];
        hash(&mut hashes);
        hashes
    };
    for lanes in if cfg!(miri) { &[NO_LANES] } else { &PROCESSORS[..] } {
        let hashes = hashes_of(&|hashes| sha256_of_each_with(*lanes, &messages, hashes));
        assert!(hashes == expected, "{lanes:?}: {lengths:?}");
    }
    for from in 1..=4 {
        let hashes = hashes_of(&|hashes| {
            let mut work = Work::new(&messages, hashes);
            work.run(Four::default(), from);
            work.run(One::default(), 1);
        });
        assert!(hashes == expected, "four lanes from {from}: {lengths:?}");
    }
}

#[test]
fn every_length_around_the_first_blocks_in_every_lane() {
    let lengths: Vec<usize> = if cfg!(miri) { vec![0, 55, 56, 64, 120] } else { (0..=260).collect() };
    check(&lengths);
    // An interpreter takes its time.
    for length in lengths.into_iter().take(if cfg!(miri) { 2 } else { 1000 }) {
        check(&[length; if cfg!(miri) { 5 } else { 33 }]);
    }
}

#[test]
fn every_number_of_messages() {
    for count in 0..if cfg!(miri) { 6 } else { 100 } {
        check(&vec![200; count]);
        check(&(0..count).map(|number| number * 37 % 300).collect::<Vec<_>>());
    }
}

/// One that goes on long after the others, among as many as make each step from many lanes to few.
#[test]
fn the_last_one_goes_on_where_the_lanes_left_it() {
    let (longest, counts): (_, &[usize]) = if cfg!(miri) {
        (400, &[1, 4, 5])
    } else {
        (200_000, &[1, 2, 3, 8, 9, 10, 16, 17, 20, 21, 22, 32, 33, 64, 100])
    };
    for &count in counts {
        for at in [0, count / 2, count - 1] {
            let mut lengths = vec![64; count];
            lengths[at] = longest;
            check(&lengths);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    #[cfg_attr(miri, ignore = "the interpreter takes its time")]
    fn any_lengths(
        lengths in prop::collection::vec(
            prop_oneof![8 => 0_usize..2000, 3 => 0_usize..20_000, 1 => 0_usize..200_000, 2 => (0_usize..64).prop_map(|blocks| 64 * blocks)],
            1..100,
        ),
    ) {
        check(&lengths);
    }
}

#[test]
#[should_panic(expected = "a hash for each message")]
fn a_hash_too_few_is_the_callers_fault() {
    sha256_of_each(&[b"abc"], &mut []);
}
