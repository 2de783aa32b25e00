//! Seeded randomness: small, fast, the same on every machine. Not for secrets.

/// A generator; equal seeds give equal draws.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator for `seed`; neighbouring seeds have nothing in common.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed ^ 0xA076_1D64_78BD_642F))
    }

    /// The next 64 bits (SplitMix64).
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// Uniform in `0..bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Uniform in `0..bound` for indices.
    pub fn index(&mut self, bound: usize) -> usize {
        self.below(bound as u64) as usize
    }

    /// True `numerator` times in `denominator`.
    pub fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        self.below(denominator) < numerator
    }

    /// One of `choices`, which is not empty.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    /// The position of one of `weights`, each as likely as it is heavy.
    pub fn weighted(&mut self, weights: &[u32]) -> usize {
        let mut left = self.below(weights.iter().map(|weight| u64::from(*weight)).sum());
        for (position, weight) in weights.iter().enumerate() {
            if left < u64::from(*weight) {
                return position;
            }
            left -= u64::from(*weight);
        }
        0
    }
}

fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// A seed for a purpose of its own.
pub fn mix_seed(seed: u64, purpose: u64) -> u64 {
    mix(seed.wrapping_mul(0x2545_F491_4F6C_DD1D) ^ mix(purpose))
}

/// `length` bytes that differ for each seed.
pub fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next_u64().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_in_range_repeat_for_a_seed_and_use_every_choice() {
        let draws = |seed| {
            let mut random = Random::new(seed);
            (0..200).map(|_| random.weighted(&[1, 0, 5])).collect::<Vec<_>>()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
        assert!(draws(1).contains(&0) && draws(1).contains(&2) && !draws(1).contains(&1));
        assert_eq!(content(3, 13).len(), 13);
        assert_ne!(content(3, 13), content(4, 13));
    }
}
