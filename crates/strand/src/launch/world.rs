//! How many ranks, and how they divide the work.

use strand_control::{Layout, visible_gpus};
use strand_recipe::{Recipe, RecipeError};

/// What `--nproc-per-node` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ranks {
    /// As the recipe says, else as many as there are devices.
    Auto,
    /// So many.
    Count(usize),
}

impl Ranks {
    /// Reads the flag.
    pub fn parse(text: &str) -> Result<Ranks, String> {
        match text.parse() {
            _ if text == "auto" => Ok(Ranks::Auto),
            Ok(count) if count > 0 => Ok(Ranks::Count(count)),
            _ => Err("give a number from 1 on, or `auto`".to_owned()),
        }
    }
}

/// The ranks and their mesh.
pub fn layout(recipe: &Recipe, ranks: Ranks) -> Result<Layout, RecipeError> {
    let world_size = match ranks {
        Ranks::Count(count) => count,
        Ranks::Auto => recipe.world_size().unwrap_or_else(|| fitting(recipe, devices())),
    };
    let (dp, tp) = recipe.world(world_size)?;
    Ok(Layout { world_size, dp, tp })
}

/// The largest world of at most `devices` ranks that tp divides and that every step can feed; at least one of tp.
fn fitting(recipe: &Recipe, devices: usize) -> usize {
    let tp = recipe.parallel.tp.max(1);
    let fits = |dp: &usize| recipe.world(dp * tp).is_ok();
    (1..=devices / tp).rev().find(fits).unwrap_or(1) * tp
}

/// GPUs, or cores where there are none.
fn devices() -> usize {
    match visible_gpus() {
        0 => cores(),
        count => count,
    }
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn recipe(parallel: &str) -> Recipe {
        let text = format!(
            "
name: small
model:
  llama: {{vocab_size: 8, hidden_size: 8, intermediate_size: 8, num_hidden_layers: 1, num_attention_heads: 2}}
  feature_size: 4
tokenizer: t.json
data: {{a: {{url: a}}}}
batch: {{global: 3}}
parallel: {parallel}
stages: [{{name: s, data: [{{set: a}}], video: {{input: all}}, optimizer: {{lr: 1}}, length: {{steps: 1}}}}]
"
        );
        Recipe::parse(&text, "small").unwrap()
    }

    #[test]
    fn the_flag_is_a_number_or_auto() {
        assert_eq!(Ranks::parse("auto"), Ok(Ranks::Auto));
        assert_eq!(Ranks::parse("4"), Ok(Ranks::Count(4)));
        assert!(Ranks::parse("0").is_err() && Ranks::parse("some").is_err());
    }

    #[test]
    fn auto_takes_what_the_recipe_says() {
        let layout = layout(&recipe("{dp: 3, tp: 2}"), Ranks::Auto).unwrap();
        assert_eq!(layout, Layout { world_size: 6, dp: 3, tp: 2 });
    }

    #[test]
    fn otherwise_the_devices_are_filled_as_far_as_the_batch_goes() {
        assert_eq!(fitting(&recipe("{tp: 2}"), 5), 4);
        assert_eq!(fitting(&recipe("{tp: 2}"), 1), 2);
        assert_eq!(fitting(&recipe("{tp: 1}"), 64), 3);
    }

    #[test]
    fn a_world_that_does_not_fit_is_refused() {
        assert!(layout(&recipe("{tp: 2}"), Ranks::Count(3)).is_err());
    }
}
