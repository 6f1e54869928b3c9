//! What a sample of a stage looks like: frames, tokens, texts. Recipes leave some of it to their data.

use std::path::Path;

use clap::Args;
use serde::Serialize;
use strand_control::ExitCode;
use strand_data::{MANIFEST, Manifest};
use strand_recipe::{Mask, Recipe, Stage, VideoInput, Work};

use crate::failure::Failure;

/// A manifest of this size is read in a fraction of a second.
const MAX_MANIFEST_BYTES: u64 = 32 << 20;

/// What the recipe leaves to its data.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Samples")]
pub struct SampleArgs {
    /// Frames of a video where the stage takes all [default: the most of a local data set, else 16]
    #[arg(long, value_name = "T", value_parser = positive)]
    pub frames: Option<usize>,
    /// Tokens of a frame [default: those of a local data set, else a Q-Former's 32]
    #[arg(long, value_name = "K", value_parser = positive)]
    pub tokens: Option<usize>,
    /// Text tokens of a prompt
    #[arg(long, value_name = "N", default_value_t = 48)]
    pub prompt: usize,
    /// Tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = positive)]
    pub answer: usize,
}

impl SampleArgs {
    /// As they were typed.
    pub fn words(&self) -> String {
        let typed = [("frames", self.frames), ("tokens", self.tokens)];
        let typed = typed.into_iter().filter_map(|(name, count)| Some((name, count?)));
        let texts = [("prompt", self.prompt), ("answer", self.answer)];
        typed.chain(texts).map(|(name, count)| format!(" --{name} {count}")).collect()
    }
}

fn positive(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "give a number from 1 on".to_owned())
}

/// A sample of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SampleShape {
    /// Frames that are read.
    pub frames: usize,
    /// Tokens of a frame.
    pub tokens_per_frame: usize,
    /// Visual tokens before masking.
    pub visual: usize,
    /// Of those, how many stay at the mask's mean rate.
    pub kept: usize,
    /// Of those, how many stay at its least rate: what memory has to hold.
    pub kept_most: usize,
    /// Tokens of the prompt. Half of them stand before the video, as in `strand bench step`.
    pub prompt: usize,
    /// Tokens of the answer.
    pub answer: usize,
    /// Whether a teacher sees the whole video.
    pub has_teacher: bool,
    /// Samples of an epoch, where local data says.
    pub epoch: Option<u64>,
    /// Whether frames and tokens are those of local data.
    pub from_data: bool,
}

impl SampleShape {
    /// The shape of a stage's samples.
    ///
    /// # Errors
    /// A local manifest cannot be read, or a sample is longer than the model allows.
    pub fn of(recipe: &Recipe, stage: &Stage, args: &SampleArgs) -> anyhow::Result<SampleShape> {
        let sets = local_sets(recipe, stage)?;
        let found = sets.iter().map(|set| set.tokens).max();
        let tokens = args.tokens.or(found).unwrap_or(32);
        let longest = sets.iter().flat_map(longest).max();
        let frames = match (stage.video.frames, args.frames.or(longest)) {
            (Some(taken), Some(longest)) => taken.min(longest),
            (taken, longest) => taken.or(longest).unwrap_or(16),
        };
        let visual = num_visual(stage, frames, tokens);
        let [least, mean] = if frames > 1 { rates(stage.mask) } else { [0.0; 2] };
        let kept = |rate: f64| visual - (rate * visual as f64).floor() as usize;
        let epoch = sets.iter().map(Manifest::num_rows).sum();
        let shape = SampleShape {
            frames,
            tokens_per_frame: tokens,
            visual,
            kept: kept(mean),
            kept_most: kept(least),
            prompt: args.prompt,
            answer: args.answer,
            has_teacher: stage.mvm.is_some() && frames > 1,
            epoch: (sets.len() == stage.data.len()).then_some(epoch),
            from_data: found.is_some(),
        };
        shape.check(recipe, stage)?;
        Ok(shape)
    }

    /// Tokens of the student's longest sequence. The answer's last token is only predicted.
    pub fn student(&self) -> usize {
        self.kept_most + self.prompt + self.answer - 1
    }

    /// Tokens that masked video modelling compares, at the mask's least rate.
    pub fn compared_most(&self) -> usize {
        if self.has_teacher { self.kept_most } else { 0 }
    }

    /// Tokens of the teacher's sequence: up to the last visual one.
    pub fn teacher(&self) -> usize {
        if self.has_teacher { self.prompt / 2 + self.visual } else { 0 }
    }

    /// What a step of `samples` samples computes, at the mask's mean rate; as metrics count it.
    pub fn work(&self, samples: usize) -> Work {
        let student = (self.kept + self.prompt + self.answer) as i64;
        let (teacher, samples) = (self.teacher() as i64, samples as i64);
        let compared = if self.has_teacher { self.kept as i64 } else { 0 };
        Work {
            student_tokens: samples * student,
            student_pairs: samples * student.pow(2),
            student_read: samples * (self.answer as i64 + compared),
            labels: samples * self.answer as i64,
            teacher_tokens: samples * teacher,
            teacher_pairs: samples * teacher.pow(2),
            teacher_read: samples * compared,
        }
    }

    fn check(&self, recipe: &Recipe, stage: &Stage) -> Result<(), Failure> {
        let limit = recipe.model.llama.max_position_embeddings;
        if self.student() <= limit {
            return Ok(());
        }
        let message = format!(
            "stages.{}: a sample of {} visual and {} text tokens is longer than model.llama.max_position_embeddings = {limit}",
            stage.name,
            self.kept_most,
            self.prompt + self.answer - 1
        );
        let less = "take fewer frames (`video.frames`), or raise max_position_embeddings";
        Err(Failure::usage(message).hint(match self.from_data {
            true => less.to_owned(),
            false => format!("{less}; --frames and --tokens say what the data has"),
        }))
    }
}

/// Visual tokens of a video. An image is its tokens in every mode.
fn num_visual(stage: &Stage, frames: usize, tokens: usize) -> usize {
    match stage.video.input {
        _ if frames <= 1 => frames * tokens,
        VideoInput::All => frames * tokens,
        VideoInput::Mean => tokens,
        VideoInput::GlobalLocal => stage.video.local_frames * tokens,
    }
}

/// The least and the mean share that a mask drops.
fn rates(mask: Mask) -> [f64; 2] {
    match mask {
        Mask::None => [0.0; 2],
        Mask::Constant { rate } => [rate; 2],
        Mask::Dynamic(draw) => [draw.min, draw.mean.clamp(draw.min, draw.max)],
    }
}

/// The manifests of the stage's data sets that lie in local folders. Those of millions of rows are left out.
fn local_sets(recipe: &Recipe, stage: &Stage) -> anyhow::Result<Vec<Manifest>> {
    let urls = stage.data.iter().filter_map(|source| Some(&recipe.data.get(&source.set)?.url));
    let mut sets = Vec::new();
    for url in urls {
        let path = Path::new(url.strip_prefix("file://").unwrap_or(url)).join(MANIFEST);
        let size = path.metadata().map_or(0, |file| file.len());
        if size > 0 && size <= MAX_MANIFEST_BYTES {
            let url = path.display().to_string();
            let unreadable =
                |error| Failure::new(ExitCode::Data, format!("{url}: cannot read")).because(error);
            sets.push(Manifest::parse(&url, &std::fs::read(&path).map_err(unreadable)?)?);
        }
    }
    Ok(sets)
}

/// Frames of the longest row.
fn longest(set: &Manifest) -> Option<usize> {
    let groups = set.shards.iter().flat_map(|shard| &shard.groups);
    groups.map(|group| group.frames[1] as usize).max()
}
