//! The language-model head and its loss, where a label is and nowhere else.

use strand_comm::Group;
use tch::Tensor;

use crate::config::Config;
use crate::error::ModelError;
use crate::llama::linear;
use crate::parallel::{copy_to_ranks, cross_entropy};
use crate::parameter::Parameters;

/// The vocabulary-parallel head.
pub struct LmHead {
    weight: Tensor,
    first: i64,
    num_columns: i64,
    tp: Group,
}

impl LmHead {
    pub fn new(config: &Config, parameters: &Parameters, tp: &Group) -> Result<LmHead, ModelError> {
        let weight = parameters.handle("lm_head.weight")?;
        let first = weight.size()[0] * tp.rank() as i64;
        let num_columns = (config.vocab_size - first).clamp(0, weight.size()[0]);
        Ok(LmHead { weight, first, num_columns, tp: tp.clone() })
    }

    /// Hidden states `[n, hidden]` and the tokens that follow them `[n]` → losses `[n]` in fp32.
    pub fn losses(&self, hidden: &Tensor, targets: &Tensor) -> Result<Tensor, ModelError> {
        let logits = linear(&copy_to_ranks(hidden, &self.tp)?, &self.weight);
        cross_entropy(&logits, targets, self.first, self.num_columns, &self.tp)
    }
}
