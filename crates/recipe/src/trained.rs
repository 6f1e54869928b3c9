//! Which parameters a stage trains, and at which rates.

use crate::{ParameterGroup, Recipe, Stage, VideoInput};

impl Recipe {
    /// Share of the language model's weights in products, of the layers and the head, that a stage trains: between 0
    /// and 1. The factors of LoRA are left out, on both sides.
    pub fn trained_share(&self, stage: &Stage) -> f64 {
        let parameters = self.parameters();
        let products = parameters.iter().filter(|it| it.is_product());
        let sizes = products.map(|it| (it.numel(), stage.trains(&it.name)));
        let (all, trained) = sizes.fold((0, 0), |(all, trained), (numel, is_trained)| {
            (all + numel, trained + if is_trained { numel } else { 0 })
        });
        trained as f64 / all.max(1) as f64
    }
}

impl Stage {
    /// Whether the stage trains the parameter of that name: one of its patterns names it, and its passes use it.
    pub fn trains(&self, name: &str) -> bool {
        let decodes = self.mvm.is_some_and(|mvm| mvm.decoder);
        let adapts = self.video.input == VideoInput::GlobalLocal;
        let used = (decodes || !name.starts_with("mvm_decoder."))
            && (adapts || !name.starts_with("global_local."));
        used && self.train.iter().any(|pattern| matches(pattern, name))
    }
}

impl ParameterGroup {
    /// Whether one of its patterns names the parameter of that name.
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|pattern| matches(pattern, name))
    }
}

/// Whether `name` fits `pattern`, in which `*` stands for anything.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            (0..=name.len()).any(|skip| name.is_char_boundary(skip) && matches(rest, &name[skip..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::example;

    #[test]
    fn a_star_stands_for_anything() {
        assert!(matches("*", "proj.weight"));
        assert!(matches("model.layers.*.self_attn.?_proj", "model.layers.0.self_attn.?_proj"));
        assert!(matches("*q_proj*", "model.layers.0.self_attn.q_proj.weight"));
        assert!(!matches("proj", "proj.weight"));
        assert!(!matches("*.bias", "proj.weight"));
    }

    #[test]
    fn a_stage_that_trains_factors_trains_no_product() {
        let mut recipe = example();
        let mut stage = recipe.stages[0].clone();
        assert_eq!(recipe.trained_share(&stage), 1.0);
        stage.train = vec!["lm_head.*".into()];
        let head = recipe.trained_share(&stage);
        assert!(head > 0.0 && head < 1.0, "{head}");
        recipe.model.lora =
            Some(crate::Lora { rank: 2, alpha: 4.0, targets: vec!["q_proj".into()], dropout: 0.0 });
        stage.train = vec!["*lora*".into(), "proj.*".into()];
        assert_eq!(recipe.trained_share(&stage), 0.0);
    }

    #[test]
    fn what_a_stage_does_not_use_is_not_trained() {
        let recipe = example();
        let (base, all) = (&recipe.stages[0], &recipe.stages[1]);
        assert!(!base.trains("mvm_decoder.head.weight") && all.trains("mvm_decoder.head.weight"));
        assert!(!all.trains("global_local.up.weight") && all.trains("proj.weight"));
    }
}
