//! Annotations in the form of VideoChat2-IT: a JSON list of records.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use serde::Deserialize;
use serde_json::{Map, Value};
use strand_data::Qa;

use crate::ToolsError;

/// Keys of a record that have a meaning here.
const KEYS: [&str; 5] = ["video", "QA", "start", "end", "num_frames"];

/// Most frames of a record.
const MOST_FRAMES: usize = 4096;

/// What is asked about a video or a part of it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Record {
    /// The file, relative to the folder of the videos.
    pub video: String,
    /// Questions and answers, one or more.
    #[serde(rename = "QA")]
    pub pairs: Vec<Pair>,
    /// Where the clip starts, in seconds; the video's start where unset.
    #[serde(default)]
    pub start: Option<f64>,
    /// Where the clip ends, in seconds; the video's end where unset.
    #[serde(default)]
    pub end: Option<f64>,
    /// T for this record; the command's where unset.
    #[serde(default)]
    pub num_frames: Option<usize>,
}

/// A question and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Pair {
    /// Task instruction.
    #[serde(default)]
    pub i: String,
    /// The question.
    pub q: String,
    /// The answer.
    pub a: String,
    /// The choices; none where the answer is free text.
    #[serde(default)]
    pub options: Vec<String>,
    /// Kind of question, for accuracy by kind.
    #[serde(default)]
    pub kind: String,
}

impl Pair {
    /// The pair as a row has it.
    pub fn qa(&self) -> Qa {
        Qa {
            instruction: self.i.clone(),
            question: self.q.clone(),
            answer: self.a.clone(),
            options: self.options.clone(),
            kind: self.kind.clone(),
        }
    }

    /// What a question-conditioned encoder reads: `{i }{q}`.
    pub fn question(&self) -> String {
        match self.i.is_empty() {
            true => self.q.clone(),
            false => format!("{} {}", self.i, self.q),
        }
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        let own = [&self.i, &self.q, &self.a];
        own.into_iter().chain(&self.options).map(String::as_str)
    }
}

/// Reads a file of annotations. Keys without a meaning are named in a warning.
///
/// # Errors
/// [`ToolsError::Annotations`] with line and column, or with the number of the record that cannot be used.
pub fn load(path: &Path) -> Result<Vec<Record>, ToolsError> {
    let refuse = |reason: String| ToolsError::Annotations { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    let records = parse(&text).map_err(refuse)?;
    let unknown = unknown_keys(&text);
    if !unknown.is_empty() {
        tracing::warn!("{}: ignored keys: {}", path.display(), unknown.join(", "));
    }
    Ok(records)
}

/// All text of some records, for a tokenizer.
pub fn texts(records: &[Record]) -> impl Iterator<Item = &str> {
    records.iter().flat_map(|record| record.pairs.iter().flat_map(Pair::texts))
}

fn parse(text: &str) -> Result<Vec<Record>, String> {
    let records: Vec<Record> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if records.is_empty() {
        return Err("there is no record".to_owned());
    }
    for (index, record) in records.iter().enumerate() {
        if let Some(reason) = refuse(record) {
            return Err(format!("record {index} (`{}`): {reason}", record.video));
        }
    }
    Ok(records)
}

fn refuse(record: &Record) -> Option<String> {
    let names = Path::new(&record.video).components();
    if record.video.is_empty() || !names.clone().all(|name| matches!(name, Component::Normal(_))) {
        return Some("the video is not a name inside the folder of the videos".to_owned());
    }
    if record.pairs.is_empty() {
        return Some("QA is empty".to_owned());
    }
    let bounds = [record.start, record.end];
    if bounds.iter().flatten().any(|bound| !bound.is_finite() || *bound < 0.0) {
        return Some("start and end are seconds from 0 on".to_owned());
    }
    if let (Some(start), Some(end)) = (record.start, record.end)
        && start >= end
    {
        return Some(format!("it starts at {start} s and ends at {end} s"));
    }
    match record.num_frames {
        Some(frames) if !(1..=MOST_FRAMES).contains(&frames) => {
            Some(format!("num_frames is {frames}: 1 to {MOST_FRAMES} are allowed"))
        }
        _ => None,
    }
}

fn unknown_keys(text: &str) -> Vec<String> {
    let records: Vec<Map<String, Value>> = serde_json::from_str(text).unwrap_or_default();
    let keys = records.iter().flat_map(Map::keys);
    let unknown: BTreeSet<&String> = keys.filter(|key| !KEYS.contains(&key.as_str())).collect();
    unknown.into_iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_with_and_without_what_is_optional() {
        let text = r#"[{"video": "a/b.mp4", "QA": [{"q": "Q?", "a": "A"}], "id": 3},
            {"video": "c.mp4", "start": 1, "end": 2.5, "num_frames": 8,
             "QA": [{"i": "I", "q": "Q?", "a": "A", "options": ["A", "B"], "kind": "k"}]}]"#;
        let records = parse(text).unwrap();
        assert_eq!((records[0].start, records[0].num_frames), (None, None));
        assert_eq!((records[1].end, records[1].num_frames), (Some(2.5), Some(8)));
        assert_eq!(records[1].pairs[0].qa().options, ["A", "B"]);
        assert_eq!(texts(&records).count(), 3 + 5);
        assert_eq!(records[0].pairs[0].question(), "Q?");
        assert_eq!(records[1].pairs[0].question(), "I Q?");
        assert_eq!(unknown_keys(text), ["id"]);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let record = |video: &str, rest: &str| {
            format!(r#"[{{"video": "{video}", "QA": [{{"q": "Q?", "a": "A"}}]{rest}}}]"#)
        };
        for (text, named) in [
            (record("../a.mp4", ""), "record 0 (`../a.mp4`)"),
            (record("/a.mp4", ""), "inside the folder"),
            (record("a.mp4", r#", "start": 3, "end": 2"#), "starts at 3 s"),
            (record("a.mp4", r#", "start": -1"#), "seconds from 0"),
            (record("a.mp4", r#", "num_frames": 0"#), "num_frames is 0"),
            (record("a.mp4", r#", "num_frames": "x""#), "line 1 column"),
            ("[]".to_owned(), "no record"),
            (r#"[{"video": "a", "QA": []}]"#.to_owned(), "QA is empty"),
            (r#"[{"video": "a"}]"#.to_owned(), "missing field `QA`"),
        ] {
            let error = parse(&text).expect_err(named);
            assert!(error.contains(named), "{error}");
        }
    }
}
