//! What a visit to a row sees: some of its frames and one of its questions.

use bytes::Bytes;

use crate::{DataError, Dtype, FrameRule, Media, Qa, Row, below, draw, frames};

/// One sample of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Id of the row.
    pub id: String,
    /// How often its set was gone through before.
    pub epoch: u64,
    /// The data set, as numbered in [`crate::Loader::open`].
    pub set: usize,
    /// Video or image.
    pub media: Media,
    /// Frames in `features`.
    pub frames: usize,
    /// Tokens of a frame.
    pub tokens: usize,
    /// Values of a token.
    pub dim: usize,
    /// Type of a value.
    pub dtype: Dtype,
    /// `[frames, tokens, dim]` of the chosen frames in C order, little-endian, aligned: a slice of
    /// [`crate::Batch::features`].
    pub features: Bytes,
    /// The pair that this visit trains, drawn by (seed, epoch, id).
    pub qa: Qa,
    /// All pairs of the row, for evaluation.
    pub pairs: Vec<Qa>,
}

/// How samples are made of rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visit {
    pub seed: u64,
    pub frames: Option<usize>,
    pub sampling: FrameRule,
    pub dim: usize,
    pub dtype: Dtype,
}

impl Visit {
    /// The sample of a row in an epoch of its set; `features` are those of its frames, as [`Self::frames`] chose them.
    pub fn sample(
        self,
        row: &Row,
        set: usize,
        epoch: u64,
        features: Bytes,
    ) -> Result<Sample, DataError> {
        let pair = below(&mut draw(self.seed, epoch, &row.id, "question"), row.qa.len() as u64);
        let without =
            || DataError::Row { id: row.id.clone(), reason: "it has no question".to_owned() };
        Ok(Sample {
            id: row.id.clone(),
            epoch,
            set,
            media: row.media,
            frames: features.len() / self.frame_bytes(row).max(1),
            tokens: row.tokens,
            dim: self.dim,
            dtype: self.dtype,
            features,
            qa: row.qa.get(pair as usize).cloned().ok_or_else(without)?,
            pairs: row.qa.clone(),
        })
    }

    /// Bytes of the features of one frame.
    pub fn frame_bytes(self, row: &Row) -> usize {
        row.tokens * self.dim * Dtype::BYTES
    }

    /// The chosen frames: as many as asked for, the last one repeated in short clips. An image stays one frame.
    pub fn frames(self, row: &Row, epoch: u64) -> Vec<usize> {
        let wanted = match row.media {
            Media::Image => row.frames,
            Media::Video => self.frames.unwrap_or(row.frames),
        };
        match self.sampling {
            _ if wanted == row.frames => (0..wanted).collect(),
            FrameRule::Middle => frames::middle(row.frames, wanted),
            FrameRule::Rand => {
                frames::rand(row.frames, wanted, &mut draw(self.seed, epoch, &row.id, "frames"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{DIM, row};

    fn visit(frames: Option<usize>, sampling: FrameRule) -> Visit {
        Visit { seed: 1, frames, sampling, dim: DIM, dtype: Dtype::F16 }
    }

    #[test]
    fn frames_are_chosen_or_repeated() {
        let row = row(2, 8);
        let frames = |frames, rule, epoch| visit(frames, rule).frames(&row, epoch);
        assert_eq!(frames(None, FrameRule::Rand, 0), (0..8).collect::<Vec<_>>());
        assert_eq!(frames(Some(4), FrameRule::Middle, 0), [0, 2, 4, 6]);
        assert_eq!(frames(Some(10), FrameRule::Middle, 0), [0, 1, 2, 3, 4, 5, 6, 7, 7, 7]);
        let drawn = |epoch| frames(Some(4), FrameRule::Rand, epoch);
        assert_eq!(drawn(3), drawn(3));
        assert!((0..9).any(|epoch| drawn(epoch) != drawn(epoch + 1)));
    }

    #[test]
    fn an_image_stays_one_frame() {
        let row = row(1, 1);
        let visit = visit(Some(4), FrameRule::Middle);
        assert_eq!(visit.frames(&row, 0), [0]);
        let sample = visit.sample(&row, 0, 0, row.features.clone()).expect("a sample");
        assert_eq!(sample.frames, 1);
    }

    #[test]
    fn each_question_has_its_turn() {
        let row = row(2, 2);
        let visit = visit(None, FrameRule::Middle);
        let drawn = |epoch| visit.sample(&row, 0, epoch, Bytes::new()).expect("a sample").qa;
        let counts =
            row.qa.iter().map(|pair| (0..300).filter(|&epoch| drawn(epoch) == *pair).count());
        assert!(
            counts.clone().all(|count| (70..130).contains(&count)),
            "{:?}",
            counts.collect::<Vec<_>>()
        );
        assert_eq!(visit.sample(&row, 0, 0, Bytes::new()).expect("a sample").pairs, row.qa);
    }
}
