//! Everything in a recipe that cannot work, found at once.

use std::collections::{BTreeMap, BTreeSet};

use crate::problem::Findings;
use crate::{Problem, Recipe, RecipeError, Severity, Stage};

/// Eleven days; a clock of nanoseconds holds it.
const MAX_TIMEOUT_S: f64 = 1e6;

impl Recipe {
    /// Every problem of the recipe, errors first. Nothing but the recipe is looked at: no files, no data.
    pub fn check(&self) -> Vec<Problem> {
        let mut findings = Findings::default();
        self.check_model(&mut findings);
        self.check_run(&mut findings);
        self.check_data(&mut findings);
        for index in 0..self.stages.len() {
            self.check_stage(index, &mut findings);
        }
        // Only a model that is one has a list of parameters.
        if !findings.0.iter().any(|problem| problem.severity == Severity::Error) {
            self.check_patterns(&mut findings);
        }
        let mut problems = findings.0;
        problems.sort_by_key(|problem| std::cmp::Reverse(problem.severity));
        problems
    }

    /// The warnings of [`Recipe::check`] where there are no errors.
    ///
    /// # Errors
    /// [`RecipeError::Invalid`] with all errors.
    pub fn validate(&self) -> Result<Vec<Problem>, RecipeError> {
        let (errors, warnings): (Vec<_>, Vec<_>) =
            self.check().into_iter().partition(|problem| problem.severity == Severity::Error);
        if errors.is_empty() {
            return Ok(warnings);
        }
        Err(RecipeError::Invalid { name: self.name.clone(), problems: errors })
    }

    fn check_run(&self, findings: &mut Findings) {
        check_name("name", &self.name, findings);
        if self.tokenizer.trim().is_empty() {
            findings.error("tokenizer", "must name a tokenizer.json", None);
        }
        if self.stages.is_empty() {
            findings.error("stages", "there must be at least one stage", None);
        }
        findings.positive("checkpoint.every_steps", self.checkpoint.every_steps as usize);
        findings.positive("checkpoint.keep", self.checkpoint.keep);
        if let Some(threads) = self.runtime.threads_per_rank {
            let path = "runtime.threads_per_rank";
            findings.number(path, threads as f64, "1 to 4096", |it| (1.0..=4096.0).contains(&it));
        }
        findings.positive("runtime.prefetch_mib", self.runtime.prefetch_mib);
        if self.runtime.cache.folder.as_ref().is_some_and(|folder| folder.trim().is_empty()) {
            findings.error("runtime.cache.folder", "must be a folder of the nodes", None);
        }
        if let Some(factor) = self.runtime.bad_steps.spike_factor {
            let path = "runtime.bad_steps.spike_factor";
            findings.number(path, factor, "above 1", |factor| factor > 1.0);
        }
        let timeout = self.runtime.collective_timeout_s;
        let in_range = |s: f64| s > 0.0 && s <= MAX_TIMEOUT_S;
        let words = "above 0 and at most 1e6";
        findings.number("runtime.collective_timeout_s", timeout, words, in_range);
    }

    fn check_data(&self, findings: &mut Findings) {
        let used: BTreeSet<&str> = self.stages.iter().flat_map(sets_of).collect();
        for (name, set) in &self.data {
            let path = format!("data.{name}");
            if set.url.trim().is_empty() {
                findings.error(format!("{path}.url"), "must be a folder or URL", None);
            }
            if !used.contains(name.as_str()) {
                findings.warning(
                    path,
                    "no stage uses this data set",
                    "remove it, or name it in a stage",
                );
            }
        }
        self.check_unique_stages(findings);
    }

    fn check_unique_stages(&self, findings: &mut Findings) {
        let mut counts = BTreeMap::<&str, usize>::new();
        for stage in &self.stages {
            *counts.entry(&stage.name).or_default() += 1;
        }
        for (name, count) in counts.into_iter().filter(|&(_, count)| count > 1) {
            let message = format!("{count} stages have this name");
            let hint = "give each stage a name of its own".to_owned();
            findings.error(format!("stages.{name}.name"), message, Some(hint));
        }
    }
}

fn sets_of(stage: &Stage) -> impl Iterator<Item = &str> {
    let trained = stage.data.iter().map(|source| source.set.as_str());
    trained.chain(stage.evaluate.iter().map(|set| set.set.as_str()))
}

/// Names become folders, keys and labels.
pub(crate) fn check_name(path: &str, name: &str, findings: &mut Findings) {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.starts_with(['.', '-']) || !name.chars().all(plain) {
        let hint = "use letters, digits, `-`, `_` and `.`, beginning with a letter or digit";
        findings.error(path, format!("`{name}` is not a plain name"), Some(hint.to_owned()));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const EXAMPLE: &str = "
name: example
model:
  llama: {vocab_size: 101, hidden_size: 96, intermediate_size: 256, num_hidden_layers: 2, num_attention_heads: 4}
  feature_size: 24
tokenizer: tokenizer.json
data:
  train: {url: data/train}
  held_out: {url: data/held-out}
batch: {global: 8}
stages:
  - name: base
    data: [{set: train}]
    video: {input: all}
    optimizer: {lr: 2e-3}
    length: {steps: 10}
  - name: all
    start: {stage: base}
    data: [{set: train}]
    video: {input: all, frames: 6}
    mask: {dynamic: {min: 0.3}}
    mvm: {weight: 0.1}
    optimizer: {lr: 1e-3}
    length: {steps: 20}
    evaluate: [{set: held_out}]
";

    pub(crate) fn example() -> Recipe {
        Recipe::parse(EXAMPLE, "example.yaml").unwrap()
    }

    /// The problems of the example with these overrides, as `path: message`.
    pub(crate) fn problems(overrides: &[&str]) -> Vec<String> {
        let overrides: Vec<String> = overrides.iter().map(|&o| o.to_owned()).collect();
        let recipe = example().with_overrides(&overrides).unwrap();
        recipe.check().iter().map(ToString::to_string).collect()
    }

    /// Asserts that the overrides make one problem, which holds these words.
    #[track_caller]
    pub(crate) fn assert_problem(overrides: &[&str], words: &str) {
        let found = problems(overrides);
        assert!(found.len() == 1 && found[0].contains(words), "{found:#?}");
    }

    #[test]
    fn the_example_has_no_problem() {
        assert_eq!(problems(&[]), Vec::<String>::new());
        assert_eq!(example().validate().unwrap(), []);
    }

    #[test]
    fn all_problems_are_found_at_once() {
        let mut recipe = example();
        recipe.name = "a/b".into();
        recipe.checkpoint.keep = 0;
        recipe.stages[1].name = "base".into();
        recipe.stages[0].optimizer.lr = f64::NAN;
        let text = recipe.validate().unwrap_err().to_string();
        assert!(text.starts_with("recipe `a/b`: "), "{text}");
        for path in ["name:", "checkpoint.keep:", "stages.base.name:", "stages.base.optimizer.lr:"]
        {
            assert!(text.contains(&format!("\n  {path}")), "{path} in {text}");
        }
    }

    #[test]
    fn settings_of_the_run_are_in_range() {
        assert_problem(&["runtime.collective_timeout_s=0"], "above 0");
        assert_problem(&["runtime.collective_timeout_s=1e20"], "at most 1e6");
        assert_problem(&["runtime.threads_per_rank=0"], "1 to 4096");
        assert_problem(&["runtime.threads_per_rank=4294967296"], "1 to 4096");
        assert_problem(&["runtime.cache.folder=' '"], "a folder of the nodes");
        assert_problem(&["checkpoint.every_steps=0"], "checkpoint.every_steps");
        assert_problem(&["tokenizer=' '"], "tokenizer.json");
        assert_problem(&["stages=[]", "data={}"], "at least one stage");
        assert_problem(&["data.extra.url=/x"], "no stage uses");
    }
}
