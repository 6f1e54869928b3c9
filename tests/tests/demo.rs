//! The paper's claim at small scale, in the demo's short form: questions about order need all frame tokens.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use strand_tests::harness::{text, xtask};

#[test]
fn order_is_answered_with_all_tokens_and_not_with_their_mean() -> Result<()> {
    let output = xtask(&["demo", "--quick", "--fresh", "--json"])?;
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
