//! Counter-based randomness: every draw is a function of what it is for, so nothing has to be saved.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use strand_store::xxh3;

/// A generator for one purpose, keyed by (seed, time, id, purpose). `time` is a step or an epoch, `id` a sample.
///
/// The same key gives the same numbers on every rank, layout and machine, for ever.
pub fn draw(seed: u64, time: u64, id: &str, purpose: &str) -> ChaCha8Rng {
    let mut key = [0; 32];
    let words = [seed, time, xxh3(id.as_bytes()), xxh3(purpose.as_bytes())];
    for (place, word) in key.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// A uniform number in `0..bound` (0 where `bound` is 0); the bias is below bound ÷ 2⁶⁴.
pub fn below(rng: &mut impl Rng, bound: u64) -> u64 {
    ((u128::from(rng.next_u64()) * u128::from(bound)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_never_change() {
        let mut rng = draw(7, 3, "clip-1", "frames");
        let numbers: Vec<u64> = (0..3).map(|_| rng.next_u64()).collect();
        assert_eq!(
            numbers,
            [3_841_635_497_542_331_246, 2_773_705_068_860_371_298, 16_034_818_547_637_495_638]
        );
        assert_eq!((0..4).map(|_| below(&mut rng, 10)).collect::<Vec<_>>(), [8, 9, 0, 0]);
    }

    #[test]
    fn every_part_of_the_key_counts() {
        let keys = [
            (0, 0, "a", "x"),
            (1, 0, "a", "x"),
            (0, 1, "a", "x"),
            (0, 0, "b", "x"),
            (0, 0, "a", "y"),
        ];
        let firsts: std::collections::HashSet<u64> = keys
            .iter()
            .map(|&(seed, time, id, purpose)| draw(seed, time, id, purpose).next_u64())
            .collect();
        assert_eq!(firsts.len(), keys.len());
    }

    #[test]
    fn below_is_uniform_and_bounded() {
        let mut rng = draw(0, 0, "", "");
        let mut counts = [0; 7];
        for _ in 0..70_000 {
            counts[below(&mut rng, 7) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
        assert_eq!(below(&mut rng, 0), 0);
        assert_eq!(below(&mut rng, 1), 0);
    }
}
