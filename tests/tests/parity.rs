//! Layouts agree: the same recipe on other meshes takes the same samples and gives the same losses.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use strand_tests::harness::{Workspace, same_bits, same_within};

#[test]
fn every_layout_takes_the_same_steps() -> Result<()> {
    let workspace = Workspace::new()?;
    workspace.train("1x1", (1, 1), &[])?;
    let expected = workspace.metrics("1x1")?;
    for (dp, tp) in [(2, 1), (1, 2), (2, 2), (3, 1), (1, 4)] {
        let run = format!("{dp}x{tp}");
        workspace.train(&run, (dp, tp), &[])?;
        let actual = workspace.metrics(&run)?;
        let worst = same_within(&actual, &expected, 1e-4)?;
        println!("dp {dp} × tp {tp}: losses deviate by {worst:.1e} at most");
    }
    Ok(())
}

/// In batches of 16 cut into micro-batches of 4, with masks, MVM and a vocabulary that needs padding.
#[test]
fn with_exact_tp_every_layout_gives_the_same_bits() -> Result<()> {
    let workspace = Workspace::new()?;
    let exact = [
        "--set",
        "parallel.exact_tp=4",
        "--set",
        "batch={global: 16, micro: 4}",
        "--set",
        "model.llama.vocab_size=513",
    ];
    workspace.train("2x2", (2, 2), &exact)?;
    let expected = workspace.metrics("2x2")?;
    for (dp, tp) in [(1, 1), (4, 1), (1, 2), (1, 4)] {
        let run = format!("{dp}x{tp}");
        workspace.train(&run, (dp, tp), &exact)?;
        same_bits(&workspace.metrics(&run)?, &expected).context(run)?;
    }
    Ok(())
}

/// With LoRA in front of all products, of whose inputs values are dropped.
#[test]
fn every_layout_drops_the_same_values() -> Result<()> {
    let workspace = Workspace::new()?;
    let lora = "model.lora={rank: 4, alpha: 16, targets: [q_proj, v_proj, o_proj, down_proj], dropout: 0.2}";
    let run = |run: &str, layout, changes: &[&str]| -> Result<Vec<Value>> {
        let changes = [lora].into_iter().chain(changes.iter().copied());
        let arguments: Vec<&str> = changes.flat_map(|change| ["--set", change]).collect();
        workspace.train(run, layout, &arguments)?;
        workspace.metrics(run)
    };
    let expected = run("1x1", (1, 1), &[])?;
    let other = run("none", (1, 1), &["model.lora.dropout=0"])?;
    ensure!(same_within(&other, &expected, 1e-4).is_err(), "nothing was dropped");
    let (full, parallel) =
        ("memory.activation_checkpointing=full", "parallel.sequence_parallel=true");
    for (dp, tp, changes) in [
        (2, 1, &["batch.micro=1"][..]),
        (1, 2, &[full, parallel]),
        (2, 2, &[parallel, "memory.zero=3"]),
        (1, 4, &[full]),
    ] {
        let name = format!("{dp}x{tp}");
        let actual = run(&name, (dp, tp), changes)?;
        let worst = same_within(&actual, &expected, 1e-4).context(name)?;
        println!("dp {dp} × tp {tp}, {changes:?}: losses deviate by {worst:.1e} at most");
    }
    let exact = ["parallel.exact_tp=4", "batch={global: 16, micro: 4}"];
    let expected = run("exact-2x2", (2, 2), &exact)?;
    for (dp, tp) in [(1, 1), (1, 4)] {
        let name = format!("exact-{dp}x{tp}");
        same_bits(&run(&name, (dp, tp), &exact)?, &expected).context(name)?;
    }
    Ok(())
}

#[test]
fn accumulation_changes_nothing() -> Result<()> {
    let workspace = Workspace::new()?;
    workspace.train("whole", (1, 1), &["--set", "batch.micro=6"])?;
    workspace.train("parts", (1, 1), &["--set", "batch.micro=1"])?;
    same_within(&workspace.metrics("parts")?, &workspace.metrics("whole")?, 1e-4)?;
    Ok(())
}

#[test]
fn bf16_stays_near_fp32() -> Result<()> {
    let workspace = Workspace::new()?;
    workspace.train("fp32", (1, 2), &[])?;
    workspace.train("bf16", (1, 2), &["--set", "precision=bf16"])?;
    same_within(&workspace.metrics("bf16")?, &workspace.metrics("fp32")?, 0.05)?;
    Ok(())
}

/// Whoever keeps the halves of a master, an update rounds alike. From ZeRO-2 on ranks add gradients up in another order.
#[test]
fn bf16_is_the_same_however_it_is_divided() -> Result<()> {
    let workspace = Workspace::new()?.with(&["precision=bf16"]);
    let run = |zero: u8| -> Result<Vec<Value>> {
        let name = format!("zero-{zero}");
        workspace.train(&name, (2, 1), &["--set", &format!("memory.zero={zero}")])?;
        workspace.metrics(&name)
    };
    let expected = run(0)?;
    for zero in [1, 2, 3] {
        let worst = same_within(&run(zero)?, &expected, 1e-3).with_context(|| zero.to_string())?;
        println!("ZeRO-{zero}: losses deviate by {worst:.1e} at most");
    }
    Ok(())
}

/// Four ranks share one or two key-value heads; a vocabulary of 513 is padded to 516.
#[test]
fn shared_heads_and_padding_change_nothing() -> Result<()> {
    let workspace = Workspace::new()?;
    for heads in ["1", "2"] {
        let heads_set = format!("model.llama.num_key_value_heads={heads}");
        let sizes = ["--set", &heads_set, "--set", "model.llama.vocab_size=513"];
        let run = |tp| format!("heads-{heads}-tp-{tp}");
        workspace.train(&run(1), (1, 1), &sizes)?;
        workspace.train(&run(4), (1, 4), &sizes)?;
        same_within(&workspace.metrics(&run(4))?, &workspace.metrics(&run(1))?, 1e-4)?;
    }
    Ok(())
}
