//! The Q-Former (arXiv 2301.12597): BERT whose queries look at a frame, as Hugging Face's `Blip2QFormerModel` and
//! `InstructBlipQFormerModel` have it.

use tch::{Kind, Tensor};

use crate::config::{Activation, Config, QFormerConfig};
use crate::error::VisionError;
use crate::layers::{LayerNorm, Linear, activate, attention, split_heads};
use crate::weights::Reader;

/// The question as the Q-Former reads it.
#[derive(Debug)]
pub struct Text {
    /// `[frames, length]`, int64.
    pub ids: Tensor,
    /// `[frames, length]`, 0 at padding.
    pub mask: Tensor,
}

/// The Q-Former: hidden states of a frame in, one hidden state a query out.
#[derive(Debug)]
pub struct QFormer {
    /// `[1, queries, hidden]`.
    query_tokens: Tensor,
    words: Option<Words>,
    layernorm: LayerNorm,
    layers: Vec<Layer>,
}

/// Embeddings of the question.
#[derive(Debug)]
struct Words {
    words: Tensor,
    positions: Tensor,
}

impl QFormer {
    /// Reads `query_tokens` and `qformer.*`; text embeddings and the text's feed-forward layers only where the model
    /// is question-conditioned.
    ///
    /// # Errors
    /// Those of [`Reader::tensor`].
    pub fn read(config: &Config, reader: &mut Reader<'_>) -> Result<QFormer, VisionError> {
        let sizes = &config.qformer;
        let reads_text = config.family.is_question_conditioned();
        let hidden = sizes.hidden_size;
        let norm = match reads_text {
            true => "qformer.embeddings.layernorm",
            false => "qformer.layernorm",
        };
        let layernorm = LayerNorm::read(reader, norm, hidden, sizes.layer_norm_eps)?;
        let layer = |i| Layer::read(config, reader, i, reads_text);
        let layers = (0..sizes.num_hidden_layers).map(layer).collect::<Result<_, _>>()?;
        let words = match reads_text {
            true => Some(Words::read(sizes, reader)?),
            false => None,
        };
        let query_tokens = reader.tensor("query_tokens", &[1, config.num_query_tokens, hidden])?;
        Ok(QFormer { query_tokens, words, layernorm, layers })
    }

    /// `frames` `[frames, tokens, width]` → `[frames, queries, hidden]`. `text` is given exactly where the model is
    /// question-conditioned.
    ///
    /// # Errors
    /// [`VisionError::Input`] where text is missing or not read, [`VisionError::Torch`] for ids that the embedding does not have and other
    /// failures of libtorch.
    pub fn forward(&self, frames: &Tensor, text: Option<&Text>) -> Result<Tensor, VisionError> {
        let count = frames.size()[0];
        let queries = self.query_tokens.f_expand([count, -1, -1], false)?;
        let (x, mask) = match (&self.words, text) {
            (None, None) => (queries, None),
            (Some(words), Some(text)) => {
                let x = Tensor::f_cat(&[&queries, &words.embed(&text.ids)?], 1)?;
                (x, Some(self.mask(text)?))
            }
            (None, Some(_)) => return Err(input("this Q-Former reads no question")),
            (Some(_), None) => return Err(input("this Q-Former needs a question")),
        };
        let mut x = self.layernorm.forward(&x)?;
        for layer in &self.layers {
            x = layer.forward(&x, frames, mask.as_ref(), self.num_queries())?;
        }
        Ok(x.f_narrow(1, 0, self.num_queries())?)
    }

    fn num_queries(&self) -> i64 {
        self.query_tokens.size()[1]
    }

    /// `[frames, 1, 1, queries + length]`: queries are seen by all, padding by none.
    fn mask(&self, text: &Text) -> Result<Tensor, VisionError> {
        let text_mask = text.mask.f_to_kind(Kind::Bool)?;
        let options = (Kind::Bool, text_mask.device());
        let queries = Tensor::f_ones([text_mask.size()[0], self.num_queries()], options)?;
        Ok(Tensor::f_cat(&[queries, text_mask], 1)?.f_unsqueeze(1)?.f_unsqueeze(1)?)
    }
}

fn input(reason: &str) -> VisionError {
    VisionError::Input(reason.to_owned())
}

impl Words {
    fn read(sizes: &QFormerConfig, reader: &mut Reader<'_>) -> Result<Words, VisionError> {
        let mut table = |name, rows| {
            let name = format!("qformer.embeddings.{name}_embeddings.weight");
            reader.tensor(&name, &[rows, sizes.hidden_size])
        };
        Ok(Words {
            words: table("word", sizes.vocab_size)?,
            positions: table("position", sizes.max_position_embeddings)?,
        })
    }

    fn embed(&self, ids: &Tensor) -> Result<Tensor, VisionError> {
        let words = Tensor::f_embedding(&self.words, ids, -1, false, false)?;
        Ok(words.f_add(&self.positions.f_narrow(0, 0, ids.size()[1])?)?)
    }
}

/// A post-norm transformer layer with separate feed-forward parts for queries and text.
#[derive(Debug)]
struct Layer {
    attention: Attention,
    crossattention: Option<Attention>,
    feed_forward_query: FeedForward,
    feed_forward_text: Option<FeedForward>,
}

impl Layer {
    fn read(
        config: &Config,
        reader: &mut Reader<'_>,
        index: usize,
        reads_text: bool,
    ) -> Result<Layer, VisionError> {
        let sizes = &config.qformer;
        let (hidden, frame) = (sizes.hidden_size, config.vision.hidden_size);
        let part = |part| format!("qformer.encoder.layer.{index}.{part}");
        let crosses = index.is_multiple_of(sizes.cross_attention_frequency);
        Ok(Layer {
            attention: Attention::read(sizes, reader, &part("attention"), hidden)?,
            crossattention: crosses
                .then(|| Attention::read(sizes, reader, &part("crossattention"), frame))
                .transpose()?,
            feed_forward_query: FeedForward::read(
                sizes,
                reader,
                [&part("intermediate_query"), &part("output_query")],
            )?,
            feed_forward_text: reads_text
                .then(|| FeedForward::read(sizes, reader, [&part("intermediate"), &part("output")]))
                .transpose()?,
        })
    }

    /// `x` `[frames, queries + length, hidden]`, `frames` `[frames, tokens, width]` → as `x`.
    fn forward(
        &self,
        x: &Tensor,
        frames: &Tensor,
        mask: Option<&Tensor>,
        num_queries: i64,
    ) -> Result<Tensor, VisionError> {
        let x = self.attention.forward(x, x, mask)?;
        let mut queries = x.f_narrow(1, 0, num_queries)?;
        if let Some(crossattention) = &self.crossattention {
            queries = crossattention.forward(&queries, frames, None)?;
        }
        let queries = self.feed_forward_query.forward(&queries)?;
        let Some(feed_forward) = &self.feed_forward_text else {
            return Ok(queries);
        };
        let text = x.f_narrow(1, num_queries, x.size()[1] - num_queries)?;
        Ok(Tensor::f_cat(&[queries, feed_forward.forward(&text)?], 1)?)
    }
}

/// Attention, its output layer and the norm behind the residual sum.
#[derive(Debug)]
struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    dense: Linear,
    norm: LayerNorm,
    heads: i64,
}

impl Attention {
    /// `width` is that of what is looked at.
    fn read(
        sizes: &QFormerConfig,
        reader: &mut Reader<'_>,
        name: &str,
        width: i64,
    ) -> Result<Attention, VisionError> {
        let hidden = sizes.hidden_size;
        let mut linear =
            |part, inputs| Linear::read(reader, &format!("{name}.{part}"), [inputs, hidden], true);
        Ok(Attention {
            query: linear("attention.query", hidden)?,
            key: linear("attention.key", width)?,
            value: linear("attention.value", width)?,
            dense: linear("output.dense", hidden)?,
            norm: LayerNorm::read(
                reader,
                &format!("{name}.output.LayerNorm"),
                hidden,
                sizes.layer_norm_eps,
            )?,
            heads: sizes.num_attention_heads,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        seen: &Tensor,
        mask: Option<&Tensor>,
    ) -> Result<Tensor, VisionError> {
        let q = split_heads(&self.query.forward(x)?, self.heads)?;
        let k = split_heads(&self.key.forward(seen)?, self.heads)?;
        let v = split_heads(&self.value.forward(seen)?, self.heads)?;
        let out = self.dense.forward(&attention(&q, &k, &v, mask)?)?;
        self.norm.forward(&out.f_add(x)?)
    }
}

/// Two linear layers and the norm behind the residual sum.
#[derive(Debug)]
struct FeedForward {
    intermediate: Linear,
    output: Linear,
    norm: LayerNorm,
    activation: Activation,
}

impl FeedForward {
    fn read(
        sizes: &QFormerConfig,
        reader: &mut Reader<'_>,
        [intermediate, output]: [&str; 2],
    ) -> Result<FeedForward, VisionError> {
        let (hidden, inner) = (sizes.hidden_size, sizes.intermediate_size);
        let dense = |name: &str| format!("{name}.dense");
        Ok(FeedForward {
            intermediate: Linear::read(reader, &dense(intermediate), [hidden, inner], true)?,
            output: Linear::read(reader, &dense(output), [inner, hidden], true)?,
            norm: LayerNorm::read(
                reader,
                &format!("{output}.LayerNorm"),
                hidden,
                sizes.layer_norm_eps,
            )?,
            activation: sizes.hidden_act,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, VisionError> {
        let inner = activate(self.activation, &self.intermediate.forward(x)?)?;
        self.norm.forward(&self.output.forward(&inner)?.f_add(x)?)
    }
}
