//! From what was typed to what will run.

use std::path::{Path, PathBuf};

use strand_control::{ExitCode, Resume, RunDir};
use strand_recipe::{Recipe, diff};

use crate::block_on::block_on;
use crate::failure::Failure;
use crate::place::{self, is_url};
use crate::recipe::{RecipeArgs, render_changes};
use crate::talk::Talk;

/// Reads `--resume`.
pub fn resume(text: &str) -> Result<Resume, String> {
    match text {
        "auto" => Ok(Resume::Auto),
        "never" => Ok(Resume::Never),
        "" => Err("give `auto`, `never` or a checkpoint".to_owned()),
        url if url.contains("://") => Ok(Resume::From(url.to_owned())),
        path => match std::path::absolute(path) {
            Ok(path) => Ok(Resume::From(path.display().to_string())),
            Err(error) => Err(error.to_string()),
        },
    }
}

/// The recipe with its changes, checked, and with absolute paths: the ranks may stand in another folder.
pub fn recipe(args: &RecipeArgs, talk: &Talk) -> anyhow::Result<Recipe> {
    let recipe = args.load()?;
    for warning in recipe.validate()? {
        talk.warn(warning.to_string());
    }
    Ok(recipe.absolute(&here()?))
}

fn here() -> anyhow::Result<PathBuf> {
    let gone = |error| Failure::environment("the current folder is gone").because(error);
    Ok(std::env::current_dir().map_err(gone)?)
}

/// Where the run's files go.
pub fn run_dir(given: Option<&str>, typed: &Path, recipe: &Recipe) -> anyhow::Result<RunDir> {
    let path = match given {
        Some(url) if is_url(url) => return place::run_dir(url),
        Some("") => return Err(Failure::usage("--run-dir is empty").into()),
        Some(path) => PathBuf::from(path),
        None if is_url(&typed.display().to_string()) => {
            return place::run_dir(&typed.display().to_string());
        }
        None if typed.is_dir() => typed.to_owned(),
        None => PathBuf::from("runs").join(&recipe.name),
    };
    Ok(RunDir::new(here()?.join(path)))
}

/// Refuses to continue a run of another recipe. What leaves the result as it is (layout, logging) may differ.
pub fn same_run(run_dir: &RunDir, recipe: &Recipe, resume: &Resume) -> anyhow::Result<()> {
    if *resume != Resume::Auto {
        return Ok(());
    }
    let dir = run_dir.location()?;
    let Some(text) = block_on(async { Ok(dir.get_if_exists("recipe.yaml").await?) })? else {
        return Ok(());
    };
    let origin = dir.url_of("recipe.yaml");
    let earlier = Recipe::parse(&String::from_utf8_lossy(&text), &origin).map_err(|error| {
        let message = format!("{}: the run here has a recipe that cannot be read", run_dir.url());
        Failure::new(ExitCode::Storage, message).because(error)
    })?;
    if earlier.hash()? == recipe.hash()? {
        return Ok(());
    }
    let changes = diff(&earlier, recipe)?;
    let message = format!(
        "{}: the run here has another recipe\n{}",
        run_dir.url(),
        indent(&render_changes(&changes))
    );
    let failure = Failure::usage(message)
        .hint("choose another --run-dir, or start over with --resume never (the old state is kept under previous/)")
        .details(serde_json::json!({"changes": changes}));
    Err(failure.into())
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resume_is_a_word_or_a_checkpoint() {
        assert_eq!(resume("auto"), Ok(Resume::Auto));
        assert_eq!(resume("never"), Ok(Resume::Never));
        assert_eq!(resume("s3://b/c"), Ok(Resume::From("s3://b/c".into())));
        let here = std::env::current_dir().unwrap().join("runs/c");
        assert_eq!(resume("runs/c"), Ok(Resume::From(here.display().to_string())));
        assert!(resume("").is_err());
    }

    #[test]
    fn a_run_named_as_its_recipe_is_continued_in_place() {
        let recipe = crate::launch::world::tests::recipe("{tp: 1}");
        let folder = tempfile::tempdir().unwrap();
        let place = |given, typed: &Path| run_dir(given, typed, &recipe).unwrap();
        let here = std::env::current_dir().unwrap();
        assert_eq!(place(None, folder.path()).root(), folder.path());
        assert_eq!(place(None, Path::new("r.yaml")).root(), here.join("runs/small"));
        assert_eq!(place(Some("x"), folder.path()).root(), here.join("x"));
        assert_eq!(place(Some("s3://b/r"), Path::new("r.yaml")).url(), "s3://b/r");
        assert_eq!(place(None, Path::new("s3://b/r")).url(), "s3://b/r");
    }

    #[test]
    fn a_run_of_another_recipe_is_refused_with_the_difference() {
        let recipe = crate::launch::world::tests::recipe("{tp: 1}");
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::new(folder.path());
        assert!(same_run(&dir, &recipe, &Resume::Auto).is_ok());
        std::fs::write(dir.recipe(), recipe.to_yaml().unwrap()).unwrap();
        let with = |set: &str| recipe.clone().with_overrides(&[set.to_owned()]).unwrap();
        assert!(same_run(&dir, &with("parallel.tp=2"), &Resume::Auto).is_ok());
        assert!(same_run(&dir, &with("seed=5"), &Resume::Never).is_ok());
        let error = same_run(&dir, &with("seed=5"), &Resume::Auto).unwrap_err();
        assert!(error.to_string().ends_with("\n  seed: 0 -> 5"), "{error}");
        assert_eq!(crate::failure::verdict(&error).exit, ExitCode::Usage);
    }
}
