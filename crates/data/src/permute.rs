//! A keyed permutation of `0..n` that needs no array: a Feistel network on the next even power of two, walked until
//! it lands inside (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).

const ROUNDS: u64 = 8;

/// A permutation of `0..n`, chosen by a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permutation {
    n: u64,
    key: u64,
    half_bits: u32,
}

impl Permutation {
    /// The permutation of `0..n` under `key`; `n` is below 2⁶².
    pub fn new(n: u64, key: u64) -> Permutation {
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        Permutation { n, key, half_bits: bits.div_ceil(2) }
    }

    /// Where `index` goes; `index` is below `n`.
    pub fn apply(self, index: u64) -> u64 {
        self.walk(index, |left, right, round| (right, left ^ self.mask(right, round)))
    }

    /// What goes to `index`: the inverse of [`Self::apply`].
    pub fn invert(self, index: u64) -> u64 {
        self.walk(index, |left, right, round| (right ^ self.mask(left, ROUNDS - 1 - round), left))
    }

    /// At most four times as many values as `n`, so about four steps at worst on average.
    fn walk(self, index: u64, step: impl Fn(u64, u64, u64) -> (u64, u64)) -> u64 {
        if self.n <= 1 {
            return index;
        }
        let low = (1 << self.half_bits) - 1;
        let mut value = index;
        loop {
            let halves = (value >> self.half_bits, value & low);
            let (left, right) =
                (0..ROUNDS).fold(halves, |(left, right), round| step(left, right, round));
            value = left << self.half_bits | right;
            if value < self.n {
                return value;
            }
        }
    }

    fn mask(self, half: u64, round: u64) -> u64 {
        mix(self.key, half << 3 | round) & ((1 << self.half_bits) - 1)
    }
}

/// A well-mixed number of two (the finaliser of SplitMix64, twice).
pub(crate) fn mix(key: u64, value: u64) -> u64 {
    let scramble = |mut x: u64| {
        x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    };
    scramble(scramble(value) ^ key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_a_permutation(n in 1_u64..3000, key: u64) {
            let permutation = Permutation::new(n, key);
            let mut seen = vec![false; n as usize];
            for index in 0..n {
                let image = permutation.apply(index);
                prop_assert!(!std::mem::replace(&mut seen[image as usize], true));
                prop_assert_eq!(permutation.invert(image), index);
            }
        }

        #[test]
        fn large_ones_stay_inside_and_invert(n in 1_u64..1 << 62, key: u64, at: u64) {
            let permutation = Permutation::new(n, key);
            let image = permutation.apply(at % n);
            prop_assert!(image < n);
            prop_assert_eq!(permutation.invert(image), at % n);
        }
    }

    #[test]
    fn images_are_spread_evenly() {
        let mut counts = [[0; 8]; 8];
        for key in 0..8000 {
            let permutation = Permutation::new(8, mix(7, key));
            for index in 0..8 {
                counts[index as usize][permutation.apply(index) as usize] += 1;
            }
        }
        assert!(counts.iter().flatten().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
