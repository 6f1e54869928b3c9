//! `cargo xtask demo`: data, four stages on four ranks, the accuracies.

mod accuracy;
mod data;
mod settings;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use serde_json::json;

use crate::args::DemoOptions;
use crate::process::{build, run as run_to_success};
use crate::talk::{duration, say, timed};
use crate::{setup, workspace::Workspace};
use accuracy::Accuracy;

/// The folders of one demo.
struct Place {
    root: PathBuf,
    strand: PathBuf,
    data: PathBuf,
    run: PathBuf,
}

/// Sets up, builds, runs or continues the demo, and shows what came out.
pub fn run(workspace: &Workspace, options: DemoOptions) -> anyhow::Result<()> {
    let place = Place::of(workspace, options.quick);
    if options.fresh && place.folder().exists() {
        fs::remove_dir_all(place.folder()).context("the last demo cannot be removed")?;
    }
    setup::ensure(workspace)?;
    let (_, built) = timed(|| build(workspace, "demo"))?;
    if options.data {
        return place.make_data().map(drop);
    }
    let (accuracy, ran) = timed(|| place.train(options.quick))?;
    if options.json {
        println!("{:#}", document(&accuracy, &place, built, ran));
    } else {
        println!("\n{}\n", table::render(&accuracy));
    }
    epilogue(&place, built, ran);
    Ok(())
}

impl Place {
    fn of(workspace: &Workspace, quick: bool) -> Self {
        let name = if quick { "demo-quick" } else { "demo" };
        let folder = PathBuf::from("target").join(name);
        Self {
            root: workspace.root.clone(),
            strand: workspace.release().join("strand"),
            // Both forms train on the same clips.
            data: PathBuf::from("target/demo/data"),
            run: folder.join("run"),
        }
    }

    fn folder(&self) -> PathBuf {
        let run = self.root.join(&self.run);
        run.parent().map(Path::to_owned).unwrap_or(run)
    }

    /// Makes what is missing; false where nothing was.
    fn make_data(&self) -> anyhow::Result<bool> {
        let mut made = false;
        for (name, arguments) in settings::SYNTH {
            made |= data::make(&self.strand, arguments, &self.root, &self.data.join(name))?;
        }
        Ok(made)
    }

    fn train(&self, quick: bool) -> anyhow::Result<Accuracy> {
        let run = self.root.join(&self.run);
        if self.make_data()? && run.exists() {
            say("demo", "the last run was on other data: starting over");
            fs::remove_dir_all(&run).context("the last run cannot be removed")?;
        }
        let mut launch = Command::new(&self.strand);
        launch
            .current_dir(&self.root)
            .args(["launch", settings::RECIPE, "--nproc-per-node", settings::RANKS])
            .arg("--run-dir")
            .arg(&self.run)
            .args(if quick { settings::QUICK } else { &[] });
        run_to_success(&mut launch, "strand launch")?;
        self.accuracy()
    }

    fn accuracy(&self) -> anyhow::Result<Accuracy> {
        let path = self.root.join(&self.run).join("evaluations.jsonl");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let accuracy = Accuracy::parse(&text).with_context(|| path.display().to_string())?;
        let missing = accuracy.missing();
        anyhow::ensure!(
            missing.is_empty(),
            "{}: no evaluation of {}",
            path.display(),
            missing.join(", ")
        );
        Ok(accuracy)
    }
}

fn document(
    accuracy: &Accuracy,
    place: &Place,
    built: Duration,
    ran: Duration,
) -> serde_json::Value {
    json!({
        "accuracy": accuracy.to_json(),
        "by_kind": accuracy.kinds_to_json(),
        "seconds": {"build": built.as_secs_f64(), "run": ran.as_secs_f64()},
        "run_dir": place.run,
        "report": place.run.join("report.html"),
    })
}

fn epilogue(place: &Place, built: Duration, ran: Duration) {
    say("demo", format!("build {}, run {}", duration(built), duration(ran)));
    let report = place.run.join("report.html");
    if place.root.join(&report).exists() {
        say("demo", format!("the picture: open {}", report.display()));
    }
    let run = place.run.display().to_string();
    for line in settings::NEXT {
        say("demo", format!("next: {}", line.replace("{run}", &run)));
    }
}
