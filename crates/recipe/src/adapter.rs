//! `adapter_config.json` of PEFT: read, compared with a recipe, and written.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Lora, RecipeError};

/// The adaptation that an `adapter_config.json` describes.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// Its sizes, and the dropout that it was trained with.
    pub lora: Lora,
    /// The file.
    url: String,
}

/// What is read of the file. Each key without which the factors mean the same is left out.
#[derive(Debug, Deserialize)]
struct File {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    target_modules: Value,
    #[serde(default)]
    bias: Option<String>,
}

/// Keys that change what the factors mean, or add other tensors: each has to be unset, false or empty.
const UNKNOWN: [&str; 14] = [
    "alora_invocation_tokens",
    "alpha_pattern",
    "exclude_modules",
    "fan_in_fan_out",
    "layer_replication",
    "layers_to_transform",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_dora",
    "use_qalora",
    "use_rslora",
];

impl AdapterConfig {
    /// Reads the `adapter_config.json` at `url`.
    ///
    /// # Errors
    /// [`RecipeError::Config`] names all that the trainer's LoRA does not have: other kinds of adapters, biases, ranks
    /// of their own for some products, targets that are a pattern.
    pub fn parse(json: &[u8], url: &str) -> Result<AdapterConfig, RecipeError> {
        let refuse = |reasons| RecipeError::Config { url: url.to_owned(), reasons, hint: None };
        let bad = |error: serde_json::Error| refuse(vec![format!("no adapter's config: {error}")]);
        let value: Value = serde_json::from_slice(json).map_err(bad)?;
        let mut reasons = unsupported(&value);
        let file: File = serde_json::from_value(value).map_err(bad)?;
        reasons.extend(unsupported_values(&file));
        if !reasons.is_empty() {
            return Err(refuse(reasons));
        }
        let targets = serde_json::from_value(file.target_modules).map_err(bad)?;
        let (rank, alpha, dropout) = (file.r, file.lora_alpha, file.lora_dropout);
        Ok(AdapterConfig { lora: Lora { rank, alpha, targets, dropout }, url: url.to_owned() })
    }

    /// Checks that a recipe's model has these factors. The dropout may be another.
    ///
    /// # Errors
    /// [`RecipeError::Config`] lists all keys that differ, with both values.
    pub fn check(&self, recipe: Option<&Lora>) -> Result<(), RecipeError> {
        let reasons = match recipe {
            Some(recipe) => self.differences(recipe),
            None => vec!["the recipe has no model.lora".to_owned()],
        };
        if reasons.is_empty() {
            return Ok(());
        }
        let hint = Some(format!("the adapter needs model.lora: {}", words(&self.lora)));
        Err(RecipeError::Config { url: self.url.clone(), reasons, hint })
    }

    fn differences(&self, recipe: &Lora) -> Vec<String> {
        let ours = &self.lora;
        let mut found = Vec::new();
        if ours.rank != recipe.rank {
            found.push(difference("r", "rank", ours.rank, recipe.rank));
        }
        if ours.alpha != recipe.alpha {
            found.push(difference("lora_alpha", "alpha", ours.alpha, recipe.alpha));
        }
        let [file, recipe] =
            [ours, recipe].map(|lora| lora.targets.iter().collect::<BTreeSet<_>>());
        if file != recipe {
            found.push(difference("target_modules", "targets", json!(file), json!(recipe)));
        }
        found
    }
}

fn difference(
    key: &str,
    ours: &str,
    file: impl std::fmt::Display,
    recipe: impl std::fmt::Display,
) -> String {
    format!("{key} is {file}, but the recipe's model.lora.{ours} is {recipe}")
}

/// A recipe's `model.lora`.
fn words(lora: &Lora) -> String {
    format!(
        "{{rank: {}, alpha: {}, targets: [{}]}}",
        lora.rank,
        lora.alpha,
        lora.targets.join(", ")
    )
}

fn unsupported(file: &Value) -> Vec<String> {
    let is_set = |key: &&&str| match &file[**key] {
        Value::Null | Value::Bool(false) => false,
        Value::Array(values) => !values.is_empty(),
        Value::Object(values) => !values.is_empty(),
        _ => true,
    };
    let reason = |key: &&str| format!("{key} is {}: it is not known here", file[*key]);
    UNKNOWN.iter().filter(is_set).map(reason).collect()
}

fn unsupported_values(file: &File) -> Vec<String> {
    let bias = file.bias.as_deref().filter(|&bias| bias != "none");
    let reasons = [
        (file.peft_type != "LORA")
            .then(|| format!("peft_type is `{}`: only `LORA` is known", file.peft_type)),
        bias.map(|bias| format!("bias is `{bias}`: there are no biases here")),
        (!file.target_modules.is_array()).then(|| {
            format!("target_modules is {}: only a list of names is known", file.target_modules)
        }),
    ];
    reasons.into_iter().flatten().collect()
}

/// The `adapter_config.json` of factors beside the LLaMA `base`, for PEFT.
pub fn adapter_json(lora: &Lora, base: Option<&str>) -> Value {
    // PEFT keeps a whole number.
    let alpha =
        if lora.alpha.fract() == 0.0 { json!(lora.alpha as i64) } else { json!(lora.alpha) };
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": alpha,
        "lora_dropout": lora.dropout,
        "target_modules": lora.targets,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lora() -> Lora {
        let targets = vec!["q_proj".into(), "down_proj".into()];
        Lora { rank: 4, alpha: 8.0, targets, dropout: 0.05 }
    }

    fn parse(json: &Value) -> Result<AdapterConfig, RecipeError> {
        AdapterConfig::parse(json.to_string().as_bytes(), "a/adapter_config.json")
    }

    #[track_caller]
    fn assert_refused(key: &str, value: Value, words: &str) {
        let mut json = adapter_json(&lora(), None);
        json[key] = value;
        let text = parse(&json).unwrap_err().to_string();
        assert!(text.starts_with("a/adapter_config.json: ") && text.contains(words), "{text}");
    }

    #[test]
    fn what_is_written_is_read_back() {
        for alpha in [8.0, 1.5] {
            let lora = Lora { alpha, ..lora() };
            assert_eq!(parse(&adapter_json(&lora, Some("vicuna"))).unwrap().lora, lora);
        }
    }

    #[test]
    fn the_order_of_targets_and_the_dropout_may_differ() {
        let targets = vec!["down_proj".into(), "q_proj".into()];
        let other = Lora { targets, dropout: 0.0, ..lora() };
        parse(&adapter_json(&lora(), None)).unwrap().check(Some(&other)).unwrap();
    }

    #[test]
    fn differences_name_both_values() {
        let read = parse(&adapter_json(&lora(), None)).unwrap();
        let other = Lora { rank: 8, alpha: 16.0, targets: vec!["q_proj".into()], dropout: 0.0 };
        let error = read.check(Some(&other)).unwrap_err();
        for words in [
            "r is 4, but the recipe's model.lora.rank is 8",
            "lora_alpha is 8, but the recipe's model.lora.alpha is 16",
            r#"target_modules is ["down_proj","q_proj"], but the recipe's model.lora.targets is ["q_proj"]"#,
        ] {
            assert!(error.to_string().contains(words), "{words} in {error}");
        }
        let hint =
            "the adapter needs model.lora: {rank: 4, alpha: 8, targets: [q_proj, down_proj]}";
        assert_eq!(error.hint().as_deref(), Some(hint));
        assert!(read.check(None).unwrap_err().to_string().contains("has no model.lora"));
    }

    #[test]
    fn other_adapters_are_refused() {
        assert_refused("peft_type", json!("IA3"), "`IA3`: only `LORA`");
        assert_refused("bias", json!("all"), "no biases");
        assert_refused("target_modules", json!(".*q_proj"), "only a list of names");
        assert_refused("use_rslora", json!(true), "use_rslora is true");
        assert_refused("rank_pattern", json!({"q_proj": 8}), r#"rank_pattern is {"q_proj":8}"#);
        assert_refused("modules_to_save", json!(["lm_head"]), "modules_to_save");
        assert_refused("r", json!("four"), "no adapter's config");
        assert!(parse(&json!([])).unwrap_err().to_string().contains("no adapter's config"));
    }
}
