//! Factors of LoRA in the folder that PEFT keeps an adapter in, and what this trainer writes beside them.

use std::collections::BTreeSet;

use bytes::Bytes;
use strand_store::Location;

use super::llama::MOST_CONFIG_BYTES;
use super::{LlamaWeights, Weights, WeightsError};

/// The file that says what a folder's adapter is.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";

/// The file of its factors.
pub const ADAPTER: &str = "adapter_model.safetensors";

/// What PEFT puts in front of a tensor's name in the model that is adapted.
pub const ADAPTER_PREFIX: &str = "base_model.model.";

/// What this trainer's exports keep of parts that transformers' LLaMA does not have.
pub const EXTRA: &str = "strand_extra.safetensors";

/// What names of such parts begin with: the projector, the global-local adapter, the decoder of masked video modelling.
const EXTRA_PARTS: [&str; 3] = ["proj.", "global_local.", "mvm_decoder."];

/// The `adapter_config.json` of a folder, and its URL.
///
/// # Errors
/// Storage errors: there may be none.
pub async fn read_adapter_config(folder: &str) -> Result<(Bytes, String), WeightsError> {
    let folder = Location::open(folder)?;
    let bytes = folder.get_bounded(ADAPTER_CONFIG, MOST_CONFIG_BYTES).await?;
    Ok((bytes, folder.url_of(ADAPTER_CONFIG)))
}

impl LlamaWeights {
    /// Adds the factors of an adapter's folder, whose names and shapes have to be `factors`, and the parts of the model
    /// beside the LLaMA that this trainer wrote there, if it did. They come before those that are here.
    ///
    /// # Errors
    /// [`WeightsError::Adapter`] lists all factors that are missing and all tensors that are not known,
    /// [`WeightsError::Shape`]; those of [`Weights::open`].
    pub async fn add_adapter(
        &mut self,
        folder: &str,
        factors: &[(String, Vec<u64>)],
    ) -> Result<(), WeightsError> {
        let location = Location::open(folder)?;
        let url = |file: &str| format!("{}/{file}", folder.trim_end_matches('/'));
        let weights = Weights::open(&url(ADAPTER), |_| true).await?;
        check_names(&weights, factors)?;
        let our_name = |name: &str| name.strip_prefix(ADAPTER_PREFIX).unwrap_or(name).to_owned();
        self.add(weights, our_name)?;
        for (name, shape) in factors {
            self.check_shape(name, shape)?;
        }
        if location.exists(EXTRA).await? {
            let weights = Weights::open(&url(EXTRA), |_| true).await?;
            check_extra(&weights)?;
            self.add(weights, str::to_owned)?;
        }
        Ok(())
    }

    /// Checks the shapes of those of `tensors` that are here.
    ///
    /// # Errors
    /// [`WeightsError::Shape`].
    pub fn check_shapes_of(&self, tensors: &[(String, Vec<u64>)]) -> Result<(), WeightsError> {
        let mut here = tensors.iter().filter(|(name, _)| self.tensor(name).is_some());
        here.try_for_each(|(name, shape)| self.check_shape(name, shape))
    }
}

fn check_names(weights: &Weights, factors: &[(String, Vec<u64>)]) -> Result<(), WeightsError> {
    let wanted = factors.iter().map(|(name, _)| format!("{ADAPTER_PREFIX}{name}"));
    let wanted: BTreeSet<String> = wanted.collect();
    let found: BTreeSet<String> = weights.names().map(str::to_owned).collect();
    let missing = wanted.difference(&found).cloned().collect();
    refuse(weights, missing, found.difference(&wanted).cloned().collect())
}

fn check_extra(weights: &Weights) -> Result<(), WeightsError> {
    let is_known = |name: &str| EXTRA_PARTS.iter().any(|part| name.starts_with(part));
    let unexpected = weights.names().filter(|name| !is_known(name)).map(str::to_owned);
    refuse(weights, Vec::new(), unexpected.collect())
}

fn refuse(
    weights: &Weights,
    missing: Vec<String>,
    unexpected: Vec<String>,
) -> Result<(), WeightsError> {
    if missing.is_empty() && unexpected.is_empty() {
        return Ok(());
    }
    Err(WeightsError::Adapter { url: weights.url().to_owned(), missing, unexpected })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Expected;
    use crate::weights::testing::{Folder, Values, values};

    const A: &str = "model.layers.0.self_attn.q_proj.lora_A.weight";
    const B: &str = "model.layers.0.self_attn.q_proj.lora_B.weight";

    fn factors() -> Vec<(String, Vec<u64>)> {
        vec![(A.to_owned(), vec![1, 2]), (B.to_owned(), vec![2, 1])]
    }

    /// A language model of one tensor, and a projector.
    async fn llama(folder: &Folder) -> LlamaWeights {
        let tensors: &[Values] = &[
            ("model.norm.weight", &[1], &[1.0]),
            ("proj.weight", &[1, 1], &[2.0]),
            ("proj.bias", &[1], &[3.0]),
        ];
        folder.write("model.safetensors", tensors);
        let expected =
            Expected { tensors: vec![("model.norm.weight".to_owned(), vec![1])], tied: false };
        LlamaWeights::open(&folder.url(), None, &expected).await.unwrap()
    }

    fn write_adapter(folder: &Folder, names: [&str; 2]) {
        let names = names.map(|name| format!("{ADAPTER_PREFIX}{name}"));
        let (a, b): (Values, Values) =
            ((&names[0], &[1, 2], &[4.0, 5.0]), (&names[1], &[2, 1], &[6.0, 7.0]));
        folder.write(ADAPTER, &[a, b]);
    }

    #[tokio::test]
    async fn factors_and_trained_parts_are_added() {
        let folder = Folder::new();
        let mut llama = llama(&folder).await;
        write_adapter(&folder, [A, B]);
        folder.write(EXTRA, &[("proj.weight", &[1, 1], &[8.0])]);
        llama.add_adapter(&folder.url(), &factors()).await.unwrap();
        for (name, extent, expected) in [
            (B, vec![2, 1], vec![6.0, 7.0]),
            ("proj.weight", vec![1, 1], vec![8.0]),
            ("proj.bias", vec![1], vec![3.0]),
        ] {
            let read = llama.read_slice(name, &vec![0; extent.len()], &extent).await.unwrap();
            assert_eq!(values(&read), expected, "{name}");
        }
        let shape = |size| [("proj.weight".to_owned(), vec![size, 1])];
        llama.check_shapes_of(&shape(1)).unwrap();
        assert!(llama.check_shapes_of(&shape(2)).is_err());
        llama.check_shapes_of(&[("mvm_decoder.norm.bias".to_owned(), vec![2])]).unwrap();
    }

    #[tokio::test]
    async fn all_names_are_looked_at() {
        let folder = Folder::new();
        let mut llama = llama(&folder).await;
        write_adapter(&folder, [A, "lm_head.weight"]);
        let error = llama.add_adapter(&folder.url(), &factors()).await.unwrap_err();
        let text = error.to_string();
        let words = format!("1 tensor is missing\n  {ADAPTER_PREFIX}{B}\n1 tensor is not known");
        assert!(text.contains(&words), "{text}");
        write_adapter(&folder, [A, B]);
        folder.write(EXTRA, &[("projector.weight", &[1], &[8.0])]);
        let error = llama.add_adapter(&folder.url(), &factors()).await.unwrap_err();
        assert!(error.to_string().contains("not known\n  projector.weight"), "{error}");
    }

    #[tokio::test]
    async fn shapes_are_those_of_the_factors() {
        let folder = Folder::new();
        let mut llama = llama(&folder).await;
        write_adapter(&folder, [A, B]);
        let wider = [(A.to_owned(), vec![1, 3]), (B.to_owned(), vec![2, 1])];
        let error = llama.add_adapter(&folder.url(), &wider).await.unwrap_err();
        assert!(error.to_string().contains("has shape [1, 2], the model needs [1, 3]"), "{error}");
    }
}
