//! From ragged samples to index tables: where each token of the padded sequences comes from.

use std::collections::BTreeMap;

use tch::Tensor;

use crate::config::{Config, VideoInput};
use crate::error::ModelError;
use crate::frames::num_visual_tokens;

/// One question about one video, as token ids and features.
#[derive(Debug)]
pub struct Sample {
    /// Token ids before the video.
    pub before: Vec<i64>,
    /// `[frames, tokens, feature_size]`; no frames where there is no video.
    pub features: Tensor,
    /// The visual tokens that are kept, in order; all of them where unset. Not looked at for an image (one frame).
    pub kept: Option<Vec<i64>>,
    /// Token ids after the video.
    pub after: Vec<i64>,
    /// The answer with its end symbol: the labels.
    pub answer: Vec<i64>,
    /// What LoRA's dropout follows from, in a training pass; where unset nothing is dropped. The teacher of masked video
    /// modelling, which gives the targets, drops nothing either way.
    pub dropout_key: Option<u64>,
}

impl Sample {
    fn frames(&self) -> i64 {
        self.features.size()[0]
    }

    /// Visual tokens before masking.
    pub fn num_visual(&self, input: VideoInput) -> i64 {
        num_visual_tokens(input, self.frames(), self.features.size()[1])
    }

    /// Visual tokens that reach the language model.
    pub fn num_kept(&self, input: VideoInput) -> i64 {
        match &self.kept {
            Some(kept) if self.frames() > 1 => kept.len() as i64,
            _ => self.num_visual(input),
        }
    }

    /// Tokens that masked video modelling compares: none for an image.
    pub fn num_compared(&self, input: VideoInput) -> i64 {
        if self.frames() > 1 { self.num_kept(input) } else { 0 }
    }

    fn kept_indices(&self, input: VideoInput) -> Vec<i64> {
        match &self.kept {
            Some(kept) if self.frames() > 1 => kept.clone(),
            _ => (0..self.num_visual(input)).collect(),
        }
    }

    fn check(&self, index: usize, config: &Config) -> Result<(), ModelError> {
        let shape = self.features.size();
        if shape.len() != 3 || shape[2] != config.feature_size {
            let feature_size = config.feature_size;
            return Err(ModelError::Features { sample: index, shape, feature_size });
        }
        let mut ids = self.before.iter().chain(&self.after).chain(&self.answer);
        match ids.find(|&&id| id < 0 || id >= config.vocab_size) {
            Some(&id) => Err(ModelError::TokenId { sample: index, id, vocab: config.vocab_size }),
            None => Ok(()),
        }
    }
}

/// Rows of `[text tokens; visual tokens; one row of zeros]` that make padded sequences.
#[derive(Debug, Default)]
pub struct Sequences {
    /// `[batch · length]`
    pub rows: Vec<i64>,
    /// Sequences.
    pub batch: i64,
    /// Longest sequence.
    pub length: i64,
}

impl Sequences {
    fn pad(sequences: Vec<Vec<i64>>, zero_row: i64) -> Sequences {
        let length = sequences.iter().map(Vec::len).max().unwrap_or(0);
        let batch = sequences.len() as i64;
        let mut rows = Vec::with_capacity(sequences.len() * length);
        for mut sequence in sequences {
            sequence.resize(length, zero_row);
            rows.extend(sequence);
        }
        Sequences { rows, batch, length: length as i64 }
    }
}

/// Where everything of a micro-batch lies. Positions count in the flattened `[batch · length]`.
#[derive(Debug, Default)]
pub struct Layout {
    /// Ids of all text tokens.
    pub text_ids: Vec<i64>,
    /// Samples by the shape of their features, in the order in which their visual tokens follow one another.
    pub groups: Vec<Vec<usize>>,
    /// The student's sequences.
    pub student: Sequences,
    /// Positions that predict a label, the labels, and the samples they belong to.
    pub label_positions: Vec<i64>,
    pub labels: Vec<i64>,
    pub label_samples: Vec<usize>,
    /// The teacher's sequences: up to the last visual token.
    pub teacher: Sequences,
    /// Positions that masked video modelling compares.
    pub student_compared: Vec<i64>,
    pub teacher_compared: Vec<i64>,
}

impl Layout {
    /// Lays out `samples`; `with_teacher` also lays out what masked video modelling needs.
    pub fn new(
        samples: &[Sample],
        config: &Config,
        input: VideoInput,
        with_teacher: bool,
    ) -> Result<Layout, ModelError> {
        for (index, sample) in samples.iter().enumerate() {
            sample.check(index, config)?;
        }
        let mut layout = Layout::default();
        let num_text: usize =
            samples.iter().map(|s| s.before.len() + s.after.len() + inputs_of(s).len()).sum();
        let first_visual = layout.place_visual(samples, input, num_text as i64);
        let zero_row = num_text as i64 + samples.iter().map(|s| s.num_visual(input)).sum::<i64>();

        let parts: Vec<Parts> = samples
            .iter()
            .zip(first_visual)
            .map(|(sample, first)| layout.parts(sample, input, first))
            .collect();
        let students: Vec<Vec<i64>> = parts.iter().map(Parts::student).collect();
        check_lengths(&students, config)?;
        layout.student = Sequences::pad(students, zero_row);
        layout.place_labels(samples, &parts);
        if with_teacher {
            layout.place_teacher(samples, &parts, zero_row);
        }
        Ok(layout)
    }

    /// Groups the samples by frame count and returns the first row of each one's visual tokens.
    fn place_visual(&mut self, samples: &[Sample], input: VideoInput, mut row: i64) -> Vec<i64> {
        let mut groups: BTreeMap<Vec<i64>, Vec<usize>> = BTreeMap::new();
        for (index, sample) in samples.iter().enumerate().filter(|(_, s)| s.frames() > 0) {
            groups.entry(sample.features.size()).or_default().push(index);
        }
        self.groups = groups.into_values().collect();
        let mut first = vec![0; samples.len()];
        for &index in self.groups.iter().flatten() {
            first[index] = row;
            row += samples[index].num_visual(input);
        }
        first
    }

    fn parts(&mut self, sample: &Sample, input: VideoInput, first_visual: i64) -> Parts {
        let kept = sample.kept_indices(input);
        Parts {
            before: self.push_text(&sample.before),
            visual: (first_visual..first_visual + sample.num_visual(input)).collect(),
            after: self.push_text(&sample.after),
            answer: self.push_text(inputs_of(sample)),
            kept,
        }
    }

    fn push_text(&mut self, ids: &[i64]) -> Vec<i64> {
        let first = self.text_ids.len() as i64;
        self.text_ids.extend(ids);
        (first..self.text_ids.len() as i64).collect()
    }

    fn place_labels(&mut self, samples: &[Sample], parts: &[Parts]) {
        for (index, (sample, parts)) in samples.iter().zip(parts).enumerate() {
            let prompt = parts.before.len() + parts.kept.len() + parts.after.len();
            let start = index as i64 * self.student.length + prompt as i64 - 1;
            for (offset, &label) in sample.answer.iter().enumerate() {
                self.label_positions.push(start + offset as i64);
                self.labels.push(label);
                self.label_samples.push(index);
            }
        }
    }

    fn place_teacher(&mut self, samples: &[Sample], parts: &[Parts], zero_row: i64) {
        let videos: Vec<usize> = (0..samples.len()).filter(|&i| samples[i].frames() > 1).collect();
        let teachers = videos.iter().map(|&i| parts[i].teacher()).collect();
        self.teacher = Sequences::pad(teachers, zero_row);
        for (row, &index) in videos.iter().enumerate() {
            let parts = &parts[index];
            let start = parts.before.len() as i64;
            let student = index as i64 * self.student.length + start;
            let teacher = row as i64 * self.teacher.length + start;
            self.student_compared.extend((0..parts.kept.len() as i64).map(|i| student + i));
            self.teacher_compared.extend(parts.kept.iter().map(|&i| teacher + i));
        }
    }
}

/// The samples' keys of dropout; none where no sample has one.
///
/// # Errors
/// Only some samples have a key.
pub fn dropout_keys(samples: &[Sample]) -> Result<Option<Vec<u64>>, ModelError> {
    let keys: Vec<u64> = samples.iter().filter_map(|sample| sample.dropout_key).collect();
    match samples.iter().position(|sample| sample.dropout_key.is_none()) {
        None => Ok(Some(keys)),
        Some(_) if keys.is_empty() => Ok(None),
        Some(sample) => Err(ModelError::DropoutKey { sample }),
    }
}

/// The answer's tokens that are read: all but the last, which only is predicted.
fn inputs_of(sample: &Sample) -> &[i64] {
    &sample.answer[..sample.answer.len().saturating_sub(1)]
}

/// Source rows of one sample's parts.
struct Parts {
    before: Vec<i64>,
    visual: Vec<i64>,
    after: Vec<i64>,
    answer: Vec<i64>,
    kept: Vec<i64>,
}

impl Parts {
    fn student(&self) -> Vec<i64> {
        let kept = self.kept.iter().map(|&i| self.visual[i as usize]);
        let before = self.before.iter().copied();
        before
            .chain(kept)
            .chain(self.after.iter().copied())
            .chain(self.answer.iter().copied())
            .collect()
    }

    fn teacher(&self) -> Vec<i64> {
        self.before.iter().chain(&self.visual).copied().collect()
    }
}

fn check_lengths(sequences: &[Vec<i64>], config: &Config) -> Result<(), ModelError> {
    let limit = config.max_position_embeddings;
    match sequences.iter().position(|sequence| sequence.len() > limit) {
        Some(sample) => Err(ModelError::TooLong { sample, length: sequences[sample].len(), limit }),
        None => Ok(()),
    }
}
