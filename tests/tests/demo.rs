//! The paper's claim at small scale, in the demo's short form: questions about order need all frame tokens.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use strand_tests::harness::text;

#[test]
fn order_is_answered_with_all_tokens_and_not_with_their_mean() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a workspace")?;
    let output = Command::new("cargo")
        .current_dir(root)
        .args(["xtask", "demo", "--quick", "--fresh", "--json"])
        .output()?;
    ensure!(output.status.success(), "{}", text(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("not one JSON document: {}", text(&output.stdout)))?;
    println!("{document:#}");
    let share = |stage: &str, kind: &str| {
        document["accuracy"][stage][kind].as_f64().with_context(|| format!("{stage} {kind}"))
    };
    ensure!(share("all", "order")? >= 0.9, "order after all: {}", share("all", "order")?);
    ensure!(share("mean", "order")? <= 0.6, "order after mean: {}", share("mean", "order")?);
    ensure!(share("global_local", "order")? > 0.6, "order after global_local");
    Ok(())
}
