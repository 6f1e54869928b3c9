//! What both transformers are made of.

use tch::{Kind, Tensor};

use crate::config::Activation;
use crate::error::VisionError;
use crate::weights::Reader;

/// A linear layer: `[…, inputs]` → `[…, outputs]`.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Reads `name.weight` and, where it has one, `name.bias`.
    pub fn read(
        reader: &mut Reader<'_>,
        name: &str,
        [inputs, outputs]: [i64; 2],
        has_bias: bool,
    ) -> Result<Linear, VisionError> {
        let weight = reader.tensor(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = match has_bias {
            true => Some(reader.tensor(&format!("{name}.bias"), &[outputs])?),
            false => None,
        };
        Ok(Linear { weight, bias })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor, VisionError> {
        Ok(x.f_linear(&self.weight, self.bias.as_ref())?)
    }
}

/// A layer norm, in fp32 whatever the type of its input.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Reads `name.weight` and `name.bias`.
    pub fn read(
        reader: &mut Reader<'_>,
        name: &str,
        size: i64,
        eps: f64,
    ) -> Result<LayerNorm, VisionError> {
        let weight = reader.wide(&format!("{name}.weight"), &[size])?;
        let bias = reader.wide(&format!("{name}.bias"), &[size])?;
        Ok(LayerNorm { weight, bias, eps })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor, VisionError> {
        let (kind, size) = (x.kind(), self.weight.size());
        let wide = x.f_to_kind(Kind::Float)?;
        let normal =
            wide.f_layer_norm(&size, Some(&self.weight), Some(&self.bias), self.eps, true)?;
        Ok(normal.f_to_kind(kind)?)
    }
}

/// Attention of `q` `[batch, heads, queries, width]` to `k` and `v` `[batch, heads, keys, width]`, where `mask`
/// (broadcast to `[batch, heads, queries, keys]`) is true. Returns `[batch, queries, heads * width]`.
///
/// libtorch computes the softmax in fp32 whatever the type of `q`.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: Option<&Tensor>,
) -> Result<Tensor, VisionError> {
    let out =
        Tensor::f_scaled_dot_product_attention(q, k, v, mask, 0.0, false, None::<f64>, false)?;
    let size = q.size();
    Ok(out.f_transpose(1, 2)?.f_reshape([size[0], size[2], size[1] * size[3]])?)
}

/// `[batch, length, heads * width]` → `[batch, heads, length, width]`.
pub fn split_heads(x: &Tensor, heads: i64) -> Result<Tensor, VisionError> {
    let size = x.size();
    Ok(x.f_reshape([size[0], size[1], heads, size[2] / heads])?.f_transpose(1, 2)?)
}

/// The non-linearity.
pub fn activate(activation: Activation, x: &Tensor) -> Result<Tensor, VisionError> {
    Ok(match activation {
        Activation::Gelu => x.f_gelu("none")?,
        Activation::GeluNew => x.f_gelu("tanh")?,
        Activation::QuickGelu => x.f_mul(&x.f_mul_scalar(1.702)?.f_sigmoid()?)?,
        Activation::Relu => x.f_relu()?,
        Activation::Silu => x.f_silu()?,
    })
}
