//! The language-model head and its loss, where a label is and nowhere else.

use tch::Tensor;

use crate::config::Config;
use crate::error::ModelError;
use crate::llama::linear;
use crate::parallel::{Logits, copy_to_ranks, cross_entropy};
use crate::parameter::Parameters;
use crate::slices::Slices;

/// The vocabulary-parallel head.
pub struct LmHead {
    weight: Tensor,
    vocab_size: i64,
    slices: Slices,
}

impl LmHead {
    pub fn new(
        config: &Config,
        parameters: &Parameters,
        slices: &Slices,
    ) -> Result<LmHead, ModelError> {
        let weight = parameters.handle("lm_head.weight")?;
        Ok(LmHead { weight, vocab_size: config.vocab_size, slices: slices.clone() })
    }

    /// Hidden states `[n, hidden]` and the tokens that follow them `[n]` → losses `[n]` in fp32.
    pub fn losses(&self, hidden: &Tensor, targets: &Tensor) -> Result<Tensor, ModelError> {
        let slices = &self.slices;
        let hidden = slices.fan_out(&copy_to_ranks(hidden, slices)?);
        let weights = slices.cut(&self.weight, 0);
        let parts = hidden.iter().zip(&weights).zip(slices.first()..);
        let logits: Vec<Logits> = parts.map(|((x, weight), i)| self.logits(x, weight, i)).collect();
        cross_entropy(&logits, targets, slices)
    }

    fn logits(&self, x: &Tensor, weight: &Tensor, slice: i64) -> Logits {
        let columns = weight.size()[0];
        let first = slice * columns;
        let num_columns = (self.vocab_size - first).clamp(0, columns);
        Logits { values: linear(x, weight), first, num_columns }
    }
}
