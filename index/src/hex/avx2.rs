//! [`Avx2`]: hex by vectors of 32 bytes. Called by [`hex`](super) alone, which has the plain way of the same.
//!
//! One of the crate's modules with `unsafe` code: loads, stores, and the calls of functions that not every processor can run.
#![allow(unsafe_code)] // As said; safe outside.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_loadu_si128, _mm256_add_epi8, _mm256_and_si256, _mm256_cmpeq_epi8, _mm256_cvtepu8_epi16,
    _mm256_loadu_si256, _mm256_maddubs_epi16, _mm256_min_epu8, _mm256_movemask_epi8, _mm256_or_si256,
    _mm256_packus_epi16, _mm256_permute4x64_epi64, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_setr_epi8,
    _mm256_shuffle_epi8, _mm256_slli_epi16, _mm256_srli_epi16, _mm256_storeu_si256, _mm256_sub_epi8,
};

use super::{ByteBlock, CharBlock};

/// The processor has AVX2: exists only where it was detected.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    /// Asked of the processor once; later a load.
    #[inline]
    pub(super) fn detect() -> Option<Self> {
        std::arch::is_x86_feature_detected!("avx2").then_some(Avx2(()))
    }

    /// Decodes; false when a character is outside `0-9a-f`.
    #[inline]
    pub(super) fn decode(self, hex: &[CharBlock], bytes: &mut [ByteBlock]) -> bool {
        // SAFETY: the processor has AVX2, or `self` would not exist.
        unsafe { decode(hex, bytes) }
    }

    /// Encodes.
    #[inline]
    pub(super) fn encode(self, bytes: &[ByteBlock], hex: &mut [CharBlock]) {
        // SAFETY: as above.
        unsafe { encode(bytes, hex) }
    }
}

#[target_feature(enable = "avx2")]
fn decode(hex: &[CharBlock], bytes: &mut [ByteBlock]) -> bool {
    let mut are_hex = _mm256_set1_epi8(-1);
    for (hex, bytes) in hex.iter().zip(bytes) {
        let (halves, _) = hex.as_chunks();
        let (first, first_are_hex) = pairs_of(&halves[0]);
        let (second, second_are_hex) = pairs_of(&halves[1]);
        are_hex = _mm256_and_si256(are_hex, _mm256_and_si256(first_are_hex, second_are_hex));
        // Packing goes lane by lane, so the two middle quarters change places.
        let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi16(first, second));
        // SAFETY: a block is 32 bytes, at any address.
        unsafe { _mm256_storeu_si256((&raw mut *bytes).cast::<__m256i>(), packed) };
    }
    _mm256_movemask_epi8(are_hex) == -1
}

/// The bytes that pairs of characters spell, each in 16 bits, and which characters are hexadecimal.
#[inline]
#[target_feature(enable = "avx2")]
fn pairs_of(characters: &[u8; 32]) -> (__m256i, __m256i) {
    // SAFETY: 32 bytes, at any address.
    let characters = unsafe { _mm256_loadu_si256((&raw const *characters).cast::<__m256i>()) };
    let digits = _mm256_sub_epi8(characters, _mm256_set1_epi8(b'0' as i8));
    let letters = _mm256_sub_epi8(characters, _mm256_set1_epi8(b'a' as i8));
    let is_digit = _mm256_cmpeq_epi8(digits, _mm256_min_epu8(digits, _mm256_set1_epi8(9)));
    let is_letter = _mm256_cmpeq_epi8(letters, _mm256_min_epu8(letters, _mm256_set1_epi8(5)));
    let nibbles = _mm256_or_si256(
        _mm256_and_si256(digits, is_digit),
        _mm256_and_si256(_mm256_add_epi8(letters, _mm256_set1_epi8(10)), is_letter),
    );
    // Of each pair the first times 16 and the second times 1, added up.
    let pairs = _mm256_maddubs_epi16(nibbles, _mm256_set1_epi16(0x0110));
    (pairs, _mm256_or_si256(is_digit, is_letter))
}

#[target_feature(enable = "avx2")]
fn encode(bytes: &[ByteBlock], hex: &mut [CharBlock]) {
    let [c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, ca, cb, cc, cd, ce, cf] = b"0123456789abcdef".map(|c| c as i8);
    // Once a lane, since a shuffle does not cross them.
    let characters = _mm256_setr_epi8(
        c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, ca, cb, cc, cd, ce, cf, //
        c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, ca, cb, cc, cd, ce, cf,
    );
    let (halves, _) = bytes.as_flattened().as_chunks::<16>();
    let (hex, _) = hex.as_flattened_mut().as_chunks_mut::<32>();
    for (bytes, hex) in halves.iter().zip(hex) {
        // SAFETY: 16 bytes, at any address.
        let bytes = unsafe { _mm_loadu_si128((&raw const *bytes).cast::<__m128i>()) };
        // A byte in 16 bits: its high nibble goes into the low byte, its low nibble into the high one.
        let wide = _mm256_cvtepu8_epi16(bytes);
        let low = _mm256_and_si256(_mm256_slli_epi16::<8>(wide), _mm256_set1_epi16(0x0f00));
        let nibbles = _mm256_or_si256(_mm256_srli_epi16::<4>(wide), low);
        // SAFETY: 32 bytes, at any address.
        unsafe { _mm256_storeu_si256((&raw mut *hex).cast::<__m256i>(), _mm256_shuffle_epi8(characters, nibbles)) };
    }
}
