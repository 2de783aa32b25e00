//! Sixteen states in AVX-512 registers: each register has one word of all of them.
//!
//! Every step of SHA-256 is then sixteen steps; a rotation is one instruction, and so is each of its functions of three words. The
//! blocks come one a lane and are turned into words of all lanes by a transposition.
//!
//! Still each round waits for the one before. With two times sixteen states, the rounds of the one half fill the time that those of
//! the other wait, which is worth more than the words cost that no longer fit the registers.
#![allow(unsafe_code)] // Calls what was asked for at run time; loads and stores registers.

use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_loadu_si512, _mm512_ror_epi32, _mm512_set1_epi32, _mm512_set4_epi32,
    _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_shuffle_i32x4, _mm512_srli_epi32, _mm512_storeu_si512,
    _mm512_ternarylogic_epi32, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};

use super::schedule::LaneStates;
use super::{Block, ROUND_CONSTANTS, State};

/// Lanes of a register.
const WIDTH: usize = 16;

/// A register in memory: a word of each lane.
type Words = [u32; WIDTH];

/// So many times sixteen states, by word and then by lane. Only made where the processor has the instructions.
pub(super) struct Sixteens<const TIMES: usize>([[Words; 8]; TIMES]);

impl<const TIMES: usize> Sixteens<TIMES> {
    /// `None`: this processor has not the instructions.
    pub(super) fn if_possible() -> Option<Self> {
        is_possible().then_some(Self([[[0; WIDTH]; 8]; TIMES]))
    }

    fn state(&self, lane: usize) -> State {
        self.0[lane / WIDTH].map(|words| words[lane % WIDTH])
    }

    fn set_state(&mut self, lane: usize, state: State) {
        for (words, word) in self.0[lane / WIDTH].iter_mut().zip(state) {
            words[lane % WIDTH] = word;
        }
    }
}

/// Whether this processor has the instructions.
fn is_possible() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
}

macro_rules! lane_states {
    ($times:expr) => {
        impl LaneStates<{ $times * WIDTH }> for Sixteens<$times> {
            fn get(&self, lane: usize) -> State {
                self.state(lane)
            }

            fn set(&mut self, lane: usize, state: State) {
                self.set_state(lane, state);
            }

            fn compress(&mut self, blocks: &[&[Block]; $times * WIDTH]) {
                let (blocks, _) = blocks.as_chunks::<WIDTH>();
                let blocks: &[_; $times] = blocks.try_into().expect("so many lanes");
                // SAFETY: a value of this type was made, so the processor has these instructions.
                unsafe { compress(&mut self.0, blocks) }
            }
        }
    };
}
lane_states!(1);
lane_states!(2);

#[inline]
#[target_feature(enable = "avx512f")]
fn load(words: &Words) -> __m512i {
    // SAFETY: 64 bytes that may be read, and no alignment is asked for.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_block(block: &Block) -> __m512i {
    // SAFETY: 64 bytes that may be read, and no alignment is asked for.
    unsafe { _mm512_loadu_si512(block.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(words: &mut Words, register: __m512i) {
    // SAFETY: 64 bytes that may be written, and no alignment is asked for.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), register) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add(left: __m512i, right: __m512i) -> __m512i {
    _mm512_add_epi32(left, right)
}

/// The functions of three words, as tables of what three bits come to.
const EXCLUSIVE_OR: i32 = 0x96;
const CHOOSE: i32 = 0xCA;
const MAJORITY: i32 = 0xE8;

#[inline]
#[target_feature(enable = "avx512f")]
fn exclusive_or(first: __m512i, second: __m512i, third: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<EXCLUSIVE_OR>(first, second, third)
}

/// Plain loops over fixed counts, here and below: what is given a closure is compiled without these instructions.
#[target_feature(enable = "avx512f,avx512bw")]
fn compress<const TIMES: usize>(states: &mut [[Words; 8]; TIMES], blocks: &[[&[Block]; WIDTH]; TIMES]) {
    let zero = _mm512_setzero_si512();
    let mut state = [[zero; 8]; TIMES];
    for time in 0..TIMES {
        for word in 0..8 {
            state[time][word] = load(&states[time][word]);
        }
    }
    for number in 0..blocks[0][0].len() {
        let before = state;
        let mut schedule = [[zero; 16]; TIMES];
        for time in 0..TIMES {
            schedule[time] = words_of(&blocks[time], number);
        }
        let (turns, _) = ROUND_CONSTANTS.as_chunks::<16>();
        // Unrolled by name, so that every index below is known to the compiler.
        macro_rules! turn {
            ($step:ident, $constants:expr) => {
                $step!($constants, 0);
                $step!($constants, 1);
                $step!($constants, 2);
                $step!($constants, 3);
                $step!($constants, 4);
                $step!($constants, 5);
                $step!($constants, 6);
                $step!($constants, 7);
                $step!($constants, 8);
                $step!($constants, 9);
                $step!($constants, 10);
                $step!($constants, 11);
                $step!($constants, 12);
                $step!($constants, 13);
                $step!($constants, 14);
                $step!($constants, 15);
            };
        }
        macro_rules! first_step {
            ($constants:expr, $number:expr) => {
                let constant = _mm512_set1_epi32($constants[$number] as i32);
                for time in 0..TIMES {
                    round(&mut state[time], $number, add(schedule[time][$number], constant));
                }
            };
        }
        macro_rules! later_step {
            ($constants:expr, $number:expr) => {
                let constant = _mm512_set1_epi32($constants[$number] as i32);
                for time in 0..TIMES {
                    extend(&mut schedule[time], $number);
                    round(&mut state[time], $number, add(schedule[time][$number], constant));
                }
            };
        }
        turn!(first_step, turns[0]);
        for constants in &turns[1..] {
            turn!(later_step, constants);
        }
        for time in 0..TIMES {
            for word in 0..8 {
                state[time][word] = add(state[time][word], before[time][word]);
            }
        }
    }
    for time in 0..TIMES {
        for word in 0..8 {
            store(&mut states[time][word], state[time][word]);
        }
    }
}

/// One round of SHA-256. The state's words change places each round, which is only said: round `number` finds its first word
/// `number` places before the place it has in the beginning.
#[inline]
#[target_feature(enable = "avx512f")]
fn round(state: &mut [__m512i; 8], number: usize, input: __m512i) {
    let place = |word: usize| (word + 16 - number) % 8;
    let (a, b, c) = (state[place(0)], state[place(1)], state[place(2)]);
    let (e, f, g, h) = (state[place(4)], state[place(5)], state[place(6)], state[place(7)]);
    let of_e = exclusive_or(_mm512_ror_epi32::<6>(e), _mm512_ror_epi32::<11>(e), _mm512_ror_epi32::<25>(e));
    let choice = _mm512_ternarylogic_epi32::<CHOOSE>(e, f, g);
    // What is known first is added first.
    let sum = add(add(add(h, input), choice), of_e);
    let of_a = exclusive_or(_mm512_ror_epi32::<2>(a), _mm512_ror_epi32::<13>(a), _mm512_ror_epi32::<22>(a));
    let majority = _mm512_ternarylogic_epi32::<MAJORITY>(a, b, c);
    state[place(3)] = add(state[place(3)], sum);
    state[place(7)] = add(sum, add(of_a, majority));
}

/// The schedule's next word takes the place of that of sixteen rounds ago.
#[inline]
#[target_feature(enable = "avx512f")]
fn extend(schedule: &mut [__m512i; 16], number: usize) {
    let (two_ago, fifteen_ago) = (schedule[(number + 14) % 16], schedule[(number + 1) % 16]);
    let late = exclusive_or(
        _mm512_ror_epi32::<17>(two_ago),
        _mm512_ror_epi32::<19>(two_ago),
        _mm512_srli_epi32::<10>(two_ago),
    );
    let early = exclusive_or(
        _mm512_ror_epi32::<7>(fifteen_ago),
        _mm512_ror_epi32::<18>(fifteen_ago),
        _mm512_srli_epi32::<3>(fifteen_ago),
    );
    let sum = add(schedule[number], schedule[(number + 9) % 16]);
    schedule[number] = add(add(sum, early), late);
}

/// The sixteen words of block `number` of each lane, word by word. The bytes of a message's words are in the network's order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn words_of(blocks: &[&[Block]; WIDTH], number: usize) -> [__m512i; 16] {
    let reversed = _mm512_set4_epi32(0x0c0d_0e0f, 0x0809_0a0b, 0x0405_0607, 0x0001_0203);
    let zero = _mm512_setzero_si512();
    // Words of two lanes beside each other, then of four: in each quarter of a register, which has four words of a lane.
    let mut fours = [zero; 16];
    for lanes in 0..4 {
        let mut rows = [zero; 4];
        for lane in 0..4 {
            rows[lane] = _mm512_shuffle_epi8(load_block(&blocks[4 * lanes + lane][number]), reversed);
        }
        let [first, second, third, fourth] = rows;
        let (low, high) = (_mm512_unpacklo_epi32(first, second), _mm512_unpackhi_epi32(first, second));
        let (other_low, other_high) = (_mm512_unpacklo_epi32(third, fourth), _mm512_unpackhi_epi32(third, fourth));
        fours[4 * lanes] = _mm512_unpacklo_epi64(low, other_low);
        fours[4 * lanes + 1] = _mm512_unpackhi_epi64(low, other_low);
        fours[4 * lanes + 2] = _mm512_unpacklo_epi64(high, other_high);
        fours[4 * lanes + 3] = _mm512_unpackhi_epi64(high, other_high);
    }
    // Now `fours[4 * lanes + word]` has words `word`, `word + 4`, `word + 8` and `word + 12` of those four lanes, a quarter each.
    let mut words = [zero; 16];
    for word in 0..4 {
        let (first, second) = (fours[word], fours[4 + word]);
        let (third, fourth) = (fours[8 + word], fours[12 + word]);
        let (even, odd) = (_mm512_shuffle_i32x4::<0x88>(first, second), _mm512_shuffle_i32x4::<0xDD>(first, second));
        let (other_even, other_odd) =
            (_mm512_shuffle_i32x4::<0x88>(third, fourth), _mm512_shuffle_i32x4::<0xDD>(third, fourth));
        words[word] = _mm512_shuffle_i32x4::<0x88>(even, other_even);
        words[word + 4] = _mm512_shuffle_i32x4::<0x88>(odd, other_odd);
        words[word + 8] = _mm512_shuffle_i32x4::<0xDD>(even, other_even);
        words[word + 12] = _mm512_shuffle_i32x4::<0xDD>(odd, other_odd);
    }
    words
}
