//! Which parameters the model of a recipe has, and how tensor-parallel ranks divide them: names and sizes, without values.
//!
//! `strand-model` makes the tensors; `tests/tests/plan.rs` holds them against this list.

use crate::{Lora, Recipe};

/// A parameter: its name, its size, and what tensor-parallel ranks divide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterShape {
    /// Global name, as in Hugging Face's files.
    pub name: String,
    /// Global shape, without padding.
    pub shape: Vec<usize>,
    /// The dimension that ranks divide; none where every rank holds all of it.
    pub split: Option<usize>,
    /// Shape of one rank's part, padding counted.
    pub local: Vec<usize>,
}

impl ParameterShape {
    /// Values of the whole parameter.
    pub fn numel(&self) -> u64 {
        product(&self.shape)
    }

    /// Values of one rank's part, padding counted.
    pub fn local_numel(&self) -> u64 {
        product(&self.local)
    }

    /// Whether tokens are multiplied with it in the layers or the head; the factors of LoRA are not counted.
    pub fn is_product(&self) -> bool {
        let is_inside = self.layer().is_some() || self.name == "lm_head.weight";
        is_inside && self.shape.len() == 2 && !self.name.contains(".lora_")
    }

    /// The layer that it belongs to, from 0.
    pub fn layer(&self) -> Option<usize> {
        self.name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
    }
}

fn product(shape: &[usize]) -> u64 {
    shape.iter().map(|&size| size as u64).product()
}

impl Recipe {
    /// The parameters of the model, for `parallel.tp` tensor-parallel ranks. The recipe has passed [`Recipe::validate`].
    pub fn parameters(&self) -> Vec<ParameterShape> {
        let shapes = Shapes { recipe: self, tp: self.parallel.tp.max(1) };
        let mut all = shapes.llama();
        all.extend(shapes.dense("proj", self.hidden(), self.model.feature_size));
        if let Some(width) = self.model.adapter_size {
            all.extend(shapes.dense("global_local.down", width, self.hidden()));
            all.extend(shapes.dense("global_local.up", self.hidden(), width));
        }
        if self.stages.iter().any(|stage| stage.mvm.is_some_and(|mvm| mvm.decoder)) {
            all.extend(shapes.dense("mvm_decoder.head", self.hidden(), self.hidden()));
            all.push(shapes.whole("mvm_decoder.norm.weight", &[self.hidden()]));
            all.push(shapes.whole("mvm_decoder.norm.bias", &[self.hidden()]));
        }
        all
    }

    /// Rows of the embedding with the padding that tensor-parallel ranks need.
    pub fn padded_vocab(&self) -> usize {
        let (vocab, parallel) = (self.model.llama.vocab_size, &self.parallel);
        let parts = parallel.exact_tp.unwrap_or(parallel.tp).max(1);
        if parallel.pad_vocab { vocab.next_multiple_of(parts) } else { vocab }
    }

    /// Names and shapes of the parameters beside the LLaMA and what adapts it: the projector and other parts.
    pub fn extra_tensors(&self) -> Vec<(String, Vec<u64>)> {
        let is_extra = |one: &ParameterShape| {
            !["model.", "lm_head."].iter().any(|it| one.name.starts_with(it))
        };
        let sizes = |shape: Vec<usize>| shape.into_iter().map(|size| size as u64).collect();
        let extra = self.parameters().into_iter().filter(is_extra);
        extra.map(|one| (one.name, sizes(one.shape))).collect()
    }

    fn hidden(&self) -> usize {
        self.model.llama.hidden_size
    }
}

struct Shapes<'a> {
    recipe: &'a Recipe,
    tp: usize,
}

impl Shapes<'_> {
    fn llama(&self) -> Vec<ParameterShape> {
        let llama = &self.recipe.model.llama;
        let (vocab, padded) = (llama.vocab_size, self.recipe.padded_vocab());
        let table = |name: &str| ParameterShape {
            local: vec![padded / self.tp, llama.hidden_size],
            ..self.split(name, &[vocab, llama.hidden_size], Some(0))
        };
        let mut all = vec![table("model.embed_tokens.weight"), table("lm_head.weight")];
        all.push(self.whole("model.norm.weight", &[llama.hidden_size]));
        for layer in 0..llama.num_hidden_layers {
            all.extend(self.layer(&format!("model.layers.{layer}")));
        }
        all
    }

    fn layer(&self, layer: &str) -> Vec<ParameterShape> {
        let llama = &self.recipe.model.llama;
        let (hidden, inner) = (llama.hidden_size, llama.intermediate_size);
        let kv_rows = llama.key_value_heads() * llama.head_dim();
        // With fewer heads than ranks, several ranks share one, and all hold all of them.
        let kv_split = (llama.key_value_heads() >= self.tp).then_some(0);
        let products = [
            ("self_attn.q_proj", [hidden, hidden], Some(0)),
            ("self_attn.k_proj", [kv_rows, hidden], kv_split),
            ("self_attn.v_proj", [kv_rows, hidden], kv_split),
            ("self_attn.o_proj", [hidden, hidden], Some(1)),
            ("mlp.gate_proj", [inner, hidden], Some(0)),
            ("mlp.up_proj", [inner, hidden], Some(0)),
            ("mlp.down_proj", [hidden, inner], Some(1)),
        ];
        let norms = ["input_layernorm", "post_attention_layernorm"];
        let norms = norms.map(|norm| self.whole(&format!("{layer}.{norm}.weight"), &[hidden]));
        let products = products.into_iter().flat_map(|(name, shape, split)| {
            self.product(&format!("{layer}.{name}"), shape, split)
        });
        norms.into_iter().chain(products).collect()
    }

    /// A weight of a layer and the factors of LoRA beside it, divided as it is.
    fn product(&self, name: &str, shape: [usize; 2], split: Option<usize>) -> Vec<ParameterShape> {
        let mut all = vec![self.split(&format!("{name}.weight"), &shape, split)];
        if let Some(lora) = self.lora_of(name) {
            let [out, width] = shape;
            let (a, b) = (format!("{name}.lora_A.weight"), format!("{name}.lora_B.weight"));
            all.push(self.split(&a, &[lora.rank, width], split.filter(|&dim| dim == 1)));
            all.push(self.split(&b, &[out, lora.rank], split.filter(|&dim| dim == 0)));
        }
        all
    }

    fn lora_of(&self, name: &str) -> Option<&Lora> {
        let target = name.rsplit('.').next()?;
        let lora = self.recipe.model.lora.as_ref()?;
        (lora.rank > 0 && lora.targets.iter().any(|it| it == target)).then_some(lora)
    }

    /// A `torch.nn.Linear` that every rank holds whole.
    fn dense(&self, name: &str, out: usize, width: usize) -> [ParameterShape; 2] {
        [
            self.whole(&format!("{name}.weight"), &[out, width]),
            self.whole(&format!("{name}.bias"), &[out]),
        ]
    }

    fn whole(&self, name: &str, shape: &[usize]) -> ParameterShape {
        self.split(name, shape, None)
    }

    fn split(&self, name: &str, shape: &[usize], split: Option<usize>) -> ParameterShape {
        let mut local = shape.to_vec();
        if let Some(dim) = split {
            local[dim] /= self.tp;
        }
        ParameterShape { name: name.to_owned(), shape: shape.to_vec(), split, local }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::example;

    /// The 6.74 billion of LLaMA-7B (arXiv 2302.13971, table 2).
    #[test]
    fn llama_7b_has_its_parameters() {
        let mut recipe = example();
        recipe.model.llama = serde_json::from_value(serde_json::json!({
            "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
            "num_hidden_layers": 32, "num_attention_heads": 32,
        }))
        .unwrap();
        let llama = |one: &&ParameterShape| {
            one.name.starts_with("model.") || one.name.starts_with("lm_head")
        };
        let count: u64 = recipe.parameters().iter().filter(llama).map(ParameterShape::numel).sum();
        assert_eq!(count, 6_738_415_616);
    }

    #[test]
    fn ranks_divide_matrices_and_padding() {
        let mut recipe = example();
        recipe.parallel.tp = 2;
        let all = recipe.parameters();
        let of = |name: &str| all.iter().find(|one| one.name == name).unwrap();
        assert_eq!(of("lm_head.weight").local, [51, 96]);
        assert_eq!(of("lm_head.weight").shape, [101, 96]);
        assert_eq!(of("model.layers.1.mlp.down_proj.weight").local, [96, 128]);
        assert_eq!(of("model.layers.1.mlp.down_proj.weight").layer(), Some(1));
        assert_eq!(of("proj.bias").local, [96]);
        assert!(of("mvm_decoder.head.weight").split.is_none());
    }
}
