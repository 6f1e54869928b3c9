//! `config.json` of Hugging Face's LLaMA: read, compared with a recipe, and written.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{Llama, Llama3Scaling, RecipeError, RopeScaling, defaults};

/// The language model that a `config.json` describes.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Its sizes.
    pub llama: Llama,
    /// Whether its head is its embedding.
    pub tied: bool,
    /// The file.
    url: String,
}

/// What is read of the file. What it leaves out is transformers' default.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct File {
    model_type: String,
    hidden_act: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    rms_norm_eps: f64,
    max_position_embeddings: usize,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    /// Where versions since 5 keep base and scaling.
    rope_parameters: Option<Rope>,
    tie_word_embeddings: bool,
    attention_bias: bool,
    mlp_bias: bool,
}

impl Default for File {
    fn default() -> Self {
        File {
            model_type: "llama".into(),
            hidden_act: "silu".into(),
            vocab_size: 32_000,
            hidden_size: 4096,
            intermediate_size: 11_008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            rms_norm_eps: defaults::rms_norm_eps(),
            max_position_embeddings: defaults::max_position_embeddings(),
            rope_theta: None,
            rope_scaling: None,
            rope_parameters: None,
            tie_word_embeddings: false,
            attention_bias: false,
            mlp_bias: false,
        }
    }
}

/// Scaling of the positions.
#[derive(Debug, Deserialize)]
struct Rope {
    rope_type: Option<String>,
    /// The same in older files, and in newer ones beside it.
    #[serde(rename = "type")]
    older_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
}

impl LlamaConfig {
    /// Reads the `config.json` at `url`: of a LLaMA, or of a model with one as its `text_config`.
    ///
    /// # Errors
    /// [`RecipeError::Config`] names all that the trainer's LLaMA does not have: biases, another activation, heads of
    /// another width, other scalings of positions than `linear` and `llama3`.
    pub fn parse(json: &[u8], url: &str) -> Result<LlamaConfig, RecipeError> {
        let refuse = |reasons| RecipeError::Config { url: url.to_owned(), reasons, hint: None };
        let bad = |error: serde_json::Error| refuse(vec![format!("no model's config: {error}")]);
        let mut value: Value = serde_json::from_slice(json).map_err(bad)?;
        let text = value.get_mut("text_config").map(Value::take);
        if !value.is_object() {
            return Err(refuse(vec!["no model's config: not a map".to_owned()]));
        }
        let file: File = serde_json::from_value(text.unwrap_or(value)).map_err(bad)?;
        let (scaling, mut reasons) = match scaling(&file) {
            Ok(scaling) => (scaling, Vec::new()),
            Err(reason) => (None, vec![reason]),
        };
        reasons.extend(unsupported(&file));
        if !reasons.is_empty() {
            return Err(refuse(reasons));
        }
        let tied = file.tie_word_embeddings;
        Ok(LlamaConfig { llama: llama(file, scaling), tied, url: url.to_owned() })
    }

    /// Checks that a recipe's model can take these weights: it is the same, but for a vocabulary that may be larger and
    /// a longest sequence that may be shorter.
    ///
    /// # Errors
    /// [`RecipeError::Config`] lists all keys that differ, with both values.
    pub fn check(&self, recipe: &Llama) -> Result<(), RecipeError> {
        let reasons = self.differences(recipe);
        if reasons.is_empty() {
            return Ok(());
        }
        let hint = Some("copy the values into the recipe's model.llama".to_owned());
        Err(RecipeError::Config { url: self.url.clone(), reasons, hint })
    }

    fn differences(&self, recipe: &Llama) -> Vec<String> {
        let ours = &self.llama;
        let exact = [
            ("hidden_size", ours.hidden_size, recipe.hidden_size),
            ("intermediate_size", ours.intermediate_size, recipe.intermediate_size),
            ("num_hidden_layers", ours.num_hidden_layers, recipe.num_hidden_layers),
            ("num_attention_heads", ours.num_attention_heads, recipe.num_attention_heads),
            ("num_key_value_heads", ours.key_value_heads(), recipe.key_value_heads()),
        ];
        let floats = [
            ("rms_norm_eps", ours.rms_norm_eps, recipe.rms_norm_eps),
            ("rope_theta", ours.rope_theta, recipe.rope_theta),
        ];
        let exact = exact.into_iter().filter(|(_, file, recipe)| file != recipe);
        let floats = floats.into_iter().filter(|(_, file, recipe)| !same(*file, *recipe));
        let mut found: Vec<String> =
            exact.map(|(key, file, recipe)| difference(key, file, recipe)).collect();
        found.extend(floats.map(|(key, file, recipe)| difference(key, file, recipe)));
        if ours.rope_scaling != recipe.rope_scaling {
            let [file, recipe] = [ours, recipe].map(|llama| json!(llama.rope_scaling));
            found.push(difference("rope_scaling", file, recipe));
        }
        if recipe.vocab_size < ours.vocab_size {
            found.push(difference("vocab_size", ours.vocab_size, recipe.vocab_size));
        }
        let longest = longest(ours);
        if recipe.max_position_embeddings > longest {
            found.push(difference(
                "max_position_embeddings",
                longest,
                recipe.max_position_embeddings,
            ));
        }
        found
    }
}

/// Positions that a model reaches: a linear scaling multiplies those that its file names.
fn longest(llama: &Llama) -> usize {
    match llama.rope_scaling {
        Some(RopeScaling::Linear { factor }) => {
            (llama.max_position_embeddings as f64 * factor) as usize
        }
        _ => llama.max_position_embeddings,
    }
}

fn difference(key: &str, file: impl std::fmt::Display, recipe: impl std::fmt::Display) -> String {
    format!("{key} is {file}, but the recipe's model.llama.{key} is {recipe}")
}

/// Files round what they name: 1e-05 and 9.999999747378752e-06, which is its fp32, are the same.
fn same(left: f64, right: f64) -> bool {
    left as f32 == right as f32
}

fn llama(file: File, rope_scaling: Option<RopeScaling>) -> Llama {
    let rope = file.rope_parameters.or(file.rope_scaling).and_then(|rope| rope.rope_theta);
    Llama {
        vocab_size: file.vocab_size,
        hidden_size: file.hidden_size,
        intermediate_size: file.intermediate_size,
        num_hidden_layers: file.num_hidden_layers,
        num_attention_heads: file.num_attention_heads,
        num_key_value_heads: file.num_key_value_heads,
        rms_norm_eps: file.rms_norm_eps,
        rope_theta: file.rope_theta.or(rope).unwrap_or_else(defaults::rope_theta),
        max_position_embeddings: file.max_position_embeddings,
        rope_scaling,
    }
}

fn scaling(file: &File) -> Result<Option<RopeScaling>, String> {
    let Some(rope) = file.rope_parameters.as_ref().or(file.rope_scaling.as_ref()) else {
        return Ok(None);
    };
    let named = |key: &str, value: Option<f64>| {
        value.ok_or_else(|| format!("rope_scaling: {key} is missing"))
    };
    match rope.rope_type.as_deref().or(rope.older_type.as_deref()) {
        None | Some("default") => Ok(None),
        Some("linear") => Ok(Some(RopeScaling::Linear { factor: named("factor", rope.factor)? })),
        Some("llama3") => {
            let positions = rope.original_max_position_embeddings;
            Ok(Some(RopeScaling::Llama3(Llama3Scaling {
                factor: named("factor", rope.factor)?,
                low_freq_factor: named("low_freq_factor", rope.low_freq_factor)?,
                high_freq_factor: named("high_freq_factor", rope.high_freq_factor)?,
                original_max_position_embeddings: positions
                    .ok_or("rope_scaling: original_max_position_embeddings is missing")?,
            })))
        }
        Some(other) => Err(format!("rope_scaling: `{other}` is not known; linear and llama3 are")),
    }
}

fn unsupported(file: &File) -> Vec<String> {
    let width = file.hidden_size / file.num_attention_heads.max(1);
    let other_width = file.head_dim.filter(|&head_dim| head_dim != width);
    let reasons = [
        (file.model_type != "llama")
            .then(|| format!("model_type is `{}`: only `llama` is known", file.model_type)),
        (file.hidden_act != "silu")
            .then(|| format!("hidden_act is `{}`: only `silu` is known", file.hidden_act)),
        file.attention_bias.then(|| "attention_bias is true: there are no biases here".to_owned()),
        file.mlp_bias.then(|| "mlp_bias is true: there are no biases here".to_owned()),
        other_width.map(|head_dim| {
            format!(
                "head_dim is {head_dim}: only hidden_size ÷ num_attention_heads = {width} is known"
            )
        }),
    ];
    reasons.into_iter().flatten().collect()
}

/// The `config.json` of a model whose weights are of `dtype` (`float32`, `float16` or `bfloat16`), as versions 4 and 5 of
/// transformers read it.
pub fn config_json(llama: &Llama, init_std: f64, dtype: &str) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": llama.vocab_size,
        "hidden_size": llama.hidden_size,
        "intermediate_size": llama.intermediate_size,
        "num_hidden_layers": llama.num_hidden_layers,
        "num_attention_heads": llama.num_attention_heads,
        "num_key_value_heads": llama.key_value_heads(),
        "hidden_act": "silu",
        "max_position_embeddings": llama.max_position_embeddings,
        "rms_norm_eps": llama.rms_norm_eps,
        "rope_theta": llama.rope_theta,
        "rope_scaling": llama.rope_scaling.map(rope_json),
        "initializer_range": init_std,
        "attention_bias": false,
        "mlp_bias": false,
        "tie_word_embeddings": false,
        "use_cache": true,
        "torch_dtype": dtype,
    })
}

fn rope_json(scaling: RopeScaling) -> Map<String, Value> {
    let (kind, mut fields) = match scaling {
        RopeScaling::Linear { factor } => ("linear", json!({"factor": factor})),
        RopeScaling::Llama3(llama3) => ("llama3", json!(llama3)),
    };
    let mut rope = Map::from_iter([("rope_type".to_owned(), kind.into())]);
    if let Some(fields) = fields.as_object_mut() {
        rope.append(fields);
    }
    rope
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::example;

    fn parse(json: &Value) -> Result<LlamaConfig, RecipeError> {
        LlamaConfig::parse(json.to_string().as_bytes(), "vicuna/config.json")
    }

    #[track_caller]
    fn assert_refused(json: &Value, words: &str) {
        let text = parse(json).unwrap_err().to_string();
        assert!(text.starts_with("vicuna/config.json: ") && text.contains(words), "{text}");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut llama = Llama { num_key_value_heads: Some(2), ..example().model.llama };
        let llama3 = Llama3Scaling {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 64,
        };
        for scaling in
            [None, Some(RopeScaling::Linear { factor: 2.0 }), Some(RopeScaling::Llama3(llama3))]
        {
            llama.rope_scaling = scaling;
            let read = parse(&config_json(&llama, 0.02, "bfloat16")).unwrap();
            assert_eq!(read.llama, llama);
            assert!(!read.tied);
            read.check(&llama).unwrap();
        }
    }

    #[test]
    fn an_empty_file_is_the_first_llama() {
        let read = parse(&json!({})).unwrap();
        assert_eq!((read.llama.hidden_size, read.llama.rope_theta), (4096, 10_000.0));
        let instructblip =
            json!({"model_type": "instructblip", "text_config": {"vocab_size": 32001}});
        assert_eq!(parse(&instructblip).unwrap().llama.vocab_size, 32_001);
    }

    #[test]
    fn newer_files_keep_base_and_scaling_together() {
        let rope = json!({"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5});
        let read = parse(&json!({"rope_parameters": rope})).unwrap();
        assert_eq!(read.llama.rope_theta, 5e5);
        assert_eq!(read.llama.rope_scaling, Some(RopeScaling::Linear { factor: 4.0 }));
        for older in [
            json!({"type": "linear", "factor": 4.0}),
            json!({"type": "linear", "rope_type": "linear", "factor": 4.0}),
        ] {
            let older = parse(&json!({"rope_scaling": older})).unwrap();
            assert_eq!(older.llama.rope_scaling, read.llama.rope_scaling);
        }
    }

    #[test]
    fn other_models_are_refused() {
        assert_refused(&json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), "`dynamic`");
        assert_refused(&json!({"rope_scaling": {"type": "linear"}}), "factor is missing");
        assert_refused(&json!({"attention_bias": true}), "attention_bias");
        assert_refused(&json!({"model_type": "mistral"}), "`mistral`");
        assert_refused(&json!({"hidden_act": "gelu", "head_dim": 64}), "2 problems");
        assert_refused(&json!([]), "no model's config");
    }

    #[test]
    fn differences_name_the_key_and_both_values() {
        let llama = example().model.llama;
        let read = parse(&config_json(&llama, 0.02, "float32")).unwrap();
        let other = Llama {
            hidden_size: 64,
            vocab_size: 100,
            max_position_embeddings: 4096,
            rope_scaling: Some(RopeScaling::Linear { factor: 2.0 }),
            ..llama.clone()
        };
        let text = read.check(&other).unwrap_err().to_string();
        for words in [
            "hidden_size is 96, but the recipe's model.llama.hidden_size is 64",
            "vocab_size is 101, but",
            "max_position_embeddings is 2048, but",
            r#"rope_scaling is null, but the recipe's model.llama.rope_scaling is {"linear":{"factor":2.0}}"#,
        ] {
            assert!(text.contains(words), "{words} in {text}");
        }
        read.check(&Llama { vocab_size: 102, max_position_embeddings: 64, ..llama }).unwrap();
    }
}
