//! Multiple choice by the likelihood of the answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use strand_comm::Mesh;
use strand_data::{Dataset, Loader, LoaderOptions, Prompter, Qa, cut};
use strand_model::{Pass, Sample, VideoLm};
use strand_recipe::Video;
use strand_telemetry::Score;
use tch::Kind;
use tokio::runtime::Handle;

use crate::error::TrainError;
use crate::feed::model_sample;

/// Scores by kind of question.
pub type Scores = BTreeMap<String, Score>;

/// What a held-out set is answered with.
pub struct Examiner<'a> {
    /// The model.
    pub model: &'a VideoLm,
    /// This rank's groups.
    pub mesh: &'a Mesh,
    /// Builds prompts.
    pub prompter: &'a Prompter,
    /// Frames and token path of the stage: a model that was trained on means is asked with means.
    pub video: Video,
    /// Token path and compute type, without masks.
    pub pass: Pass,
    /// Sequences that go through the model at once.
    pub sequences: usize,
}

/// An option of a question on its way through the model.
struct Candidate {
    question: usize,
    sample: Sample,
}

/// A question: its kind, its right option, and the log-likelihood of each option so far.
struct Question {
    kind: String,
    right: usize,
    scores: Vec<f64>,
}

/// What is asked, and what has yet to go through the model.
#[derive(Default)]
struct Exam {
    questions: Vec<Question>,
    waiting: Vec<Candidate>,
}

/// Bytes of features read ahead.
const PREFETCH: u64 = 64 << 20;

impl Examiner<'_> {
    /// Answers every question that has options, of at most `limit` rows; the data-parallel ranks share the rows.
    ///
    /// # Errors
    /// The set cannot be read, a sample does not fit the model, or a collective failed.
    pub fn scores(
        &self,
        set: &Dataset,
        limit: Option<usize>,
        handle: &Handle,
    ) -> Result<Scores, TrainError> {
        let limit = limit.map_or(u64::MAX, |limit| limit as u64);
        let mut loader = self.loader(set, handle)?;
        let mut exam = Exam::default();
        while let Some(batch) = loader.next()? {
            // The same on all ranks.
            if batch.first >= limit {
                break;
            }
            let mine = cut(batch.global as u64, self.mesh.dp.rank(), self.mesh.dp.size());
            for (sample, place) in batch.samples.iter().zip(mine) {
                if batch.first + place < limit {
                    self.ask(sample, &mut exam)?;
                    self.answer(&mut exam, self.sequences)?;
                }
            }
        }
        self.answer(&mut exam, 1)?;
        self.gather(&exam.questions)
    }

    /// One pass over the set, with the frames of the stage.
    fn loader(&self, set: &Dataset, handle: &Handle) -> Result<Loader, TrainError> {
        let options = LoaderOptions {
            dp_rank: self.mesh.dp.rank(),
            dp_size: self.mesh.dp.size(),
            frames: self.video.frames,
            prefetch_bytes: PREFETCH,
            ..LoaderOptions::epoch(self.sequences.max(self.mesh.dp.size()))
        };
        Ok(Loader::open(handle.clone(), vec![(set.clone(), None)], options, None)?)
    }

    fn ask(&self, sample: &strand_data::Sample, exam: &mut Exam) -> Result<(), TrainError> {
        for qa in sample.pairs.iter().filter(|qa| !qa.options.is_empty()) {
            let right = qa.options.iter().position(|option| *option == qa.answer);
            let right = right.ok_or_else(|| TrainError::NoRightOption {
                id: sample.id.clone(),
                answer: qa.answer.clone(),
            })?;
            for option in &qa.options {
                let qa = Qa { answer: option.clone(), ..qa.clone() };
                let sample = model_sample(self.prompter, sample, &qa)?;
                exam.waiting.push(Candidate { question: exam.questions.len(), sample });
            }
            exam.questions.push(Question { kind: qa.kind.clone(), right, scores: Vec::new() });
        }
        Ok(())
    }

    /// Runs full batches until fewer than `least` sequences wait.
    fn answer(&self, exam: &mut Exam, least: usize) -> Result<(), TrainError> {
        while exam.waiting.len() >= least.max(1) {
            let count = exam.waiting.len().min(self.sequences);
            let batch: Vec<Candidate> = exam.waiting.drain(..count).collect();
            let (owners, samples): (Vec<usize>, Vec<Sample>) =
                batch.into_iter().map(|candidate| (candidate.question, candidate.sample)).unzip();
            for (owner, score) in owners.into_iter().zip(self.likelihoods(&samples)?) {
                exam.questions[owner].scores.push(score);
            }
        }
        Ok(())
    }

    /// Log-likelihood of each sample's answer, its end symbol included.
    fn likelihoods(&self, samples: &[Sample]) -> Result<Vec<f64>, TrainError> {
        let losses = tch::no_grad(|| self.model.losses(samples, self.pass))?;
        let values: Vec<f64> = Vec::try_from(losses.lm.to_kind(Kind::Double))?;
        let mut sums = vec![0.0; samples.len()];
        for (&sample, loss) in losses.label_samples.iter().zip(values) {
            sums[sample] -= loss;
        }
        Ok(sums)
    }

    /// Adds up the scores of all data-parallel ranks.
    fn gather(&self, questions: &[Question]) -> Result<Scores, TrainError> {
        let mut tallies = Tallies::new();
        for question in questions {
            let tally = tallies.entry(question.kind.clone()).or_default();
            tally.total += 1;
            tally.correct += u64::from(best(&question.scores) == Some(question.right));
            tally.guessed += 1.0 / question.scores.len() as f64;
        }
        let mut sum = Tallies::new();
        for part in self.mesh.dp.all_gather_bytes(&serde_json::to_vec(&tallies)?)? {
            for (kind, tally) in serde_json::from_slice::<Tallies>(&part)? {
                let sum = sum.entry(kind).or_default();
                sum.correct += tally.correct;
                sum.total += tally.total;
                sum.guessed += tally.guessed;
            }
        }
        Ok(sum.into_iter().map(|(kind, tally)| (kind, tally.score())).collect())
    }
}

type Tallies = BTreeMap<String, Tally>;

/// Answers of one kind: right ones, all, and how many guessing would get right.
#[derive(Default, Serialize, Deserialize)]
struct Tally {
    correct: u64,
    total: u64,
    guessed: f64,
}

impl Tally {
    fn score(&self) -> Score {
        let chance = Some(self.guessed / self.total as f64);
        Score { correct: self.correct, total: self.total, chance }
    }
}

/// The option of greatest likelihood; of equals the first.
fn best(scores: &[f64]) -> Option<usize> {
    let better = |best: Option<usize>, i: usize| match best {
        Some(best) if scores[best] >= scores[i] => Some(best),
        _ => Some(i),
    };
    (0..scores.len()).fold(None, better)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_option_is_the_answer() {
        assert_eq!(best(&[-3.0, -1.0, -2.0, -1.0]), Some(1));
        assert_eq!(best(&[]), None);
    }
}
