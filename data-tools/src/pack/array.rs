//! Arrays of numbers as files hold them, and as rows need them.

use half::{bf16, f16};
use strand_data::Dtype;

/// Types of numbers that features may come in, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// IEEE single precision.
    F32,
}

impl Number {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Number::F16 | Number::Bf16 => 2,
            Number::F32 => 4,
        }
    }

    fn read(self, bytes: &[u8]) -> f32 {
        match *bytes {
            [a, b] if self == Number::F16 => f16::from_le_bytes([a, b]).to_f32(),
            [a, b] => bf16::from_le_bytes([a, b]).to_f32(),
            [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
            // Chunks are of `bytes()` bytes.
            _ => f32::NAN,
        }
    }
}

/// What the header of an array says, checked against the size of its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Type of a number.
    pub number: Number,
    /// Sizes of the axes, the last one moving fastest.
    pub shape: Vec<usize>,
}

impl Header {
    /// Bytes of the body; `None` where no memory holds so many.
    pub fn body_bytes(&self) -> Option<u64> {
        let numbers = self.shape.iter().try_fold(1_usize, |all, &size| all.checked_mul(size))?;
        numbers.checked_mul(self.number.bytes()).and_then(|bytes| u64::try_from(bytes).ok())
    }
}

/// The shape of a sample's features, whatever their file called it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frames {
    /// T.
    pub frames: usize,
    /// K, the tokens of a frame.
    pub tokens: usize,
    /// F, the values of a token.
    pub dim: usize,
}

impl Frames {
    /// Reads `[T, K, F]`; with `tokens` also `[T·K, F]`, without it `[K, F]`, which is one frame.
    ///
    /// # Errors
    /// The reason why a shape is none of these.
    pub fn of(shape: &[usize], tokens: Option<usize>) -> Result<Frames, String> {
        let frames = match (shape, tokens) {
            (&[frames, k, dim], None) => Frames { frames, tokens: k, dim },
            (&[frames, k, dim], Some(tokens)) if k == tokens => Frames { frames, tokens, dim },
            ([_, k, _], Some(tokens)) => {
                return Err(format!("shape {shape:?} has {k} tokens a frame, not {tokens}"));
            }
            (&[k, dim], None) => Frames { frames: 1, tokens: k, dim },
            (&[rows, dim], Some(tokens)) if tokens > 0 && rows.is_multiple_of(tokens) => {
                Frames { frames: rows / tokens, tokens, dim }
            }
            ([rows, _], Some(tokens)) => {
                return Err(format!(
                    "shape {shape:?}: {rows} is not a multiple of {tokens} tokens a frame"
                ));
            }
            _ => return Err(format!("shape {shape:?} is not [frames, tokens, values]")),
        };
        match [frames.frames, frames.tokens, frames.dim].contains(&0) {
            true => Err(format!("shape {shape:?} is empty")),
            false => Ok(frames),
        }
    }
}

/// Brings numbers to the type of a data set, rounded to nearest, ties to even.
///
/// # Errors
/// The first number, counted from 0, that is infinite, not a number, or beyond the range of the type.
pub fn convert(number: Number, body: &[u8], dtype: Dtype) -> Result<Vec<u8>, String> {
    let kept = matches!((number, dtype), (Number::F16, Dtype::F16) | (Number::Bf16, Dtype::Bf16));
    if kept && dtype.all_finite(body) {
        return Ok(body.to_vec());
    }
    let mut bytes = Vec::with_capacity(body.len() / number.bytes() * Dtype::BYTES);
    for (index, chunk) in body.chunks_exact(number.bytes()).enumerate() {
        let value = number.read(chunk);
        let (stored, finite) = match dtype {
            Dtype::F16 => (f16::from_f32(value).to_le_bytes(), f16::from_f32(value).is_finite()),
            Dtype::Bf16 => (bf16::from_f32(value).to_le_bytes(), bf16::from_f32(value).is_finite()),
        };
        if !finite {
            return Err(unusable(index, value, dtype));
        }
        bytes.extend(stored);
    }
    Ok(bytes)
}

fn unusable(index: usize, value: f32, dtype: Dtype) -> String {
    match value.is_finite() {
        true => format!("value {index} is {value}, too large for {}", dtype.as_str()),
        false => format!("value {index} is {value}: features are finite numbers"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn shapes_are_read_as_frames_of_tokens() {
        let frames = |frames, tokens, dim| Ok(Frames { frames, tokens, dim });
        assert_eq!(Frames::of(&[4, 2, 8], None), frames(4, 2, 8));
        assert_eq!(Frames::of(&[2, 8], None), frames(1, 2, 8));
        assert_eq!(Frames::of(&[8, 8], Some(2)), frames(4, 2, 8));
        for (shape, tokens, reason) in [
            (&[8][..], None, "is not [frames"),
            (&[4, 3, 8], Some(2), "has 3 tokens"),
            (&[7, 8], Some(2), "not a multiple of 2"),
            (&[7, 8], Some(0), "not a multiple of 0"),
            (&[4, 0, 8], None, "is empty"),
            (&[1, 4, 2, 8], None, "is not [frames"),
        ] {
            let error = Frames::of(shape, tokens).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn numbers_are_converted_or_refused_by_their_place() {
        let halves: Vec<u8> =
            [0.5, -2.0].map(f16::from_f32).iter().flat_map(|h| h.to_le_bytes()).collect();
        let brains: Vec<u8> =
            [0.5, -2.0].map(bf16::from_f32).iter().flat_map(|h| h.to_le_bytes()).collect();
        for (number, body) in
            [(Number::F16, &halves), (Number::Bf16, &brains), (Number::F32, &floats(&[0.5, -2.0]))]
        {
            assert_eq!(convert(number, body, Dtype::F16).unwrap(), halves, "{number:?}");
            assert_eq!(convert(number, body, Dtype::Bf16).unwrap(), brains, "{number:?}");
        }
        let refuse = |number, body: &[u8], dtype| convert(number, body, dtype).unwrap_err();
        let large = floats(&[1.0, 70_000.0]);
        assert!(refuse(Number::F32, &large, Dtype::F16).contains("value 1 is 70000, too large"));
        assert!(convert(Number::F32, &large, Dtype::Bf16).is_ok());
        assert!(refuse(Number::F32, &floats(&[f32::NAN]), Dtype::F16).contains("value 0 is NaN"));
        let infinite = f16::INFINITY.to_le_bytes();
        assert!(refuse(Number::F16, &infinite, Dtype::F16).contains("value 0 is inf"));
    }

    #[test]
    fn sizes_that_no_memory_holds_are_no_size() {
        let header = |shape| Header { number: Number::F32, shape };
        assert_eq!(header(vec![2, 3]).body_bytes(), Some(24));
        assert_eq!(header(vec![usize::MAX, 2]).body_bytes(), None);
        assert_eq!(header(vec![usize::MAX / 2]).body_bytes(), None);
    }
}
