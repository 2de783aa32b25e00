//! Repeatable randomness and the distributions that workloads are made of.

/// `SplitMix64`: small, and good enough to draw workloads from.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// The same seed gives the same draws.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// Uniform in `0..bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.number()) * bound as u128) >> 64) as usize
    }

    /// Uniform in `[0, 1)`.
    pub fn share(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Log-normal with this median; `sigma` is the deviation of the logarithm.
    pub fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        let radius = (-2.0 * (1.0 - self.share()).ln()).sqrt();
        median * (sigma * radius * (std::f64::consts::TAU * self.share()).cos()).exp()
    }

    /// At least 1, with mean about `mean`: how many of something heavy-tailed but bounded.
    pub fn geometric(&mut self, mean: f64) -> usize {
        1 + ((1.0 - self.share()).ln() / (1.0 - 1.0 / mean.max(1.001)).ln()) as usize
    }
}

/// Ranks `0..count` with probability in proportion to `1 / (rank + 1)^exponent`.
#[derive(Clone, Debug)]
pub struct Zipf {
    /// Cumulated and normalised.
    up_to: Vec<f64>,
}

impl Zipf {
    /// The distribution over `count` ranks.
    pub fn new(count: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let mut up_to: Vec<f64> = (1..=count)
            .map(|rank| {
                sum += (rank as f64).powf(-exponent);
                sum
            })
            .collect();
        for value in &mut up_to {
            *value /= sum;
        }
        Self { up_to }
    }

    /// Draws a rank.
    pub fn draw(&self, chance: &mut Chance) -> usize {
        let share = chance.share();
        self.up_to.partition_point(|up_to| *up_to < share).min(self.up_to.len() - 1)
    }
}
