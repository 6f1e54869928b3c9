//! What stands around an export's weights: the recipe that they come from, the configuration, the tokenizer.

use std::path::Path;

use strand_checkpoint::Manifest;
use strand_checkpoint::weights::CONFIG;
use strand_recipe::{Recipe, config_json};
use strand_store::Location;

use crate::failure::Failure;
use crate::place;

/// Files that may stand beside a `tokenizer.json` and belong to it.
const BESIDE_TOKENIZER: [&str; 4] =
    ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"];

/// A `tokenizer.json` of a large vocabulary has a few MB.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// The recipe of a checkpoint: the named one, or that of the run whose checkpoint it is.
pub fn recipe(
    checkpoint: &str,
    named: Option<&Path>,
    manifest: &Manifest,
) -> anyhow::Result<Recipe> {
    if let Some(path) = named {
        return place::recipe(path, &[]);
    }
    let unknown = || {
        Failure::usage(format!("{checkpoint}: the run's recipe is not beside it"))
            .hint("name the recipe with --recipe")
    };
    let run = run_of(checkpoint).ok_or_else(unknown)?;
    let recipe = place::recipe(Path::new(run), &[]).map_err(|error| unknown().because(error))?;
    if recipe.hash()? != manifest.state.recipe_hash {
        let message = format!("{run}: the recipe there is not the one of the checkpoint");
        return Err(Failure::usage(message).hint("name the recipe with --recipe").into());
    }
    Ok(recipe)
}

/// The run directory of `RUN/checkpoints/step-NNNNNNNN`.
fn run_of(checkpoint: &str) -> Option<&str> {
    let (folder, _) = checkpoint.trim_end_matches('/').rsplit_once('/')?;
    match folder.rsplit_once('/') {
        Some((run, "checkpoints")) => Some(run),
        None if folder == "checkpoints" => Some("."),
        _ => None,
    }
}

/// Writes `config.json`.
pub async fn config(recipe: &Recipe, out: &Location, dtype: &str) -> anyhow::Result<()> {
    let config = config_json(&recipe.model.llama, recipe.model.init_std, dtype);
    Ok(out.put(CONFIG, format!("{config:#}\n").into()).await?)
}

/// Copies the recipe's tokenizer and what belongs to it. Returns the files.
pub async fn tokenizer(recipe: &Recipe, out: &Location) -> anyhow::Result<Vec<String>> {
    let (folder, file) = recipe.tokenizer.rsplit_once('/').unwrap_or((".", &recipe.tokenizer));
    let folder = Location::open(folder)?;
    let bytes = folder.get_bounded(file, MAX_TOKENIZER_BYTES).await?;
    out.put("tokenizer.json", bytes).await?;
    let mut copied = vec!["tokenizer.json".to_owned()];
    for name in BESIDE_TOKENIZER {
        if let Some(bytes) = folder.get_if_exists(name).await? {
            out.put(name, bytes).await?;
            copied.push(name.to_owned());
        }
    }
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_lies_around_its_checkpoints() {
        assert_eq!(run_of("runs/demo/checkpoints/step-00000500/"), Some("runs/demo"));
        assert_eq!(run_of("s3://b/demo/checkpoints/step-00000500"), Some("s3://b/demo"));
        assert_eq!(run_of("checkpoints/step-00000500"), Some("."));
        assert_eq!(run_of("elsewhere/step-00000500"), None);
    }
}
