//! What passes through the model leave in memory: what autograd keeps for the backward pass, and what is there for a
//! moment. Each number stands for a tensor of `crates/model/src`.

use strand_recipe::Lora;

use super::case::Case;

/// Logits that are widened at a time (`strand-model`'s cross-entropy).
const CHUNK: u64 = 1 << 22;
/// Values of a weight that a CPU widens at a time (`strand-model`'s `precision`).
const WIDENED: u64 = 1 << 20;

/// Sizes of one micro-batch on one rank. All results are bytes.
pub struct Activations<'a> {
    case: Case<'a>,
    trained: Vec<Trained>,
    /// The layer at which the backward pass ends: nothing is trained below it.
    first: usize,
    samples: u64,
    /// Tokens of the padded student's sequences, and of the teacher's.
    student: u64,
    teacher: u64,
    /// Positions that losses read.
    read: u64,
    labels: u64,
    hidden: u64,
    /// Width of this rank's heads, and of its part of the feed-forward layer.
    heads: u64,
    inner: u64,
    vocab: u64,
    narrow: u64,
    wide: u64,
}

/// The products of a layer that the stage trains, low-rank factors counted.
#[derive(Clone, Copy)]
struct Trained {
    attention_in: bool,
    attention_out: bool,
    mlp_in: bool,
    mlp_out: bool,
    norms: u64,
    /// Products with factors of which LoRA drops inputs: as wide as the hidden states, the heads, the feed-forward layer.
    dropped: [u64; 3],
}

impl<'a> Activations<'a> {
    pub fn of(case: Case<'a>) -> Activations<'a> {
        let llama = &case.recipe.model.llama;
        let tp = case.world.tp as u64;
        let samples = case.micro_batch() as u64;
        let tokens =
            |length: usize| samples * (length as u64).next_multiple_of(case.sequence_ranks());
        let layers = 0..llama.num_hidden_layers;
        let trained: Vec<Trained> = layers.map(|layer| Trained::of(case, layer)).collect();
        let first = trained.iter().position(Trained::any).unwrap_or(trained.len());
        Activations {
            // With ZeRO-3 every rank's backward pass goes through all layers.
            first: if trains_below(case) || case.zero() == 3 { 0 } else { first },
            trained,
            samples,
            student: tokens(case.sample.student()),
            teacher: tokens(case.sample.teacher()),
            read: samples * (case.sample.answer + case.sample.compared_most()) as u64,
            labels: samples * case.sample.answer as u64,
            hidden: llama.hidden_size as u64,
            heads: (llama.hidden_size as u64).div_ceil(tp),
            inner: (llama.intermediate_size as u64).div_ceil(tp),
            vocab: case.recipe.padded_vocab() as u64 / tp,
            narrow: case.narrow(),
            wide: case.wide(),
            case,
        }
    }

    /// What the layers keep from the forward to the backward pass.
    pub fn layers(&self) -> u64 {
        let one =
            |layer| if self.case.recomputes() { self.layer_input() } else { self.layer(layer) };
        (self.first..self.trained.len()).map(one).sum()
    }

    /// What one layer keeps for its backward pass where it is not computed again.
    pub fn layer(&self, layer: usize) -> u64 {
        let trained = self.trained[layer];
        let when = |is: bool, bytes: u64| if is { bytes } else { 0 };
        let (student, behind) = (self.student, self.behind(layer));
        // RMSNorm keeps its input and a value a row.
        let norms = (student + behind) / self.case.sequence_ranks()
            * (self.hidden * self.narrow + self.wide);
        let inputs = when(trained.attention_in, student) + when(trained.mlp_in, behind);
        // Turned queries and keys, values, and what attention gives; its softmax's denominators.
        let outputs = if behind < student { behind * self.heads * self.narrow } else { 0 };
        let attention = 4 * student * self.heads * self.narrow
            + when(trained.attention_out, outputs)
            + 4 * student * self.heads / self.case.recipe.model.llama.head_dim() as u64;
        // The gate, what it gates, and what comes of both.
        let keeps = trained.mlp_out && !self.case.recomputes_gates();
        let mlp = (2 + u64::from(keeps)) * behind * self.inner * self.narrow;
        let inputs = inputs * self.hidden * self.narrow;
        norms + inputs + attention + mlp + self.dropped(trained) + self.slices()
    }

    /// Tokens that go on behind a layer's attention: of the last layer's those that losses read, unless ranks share the
    /// sequences or LoRA drops values.
    fn behind(&self, layer: usize) -> u64 {
        let lora = self.case.recipe.model.lora.as_ref().filter(|lora| lora.rank > 0);
        let needs_all = self.case.sequence_ranks() > 1 || lora.is_some_and(|it| it.dropout > 0.0);
        match layer + 1 == self.trained.len() && !needs_all {
            true => self.read,
            false => self.student,
        }
    }

    /// What LoRA's dropout leaves of each product's input, and the mask, a byte a value.
    fn dropped(&self, trained: Trained) -> u64 {
        let widths = [self.hidden, self.heads, self.inner];
        let columns: u64 = trained.dropped.iter().zip(widths).map(|(n, width)| n * width).sum();
        self.student * columns * (self.narrow + 1)
    }

    /// With checkpoints a layer keeps its input.
    pub fn layer_input(&self) -> u64 {
        self.student * self.hidden * self.narrow / self.case.sequence_ranks()
    }

    /// What the backward pass of a layer needs for a moment: gradients of the residual stream, of what the feed-forward
    /// layer is made of, and of its largest weight.
    pub fn layer_backward(&self, layer: usize) -> u64 {
        let behind = self.behind(layer);
        let rows = self.student * self.hidden * self.narrow;
        let inner = behind * self.inner * self.narrow;
        let weight = match self.trained[layer].mlp_out {
            true => self.weight_gradient(self.hidden * self.inner),
            false => 0,
        };
        // Of the gated values three while SiLU goes back, else one beside a product's gradients.
        let gated = if self.case.recomputes_gates() { inner } else { 0 };
        let mlp =
            (3 * inner).max(inner + gated + weight) + self.widened(behind, self.inner, self.hidden);
        // Queries, keys, values, what came of them, and the gradients of all four.
        let attention = if self.case.widens_products() { 8 * self.wide } else { 0 };
        2 * rows + mlp.max(attention * self.student * self.heads)
    }

    /// What a layer needs for a moment without gradients, for the teacher's tokens: the sequences, their stream and its
    /// norm, and the feed-forward layer's gate, input and product; or the parts of attention.
    pub fn teacher_pass(&self) -> u64 {
        let rows = self.teacher * self.hidden;
        let attention = 4 * rows + 6 * self.teacher * self.heads;
        let mlp = 4 * rows + 3 * self.teacher * self.inner;
        let norm = 2 * rows * self.narrow + 3 * rows * self.wide;
        (attention.max(mlp) * self.narrow).max(norm)
            + self.widened(self.teacher, self.hidden, self.inner)
    }

    /// What masked video modelling keeps: the decoder's values before and after the norm, their distance.
    pub fn mvm(&self) -> u64 {
        let Some(mvm) = self.case.stage.mvm.filter(|_| self.case.sample.has_teacher) else {
            return 0;
        };
        let rows = self.samples * self.case.sample.compared_most() as u64 * self.hidden;
        let widened = if mvm.decoder { 3 } else { 2 };
        rows * widened * self.wide
    }

    /// What the final norm keeps.
    pub fn final_norm(&self) -> u64 {
        self.final_rows() * self.hidden * self.narrow / self.case.sequence_ranks()
    }

    /// Hidden states after the final norm, which losses are taken from.
    pub fn hidden_states(&self) -> u64 {
        let picked = if self.final_rows() > self.read { self.read } else { 0 };
        (self.final_rows() + picked) * self.hidden * self.narrow
    }

    /// What the layers give.
    fn final_rows(&self) -> u64 {
        self.trained.len().checked_sub(1).map_or(self.student, |last| self.behind(last))
    }

    /// Embedded texts, projected videos and a row of zeros: where sequences are put together from.
    pub fn source(&self) -> u64 {
        let sample = &self.case.sample;
        let text = sample.prompt + sample.answer - 1;
        (self.samples * (sample.visual + text) as u64 + 1) * self.hidden * self.narrow
    }

    /// Features of a micro-batch in the type of the computation, kept where the projector is trained.
    pub fn features(&self) -> u64 {
        if self.case.stage.trains("proj.weight") {
            self.samples * self.feature_values() * self.narrow
        } else {
            0
        }
    }

    /// Features of a step as they are stored, in half floats.
    pub fn stored_features(&self) -> u64 {
        self.case.share() as u64 * self.feature_values() * 2
    }

    /// The logits, which stand only where labels are.
    pub fn logits(&self) -> u64 {
        self.labels * self.vocab * self.narrow
    }

    /// What the head's backward pass needs for a moment: the logits' gradient, a few rows of it widened, and that of the
    /// weight.
    pub fn head_backward(&self) -> u64 {
        let weight = match self.case.stage.trains("lm_head.weight") {
            true => self.weight_gradient(self.vocab * self.hidden),
            false => 0,
        };
        self.logits()
            + self.chunk().max(weight)
            + self.widened(self.labels, self.hidden, self.vocab)
    }

    /// Gradients of the hidden states, of both losses.
    pub fn hidden_gradients(&self) -> u64 {
        2 * self.final_rows() * self.hidden * self.narrow
    }

    /// What a product in a wider type needs for a moment: its input, some of the weight's rows, and what comes of them,
    /// which stands beside the pieces of the whole.
    fn widened(&self, rows: u64, width: u64, out: u64) -> u64 {
        if !self.case.widens_products() {
            return 0;
        }
        let columns = (WIDENED / width.max(1)).clamp(1, out.max(1));
        let pieces = if columns < out { rows * out * self.narrow } else { 0 };
        (rows * width + columns * width + rows * columns) * self.wide + pieces
    }

    fn chunk(&self) -> u64 {
        let rows = (CHUNK / self.vocab.max(1)).clamp(1, self.labels.max(1));
        let copies = if self.narrow < self.wide { 2 } else { 1 };
        rows * self.vocab * self.wide * copies
    }

    /// A weight's gradient beside the memory where gradients are added up. A product of that memory's type is written there.
    /// Where it is narrower than a sum that it is added to, a CPU widens it first; the first gradient of a sum is copied.
    fn weight_gradient(&self, values: u64) -> u64 {
        let product = if self.case.widens_products() { self.wide } else { self.narrow };
        let summed = self.case.summed();
        let is_exact = self.case.recipe.parallel.exact_tp.is_some();
        if product == summed && !is_exact {
            return 0;
        }
        // What is not of the memory's type goes there in pieces on a CPU, unless autograd brings it.
        let piece = if self.case.is_cpu() && !is_exact { values.min(WIDENED) } else { values };
        let widened = self.case.is_cpu() && product != summed;
        piece * (if is_exact { self.narrow } else { product } + if widened { summed } else { 0 })
    }

    fn feature_values(&self) -> u64 {
        let sample = &self.case.sample;
        let tokens = (sample.frames * sample.tokens_per_frame) as u64;
        tokens * self.case.recipe.model.feature_size as u64
    }

    /// With `exact_tp` over fewer ranks, weights that are cut along their columns are copied.
    fn slices(&self) -> u64 {
        let slices = self.case.recipe.parallel.exact_tp.unwrap_or(1);
        let copied = slices > self.case.world.tp;
        if copied { self.hidden * (self.heads + self.inner) * self.narrow } else { 0 }
    }
}

/// Whether something in front of the layers is trained.
fn trains_below(case: Case) -> bool {
    let front = ["proj", "global_local.down", "global_local.up"];
    let dense = front.iter().flat_map(|name| [format!("{name}.weight"), format!("{name}.bias")]);
    dense.chain(["model.embed_tokens.weight".to_owned()]).any(|name| case.stage.trains(&name))
}

/// The products of one layer.
struct Products<'a> {
    case: Case<'a>,
    layer: usize,
}

impl Products<'_> {
    fn trains(&self, name: &str) -> bool {
        self.case.stage.trains(&format!("model.layers.{}.{name}", self.layer))
    }

    /// The adaptation of a product, if the stage trains its factors.
    fn lora(&self, name: &str) -> Option<&Lora> {
        let lora = self.case.recipe.model.lora.as_ref().filter(|lora| lora.rank > 0)?;
        let is_target = lora.targets.iter().any(|target| name.ends_with(target.as_str()));
        let mut factors = ["lora_A", "lora_B"].iter();
        let trains = factors.any(|factor| self.trains(&format!("{name}.{factor}.weight")));
        (is_target && trains).then_some(lora)
    }

    /// Whether the input of one of these is kept as it is: what LoRA drops from is no input of its factors.
    fn keep_input(&self, names: &[&str]) -> bool {
        let is_input = |lora: &Lora| lora.dropout == 0.0;
        let keeps = |name: &str| {
            self.trains(&format!("{name}.weight")) || self.lora(name).is_some_and(is_input)
        };
        names.iter().any(|name| keeps(name))
    }

    /// How many of these have factors that see a part of the values only.
    fn dropped(&self, names: &[&str]) -> u64 {
        let lora = names.iter().filter_map(|name| self.lora(name));
        lora.filter(|lora| lora.dropout > 0.0).count() as u64
    }
}

impl Trained {
    fn of(case: Case, layer: usize) -> Trained {
        let products = Products { case, layer };
        let norms = ["input_layernorm.weight", "post_attention_layernorm.weight"];
        let attention_in = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
        let attention_out = ["self_attn.o_proj"];
        let mlp_in = ["mlp.gate_proj", "mlp.up_proj"];
        let mlp_out = ["mlp.down_proj"];
        Trained {
            attention_in: products.keep_input(&attention_in),
            attention_out: products.keep_input(&attention_out),
            mlp_in: products.keep_input(&mlp_in),
            mlp_out: products.keep_input(&mlp_out),
            norms: norms.iter().filter(|name| products.trains(name)).count() as u64,
            dropped: [
                products.dropped(&attention_in) + products.dropped(&mlp_in),
                products.dropped(&attention_out),
                products.dropped(&mlp_out),
            ],
        }
    }

    fn any(&self) -> bool {
        let Trained { attention_in, attention_out, mlp_in, mlp_out, norms, dropped } = *self;
        let products = attention_in || attention_out || mlp_in || mlp_out;
        products || norms > 0 || dropped.iter().any(|&count| count > 0)
    }
}
