//! The whole model: features and token ids in, losses out.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use strand_comm::Group;
use strand_torch::upload;
use tch::{Device, Kind, Tensor};

use crate::batch::{Layout, Sample, Sequences, dropout_keys};
use crate::config::{Config, VideoInput};
use crate::error::ModelError;
use crate::frames::FrameEncoder;
use crate::init;
use crate::llama::{Llama, Recompute};
use crate::lm_loss::LmHead;
use crate::mvm::{Decoder, distance_sum};
use crate::parallel::embed;
use crate::parameter::{Parameters, Weight};
use crate::residency::Residency;
use crate::slices::Slices;

/// How a micro-batch goes through the model.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    /// The token path.
    pub input: VideoInput,
    /// Masked video modelling: off, or on with (`true`) or without the decoder.
    pub mvm: Option<bool>,
    /// Compute type.
    pub kind: Kind,
    /// What the layers compute again in the backward pass.
    pub recompute: Recompute,
}

/// What a micro-batch adds to the step's sums.
pub struct Losses {
    /// Language-model loss of each label, `[labels]`, fp32.
    pub lm: Tensor,
    /// The sample of each label.
    pub label_samples: Vec<usize>,
    /// Sum of the masked-video-modelling loss over the compared tokens, fp32; none where nothing is compared.
    pub mvm_sum: Option<Tensor>,
    /// Compared tokens.
    pub num_compared: i64,
}

/// One tensor-parallel rank's slices of the model.
pub struct VideoLm {
    config: Config,
    parameters: Parameters,
    embed_tokens: Weight,
    frames: FrameEncoder,
    llama: Llama,
    lm_head: LmHead,
    decoder: Option<Decoder>,
    slices: Slices,
    device: Device,
    residency: Option<Arc<dyn Residency>>,
}

impl VideoLm {
    /// A model with freshly drawn weights; `draws` gives each parameter's name a generator of its own. They are kept in
    /// `kind`: fp32, or fp64 to tell rounding from mistakes.
    ///
    /// # Errors
    /// The sizes do not fit each other or the tensor-parallel size.
    pub fn fresh(
        config: Config,
        init_std: f64,
        tp: &Group,
        (kind, device): (Kind, Device),
        draws: impl Fn(&str) -> ChaCha8Rng,
    ) -> Result<VideoLm, ModelError> {
        let (rank, size) = (tp.rank() as i64, tp.size() as i64);
        let parameters = init::fresh(&config, init_std, rank, size, (kind, device), draws)?;
        let slices = Slices::new(tp, config.exact_tp, config.sequence_parallel);
        Ok(VideoLm {
            embed_tokens: parameters.handle("model.embed_tokens.weight")?,
            frames: FrameEncoder::new(&config, &parameters)?,
            llama: Llama::new(&config, &parameters, &slices)?,
            lm_head: LmHead::new(&config, &parameters, &slices)?,
            decoder: config.mvm_decoder.then(|| Decoder::new(&parameters)).transpose()?,
            config,
            parameters,
            slices,
            device,
            residency: None,
        })
    }

    /// Has the weights of the layers there only while they compute.
    pub fn set_residency(&mut self, residency: Option<Arc<dyn Residency>>) {
        self.residency = residency;
    }

    /// The parameters, in an order that is the same on every rank.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// This rank's tensor-parallel slices.
    pub fn slices(&self) -> &Slices {
        &self.slices
    }

    /// The sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Losses of a micro-batch. All tensor-parallel ranks pass the same samples, whose memory a GPU reads later: it must
    /// stay until something that comes of the losses has been waited for.
    ///
    /// # Errors
    /// A sample does not fit the model, or a collective failed.
    pub fn losses(&self, samples: &[Sample], pass: Pass) -> Result<Losses, ModelError> {
        let layout = Layout::new(samples, &self.config, pass.input, pass.mvm.is_some())?;
        let source = self.source(samples, &layout, pass)?;
        let keys = dropout_keys(samples)?;
        let (num_labels, num_compared) =
            (layout.labels.len() as i64, layout.student_compared.len() as i64);
        let read = [&layout.label_positions[..], &layout.student_compared].concat();
        let student =
            self.hidden(&source, &layout.student, Some(&read), pass.recompute, keys.as_deref())?;
        let at_labels = student.narrow(0, 0, num_labels);
        let lm = self.lm_head.losses(&at_labels, &self.indices(&layout.labels)?)?;
        let mvm_sum = match pass.mvm {
            Some(decoder) if num_compared > 0 => {
                let compared = student.narrow(0, num_labels, num_compared);
                Some(self.mvm_sum(&source, &compared, &layout, decoder)?)
            }
            _ => None,
        };
        Ok(Losses { lm, label_samples: layout.label_samples, mvm_sum, num_compared })
    }

    /// What follows each token of a text: `ids` `[n]` → logits `[n, vocab_size]`, without gradient. Training needs none:
    /// this is for comparing with other programs.
    ///
    /// # Errors
    /// An id is outside the vocabulary, there are too many, or a collective failed.
    pub fn text_logits(&self, ids: &[i64], kind: Kind) -> Result<Tensor, ModelError> {
        let features = Tensor::zeros([0, 1, self.config.feature_size], (kind, self.device));
        let (before, after, answer) = (ids.to_vec(), Vec::new(), Vec::new());
        let sample = Sample { before, features, kept: None, after, answer, dropout_key: None };
        let samples = std::slice::from_ref(&sample);
        let pass = Pass { input: VideoInput::All, mvm: None, kind, recompute: Recompute::Nothing };
        tch::no_grad(|| {
            let layout = Layout::new(samples, &self.config, pass.input, false)?;
            let source = self.source(samples, &layout, pass)?;
            let hidden = self.hidden(&source, &layout.student, None, Recompute::Nothing, None)?;
            self.lm_head.all_logits(&hidden)
        })
    }

    /// `[text tokens + visual tokens + 1, hidden]`: embeddings, projected features and a row of zeros for padding.
    fn source(
        &self,
        samples: &[Sample],
        layout: &Layout,
        pass: Pass,
    ) -> Result<Tensor, ModelError> {
        let first = self.embed_tokens.size()[0] * self.slices.tp.rank() as i64;
        let ids = self.indices(&layout.text_ids)?;
        let mut rows =
            vec![embed(&ids, &self.embed_tokens, first, &self.slices)?.to_kind(pass.kind)];
        for group in &layout.groups {
            let features = group.iter().map(|&i| upload(&samples[i].features, self.device));
            let features = features.collect::<Result<Vec<_>, _>>()?;
            let features = Tensor::stack(&features, 0).to_kind(pass.kind);
            rows.push(self.frames.forward(&features, pass.input)?.flatten(0, 1));
        }
        rows.push(Tensor::zeros([1, self.config.hidden_size], (pass.kind, self.device)));
        Ok(Tensor::cat(&rows, 0))
    }

    /// Hidden states after the final norm, `[n, hidden]`: of the positions that are read, or of all `batch · length`. With
    /// a key of each sequence, LoRA drops values.
    fn hidden(
        &self,
        source: &Tensor,
        sequences: &Sequences,
        read: Option<&[i64]>,
        recompute: Recompute,
        dropout_keys: Option<&[u64]>,
    ) -> Result<Tensor, ModelError> {
        let shape = [sequences.batch, sequences.length, self.config.hidden_size];
        let inputs = source.index_select(0, &self.indices(&sequences.rows)?).view(shape);
        let read = read.map(|positions| self.indices(positions)).transpose()?;
        let residency = self.residency.as_ref();
        self.llama.forward(&inputs, read.as_ref(), recompute, dropout_keys, residency)
    }

    /// `student` holds the hidden states that are compared. The teacher has the same weights, sees every token, drops
    /// nothing, and stops at the last visual token: attention is causal.
    fn mvm_sum(
        &self,
        source: &Tensor,
        student: &Tensor,
        layout: &Layout,
        decoder: bool,
    ) -> Result<Tensor, ModelError> {
        let (source, sequences) = (source.detach(), &layout.teacher);
        let read = Some(&layout.teacher_compared[..]);
        let hidden = || self.hidden(&source, sequences, read, Recompute::Nothing, None);
        let teacher = tch::no_grad(hidden)?;
        let student = match (&self.decoder, decoder) {
            (Some(decoder), true) => decoder.forward(student)?,
            (None, true) => return Err(ModelError::Config("the model has no MVM decoder".into())),
            (_, false) => student.shallow_clone(),
        };
        Ok(distance_sum(&student, &teacher))
    }

    fn indices(&self, values: &[i64]) -> Result<Tensor, ModelError> {
        Ok(upload(&Tensor::from_slice(values), self.device)?)
    }
}
