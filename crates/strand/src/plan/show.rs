//! A plan for people.

use crate::table::{bytes, table};

use super::Plan;
use super::stage::{FILLED, StagePlan};
use super::suggest::Suggestion;

/// The stages in a table, and the heaviest in detail.
pub fn text(plan: &Plan) -> String {
    let mut text = head(plan);
    let header =
        ["stage", "#tokens", "#memory", "fits", "#step", "#samples/s", "#MFU", "#checkpoint"];
    let rows: Vec<Vec<String>> = plan.stages.iter().map(row).collect();
    text.push_str(&table(&header, &rows));
    if let Some(stage) = plan.heaviest() {
        text.push_str(&format!("\n{}\n", detail_head(plan, stage)));
        text.push_str(&memory_table(stage));
        // Its columns need no titles.
        text.push_str(&details(stage));
    }
    text.push_str(&verdict(plan));
    text
}

fn head(plan: &Plan) -> String {
    let (world, gpu) = (plan.given.world, plan.given.gpu);
    let memory = &plan.recipe.memory;
    format!(
        "{}: {} × {} (dp {} × tp {}, {} nodes), ZeRO-{}, estimates\n\n",
        plan.recipe.name, world.world_size, gpu.name, world.dp, world.tp, world.nodes, memory.zero
    )
}

fn row(stage: &StagePlan) -> Vec<String> {
    let time = &stage.time;
    vec![
        stage.stage.clone(),
        stage.tokens.student.to_string(),
        bytes(stage.memory.needed),
        if stage.fits { "yes" } else { "NO" }.to_owned(),
        format!("{} s", number(time.step_s)),
        number(time.samples_per_s),
        format!("{:.0} %", 100.0 * time.mfu),
        bytes(stage.checkpoint.bytes),
    ]
}

fn detail_head(plan: &Plan, stage: &StagePlan) -> String {
    let sample = &stage.sample;
    let of = match plan.stages.len() {
        1 => String::new(),
        _ => ", the heaviest stage".to_owned(),
    };
    let source = if sample.from_data { "of local data" } else { "assumed" };
    format!(
        "{}{of}: {} frames × {} tokens ({source}), {} visual tokens of which {} stay ({} at most), {} of prompt, {} of answer",
        stage.stage,
        sample.frames,
        sample.tokens_per_frame,
        sample.visual,
        sample.kept,
        sample.kept_most,
        sample.prompt,
        sample.answer
    )
}

/// A column for each moment.
fn memory_table(stage: &StagePlan) -> String {
    let moments = &stage.memory.moments;
    let titles: Vec<String> = moments.iter().map(|moment| format!("#{}", moment.at)).collect();
    let header: Vec<&str> =
        std::iter::once("bytes of a rank").chain(titles.iter().map(String::as_str)).collect();
    let names = stage.memory.peak.bytes.parts().map(|(name, _)| name);
    let part = |(index, name): (usize, &str)| {
        let cells = moments.iter().map(|moment| bytes(moment.bytes.parts()[index].1));
        std::iter::once(name.to_owned()).chain(cells).collect()
    };
    let mut rows: Vec<Vec<String>> = names.into_iter().enumerate().map(part).collect();
    let totals = moments.iter().map(|moment| bytes(moment.total));
    rows.push(std::iter::once("together".to_owned()).chain(totals).collect());
    table(&header, &rows)
}

fn details(stage: &StagePlan) -> String {
    let host = &stage.memory.host;
    let words = format!(
        "features read ahead {}, a checkpoint {}, the optimizer {}",
        bytes(host.features),
        bytes(host.checkpoint),
        bytes(host.optimizer)
    );
    let all = host.features + host.checkpoint + host.optimizer;
    let host = row_of("memory of the node, a rank", bytes(all), words);
    let rows: Vec<Vec<String>> =
        std::iter::once(host).chain(time_rows(stage)).map(Vec::from).collect();
    table(&["", "#", ""], &rows)
}

fn time_rows(stage: &StagePlan) -> Vec<[String; 3]> {
    let (batch, time, flops) = (&stage.batch, &stage.time, &stage.flops);
    let parameters = format!("{} trained", count(stage.parameters.trained));
    let micro = format!("{} passes of {} samples a rank", batch.passes, batch.micro);
    let work = format!(
        "{} of the teacher, {} more computed again",
        count(flops.teacher as u64),
        count(flops.again as u64)
    );
    let parts = format!(
        "products {}, elementwise {}, tensor parallel {}, data parallel {}, update {}",
        number(time.products_s),
        number(time.elementwise_s),
        number(time.tensor_parallel_s),
        number(time.data_parallel_s),
        number(time.update_s)
    );
    let rate = format!("{}/s a node", bytes(stage.features.node_bytes_per_s as u64));
    let checkpoint = &stage.checkpoint;
    let written =
        format!("{} s, {:.1} % of the time", number(checkpoint.seconds), 100.0 * checkpoint.share);
    let hours = stage.steps.map(|steps| steps as f64 * time.step_s / 3600.0);
    let hours = hours.map_or("not known without data".to_owned(), |h| format!("{} h", number(h)));
    let steps = stage.steps.map_or("-".to_owned(), |steps| steps.to_string());
    vec![
        row_of("parameters", count(stage.parameters.total), parameters),
        row_of("samples a step", batch.global.to_string(), micro),
        row_of("FLOPs a step", count(flops.model as u64), work),
        row_of("step", format!("{} s", number(time.step_s)), parts),
        row_of("steps", steps, hours),
        row_of("features a sample", bytes(stage.features.bytes_per_sample), rate),
        row_of("checkpoint", bytes(checkpoint.bytes), written),
    ]
}

fn row_of(name: &str, value: String, words: String) -> [String; 3] {
    [name.to_owned(), value, words]
}

/// Whether it fits, and what would.
fn verdict(plan: &Plan) -> String {
    let Some(heaviest) = plan.heaviest() else { return String::new() };
    let (needed, has) = (heaviest.memory.needed, plan.given.gpu.memory);
    let share = format!("{} of {} ({:.0} %)", bytes(needed), bytes(has), percent(needed, has));
    let limit = format!("{:.0} % may be filled", 100.0 * FILLED);
    match (&plan.suggestion, plan.fits()) {
        (_, true) => format!("\nfits: {share}, {limit}\n"),
        (Some(suggestion), _) => {
            format!("\ndoes not fit: {share}, {limit}\n{}\n", advice(plan, suggestion))
        }
        (None, _) => {
            format!("\ndoes not fit: {share}, {limit}; nor does any layout that was tried\n")
        }
    }
}

fn advice(plan: &Plan, suggestion: &Suggestion) -> String {
    let Suggestion { world_size, set, needed, step_s } = suggestion;
    let ranks = match *world_size == plan.given.world.world_size {
        true => String::new(),
        false => format!("{world_size} ranks, "),
    };
    format!("fits: {ranks}{} ({}, {} s a step)", set.join(", "), bytes(*needed), number(*step_s))
}

fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

/// Three digits.
fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 1.0 || v == 0.0 => format!("{v:.2}"),
        v => format!("{v:.3}"),
    }
}

/// `6.74 G`.
fn count(value: u64) -> String {
    let units = [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let value = value as f64;
    match units.into_iter().find(|(size, _)| value >= *size) {
        Some((size, unit)) => format!("{} {unit}", number(value / size)),
        None => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!(number(0.0423), "0.042");
        assert_eq!(number(123.4), "123");
        assert_eq!(count(6_738_415_616), "6.74 G");
        assert_eq!(count(12), "12");
    }
}
