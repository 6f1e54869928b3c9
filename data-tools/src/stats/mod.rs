//! What a data set is made of: how long clips and texts are, and which kinds of questions there are.
//!
//! Features are not read, so that a look at a large data set takes little time.

mod distribution;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, stream};
use serde::Serialize;
use strand_data::{Dataset, Media, RowText};
use tokenizers::Tokenizer;

pub use distribution::{Bin, Counter, Distribution};

use crate::{OnProgress, ToolsError};

/// Requests under way at once.
const IN_FLIGHT: usize = 16;
/// Seconds are counted in these.
const SECOND: f64 = 0.01;

/// What [`stats`] found.
#[derive(Clone, Debug, Serialize)]
pub struct Stats {
    /// Where the data set is.
    pub url: String,
    /// The manifest's id.
    pub id: String,
    /// Rows.
    pub rows: u64,
    /// Bytes of all shards.
    pub bytes: u64,
    /// Pairs of question and answer.
    pub questions: u64,
    /// Rows by medium.
    pub media: BTreeMap<String, u64>,
    /// Pairs by kind; those without are under the empty word.
    pub kinds: BTreeMap<String, u64>,
    /// Distributions by what they are of, in the order in which they are shown.
    pub distributions: Vec<Named>,
}

/// A distribution and what it is of.
#[derive(Clone, Debug, Serialize)]
pub struct Named {
    /// One of [`OF`].
    pub of: &'static str,
    /// The distribution.
    #[serde(flatten)]
    pub distribution: Distribution,
}

/// What is counted. Seconds are from the first to the last frame of rows whose times are known; characters are those
/// of a question or an answer; tokens of text need a tokenizer.
pub const OF: [&str; 9] = [
    "frames",
    "visual_tokens",
    "seconds",
    "questions_per_row",
    "question_chars",
    "answer_chars",
    "options",
    "question_tokens",
    "answer_tokens",
];

/// Reads all rows without their features. `progress` is called with rows read, of all rows.
///
/// # Errors
/// [`ToolsError::Tokenizer`], and those of opening and reading a data set.
pub async fn stats(
    url: &str,
    tokenizer: Option<&[u8]>,
    progress: OnProgress<'_>,
) -> Result<Stats, ToolsError> {
    let tokenizer = tokenizer.map(Tokenizer::from_bytes).transpose();
    let tokenizer = tokenizer.map_err(|error| ToolsError::Tokenizer(error.to_string()))?;
    let tokenizer = Arc::new(tokenizer);
    let set = Dataset::open(url).await?;
    let places = set.manifest().shards.iter().enumerate();
    let places: Vec<(usize, usize)> = places
        .flat_map(|(index, shard)| (0..shard.groups.len()).map(move |group| (index, group)))
        .collect();
    let count = |(shard, group)| {
        let (set, tokenizer) = (set.clone(), tokenizer.clone());
        async move {
            let rows = set.read_texts(shard, group).await?;
            let count = move || Counts::of(&rows, tokenizer.as_ref().as_ref());
            tokio::task::spawn_blocking(count).await?
        }
    };
    let mut counting = stream::iter(places).map(count).buffer_unordered(IN_FLIGHT);
    let mut all = Counts::new();
    while let Some(counts) = counting.next().await {
        all.merge(&counts?);
        progress(all.rows, set.num_rows());
    }
    Ok(all.stats(&set))
}

/// Counts of some rows.
struct Counts {
    rows: u64,
    questions: u64,
    media: BTreeMap<String, u64>,
    kinds: BTreeMap<String, u64>,
    counters: [Counter; OF.len()],
}

impl Counts {
    fn new() -> Counts {
        let counter = |of| if of == "seconds" { Counter::of(SECOND) } else { Counter::whole() };
        let (media, kinds) = (BTreeMap::new(), BTreeMap::new());
        Counts { rows: 0, questions: 0, media, kinds, counters: OF.map(counter) }
    }

    fn of(rows: &[RowText], tokenizer: Option<&Tokenizer>) -> Result<Counts, ToolsError> {
        let mut counts = Counts::new();
        for row in rows {
            counts.add(row, tokenizer)?;
        }
        Ok(counts)
    }

    fn add(&mut self, row: &RowText, tokenizer: Option<&Tokenizer>) -> Result<(), ToolsError> {
        self.rows += 1;
        self.questions += row.qa.len() as u64;
        *self.media.entry(Media::as_str(row.media).to_owned()).or_default() += 1;
        let [frames, visual, seconds, questions, question, answer, options, ..] =
            &mut self.counters;
        frames.add(row.frames as f64);
        visual.add((row.frames * row.tokens) as f64);
        if let (Some(first), Some(last)) = (row.seconds.first(), row.seconds.last()) {
            seconds.add(f64::from(last - first));
        }
        questions.add(row.qa.len() as f64);
        for pair in &row.qa {
            *self.kinds.entry(pair.kind.clone()).or_default() += 1;
            question.add(pair.question.chars().count() as f64);
            answer.add(pair.answer.chars().count() as f64);
            options.add(pair.options.len() as f64);
        }
        tokenizer.map_or(Ok(()), |tokenizer| self.add_tokens(row, tokenizer))
    }

    fn add_tokens(&mut self, row: &RowText, tokenizer: &Tokenizer) -> Result<(), ToolsError> {
        let count = |text: &str| {
            let encoding = tokenizer.encode(text, false);
            let encoding = encoding.map_err(|error| ToolsError::Tokenizer(error.to_string()))?;
            Ok::<f64, ToolsError>(encoding.len() as f64)
        };
        let [.., question, answer] = &mut self.counters;
        for pair in &row.qa {
            question.add(count(&pair.question)?);
            answer.add(count(&pair.answer)?);
        }
        Ok(())
    }

    fn merge(&mut self, other: &Counts) {
        self.rows += other.rows;
        self.questions += other.questions;
        for (ours, theirs) in [(&mut self.media, &other.media), (&mut self.kinds, &other.kinds)] {
            for (word, count) in theirs {
                *ours.entry(word.clone()).or_default() += count;
            }
        }
        for (ours, theirs) in self.counters.iter_mut().zip(&other.counters) {
            ours.merge(theirs);
        }
    }

    fn stats(self, set: &Dataset) -> Stats {
        let named = |(of, counter): (&'static str, &Counter)| {
            Some(Named { of, distribution: counter.distribution()? })
        };
        Stats {
            url: set.location().url(),
            id: set.manifest().id.clone(),
            rows: self.rows,
            bytes: set.manifest().num_bytes(),
            questions: self.questions,
            media: self.media,
            kinds: self.kinds,
            distributions: OF.into_iter().zip(&self.counters).filter_map(named).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::SynthOptions;

    #[tokio::test]
    async fn a_synthetic_set_is_what_it_was_made_as() {
        let folder = tempfile::tempdir().unwrap();
        let options = SynthOptions {
            out: folder.path().display().to_string(),
            train_rows: 60,
            held_out_rows: 10,
            rows_per_group: Some(7),
            ..SynthOptions::default()
        };
        let made = crate::synth::run(&options, &mut |_, _| {}).await.unwrap();
        let tokenizer = std::fs::read(folder.path().join("tokenizer.json")).unwrap();
        let mut last = (0, 0);
        let mut count = |done, total| last = (done, total);
        let found = stats(&made.train, Some(&tokenizer), &mut count).await.unwrap();
        assert_eq!((found.rows, last), (60, (60, 60)));
        assert_eq!(found.kinds.values().sum::<u64>(), found.questions);
        let of = |name: &str| found.distributions.iter().find(|one| one.of == name).unwrap();
        assert_eq!((of("frames").distribution.least, of("frames").distribution.most), (6.0, 6.0));
        assert_eq!(of("visual_tokens").distribution.mean, 96.0);
        let (chars, tokens) = (of("question_chars"), of("question_tokens"));
        assert_eq!(
            (chars.distribution.count, tokens.distribution.count),
            (found.questions, found.questions)
        );
        assert!(tokens.distribution.mean < chars.distribution.mean / 2.0);
        assert!(stats(&made.train, Some(b"{}"), &mut |_, _| {}).await.is_err());
    }
}
