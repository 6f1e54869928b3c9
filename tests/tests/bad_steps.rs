//! A sample that makes the loss useless: its step stops the run, is left out, or sends the run back, on all ranks alike.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde_json::Value;
use strand_data::{Dataset, Dtype, ShardWriter, WriterOptions};
use strand_store::Location;
use strand_tests::harness::{Workspace, json_lines, layout_arguments, text};

/// A workspace whose training set has one sample of huge features.
struct World {
    workspace: Workspace,
    data: String,
    poisoned: String,
}

impl World {
    fn new() -> Result<World> {
        let workspace = Workspace::new()?;
        let path = |name: &str| workspace.path(name).display().to_string();
        let (from, data) = (path("data/train"), path("data/poisoned"));
        let poisoned = tokio::runtime::Runtime::new()?.block_on(poison(&from, &data))?;
        Ok(World { workspace, data, poisoned })
    }

    /// Exit code and stderr of a run with these settings of `runtime.bad_steps`.
    fn run(
        &self,
        run: &str,
        (dp, tp): (usize, usize),
        settings: &[&str],
    ) -> Result<(Option<i32>, String)> {
        let mut command = self.workspace.launch(run, &[])?;
        command.args(layout_arguments(dp, tp));
        command.args(["--set", &format!("data.train.url={}", self.data)]);
        for setting in settings {
            command.args(["--set", &format!("runtime.bad_steps.{setting}")]);
        }
        let output = command.output()?;
        Ok((output.status.code(), text(&output.stderr)))
    }

    fn finish(&self, run: &str, layout: (usize, usize), settings: &[&str]) -> Result<Vec<Value>> {
        let (code, stderr) = self.run(run, layout, settings)?;
        ensure!(code == Some(0), "{run}: {code:?}: {stderr}");
        let steps = self.workspace.metrics(run)?;
        ensure!(steps.len() == 22, "{run}: {} steps", steps.len());
        for step in &steps {
            let ids = step["sample_ids"].as_array().context("sample ids")?;
            let is_poisoned = ids.contains(&Value::from(self.poisoned.as_str()));
            let left_out = step["left_out"] == true;
            ensure!(left_out == is_poisoned, "{run}: {step}");
            ensure!(left_out || step["loss"].is_f64(), "{run}: {step}");
        }
        Ok(steps)
    }

    fn listed(&self, run: &str) -> Result<Vec<Value>> {
        json_lines(&std::fs::read_to_string(self.workspace.path(run).join("bad-steps.jsonl"))?)
    }
}

/// Writes a data set anew; the features of its sixth sample are huge. Returns that one's id.
async fn poison(from: &str, to: &str) -> Result<String> {
    let set = Dataset::open(from).await?;
    let manifest = set.manifest().clone();
    let options =
        WriterOptions::new(manifest.encoder.clone(), manifest.tokens, manifest.dim, Dtype::Bf16);
    let mut writer = ShardWriter::create(Location::open(to)?, options).await?;
    let mut ids = Vec::new();
    for (shard, described) in manifest.shards.iter().enumerate() {
        for group in 0..described.groups.len() {
            for mut row in set.read_group(shard, group).await? {
                ids.push(row.id.clone());
                let is_poisoned = ids.len() == 6;
                // The greatest number there is, or one between 1/2 and 1 of either sign.
                let value = |byte: u8| match is_poisoned {
                    true => 0x7f7f,
                    false => 0x3f00 | u16::from(byte & 0x7f) | (u16::from(byte & 0x80) << 8),
                };
                let values = row.features.chunks(2).map(|bytes| value(bytes[0]));
                row.features = values.flat_map(u16::to_le_bytes).collect::<Bytes>();
                writer.write(row).await?;
            }
        }
    }
    writer.finish().await?;
    ids.into_iter().nth(5).context("six samples")
}

/// Losses and samples, which a run that went back shares with one that did not.
fn results(steps: &[Value]) -> Vec<[&Value; 5]> {
    let keys = ["step", "lm_loss", "loss", "grad_norm", "sample_ids"];
    steps.iter().map(|step| keys.map(|key| &step[key])).collect()
}

#[test]
fn without_a_budget_the_run_stops_and_names_the_samples() -> Result<()> {
    let world = World::new()?;
    for layout in [(1, 1), (2, 2)] {
        let run = format!("run-{}", layout.0);
        let (code, stderr) = world.run(&run, layout, &[])?;
        ensure!(code == Some(6), "{code:?}: {stderr}");
        ensure!(stderr.contains("runtime.bad_steps.budget"), "{stderr}");
        let listed = world.listed(&run)?;
        ensure!(listed.len() == 1 && listed[0]["action"] == "stopped", "{listed:?}");
        let ids = listed[0]["sample_ids"].as_array().context("ids")?;
        ensure!(ids.len() == 6 && ids.contains(&world.poisoned.clone().into()), "{listed:?}");
    }
    Ok(())
}

#[test]
fn left_out_or_gone_back_over_the_steps_end_the_same() -> Result<()> {
    let world = World::new()?;
    let left_out = world.finish("left-out", (2, 1), &["budget=9"])?;
    let listed = world.listed("left-out")?;
    ensure!(listed.len() >= 2, "{listed:?}");
    ensure!(listed.iter().all(|bad| bad["action"] == "left_out"), "{listed:?}");

    let back = world.finish("back", (2, 1), &["roll_backs=9"])?;
    ensure!(results(&back) == results(&left_out), "going back changes the steps");
    let gone_back = world.listed("back")?;
    ensure!(gone_back.len() == listed.len(), "{gone_back:?}");
    ensure!(gone_back.iter().all(|bad| bad["action"] == "rolled_back"), "{gone_back:?}");

    // Stopped first, then with a budget.
    let (code, stderr) = world.run("stopped", (2, 1), &[])?;
    ensure!(code == Some(6), "{code:?}: {stderr}");
    let resumed = world.finish("stopped", (2, 1), &["budget=9"])?;
    ensure!(results(&resumed) == results(&left_out), "a restart changes the steps");

    for (dp, tp, zero) in [(1, 2, 0), (2, 2, 3)] {
        let run = format!("zero-{zero}");
        let settings = ["budget=9"];
        let mut command = world.workspace.launch(&run, &[])?;
        command.args(layout_arguments(dp, tp));
        command.args(["--set", &format!("data.train.url={}", world.data)]);
        command.args(["--set", &format!("runtime.bad_steps.{}", settings[0])]);
        let output = command.args(["--set", &format!("memory.zero={zero}")]).output()?;
        ensure!(output.status.success(), "{}", text(&output.stderr));
        let steps: Vec<u64> =
            world.listed(&run)?.iter().filter_map(|bad| bad["step"].as_u64()).collect();
        let expected: Vec<u64> = listed.iter().filter_map(|bad| bad["step"].as_u64()).collect();
        ensure!(steps == expected, "dp {dp} × tp {tp}: {steps:?}, not {expected:?}");
    }
    Ok(())
}
