//! Low-rank adaptation of a recipe's language model.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Findings;
use crate::{Llama, Recipe, suggest};

/// The products of a layer.
const TARGETS: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Low-rank adaptation (LoRA, arXiv 2106.09685): two narrow factors beside each weight, `*.lora_A.weight` and
/// `*.lora_B.weight`. At first they add nothing; which of all weights are trained, a stage's `train` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// Width of the factors; 0 for none.
    pub rank: usize,
    /// What the factors add counts alpha ÷ rank.
    pub alpha: f64,
    /// The products that are adapted: of `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj` and `down_proj`.
    #[serde(default = "default_targets")]
    pub targets: Vec<String>,
    /// Share of the values in front of the factors that a training step drops, in [0, 1), in steps of 1 ÷ 65536. The
    /// teacher of masked video modelling and evaluations drop nothing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropout: f64,
}

fn default_targets() -> Vec<String> {
    vec!["q_proj".into(), "v_proj".into()]
}

/// Left out, it changes no hash of a recipe.
fn is_zero(share: &f64) -> bool {
    *share == 0.0
}

impl Lora {
    /// Names and shapes of the factors beside the products of `llama`, in the order of its layers.
    pub fn tensors(&self, llama: &Llama) -> Vec<(String, Vec<u64>)> {
        llama.tensors().iter().flat_map(|(name, shape)| self.factors(name, shape)).collect()
    }

    fn factors(&self, weight: &str, shape: &[u64]) -> Vec<(String, Vec<u64>)> {
        let product = weight.trim_end_matches(".weight");
        let is_target = |target: &String| product.rsplit('.').next() == Some(target.as_str());
        let (rank, &[out, width]) = (self.rank as u64, shape) else { return Vec::new() };
        if rank == 0 || !self.targets.iter().any(is_target) {
            return Vec::new();
        }
        vec![
            (format!("{product}.lora_A.weight"), vec![rank, width]),
            (format!("{product}.lora_B.weight"), vec![out, rank]),
        ]
    }
}

impl Recipe {
    pub(crate) fn check_lora(&self, findings: &mut Findings) {
        let Some(lora) = &self.model.lora else { return };
        findings.number("model.lora.alpha", lora.alpha, "above 0", |alpha| alpha > 0.0);
        findings.number("model.lora.dropout", lora.dropout, "in [0, 1)", |share| {
            (0.0..1.0).contains(&share)
        });
        if lora.rank > 0 && lora.targets.is_empty() {
            findings.error("model.lora.targets", "no product would be adapted", None);
        }
        for target in lora.targets.iter().filter(|target| !TARGETS.contains(&target.as_str())) {
            let hint = suggest::hint(target, TARGETS);
            findings.error("model.lora.targets", format!("there is no product `{target}`"), hint);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::check::tests::{assert_problem, example, problems};

    #[test]
    fn an_adaptation_is_in_range() {
        let lora = |text: &str| format!("model.lora={{rank: 4, {text}}}");
        assert_eq!(problems(&[&lora("alpha: 8, dropout: 0.05")]), [""; 0]);
        assert_problem(&[&lora("alpha: 0")], "model.lora.alpha: must be above 0");
        assert_problem(&[&lora("alpha: 8, targets: []")], "no product would be adapted");
        assert_problem(&[&lora("alpha: 8, targets: [q_prj]")], "did you mean `q_proj`");
        for share in ["1", "-0.1"] {
            let words = "model.lora.dropout: must be in [0, 1)";
            assert_problem(&[&lora(&format!("alpha: 8, dropout: {share}"))], words);
        }
    }

    #[test]
    fn factors_are_those_among_the_parameters() {
        let lora = "model.lora={rank: 4, alpha: 8, targets: [v_proj, down_proj]}".to_owned();
        let recipe = example().with_overrides(&[lora]).unwrap();
        let factors = recipe.parameters().into_iter().filter(|it| it.name.contains(".lora_"));
        let shape = |shape: Vec<usize>| shape.into_iter().map(|size| size as u64).collect();
        let mut expected: Vec<(String, Vec<u64>)> =
            factors.map(|it| (it.name, shape(it.shape))).collect();
        let mut named = recipe.model.lora.unwrap().tensors(&recipe.model.llama);
        expected.sort();
        named.sort();
        assert_eq!(named.len(), 8);
        assert_eq!(named, expected);
    }

    #[test]
    fn no_dropout_is_the_recipe_from_before_there_was_any() {
        let with = |text: &str| example().with_overrides(&[format!("model.lora={text}")]).unwrap();
        let plain = with("{rank: 4, alpha: 8}");
        assert!(!plain.to_yaml().unwrap().contains("dropout"));
        let hash = |text: &str| with(text).hash().unwrap();
        assert_eq!(plain.hash().unwrap(), hash("{rank: 4, alpha: 8, dropout: 0}"));
        assert_ne!(plain.hash().unwrap(), hash("{rank: 4, alpha: 8, dropout: 0.1}"));
    }
}
