//! Damaged samples: an error that says where, or left out, counted and listed as far as the recipe allows.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use strand_tests::harness::{Workspace, json_lines, layout_arguments, same_within, strand, text};

/// A workspace whose training set has row groups of four rows.
struct World {
    workspace: Workspace,
    data: String,
}

impl World {
    fn new() -> Result<World> {
        let workspace = Workspace::new()?;
        let path = |name: &str| workspace.path(name).display().to_string();
        let (from, data) = (path("data/train"), path("data/cut"));
        let cut = strand(["data", "reshard", &from, "--out", &data, "--rows-per-group", "4"])?;
        ensure!(cut.status.success(), "{}", text(&cut.stderr));
        Ok(World { workspace, data })
    }

    /// Flips a bit at this part of a row group's bytes; returns the shard's name.
    fn damage(&self, group: usize, part: f64) -> Result<String> {
        let folder = PathBuf::from(&self.data);
        let manifest: Value =
            serde_json::from_slice(&std::fs::read(folder.join("manifest.json"))?)?;
        let shard = &manifest["shards"][0];
        let name = shard["path"].as_str().context("a path")?;
        let number = |key: &str| shard["groups"][group][key].as_u64().context("a number");
        let (offset, bytes) = (number("offset")?, number("bytes")?);
        let mut file = std::fs::read(folder.join(name))?;
        file[(offset + (bytes as f64 * part) as u64) as usize] ^= 4;
        std::fs::write(folder.join(name), file)?;
        Ok(name.to_owned())
    }

    fn arguments(&self, budget: u64) -> Vec<String> {
        let data = format!("data.train.url={}", self.data);
        let budget = format!("runtime.skip_budget={budget}");
        ["--set", &data, "--set", &budget].map(str::to_owned).to_vec()
    }

    fn train(&self, run: &str, layout: (usize, usize), budget: u64, more: &[&str]) -> Result<()> {
        let arguments = self.arguments(budget);
        let arguments: Vec<&str> =
            arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
        self.workspace.train(run, layout, &arguments)
    }

    /// Exit code and stderr of a run that fails.
    fn fail(
        &self,
        run: &str,
        layout: (usize, usize),
        budget: u64,
    ) -> Result<(Option<i32>, String)> {
        let mut command = self.workspace.launch(run, &[])?;
        let layout = layout_arguments(layout.0, layout.1);
        let output = command.args(layout).args(self.arguments(budget)).output()?;
        Ok((output.status.code(), text(&output.stderr)))
    }

    fn skipped(&self, run: &str) -> Result<Vec<Value>> {
        json_lines(&std::fs::read_to_string(self.workspace.path(run).join("skipped.jsonl"))?)
    }
}

#[test]
fn without_a_budget_damage_is_an_error_that_names_the_place() -> Result<()> {
    let world = World::new()?;
    let shard = world.damage(2, 0.4)?;
    for layout in [(1, 1), (2, 1)] {
        let (code, stderr) = world.fail(&format!("run-{}", layout.0), layout, 0)?;
        ensure!(code == Some(4), "{code:?}: {stderr}");
        for word in [shard.as_str(), "row group 2", ", row ", "checksum"] {
            ensure!(stderr.contains(word), "no {word:?} in {stderr}");
        }
    }
    Ok(())
}

/// The list, and what the steps trained on, do not depend on the layout or on a restart.
#[test]
fn with_a_budget_damaged_rows_are_left_out_and_listed() -> Result<()> {
    let world = World::new()?;
    world.damage(2, 0.4)?;
    world.train("one", (1, 1), 8, &[])?;
    let steps = world.workspace.metrics("one")?;
    let listed = world.skipped("one")?;
    ensure!((1..=4).contains(&listed.len()), "{listed:?}");
    let id = listed[0]["id"].as_str().context("an id")?.to_owned();
    for line in &listed {
        ensure!(line["group"] == 2 && line["id"] == *id, "{line}");
        let reason = line["reason"].as_str().context("a reason")?;
        ensure!(reason.contains(&id) && reason.contains("checksum mismatch"), "{reason}");
    }
    let mut so_far = 0;
    for step in &steps {
        let here = listed.iter().filter(|line| line["step"] == step["step"]).count() as u64;
        so_far += here;
        ensure!(step["samples"] == 6 - here && step["skipped"] == so_far, "{step}");
        let ids = step["sample_ids"].as_array().context("ids")?;
        ensure!(ids.len() as u64 == 6 - here && ids.iter().all(|found| *found != *id), "{step}");
    }
    for (dp, tp) in [(2, 1), (3, 1), (1, 2)] {
        let run = format!("run-{dp}x{tp}");
        world.train(&run, (dp, tp), 8, &[])?;
        ensure!(world.skipped(&run)? == listed, "dp {dp} × tp {tp}: another list");
        same_within(&world.workspace.metrics(&run)?, &steps, 1e-4).context(run)?;
    }
    let end = world.workspace.path("one/checkpoints/step-00000010").display().to_string();
    world.train("one", (2, 1), 8, &["--resume", &end])?;
    ensure!(
        world.skipped("one")? == listed,
        "a restart changes the list: {:?}",
        world.skipped("one")?
    );
    println!("{} visits of {id} left out, the same on 4 layouts and after a restart", listed.len());
    Ok(())
}

#[test]
fn a_damaged_row_group_counts_all_its_rows() -> Result<()> {
    let world = World::new()?;
    world.damage(3, 0.999)?;
    world.train("run", (2, 1), 100, &[])?;
    let listed = world.skipped("run")?;
    let rows: std::collections::BTreeSet<u64> =
        listed.iter().filter_map(|line| line["row"].as_u64()).collect();
    ensure!(rows == (0..4).collect() && listed.iter().all(|line| line["group"] == 3), "{listed:?}");
    let (code, stderr) = world.fail("spent", (2, 1), 2)?;
    ensure!(code == Some(4) && stderr.contains("runtime.skip_budget is 2"), "{code:?}: {stderr}");
    ensure!(world.skipped("spent")?.len() > 2, "those that spent the budget are listed");
    Ok(())
}
