//! report.html: loss curves and accuracies of a run, in one file that needs nothing else.

mod bars;
mod chart;
mod curves;
pub mod histogram;
mod page;
mod palette;
mod tables;

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{Evaluation, Metrics, TelemetryError, evaluation, jsonl, metrics};
use palette::Palette;

/// What a report is made of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// The heading.
    pub title: String,
    /// Short facts below the heading, such as the layout.
    pub facts: Vec<String>,
    /// All steps, in order.
    pub metrics: Vec<Metrics>,
    /// All evaluations, in order.
    pub evaluations: Vec<Evaluation>,
}

/// The part of run.json that a report shows.
#[derive(Default, Deserialize)]
#[serde(default)]
struct RunHeader {
    name: Option<String>,
    status: Option<String>,
    created: Option<String>,
    layout: Option<LayoutHeader>,
}

#[derive(Deserialize)]
struct LayoutHeader {
    world_size: usize,
    dp: usize,
    tp: usize,
}

/// Writes report.html into a run directory from its metrics.jsonl, evaluations.jsonl and run.json,
/// and returns its path.
///
/// # Errors
/// A file cannot be read or written, or there is nothing to report on yet.
pub fn write(run_dir: &Path) -> Result<PathBuf, TelemetryError> {
    let report = Report::read(run_dir)?;
    if report.metrics.is_empty() && report.evaluations.is_empty() {
        return Err(TelemetryError::Empty { path: run_dir.to_path_buf() });
    }
    let path = run_dir.join("report.html");
    jsonl::replace(&path, &report.to_html()?)?;
    Ok(path)
}

impl Report {
    /// Reads what a run directory holds.
    ///
    /// # Errors
    /// A file cannot be read or is damaged.
    pub fn read(run_dir: &Path) -> Result<Report, TelemetryError> {
        let header = RunHeader::read(&run_dir.join("run.json"))?;
        let folder = run_dir.file_name().map(|name| name.to_string_lossy());
        let facts = header.facts();
        Ok(Report {
            title: header.name.or(folder.map(Into::into)).unwrap_or_else(|| "run".into()),
            facts,
            metrics: metrics::read(&run_dir.join("metrics.jsonl"))?,
            evaluations: evaluation::read(&run_dir.join("evaluations.jsonl"))?,
        })
    }

    /// The page, with its style and charts inside.
    ///
    /// # Errors
    /// A chart cannot be drawn.
    pub fn to_html(&self) -> Result<String, TelemetryError> {
        let palette = Palette::new(self.stages());
        let mut body = page::header(&self.title, &self.facts);
        body.push_str(&tables::cards(&self.evaluations, &palette));
        for set in self.sets() {
            let of_set = |evaluation: &&Evaluation| evaluation.set == set;
            let chosen: Vec<&Evaluation> = self.evaluations.iter().filter(of_set).collect();
            let kinds = tables::kinds(&chosen);
            let charts = bars::draw(&chosen, &kinds, &palette)?;
            let table = tables::accuracies(&chosen, &kinds);
            let legend = palette.legend(chosen.iter().map(|one| one.stage.as_str()));
            body.push_str(&page::section(
                &format!("Accuracy on {set}, by kind of question"),
                "Kinds on which the stages differ most come first. The dashed line is what guessing gets.",
                &format!("{legend}{charts}{table}"),
            ));
        }
        body.push_str(&self.training(&palette)?);
        Ok(page::document(&self.title, &body))
    }

    fn training(&self, palette: &Palette) -> Result<String, TelemetryError> {
        if self.metrics.is_empty() {
            return Ok(String::new());
        }
        let legend = palette.legend(self.metrics.iter().map(|step| step.stage.as_str()));
        let lm = curves::draw("LM loss", &self.metrics, palette, |step| Some(step.lm_loss))?;
        let mvm = curves::draw("MVM loss", &self.metrics, palette, |step| step.mvm_loss)?;
        let table = tables::stages(&self.metrics, palette);
        let sections = [
            page::section(
                "Language-model loss",
                "Mean over the label tokens of each step; the strong line is a moving average.",
                &format!("{legend}{}", lm.unwrap_or_default()),
            ),
            mvm.map_or_else(String::new, |chart| {
                let about =
                    "Squared distance of masked and unmasked hidden states, between 0 and 4.";
                page::section("Masked-video-modelling loss", about, &chart)
            }),
            page::section("Stages", "Losses are means over the last twentieth of a stage.", &table),
        ];
        Ok(sections.concat())
    }

    /// Stages in the order they ran.
    fn stages(&self) -> Vec<String> {
        let trained = self.metrics.iter().map(|step| &step.stage);
        distinct(trained.chain(self.evaluations.iter().map(|one| &one.stage)))
    }

    fn sets(&self) -> Vec<String> {
        distinct(self.evaluations.iter().map(|one| &one.set))
    }
}

impl RunHeader {
    fn read(path: &Path) -> Result<RunHeader, TelemetryError> {
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(RunHeader::default());
            }
            other => other.map_err(crate::error::io_error("read", path))?,
        };
        serde_json::from_slice(&bytes).map_err(|source| TelemetryError::Line {
            path: path.to_path_buf(),
            line: source.line(),
            source,
        })
    }

    fn facts(&self) -> Vec<String> {
        let layout = self.layout.as_ref().map(|layout| {
            let LayoutHeader { world_size, dp, tp } = layout;
            format!("{world_size} ranks (dp {dp} × tp {tp})")
        });
        let day = self.created.as_deref().and_then(|time| time.get(..10));
        let facts = [layout, self.status.clone(), day.map(str::to_owned)];
        facts.into_iter().flatten().collect()
    }
}

fn distinct<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for name in names {
        if !found.contains(name) {
            found.push(name.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests;
