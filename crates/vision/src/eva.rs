//! EVA ViT-g (arXiv 2211.07636) as Hugging Face's `Blip2VisionModel` and `InstructBlipVisionModel` have it.

use tch::Tensor;

use crate::config::{Activation, VisionConfig};
use crate::error::VisionError;
use crate::layers::{LayerNorm, Linear, activate, attention};
use crate::weights::Reader;

/// The vision transformer: frames in, hidden states after the post layer norm out.
#[derive(Debug)]
pub struct EvaVit {
    patch_weight: Tensor,
    patch_bias: Tensor,
    class_embedding: Tensor,
    position_embedding: Tensor,
    layers: Vec<Layer>,
    post_layernorm: LayerNorm,
    patch_size: i64,
}

impl EvaVit {
    /// Reads `vision_model.*`.
    ///
    /// # Errors
    /// Those of [`Reader::tensor`].
    pub fn read(config: &VisionConfig, reader: &mut Reader<'_>) -> Result<EvaVit, VisionError> {
        let (hidden, patch) = (config.hidden_size, config.patch_size);
        let name = |part| format!("vision_model.embeddings.{part}");
        let layer = |i| Layer::read(config, reader, &format!("vision_model.encoder.layers.{i}"));
        let layers = (0..config.num_hidden_layers).map(layer).collect::<Result<_, _>>()?;
        Ok(EvaVit {
            patch_weight: reader
                .tensor(&name("patch_embedding.weight"), &[hidden, 3, patch, patch])?,
            patch_bias: reader.tensor(&name("patch_embedding.bias"), &[hidden])?,
            class_embedding: reader.tensor(&name("class_embedding"), &[1, 1, hidden])?,
            position_embedding: reader
                .tensor(&name("position_embedding"), &[1, config.num_positions(), hidden])?,
            layers,
            post_layernorm: LayerNorm::read(
                reader,
                "vision_model.post_layernorm",
                hidden,
                config.layer_norm_eps,
            )?,
            patch_size: patch,
        })
    }

    /// `pixels` `[frames, 3, height, width]`, normalised → `[frames, 1 + patches, hidden]`.
    ///
    /// # Errors
    /// [`VisionError::Torch`], also for frames of another size than the configuration's.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor, VisionError> {
        let pixels = pixels.f_to_kind(self.patch_weight.kind())?;
        let stride = [self.patch_size; 2];
        let patches = pixels.f_conv2d(
            &self.patch_weight,
            Some(&self.patch_bias),
            stride,
            [0, 0],
            [1, 1],
            1,
        )?;
        let patches = patches.f_flatten(2, 3)?.f_transpose(1, 2)?;
        let class = self.class_embedding.f_expand([pixels.size()[0], -1, -1], false)?;
        let mut x = Tensor::f_cat(&[class, patches], 1)?.f_add(&self.position_embedding)?;
        for layer in &self.layers {
            x = layer.forward(&x)?;
        }
        self.post_layernorm.forward(&x)
    }
}

/// A pre-norm transformer layer.
#[derive(Debug)]
struct Layer {
    layer_norm1: LayerNorm,
    qkv: Linear,
    projection: Linear,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    heads: i64,
    activation: Activation,
}

impl Layer {
    fn read(
        config: &VisionConfig,
        reader: &mut Reader<'_>,
        name: &str,
    ) -> Result<Layer, VisionError> {
        let (hidden, inner, eps) =
            (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let part = |part| format!("{name}.{part}");
        Ok(Layer {
            layer_norm1: LayerNorm::read(reader, &part("layer_norm1"), hidden, eps)?,
            // The bias of the keys is stored, as zeros.
            qkv: Linear::read(
                reader,
                &part("self_attn.qkv"),
                [hidden, 3 * hidden],
                config.qkv_bias,
            )?,
            projection: Linear::read(
                reader,
                &part("self_attn.projection"),
                [hidden, hidden],
                true,
            )?,
            layer_norm2: LayerNorm::read(reader, &part("layer_norm2"), hidden, eps)?,
            fc1: Linear::read(reader, &part("mlp.fc1"), [hidden, inner], true)?,
            fc2: Linear::read(reader, &part("mlp.fc2"), [inner, hidden], true)?,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, VisionError> {
        let x = x.f_add(&self.attend(&self.layer_norm1.forward(x)?)?)?;
        let inner = self.fc1.forward(&self.layer_norm2.forward(&x)?)?;
        let out = self.fc2.forward(&activate(self.activation, &inner)?)?;
        Ok(x.f_add(&out)?)
    }

    fn attend(&self, x: &Tensor) -> Result<Tensor, VisionError> {
        let size = x.size();
        let width = size[2] / self.heads;
        let qkv = self.qkv.forward(x)?.f_reshape([size[0], size[1], 3, self.heads, width])?;
        let qkv = qkv.f_permute([2, 0, 3, 1, 4])?;
        let out = attention(&qkv.f_get(0)?, &qkv.f_get(1)?, &qkv.f_get(2)?, None)?;
        self.projection.forward(&out)
    }
}
