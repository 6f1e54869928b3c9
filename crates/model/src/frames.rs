//! From frames to visual tokens: the three video inputs.

use strand_torch::upload;
use tch::Tensor;

use crate::config::{Config, VideoInput};
use crate::error::ModelError;
use crate::parameter::{Parameters, Weight};
use crate::precision::{linear, wide};

/// Indices of `local` frames among `frames`: `int(s/2 + round_half_even(s·i))` with s = frames ÷ local, at most frames − 1.
pub fn local_frame_indices(frames: i64, local: i64) -> Vec<i64> {
    let stride = frames as f64 / local as f64;
    let index = |i: i64| (stride / 2.0 + (stride * i as f64).round_ties_even()) as i64;
    (0..local).map(|i| index(i).min(frames - 1)).collect()
}

/// Visual tokens of one frame set: `frames` × `tokens` features become this many.
pub fn num_visual_tokens(input: VideoInput, frames: i64, tokens: i64) -> i64 {
    match input {
        _ if frames <= 1 => frames * tokens,
        VideoInput::All => frames * tokens,
        VideoInput::Mean => tokens,
        VideoInput::GlobalLocal { local_frames } => local_frames * tokens,
    }
}

/// The projector and, for global-local input, the adapter of the mean.
pub struct FrameEncoder {
    weight: Weight,
    bias: Weight,
    adapter: Option<Adapter>,
}

/// Down, ReLU, up.
struct Adapter {
    down: (Weight, Weight),
    up: (Weight, Weight),
}

impl FrameEncoder {
    pub fn new(config: &Config, parameters: &Parameters) -> Result<FrameEncoder, ModelError> {
        let pair = |name: &str| -> Result<_, ModelError> {
            Ok((
                parameters.handle(&format!("{name}.weight"))?,
                parameters.handle(&format!("{name}.bias"))?,
            ))
        };
        let (weight, bias) = pair("proj")?;
        let adapter = match config.adapter_size {
            None => None,
            Some(_) => {
                Some(Adapter { down: pair("global_local.down")?, up: pair("global_local.up")? })
            }
        };
        Ok(FrameEncoder { weight, bias, adapter })
    }

    /// Features `[n, frames, tokens, feature_size]` → visual tokens `[n, L, hidden]`, frame by frame.
    pub fn forward(&self, features: &Tensor, input: VideoInput) -> Result<Tensor, ModelError> {
        let (n, frames) = (features.size()[0], features.size()[1]);
        let projected = affine(features, &self.weight, &self.bias)?;
        let hidden = self.weight.size()[0];
        let visual = match input {
            _ if frames == 1 => projected,
            VideoInput::All => projected,
            VideoInput::Mean => mean_over_frames(&projected),
            VideoInput::GlobalLocal { local_frames } => {
                let adapter = self.adapter.as_ref().ok_or_else(no_adapter)?;
                let indices = local_frame_indices(frames, local_frames);
                let indices = upload(&Tensor::from_slice(&indices), features.device())?;
                let global = adapter.forward(&mean_over_frames(&projected))?;
                projected.index_select(1, &indices) + global.unsqueeze(1)
            }
        };
        Ok(visual.reshape([n, -1, hidden]))
    }
}

impl Adapter {
    fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let inner = affine(x, &self.down.0, &self.down.1)?.relu();
        affine(&inner, &self.up.0, &self.up.1)
    }
}

fn mean_over_frames(x: &Tensor) -> Tensor {
    x.mean_dim(1, false, wide(x.kind())).to_kind(x.kind())
}

fn no_adapter() -> ModelError {
    ModelError::Config("input global_local needs model.adapter_size".into())
}

/// A product with a weight, and a bias added.
pub fn affine(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor, ModelError> {
    Ok(linear(x, weight)? + bias.to_kind(x.kind()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paper_s_indices() {
        assert_eq!(local_frame_indices(64, 16), (0..16).map(|i| 2 + 4 * i).collect::<Vec<_>>());
    }

    #[test]
    fn few_frames_are_clamped_to_the_last() {
        let indices = local_frame_indices(8, 16);
        assert_eq!(indices.len(), 16);
        assert_eq!(indices.last(), Some(&7));
    }

    #[test]
    fn halves_round_to_even() {
        // s = 2.5: s·1 = 2.5 rounds to 2, s·3 = 7.5 to 8.
        assert_eq!(local_frame_indices(10, 4), [1, 3, 6, 9]);
    }
}
