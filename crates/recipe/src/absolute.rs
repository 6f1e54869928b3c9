//! Paths that still hold when the current folder is another.

use std::path::{Component, Path, PathBuf};

use crate::{Recipe, Start};

impl Recipe {
    /// The recipe with its relative paths (tokenizer, data sets, weights that stages start from) made absolute,
    /// as seen from `folder`. URLs stay as they are.
    pub fn absolute(mut self, folder: &Path) -> Recipe {
        self.tokenizer = absolute(folder, &self.tokenizer);
        for set in self.data.values_mut() {
            set.url = absolute(folder, &set.url);
        }
        for stage in &mut self.stages {
            for url in urls_of(&mut stage.start) {
                *url = absolute(folder, url);
            }
        }
        self
    }
}

fn urls_of(start: &mut Start) -> Vec<&mut String> {
    match start {
        Start::Scratch | Start::Stage(_) => Vec::new(),
        Start::Checkpoint(url) => vec![url],
        Start::HuggingFace(start) => {
            let others = start.projector.iter_mut().chain(&mut start.adapter);
            std::iter::once(&mut start.llama).chain(others).collect()
        }
    }
}

fn absolute(folder: &Path, url: &str) -> String {
    if url.is_empty() || url.contains("://") {
        return url.to_owned();
    }
    clean(&folder.join(url)).display().to_string()
}

/// Without `.`; a `..` stays, for the folder before it may be a link.
fn clean(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HuggingFace;
    use crate::check::tests::example;

    #[test]
    fn relative_paths_become_absolute_and_urls_stay() {
        let mut recipe = example();
        recipe.tokenizer = "./demo/tokenizer.json".into();
        recipe.data.entry("train".into()).and_modify(|set| set.url = "../train".into());
        recipe.data.entry("held_out".into()).and_modify(|set| set.url = "s3://b/x".into());
        recipe.stages[0].start = Start::Checkpoint("runs/a".into());
        let mut recipe = recipe.absolute(Path::new("/home/me"));
        assert_eq!(recipe.tokenizer, "/home/me/demo/tokenizer.json");
        assert_eq!(recipe.data["train"].url, "/home/me/../train");
        assert_eq!(recipe.data["held_out"].url, "s3://b/x");
        assert_eq!(recipe.stages[0].start, Start::Checkpoint("/home/me/runs/a".into()));
        assert_eq!(recipe.clone().absolute(Path::new("/elsewhere")), recipe);
        let start = |llama: &str, projector: &str, adapter: &str| {
            let [projector, adapter] = [projector, adapter].map(|url| Some(url.to_owned()));
            Start::HuggingFace(HuggingFace { llama: llama.into(), projector, adapter })
        };
        recipe.stages[0].start = start("s3://b/vicuna", "minigpt4.safetensors", "runs/lora");
        let recipe = recipe.absolute(Path::new("/home/me"));
        let expected =
            start("s3://b/vicuna", "/home/me/minigpt4.safetensors", "/home/me/runs/lora");
        assert_eq!(recipe.stages[0].start, expected);
    }
}
