//! Accuracies by stage and kind of question, from `evaluations.jsonl`.

use std::collections::BTreeMap;

use anyhow::Context;
use serde_json::{Map, Value, json};

use super::settings::{ORDER, STAGES, STATIC};

/// Right answers out of so many.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Score {
    correct: u64,
    total: u64,
}

impl Score {
    /// The share of right answers, or `None` where nothing was asked.
    pub fn share(self) -> Option<f64> {
        (self.total > 0).then(|| self.correct as f64 / self.total as f64)
    }

    fn add(&mut self, other: Score) {
        self.correct += other.correct;
        self.total += other.total;
    }
}

/// Scores of all stages by kind.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Accuracy {
    stages: BTreeMap<String, BTreeMap<String, Score>>,
}

impl Accuracy {
    /// Reads the file's text. A stage and set that stand there twice count once, the later one.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut latest = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let record = Record::parse(line).with_context(|| format!("line {}", number + 1))?;
            latest.insert((record.stage, record.set), record.kinds);
        }
        let mut accuracy = Self::default();
        for ((stage, _), kinds) in latest {
            let scores = accuracy.stages.entry(stage).or_default();
            for (kind, score) in kinds {
                scores.entry(kind).or_default().add(score);
            }
        }
        Ok(accuracy)
    }

    /// The score of one kind after one stage.
    pub fn kind(&self, stage: &str, kind: &str) -> Score {
        let scores = self.stages.get(stage);
        scores.and_then(|scores| scores.get(kind)).copied().unwrap_or_default()
    }

    /// The score of several kinds together.
    pub fn kinds(&self, stage: &str, kinds: &[&str]) -> Score {
        let mut sum = Score::default();
        kinds.iter().for_each(|kind| sum.add(self.kind(stage, kind)));
        sum
    }

    /// The stages of the demo that have no evaluation.
    pub fn missing(&self) -> Vec<&'static str> {
        let there = |stage: &&str| !self.stages.contains_key(*stage);
        STAGES.into_iter().filter(there).collect()
    }

    /// `{stage: {order, static}}`, shares between 0 and 1.
    pub fn to_json(&self) -> Value {
        let both = |stage: &str| {
            json!({
                "order": self.kinds(stage, &ORDER).share(),
                "static": self.kinds(stage, &STATIC).share(),
            })
        };
        let stages = STAGES.into_iter().map(|stage| (stage.to_owned(), both(stage)));
        Value::Object(stages.collect::<Map<_, _>>())
    }

    /// `{stage: {kind: share}}`.
    pub fn kinds_to_json(&self) -> Value {
        let mut stages = Map::new();
        for stage in STAGES {
            let kinds = ORDER.iter().chain(&STATIC);
            let shares =
                kinds.map(|kind| ((*kind).to_owned(), json!(self.kind(stage, kind).share())));
            stages.insert(stage.to_owned(), Value::Object(shares.collect()));
        }
        Value::Object(stages)
    }
}

struct Record {
    stage: String,
    set: String,
    kinds: Vec<(String, Score)>,
}

impl Record {
    fn parse(line: &str) -> anyhow::Result<Self> {
        let value: Value = serde_json::from_str(line)?;
        let text = |key: &str| {
            let text = value[key].as_str().map(str::to_owned);
            text.with_context(|| format!("`{key}` is no text"))
        };
        let by_kind = value["by_kind"].as_object().context("`by_kind` is no object")?;
        let kinds = by_kind.iter().map(|(kind, score)| Ok((known(kind)?, self::score(score)?)));
        Ok(Self {
            stage: text("stage")?,
            set: text("set")?,
            kinds: kinds.collect::<anyhow::Result<_>>()?,
        })
    }
}

fn known(kind: &str) -> anyhow::Result<String> {
    let known = ORDER.contains(&kind) || STATIC.contains(&kind);
    anyhow::ensure!(known, "`{kind}` is no kind of question of the demo");
    Ok(kind.to_owned())
}

fn score(value: &Value) -> anyhow::Result<Score> {
    let number =
        |key: &str| value[key].as_u64().with_context(|| format!("`{key}` is no whole number"));
    Ok(Score { correct: number("correct")?, total: number("total")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(stage: &str, set: &str, direction: u64, colour: u64) -> String {
        let by_kind = json!({
            "direction": {"correct": direction, "total": 10},
            "colour": {"correct": colour, "total": 10},
        });
        json!({"step": 1, "stage": stage, "set": set, "by_kind": by_kind}).to_string()
    }

    #[test]
    fn later_lines_replace_and_sets_add_up() {
        let lines = [line("all", "a", 1, 1), line("all", "a", 9, 10), line("all", "b", 7, 10)];
        let accuracy = Accuracy::parse(&lines.join("\n")).unwrap();
        assert_eq!(accuracy.kind("all", "direction"), Score { correct: 16, total: 20 });
        assert_eq!(accuracy.kinds("all", &STATIC).share(), Some(1.0));
        assert_eq!(accuracy.missing(), ["base", "mean", "global_local"]);
        assert_eq!(accuracy.to_json()["all"]["order"], json!(0.8));
        assert_eq!(accuracy.to_json()["mean"]["order"], Value::Null);
        assert_eq!(accuracy.kinds_to_json()["all"]["direction"], json!(0.8));
    }

    #[test]
    fn a_bad_line_is_named() {
        let text = format!("{}\n{{\"stage\": 3}}", line("all", "a", 1, 1));
        let error = format!("{:#}", Accuracy::parse(&text).unwrap_err());
        assert!(error.contains("line 2") && error.contains("by_kind"), "{error}");
        let unknown = line("all", "a", 1, 1).replace("colour", "color");
        assert!(format!("{:#}", Accuracy::parse(&unknown).unwrap_err()).contains("`color`"));
    }
}
