//! From text to a recipe and back.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_saphyr::{Options, from_str_with_options};

use crate::source_error::describe;
use crate::{Recipe, RecipeError, overrides};

/// A recipe is a page or two; what is larger is something else.
const MAX_BYTES: u64 = 1 << 20;

impl Recipe {
    /// Reads a recipe file and applies `overrides` (`a.b=v`; elements of lists are chosen by name or index).
    ///
    /// The result reads well but is not checked: see [`Recipe::check`].
    ///
    /// # Errors
    /// The file cannot be read, is no recipe (the error shows the place), or an override does not fit.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Recipe, RecipeError> {
        let text = read(path)?;
        Recipe::parse(&text, &path.display().to_string())?.with_overrides(overrides)
    }

    /// Reads a recipe from YAML. `origin` names it in errors.
    ///
    /// # Errors
    /// The text is no recipe.
    pub fn parse(text: &str, origin: &str) -> Result<Recipe, RecipeError> {
        yaml(text).map_err(|error| describe(&error, origin, text))
    }

    /// The recipe with `overrides` applied in their order.
    ///
    /// # Errors
    /// An override names an unknown key or gives it a value of another type.
    pub fn with_overrides(self, overrides: &[String]) -> Result<Recipe, RecipeError> {
        overrides.iter().try_fold(self, |recipe, argument| overrides::apply(&recipe, argument))
    }

    /// The whole recipe as YAML, defaults included. It loads back equal.
    ///
    /// # Errors
    /// The serializer refuses it.
    pub fn to_yaml(&self) -> Result<String, RecipeError> {
        serde_saphyr::to_string(self).map_err(|error| self.unwritable(&error))
    }

    /// The whole recipe as JSON, defaults included.
    pub(crate) fn to_json(&self) -> Result<serde_json::Value, RecipeError> {
        serde_json::to_value(self).map_err(|error| self.unwritable(&error))
    }

    fn unwritable(&self, error: &dyn std::error::Error) -> RecipeError {
        RecipeError::Serialize { name: self.name.clone(), reason: error.to_string() }
    }
}

fn read(path: &Path) -> Result<String, RecipeError> {
    let fail = |source| RecipeError::Read { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(fail)?.len();
    if bytes > MAX_BYTES {
        let words = format!("{bytes} bytes are too many for a recipe (at most {MAX_BYTES})");
        return Err(fail(std::io::Error::other(words)));
    }
    std::fs::read_to_string(path).map_err(fail)
}

/// Strict YAML with bounds on what it may unfold to.
pub(crate) fn yaml<T: DeserializeOwned>(text: &str) -> Result<T, serde_saphyr::Error> {
    from_str_with_options(text, options())
}

fn options() -> Options {
    serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
        reject_unsupported_tags: true,
        budget: serde_saphyr::budget! {
            max_events: 100_000,
            max_nodes: 50_000,
            max_depth: 32,
            max_documents: 1,
            max_total_scalar_bytes: 1 << 20,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{EXAMPLE, example};
    use crate::{Start, Warmup};

    /// The error of the example with `from` replaced, and its hint.
    fn broken(from: &str, to: &str) -> (String, String) {
        assert!(EXAMPLE.contains(from));
        let text = EXAMPLE.replacen(from, to, 1);
        let error = Recipe::parse(&text, "r.yaml").unwrap_err();
        (error.to_string(), error.hint().unwrap_or_default())
    }

    #[test]
    fn what_is_unset_has_its_default() {
        let recipe = example();
        assert_eq!(recipe.parallel.tp, 1);
        assert!(recipe.parallel.pad_vocab);
        assert_eq!(recipe.stages[0].start, Start::Scratch);
        assert_eq!(recipe.stages[0].schedule.warmup, Warmup::Share(0.03));
        assert_eq!(recipe.stages[0].train, ["*"]);
        assert!(recipe.stages[1].mvm.is_some_and(|mvm| mvm.decoder));
    }

    #[test]
    fn the_resolved_recipe_loads_back_equal() {
        let mut recipe = example();
        recipe.name = "1e5".into();
        recipe.tokenizer = "yes: # no".into();
        recipe.seed = u64::MAX;
        recipe.stages[0].optimizer.lr = 0.1 + 0.2;
        recipe.stages[0].optimizer.eps = 1e-300;
        let yaml = recipe.to_yaml().unwrap();
        assert_eq!(Recipe::parse(&yaml, "resolved").unwrap(), recipe, "{yaml}");
    }

    #[test]
    fn an_unknown_key_shows_its_place_and_a_suggestion() {
        let (text, hint) = broken("feature_size", "featur_size");
        assert_eq!(
            text,
            "r.yaml:5:3: unknown key `featur_size`\n  5 |   featur_size: 24\n    |   ^"
        );
        assert_eq!(hint, "did you mean `feature_size`?");
        let (text, hint) = broken("{min: 0.3}", "{mini: 0.3}");
        assert!(text.starts_with("r.yaml:21:"), "{text}");
        assert_eq!(hint, "did you mean `min`?");
        let (text, hint) = broken("{dynamic: {min: 0.3}}", "{constant: {rate: 0.3, raet: 1}}");
        assert!(text.contains("unknown key `raet`"), "{text}");
        assert!(hint.contains("rate"), "{hint}");
    }

    #[test]
    fn an_unknown_word_gets_a_suggestion() {
        let (text, hint) = broken("{input: all}", "{input: al}");
        assert!(text.contains("unknown word `al`"), "{text}");
        assert_eq!(hint, "did you mean `all`?");
        let (text, hint) = broken("{stage: base}", "{stge: base}");
        assert!(text.contains("unknown word `stge`"), "{text}");
        assert_eq!(hint, "did you mean `stage`?");
    }

    #[test]
    fn wrong_types_are_named() {
        let (text, _) = broken("{global: 8}", "{global: many}");
        assert!(text.starts_with("r.yaml:10:17: expected a whole number\n"), "{text}");
        let (text, _) = broken("{lr: 2e-3}", "{lr: fast}");
        assert!(text.contains("expected a number"), "{text}");
        let (text, _) = broken("{weight: 0.1}", "{decoder: yes}");
        assert!(text.contains("truth value"), "{text}");
        let (text, hint) = broken("tokenizer: tokenizer.json\n", "");
        assert!(text.contains("the key `tokenizer` is missing"), "{text}");
        assert!(hint.contains("tokenizer"), "{hint}");
        let (text, _) = broken("feature_size: 24", "feature_size: 24\n  feature_size: 25");
        assert!(text.contains("twice"), "{text}");
        let (text, _) = broken("data: [{set: train}]", "data: {set: train}");
        assert!(text.starts_with("r.yaml:13:"), "{text}");
    }

    #[test]
    fn hostile_yaml_is_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let inner = vec![format!("*a{}", level - 1); 9].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
        }
        let deep = format!("name: {}", "[".repeat(10_000));
        for text in [
            bomb.as_str(),
            deep.as_str(),
            "",
            "[]",
            "\u{0}",
            "name: !x y",
            "name: a\n--- \nname: b",
        ] {
            assert!(Recipe::parse(text, "hostile").is_err(), "{text:.40}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Recipe::load(Path::new("/nowhere/r.yaml"), &[]).unwrap_err();
        assert!(error.to_string().contains("/nowhere/r.yaml"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
