//! Dropout in front of LoRA's factors (arXiv 1207.0580), as a function of what is dropped.
//!
//! No generator is asked: whether a value stays follows from its sample's key, its token's place in the sequence, the
//! product, and its column among those of all ranks. So a mask is the same however ranks and micro-batches divide the
//! work, and the same again where a layer is computed a second time.

use strand_torch::upload;
use tch::{Device, Kind, Tensor};

use crate::config::Config;
use crate::error::ModelError;

/// Values that one word of 64 bits decides on, each by 16 of them.
const LANES: i64 = 4;

/// Shares are multiples of 1 ÷ this.
const STEPS: i64 = 1 << 16;

/// The step of SplitMix64: 2⁶⁴ divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

const FACTORS: [u64; 2] = [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb];
const SHIFTS: [u32; 3] = [30, 27, 31];

/// What a model drops in training passes.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// Of each 65536 values so many are dropped.
    dropped: i64,
    /// Columns of the widest product.
    width: i64,
}

impl Dropout {
    /// The dropout of a model; none where it drops nothing.
    pub fn new(config: &Config) -> Option<Dropout> {
        let lora = config.lora.as_ref().filter(|lora| lora.rank > 0)?;
        let dropped = dropped(lora.dropout);
        let width = config.hidden_size.max(config.intermediate_size);
        (dropped > 0).then_some(Dropout { dropped, width })
    }

    /// The masks of sequences of `length` tokens, padding counted, by their keys.
    ///
    /// # Errors
    /// No memory.
    pub fn masks(self, keys: &[u64], length: i64, device: Device) -> Result<Masks, ModelError> {
        let key = |&key: &u64| {
            (1..=length as u64)
                .map(move |place| signed(mix(key.wrapping_add(place.wrapping_mul(GOLDEN)))))
        };
        let tokens: Vec<i64> = keys.iter().flat_map(key).collect();
        let columns: Vec<i64> =
            (0..words_of(self.width) as u64).map(|word| signed(mix(!word))).collect();
        let shape = [keys.len() as i64, length, 1];
        Ok(Masks {
            tokens: upload(&Tensor::from_slice(&tokens), device)?.view(shape),
            columns: upload(&Tensor::from_slice(&columns), device)?,
            dropped: self.dropped,
        })
    }
}

/// So many of [`STEPS`] as come nearest to a share, and never all.
fn dropped(share: f64) -> i64 {
    ((share * STEPS as f64).round() as i64).min(STEPS - 1)
}

/// Words that decide on so many values.
fn words_of(values: i64) -> i64 {
    (values + LANES - 1) / LANES
}

/// What the passes of a micro-batch through all products drop.
pub struct Masks {
    /// A word of each token, `[batch, length, 1]`.
    tokens: Tensor,
    /// A word of each four columns.
    columns: Tensor,
    dropped: i64,
}

impl Clone for Masks {
    /// The same words.
    fn clone(&self) -> Masks {
        let [tokens, columns] = [&self.tokens, &self.columns].map(Tensor::shallow_clone);
        Masks { tokens, columns, dropped: self.dropped }
    }
}

impl Masks {
    /// What the values that stay are multiplied with, so that each is the same in the mean.
    pub fn gain(&self) -> f64 {
        STEPS as f64 / (STEPS - self.dropped) as f64
    }

    /// `x` `[batch, length, columns]`, of which values are dropped. Its first column is the one of number `first` in
    /// front of the product whose word is `product`.
    pub fn apply(&self, x: &Tensor, product: u64, first: i64) -> Tensor {
        x * self.kept(product, first, x.size()[2])
    }

    /// Whether values stay, `[batch, length, count]`.
    fn kept(&self, product: u64, first: i64, count: i64) -> Tensor {
        let (word, lane) = (first / LANES, first % LANES);
        let columns = self.columns.narrow(0, word, words_of(lane + count));
        let words = self.tokens.bitwise_xor_tensor(&columns.bitwise_xor(signed(product)));
        let lanes = mixed(words).view_dtype(Kind::Int16).narrow(2, lane, count);
        lanes.ge(self.dropped - STEPS / 2)
    }
}

/// The word of a product, by its name.
pub fn product_word(name: &str) -> u64 {
    // FNV-1a.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(hash)
}

/// SplitMix64's finalizer (Stafford's thirteenth variant of MurmurHash3's).
fn mix(word: u64) -> u64 {
    let fold = |word: u64, shift: u32| word ^ (word >> shift);
    let rounds = FACTORS.iter().zip(SHIFTS);
    let word = rounds.fold(word, |word, (factor, shift)| fold(word, shift).wrapping_mul(*factor));
    fold(word, SHIFTS[2])
}

/// [`mix`] of each word. libtorch's products of 64 bits wrap as Rust's do; a test holds the two together.
fn mixed(words: Tensor) -> Tensor {
    let round =
        |words, (factor, shift): (&u64, u32)| fold(words, shift).g_mul_scalar_(signed(*factor));
    let words = FACTORS.iter().zip(SHIFTS).fold(words, round);
    fold(words, SHIFTS[2])
}

fn fold(mut words: Tensor, shift: u32) -> Tensor {
    // Shifts of signed numbers bring copies of the sign, which are taken away.
    let mut high = words.bitwise_right_shift_tensor_scalar(i64::from(shift));
    let _ = high.bitwise_and_(i64::MAX >> (shift - 1));
    words.bitwise_xor_tensor_(&high)
}

/// The same bits as libtorch has them.
fn signed(word: u64) -> i64 {
    word.cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks(dropped: i64, keys: &[u64], length: i64) -> Masks {
        Dropout { dropped, width: 64 }.masks(keys, length, Device::Cpu).unwrap()
    }

    fn share(kept: &Tensor) -> f64 {
        kept.to_kind(Kind::Double).mean(Kind::Double).double_value(&[])
    }

    #[test]
    fn words_are_mixed_as_in_rust() {
        let words: Vec<u64> = (0..1000).map(|i| mix(i) ^ i << 63 ^ i).collect();
        let tensor = Tensor::from_slice(&words.iter().map(|&it| signed(it)).collect::<Vec<_>>());
        let expected: Vec<i64> = words.into_iter().map(|word| signed(mix(word))).collect();
        assert_eq!(Vec::<i64>::try_from(mixed(tensor)).unwrap(), expected);
        // The first number of SplitMix64 from the state 0.
        assert_eq!(mix(GOLDEN), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn masks_never_change() {
        let kept = masks(STEPS / 2, &[7], 2).kept(product_word("q_proj"), 0, 8);
        let bits: Vec<u8> = Vec::try_from(kept.to_kind(Kind::Uint8).view(-1)).unwrap();
        assert_eq!(bits, [0, 0, 1, 0, 1, 0, 0, 1, 0, 1, 1, 1, 0, 0, 0, 1]);
    }

    /// The share of each column and each token, and how often two neighbours of any kind both stay.
    #[test]
    fn values_are_dropped_equally_often_and_one_by_one() {
        let keys: Vec<u64> = (0..64).collect();
        let masks = masks(STEPS / 4, &keys, 100);
        let kept = masks.kept(product_word("a"), 0, 64);
        assert!((share(&kept) - 0.75).abs() < 2e-3, "{}", share(&kept));
        for dims in [&[0, 1], &[0, 2], &[1, 2]] {
            let shares = kept.to_kind(Kind::Double).mean_dim(&dims[..], false, Kind::Double);
            // Of 4096 values and more; their deviation is at most 0.0068.
            assert!((shares - 0.75).abs().max().double_value(&[]) < 0.035, "{dims:?}");
        }
        let other = masks.kept(product_word("b"), 0, 64);
        assert!((share(&(kept.logical_and(&other))) - 0.5625).abs() < 4e-3, "products");
        for dim in 0..3 {
            let both = kept.logical_and(&kept.roll([1], [dim]));
            assert!((share(&both) - 0.5625).abs() < 4e-3, "neighbours along {dim}");
        }
    }

    #[test]
    fn a_part_of_the_columns_has_its_part_of_the_mask() {
        let masks = masks(STEPS / 2, &[3, 5], 7);
        let whole = masks.kept(1, 0, 64);
        for (first, count) in [(0, 32), (32, 32), (6, 10), (61, 3)] {
            assert_eq!(masks.kept(1, first, count), whole.narrow(2, first, count), "{first}");
        }
    }

    #[test]
    fn padding_changes_nothing() {
        let (short, long) = (masks(STEPS / 2, &[3], 5), masks(STEPS / 2, &[9, 3], 8));
        assert_eq!(short.kept(1, 0, 64).get(0), long.kept(1, 0, 64).get(1).narrow(0, 0, 5));
    }

    #[test]
    fn the_mean_over_keys_is_the_value() {
        let keys: Vec<u64> = (0..4000).collect();
        let masks = masks(STEPS / 10, &keys, 1);
        let x = Tensor::arange(8, (Kind::Double, Device::Cpu)).expand([4000, 1, 8], false);
        let mean =
            (masks.apply(&x, 5, 0) * masks.gain()).mean_dim(&[0, 1][..], false, Kind::Double);
        let deviation = (mean - x.get(0).get(0))
            / Tensor::arange(8, (Kind::Double, Device::Cpu)).clamp_min(1.0);
        assert!(deviation.abs().max().double_value(&[]) < 0.02);
    }

    #[test]
    fn shares_are_rounded_and_never_all() {
        assert_eq!([0.0, 1e-9, 0.25, 0.05, 0.999_999].map(dropped), [0, 0, 16384, 3277, 65535]);
    }
}
