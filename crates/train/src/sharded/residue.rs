//! Weights in fp32 as two halves: in bf16, as the model computes with them, and 16 bits that say how far each is from
//! that. Beside a whole second copy this saves two bytes a weight. CPUs put them together in their caches, a few at a
//! time; on GPUs, where every operation is a pass over memory, this would take as long as all else of an update.
//!
//! A number of fp32 is no more than 2¹⁵ of its last places from the nearest of bf16, up or down. Half way up is one place
//! more than 16 bits hold: there the number moves down by that place. All others stay as they are.

use tch::{Kind, TchError, Tensor};

use crate::sharded::chunks::{at_once, chunks};

/// How far `wide`, in fp32, is from `narrow`, the same numbers rounded to bf16: int16, in the last places of fp32.
pub(crate) fn of(wide: &Tensor, narrow: &Tensor) -> Result<Tensor, TchError> {
    let residues = Tensor::f_empty(wide.size(), (Kind::Int16, wide.device()))?;
    for [wide, narrow, residues] in chunks([wide, narrow, &residues], at_once(wide.device())) {
        write_residues(&wide, &narrow, &residues)?;
    }
    Ok(residues)
}

/// The numbers whole: fp32.
pub(crate) fn whole(narrow: &Tensor, residues: &Tensor) -> Result<Tensor, TchError> {
    let mut bits = high_bits(narrow)?;
    bits.f_add_(residues)?.f_view_dtype(Kind::Float)
}

/// Writes numbers of fp32 as both halves.
pub(crate) fn write(wide: &Tensor, narrow: &Tensor, residues: &Tensor) -> Result<(), TchError> {
    narrow.shallow_clone().f_copy_(wide)?;
    write_residues(wide, narrow, residues)
}

fn write_residues(wide: &Tensor, narrow: &Tensor, residues: &Tensor) -> Result<(), TchError> {
    let mut distance = wide.f_view_dtype(Kind::Int)?.f_sub(&high_bits(narrow)?)?;
    // What is no number goes beyond both ends, and stays none.
    let distance = distance.f_clamp_(i64::from(i16::MIN), i64::from(i16::MAX))?;
    residues.shallow_clone().f_copy_(&distance)
}

/// The bits of bf16 numbers as those of fp32.
fn high_bits(narrow: &Tensor) -> Result<Tensor, TchError> {
    let mut bits = narrow.f_view_dtype(Kind::Int16)?.f_to_kind(Kind::Int)?;
    bits.f_bitwise_left_shift_tensor_scalar_(16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tch::Device;

    use super::*;

    /// Bits of fp32 as a tensor of that type.
    fn numbers(bits: &[u32]) -> Tensor {
        let bits: Vec<i32> = bits.iter().map(|&bits| bits as i32).collect();
        Tensor::from_slice(&bits).view_dtype(Kind::Float)
    }

    fn bits(numbers: &Tensor) -> Vec<u32> {
        let bits = Vec::<i32>::try_from(numbers.view_dtype(Kind::Int)).unwrap();
        bits.into_iter().map(|bits| bits as u32).collect()
    }

    /// The number halved and put together again, and its bf16 half.
    fn there_and_back(wide: &Tensor) -> (Tensor, Tensor) {
        let narrow = wide.empty_like().to_kind(Kind::BFloat16);
        let residues = Tensor::empty(wide.size(), (Kind::Int16, Device::Cpu));
        write(wide, &narrow, &residues).unwrap();
        assert_eq!(residues, of(wide, &narrow).unwrap());
        (whole(&narrow, &residues).unwrap(), narrow)
    }

    #[test]
    fn all_low_halves_stay_but_the_one_half_way_up() {
        for high in [0_u32, 1, 0x3f80, 0x3f81, 0x7f7f, 0x8000, 0xbf80, 0xff7f] {
            let all: Vec<u32> = (0..=0xffff).map(|low| high << 16 | low).collect();
            let wide = numbers(&all);
            let (found, narrow) = there_and_back(&wide);
            assert_eq!(narrow, wide.to_kind(Kind::BFloat16));
            for (found, expected) in bits(&found).into_iter().zip(all) {
                let is_half_way_up = expected & 0x1_ffff == 0x8000;
                assert_eq!(found, expected - u32::from(is_half_way_up), "{expected:x}");
            }
        }
    }

    #[test]
    fn what_is_no_finite_number_stays_none() {
        let wide = Tensor::from_slice(&[f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN]);
        let (found, _) = there_and_back(&wide);
        assert_eq!(bits(&found.narrow(0, 0, 2)), bits(&wide.narrow(0, 0, 2)));
        assert!(found.narrow(0, 2, 2).isnan().all().int64_value(&[]) == 1);
    }

    proptest! {
        #[test]
        fn finite_numbers_stay(bits_of in proptest::collection::vec(any::<u32>(), 1..100)) {
            let is_kept = |bits: &u32| f32::from_bits(*bits).is_finite() && bits & 0x1_ffff != 0x8000;
            let all: Vec<u32> = bits_of.into_iter().filter(is_kept).collect();
            prop_assert_eq!(bits(&there_and_back(&numbers(&all)).0), all);
        }
    }
}
