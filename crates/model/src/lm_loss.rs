//! The language-model head and its loss, where a label is and nowhere else.

use tch::Tensor;

use crate::config::Config;
use crate::cross_entropy::{Logits, cross_entropy};
use crate::error::ModelError;
use crate::parallel::copy_to_ranks;
use crate::parameter::{Parameters, Weight};
use crate::precision::linear;
use crate::sink::linear_into;
use crate::slices::Slices;

/// The vocabulary-parallel head.
pub struct LmHead {
    weight: Weight,
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
        let logits = parts.map(|((x, weight), i)| self.logits(x, weight, i));
        let logits = logits.collect::<Result<Vec<_>, _>>()?;
        cross_entropy(&logits, targets, slices)
    }

    /// Hidden states `[n, hidden]` → the logits of the whole vocabulary `[n, vocab_size]` on every rank, without gradient.
    pub fn all_logits(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        // Padding lies behind the last rank's rows.
        let rows = linear(hidden, &self.weight)?.detach().transpose(0, 1).contiguous();
        let all = self.slices.tp.all_gather(&rows)?;
        Ok(all.narrow(0, 0, self.vocab_size).transpose(0, 1))
    }

    fn logits(&self, x: &Tensor, weight: &Tensor, slice: i64) -> Result<Logits, ModelError> {
        let columns = weight.size()[0];
        let first = slice * columns;
        let num_columns = (self.vocab_size - first).clamp(0, columns);
        let values = linear_into(x, weight, self.weight.sink(&self.slices))?;
        Ok(Logits { values, first, num_columns })
    }
}
