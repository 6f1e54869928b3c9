//! Constants of AdamW (arXiv 1711.05101).

use strand_recipe::{Optimizer, ParameterGroup};

/// Constants of AdamW.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first and the second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Parameters with rates of their own: each belongs to the first that names it.
    pub groups: Vec<ParameterGroup>,
}

impl From<&Optimizer> for AdamWConfig {
    fn from(optimizer: &Optimizer) -> AdamWConfig {
        let Optimizer { betas, eps, weight_decay, groups, .. } = optimizer.clone();
        AdamWConfig { betas, eps, weight_decay, groups }
    }
}

impl AdamWConfig {
    /// The group of a parameter; none for those that have the rates of all.
    pub(crate) fn group_of(&self, name: &str) -> Option<usize> {
        self.groups.iter().position(|group| group.has(name))
    }

    /// What the learning rate is multiplied with, and the weight decay.
    pub(crate) fn rates(&self, group: Option<usize>) -> (f64, f64) {
        match group.and_then(|index| self.groups.get(index)) {
            Some(group) => (group.lr_scale, group.weight_decay.unwrap_or(self.weight_decay)),
            None => (1.0, self.weight_decay),
        }
    }
}
