//! What determines the result of a run, as one hash.

use serde_json::{Map, Value};

use crate::{Mask, MaskPeriod, Normalization, Recipe, RecipeError};

/// Where and how a run runs, and what it writes down, leave its result as it is. So does the layout: a checkpoint of
/// one dp × tp continues on another.
const WITHOUT_EFFECT: [&str; 6] = ["name", "runtime", "checkpoint", "trace", "parallel", "memory"];

impl Recipe {
    /// BLAKE3 in hexadecimal of what determines the result: everything but `name`, `runtime`, `checkpoint`, `trace`,
    /// `parallel`, `memory`, and `batch.micro` where losses and masks do not depend on it.
    ///
    /// # Errors
    /// The serializer refuses the recipe.
    pub fn hash(&self) -> Result<String, RecipeError> {
        Ok(blake3::hash(canonical(self)?.to_string().as_bytes()).to_hex().to_string())
    }

    /// Whether micro-batches have a loss or a mask of their own.
    pub fn depends_on_micro_batches(&self) -> bool {
        let own_mask =
            |mask: &Mask| matches!(mask, Mask::Dynamic(d) if d.per == MaskPeriod::MicroBatch);
        self.loss.normalization == Normalization::PerMicroBatch
            || self.stages.iter().any(|stage| own_mask(&stage.mask))
    }
}

/// Keys sorted, unset keys left out: so an optional key that is added later changes no hash.
fn canonical(recipe: &Recipe) -> Result<Value, RecipeError> {
    let mut value = recipe.to_json()?;
    if let Some(map) = value.as_object_mut() {
        map.retain(|key, _| !WITHOUT_EFFECT.contains(&key.as_str()));
    }
    if !recipe.depends_on_micro_batches() {
        drop_micro(&mut value);
    }
    Ok(sorted(value))
}

fn drop_micro(recipe: &mut Value) {
    recipe["batch"]["micro"] = Value::Null;
    let stages = recipe["stages"].as_array_mut();
    for stage in stages.into_iter().flatten() {
        if stage["batch"].is_object() {
            stage["batch"]["micro"] = Value::Null;
        }
    }
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().filter(|(_, v)| !v.is_null()).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            let entries = entries.into_iter().map(|(key, v)| (key, sorted(v)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
        Value::Array(all) => Value::Array(all.into_iter().map(sorted).collect()),
        plain => plain,
    }
}

#[cfg(test)]
mod tests {
    use crate::check::tests::example;

    fn hash_with(overrides: &[&str]) -> String {
        let overrides: Vec<String> = overrides.iter().map(|&o| o.to_owned()).collect();
        example().with_overrides(&overrides).unwrap().hash().unwrap()
    }

    #[test]
    fn the_hash_is_of_what_determines_the_result() {
        let plain = hash_with(&[]);
        assert_eq!(plain.len(), 64);
        let without_effect = [
            "name=other",
            "parallel.tp=2",
            "runtime.prefetch_mib=1",
            "runtime.skip_budget=8",
            "runtime.bad_steps.budget=8",
            "runtime.cache.limit=1GiB",
            "checkpoint.every_steps=3",
            "trace.samples=true",
            "batch.micro=2",
        ];
        for same in without_effect {
            assert_eq!(hash_with(&[same]), plain, "{same}");
        }
        for other in [
            "seed=9",
            "stages.base.order.per_step=one_set",
            "stages.base.optimizer.lr=1",
            "batch.global=16",
        ] {
            assert_ne!(hash_with(&[other]), plain, "{other}");
        }
    }

    #[test]
    fn micro_batches_count_where_losses_or_masks_are_per_micro_batch() {
        for own in ["loss.normalization=per_micro_batch", "stages.all.mask.dynamic.per=micro_batch"]
        {
            assert_ne!(hash_with(&[own, "batch.micro=2"]), hash_with(&[own]));
        }
    }
}
