//! Chance, by integers only: the same seed gives the same draws on every machine and for ever.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};

/// The evening's only source of chance.
#[derive(Debug, Clone)]
pub(crate) struct Random(ChaCha8Rng);

/// `-ln(1 - i/64)` in units of 1/4096: an exponential variable with mean 1, by its quantile. The last 64th is drawn
/// again and added to [`EXPONENTIAL_TAIL`], which is exact because the variable has no memory.
const EXPONENTIAL: [u64; 64] = [
    0, 65, 130, 197, 264, 333, 403, 474, 547, 621, 696, 772, 850, 930, 1011, 1094, 1178, 1265, 1353, 1443, 1535, 1629,
    1725, 1824, 1925, 2029, 2135, 2244, 2357, 2472, 2591, 2713, 2839, 2969, 3103, 3242, 3386, 3535, 3690, 3850, 4017,
    4192, 4374, 4564, 4764, 4974, 5196, 5430, 5678, 5943, 6225, 6529, 6857, 7213, 7603, 8035, 8517, 9064, 9696, 10443,
    11357, 12535, 14196, 17035,
];

/// `ln 64` in units of 1/4096.
const EXPONENTIAL_TAIL: u64 = 17_035;

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // Not `seed_from_u64`: how that spreads a seed is its crate's affair and may change.
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..24].copy_from_slice(b"barrage evening.");
        Self(ChaCha8Rng::from_seed(bytes))
    }

    pub(crate) fn u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    pub(crate) fn u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// From 0 to `bound - 1`. The bias of the multiplication (below 2^-40 for bounds below 2^24) does not matter here.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        debug_assert!(bound > 0, "an empty range has no member");
        let wide = u128::from(self.0.next_u64()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the upper half of a product of two u64 is a u64")
    }

    /// An index of a slice of `len` elements.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("smaller than a usize")
    }

    /// From `least` to `most`, both included.
    pub(crate) fn between(&mut self, least: i64, most: i64) -> i64 {
        let span = u64::try_from(most - least).expect("`most` is not below `least`") + 1;
        least + i64::try_from(self.below(span)).expect("not above `most - least`")
    }

    pub(crate) fn permille(&mut self, share: u32) -> bool {
        self.below(1_000) < u64::from(share)
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }

    /// An index drawn by weight; at least one weight must not be zero.
    pub(crate) fn weighted(&mut self, weights: &[u32]) -> usize {
        let total: u64 = weights.iter().copied().map(u64::from).sum();
        let mut left = self.below(total);
        for (index, &weight) in weights.iter().enumerate() {
            if left < u64::from(weight) {
                return index;
            }
            left -= u64::from(weight);
        }
        unreachable!("the draw is below the sum of the weights")
    }

    /// An exponential variable with this mean.
    pub(crate) fn exponential(&mut self, mean: u64) -> u64 {
        let mut tails = 0;
        loop {
            let draw = self.0.next_u64();
            let step = usize::try_from(draw >> 58).expect("six bits");
            if step == 63 && tails < 8 {
                tails += 1;
                continue;
            }
            let low = EXPONENTIAL[step];
            let high = EXPONENTIAL[(step + 1).min(63)];
            let between = (((draw >> 26) & 0xffff_ffff) * (high - low)) >> 32;
            let units = tails * EXPONENTIAL_TAIL + low + between;
            let scaled = u128::from(mean) * u128::from(units) / 4_096;
            return u64::try_from(scaled).unwrap_or(u64::MAX);
        }
    }

    /// As [`Random::exponential`], as a time in ms.
    pub(crate) fn exponential_ms(&mut self, mean_ms: u64) -> i64 {
        i64::try_from(self.exponential(mean_ms)).unwrap_or(i64::MAX / 4)
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.index(last + 1);
            items.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_these_draws_for_ever() {
        let mut random = Random::new(42);
        let draws: Vec<u64> = (0..4).map(|_| random.u64()).collect();
        assert_eq!(
            draws,
            [
                7_246_992_855_651_270_234,
                9_572_605_295_077_899_557,
                16_036_539_564_551_354_325,
                6_106_348_065_103_187_520
            ]
        );
    }

    #[test]
    fn the_exponential_has_its_mean() {
        let mut random = Random::new(7);
        let sum: u64 = (0..200_000).map(|_| random.exponential(1_000)).sum();
        let mean = sum / 200_000;
        assert!((985..=1_020).contains(&mean), "{mean}");
    }

    #[test]
    fn weights_of_zero_are_never_drawn() {
        let mut random = Random::new(7);
        for _ in 0..1_000 {
            assert_ne!(random.weighted(&[3, 0, 1]), 1);
        }
    }

    #[test]
    fn ranges_include_both_ends() {
        let mut random = Random::new(1);
        let mut seen = [false; 3];
        for _ in 0..100 {
            seen[usize::try_from(random.between(-1, 1) + 1).unwrap()] = true;
        }
        assert_eq!(seen, [true; 3]);
    }
}
