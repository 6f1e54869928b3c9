//! LLaMA's transformer (arXiv 2302.13971) with grouped-query attention, tensor-parallel.

use tch::Tensor;

use crate::config::Config;
use crate::error::ModelError;
use crate::parallel::{copy_to_ranks, sum_of_ranks};
use crate::parameter::Parameters;
use crate::precision::wide;
use crate::rope::Rope;
use crate::slices::{Slices, tree_sum};

/// The layers and the final norm: hidden states in, hidden states out.
pub struct Llama {
    layers: Vec<Layer>,
    norm: RmsNorm,
    head_dim: i64,
    rope_theta: f64,
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
            norm: RmsNorm::new(parameters, "model.norm", config.rms_norm_eps)?,
            head_dim: config.head_dim(),
            rope_theta: config.rope_theta,
        })
    }

    /// `x` `[batch, length, hidden]` → hidden states after the final norm, same shape.
    ///
    /// Attention is causal and positions count from 0. Padding stands on the right, where no real token sees it.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let rope = Rope::new(x.size()[1], self.head_dim, self.rope_theta, x.kind(), x.device());
        let mut x = x.shallow_clone();
        for layer in &self.layers {
            x = layer.forward(&x, &rope)?;
        }
        Ok(self.norm.forward(&x))
    }
}

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
        let norm = |part| RmsNorm::new(parameters, &format!("{name}.{part}"), config.rms_norm_eps);
        Ok(Layer {
            input_norm: norm("input_layernorm")?,
            attention: Attention::new(config, parameters, &format!("{name}.self_attn"), slices)?,
            post_attention_norm: norm("post_attention_layernorm")?,
            mlp: Mlp::new(parameters, &format!("{name}.mlp"), slices)?,
        })
    }

    fn forward(&self, x: &Tensor, rope: &Rope) -> Result<Tensor, ModelError> {
        let x = x + self.attention.forward(&self.input_norm.forward(x), rope)?;
        let out = self.mlp.forward(&self.post_attention_norm.forward(&x))?;
        Ok(x + out)
    }
}

/// Column-parallel queries, keys and values; row-parallel output.
struct Attention {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
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
        let weight = |part| parameters.handle(&format!("{name}.{part}_proj.weight"));
        let (rank, size) = (slices.tp.rank() as i64, slices.tp.size() as i64);
        let shared_kv_row = config
            .replicates_kv(size)
            .then(|| rank * config.num_key_value_heads / size * config.head_dim());
        Ok(Attention {
            q: weight("q")?,
            k: weight("k")?,
            v: weight("v")?,
            o: weight("o")?,
            head_dim: config.head_dim(),
            shared_kv_row,
            slices: slices.clone(),
        })
    }

    fn forward(&self, x: &Tensor, rope: &Rope) -> Result<Tensor, ModelError> {
        let slices = &self.slices;
        let inputs = slices.fan_out(&copy_to_ranks(x, slices)?);
        let (k, v) = (self.kv_weight(&self.k)?, self.kv_weight(&self.v)?);
        let [q, k, v] = [&self.q, &k, &v].map(|weight| slices.cut(weight, 0));
        let o = slices.cut(&self.o, 1);
        let part = |(i, x): (usize, &Tensor)| self.slice(x, rope, [&q[i], &k[i], &v[i], &o[i]]);
        let parts = inputs.iter().enumerate().map(part).collect();
        sum_of_ranks(&tree_sum(parts), slices)
    }

    /// What the heads of one slice add to the output.
    fn slice(&self, x: &Tensor, rope: &Rope, [q, k, v, o]: [&Tensor; 4]) -> Tensor {
        let (batch, length) = (x.size()[0], x.size()[1]);
        let heads =
            |w: &Tensor| linear(x, w).view([batch, length, -1, self.head_dim]).transpose(1, 2);
        let (q, k, v) = (rope.turn(&heads(q)), rope.turn(&heads(k)), heads(v));
        let repeats = q.size()[1] / k.size()[1];
        let (k, v) = (repeat_heads(&k, repeats), repeat_heads(&v, repeats));
        let out = Tensor::scaled_dot_product_attention::<Tensor>(
            &q, &k, &v, None, 0.0, true, None, false,
        );
        linear(&out.transpose(1, 2).reshape([batch, length, -1]), o)
    }

    /// The weight of this rank's key or value heads. A shared head's gradient is the sum over all ranks.
    fn kv_weight(&self, weight: &Tensor) -> Result<Tensor, ModelError> {
        match self.shared_kv_row {
            None => Ok(weight.shallow_clone()),
            Some(row) => Ok(copy_to_ranks(weight, &self.slices)?.narrow(0, row, self.head_dim)),
        }
    }
}

fn repeat_heads(x: &Tensor, repeats: i64) -> Tensor {
    if repeats == 1 { x.shallow_clone() } else { x.repeat_interleave_self_int(repeats, 1, None) }
}

/// SwiGLU: column-parallel gate and up, row-parallel down.
struct Mlp {
    gate: Tensor,
    up: Tensor,
    down: Tensor,
    slices: Slices,
}

impl Mlp {
    fn new(parameters: &Parameters, name: &str, slices: &Slices) -> Result<Mlp, ModelError> {
        let weight = |part| parameters.handle(&format!("{name}.{part}_proj.weight"));
        let slices = slices.clone();
        Ok(Mlp { gate: weight("gate")?, up: weight("up")?, down: weight("down")?, slices })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let slices = &self.slices;
        let inputs = slices.fan_out(&copy_to_ranks(x, slices)?);
        let [gate, up] = [&self.gate, &self.up].map(|weight| slices.cut(weight, 0));
        let down = slices.cut(&self.down, 1);
        let part = |(i, x): (usize, &Tensor)| {
            linear(&(linear(x, &gate[i]).silu() * linear(x, &up[i])), &down[i])
        };
        let parts = inputs.iter().enumerate().map(part).collect();
        sum_of_ranks(&tree_sum(parts), slices)
    }
}

/// RMSNorm (arXiv 1910.07467), in fp32 at least.
struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    fn new(parameters: &Parameters, name: &str, eps: f64) -> Result<RmsNorm, ModelError> {
        Ok(RmsNorm { weight: parameters.handle(&format!("{name}.weight"))?, eps })
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let x_wide = x.to_kind(wide(x.kind()));
        let mean_square = x_wide.square().mean_dim(-1, true, x_wide.kind());
        (&x_wide * (mean_square + self.eps).rsqrt() * &self.weight).to_kind(x.kind())
    }
}

/// `x` `[…, in]` times `weight` `[out, in]`, in `x`'s type.
pub fn linear(x: &Tensor, weight: &Tensor) -> Tensor {
    x.linear::<Tensor>(&weight.to_kind(x.kind()), None)
}
