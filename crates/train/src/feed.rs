//! From rows of a data set to samples of the model.

use strand_data::{Dtype, Prompter, Qa};
use strand_model::{Sample, VideoInput};
use tch::{Kind, Tensor};

use crate::error::TrainError;
use crate::masking::Masks;

/// Turns loaded samples into the model's, with their masks.
pub struct Feed<'a> {
    /// Builds prompts.
    pub prompter: &'a Prompter,
    /// The stage's video input.
    pub input: VideoInput,
    /// The stage's masks.
    pub masks: Masks,
    /// Samples that go through the model at once; all where unset.
    pub micro: Option<usize>,
}

impl Feed<'_> {
    /// Cuts this rank's samples into micro-batches and masks them.
    ///
    /// # Errors
    /// A text cannot be tokenized or features do not have their shape.
    pub fn micro_batches(
        &self,
        samples: &[strand_data::Sample],
        step: u64,
    ) -> Result<Vec<Vec<Sample>>, TrainError> {
        let size = self.micro.unwrap_or(samples.len()).max(1);
        let micro_batch = |(index, samples): (usize, &[strand_data::Sample])| {
            let rate = self.masks.rate(step, index);
            samples.iter().map(|sample| self.masked(sample, step, rate)).collect()
        };
        samples.chunks(size).enumerate().map(micro_batch).collect()
    }

    fn masked(
        &self,
        sample: &strand_data::Sample,
        step: u64,
        rate: Option<f64>,
    ) -> Result<Sample, TrainError> {
        let mut result = model_sample(self.prompter, sample, &sample.qa)?;
        let num_visual = result.num_visual(self.input);
        result.dropout_key = Some(self.masks.dropout_key(step, &sample.id));
        result.kept = rate.map(|rate| self.masks.kept(step, &sample.id, rate, num_visual));
        Ok(result)
    }
}

/// A sample with all its visual tokens, of which nothing is dropped.
///
/// # Errors
/// A text cannot be tokenized or features do not have their shape.
pub fn model_sample(
    prompter: &Prompter,
    sample: &strand_data::Sample,
    qa: &Qa,
) -> Result<Sample, TrainError> {
    let tokens = prompter.encode(qa)?;
    let ids = |ids: Vec<u32>| ids.into_iter().map(i64::from).collect();
    Ok(Sample {
        before: ids(tokens.before),
        features: features(sample)?,
        kept: None,
        after: ids(tokens.after),
        answer: ids(tokens.answer),
        dropout_key: None,
    })
}

/// `[frames, tokens, dim]` in the type of the data set: the memory of the batch itself.
fn features(sample: &strand_data::Sample) -> Result<Tensor, TrainError> {
    let kind = match sample.dtype {
        Dtype::F16 => Kind::Half,
        Dtype::Bf16 => Kind::BFloat16,
    };
    let shape = [sample.frames, sample.tokens, sample.dim].map(|size| size as i64);
    strand_torch::from_bytes(sample.features.clone(), &shape, kind)
        .map_err(|source| TrainError::Features { id: sample.id.clone(), source })
}
