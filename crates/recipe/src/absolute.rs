//! Paths that still hold when the current folder is another.

use std::path::{Component, Path, PathBuf};

use crate::{Recipe, Start};

impl Recipe {
    /// The recipe with its relative paths (tokenizer, data sets, checkpoints that stages start from) made absolute,
    /// as seen from `folder`. URLs stay as they are.
    pub fn absolute(mut self, folder: &Path) -> Recipe {
        self.tokenizer = absolute(folder, &self.tokenizer);
        for set in self.data.values_mut() {
            set.url = absolute(folder, &set.url);
        }
        for stage in &mut self.stages {
            if let Start::Checkpoint(url) = &mut stage.start {
                *url = absolute(folder, url);
            }
        }
        self
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
    use crate::check::tests::example;

    #[test]
    fn relative_paths_become_absolute_and_urls_stay() {
        let mut recipe = example();
        recipe.tokenizer = "./demo/tokenizer.json".into();
        recipe.data.entry("train".into()).and_modify(|set| set.url = "../train".into());
        recipe.data.entry("held_out".into()).and_modify(|set| set.url = "s3://b/x".into());
        recipe.stages[0].start = Start::Checkpoint("runs/a".into());
        let recipe = recipe.absolute(Path::new("/home/me"));
        assert_eq!(recipe.tokenizer, "/home/me/demo/tokenizer.json");
        assert_eq!(recipe.data["train"].url, "/home/me/../train");
        assert_eq!(recipe.data["held_out"].url, "s3://b/x");
        assert_eq!(recipe.stages[0].start, Start::Checkpoint("/home/me/runs/a".into()));
        assert_eq!(recipe.clone().absolute(Path::new("/elsewhere")), recipe);
    }
}
