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
/// values do not depend on the layout. They are drawn in fp32 and then brought to `kind`, as many side by side as there are
/// cores: a core needs minutes for a model of 7 billion.
pub fn fresh(
    config: &Config,
    std: f64,
    tp_rank: i64,
    tp: i64,
    (kind, device): (Kind, Device),
    draws: impl Fn(&str) -> ChaCha8Rng,
) -> Result<Parameters, ModelError> {
    config.check(tp)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut parameters = Parameters::default();
    for group in specs(config, tp).chunks(cores) {
        for (spec, values) in group.iter().zip(drawn(group, std, &draws)) {
            let value = Tensor::from_slice(&values?).view(spec.shape.as_slice());
            let value = value.to_kind(kind).to_device(device);
            parameters.insert(Parameter::cut(&spec.name, &value, spec.partition, tp_rank, tp));
        }
    }
    Ok(parameters)
}

/// The values of some parameters, each drawn on a thread of its own.
fn drawn(
    group: &[Spec],
    std: f64,
    draws: &impl Fn(&str) -> ChaCha8Rng,
) -> Vec<Result<Vec<f32>, ModelError>> {
    std::thread::scope(|scope| {
        let mut threads = Vec::with_capacity(group.len());
        for spec in group {
            let rng = draws(&spec.name);
            threads.push(scope.spawn(move || fill(spec, std, rng)));
        }
        let end = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(end).collect()
    })
}

fn fill(spec: &Spec, std: f64, mut rng: ChaCha8Rng) -> Result<Vec<f32>, ModelError> {
    let count = spec.shape.iter().product::<i64>() as usize;
    let bad = |text: String| ModelError::Config(format!("{}: {text}", spec.name));
    Ok(match spec.fill {
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
    })
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
        let layer = layer(config, tp, &format!("model.layers.{i}"));
        let factors: Vec<Spec> = layer.iter().flat_map(|spec| factors(config, spec)).collect();
        specs.extend(layer.into_iter().chain(factors));
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

/// The factors of LoRA beside a weight, divided as it is. At first they add nothing.
fn factors(config: &Config, weight: &Spec) -> Vec<Spec> {
    let name = weight.name.trim_end_matches(".weight");
    let Some(lora) = config.lora_of(name) else { return Vec::new() };
    let (out, width) = (weight.shape[0], weight.shape[1]);
    let [mut a, mut b] = [
        replicated(format!("{name}.lora_A.weight"), &[lora.rank, width], Fill::Uniform { width }),
        replicated(format!("{name}.lora_B.weight"), &[out, lora.rank], Fill::Constant(0.0)),
    ];
    match weight.partition {
        Partition::Split { dim: 0, .. } => b.partition = weight.partition,
        Partition::Split { .. } => a.partition = weight.partition,
        Partition::Replicated => {}
    }
    vec![a, b]
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
