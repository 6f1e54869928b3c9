//! LLaMA's transformer (arXiv 2302.13971) with grouped-query attention, tensor-parallel.

use std::sync::Arc;

use strand_torch::checkpoint;
use tch::Tensor;

use crate::attention::causal_attention;
use crate::config::Config;
use crate::dropout::{Dropout, Masks};
use crate::error::ModelError;
use crate::mlp::Mlp;
use crate::norm::RmsNorm;
use crate::parameter::Parameters;
use crate::projection::{Axis, Part, Projection};
use crate::residency::{Residency, resident};
use crate::rope::{Frequencies, Rope};
use crate::sequence::{enter, join, leave, split};
use crate::slices::{Slices, tree_sum};

/// What the layers do not keep for the backward pass, and compute again there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recompute {
    /// Nothing: all is kept.
    Nothing,
    /// The gated values of each MLP: elementwise from two products that are kept.
    Gates,
    /// All of each layer but its input.
    Layers,
}

/// The layers and the final norm: hidden states in, hidden states out.
pub struct Llama {
    layers: Vec<Layer>,
    norm: RmsNorm,
    frequencies: Frequencies,
    dropout: Option<Dropout>,
    slices: Slices,
}

/// What the layers know of the tokens: how positions turn, what LoRA drops, and which are read afterwards.
struct Tokens {
    rope: Rope,
    masks: Option<Masks>,
    read: Option<Tensor>,
}

impl Clone for Tokens {
    /// The same tensors.
    fn clone(&self) -> Tokens {
        let read = self.read.as_ref().map(Tensor::shallow_clone);
        Tokens { rope: self.rope.clone(), masks: self.masks.clone(), read }
    }
}

impl Tokens {
    /// `[batch, length, …]` → `[1, n, …]`, the positions that are read, or all as they are.
    fn read(&self, x: &Tensor) -> Tensor {
        self.read.as_ref().map_or_else(|| x.shallow_clone(), |positions| pick(x, positions))
    }
}

fn pick(x: &Tensor, positions: &Tensor) -> Tensor {
    x.flatten(0, 1).index_select(0, positions).unsqueeze(0)
}

impl Llama {
    pub fn new(
        config: &Config,
        parameters: &Parameters,
        slices: &Slices,
    ) -> Result<Llama, ModelError> {
        let layer = |i| Layer::new(config, parameters, &format!("model.layers.{i}"), slices);
        Ok(Llama {
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_, _>>()?,
            norm: RmsNorm::new(parameters, "model.norm", config.rms_norm_eps, slices)?,
            slices: slices.clone(),
            frequencies: Frequencies::new(config),
            dropout: Dropout::new(config),
        })
    }

    /// `x` `[batch, length, hidden]` → hidden states after the final norm, `[n, hidden]`: those at the positions that are
    /// `read`, which count in the flattened `[batch · length]`; unset, all of them.
    ///
    /// Attention is causal and positions count from 0. Padding stands on the right, where no real token sees it.
    ///
    /// `recompute` says what a layer does not keep for the backward pass.
    /// With `residency` its weights are there only while it computes. With a key of each sequence, LoRA drops values.
    pub fn forward(
        &self,
        x: &Tensor,
        read: Option<&Tensor>,
        recompute: Recompute,
        dropout_keys: Option<&[u64]>,
        residency: Option<&Arc<dyn Residency>>,
    ) -> Result<Tensor, ModelError> {
        let length = x.size()[1];
        // Ranks whose weights come and go do so together: each one's backward pass reaches the first layer, whether or
        // not its samples have something in front that is trained.
        let asks = x.requires_grad() || residency.is_none();
        let x = if asks { x.shallow_clone() } else { x.detach().set_requires_grad(true) };
        let mut x = split(&x, &self.slices)?;
        let mut tokens = self.tokens(&x, dropout_keys)?;
        // Behind the last attention a position needs no other. Ranks that share sequences divide all positions, and what
        // LoRA drops is drawn for all.
        let (early, late) = match self.slices.splits_sequences() || tokens.masks.is_some() {
            false => (read, None),
            true => (None, read),
        };
        for (i, layer) in self.layers.iter().enumerate() {
            if i + 1 == self.layers.len() {
                tokens.read = early.map(Tensor::shallow_clone);
            }
            let forward = |x: &Tensor| match recompute {
                Recompute::Layers => layer.recomputed(x, &tokens),
                Recompute::Gates => layer.forward(x, &tokens, true),
                Recompute::Nothing => layer.forward(x, &tokens, false),
            };
            x = match residency {
                Some(residency) => resident(residency, i, &x, forward)?,
                None => forward(&x)?,
            };
        }
        let x = join(&self.norm.forward(&x)?, length, &self.slices)?;
        Ok(late.map_or_else(|| x.shallow_clone(), |positions| pick(&x, positions)).flatten(0, 1))
    }

    /// Of all ranks' tokens, where `x` holds those of this one.
    fn tokens(&self, x: &Tensor, dropout_keys: Option<&[u64]>) -> Result<Tokens, ModelError> {
        let ranks = if self.slices.splits_sequences() { self.slices.tp.size() as i64 } else { 1 };
        let positions = x.size()[1] * ranks;
        let masks = self.dropout.zip(dropout_keys);
        let masks = masks.map(|(dropout, keys)| dropout.masks(keys, positions, x.device()));
        let rope = Rope::new(positions, &self.frequencies, x.kind(), x.device())?;
        Ok(Tokens { rope, masks: masks.transpose()?, read: None })
    }
}

#[derive(Clone)]
struct Layer {
    input_norm: RmsNorm,
    attention: Attention,
    post_attention_norm: RmsNorm,
    mlp: Mlp,
}

impl Layer {
    fn new(
        config: &Config,
        parameters: &Parameters,
        name: &str,
        slices: &Slices,
    ) -> Result<Layer, ModelError> {
        let norm =
            |part| RmsNorm::new(parameters, &format!("{name}.{part}"), config.rms_norm_eps, slices);
        Ok(Layer {
            input_norm: norm("input_layernorm")?,
            attention: Attention::new(config, parameters, &format!("{name}.self_attn"), slices)?,
            post_attention_norm: norm("post_attention_layernorm")?,
            mlp: Mlp::new(config, parameters, &format!("{name}.mlp"), slices)?,
        })
    }

    /// `[batch, length, hidden]` → the same, or of the positions that are read. With `gates_again` the MLP's gated values are computed again in the backward pass.
    fn forward(
        &self,
        x: &Tensor,
        tokens: &Tokens,
        gates_again: bool,
    ) -> Result<Tensor, ModelError> {
        let x = tokens.read(x) + self.attention.forward(&self.input_norm.forward(x)?, tokens)?;
        let masks = tokens.masks.as_ref();
        let normed = self.post_attention_norm.forward(&x)?;
        let out = self.mlp.forward(&normed, masks, gates_again)?;
        Ok(x + out)
    }

    /// As [`Self::forward`], with nothing kept but `x`.
    fn recomputed(&self, x: &Tensor, tokens: &Tokens) -> Result<Tensor, ModelError> {
        let (layer, tokens) = (self.clone(), tokens.clone());
        // Where all before this layer is frozen, something still has to ask for its gradients.
        let asks = x.requires_grad() || !self.is_trained();
        let x = if asks { x.shallow_clone() } else { x.detach().set_requires_grad(true) };
        checkpoint(&x, move |x| layer.forward(x, &tokens, false))
    }

    fn is_trained(&self) -> bool {
        let Layer { input_norm, attention, post_attention_norm, mlp } = self;
        let norms = [&input_norm.weight, &post_attention_norm.weight];
        let attention = [&attention.q, &attention.k, &attention.v, &attention.o];
        let projections = attention.into_iter().chain([&mlp.gate, &mlp.up, &mlp.down]);
        let weights = projections.flat_map(Projection::weights);
        norms.into_iter().chain(weights).any(|weight| weight.requires_grad())
    }
}

/// Column-parallel queries, keys and values; row-parallel output.
#[derive(Clone)]
struct Attention {
    q: Projection,
    k: Projection,
    v: Projection,
    o: Projection,
    head_dim: i64,
    /// Where ranks share key-value heads: the first row of this rank's head.
    shared_kv_row: Option<i64>,
    slices: Slices,
}

impl Attention {
    fn new(
        config: &Config,
        parameters: &Parameters,
        name: &str,
        slices: &Slices,
    ) -> Result<Attention, ModelError> {
        let projection = |part, axis| {
            Projection::new(config, parameters, &format!("{name}.{part}_proj"), axis, slices)
        };
        let (rank, size) = (slices.tp.rank() as i64, slices.tp.size() as i64);
        let shared_kv_row = config
            .replicates_kv(size)
            .then(|| rank * config.num_key_value_heads / size * config.head_dim());
        Ok(Attention {
            q: projection("q", Axis::Column)?,
            k: projection("k", Axis::Column)?,
            v: projection("v", Axis::Column)?,
            o: projection("o", Axis::Row)?,
            head_dim: config.head_dim(),
            shared_kv_row,
            slices: slices.clone(),
        })
    }

    fn forward(&self, x: &Tensor, tokens: &Tokens) -> Result<Tensor, ModelError> {
        let inputs = self.slices.fan_out(&enter(x, &self.slices)?);
        let shared = self.shared_kv_row.map(|row| (row, self.head_dim));
        let [q, k, v] = [(&self.q, None), (&self.k, shared), (&self.v, shared)]
            .map(|(projection, rows)| projection.parts(rows));
        let (q, k, v, o) = (q?, k?, v?, self.o.parts(None)?);
        let part = |(i, x): (usize, &Tensor)| self.slice(x, tokens, [&q[i], &k[i], &v[i], &o[i]]);
        let parts = inputs.iter().enumerate().map(part).collect::<Result<_, _>>()?;
        leave(&tree_sum(parts), &self.slices)
    }

    /// What the heads of one slice add to the output, where it is read.
    fn slice(
        &self,
        x: &Tensor,
        tokens: &Tokens,
        [q, k, v, o]: [&Part; 4],
    ) -> Result<Tensor, ModelError> {
        let (batch, length) = (x.size()[0], x.size()[1]);
        let (rope, masks) = (&tokens.rope, tokens.masks.as_ref());
        let heads = |part: &Part| -> Result<Tensor, ModelError> {
            let out = part.apply(x, masks)?;
            Ok(out.view([batch, length, -1, self.head_dim]))
        };
        let (q, k) = (rope.turn(&heads(q)?)?, rope.turn(&heads(k)?)?);
        let [q, k, v] = [q, k, heads(v)?].map(|heads| heads.transpose(1, 2));
        let repeats = q.size()[1] / k.size()[1];
        let (k, v) = (repeat_heads(&k, repeats), repeat_heads(&v, repeats));
        let out = causal_attention(&q, &k, &v)?;
        o.apply(&tokens.read(&out.transpose(1, 2).reshape([batch, length, -1])), masks)
    }
}

fn repeat_heads(x: &Tensor, repeats: i64) -> Tensor {
    if repeats == 1 { x.shallow_clone() } else { x.repeat_interleave_self_int(repeats, 1, None) }
}
