//! A row of a data set: one video or image, its features and its questions.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::DataError;

/// What a row shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Media {
    /// Frames in time.
    Video,
    /// One picture: one frame.
    Image,
}

impl Media {
    /// The word in the column `media`.
    pub fn as_str(self) -> &'static str {
        match self {
            Media::Video => "video",
            Media::Image => "image",
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Media> {
        [Media::Video, Media::Image].into_iter().find(|media| media.as_str() == word)
    }
}

/// Type of a feature value, two bytes, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

impl Dtype {
    /// Bytes of a value.
    pub const BYTES: usize = 2;

    /// The word in the manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
        }
    }

    /// Whether all values are finite: neither an infinity nor NaN.
    pub fn all_finite(self, values: &[u8]) -> bool {
        let exponent = match self {
            Dtype::F16 => 0x7c00,
            Dtype::Bf16 => 0x7f80,
        };
        values
            .chunks_exact(2)
            .all(|value| u16::from_le_bytes([value[0], value[1]]) & exponent != exponent)
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Dtype {
    type Err = DataError;

    /// Reads `f16` or `bf16`.
    fn from_str(word: &str) -> Result<Dtype, DataError> {
        let found = [Dtype::F16, Dtype::Bf16].into_iter().find(|dtype| dtype.as_str() == word);
        found.ok_or_else(|| {
            DataError::Settings(format!("unknown type `{word}`: f16 and bf16 are known"))
        })
    }
}

/// What made the features. Sets of different encoders are never mixed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encoder {
    /// Its kind, e.g. `patch` or `qformer`.
    pub kind: String,
    /// Hash of its weights and configuration.
    pub hash: String,
    /// Its sizes, for people; the hash stands for them. Left out where empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub config: String,
    /// Height and width in pixels of the frames it saw.
    pub image_size: u32,
    /// How frames were chosen, e.g. `middle:16`.
    pub sampling: String,
    /// Whether features depend on the question; each row then has exactly one pair.
    pub question_conditioned: bool,
}

/// A question and its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Qa {
    /// Task instruction; may be empty.
    pub instruction: String,
    /// The question.
    pub question: String,
    /// The answer.
    pub answer: String,
    /// The choices of a multiple-choice question; may be empty.
    pub options: Vec<String>,
    /// Kind of question, for accuracy by kind; may be empty.
    pub kind: String,
}

impl Qa {
    /// Characters of instruction, question and answer together.
    pub fn text_len(&self) -> usize {
        [&self.instruction, &self.question, &self.answer]
            .iter()
            .map(|text| text.chars().count())
            .sum()
    }
}

/// A row of a data set.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Unique in the data set and stable across reshard.
    pub id: String,
    /// The source, relative to the data set's media root.
    pub video: String,
    /// Video or image.
    pub media: Media,
    /// T, the number of frames.
    pub frames: usize,
    /// K, the tokens of a frame.
    pub tokens: usize,
    /// `[frames, tokens, dim]` in C order, little-endian, of the data set's [`Dtype`]. Values may sit at odd
    /// addresses: copy them before reading them as numbers.
    pub features: Bytes,
    /// Time of each frame in the source in seconds; empty where it is not known.
    pub seconds: Vec<f32>,
    /// One or more pairs; exactly one with a question-conditioned encoder.
    pub qa: Vec<Qa>,
}

/// What all rows of a data set agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowShape {
    pub tokens: usize,
    pub dim: usize,
    pub question_conditioned: bool,
}

impl RowShape {
    /// Bytes of the features of one frame.
    pub fn frame_bytes(self) -> usize {
        self.tokens * self.dim * Dtype::BYTES
    }

    /// Why a row does not belong into a data set of this shape.
    pub fn refuse(self, row: &Row) -> Option<String> {
        self.refuse_sized(row, row.features.len())
    }

    /// As [`Self::refuse`], of a row whose features are elsewhere and have so many bytes.
    pub fn refuse_sized(self, row: &Row, bytes: usize) -> Option<String> {
        let expected = row.frames.checked_mul(self.frame_bytes());
        let reason = if row.id.is_empty() {
            "the id is empty".to_owned()
        } else if row.frames == 0 {
            "it has no frames".to_owned()
        } else if row.media == Media::Image && row.frames != 1 {
            format!("an image has one frame, not {}", row.frames)
        } else if row.tokens != self.tokens {
            format!("{} tokens a frame, the data set has {}", row.tokens, self.tokens)
        } else if expected != Some(bytes) {
            self.wrong_size(row, bytes)
        } else if !row.seconds.is_empty() && row.seconds.len() != row.frames {
            format!("{} times for {} frames", row.seconds.len(), row.frames)
        } else {
            return self.refuse_pairs(row);
        };
        Some(reason)
    }

    fn wrong_size(self, row: &Row, bytes: usize) -> String {
        format!(
            "{bytes} bytes of features, but {} frames × {} tokens × {} values of {} bytes are needed",
            row.frames,
            self.tokens,
            self.dim,
            Dtype::BYTES
        )
    }

    fn refuse_pairs(self, row: &Row) -> Option<String> {
        if row.qa.is_empty() {
            return Some("it has no question".to_owned());
        }
        let several = self.question_conditioned && row.qa.len() != 1;
        several.then(|| {
            format!(
                "{} questions, but the features depend on the question: one is allowed",
                row.qa.len()
            )
        })
    }
}

impl Row {
    pub(crate) fn check(&self, shape: RowShape, dtype: Dtype) -> Result<(), DataError> {
        let refuse = |reason| Err(DataError::Row { id: self.id.clone(), reason });
        if let Some(reason) = shape.refuse(self) {
            return refuse(reason);
        }
        if !dtype.all_finite(&self.features) {
            return refuse("a feature is infinite or not a number".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finite_means_neither_infinity_nor_nan() {
        for (value, finite) in
            [(f32::MAX, false), (f32::NAN, false), (f32::NEG_INFINITY, false), (-65504.0, true)]
        {
            let half = half::f16::from_f32(value).to_le_bytes();
            assert_eq!(Dtype::F16.all_finite(&half), finite, "{value}");
        }
        assert!(Dtype::Bf16.all_finite(&half::bf16::MAX.to_le_bytes()));
        assert!(!Dtype::Bf16.all_finite(&half::bf16::INFINITY.to_le_bytes()));
        assert!(!Dtype::Bf16.all_finite(&half::bf16::NAN.to_le_bytes()));
    }
}
