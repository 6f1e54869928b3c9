//! Annotations as they come: VideoChat2's lists, and JSON lines.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use strand_data::{Media, Qa};

use crate::ToolsError;
use crate::extract::{self, Pair};

/// Longest line of a file of JSON lines, and largest annotation of a sample.
pub const MOST_LINE: u64 = 16 << 20;

/// A row to be, without its features.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// Its id; made of its number and video where not given.
    pub id: Option<String>,
    /// The source; may be empty where `features` says where the features are.
    pub video: String,
    /// Video or image; told by the number of frames where not given.
    pub media: Option<Media>,
    /// Key of its features; the video's name where not given.
    pub features: Option<String>,
    /// First and last second of the part of the features that is meant.
    pub clip: [Option<f64>; 2],
    /// One or more pairs.
    pub qa: Vec<Qa>,
}

impl Record {
    /// The id of the row, for the record of this number.
    pub fn row_id(&self, index: usize) -> String {
        let name = if self.video.is_empty() { self.features.as_ref() } else { Some(&self.video) };
        let made = || format!("{index:08}-{}", name.map_or("", String::as_str));
        self.id.clone().unwrap_or_else(made)
    }

    /// What the record is called in messages.
    pub fn name(&self) -> &str {
        self.features.as_ref().unwrap_or(&self.video)
    }

    fn refuse(&self) -> Option<String> {
        if self.video.is_empty() && self.features.is_none() {
            return Some("neither `video` nor `features` is given".to_owned());
        }
        if self.qa.is_empty() {
            return Some("it has no question".to_owned());
        }
        if self.clip.iter().flatten().any(|bound| !bound.is_finite() || *bound < 0.0) {
            return Some("start and end are seconds from 0 on".to_owned());
        }
        match self.clip {
            [Some(start), Some(end)] if start >= end => {
                Some(format!("it starts at {start} s and ends at {end} s"))
            }
            _ => None,
        }
    }
}

/// A record as a JSON object: a line of a `.jsonl` file, or beside the features of a sample.
#[derive(Deserialize)]
struct Line {
    id: Option<String>,
    video: Option<String>,
    media: Option<Media>,
    features: Option<String>,
    start: Option<f64>,
    end: Option<f64>,
    #[serde(default)]
    qa: Vec<Question>,
    instruction: Option<String>,
    question: Option<String>,
    answer: Option<String>,
    #[serde(default)]
    options: Vec<String>,
    kind: Option<String>,
    #[serde(flatten)]
    other: BTreeMap<String, IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    #[serde(default)]
    instruction: String,
    question: String,
    answer: String,
    #[serde(default)]
    options: Vec<String>,
    #[serde(default)]
    kind: String,
}

impl Question {
    fn qa(self) -> Qa {
        let Question { instruction, question, answer, options, kind } = self;
        Qa { instruction, question, answer, options, kind }
    }
}

impl Line {
    fn record(self) -> Result<Record, String> {
        let qa = match (self.question, self.answer) {
            (Some(question), Some(answer)) if self.qa.is_empty() => vec![Qa {
                instruction: self.instruction.unwrap_or_default(),
                question,
                answer,
                options: self.options,
                kind: self.kind.unwrap_or_default(),
            }],
            (None, None) => self.qa.into_iter().map(Question::qa).collect(),
            (Some(_), Some(_)) => return Err("`question` and `qa` are both given".to_owned()),
            _ => return Err("of `question` and `answer` one is missing".to_owned()),
        };
        Ok(Record {
            id: self.id,
            video: self.video.unwrap_or_default(),
            media: self.media,
            features: self.features,
            clip: [self.start, self.end],
            qa,
        })
    }
}

/// Reads one JSON object; the names of keys without a meaning go to `ignored`.
///
/// # Errors
/// The reason why it is no record.
pub fn object(
    json: &[u8],
    defaults: impl FnOnce(&mut Record),
    ignored: &mut BTreeSet<String>,
) -> Result<Record, String> {
    let mut line: Line = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    ignored.extend(std::mem::take(&mut line.other).into_keys());
    let mut record = line.record()?;
    defaults(&mut record);
    match record.refuse() {
        Some(reason) => Err(reason),
        None => Ok(record),
    }
}

/// Reads a file of annotations: JSON lines where it ends with `.jsonl`, else VideoChat2's list.
///
/// # Errors
/// [`ToolsError::Annotations`] with the line or the record that cannot be used.
pub fn load(path: &Path) -> Result<Vec<Record>, ToolsError> {
    match path.extension().is_some_and(|extension| extension == "jsonl") {
        true => lines(path),
        false => Ok(extract::load(path)?.into_iter().map(of_list).collect()),
    }
}

fn of_list(record: extract::Record) -> Record {
    let qa = record.pairs.iter().map(Pair::qa).collect();
    Record { video: record.video, clip: [record.start, record.end], qa, ..Record::default() }
}

fn lines(path: &Path) -> Result<Vec<Record>, ToolsError> {
    let refuse = |reason: String| ToolsError::Annotations { path: path.to_owned(), reason };
    let file = std::fs::File::open(path).map_err(|error| refuse(error.to_string()))?;
    let mut reader = BufReader::new(file);
    let (mut records, mut ignored) = (Vec::new(), BTreeSet::new());
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let named = |reason: String| refuse(format!("line {number}: {reason}"));
        let read = reader.by_ref().take(MOST_LINE + 1).read_until(b'\n', &mut line);
        if read.map_err(|error| named(error.to_string()))? == 0 {
            break;
        }
        if line.len() as u64 > MOST_LINE {
            return Err(named(format!("longer than {MOST_LINE} bytes")));
        }
        if !line.trim_ascii().is_empty() {
            records.push(object(&line, |_| {}, &mut ignored).map_err(named)?);
        }
    }
    if records.is_empty() {
        return Err(refuse("there is no record".to_owned()));
    }
    warn_ignored(path, &ignored);
    Ok(records)
}

/// Names the keys that were passed over.
pub fn warn_ignored(path: &Path, ignored: &BTreeSet<String>) {
    if !ignored.is_empty() {
        let names: Vec<&str> = ignored.iter().map(String::as_str).take(20).collect();
        tracing::warn!("{}: ignored keys: {}", path.display(), names.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Vec<Record>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        load(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn lists_and_lines_give_the_same_records() {
        let list = r#"[{"video": "a.mp4", "QA": [{"i": "I", "q": "Q?", "a": "A"}], "start": 1, "end": 2}]"#;
        let lines = r#"{"video": "a.mp4", "instruction": "I", "question": "Q?", "answer": "A", "start": 1, "end": 2}

            {"id": "x", "video": "b", "media": "image", "features": "k", "qa": [{"question": "Q", "answer": "A", "options": ["A"], "kind": "k"}], "odd": 1}"#;
        let found = read("x.jsonl", lines).unwrap();
        assert_eq!(read("x.json", list).unwrap(), found[..1]);
        assert_eq!(found[0].row_id(7), "00000007-a.mp4");
        let second = &found[1];
        assert_eq!(
            (second.row_id(1), second.name(), second.media),
            ("x".to_owned(), "k", Some(Media::Image))
        );
        assert_eq!(second.qa[0].options, ["A"]);
    }

    #[test]
    fn keys_without_a_meaning_are_collected() {
        let mut ignored = BTreeSet::new();
        let json = br#"{"question": "Q", "answer": "A", "fps": 3, "url": [1]}"#;
        let record = object(json, |record| record.video = "v".into(), &mut ignored).unwrap();
        assert_eq!(record.video, "v");
        assert_eq!(ignored.into_iter().collect::<Vec<_>>(), ["fps", "url"]);
    }

    #[test]
    fn what_cannot_be_used_is_named_by_its_line() {
        let good = r#"{"video": "a", "question": "Q", "answer": "A"}"#;
        for (line, reason) in [
            (r#"{"video": "a", "question": "Q"}"#, "one is missing"),
            (r#"{"video": "a"}"#, "no question"),
            (r#"{"question": "Q", "answer": "A"}"#, "neither `video`"),
            (
                r#"{"video": "a", "question": "Q", "answer": "A", "qa": [{"question": "Q", "answer": "A"}]}"#,
                "both",
            ),
            (
                r#"{"video": "a", "question": "Q", "answer": "A", "start": 3, "end": 2}"#,
                "starts at 3 s",
            ),
            (
                r#"{"video": "a", "question": "Q", "answer": "A", "media": "gif"}"#,
                "unknown variant `gif`",
            ),
            (r#"{"video": "a", "qa": [{"question": "Q", "anser": "A"}]}"#, "unknown field `anser`"),
            ("[1]", "line 2: "),
        ] {
            let error = read("x.jsonl", &format!("{good}\n{line}\n")).unwrap_err();
            assert!(error.contains("x.jsonl: line 2: ") && error.contains(reason), "{error}");
        }
        assert!(read("x.jsonl", "\n\n").unwrap_err().contains("no record"));
    }
}
