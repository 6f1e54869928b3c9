//! Which parameters a model has, how ranks share them, and what they are before training.

use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal, Uniform};
use tch::{Device, Kind, Tensor};

use crate::config::Config;
use crate::error::ModelError;
use crate::parameter::{Parameter, Parameters, Partition};

/// How a parameter is first filled.
enum Fill {
    /// Normal(0, std).
    Normal,
    /// Uniform in ±1/√width, as `torch.nn.Linear` fills its weight and bias (Kaiming-uniform, a = √5).
    Uniform { width: i64 },
    /// One value.
    Constant(f32),
}

/// A parameter of the model.
struct Spec {
    name: String,
    shape: Vec<i64>,
    partition: Partition,
    fill: Fill,
}

/// Draws all parameters and cuts each to the part of `tp_rank`. `draws` gives each name its own generator, so that the
/// values do not depend on the layout. They are drawn in fp32 and then brought to `kind`.
pub fn fresh(
    config: &Config,
    std: f64,
    tp_rank: i64,
    tp: i64,
    (kind, device): (Kind, Device),
    draws: impl Fn(&str) -> ChaCha8Rng,
) -> Result<Parameters, ModelError> {
    config.check(tp)?;
    let mut parameters = Parameters::default();
    for spec in specs(config, tp) {
        let value = fill(&spec, std, draws(&spec.name))?.to_kind(kind).to_device(device);
        parameters.insert(Parameter::cut(&spec.name, &value, spec.partition, tp_rank, tp));
    }
    Ok(parameters)
}

fn fill(spec: &Spec, std: f64, mut rng: ChaCha8Rng) -> Result<Tensor, ModelError> {
    let count = spec.shape.iter().product::<i64>() as usize;
    let bad = |text: String| ModelError::Config(format!("{}: {text}", spec.name));
    let values: Vec<f32> = match spec.fill {
        Fill::Constant(value) => vec![value; count],
        Fill::Normal => {
            let normal = Normal::new(0.0, std as f32).map_err(|e| bad(e.to_string()))?;
            normal.sample_iter(&mut rng).take(count).collect()
        }
        Fill::Uniform { width } => {
            let bound = 1.0 / (width as f32).sqrt();
            let uniform = Uniform::new(-bound, bound).map_err(|e| bad(e.to_string()))?;
            uniform.sample_iter(&mut rng).take(count).collect()
        }
    };
    Ok(Tensor::from_slice(&values).to_kind(Kind::Float).view(spec.shape.as_slice()))
}

fn specs(config: &Config, tp: i64) -> Vec<Spec> {
    let mut specs = llama(config, tp);
    let (hidden, features) = (config.hidden_size, config.feature_size);
    specs.extend(dense("proj", hidden, features));
    if let Some(width) = config.adapter_size {
        specs.push(replicated(
            "global_local.down.weight".into(),
            &[width, hidden],
            Fill::Uniform { width: hidden },
        ));
        specs.push(replicated("global_local.down.bias".into(), &[width], Fill::Constant(0.0)));
        // Zeros: at first the global mean adds nothing.
        specs.push(replicated(
            "global_local.up.weight".into(),
            &[hidden, width],
            Fill::Constant(0.0),
        ));
        specs.push(replicated("global_local.up.bias".into(), &[hidden], Fill::Constant(0.0)));
    }
    if config.mvm_decoder {
        specs.extend(dense("mvm_decoder.head", hidden, hidden));
        specs.push(replicated("mvm_decoder.norm.weight".into(), &[hidden], Fill::Constant(1.0)));
        specs.push(replicated("mvm_decoder.norm.bias".into(), &[hidden], Fill::Constant(0.0)));
    }
    specs
}

/// A `torch.nn.Linear` that every rank holds whole.
fn dense(name: &str, out: i64, width: i64) -> [Spec; 2] {
    [
        replicated(format!("{name}.weight"), &[out, width], Fill::Uniform { width }),
        replicated(format!("{name}.bias"), &[out], Fill::Uniform { width }),
    ]
}

fn replicated(name: String, shape: &[i64], fill: Fill) -> Spec {
    Spec { name, shape: shape.to_vec(), partition: Partition::Replicated, fill }
}

fn llama(config: &Config, tp: i64) -> Vec<Spec> {
    let (hidden, vocab) = (config.hidden_size, config.vocab_size);
    let rows = Partition::Split { dim: 0, padded: config.padded_vocab(tp) };
    let table = |name: &str| Spec {
        name: name.into(),
        shape: vec![vocab, hidden],
        partition: rows,
        fill: Fill::Normal,
    };
    let mut specs = vec![table("model.embed_tokens.weight"), table("lm_head.weight")];
    specs.push(replicated("model.norm.weight".into(), &[hidden], Fill::Constant(1.0)));
    for i in 0..config.num_hidden_layers {
        specs.extend(layer(config, tp, &format!("model.layers.{i}")));
    }
    specs
}

fn layer(config: &Config, tp: i64, name: &str) -> Vec<Spec> {
    let hidden = config.hidden_size;
    let kv_rows = config.num_key_value_heads * config.head_dim();
    let column = |part: &str, rows: i64| weight(name, part, [rows, hidden], Some(0));
    let kv_dim = (!config.replicates_kv(tp)).then_some(0);
    let norm =
        |part: &str| replicated(format!("{name}.{part}.weight"), &[hidden], Fill::Constant(1.0));
    vec![
        norm("input_layernorm"),
        column("self_attn.q_proj", hidden),
        weight(name, "self_attn.k_proj", [kv_rows, hidden], kv_dim),
        weight(name, "self_attn.v_proj", [kv_rows, hidden], kv_dim),
        weight(name, "self_attn.o_proj", [hidden, hidden], Some(1)),
        norm("post_attention_layernorm"),
        column("mlp.gate_proj", config.intermediate_size),
        column("mlp.up_proj", config.intermediate_size),
        weight(name, "mlp.down_proj", [hidden, config.intermediate_size], Some(1)),
    ]
}

fn weight(layer: &str, part: &str, shape: [i64; 2], split: Option<usize>) -> Spec {
    let partition = match split {
        None => Partition::Replicated,
        Some(dim) => Partition::Split { dim, padded: shape[dim] },
    };
    Spec {
        name: format!("{layer}.{part}.weight"),
        shape: shape.to_vec(),
        partition,
        fill: Fill::Normal,
    }
}
