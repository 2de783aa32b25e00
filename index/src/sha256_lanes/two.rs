//! Two states that take turns in the processor's unit for SHA-256.
//!
//! An instruction of the unit does two rounds and is waited for by the next one of the same message; meanwhile it takes one
//! of the other message.
#![allow(unsafe_code)] // Calls what was asked for at run time; loads registers.

use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_loadu_si128, _mm_set_epi8, _mm_set_epi32,
    _mm_setzero_si128, _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8,
    _mm_shuffle_epi32,
};

use super::schedule::LaneStates;
use super::{Block, ROUND_CONSTANTS, State};

pub(super) const LANES: usize = 2;

/// Whether this processor has the instructions. AVX, of which nothing is computed here, spares copies: its forms of the instructions
/// between those of the unit leave what they take as it is. It includes the older extensions that are used.
fn is_possible() -> bool {
    is_x86_feature_detected!("sha") && is_x86_feature_detected!("avx")
}

/// By lane. Only made where the processor has the instructions.
pub(super) struct Two([State; LANES]);

impl Two {
    /// `None`: this processor has not the instructions.
    pub(super) fn if_possible() -> Option<Self> {
        is_possible().then_some(Self([[0; 8]; LANES]))
    }
}

impl LaneStates<LANES> for Two {
    fn get(&self, lane: usize) -> State {
        self.0[lane]
    }

    fn set(&mut self, lane: usize, state: State) {
        self.0[lane] = state;
    }

    fn compress(&mut self, blocks: &[&[Block]; LANES]) {
        // SAFETY: a value of this type was made, so the processor has these instructions.
        unsafe { compress(&mut self.0, blocks) }
    }
}

/// A state as the unit has it.
#[derive(Clone, Copy)]
struct Registers {
    abef: __m128i,
    cdgh: __m128i,
}

#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3,avx")]
fn to_registers(state: State) -> Registers {
    let [a, b, c, d, e, f, g, h] = state.map(|word| word as i32);
    Registers { abef: _mm_set_epi32(a, b, e, f), cdgh: _mm_set_epi32(c, d, g, h) }
}

#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3,avx")]
fn from_registers(Registers { abef, cdgh }: Registers) -> State {
    let (a, b, e, f) = words(abef);
    let (c, d, g, h) = words(cdgh);
    [a, b, c, d, e, f, g, h]
}

/// The highest first.
#[inline]
#[target_feature(enable = "sse4.1")]
fn words(register: __m128i) -> (u32, u32, u32, u32) {
    (
        _mm_extract_epi32::<3>(register) as u32,
        _mm_extract_epi32::<2>(register) as u32,
        _mm_extract_epi32::<1>(register) as u32,
        _mm_extract_epi32::<0>(register) as u32,
    )
}

/// The words of a block, four a register. The bytes of a message's words are in the network's order.
#[inline]
#[target_feature(enable = "ssse3")]
fn load_words(block: &Block) -> [__m128i; 4] {
    let reversed = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    let mut words = [_mm_setzero_si128(); 4];
    for (words, bytes) in words.iter_mut().zip(block.as_chunks::<16>().0) {
        // SAFETY: 16 bytes that may be read, and no alignment is asked for.
        let loaded = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
        *words = _mm_shuffle_epi8(loaded, reversed);
    }
    words
}

#[target_feature(enable = "sha,sse4.1,ssse3,avx")]
fn compress(states: &mut [State; LANES], blocks: &[&[Block]; LANES]) {
    let (mut left, mut right) = (to_registers(states[0]), to_registers(states[1]));
    let constants = ROUND_CONSTANTS.as_chunks::<4>().0;
    for (left_block, right_block) in blocks[0].iter().zip(blocks[1]) {
        let before = (left, right);
        let (mut left_words, mut right_words) = (load_words(left_block), load_words(right_block));
        // Four rounds of both at a time; the first sixteen take the block's own words.
        macro_rules! rounds {
            ($number:expr) => {
                if $number >= 4 {
                    extend(&mut left_words, $number % 4);
                    extend(&mut right_words, $number % 4);
                }
                let [first, second, third, fourth] = constants[$number].map(|constant| constant as i32);
                let constants = _mm_set_epi32(fourth, third, second, first);
                let left_input = _mm_add_epi32(left_words[$number % 4], constants);
                let right_input = _mm_add_epi32(right_words[$number % 4], constants);
                left.cdgh = _mm_sha256rnds2_epu32(left.cdgh, left.abef, left_input);
                right.cdgh = _mm_sha256rnds2_epu32(right.cdgh, right.abef, right_input);
                // Two rounds leave the former first register as the second one.
                left.abef = _mm_sha256rnds2_epu32(left.abef, left.cdgh, _mm_shuffle_epi32::<0x0E>(left_input));
                right.abef = _mm_sha256rnds2_epu32(right.abef, right.cdgh, _mm_shuffle_epi32::<0x0E>(right_input));
            };
        }
        rounds!(0);
        rounds!(1);
        rounds!(2);
        rounds!(3);
        rounds!(4);
        rounds!(5);
        rounds!(6);
        rounds!(7);
        rounds!(8);
        rounds!(9);
        rounds!(10);
        rounds!(11);
        rounds!(12);
        rounds!(13);
        rounds!(14);
        rounds!(15);
        left = sum(left, before.0);
        right = sum(right, before.1);
    }
    *states = [from_registers(left), from_registers(right)];
}

/// The schedule's next four words take the place of those of sixteen rounds ago, which are number `oldest`.
#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3,avx")]
fn extend(words: &mut [__m128i; 4], oldest: usize) {
    let (first, second) = (words[oldest], words[(oldest + 1) % 4]);
    let (third, fourth) = (words[(oldest + 2) % 4], words[(oldest + 3) % 4]);
    let seven_ago = _mm_alignr_epi8::<4>(fourth, third);
    let sum = _mm_add_epi32(_mm_sha256msg1_epu32(first, second), seven_ago);
    words[oldest] = _mm_sha256msg2_epu32(sum, fourth);
}

#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3,avx")]
fn sum(left: Registers, right: Registers) -> Registers {
    Registers { abef: _mm_add_epi32(left.abef, right.abef), cdgh: _mm_add_epi32(left.cdgh, right.cdgh) }
}
