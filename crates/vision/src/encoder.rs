//! A model's folder as an encoder of clips.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use crate::config::Config;
use crate::error::VisionError;
use crate::eva::EvaVit;
use crate::preprocess::Preprocess;
use crate::qformer::{QFormer, Text};
use crate::question::QuestionTokenizer;
use crate::weights::Weights;

/// How an encoder computes.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Type of weights and hidden states: `Float`, `BFloat16` or `Half`. Norms and softmax are fp32 always.
    pub kind: Kind,
    /// Where.
    pub device: Device,
    /// Frames that go through the vision transformer together.
    pub batch: usize,
}

/// EVA ViT-g and a Q-Former with all that belongs to them.
#[derive(Debug)]
pub struct Encoder {
    config: Config,
    preprocess: Preprocess,
    vit: EvaVit,
    qformer: QFormer,
    questions: Option<QuestionTokenizer>,
    hash: String,
    options: Options,
}

impl Encoder {
    /// Reads a Hugging Face folder; of its weights only those of the encoder.
    ///
    /// # Errors
    /// [`VisionError`] names the file, and the key or tensor.
    pub fn open(folder: &Path, options: Options) -> Result<Encoder, VisionError> {
        let config = Config::load(&folder.join("config.json"))?;
        let preprocess = Preprocess::load(folder, &config)?;
        let questions = match config.family.is_question_conditioned() {
            true => Some(QuestionTokenizer::load(folder, &config.qformer)?),
            false => None,
        };
        let weights = Weights::open(folder)?;
        let mut reader = weights.reader(options.kind, options.device);
        let vit = EvaVit::read(&config.vision, &mut reader)?;
        let qformer = QFormer::read(&config, &mut reader)?;
        let mut identity = reader.into_identity();
        identity.add("config", serde_json::json!(config).to_string().as_bytes());
        identity.add("preprocess", serde_json::json!(preprocess).to_string().as_bytes());
        if let Some(questions) = &questions {
            identity.add("question tokenizer", &questions.bytes);
        }
        let hash = identity.finish();
        Ok(Encoder { config, preprocess, vit, qformer, questions, hash, options })
    }

    /// The model's sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// BLAKE3 of the tensors, the configuration, the preparation of frames and the tokenizer, in hex. The type of the
    /// computation and the device are no part of it.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Features of a clip: `pixels` `[frames, image_size, image_size, 3]` → `[rows, frames, queries, hidden]` in the
    /// type of the computation, on its device.
    ///
    /// A question-conditioned encoder gives a row for each of `questions` (instruction included); another one takes
    /// none and gives one row. Each row is what it would be alone.
    ///
    /// # Errors
    /// [`VisionError::Input`] for pixels or questions that it does not take, [`VisionError::Question`],
    /// [`VisionError::Torch`].
    pub fn encode(&self, pixels: &[u8], questions: &[String]) -> Result<Tensor, VisionError> {
        if questions.is_empty() == self.questions.is_some() {
            let reason = match questions.len() {
                0 => "the encoder needs a question",
                _ => "the encoder takes no question",
            };
            return Err(VisionError::Input(reason.to_owned()));
        }
        tch::no_grad(|| {
            let frames = self.look(pixels)?;
            match &self.questions {
                None => Ok(self.qformer.forward(&frames, None)?.f_unsqueeze(0)?),
                Some(tokenizer) => {
                    let row = |question: &String| self.ask(&frames, &tokenizer.ids(question)?);
                    let rows: Result<Vec<Tensor>, VisionError> =
                        questions.iter().map(row).collect();
                    Ok(Tensor::f_stack(&rows?, 0)?)
                }
            }
        })
    }

    /// Hidden states of the vision transformer, `[frames, tokens, width]`.
    fn look(&self, pixels: &[u8]) -> Result<Tensor, VisionError> {
        let Options { kind, device, batch } = self.options;
        let frame = self.preprocess.image_size.pow(2) * 3;
        let forward = |pixels| self.vit.forward(&self.preprocess.normalise(pixels, kind, device)?);
        let parts: Result<Vec<Tensor>, VisionError> =
            pixels.chunks(frame * batch.max(1)).map(forward).collect();
        let parts = parts?;
        if parts.is_empty() {
            return Err(VisionError::Input("there is no frame".to_owned()));
        }
        Ok(Tensor::f_cat(&parts, 0)?)
    }

    /// One question about all frames.
    fn ask(&self, frames: &Tensor, ids: &[i64]) -> Result<Tensor, VisionError> {
        let count = frames.size()[0];
        let ids = Tensor::f_from_slice(ids)?.f_to_device(self.options.device)?;
        let ids = ids.f_unsqueeze(0)?.f_repeat([count, 1])?;
        let mask = ids.f_ones_like()?;
        self.qformer.forward(frames, Some(&Text { ids, mask }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::tokenizer;
    use crate::testing::random_folder;

    const FP32: Options = Options { kind: Kind::Float, device: Device::Cpu, batch: 2 };

    fn pixels(frames: usize) -> Vec<u8> {
        (0..frames * 28 * 28 * 3).map(|at| (at * 7 % 251) as u8).collect()
    }

    fn close(a: &Tensor, b: &Tensor, tolerance: f64) -> bool {
        let (a, b) = (a.to_kind(Kind::Float), b.to_kind(Kind::Float));
        a.size() == b.size() && (a - b).abs().max().double_value(&[]) < tolerance
    }

    #[test]
    fn a_question_free_encoder_gives_one_row() {
        let folder = random_folder(false);
        let encoder = Encoder::open(folder.path(), FP32).unwrap();
        let features = encoder.encode(&pixels(3), &[]).unwrap();
        assert_eq!(features.size(), [1, 3, 6, 32]);
        let wide = Options { batch: 16, ..FP32 };
        let whole = Encoder::open(folder.path(), wide).unwrap().encode(&pixels(3), &[]).unwrap();
        assert!(close(&features, &whole, 1e-5), "the batch does not matter");
        assert!(encoder.encode(&pixels(1), &["what?".to_owned()]).is_err());
        assert!(encoder.encode(&[], &[]).is_err());
    }

    #[test]
    fn a_question_conditioned_encoder_gives_a_row_a_question() {
        let folder = random_folder(true);
        let encoder = Encoder::open(folder.path(), FP32).unwrap();
        let questions = ["what?".to_owned(), "what happens?".to_owned()];
        let both = encoder.encode(&pixels(2), &questions).unwrap();
        assert_eq!(both.size(), [2, 2, 6, 32]);
        assert!(!close(&both.get(0), &both.get(1), 1e-3), "the question matters");
        let alone = encoder.encode(&pixels(2), &questions[1..]).unwrap();
        assert!(both.get(1).equal(&alone.get(0)), "each row is what it would be alone");
        assert!(encoder.encode(&pixels(1), &[]).is_err());
    }

    #[test]
    fn half_precision_is_near() {
        let folder = random_folder(true);
        let questions = ["what happens?".to_owned()];
        let encode = |kind| {
            let encoder = Encoder::open(folder.path(), Options { kind, ..FP32 }).unwrap();
            let features = encoder.encode(&pixels(2), &questions).unwrap();
            assert_eq!(features.kind(), kind);
            features
        };
        let exact = encode(Kind::Float);
        assert!(close(&encode(Kind::BFloat16), &exact, 0.15));
        assert!(close(&encode(Kind::Half), &exact, 0.02));
    }

    #[test]
    fn the_hash_follows_all_that_counts() {
        let folder = random_folder(true);
        let hash = || Encoder::open(folder.path(), FP32).unwrap().hash().to_owned();
        let first = hash();
        assert_eq!(first, hash());
        let half = Options { kind: Kind::Half, ..FP32 };
        assert_eq!(first, Encoder::open(folder.path(), half).unwrap().hash());
        let path = folder.path().join("qformer_tokenizer/tokenizer.json");
        std::fs::write(path, tokenizer().replace("[MASK]", "[mask]")).unwrap();
        let second = hash();
        assert_ne!(first, second);
        let preprocessor = folder.path().join("preprocessor_config.json");
        std::fs::write(preprocessor, r#"{"image_mean": [0.5, 0.5, 0.5]}"#).unwrap();
        assert_ne!(second, hash());
    }
}
