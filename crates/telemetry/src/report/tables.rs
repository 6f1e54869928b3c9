//! Cards and tables.

use std::fmt::Write;

use super::page::escape;
use super::palette::Palette;
use crate::{Evaluation, Metrics, Score};

/// Overall accuracy of every evaluation, large.
pub(super) fn cards(evaluations: &[Evaluation], palette: &Palette) -> String {
    if evaluations.is_empty() {
        return String::new();
    }
    let mut html = String::from("<div class=\"cards\">");
    for one in evaluations {
        let (dot, stage, set) = (palette.dot(&one.stage), escape(&one.stage), escape(&one.set));
        // Writing into a string cannot fail.
        let _ = write!(
            html,
            "<div class=\"card\">{dot}{stage}<b>{}</b><small>of {} questions of {set}</small></div>",
            percent(one.accuracy),
            one.total
        );
    }
    html + "</div>\n"
}

/// Kinds of question, those first on which the evaluations differ most.
pub(super) fn kinds(evaluations: &[&Evaluation]) -> Vec<String> {
    let all = evaluations.iter().flat_map(|one| one.by_kind.keys());
    let mut kinds: Vec<String> = all.cloned().collect();
    kinds.sort();
    kinds.dedup();
    let spread = |kind: &String| {
        let scores = evaluations.iter().filter_map(|one| one.by_kind.get(kind));
        let (least, greatest) = scores.fold((1.0, 0.0), |(least, greatest), score| {
            (f64::min(least, score.accuracy()), f64::max(greatest, score.accuracy()))
        });
        greatest - least
    };
    kinds.sort_by(|a, b| spread(b).total_cmp(&spread(a)));
    kinds
}

/// A row a kind, a column a stage; the tint is the distance from guessing.
pub(super) fn accuracies(evaluations: &[&Evaluation], kinds: &[String]) -> String {
    let mut head = String::from("<th>question</th>");
    for one in evaluations {
        let _ = write!(head, "<th>{}</th>", escape(&one.stage));
    }
    let row = |kind: &String| {
        let cell = |one: &&Evaluation| one.by_kind.get(kind).map_or_else(nothing, accuracy);
        let cells: String = evaluations.iter().map(cell).collect();
        let name = escape(&kind.replace('_', " "));
        let scores = evaluations.iter().filter_map(|one| one.by_kind.get(kind));
        let total = scores.map(|score| score.total).max().unwrap_or(0);
        let chance = evaluations.iter().find_map(|one| one.by_kind.get(kind)?.chance);
        let chance = chance.map_or_else(nothing, |chance| cell_of(&percent(chance)));
        format!("<tr><td>{name}</td>{cells}{chance}<td>{total}</td></tr>")
    };
    let rows: String = kinds.iter().map(row).collect();
    let overall: String = evaluations.iter().map(|one| cell_of(&percent(one.accuracy))).collect();
    let total = evaluations.iter().map(|one| one.total).max().unwrap_or(0);
    let none = nothing();
    format!(
        "<table><tr>{head}<th>guessing</th><th>questions</th></tr>{rows}\
         <tr class=\"total\"><td>all</td>{overall}{none}<td>{total}</td></tr></table>"
    )
}

/// A row a stage: length, losses at the end, speed.
pub(super) fn stages(metrics: &[Metrics], palette: &Palette) -> String {
    let head = "<tr><th>stage</th><th>steps</th><th>samples</th><th>LM loss</th><th>MVM loss</th>\
                <th>masked</th><th>samples/s</th><th>waiting for data</th><th>time</th></tr>";
    let row = |stage: &String| {
        let steps: Vec<&Metrics> = metrics.iter().filter(|step| step.stage == *stage).collect();
        let end = &steps[steps.len() - steps.len().div_ceil(20)..];
        let seconds = sum(&steps, |step| step.step_s);
        let samples: u64 = steps.iter().map(|step| step.samples).sum();
        let mvm: Vec<f64> = end.iter().filter_map(|step| step.mvm_loss).collect();
        let mvm = match mvm.is_empty() {
            true => nothing(),
            false => cell_of(&format!("{:.4}", mvm.iter().sum::<f64>() / mvm.len() as f64)),
        };
        format!(
            "<tr><td>{}{}</td><td>{}</td><td>{samples}</td><td>{:.4}</td>{mvm}<td>{}</td>\
             <td>{:.1}</td><td>{}</td><td>{}</td></tr>",
            palette.dot(stage),
            escape(stage),
            steps.len(),
            sum(end, |step| step.lm_loss) / end.len() as f64,
            percent(sum(&steps, |step| step.mask_rate) / steps.len() as f64),
            samples as f64 / seconds.max(1e-9),
            percent(sum(&steps, |step| step.data_wait_s) / seconds.max(1e-9)),
            duration(seconds),
        )
    };
    let trained = |stage: &&String| metrics.iter().any(|step| step.stage == **stage);
    let rows: String = palette.stages().iter().filter(trained).map(row).collect();
    format!("<table>{head}{rows}</table>")
}

fn sum(steps: &[&Metrics], value: impl Fn(&Metrics) -> f64) -> f64 {
    steps.iter().map(|step| value(step)).sum()
}

fn accuracy(score: &Score) -> String {
    let chance = score.chance.unwrap_or(0.0);
    let above = ((score.accuracy() - chance) / (1.0 - chance).max(1e-9)).clamp(0.0, 1.0);
    let tint = 0.32 * above;
    let share = percent(score.accuracy());
    format!("<td style=\"background:rgba(37,99,235,{tint:.3})\">{share}</td>")
}

fn cell_of(text: &str) -> String {
    format!("<td>{text}</td>")
}

fn nothing() -> String {
    "<td class=\"none\">–</td>".into()
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn duration(seconds: f64) -> String {
    match seconds {
        ..60.0 => format!("{seconds:.0} s"),
        ..3600.0 => format!("{:.1} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}
