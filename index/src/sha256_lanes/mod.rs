//! SHA-256 of many whole messages at once: [`sha256_of_each`].
//!
//! One message is a chain of steps that wait for each other; several of them fill the processor. With AVX-512 sixteen share its
//! registers, one in each 32-bit lane, and two times sixteen fill the time in which the one half waits (`sixteen`); two take turns
//! in the unit for SHA-256 (`two`); where there is neither, and for the last one left, it is the sha2 crate's compression. What
//! the processor can do is asked at run time.
//!
//! Messages of any lengths keep the lanes full: the longest begin, and a lane that is done takes the next one. When fewer are
//! left than make many lanes worth it, they go on, from where they are, in fewer (`schedule`).
//!
//! Pure computing, called by whoever has several whole messages in memory. What arrives piece by piece is for
//! [`Hasher`](crate::Hasher). `unsafe` is in `sixteen` and `two` alone: calling what the processor was asked for, and moving
//! bytes in and out of its registers.

mod schedule;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod sixteen;
#[cfg(test)]
mod tests;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod two;

use schedule::{One, Work};
#[cfg(all(target_arch = "x86_64", not(miri)))]
use {sixteen::Sixteens, two::Two};

const BLOCK_BYTES: usize = 64;

/// A piece of a message that is compressed into its state.
type Block = [u8; BLOCK_BYTES];

/// The eight words between two blocks.
type State = [u32; 8];

/// First 32 bits of the fractional parts of the square roots of the first eight primes.
const INITIAL_STATE: State =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// First 32 bits of the fractional parts of the cube roots of the first 64 primes.
#[rustfmt::skip]
#[cfg(all(target_arch = "x86_64", not(miri)))]
const ROUND_CONSTANTS: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

/// From how many messages on lanes pay, as [`Lanes`] come. A block of each lane takes 295 ns in two times sixteen lanes,
/// 195 in sixteen, 45 in two and 32 in one (measured on Zen 5), so it is from 21 messages on that the first of these is less than what
/// it takes in fewer lanes, and from 9 on for the second.
struct Thresholds {
    twice_sixteen: usize,
    sixteen: usize,
}

impl Thresholds {
    const BESIDE_TWO: Thresholds = Thresholds { twice_sixteen: 21, sixteen: 9 };
    /// Without a unit for SHA-256 a block takes nearly as long alone as with fifteen others.
    const BESIDE_ONE: Thresholds = Thresholds { twice_sixteen: 17, sixteen: 2 };
}

/// What a processor has for many messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub struct Lanes {
    /// AVX-512.
    pub sixteen: bool,
    /// The unit for SHA-256.
    pub two: bool,
}

/// The SHA-256 of each message, in order.
///
/// # Panics
/// When there are not as many `hashes` as `messages`.
pub fn sha256_of_each(messages: &[&[u8]], hashes: &mut [[u8; 32]]) {
    sha256_of_each_with(Lanes { sixteen: true, two: true }, messages, hashes);
}

/// As [`sha256_of_each`], with no more than `lanes`, of which the processor may have fewer. For tests and benches.
#[doc(hidden)]
pub fn sha256_of_each_with(lanes: Lanes, messages: &[&[u8]], hashes: &mut [[u8; 32]]) {
    assert_eq!(messages.len(), hashes.len(), "a hash for each message");
    let mut work = Work::new(messages, hashes);
    // The interpreter of miri does not have these instructions.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        let two = if lanes.two { Two::if_possible() } else { None };
        let from = if two.is_some() { Thresholds::BESIDE_TWO } else { Thresholds::BESIDE_ONE };
        if lanes.sixteen
            && let Some(sixteen) = Sixteens::<1>::if_possible()
            && let Some(twice) = Sixteens::<2>::if_possible()
        {
            work.run(twice, from.twice_sixteen);
            work.run(sixteen, from.sixteen);
        }
        if let Some(two) = two {
            work.run(two, two::LANES);
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = lanes;
    work.run(One::default(), 1);
}
