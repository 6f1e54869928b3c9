//! Values of one type as those of another.

use half::{bf16, f16};

use crate::Dtype;

/// A number that a narrower type cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("the value {0} is too great for the type")]
pub struct Overflow(pub f32);

/// Little-endian values as fp32, rounded to nearest where they are fp64. What is left of a whole value is not looked at.
pub fn to_f32(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    match dtype {
        Dtype::F64 => map(bytes, |value| f64::from_le_bytes(value) as f32),
        Dtype::F32 => map(bytes, f32::from_le_bytes),
        Dtype::Bf16 => map(bytes, |value| bf16::from_le_bytes(value).to_f32()),
        Dtype::F16 => map(bytes, |value| f16::from_le_bytes(value).to_f32()),
    }
}

fn map<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|&bytes| value(bytes)).collect()
}

/// fp32 as little-endian values of a type, rounded to nearest.
///
/// # Errors
/// [`Overflow`] for the first finite value that would become infinite.
pub fn from_f32(values: &[f32], dtype: Dtype) -> Result<Vec<u8>, Overflow> {
    let mut bytes = Vec::with_capacity(values.len() * dtype.bytes() as usize);
    for &value in values {
        let is_finite = match dtype {
            Dtype::F64 => push(&mut bytes, f64::from(value).to_le_bytes(), true),
            Dtype::F32 => push(&mut bytes, value.to_le_bytes(), true),
            Dtype::Bf16 => {
                let value = bf16::from_f32(value);
                push(&mut bytes, value.to_le_bytes(), value.is_finite())
            }
            Dtype::F16 => {
                let value = f16::from_f32(value);
                push(&mut bytes, value.to_le_bytes(), value.is_finite())
            }
        };
        if value.is_finite() && !is_finite {
            return Err(Overflow(value));
        }
    }
    Ok(bytes)
}

fn push<const N: usize>(bytes: &mut Vec<u8>, value: [u8; N], is_finite: bool) -> bool {
    bytes.extend(value);
    is_finite
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_where_the_type_holds_them() {
        let values = [0.0, -1.5, 256.0, f32::INFINITY];
        for dtype in [Dtype::F64, Dtype::F32, Dtype::Bf16, Dtype::F16] {
            let bytes = from_f32(&values, dtype).unwrap();
            assert_eq!(bytes.len() as u64, 4 * dtype.bytes());
            assert_eq!(to_f32(&bytes, dtype), values, "{dtype:?}");
        }
    }

    #[test]
    fn rounding_is_to_nearest_even() {
        // 1 + 2⁻⁸ lies between two bf16, of which 1 is the even one.
        let halfway = 1.0 + 2.0_f32.powi(-8);
        let bytes = from_f32(&[halfway, halfway + 2.0_f32.powi(-9)], Dtype::Bf16).unwrap();
        assert_eq!(to_f32(&bytes, Dtype::Bf16), [1.0, 1.0 + 2.0_f32.powi(-7)]);
    }

    #[test]
    fn what_a_type_cannot_hold_is_an_error() {
        assert_eq!(from_f32(&[1.0, 70000.0], Dtype::F16), Err(Overflow(70000.0)));
        assert!(from_f32(&[70000.0], Dtype::Bf16).is_ok());
    }
}
